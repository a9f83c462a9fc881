//! What is known of functions: PostgreSQL's and its extensions' own from a generated table, the user's from each
//! database's catalog, and the configuration's two lists over both.

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::FixedState;

use super::Effects;
use super::functions_table::{EFFECTS, PRIMARY, READS};
use super::keywords::Keyword;

/// A function's volatility as its database declares it (`pg_proc.provolatile`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Volatility {
    /// `i`
    Immutable,
    /// `s`
    Stable,
    /// `v`
    Volatile,
}

/// What made a call what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// The built-in table.
    Table,
    /// The catalog's label.
    Label,
    /// What the function's body calls, whatever its label.
    Body,
    /// The configuration.
    Config,
}

/// What one call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Call {
    /// Whether it may run on a replica.
    pub(super) read: bool,
    /// What it leaves behind.
    pub(super) effects: Effects,
    /// What says so.
    by: By,
}

impl Call {
    /// Why it belongs on the primary, for people.
    pub(super) fn reason(self, name: &[u8]) -> Box<str> {
        let name = String::from_utf8_lossy(name);
        match self.by {
            By::Table => name.into(),
            By::Label => format!("function {name} is VOLATILE in the catalog").into(),
            By::Body => format!("function {name} calls in its body what belongs on the primary").into(),
            By::Config => format!("function {name} is in primary_functions").into(),
        }
    }
}

/// What a database's own functions of one name are; the strictest is the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Own {
    Reads,
    CallsPrimary,
    Volatile,
}

impl Own {
    /// From the label that the catalog's answer gives; what is not known is volatile.
    pub(super) fn of(label: &str) -> Self {
        match label {
            "i" | "s" => Self::Reads,
            "b" => Self::CallsPrimary,
            _ => Self::Volatile,
        }
    }
}

type Catalog = HashMap<Box<[u8]>, Own, FixedState>;
pub(super) type Names = HashSet<Box<[u8]>, FixedState>;
/// Names and why they belong on the primary.
pub(super) type Relations = HashMap<Box<[u8]>, &'static str, FixedState>;

/// The functions of one database, and relations of it that must be read on the primary. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Functions {
    builtin: Arc<HashMap<&'static [u8], Call, FixedState>>,
    pub(super) catalog: Option<Arc<Catalog>>,
    pub(super) relations: Option<Arc<Relations>>,
    pub(super) operators: Option<Arc<Names>>,
    read_only: Arc<Names>,
    primary: Arc<Names>,
    content: u64,
    scope: u64,
}

impl Default for Functions {
    fn default() -> Self {
        Self::builtin()
    }
}

impl Functions {
    /// PostgreSQL's own functions, its contrib modules' and pgvector's. Any other is unknown, which is a write.
    pub fn builtin() -> Self {
        let mut table = HashMap::with_capacity_and_hasher(4096, FixedState::default());
        for (names, read) in [(READS, true), (PRIMARY, false)] {
            for name in names.split_ascii_whitespace() {
                table.insert(name.as_bytes(), Call { read, effects: Effects::NONE, by: By::Table });
            }
        }
        for (effects, names) in EFFECTS {
            for name in names.split_ascii_whitespace() {
                if let Some(call) = table.get_mut(name.as_bytes()) {
                    call.effects |= *effects;
                }
            }
        }
        Self {
            builtin: Arc::new(table),
            catalog: None,
            relations: None,
            operators: None,
            read_only: Arc::default(),
            primary: Arc::default(),
            content: 0,
            scope: 0,
        }
    }

    /// With the configuration's `read_only_functions` and `primary_functions`: names without a schema, folded as
    /// PostgreSQL folds them. A name in both is for the primary.
    #[must_use]
    pub fn with_config<'n>(
        mut self,
        read_only: impl IntoIterator<Item = &'n str>,
        primary: impl IntoIterator<Item = &'n str>,
    ) -> Self {
        let boxed = |name: &str| Box::from(name.to_ascii_lowercase().into_bytes());
        self.read_only = Arc::new(read_only.into_iter().map(boxed).collect());
        self.primary = Arc::new(primary.into_iter().map(boxed).collect());
        self.renew()
    }

    /// With the functions that users of this database have made, all of them. Of a name that comes twice the strictest
    /// counts.
    #[must_use]
    pub fn with_catalog(self, rows: impl IntoIterator<Item = (Box<[u8]>, Volatility)>) -> Self {
        let own = |volatility| if volatility == Volatility::Volatile { Own::Volatile } else { Own::Reads };
        self.with_own(rows.into_iter().map(|(name, volatility)| (name, own(volatility))))
    }

    pub(super) fn with_own(mut self, rows: impl IntoIterator<Item = (Box<[u8]>, Own)>) -> Self {
        let mut catalog = Catalog::default();
        for (name, own) in rows {
            let known = catalog.entry(name).or_insert(own);
            *known = own.max(*known);
        }
        self.catalog = Some(Arc::new(catalog));
        self.renew()
    }

    /// With relations whose reading belongs on the primary, each with why: names without schema; any relation of such a
    /// name counts.
    #[must_use]
    pub fn with_relations(mut self, names: impl IntoIterator<Item = (Box<[u8]>, &'static str)>) -> Self {
        let names: Relations = names.into_iter().collect();
        self.relations = (!names.is_empty()).then(|| Arc::new(names));
        self.renew()
    }

    /// The same under a number that nothing else has: verdicts by it are used for nothing else.
    #[must_use]
    pub fn in_scope(mut self, scope: u64) -> Self {
        self.scope = scope;
        self
    }

    /// Whether a database's catalog was given.
    pub fn has_catalog(&self) -> bool {
        self.catalog.is_some()
    }

    /// How many names of functions, relations and operators a database's catalog brought.
    pub fn counts(&self) -> [usize; 3] {
        [
            self.catalog.as_ref().map_or(0, |names| names.len()),
            self.relations.as_ref().map_or(0, |names| names.len()),
            self.operators.as_ref().map_or(0, |names| names.len()),
        ]
    }

    /// A number that stands for the scope, or without one for what was given on top of the built-in table: verdicts of
    /// different ones don't mix.
    #[inline]
    pub fn fingerprint(&self) -> u64 {
        if self.scope == 0 { self.content } else { self.scope }
    }

    /// What a call of `name` is, `None` if the name is unknown. The name is folded and without schema.
    #[inline]
    pub(super) fn call(&self, name: &[u8]) -> Option<Call> {
        let builtin = self.builtin.get(name).copied();
        let users = self.catalog.as_ref().and_then(|catalog| catalog.get(name)).map(|own| match own {
            Own::Reads => Call { read: true, effects: Effects::NONE, by: By::Label },
            Own::CallsPrimary => Call { read: false, effects: UNSEEN, by: By::Body },
            Own::Volatile => Call { read: false, effects: UNSEEN, by: By::Label },
        });
        let call = match (builtin, users) {
            (Some(a), Some(b)) => {
                let strictest = if a.read { b } else { a };
                Some(Call { effects: a.effects | b.effects, ..strictest })
            }
            (one, other) => one.or(other),
        };
        if self.primary.is_empty() && self.read_only.is_empty() {
            return call;
        }
        self.configured(name, call)
    }

    /// Whether there is a function of a keyword's name.
    pub(super) fn knows(&self, keyword: Keyword) -> bool {
        self.call(keyword.word().as_bytes()).is_some()
    }

    fn configured(&self, name: &[u8], call: Option<Call>) -> Option<Call> {
        if self.primary.contains(name) {
            let effects = call.map_or(UNSEEN, |call| call.effects);
            return Some(Call { read: false, effects, by: By::Config });
        }
        if self.read_only.contains(name) {
            let effects = self.builtin.get(name).map_or(Effects::NONE, |call| call.effects);
            return Some(Call { read: true, effects, by: By::Config });
        }
        call
    }

    /// Why a function of which nothing is known belongs on the primary, for people.
    pub(super) fn unknown(&self, name: &[u8]) -> Box<str> {
        let name = String::from_utf8_lossy(name);
        if self.has_catalog() { format!("function {name} is not in the catalog").into() } else { name.into() }
    }

    /// Why a relation of this name is one for the primary, if it is.
    #[inline]
    pub(super) fn primary_relation(&self, name: &[u8]) -> Option<&'static str> {
        self.relations.as_ref()?.get(name).copied()
    }

    /// Whether relations were given at all.
    #[inline]
    pub(super) fn has_relations(&self) -> bool {
        self.relations.is_some()
    }

    /// Whether an operator of this name calls what belongs on the primary.
    #[inline]
    pub(super) fn primary_operator(&self, name: &[u8]) -> bool {
        self.operators.as_ref().is_some_and(|operators| operators.contains(name))
    }

    /// Computes the fingerprint anew, whatever order the names have.
    pub(super) fn renew(mut self) -> Self {
        let state = FixedState::with_seed(0x7067_6861);
        let mut sum = 1_u64;
        let mut add = |part: u8, name: &[u8], more: u8| {
            sum = sum.wrapping_add(state.hash_one((part, name, more)));
        };
        for (name, own) in self.catalog.iter().flat_map(|map| map.iter()) {
            add(0, name, *own as u8);
        }
        self.relations.iter().flat_map(|names| names.keys()).for_each(|name| add(1, name, 0));
        self.operators.iter().flat_map(|names| names.iter()).for_each(|name| add(5, name, 0));
        self.read_only.iter().for_each(|name| add(2, name, 0));
        self.primary.iter().for_each(|name| add(3, name, 0));
        add(4, &[], u8::from(self.catalog.is_some()));
        self.content = sum;
        self
    }
}

/// What a function may leave behind of which nothing is seen.
const UNSEEN: Effects = Effects(Effects::UNKNOWN_CALL.0 | Effects::NEXTVAL.0);

#[cfg(test)]
mod tests {
    use super::*;

    fn read(functions: &Functions, name: &str) -> Option<bool> {
        functions.call(name.as_bytes()).map(|call| call.read)
    }

    #[test]
    fn the_table_is_whole_and_divided() {
        let functions = Functions::builtin();
        assert!(functions.builtin.len() > 2500, "{}", functions.builtin.len());
        for name in
            ["lower", "now", "random", "cosine_distance", "similarity", "digest", "count", "row_number"]
        {
            assert_eq!(read(&functions, name), Some(true), "{name}");
        }
        for name in ["nextval", "pg_advisory_lock", "set_config", "pg_is_in_recovery", "dblink", "ts_stat"] {
            assert_eq!(read(&functions, name), Some(false), "{name}");
        }
        assert_eq!(read(&functions, "my_function"), None);
        for (_, names) in EFFECTS {
            for name in names.split_ascii_whitespace() {
                assert!(
                    functions.call(name.as_bytes()).is_some_and(|call| !call.effects.is_empty()),
                    "{name}"
                );
            }
        }
    }

    #[test]
    fn the_strictest_counts_and_the_configuration_above_all() {
        let rows = |name: &str, volatility| (Box::from(name.as_bytes()), volatility);
        let functions = Functions::builtin().with_catalog([
            rows("mine", Volatility::Stable),
            rows("both", Volatility::Volatile),
            rows("both", Volatility::Immutable),
            rows("lower", Volatility::Volatile),
        ]);
        assert_eq!(read(&functions, "mine"), Some(true));
        assert_eq!(read(&functions, "both"), Some(false));
        assert_eq!(read(&functions, "lower"), Some(false));
        assert_eq!(read(&functions, "nextval"), Some(false));
        let configured = functions.clone().with_config(["Both", "x"], ["x", "mine"]);
        assert_eq!(read(&configured, "both"), Some(true));
        assert_eq!(read(&configured, "x"), Some(false));
        assert_eq!(read(&configured, "mine"), Some(false));
        assert_ne!(functions.fingerprint(), configured.fingerprint());
        assert_ne!(functions.fingerprint(), Functions::builtin().fingerprint());
    }
}
