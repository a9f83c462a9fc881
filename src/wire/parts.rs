//! The messages that are taken apart on the data path: errors, parameter status, Parse, Bind, Close, Describe.
//!
//! Each reader borrows from the frame's body and gives none when the bytes are not such a message.

use super::SqlState;
use super::tags::backend;

/// Splits a NUL-ended string off the front: the string without its NUL, and what follows.
pub fn cstr(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(0, body)?;
    Some((&body[..end], &body[end + 1..]))
}

/// The fields of an ErrorResponse or NoticeResponse.
#[derive(Debug, Clone, Copy)]
pub struct ErrorFields<'a> {
    body: &'a [u8],
}

impl<'a> ErrorFields<'a> {
    /// Over the body of an ErrorResponse or NoticeResponse.
    pub fn new(body: &'a [u8]) -> Self {
        Self { body }
    }

    /// All of it.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// The field of this code, as "Error and Notice Message Fields" lists them; none if it isn't there.
    pub fn field(&self, code: u8) -> Option<&'a [u8]> {
        let mut rest = self.body;
        while let Some((&found, tail)) = rest.split_first() {
            let (value, tail) = cstr(tail)?;
            if found == code {
                return Some(value);
            }
            rest = tail;
        }
        None
    }

    /// Field `C`.
    pub fn state(&self) -> SqlState {
        self.field(b'C').map_or(SqlState::INTERNAL_ERROR, SqlState::from_bytes)
    }

    /// Field `M`, with what is not UTF-8 replaced.
    pub fn message(&self) -> std::borrow::Cow<'a, str> {
        String::from_utf8_lossy(self.field(b'M').unwrap_or_default())
    }

    /// Whether the connection ends behind it: field `V` says FATAL or PANIC.
    pub fn is_fatal(&self) -> bool {
        matches!(self.field(b'V'), Some(b"FATAL" | b"PANIC"))
    }
}

/// Name and value of a ParameterStatus.
pub fn parameter_status(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let (name, rest) = cstr(body)?;
    let (value, _) = cstr(rest)?;
    Some((name, value))
}

/// A Parse: statement name, text, and the tail with the parameters' types as it is on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parse<'a> {
    /// The statement's name; empty for the unnamed one.
    pub name: &'a [u8],
    /// Its text.
    pub sql: &'a [u8],
    /// Count (two bytes) and type ids (four bytes each).
    pub types: &'a [u8],
}

impl<'a> Parse<'a> {
    /// Takes a Parse's body apart.
    pub fn read(body: &'a [u8]) -> Option<Self> {
        let (name, rest) = cstr(body)?;
        let (sql, types) = cstr(rest)?;
        let count = u16::from_be_bytes(*types.first_chunk::<2>()?);
        (types.len() == 2 + usize::from(count) * 4).then_some(Self { name, sql, types })
    }
}

/// A Bind: portal and statement names, and the tail that is passed on as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bind<'a> {
    /// The portal's name; empty for the unnamed one.
    pub portal: &'a [u8],
    /// The statement's name.
    pub statement: &'a [u8],
    /// Formats and values.
    pub tail: &'a [u8],
}

impl<'a> Bind<'a> {
    /// Takes a Bind's body apart.
    pub fn read(body: &'a [u8]) -> Option<Self> {
        let (portal, rest) = cstr(body)?;
        let (statement, tail) = cstr(rest)?;
        Some(Self { portal, statement, tail })
    }
}

impl Bind<'_> {
    /// How many parameters it gives, and the formats in which results are wanted: none, one for all, or one for each column.
    pub fn formats(&self) -> Option<(usize, Vec<i16>)> {
        let (_, rest) = numbers(self.tail)?;
        let (count, mut rest) = rest.split_first_chunk::<2>()?;
        let parameters = usize::from(u16::from_be_bytes(*count));
        for _ in 0..parameters {
            let (length, tail) = rest.split_first_chunk::<4>()?;
            let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
            rest = tail.split_at_checked(length)?.1;
        }
        let (formats, rest) = numbers(rest)?;
        rest.is_empty().then_some((parameters, formats))
    }
}

/// A count of two bytes and so many numbers of two bytes, and what follows.
fn numbers(body: &[u8]) -> Option<(Vec<i16>, &[u8])> {
    let (count, rest) = body.split_first_chunk::<2>()?;
    let (numbers, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*count)) * 2)?;
    let (numbers, _) = numbers.as_chunks::<2>();
    Some((numbers.iter().map(|number| i16::from_be_bytes(*number)).collect(), rest))
}

/// An Execute's portal, and how many rows it asks for; 0 for all.
pub fn execute(body: &[u8]) -> Option<(&[u8], u32)> {
    let (portal, rest) = cstr(body)?;
    let rows = <[u8; 4]>::try_from(rest).ok()?;
    Some((portal, u32::from_be_bytes(rows)))
}

/// What a Describe or a Close names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named<'a> {
    /// A prepared statement.
    Statement(&'a [u8]),
    /// A portal.
    Portal(&'a [u8]),
}

impl<'a> Named<'a> {
    /// Takes the body of a Describe or a Close apart.
    pub fn read(body: &'a [u8]) -> Option<Self> {
        let (kind, rest) = body.split_first()?;
        let (name, _) = cstr(rest)?;
        match kind {
            b'S' => Some(Self::Statement(name)),
            b'P' => Some(Self::Portal(name)),
            _ => None,
        }
    }
}

/// The values of a DataRow in text, none for NULL; gives up at the first that doesn't fit.
pub fn text_row(body: &[u8]) -> Option<Vec<Option<&[u8]>>> {
    let (count, mut rest) = body.split_first_chunk::<2>()?;
    let mut values = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, tail) = rest.split_first_chunk::<4>()?;
        match usize::try_from(i32::from_be_bytes(*length)) {
            Ok(length) => {
                let (value, tail) = tail.split_at_checked(length)?;
                values.push(Some(value));
                rest = tail;
            }
            Err(_) => {
                values.push(None);
                rest = tail;
            }
        }
    }
    Some(values)
}

/// Gives `take` what of a RowDescription makes its columns those of a prepared statement: their names, types and modifiers, but not the
/// table that they come from. None if it can't be read.
///
/// Source: PostgreSQL 18, `equalRowTypes()`, which says whether a cached plan's result has changed; collations are not on the wire.
pub fn row_types(body: &[u8], mut take: impl FnMut(&[u8])) -> Option<()> {
    let (count, mut rest) = body.split_first_chunk::<2>()?;
    for _ in 0..u16::from_be_bytes(*count) {
        let (name, tail) = cstr(rest)?;
        let (fixed, tail) = tail.split_first_chunk::<18>()?;
        take(name);
        // A name holds no NUL.
        take(b"\0");
        take(&fixed[6..16]);
        rest = tail;
    }
    rest.is_empty().then_some(())
}

/// Whether a server may send this at any time, not as an answer: notices, notifications, parameter status.
#[inline]
pub fn is_asynchronous(tag: u8) -> bool {
    matches!(tag, backend::NOTICE_RESPONSE | backend::NOTIFICATION_RESPONSE | backend::PARAMETER_STATUS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_told_apart_by_name_type_and_modifier_alone() {
        let column = |name: &str, table: u32, r#type: u32, modifier: u32| {
            let mut body = b"\0\x01".to_vec();
            body.extend_from_slice(name.as_bytes());
            body.push(0);
            body.extend_from_slice(&table.to_be_bytes());
            body.extend_from_slice(&[0, 1]);
            body.extend_from_slice(&r#type.to_be_bytes());
            body.extend_from_slice(&[0, 4]);
            body.extend_from_slice(&modifier.to_be_bytes());
            body.extend_from_slice(&[0, 0]);
            body
        };
        let read = |body: &[u8]| {
            let mut all = Vec::new();
            row_types(body, |part| all.extend_from_slice(part)).map(|()| all)
        };
        let one = read(&column("a", 1, 23, 0)).unwrap();
        assert_eq!(one, b"a\0\0\0\0\x17\0\x04\0\0\0\0");
        assert_eq!(read(&column("a", 2, 23, 0)).unwrap(), one);
        for other in [column("b", 1, 23, 0), column("a", 1, 25, 0), column("a", 1, 23, 7)] {
            assert_ne!(read(&other).unwrap(), one);
        }
        assert_eq!(read(b"\0\0").unwrap(), b"");
        let whole = column("a", 1, 23, 0);
        assert!((0..whole.len()).all(|len| read(&whole[..len]).is_none()));
        assert_eq!(read(&[&whole[..], b"\0"].concat()), None);
    }

    #[test]
    fn parse_checks_its_tail() {
        let good = b"s1\0SELECT $1\0\0\x01\0\0\0\x17";
        let parse = Parse::read(good).unwrap();
        assert_eq!((parse.name, parse.sql, parse.types.len()), (&b"s1"[..], &b"SELECT $1"[..], 6));
        assert_eq!(Parse::read(&good[..good.len() - 1]), None);
        assert_eq!(Parse::read(b"s1"), None);
    }

    #[test]
    fn a_bind_tells_its_formats() {
        let tail = |tail| Bind { portal: b"", statement: b"", tail }.formats();
        assert_eq!(tail(b"\0\0\0\0\0\0"), Some((0, vec![])));
        assert_eq!(tail(b"\0\x01\0\x01\0\x02\0\0\0\x01a\xff\xff\xff\xff\0\x01\0\x01"), Some((2, vec![1])));
        assert_eq!(tail(b"\0\0\0\x01\0\0\0\x09a\0\0"), None);
        assert_eq!(tail(b"\0\0\0\0\0\x02\0\x01"), None);
        assert_eq!(execute(b"p\0\0\0\0\x05"), Some((&b"p"[..], 5)));
        assert_eq!(execute(b"p\0\0\0\x05"), None);
    }

    #[test]
    fn error_fields_end_without_reading_past() {
        let fields = ErrorFields::new(b"SERROR\0C25006");
        assert_eq!(fields.field(b'C'), None);
        assert_eq!(fields.state(), SqlState::INTERNAL_ERROR);
    }

    #[test]
    fn rows_with_null() {
        assert_eq!(text_row(b"\0\x02\0\0\0\x01a\xff\xff\xff\xff"), Some(vec![Some(&b"a"[..]), None]));
        assert_eq!(text_row(b"\0\x01\0\0\0\x09a"), None);
    }
}
