//! How long things may take: what the library promises, with room for a machine that has other
//! things to do. Measured times are printed; these are only where a failure begins.

use std::time::Duration;

/// See the [module](self).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Until a peer without signs of life is stalled: the detection time.
    pub(crate) detection: Duration,
    /// Until a peer that died is lost.
    pub(crate) loss: Duration,
    /// A call that fails at once.
    pub(crate) at_once: Duration,
    /// From the registration of a peer that is back until its first answer.
    pub(crate) reconnection: Duration,
    /// For what is not measured: a process comes up, some calls are answered, memory is given back.
    pub(crate) anything: Duration,
    /// For a case as a whole.
    pub(crate) case: Duration,
    /// Cases that may run side by side.
    pub(crate) jobs: u16,
}

const SHM: Limits = Limits {
    detection: Duration::from_secs(1),
    loss: Duration::from_secs(5),
    at_once: Duration::from_secs(2),
    reconnection: Duration::from_secs(8),
    anything: Duration::from_secs(20),
    case: Duration::from_secs(60),
    jobs: 3,
};

/// In an emulated guest, a call may take a tenth of a second.
const RDMA: Limits = Limits {
    detection: Duration::from_secs(3),
    loss: Duration::from_secs(12),
    at_once: Duration::from_secs(2),
    reconnection: Duration::from_secs(30),
    anything: Duration::from_secs(120),
    case: Duration::from_secs(400),
    jobs: 1,
};

impl Limits {
    pub(crate) fn of(device: Option<&str>) -> Self {
        match device {
            Some(name) if !name.starts_with("shm") => RDMA,
            _ => SHM,
        }
    }

    /// Until who watches is told that a peer has stalled: it is looked at once in half the
    /// detection time.
    pub(crate) fn stalled(&self) -> Duration {
        self.detection * 2 + self.at_once
    }
}
