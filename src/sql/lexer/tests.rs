//! Lexical forms, one by one.

use super::*;

fn tokens_of(text: &[u8], lexing: Lexing) -> Vec<(Kind, String)> {
    let mut lexer = Lexer::new(text, lexing);
    let mut tokens = Vec::new();
    loop {
        let token = lexer.next_token();
        if token.kind == Kind::End {
            return tokens;
        }
        tokens.push((token.kind, String::from_utf8_lossy(&text[token.start..token.end]).into_owned()));
    }
}

fn tokens(text: &str) -> Vec<(Kind, String)> {
    tokens_of(text.as_bytes(), Lexing::default())
}

fn texts(text: &str) -> Vec<String> {
    tokens(text).into_iter().map(|(_, text)| text).collect()
}

fn kinds(text: &str) -> Vec<Kind> {
    tokens(text).into_iter().map(|(kind, _)| kind).collect()
}

fn off() -> Lexing {
    Lexing { standard_conforming_strings: false, ..Lexing::default() }
}

#[test]
fn words_and_quoted_identifiers() {
    assert_eq!(texts("sélect a$1 _x t.b"), ["sélect", "a$1", "_x", "t", ".", "b"]);
    assert_eq!(
        tokens("\"a\"\"b\" U&\"d\\0061\" u & \"x\""),
        [
            (Kind::Quoted, "\"a\"\"b\"".into()),
            (Kind::UnicodeQuoted, "U&\"d\\0061\"".into()),
            (Kind::Word, "u".into()),
            (Kind::Operator, "&".into()),
            (Kind::Quoted, "\"x\"".into()),
        ]
    );
    assert_eq!(kinds("\"a"), [Kind::Unterminated]);
    assert_eq!(texts("a\"b\"c"), ["a", "\"b\"", "c"]);
}

#[test]
fn strings_of_every_kind() {
    use Kind::{BitString, DollarString, EscapeString, String, UnicodeString, Word};
    for (text, kind) in [
        ("''", String),
        ("'a''b'", String),
        ("'a\\'", String),
        ("E'a\\'b'", EscapeString),
        ("e'\\\\'", EscapeString),
        ("b'01'", BitString),
        ("X'1F'", BitString),
        ("U&'d\\'", UnicodeString),
        ("$$a'b$$", DollarString),
        ("$a$ $b$ $$ $a$", DollarString),
        ("$é$x$é$", DollarString),
        ("$a$$b$a$", DollarString),
    ] {
        assert_eq!(tokens(text), [(kind, text.to_owned())], "{text}");
    }
    assert_eq!(tokens("N'x'"), [(Word, "N".into()), (String, "'x'".into())]);
    assert_eq!(texts("b'0''x'"), ["b'0'", "'x'"]);
    for text in ["'a", "'a''", "E'a\\'", "$$a$", "$a$b$A$", "b'0", "U&'"] {
        assert_eq!(kinds(text), [Kind::Unterminated], "{text}");
    }
    assert_eq!(texts("a$$b$$"), ["a$$b$$"]);
    assert_eq!(texts("$a+"), ["$", "a", "+"]);
}

#[test]
fn without_standard_conforming_strings_a_backslash_escapes() {
    assert_eq!(tokens_of(b"'a\\'' , 'b'", off()).len(), 3);
    assert_eq!(tokens_of(b"N'a\\''", off()).len(), 2);
    assert_eq!(tokens_of(b"'a\\'", off()), [(Kind::Unterminated, "'a\\'".into())]);
    // but not in bit strings, quoted identifiers and dollar quotes
    assert_eq!(tokens_of(b"b'\\' \"\\\" $$\\$$", off()).len(), 3);
}

#[test]
fn strings_go_on_over_lines() {
    for text in ["'a'\n'b'", "'a' \t\r\n  'b'", "'a' -- c\n'b'", "'a'\n-- c\n -- d\n'b''c'", "E'a'\n'\\''"] {
        assert_eq!(texts(text), [text], "{text:?}");
    }
    for text in ["'a' 'b'", "'a'\n/* c */'b'", "'a' -- 'b'", "'a' \t'b'"] {
        assert!(texts(text).first().is_some_and(|first| first == "'a'"), "{text:?}");
    }
    assert_eq!(texts("'a' -- c"), ["'a'"]);
    assert_eq!(texts("$$a$$\n'b'"), ["$$a$$", "'b'"]);
}

#[test]
fn comments() {
    assert_eq!(texts("a--b\nc--"), ["a", "c"]);
    assert_eq!(texts("a--b\rc"), ["a", "c"]);
    assert_eq!(texts("a/*b/*c*/d*/e/**/f/***/g"), ["a", "e", "f", "g"]);
    assert_eq!(texts("/*--*/a/*'*/b/*$$*/"), ["a", "b"]);
    for text in ["/*", "/*/", "/*/*/", "/* /* */", "/*//**/"] {
        assert_eq!(kinds(text), [Kind::Unterminated], "{text}");
    }
    assert_eq!(texts("/*/**/*/a"), ["a"]);
}

#[test]
fn operators_end_where_postgresql_ends_them() {
    for (text, expected) in [
        ("a<->b", vec!["a", "<->", "b"]),
        ("a <->-1", vec!["a", "<->", "-", "1"]),
        ("1*-2", vec!["1", "*", "-", "2"]),
        ("a@-b", vec!["a", "@-", "b"]),
        ("a=-1", vec!["a", "=", "-", "1"]),
        ("a<=>b", vec!["a", "<=>", "b"]),
        ("a+--b\nc", vec!["a", "+", "c"]),
        ("a*/*b*/c", vec!["a", "*", "c"]),
        ("a<--b", vec!["a", "<"]),
        ("++", vec!["+", "+"]),
        ("+-+", vec!["+", "-", "+"]),
        ("a=>b", vec!["a", "=>", "b"]),
        ("a::b:=c", vec!["a", "::", "b", ":=", "c"]),
        ("?-|?", vec!["?-|?"]),
        ("a[1:2]", vec!["a", "[", "1", ":", "2", "]"]),
    ] {
        assert_eq!(texts(text), expected, "{text}");
    }
}

#[test]
fn numbers_and_parameters() {
    for text in ["1", "1.5", ".5", "1.", "1e10", "1.5e-3", "1E+2", "0x1F", "0b1", "0o7", "1_000", "0x_1"] {
        assert_eq!(tokens(text), [(Kind::Number, text.to_owned())], "{text}");
    }
    assert_eq!(texts("1..10"), ["1", "..", "10"]);
    assert_eq!(texts("1-2"), ["1", "-", "2"]);
    assert_eq!(texts("0xe-2"), ["0xe", "-", "2"]);
    assert_eq!(texts("1e-x"), ["1", "e", "-", "x"]);
    assert_eq!(texts("1into 0xinto 1_into $1into"), ["1", "into", "0", "xinto", "1", "_into", "$1", "into"]);
    assert_eq!(texts("1._5"), ["1.", "_5"]);
    assert_eq!(tokens("$12"), [(Kind::Param, "$12".into())]);
    assert_eq!(texts("$1,$2"), ["$1", ",", "$2"]);
    assert_eq!(texts("1$$a$$"), ["1", "$$a$$"]);
}

#[test]
fn encodings_whose_later_bytes_look_like_ascii() {
    let with = |encoding| Lexing { encoding, ..Lexing::default() };
    // 0x95 0x5C is one character in SJIS, Big5 and GBK: its second byte is no backslash
    for encoding in [Encoding::Sjis, Encoding::TwoBytes, Encoding::Gb18030] {
        assert_eq!(tokens_of(b"E'\x95\x5c' , 1", with(encoding)).len(), 3, "{encoding:?}");
        assert_eq!(tokens_of(b"a\x95\x5cb", with(encoding)).len(), 1, "{encoding:?}");
        // a character cut off at the end
        assert_eq!(tokens_of(b"a\x95", with(encoding)).len(), 1, "{encoding:?}");
        assert_eq!(tokens_of(b"'\x95", with(encoding)).len(), 1, "{encoding:?}");
    }
    // as plain bytes the backslash escapes the quote
    assert_eq!(tokens_of(b"E'\x95\x5c' , 1", Lexing::default()).len(), 1);
    assert_eq!(tokens_of(b"'\xb1' , 1", with(Encoding::Sjis)).len(), 3);
    assert_eq!(tokens_of(b"$\x95\x7c$ ' $\x95\x7c$ , 1", with(Encoding::Sjis)).len(), 3);
    assert_eq!(tokens_of(b"'\x81\x30\x81\x30' 1", with(Encoding::Gb18030)).len(), 2);
    assert_eq!(tokens_of(b"/* \x95* */ 1", with(Encoding::TwoBytes)).len(), 1);
    for (name, encoding) in [
        ("UTF8", Encoding::AsciiSafe),
        ("Shift_JIS_2004", Encoding::Sjis),
        ("sjis", Encoding::Sjis),
        ("BIG-5", Encoding::TwoBytes),
        ("GB18030", Encoding::Gb18030),
        ("JOHAB", Encoding::AsciiSafe),
        ("Windows949", Encoding::TwoBytes),
    ] {
        assert_eq!(Encoding::of(name), encoding, "{name}");
    }
}

#[test]
fn tokens_cover_the_text_in_order_for_any_bytes() {
    use proptest::prelude::*;
    let alphabet = prop::sample::select(b"'\"$\\/*-+<>=aeuxbnU&019._;()[] \n\r\x95\xff\x00,:".to_vec());
    let encodings = [Encoding::AsciiSafe, Encoding::Sjis, Encoding::TwoBytes, Encoding::Gb18030];
    proptest!(|(text in prop::collection::vec(alphabet, 0..60), on: bool, which in 0..4_usize)| {
        let lexing = Lexing { standard_conforming_strings: on, encoding: encodings[which] };
        let mut lexer = Lexer::new(&text, lexing);
        let mut at = 0;
        loop {
            let token = lexer.next_token();
            prop_assert!(at <= token.start && token.start <= token.end && token.end <= text.len());
            if token.kind == Kind::End {
                break;
            }
            prop_assert!(token.end > token.start);
            at = token.end;
        }
        prop_assert_eq!(lexer.next_token().kind, Kind::End);
    });
}
