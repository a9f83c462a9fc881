//! Durations and sizes as people write them.

use std::time::Duration;

const UNITS: [(&str, u64); 4] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("B", 1)];

/// A duration such as `5s`, `20ms`, `10min`, `1h 30min`.
///
/// # Errors
/// What was expected, in words.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_why| "expected a duration with its unit, such as \"20ms\", \"5s\" or \"10min\"".to_owned())
}

/// A size in bytes, such as `16MiB`, `512 KiB` or `4096`.
///
/// # Errors
/// What was expected, in words.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let wrong = || "expected a size in bytes, KiB, MiB or GiB, such as \"16MiB\"".to_owned();
    let text = text.trim();
    let (digits, unit) = UNITS
        .iter()
        .find_map(|(name, unit)| text.strip_suffix(name).map(|digits| (digits.trim_end(), *unit)))
        .unwrap_or((text, 1));
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(wrong());
    }
    let number: u64 = digits.parse().map_err(|_too_big| wrong())?;
    number.checked_mul(unit).ok_or_else(wrong)
}

/// A duration in the shape that [`duration`] reads.
pub(super) fn show_duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// A size in the shape that [`size`] reads, in the biggest unit that leaves no fraction.
pub(super) fn show_size(bytes: u64) -> String {
    for (name, unit) in [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes != 0 && bytes.is_multiple_of(unit) {
            return format!("{}{name}", bytes / unit);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("0", 0), ("4096", 4096), ("16MiB", 16 << 20), ("512 KiB", 512 << 10), ("1GiB", 1 << 30)]
        {
            assert_eq!(size(text), Ok(bytes), "{text}");
            assert_eq!(size(&show_size(bytes)), Ok(bytes), "{text}");
        }
        for text in
            ["", "MiB", "1.5MiB", "-1", "+1", "16MB", "16mib", "99999999999GiB", "99999999999999999999"]
        {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations() {
        for (text, millis) in [("20ms", 20), ("5s", 5000), ("10min", 600_000), ("1h 30min", 5_400_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
            assert_eq!(duration(&show_duration(Duration::from_millis(millis))), duration(text), "{text}");
        }
        for text in ["", "5", "s", "-5s", "5 parsecs"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
