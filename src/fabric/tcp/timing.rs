//! What the codes of a retry policy mean, and how long connections are waited for.

use std::time::Duration;

use crate::fabric::RetryPolicy;

/// A lost packet is sent again by the kernel after a second if it is the first, and after 200 ms
/// otherwise, whatever a policy says: a shorter patience would end connections that only lost one.
const MIN_PATIENCE: Duration = Duration::from_secs(2);

/// How long a peer may take to answer.
pub(super) fn patience(retry: RetryPolicy) -> Duration {
    let tries = u32::from(retry.retry_cnt) + 1;
    (ack_timeout(retry.timeout) * tries).max(MIN_PATIENCE)
}

/// How long a sender insists on a receive; `None`: for ever.
pub(super) fn rnr_patience(min_rnr_timer: u8, rnr_retry: u8) -> Option<Duration> {
    (rnr_retry < 7).then(|| rnr_timer(min_rnr_timer) * u32::from(rnr_retry))
}

/// The wait for an acknowledgement (volume 1, 9.7.6.1.3): 4.096 us times 2 to the `code`.
fn ack_timeout(code: u8) -> Duration {
    Duration::from_nanos(4096 << code.min(31))
}

/// The wait of a sender without a receive (volume 1, table 45).
fn rnr_timer(code: u8) -> Duration {
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
    fn codes_mean_what_the_specification_says() {
        assert_eq!(ack_timeout(14), Duration::from_nanos(67_108_864));
        assert_eq!(rnr_timer(0), Duration::from_micros(655_360));
        assert_eq!(rnr_patience(12, 6), Some(Duration::from_micros(3840)));
        assert_eq!(rnr_patience(12, 7), None);
        assert_eq!(patience(RetryPolicy::default()), MIN_PATIENCE);
        let long = RetryPolicy {
            timeout: 20,
            ..RetryPolicy::default()
        };
        assert_eq!(patience(long), ack_timeout(20) * 7);
    }
}
