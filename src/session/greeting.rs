//! The beginning of a session: from a login to the first ReadyForQuery.
//!
//! What a server tells at login (ParameterStatus) depends on the role, the database and the startup packet. The first login of a
//! kind asks a backend; those after it get the same answer for a while.

use std::any::Any;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::acquire::{Attempt, Failure};
use super::batch::Summary;
use super::handle::Handle;
use super::loss::Loss;
use super::run::{Outcome, Run};
use super::shared::{Greeting, GreetingKey, Shared};
use super::shown::Card;
use super::state::Tx;
use super::worker::Pools;
use super::{Ended, Mail, Session, Worker};
use crate::backend::{Parameters, Settings};
use crate::client::{Accepted, CancelEntry, RoleGuard};
use crate::net::{Stream, reactor};
use crate::sql::{Class, Encoding, Lexing};
use crate::wire::build::{self, Severity};
use crate::wire::startup::{self, Replication};
use crate::wire::tags::backend as tag;
use crate::wire::{SqlState, TxStatus};

/// Serves a client that has logged in, to its end.
///
/// `place` is the client's place in the limits, given back when it is gone.
pub async fn serve(worker: Rc<Worker>, accepted: Accepted, place: Box<dyn Any + Send>) {
    let card = Card::new(worker.shared.next_session(), &accepted, false);
    let handle = Rc::new(Handle::new(card, worker.swept()));
    let registered = Registered::new(&worker, &handle);
    accepted.stream.in_turns();
    let (mut session, login) = Session::new(&worker, &handle, accepted);
    if login.replication != Replication::None {
        let ended = Box::pin(session.replicate(&login)).await;
        return session.finish(&ended).await;
    }
    let greeted = session.greet(&login).await;
    match greeted {
        // In a task of its own: a session lives long, and this one had to have room for a login.
        Ok(()) => reactor::spawn(live(worker, registered, session, place)),
        Err(ended) => session.finish(&ended).await,
    }
}

/// Serves a session that has been greeted, to its end or until it goes to another worker.
pub(super) async fn live(
    worker: Rc<Worker>,
    registered: Registered,
    session: Box<Session>,
    place: Box<dyn Any + Send>,
) {
    let Some((to, session)) = session.run().await else { return };
    drop(registered);
    let moving = session.pack_up(place);
    if let Err(moving) = worker.shared.send_session(to, moving) {
        // Nobody takes it up: it stays.
        reactor::spawn(Box::pin(moving.arrive(worker)));
    }
}

/// The parameter by which drivers tell a primary from a standby (`target_session_attrs`), from PostgreSQL 14 on. The client is shown
/// that of the service it gets, whichever member of the moment serves it.
pub(super) const IN_HOT_STANDBY: &[u8] = b"in_hot_standby";

fn on_or_off(value: bool) -> &'static [u8] {
    if value { b"on" } else { b"off" }
}

/// What of a login is needed only until the greeting.
pub(super) struct Login {
    greeting: Vec<u8>,
    key: GreetingKey,
    /// What came of the same startup packet before.
    known: Option<Greeting>,
    minor: u16,
    pub(super) replication: Replication,
    pub(super) parameters: Vec<(String, String)>,
}

impl Session {
    fn new(worker: &Rc<Worker>, handle: &Rc<Handle>, accepted: Accepted) -> (Box<Self>, Login) {
        let shared = &worker.shared;
        let identity = shared.identity(&accepted.user, &accepted.database, Arc::clone(&accepted.credentials));
        let key = (identity.id, key_of(&accepted.parameters));
        let known = shared.greeting(&key, Instant::now());
        let base = match &known {
            Some(known) => Arc::clone(&known.base),
            None => {
                Settings::from_startup(accepted.parameters.iter().map(|(name, value)| (&**name, &**value)))
            }
        };
        let login = Login {
            key,
            known,
            greeting: accepted.greeting,
            minor: accepted.minor,
            replication: accepted.replication,
            parameters: accepted.parameters,
        };
        let pools = worker.pools(&identity);
        let written = pools.identity.last_write.load(Relaxed);
        let told = login.known.as_ref().map(|known| Arc::clone(&known.parameters)).unwrap_or_default();
        let session =
            Self::resting(worker, handle, accepted.stream, pools, (base, told), accepted.role_guard);
        let mut session = Box::new(session);
        if written > 0 {
            // Who wrote and connects again looks for what was written.
            session.fence.wrote(written);
        }
        (session, login)
    }

    /// A session that has done nothing yet, which its startup packet set so and was told that.
    pub(super) fn resting(
        worker: &Rc<Worker>,
        handle: &Rc<Handle>,
        client: Stream,
        pools: Rc<Pools>,
        (base, told): (Arc<Settings>, Arc<Parameters>),
        role: RoleGuard,
    ) -> Self {
        Self {
            worker: Rc::clone(worker),
            handle: Rc::clone(handle),
            client,
            _present: super::logins::Present::of(&pools.identity),
            pools,
            inbox: Vec::new(),
            scanned: 0,
            to_client: Vec::new(),
            client_at: 0,
            to_backend: Vec::new(),
            backend_at: 0,
            answer: super::Answer::default(),
            lease: None,
            home: None,
            waiter: Rc::default(),
            settings: Arc::clone(&base),
            sequences: super::sequences::Sequences::None,
            reported: Arc::clone(&told),
            greeted: told,
            shows_standby: false,
            lexing: Lexing::default(),
            names: super::Names::default(),
            unnamed: super::Unnamed::default(),
            unnamed_known: None,
            changed_catalog: false,
            changed_defaults: false,
            portals: VecDeque::new(),
            tx: Tx::Idle,
            pins: super::Pins::default(),
            fence: crate::routing::Fence::default(),
            seen: None,
            open_batch: false,
            skipping: false,
            stray: 0,
            client_unflushed: false,
            backend_unflushed: false,
            serializable: false,
            wishes: (Arc::clone(&base), super::wishes::Wishes::of(&base)),
            search_settings: None,
            last: None,
            because: None,
            base,
            channels: Vec::new(),
            relisten: false,
            cancel: None,
            role,
        }
    }

    /// Tells the client what a server tells at login.
    async fn greet(&mut self, login: &Login) -> Result<(), Ended> {
        let greeting = match &login.known {
            Some(known) => known.clone(),
            None => {
                let began = Instant::now();
                let parameters = self.ask_for_parameters(login).await?;
                let (base, lexing) = (Arc::clone(&self.base), lexing(&parameters));
                let words = words(login, &parameters).into();
                let greeting = Greeting { base, parameters, words, lexing };
                self.worker.shared.keep_greeting(login.key.clone(), greeting.clone(), began);
                greeting
            }
        };
        self.pools.identity.catalog.want();
        self.lexing = greeting.lexing;
        self.greeted = Arc::clone(&greeting.parameters);
        self.reported = greeting.parameters;
        self.handle.set_standby(self.worker.topology().is_standby());
        self.shows_standby = self.handle.standby();
        if self.reported.value(IN_HOT_STANDBY).is_some_and(|told| told != on_or_off(self.shows_standby)) {
            Arc::make_mut(&mut self.reported).set(IN_HOT_STANDBY, on_or_off(self.shows_standby));
            self.tell_greeting(login, &words(login, &self.reported));
        } else {
            self.tell_greeting(login, &greeting.words);
        }
        Ok(())
    }

    /// Puts together what a client hears from the end of its login to the first ReadyForQuery: `words` is what is said of its settings.
    pub(super) fn tell_greeting(&mut self, login: &Login, words: &[u8]) {
        let mut out = self.worker.buffer();
        out.extend_from_slice(&login.greeting);
        out.extend_from_slice(words);
        let cancel = cancel_key(&self.worker.shared, &self.handle, login.minor);
        build::backend_key_data(&mut out, cancel.process_id, &cancel.secret);
        self.show_arrival(Some(cancel.process_id));
        self.cancel = Some(cancel);
        build::ready_for_query(&mut out, TxStatus::Idle);
        self.to_client = out;
    }

    /// Has a backend opened and brought in line with the startup packet; gives what it reported.
    async fn ask_for_parameters(&mut self, login: &Login) -> Result<Arc<Parameters>, Ended> {
        // The primary knows best; while there is none, a replica does.
        let known = self.worker.topology().primary().is_some();
        let class = if known { Class::Write } else { Class::Read };
        let summary = Summary { class, ..Summary::default() };
        let mut attempt = Attempt::new(&summary);
        loop {
            if let Err(failure) = self.acquire(&mut attempt, 0).await? {
                return Err(self.refuse(login, &failure));
            }
            let mut run = Run::new(self, &summary, &attempt);
            self.prepare_backend(false);
            match self.relay(&mut run).await {
                Outcome::Settled => break,
                Outcome::ClientGone => return Err(Ended::Client),
                Outcome::Killed => {
                    let message = "terminating connection due to administrator command".to_owned();
                    return Err(self.refuse(login, &Failure::Own(SqlState::ADMIN_SHUTDOWN, message)));
                }
                Outcome::Lost(Loss::Setup(state, message)) => {
                    self.give_up_backend(&Loss::Closed);
                    return Err(self.refuse(login, &Failure::Own(state, message)));
                }
                Outcome::Lost(loss) => {
                    self.suspect();
                    self.give_up_backend(&loss);
                    attempt.lost();
                }
            }
        }
        let reported = self.lease.as_ref().map(|lease| Arc::clone(&lease.backend.parameters));
        self.release_if_free();
        Ok(reported.unwrap_or_default())
    }

    /// Tells the client if the service has come to take writes, or no longer takes any; true if it has something to send.
    pub(super) fn show_service(&mut self) -> bool {
        let standby = self.handle.standby();
        if self.shows_standby == standby {
            return false;
        }
        self.shows_standby = standby;
        if self.reported.value(IN_HOT_STANDBY).is_some() {
            Arc::make_mut(&mut self.reported).set(IN_HOT_STANDBY, on_or_off(standby));
            build::parameter_status(&mut self.to_client, IN_HOT_STANDBY, on_or_off(standby));
        }
        true
    }

    /// A login that comes to nothing: the server's words, or the proxy's own.
    pub(super) fn refuse(&mut self, login: &Login, failure: &Failure) -> Ended {
        self.to_client.clear();
        self.to_client.extend_from_slice(&login.greeting);
        match failure {
            Failure::Own(state, message) => {
                build::error(&mut self.to_client, Severity::Fatal, *state, message, None, None);
            }
            Failure::Server(body) => {
                build::frame(&mut self.to_client, tag::ERROR_RESPONSE, |out| out.extend_from_slice(body));
            }
        }
        Ended::Fatal
    }
}

/// What a login with this startup packet is told of the settings that come of it.
pub(super) fn words(login: &Login, parameters: &Parameters) -> Vec<u8> {
    let mut out = Vec::new();
    notice_cut_names(&mut out, &login.parameters);
    for (name, value) in parameters.iter() {
        build::parameter_status(&mut out, name, value);
    }
    out
}

/// A session's cancel key.
pub(super) fn cancel_key(shared: &Arc<Shared>, handle: &Handle, minor: u16) -> CancelEntry {
    let (weak, session, batch) = (Arc::downgrade(shared), handle.id, Arc::clone(&handle.batch));
    let target = move || {
        // What is under way now is meant, nothing that comes later.
        let batch = batch.load(Relaxed);
        if let Some(shared) = weak.upgrade().filter(|_| batch % 2 == 1) {
            // Whichever worker has it by now.
            for worker in 0..shared.workers() {
                shared.post(worker, Mail::Cancel(session, batch));
            }
        }
    };
    shared.cancels.register(minor, Arc::new(target))
}

/// What decides how SQL text is read, of what the server reported.
pub(super) fn lexing(parameters: &Parameters) -> Lexing {
    let encoding = parameters.value(b"client_encoding").and_then(|name| std::str::from_utf8(name).ok());
    Lexing {
        standard_conforming_strings: parameters.value(b"standard_conforming_strings") != Some(b"off"),
        encoding: encoding.map_or(Encoding::AsciiSafe, Encoding::of),
    }
}

/// What a server says of an `application_name` in the startup packet that it cuts, unless the packet asks for no notices.
fn notice_cut_names(out: &mut Vec<u8>, parameters: &[(String, String)]) {
    let is = |given: &str, name: &str| given.eq_ignore_ascii_case(name);
    let quiet = |value: &str| ["warning", "error"].iter().any(|level| is(value, level));
    if parameters.iter().any(|(name, value)| is(name, "client_min_messages") && quiet(value)) {
        return;
    }
    for (_, value) in parameters.iter().filter(|(name, _)| is(name, "application_name")) {
        let kept = startup::cut_name(value);
        if kept.len() < value.len() {
            let message = format!("identifier \"{value}\" will be truncated to \"{kept}\"");
            build::error(out, Severity::Notice, SqlState::NAME_TOO_LONG, &message, None, None);
        }
    }
}

fn key_of(parameters: &[(String, String)]) -> Box<[u8]> {
    let length = parameters.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
    let mut key = Vec::with_capacity(length);
    for (name, value) in parameters {
        build::cstr(&mut key, name.as_bytes());
        build::cstr(&mut key, value.as_bytes());
    }
    key.into()
}

/// A session in its worker's list, as long as it lives; a panic takes it out too, and is counted.
pub(super) struct Registered {
    worker: Rc<Worker>,
    handle: Rc<Handle>,
}

impl Registered {
    pub(super) fn new(worker: &Rc<Worker>, handle: &Rc<Handle>) -> Self {
        worker.sessions.borrow_mut().insert(handle.id, Rc::clone(handle));
        worker.metrics.session_began();
        Self { worker: Rc::clone(worker), handle: Rc::clone(handle) }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.worker.sessions.borrow_mut().remove(&self.handle.id);
        self.worker.metrics.session_ended();
        if std::thread::panicking() {
            self.worker.shared.panics.inc();
        }
    }
}
