//! What etcd has told so far: enough to tell an answer from the past, or a watch that keeps something back.

use std::collections::BTreeMap;

use etcd_client::ResponseHeader;

/// Of an answer's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) cluster: u64,
    pub(super) term: u64,
    pub(super) revision: i64,
}

impl Header {
    pub(super) fn of(header: Option<&ResponseHeader>) -> Option<Self> {
        let header = header?;
        Some(Self { cluster: header.cluster_id(), term: header.raft_term(), revision: header.revision() })
    }
}

/// What is known.
#[derive(Debug, Default)]
pub(super) struct Seen {
    cluster: Option<u64>,
    /// Of linearizable reads alone: a member that is cut off may stand for election for ever and count its term up.
    term: u64,
    revision: i64,
    /// Revision of each key's last change, as told.
    keys: BTreeMap<Vec<u8>, i64>,
    /// The revision up to which all was told, if the watch keeps nothing back.
    told: i64,
    /// Events of the watch so far.
    events: u64,
    /// The number of events when a read showed what the watch hadn't told.
    expected_after: Option<u64>,
}

impl Seen {
    /// A linearizable read's header: it sets what is known of etcd.
    pub(super) fn take_read(&mut self, header: Header) -> Result<(), &'static str> {
        self.compare(header)?;
        if header.revision < self.revision {
            return Err("the answer is of an older revision than one before it");
        }
        self.cluster = Some(header.cluster);
        self.term = header.term;
        self.revision = header.revision;
        Ok(())
    }

    /// A watch's header is compared and sets nothing.
    pub(super) fn compare_watch(&self, header: Header) -> Result<(), &'static str> {
        self.compare(header)
    }

    fn compare(&self, header: Header) -> Result<(), &'static str> {
        if self.cluster.is_some_and(|known| known != header.cluster) {
            return Err("the answer is of another etcd cluster");
        }
        if header.term < self.term {
            return Err("the answer is of an older raft term than one before it");
        }
        Ok(())
    }

    /// All keys as of the list that was read last.
    pub(super) fn list<'a>(&mut self, keys: impl Iterator<Item = (&'a [u8], i64)>) {
        self.keys = keys.map(|(key, revision)| (key.to_vec(), revision)).collect();
        self.told = self.revision;
        self.expected_after = None;
    }

    /// An event of the watch. One that a list has overtaken changes nothing here.
    pub(super) fn event(&mut self, key: &[u8], revision: i64, deleted: bool) {
        self.events += 1;
        if revision < self.told {
            return;
        }
        self.told = revision;
        if deleted {
            self.keys.remove(key);
        } else {
            self.keys.insert(key.to_vec(), revision);
        }
    }

    /// Whether a read shows anything that was not told. The watch may be ahead of the read; then the read shows nothing.
    pub(super) fn differs<'a>(
        &self,
        header: Header,
        mut keys: impl ExactSizeIterator<Item = (&'a [u8], i64)>,
    ) -> bool {
        header.revision >= self.told
            && (keys.len() != self.keys.len()
                || keys.any(|(key, revision)| self.keys.get(key) != Some(&revision)))
    }

    /// From now on the watch owes an event.
    pub(super) fn expect_events(&mut self) {
        self.expected_after = Some(self.events);
    }

    /// Whether it still does.
    pub(super) fn overdue(&mut self) -> bool {
        self.expected_after.take() == Some(self.events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(cluster: u64, term: u64, revision: i64) -> Header {
        Header { cluster, term, revision }
    }

    #[test]
    fn answers_from_the_past_or_elsewhere_are_refused() {
        let mut seen = Seen::default();
        seen.take_read(header(1, 5, 100)).unwrap();
        assert!(seen.take_read(header(2, 5, 100)).is_err());
        assert!(seen.take_read(header(1, 4, 200)).is_err());
        assert!(seen.take_read(header(1, 5, 99)).is_err());
        assert!(seen.compare_watch(header(1, 4, 101)).is_err());
        // A cut-off member's inflated term doesn't shut the healthy ones out.
        assert!(seen.compare_watch(header(1, 50, 101)).is_ok());
        seen.take_read(header(1, 6, 101)).unwrap();
    }

    #[test]
    fn a_read_that_shows_more_than_the_watch_told() {
        let mut seen = Seen::default();
        let read = |keys: &[(&'static str, i64)]| {
            keys.iter().map(|(key, revision)| (key.as_bytes(), *revision)).collect::<Vec<_>>().into_iter()
        };
        seen.take_read(header(1, 1, 10)).unwrap();
        seen.list(read(&[("a", 5), ("b", 7)]));
        let now = header(1, 1, 12);
        assert!(!seen.differs(now, read(&[("a", 5), ("b", 7)])));
        assert!(seen.differs(now, read(&[("a", 5), ("b", 11)])), "changed");
        assert!(seen.differs(now, read(&[("a", 5)])), "deleted");
        assert!(seen.differs(now, read(&[("a", 5), ("c", 11)])), "deleted and made");
        seen.event(b"b", 11, false);
        seen.event(b"a", 12, true);
        assert!(!seen.differs(now, read(&[("b", 11)])));
        assert!(!seen.differs(header(1, 1, 11), read(&[("a", 5), ("b", 11)])), "read before the last event");
        // A list overtakes the watch: what the watch tells later of before is known already.
        seen.take_read(header(1, 1, 20)).unwrap();
        seen.list(read(&[("c", 20)]));
        seen.event(b"c", 19, true);
        assert!(!seen.differs(header(1, 1, 20), read(&[("c", 20)])));
    }

    #[test]
    fn a_watch_owes_an_event_after_such_a_read() {
        let mut seen = Seen::default();
        assert!(!seen.overdue());
        seen.expect_events();
        assert!(seen.overdue());
        assert!(!seen.overdue(), "asked once");
        seen.expect_events();
        seen.event(b"a", 1, false);
        assert!(!seen.overdue());
    }
}
