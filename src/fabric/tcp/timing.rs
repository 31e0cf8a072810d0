//! How long a peer is waited for, by the codes of a retry policy.

use std::time::Duration;

use crate::fabric::RetryPolicy;
use crate::fabric::retry_timing::rnr_timer;

/// A lost packet is sent again by the kernel after a second if it is the first, and after 200 ms
/// otherwise, whatever a policy says: a shorter patience would end connections that only lost one.
const MIN_PATIENCE: Duration = Duration::from_secs(2);

/// How long the system keeps a connection whose peer takes nothing, at least. It makes no
/// difference between a host that is silent and a process that does not read, because it is
/// stopped or gets no processor: those must outlast what heartbeats call stalled, which notice a
/// silent host sooner.
pub(super) const UNREAD: Duration = Duration::from_secs(10);

/// How long a peer may take to answer.
pub(super) fn patience(retry: RetryPolicy) -> Duration {
    retry.gives_up_after().max(MIN_PATIENCE)
}

/// How long a sender insists on a receive; `None`: for ever.
pub(super) fn rnr_patience(min_rnr_timer: u8, rnr_retry: u8) -> Option<Duration> {
    (rnr_retry < 7).then(|| rnr_timer(min_rnr_timer) * u32::from(rnr_retry))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabric::retry_timing::ack_timeout;

    #[test]
    fn codes_mean_what_the_specification_says() {
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
