//! Statements that begin, end or divide a transaction.

use super::body::Calls;
use super::classify::Statements;
use super::keywords::Keyword as K;
use super::lexer::Kind;
use super::{TransactionModes, TransactionVerb};

/// The modes of a transaction as written.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Modes {
    /// The isolation level in lower case.
    pub(super) level: Option<&'static str>,
    pub(super) read_only: Option<bool>,
    pub(super) deferrable: Option<bool>,
}

impl Modes {
    pub(super) fn public(self) -> TransactionModes {
        TransactionModes {
            read_only: self.read_only,
            serializable: self.level == Some("serializable"),
            deferrable: self.deferrable,
        }
    }
}

impl Statements<'_, '_> {
    pub(super) fn transaction(&mut self, keyword: K) {
        self.cursor.advance();
        if matches!(keyword, K::Commit | K::Rollback) && self.cursor.is(K::Prepared) {
            return self.two_phase(if keyword == K::Commit {
                "COMMIT PREPARED"
            } else {
                "ROLLBACK PREPARED"
            });
        }
        let named = self.cursor.take(K::Transaction) || (keyword != K::Start && self.cursor.take(K::Work));
        let verb = match keyword {
            K::Begin => self.modes().map(|modes| TransactionVerb::Begin(modes.public())),
            K::Start if named => self.modes().map(|modes| TransactionVerb::Begin(modes.public())),
            K::Start => None,
            K::Commit | K::End => self.chain().map(|chain| TransactionVerb::Commit { chain }),
            _ if self.cursor.take(K::To) => self.savepoint_name().map(TransactionVerb::RollbackTo),
            _ => self.chain().map(|chain| TransactionVerb::Rollback { chain }),
        };
        self.verb(&keyword.name(), verb);
    }

    pub(super) fn savepoint(&mut self, keyword: K) {
        self.cursor.advance();
        let verb = if keyword == K::Savepoint {
            self.cursor.take_name().map(TransactionVerb::Savepoint)
        } else {
            self.savepoint_name().map(TransactionVerb::Release)
        };
        self.verb(&keyword.name(), verb);
    }

    pub(super) fn two_phase(&mut self, reason: &str) {
        self.found.write(reason);
        self.found.transaction = Some(TransactionVerb::TwoPhase);
        self.body(Calls::Noted);
    }

    /// SET TRANSACTION: at the first mode.
    pub(super) fn set_transaction(&mut self) {
        if self.cursor.is(K::Snapshot) {
            self.found.write("SET TRANSACTION SNAPSHOT");
            self.found.transaction = Some(TransactionVerb::Set(TransactionModes::default()));
            return self.body(Calls::Noted);
        }
        let verb = self.modes().map(|modes| TransactionVerb::Set(modes.public()));
        self.verb("SET TRANSACTION", verb);
    }

    /// Keeps a verb if the statement ends behind it, else it is one that PostgreSQL refuses.
    fn verb(&mut self, reason: &str, verb: Option<TransactionVerb>) {
        match verb {
            Some(verb) if self.cursor.at_end() => {
                self.found.session(reason);
                self.found.transaction = Some(verb);
            }
            _ => {
                self.found.write("syntax");
                self.body(Calls::Noted);
            }
        }
    }

    /// `[SAVEPOINT] name`
    fn savepoint_name(&mut self) -> Option<Box<[u8]>> {
        let word = self.cursor.token;
        if self.cursor.take(K::Savepoint) && self.cursor.at_end() {
            return self.cursor.name(word);
        }
        self.cursor.take_name()
    }

    /// `[AND [NO] CHAIN]`
    fn chain(&mut self) -> Option<bool> {
        if !self.cursor.take(K::And) {
            return Some(false);
        }
        let no = self.cursor.take(K::No);
        self.cursor.take(K::Chain).then_some(!no)
    }

    /// Transaction modes up to the end of the statement; `None` if something else stands there.
    pub(super) fn modes(&mut self) -> Option<Modes> {
        let mut modes = Modes::default();
        while !self.cursor.at_end() {
            self.mode(&mut modes)?;
            if self.cursor.token.kind == Kind::Comma {
                self.cursor.advance();
            }
        }
        Some(modes)
    }

    fn mode(&mut self, modes: &mut Modes) -> Option<()> {
        let first = self.cursor.keyword?;
        self.cursor.advance();
        match first {
            K::Isolation => {
                self.cursor.take(K::Level).then_some(())?;
                modes.level = Some(self.level()?);
            }
            K::Read => {
                let only = self.cursor.take(K::Only);
                (only || self.cursor.take(K::Write)).then_some(())?;
                modes.read_only = Some(only);
            }
            K::Not => {
                self.cursor.take(K::Deferrable).then_some(())?;
                modes.deferrable = Some(false);
            }
            K::Deferrable => modes.deferrable = Some(true),
            _ => return None,
        }
        Some(())
    }

    fn level(&mut self) -> Option<&'static str> {
        let first = self.cursor.keyword?;
        self.cursor.advance();
        match first {
            K::Serializable => Some("serializable"),
            K::Repeatable => self.cursor.take(K::Read).then_some("repeatable read"),
            K::Read if self.cursor.take(K::Committed) => Some("read committed"),
            K::Read => self.cursor.take(K::Uncommitted).then_some("read uncommitted"),
            _ => None,
        }
    }
}
