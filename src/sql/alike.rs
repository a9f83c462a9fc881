//! Whether a Parse of a text is worth keeping: whether another one, later, would come to the same.

use super::lexer::{Kind, Lexer, Lexing};

/// Strings that date and time types take as a moment near the one in which they are read (documentation, "Special Values").
const MOMENTS: [&[u8]; 4] = [b"now", b"today", b"tomorrow", b"yesterday"];

/// Whether the text is parsed alike at any time, by sessions with the same settings. PostgreSQL turns a string into a value of its type when
/// it parses it: one that may be a date or a time is read by the clock of that moment. Strings with a digit, an escape or a quote in them, and
/// with the name of a moment, are taken for such.
pub fn parses_alike(text: &[u8], lexing: &Lexing) -> bool {
    let mut lexer = Lexer::new(text, *lexing);
    loop {
        let token = lexer.next_token();
        match token.kind {
            Kind::End => return true,
            Kind::EscapeString | Kind::UnicodeString | Kind::DollarString => return false,
            Kind::String if may_be_a_moment(&text[token.start..token.end]) => return false,
            _ => {}
        }
    }
}

fn may_be_a_moment(string: &[u8]) -> bool {
    // Behind a quote inside it another piece may follow: 'no'\n'w'.
    let inside = string.get(1..string.len().saturating_sub(1)).unwrap_or_default();
    inside.iter().any(|byte| byte.is_ascii_digit() || matches!(byte, b'\\' | b'\''))
        || MOMENTS
            .iter()
            .any(|moment| string.windows(moment.len()).any(|part| part.eq_ignore_ascii_case(moment)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_that_a_clock_may_read_are_told_from_others() {
        let alike = |text: &str| parses_alike(text.as_bytes(), &Lexing::default());
        for text in [
            "SELECT $1, \"it's\" FROM t WHERE n = 22 -- it's",
            "SELECT coalesce(a, ''), to_char(b, 'YYYY-MM') FROM t WHERE c LIKE '%x_y%' AND d = 'active'",
            "SELECT 'infinity'::date",
        ] {
            assert!(alike(text), "{text}");
        }
        for text in [
            "SELECT 'now'::date",
            "SELECT 'ToDay'",
            "SELECT date ' tomorrow'",
            "SELECT 'yesterday allballs'::timestamp",
            "SELECT '12:00 Europe/Berlin'::timetz",
            "SELECT 'no'\n'w'::date",
            "SELECT E'\\156ow'::date",
            "SELECT U&'\\006eow'::date",
            "SELECT $$now$$::date",
            "SELECT /* it's */ 'now'::date",
            "SELECT \"it's\", 'now'::date",
        ] {
            assert!(!alike(text), "{text}");
        }
    }
}
