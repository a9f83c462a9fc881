//! A FATAL error that ends a connection before or at its login.

use super::SqlState;
use super::build::{self, Severity};

/// What a client is told before its connection is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// SQLSTATE.
    pub state: SqlState,
    /// Message, in PostgreSQL's words where it has some.
    pub message: String,
    /// Detail.
    pub detail: Option<&'static str>,
    /// Hint.
    pub hint: Option<&'static str>,
    form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// ErrorResponse.
    Fields,
    /// Protocol 2's error: a tag and one text.
    Text,
    /// Nothing is sent.
    Silent,
}

impl Refusal {
    /// A FATAL of this state and message.
    pub fn new(state: SqlState, message: impl Into<String>) -> Self {
        Self { state, message: message.into(), detail: None, hint: None, form: Form::Fields }
    }

    /// The connection is closed without a word.
    pub fn silent() -> Self {
        Self { form: Form::Silent, ..Self::new(SqlState::PROTOCOL_VIOLATION, "invalid startup packet") }
    }

    /// With a detail.
    #[must_use]
    pub fn with_detail(mut self, detail: &'static str) -> Self {
        self.detail = Some(detail);
        self
    }

    /// With a hint.
    #[must_use]
    pub fn with_hint(mut self, hint: &'static str) -> Self {
        self.hint = Some(hint);
        self
    }

    pub(super) fn for_protocol_2(mut self) -> Self {
        self.form = Form::Text;
        self
    }

    /// The bytes to send; empty when nothing is to be said. A message that echoes a client's text can hold no
    /// NUL, since that text came as a string.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self.form {
            Form::Fields => {
                build::error(&mut out, Severity::Fatal, self.state, &self.message, self.detail, self.hint);
            }
            Form::Text => out.extend_from_slice(format!("EFATAL:  {}\n\0", self.message).as_bytes()),
            Form::Silent => {}
        }
        out
    }
}
