//! A statement's text without its values, so that what was learnt of one holds for all of its kind.

use std::hash::{BuildHasher, Hasher};

use foldhash::quality::FixedState;

use super::lexer::{Kind, Lexer, Lexing};

/// The normalised text: words in lower case, one space between tokens, no comments, and `?` for every literal and
/// parameter; a list of several is one `?`. At most `limit` bytes are kept.
pub fn normalize(text: &[u8], lexing: &Lexing, limit: usize) -> Box<[u8]> {
    let mut out = Vec::with_capacity(text.len().min(limit).min(1024));
    emit(text, *lexing, |part| {
        let room = limit.saturating_sub(out.len());
        out.extend_from_slice(&part[..part.len().min(room)]);
        out.len() < limit
    });
    out.into()
}

/// 128 bits that stand for the whole normalised text. Not proof against texts that are made to collide: use it where
/// a collision costs a detour, not an error.
pub fn fingerprint(text: &[u8], lexing: &Lexing) -> u128 {
    let mut low = FixedState::with_seed(0x6e6f_726d).build_hasher();
    let mut high = FixedState::with_seed(0x616c_697a).build_hasher();
    emit(text, *lexing, |part| {
        low.write(part);
        high.write(part);
        true
    });
    u128::from(high.finish()) << 64 | u128::from(low.finish())
}

/// Hands the normalised text out part by part until `take` has enough.
fn emit(text: &[u8], lexing: Lexing, mut take: impl FnMut(&[u8]) -> bool) {
    let mut lexer = Lexer::new(text, lexing);
    let (mut first, mut after_value, mut comma) = (true, false, false);
    loop {
        let token = lexer.next_token();
        let bytes = &text[token.start..token.end];
        let value = matches!(
            token.kind,
            Kind::String
                | Kind::EscapeString
                | Kind::UnicodeString
                | Kind::BitString
                | Kind::DollarString
                | Kind::Number
                | Kind::Param
        );
        if token.kind == Kind::Comma && after_value && !comma {
            comma = true;
            continue;
        }
        if value && comma {
            comma = false;
            continue;
        }
        if comma {
            comma = false;
            take(b" ,");
        }
        if token.kind == Kind::End || (!first && !take(b" ")) {
            return;
        }
        first = false;
        after_value = value;
        if value {
            take(b"?");
        } else if token.kind == Kind::Word {
            lower(bytes, &mut take);
        } else {
            take(bytes);
        }
    }
}

fn lower(word: &[u8], take: &mut impl FnMut(&[u8]) -> bool) {
    let mut buffer = [0; 64];
    for part in word.chunks(buffer.len()) {
        for (to, from) in buffer.iter_mut().zip(part) {
            *to = from.to_ascii_lowercase();
        }
        take(&buffer[..part.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(text: &str) -> String {
        String::from_utf8(normalize(text.as_bytes(), &Lexing::default(), 4096).to_vec()).unwrap()
    }

    #[test]
    fn values_blanks_and_comments_are_gone() {
        assert_eq!(
            normal("SELECT /* c */ a, \"B\"\n FROM T WHERE x=1 AND y = 'it''s' -- c"),
            "select a , \"B\" from t where x = ? and y = ?"
        );
        assert_eq!(normal("select f($1, 2, 'x'), E'\\'' , a"), "select f ( ? ) , ? , a");
        assert_eq!(normal("select 1,"), "select ? ,");
        assert_eq!(normal("in (1,2,3)"), normal("IN ( $1 )"));
    }

    #[test]
    fn fingerprints_follow_the_text() {
        let print = |text: &str| fingerprint(text.as_bytes(), &Lexing::default());
        assert_eq!(print("select 1"), print("SELECT   $$x$$"));
        assert_ne!(print("select 1"), print("select a"));
        assert_ne!(print("select 1"), print("select 1, a"));
    }

    #[test]
    fn the_limit_holds() {
        assert_eq!(normalize(b"select aaaa", &Lexing::default(), 8).len(), 8);
    }
}
