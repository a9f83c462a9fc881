//! What may be said in the console: text to [`Command`].
//!
//! Commands are single words with at most one argument, as PgBouncer's are. What drivers send by themselves (SET, BEGIN, `SELECT 1`
//! and their like) is understood too, so that it breaks no connection.

use super::tables::Table;
use super::{Problem, problem};

/// The name of the console's database.
pub const DATABASE: &str = "pgha";

/// One command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Nothing, or a comment.
    Empty,
    /// SHOW HELP.
    Help,
    /// SHOW of a table.
    Show(Table),
    /// SHOW of a setting that clients ask servers for: name and value.
    Setting(&'static str, &'static str),
    /// SELECT of one value that drivers ask for: column and value; `true` for a number.
    Select(&'static str, String, bool),
    /// PAUSE, of one database or all.
    Pause(Option<String>),
    /// RESUME, of one database or all.
    Resume(Option<String>),
    /// KILL, of one database or all.
    Kill(Option<String>),
    /// KILL_CLIENT, by the session's number.
    KillClient(u32),
    /// RELOAD.
    Reload,
    /// BEGIN.
    Begin,
    /// COMMIT.
    Commit,
    /// ROLLBACK.
    Rollback,
    /// Taken, and without effect; with its command tag.
    Ignored(&'static str),
}

/// What servers are asked for by SHOW, and what is answered.
const SETTINGS: &[(&str, &str)] = &[
    ("application_name", ""),
    ("client_encoding", "UTF8"),
    ("client_min_messages", "notice"),
    ("datestyle", "ISO, MDY"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    ("extra_float_digits", "1"),
    ("integer_datetimes", "on"),
    ("intervalstyle", "postgres"),
    ("is_superuser", "off"),
    ("max_identifier_length", "63"),
    ("search_path", ""),
    ("server_encoding", "UTF8"),
    ("server_version", super::SERVER_VERSION),
    ("server_version_num", super::SERVER_VERSION_NUM),
    ("standard_conforming_strings", "on"),
    ("statement_timeout", "0"),
    ("timezone", "UTC"),
    ("transaction_isolation", "read committed"),
    ("transaction_read_only", "off"),
];

/// Commands of PgBouncer's that the console doesn't have.
const OTHERS: &[&str] = &["suspend", "shutdown", "reconnect", "disable", "enable", "wait_close"];

/// Cuts a string at the semicolons that stand in no quotes and no comment. What is empty is left out.
pub fn split(text: &str) -> Vec<&str> {
    let bytes = text.as_bytes();
    let (mut parts, mut from, mut at) = (Vec::new(), 0, 0);
    while at < bytes.len() {
        match bytes[at] {
            b';' => {
                parts.push(&text[from..at]);
                at += 1;
                from = at;
            }
            _ => at += skip(&text[at..]),
        }
    }
    parts.push(&text[from..]);
    parts.retain(|part| words(part).is_ok_and(|words| !words.is_empty()) || words(part).is_err());
    parts
}

/// The length of what stands at the front: a quoted string, a comment, or one character.
fn skip(text: &str) -> usize {
    let end =
        |from: usize, close: &str| text[from..].find(close).map_or(text.len(), |at| from + at + close.len());
    match text.as_bytes() {
        [b'\'', ..] => end(1, "'"),
        [b'"', ..] => end(1, "\""),
        [b'-', b'-', ..] => end(2, "\n"),
        [b'/', b'*', ..] => end(2, "*/"),
        _ => text.chars().next().map_or(1, char::len_utf8),
    }
}

/// One word or sign of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Word {
    /// As it was written, in lower case; with the same as it stands.
    Plain(String, String),
    /// In double or single quotes, without them.
    Quoted(String),
    /// Anything else.
    Sign(char),
}

fn words(text: &str) -> Result<Vec<Word>, Problem> {
    let mut words = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let len = if first.is_whitespace() {
            first.len_utf8()
        } else if rest.starts_with("--") || rest.starts_with("/*") {
            skip(rest)
        } else if first == '"' || first == '\'' {
            let (word, len) =
                quoted(rest, first).ok_or_else(|| syntax("a quoted string has no end", text))?;
            words.push(Word::Quoted(word));
            len
        } else if first.is_alphanumeric() || first == '_' {
            let word = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | '$' | '.' | '-');
            let len = rest.find(|letter| !word(letter)).unwrap_or(rest.len());
            words.push(Word::Plain(rest[..len].to_lowercase(), rest[..len].to_owned()));
            len
        } else {
            words.push(Word::Sign(first));
            first.len_utf8()
        };
        rest = &rest[len..];
    }
    Ok(words)
}

/// A quoted word at the front, a doubled quote in it standing for one; with its length.
fn quoted(text: &str, quote: char) -> Option<(String, usize)> {
    let (mut word, mut letters) = (String::new(), text.char_indices().skip(1).peekable());
    while let Some((at, letter)) = letters.next() {
        if letter != quote {
            word.push(letter);
        } else if letters.peek().is_some_and(|(_, next)| *next == quote) {
            word.push(quote);
            letters.next();
        } else {
            return Some((word, at + 1));
        }
    }
    None
}

fn syntax(why: &str, text: &str) -> Problem {
    let shown: String = text.trim().chars().take(100).collect();
    problem(*b"42601", format!("{why}: {shown}")).with_hint("SHOW HELP tells what there is.")
}

impl Command {
    /// Understands one command.
    ///
    /// # Errors
    /// What the client is told.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let words = words(text)?;
        let invalid = || syntax("invalid command", text);
        let first = match words.first() {
            None => return Ok(Self::Empty),
            Some(Word::Plain(word, _)) => word.as_str(),
            Some(_) => return Err(invalid()),
        };
        let rest = &words[1..];
        Ok(match first {
            "show" => return Self::show(rest).ok_or_else(invalid),
            "select" => return Self::select(rest).ok_or_else(invalid),
            "pause" => Self::Pause(database(rest, "pause", invalid)?),
            "resume" => Self::Resume(database(rest, "resume", invalid)?),
            "kill" => Self::Kill(database(rest, "kill", invalid)?),
            "kill_client" => Self::KillClient(number(rest).ok_or_else(|| {
                problem(*b"22023", "KILL_CLIENT takes the number of a client, its ptr in SHOW CLIENTS")
            })?),
            "reload" if rest.is_empty() => Self::Reload,
            "begin" | "start" => Self::Begin,
            "commit" | "end" => Self::Commit,
            "rollback" | "abort" => Self::Rollback,
            "set" => Self::Ignored("SET"),
            "reset" => Self::Ignored("RESET"),
            "discard" => Self::Ignored("DISCARD ALL"),
            "deallocate" => Self::Ignored("DEALLOCATE"),
            "unlisten" => Self::Ignored("UNLISTEN"),
            "close" => Self::Ignored("CLOSE CURSOR"),
            other if OTHERS.contains(&other) => {
                let text = format!("{} is not supported by pg-ha-proxy", other.to_uppercase());
                return Err(problem(*b"0A000", text));
            }
            _ => return Err(invalid()),
        })
    }

    fn show(rest: &[Word]) -> Option<Self> {
        let name = match rest {
            [Word::Plain(name, _) | Word::Quoted(name)] => name.to_lowercase(),
            [Word::Plain(first, _), Word::Plain(second, _)] => match (&**first, &**second) {
                ("time", "zone") => "timezone".to_owned(),
                _ => return None,
            },
            [Word::Plain(first, _), Word::Plain(_, _), Word::Plain(_, _)] if first == "transaction" => {
                "transaction_isolation".to_owned()
            }
            _ => return None,
        };
        if name == "help" {
            return Some(Self::Help);
        }
        let setting = || {
            let known = SETTINGS.iter().find(|(known, _)| *known == name)?;
            Some(Self::Setting(known.0, known.1))
        };
        Table::named(&name).map(Self::Show).or_else(setting)
    }

    /// `SELECT 1`, and functions without arguments that drivers call to see who they talk to.
    fn select(rest: &[Word]) -> Option<Self> {
        if let [Word::Plain(number, _)] = rest
            && number.parse::<i32>().is_ok()
        {
            return Some(Self::Select("?column?", number.clone(), true));
        }
        let name = match rest {
            [Word::Plain(name, _)] => name,
            [Word::Plain(name, _), Word::Sign('('), Word::Sign(')')] => name,
            _ => return None,
        };
        let (column, value) = match name.strip_prefix("pg_catalog.").unwrap_or(name) {
            "version" => {
                ("version", format!("PostgreSQL {}, the console of pg-ha-proxy", super::SERVER_VERSION))
            }
            "current_database" | "current_catalog" => ("current_database", DATABASE.to_owned()),
            "current_schema" => ("current_schema", String::new()),
            "pg_advisory_unlock_all" => ("pg_advisory_unlock_all", String::new()),
            _ => return None,
        };
        Some(Self::Select(column, value, false))
    }
}

/// The database that a command is about; no words, none.
fn database(rest: &[Word], verb: &str, invalid: impl Fn() -> Problem) -> Result<Option<String>, Problem> {
    let name = match rest {
        [] => return Ok(None),
        [Word::Plain(_, name) | Word::Quoted(name)] => name,
        _ => return Err(invalid()),
    };
    if name == DATABASE {
        return Err(problem(*b"22023", format!("cannot {verb} admin db: {name}")));
    }
    Ok(Some(name.clone()))
}

fn number(rest: &[Word]) -> Option<u32> {
    match rest {
        [Word::Plain(number, _) | Word::Quoted(number)] => number.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(text: &str) -> Command {
        Command::parse(text).unwrap_or_else(|problem| panic!("{text}: {problem:?}"))
    }

    fn state(text: &str) -> String {
        String::from_utf8(Command::parse(text).unwrap_err().state.to_vec()).unwrap()
    }

    #[test]
    fn commands_are_understood_in_any_case() {
        assert_eq!(ok("SHOW POOLS"), Command::Show(Table::Pools));
        assert_eq!(ok(" show\n\tstats_totals "), Command::Show(Table::StatsTotals));
        assert_eq!(ok("SHOW HELP"), Command::Help);
        assert_eq!(ok("-- a comment\nReload"), Command::Reload);
        assert_eq!(ok("PAUSE"), Command::Pause(None));
        assert_eq!(ok("pause app"), Command::Pause(Some("app".into())));
        assert_eq!(ok("RESUME \"My \"\"db\""), Command::Resume(Some("My \"db".into())));
        assert_eq!(ok("KILL my-db"), Command::Kill(Some("my-db".into())));
        // A name keeps its case, quoted or not, as PgBouncer's do.
        assert_eq!(ok("kill App"), Command::Kill(Some("App".into())));
        assert_eq!(ok("KILL_CLIENT 17"), Command::KillClient(17));
        assert_eq!(ok("/* nothing */"), Command::Empty);
    }

    #[test]
    fn what_drivers_send_is_taken() {
        assert_eq!(ok("SET client_encoding TO 'UTF8'"), Command::Ignored("SET"));
        assert_eq!(ok("SET extra_float_digits = 3"), Command::Ignored("SET"));
        assert_eq!(ok("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"), Command::Ignored("SET"));
        assert_eq!(ok("show client_encoding"), Command::Setting("client_encoding", "UTF8"));
        assert_eq!(
            ok("SHOW TRANSACTION ISOLATION LEVEL"),
            Command::Setting("transaction_isolation", "read committed")
        );
        assert_eq!(ok("SELECT 1"), Command::Select("?column?", "1".into(), true));
        assert!(matches!(ok("select version()"), Command::Select("version", ..)));
        assert!(matches!(ok("SELECT pg_advisory_unlock_all()"), Command::Select(..)));
        assert_eq!(ok("BEGIN"), Command::Begin);
        assert_eq!(ok("BEGIN TRANSACTION READ ONLY"), Command::Begin);
        assert_eq!(ok("START TRANSACTION"), Command::Begin);
        assert_eq!(ok("COMMIT"), Command::Commit);
        assert_eq!(ok("rollback"), Command::Rollback);
        assert_eq!(ok("DISCARD ALL"), Command::Ignored("DISCARD ALL"));
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in [
            "SHOW",
            "SHOW NOTHING",
            "SHOW POOLS CLIENTS",
            "SELECT * FROM t",
            "INSERT INTO t VALUES (1)",
            "PAUSE a b",
            "PAUSE (",
            "RELOAD now",
            "'quoted'",
            "KILL \"no end",
            "=",
        ] {
            assert_eq!(state(text), "42601", "{text}");
        }
        assert_eq!(state("KILL_CLIENT"), "22023");
        assert_eq!(state("KILL_CLIENT 0x55d0"), "22023");
        assert_eq!(state("KILL_CLIENT -1"), "22023");
        assert_eq!(state("PAUSE pgha"), "22023");
        assert_eq!(state("SHUTDOWN"), "0A000");
    }

    #[test]
    fn a_string_is_cut_into_commands() {
        assert_eq!(split("SHOW POOLS;"), ["SHOW POOLS"]);
        assert_eq!(split(" ; -- nothing;\n ; "), [""; 0]);
        assert_eq!(split(""), [""; 0]);
        assert_eq!(split("PAUSE \"a;b\"; RESUME \"a;b\""), ["PAUSE \"a;b\"", " RESUME \"a;b\""]);
        assert_eq!(split("SET a = ';' /* ; */; SELECT 1").len(), 2);
        // What has no end is refused when it is understood, and not lost here.
        assert_eq!(split("KILL \"a; SELECT 1"), ["KILL \"a; SELECT 1"]);
    }

    #[test]
    fn any_text_is_read_to_its_end() {
        for text in
            ["é", "\"é", "SHOW é", "SHOW \u{0}", "''''", "--", "/*", "-", "$", "KILL 'ü;", "/**/;", "1.e-"]
        {
            for part in split(text) {
                let _read = Command::parse(part);
            }
        }
    }
}
