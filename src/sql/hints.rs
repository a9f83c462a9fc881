//! A leading `/* pgha: primary */`, `/* pgha: replica, eventual */` and the like.

use super::{ConsistencyHint, Hint};

/// The hint in front of a text, if its first comment is one. Words that are unknown are passed over.
pub(super) fn leading(text: &[u8]) -> (Option<Hint>, Option<ConsistencyHint>) {
    let (mut hint, mut consistency) = (None, None);
    let Some(words) = comment(text) else { return (None, None) };
    for word in words.split(|byte| *byte == b',' || byte.is_ascii_whitespace()) {
        match word.to_ascii_lowercase().as_slice() {
            b"primary" => hint = Some(Hint::Primary),
            b"replica" => hint = Some(Hint::Replica),
            b"eventual" => consistency = Some(ConsistencyHint::Eventual),
            b"session" => consistency = Some(ConsistencyHint::Session),
            b"strong" => consistency = Some(ConsistencyHint::Strong),
            _ => {}
        }
    }
    (hint, consistency)
}

/// What stands between `pgha:` and the comment's end.
fn comment(text: &[u8]) -> Option<&[u8]> {
    let inner = text.trim_ascii_start().strip_prefix(b"/*")?.trim_ascii_start();
    let words = inner.strip_prefix(b"pgha:")?;
    let end = memchr::memmem::find(words, b"*/")?;
    Some(&words[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_stand_in_front_alone() {
        let primary = (Some(Hint::Primary), None);
        assert_eq!(leading(b"/* pgha: primary */ select 1"), primary);
        assert_eq!(leading(b"\n /*pgha:PRIMARY*/select 1"), primary);
        assert_eq!(
            leading(b"/* pgha: replica, eventual */ select 1"),
            (Some(Hint::Replica), Some(ConsistencyHint::Eventual))
        );
        assert_eq!(leading(b"/* pgha: strong */"), (None, Some(ConsistencyHint::Strong)));
        for text in [
            "select 1 /* pgha: primary */",
            "/* primary */ select 1",
            "-- pgha: primary\nselect 1",
            "/* pgha: primary",
        ] {
            assert_eq!(leading(text.as_bytes()), (None, None), "{text}");
        }
    }
}
