//! SET, RESET and SHOW: which setting, and its value as it was written.

use super::body::Calls;
use super::classify::Statements;
use super::keywords::Keyword as K;
use super::lexer::Kind;
use super::names::member_setting;
use super::{Effects, SettingChange, TransactionModes, TransactionVerb};

/// Changes of settings that are kept of one string. More of them count as unknown.
const CHANGES: usize = 1000;

impl Statements<'_, '_> {
    /// Whether the third argument of the call at hand is plainly `true`.
    pub(super) fn is_set_locally(&self) -> bool {
        let mut ahead = self.cursor.clone();
        let (mut depth, mut commas) = (0_u32, 0_u32);
        loop {
            ahead.advance();
            match ahead.token.kind {
                Kind::Open => depth += 1,
                Kind::Comma if depth == 1 => {
                    commas += 1;
                    if commas == 2 {
                        return ahead.next_is(K::True) && {
                            ahead.advance();
                            ahead.next.kind == Kind::Close
                        };
                    }
                }
                Kind::Close if depth <= 1 => return false,
                Kind::Close => depth -= 1,
                Kind::Semicolon | Kind::End => return false,
                _ => {}
            }
        }
    }

    pub(super) fn set(&mut self) {
        self.cursor.advance();
        let scope = self.cursor.keyword;
        let local = scope == Some(K::Local) && !self.next_assigns();
        let session = scope == Some(K::Session)
            && !self.next_assigns()
            && !matches!(self.cursor.next_keyword, Some(K::Authorization | K::Characteristics));
        if local || session {
            self.cursor.advance();
        }
        match self.cursor.keyword {
            Some(keyword) if !self.next_assigns() => self.set_special(keyword, local),
            _ => self.set_plain(local),
        }
    }

    /// Whether the current token is a setting's name before `=`, TO or a dot.
    fn next_assigns(&self) -> bool {
        self.cursor.next_is(K::To)
            || self.cursor.next.kind == Kind::Dot
            || self.cursor.is_operator(self.cursor.next, b"=")
    }

    /// The forms of SET with a grammar of their own.
    fn set_special(&mut self, keyword: K, local: bool) {
        let second = self.cursor.next_keyword;
        self.cursor.advance();
        match (keyword, second) {
            (K::Transaction, _) => self.set_transaction(),
            (K::Session, Some(K::Characteristics)) => {
                let words = [K::Characteristics, K::As, K::Transaction];
                let right = words.into_iter().all(|word| self.cursor.take(word));
                self.characteristics(right);
            }
            (K::Session, Some(K::Authorization)) => self.set_behind(1, "session_authorization", local),
            (K::Time, Some(K::Zone)) => self.set_time_zone(local),
            (K::Xml, Some(K::Option)) => self.set_behind(1, "xmloption", local),
            (K::Role, _) => self.set_behind(0, "role", local),
            (K::Schema, _) => self.set_behind(0, "search_path", local),
            (K::Names, _) if self.cursor.at_end() => {
                self.change(SettingChange::Reset { name: "client_encoding".into(), local });
            }
            (K::Names, _) => self.set_behind(0, "client_encoding", local),
            _ => self.set_unknown(&format!("SET {}", keyword.name())),
        }
    }

    fn set_behind(&mut self, words: usize, name: &str, local: bool) {
        for _ in 0..words {
            self.cursor.advance();
        }
        self.value(name.into(), local);
    }

    fn set_time_zone(&mut self, local: bool) {
        self.cursor.advance();
        if self.cursor.is(K::Local) {
            self.cursor.advance();
            self.change(SettingChange::Reset { name: "timezone".into(), local });
            return self.finish();
        }
        if !self.cursor.is(K::Interval) {
            return self.value("timezone".into(), local);
        }
        // as a setting's value an interval has to stand in a string
        let inner = (self.cursor.next.kind == Kind::String).then(|| self.cursor.bytes(self.cursor.next));
        let plain = inner.filter(|text| {
            let text = &text[1..text.len() - 1];
            text.iter().all(|byte| byte.is_ascii_alphanumeric() || b" :.+-".contains(byte))
        });
        let Some(text) = plain else { return self.set_unknown("SET TIME ZONE INTERVAL") };
        let mut value = b"'INTERVAL '".to_vec();
        value.extend_from_slice(text);
        value.extend_from_slice(b"''");
        while !self.cursor.at_end() {
            self.cursor.advance(); // HOUR TO MINUTE, which says nothing more
        }
        self.change(SettingChange::Set { name: "timezone".into(), value: value.into(), local });
    }

    fn characteristics(&mut self, right: bool) {
        let modes = if right { self.modes() } else { None };
        let Some(modes) = modes else { return self.set_unknown("SET SESSION CHARACTERISTICS") };
        let on = |value: bool| if value { "on" } else { "off" }.to_owned();
        let changes = [
            ("default_transaction_isolation", modes.level.map(|level| format!("'{level}'"))),
            ("default_transaction_read_only", modes.read_only.map(on)),
            ("default_transaction_deferrable", modes.deferrable.map(on)),
        ];
        for (name, value) in changes {
            if let Some(value) = value {
                let value = value.into_bytes().into();
                self.change(SettingChange::Set { name: name.into(), value, local: false });
            }
        }
    }

    /// `name[.name] {=|TO} value`
    fn set_plain(&mut self, local: bool) {
        let Some(name) = self.setting_name() else { return self.set_unknown("SET") };
        let assigns = self.cursor.is(K::To) || self.cursor.is_operator(self.cursor.token, b"=");
        if !assigns {
            return self.set_unknown("SET");
        }
        self.cursor.advance();
        self.value(name, local);
    }

    fn setting_name(&mut self) -> Option<Box<str>> {
        let mut name = Vec::from(self.cursor.take_name()?);
        while self.cursor.token.kind == Kind::Dot {
            self.cursor.advance();
            name.push(b'.');
            name.extend_from_slice(&self.cursor.take_name()?);
        }
        name.make_ascii_lowercase();
        Some(String::from_utf8_lossy(&name).into())
    }

    /// Takes all to the end of the statement as the value of a setting.
    fn value(&mut self, name: Box<str>, local: bool) {
        let start = self.cursor.token;
        let default = self.cursor.is(K::Default);
        let mut end = start;
        let mut tokens = 0;
        while !self.cursor.at_end() {
            if matches!(self.cursor.token.kind, Kind::Unterminated | Kind::Other) {
                return self.set_unknown("syntax");
            }
            end = self.cursor.token;
            tokens += 1;
            self.cursor.advance();
        }
        let value = self.cursor.between(start.start, end.end);
        match (tokens, &*name) {
            (0, _) => self.set_unknown("syntax"),
            (1, _) if default => self.change(SettingChange::Reset { name, local }),
            (_, "transaction_read_only" | "transaction_isolation" | "transaction_deferrable") => {
                self.transaction_setting(&name, value);
            }
            (_, "seed") => {
                self.found.effects |= Effects::BACKEND_STATE;
                self.found.write("seed");
            }
            _ => self.change(SettingChange::Set { name, value: value.into(), local }),
        }
    }

    /// `SET transaction_read_only = on` and its like are SET TRANSACTION.
    fn transaction_setting(&mut self, name: &str, value: &[u8]) {
        let word = value.strip_prefix(b"'").and_then(|rest| rest.strip_suffix(b"'")).unwrap_or(value);
        let word = word.to_ascii_lowercase();
        let truth = match word.as_slice() {
            b"on" | b"true" | b"yes" | b"1" => Some(true),
            b"off" | b"false" | b"no" | b"0" => Some(false),
            _ => None,
        };
        let mut modes = TransactionModes::default();
        let known = match name {
            "transaction_read_only" => {
                modes.read_only = truth;
                truth.is_some()
            }
            "transaction_deferrable" => {
                modes.deferrable = truth;
                truth.is_some()
            }
            _ => {
                modes.serializable = word == b"serializable";
                let levels: [&[u8]; 4] =
                    [b"serializable", b"repeatable read", b"read committed", b"read uncommitted"];
                levels.contains(&word.as_slice())
            }
        };
        if !known {
            return self.set_unknown(name);
        }
        self.found.session("SET TRANSACTION");
        self.found.transaction = Some(TransactionVerb::Set(modes));
    }

    fn change(&mut self, change: SettingChange) {
        self.found.session("SET");
        if self.found.settings.len() < CHANGES {
            self.found.settings.push(change);
        } else {
            self.found.effects |= Effects::SET_CONFIG;
            self.found.write("too many settings");
        }
    }

    /// A SET whose result the text doesn't tell, or one that PostgreSQL refuses.
    fn set_unknown(&mut self, reason: &str) {
        self.found.write(reason);
        self.body(Calls::Noted);
    }

    pub(super) fn reset(&mut self) {
        self.cursor.advance();
        self.found.session("RESET");
        if self.cursor.is(K::All) && self.cursor.next.kind != Kind::Dot {
            self.cursor.advance();
            self.change(SettingChange::ResetAll);
            return self.finish();
        }
        match self.settings_words() {
            Some(name) => {
                self.change(SettingChange::Reset { name, local: false });
                self.finish();
            }
            None => self.set_unknown("syntax"),
        }
    }

    pub(super) fn show(&mut self) {
        self.cursor.advance();
        let Some(name) = self.settings_words() else { return self.set_unknown("syntax") };
        if member_setting(name.as_bytes()) {
            self.found.write(&format!("SHOW {name}"));
        }
        self.found.session("SHOW");
        self.found.show = Some(name);
        self.finish();
    }

    /// A setting's name behind RESET or SHOW, where some have names of several words.
    fn settings_words(&mut self) -> Option<Box<str>> {
        let words = (self.cursor.keyword, self.cursor.next_keyword);
        let (name, count) = match words {
            (Some(K::Time), Some(K::Zone)) => ("timezone", 2),
            (Some(K::Session), Some(K::Authorization)) => ("session_authorization", 2),
            (Some(K::Transaction), Some(K::Isolation)) => ("transaction_isolation", 3),
            _ => return self.setting_name(),
        };
        for _ in 0..count {
            self.cursor.advance();
        }
        Some(name.into())
    }
}
