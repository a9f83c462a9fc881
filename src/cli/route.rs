//! `route`: where SQL would run, and why: by its text alone and without a server, or with what a database says of its own functions.

mod database;

use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::Args;
use serde_json::json;

use super::print;
use crate::config::{Config, Reads};
use crate::sql::{Class, Functions, Hint, Lexing, Verdict, classify};

/// The longest query string, PostgreSQL's own limit on a message, and so the longest line too, in bytes.
const LONGEST: u64 = 1 << 30;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// One query string; without it, standard input is one
    sql: Option<String>,
    /// One JSON string a line in, one object a line out: sql, route (primary, replica or session), vector, reason
    #[arg(long)]
    json: bool,
    /// Take [routing] from this configuration instead of the defaults
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Ask this database what its own functions are: postgres://user@host:port/database
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// The password for --database; without it the URL's, or PGPASSWORD
    #[arg(long, value_name = "FILE", requires = "database")]
    password_file: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let router = Router::new(arguments)?;
    match (&arguments.sql, arguments.json) {
        (Some(sql), true) => print(router.route(sql).json(sql)),
        (Some(sql), false) => print(router.route(sql).text()),
        (None, true) => router.lines(&mut BufReader::new(io::stdin().lock())),
        (None, false) => {
            let mut sql = String::new();
            io::stdin().lock().take(LONGEST).read_to_string(&mut sql).context("standard input")?;
            print(router.route(&sql).text())
        }
    }
}

/// What decides, beside the text.
struct Router {
    functions: Functions,
    lexing: Lexing,
    reads: Reads,
}

/// What was decided for one query string.
struct Route {
    to: &'static str,
    class: &'static str,
    vector: bool,
    reason: Box<str>,
}

impl Router {
    fn new(arguments: &Arguments) -> anyhow::Result<Self> {
        let config = match &arguments.config {
            Some(path) => Config::load(path)?,
            None => Config::parse("", "proxy.toml".as_ref())?,
        };
        let routing = &config.routing;
        let functions = Functions::builtin().with_config(
            routing.read_only_functions.iter().map(String::as_str),
            routing.primary_functions.iter().map(String::as_str),
        );
        let functions = match &arguments.database {
            Some(url) => database::ask(url, arguments.password_file.as_deref(), &config, functions)?,
            None => functions,
        };
        Ok(Self { functions, lexing: Lexing::default(), reads: routing.reads })
    }

    fn route(&self, sql: &str) -> Route {
        let verdict = classify(sql.as_bytes(), &self.lexing, &self.functions);
        let vector = verdict.class == Class::VectorRead;
        let (to, reason) = self.target(&verdict);
        Route { to, class: verdict.class.as_str(), vector, reason: reason.into() }
    }

    /// Where a statement goes when no transaction is open and a replica is eligible.
    fn target<'v>(&self, verdict: &'v Verdict) -> (&'static str, &'v str) {
        let split = self.reads == Reads::Replicas || verdict.hint == Some(Hint::Replica);
        match verdict.class {
            Class::Write => ("primary", &verdict.reason),
            _ if verdict.hint == Some(Hint::Primary) => ("primary", "hint"),
            Class::Session => ("session", &verdict.reason),
            Class::Read | Class::VectorRead if split => ("replica", &verdict.reason),
            Class::Read | Class::VectorRead => ("primary", "routing.reads"),
        }
    }

    /// JSON strings, one a line, until the input ends.
    fn lines(&self, input: &mut impl BufRead) -> anyhow::Result<()> {
        let mut line = Vec::new();
        for number in 1_u64.. {
            line.clear();
            let length = Read::take(&mut *input, LONGEST).read_until(b'\n', &mut line)?;
            if length == 0 {
                break;
            }
            ensure!((length as u64) < LONGEST, "line {number} is too long");
            let sql: String =
                serde_json::from_slice(&line).with_context(|| format!("line {number} is no JSON string"))?;
            print(self.route(&sql).json(&sql))?;
        }
        Ok(())
    }
}

impl Route {
    fn json(&self, sql: &str) -> String {
        let Self { to, vector, reason, .. } = self;
        format!("{}\n", json!({ "sql": sql, "route": to, "vector": vector, "reason": reason }))
    }

    fn text(&self) -> String {
        format!("route   {}\nclass   {}\nreason  {}\n", self.to, self.class, self.reason)
    }
}
