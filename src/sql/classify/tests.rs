//! What statements are.

use super::*;

fn verdict(text: &str) -> Verdict {
    classify(text.as_bytes(), &Lexing::default(), &Functions::builtin())
}

#[test]
fn smoke() {
    assert_eq!(verdict("select 1").class, Class::Read);
    assert_eq!(verdict("insert into t values (1)").class, Class::Write);
}
