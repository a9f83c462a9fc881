//! From a query string to its verdict: cut it into statements and ask of each what its first word makes it.

use std::cell::Cell;

use super::body::Calls;
use super::cursor::Cursor;
use super::functions::Functions;
use super::hints;
use super::keywords::Keyword as K;
use super::lexer::{Kind, Lexing};
use super::{Class, CopyDirection, Effects, SettingChange, TransactionVerb, Verdict};

/// What a query string is: where it may run and what it leaves behind.
///
/// It over-approximates: what it can't tell is [`Class::Write`]. Several statements in one string get the
/// strictest class and all effects. A string of which a statement begins or ends a transaction is a write, too.
pub fn classify(text: &[u8], lexing: &Lexing, functions: &Functions) -> Verdict {
    let mut statements = Statements {
        cursor: Cursor::new(text, *lexing),
        functions,
        found: Found::default(),
        scratch: Vec::new(),
    };
    let mut count = 0_u32;
    let mut mixed = false;
    loop {
        while statements.cursor.token.kind == Kind::Semicolon {
            statements.cursor.advance();
        }
        if statements.cursor.token.kind == Kind::End {
            break;
        }
        count = count.saturating_add(1);
        statements.statement();
        mixed |= statements.found.transaction.is_some();
    }
    if statements.cursor.broken {
        statements.found.write("lexically broken");
    }
    verdict(statements.found, count, mixed, hints::leading(text))
}

/// Where the second statement of a string begins: behind the first one's semicolon. None if there is but one.
pub fn second_statement(text: &[u8], lexing: &Lexing) -> Option<usize> {
    let mut cursor = Cursor::new(text, *lexing);
    while cursor.token.kind != Kind::Semicolon {
        if cursor.token.kind == Kind::End {
            return None;
        }
        cursor.advance();
    }
    let second = cursor.token.end;
    while cursor.token.kind == Kind::Semicolon {
        cursor.advance();
    }
    (cursor.token.kind != Kind::End).then_some(second)
}

fn verdict(
    mut found: Found,
    count: u32,
    mixed: bool,
    (hint, consistency): (Option<super::Hint>, Option<super::ConsistencyHint>),
) -> Verdict {
    let single = count == 1;
    let mixed_transaction = mixed && !single;
    if count == 0 {
        found.raise(Class::Session, || "empty".into());
    }
    if mixed_transaction {
        found.raise(Class::Write, || "transaction among other statements".into());
    }
    if found.vector && found.class <= Class::VectorRead {
        found.class = Class::VectorRead;
    }
    Verdict {
        statements: count,
        class: found.class,
        reason: found.reason,
        transaction: found.transaction.filter(|_| single),
        mixed_transaction,
        effects: found.effects,
        settings: found.settings.into(),
        copy: found.copy,
        show: found.show.filter(|_| single),
        channels: found.channels.into(),
        hint,
        consistency,
        object: found.object.filter(|_| single),
        explain_route: found.explain_route.filter(|_| single),
        by_value: found.by_value,
        learnt: Cell::default(),
    }
}

/// Channels that are kept of one string.
const CHANNELS: usize = 1000;

/// What was found so far, over all statements of the string.
pub(super) struct Found {
    pub(super) class: Class,
    pub(super) reason: Box<str>,
    pub(super) vector: bool,
    pub(super) effects: Effects,
    pub(super) transaction: Option<TransactionVerb>,
    pub(super) settings: Vec<SettingChange>,
    pub(super) copy: Option<CopyDirection>,
    pub(super) show: Option<Box<str>>,
    pub(super) channels: Vec<Box<[u8]>>,
    pub(super) object: Option<Box<[u8]>>,
    pub(super) explain_route: Option<usize>,
    pub(super) by_value: bool,
}

impl Default for Found {
    fn default() -> Self {
        Self {
            class: Class::Read,
            reason: Box::default(),
            vector: false,
            effects: Effects::NONE,
            transaction: None,
            settings: Vec::new(),
            copy: None,
            show: None,
            channels: Vec::new(),
            object: None,
            explain_route: None,
            by_value: false,
        }
    }
}

impl Found {
    /// Makes the class at least `class`; the first that made it what it is gives the reason.
    pub(super) fn raise(&mut self, class: Class, reason: impl FnOnce() -> Box<str>) {
        if class > self.class || self.reason.is_empty() {
            self.class = self.class.max(class);
            self.reason = reason();
        }
    }

    pub(super) fn write(&mut self, reason: &str) {
        self.raise(Class::Write, || reason.into());
    }

    pub(super) fn session(&mut self, reason: &str) {
        self.raise(Class::Session, || reason.into());
    }
}

/// The statements of one string, at the current one.
pub(super) struct Statements<'a, 'f> {
    pub(super) cursor: Cursor<'a>,
    pub(super) functions: &'f Functions,
    pub(super) found: Found,
    /// Room to fold names in.
    pub(super) scratch: Vec<u8>,
}

impl Statements<'_, '_> {
    /// Judges one statement and stands at its semicolon or the text's end afterwards.
    pub(super) fn statement(&mut self) {
        let first = self.cursor.token;
        match (self.cursor.keyword, first.kind) {
            (Some(keyword), _) => self.dispatch(keyword),
            (None, Kind::Open) => {
                self.found.raise(Class::Read, || "SELECT".into());
                self.body(Calls::Judged);
            }
            (None, Kind::Other | Kind::Unterminated) => self.body(Calls::Noted),
            _ => {
                let word = String::from_utf8_lossy(self.cursor.bytes(first));
                let reason = format!("not a statement: {}", word.chars().take(32).collect::<String>());
                self.found.write(&reason);
                // The reason may quote a value.
                self.found.by_value = true;
                self.body(Calls::Noted);
            }
        }
    }

    fn dispatch(&mut self, keyword: K) {
        match keyword {
            K::Select | K::Values | K::Table | K::With => {
                self.found.raise(Class::Read, || keyword.name().into());
                self.body(Calls::Judged);
            }
            K::Insert | K::Update | K::Delete | K::Merge => self.modify(keyword),
            K::Explain => self.explain(),
            K::Copy => self.copy(),
            K::Show => self.show(),
            K::Set => self.set(),
            K::Reset => self.reset(),
            K::Begin | K::Start | K::Commit | K::End | K::Rollback | K::Abort => self.transaction(keyword),
            K::Savepoint | K::Release => self.savepoint(keyword),
            K::Prepare if self.cursor.next_is(K::Transaction) => self.two_phase("PREPARE TRANSACTION"),
            K::Prepare | K::Execute => self.prepared(keyword),
            K::Deallocate => self.deallocate(),
            K::Declare => self.declare(),
            K::Fetch | K::Move | K::Close => self.use_cursor(keyword),
            K::Listen | K::Unlisten => self.listen(keyword),
            K::Discard => self.discard(),
            K::Load => self.act("LOAD", Effects::LOAD, Calls::Noted),
            K::Do => {
                let effects = Effects::PROCEDURAL | Effects::NEXTVAL | Effects::DDL;
                self.act("DO", effects, Calls::Judged);
            }
            K::Call => self.act("CALL", Effects::PROCEDURAL | Effects::NEXTVAL, Calls::Judged),
            K::Create => self.create(),
            K::Alter | K::Drop
                if matches!(self.cursor.next_keyword, Some(K::Database | K::Role | K::User)) =>
            {
                self.about_logins(keyword);
            }
            K::Alter | K::Drop | K::Import | K::Grant | K::Revoke | K::Comment | K::Reassign => {
                self.act(&keyword.name(), Effects::DDL, Calls::Noted);
            }
            other => self.act(&other.name(), Effects::NONE, Calls::Noted),
        }
    }

    /// A statement of which no more is to be known than that it writes.
    fn act(&mut self, reason: &str, effects: Effects, calls: Calls) {
        self.found.write(reason);
        self.found.effects |= effects;
        self.body(calls);
    }

    fn modify(&mut self, keyword: K) {
        self.found.write(&keyword.name());
        self.found.effects |= Effects::NEXTVAL;
        self.body(Calls::Judged);
    }

    fn create(&mut self) {
        self.found.write("CREATE");
        self.found.effects |= Effects::DDL;
        self.cursor.advance();
        let mut words = 0;
        while words < 4 && !self.cursor.at_end() {
            match self.cursor.keyword {
                Some(K::Temp | K::Temporary) => self.found.effects |= Effects::TEMP_OBJECT,
                Some(K::Or | K::Replace | K::Local | K::Global | K::Unlogged) => {}
                _ => break,
            }
            self.cursor.advance();
            words += 1;
        }
        if self.cursor.is(K::Database) {
            self.create_database();
        }
        let routine = matches!(self.cursor.keyword, Some(K::Function | K::Procedure));
        self.body(if routine { Calls::Routine } else { Calls::Noted });
    }

    /// ALTER or DROP of a database or role.
    fn about_logins(&mut self, keyword: K) {
        self.cursor.advance();
        let database = self.cursor.is(K::Database);
        if keyword == K::Alter {
            self.found.effects |= Effects::DEFAULTS;
        }
        if database {
            self.found.effects |= Effects::FREES_DATABASE;
            self.cursor.advance();
            let _if_exists = self.cursor.take(K::If) && self.cursor.take(K::Exists);
            self.found.object = self.cursor.take_name();
        }
        self.act(&keyword.name(), Effects::DDL, Calls::Noted);
    }

    /// `name … TEMPLATE [=] other`: the other is copied while nobody is connected to it.
    fn create_database(&mut self) {
        self.found.effects |= Effects::FREES_DATABASE;
        while !self.cursor.at_end() {
            if self.cursor.take(K::Template) {
                if self.cursor.is_operator(self.cursor.token, b"=") {
                    self.cursor.advance();
                }
                self.found.object = self.cursor.take_name();
            } else {
                self.cursor.advance();
            }
        }
    }

    fn prepared(&mut self, keyword: K) {
        self.found.write(&keyword.name());
        self.found.effects |=
            if keyword == K::Prepare { Effects::PREPARE } else { Effects::EXECUTE | Effects::NEXTVAL };
        self.cursor.advance();
        self.found.object = self.cursor.take_name();
        self.body(Calls::Judged);
    }

    fn deallocate(&mut self) {
        self.found.session("DEALLOCATE");
        self.cursor.advance();
        if self.cursor.is(K::Prepare) && !matches!(self.cursor.next.kind, Kind::Semicolon | Kind::End) {
            self.cursor.advance();
        }
        if self.cursor.take(K::All) {
            self.found.effects |= Effects::DEALLOCATE_ALL;
        } else {
            self.found.effects |= Effects::DEALLOCATE;
            self.found.object = self.cursor.take_name();
        }
        self.finish();
    }

    /// It lives with its transaction, and does what its query does; WITH HOLD it outlives it.
    fn declare(&mut self) {
        self.found.raise(Class::Read, || "DECLARE".into());
        self.found.effects |= Effects::CURSOR;
        self.cursor.advance();
        self.found.object = self.cursor.take_name();
        while !self.cursor.at_end() && !self.cursor.take(K::For) {
            if self.cursor.is(K::With) && self.cursor.next_is(K::Hold) {
                self.found.write("DECLARE");
                self.found.effects |= Effects::HOLD_CURSOR;
            }
            self.cursor.advance();
        }
        self.body(Calls::Judged);
    }

    fn use_cursor(&mut self, keyword: K) {
        self.cursor.advance();
        if keyword == K::Close {
            self.found.session("CLOSE");
            if self.cursor.take(K::All) {
                self.found.effects |= Effects::CLOSE_ALL;
            } else {
                self.found.effects |= Effects::CLOSE_CURSOR;
                self.found.object = self.cursor.take_name();
            }
            return self.finish();
        }
        self.found.write(&keyword.name());
        // the cursor's name stands last
        while !self.cursor.at_end() {
            self.found.object = self.cursor.name(self.cursor.token);
            self.cursor.advance();
        }
    }

    fn listen(&mut self, keyword: K) {
        self.cursor.advance();
        let name = self.cursor.take_name();
        match (keyword, name) {
            (K::Listen, name) => {
                self.found.write("LISTEN");
                self.found.effects |= Effects::LISTEN;
                let room = CHANNELS.saturating_sub(self.found.channels.len());
                self.found.channels.extend(name.into_iter().take(room));
            }
            (_, None) => {
                self.found.session("UNLISTEN");
                self.found.effects |= Effects::UNLISTEN_ALL;
                self.cursor.advance();
            }
            (_, name) => {
                self.found.session("UNLISTEN");
                self.found.effects |= Effects::UNLISTEN;
                self.found.object = name;
            }
        }
        self.finish();
    }

    fn discard(&mut self) {
        self.cursor.advance();
        let effect = match self.cursor.keyword {
            Some(K::All) => Effects::DISCARD_ALL,
            Some(K::Temp | K::Temporary) => Effects::DISCARD_TEMP,
            Some(K::Sequences) => Effects::DISCARD_SEQUENCES,
            Some(K::Plans) => Effects::DISCARD_PLANS,
            _ => Effects::NONE,
        };
        self.found.session("DISCARD");
        self.found.effects |= effect;
        self.cursor.advance();
        self.finish();
    }

    /// The end of a statement whose grammar is known: something more makes it one that PostgreSQL refuses, and the
    /// primary may say so.
    pub(super) fn finish(&mut self) {
        if !self.cursor.at_end() {
            self.found.write("syntax");
            self.body(Calls::Noted);
        }
    }
}

#[cfg(test)]
mod tests;
