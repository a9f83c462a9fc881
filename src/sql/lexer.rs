//! PostgreSQL's lexical rules (src/backend/parser/scan.l of PostgreSQL 18) over bytes: one pass, no allocation.
//!
//! Finds where tokens begin and end, not what their values are. It never fails: what PostgreSQL would refuse comes
//! out as [`Kind::Other`] or [`Kind::Unterminated`]. It knows no keyword.

use memchr::{memchr, memchr2};

/// How the client's bytes are to be read, which depends on the session's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lexing {
    /// The setting `standard_conforming_strings`: off makes a backslash an escape in plain strings.
    pub standard_conforming_strings: bool,
    /// The setting `client_encoding`.
    pub encoding: Encoding,
}

impl Default for Lexing {
    fn default() -> Self {
        Self { standard_conforming_strings: true, encoding: Encoding::AsciiSafe }
    }
}

/// A client encoding, as far as it matters where a character ends: in some, a later byte of a character may look
/// like ASCII (PostgreSQL's manual, "Character Set Support": the encodings that are for clients alone).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Every byte of a character beyond ASCII is beyond ASCII: UTF8, LATIN1, EUC_JP, WIN1252 and most others. JOHAB,
    /// too, as PostgreSQL checks it.
    AsciiSafe,
    /// SJIS and SHIFT_JIS_2004: 0xA1 to 0xDF stand alone.
    Sjis,
    /// BIG5, GBK and UHC: a byte beyond ASCII takes another with it.
    TwoBytes,
    /// GB18030: the second byte tells whether it is two or four.
    Gb18030,
}

impl Encoding {
    /// The encoding of a `client_encoding` value, in any of PostgreSQL's spellings (case, `-` and `_` don't count).
    pub fn of(name: &str) -> Self {
        let folded: String =
            name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
        match folded.as_str() {
            "sjis" | "shiftjis" | "mskanji" | "win932" | "windows932" | "shiftjis2004" => Self::Sjis,
            "big5" | "win950" | "windows950" | "gbk" | "win936" | "windows936" | "uhc" | "win949"
            | "windows949" => Self::TwoBytes,
            "gb18030" => Self::Gb18030,
            _ => Self::AsciiSafe,
        }
    }
}

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A keyword or an identifier without quotes.
    Word,
    /// A `"quoted identifier"`.
    Quoted,
    /// A `U&"quoted identifier"`.
    UnicodeQuoted,
    /// `'…'`, with its continuations over lines.
    String,
    /// `E'…'`.
    EscapeString,
    /// `U&'…'`.
    UnicodeString,
    /// `B'…'` or `X'…'`.
    BitString,
    /// `$$…$$` or `$tag$…$tag$`.
    DollarString,
    /// A number in any form, with what is stuck to it.
    Number,
    /// `$1`.
    Param,
    /// An operator of one or more characters, `=>` too.
    Operator,
    /// `,`
    Comma,
    /// `(`
    Open,
    /// `)`
    Close,
    /// `[` or `]`
    Bracket,
    /// `;`
    Semicolon,
    /// `:`, `:=` or `..`
    Punctuation,
    /// `.`
    Dot,
    /// `::`
    Cast,
    /// A byte that begins nothing.
    Other,
    /// A string, a quoted identifier or a comment that doesn't end.
    Unterminated,
    /// The end of the text.
    End,
}

/// A token: its kind and the bytes it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// What it is.
    pub kind: Kind,
    /// Its first byte.
    pub start: usize,
    /// The byte behind it.
    pub end: usize,
}

const SPACE: u8 = 1;
const LETTER: u8 = 2;
const DIGIT: u8 = 4;
const OPERATOR: u8 = 8;
const DOLLAR: u8 = 16;
const IDENTIFIER: u8 = LETTER | DIGIT | DOLLAR;

const CLASSES: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => SPACE,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80..=0xff => LETTER,
            b'0'..=b'9' => DIGIT,
            b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'+' | b'-' | b'*' | b'/'
            | b'%' | b'<' | b'>' | b'=' => OPERATOR,
            b'$' => DOLLAR,
            _ => 0,
        };
        byte += 1;
    }
    table
};

/// Cuts a text into tokens.
#[derive(Debug, Clone)]
pub struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    lexing: Lexing,
}

impl<'a> Lexer<'a> {
    /// A lexer at the start of `text`.
    pub fn new(text: &'a [u8], lexing: Lexing) -> Self {
        Self { text, at: 0, lexing }
    }

    /// The whole text.
    pub fn text(&self) -> &'a [u8] {
        self.text
    }

    /// The rules in use.
    pub fn lexing(&self) -> Lexing {
        self.lexing
    }

    /// The next token; [`Kind::End`] again and again at the end.
    pub fn next_token(&mut self) -> Token {
        if !self.skip_blank() {
            return Token { kind: Kind::Unterminated, start: self.at, end: self.finish() };
        }
        let start = self.at;
        let Some(&byte) = self.text.get(start) else {
            return Token { kind: Kind::End, start, end: start };
        };
        let class = CLASSES[usize::from(byte)];
        let kind = if class & LETTER != 0 {
            self.word(byte)
        } else if class & DIGIT != 0 {
            self.number()
        } else if class & OPERATOR != 0 {
            self.operator()
        } else {
            self.other(byte)
        };
        Token { kind, start, end: self.at }
    }

    fn byte(&self, at: usize) -> u8 {
        self.text.get(at).copied().unwrap_or(0)
    }

    fn class(&self, at: usize) -> u8 {
        self.text.get(at).map_or(0, |byte| CLASSES[usize::from(*byte)])
    }

    fn finish(&mut self) -> usize {
        self.at = self.text.len();
        self.at
    }

    /// Passes white space and comments. False if a comment doesn't end; then it stands at the comment.
    fn skip_blank(&mut self) -> bool {
        loop {
            while self.class(self.at) & SPACE != 0 {
                self.at += 1;
            }
            match (self.byte(self.at), self.byte(self.at + 1)) {
                (b'-', b'-') => self.at = self.line_end(self.at),
                (b'/', b'*') => match self.comment_end(self.at + 2) {
                    Some(end) => self.at = end,
                    None => return false,
                },
                _ => return true,
            }
        }
    }

    fn line_end(&self, from: usize) -> usize {
        self.walk(from, |rest| memchr2(b'\n', b'\r', rest), |byte| byte == b'\n' || byte == b'\r')
            .unwrap_or(self.text.len())
    }

    /// The byte behind a comment's end; comments nest.
    fn comment_end(&self, mut at: usize) -> Option<usize> {
        let mut depth = 1;
        loop {
            at = self.walk(at, |rest| memchr2(b'*', b'/', rest), |byte| byte == b'*' || byte == b'/')?;
            match (self.byte(at), self.byte(at + 1)) {
                (b'*', b'/') if depth == 1 => return Some(at + 2),
                (b'*', b'/') => (depth, at) = (depth - 1, at + 2),
                (b'/', b'*') => (depth, at) = (depth + 1, at + 2),
                _ => at += 1,
            }
        }
    }

    /// The next place from `from` on whose character is wanted: with `fast` where every byte can be looked at by
    /// itself, else character by character.
    #[inline]
    fn walk(
        &self,
        from: usize,
        fast: impl FnOnce(&[u8]) -> Option<usize>,
        wanted: impl Fn(u8) -> bool,
    ) -> Option<usize> {
        if self.lexing.encoding == Encoding::AsciiSafe {
            return fast(self.text.get(from..)?).map(|found| from + found);
        }
        let mut at = from;
        while let Some(&byte) = self.text.get(at) {
            if wanted(byte) {
                return Some(at);
            }
            at += self.width(at);
        }
        None
    }

    /// How many bytes the character at `at` has (PostgreSQL's `pg_encoding_mblen`); 1 where it doesn't matter.
    fn width(&self, at: usize) -> usize {
        let byte = self.byte(at);
        match self.lexing.encoding {
            _ if byte < 0x80 => 1,
            Encoding::AsciiSafe => 1,
            Encoding::Sjis if (0xa1..=0xdf).contains(&byte) => 1,
            Encoding::Gb18030 if self.byte(at + 1).is_ascii_digit() => 4,
            _ => 2,
        }
    }

    /// The end of a run of identifier characters that begins at `at`.
    #[inline]
    fn run_end(&self, mut at: usize, classes: u8) -> usize {
        if self.lexing.encoding == Encoding::AsciiSafe {
            while self.class(at) & classes != 0 {
                at += 1;
            }
            return at;
        }
        while self.class(at) & classes != 0 {
            at += self.width(at);
        }
        at.min(self.text.len())
    }

    fn word(&mut self, first: u8) -> Kind {
        let after = self.at + 1;
        match (first, self.byte(after)) {
            (b'e' | b'E', b'\'') => return self.string(after + 1, Kind::EscapeString),
            (b'b' | b'B' | b'x' | b'X', b'\'') => return self.string(after + 1, Kind::BitString),
            (b'u' | b'U', b'&') => match self.byte(after + 1) {
                b'\'' => return self.string(after + 2, Kind::UnicodeString),
                b'"' => return self.quoted(after + 2, Kind::UnicodeQuoted),
                _ => {}
            },
            // N'…' is the keyword NCHAR and a plain string
            (b'n' | b'N', b'\'') => {
                self.at = after;
                return Kind::Word;
            }
            _ => {}
        }
        self.at = self.run_end(self.at, IDENTIFIER);
        Kind::Word
    }

    /// Digits of any base with their underscores, a fraction and an exponent. A letter that is stuck to it is a token
    /// of its own, as it was before PostgreSQL 15; later ones refuse it.
    fn number(&mut self) -> Kind {
        let based = match (self.byte(self.at), self.byte(self.at + 1)) {
            (b'0', b'x' | b'X') => self.digits(self.at + 2, true, u8::is_ascii_hexdigit),
            (b'0', b'o' | b'O') => self.digits(self.at + 2, true, |byte| (b'0'..=b'7').contains(byte)),
            (b'0', b'b' | b'B') => self.digits(self.at + 2, true, |byte| matches!(byte, b'0' | b'1')),
            _ => self.at + 2,
        };
        if based > self.at + 2 {
            self.at = based;
            return Kind::Number;
        }
        self.at = self.digits(self.at, false, u8::is_ascii_digit);
        if self.byte(self.at) == b'.' && self.byte(self.at + 1) != b'.' {
            self.at = self.digits(self.at + 1, false, u8::is_ascii_digit);
        }
        if matches!(self.byte(self.at), b'e' | b'E') {
            let sign = usize::from(matches!(self.byte(self.at + 1), b'+' | b'-'));
            if self.class(self.at + 1 + sign) & DIGIT != 0 {
                self.at = self.digits(self.at + 1 + sign, false, u8::is_ascii_digit);
            }
        }
        Kind::Number
    }

    /// The end of a run of digits, each but the first (the first too, if `underscore`) behind an underscore or not.
    fn digits(&self, mut at: usize, mut underscore: bool, digit: impl Fn(&u8) -> bool) -> usize {
        loop {
            let skip = usize::from(underscore && self.byte(at) == b'_');
            if !self.text.get(at + skip).is_some_and(&digit) {
                return at;
            }
            at += skip + 1;
            underscore = true;
        }
    }

    /// Operator characters up to a comment; a `+` or `-` at the end belongs to it only beside `~!@#^&|?%` or a
    /// backquote (PostgreSQL's manual, "Operators" in "Lexical Structure").
    fn operator(&mut self) -> Kind {
        let start = self.at;
        let mut end = start + 1;
        while self.class(end) & OPERATOR != 0
            && !matches!((self.byte(end), self.byte(end + 1)), (b'-', b'-') | (b'/', b'*'))
        {
            end += 1;
        }
        let text = &self.text[start..end];
        let special =
            |byte: &u8| matches!(byte, b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'%');
        let length = match text {
            [inner @ .., b'+' | b'-'] if !inner.is_empty() && !inner.iter().any(special) => {
                text.iter().rposition(|byte| !matches!(byte, b'+' | b'-')).map_or(1, |last| last + 1)
            }
            _ => text.len(),
        };
        self.at = start + length;
        Kind::Operator
    }

    fn other(&mut self, byte: u8) -> Kind {
        let next = self.byte(self.at + 1);
        let (kind, length) = match (byte, next) {
            (b'\'', _) => return self.string(self.at + 1, Kind::String),
            (b'"', _) => return self.quoted(self.at + 1, Kind::Quoted),
            (b'$', _) => return self.dollar(),
            (b'.', b'0'..=b'9') => return self.number(),
            (b'.', b'.') | (b':', b'=') => (Kind::Punctuation, 2),
            (b':', b':') => (Kind::Cast, 2),
            (b':', _) => (Kind::Punctuation, 1),
            (b'.', _) => (Kind::Dot, 1),
            (b',', _) => (Kind::Comma, 1),
            (b'(', _) => (Kind::Open, 1),
            (b')', _) => (Kind::Close, 1),
            (b'[' | b']', _) => (Kind::Bracket, 1),
            (b';', _) => (Kind::Semicolon, 1),
            _ => (Kind::Other, 1),
        };
        self.at += length;
        kind
    }

    /// A string whose contents begin at `at`.
    fn string(&mut self, at: usize, kind: Kind) -> Kind {
        let escapes =
            kind == Kind::EscapeString || (kind == Kind::String && !self.lexing.standard_conforming_strings);
        match self.string_end(at, escapes, kind != Kind::BitString) {
            Some(end) => {
                self.at = end;
                kind
            }
            None => self.unterminated(),
        }
    }

    fn unterminated(&mut self) -> Kind {
        self.finish();
        Kind::Unterminated
    }

    fn string_end(&self, mut at: usize, escapes: bool, doubled: bool) -> Option<usize> {
        loop {
            at = if escapes {
                self.walk(at, |rest| memchr2(b'\'', b'\\', rest), |byte| byte == b'\'' || byte == b'\\')?
            } else {
                self.walk(at, |rest| memchr(b'\'', rest), |byte| byte == b'\'')?
            };
            if self.text[at] == b'\\' {
                at += 1 + self.width(at + 1);
            } else if doubled && self.byte(at + 1) == b'\'' {
                at += 2;
            } else {
                match self.continuation(at + 1) {
                    Some(next) => at = next,
                    None => return Some(at + 1),
                }
            }
        }
    }

    /// Where a string goes on that was closed just before `at`: behind a quote that follows over blanks and line
    /// comments with at least one line end.
    fn continuation(&self, mut at: usize) -> Option<usize> {
        let mut line_ended = false;
        loop {
            match self.byte(at) {
                b'\n' | b'\r' => {
                    line_ended = true;
                    at += 1;
                }
                b' ' | b'\t' | 0x0b | 0x0c => at += 1,
                b'-' if self.byte(at + 1) == b'-' => at = self.line_end(at),
                b'\'' if line_ended => return Some(at + 1),
                _ => return None,
            }
        }
    }

    /// A quoted identifier whose contents begin at `at`.
    fn quoted(&mut self, mut at: usize, kind: Kind) -> Kind {
        loop {
            match self.walk(at, |rest| memchr(b'"', rest), |byte| byte == b'"') {
                Some(quote) if self.byte(quote + 1) == b'"' => at = quote + 2,
                Some(quote) => {
                    self.at = quote + 1;
                    return kind;
                }
                None => return self.unterminated(),
            }
        }
    }

    /// `$1`, or a string in dollar quotes.
    fn dollar(&mut self) -> Kind {
        let start = self.at;
        if self.class(start + 1) & DIGIT != 0 {
            self.at = self.run_end(start + 1, DIGIT);
            return Kind::Param;
        }
        let tag_end = self.run_end(start + 1, LETTER | DIGIT);
        if self.byte(tag_end) != b'$' {
            self.at = start + 1;
            return Kind::Other;
        }
        let tag = &self.text[start..=tag_end];
        let mut at = tag_end + 1;
        while let Some(dollar) = self.walk(at, |rest| memchr(b'$', rest), |byte| byte == b'$') {
            if self.text[dollar..].starts_with(tag) {
                self.at = dollar + tag.len();
                return Kind::DollarString;
            }
            at = dollar + 1;
        }
        self.unterminated()
    }
}

#[cfg(test)]
mod tests;
