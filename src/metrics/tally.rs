//! What one worker counts of one user in one database, for the console's `SHOW STATS`: plain cells, as all that a worker counts.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use super::cells::Number;

#[derive(Debug, Default)]
struct Cells {
    assignments: Number,
    transactions: Number,
    queries: Number,
    received: Number,
    sent: Number,
    transaction_micros: Number,
    query_micros: Number,
    wait_micros: Number,
}

/// The side that counts. It has one writer: see [`Worker`](super::Worker).
#[derive(Debug)]
pub struct Tally {
    cells: Arc<Cells>,
    one_thread: PhantomData<Cell<()>>,
}

/// The side that is read, from any thread.
#[derive(Debug)]
pub struct TallyReader(Arc<Cells>);

/// The counts at one moment, or between two.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Backends given to sessions.
    pub assignments: u64,
    /// Transactions that ended, those of single statements among them.
    pub transactions: u64,
    /// Statements.
    pub queries: u64,
    /// Bytes that came from clients.
    pub received: u64,
    /// Bytes that went to clients.
    pub sent: u64,
    /// Microseconds of transactions, by a clock of coarse grain.
    pub transaction_micros: u64,
    /// Microseconds of statements, by the same clock.
    pub query_micros: u64,
    /// Microseconds that sessions waited for a backend or a primary, or because of PAUSE.
    pub wait_micros: u64,
}

impl Tally {
    /// A tally at zero, and what it is read by.
    pub fn new() -> (Self, TallyReader) {
        let cells = Arc::new(Cells::default());
        let reader = TallyReader(Arc::clone(&cells));
        (Self { cells, one_thread: PhantomData }, reader)
    }

    /// A session was given a backend.
    #[inline]
    pub fn assigned(&self) {
        self.cells.assignments.add(1);
    }

    /// So many statements were answered, which took so long.
    #[inline]
    pub fn queries(&self, count: u32, took: Duration) {
        self.cells.queries.add(u64::from(count));
        if !took.is_zero() {
            self.cells.query_micros.add(took.as_micros() as u64);
        }
    }

    /// A transaction ended, which took so long.
    #[inline]
    pub fn transaction(&self, took: Duration) {
        self.cells.transactions.add(1);
        if !took.is_zero() {
            self.cells.transaction_micros.add(took.as_micros() as u64);
        }
    }

    /// Bytes came from a client.
    #[inline]
    pub fn received(&self, bytes: usize) {
        self.cells.received.add(bytes as u64);
    }

    /// Bytes went to a client.
    #[inline]
    pub fn sent(&self, bytes: usize) {
        self.cells.sent.add(bytes as u64);
    }

    /// A session waited so long.
    pub fn waited(&self, took: Duration) {
        self.cells.wait_micros.add(took.as_micros() as u64);
    }
}

impl TallyReader {
    /// The counts now.
    pub fn read(&self) -> Traffic {
        let cells = &self.0;
        Traffic {
            assignments: cells.assignments.load(),
            transactions: cells.transactions.load(),
            queries: cells.queries.load(),
            received: cells.received.load(),
            sent: cells.sent.load(),
            transaction_micros: cells.transaction_micros.load(),
            query_micros: cells.query_micros.load(),
            wait_micros: cells.wait_micros.load(),
        }
    }
}

impl Traffic {
    /// Each count by a function of this one's and the other's.
    fn zip(self, other: Self, of: fn(u64, u64) -> u64) -> Self {
        Self {
            assignments: of(self.assignments, other.assignments),
            transactions: of(self.transactions, other.transactions),
            queries: of(self.queries, other.queries),
            received: of(self.received, other.received),
            sent: of(self.sent, other.sent),
            transaction_micros: of(self.transaction_micros, other.transaction_micros),
            query_micros: of(self.query_micros, other.query_micros),
            wait_micros: of(self.wait_micros, other.wait_micros),
        }
    }

    /// The two together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        self.zip(other, u64::wrapping_add)
    }

    /// What came since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        self.zip(before, u64::saturating_sub)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_read() {
        let (tally, reader) = Tally::new();
        tally.assigned();
        tally.queries(2, Duration::from_millis(3));
        tally.transaction(Duration::ZERO);
        tally.received(10);
        tally.sent(20);
        let before = reader.read();
        tally.waited(Duration::from_micros(7));
        tally.queries(1, Duration::ZERO);
        let now = reader.read();
        assert_eq!((now.assignments, now.transactions, now.queries, now.query_micros), (1, 1, 3, 3000));
        assert_eq!((now.received, now.sent), (10, 20));
        assert_eq!(now.since(before), Traffic { queries: 1, wait_micros: 7, ..Traffic::default() });
        assert_eq!(before.plus(now.since(before)), now);
    }
}
