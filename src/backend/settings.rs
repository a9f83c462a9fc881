//! A session's settings as SQL, and what brings a backend in line with them.
//!
//! Kept is what differs from a fresh login of the same role and database, each as the statement that sets it. A backend
//! remembers which [`Settings`] it was last brought in line with, so that equal ones cost a comparison of two numbers.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use foldhash::fast::FixedState;

/// Lists whose parts are names (`GUC_LIST_QUOTE`; no module's may be one): SET would take a text with several for a single name. All others are
/// set by SET, which takes no snapshot: a transaction's isolation level may still be chosen behind it.
const LISTS_OF_NAMES: [&str; 6] = [
    "search_path",
    "temp_tablespaces",
    "local_preload_libraries",
    "session_preload_libraries",
    "shared_preload_libraries",
    "unix_socket_directories",
];

/// Settings that differ from those of a fresh login. Compared by fingerprint first, in full when that agrees.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    fingerprint: u64,
    /// Whether `default_transaction_isolation` is serializable, where it differs.
    serializable: Option<bool>,
    statements: BTreeMap<Box<str>, Box<[u8]>>,
}

impl Settings {
    /// Settings of a startup packet: names and values as they came, not as SQL.
    pub fn from_startup<'a>(parameters: impl IntoIterator<Item = (&'a str, &'a str)>) -> Arc<Self> {
        let mut settings = Self::default();
        for (name, value) in parameters {
            let folded = name.to_ascii_lowercase();
            let sql = if LISTS_OF_NAMES.contains(&&*folded) {
                format!("SELECT pg_catalog.set_config({}, {}, false)", literal(name), literal(value))
                    .into_bytes()
            } else {
                assignment(&folded, literal(value).as_bytes())
            };
            settings.statements.insert(folded.into(), sql.into());
        }
        settings.renew_fingerprint();
        Arc::new(settings)
    }

    /// Whether nothing differs from a fresh login.
    pub fn is_empty(&self) -> bool {
        self.statements.is_empty()
    }

    /// Number of settings that differ.
    pub fn len(&self) -> usize {
        self.statements.len()
    }

    /// The statement that sets `name`, none when it is as after a fresh login.
    pub fn statement(&self, name: &str) -> Option<&[u8]> {
        self.statements.get(name).map(AsRef::as_ref)
    }

    /// The value of a setting as plain text: without the quotes of a string, with its escapes as they stand.
    pub fn value(&self, name: &str) -> Option<&[u8]> {
        let sql = self.statement(name)?;
        let value = match memchr::memmem::find(sql, b" TO ") {
            Some(at) => &sql[at + 4..],
            // As from_startup writes it: the second argument of set_config.
            None => {
                let rest = &sql[memchr::memmem::find(sql, b"', ")? + 3..];
                &rest[..memchr::memmem::rfind(rest, b", false)")?]
            }
        };
        let value = value.trim_ascii();
        Some(value.strip_prefix(b"'").and_then(|value| value.strip_suffix(b"'")).unwrap_or(value))
    }

    /// Whether transactions are serializable unless they say otherwise; none where that is the login's own.
    pub fn serializable(&self) -> Option<bool> {
        self.serializable
    }

    /// Takes up `SET name TO value`, `value` as it was written.
    pub fn set(&mut self, name: &str, value: &[u8]) {
        let whole = if name == "datestyle" { self.whole_date_style(value) } else { None };
        let value = whole.as_deref().unwrap_or(value);
        let sql = match name {
            "timezone" => [b"SET TIME ZONE ", value].concat(),
            "role" => [b"SET ROLE ", value].concat(),
            "session_authorization" => [b"SET SESSION AUTHORIZATION ", value].concat(),
            _ => assignment(name, value),
        };
        // A new session authorization takes the role back (SET ROLE's page of the documentation).
        if name == "session_authorization" {
            self.statements.remove("role");
        }
        self.statements.insert(name.into(), sql.into());
        self.renew_fingerprint();
    }

    /// `value`, and what it leaves as it was: DateStyle is a style and an order, and SET changes the parts that it names.
    fn whole_date_style(&self, value: &[u8]) -> Option<Vec<u8>> {
        let before = date_style(self.value("datestyle")?)?;
        let now = date_style(value)?;
        let parts = [now.0.or(before.0), now.1.or(before.1)];
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        Some(format!("'{}'", parts.join(", ")).into_bytes())
    }

    /// Takes up `RESET name`: back to what the startup packet (`base`) said, or to the login's own.
    pub fn reset(&mut self, name: &str, base: &Self) {
        match base.statements.get(name) {
            Some(statement) => self.statements.insert(name.into(), statement.clone()),
            None => self.statements.remove(name),
        };
        if name == "session_authorization" {
            self.statements.remove("role");
        }
        self.renew_fingerprint();
    }

    /// Takes up `RESET ALL`, which leaves role and session authorization alone.
    pub fn reset_all(&mut self, base: &Self) {
        let kept = ["role", "session_authorization"].map(|name| self.statements.remove_entry(name));
        self.statements = base.statements.clone();
        self.statements.extend(kept.into_iter().flatten());
        self.renew_fingerprint();
    }

    /// A number for what decides how a statement's names are resolved: search path and role.
    pub fn naming(&self) -> u64 {
        let names = ["search_path", "role", "session_authorization"];
        number(names.into_iter().filter_map(|name| Some((name, &**self.statements.get(name)?))))
    }

    /// A number for what may decide how a statement is read and planned: all of it but `application_name`. Never 0.
    pub fn planning(&self) -> u64 {
        number(self.all().filter(|(name, _)| *name != "application_name")).max(1)
    }

    fn all(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.statements.iter().map(|(name, statement)| (&**name, &**statement))
    }

    /// Whether two are the same, at the price of one comparison when they are not or are one object.
    pub fn same(self: &Arc<Self>, other: &Arc<Self>) -> bool {
        Arc::ptr_eq(self, other)
            || (self.fingerprint == other.fingerprint && self.statements == other.statements)
    }

    /// Appends SQL that brings a backend from `self` to `wanted`; nothing if they agree.
    pub fn sql_towards(&self, wanted: &Self, out: &mut Vec<u8>) {
        let identity = ["session_authorization", "role"];
        let is_other = |of: &str| self.statements.get(of) != wanted.statements.get(of);
        let as_another = identity.iter().any(|name| self.statements.contains_key(*name));
        let changed_identity = identity.into_iter().any(is_other)
            || as_another
                && self.statements.keys().chain(wanted.statements.keys()).any(|name| is_other(name));
        if changed_identity {
            // Settings are changed as the login role, so that what it may set doesn't depend on who came before.
            out.extend_from_slice(b"RESET ROLE;RESET SESSION AUTHORIZATION;");
        }
        for name in self.statements.keys() {
            if !identity.contains(&&**name) && !wanted.statements.contains_key(name) {
                out.extend_from_slice(b"RESET ");
                push_name(out, name);
                out.push(b';');
            }
        }
        for (name, statement) in &wanted.statements {
            if !identity.contains(&&**name) && self.statements.get(name) != Some(statement) {
                if &**name == "datestyle" && self.statements.contains_key(name) {
                    // What only one of its two parts is said of takes the other from before.
                    out.extend_from_slice(b"RESET datestyle;");
                }
                out.extend_from_slice(statement);
                out.push(b';');
            }
        }
        if changed_identity {
            for name in identity {
                if let Some(statement) = wanted.statements.get(name) {
                    out.extend_from_slice(statement);
                    out.push(b';');
                }
            }
        }
    }

    fn renew_fingerprint(&mut self) {
        self.fingerprint = if self.statements.is_empty() { 0 } else { number(self.all()) };
        let level = self.value("default_transaction_isolation");
        self.serializable = level.map(|level| level.eq_ignore_ascii_case(b"serializable"));
    }
}

/// A number for these settings, in this order.
fn number<'a>(settings: impl Iterator<Item = (&'a str, &'a [u8])>) -> u64 {
    let mut hasher = FixedState::default().build_hasher();
    for (name, statement) in settings {
        hasher.write(name.as_bytes());
        hasher.write(statement);
    }
    hasher.finish()
}

/// `SET name TO value`, `value` as SQL.
fn assignment(name: &str, value: &[u8]) -> Vec<u8> {
    let mut sql = b"SET ".to_vec();
    push_name(&mut sql, name);
    sql.extend_from_slice(b" TO ");
    sql.extend_from_slice(value);
    sql
}

/// `text` as a string literal that reads the same under either setting of `standard_conforming_strings`.
pub fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') {
        format!(" E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}

/// Style and order of a DateStyle, as `check_datestyle` of PostgreSQL reads them; none when there is more in it than that.
fn date_style(value: &[u8]) -> Option<(Option<&'static str>, Option<&'static str>)> {
    let (mut style, mut order) = (None, None);
    let text = std::str::from_utf8(value).ok()?.to_ascii_lowercase();
    for word in text.split([',', ' ', '\'', '"', '\t', '\n']).filter(|word| !word.is_empty()) {
        match word {
            "iso" => style = Some("ISO"),
            word if word.starts_with("sql") => style = Some("SQL"),
            word if word.starts_with("postgres") => style = Some("Postgres"),
            "german" => {
                style = Some("German");
                order = order.or(Some("DMY"));
            }
            "ymd" => order = Some("YMD"),
            word if word == "dmy" || word.starts_with("euro") => order = Some("DMY"),
            word if word == "mdy" || word == "us" || word.starts_with("noneuro") => order = Some("MDY"),
            _ => return None,
        }
    }
    Some((style, order))
}

fn push_name(out: &mut Vec<u8>, name: &str) {
    let plain = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    for (i, part) in name.split('.').enumerate() {
        if i > 0 {
            out.push(b'.');
        }
        if plain(part) {
            out.extend_from_slice(part.as_bytes());
        } else {
            out.push(b'"');
            out.extend_from_slice(part.replace('"', "\"\"").as_bytes());
            out.push(b'"');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn towards(from: &Settings, to: &Settings) -> String {
        let mut out = Vec::new();
        from.sql_towards(to, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn brings_a_backend_in_line_with_the_difference_alone() {
        let mut a = Settings::default();
        a.set("work_mem", b"'64MB'");
        a.set("search_path", b"a, b");
        let mut b = a.clone();
        b.reset("work_mem", &Settings::default());
        b.set("timezone", b"INTERVAL '+02:00' HOUR TO MINUTE");
        assert_eq!(towards(&a, &b), "RESET work_mem;SET TIME ZONE INTERVAL '+02:00' HOUR TO MINUTE;");
        assert_eq!(towards(&a, &a), "");
    }

    #[test]
    fn a_changed_role_is_set_last_and_from_the_login_role() {
        let mut a = Settings::default();
        a.set("role", b"x");
        a.set("work_mem", b"1");
        let mut b = Settings::default();
        b.set("session_authorization", b"y");
        b.set("role", b"z");
        assert_eq!(
            towards(&a, &b),
            "RESET ROLE;RESET SESSION AUTHORIZATION;RESET work_mem;SET SESSION AUTHORIZATION y;SET ROLE z;"
        );
    }

    #[test]
    fn settings_are_changed_as_the_login_role_though_the_role_stays() {
        let mut a = Settings::default();
        a.set("role", b"x");
        let mut b = a.clone();
        b.set("lo_compat_privileges", b"on");
        assert_eq!(
            towards(&a, &b),
            "RESET ROLE;RESET SESSION AUTHORIZATION;SET lo_compat_privileges TO on;SET ROLE x;"
        );
        assert_eq!(towards(&a, &a), "");
    }

    #[test]
    fn a_date_style_keeps_the_part_that_is_not_named() {
        let base = Settings::from_startup([("DateStyle", "Postgres, MDY")]);
        let mut settings = Settings::clone(&base);
        let mut expect = |value: &[u8], whole: &[u8]| {
            settings.set("datestyle", value);
            assert_eq!(settings.value("datestyle"), Some(whole));
        };
        expect(b"ymd", b"Postgres, YMD");
        expect(b"'ISO'", b"ISO, YMD");
        expect(b"sql, euro", b"SQL, DMY");
        expect(b"us", b"SQL, MDY");
        expect(b"german", b"German, DMY");
        expect(b"nonsense", b"nonsense");
        let mut fresh = Settings::default();
        fresh.set("datestyle", b"ymd");
        assert_eq!(towards(&settings, &fresh), "RESET datestyle;SET datestyle TO ymd;");
        assert_eq!(towards(&Settings::default(), &fresh), "SET datestyle TO ymd;");
    }

    #[test]
    fn startup_values_are_what_reset_goes_back_to() {
        let base = Settings::from_startup([("search_path", "it's"), ("application_name", "a\\b")]);
        let mut settings = Settings::clone(&base);
        settings.set("search_path", b"other");
        assert!(!Arc::new(settings.clone()).same(&base));
        settings.reset("search_path", &base);
        assert!(Arc::new(settings.clone()).same(&base));
        assert_eq!(
            settings.statement("search_path"),
            Some(&b"SELECT pg_catalog.set_config('search_path', 'it''s', false)"[..])
        );
        assert_eq!(settings.statement("application_name"), Some(&b"SET application_name TO  E'a\\\\b'"[..]));
        assert_eq!(settings.value("search_path"), Some(&b"it''s"[..]));
        settings.set("pgha.route", b"'primary'");
        assert_eq!(settings.value("pgha.route"), Some(&b"primary"[..]));
        settings.reset("pgha.route", &base);
        settings.set("work_mem", b"1");
        settings.reset_all(&base);
        assert_eq!(&settings, &*base);
    }

    #[test]
    fn odd_names_are_quoted() {
        let mut settings = Settings::default();
        settings.set("my.Odd\"name", b"1");
        assert_eq!(settings.statement("my.Odd\"name"), Some(&b"SET my.\"Odd\"\"name\" TO 1"[..]));
    }
}
