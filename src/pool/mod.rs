//! The backends of one member for one user and database: checkout, budget, hand-over between workers.
//!
//! Each worker has pools of its own, reached without a lock; what they share is the budget (atomics) and, when a worker
//! has none left, a message to the others. A pool knows nothing of statements or of who is primary: it is told which
//! generation of a member may be used.

mod budget;
mod waiting;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use budget::{Budget, MemberBudget, Permit, Refusal};
pub use waiting::{AcquireError, Waiter};

use crate::backend::Backend;

/// Limits of a pool, from `[pool]`.
#[derive(Debug, Clone)]
pub struct Limits {
    /// How long a session waits for a backend.
    pub wait: Duration,
    /// How many sessions may wait, on this worker.
    pub max_waiting: usize,
    /// An idle backend is closed after it.
    pub idle_timeout: Duration,
    /// A backend that is older is closed when it comes back.
    pub lifetime: Duration,
}

/// What a session that couldn't be served at once has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// Wait; a backend is under way or in use.
    Wait,
    /// Wait, and somebody has to open one more: the permit is taken.
    Open,
}

/// One worker's backends of one member, for one user and database.
pub struct Pool {
    worker: usize,
    member: u16,
    #[expect(
        clippy::vec_box,
        reason = "goes from hand to hand at each statement: a pointer, and not the whole"
    )]
    idle: RefCell<Vec<Box<Backend>>>,
    waiting: RefCell<VecDeque<Rc<Waiter>>>,
    opening: Cell<usize>,
    busy: Cell<usize>,
    generation: Cell<u64>,
    reopened: Cell<Option<Instant>>,
    budget: Arc<Budget>,
    limits: Rc<Limits>,
}

impl Pool {
    /// An empty pool of worker number `worker` for member number `member`.
    pub fn new(worker: usize, member: u16, generation: u64, budget: Arc<Budget>, limits: Rc<Limits>) -> Self {
        Self {
            worker,
            member,
            idle: RefCell::default(),
            waiting: RefCell::default(),
            opening: Cell::new(0),
            busy: Cell::new(0),
            generation: Cell::new(generation),
            reopened: Cell::new(None),
            budget,
            limits,
        }
    }

    /// The member's number.
    pub fn member(&self) -> u16 {
        self.member
    }

    /// The generation whose backends are used.
    pub fn generation(&self) -> u64 {
        self.generation.get()
    }

    /// Idle backends, backends in use, backends being opened, sessions that wait: on this worker.
    pub fn counts(&self) -> (usize, usize, usize, usize) {
        (self.idle.borrow().len(), self.busy.get(), self.opening.get(), self.waiting.borrow().len())
    }

    /// Backends being opened on this worker.
    pub fn opening(&self) -> usize {
        self.opening.get()
    }

    /// The budget that it shares with the other workers' pools.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// From here on only backends of `generation` are used: idle ones of others are closed.
    pub fn renew(&self, generation: u64) {
        if self.generation.replace(generation) != generation {
            self.idle.borrow_mut().retain(|backend| backend.generation == generation);
        }
    }

    /// Takes an idle backend, the one used last. One whose server has said something by itself, mostly goodbye, is closed: nothing
    /// that is sent to it would come back, and whether it ran couldn't be told.
    #[inline]
    pub fn take(&self) -> Option<Box<Backend>> {
        // Whoever waits was here before.
        if !self.waiting.borrow().is_empty() {
            return None;
        }
        let backend = loop {
            let mut backend = self.idle.borrow_mut().pop()?;
            if backend.stream.is_quiet() {
                break backend;
            }
        };
        self.busy.set(self.busy.get() + 1);
        Some(backend)
    }

    /// Takes the idle backend that session number `session` held last, if nobody has held it since.
    pub fn take_last_of(&self, session: u32) -> Option<Box<Backend>> {
        let mut idle = self.idle.borrow_mut();
        let at = idle.iter().position(|backend| backend.last_session == session)?;
        self.busy.set(self.busy.get() + 1);
        Some(idle.remove(at))
    }

    /// Closes what is idle here.
    pub fn close_idle(&self) {
        self.idle.borrow_mut().clear();
    }

    /// From here on backends that were opened before `now` aren't used again.
    pub fn reopen(&self, now: Instant) {
        self.close_idle();
        self.reopened.set(Some(now));
    }

    /// Takes an idle backend to give it to another worker: it counts as neither idle nor busy here.
    pub fn give_away(&self) -> Option<Box<Backend>> {
        self.idle.borrow_mut().pop()
    }

    /// Looks at each idle backend.
    pub fn each_idle(&self, look: impl FnMut(&Backend)) {
        self.idle.borrow().iter().map(|backend| &**backend).for_each(look);
    }

    /// Takes up a backend that another worker gave.
    pub fn adopt(&self, backend: Box<Backend>) {
        self.busy.set(self.busy.get() + 1);
        self.put_back(backend);
    }

    /// Enqueues a session that found no idle backend.
    ///
    /// # Errors
    /// [`AcquireError::TooManyWaiting`] over `max_waiting`.
    pub fn wait(&self, waiter: &Rc<Waiter>, now: Instant) -> Result<Demand, AcquireError> {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() >= self.limits.max_waiting {
            return Err(AcquireError::TooManyWaiting);
        }
        waiter.enqueued(now + self.limits.wait);
        waiting.push_back(Rc::clone(waiter));
        self.budget.begin_wait(self.worker);
        Ok(if self.opening.get() >= waiting.len() { Demand::Wait } else { Demand::Open })
    }

    /// Asks for a place to open a backend for whoever waits; the caller opens it, or hears why it may not.
    ///
    /// # Errors
    /// [`Refusal`] when a budget is spent.
    pub fn begin_open(&self) -> Result<Permit, Refusal> {
        let permit = self.budget.reserve()?;
        self.opening.set(self.opening.get() + 1);
        Ok(permit)
    }

    /// Takes up what came of opening: a backend goes to the first that waits, an error is its.
    pub fn opened(&self, outcome: Result<Box<Backend>, AcquireError>) {
        self.opening.set(self.opening.get().saturating_sub(1));
        match outcome {
            Ok(backend) => self.adopt(backend),
            Err(error) => {
                if let Some(waiter) = self.next_waiter() {
                    waiter.give(Err(error));
                }
            }
        }
    }

    /// A session no longer wants to wait.
    pub fn forget(&self, waiter: &Rc<Waiter>) {
        // Who was given something isn't looked for among all that wait.
        if !waiter.dequeued() {
            return;
        }
        let mut waiting = self.waiting.borrow_mut();
        if let Some(at) = waiting.iter().position(|other| Rc::ptr_eq(other, waiter)) {
            waiting.remove(at);
            self.budget.end_wait(self.worker);
        }
    }

    /// Takes back a clean backend: it goes to the first that waits, or rests.
    #[inline]
    pub fn put_back(&self, backend: Box<Backend>) {
        let outdated = self.reopened.get().is_some_and(|since| backend.opened < since);
        if backend.generation != self.generation.get() || outdated {
            self.closed();
            return;
        }
        match self.next_waiter() {
            Some(waiter) => waiter.give(Ok(backend)),
            None => {
                self.busy.set(self.busy.get().saturating_sub(1));
                self.idle.borrow_mut().push(backend);
            }
        }
    }

    /// A backend in use was closed; its place is free when it has been dropped.
    pub fn closed(&self) {
        self.busy.set(self.busy.get().saturating_sub(1));
    }

    /// Whether somebody waits here for whom nothing is under way.
    pub fn wants_more(&self) -> bool {
        self.waiting.borrow().len() > self.opening.get()
    }

    /// Closes what has been idle or has lived too long or was ended by its server, ends the wait of those whose time is over.
    pub fn sweep(&self, now: Instant) {
        let limits = &self.limits;
        self.idle.borrow_mut().retain_mut(|backend| {
            now.duration_since(backend.idle_since) < limits.idle_timeout
                && now.duration_since(backend.opened) < limits.lifetime
                && backend.stream.is_quiet()
        });
        loop {
            let overdue = self.waiting.borrow().front().is_some_and(|waiter| waiter.is_overdue(now));
            match overdue.then(|| self.next_waiter()).flatten() {
                Some(waiter) => waiter.give(Err(AcquireError::Timeout)),
                None => break,
            }
        }
    }

    fn next_waiter(&self) -> Option<Rc<Waiter>> {
        let waiter = self.waiting.borrow_mut().pop_front()?;
        waiter.dequeued();
        self.budget.end_wait(self.worker);
        Some(waiter)
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (idle, busy, opening, waiting) = self.counts();
        f.debug_struct("Pool")
            .field("member", &self.member)
            .field("idle", &idle)
            .field("busy", &busy)
            .field("opening", &opening)
            .field("waiting", &waiting)
            .finish_non_exhaustive()
    }
}
