//! A batch as it goes to one backend: statement names replaced, what the backend lacks put in front, and a note of every
//! answer that is owed.

use std::rc::Rc;

use smallvec::SmallVec;

use super::answer::{Answer, Kind, Owed};
use super::batch::Item;
use super::described::{Held, Told};
use super::statements::{self, Statement};
use super::{local, plan};
use crate::backend::{Backend, Prepared};
use crate::wire::build;
use crate::wire::parts::{Bind, Named, Parse};
use crate::wire::tags::frontend as tag;
use crate::wire::{HEADER_LEN, SqlState};

/// Statements that a backend may keep prepared for sessions; the rest is closed, and prepared again when needed.
const MAX_PREPARED: usize = 1000;

/// A portal that never exists: executing it fails for sure, and aborts as any error does.
const NO_PORTAL: &[u8] = b"E\0\0\0\x18pgha: no portal\0\0\0\0\0";

/// A statement that never exists: closing it succeeds, as closing any does.
const CLOSE_NOTHING: &[u8] = b"C\0\0\0\x18Spgha: no statement\0";

/// Stands for no search path at all.
const UNSURE: u64 = u64::MAX;

/// The unnamed statement of a session, kept to be given to another backend.
#[derive(Debug, Default)]
pub(super) struct Unnamed {
    /// Which Parse made it; 0: there is none.
    pub(super) token: u64,
    /// That Parse, as it came.
    pub(super) frame: Vec<u8>,
    /// What the batch at hand puts in its place, if it does.
    before: Before,
}

/// An unnamed statement that a batch is about to replace.
#[derive(Debug, Default)]
struct Before {
    token: u64,
    frame: Vec<u8>,
    /// The first message of the batch that replaces it, and the last; none if there is no such.
    first: Option<usize>,
    last: usize,
    /// The message that failed between the two.
    between: Option<usize>,
}

impl Unnamed {
    /// Takes up a Parse, message number `at` of its batch, until [`Self::settle`] says whether it came to it.
    pub(super) fn parse_again(&mut self, token: u64, frame: &[u8], at: usize) {
        self.close(at);
        self.token = token;
        self.frame.clear();
        self.frame.extend_from_slice(frame);
    }

    /// Takes up a Close in the same way.
    pub(super) fn close(&mut self, at: usize) {
        if self.before.first.is_none() {
            self.before.first = Some(at);
            self.before.token = self.token;
            std::mem::swap(&mut self.before.frame, &mut self.frame);
        }
        self.before.last = at;
        self.token = 0;
    }

    /// The Parse of this number, as it came: the one that there is, or the one of before the batch.
    fn frame_of(&self, token: u64) -> Option<&[u8]> {
        let before = self.before.first.is_some() && token == self.before.token;
        let found = (token == self.token).then_some(&self.frame).or(before.then_some(&self.before.frame));
        found.filter(|_| token != 0).map(Vec::as_slice)
    }

    /// There is none from here on.
    pub(super) fn drop_it(&mut self) {
        self.token = 0;
        self.before.first = None;
    }

    /// The batch is over; true if there is another unnamed statement now than it made. A Parse that fails leaves none, one that was not
    /// reached leaves that of before.
    pub(super) fn settle(&mut self, failed_at: Option<usize>) -> bool {
        let Some(first) = self.before.first.take() else { return false };
        match failed_at {
            Some(failed) if failed < first => {
                self.token = self.before.token;
                std::mem::swap(&mut self.before.frame, &mut self.frame);
            }
            Some(failed) if failed <= self.before.last => {
                self.token = 0;
                self.before.between = Some(failed);
            }
            _ => return false,
        }
        true
    }

    /// Takes up again what a batch that failed in its middle had made, of several: the last Parse or Close before that message.
    pub(super) fn recall(&mut self, bytes: &[u8], items: &[Item]) -> bool {
        let Some(failed) = self.before.between.take() else { return false };
        let answered =
            items.iter().filter(|item| !matches!(bytes[item.start], tag::SYNC | tag::FLUSH)).take(failed);
        let last = answered
            .filter(|item| match bytes[item.start] {
                tag::PARSE => item.unnamed != 0,
                tag::CLOSE => matches!(Named::read(item.body(bytes)), Some(Named::Statement(b""))),
                _ => false,
            })
            .last();
        let Some(parse) = last.filter(|last| bytes[last.start] == tag::PARSE) else { return false };
        self.token = parse.unnamed;
        self.frame.clear();
        self.frame.extend_from_slice(&bytes[parse.start..parse.end]);
        true
    }

    /// That Parse, if there is one.
    pub(super) fn parse(&self) -> Option<Parse<'_>> {
        self.frame.get(HEADER_LEN..).filter(|_| self.token != 0).and_then(Parse::read)
    }
}

/// Statements that a batch parses on its backend, 0 for the unnamed one, and with which message: mostly one.
pub(super) type Parses = SmallVec<[(u64, usize); 1]>;

/// What a translation draws on.
pub(super) struct Translation<'a> {
    pub(super) backend: &'a mut Backend,
    pub(super) answer: &'a mut Answer,
    pub(super) out: &'a mut Vec<u8>,
    pub(super) unnamed: &'a Unnamed,
    /// [`crate::backend::Settings::naming`] of the session.
    pub(super) naming: u64,
    /// How many changes of the catalog are known.
    pub(super) changes: u64,
    /// Numbers of the statements that this batch parses, 0 for the unnamed one, and the messages that do: unsure until answered.
    pub(super) parsed: &'a mut Parses,
    /// Which message the proxy refuses, and by what error.
    pub(super) refused: Option<(usize, Rc<[u8]>)>,
    /// [`Run::reuses`]
    pub(super) reuses: bool,
    /// The transaction has failed: nothing can be parsed but what ends it.
    pub(super) aborted: bool,
    /// The backend has the session's statements under the session's own names ([`super::showing`]).
    pub(super) shows: bool,
}

impl Translation<'_> {
    /// Appends all of `items`, whose bytes are in `bytes`; true when a message of the batch fails by the proxy's own word, so
    /// that nothing behind it up to the Sync was sent.
    pub(super) fn batch(&mut self, bytes: &[u8], items: &[Item], mut skipping: bool) -> bool {
        for (at, item) in items.iter().enumerate() {
            if skipping && bytes[item.start] != tag::SYNC {
                continue;
            }
            // A server looks for the name that a Parse gives after the transaction, for that which a Bind gives before it.
            let is_parse = bytes[item.start] == tag::PARSE;
            let aborted = self.aborted
                && if item.error.is_some() { is_parse } else { !is_parse && self.is_wanting(item) };
            let error = aborted.then(|| plan::error(SqlState::IN_FAILED_SQL_TRANSACTION, local::ABORTED));
            let refused = || self.refused.take_if(|(of, _)| *of == at).map(|(_, error)| error);
            if let Some(error) = error.or_else(|| item.error.clone()).or_else(refused) {
                self.out.extend_from_slice(NO_PORTAL);
                self.answer.expect(Owed { instead: Some(error), ..Owed::new(Kind::Execute) });
                skipping = true;
                continue;
            }
            self.item(bytes, item);
            self.aborted &= item.verdict.as_ref().is_none_or(|verdict| verdict.transaction.is_none());
            if bytes[item.start] == tag::SYNC {
                skipping = false;
            }
        }
        skipping
    }

    fn item(&mut self, bytes: &[u8], item: &Item) {
        let frame = &bytes[item.start..item.end];
        match frame[0] {
            tag::QUERY | tag::FUNCTION_CALL => {
                // A Query drops the unnamed statement.
                self.backend.unnamed = 0;
                self.pass(frame, Owed { verdict: item.verdict.clone(), ..Owed::new(Kind::Query) });
            }
            tag::PARSE => self.parse(frame, item),
            tag::BIND => self.bind(frame, item, item.body(bytes)),
            tag::DESCRIBE => self.describe(frame, item, item.body(bytes)),
            tag::CLOSE => match Named::read(item.body(bytes)) {
                Some(Named::Statement(name)) if !name.is_empty() => {
                    self.pass(CLOSE_NOTHING, Owed::new(Kind::Close));
                }
                Some(Named::Statement(_)) => {
                    self.backend.unnamed = 0;
                    self.pass(frame, Owed::new(Kind::Close));
                }
                _ => self.pass(frame, Owed::new(Kind::Close)),
            },
            tag::EXECUTE => {
                self.pass(frame, Owed { verdict: item.verdict.clone(), ..Owed::new(Kind::Execute) });
            }
            tag::SYNC => self.pass(frame, Owed::new(Kind::Sync)),
            tag::FLUSH => self.out.extend_from_slice(frame),
            // Copy messages outside of a COPY: PostgreSQL drops them too.
            _ => {}
        }
    }

    fn pass(&mut self, frame: &[u8], owed: Owed) {
        self.out.extend_from_slice(frame);
        self.answer.expect(owed);
    }

    fn parse(&mut self, frame: &[u8], item: &Item) {
        if let Some(statement) = self.reused(item) {
            return self.parse_or_reuse(statement);
        }
        match &item.statement {
            Some(_) if self.shows => self.pass(frame, Owed::new(Kind::Parse)),
            None => {
                self.backend.unnamed = item.unnamed;
                self.pass(frame, Owed::new(Kind::Parse));
                self.parsed.push((0, self.answer.latest()));
            }
            // Parsed anew even where the backend has it, so that an error comes now and a changed table is seen.
            Some(statement) => self.parse_shared(statement),
        }
    }

    /// A Parse of the client's, under the name that backends know the statement by.
    pub(super) fn parse_shared(&mut self, statement: &Statement) {
        self.forget(statement.id);
        build::parse(self.out, &statement.name(), &statement.sql, &statement.types);
        self.answer.expect(Owed::new(Kind::Parse));
        self.remember(statement);
    }

    fn bind(&mut self, frame: &[u8], item: &Item, body: &[u8]) {
        let reused = self.reused(item);
        match (item.statement.as_ref().or(reused), Bind::read(body)) {
            (Some(_), _) if self.shows => self.pass(frame, Owed::new(Kind::Bind)),
            (Some(statement), Some(bind)) => {
                if reused.is_none() {
                    self.provide(statement, item.told);
                }
                build::frame(self.out, tag::BIND, |out| {
                    build::cstr(out, bind.portal);
                    build::cstr(out, &statement.name());
                    out.extend_from_slice(bind.tail);
                });
                self.answer.expect(Owed { reused: reused.is_some(), ..Owed::new(Kind::Bind) });
            }
            // One that the proxy doesn't know.
            (None, Some(bind)) if !bind.statement.is_empty() => self.pass(frame, Owed::new(Kind::Bind)),
            _ => {
                self.provide_unnamed(item.unnamed);
                self.pass(frame, Owed::new(Kind::Bind));
            }
        }
    }

    fn describe(&mut self, frame: &[u8], item: &Item, body: &[u8]) {
        match (&item.statement, Named::read(body)) {
            (Some(_), _) if self.shows => self.pass(frame, Owed::new(Kind::Describe)),
            (Some(statement), _) => {
                self.provide(statement, item.told);
                build::describe_statement(self.out, &statement.name());
                self.answer.expect(Owed::new(Kind::DescribeStatement));
            }
            (None, Some(Named::Statement(b""))) if let Some(statement) = self.reused(item) => {
                build::describe_statement(self.out, &statement.name());
                self.answer.expect(Owed::reused(Kind::Describe));
            }
            (None, Some(Named::Statement(b""))) => {
                self.provide_unnamed(item.unnamed);
                self.pass(frame, Owed::new(Kind::Describe));
            }
            _ => self.pass(frame, Owed::new(Kind::Describe)),
        }
    }

    /// Whether a message needs a statement that the backend doesn't surely have, and that can't be parsed in a failed transaction.
    fn is_wanting(&self, item: &Item) -> bool {
        let text = match &item.statement {
            Some(statement) => {
                let known = self.backend.prepared.get(&statement.id);
                Some(&*statement.sql).filter(|_| known.is_none_or(|known| known.naming == UNSURE))
            }
            None if item.unnamed == 0 || item.unnamed == self.backend.unnamed => None,
            None => {
                let frame = self.unnamed.frame_of(item.unnamed).and_then(|frame| frame.get(HEADER_LEN..));
                frame.and_then(Parse::read).map(|parse| parse.sql)
            }
        };
        text.is_some_and(|text| !may_end_transaction(text))
    }

    /// Sees to it that the backend has the statement, parsed under the session's own search path and role, and no earlier than the client
    /// knows it: what was parsed before the last change of its tables may fail by that.
    fn provide(&mut self, statement: &Rc<Statement>, told: Told) {
        let known = self.backend.prepared.get(&statement.id);
        // In a failed transaction the names in it are not looked up any more.
        if known.is_some_and(|known| known.naming == self.naming && known.changes >= told.changes)
            || self.aborted && known.is_some_and(|known| known.naming != UNSURE)
        {
            return;
        }
        self.parse_anew(statement);
    }

    fn parse_anew(&mut self, statement: &Statement) {
        self.forget(statement.id);
        build::parse(self.out, &statement.name(), &statement.sql, &statement.types);
        self.answer.expect(Owed::hidden(Kind::Parse));
        self.remember(statement);
    }

    /// Sees to it that the backend's unnamed statement is the session's, or none: never another session's.
    fn provide_unnamed(&mut self, token: u64) {
        if token != 0 && self.backend.unnamed == token {
            return;
        }
        if let Some(frame) = self.unnamed.frame_of(token) {
            self.out.extend_from_slice(frame);
            self.answer.expect(Owed::hidden(Kind::Parse));
            self.parsed.push((0, self.answer.latest()));
        } else {
            build::close_statement(self.out, b"");
            self.answer.expect(Owed::hidden(Kind::Close));
        }
        self.backend.unnamed = token;
    }

    /// Asks what the statement is on this backend, parsed under the same conditions as [`Self::provide`] does.
    pub(super) fn describe_again(&mut self, statement: &Statement, held: Held) {
        if held == Held::Other {
            self.parse_anew(statement);
        }
        build::describe_statement(self.out, &statement.name());
        self.answer.expect(Owed::hidden(Kind::DescribeStatement));
    }

    fn forget(&mut self, statement: u64) {
        if self.backend.prepared.remove(&statement).is_some() {
            build::close_statement(self.out, &statements::name(statement));
            self.answer.expect(Owed::hidden(Kind::Close));
        }
    }

    fn remember(&mut self, statement: &Statement) {
        if self.backend.prepared.len() >= MAX_PREPARED
            && let Some(id) = self.backend.prepared.keys().next().copied()
        {
            self.forget(id);
        }
        let prepared = Prepared { naming: self.naming, changes: self.changes, shape: 0 };
        self.backend.prepared.insert(statement.id, prepared);
        self.parsed.push((statement.id, self.answer.latest()));
    }
}

/// A batch failed with message number `failed`: whether the backend has what it parses from there on is not known. Closing a
/// statement that isn't there is no error, so each is closed and parsed again at its next use.
pub(super) fn doubt(backend: &mut Backend, parsed: &[(u64, usize)], failed: usize) {
    for (id, _) in parsed.iter().filter(|(_, at)| *at >= failed) {
        if *id == 0 {
            backend.unnamed = 0;
        } else if let Some(prepared) = backend.prepared.get_mut(id) {
            prepared.naming = UNSURE;
        }
    }
}

/// Whether a text may be one of the few that a failed transaction takes.
fn may_end_transaction(text: &[u8]) -> bool {
    let text = text.trim_ascii_start();
    [&b"rollback"[..], b"abort", b"commit", b"end", b"prepare", b"/", b"-"]
        .iter()
        .any(|word| text.get(..word.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(word)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Frames;

    #[test]
    fn the_fixed_messages_are_whole_frames() {
        for bytes in [NO_PORTAL, CLOSE_NOTHING] {
            let mut frames = Frames::new(bytes, 100);
            assert_eq!(frames.next_frame().unwrap().unwrap().bytes, bytes);
        }
    }
}
