//! A window of two tokens over a text: the current one and the next, each with the keyword that it is.

use super::keywords::Keyword;
use super::lexer::{Encoding, Kind, Lexer, Lexing, Token};

/// PostgreSQL cuts names at 63 bytes (`NAMEDATALEN` - 1).
const NAME_LIMIT: usize = 63;

#[derive(Debug, Clone)]
pub(super) struct Cursor<'a> {
    lexer: Lexer<'a>,
    /// The current token.
    pub(super) token: Token,
    /// The keyword that it is.
    pub(super) keyword: Option<Keyword>,
    /// The next token.
    pub(super) next: Token,
    /// The keyword that the next one is.
    pub(super) next_keyword: Option<Keyword>,
    /// Whether a token so far was none that PostgreSQL takes.
    pub(super) broken: bool,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a [u8], lexing: Lexing) -> Self {
        let nothing = Token { kind: Kind::End, start: 0, end: 0 };
        let lexer = Lexer::new(text, lexing);
        let mut cursor =
            Self { lexer, token: nothing, keyword: None, next: nothing, next_keyword: None, broken: false };
        cursor.advance();
        cursor.advance();
        cursor
    }

    #[inline]
    pub(super) fn advance(&mut self) {
        self.token = self.next;
        self.keyword = self.next_keyword;
        self.broken |= matches!(self.token.kind, Kind::Other | Kind::Unterminated);
        self.next = self.lexer.next_token();
        self.next_keyword =
            if self.next.kind == Kind::Word { Keyword::of(self.bytes(self.next)) } else { None };
    }

    pub(super) fn bytes(&self, token: Token) -> &'a [u8] {
        &self.lexer.text()[token.start..token.end]
    }

    /// The text from byte `start` to byte `end`.
    pub(super) fn between(&self, start: usize, end: usize) -> &'a [u8] {
        &self.lexer.text()[start..end]
    }

    /// Whether the statement ends here.
    pub(super) fn at_end(&self) -> bool {
        matches!(self.token.kind, Kind::Semicolon | Kind::End)
    }

    pub(super) fn is(&self, keyword: Keyword) -> bool {
        self.keyword == Some(keyword)
    }

    pub(super) fn next_is(&self, keyword: Keyword) -> bool {
        self.next_keyword == Some(keyword)
    }

    /// Passes the current token if it is this keyword.
    pub(super) fn take(&mut self, keyword: Keyword) -> bool {
        let found = self.is(keyword);
        if found {
            self.advance();
        }
        found
    }

    /// Whether a token is this operator.
    pub(super) fn is_operator(&self, token: Token, operator: &[u8]) -> bool {
        token.kind == Kind::Operator && self.bytes(token) == operator
    }

    /// Takes a name: a word or a quoted identifier, folded.
    pub(super) fn take_name(&mut self) -> Option<Box<[u8]>> {
        let name = self.name(self.token)?;
        self.advance();
        Some(name)
    }

    /// The name that a token is, folded and cut as PostgreSQL does.
    pub(super) fn name(&self, token: Token) -> Option<Box<[u8]>> {
        if !matches!(token.kind, Kind::Word | Kind::Quoted | Kind::UnicodeQuoted) {
            return None;
        }
        let mut name = Vec::new();
        self.fold(token, &mut name);
        Some(name.into())
    }

    /// Writes the name that a token is into `name`.
    pub(super) fn fold(&self, token: Token, name: &mut Vec<u8>) {
        fold(self.bytes(token), token.kind, self.lexer.lexing().encoding, name);
    }
}

/// Writes the name that a token's bytes are into `name`, folded and cut as PostgreSQL does. The escapes of `U&""` are left as
/// they stand.
pub(super) fn fold(bytes: &[u8], kind: Kind, encoding: Encoding, name: &mut Vec<u8>) {
    name.clear();
    match kind {
        Kind::Quoted | Kind::UnicodeQuoted => {
            let from = if kind == Kind::Quoted { 1 } else { 3 };
            let inner = bytes.get(from..bytes.len().saturating_sub(1)).unwrap_or_default();
            let mut quote = false;
            for &byte in inner {
                quote = byte == b'"' && !quote;
                if !quote {
                    name.push(byte);
                }
            }
        }
        _ => name.extend(bytes.iter().map(u8::to_ascii_lowercase)),
    }
    if name.len() > NAME_LIMIT {
        let mut end = NAME_LIMIT;
        while encoding == Encoding::AsciiSafe && end > 0 && name[end] & 0xc0 == 0x80 {
            end -= 1;
        }
        name.truncate(end);
    }
}
