//! PURE: what a statement's text says of where it may run and of what it does to its session.
//!
//! A lexer of PostgreSQL's own lexical rules, no parser: it over-approximates, and in doubt a statement belongs
//! on the primary. Text is bytes, in whatever encoding the client speaks.

mod alike;
mod body;
mod cache;
mod catalog;
mod classify;
mod cursor;
mod explain;
mod functions;
mod functions_table;
mod hints;
mod keywords;
mod keywords_table;
pub mod lexer;
mod names;
mod normalize;
mod pattern;
mod relations;
mod settings;
mod shape;
mod transactions;

use std::cell::Cell;
use std::fmt;

pub use alike::parses_alike;
pub use cache::ClassCache;
pub use catalog::{Rows, questions, revision};
pub use classify::{classify, second_statement};
pub use functions::{Functions, Volatility};
pub use lexer::{Encoding, Lexing};
pub use normalize::{fingerprint, normalize};
pub use shape::shared_shape;

/// Where a statement may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Nothing in it needs the primary.
    Read,
    /// A read with a vector distance operator.
    VectorRead,
    /// Only the session's own state is touched (SET, SHOW of a tracked setting, DISCARD, DEALLOCATE …): any
    /// backend of the session will do.
    Session,
    /// Must run on the primary, or may have to.
    Write,
}

impl Class {
    /// The class as words for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::VectorRead => "vector read",
            Self::Session => "session",
            Self::Write => "write",
        }
    }
}

/// Which way a COPY sends data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CopyDirection {
    /// COPY … FROM STDIN.
    In,
    /// COPY … TO STDOUT.
    Out,
}

/// The options of BEGIN, START TRANSACTION or SET TRANSACTION, as far as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TransactionModes {
    /// READ ONLY (true) or READ WRITE (false).
    pub read_only: Option<bool>,
    /// An ISOLATION LEVEL SERIALIZABLE stands there: no standby can run it.
    pub serializable: bool,
    /// DEFERRABLE (true) or NOT DEFERRABLE (false).
    pub deferrable: Option<bool>,
}

impl TransactionModes {
    /// The modes when `set` was said behind them.
    #[must_use]
    pub fn then(self, set: Self) -> Self {
        Self {
            read_only: set.read_only.or(self.read_only),
            serializable: self.serializable || set.serializable,
            deferrable: set.deferrable.or(self.deferrable),
        }
    }
}

/// A statement that begins, ends or divides a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TransactionVerb {
    /// BEGIN or START TRANSACTION.
    Begin(TransactionModes),
    /// COMMIT or END; `chain` for AND CHAIN.
    Commit {
        /// AND CHAIN.
        chain: bool,
    },
    /// ROLLBACK or ABORT, not TO a savepoint.
    Rollback {
        /// AND CHAIN.
        chain: bool,
    },
    /// SAVEPOINT name (folded).
    Savepoint(Box<[u8]>),
    /// ROLLBACK TO name.
    RollbackTo(Box<[u8]>),
    /// RELEASE name.
    Release(Box<[u8]>),
    /// SET TRANSACTION modes.
    Set(TransactionModes),
    /// PREPARE TRANSACTION, COMMIT PREPARED, ROLLBACK PREPARED.
    TwoPhase,
}

/// One change of a session's settings, in the order of the text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SettingChange {
    /// SET [SESSION | LOCAL] name = value. `value` is the text behind TO or `=` as it was written, so that it can
    /// be given to another backend as it is (`SET name TO value`). SET ROLE has the name `role`, SET SESSION AUTHORIZATION the name
    /// `session_authorization`, SET TIME ZONE `timezone`, SET NAMES `client_encoding`, SET SCHEMA `search_path`, XML OPTION
    /// `xmloption`, SET SESSION CHARACTERISTICS the names `default_transaction_*`.
    Set {
        /// The setting's name, folded to lower case.
        name: Box<str>,
        /// The value as written.
        value: Box<[u8]>,
        /// SET LOCAL: ends with the transaction.
        local: bool,
    },
    /// RESET name, or SET name TO DEFAULT.
    Reset {
        /// The setting's name, folded to lower case.
        name: Box<str>,
        /// SET LOCAL name TO DEFAULT.
        local: bool,
    },
    /// RESET ALL.
    ResetAll,
}

/// What a statement leaves behind in its backend, or takes away again. A set of flags.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Effects(pub u32);

macro_rules! effects {
    ($($(#[$doc:meta])* $name:ident = $bit:expr;)*) => {
        impl Effects {
            $($(#[$doc])* pub const $name: Self = Self(1 << $bit);)*
            const NAMES: &'static [(Self, &'static str)] = &[$((Self::$name, stringify!($name))),*];
        }
    };
}

effects! {
    /// Creates a temporary table, view or sequence (also CREATE TABLE pg_temp.x, SELECT INTO TEMP).
    TEMP_OBJECT = 0;
    /// LISTEN.
    LISTEN = 1;
    /// UNLISTEN of one channel.
    UNLISTEN = 2;
    /// UNLISTEN *.
    UNLISTEN_ALL = 3;
    /// DECLARE … WITH HOLD.
    HOLD_CURSOR = 4;
    /// CLOSE of a cursor.
    CLOSE_CURSOR = 5;
    /// CLOSE ALL.
    CLOSE_ALL = 6;
    /// Takes a session-level advisory lock.
    ADVISORY_LOCK = 7;
    /// Gives one back.
    ADVISORY_UNLOCK = 8;
    /// pg_advisory_unlock_all().
    ADVISORY_UNLOCK_ALL = 9;
    /// SQL PREPARE.
    PREPARE = 10;
    /// DEALLOCATE of one name.
    DEALLOCATE = 11;
    /// DEALLOCATE ALL.
    DEALLOCATE_ALL = 12;
    /// LOAD.
    LOAD = 13;
    /// set_config(), UPDATE pg_settings: a setting changes in a way that the text doesn't tell.
    SET_CONFIG = 14;
    /// DO or CALL: may do any of these.
    PROCEDURAL = 15;
    /// Reads currval() or lastval(): needs the backend that called nextval().
    CURRVAL = 16;
    /// Calls nextval() or writes: may set currval() and lastval() of its backend.
    NEXTVAL = 17;
    /// DISCARD ALL.
    DISCARD_ALL = 18;
    /// DISCARD TEMP.
    DISCARD_TEMP = 19;
    /// DISCARD SEQUENCES.
    DISCARD_SEQUENCES = 20;
    /// DISCARD PLANS.
    DISCARD_PLANS = 21;
    /// DDL: what was learnt of statements and functions may be wrong from here.
    DDL = 22;
    /// DECLARE of a cursor (also without HOLD), which lives with the transaction.
    CURSOR = 23;
    /// SQL EXECUTE of a PREPAREd name.
    EXECUTE = 24;
    /// Other state of one backend that nothing shows (setseed, dblink_connect, set_limit, pg_export_snapshot,
    /// replication origins …).
    BACKEND_STATE = 25;
    /// Calls a function that is volatile or unknown and not PostgreSQL's own, or SQL in a string: may do any of these.
    UNKNOWN_CALL = 26;
    /// DDL that names currval() or lastval() and calls neither: a default, a constraint.
    DEFINES_CURRVAL = 27;
    /// Reads pg_prepared_statements.
    SHOWS_STATEMENTS = 28;
    /// Needs a database that nobody is connected to, which `object` names: DROP, ALTER, CREATE … TEMPLATE.
    FREES_DATABASE = 29;
    /// ALTER ROLE or DATABASE: logins from here on may have other settings.
    DEFAULTS = 30;
    /// set_config() of a setting that ends with the transaction.
    SET_LOCAL = 31;
}

impl Effects {
    /// No effect.
    pub const NONE: Self = Self(0);

    /// Whether all of `other` is in it.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any of `other` is in it.
    pub fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// What a definition calls is called later: a CURRVAL that came after `before` is only defined.
    fn defines_currval(&mut self, before: Self) {
        if self.contains(Self::CURRVAL) && !before.contains(Self::CURRVAL) {
            self.0 = self.0 & !Self::CURRVAL.0 | Self::DEFINES_CURRVAL.0;
        }
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl std::ops::BitOr for Effects {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl std::ops::BitOrAssign for Effects {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl fmt::Debug for Effects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Self::NAMES.iter().filter(|(flag, _)| self.contains(*flag)).map(|(_, name)| name);
        f.debug_set().entries(names).finish()
    }
}

/// A leading `/* pgha: … */`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hint {
    /// To the primary.
    Primary,
    /// To a replica, if it is a read.
    Replica,
}

/// A consistency level in a hint: `/* pgha: eventual */`, alone or behind a target and a comma.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConsistencyHint {
    /// Reads may go back in time.
    Eventual,
    /// Reads see what the session wrote.
    Session,
    /// Reads see what anyone wrote through this proxy.
    Strong,
}

/// What running a statement has shown of it, beyond what its text says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Learnt {
    /// Nothing yet.
    #[default]
    Nothing,
    /// A replica ran it: it writes nothing.
    Reads,
    /// A replica refused it: it writes, through a view, a function or an operator.
    Writes,
}

/// What a whole query string is: the strictest of its statements, and all that they do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Statements that are not empty.
    pub statements: u32,
    /// Where the string may run.
    pub class: Class,
    /// What decided the class: a token, a function's name, or a fixed word. For people.
    pub reason: Box<str>,
    /// The transaction verb, if the string is a single such statement.
    pub transaction: Option<TransactionVerb>,
    /// Whether one of several statements is a transaction verb (BEGIN; …; COMMIT in one string).
    pub mixed_transaction: bool,
    /// What it leaves behind.
    pub effects: Effects,
    /// Settings it changes, in order.
    pub settings: Box<[SettingChange]>,
    /// COPY to or from the client.
    pub copy: Option<CopyDirection>,
    /// SHOW of one setting, if the string is that alone: the name, folded (`SHOW ALL` is `all`).
    pub show: Option<Box<str>>,
    /// `LISTEN`ed channels (folded), to be taken up again after a failover.
    pub channels: Box<[Box<[u8]>]>,
    /// The hint in front.
    pub hint: Option<Hint>,
    /// The consistency that the hint asks for.
    pub consistency: Option<ConsistencyHint>,
    /// The name that a single PREPARE, EXECUTE, DEALLOCATE, DECLARE, FETCH, MOVE, CLOSE or UNLISTEN speaks of,
    /// folded; `None` for ALL and `*`.
    pub object: Option<Box<[u8]>>,
    /// `EXPLAIN (ROUTE) statement`: the byte where the statement begins.
    pub explain_route: Option<usize>,
    /// A value that stands in the text had a say in it.
    pub by_value: bool,
    /// What was learnt of it by running it.
    pub learnt: Cell<Learnt>,
}

impl Verdict {
    /// Where the string may run, by its text and by what was learnt.
    pub fn class(&self) -> Class {
        if self.learnt.get() == Learnt::Writes { Class::Write } else { self.class }
    }

    /// What decided the class, by its text and by what was learnt.
    pub fn why(&self) -> &str {
        if self.learnt.get() == Learnt::Writes { "learnt: a replica refused it" } else { &self.reason }
    }
}
