//! The verifiers of the users that log in: configured ones, and those of the primary behind a cache.
//!
//! One lookup a user is under way at a time. A verifier is read again when it is older than the time it may be
//! used, or when a login failed by it; if the primary can't be asked then, the one that was read last still serves.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use dashmap::DashMap;

use super::tally::{Counted, Tally};
use crate::config::{User, UserSecret};
use crate::scram::{DEFAULT_ITERATIONS, LookupError, Password, Role, Unusable, Verifier, VerifierError};

/// Asks the primary about a role; none when there is no such role.
pub type Lookup = Arc<dyn Fn(Arc<str>) -> LookupFuture + Send + Sync>;
/// What a [`Lookup`] gives.
pub type LookupFuture = Pin<Box<dyn Future<Output = Result<Option<Role>, LookupError>> + Send>>;

/// How verifiers are kept.
#[derive(Debug, Clone)]
pub struct VerifiersConfig {
    /// How long a verifier is used before it is read again.
    pub ttl: Duration,
    /// How long one may be used when the primary can't be asked.
    pub stale: Duration,
    /// How long a lookup may take.
    pub timeout: Duration,
    /// How many roles are kept.
    pub capacity: usize,
    /// Key of the made-up verifiers of unknown users, the same on every proxy of a cluster.
    pub cluster_secret: Arc<[u8]>,
}

/// The users that may log in.
pub struct Verifiers {
    configured: ArcSwap<Configured>,
    roles: DashMap<Arc<str>, Arc<Entry>, foldhash::fast::RandomState>,
    sessions: Arc<Tally>,
    by_database: Arc<Tally>,
    lookup: Option<Lookup>,
    config: VerifiersConfig,
}

/// What a login goes by.
#[derive(Debug)]
pub(super) struct Subject {
    /// To challenge with; made up where there is none to use.
    pub(super) verifier: Verifier,
    /// Why it is made up, for the operator.
    pub(super) unusable: Option<Unusable>,
    /// What the primary says of the role; none for configured users.
    pub(super) role: Option<Arc<Role>>,
    /// The configured password, which logs in at servers whatever verifier they hold.
    pub(super) password: Option<Arc<Password>>,
}

/// The users of the configuration, with what they prove themselves by.
pub struct Configured(HashMap<Arc<str>, Known>);

#[derive(Clone)]
struct Known {
    verifier: Verifier,
    password: Option<Arc<Password>>,
}

/// One role: what was read last, and the turn to read it again.
#[derive(Default)]
struct Entry {
    state: Mutex<State>,
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    known: Option<(Arc<Role>, Instant)>,
    /// A login failed by it: read it again whatever its age.
    doubted: bool,
    failed: Option<(LookupError, Instant)>,
}

impl Verifiers {
    /// With the configured users, and a lookup for all others.
    pub fn new(users: Configured, lookup: Option<Lookup>, config: VerifiersConfig) -> Self {
        Self {
            configured: ArcSwap::from_pointee(users),
            roles: DashMap::default(),
            sessions: Arc::default(),
            by_database: Arc::default(),
            lookup,
            config,
        }
    }

    /// Takes other configured users up, for logins from here on.
    pub fn configure(&self, users: Configured) {
        self.configured.store(Arc::new(users));
    }

    /// Forgets what was read from the primary of `user`: the next login reads it again.
    pub fn doubt(&self, user: &str) {
        if let Some(entry) = self.roles.get(user) {
            entry.state().doubted = true;
        }
    }

    /// Reads what the primary says of `user`, so that it is known when there is none to ask; what is fresh is not read again.
    pub async fn prepare(&self, user: &Arc<str>) {
        // Where it can't be read now there is nobody to tell.
        let _unread = self.subject(user).await;
    }

    /// How many roles are kept.
    pub fn len(&self) -> usize {
        self.roles.len()
    }

    /// Whether no role is kept.
    pub fn is_empty(&self) -> bool {
        self.roles.is_empty()
    }

    /// What a login of `user` goes by.
    ///
    /// # Errors
    /// [`LookupError`] when the primary can't be asked and nothing is known from before.
    pub(super) async fn subject(&self, user: &Arc<str>) -> Result<Subject, LookupError> {
        let known = self.configured.load().0.get(user).cloned();
        if let Some(Known { verifier, password }) = known {
            return Ok(Subject { verifier, unusable: None, role: None, password });
        }
        let role = if self.lookup.is_some() { self.role(user).await? } else { None };
        let found = match &role {
            None => Err(Unusable::Unknown),
            Some(role) => role.verifier_at(unix_time()).cloned(),
        };
        let (verifier, unusable) = match found {
            Ok(verifier) => (verifier, None),
            // Also for a password that has expired: PostgreSQL doesn't show its salt either.
            Err(why) => (Verifier::mock(&self.config.cluster_secret, user), Some(why)),
        };
        Ok(Subject { verifier, unusable, role, password: None })
    }

    /// The configured password of a user, with which the proxy logs in at servers without any proof of the user's.
    pub(super) fn password(&self, user: &str) -> Option<Arc<Password>> {
        self.configured.load().0.get(user)?.password.clone()
    }

    /// Counts one more session of a role; none when that is over its limit.
    pub(super) fn count_session(&self, user: &Arc<str>, limit: Option<u32>) -> Option<Counted> {
        self.sessions.count(user, limit)
    }

    /// Counts one more session in a database; none when that is over its limit.
    pub(super) fn count_in_database(&self, database: &Arc<str>, limit: Option<u32>) -> Option<Counted> {
        self.by_database.count(database, limit)
    }

    async fn role(&self, user: &Arc<str>) -> Result<Option<Arc<Role>>, LookupError> {
        let asked = Instant::now();
        let entry = self.entry(user);
        if let Some(role) = entry.state().fresh(asked, self.config.ttl) {
            return Ok(Some(role));
        }
        let _turn = entry.turn.lock().await;
        // Somebody else may have asked while this one waited; what they heard was said after this one began.
        {
            let state = entry.state();
            if let Some(role) = state.read_since(asked) {
                return Ok(Some(role));
            }
            if let Some((error, at)) = &state.failed
                && *at >= asked
            {
                return state.stale(asked, self.config.stale).map(Some).ok_or_else(|| error.clone());
            }
        }
        self.read(user, &entry).await
    }

    async fn read(&self, user: &Arc<str>, entry: &Entry) -> Result<Option<Arc<Role>>, LookupError> {
        let Some(lookup) = &self.lookup else { return Err(LookupError::NotConfigured) };
        // From before the question, since the answer may be that old.
        let asked = Instant::now();
        let answer = match tokio::time::timeout(self.config.timeout, lookup(Arc::clone(user))).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err(LookupError::TimedOut),
        };
        let mut state = entry.state();
        match answer {
            Ok(Some(role)) => {
                let role = Arc::new(role);
                *state = State { known: Some((Arc::clone(&role), asked)), doubted: false, failed: None };
                Ok(Some(role))
            }
            Ok(None) => {
                *state = State::default();
                drop(state);
                self.roles.remove(user);
                Ok(None)
            }
            Err(error) => {
                let now = Instant::now();
                state.failed = Some((error.clone(), now));
                state.stale(now, self.config.stale).map(Some).ok_or(error)
            }
        }
    }

    fn entry(&self, user: &Arc<str>) -> Arc<Entry> {
        if let Some(entry) = self.roles.get(user) {
            return Arc::clone(&entry);
        }
        if self.roles.len() >= self.config.capacity {
            self.make_room();
        }
        Arc::clone(&self.roles.entry(Arc::clone(user)).or_default())
    }

    /// Drops what is too old to be used, and if that is not enough, any one.
    fn make_room(&self) {
        let now = Instant::now();
        self.roles.retain(|_, entry| entry.state().fresh(now, self.config.ttl).is_some());
        if self.roles.len() >= self.config.capacity {
            let any = self.roles.iter().next().map(|entry| Arc::clone(entry.key()));
            any.and_then(|user| self.roles.remove(&user));
        }
    }
}

impl fmt::Debug for Verifiers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifiers").field("roles", &self.roles.len()).finish_non_exhaustive()
    }
}

impl Entry {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn fresh(&self, now: Instant, ttl: Duration) -> Option<Arc<Role>> {
        self.within(now, ttl).filter(|_| !self.doubted)
    }

    fn stale(&self, now: Instant, stale: Duration) -> Option<Arc<Role>> {
        self.within(now, stale)
    }

    fn within(&self, now: Instant, age: Duration) -> Option<Arc<Role>> {
        let (role, read) = self.known.as_ref()?;
        (now.saturating_duration_since(*read) < age).then(|| Arc::clone(role))
    }

    fn read_since(&self, when: Instant) -> Option<Arc<Role>> {
        let (role, read) = self.known.as_ref()?;
        (*read >= when && !self.doubted).then(|| Arc::clone(role))
    }
}

impl Configured {
    /// Takes milliseconds for each user with a password.
    ///
    /// # Errors
    /// The user whose verifier is none.
    pub fn new(users: &[User]) -> Result<Self, (String, VerifierError)> {
        let known = users.iter().map(|user| match Known::new(&user.secret) {
            Ok(known) => Ok((Arc::from(user.name.as_str()), known)),
            Err(error) => Err((user.name.clone(), error)),
        });
        known.collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Debug for Configured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Configured").field("users", &self.0.len()).finish()
    }
}

impl Known {
    fn new(secret: &UserSecret) -> Result<Self, VerifierError> {
        Ok(match secret {
            UserSecret::Password(password) => Self {
                verifier: Verifier::from_password(password, rand::random(), DEFAULT_ITERATIONS),
                password: Some(Arc::new(Password::new(password))),
            },
            UserSecret::Verifier(verifier) => Self { verifier: Verifier::parse(verifier)?, password: None },
        })
    }
}

/// The time as `VALID UNTIL` counts it: seconds since 1970.
fn unix_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests;
