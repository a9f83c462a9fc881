//! How many backends may be open: for one user and database on a member, and for a member in all. Shared by the workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// A member's budget over all users and databases.
#[derive(Debug)]
pub struct MemberBudget {
    open: AtomicUsize,
    size: usize,
}

impl MemberBudget {
    /// Room for `size` backends.
    pub fn new(size: usize) -> Arc<Self> {
        Arc::new(Self { open: AtomicUsize::new(0), size })
    }

    /// Backends open now.
    pub fn open(&self) -> usize {
        self.open.load(Relaxed)
    }
}

/// The budget of one user and database on one member.
#[derive(Debug)]
pub struct Budget {
    open: AtomicUsize,
    size: usize,
    /// Sessions that wait, by worker, and in all.
    waiting: Box<[AtomicUsize]>,
    waiting_in_all: AtomicUsize,
    member: Arc<MemberBudget>,
}

/// Which budget is spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// `pool.size`.
    Pool,
    /// `pool.member_size`.
    Member,
}

impl Budget {
    /// Room for `size` backends, within the member's own, for so many workers.
    pub fn new(size: usize, member: Arc<MemberBudget>, workers: usize) -> Arc<Self> {
        Arc::new(Self {
            open: AtomicUsize::new(0),
            size,
            waiting: (0..workers).map(|_| AtomicUsize::new(0)).collect(),
            waiting_in_all: AtomicUsize::new(0),
            member,
        })
    }

    /// Backends open now.
    pub fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Sessions that wait, on any worker.
    pub fn waiting(&self) -> usize {
        self.waiting_in_all.load(Relaxed)
    }

    /// The worker other than `than` on which most sessions wait, if any do.
    pub fn waits_elsewhere(&self, than: usize) -> Option<usize> {
        if self.waiting() == 0 {
            return None;
        }
        let others = self.waiting.iter().enumerate().filter(|(worker, _)| *worker != than);
        let (worker, most) =
            others.map(|(worker, count)| (worker, count.load(Relaxed))).max_by_key(|(_, count)| *count)?;
        (most > 0).then_some(worker)
    }

    /// Takes a place.
    ///
    /// # Errors
    /// [`Refusal`] when there is none.
    pub fn reserve(self: &Arc<Self>) -> Result<Permit, Refusal> {
        take(&self.open, self.size).ok_or(Refusal::Pool)?;
        if take(&self.member.open, self.member.size).is_none() {
            self.open.fetch_sub(1, Relaxed);
            return Err(Refusal::Member);
        }
        Ok(Permit(Arc::clone(self)))
    }

    /// One more session waits on `worker`.
    pub(super) fn begin_wait(&self, worker: usize) {
        self.waiting_in_all.fetch_add(1, Relaxed);
        if let Some(count) = self.waiting.get(worker) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// One fewer.
    pub(super) fn end_wait(&self, worker: usize) {
        self.waiting_in_all.fetch_sub(1, Relaxed);
        if let Some(count) = self.waiting.get(worker) {
            count.fetch_sub(1, Relaxed);
        }
    }
}

fn take(open: &AtomicUsize, size: usize) -> Option<usize> {
    open.fetch_update(Relaxed, Relaxed, |n| (n < size).then_some(n + 1)).ok()
}

/// A place in both budgets, given back when dropped.
#[derive(Debug)]
pub struct Permit(Arc<Budget>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
        self.0.member.open.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_permit_is_a_free_place_in_both() {
        let member = MemberBudget::new(2);
        let (a, b) = (Budget::new(1, Arc::clone(&member), 3), Budget::new(5, Arc::clone(&member), 3));
        let first = a.reserve().unwrap();
        assert_eq!(a.reserve().unwrap_err(), Refusal::Pool);
        let second = b.reserve().unwrap();
        assert_eq!(b.reserve().unwrap_err(), Refusal::Member);
        assert_eq!((a.open(), b.open(), member.open()), (1, 1, 2));
        drop(first);
        let _third = b.reserve().unwrap();
        drop(second);
        assert_eq!((a.open(), b.open(), member.open()), (0, 1, 1));
    }

    #[test]
    fn who_waits_elsewhere_is_known() {
        let budget = Budget::new(1, MemberBudget::new(1), 3);
        assert_eq!(budget.waits_elsewhere(0), None);
        budget.begin_wait(2);
        assert_eq!((budget.waits_elsewhere(0), budget.waits_elsewhere(1)), (Some(2), Some(2)));
        assert_eq!(budget.waits_elsewhere(2), None, "its own are not elsewhere");
        budget.end_wait(2);
        assert_eq!((budget.waiting(), budget.waits_elsewhere(0)), (0, None));
    }
}
