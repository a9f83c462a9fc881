//! Any bytes as a query string, under every way to lex them: tokens lie in order and cover all but blanks and comments,
//! nothing panics, and a write behind a text that is whole makes a write of it.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pg_ha_proxy::sql::lexer::{Kind, Lexer};
use pg_ha_proxy::sql::{
    Class, Encoding, Functions, Lexing, Volatility, classify, fingerprint, normalize, shared_shape,
};

static FUNCTIONS: LazyLock<Functions> = LazyLock::new(|| {
    let names = [("mine", Volatility::Stable), ("wild", Volatility::Volatile)];
    let rows = names.map(|(name, volatility)| (Box::from(name.as_bytes()), volatility));
    Functions::builtin().with_catalog(rows).with_relations([(Box::from(*b"seq"), "is a sequence")])
});

const ENCODINGS: [Encoding; 4] = [Encoding::AsciiSafe, Encoding::Sjis, Encoding::TwoBytes, Encoding::Gb18030];

fuzz_target!(|data: &[u8]| {
    let Some((&how, text)) = data.split_first() else { return };
    let lexing = Lexing {
        standard_conforming_strings: how & 1 == 0,
        encoding: ENCODINGS[usize::from(how >> 1) % ENCODINGS.len()],
    };
    let whole = tokens(text, lexing);
    let verdict = classify(text, &lexing, &FUNCTIONS);
    if let Some(shape) = shared_shape(text, &lexing, &verdict) {
        assert_eq!(classify(&shape, &lexing, &FUNCTIONS), verdict, "another verdict on its shape");
    }
    fingerprint(text, &lexing);
    assert!(normalize(text, &lexing, 64).len() <= 64);
    if !whole {
        assert_eq!(verdict.class, Class::Write, "broken text");
    }
    if !whole || !ends_whole(text, lexing) {
        return;
    }
    for write in ["insert into t values (1)", "select nextval('s')", "select a from t for update"] {
        let longer = [text, b"\n;", write.as_bytes()].concat();
        assert_eq!(classify(&longer, &lexing, &FUNCTIONS).class, Class::Write, "{write} behind it");
    }
});

/// Whether every token is whole.
fn tokens(text: &[u8], lexing: Lexing) -> bool {
    let mut lexer = Lexer::new(text, lexing);
    let (mut at, mut whole) = (0, true);
    loop {
        let token = lexer.next_token();
        assert!(at <= token.start && token.start <= token.end && token.end <= text.len());
        if token.kind == Kind::End {
            assert_eq!(token.start, text.len());
            assert_eq!(lexer.next_token(), token);
            return whole;
        }
        assert!(token.start < token.end, "an empty token would come for ever");
        // a backslash, a parenthesis and the like never stand between tokens, but in a comment
        let between = &text[at..token.start];
        assert!(
            between.contains(&b'-')
                || between.contains(&b'/')
                || between.iter().all(|byte| b" \t\n\r\x0b\x0c".contains(byte))
        );
        whole &= !matches!(token.kind, Kind::Unterminated | Kind::Other);
        at = token.end;
    }
}

/// Whether the last character can't be cut: what is put behind it would become a part of it.
fn ends_whole(text: &[u8], lexing: Lexing) -> bool {
    let last = &text[text.len().saturating_sub(4)..];
    lexing.encoding == Encoding::AsciiSafe || last.is_ascii()
}
