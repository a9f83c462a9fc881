//! What tasks are about to touch, called into the cache while something else still runs.
//!
//! Between two messages of a session its memory goes cold, and a task that comes upon it waits for one line after the other. But a turn
//! knows which tasks it runs next. So the lines of each are called while the one before it has the processor, and those of the sockets
//! before they are read and sent on.
//!
//! Lines are called by address and nothing is read: an address that is out of date costs a line of the cache, and nothing else.

use std::task::Waker;

use prefetch_index::prefetch_index;

/// With fewer sockets all stays in the cache by itself.
pub(super) const FEW: usize = 32;

/// Bytes of a line.
const LINE: usize = 64;

/// So many lines are called of one thing: what is touched with every message stands at its beginning.
const LINES: usize = 8;

/// Lines of a task, of whose length nothing is known.
const OF_A_TASK: usize = 5;

/// What a task touches besides itself.
#[derive(Debug, Clone, Copy)]
pub enum Part {
    /// What it serves.
    Session,
    /// What others see of that.
    Handle,
    /// Where its batch is served.
    Room,
}

/// Where the parts of what a task touches are.
#[derive(Debug, Default)]
pub(super) struct Places([Span; 3]);

#[derive(Debug, Default, Clone, Copy)]
struct Span {
    address: usize,
    lines: usize,
}

impl Places {
    pub(super) fn set<T: ?Sized>(&mut self, part: Part, what: &T) {
        self.0[part as usize] = Span::of(what);
    }

    /// Calls them.
    #[inline]
    pub(super) fn call(&self) {
        self.0.iter().for_each(Span::call);
    }
}

impl Span {
    fn of<T: ?Sized>(what: &T) -> Self {
        let lines = size_of_val(what).div_ceil(LINE).min(LINES);
        Self { address: std::ptr::from_ref(what).addr(), lines }
    }

    #[inline]
    fn call(&self) {
        call_lines(self.address, self.lines);
    }
}

/// Calls the task that this wakes: a waker's data is where it stands.
#[inline]
pub(super) fn call_task(waker: &Waker) {
    call_lines(waker.data().addr(), OF_A_TASK);
}

/// Calls a value's lines.
#[inline]
pub(super) fn call<T: ?Sized>(what: &T) {
    Span::of(what).call();
}

#[inline]
fn call_lines(address: usize, lines: usize) {
    // The crate counts from a slice, and allows for places beyond it.
    let start: &[u8] = &[];
    let first = address.wrapping_sub(start.as_ptr().addr());
    (0..lines).for_each(|line| prefetch_index(start, first.wrapping_add(line * LINE)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_a_thing_is_called() {
        assert_eq!(
            [0, 1, 64, 65, 100_000].map(|len| Span::of(&vec![0u8; len][..]).lines),
            [0, 1, 1, 2, LINES]
        );
    }

    #[test]
    fn what_is_gone_does_no_harm() {
        let mut places = Places::default();
        places.set(Part::Session, &*vec![1u64; 1 << 20].into_boxed_slice());
        places.call();
        call_task(Waker::noop());
        for address in [0, usize::MAX / 2, usize::MAX] {
            call_lines(address, LINES);
        }
    }
}
