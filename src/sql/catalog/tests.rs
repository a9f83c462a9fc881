//! What a catalog's answers make of statements.

use super::*;

fn rows(table: &[&[&str]]) -> Rows {
    table
        .iter()
        .map(|row| row.iter().map(|value| (*value != "-").then(|| (*value).to_owned())).collect())
        .collect()
}

/// A database with functions of every kind, and what is made of them.
fn database() -> Functions {
    let functions = rows(&[
        &["stable", "s", "SELECT count(*) FROM t"],
        &["volatile", "v", "-"],
        &["twice", "i", "SELECT 1"],
        &["twice", "v", "-"],
        &["Odd Case", "s", "SELECT 1"],
        &["odd case", "v", "-"],
        &["locks", "b", "SELECT pg_advisory_lock(1)"],
        &["wraps", "s", "BEGIN RETURN \"volatile\"(1); END"],
        &["wraps_twice", "i", "SELECT Wraps()"],
        &["looks", "s", "SELECT * FROM over_wraps"],
        &["talks", "s", "SELECT 'volatile(1)', a -- volatile(1)\n FROM volatiles"],
        &["watches", "s", "SELECT count(*) FROM pg_stat_activity"],
        &["lower", "s", "SELECT 'x'"],
        &["upper", "v", "-"],
    ]);
    let relations = rows(&[&["numbers", "S"], &["fast", "u"], &["audit", "f"]]);
    let definitions = rows(&[
        &["over_wraps", " SELECT wraps() AS wraps;", "v"],
        &["over_view", " SELECT * FROM over_wraps;", "v"],
        &["plain", " SELECT stable() AS n, lower(a) FROM t;", "v"],
        &["guarded", "SELECT (owner = volatile(1))", "p"],
        &["checked", "SELECT (volatile(VALUE) > 0)", "d"],
    ]);
    let operators = rows(&[&["%%", "volatile"], &["@@@", "stable"], &["~~>", "somebody's"]]);
    Functions::builtin().with_answers(&[functions, relations, definitions, operators]).unwrap()
}

#[test]
fn calls_are_what_the_catalog_says() {
    let functions = database();
    let label = |name: &str| format!("function {name} is VOLATILE in the catalog");
    let body = |name: &str| format!("function {name} calls in its body what belongs on the primary");
    for (sql, reason) in [
        ("select volatile(1)", label("volatile")),
        ("select public.\"volatile\"(1)", label("volatile")),
        ("select VOLATILE(1)", label("volatile")),
        ("select twice(1)", label("twice")),
        ("select \"odd case\"()", label("odd case")),
        ("select upper('x')", label("upper")),
        ("select locks()", body("locks")),
        ("select wraps()", body("wraps")),
        ("select s.wraps_twice()", body("wraps_twice")),
        ("select looks()", body("looks")),
        ("select watches()", body("watches")),
        ("select odd()", "function odd is not in the catalog".to_owned()),
        ("select nextval('numbers')", "nextval".to_owned()),
        ("select * from numbers", "numbers is a sequence".to_owned()),
        ("select * from s.\"fast\"", "fast is an unlogged table".to_owned()),
        ("select t.audit from t", "audit is a VOLATILE function of a row".to_owned()),
        ("select * from over_wraps", "over_wraps is a view over what belongs on the primary".to_owned()),
        ("table over_view", "over_view is a view over what belongs on the primary".to_owned()),
        ("select * from guarded", "guarded has a policy that calls what belongs on the primary".to_owned()),
        ("select 1::checked", "checked is a domain whose check calls what belongs on the primary".to_owned()),
        ("select a %% b from t", "operator %% is on a function for the primary".to_owned()),
        ("select a operator(s.~~>) b from t", "operator ~~> is on a function for the primary".to_owned()),
    ] {
        let verdict = classify(sql.as_bytes(), &Lexing::default(), &functions);
        assert_eq!((verdict.class, &*verdict.reason), (Class::Write, reason.as_str()), "{sql}");
    }
    for sql in [
        "select stable()",
        "select public.STABLE(2)",
        "select \"Odd Case\"()",
        "select talks()",
        "select lower('x')",
        "select * from plain",
        "select a @@@ b from t",
        "explain select a %% volatile(b) from t",
    ] {
        let verdict = classify(sql.as_bytes(), &Lexing::default(), &functions);
        assert_eq!(verdict.class, Class::Read, "{sql}: {}", verdict.reason);
    }
}

#[test]
fn the_configuration_is_above_the_catalog() {
    let functions = database().with_config(["volatile"], ["stable"]);
    let class = |sql: &str| classify(sql.as_bytes(), &Lexing::default(), &functions).class;
    assert_eq!(class("select volatile(1)"), Class::Read);
    assert_eq!(class("select stable()"), Class::Write);
}

#[test]
fn answers_of_another_shape_are_none() {
    let empty = || rows(&[]);
    assert!(Functions::builtin().with_answers(&[empty(), empty(), empty()]).is_none());
    assert!(Functions::builtin().with_answers(&[rows(&[&["f"]]), empty(), empty(), empty()]).is_none());
    assert!(Functions::builtin().with_answers(&[empty(), rows(&[&["-", "S"]]), empty(), empty()]).is_none());
    let none = Functions::builtin().with_answers(&[empty(), empty(), empty(), empty()]).unwrap();
    assert!(none.has_catalog() && !none.has_relations());
}

#[test]
fn a_scope_keeps_verdicts_apart() {
    let functions = database();
    assert_ne!(functions.fingerprint(), Functions::builtin().fingerprint());
    assert_eq!(functions.clone().in_scope(7).fingerprint(), 7);
    assert_ne!(functions.clone().in_scope(7).fingerprint(), functions.in_scope(8).fingerprint());
}
