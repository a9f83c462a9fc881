//! What a monitor asks, and how the answer is read.
//!
//! All of it may be run by a role that is a member of `pg_monitor` (without it `pg_stat_wal_receiver` is empty, and no replica
//! is seen streaming). 0.3 ms on an idle server.

use std::time::{Duration, Instant};

use super::link::Rows;
use crate::topology::{Check, Found, Lsn};

/// The whole check, one row.
pub(super) const CHECK: &str = "\
SELECT pg_is_in_recovery(), \
current_setting('transaction_read_only'), \
(SELECT system_identifier FROM pg_control_system()), \
(extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint, \
CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_walfile_name(pg_current_wal_lsn()) END, \
(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END) - '0/0'::pg_lsn, \
CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_current_wal_insert_lsn() - '0/0'::pg_lsn END, \
(SELECT received_tli FROM pg_stat_wal_receiver), \
(SELECT status FROM pg_stat_wal_receiver), \
(extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) * 1000000)::bigint, \
current_setting('synchronous_commit') = 'off' OR EXISTS \
(SELECT FROM pg_db_role_setting WHERE 'synchronous_commit=off' = ANY (setconfig))";

/// The primary's positions: flush and insert LSN. Fails on a standby.
pub(super) const WRITTEN: &str =
    "SELECT pg_current_wal_flush_lsn() - '0/0'::pg_lsn, pg_current_wal_insert_lsn() - '0/0'::pg_lsn";

/// A replica's position, and then the timeline that it comes from.
pub(super) const REPLAYED: &str = "SELECT pg_last_wal_replay_lsn() - '0/0'::pg_lsn, \
(SELECT received_tli FROM pg_stat_wal_receiver)";

/// When a check was made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) begun: Instant,
    pub(super) connected: Instant,
    pub(super) took: Duration,
}

/// Reads the answer to [`CHECK`]; with it the primary's insert LSN. None if it isn't one.
pub(super) fn check(rows: &Rows, asked: Asked) -> Option<(Check, Option<Lsn>)> {
    let [
        in_recovery,
        read_only,
        system_identifier,
        postmaster_start,
        wal_file,
        lsn,
        insert,
        received_tli,
        status,
        replay_age,
        asynchronous,
    ] = one_row(rows)?;
    let found = if flag(in_recovery)? {
        Found::Standby {
            // Null where nothing was replayed since the start.
            replayed: number(lsn).unwrap_or_default(),
            received_tli: timeline(received_tli),
            streaming: status == Some("streaming"),
            // Negative where the clocks disagree.
            replay_age: signed(replay_age).map(|age| Duration::from_micros(u64::try_from(age).unwrap_or(0))),
        }
    } else {
        let timeline = u32::from_str_radix(wal_file?.get(..8)?, 16).ok()?;
        Found::Primary { timeline, flush: number(lsn)? }
    };
    let check = Check {
        begun: asked.begun,
        connected: asked.connected,
        took: asked.took,
        system_identifier: signed(system_identifier)? as u64,
        postmaster_start: signed(postmaster_start)?,
        read_only: read_only? != "off",
        asynchronous_commit: flag(asynchronous)?,
        found,
    };
    Some((check, number(insert)))
}

/// Reads the answer to [`WRITTEN`]: flush and insert LSN.
pub(super) fn written(rows: &Rows) -> Option<(Lsn, Lsn)> {
    let [flush, insert] = one_row(rows)?;
    Some((number(flush)?, number(insert)?))
}

/// Reads the answer to [`REPLAYED`]: replay LSN and the WAL receiver's timeline, none without one.
pub(super) fn replayed(rows: &Rows) -> Option<(Lsn, Option<u32>)> {
    let [lsn, received_tli] = one_row(rows)?;
    Some((number(lsn).unwrap_or_default(), timeline(received_tli)))
}

fn flag(value: Option<&str>) -> Option<bool> {
    match value? {
        "t" => Some(true),
        "f" => Some(false),
        _ => None,
    }
}

fn number(value: Option<&str>) -> Option<Lsn> {
    value?.parse().ok().map(Lsn)
}

fn signed(value: Option<&str>) -> Option<i64> {
    value?.parse().ok()
}

fn timeline(value: Option<&str>) -> Option<u32> {
    value?.parse().ok()
}

/// The one row, if it has so many columns.
fn one_row<const N: usize>(rows: &Rows) -> Option<[Option<&str>; N]> {
    let [row] = rows.as_slice() else { return None };
    let row: &[Option<String>; N] = row.as_slice().try_into().ok()?;
    Some(row.each_ref().map(Option::as_deref))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[&str]) -> Rows {
        vec![values.iter().map(|value| (!value.is_empty()).then(|| (*value).to_owned())).collect()]
    }

    fn asked() -> Asked {
        let begun = Instant::now();
        Asked { begun, connected: begun, took: Duration::ZERO }
    }

    #[test]
    fn reads_a_primary_and_a_standby() {
        let file = "0000000A0000000000000001";
        let rows = row(&[
            "f",
            "off",
            "7711122490449545636",
            "1795385637602718",
            file,
            "22025800",
            "22025900",
            "",
            "",
            "",
            "f",
        ]);
        let (check, insert) = check(&rows, asked()).unwrap();
        assert!(check.writable() && !check.asynchronous_commit);
        assert_eq!(check.system_identifier, 7_711_122_490_449_545_636);
        assert_eq!(check.found, Found::Primary { timeline: 10, flush: Lsn(22_025_800) });
        assert_eq!(insert, Some(Lsn(22_025_900)));

        let rows = row(&["t", "on", "-5", "1", "", "100", "", "2", "streaming", "-3", "t"]);
        let (check, insert) = super::check(&rows, asked()).unwrap();
        assert!(!check.writable() && check.asynchronous_commit && insert.is_none());
        // The catalog shows it signed.
        assert_eq!(check.system_identifier, (-5_i64) as u64);
        let standby = Found::Standby {
            replayed: Lsn(100),
            received_tli: Some(2),
            streaming: true,
            replay_age: Some(Duration::ZERO),
        };
        assert_eq!(check.found, standby);
    }

    #[test]
    fn what_is_no_answer_is_none() {
        assert!(check(&Vec::new(), asked()).is_none());
        assert!(check(&row(&["f"]), asked()).is_none());
        for bad in 0..11 {
            let mut values = ["f", "off", "7", "1", "000000010000000000000001", "2", "3", "", "", "", "f"];
            assert!(check(&row(&values), asked()).is_some());
            values[bad] = "?";
            let read = check(&row(&values), asked());
            assert_eq!(read.is_none(), [0, 2, 3, 4, 5, 10].contains(&bad), "{bad}");
            assert!(
                read.is_none_or(|(check, _)| bad != 1 || !check.writable()),
                "an unknown word is not off"
            );
        }
        assert_eq!(written(&row(&["1", "2"])), Some((Lsn(1), Lsn(2))));
        assert_eq!(written(&row(&["1", ""])), None);
        assert_eq!(replayed(&row(&["1", ""])), Some((Lsn(1), None)));
        assert_eq!(replayed(&row(&["1"])), None);
    }
}
