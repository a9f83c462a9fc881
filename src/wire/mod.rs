//! PURE: bytes to protocol and back.
//!
//! On the data path only headers are read ([`frame`]); the few messages that the proxy itself builds stand in
//! [`build`], the few that it takes apart in [`parts`]. Startup and authentication messages come from `pgwire`'s
//! types. Nothing here knows a socket, a session or a server.
//!
//! Source: PostgreSQL 18 documentation, chapter "Frontend/Backend Protocol".

pub mod build;
pub mod frame;
pub mod login;
pub mod options;
pub mod parts;
mod refusal;
pub mod sqlstate;
pub mod startup;
pub mod tags;

pub use frame::{Frame, FrameError, Frames, HEADER_LEN};
pub use parts::ErrorFields;
pub use refusal::Refusal;
pub use sqlstate::SqlState;

/// The transaction status that ReadyForQuery carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TxStatus {
    /// `I`: not in a transaction block.
    #[default]
    Idle,
    /// `T`: in a transaction block.
    Open,
    /// `E`: in a failed transaction block; all is refused until it is ended.
    Failed,
}

impl TxStatus {
    /// The status for the byte in ReadyForQuery, none for a byte that the protocol doesn't know.
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b'I' => Some(Self::Idle),
            b'T' => Some(Self::Open),
            b'E' => Some(Self::Failed),
            _ => None,
        }
    }

    /// The byte that stands for it in ReadyForQuery.
    pub fn byte(self) -> u8 {
        match self {
            Self::Idle => b'I',
            Self::Open => b'T',
            Self::Failed => b'E',
        }
    }
}
