//! Cutting what a client sent into batches: a Query, a FunctionCall, or extended-protocol messages up to Sync or Flush.
//!
//! One batch is under way at a time; what came in behind it waits in the buffer. [`Summary`] is what routing and the
//! rules for a lost backend need to know of the whole of it.

use std::rc::Rc;

use super::described::Told;
use super::statements::Statement;
use crate::sql::{Class, Effects, Hint, TransactionModes, TransactionVerb, Verdict};
use crate::wire::frame::frame_len;
use crate::wire::tags::frontend as tag;
use crate::wire::{FrameError, HEADER_LEN};

/// What ended a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// A Query or a FunctionCall: a batch of its own.
    Query,
    /// Sync.
    Sync,
    /// Flush: answers are wanted, the batch goes on.
    Flush,
    /// As much as is kept for one batch; the rest follows to the same backend.
    Full,
    /// Terminate.
    Terminate,
}

/// Where the next batch ends in a buffer of which the first `scanned` bytes are known to be whole frames without an end.
///
/// `full` is how many bytes of whole frames make a batch that can't wait for its end; a single frame may be longer, up to
/// `limit`.
///
/// # Errors
/// [`FrameError`] when the bytes are no frames or one is over `limit`.
pub(super) fn cut(
    buf: &[u8],
    scanned: &mut usize,
    limit: usize,
    full: usize,
) -> Result<Option<(usize, End)>, FrameError> {
    loop {
        let at = *scanned;
        let Some(len) = frame_len(&buf[at..], limit)? else { return Ok(None) };
        if at + len > buf.len() {
            return Ok(None);
        }
        let end = match buf[at] {
            tag::QUERY | tag::FUNCTION_CALL => Some(End::Query),
            tag::SYNC => Some(End::Sync),
            tag::FLUSH => Some(End::Flush),
            tag::TERMINATE => Some(End::Terminate),
            // Nothing behind a message that is none has to be waited for.
            other if at + len >= full || !is_known(other) => Some(End::Full),
            _ => None,
        };
        // A Query or Terminate behind messages without a Sync ends them as Full: it is a batch of its own.
        if matches!(end, Some(End::Query | End::Terminate)) && at > 0 {
            *scanned = 0;
            return Ok(Some((at, End::Full)));
        }
        *scanned = at + len;
        if let Some(end) = end {
            *scanned = 0;
            return Ok(Some((at + len, end)));
        }
    }
}

/// Whether a logged-in client may send a message with this tag.
pub(super) fn is_known(tag: u8) -> bool {
    matches!(
        tag,
        tag::QUERY
            | tag::FUNCTION_CALL
            | tag::PARSE
            | tag::BIND
            | tag::DESCRIBE
            | tag::EXECUTE
            | tag::CLOSE
            | tag::SYNC
            | tag::FLUSH
            | tag::TERMINATE
            | tag::COPY_DATA
            | tag::COPY_DONE
            | tag::COPY_FAIL
    )
}

/// One message of a batch, with what is known of the statement it is about.
#[derive(Debug)]
pub(super) struct Item {
    /// Where it stands in the batch's bytes.
    pub(super) start: usize,
    /// Where it ends.
    pub(super) end: usize,
    /// The named statement that it makes or uses.
    pub(super) statement: Option<Rc<Statement>>,
    /// What the client was told of that statement.
    pub(super) told: Told,
    /// The unnamed statement that it makes or uses: which Parse made it; 0 if none.
    pub(super) unnamed: u64,
    /// What a backend has for all of the unnamed statement that it makes or uses, where that may serve in its place.
    pub(super) reused: Option<Rc<Statement>>,
    /// What will have run when it completes, for Query and Execute.
    pub(super) verdict: Option<Rc<Verdict>>,
    /// The error that it must bring, found by the proxy.
    pub(super) error: Option<Rc<[u8]>>,
}

impl Item {
    pub(super) fn new(start: usize, end: usize) -> Self {
        Self {
            start,
            end,
            statement: None,
            told: Told::default(),
            unnamed: 0,
            reused: None,
            verdict: None,
            error: None,
        }
    }

    /// Whether it is about a statement that backends have for all.
    pub(super) fn is_shared(&self) -> bool {
        self.statement.is_some() || self.reused.is_some()
    }

    /// The body of the message in the batch's bytes.
    pub(super) fn body<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.start + HEADER_LEN..self.end]
    }
}

/// What a whole batch is.
#[derive(Debug, Clone)]
pub(super) struct Summary {
    /// The strictest class of what is in it.
    pub(super) class: Class,
    /// All effects of it.
    pub(super) effects: Effects,
    /// Statements that will run, counting those inside one string.
    pub(super) runs: u32,
    /// Messages in it that are answered each by itself: Parse, Bind, Describe, Execute, Close.
    pub(super) messages: usize,
    /// The one verdict there is, if there is but one.
    pub(super) only: Option<Rc<Verdict>>,
    /// Whether a statement in it ends a transaction.
    pub(super) ends_transaction: bool,
    /// The modes of the first BEGIN in it.
    pub(super) begins: Option<TransactionModes>,
    /// The first statement's hint.
    pub(super) hint: Option<Hint>,
    /// Verdicts seen.
    pub(super) verdicts: u32,
}

impl Default for Summary {
    fn default() -> Self {
        Self {
            class: Class::Read,
            effects: Effects::NONE,
            runs: 0,
            messages: 0,
            only: None,
            ends_transaction: false,
            begins: None,
            hint: None,
            verdicts: 0,
        }
    }
}

impl Summary {
    /// Takes up one verdict; `runs` when it is executed, not only parsed or described.
    pub(super) fn add(&mut self, verdict: &Rc<Verdict>, runs: bool) {
        let class = verdict.class();
        self.class = if self.verdicts == 0 { class } else { strictest(self.class, class) };
        self.effects |= verdict.effects;
        if self.verdicts == 0 {
            self.hint = verdict.hint;
            self.only = Some(Rc::clone(verdict));
        } else if self.only.as_ref().is_some_and(|only| !Rc::ptr_eq(only, verdict)) {
            self.only = None;
        }
        self.verdicts += 1;
        if runs {
            self.runs += verdict.statements;
            match &verdict.transaction {
                Some(TransactionVerb::Begin(modes)) => self.begins = self.begins.or(Some(*modes)),
                Some(
                    TransactionVerb::Commit { .. }
                    | TransactionVerb::Rollback { .. }
                    | TransactionVerb::TwoPhase,
                ) => {
                    self.ends_transaction = true;
                }
                _ => {}
            }
            if verdict.mixed_transaction {
                self.begins = Some(TransactionModes::default());
                self.ends_transaction = true;
            }
        }
    }

    /// Whether every statement in it only reads.
    pub(super) fn reads(&self) -> bool {
        matches!(self.class, Class::Read | Class::VectorRead)
    }
}

/// The stricter of two classes; a search beside a plain read stays a search, a session statement beside a read a read.
fn strictest(a: Class, b: Class) -> Class {
    match (a, b) {
        (Class::Write, _) | (_, Class::Write) => Class::Write,
        (Class::VectorRead, _) | (_, Class::VectorRead) => Class::VectorRead,
        (Class::Session, Class::Session) => Class::Session,
        _ => Class::Read,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::build;

    fn message(tag: u8, len: usize) -> Vec<u8> {
        let mut out = Vec::new();
        build::frame(&mut out, tag, |out| out.resize(out.len() + len, b'x'));
        out
    }

    #[test]
    fn a_batch_ends_where_it_must() {
        let extended = [message(tag::PARSE, 10), message(tag::BIND, 10), message(tag::SYNC, 0)].concat();
        let bytes = [message(tag::QUERY, 3), extended.clone(), message(tag::FLUSH, 0)].concat();
        let mut scanned = 0;
        assert_eq!(cut(&bytes, &mut scanned, 100, 1000).unwrap(), Some((8, End::Query)));
        let rest = &bytes[8..];
        for short in 0..extended.len() {
            assert_eq!(cut(&rest[..short], &mut scanned, 100, 1000).unwrap(), None, "{short}");
        }
        assert_eq!(scanned, 30, "whole frames are not looked at again");
        assert_eq!(cut(rest, &mut scanned, 100, 1000).unwrap(), Some((extended.len(), End::Sync)));
        assert_eq!(scanned, 0);
        assert_eq!(cut(&rest[extended.len()..], &mut scanned, 100, 1000).unwrap(), Some((5, End::Flush)));
    }

    #[test]
    fn what_has_no_end_is_cut_where_it_is_full() {
        let bytes = [message(tag::BIND, 50), message(tag::BIND, 50), message(tag::QUERY, 5)].concat();
        assert_eq!(cut(&bytes, &mut 0, 100, 60).unwrap(), Some((110, End::Full)));
        assert_eq!(cut(&bytes, &mut 0, 100, 1000).unwrap(), Some((110, End::Full)));
        assert_eq!(cut(&bytes[110..], &mut 0, 100, 60).unwrap(), Some((10, End::Query)));
        assert!(cut(&message(tag::QUERY, 200), &mut 0, 100, 60).is_err());
    }
}
