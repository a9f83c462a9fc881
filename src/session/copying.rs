//! The client's side of a COPY: its CopyData is passed on as it comes, in pieces, never kept whole.

use std::task::{Context, Poll, ready};

use super::Session;
use super::answer::{Kind, Owed};
use super::handle::Order;
use super::loss::Loss;
use super::run::{Copying, Outcome, Run};
use crate::wire::HEADER_LEN;
use crate::wire::frame::frame_len;
use crate::wire::tags::frontend as tag;

impl Session {
    /// Whether a COPY was answered with an error while the backend had got only a part of what was under way to it.
    pub(super) fn owes_copy_rest(&self, run: &Run) -> bool {
        let Copying::Data(left) = run.copying else { return false };
        self.answer.is_settled() && self.lease.is_some() && (left > 0 || !self.to_backend.is_empty())
    }

    /// Passes on the rest of a CopyData whose COPY has failed: the backend takes what it gets next for that rest, whoever sends it.
    pub(super) fn poll_copy_rest(&mut self, cx: &mut Context<'_>, run: &mut Run) -> Poll<Outcome> {
        self.handle.watch(cx);
        if self.handle.order() == Order::Kill {
            return Poll::Ready(Outcome::Killed);
        }
        while let Copying::Data(left) = run.copying {
            if ready!(self.poll_flush_backend(cx)).is_err() {
                // The client has its answer. That the backend is gone shows when it is next used.
                self.to_backend.clear();
                self.backend_at = 0;
                break;
            }
            if left == 0 {
                break;
            }
            let gone = matches!(self.poll_flush_client(cx), Poll::Ready(Err(_)))
                || (self.inbox.is_empty() && !ready!(self.poll_read_client(cx)));
            if gone {
                self.give_up_backend(&Loss::Closed);
                return Poll::Ready(Outcome::ClientGone);
            }
            let n = left.min(self.inbox.len());
            self.to_backend.extend_from_slice(&self.inbox[..n]);
            self.inbox.drain(..n);
            run.copying = Copying::Data(left - n);
        }
        Poll::Ready(Outcome::Settled)
    }

    /// Passes on what belongs to the COPY; true when that was anything.
    pub(super) fn copy_from_inbox(&mut self, run: &mut Run) -> bool {
        let mut at = 0;
        while at < self.inbox.len() {
            let rest = &self.inbox[at..];
            if let Copying::Data(left) = run.copying
                && left > 0
            {
                let n = left.min(rest.len());
                run.copying = Copying::Data(left - n);
                at += n;
                continue;
            }
            let Ok(Some(len)) = frame_len(rest, self.worker.shared.config.limits.message) else { break };
            match (rest[0], run.copying) {
                (tag::COPY_DATA, Copying::Data(_)) => {
                    at += HEADER_LEN;
                    run.copying = Copying::Data(len - HEADER_LEN);
                }
                _ if len > rest.len() => break,
                (tag::COPY_DONE | tag::COPY_FAIL, Copying::Data(_)) => {
                    run.copy_done |= rest[0] == tag::COPY_DONE;
                    at += len;
                    run.copying =
                        if self.answer.copy_is_simple() { Copying::No } else { Copying::AwaitsSync };
                    if run.copying == Copying::No {
                        break;
                    }
                }
                (tag::SYNC, Copying::AwaitsSync) => {
                    at += len;
                    run.copying = Copying::No;
                    self.answer.expect(Owed::new(Kind::Sync));
                    break;
                }
                // Flush and Sync inside of a COPY mean nothing; anything else fails it, by the server's own word.
                _ => at += len,
            }
        }
        if at == 0 {
            return false;
        }
        if self.to_backend.capacity() == 0 {
            self.to_backend = self.worker.buffer();
        }
        self.to_backend.extend_from_slice(&self.inbox[..at]);
        self.inbox.drain(..at);
        if self.inbox.is_empty() {
            let empty = std::mem::take(&mut self.inbox);
            self.worker.give_buffer(empty);
        }
        true
    }
}
