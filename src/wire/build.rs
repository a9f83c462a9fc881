//! The messages that the proxy itself writes, each appended to a buffer.
//!
//! Source: PostgreSQL 18 documentation, "Message Formats". Text is taken as bytes: only the server knows the
//! client's encoding. A NUL inside a string would end it early, so callers pass none.

use super::tags::{backend, frontend};
use super::{SqlState, TxStatus};

/// How bad an error or notice is, as its `S` and `V` fields say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The statement failed, the session goes on.
    Error,
    /// The connection ends behind this message.
    Fatal,
    /// For the user's information.
    Notice,
    /// For the user's attention.
    Warning,
}

impl Severity {
    /// The word in the message.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
            Self::Notice => "NOTICE",
            Self::Warning => "WARNING",
        }
    }
}

/// Appends a frame of `tag` whose body `body` writes.
pub fn frame(out: &mut Vec<u8>, tag: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    let length = (out.len() - at) as u32;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

/// Appends `bytes` and the NUL that ends a string.
pub fn cstr(out: &mut Vec<u8>, bytes: &[u8]) {
    debug_assert!(!bytes.contains(&0));
    out.extend_from_slice(bytes);
    out.push(0);
}

/// ErrorResponse or NoticeResponse, by its severity.
pub fn error(
    out: &mut Vec<u8>,
    severity: Severity,
    state: SqlState,
    message: &str,
    detail: Option<&str>,
    hint: Option<&str>,
) {
    let tag = match severity {
        Severity::Error | Severity::Fatal => backend::ERROR_RESPONSE,
        Severity::Notice | Severity::Warning => backend::NOTICE_RESPONSE,
    };
    frame(out, tag, |out| {
        let mut field = |code: u8, text: &[u8]| {
            out.push(code);
            cstr(out, text);
        };
        field(b'S', severity.as_str().as_bytes());
        field(b'V', severity.as_str().as_bytes());
        field(b'C', &state.0);
        field(b'M', message.as_bytes());
        if let Some(detail) = detail {
            field(b'D', detail.as_bytes());
        }
        if let Some(hint) = hint {
            field(b'H', hint.as_bytes());
        }
        out.push(0);
    });
}

/// ReadyForQuery.
pub fn ready_for_query(out: &mut Vec<u8>, status: TxStatus) {
    frame(out, backend::READY_FOR_QUERY, |out| out.push(status.byte()));
}

/// CommandComplete with `tag`, such as `BEGIN`.
pub fn command_complete(out: &mut Vec<u8>, tag: &str) {
    frame(out, backend::COMMAND_COMPLETE, |out| cstr(out, tag.as_bytes()));
}

/// ParameterStatus.
pub fn parameter_status(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    frame(out, backend::PARAMETER_STATUS, |out| {
        cstr(out, name);
        cstr(out, value);
    });
}

/// BackendKeyData: process id, and a secret of 4 bytes (protocol 3.0) to 256 (3.2).
pub fn backend_key_data(out: &mut Vec<u8>, process_id: u32, secret: &[u8]) {
    frame(out, backend::BACKEND_KEY_DATA, |out| {
        out.extend_from_slice(&process_id.to_be_bytes());
        out.extend_from_slice(secret);
    });
}

/// A message of `tag` with nothing in it: ParseComplete, BindComplete, CloseComplete, NoData,
/// EmptyQueryResponse, CopyDone; of a client Sync, Flush, Terminate.
pub fn empty(out: &mut Vec<u8>, tag: u8) {
    frame(out, tag, |_| {});
}

/// ParameterDescription.
pub fn parameter_description(out: &mut Vec<u8>, types: &[u32]) {
    frame(out, backend::PARAMETER_DESCRIPTION, |out| {
        out.extend_from_slice(&(types.len() as u16).to_be_bytes());
        for oid in types {
            out.extend_from_slice(&oid.to_be_bytes());
        }
    });
}

/// A column of a RowDescription that belongs to no table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// Its name.
    pub name: &'a str,
    /// The type's number in `pg_type`.
    pub type_id: u32,
    /// Bytes of a value of the type, -1 where they differ.
    pub size: i16,
    /// How its values come: 0 is text, 1 binary.
    pub format: i16,
}

impl<'a> Field<'a> {
    /// A column of type `text`, in text.
    pub fn text(name: &'a str) -> Self {
        Self { name, type_id: 25, size: -1, format: 0 }
    }
}

/// RowDescription.
pub fn row_description<'a>(out: &mut Vec<u8>, fields: impl ExactSizeIterator<Item = Field<'a>>) {
    frame(out, backend::ROW_DESCRIPTION, |out| {
        out.extend_from_slice(&(fields.len() as u16).to_be_bytes());
        for field in fields {
            cstr(out, field.name.as_bytes());
            out.extend_from_slice(&0u32.to_be_bytes());
            out.extend_from_slice(&0u16.to_be_bytes());
            out.extend_from_slice(&field.type_id.to_be_bytes());
            out.extend_from_slice(&field.size.to_be_bytes());
            out.extend_from_slice(&(-1i32).to_be_bytes());
            out.extend_from_slice(&field.format.to_be_bytes());
        }
    });
}

/// RowDescription of text columns (type `text`, any length).
pub fn text_row_description(out: &mut Vec<u8>, columns: &[&str]) {
    row_description(out, columns.iter().map(|name| Field::text(name)));
}

/// DataRow of text values, none for NULL.
pub fn text_row(out: &mut Vec<u8>, values: &[Option<&str>]) {
    row(out, values.iter().map(|value| value.map(str::as_bytes)));
}

/// DataRow, none for NULL.
pub fn row<T: AsRef<[u8]>>(out: &mut Vec<u8>, values: impl ExactSizeIterator<Item = Option<T>>) {
    frame(out, backend::DATA_ROW, |out| {
        out.extend_from_slice(&(values.len() as u16).to_be_bytes());
        for value in values {
            match value {
                Some(value) => {
                    let value = value.as_ref();
                    out.extend_from_slice(&(value.len() as u32).to_be_bytes());
                    out.extend_from_slice(value);
                }
                None => out.extend_from_slice(&(-1i32).to_be_bytes()),
            }
        }
    });
}

/// A client's Query.
pub fn query(out: &mut Vec<u8>, sql: &[u8]) {
    frame(out, frontend::QUERY, |out| cstr(out, sql));
}

/// A client's Parse of `sql` under `name`; `types` is the tail of the message as it is on the wire: a count of
/// two bytes and four bytes for each parameter's type.
pub fn parse(out: &mut Vec<u8>, name: &[u8], sql: &[u8], types: &[u8]) {
    frame(out, frontend::PARSE, |out| {
        cstr(out, name);
        cstr(out, sql);
        out.extend_from_slice(types);
    });
}

/// A client's Close of a statement.
pub fn close_statement(out: &mut Vec<u8>, name: &[u8]) {
    frame(out, frontend::CLOSE, |out| {
        out.push(b'S');
        cstr(out, name);
    });
}

/// A client's Describe of a statement.
pub fn describe_statement(out: &mut Vec<u8>, name: &[u8]) {
    frame(out, frontend::DESCRIBE, |out| {
        out.push(b'S');
        cstr(out, name);
    });
}

/// The body of a FATAL as that of an ERROR: the session goes on.
pub fn as_error(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len());
    let mut rest = body;
    while let Some((&code, tail)) = rest.split_first() {
        let Some((value, tail)) = super::parts::cstr(tail) else { break };
        out.push(code);
        cstr(&mut out, if matches!(code, b'S' | b'V') { b"ERROR" } else { value });
        rest = tail;
    }
    out.push(0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{ErrorFields, Frames};

    #[test]
    fn an_error_reads_back() {
        let mut out = Vec::new();
        error(&mut out, Severity::Fatal, SqlState::INVALID_PASSWORD, "no", Some("why"), None);
        let frame = Frames::new(&out, 1000).next_frame().unwrap().unwrap();
        let fields = ErrorFields::new(frame.body());
        assert_eq!(fields.field(b'V'), Some(&b"FATAL"[..]));
        assert_eq!(fields.state(), SqlState::INVALID_PASSWORD);
        assert_eq!(fields.message(), "no");
        assert_eq!(fields.field(b'D'), Some(&b"why"[..]));
        assert_eq!(fields.field(b'H'), None);
    }

    #[test]
    fn ready_for_query_is_six_bytes() {
        let mut out = Vec::new();
        ready_for_query(&mut out, TxStatus::Open);
        assert_eq!(out, b"Z\0\0\0\x05T");
    }
}
