//! Cutting a byte stream into frames: a tag, a length, a body.
//!
//! A frame's length is checked before anything is reserved for it. The body is not looked at.

/// Bytes of a frame's header: one of tag, four of length.
pub const HEADER_LEN: usize = 5;

/// The longest message that PostgreSQL itself takes: 1 GiB less one byte (`PQ_LARGE_MESSAGE_LIMIT`), and the
/// tag.
pub const MAX_FRAME_LEN: usize = 0x3fff_ffff + 1;

/// Why bytes can't be frames. The connection that sent them is out of step for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length field is below 4, which it counts itself.
    #[error("invalid message length {0}")]
    TooShort(i32),
    /// The length is over the limit.
    #[error("message of {0} bytes is over the limit of {1}")]
    TooLong(usize, usize),
}

/// One whole frame inside a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The message's tag, one of [`crate::wire::tags`].
    pub tag: u8,
    /// Header and body.
    pub bytes: &'a [u8],
}

impl<'a> Frame<'a> {
    /// What stands behind the header.
    pub fn body(&self) -> &'a [u8] {
        &self.bytes[HEADER_LEN..]
    }
}

/// The whole length, header included, of the frame that begins `buf`; none while its header is not all there.
///
/// # Errors
/// [`FrameError`] when the length field can't be one, or is over `limit` bytes.
#[inline]
pub fn frame_len(buf: &[u8], limit: usize) -> Result<Option<usize>, FrameError> {
    let Some(&[_, a, b, c, d]) = buf.first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    let length = i32::from_be_bytes([a, b, c, d]);
    if length < 4 {
        return Err(FrameError::TooShort(length));
    }
    let whole = length as usize + 1;
    if whole > limit {
        return Err(FrameError::TooLong(whole, limit));
    }
    Ok(Some(whole))
}

/// The whole frames at the front of a buffer, one after the other.
#[derive(Debug, Clone)]
pub struct Frames<'a> {
    rest: &'a [u8],
    limit: usize,
}

impl<'a> Frames<'a> {
    /// Frames of `buf`, none longer than `limit` bytes.
    pub fn new(buf: &'a [u8], limit: usize) -> Self {
        Self { rest: buf, limit }
    }

    /// The bytes not yet cut: an incomplete frame, or nothing.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next whole frame; none when what is left is not one.
    ///
    /// # Errors
    /// [`FrameError`] as of [`frame_len`].
    #[inline]
    pub fn next_frame(&mut self) -> Result<Option<Frame<'a>>, FrameError> {
        match frame_len(self.rest, self.limit)? {
            Some(len) if len <= self.rest.len() => {
                let (bytes, rest) = self.rest.split_at(len);
                self.rest = rest;
                Ok(Some(Frame { tag: bytes[0], bytes }))
            }
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_whole_frames_and_leaves_the_rest() {
        let buf = b"S\0\0\0\x04Q\0\0\0\x06ab\0";
        let mut frames = Frames::new(&buf[..], 100);
        assert_eq!(frames.next_frame().unwrap().unwrap().tag, b'S');
        let query = frames.next_frame().unwrap().unwrap();
        assert_eq!((query.tag, query.body()), (b'Q', &b"ab"[..]));
        assert_eq!(frames.rest(), b"\0");
        assert_eq!(frames.next_frame().unwrap(), None);
    }

    #[test]
    fn refuses_lengths_before_the_body_is_there() {
        assert_eq!(frame_len(b"Q\0\0\0\x03", 100), Err(FrameError::TooShort(3)));
        assert_eq!(frame_len(b"Q\x80\0\0\0", 100), Err(FrameError::TooShort(i32::MIN)));
        assert_eq!(
            frame_len(b"Q\x7f\xff\xff\xff", MAX_FRAME_LEN),
            Err(FrameError::TooLong(0x8000_0000, MAX_FRAME_LEN))
        );
        assert_eq!(frame_len(b"Q\0\0\0", 100), Ok(None));
    }
}
