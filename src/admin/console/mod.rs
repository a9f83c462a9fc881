//! The console: commands as PgBouncer has them, answered from the views that it is handed.
//!
//! It knows no protocol and no session: text comes in, tables and words go out ([`Reply`]). What a command does is done by the
//! [`Views`]' holder.

mod command;
mod tables;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::topology::Topology;

pub use command::{Command, DATABASE, split};
pub use tables::{Column, Kind, Table};

/// The server version that drivers are told: what they then send is understood.
pub const SERVER_VERSION: &str = concat!("18.0 (pg-ha-proxy ", env!("CARGO_PKG_VERSION"), ")");
/// The same as a number.
pub const SERVER_VERSION_NUM: &str = "180000";

/// What `SHOW HELP` tells.
const HELP: &str = "
\tSHOW HELP|CONFIG|DATABASES|POOLS|CLIENTS|SERVERS|NODES|USERS|VERSION
\tSHOW LISTS|STATE|ROUTES|FAILOVERS
\tSHOW STATS|STATS_TOTALS|STATS_AVERAGES|TOTALS
\tRELOAD
\tPAUSE [<db>]
\tRESUME [<db>]
\tKILL [<db>]
\tKILL_CLIENT <ptr>
PAUSE returns when no transaction is open any more; new ones wait up to failover.hold, then get 57P03.
xact_time and query_time are sums of a clock that moves every tenth of a second: right over many statements, not for one.";

/// A value in a row, none for NULL.
pub type Cell = Option<String>;

/// What a holder of [`Views`] is asked later gives.
pub type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Something that the console has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Hold new transactions of a database, or of all; done when none is open any more.
    Pause(Option<String>),
    /// Let them go on.
    Resume(Option<String>),
    /// End the sessions and backends of a database, or of all, and hold it.
    Kill(Option<String>),
    /// End one session.
    KillClient(u32),
    /// Take proxy.toml up again.
    Reload,
}

/// What the console may look at, and have done.
pub trait Views: Send + Sync {
    /// The rows of a table: an array of objects by column; and what the reader should know of them.
    fn rows(&self, table: Table) -> Answer<(Value, Vec<String>)>;

    /// Does something; gives what the operator should know. Dropped before its end, it is taken back as far as that goes.
    fn act(&self, action: Action) -> Answer<Result<Vec<String>, Problem>>;
}

/// Why a command came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// SQLSTATE.
    pub state: [u8; 5],
    /// Message.
    pub message: String,
    /// Hint.
    pub hint: Option<&'static str>,
}

/// An error of this SQLSTATE.
pub fn problem(state: [u8; 5], message: impl Into<String>) -> Problem {
    Problem { state, message: message.into(), hint: None }
}

impl Problem {
    fn with_hint(mut self, hint: &'static str) -> Self {
        self.hint = Some(hint);
        self
    }
}

/// A message beside the answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Notice {
    /// Message.
    pub message: String,
    /// Detail.
    pub detail: Option<&'static str>,
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reply {
    /// Said before the rows.
    pub notices: Vec<Notice>,
    /// The rows, if it shows any: as many values in each as the command has columns.
    pub rows: Vec<Vec<Cell>>,
    /// The command tag.
    pub tag: &'static str,
}

impl Command {
    /// The columns of what it shows; none if it shows no rows.
    pub fn columns(&self) -> Option<Vec<Column>> {
        match self {
            Self::Show(table) => Some(table.columns().to_vec()),
            Self::Setting(name, _) => Some(vec![Column { name, kind: Kind::Text }]),
            Self::Select(name, _, is_number) => {
                let kind = if *is_number { Kind::Int4 } else { Kind::Text };
                Some(vec![Column { name, kind }])
            }
            _ => None,
        }
    }
}

/// Runs a command.
///
/// # Errors
/// What the client is told instead.
pub async fn run(command: &Command, views: &Arc<dyn Views>) -> Result<Reply, Problem> {
    let act = async |action: Action, tag| {
        let notices = views.act(action).await?;
        let notices = notices.into_iter().map(|message| Notice { message, detail: None }).collect();
        Ok(Reply { notices, tag, ..Reply::default() })
    };
    let tag = |tag| Ok(Reply { tag, ..Reply::default() });
    match command {
        Command::Show(table) => {
            let (view, notices) = views.rows(*table).await;
            let notices = notices.into_iter().map(|message| Notice { message, detail: None }).collect();
            Ok(Reply { notices, rows: table.rows(&view), tag: "SHOW" })
        }
        Command::Help => {
            let notice = Notice { message: "Console usage".to_owned(), detail: Some(HELP) };
            Ok(Reply { notices: vec![notice], tag: "SHOW", ..Reply::default() })
        }
        Command::Setting(_, value) => Ok(one(value, "SHOW")),
        Command::Select(_, value, _) => Ok(one(value, "SELECT 1")),
        Command::Pause(database) => act(Action::Pause(database.clone()), "PAUSE").await,
        Command::Resume(database) => act(Action::Resume(database.clone()), "RESUME").await,
        Command::Kill(database) => act(Action::Kill(database.clone()), "KILL").await,
        Command::KillClient(number) => act(Action::KillClient(*number), "KILL_CLIENT").await,
        Command::Reload => act(Action::Reload, "RELOAD").await,
        Command::Begin => tag("BEGIN"),
        Command::Commit => tag("COMMIT"),
        Command::Rollback => tag("ROLLBACK"),
        Command::Ignored(ignored) => tag(*ignored),
        Command::Empty => tag(""),
    }
}

fn one(value: &str, tag: &'static str) -> Reply {
    Reply { rows: vec![vec![Some(value.to_owned())]], tag, ..Reply::default() }
}

/// The members as the console shows them, with the count of each one's backends: active, idle, logging in.
pub fn nodes(topology: &Topology, backends: impl Fn(&str) -> [usize; 3]) -> Value {
    let topology = super::topology::show(topology);
    let node = |member: &Value| {
        let [active, idle, login] = backends(member["name"].as_str().unwrap_or_default());
        json!({
            "name": member["name"], "host": member["host"], "port": member["port"], "role": member["role"],
            "state": if member["answers"] == json!(true) { "answers" } else { "silent" },
            "primary": member["primary"], "serves_reads": member["serves_reads"], "why_not": member["why_not"],
            "weight": member["weight"], "lag_bytes": member["lag_bytes"],
            "lag_ms": member["lag_seconds"].as_f64().map(|seconds| (seconds * 1000.0).round() as u64),
            "timeline": member["timeline"], "epoch": topology["epoch"],
            "sv_active": active, "sv_idle": idle, "sv_login": login,
        })
    };
    Value::Array(topology["members"].as_array().into_iter().flatten().map(node).collect())
}
