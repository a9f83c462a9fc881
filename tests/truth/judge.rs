//! What the proxy says of query strings, for the truth run: JSON objects on standard input and output, one a line.
//!
//! `{"questions": true}` gives what a catalog is asked; `{"answers": [[[text]]]}` takes the rows of each (in hexadecimal, or null);
//! `{"sql": hex, "scs": bool, "encoding": name}` is judged twice, by text alone and with the catalog that was given last.

use std::io::{BufRead, Write, stdin, stdout};

use anyhow::{Context, Result};
use pg_ha_proxy::sql::{Class, Encoding, Functions, Lexing, Rows, classify, questions, shared_shape};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(untagged)]
enum Request {
    Questions {
        #[serde(rename = "questions")]
        _questions: bool,
    },
    Catalog {
        answers: Vec<Rows>,
    },
    Text {
        sql: String,
        scs: bool,
        encoding: String,
    },
}

fn main() -> Result<()> {
    let builtin = Functions::builtin();
    let mut known = builtin.clone();
    for line in stdin().lock().lines() {
        let answer = match serde_json::from_str(&line?).context("a request")? {
            Request::Questions { .. } => json!(questions()),
            Request::Catalog { answers } => {
                known = catalog(&builtin, &answers)?;
                json!({})
            }
            Request::Text { sql, scs, encoding } => {
                let lexing = Lexing { standard_conforming_strings: scs, encoding: Encoding::of(&encoding) };
                let sql = bytes(&sql)?;
                let (text, catalog) = (route(&sql, lexing, &builtin), route(&sql, lexing, &known));
                json!({ "text": text, "catalog": catalog })
            }
        };
        let mut out = stdout().lock();
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}

fn catalog(builtin: &Functions, answers: &[Rows]) -> Result<Functions> {
    // A name that is no UTF-8 is told from all others, which is all that counts here.
    let text = |hex: &String| Ok(String::from_utf8_lossy(&bytes(hex)?).into_owned());
    let row =
        |row: &Vec<Option<String>>| row.iter().map(|value| value.as_ref().map(text).transpose()).collect();
    let rows = |rows: &Rows| rows.iter().map(row).collect();
    let answers: Vec<Rows> = answers.iter().map(rows).collect::<Result<_>>()?;
    builtin.clone().with_answers(&answers).context("no answers of a catalog")
}

fn route(sql: &[u8], lexing: Lexing, functions: &Functions) -> Value {
    let verdict = classify(sql, &lexing, functions);
    if let Some(shape) = shared_shape(sql, &lexing, &verdict) {
        assert_eq!(classify(&shape, &lexing, functions), verdict, "another verdict on the shape of {sql:?}");
    }
    let route = match verdict.class {
        Class::Read | Class::VectorRead => "replica",
        Class::Session => "session",
        Class::Write => "primary",
    };
    json!({ "route": route, "reason": verdict.reason, "statements": verdict.statements })
}

fn bytes(hex: &str) -> Result<Vec<u8>> {
    (0..hex.len())
        .step_by(2)
        .map(|at| {
            u8::from_str_radix(hex.get(at..at + 2).context("odd hexadecimal")?, 16).context("hexadecimal")
        })
        .collect()
}
