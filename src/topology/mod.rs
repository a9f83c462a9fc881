//! PURE: Patroni's keys and live checks into one snapshot.
