//! What a backend still owes: the messages sent to it, in order, each waiting for its answer.
//!
//! [`Answer::step`] walks the bytes that come back. It tells which of them belong to the client, which answer something
//! that the proxy sent by itself, and which the session must read whole. Rows are passed on while they come in, however
//! long one is. It holds no socket.
//!
//! Source: PostgreSQL 18 documentation, "Message Flow".

use std::collections::VecDeque;
use std::rc::Rc;

use super::described::Shape;
use crate::sql::Verdict;
use crate::wire::frame::{MAX_FRAME_LEN, frame_len};
use crate::wire::parts::{self, ErrorFields};
use crate::wire::tags::backend as tag;
use crate::wire::{FrameError, HEADER_LEN, TxStatus};

/// The longest frame that is read whole, in bytes; rows and copy data are never.
const WHOLE_LIMIT: usize = 1 << 20;

/// A frame that is longer is passed on in pieces. A shorter one is passed on whole, so that an error can follow it when its
/// backend dies.
const STREAM_OVER: usize = 32 << 10;

/// The kinds of message that are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Query and FunctionCall: answered up to ReadyForQuery.
    Query,
    /// Parse.
    Parse,
    /// Bind.
    Bind,
    /// Describe of a portal, or of a statement that is nobody else's.
    Describe,
    /// Describe of a shared statement, whose shape is of interest.
    DescribeStatement,
    /// Execute.
    Execute,
    /// Close.
    Close,
    /// Sync.
    Sync,
    /// A Parse that was not sent, as the backend has the statement: the proxy answers it.
    Reused,
}

/// One message sent and not yet answered.
#[derive(Debug, Clone)]
pub(super) struct Owed {
    pub(super) kind: Kind,
    /// Sent by the proxy itself: its answer is not the client's.
    pub(super) hidden: bool,
    /// What completes with it, for Query and Execute.
    pub(super) verdict: Option<Rc<Verdict>>,
    /// The error to show in place of the one that this message will surely bring.
    pub(super) instead: Option<Rc<[u8]>>,
    /// It is about a statement that its batch didn't parse itself.
    pub(super) reused: bool,
}

impl Owed {
    pub(super) fn new(kind: Kind) -> Self {
        Self { kind, hidden: false, verdict: None, instead: None, reused: false }
    }

    pub(super) fn hidden(kind: Kind) -> Self {
        Self { hidden: true, ..Self::new(kind) }
    }

    pub(super) fn reused(kind: Kind) -> Self {
        Self { reused: true, ..Self::new(kind) }
    }
}

/// A frame that the session has to read.
#[derive(Debug)]
pub(super) enum Event<'a> {
    /// ErrorResponse; `instead` and `reused` as in [`Owed`].
    Error { fields: ErrorFields<'a>, instead: Option<Rc<[u8]>>, hidden: bool, reused: bool },
    /// CommandComplete (or EmptyQueryResponse) of an Execute, or of a statement in a Query.
    Complete { tag: &'a [u8], owed: Option<Owed>, hidden: bool },
    /// ReadyForQuery. `owed` is the Query or Sync that it ends.
    Ready { status: TxStatus, owed: Owed },
    /// NoticeResponse, not in answer to something hidden.
    Notice(ErrorFields<'a>),
    /// NotificationResponse: its body begins with the process id of the backend that notified.
    Notification(&'a [u8]),
    /// ParameterStatus.
    Parameter { name: &'a [u8], value: &'a [u8] },
    /// CopyInResponse: the client's CopyData is wanted.
    CopyIn,
    /// CopyBothResponse: both ways from here, until both sides end it.
    CopyBoth,
    /// A Parse of the client's was answered.
    Parsed,
    /// A Parse of the client's that was not sent is to be answered now.
    Reused,
}

/// What to do with the front of the bytes.
#[derive(Debug)]
pub(super) enum Step<'a> {
    /// Pass that many bytes on.
    Pass(usize),
    /// Drop that many.
    Skip(usize),
    /// A whole frame of that many bytes; pass it on or not, as the event says.
    Event(Event<'a>, usize),
    /// No more can be done with these bytes: keep what is left until more have come.
    More,
}

/// Why a backend can't be trusted any more: it must be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum OutOfStep {
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("unexpected message with tag {0:#04x}")]
    Unexpected(u8),
    #[error("malformed message with tag {0:#04x}")]
    Malformed(u8),
}

/// The messages that wait for an answer, and the place in the frame at hand.
#[derive(Debug, Default)]
pub(super) struct Answer {
    owed: VecDeque<Owed>,
    /// Bytes left of a frame that is passed on or dropped while it comes in.
    left: usize,
    left_is_passed: bool,
    /// Messages of the client's extended-protocol batch that were answered to their end.
    answered: usize,
    /// All that were sent since the batch's beginning, the proxy's own too, and all that were answered; which of them failed first.
    sent: usize,
    done: usize,
    failed: Option<usize>,
    /// The shape that is being told, and those that were.
    shape: Shape,
    shapes: Vec<u64>,
}

impl Answer {
    /// Another batch begins, or the same once more.
    pub(super) fn begin(&mut self) {
        (self.answered, self.sent, self.done, self.failed) = (0, 0, 0, None);
        self.shapes.clear();
    }

    /// Takes parameters and columns of the shared statements that were described since the batch's beginning, each as a number, in their
    /// order: equal for equal ones, 0 where they were too long to be read.
    pub(super) fn take_shapes(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.shapes)
    }

    /// The number of the message that was noted last.
    pub(super) fn latest(&self) -> usize {
        self.sent
    }

    /// The number of the first message that failed, as [`Self::latest`] counts them; none if none did.
    pub(super) fn failed(&self) -> Option<usize> {
        self.failed
    }

    /// How many messages of the client's extended-protocol batch were answered to their end.
    pub(super) fn answered(&self) -> usize {
        self.answered
    }

    fn pop(&mut self) -> Option<Owed> {
        let owed = self.owed.pop_front()?;
        self.done += 1;
        self.answered += usize::from(!owed.hidden);
        Some(owed)
    }

    /// Notes a message that goes out.
    pub(super) fn expect(&mut self, owed: Owed) {
        self.sent += 1;
        self.owed.push_back(owed);
    }

    /// Whether everything has been answered, to the last byte.
    pub(super) fn is_settled(&self) -> bool {
        self.owed.is_empty() && self.left == 0
    }

    /// Whether what was sent last makes the server give no answer by itself.
    pub(super) fn awaits_flush(&self) -> bool {
        self.owed.back().is_some_and(|owed| !matches!(owed.kind, Kind::Query | Kind::Sync))
    }

    /// Forgets all of it, with the backend that owed it.
    pub(super) fn clear(&mut self) {
        self.owed.clear();
        self.left = 0;
    }

    /// What the front of `buf` is.
    ///
    /// # Errors
    /// [`OutOfStep`] when it is nothing that could come now.
    pub(super) fn step<'a>(&mut self, buf: &'a [u8]) -> Result<Step<'a>, OutOfStep> {
        if self.left > 0 {
            return Ok(self.rest_of_frame(buf));
        }
        let Some(len) = frame_len(buf, MAX_FRAME_LEN)? else {
            return Ok(Step::More);
        };
        let hidden = self.owed.front().is_some_and(|owed| owed.hidden);
        if self.front_is(Kind::Reused) {
            self.pop();
            return Ok(Step::Event(Event::Reused, 0));
        }
        match buf[0] {
            tag::DATA_ROW if !hidden && !self.owed.is_empty() && len <= buf.len() => {
                Ok(Step::Pass(rows(buf, len)?))
            }
            tag::PARAMETER_DESCRIPTION | tag::ROW_DESCRIPTION | tag::NO_DATA
                if self.front_is(Kind::DescribeStatement) =>
            {
                self.described(buf, len, hidden)
            }
            tag::DATA_ROW
            | tag::COPY_DATA
            | tag::COPY_DONE
            | tag::COPY_OUT_RESPONSE
            | tag::FUNCTION_CALL_RESPONSE
            | tag::PARAMETER_DESCRIPTION => self.stream(buf, len, !hidden),
            tag::NOTICE_RESPONSE if hidden => self.stream(buf, len, false),
            tag::ROW_DESCRIPTION | tag::NO_DATA => {
                let step = self.stream(buf, len, !hidden)?;
                if self.front_is(Kind::Describe) && !matches!(step, Step::More) {
                    self.pop();
                }
                Ok(step)
            }
            tag::BIND_COMPLETE => self.simple(buf, len, Kind::Bind),
            tag::CLOSE_COMPLETE => self.simple(buf, len, Kind::Close),
            tag::PORTAL_SUSPENDED => self.simple(buf, len, Kind::Execute),
            other => {
                if len > WHOLE_LIMIT {
                    return Err(FrameError::TooLong(len, WHOLE_LIMIT).into());
                }
                if len > buf.len() {
                    return Ok(Step::More);
                }
                Ok(Step::Event(self.whole(other, &buf[HEADER_LEN..len], hidden)?, len))
            }
        }
    }

    /// After CopyIn under an Execute: the Sync that went out with it is not answered, the next one is.
    pub(super) fn copy_takes_sync(&mut self) {
        if self.front_is(Kind::Execute) && self.owed.get(1).is_some_and(|owed| owed.kind == Kind::Sync) {
            self.owed.remove(1);
            self.sent -= 1;
        }
    }

    /// Whether COPY was begun by a Query, which needs no Sync.
    pub(super) fn copy_is_simple(&self) -> bool {
        self.front_is(Kind::Query)
    }

    /// Whether a Query of the proxy's own is under way: it goes before a batch, nothing of which has begun then.
    pub(super) fn sets_up(&self) -> bool {
        self.owed.front().is_some_and(|owed| owed.hidden && owed.kind == Kind::Query)
    }

    fn front_is(&self, kind: Kind) -> bool {
        self.owed.front().is_some_and(|owed| owed.kind == kind)
    }

    fn rest_of_frame<'a>(&mut self, buf: &'a [u8]) -> Step<'a> {
        let n = self.left.min(buf.len());
        self.left -= n;
        match (n, self.left_is_passed) {
            (0, _) => Step::More,
            (n, true) => Step::Pass(n),
            (n, false) => Step::Skip(n),
        }
    }

    fn stream<'a>(&mut self, buf: &'a [u8], len: usize, pass: bool) -> Result<Step<'a>, OutOfStep> {
        if self.owed.is_empty() && !parts::is_asynchronous(buf[0]) {
            return Err(OutOfStep::Unexpected(buf[0]));
        }
        if buf.len() < len && len <= STREAM_OVER {
            return Ok(Step::More);
        }
        self.left = len;
        self.left_is_passed = pass;
        Ok(self.rest_of_frame(buf))
    }

    /// Bytes that the client still has to get of a frame it got the beginning of.
    pub(super) fn cut_off(&self) -> usize {
        if self.left_is_passed { self.left } else { 0 }
    }

    /// A part of what describes a shared statement.
    fn described<'a>(&mut self, buf: &'a [u8], len: usize, hidden: bool) -> Result<Step<'a>, OutOfStep> {
        let step = self.stream(buf, len, !hidden)?;
        if matches!(step, Step::More) {
            return Ok(step);
        }
        let body = buf.get(HEADER_LEN..len).filter(|_| len <= STREAM_OVER);
        self.shape.take(buf[0], body).ok_or(OutOfStep::Malformed(buf[0]))?;
        if buf[0] != tag::PARAMETER_DESCRIPTION {
            self.pop();
            self.shapes.push(self.shape.finish());
        }
        Ok(step)
    }

    /// An answer that is nothing but its tag.
    fn simple<'a>(&mut self, buf: &'a [u8], len: usize, kind: Kind) -> Result<Step<'a>, OutOfStep> {
        match self.owed.front() {
            Some(owed) if owed.kind == kind && len == HEADER_LEN => {
                let hidden = owed.hidden;
                if buf.len() < len {
                    return Ok(Step::More);
                }
                self.pop();
                Ok(if hidden { Step::Skip(len) } else { Step::Pass(len) })
            }
            _ => Err(OutOfStep::Unexpected(buf[0])),
        }
    }

    fn whole<'a>(&mut self, tag: u8, body: &'a [u8], hidden: bool) -> Result<Event<'a>, OutOfStep> {
        match tag {
            tag::READY_FOR_QUERY => self.ready(body),
            tag::ERROR_RESPONSE => Ok(self.error(body, hidden)),
            tag::NOTICE_RESPONSE => Ok(Event::Notice(ErrorFields::new(body))),
            tag::NOTIFICATION_RESPONSE => Ok(Event::Notification(body)),
            tag::PARAMETER_STATUS => {
                let (name, value) = parts::parameter_status(body).ok_or(OutOfStep::Malformed(tag))?;
                Ok(Event::Parameter { name, value })
            }
            tag::COMMAND_COMPLETE | tag::EMPTY_QUERY_RESPONSE => {
                let text = body.strip_suffix(b"\0").unwrap_or(body);
                match self.owed.front().map(|owed| owed.kind) {
                    Some(Kind::Execute) => Ok(Event::Complete { tag: text, owed: self.pop(), hidden }),
                    Some(Kind::Query) => Ok(Event::Complete { tag: text, owed: None, hidden }),
                    _ => Err(OutOfStep::Unexpected(tag)),
                }
            }
            tag::PARSE_COMPLETE if self.front_is(Kind::Parse) => {
                self.pop();
                // A hidden one is dropped by the caller through the same event: it must not count as the client's.
                Ok(if hidden { Event::Complete { tag: b"", owed: None, hidden } } else { Event::Parsed })
            }
            tag::COPY_IN_RESPONSE => Ok(Event::CopyIn),
            tag::COPY_BOTH_RESPONSE => Ok(Event::CopyBoth),
            other => Err(OutOfStep::Unexpected(other)),
        }
    }

    fn ready<'a>(&mut self, body: &[u8]) -> Result<Event<'a>, OutOfStep> {
        let status = match body {
            [byte] => TxStatus::from_byte(*byte),
            _ => None,
        }
        .ok_or(OutOfStep::Malformed(tag::READY_FOR_QUERY))?;
        self.done += 1;
        match self.owed.pop_front() {
            Some(owed) if matches!(owed.kind, Kind::Query | Kind::Sync) => Ok(Event::Ready { status, owed }),
            _ => Err(OutOfStep::Unexpected(tag::READY_FOR_QUERY)),
        }
    }

    /// An error ends an extended-protocol batch up to its Sync, or the Query at hand. That of a Parse or Describe which the proxy put in
    /// front of a Bind or Describe is theirs: the statement can't be planned any more.
    fn error<'a>(&mut self, body: &'a [u8], mut hidden: bool) -> Event<'a> {
        let planned = hidden && (self.front_is(Kind::Parse) || self.front_is(Kind::DescribeStatement));
        self.shape = Shape::default();
        let instead = self.owed.front().and_then(|owed| owed.instead.clone());
        let reused = self.owed.front().is_some_and(|owed| owed.reused);
        self.failed.get_or_insert(self.done + 1);
        while self.owed.front().is_some_and(|owed| !matches!(owed.kind, Kind::Query | Kind::Sync)) {
            self.owed.pop_front();
            self.done += 1;
        }
        hidden &= !(planned && self.front_is(Kind::Sync));
        Event::Error { fields: ErrorFields::new(body), instead, hidden, reused }
    }
}

/// Length of the whole rows at the front of `buf`, whose first has `first` bytes.
fn rows(buf: &[u8], first: usize) -> Result<usize, FrameError> {
    let mut end = first;
    while buf.get(end) == Some(&tag::DATA_ROW) {
        match frame_len(&buf[end..], MAX_FRAME_LEN)? {
            Some(len) if end + len <= buf.len() => end += len,
            _ => break,
        }
    }
    Ok(end)
}

#[cfg(test)]
#[path = "answer/tests.rs"]
mod tests;
