//! The rules of the layout, held by reading the sources: who may import whom, what the pure folders must not know, how
//! long a file may be, and what every file must have. The table is DESIGN's; a change of it is a change of the design.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

/// Lines of a file without its tests.
const LONGEST: usize = 500;

/// Folders without tokio, sockets, logging and clock.
const PURE: [&str; 5] = ["wire", "scram", "sql", "topology", "routing"];

/// Who may use whom. What is not pure may also use config and metrics.
const MAY_USE: &[(&str, &[&str])] = &[
    ("wire", &[]),
    ("scram", &[]),
    ("sql", &[]),
    ("topology", &[]),
    ("routing", &["sql", "topology", "wire"]),
    ("config", &[]),
    ("metrics", &[]),
    ("net", &["wire"]),
    ("client", &["net", "wire", "scram"]),
    ("backend", &["net", "wire", "scram"]),
    ("pool", &["backend", "topology"]),
    ("session", &["client", "pool", "backend", "routing", "net", "wire", "scram", "sql", "topology"]),
    ("control", &["backend", "topology"]),
    ("admin", &["topology"]),
    ("cluster", &[]),
    ("cli", &["cluster", "admin", "control", "backend", "routing", "scram", "sql", "topology", "run"]),
    ("run", &["*"]),
    // The library's root declares the folders, the program calls the command line.
    ("lib", &["*"]),
    ("main", &["cli"]),
];

/// Generated tables, which may be long.
const GENERATED: &[&str] = &["src/sql/functions_table.rs", "src/sql/keywords_table.rs"];

/// What a pure folder must not name, and why.
const IMPURE: &[(&str, &str)] = &[
    ("tokio", "no runtime"),
    ("async fn", "nothing to wait for"),
    ("async move", "nothing to wait for"),
    (".await", "nothing to wait for"),
    ("std::net::Tcp", "no sockets"),
    ("std::fs", "no files"),
    ("Instant::now", "time comes in as `now`"),
    ("SystemTime", "time comes in as `now`"),
    ("thread::", "no threads"),
    ("tracing", "no log"),
    ("println!", "no output"),
    ("rand::rng", "randomness comes in"),
];

/// The folder that names the message tags.
const TAGS: &str = "wire";
/// Folders that see messages: a letter as a byte is a tag there.
const SEE_MESSAGES: [&str; 5] = ["net", "client", "backend", "pool", "session"];
/// Words that show elsewhere that a letter beside them stands for a message's tag.
const TAG_WORDS: [&str; 4] = ["tag", "kind ==", "message_type", "msg_type"];

/// One thing against the rules.
#[derive(PartialEq, Eq)]
struct Violation {
    file: String,
    line: usize,
    what: String,
}

impl fmt::Debug for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.what)
    }
}

/// One source file.
struct Source {
    /// From the repository's top, with `/`.
    path: String,
    text: String,
    /// The same without comments and the insides of string literals, line by line.
    code: Vec<String>,
    /// Where its `#[cfg(test)] mod … {` begins; past the end if there is none.
    tests_from: usize,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let code: Vec<String> = strip(text).lines().map(str::to_owned).collect();
        let is_test_file = path.ends_with("/tests.rs") || path.contains("/tests/");
        let tests_from = if is_test_file { 0 } else { tests_begin(&code).unwrap_or(code.len()) };
        Self { path: path.to_owned(), text: text.to_owned(), code, tests_from }
    }

    /// The folder under src, or the file's stem there.
    fn folder(&self) -> &str {
        let inner = self.path.strip_prefix("src/").unwrap_or(&self.path);
        inner.split('/').next().unwrap_or(inner).trim_end_matches(".rs")
    }

    fn violation(&self, index: usize, what: impl Into<String>) -> Violation {
        Violation { file: self.path.clone(), line: index + 1, what: what.into() }
    }

    /// Code lines that are not tests.
    fn shipped(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code[..self.tests_from].iter().map(String::as_str).enumerate()
    }
}

/// The line of the `#[cfg(test)]` before an inline module; one before `mod tests;` doesn't count, nor one before a function.
fn tests_begin(code: &[String]) -> Option<usize> {
    code.iter().enumerate().position(|(at, line)| {
        line.trim() == "#[cfg(test)]"
            && code[at + 1..]
                .iter()
                .map(|next| next.trim())
                .find(|next| !next.starts_with("#["))
                .is_some_and(|next| next.contains("mod ") && next.ends_with('{'))
    })
}

/// Blanks comments and the insides of strings, keeping line ends.
fn strip(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    let skip_to = |out: &mut Vec<u8>, from: usize, to: usize| {
        out.extend(bytes[from..to.min(bytes.len())].iter().filter(|&&byte| byte == b'\n'));
        to.min(bytes.len())
    };
    while at < bytes.len() {
        let rest = &text[at..];
        let before = at.checked_sub(1).map_or(b' ', |before| bytes[before]);
        let in_word = before.is_ascii_alphanumeric() || before == b'_';
        if rest.starts_with("//") {
            at = skip_to(&mut out, at, at + rest.find('\n').unwrap_or(rest.len()));
        } else if rest.starts_with("/*") {
            at = skip_to(&mut out, at, at + block_comment(rest));
        } else if !in_word && let Some(length) = raw_string(rest) {
            out.extend(b"\"\"");
            at = skip_to(&mut out, at, at + length);
        } else if rest.starts_with('"') {
            out.extend(b"\"\"");
            at = skip_to(&mut out, at, at + plain_string(rest));
        } else if let Some(length) = character(rest) {
            out.extend(&bytes[at..at + length]);
            at += length;
        } else {
            let length = rest.chars().next().map_or(1, char::len_utf8);
            out.extend(&bytes[at..at + length]);
            at += length;
        }
    }
    String::from_utf8(out).unwrap()
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    loop {
        let here = &rest.as_bytes()[at..];
        match here {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            [] => return at,
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
}

fn raw_string(rest: &str) -> Option<usize> {
    let body =
        rest.strip_prefix("br").or_else(|| rest.strip_prefix("cr")).or_else(|| rest.strip_prefix('r'))?;
    let hashes = body.bytes().take_while(|&byte| byte == b'#').count();
    body[hashes..].strip_prefix('"')?;
    let opening = rest.len() - body.len() + hashes + 1;
    let closing = format!("\"{}", "#".repeat(hashes));
    Some(rest[opening..].find(&closing).map_or(rest.len(), |end| opening + end + closing.len()))
}

fn plain_string(rest: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in rest.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// The length of a character literal, which a lifetime isn't.
fn character(rest: &str) -> Option<usize> {
    let inner = rest.strip_prefix('\'')?;
    if inner.starts_with('\\') {
        return inner[2..].find('\'').map(|end| end + 4);
    }
    let first = inner.chars().next()?;
    inner[first.len_utf8()..].starts_with('\'').then(|| first.len_utf8() + 2)
}

/// The folders that a piece of code names behind `crate::`.
fn imports(code: &str) -> BTreeSet<(usize, String)> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == '$') {
            continue;
        }
        let line = code[..at].matches('\n').count();
        let rest = &code[at + "crate::".len()..];
        let names = match rest.strip_prefix('{') {
            Some(group) => top_names(group),
            None => vec![word(rest)],
        };
        found.extend(names.into_iter().filter(|name| !name.is_empty()).map(|name| (line, name)));
    }
    found
}

/// The first words of a `{a::b, c::{d, e}}`, of which the opening brace is already taken.
fn top_names(group: &str) -> Vec<String> {
    let (mut depth, mut names, mut fresh) = (0, Vec::new(), true);
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => fresh = true,
            _ if fresh && !letter.is_whitespace() => {
                names.push(word(&group[at..]));
                fresh = false;
            }
            _ => {}
        }
    }
    names
}

fn word(text: &str) -> String {
    text.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
}

fn check_imports(source: &Source, found: &mut Vec<Violation>) {
    let folder = source.folder();
    let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == folder) else {
        found.push(source.violation(0, format!("the folder `{folder}` is not in the table of this test")));
        return;
    };
    let shipped = source.code[..source.tests_from].join("\n");
    for (line, name) in imports(&shipped) {
        let shared = matches!(&*name, "config" | "metrics") && !PURE.contains(&folder);
        let known = MAY_USE.iter().any(|(other, _)| *other == name);
        let may = allowed.contains(&"*") || allowed.contains(&&*name) || name == folder || shared;
        if known && !may {
            found.push(source.violation(line, format!("`{folder}` may not use `{name}`")));
        }
    }
}

fn check_purity(source: &Source, found: &mut Vec<Violation>) {
    if !PURE.contains(&source.folder()) {
        return;
    }
    for (line, text) in source.shipped() {
        for (word, why) in IMPURE {
            if text.contains(word) {
                found.push(source.violation(line, format!("`{word}` in a pure folder: {why}")));
            }
        }
    }
}

fn check_file(source: &Source, found: &mut Vec<Violation>) {
    if !source.text.trim_start().starts_with("//!") {
        found.push(source.violation(0, "begins without `//!`"));
    }
    let length = source.tests_from;
    if length > LONGEST && !GENERATED.contains(&&*source.path) {
        found.push(
            source.violation(length - 1, format!("{length} lines without its tests, at most {LONGEST}")),
        );
    }
}

fn check_attributes(source: &Source, found: &mut Vec<Violation>) {
    for (line, text) in source.code.iter().enumerate() {
        for opening in ["#[allow(", "#![allow("] {
            if let Some(at) = text.find(opening) {
                let attribute = attribute(&source.code[line..], at);
                if !attribute.contains("reason =") {
                    found.push(
                        source.violation(line, "`allow` without a reason; write `expect(…, reason = \"…\")`"),
                    );
                }
            }
        }
    }
}

/// The text of an attribute from its `#` to its `]`, over several lines.
fn attribute(lines: &[String], at: usize) -> String {
    let text = lines.join("\n");
    let text = &text[at..];
    text[..text.find(']').unwrap_or(text.len())].to_owned()
}

fn check_tags(source: &Source, found: &mut Vec<Violation>) {
    if source.folder() == TAGS {
        return;
    }
    let sees_messages = SEE_MESSAGES.contains(&source.folder());
    for (line, text) in source.shipped() {
        let names_tag = sees_messages || TAG_WORDS.iter().any(|word| text.contains(word));
        if names_tag && byte_letter(text) {
            found.push(source.violation(line, "a message's tag as a character literal; name it in wire"));
        }
    }
}

/// Whether a line holds `b'X'` with a letter or digit.
fn byte_letter(text: &str) -> bool {
    text.match_indices("b'").any(|(at, _)| {
        let rest = &text.as_bytes()[at + 2..];
        matches!(rest, [letter, b'\'', ..] if letter.is_ascii_alphanumeric())
    })
}

fn check(sources: &[Source]) -> Vec<Violation> {
    let mut found = Vec::new();
    for source in sources {
        for rule in [check_imports, check_purity, check_file, check_attributes, check_tags] {
            rule(source, &mut found);
        }
    }
    found
}

fn sources() -> Vec<Source> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![top.join("src")];
    let mut files: Vec<PathBuf> = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    let read = |path: &PathBuf| {
        let name = path.strip_prefix(top).unwrap().to_str().unwrap().replace('\\', "/");
        Source::new(&name, &std::fs::read_to_string(path).unwrap())
    };
    let mut sources: Vec<_> = files.iter().map(read).collect();
    mark_tests(&mut sources);
    sources
}

/// Files that their parent declares behind `#[cfg(test)]` are tests whatever their name.
fn mark_tests(sources: &mut [Source]) {
    let mut tests = BTreeSet::new();
    for source in &*sources {
        let folder = source.path.trim_end_matches(".rs").trim_end_matches("/mod").to_owned();
        for pair in source.code.windows(2) {
            if let Some(name) = pair[1].trim().strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';'))
                && pair[0].trim() == "#[cfg(test)]"
            {
                tests.extend([format!("{folder}/{name}.rs"), format!("{folder}/{name}/mod.rs")]);
            }
        }
    }
    for source in sources.iter_mut().filter(|source| tests.contains(&source.path)) {
        source.tests_from = 0;
    }
}

#[test]
fn the_sources_keep_the_rules() {
    let sources = sources();
    assert!(sources.iter().any(|source| source.path == "src/lib.rs"), "the sources were not found");
    let found = check(&sources);
    let lines: Vec<_> = found.iter().map(|violation| format!("{violation:?}")).collect();
    assert!(found.is_empty(), "\n{}", lines.join("\n"));
}

#[test]
fn the_table_points_down() {
    // Following the table from any folder must never lead back to it.
    for (start, _) in MAY_USE.iter().filter(|(name, _)| !matches!(*name, "run" | "lib" | "cli" | "main")) {
        let mut reached = BTreeSet::new();
        let mut open = vec![*start];
        while let Some(folder) = open.pop() {
            let (_, uses) = MAY_USE.iter().find(|(name, _)| *name == folder).unwrap();
            for used in *uses {
                assert_ne!(used, start, "{start} uses {folder}, which uses {start}");
                if reached.insert(*used) {
                    open.push(used);
                }
            }
        }
    }
    let users_of_run = MAY_USE.iter().filter(|(_, uses)| uses.contains(&"run")).map(|(name, _)| *name);
    assert_eq!(users_of_run.collect::<Vec<_>>(), ["cli"], "only the command line starts it");
}

/// What a made-up file is told.
fn told(path: &str, text: &str) -> Vec<String> {
    check(&[Source::new(path, text)]).into_iter().map(|violation| format!("{violation:?}")).collect()
}

#[test]
fn made_up_imports_are_caught() {
    let wrong = "//! x\nuse crate::session::Loop;\n";
    assert_eq!(told("src/wire/a.rs", wrong), ["src/wire/a.rs:2: `wire` may not use `session`"]);
    let grouped = "//! x\nuse crate::{config, pool::{self, Lease},\n    session};\n";
    assert_eq!(
        told("src/backend/a.rs", grouped),
        [
            "src/backend/a.rs:2: `backend` may not use `pool`",
            "src/backend/a.rs:2: `backend` may not use `session`"
        ]
    );
    let inline = "//! x\nfn f() -> crate::config::Config { todo() }\n";
    assert_eq!(told("src/sql/a.rs", inline), ["src/sql/a.rs:2: `sql` may not use `config`"]);
    assert_eq!(told("src/session/a.rs", "//! x\nuse crate::run::Proxy;\n").len(), 1);
    assert_eq!(told("src/session/a.rs", "//! x\nuse crate::control::X;\n").len(), 1);
    assert_eq!(told("src/utils.rs", "//! x\n").len(), 1);
}

#[test]
fn good_imports_pass() {
    let good = "//! x: see [`crate::session`]\nuse crate::config::Pool;\nuse crate::net::Stream;\n\
                // crate::run\nconst X: &str = \"crate::run\";\nuse crate::backend::own;\n\
                #[cfg(test)]\nmod tests {\n    use crate::session::X;\n}\n";
    assert_eq!(told("src/backend/a.rs", good), [""; 0]);
    assert_eq!(told("src/wire/tests.rs", "//! x\nuse crate::session::X;\n"), [""; 0]);
}

#[test]
fn impurity_is_caught() {
    for line in [
        "use tokio::net::TcpStream;",
        "async fn f() {}",
        "let x = Instant::now();",
        "let x = SystemTime::now();",
        "tracing::info!(x);",
    ] {
        let text = format!("//! x\n{line}\n");
        assert_eq!(told("src/topology/a.rs", &text).len(), 1, "{line}");
        assert_eq!(told("src/control/a.rs", &text), [""; 0], "{line}");
    }
    assert_eq!(told("src/sql/a.rs", "//! x\n/// not tokio::spawn\nconst X: &str = \"tokio\";\n"), [""; 0]);
}

#[test]
fn files_declared_as_tests_are_tests() {
    let mut sources = [
        Source::new("src/topology/machine.rs", "//! x\n#[cfg(test)]\nmod properties;\nmod other;\n"),
        Source::new("src/topology/machine/properties.rs", "//! x\nlet x = Instant::now();\n"),
        Source::new("src/topology/machine/other.rs", "//! x\nlet x = Instant::now();\n"),
    ];
    mark_tests(&mut sources);
    let found: Vec<_> = check(&sources).into_iter().map(|violation| violation.file).collect();
    assert_eq!(found, ["src/topology/machine/other.rs"]);
}

#[test]
fn long_files_and_missing_words_are_caught() {
    let long = format!("//! x\n{}", "fn f() {}\n".repeat(LONGEST));
    assert_eq!(told("src/pool/a.rs", &long).len(), 1);
    assert_eq!(told(GENERATED[0], &long), [""; 0]);
    let tested = format!("//! x\n#[cfg(test)]\nmod tests {{\n{}}}\n", "fn f() {}\n".repeat(LONGEST));
    assert_eq!(told("src/pool/a.rs", &tested), [""; 0]);
    assert_eq!(told("src/pool/a.rs", "fn f() {}\n"), ["src/pool/a.rs:1: begins without `//!`"]);
}

#[test]
fn bare_allows_and_tags_are_caught() {
    assert_eq!(told("src/pool/a.rs", "//! x\n#[allow(dead_code)]\nfn f() {}\n").len(), 1);
    assert_eq!(told("src/pool/a.rs", "//! x\n#![allow(dead_code)]\n").len(), 1);
    assert_eq!(
        told("src/pool/a.rs", "//! x\n#[allow(\n    dead_code,\n    reason = \"why\",\n)]\nfn f() {}\n"),
        [""; 0]
    );
    let tags = "//! x\nfn f(tag: u8) -> bool { tag == b'Z' }\n";
    assert_eq!(told("src/session/a.rs", tags).len(), 1);
    assert_eq!(told("src/wire/tags.rs", tags), [""; 0]);
    assert_eq!(told("src/session/a.rs", "//! x\nlet newline = tag + b'\\n';\n"), [""; 0]);
    let arm = "//! x\nmatch x {\n    b'Z' => 1,\n    _ => 2,\n}\n";
    assert_eq!(
        told("src/session/a.rs", arm),
        ["src/session/a.rs:3: a message's tag as a character literal; name it in wire"]
    );
    assert_eq!(told("src/sql/a.rs", arm), [""; 0]);
}
