//! The times that the codes of a retry policy stand for.

use std::time::Duration;

/// The wait for an acknowledgement (volume 1, 9.7.6.1.3): 4.096 us times 2 to the `code`.
pub(super) fn ack_timeout(code: u8) -> Duration {
    Duration::from_nanos(4096 << code.min(31))
}

/// The wait of a sender without a receive (volume 1, table 45).
pub(super) fn rnr_timer(code: u8) -> Duration {
    const HUNDREDTHS_OF_MS: [u32; 32] = [
        65536, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024,
        1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 49152,
    ];
    Duration::from_micros(10) * HUNDREDTHS_OF_MS[usize::from(code & 31)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timer_codes_mean_what_the_specification_says() {
        assert_eq!(ack_timeout(14), Duration::from_nanos(67_108_864));
        assert_eq!(rnr_timer(0), Duration::from_micros(655_360));
        assert_eq!(rnr_timer(12), Duration::from_micros(640));
        assert_eq!(rnr_timer(31), Duration::from_micros(491_520));
    }
}
