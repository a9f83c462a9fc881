//! Reading a batch: which statement each message is about, and what all of it together is.

use std::rc::Rc;

use super::batch::{Item, Summary};
use super::described::Told;
use super::run::Run;
use super::statements::{self, Classed, Statement};
use super::{Ended, Session, local};
use crate::sql::{Class, Functions, Learnt, Lexing, Verdict};
use crate::wire::build::{self, Severity};
use crate::wire::parts::{self, Bind, Named, Parse};
use crate::wire::tags::frontend as tag;
use crate::wire::{Frames, SqlState};

/// Portals of a transaction whose statements are known; of more than that, the oldest is taken for a write.
const PORTALS: usize = 1000;

impl Session {
    /// Reads a batch into `items`.
    ///
    /// # Errors
    /// A FATAL, already in the buffer, when the messages can't be read: the client is out of step.
    pub(super) fn plan(&mut self, bytes: &[u8], items: &mut Vec<Item>) -> Result<Summary, Ended> {
        let mut summary = Summary::default();
        let mut frames = Frames::new(bytes, usize::MAX);
        let mut start = 0;
        while let Ok(Some(frame)) = frames.next_frame() {
            let end = start + frame.bytes.len();
            let mut item = Item::new(start, end);
            start = end;
            let read = match frame.tag {
                tag::QUERY => self.plan_query(frame.body(), &mut item, &mut summary),
                tag::FUNCTION_CALL => {
                    let verdict = self.worker.call_verdict();
                    summary.add(&verdict, true);
                    item.verdict = Some(verdict);
                    Some(())
                }
                tag::PARSE => self.plan_parse(frame.bytes, frame.body(), &mut item, &mut summary),
                tag::BIND => self.plan_bind(frame.body(), &mut item, &mut summary),
                tag::DESCRIBE => self.plan_describe(frame.body(), &mut item, &mut summary),
                tag::EXECUTE => self.plan_execute(frame.body(), &mut item, &mut summary),
                tag::CLOSE => Named::read(frame.body()).map(|named| match named {
                    Named::Statement(b"") => {
                        self.unnamed.close(summary.messages);
                        self.unnamed_known = None;
                    }
                    Named::Statement(name) => self.names.close(name, summary.messages),
                    Named::Portal(_) => {}
                }),
                tag::SYNC | tag::FLUSH | tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL => Some(()),
                other => {
                    self.fatal(
                        SqlState::PROTOCOL_VIOLATION,
                        &format!("invalid frontend message type {other}"),
                    );
                    return Err(Ended::Fatal);
                }
            };
            if read.is_none() {
                self.fatal(SqlState::PROTOCOL_VIOLATION, "invalid message format");
                return Err(Ended::Fatal);
            }
            summary.messages += usize::from(matches!(
                frame.tag,
                tag::PARSE | tag::BIND | tag::DESCRIBE | tag::EXECUTE | tag::CLOSE
            ));
            items.push(item);
        }
        self.reuse(bytes, items, &summary);
        Ok(summary)
    }

    fn plan_query(&mut self, body: &[u8], item: &mut Item, summary: &mut Summary) -> Option<()> {
        let (sql, rest) = parts::cstr(body)?;
        if !rest.is_empty() {
            return None;
        }
        let verdict = self.classify(sql).verdict;
        summary.add(&verdict, true);
        item.verdict = Some(verdict);
        // A Query drops the unnamed statement.
        self.unnamed.drop_it();
        self.unnamed_known = None;
        Some(())
    }

    fn plan_parse(
        &mut self,
        frame: &[u8],
        body: &[u8],
        item: &mut Item,
        summary: &mut Summary,
    ) -> Option<()> {
        let parse = Parse::read(body)?;
        let known = self.classify(parse.sql);
        summary.add(&known.verdict, false);
        let at = summary.messages;
        if parse.name.is_empty() {
            let token = self.worker.next_parse();
            self.unnamed.parse_again(token, frame, at);
            self.unnamed_known = Some(known);
            item.unnamed = token;
            return Some(());
        }
        if self.names.find(parse.name).is_some() {
            let name = String::from_utf8_lossy(parse.name);
            let message = format!("prepared statement \"{name}\" already exists");
            item.error = Some(error(SqlState::DUPLICATE_PREPARED_STATEMENT, &message));
            return Some(());
        }
        let limit = self.worker.shared.config.limits.statements;
        if self.names.len() >= limit {
            let message = format!("a session may hold {limit} prepared statements (limits.statements)");
            item.error = Some(error(SqlState::CONFIGURATION_LIMIT_EXCEEDED, &message));
            return Some(());
        }
        let catalog = &self.pools.identity.catalog;
        let statement = self.worker.statements.borrow_mut().intern(&parse, catalog, self.lexing, &known);
        item.told = Told { shape: 0, changes: catalog.changes() };
        self.names.parse(parse.name, Rc::clone(&statement), item.told, at);
        item.statement = Some(statement);
        Some(())
    }

    fn plan_bind(&mut self, body: &[u8], item: &mut Item, summary: &mut Summary) -> Option<()> {
        let bind = Bind::read(body)?;
        let verdict = if bind.statement.is_empty() {
            item.unnamed = self.unnamed.token;
            self.verdict_of_unnamed()
        } else if let Some((statement, told)) = self.names.find(bind.statement) {
            item.statement = Some(Rc::clone(statement));
            item.told = told;
            Some(self.verdict_of(statement))
        } else {
            item.error = no_such_statement(bind.statement);
            Some(self.worker.call_verdict())
        };
        if let Some(verdict) = verdict {
            summary.add(&verdict, false);
            self.note_portal(bind.portal, verdict);
        }
        Some(())
    }

    fn plan_describe(&mut self, body: &[u8], item: &mut Item, summary: &mut Summary) -> Option<()> {
        let Named::Statement(name) = Named::read(body)? else { return Some(()) };
        if name.is_empty() {
            item.unnamed = self.unnamed.token;
        } else if let Some((statement, told)) = self.names.find(name) {
            summary.add(&self.verdict_of(statement), false);
            item.statement = Some(Rc::clone(statement));
            item.told = told;
        } else {
            item.error = no_such_statement(name);
        }
        Some(())
    }

    fn plan_execute(&mut self, body: &[u8], item: &mut Item, summary: &mut Summary) -> Option<()> {
        let (portal, _) = parts::cstr(body)?;
        let known = self.portals.iter().find(|(name, _)| **name == *portal);
        // A portal that the proxy doesn't know (a cursor of DECLARE, or one of very many) may do anything.
        let verdict = known.map_or_else(|| self.worker.call_verdict(), |(_, verdict)| Rc::clone(verdict));
        summary.add(&verdict, true);
        item.verdict = Some(verdict);
        Some(())
    }

    pub(super) fn classify(&self, sql: &[u8]) -> Classed {
        self.worker.classify(&self.pools.identity.catalog, sql, self.lexing)
    }

    pub(super) fn verdict_of(&self, statement: &Statement) -> Rc<Verdict> {
        statement.verdict(&self.worker, &self.pools.identity.catalog)
    }

    /// What the unnamed statement does, said anew where more is known of the database by now.
    fn verdict_of_unnamed(&mut self) -> Option<Rc<Verdict>> {
        let known = self.unnamed_known.as_ref()?;
        if !known.is_of(&self.pools.identity.catalog)
            && let Some(parse) = self.unnamed.parse()
        {
            self.unnamed_known = Some(self.classify(parse.sql));
        }
        self.unnamed_known.as_ref().map(|known| Rc::clone(&known.verdict))
    }

    /// A replica refused a statement of a batch as a write: it, and all like it, go to the primary from here on.
    pub(super) fn learn_refusal(&self, bytes: &[u8], items: &[Item], run: &Run) {
        let mut runs = items
            .iter()
            .enumerate()
            .filter(|(_, item)| matches!(bytes[item.start], tag::QUERY | tag::FUNCTION_CALL | tag::EXECUTE));
        // A Query is alone in its batch, however many statements of it completed.
        let refused = if items.len() == 1 { runs.next() } else { runs.nth(run.completed) };
        let Some((at, refused)) = refused else { return };
        if let Some(verdict) = &refused.verdict {
            verdict.learnt.set(Learnt::Writes);
        }
        if let Some(text) = self.text_behind(bytes, &items[..=at]) {
            self.pools.identity.catalog.learn(text, self.lexing);
        }
    }

    /// The SQL of the last message: a Query's own, or that of the statement which was bound last before it.
    fn text_behind<'a>(&'a self, bytes: &'a [u8], items: &'a [Item]) -> Option<&'a [u8]> {
        let last = items.last().filter(|last| bytes[last.start] == tag::QUERY);
        let item = last.or_else(|| items.iter().rev().find(|item| bytes[item.start] == tag::BIND))?;
        let parse = || {
            items.iter().rev().find(|parse| bytes[parse.start] == tag::PARSE && parse.unnamed == item.unnamed)
        };
        let kept = || self.unnamed.parse().filter(|_| item.unnamed == self.unnamed.token);
        local::text(bytes, item)
            .or_else(|| parse().and_then(|parse| local::text(bytes, parse)))
            .or_else(|| kept().map(|parse| parse.sql))
    }

    fn note_portal(&mut self, portal: &[u8], verdict: Rc<Verdict>) {
        match self.portals.iter_mut().find(|(name, _)| **name == *portal) {
            Some((_, known)) => *known = verdict,
            None => {
                if self.portals.len() >= PORTALS {
                    self.portals.pop_front();
                }
                self.portals.push_back((portal.into(), verdict));
            }
        }
    }
}

/// What stands for a statement that can't be seen: a function call, an unknown portal.
pub(super) fn opaque_verdict() -> Verdict {
    Verdict {
        class: Class::Write,
        reason: "function call".into(),
        statements: 1,
        ..crate::sql::classify(b"", &Lexing::default(), &Functions::builtin())
    }
}

/// The error for a statement that the session doesn't have. None where the backend says it, which it does in all detail, or has one
/// of SQL's PREPARE: unless that name is another's there.
fn no_such_statement(name: &[u8]) -> Option<Rc<[u8]>> {
    if !statements::may_be_shared(name) {
        return None;
    }
    let message = format!("prepared statement \"{}\" does not exist", String::from_utf8_lossy(name));
    Some(error(SqlState::INVALID_STATEMENT_NAME, &message))
}

pub(super) fn error(state: SqlState, message: &str) -> Rc<[u8]> {
    let mut out = Vec::new();
    build::error(&mut out, Severity::Error, state, message, None, None);
    out.into()
}
