//! The console's protocol: one client of the database `pgha`, a task on its worker like any other client, but beside the data path.
//!
//! What is said goes to [`crate::admin::console`]; it is answered on the control runtime, rows made ready to send, so that the worker
//! only copies them. Simple and extended protocol, in text and binary.

mod desk;
mod encode;
mod frames;
pub(super) mod tables;

use std::any::Any;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

pub(super) use desk::{Admins, Desk, keep_verifiers};

use self::encode::{description, rows};
use self::frames::{Ended, Line};
use crate::admin::console::{Command, Problem, Reply, problem, split};
use crate::client::Accepted;
use crate::session::{Guest, Worker};
use crate::wire::build::{self, Severity};
use crate::wire::parts::{self, Bind, Named, Parse};
use crate::wire::tags::{backend, frontend};
use crate::wire::{Frames, Refusal, SqlState, TxStatus};

/// Prepared statements, and portals, that a client may hold.
const LIMIT: usize = 1000;

const ABORTED: &str = "current transaction is aborted, commands ignored until end of transaction block";

/// A command that was bound, and what of its rows is still to be sent.
struct Portal {
    command: Arc<Command>,
    formats: Vec<i16>,
    /// DataRows; none before it is run.
    rows: Option<Vec<u8>>,
    tag: &'static str,
}

/// One client of the console.
struct Session {
    line: Line,
    worker: Rc<Worker>,
    desk: Arc<Desk>,
    user: Arc<str>,
    status: TxStatus,
    /// Everything up to the next Sync is dropped: an error was given.
    skipping: bool,
    statements: HashMap<Vec<u8>, Arc<Command>>,
    portals: HashMap<Vec<u8>, Portal>,
}

/// Serves a client of the console, to its end. `_place` is its place in the limits.
pub(super) async fn serve(
    worker: Rc<Worker>,
    mut accepted: Accepted,
    desk: Arc<Desk>,
    _place: Box<dyn Any + Send>,
) {
    if !desk.is_admin(&accepted.user) {
        tracing::warn!(user = %accepted.user, peer = %accepted.peer, "not admitted to the console");
        let refusal =
            Refusal::new(SqlState::INSUFFICIENT_PRIVILEGE, "permission denied for database \"pgha\"")
                .with_detail("The console is for the users that admin.users of proxy.toml names.");
        let mut bytes = std::mem::take(&mut accepted.greeting);
        bytes.extend_from_slice(&refusal.to_bytes());
        // Within a second, or not at all: who doesn't read is not waited for.
        let told = accepted.stream.write_all(&bytes);
        let _gone = tokio::time::timeout(std::time::Duration::from_secs(1), told).await;
        accepted.stream.shutdown().await;
        return;
    }
    let guest = Guest::new(&worker, &accepted);
    let mut line = Line::new(accepted.stream, guest);
    greet(&mut line, &accepted.greeting, &accepted.user, &accepted.parameters);
    let user = accepted.user;
    let mut session = Session {
        line,
        worker,
        desk,
        user,
        status: TxStatus::Idle,
        skipping: false,
        statements: HashMap::new(),
        portals: HashMap::new(),
    };
    let ended = session.run().await;
    session.line.close(ended).await;
}

/// The end of the login, and what a server tells behind it.
fn greet(line: &mut Line, greeting: &[u8], user: &str, startup: &[(String, String)]) {
    let name = startup.iter().rev().find(|(name, _)| name.eq_ignore_ascii_case("application_name"));
    let (process_id, secret) = line.guest.key();
    let out = &mut line.out;
    out.extend_from_slice(greeting);
    for (name, value) in [
        ("application_name", name.map_or("", |(_, value)| value)),
        ("client_encoding", "UTF8"),
        ("DateStyle", "ISO, MDY"),
        ("default_transaction_read_only", "off"),
        ("in_hot_standby", "off"),
        ("integer_datetimes", "on"),
        ("IntervalStyle", "postgres"),
        ("is_superuser", "off"),
        ("server_encoding", "UTF8"),
        ("server_version", crate::admin::console::SERVER_VERSION),
        ("session_authorization", user),
        ("standard_conforming_strings", "on"),
        ("TimeZone", "UTC"),
    ] {
        build::parameter_status(out, name.as_bytes(), value.as_bytes());
    }
    build::backend_key_data(out, process_id, secret);
    build::ready_for_query(out, TxStatus::Idle);
}

impl Session {
    async fn run(&mut self) -> Ended {
        loop {
            let (tag, body) = match self.line.next_message().await {
                Ok(message) => message,
                Err(ended) => return ended,
            };
            let step = match tag {
                frontend::TERMINATE => return Ended::Client,
                frontend::QUERY => self.query(&body).await,
                frontend::SYNC => {
                    self.skipping = false;
                    self.ready();
                    Ok(())
                }
                // What a COPY that isn't there would send.
                frontend::FLUSH | frontend::COPY_DATA | frontend::COPY_DONE | frontend::COPY_FAIL => Ok(()),
                _ if self.skipping => Ok(()),
                _ => match self.extended(tag, &body).await {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(problem)) => {
                        self.fail(&problem);
                        self.skipping = true;
                        Ok(())
                    }
                    Err(ended) => Err(ended),
                },
            };
            if let Err(ended) = step {
                return ended;
            }
        }
    }

    fn ready(&mut self) {
        if self.status == TxStatus::Idle {
            self.portals.clear();
        }
        build::ready_for_query(&mut self.line.out, self.status);
    }

    fn fail(&mut self, problem: &Problem) {
        if self.status == TxStatus::Open {
            self.status = TxStatus::Failed;
        }
        let state = SqlState(problem.state);
        build::error(&mut self.line.out, Severity::Error, state, &problem.message, None, problem.hint);
    }

    /// A Query: each of its commands in turn, up to the first that fails.
    async fn query(&mut self, body: &[u8]) -> Result<(), Ended> {
        let text = String::from_utf8_lossy(body.strip_suffix(b"\0").unwrap_or(body)).into_owned();
        let commands = split(&text);
        if commands.is_empty() {
            build::empty(&mut self.line.out, backend::EMPTY_QUERY_RESPONSE);
        }
        for text in commands {
            let outcome = match Command::parse(text) {
                Ok(command) => self.simple(&Arc::new(command)).await?,
                Err(problem) => Err(problem),
            };
            if let Err(problem) = outcome {
                self.fail(&problem);
                break;
            }
        }
        self.ready();
        Ok(())
    }

    async fn simple(&mut self, command: &Arc<Command>) -> Result<Result<(), Problem>, Ended> {
        match self.answer(command, &[]).await? {
            Ok((rows, tag)) => {
                if let Some(columns) = command.columns() {
                    description(&mut self.line.out, &columns, &[]);
                }
                self.line.out.extend_from_slice(&rows);
                build::command_complete(&mut self.line.out, tag);
                Ok(Ok(()))
            }
            Err(problem) => Ok(Err(problem)),
        }
    }

    /// Runs a command; gives its rows and its tag. Its notices are written.
    async fn answer(
        &mut self,
        command: &Arc<Command>,
        formats: &[i16],
    ) -> Result<Result<(Vec<u8>, &'static str), Problem>, Ended> {
        let ends = matches!(**command, Command::Commit | Command::Rollback);
        if self.status == TxStatus::Failed && !ends {
            return Ok(Err(problem(SqlState::IN_FAILED_SQL_TRANSACTION.0, ABORTED)));
        }
        if let Command::Pause(_)
        | Command::Resume(_)
        | Command::Kill(_)
        | Command::KillClient(_)
        | Command::Reload = **command
        {
            tracing::info!(user = %self.user, ?command, "console");
        }
        let (views, command, formats) = (self.desk.views(), Arc::clone(command), formats.to_vec());
        let asked = Arc::clone(&command);
        let work = self.desk.spawn(async move {
            let reply = crate::admin::console::run(&asked, &views).await?;
            let columns = asked.columns().unwrap_or_default();
            // Thousands of clients are thousands of rows: not at the cost of who else runs here.
            let rows = tokio::task::block_in_place(|| rows(&reply.rows, &columns, &formats));
            Ok::<_, Problem>((Reply { rows: Vec::new(), ..reply }, rows))
        });
        self.line.guest.begins(&self.worker);
        let outcome = self.line.wait_for(work).await;
        self.line.guest.ends();
        let (reply, rows) = match outcome? {
            Ok(answered) => answered,
            Err(problem) => return Ok(Err(problem)),
        };
        for notice in &reply.notices {
            let (out, state) = (&mut self.line.out, SqlState::SUCCESS);
            build::error(out, Severity::Notice, state, &notice.message, notice.detail, None);
        }
        let before = self.status;
        self.status = match *command {
            Command::Begin => TxStatus::Open,
            Command::Commit | Command::Rollback => TxStatus::Idle,
            _ => before,
        };
        let rolled_back = before == TxStatus::Failed && *command == Command::Commit;
        Ok(Ok((rows, if rolled_back { "ROLLBACK" } else { reply.tag })))
    }

    /// A message of the extended protocol.
    async fn extended(&mut self, tag: u8, body: &[u8]) -> Result<Result<(), Problem>, Ended> {
        Ok(match tag {
            frontend::PARSE => self.parse(body),
            frontend::BIND => self.bind(body),
            frontend::DESCRIBE => self.describe(body),
            frontend::EXECUTE => return self.execute(body).await,
            frontend::CLOSE => self.close(body),
            frontend::FUNCTION_CALL => {
                let refused =
                    problem(SqlState::FEATURE_NOT_SUPPORTED.0, "the console has no functions to call");
                self.fail(&refused);
                self.ready();
                Ok(())
            }
            other => {
                let message = format!("invalid frontend message type {other}");
                self.line.fatal(SqlState::PROTOCOL_VIOLATION, &message);
                return Err(Ended::Told);
            }
        })
    }

    fn parse(&mut self, body: &[u8]) -> Result<(), Problem> {
        let parse = Parse::read(body).ok_or_else(malformed)?;
        let text = String::from_utf8_lossy(parse.sql);
        let command = match *split(&text) {
            [] => Command::Empty,
            [text] => Command::parse(text)?,
            _ => {
                let message = "cannot insert multiple commands into a prepared statement";
                return Err(problem(SqlState::SYNTAX_ERROR.0, message));
            }
        };
        if !parse.name.is_empty() && self.statements.contains_key(parse.name) {
            let message = format!("prepared statement \"{}\" already exists", lossy(parse.name));
            return Err(problem(SqlState::DUPLICATE_PREPARED_STATEMENT.0, message));
        }
        if self.statements.len() >= LIMIT {
            return Err(problem(SqlState::PROGRAM_LIMIT_EXCEEDED.0, "too many prepared statements"));
        }
        self.statements.insert(parse.name.to_vec(), Arc::new(command));
        build::empty(&mut self.line.out, backend::PARSE_COMPLETE);
        Ok(())
    }

    fn bind(&mut self, body: &[u8]) -> Result<(), Problem> {
        let bind = Bind::read(body).ok_or_else(malformed)?;
        let (parameters, formats) = bind.formats().ok_or_else(malformed)?;
        let command = Arc::clone(self.statement(bind.statement)?);
        if parameters > 0 {
            let name = lossy(bind.statement);
            let message = format!(
                "bind message supplies {parameters} parameters, but prepared statement \"{name}\" requires 0"
            );
            return Err(problem(SqlState::PROTOCOL_VIOLATION.0, message));
        }
        let columns = command.columns().map_or(0, |columns| columns.len());
        if formats.iter().any(|format| !matches!(format, 0 | 1))
            || (formats.len() > 1 && formats.len() != columns)
        {
            return Err(malformed());
        }
        if self.portals.len() >= LIMIT {
            return Err(problem(SqlState::PROGRAM_LIMIT_EXCEEDED.0, "too many portals"));
        }
        self.portals.insert(bind.portal.to_vec(), Portal { command, formats, rows: None, tag: "" });
        build::empty(&mut self.line.out, backend::BIND_COMPLETE);
        Ok(())
    }

    fn statement(&self, name: &[u8]) -> Result<&Arc<Command>, Problem> {
        self.statements.get(name).ok_or_else(|| {
            let message = format!("prepared statement \"{}\" does not exist", lossy(name));
            problem(SqlState::INVALID_STATEMENT_NAME.0, message)
        })
    }

    fn describe(&mut self, body: &[u8]) -> Result<(), Problem> {
        let (command, formats) = match Named::read(body).ok_or_else(malformed)? {
            Named::Statement(name) => {
                let command = Arc::clone(self.statement(name)?);
                build::parameter_description(&mut self.line.out, &[]);
                (command, Vec::new())
            }
            Named::Portal(name) => {
                let portal = self.portals.get(name).ok_or_else(|| no_portal(name))?;
                (Arc::clone(&portal.command), portal.formats.clone())
            }
        };
        match command.columns() {
            Some(columns) => description(&mut self.line.out, &columns, &formats),
            None => build::empty(&mut self.line.out, backend::NO_DATA),
        }
        Ok(())
    }

    async fn execute(&mut self, body: &[u8]) -> Result<Result<(), Problem>, Ended> {
        let Some((name, limit)) = parts::execute(body) else { return Ok(Err(malformed())) };
        let Some(mut portal) = self.portals.remove(name) else { return Ok(Err(no_portal(name))) };
        if *portal.command == Command::Empty {
            build::empty(&mut self.line.out, backend::EMPTY_QUERY_RESPONSE);
            return Ok(Ok(()));
        }
        let waiting = match portal.rows.take() {
            Some(rows) => rows,
            None => match self.answer(&Arc::clone(&portal.command), &portal.formats).await? {
                Ok((rows, tag)) => {
                    portal.tag = tag;
                    rows
                }
                Err(problem) => return Ok(Err(problem)),
            },
        };
        let mut rows = Frames::new(&waiting, usize::MAX);
        let mut sent = 0;
        while (limit == 0 || sent < limit)
            && let Ok(Some(_row)) = rows.next_frame()
        {
            sent += 1;
        }
        let rest = rows.rest().to_vec();
        self.line.out.extend_from_slice(&waiting[..waiting.len() - rest.len()]);
        if rest.is_empty() {
            build::command_complete(&mut self.line.out, portal.tag);
        } else {
            build::empty(&mut self.line.out, backend::PORTAL_SUSPENDED);
        }
        portal.rows = Some(rest);
        self.portals.insert(name.to_vec(), portal);
        Ok(Ok(()))
    }

    fn close(&mut self, body: &[u8]) -> Result<(), Problem> {
        match Named::read(body).ok_or_else(malformed)? {
            Named::Statement(name) => drop(self.statements.remove(name)),
            Named::Portal(name) => drop(self.portals.remove(name)),
        }
        build::empty(&mut self.line.out, backend::CLOSE_COMPLETE);
        Ok(())
    }
}

fn malformed() -> Problem {
    problem(SqlState::PROTOCOL_VIOLATION.0, "invalid message format")
}

fn no_portal(name: &[u8]) -> Problem {
    problem(SqlState::INVALID_CURSOR_NAME.0, format!("portal \"{}\" does not exist", lossy(name)))
}

fn lossy(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}
