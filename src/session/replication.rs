//! Replication connections: each is passed through, byte by byte, on a connection to a member that is its own.
//!
//! A walsender's stream can't be held back, run again or moved: when its member is lost the connection ends, as it would without a
//! proxy, and whoever replicates connects again and finds the primary of then. It never stays with a primary that is no more.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use super::acquire::{Attempt, Failure, QUICK_TRIES, bit};
use super::batch::Summary;
use super::greeting::{Login, words};
use super::handle::{Held, Order, Standing};
use super::open::{refusal, server};
use super::{Ended, Session};
use crate::backend::{self, Connected};
use crate::net::Stream;
use crate::pool::AcquireError;
use crate::sql::{Class, Hint};
use crate::topology::{Member, MemberId, Topology};
use crate::wire::SqlState;
use crate::wire::startup::Replication;

/// The member's side of it.
struct Walsender {
    stream: Stream,
    member: u16,
    process_id: u32,
    secret: Box<[u8]>,
    /// A cancel is on its way.
    cancelling: Rc<Cell<bool>>,
    unflushed: bool,
}

impl Session {
    /// Serves a replication connection to its end.
    pub(super) async fn replicate(&mut self, login: &Login) -> Ended {
        let mut walsender = match self.open_walsender(login).await {
            Ok(walsender) => walsender,
            Err(ended) => return ended,
        };
        // A cancel is for what runs now, and here something always may.
        self.handle.next_batch();
        let ended = poll_fn(|cx| self.poll_replicate(cx, &mut walsender)).await;
        self.handle.hold(None);
        walsender.stream.shutdown().await;
        ended
    }

    /// Opens the connection to the member and greets the client with what it said.
    async fn open_walsender(&mut self, login: &Login) -> Result<Walsender, Ended> {
        let mut attempt = Attempt::new(&Summary { class: Class::Write, ..Summary::default() });
        loop {
            let topology = self.worker.topology();
            let chosen =
                self.walsender_member(login, &topology).filter(|_| attempt.tries < QUICK_TRIES).cloned();
            let Some(member) = chosen else {
                match self.hold(&mut attempt, &topology, 0).await? {
                    Ok(()) => continue,
                    Err(failure) => return Err(self.refuse(login, &failure)),
                }
            };
            let failure = match self.connect_walsender(login, &topology, &member).await {
                Ok(connected) => return Ok(self.begin_replication(login, &topology, &member, connected)),
                Err(AcquireError::Refused(body)) => Failure::Server(body),
                Err(AcquireError::Login(why)) => Failure::Own(SqlState::CANNOT_CONNECT_NOW, why.to_string()),
                Err(_away) => {
                    attempt.lost();
                    attempt.avoid |= bit(member.id.0);
                    self.pause(&mut attempt, &member, true).await?;
                    continue;
                }
            };
            return Err(self.refuse(login, &failure));
        }
    }

    /// The primary; for physical replication a replica, where the client's startup packet wishes for one and one is there.
    fn walsender_member<'t>(&mut self, login: &Login, topology: &'t Topology) -> Option<&'t Member> {
        let wished = login.replication == Replication::Physical && self.wishes().route == Some(Hint::Replica);
        let primary = topology.primary();
        let replica = || {
            topology.members.iter().find(|member| {
                member.serves_reads && member.answers && primary.is_none_or(|primary| primary.id != member.id)
            })
        };
        wished.then(replica).flatten().or(primary)
    }

    async fn connect_walsender(
        &self,
        login: &Login,
        topology: &Topology,
        member: &Member,
    ) -> Result<Connected, AcquireError> {
        let identity = &self.pools.identity;
        let credentials = identity.credentials.load_full();
        let mode = if login.replication == Replication::Physical { "true" } else { "database" };
        let given = login.parameters.iter().map(|(name, value)| (&**name, &**value));
        let mut parameters: Vec<_> = given.filter(|(name, _)| !name.starts_with("pgha.")).collect();
        parameters.push(("replication", mode));
        let login = backend::Login {
            credentials: &credentials,
            database: &identity.database,
            parameters: &parameters,
        };
        let tls = self.worker.shared.backend_tls.load_full();
        let connected = backend::connect(&server(&self.worker, member, &tls), &login).await;
        // The member may have been fenced meanwhile.
        let now = self.worker.topology();
        let still = now
            .member(member.id)
            .is_some_and(|known| now.lease_generation(known) == topology.lease_generation(member));
        match connected {
            Ok(_) if !still => Err(AcquireError::Moved),
            connected => connected.map_err(|error| refusal(&error)),
        }
    }

    fn begin_replication(
        &mut self,
        login: &Login,
        topology: &Topology,
        member: &Member,
        connected: Connected,
    ) -> Walsender {
        let primary = topology.primary().is_some_and(|primary| primary.id == member.id);
        let now = std::time::Instant::now();
        self.handle.hold(Some(Held {
            member: member.id.0,
            generation: member.generation,
            rule: primary.then_some(topology.epoch),
            process_id: connected.process_id,
            local: connected.stream.tcp().local_addr().ok(),
            opened: now,
            since: now,
            tls: connected.stream.is_tls(),
        }));
        self.tell_greeting(login, &words(login, &connected.parameters));
        // What a client sent that could not wait.
        self.to_backend = std::mem::take(&mut self.inbox);
        Walsender {
            stream: connected.stream,
            member: member.id.0,
            process_id: connected.process_id,
            secret: connected.secret,
            cancelling: Rc::default(),
            unflushed: false,
        }
    }

    fn poll_replicate(&mut self, cx: &mut Context<'_>, walsender: &mut Walsender) -> Poll<Ended> {
        self.handle.watch(cx);
        // Nothing can be said in the middle of a stream of messages: it ends.
        if self.handle.order() != Order::None || self.handle.standing() == Standing::Fenced {
            return Poll::Ready(Ended::Fatal);
        }
        if self.handle.take_cancel() && !walsender.cancelling.replace(true) {
            self.cancel_at(
                walsender.member,
                (walsender.process_id, walsender.secret.clone()),
                Rc::clone(&walsender.cancelling),
            );
        }
        loop {
            let answered = match self.poll_from_walsender(cx, walsender) {
                Poll::Ready(Ok(())) => true,
                Poll::Ready(Err(ended)) => return Poll::Ready(ended),
                Poll::Pending => false,
            };
            let asked = match self.poll_to_walsender(cx, walsender) {
                Poll::Ready(Ok(())) => true,
                Poll::Ready(Err(ended)) => return Poll::Ready(ended),
                Poll::Pending => false,
            };
            if !answered && !asked {
                return Poll::Pending;
            }
        }
    }

    /// One read of the member's, written to the client as far as it takes it; no other before it has taken all.
    fn poll_from_walsender(
        &mut self,
        cx: &mut Context<'_>,
        walsender: &mut Walsender,
    ) -> Poll<Result<(), Ended>> {
        if self.poll_flush_client(cx)?.is_pending() {
            return Poll::Pending;
        }
        let worker = Rc::clone(&self.worker);
        let mut scratch = worker.scratch.borrow_mut();
        match walsender.stream.poll_read(cx, &mut scratch) {
            Poll::Ready(Ok(n)) if n > 0 => {
                self.to_client.extend_from_slice(&scratch[..n]);
                // What is not taken now is flushed before the next read.
                let _rest = self.poll_flush_client(cx)?;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(_) => {
                (self.worker.shared.suspect)(MemberId(walsender.member));
                Poll::Ready(Err(Ended::Fatal))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// The same the other way.
    fn poll_to_walsender(
        &mut self,
        cx: &mut Context<'_>,
        walsender: &mut Walsender,
    ) -> Poll<Result<(), Ended>> {
        loop {
            walsender.unflushed |= !self.to_backend.is_empty();
            ready!(walsender.stream.poll_write_rest(cx, &self.to_backend, &mut self.backend_at))
                .map_err(|_| Ended::Fatal)?;
            self.backend_at = 0;
            self.to_backend.clear();
            if walsender.unflushed {
                match walsender.stream.poll_flush(cx) {
                    Poll::Ready(Ok(())) => walsender.unflushed = false,
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(Ended::Fatal)),
                    Poll::Pending => return Poll::Pending,
                }
            }
            let mut scratch = self.worker.scratch.borrow_mut();
            match self.client.poll_read(cx, &mut scratch) {
                Poll::Ready(Ok(n)) if n > 0 => self.to_backend.extend_from_slice(&scratch[..n]),
                Poll::Ready(_) => return Poll::Ready(Err(Ended::Client)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
