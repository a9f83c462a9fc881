//! What is known of functions: PostgreSQL's and its extensions' own from a generated table, the user's from each
//! database's catalog, and the configuration's two lists over both.

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::FixedState;

use super::functions_table::{EFFECTS, EXTENSIONS, PRIMARY, READS};
use super::keywords::Keyword;
use super::{Class, Effects, Lexing, classify};

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

impl Volatility {
    /// From the catalog's letter; what is not known is volatile.
    pub fn of(letter: char) -> Self {
        match letter {
            'i' => Self::Immutable,
            's' => Self::Stable,
            _ => Self::Volatile,
        }
    }
}

/// What one call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Call {
    /// Whether it may run on a replica.
    pub(super) read: bool,
    /// What it leaves behind.
    pub(super) effects: Effects,
}

type Catalog = HashMap<Box<[u8]>, Volatility, FixedState>;
/// A name and a text that belongs to it.
pub type Named = (Box<[u8]>, Box<[u8]>);
type Names = HashSet<Box<[u8]>, FixedState>;

/// The functions of one database, and relations of it that must be read on the primary. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Functions {
    builtin: Arc<HashMap<&'static [u8], Call, FixedState>>,
    catalog: Option<Arc<Catalog>>,
    relations: Option<Arc<Names>>,
    read_only: Arc<Names>,
    primary: Arc<Names>,
    fingerprint: u64,
}

impl Default for Functions {
    fn default() -> Self {
        Self::builtin()
    }
}

impl Functions {
    /// The names, with the strictest volatility of their overloads, that [`Functions::with_catalog`] wants: two
    /// columns, name and letter. Extensions that the table knows are left out. A function whose body names what
    /// must not run on a replica counts as VOLATILE, whatever its label.
    pub fn catalog_query() -> String {
        let known: Vec<String> = EXTENSIONS.split_whitespace().map(|name| format!("'{name}'")).collect();
        format!(
            "SELECT p.proname, pg_catalog.max(CASE WHEN p.provolatile OPERATOR(pg_catalog.=) 'v' \
             OR p.prosrc OPERATOR(pg_catalog.~*) '{SUSPECT}' THEN 'v' ELSE p.provolatile::pg_catalog.text END) \
             FROM pg_catalog.pg_proc p WHERE p.oid OPERATOR(pg_catalog.>=) 16384 AND NOT EXISTS (\
             SELECT 1 FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e \
             ON e.oid OPERATOR(pg_catalog.=) d.refobjid \
             WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass \
             AND d.objid OPERATOR(pg_catalog.=) p.oid AND d.deptype OPERATOR(pg_catalog.=) 'e' \
             AND e.extname OPERATOR(pg_catalog.=) ANY (ARRAY[{}]::pg_catalog.name[])) GROUP BY p.proname",
            known.join(",")
        )
    }

    /// The names that [`Functions::with_relations`] wants: sequences, whose positions a standby sees ahead of their
    /// use, and unlogged tables, which it can't read.
    pub fn relations_query() -> &'static str {
        "SELECT DISTINCT relname FROM pg_catalog.pg_class WHERE oid OPERATOR(pg_catalog.>=) 16384 \
         AND (relkind OPERATOR(pg_catalog.=) 'S' OR (relpersistence OPERATOR(pg_catalog.=) 'u' \
         AND relkind OPERATOR(pg_catalog.=) ANY ('{r,m,p}'::\"char\"[])))"
    }

    /// The rows that [`Functions::with_views`] wants.
    pub fn views_query() -> &'static str {
        "SELECT relname, pg_catalog.pg_get_viewdef(oid) FROM pg_catalog.pg_class \
         WHERE oid OPERATOR(pg_catalog.>=) 16384 AND relkind OPERATOR(pg_catalog.=) 'v'"
    }

    /// PostgreSQL's own functions, its contrib modules' and pgvector's. Any other is unknown, which is a write.
    pub fn builtin() -> Self {
        let mut table = HashMap::with_capacity_and_hasher(4096, FixedState::default());
        for (names, read) in [(READS, true), (PRIMARY, false)] {
            for name in names.split_ascii_whitespace() {
                table.insert(name.as_bytes(), Call { read, effects: Effects::NONE });
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
            read_only: Arc::default(),
            primary: Arc::default(),
            fingerprint: 0,
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

    /// With the functions that users of this database have made, all of them, as [`Functions::catalog_query`]
    /// gives them. Of a name that comes twice the strictest counts.
    #[must_use]
    pub fn with_catalog(mut self, rows: impl IntoIterator<Item = (Box<[u8]>, Volatility)>) -> Self {
        let mut catalog = Catalog::default();
        for (name, volatility) in rows {
            let known = catalog.entry(name).or_insert(volatility);
            *known = volatility.max(*known);
        }
        self.catalog = Some(Arc::new(catalog));
        self.renew()
    }

    /// With relations whose reading belongs on the primary, as [`Functions::relations_query`] gives them: names
    /// without schema; any relation of such a name counts.
    #[must_use]
    pub fn with_relations(mut self, names: impl IntoIterator<Item = Box<[u8]>>) -> Self {
        let names: Names = names.into_iter().collect();
        self.relations = (!names.is_empty()).then(|| Arc::new(names));
        self.renew()
    }

    /// With the database's views, name and definition, as [`Functions::views_query`] gives them: those that call
    /// what belongs on the primary count as such relations, views over them too. Give functions and relations first.
    #[must_use]
    pub fn with_views(mut self, views: &[Named]) -> Self {
        loop {
            let mut names = self.relations.as_deref().cloned().unwrap_or_default();
            let before = names.len();
            for (name, definition) in views {
                if !names.contains(name)
                    && classify(definition, &Lexing::default(), &self).class == Class::Write
                {
                    names.insert(name.clone());
                }
            }
            if names.len() == before {
                return self.renew();
            }
            self.relations = Some(Arc::new(names));
        }
    }

    /// A number that stands for what was given on top of the built-in table: verdicts of different ones don't mix.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// What a call of `name` is, `None` if the name is unknown. The name is folded and without schema.
    #[inline]
    pub(super) fn call(&self, name: &[u8]) -> Option<Call> {
        let builtin = self.builtin.get(name).copied();
        let users = self.catalog.as_ref().and_then(|catalog| catalog.get(name)).map(|volatility| {
            let read = *volatility < Volatility::Volatile;
            Call {
                read,
                effects: if read { Effects::NONE } else { Effects::UNKNOWN_CALL | Effects::NEXTVAL },
            }
        });
        let call = match (builtin, users) {
            (Some(a), Some(b)) => Some(Call { read: a.read && b.read, effects: a.effects | b.effects }),
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
            let effects = call.map_or(Effects::UNKNOWN_CALL | Effects::NEXTVAL, |call| call.effects);
            return Some(Call { read: false, effects });
        }
        if self.read_only.contains(name) {
            let effects = self.builtin.get(name).map_or(Effects::NONE, |call| call.effects);
            return Some(Call { read: true, effects });
        }
        call
    }

    /// Whether a relation of this name is one for the primary.
    #[inline]
    pub(super) fn primary_relation(&self, name: &[u8]) -> bool {
        self.relations.as_ref().is_some_and(|relations| relations.contains(name))
    }

    /// Whether relations were given at all.
    #[inline]
    pub(super) fn has_relations(&self) -> bool {
        self.relations.is_some()
    }

    /// Computes the fingerprint anew, whatever order the names have.
    fn renew(mut self) -> Self {
        let state = FixedState::with_seed(0x7067_6861);
        let mut sum = 1_u64;
        let mut add = |part: u8, name: &[u8], more: u8| {
            sum = sum.wrapping_add(state.hash_one((part, name, more)));
        };
        for (name, volatility) in self.catalog.iter().flat_map(|map| map.iter()) {
            add(0, name, *volatility as u8);
        }
        for name in self.relations.iter().flat_map(|names| names.iter()) {
            add(1, name, 0);
        }
        self.read_only.iter().for_each(|name| add(2, name, 0));
        self.primary.iter().for_each(|name| add(3, name, 0));
        add(4, &[], u8::from(self.catalog.is_some()));
        self.fingerprint = sum;
        self
    }
}

/// Words in a function's body that make it one for the primary.
const SUSPECT: &str = "advisory|dblink|nextval|setval|currval|lastval|set_config|setseed|pg_notify|pg_is_in_recovery\
|pg_backend_pid|lo_(open|creat|put|import|export|unlink)|export_snapshot|in_hot_standby|inet_server|crosstab|query_to_xml";

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
