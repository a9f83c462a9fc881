//! Cells that one thread writes and any thread may read.
//!
//! Writing is a relaxed load and a relaxed store, no locked instruction: right only while there is one writer, which
//! [`Worker`](super::Worker) sees to by not being `Sync`.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of a [`Histogram`]'s buckets, in microseconds.
pub(super) const BOUNDS_MICROS: [u64; 15] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 30_000_000,
];

/// A number that grows, or a gauge: then it wraps below zero, and the sum over all threads is right again.
#[derive(Debug, Default)]
pub(super) struct Number(AtomicU64);

impl Number {
    #[inline]
    pub(super) fn add(&self, by: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(by), Relaxed);
    }

    #[inline]
    pub(super) fn subtract(&self, by: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(by), Relaxed);
    }

    pub(super) fn set(&self, to: u64) {
        self.0.store(to, Relaxed);
    }

    pub(super) fn load(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Durations in fixed buckets; the last is for what is over every bound.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    buckets: [Number; BOUNDS_MICROS.len() + 1],
    sum_micros: Number,
}

impl Histogram {
    pub(super) fn observe(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_MICROS.partition_point(|&bound| bound < micros);
        self.buckets[bucket].add(1);
        self.sum_micros.add(micros);
    }
}

/// Histograms of several threads, added up.
#[derive(Debug, Default)]
pub(super) struct Sum {
    pub(super) buckets: [u64; BOUNDS_MICROS.len() + 1],
    pub(super) micros: u64,
}

impl Sum {
    pub(super) fn of<'h>(histograms: impl Iterator<Item = &'h Histogram>) -> Self {
        let mut sum = Self::default();
        for histogram in histograms {
            for (into, from) in sum.buckets.iter_mut().zip(&histogram.buckets) {
                *into += from.load();
            }
            sum.micros = sum.micros.wrapping_add(histogram.sum_micros.load());
        }
        sum
    }

    pub(super) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}
