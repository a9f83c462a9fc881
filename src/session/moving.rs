//! A session's way from one worker to another.
//!
//! Only one that nothing ties to its thread goes: it holds no backend and has no batch begun. What is shared by a worker's sessions
//! (classes, prepared statements, pools) is left behind and found anew.

use std::any::Any;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::handle::Handle;
use super::sequences::Sequences;
use super::shared::Identity;
use super::shown::Card;
use super::state::Tx;
use super::statements::Portable;
use super::wishes::{Last, Wishes};
use super::{Session, Worker};
use crate::backend::{Parameters, Settings};
use crate::client::{CancelEntry, RoleGuard};
use crate::net::Stream;
use crate::routing::{Fence, Seen};
use crate::sql::{Lexing, Verdict};
use crate::wire::parts::Parse;
use crate::wire::{Frames, HEADER_LEN};

/// A session on its way.
pub struct Moving {
    card: Arc<Card>,
    batch: Arc<AtomicU64>,
    client: Stream,
    identity: Arc<Identity>,
    base: Arc<Settings>,
    settings: Arc<Settings>,
    reported: Arc<Parameters>,
    greeted: Arc<Parameters>,
    lexing: Lexing,
    names: Vec<Portable>,
    /// The Parse of the unnamed statement; empty if there is none.
    unnamed: Vec<u8>,
    sequences: Sequences,
    fence: Fence,
    seen: Option<Seen>,
    last: Option<(u16, Verdict, Option<&'static str>)>,
    cancel: Option<CancelEntry>,
    role: RoleGuard,
    /// Its place in the limits.
    place: Box<dyn Any + Send>,
}

impl std::fmt::Debug for Moving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Moving").field("session", &self.card.id).finish_non_exhaustive()
    }
}

impl Session {
    /// Where the session goes now, if it is to go and may.
    #[inline]
    pub(super) fn moves(&self) -> Option<usize> {
        let to = self.handle.take_move()?;
        if self.may_move() {
            return Some(to);
        }
        // Another try when the transaction is over.
        self.handle.go_later(to);
        None
    }

    fn may_move(&self) -> bool {
        self.lease.is_none()
            && self.home.is_none()
            && matches!(self.tx, Tx::Idle)
            && !self.pins.any()
            && self.inbox.is_empty()
            && !self.client_unflushed
            && self.portals.is_empty()
            && !self.open_batch
            && !self.skipping
            && !self.relisten
            && self.stray == 0
    }

    /// Takes the session off its worker.
    pub(super) fn pack_up(mut self, place: Box<dyn Any + Send>) -> Moving {
        // One that can't be let go is closed where it arrives.
        let _closed = self.client.let_go();
        Moving {
            card: Arc::clone(&self.handle.shown.card),
            batch: Arc::clone(&self.handle.batch),
            client: self.client,
            identity: Arc::clone(&self.pools.identity),
            base: self.base,
            settings: self.settings,
            reported: self.reported,
            greeted: self.greeted,
            lexing: self.lexing,
            names: self.names.all(),
            unnamed: if self.unnamed.token == 0 { Vec::new() } else { self.unnamed.frame },
            sequences: self.sequences,
            fence: self.fence,
            seen: self.seen,
            last: self.last.map(|last| (last.member, Verdict::clone(&last.verdict), last.because)),
            cancel: self.cancel,
            role: self.role,
            place,
        }
    }
}

impl Moving {
    /// Goes on with the session on this worker, to its end.
    pub(super) async fn arrive(self, worker: Rc<Worker>) {
        let handle = Rc::new(Handle::moved(self.card, self.batch, worker.swept()));
        let mut client = self.client;
        if client.arrive().is_err() {
            return;
        }
        let pools = worker.pools(&self.identity);
        let mut session =
            Box::new(Session::resting(&worker, &handle, client, pools, (self.base, self.greeted), self.role));
        session.wishes = (Arc::clone(&self.settings), Wishes::of(&self.settings));
        session.settings = self.settings;
        session.reported = self.reported;
        session.shows_standby = session.reported.value(super::greeting::IN_HOT_STANDBY) == Some(b"on");
        handle.set_standby(worker.topology().is_standby());
        session.lexing = self.lexing;
        session.sequences = self.sequences;
        session.fence = self.fence;
        session.seen = self.seen;
        session.cancel = self.cancel;
        session.last =
            self.last.map(|(member, verdict, because)| Last { member, verdict: Rc::new(verdict), because });
        for Portable { name, sql, types, told } in self.names {
            let (catalog, lexing) = (&self.identity.catalog, session.lexing);
            let known = worker.classify(catalog, &sql, lexing);
            let parse = Parse { name: &name, sql: &sql, types: &types };
            let statement = worker.statements.borrow_mut().intern(&parse, catalog, lexing, &known);
            session.names.parse(&name, statement, told, 0);
        }
        session.names.settle(None);
        if let Ok(Some(frame)) = Frames::new(&self.unnamed, usize::MAX).next_frame()
            && let Some(parse) = Parse::read(&frame.bytes[HEADER_LEN..])
        {
            session.unnamed_known = Some(worker.classify(&self.identity.catalog, parse.sql, session.lexing));
            session.unnamed.token = worker.next_parse();
            session.unnamed.frame = self.unnamed;
        }
        session.show_arrival(None);
        let registered = super::greeting::Registered::new(&worker, &handle);
        super::greeting::live(worker, registered, session, self.place).await;
    }
}
