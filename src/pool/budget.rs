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
    waiting: AtomicUsize,
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
    /// Room for `size` backends, within the member's own.
    pub fn new(size: usize, member: Arc<MemberBudget>) -> Arc<Self> {
        Arc::new(Self { open: AtomicUsize::new(0), size, waiting: AtomicUsize::new(0), member })
    }

    /// Backends open now.
    pub fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Sessions that wait, on any worker.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
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

    pub(super) fn add_waiting(&self, by: isize) {
        if by < 0 {
            self.waiting.fetch_sub(by.unsigned_abs(), Relaxed);
        } else {
            self.waiting.fetch_add(by.unsigned_abs(), Relaxed);
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
        let (a, b) = (Budget::new(1, Arc::clone(&member)), Budget::new(5, Arc::clone(&member)));
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
}
