//! What has gone wrong.

use super::plan::Fault;

/// How often each fault has struck; those that were asked for by hand count, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FaultStats {
    /// [`Fault::RegistrationRefused`].
    pub refused_registrations: u64,
    /// [`Fault::QueuePairRefused`].
    pub refused_queue_pairs: u64,
    /// [`Fault::SendQueueFull`].
    pub full_send_queues: u64,
    /// [`Fault::ReceiveQueueFull`].
    pub full_receive_queues: u64,
    /// [`Fault::PostRefused`].
    pub refused_posts: u64,
    /// [`Fault::SendFails`].
    pub failed_sends: u64,
    /// [`Fault::PeerLost`], and queue pairs ended by [`Faults::lose_peers`](super::Faults::lose_peers).
    pub lost_peers: u64,
    /// [`Fault::NotReady`].
    pub late_receives: u64,
    /// [`Fault::CompletionFails`].
    pub failed_completions: u64,
    /// [`Fault::Delayed`].
    pub delayed: u64,
    /// [`Fault::Overtaken`].
    pub overtaken: u64,
    /// [`Fault::Frozen`], and [`Faults::freeze`](super::Faults::freeze).
    pub freezes: u64,
    /// [`Fault::QueueFails`].
    pub failed_queues: u64,
}

impl FaultStats {
    /// Faults that struck, of all kinds.
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

    /// Those that ended a connection.
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
