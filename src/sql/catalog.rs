//! What a database's own catalog says of the functions, relations and operators that its users have made: the questions to
//! put to it, and what the answers make of the table of functions.
//!
//! The questions are for a connection whose `search_path` is `pg_catalog` alone, set by its startup packet, so that nobody's
//! operator or function stands in for PostgreSQL's. Any role may ask them. PostgreSQL 14 or newer.

use std::sync::Arc;

use super::functions::{Functions, Own};
use super::functions_table::EXTENSIONS;
use super::lexer::{Kind, Lexer};
use super::{Class, Encoding, Lexing, classify, cursor, names};

/// Rows of text values, none for NULL.
pub type Rows = Vec<Vec<Option<String>>>;

/// Words in a function's body, in a string there too, that make it one for the primary.
const SUSPECT: &str = "advisory|dblink|nextval|setval|currval|lastval|set_config|setseed|pg_notify|pg_is_in_recovery\
|pg_backend_pid|lo_(open|creat|put|import|export|unlink)|export_snapshot|in_hot_standby|inet_server|crosstab|query_to_xml";

/// One row: whether the server is in recovery (`t` or `f`), and a text that is another one whenever an answer to [`questions`] may be.
pub fn revision() -> String {
    let of = |table: &str, condition: &str| {
        format!(
            "(SELECT count(*) || '.' || coalesce(sum(hashtext(oid || '.' || xmin)), 0) FROM {table} WHERE {condition})"
        )
    };
    let own = "oid >= 16384";
    let parts = [
        of("pg_proc", own),
        of("pg_class", &format!("{own} AND (relkind IN ('S', 'v') OR relpersistence = 'u')")),
        of("pg_rewrite", own),
        of("pg_operator", own),
        of("pg_cast", own),
        of("pg_policy", own),
        of("pg_constraint", &format!("{own} AND contypid <> 0")),
        of("pg_extension", own),
    ];
    format!("SELECT pg_is_in_recovery(), concat_ws(' ', {})", parts.join(", "))
}

/// The questions, in the order in which [`Functions::with_answers`] wants the answers.
pub fn questions() -> [String; 4] {
    [functions(), relations(), definitions(), operators()]
}

/// Name, label, and where the label is a promise that the body may break, the body. A label of `b` stands for a body that names
/// what must not run on a replica. An aggregate is what its functions are: it has no label of its own. Extensions that the
/// built-in table knows are left out.
fn functions() -> String {
    let known: Vec<String> = EXTENSIONS.split_whitespace().map(|name| format!("'{name}'")).collect();
    format!(
        "SELECT p.proname, \
         CASE WHEN p.provolatile = 'v' OR EXISTS (SELECT FROM pg_aggregate a JOIN pg_proc f \
              ON f.oid IN (a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggmtransfn, a.aggminvtransfn, a.aggmfinalfn) \
              WHERE a.aggfnoid = p.oid AND f.provolatile = 'v') THEN 'v' \
              WHEN coalesce(b.body, p.prosrc) ~* '{SUSPECT}' THEN 'b' ELSE p.provolatile END, \
         CASE WHEN p.provolatile <> 'v' THEN b.body END \
         FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang, \
         LATERAL (SELECT CASE WHEN l.lanname NOT IN ('c', 'internal') AND p.prokind <> 'a' \
                  THEN coalesce(pg_get_function_sqlbody(p.oid), p.prosrc) END AS body) b \
         WHERE p.oid >= 16384 AND NOT EXISTS (SELECT FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid \
              WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e' \
              AND e.extname IN ({}))",
        known.join(", ")
    )
}

/// Names that are read on the primary and why, as [`why`] knows it: sequences, whose positions a standby sees ahead of their use,
/// unlogged tables, which it can't read, functions that are written like a column, types with a VOLATILE cast.
fn relations() -> String {
    "SELECT DISTINCT relname, relkind::text FROM pg_class WHERE oid >= 16384 AND relkind = 'S' \
     UNION SELECT relname, 'u' FROM pg_class \
         WHERE oid >= 16384 AND relpersistence = 'u' AND relkind IN ('r', 'm', 'p') \
     UNION SELECT p.proname, 'f' FROM pg_proc p JOIN pg_type t ON t.oid = p.proargtypes[0] \
         WHERE p.oid >= 16384 AND p.pronargs = 1 AND p.provolatile = 'v' AND t.typtype = 'c' \
     UNION SELECT t.typname, 'c' FROM pg_cast c JOIN pg_type t ON t.oid = c.casttarget \
         JOIN pg_proc p ON p.oid = c.castfunc WHERE t.oid >= 16384 AND p.provolatile = 'v'"
        .to_owned()
}

/// Names, what reading them runs, and what they are, as [`why`] knows it: views, tables with row security, domains with a CHECK.
fn definitions() -> String {
    "SELECT relname, pg_get_viewdef(oid), 'v' FROM pg_class WHERE oid >= 16384 AND relkind = 'v' \
     UNION ALL SELECT c.relname, 'SELECT ' || pg_get_expr(p.polqual, p.polrelid), 'p' \
         FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid WHERE p.polqual IS NOT NULL \
     UNION ALL SELECT t.typname, 'SELECT ' || pg_get_expr(c.conbin, 0), 'd' \
         FROM pg_constraint c JOIN pg_type t ON t.oid = c.contypid WHERE t.oid >= 16384 AND c.conbin IS NOT NULL"
        .to_owned()
}

/// Operators and the name of the function that each is.
fn operators() -> String {
    "SELECT DISTINCT o.oprname, p.proname FROM pg_operator o JOIN pg_proc p ON p.oid = o.oprcode WHERE o.oid >= 16384"
        .to_owned()
}

/// Why a name is for the primary, for people.
fn why(letter: &str) -> &'static str {
    match letter {
        "S" => "is a sequence",
        "u" => "is an unlogged table",
        "f" => "is a VOLATILE function of a row",
        "c" => "is a type with a VOLATILE cast",
        "p" => "has a policy that calls what belongs on the primary",
        "d" => "is a domain whose check calls what belongs on the primary",
        _ => "is a view over what belongs on the primary",
    }
}

/// A definition: a name, a text that runs with it, and why the name then belongs on the primary.
struct Definition<'r> {
    name: &'r str,
    text: &'r str,
    why: &'static str,
}

impl Functions {
    /// With what a database's catalog answered to [`questions`]; none when those aren't its answers.
    #[must_use]
    pub fn with_answers(self, answers: &[Rows]) -> Option<Self> {
        let [functions, relations, definitions, operators] = answers else { return None };
        let mut labels = Vec::with_capacity(functions.len());
        let mut bodies = Vec::new();
        for row in functions {
            let [Some(name), Some(label), body] = row.as_slice() else { return None };
            labels.push((boxed(name), Own::of(label)));
            bodies.extend(body.as_deref().map(|text| Definition { name, text, why: "" }));
        }
        let mut names = Vec::with_capacity(relations.len());
        for row in relations {
            let [Some(name), Some(letter)] = row.as_slice() else { return None };
            names.push((boxed(name), why(letter)));
        }
        let mut texts = Vec::with_capacity(definitions.len());
        for row in definitions {
            let [Some(name), text, Some(letter)] = row.as_slice() else { return None };
            texts.extend(text.as_deref().map(|text| Definition { name, text, why: why(letter) }));
        }
        let mut found = self.with_own(labels).with_relations(names);
        // A view may be over a function that reads a view: round again until nothing more comes of it.
        while found.judge_bodies(&bodies) | found.judge_definitions(&texts) {}
        found.judge_operators(operators)?;
        Some(found.renew())
    }

    /// Functions whose body calls what belongs on the primary, whatever they are labelled; true if there was a new one.
    fn judge_bodies(&mut self, bodies: &[Definition<'_>]) -> bool {
        let read = |body: &&Definition<'_>| {
            self.catalog.as_ref().and_then(|all| all.get(body.name.as_bytes())) == Some(&Own::Reads)
        };
        let found: Vec<_> =
            bodies.iter().filter(read).filter(|body| self.names_primary(body.text.as_bytes())).collect();
        let Some(catalog) = self.catalog.as_mut().map(Arc::make_mut).filter(|_| !found.is_empty()) else {
            return false;
        };
        catalog.extend(found.iter().map(|body| (boxed(body.name), Own::CallsPrimary)));
        true
    }

    /// Relations whose definition calls what belongs on the primary; true if there was a new one.
    fn judge_definitions(&mut self, definitions: &[Definition<'_>]) -> bool {
        let primary = |definition: &&Definition<'_>| {
            self.primary_relation(definition.name.as_bytes()).is_none()
                && classify(definition.text.as_bytes(), &Lexing::default(), self).class == Class::Write
        };
        let found: Vec<_> = definitions.iter().filter(primary).collect();
        if found.is_empty() {
            return false;
        }
        let relations = Arc::make_mut(self.relations.get_or_insert_default());
        relations.extend(found.iter().map(|definition| (boxed(definition.name), definition.why)));
        true
    }

    fn judge_operators(&mut self, operators: &Rows) -> Option<()> {
        let mut names = super::functions::Names::default();
        for row in operators {
            let [Some(operator), Some(function)] = row.as_slice() else { return None };
            if self.call(function.as_bytes()).is_none_or(|call| !call.read) {
                names.insert(boxed(operator));
            }
        }
        self.operators = (!names.is_empty()).then(|| Arc::new(names));
        Some(())
    }

    /// Whether a text in whatever language calls by name, or reads, what is known to belong on the primary.
    fn names_primary(&self, text: &[u8]) -> bool {
        let mut lexer = Lexer::new(text, Lexing::default());
        let mut name = Vec::new();
        let mut token = lexer.next_token();
        while token.kind != Kind::End {
            let next = lexer.next_token();
            if matches!(token.kind, Kind::Word | Kind::Quoted) {
                cursor::fold(&text[token.start..token.end], token.kind, Encoding::AsciiSafe, &mut name);
                let primary = if next.kind == Kind::Open {
                    self.call(&name).is_some_and(|call| !call.read)
                } else {
                    names::primary_view(&name) || self.primary_relation(&name).is_some()
                };
                if primary {
                    return true;
                }
            }
            token = next;
        }
        false
    }
}

fn boxed(name: &str) -> Box<[u8]> {
    name.as_bytes().into()
}

#[cfg(test)]
mod tests;
