//! What the proxy says of query strings, for the truth run: JSON objects on standard input and output, one a line.
//!
//! `{"queries": true}` gives the catalog queries; `{"functions": [[name, letter]], "relations": [name], "views": [[name,
//! definition]]}` takes their rows (every name and text in hexadecimal); `{"sql": hex, "scs": bool, "encoding": name}`
//! is judged twice, by text alone and with the catalog that was given last.

use std::io::{BufRead, Write, stdin, stdout};

use anyhow::{Context, Result};
use pg_ha_proxy::sql::{Class, Encoding, Functions, Lexing, Volatility, classify};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(untagged)]
enum Request {
    Queries {
        #[serde(rename = "queries")]
        _queries: bool,
    },
    Catalog {
        functions: Vec<(String, String)>,
        relations: Vec<String>,
        views: Vec<(String, String)>,
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
            Request::Queries { .. } => json!({
                "functions": Functions::catalog_query(),
                "relations": Functions::relations_query(),
                "views": Functions::views_query(),
            }),
            Request::Catalog { functions, relations, views } => {
                known = catalog(&builtin, &functions, &relations, &views)?;
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

fn catalog(
    builtin: &Functions,
    functions: &[(String, String)],
    relations: &[String],
    views: &[(String, String)],
) -> Result<Functions> {
    let functions = functions
        .iter()
        .map(|(name, letter)| Ok((bytes(name)?.into(), Volatility::of(letter.chars().next().unwrap_or('v')))))
        .collect::<Result<Vec<_>>>()?;
    let relations =
        relations.iter().map(|name| Ok(bytes(name)?.into())).collect::<Result<Vec<Box<[u8]>>>>()?;
    let views = views
        .iter()
        .map(|(name, definition)| Ok((bytes(name)?.into(), bytes(definition)?.into())))
        .collect::<Result<Vec<_>>>()?;
    Ok(builtin.clone().with_catalog(functions).with_relations(relations).with_views(&views))
}

fn route(sql: &[u8], lexing: Lexing, functions: &Functions) -> Value {
    let verdict = classify(sql, &lexing, functions);
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
