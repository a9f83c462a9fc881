//! A connection read message by message, for logins and the control path; the data path has its own reader.

use std::io;

use crate::net::Stream;
use crate::wire::frame::frame_len;
use crate::wire::{Frame, FrameError};

const READ_SIZE: usize = 8 * 1024;

/// A stream and what was read of it ahead.
#[derive(Debug)]
pub(super) struct Messages {
    pub(super) stream: Stream,
    buf: Vec<u8>,
    /// Bytes of `buf` that were handed out.
    done: usize,
}

impl Messages {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, buf: Vec::new(), done: 0 }
    }

    /// The next message, up to `limit` bytes long.
    ///
    /// # Errors
    /// Those of the stream; `UnexpectedEof` at its end, `InvalidData` for what is no message or a longer one.
    pub(super) async fn next(&mut self, limit: usize) -> io::Result<Frame<'_>> {
        self.buf.drain(..std::mem::take(&mut self.done));
        let len = loop {
            match frame_len(&self.buf, limit).map_err(invalid)? {
                Some(len) if len <= self.buf.len() => break len,
                _ => self.fill().await?,
            }
        };
        self.done = len;
        Ok(self.current())
    }

    /// The message that was handed out last.
    pub(super) fn current(&self) -> Frame<'_> {
        let bytes = &self.buf[..self.done];
        Frame { tag: bytes.first().copied().unwrap_or(0), bytes }
    }

    /// The stream, if nothing was read of it that is not yet handed out.
    pub(super) fn into_stream(self) -> Option<Stream> {
        (self.done == self.buf.len()).then_some(self.stream)
    }

    /// Whether all that was read was handed out.
    pub(super) fn is_drained(&self) -> bool {
        self.done == self.buf.len()
    }

    async fn fill(&mut self) -> io::Result<()> {
        let mut chunk = [0; READ_SIZE];
        match self.stream.read(&mut chunk).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                self.buf.extend_from_slice(&chunk[..n]);
                Ok(())
            }
        }
    }
}

fn invalid(error: FrameError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
