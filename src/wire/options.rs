//! The `options` of a startup packet: a server's command line, of which clients may use a part.
//!
//! Source: PostgreSQL 18 documentation, "postgres" and "Connection Parameters"; `pg_split_opts`,
//! `process_postgres_switches`. Whether a setting exists and may be set is for the server to say.

use super::{Refusal, SqlState};

/// Settings, in the order in which they were given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Name and value of each.
    pub settings: Vec<(String, String)>,
}

/// What a switch stands for.
enum Switch {
    /// A setting of this name, its value is the argument.
    Setting(&'static str),
    /// A setting of this name and value, no argument.
    Flag(&'static str, &'static str),
    /// `-c name=value` and `--name=value`.
    Any,
    /// `-f`: a kind of plan to do without.
    Without,
    /// `-t`: statistics of one part.
    Statistics,
    /// Accepted and without effect.
    Ignored,
}

/// Reads them.
///
/// # Errors
/// What PostgreSQL refuses, in its words.
pub fn read(options: &str) -> Result<Options, Refusal> {
    let mut read = Options::default();
    let mut words = split(options).into_iter();
    while let Some(word) = words.next() {
        let invalid = || invalid(&word);
        let mut letters = word.strip_prefix('-').filter(|rest| !rest.is_empty()).ok_or_else(invalid)?;
        while let Some(letter) = letters.chars().next() {
            letters = &letters[letter.len_utf8()..];
            let switch = switch(letter).ok_or_else(invalid)?;
            if let Switch::Flag(name, value) = switch {
                read.settings.push((name.to_owned(), value.to_owned()));
                continue;
            }
            if matches!(switch, Switch::Ignored) {
                continue;
            }
            let argument = match letters {
                "" => words.next().ok_or_else(invalid)?,
                attached => attached.to_owned(),
            };
            read.settings
                .push(setting(&switch, letter, &argument).map_err(|other| other.unwrap_or_else(invalid))?);
            break;
        }
    }
    Ok(read)
}

/// A boolean as PostgreSQL reads one; none if it isn't.
pub(super) fn boolean(value: &str) -> Option<bool> {
    let value = value.to_ascii_lowercase();
    let begins = |word: &str, least: usize| value.len() >= least && word.starts_with(value.as_str());
    if begins("true", 1) || begins("yes", 1) || value == "on" || value == "1" {
        return Some(true);
    }
    (begins("false", 1) || begins("no", 1) || begins("off", 2) || value == "0").then_some(false)
}

/// Words between white space; a backslash takes the next character as it is.
fn split(options: &str) -> Vec<String> {
    let (mut words, mut word) = (Vec::new(), None::<String>);
    let mut chars = options.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => word.get_or_insert_default().extend(chars.next()),
            c if c.is_ascii_whitespace() || c == '\x0b' => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

fn switch(letter: char) -> Option<Switch> {
    Some(match letter {
        'c' | '-' => Switch::Any,
        'B' => Switch::Setting("shared_buffers"),
        'd' => Switch::Setting("log_min_messages"),
        'h' => Switch::Setting("listen_addresses"),
        'k' => Switch::Setting("unix_socket_directories"),
        'N' => Switch::Setting("max_connections"),
        'p' => Switch::Setting("port"),
        'S' => Switch::Setting("work_mem"),
        'W' => Switch::Setting("post_auth_delay"),
        'e' => Switch::Flag("datestyle", "euro"),
        'F' => Switch::Flag("fsync", "false"),
        'i' => Switch::Flag("listen_addresses", "*"),
        'l' => Switch::Flag("ssl", "true"),
        'O' => Switch::Flag("allow_system_table_mods", "true"),
        'P' => Switch::Flag("ignore_system_indexes", "true"),
        's' => Switch::Flag("log_statement_stats", "true"),
        'f' => Switch::Without,
        't' => Switch::Statistics,
        'E' | 'j' => Switch::Ignored,
        _ => return None,
    })
}

/// The setting that a switch with its argument means; the refusal is none where it is the ordinary one.
fn setting(switch: &Switch, letter: char, argument: &str) -> Result<(String, String), Option<Refusal>> {
    let pair = |name: &str, value: &str| Ok((name.to_owned(), value.to_owned()));
    match switch {
        Switch::Setting(name) => pair(name, argument),
        Switch::Any => match argument.split_once('=') {
            Some((name, value)) => pair(&name.replace('-', "_"), value),
            None => Err(Some(needs_value(letter, argument))),
        },
        Switch::Without => plan(argument).map_or(Err(None), |name| pair(name, "false")),
        Switch::Statistics => statistics(argument).map_or(Err(None), |name| pair(name, "true")),
        Switch::Flag(..) | Switch::Ignored => Err(None),
    }
}

fn plan(kind: &str) -> Option<&'static str> {
    Some(match kind.chars().next()? {
        's' => "enable_seqscan",
        'i' => "enable_indexscan",
        'o' => "enable_indexonlyscan",
        'b' => "enable_bitmapscan",
        't' => "enable_tidscan",
        'n' => "enable_nestloop",
        'm' => "enable_mergejoin",
        'h' => "enable_hashjoin",
        _ => return None,
    })
}

fn statistics(part: &str) -> Option<&'static str> {
    Some(match part {
        part if part.starts_with("pa") => "log_parser_stats",
        part if part.starts_with("pl") => "log_planner_stats",
        part if part.starts_with('e') => "log_executor_stats",
        _ => return None,
    })
}

fn needs_value(letter: char, argument: &str) -> Refusal {
    let dashes = if letter == '-' { "--" } else { "-c " };
    Refusal::new(SqlState::SYNTAX_ERROR, format!("{dashes}{argument} requires a value"))
}

fn invalid(word: &str) -> Refusal {
    Refusal::new(SqlState::SYNTAX_ERROR, format!("invalid command-line argument for server process: {word}"))
        .with_hint("Try \"postgres --help\" for more information.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(options: &str) -> Vec<(String, String)> {
        read(options).unwrap().settings
    }

    #[test]
    fn settings_in_all_their_forms() {
        let cases = [
            ("-c geqo=off", "geqo", "off"),
            ("-cgeqo=off", "geqo", "off"),
            ("--geqo=off", "geqo", "off"),
            ("--statement-timeout=5s", "statement_timeout", "5s"),
            ("-c application_name=a\\ b", "application_name", "a b"),
            ("  -c\tsearch_path=a,b  ", "search_path", "a,b"),
            ("-c x.y=a=b", "x.y", "a=b"),
            ("-S 100", "work_mem", "100"),
            ("-fs", "enable_seqscan", "false"),
            ("-t pl", "log_planner_stats", "true"),
            ("-Ee", "datestyle", "euro"),
        ];
        for (options, name, value) in cases {
            assert_eq!(settings(options), [(name.to_owned(), value.to_owned())], "{options}");
        }
        assert_eq!(settings("").len(), 0);
        assert_eq!(settings("-c a=1 -c b=2 --c=3").len(), 3);
    }

    #[test]
    fn what_postgres_refuses_is_refused() {
        let says = |options: &str| read(options).unwrap_err().message;
        assert_eq!(says("foo"), "invalid command-line argument for server process: foo");
        assert_eq!(says("-x"), "invalid command-line argument for server process: -x");
        assert_eq!(says("-c foo"), "-c foo requires a value");
        assert_eq!(says("--x"), "--x requires a value");
        for bad in ["-", "-c", "-f z", "-t x", "-S"] {
            assert_eq!(read(bad).unwrap_err().state, SqlState::SYNTAX_ERROR, "{bad}");
        }
    }

    #[test]
    fn booleans_are_postgres_own() {
        for (value, expected) in [
            ("t", Some(true)),
            ("YES", Some(true)),
            ("o", None),
            ("of", Some(false)),
            ("0", Some(false)),
            ("", None),
        ] {
            assert_eq!(boolean(value), expected, "{value}");
        }
    }
}
