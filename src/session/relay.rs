//! Passing bytes both ways while a batch is under way.
//!
//! Both sides are polled by one task. What the backend says is cut into frames ([`super::answer`]) in the worker's own
//! buffer and written to the client straight from there; only what the client doesn't take at once is copied. A client that
//! doesn't read stops its backend: nothing more is read from it.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::answer::{Event, Kind, Owed, Step};
use super::handle::{Order, Standing};
use super::loss::Loss;
use super::run::{Copying, Outcome, Run};
use super::showing::Shown;
use super::state::Tx;
use super::translate::Translation;
use super::{Ended, Item, LOOK_AHEAD, Session};
use crate::backend::Settings;
use crate::wire::tags::frontend;
use crate::wire::{TxStatus, build};

impl Session {
    /// Sends the batch to the backend that is held, what it lacks in front, and passes the answer on.
    pub(super) async fn send_and_relay(
        &mut self,
        bytes: &[u8],
        items: &[Item],
        search: bool,
        run: &mut Run,
    ) -> Outcome {
        if run.out_of_place
            && let Some(outcome) = self.leave_replica(run).await
        {
            return outcome;
        }
        if self.prepare_backend(search) {
            // Another role is taken on before anything is sent that it could be wrong for.
            match self.relay(run).await {
                Outcome::Settled => {}
                other => return other,
            }
        }
        if run.runs_named
            && let Some(outcome) = self.lend_named(bytes, items, run).await
        {
            return outcome;
        }
        // Only what is kept under a name has to know how its own names were resolved.
        let shared = items.iter().any(Item::is_shared);
        let naming = if shared { self.settings.naming() } else { 0 };
        if items.iter().any(|item| item.told.shape != 0)
            && let Some(outcome) = self.hold_to_what_was_told(items, naming, run).await
        {
            return outcome;
        }
        self.translate(bytes, items, naming, run);
        self.relay(run).await
    }

    /// Brings the backend in line with the session's settings and open BEGIN; true when the answer has to be awaited before
    /// anything else is sent.
    pub(super) fn prepare_backend(&mut self, search: bool) -> bool {
        let local = search.then(|| self.local_search_settings()).flatten();
        let wanted = self.wanted_settings(search);
        // A failed transaction takes no settings, and a batch that waits for its Sync no Query.
        let failed = self.lease.as_ref().is_some_and(|lease| lease.status == TxStatus::Failed);
        let may_set = !failed && !self.open_batch;
        let discard = if may_set { self.drop_foreign_values() } else { b"" };
        let Some(lease) = self.lease.as_mut() else { return false };
        if self.to_backend.capacity() == 0 {
            self.to_backend = self.worker.buffer();
        }
        let mut wait = false;
        let mut sql = Vec::new();
        if may_set && !Arc::ptr_eq(&lease.backend.settings, &wanted) {
            if lease.backend.settings.same(&wanted) {
                self.settings_are_one(&wanted);
            } else {
                lease.backend.settings.sql_towards(&wanted, &mut sql);
                wait = sql.starts_with(b"RESET ROLE");
                lease.backend.settings = wanted;
            }
        }
        sql.extend_from_slice(discard);
        if let Some(local) = local {
            sql.extend_from_slice(&local);
        }
        if !sql.is_empty() {
            self.hidden_query(&sql);
        }
        if let Tx::Deferred { begin, .. } = &self.tx {
            let begin = begin.clone();
            self.hidden_query(&begin);
        }
        wait
    }

    /// Session and backend have equal settings in two objects: the one with the lower address serves for both from here on. So all
    /// who are equal come to share one, and looking is comparing two addresses.
    fn settings_are_one(&mut self, wanted: &Arc<Settings>) {
        let Some(lease) = self.lease.as_mut() else { return };
        if Arc::as_ptr(wanted) < Arc::as_ptr(&lease.backend.settings) {
            lease.backend.settings = Arc::clone(wanted);
        } else if Arc::ptr_eq(wanted, &self.settings) {
            self.settings = Arc::clone(&lease.backend.settings);
        }
    }

    /// Puts a Query of the proxy's own into the backend's buffer.
    pub(super) fn hidden_query(&mut self, sql: &[u8]) {
        let Some(lease) = self.lease.as_mut() else { return };
        build::query(&mut self.to_backend, sql);
        lease.backend.unnamed = 0;
        self.answer.expect(Owed::hidden(Kind::Query));
    }

    /// Puts the batch into the backend's buffer. `naming` is the session's [`Settings::naming`], where the batch has named statements.
    pub(super) fn translate(&mut self, bytes: &[u8], items: &[Item], naming: u64, run: &mut Run) {
        let Some(lease) = self.lease.as_mut() else { return };
        let aborted = lease.status == TxStatus::Failed;
        let mut translation = Translation {
            backend: &mut lease.backend,
            answer: &mut self.answer,
            out: &mut self.to_backend,
            unnamed: &self.unnamed,
            naming,
            changes: run.changes,
            parsed: &mut run.parses,
            refused: run.refused.take(),
            reuses: run.reuses,
            aborted,
            shows: false,
        };
        let shown = if run.shows {
            translation.show(&self.names, bytes, items)
        } else if !run.lent.is_empty() {
            Some(Shown(std::mem::take(&mut run.lent)))
        } else if run.deallocates {
            translation.stand_in(&self.names, bytes, items)
        } else {
            None
        };
        self.skipping = translation.batch(bytes, items, self.skipping);
        if let Some(shown) = shown {
            translation.hide(&shown);
        }
        // A server keeps its answers to itself until a Sync or a Flush: a batch that is cut short by its size has none of its own.
        if self.answer.awaits_flush() {
            build::empty(&mut self.to_backend, frontend::FLUSH);
        }
        run.sent = true;
    }

    /// Passes bytes both ways until everything sent is answered.
    pub(super) async fn relay(&mut self, run: &mut Run) -> Outcome {
        poll_fn(|cx| self.poll_relay(cx, run)).await
    }

    fn poll_relay(&mut self, cx: &mut Context<'_>, run: &mut Run) -> Poll<Outcome> {
        if self.owes_copy_rest(run) {
            return self.poll_copy_rest(cx, run);
        }
        if let Some(outcome) = self.orders(run) {
            return Poll::Ready(outcome);
        }
        self.handle.watch(cx);
        loop {
            if let Poll::Ready(Err(loss)) = self.poll_flush_backend(cx) {
                return Poll::Ready(Outcome::Lost(loss));
            }
            let blocked = match self.poll_answer(cx, run) {
                Poll::Ready(Ok(())) if self.owes_copy_rest(run) => return self.poll_copy_rest(cx, run),
                Poll::Ready(Ok(())) => return Poll::Ready(Outcome::Settled),
                Poll::Ready(Err(Refused::Client)) => return Poll::Ready(Outcome::ClientGone),
                Poll::Ready(Err(Refused::Backend(loss))) => return Poll::Ready(Outcome::Lost(loss)),
                Poll::Pending => self.client_at < self.to_client.len() && !run.hold,
            };
            // Nothing more is asked of a client that doesn't take what it asked for.
            if blocked {
                return Poll::Pending;
            }
            match self.poll_client_input(cx, run) {
                Poll::Ready(Some(true)) => {}
                Poll::Ready(Some(false)) => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(Outcome::ClientGone),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// What the session was told from outside.
    fn orders(&mut self, run: &Run) -> Option<Outcome> {
        if let Some(loss) = self.loss_by_standing(run) {
            return Some(Outcome::Lost(loss));
        }
        if self.handle.order() == Order::Kill {
            return Some(Outcome::Killed);
        }
        if self.handle.take_cancel() && run.sent {
            self.send_cancel();
        }
        None
    }

    /// Whether the backend that is held is given up, for what became of its member.
    fn loss_by_standing(&mut self, run: &Run) -> Option<Loss> {
        match self.handle.standing() {
            Standing::Good => None,
            Standing::Fenced => Some(Loss::Fenced),
            Standing::Silent => (run.hold && run.reads && !run.passed).then_some(Loss::Silent),
            Standing::Drained => {
                // What ends the transaction is waited for, and what a pinned session would lose is worth more.
                let cut = self.in_open_transaction() && !run.ends_transaction && !self.pins.any();
                if cut && run.sent {
                    self.send_cancel();
                }
                cut.then_some(Loss::Drained)
            }
        }
    }

    /// Writes what the backend is to get.
    pub(super) fn poll_flush_backend(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Loss>> {
        let Some(lease) = self.lease.as_mut() else { return Poll::Ready(Err(Loss::Closed)) };
        let stream = &mut lease.backend.stream;
        ready!(stream.poll_write_rest(cx, &self.to_backend, &mut self.backend_at))
            .map_err(|_| Loss::Closed)?;
        if self.backend_at > 0 {
            self.backend_at = 0;
            let sent = std::mem::take(&mut self.to_backend);
            self.worker.give_buffer(sent);
            self.backend_unflushed = true;
        }
        if self.backend_unflushed {
            match lease.backend.stream.poll_flush(cx) {
                Poll::Ready(Ok(())) => self.backend_unflushed = false,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Loss::Closed)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what the client is to get; an error means that it is gone.
    pub(super) fn poll_flush_client(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        if self.to_client.is_empty() && !self.client_unflushed {
            return Poll::Ready(Ok(()));
        }
        ready!(self.client.poll_write_rest(cx, &self.to_client, &mut self.client_at))
            .map_err(|_| Ended::Client)?;
        self.client_at = 0;
        let sent = std::mem::take(&mut self.to_client);
        self.pools.tally.sent(sent.len());
        self.worker.give_buffer(sent);
        let flushed = self.client.poll_flush(cx);
        // TLS may hold what the socket doesn't take: it has to be asked again.
        self.client_unflushed = flushed.is_pending();
        flushed.map_err(|_| Ended::Client)
    }

    /// As [`Self::poll_flush_client`], and ready when all of it has gone to the socket.
    pub(super) fn poll_told(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        ready!(self.poll_flush_client(cx))?;
        self.client.poll_sent(cx).map_err(|_gone| Ended::Client)
    }

    /// Reads the backend until everything is answered, nothing more is there, or the client doesn't take more.
    fn poll_answer(&mut self, cx: &mut Context<'_>, run: &mut Run) -> Poll<Result<(), Refused>> {
        let worker = Rc::clone(&self.worker);
        let mut scratch = worker.scratch.borrow_mut();
        loop {
            if self.answer.is_settled() {
                return Poll::Ready(Ok(()));
            }
            if !run.hold && self.poll_flush_client(cx).map_err(|_| Refused::Client)?.is_pending() {
                return Poll::Pending;
            }
            let Some(lease) = self.lease.as_mut() else {
                return Poll::Ready(Err(Refused::Backend(Loss::Closed)));
            };
            let mut stash = std::mem::take(&mut lease.backend.stash);
            if stash.len() * 2 > scratch.len() {
                // A long frame that has to be read whole: an error text of many pages.
                let at = stash.len();
                stash.resize(at + scratch.len(), 0);
                match lease.backend.stream.poll_read(cx, &mut stash[at..]) {
                    Poll::Ready(Ok(n)) if n > 0 => stash.truncate(at + n),
                    Poll::Ready(_) => return Poll::Ready(Err(Refused::Backend(Loss::Closed))),
                    Poll::Pending => {
                        stash.truncate(at);
                        lease.backend.stash = stash;
                        return Poll::Pending;
                    }
                }
                self.digest(cx, &stash, run)?;
                continue;
            }
            let held = stash.len();
            scratch[..held].copy_from_slice(&stash);
            match lease.backend.stream.poll_read(cx, &mut scratch[held..]) {
                Poll::Ready(Ok(n)) if n > 0 => {
                    self.worker.give_buffer(stash);
                    self.digest(cx, &scratch[..held + n], run)?;
                }
                Poll::Ready(_) => return Poll::Ready(Err(Refused::Backend(Loss::Closed))),
                Poll::Pending => {
                    lease.backend.stash = stash;
                    return Poll::Pending;
                }
            }
        }
    }

    /// Takes up bytes of the backend; what is left of them is kept for the next.
    fn digest(&mut self, cx: &mut Context<'_>, buf: &[u8], run: &mut Run) -> Result<(), Refused> {
        let (mut at, mut from) = (0, 0);
        loop {
            // Taken apart where it is: it is large, and there is one for each frame.
            let (pass, n) = match self.answer.step(&buf[at..]) {
                Ok(Step::Pass(n)) => (run.rerun.is_none(), n),
                Ok(Step::Skip(n)) => (false, n),
                Ok(Step::Event(event, n)) => {
                    if matches!(event, Event::Error { .. } | Event::Reused) {
                        // What came before it goes with it, or before what is said in its place.
                        self.to_client.extend_from_slice(&buf[from..at]);
                        from = at;
                    }
                    (self.on_event(event, run)?, n)
                }
                Ok(Step::More) => break,
                Err(error) => return Err(Loss::OutOfStep(error.to_string()).into()),
            };
            if pass {
                at += n;
            } else {
                self.to_client.extend_from_slice(&buf[from..at]);
                at += n;
                from = at;
            }
        }
        if at < buf.len()
            && let Some(lease) = self.lease.as_mut()
        {
            let mut stash = self.worker.buffer();
            stash.extend_from_slice(&buf[at..]);
            lease.backend.stash = stash;
        }
        self.pass(cx, &buf[from..at], run)
    }

    /// Gives the client the end of a chunk: held back, written straight from the buffer, or kept until it takes it.
    fn pass(&mut self, cx: &mut Context<'_>, chunk: &[u8], run: &mut Run) -> Result<(), Refused> {
        if run.hold {
            let limit = self.worker.shared.config.routing.answer_buffer;
            let held = self.to_client.len() - run.mark + chunk.len();
            if held <= limit && !self.answer.is_settled() {
                self.to_client.extend_from_slice(chunk);
                return Ok(());
            }
            run.hold = false;
        }
        run.passed |= !chunk.is_empty() || self.to_client.len() > run.mark;
        let mut done = 0;
        if self.to_client.is_empty() {
            while done < chunk.len() {
                match self.client.poll_write(cx, &chunk[done..]) {
                    Poll::Ready(Ok(n)) if n > 0 => done += n,
                    Poll::Ready(_) => return Err(Refused::Client),
                    Poll::Pending => break,
                }
            }
            self.client_unflushed = self.client.poll_flush(cx).is_pending();
            self.pools.tally.sent(done);
        }
        if done < chunk.len() {
            if self.to_client.capacity() == 0 {
                self.to_client = self.worker.buffer();
            }
            self.to_client.extend_from_slice(&chunk[done..]);
        }
        Ok(())
    }

    /// Takes what the client sends meanwhile: CopyData for the backend, else what it says ahead of its turn. True when there
    /// was some, false when nothing more is taken now, none when it is gone.
    fn poll_client_input(&mut self, cx: &mut Context<'_>, run: &mut Run) -> Poll<Option<bool>> {
        if run.copying != Copying::No {
            if self.backend_at < self.to_backend.len() {
                return Poll::Ready(Some(false));
            }
            if self.copy_from_inbox(run) {
                return Poll::Ready(Some(true));
            }
        } else if self.inbox.len() >= LOOK_AHEAD {
            return Poll::Ready(Some(false));
        }
        match self.poll_read_client(cx) {
            Poll::Ready(true) => Poll::Ready(Some(true)),
            Poll::Ready(false) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Passes on what a held backend says while the client is silent: notifications, notices, parameters.
    pub(super) fn poll_idle_backend(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        let mut run = Run::idle(self);
        let outcome = match self.loss_by_standing(&run) {
            Some(loss) => Poll::Ready(Err(Refused::Backend(loss))),
            None => self.poll_asynchronous(cx, &mut run),
        };
        match outcome {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
            Poll::Ready(Err(Refused::Client)) => Poll::Ready(Err(Ended::Client)),
            Poll::Ready(Err(Refused::Backend(loss))) => Poll::Ready(self.on_idle_loss(&loss)),
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_asynchronous(&mut self, cx: &mut Context<'_>, run: &mut Run) -> Poll<Result<(), Refused>> {
        let worker = Rc::clone(&self.worker);
        let mut scratch = worker.scratch.borrow_mut();
        let Some(lease) = self.lease.as_mut() else { return Poll::Pending };
        match lease.backend.stream.poll_read(cx, &mut scratch) {
            Poll::Ready(Ok(n)) if n > 0 => {
                let mut bytes = std::mem::take(&mut lease.backend.stash);
                bytes.extend_from_slice(&scratch[..n]);
                drop(scratch);
                Poll::Ready(self.digest(cx, &bytes, run))
            }
            Poll::Ready(_) => Poll::Ready(Err(Refused::Backend(Loss::Closed))),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// Which side can't go on.
enum Refused {
    Client,
    Backend(Loss),
}

impl From<Loss> for Refused {
    fn from(loss: Loss) -> Self {
        Self::Backend(loss)
    }
}
