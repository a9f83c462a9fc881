//! A backend as the data path holds it: the connection, and what is known of its state.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use super::settings::Settings;
use crate::net::Stream;

/// ParameterStatus values by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parameters(Vec<Parameter>);

type Parameter = (Box<[u8]>, Box<[u8]>);

impl Parameters {
    /// The value of `name`.
    pub fn value(&self, name: &[u8]) -> Option<&[u8]> {
        self.0.iter().find(|(n, _)| **n == *name).map(|(_, value)| &**value)
    }

    /// Takes up a value; false if it was there already.
    pub fn set(&mut self, name: &[u8], value: &[u8]) -> bool {
        match self.0.iter_mut().find(|(n, _)| **n == *name) {
            Some((_, old)) if **old == *value => false,
            Some((_, old)) => {
                *old = value.into();
                true
            }
            None => {
                self.0.push((name.into(), value.into()));
                true
            }
        }
    }

    /// All of them, in the order in which the server first told them.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }
}

/// A shared prepared statement on one backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prepared {
    /// [`Settings::naming`] of the session that had it parsed.
    pub naming: u64,
    /// How many changes of the database's catalog were known when it was parsed.
    pub changes: u64,
    /// What its parameters and columns are, as a number; 0 while it was not described.
    pub shape: u64,
}

/// One connection to a member, logged in.
pub struct Backend {
    /// The connection.
    pub stream: Stream,
    /// Number of the member, as the topology has it.
    pub member: u16,
    /// The member's generation when it was opened: used under no other.
    pub generation: u64,
    /// The server's process id, for cancel requests.
    pub process_id: u32,
    /// The server's cancel key.
    pub secret: Box<[u8]>,
    /// Settings it was last brought in line with.
    pub settings: Arc<Settings>,
    /// What it last reported by ParameterStatus.
    pub parameters: Arc<Parameters>,
    /// Shared prepared statements it has, by their number.
    pub prepared: HashMap<u64, Prepared, foldhash::fast::RandomState>,
    /// Which Parse made its unnamed statement; 0 if none that can be used.
    pub unnamed: u64,
    /// Number of the session that held it last: what `currval()` and `lastval()` tell here is that session's.
    pub last_session: u32,
    /// Bytes that were read and belong to a frame not yet complete.
    pub stash: Vec<u8>,
    /// The proxy's end of the connection.
    pub local: Option<std::net::SocketAddr>,
    /// When it was opened.
    pub opened: Instant,
    /// When it last came back to its pool.
    pub idle_since: Instant,
    /// Gives its place back when dropped.
    pub permit: Box<dyn std::any::Any + Send>,
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend")
            .field("member", &self.member)
            .field("generation", &self.generation)
            .field("process_id", &self.process_id)
            .finish_non_exhaustive()
    }
}
