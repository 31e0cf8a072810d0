//! Counts of faults.

use super::plan::Fault;

/// How often each fault has struck, including those that a test caused by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FaultStats {
    /// Number of [`Fault::RegistrationRefused`].
    pub refused_registrations: u64,
    /// Number of [`Fault::QueuePairRefused`].
    pub refused_queue_pairs: u64,
    /// Number of [`Fault::SendQueueFull`].
    pub full_send_queues: u64,
    /// Number of [`Fault::ReceiveQueueFull`].
    pub full_receive_queues: u64,
    /// Number of [`Fault::PostRefused`].
    pub refused_posts: u64,
    /// Number of [`Fault::SendFails`].
    pub failed_sends: u64,
    /// Number of [`Fault::PeerLost`], and of queue pairs that
    /// [`Faults::lose_peers`](super::Faults::lose_peers) ended.
    pub lost_peers: u64,
    /// Number of [`Fault::NotReady`].
    pub late_receives: u64,
    /// Number of [`Fault::CompletionFails`].
    pub failed_completions: u64,
    /// Number of [`Fault::Delayed`].
    pub delayed: u64,
    /// Number of [`Fault::Overtaken`].
    pub overtaken: u64,
    /// Number of [`Fault::Frozen`], and of calls of [`Faults::freeze`](super::Faults::freeze).
    pub freezes: u64,
    /// Number of [`Fault::QueueFails`].
    pub failed_queues: u64,
}

impl FaultStats {
    /// Number of faults of all kinds.
    pub fn total(&self) -> u64 {
        self.refused_registrations
            + self.refused_queue_pairs
            + self.full_send_queues
            + self.full_receive_queues
            + self.refused_posts
            + self.late_receives
            + self.delayed
            + self.overtaken
            + self.freezes
            + self.broken()
    }

    /// Number of faults that ended a connection.
    pub fn broken(&self) -> u64 {
        self.failed_sends + self.lost_peers + self.failed_completions + self.failed_queues
    }

    pub(super) fn count(&mut self, fault: Fault) {
        *match fault {
            Fault::RegistrationRefused => &mut self.refused_registrations,
            Fault::QueuePairRefused => &mut self.refused_queue_pairs,
            Fault::SendQueueFull => &mut self.full_send_queues,
            Fault::ReceiveQueueFull => &mut self.full_receive_queues,
            Fault::PostRefused => &mut self.refused_posts,
            Fault::SendFails(_) => &mut self.failed_sends,
            Fault::PeerLost => &mut self.lost_peers,
            Fault::NotReady(_) => &mut self.late_receives,
            Fault::CompletionFails(_) => &mut self.failed_completions,
            Fault::Delayed(_) => &mut self.delayed,
            Fault::Overtaken => &mut self.overtaken,
            Fault::Frozen(_) => &mut self.freezes,
            Fault::QueueFails => &mut self.failed_queues,
        } += 1;
    }
}
