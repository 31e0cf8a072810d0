//! Numbers as DLSlime's `dlslime-ctrl obs` prints them.

use std::time::Duration;

/// Bytes, in steps of 1,024.
pub(crate) fn bytes(count: u64) -> String {
    match scaled(count as f64, 1024.0, &["KB", "MB", "GB", "TB"]) {
        Some(text) => text,
        None => format!("{count}B"),
    }
}

/// Bits a second, in steps of 1,000.
pub(crate) fn bandwidth(bits: f64) -> String {
    match scaled(bits, 1000.0, &["Kbps", "Mbps", "Gbps", "Tbps"]) {
        Some(text) => text,
        // No sign before a zero.
        None => format!("{:.0}bps", bits.max(0.0) + 0.0),
    }
}

/// A number in the largest of `units`, the first of which is one `step`; `None` if it is smaller.
fn scaled(number: f64, step: f64, units: &[&str]) -> Option<String> {
    let mut scaled = number;
    let mut unit = None;
    for next in units {
        if scaled < step {
            break;
        }
        scaled /= step;
        unit = Some(next);
    }
    Some(format!("{scaled:.1}{}", unit?))
}

/// How long ago something was.
pub(crate) fn age(age: Duration) -> String {
    match age.as_secs() {
        0 => format!("{}ms", age.as_millis()),
        seconds @ 1..60 => format!("{seconds}s"),
        seconds => format!("{}m", seconds / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_printed_as_the_original_was_seen_to_print_them() {
        for (count, printed) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1.0KB"),
            (1_048_575, "1024.0KB"),
            (1_048_576, "1.0MB"),
            (123_456_700, "117.7MB"),
            (2_000_000_000_000_000, "1819.0TB"),
        ] {
            assert_eq!(bytes(count), printed);
        }
        for (bits, printed) in [
            (0.0, "0bps"),
            (-0.0, "0bps"),
            (999.0, "999bps"),
            (1000.0, "1.0Kbps"),
            (12_345.0, "12.3Kbps"),
            (9_876_543_210.5, "9.9Gbps"),
            (2e15, "2000.0Tbps"),
        ] {
            assert_eq!(bandwidth(bits), printed);
        }
        for (millis, printed) in [
            (29, "29ms"),
            (1000, "1s"),
            (59_999, "59s"),
            (60_000, "1m"),
            (7_200_000, "120m"),
        ] {
            assert_eq!(age(Duration::from_millis(millis)), printed);
        }
    }
}
