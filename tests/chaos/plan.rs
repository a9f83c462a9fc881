//! Which faults, in which order, from a seed.

use std::fmt;

/// What is done to the cluster or to the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// `kill -9` of PostgreSQL on a member; its Patroni starts it again.
    KillPostgres,
    /// `kill -9` of a member's processes; it is started again when another leads.
    KillMember,
    /// The member is stopped until another leads, then goes on as if nothing had been.
    Freeze,
    /// Cut off from etcd, from the other members and from the proxy until another leads.
    Partition,
    /// Patroni's switchover.
    Switchover,
    /// etcd is killed and started again.
    EtcdDown,
    /// etcd's history is thrown away, and it is restarted so that watches have to begin again.
    EtcdCompact,
    /// The proxy is killed and started again.
    ProxyRestart,
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Self::KillPostgres => "PostgreSQL killed",
            Self::KillMember => "member killed",
            Self::Freeze => "frozen and thawed",
            Self::Partition => "partitioned",
            Self::Switchover => "switchover",
            Self::EtcdDown => "etcd killed",
            Self::EtcdCompact => "etcd compacted",
            Self::ProxyRestart => "proxy restarted",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The kinds whose names hold one of the words, separated by commas; without words all.
pub(crate) fn kinds(words: Option<&str>) -> Vec<Fault> {
    let Some(words) = words else { return KINDS.to_vec() };
    let named = |kind: &&Fault| words.split(',').any(|word| kind.name().contains(word.trim()));
    let kinds: Vec<Fault> = KINDS.iter().filter(named).copied().collect();
    assert!(!kinds.is_empty(), "no fault is called {words}");
    kinds
}

/// Whom it strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Victim {
    Leader,
    Replica,
}

/// One fault of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Planned {
    pub(crate) fault: Fault,
    pub(crate) victim: Victim,
    /// Quiet time before it, in milliseconds.
    pub(crate) pause_ms: u64,
    /// How long etcd, or a replica, is away, in milliseconds.
    pub(crate) outage_ms: u64,
}

impl Planned {
    pub(crate) fn leader(fault: Fault) -> Self {
        Self { fault, victim: Victim::Leader, pause_ms: 2000, outage_ms: 8000 }
    }
}

const KINDS: [Fault; 8] = [
    Fault::KillPostgres,
    Fault::KillMember,
    Fault::Freeze,
    Fault::Partition,
    Fault::Switchover,
    Fault::EtcdDown,
    Fault::EtcdCompact,
    Fault::ProxyRestart,
];

/// Numbers that follow from a seed alone (splitmix64).
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }

    /// The next faults: every kind once, in an order of the dice's.
    pub(crate) fn round(&mut self, kinds: &[Fault]) -> Vec<Planned> {
        let mut kinds = kinds.to_vec();
        for last in (1..kinds.len()).rev() {
            kinds.swap(last, usize::try_from(self.below(last as u64 + 1)).unwrap_or(0));
        }
        kinds.into_iter().map(|fault| self.planned(fault)).collect()
    }

    fn planned(&mut self, fault: Fault) -> Planned {
        let victim = if self.below(4) == 0 { Victim::Replica } else { Victim::Leader };
        Planned { fault, victim, pause_ms: 500 + self.below(3000), outage_ms: 3000 + self.below(9000) }
    }
}
