//! A text's shape: what is left of it when each number is `0` and each string is `''`. Texts of one shape have the same tokens but for
//! their values, so that a verdict that depends on no value holds for all of them.
//!
//! Only what is easy to be sure of has a shape, found in one pass over the bytes without the lexer: plain strings and numbers that
//! stand alone, no comments, no dollar sign, no backslash.

use super::lexer::{Encoding, Lexing};
use super::{Class, Effects, Verdict};

/// The longest shape, in bytes.
const LONGEST: usize = 4096;

/// Effects that a statement has whatever its values are.
const BY_WORDS: Effects = Effects(
    Effects::NEXTVAL.0
        | Effects::CURRVAL.0
        | Effects::UNKNOWN_CALL.0
        | Effects::ADVISORY_LOCK.0
        | Effects::ADVISORY_UNLOCK.0
        | Effects::BACKEND_STATE.0,
);

/// Writes the shape of `text` into `shape`; false if it has none, or no value that would be left out.
pub(super) fn shape(text: &[u8], lexing: Lexing, shape: &mut Vec<u8>) -> bool {
    shape_and_values(text, lexing, shape, |_, _| {})
}

/// The same, and tells where each value begins and ends.
pub(super) fn shape_and_values(
    text: &[u8],
    lexing: Lexing,
    shape: &mut Vec<u8>,
    mut on_value: impl FnMut(usize, usize),
) -> bool {
    shape.clear();
    if !lexing.standard_conforming_strings || lexing.encoding != Encoding::AsciiSafe {
        return false;
    }
    // What is copied is copied in runs, from one value to the next.
    let (mut at, mut from) = (0, 0);
    loop {
        let longest = text.len().min(from + LONGEST.saturating_sub(shape.len()));
        let Some(rest) = text.get(at..longest) else { return false };
        let Some(plain) = first_stop(rest) else { break };
        at += plain;
        let before = at.checked_sub(1).map_or(b' ', |before| text[before]);
        let (end, value): (_, &[u8]) = match KINDS[usize::from(text[at])] {
            // A part of a word.
            Kind::Digit if IS_WORD[usize::from(before)] => (word(text, at), b""),
            Kind::Digit => {
                let end = word(text, at);
                number(text, at, end).map_or((end, b"".as_slice()), |end| (end, b"0"))
            }
            // Not `E'`, `U&'` and their like.
            Kind::String if before != b'&' && is_plain(before) => match quoted(text, at) {
                Some(end) => (end, b"''"),
                None => return false,
            },
            Kind::Name => match quoted(text, at) {
                Some(end) => (end, b""),
                None => return false,
            },
            Kind::Dash if text.get(at + 1) != Some(&b'-') => (at + 1, b""),
            Kind::Slash if text.get(at + 1) != Some(&b'*') => (at + 1, b""),
            _ => return false,
        };
        if !value.is_empty() {
            on_value(at, end);
            shape.extend_from_slice(&text[from..at]);
            shape.extend_from_slice(value);
            from = end;
        }
        at = end;
    }
    let rest = &text[from..];
    if shape.len() + rest.len() > LONGEST {
        return false;
    }
    shape.extend_from_slice(rest);
    from > 0
}

/// The shape of a text, if it has one and the verdict on it holds for all of its kind.
pub fn shared_shape(text: &[u8], lexing: &Lexing, verdict: &Verdict) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    (shape(text, *lexing, &mut out) && is_shared(verdict)).then_some(out)
}

/// Whether the verdict holds for all texts of the shape: nothing of it is a value of the text's, or was decided by one.
pub(super) fn is_shared(verdict: &Verdict) -> bool {
    verdict.class != Class::Session
        && !verdict.by_value
        && verdict.statements == 1
        && verdict.effects.0 & !BY_WORDS.0 == 0
        && verdict.settings.is_empty()
        && verdict.channels.is_empty()
        && verdict.transaction.is_none()
        && verdict.copy.is_none()
        && verdict.show.is_none()
        && verdict.object.is_none()
        && verdict.explain_route.is_none()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Word,
    Digit,
    String,
    Name,
    Dash,
    Slash,
    Never,
}

const KINDS: [Kind; 256] = {
    let mut kinds = [Kind::Plain; 256];
    let mut byte = 0;
    while byte < 256 {
        kinds[byte] = match byte as u8 {
            b'0'..=b'9' => Kind::Digit,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80.. => Kind::Word,
            b'\'' => Kind::String,
            b'"' => Kind::Name,
            b'-' => Kind::Dash,
            b'/' => Kind::Slash,
            b'$' | b'\\' | 0 => Kind::Never,
            _ => Kind::Plain,
        };
        byte += 1;
    }
    kinds
};

/// The place of the first byte that isn't passed over. Mostly it is near; where it isn't, sixteen are looked at in one, by comparisons
/// that a compiler makes vectors of.
fn first_stop(text: &[u8]) -> Option<usize> {
    let is_stop = |byte: &u8| STOPS[usize::from(*byte)];
    let near = text.len().min(16);
    if let Some(at) = text[..near].iter().position(is_stop) {
        return Some(at);
    }
    let (chunks, _) = text[near..].as_chunks::<16>();
    let none = chunks.iter().take_while(|chunk| !chunk.iter().fold(false, |any, byte| any | stops(*byte)));
    let passed = near + none.count() * 16;
    Some(passed + text[passed..].iter().position(is_stop)?)
}

/// Whether the byte is neither plain nor a part of a word, unless it is a digit in one.
const fn stops(byte: u8) -> bool {
    let others = [b'\'', b'"', b'-', b'/', b'$', b'\\', 0];
    let (mut stops, mut at) = (byte.is_ascii_digit(), 0);
    while at < others.len() {
        stops |= byte == others[at];
        at += 1;
    }
    stops
}

const STOPS: [bool; 256] = {
    let (mut table, mut byte) = ([false; 256], 0);
    while byte < 256 {
        table[byte] = stops(byte as u8);
        byte += 1;
    }
    table
};

/// Whether neither a word nor a number can go on behind this byte.
fn is_plain(byte: u8) -> bool {
    !matches!(KINDS[usize::from(byte)], Kind::Word | Kind::Digit | Kind::Name | Kind::String | Kind::Never)
}

/// The end of the letters and digits from `at` on.
pub(super) fn word(text: &[u8], at: usize) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    at + rest.iter().position(|byte| !IS_WORD[usize::from(*byte)]).unwrap_or(rest.len())
}

const IS_WORD: [bool; 256] = {
    let (mut words, mut byte) = ([false; 256], 0);
    while byte < 256 {
        words[byte] = matches!(KINDS[byte], Kind::Word | Kind::Digit);
        byte += 1;
    }
    words
};

/// The end of the number that begins at `at` and whose first letters and digits end at `end`; none if it isn't one of digits and at
/// most one dot, or touches what a word, a number or a parameter could be part of.
pub(super) fn number(text: &[u8], at: usize, mut end: usize) -> Option<usize> {
    let digits = |part: &[u8]| part.iter().all(u8::is_ascii_digit);
    let before = at.checked_sub(1).map_or(b' ', |before| text[before]);
    if before == b'.' || !is_plain(before) || !digits(&text[at..end]) {
        return None;
    }
    if text.get(end) == Some(&b'.') {
        let fraction = word(text, end + 1);
        if fraction == end + 1 || !digits(&text[end + 1..fraction]) {
            return None;
        }
        end = fraction;
    }
    let behind = text.get(end).copied().unwrap_or(b' ');
    (behind != b'.' && is_plain(behind)).then_some(end)
}

/// The end of what is quoted from `at` on; a doubled quote goes on.
pub(super) fn quoted(text: &[u8], at: usize) -> Option<usize> {
    let quote = text[at];
    let mut from = at + 1;
    loop {
        let rest = text.get(from..)?;
        // A name is short: looking for its end costs less than calling for it.
        let near = rest[..rest.len().min(24)].iter().position(|byte| *byte == quote);
        let end = from + near.or_else(|| memchr::memchr(quote, rest))?;
        if text.get(end + 1) != Some(&quote) {
            return Some(end + 1);
        }
        from = end + 2;
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Functions, classify};
    use super::*;

    fn shape_of(text: &str) -> Option<String> {
        let mut out = Vec::new();
        shape(text.as_bytes(), Lexing::default(), &mut out)
            .then(|| String::from_utf8(out).expect("as the text"))
    }

    #[test]
    fn no_stop_is_passed_over() {
        for byte in 0..=u8::MAX {
            let passed = matches!(KINDS[usize::from(byte)], Kind::Plain | Kind::Word);
            for at in [0, 15, 16, 31, 40] {
                let mut text = [b'a'; 45];
                text[at] = byte;
                assert_eq!(first_stop(&text), (!passed).then_some(at), "{byte} at {at}");
            }
        }
    }

    #[test]
    fn values_are_left_out() {
        let same = [
            ("select a from t where id = 42", "select a from t where id = 0"),
            ("select 1.5, -2, (3), a[4:5]", "select 0, -0, (0), a[0:0]"),
            ("select 'it''s', 'x' || '5'", "select '', '' || ''"),
            ("select \"a5\" . \"b'5\" from t5 where x='é'", "select \"a5\" . \"b'5\" from t5 where x=''"),
            ("insert into t values (1,'a'),(2,'b')", "insert into t values (0,''),(0,'')"),
            ("select a/2-1 from t", "select a/0-0 from t"),
            (r"select '\', 1, '$x$'", "select '', 0, ''"),
        ];
        for (text, shape) in same {
            assert_eq!(shape_of(text).as_deref(), Some(shape), "{text}");
        }
    }

    #[test]
    fn what_is_not_plain_has_none() {
        for text in [
            "select 1 -- 2",
            "select 1 /* 2 */",
            "select $1, 2",
            "select $$5$$, 1",
            r"select \1",
            "select 'a",
            "select \"a",
            "select E'5'",
            "select U&'5'",
            "select b'5'",
            "select x\"5\"'6'",
            "select a",
            "select",
            "",
            "select 1\0",
        ] {
            assert_eq!(shape_of(text), None, "{text}");
        }
        for text in [
            "select 1e5",
            "select 0x1f",
            "select 1_000",
            "select a5",
            "select 5a",
            "select 1.2.3",
            "select .5",
            "select 5.",
            "select 1..2",
        ] {
            assert_eq!(shape_of(&format!("{text} , 7")), Some(format!("{text} , 0")), "{text}");
        }
        let off = Lexing { standard_conforming_strings: false, ..Lexing::default() };
        assert!(!shape(b"select 1", off, &mut Vec::new()));
        let sjis = Lexing { encoding: Encoding::Sjis, ..Lexing::default() };
        assert!(!shape(b"select 1", sjis, &mut Vec::new()));
        assert_eq!(shape_of(&format!("select {}, 1", "a,".repeat(LONGEST / 2))), None);
    }

    #[test]
    fn a_shape_is_judged_as_its_texts_are() {
        let functions = Functions::builtin();
        let classify = |text: &str| classify(text.as_bytes(), &Lexing::default(), &functions);
        let shared = [
            "select abalance from accounts where aid = 5",
            "select a <-> '[1,2]' from items order by 1 limit 5",
            "insert into t values (1, 'a') returning 2",
            "select f(1), nextval('s'), pg_advisory_lock(5)",
            "select 1 for update",
            "with a as (delete from t where n = 5 returning 6) select 7",
        ];
        for text in shared {
            let verdict = classify(text);
            assert!(is_shared(&verdict), "{text}: {verdict:?}");
            assert_eq!(classify(&shape_of(text).expect("a shape")), verdict, "{text}");
        }
        let by_value = [
            "1 select",
            "explain (analyze 0) select 1",
            "explain (analyze 1) select 1",
            "explain (analyze 'off') delete from t",
            "select current_setting('work_mem')",
            "select current_setting('port')",
            "select setting from pg_settings where name = 'port'",
            "update pg_settings set setting = '5' where name = 'x'",
            "set work_mem = 5",
            "select set_config('a', '5', false)",
            "begin; select 1",
            "select 1; select 2",
            "do 'begin end'",
            "execute x(5)",
            "fetch 5 from c",
            "copy (select 1) to stdout",
            "load 'x'",
            "listen a; select 5",
            "create table t as select 5",
            "create function f() returns int language sql as 'select 5'",
            "savepoint a5; select 5",
        ];
        for text in by_value {
            assert!(!is_shared(&classify(text)), "{text}");
        }
    }
}
