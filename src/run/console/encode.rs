//! Rows of the console's tables as they go over the wire, in text and in binary.

use crate::admin::console::{Cell, Column, Kind};
use crate::wire::build::{self, Field};

/// A `numeric`'s digits in binary are to this base (PostgreSQL's `numeric.c`).
const BASE: u64 = 10_000;
/// The sign of a negative one.
const NEGATIVE: u16 = 0x4000;

/// The type's number in `pg_type`, and the bytes of a value.
fn type_of(kind: Kind) -> (u32, i16) {
    match kind {
        Kind::Text => (25, -1),
        Kind::Int4 => (23, 4),
        Kind::Int8 => (20, 8),
        Kind::Numeric => (1700, -1),
    }
}

/// The format of a column: none are text, one is for all.
fn format(formats: &[i16], column: usize) -> i16 {
    match formats {
        [] => 0,
        [all] => *all,
        each => each.get(column).copied().unwrap_or(0),
    }
}

/// RowDescription.
pub(super) fn description(out: &mut Vec<u8>, columns: &[Column], formats: &[i16]) {
    let fields = columns.iter().enumerate().map(|(at, column)| {
        let (type_id, size) = type_of(column.kind);
        Field { name: column.name, type_id, size, format: format(formats, at) }
    });
    build::row_description(out, fields);
}

/// A DataRow for each row.
pub(super) fn rows(rows: &[Vec<Cell>], columns: &[Column], formats: &[i16]) -> Vec<u8> {
    let mut out = Vec::new();
    for row in rows {
        let values = row.iter().zip(columns).enumerate().map(|(at, (cell, column))| {
            let text = cell.as_ref()?;
            match format(formats, at) {
                0 => Some(without_nul(text)),
                _ => binary(text, column.kind),
            }
        });
        build::row(&mut out, values);
    }
    out
}

/// No text of PostgreSQL's holds a NUL.
fn without_nul(text: &str) -> Vec<u8> {
    text.bytes().filter(|byte| *byte != 0).collect()
}

/// A value in binary; none for what is no number where one is due.
fn binary(text: &str, kind: Kind) -> Option<Vec<u8>> {
    Some(match kind {
        Kind::Text => without_nul(text),
        Kind::Int4 => text.parse::<i32>().ok()?.to_be_bytes().to_vec(),
        Kind::Int8 => text.parse::<i64>().ok()?.to_be_bytes().to_vec(),
        Kind::Numeric => numeric(text.parse().ok()?),
    })
}

fn numeric(value: i64) -> Vec<u8> {
    let mut digits = Vec::new();
    let mut rest = value.unsigned_abs();
    while rest > 0 {
        digits.push((rest % BASE) as u16);
        rest /= BASE;
    }
    let weight = digits.len().saturating_sub(1) as u16;
    let sign = if value < 0 { NEGATIVE } else { 0 };
    let mut out = Vec::new();
    // Digits, weight of the first, sign, digits behind the point.
    for number in [digits.len() as u16, weight, sign, 0].into_iter().chain(digits.into_iter().rev()) {
        out.extend_from_slice(&number.to_be_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numerics_are_as_numeric_send_writes_them() {
        assert_eq!(numeric(0), [0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(numeric(7), [0, 1, 0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(numeric(10_000), [0, 2, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(numeric(-12_345), [0, 2, 0, 1, 0x40, 0, 0, 0, 0, 1, 9, 41]);
    }

    #[test]
    fn rows_come_in_the_format_that_is_asked_for() {
        let columns = [Column { name: "a", kind: Kind::Int4 }, Column { name: "b", kind: Kind::Text }];
        let row = [vec![Some("258".to_owned()), None], vec![Some("x".to_owned()), Some("te\0xt".to_owned())]];
        let text = rows(&row, &columns, &[]);
        assert!(text.windows(3).any(|bytes| bytes == b"258") && text.ends_with(b"text"));
        let binary = rows(&row, &columns, &[1, 0]);
        assert_eq!(&binary[7..19], [0, 0, 0, 4, 0, 0, 1, 2, 255, 255, 255, 255]);
        // What is no number is no value.
        assert_eq!(&binary[26..30], [255, 255, 255, 255]);
    }
}
