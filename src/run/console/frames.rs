//! A console client's connection: messages in, bytes out, and a wait for an answer in which a cancel, the client's end and the
//! proxy's own are heard.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::admin::console::{Problem, problem};
use crate::net::Stream;
use crate::session::Guest;
use crate::wire::build::{self, Severity};
use crate::wire::frame::frame_len;
use crate::wire::{HEADER_LEN, SqlState};

/// The longest message of a console's client, in bytes.
const MESSAGE: usize = 64 << 10;
/// Bytes that it may send ahead of the command under way.
const LOOK_AHEAD: usize = 2 * MESSAGE;
/// How long a client is given to take a last word.
const GOODBYE: Duration = Duration::from_secs(1);

/// Why a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The client said so, or is gone.
    Client,
    /// It was told by a FATAL, which is still to be sent.
    Told,
    /// An operator ended it, or the proxy stops.
    Killed,
}

/// The connection.
pub(super) struct Line {
    stream: Stream,
    pub(super) guest: Guest,
    inbox: Vec<u8>,
    /// What the client is to get.
    pub(super) out: Vec<u8>,
    sent: usize,
    gone: bool,
}

/// Work on the control runtime, given up when dropped.
pub(super) struct Work<T>(pub(super) JoinHandle<T>);

impl<T> Drop for Work<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Line {
    pub(super) fn new(stream: Stream, guest: Guest) -> Self {
        Self { stream, guest, inbox: Vec::new(), out: Vec::new(), sent: 0, gone: false }
    }

    /// The client's next message, once everything before it is sent: its tag and body.
    pub(super) async fn next_message(&mut self) -> Result<(u8, Vec<u8>), Ended> {
        loop {
            let len = match frame_len(&self.inbox, MESSAGE) {
                Ok(len) => len,
                Err(error) => {
                    self.fatal(SqlState::PROTOCOL_VIOLATION, &error.to_string());
                    return Err(Ended::Told);
                }
            };
            if let Some(len) = len.filter(|len| *len <= self.inbox.len()) {
                let message = (self.inbox[0], self.inbox[HEADER_LEN..len].to_vec());
                self.inbox.drain(..len);
                return Ok(message);
            }
            poll_fn(|cx| self.poll_idle(cx)).await?;
        }
    }

    /// Sends what there is and reads; ready when something came.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        self.guest.watch(cx);
        if self.guest.is_to_end() {
            return Poll::Ready(Err(Ended::Killed));
        }
        let _late = self.guest.take_cancel();
        if self.gone || self.poll_send(cx).map_err(|_gone| Ended::Client)?.is_pending() {
            return if self.gone { Poll::Ready(Err(Ended::Client)) } else { Poll::Pending };
        }
        self.poll_read(cx).map(|read| read.map_err(|_gone| Ended::Client))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), std::io::Error>> {
        while self.sent < self.out.len() {
            match self.stream.poll_write(cx, &self.out[self.sent..]) {
                Poll::Ready(Ok(n)) if n > 0 => self.sent += n,
                Poll::Ready(Ok(_)) => return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into())),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        // A table of thousands of rows is not kept.
        (self.out, self.sent) = (Vec::new(), 0);
        self.stream.poll_flush(cx)
    }

    /// Takes what the client sent; an error is its end.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), std::io::Error>> {
        let mut chunk = [0; 4096];
        match self.stream.poll_read(cx, &mut chunk) {
            Poll::Ready(Ok(0)) => {
                self.gone = true;
                Poll::Ready(Err(std::io::ErrorKind::UnexpectedEof.into()))
            }
            Poll::Ready(Ok(n)) => {
                self.inbox.extend_from_slice(&chunk[..n]);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => {
                self.gone = true;
                Poll::Ready(Err(error))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// Waits for an answer. A cancel gives the work up, and so does the end of the client or of the session.
    pub(super) async fn wait_for<T>(
        &mut self,
        work: Work<Result<T, Problem>>,
    ) -> Result<Result<T, Problem>, Ended> {
        let mut work = pin!(work);
        poll_fn(|cx| {
            // First of all: what is done is done.
            if let Poll::Ready(done) = Pin::new(&mut work.0).poll(cx) {
                let failed = || Err(problem(SqlState::INTERNAL_ERROR.0, "the command failed in the proxy"));
                return Poll::Ready(Ok(done.unwrap_or_else(|_panicked| failed())));
            }
            self.guest.watch(cx);
            if self.guest.is_to_end() {
                return Poll::Ready(Err(Ended::Killed));
            }
            if self.guest.take_cancel() {
                let message = "canceling statement due to user request";
                return Poll::Ready(Ok(Err(problem(SqlState::QUERY_CANCELED.0, message))));
            }
            while self.inbox.len() < LOOK_AHEAD {
                match self.poll_read(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_gone)) => return Poll::Ready(Err(Ended::Client)),
                    Poll::Pending => break,
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Appends a FATAL.
    pub(super) fn fatal(&mut self, state: SqlState, message: &str) {
        build::error(&mut self.out, Severity::Fatal, state, message, None, None);
    }

    /// Says goodbye.
    pub(super) async fn close(mut self, ended: Ended) {
        if ended == Ended::Killed {
            self.fatal(SqlState::ADMIN_SHUTDOWN, "terminating connection due to administrator command");
        }
        if ended != Ended::Client {
            let sent = poll_fn(|cx| self.poll_send(cx));
            let _unread = tokio::time::timeout(GOODBYE, sent).await;
        }
        self.stream.shutdown().await;
    }
}
