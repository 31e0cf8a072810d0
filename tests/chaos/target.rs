//! The service that everything happens to. It writes down each request that it runs.

use std::sync::Arc;

use futures_util::stream;
use slimerpc_actors::{PeerAgent, Share, Stream, service};

use crate::journal::{Event, Journal};

/// One in so many requests to [`Target::tenth`] panics.
const TENTH: u64 = 10;

/// What the instances of a worker share.
pub(crate) struct Common {
    pub(crate) agent: PeerAgent,
    pub(crate) journal: Journal,
}

impl Common {
    fn run(&self, id: u64) {
        self.journal.note(id, Event::Ran);
    }
}

/// One instance.
pub(crate) struct Target {
    pub(crate) common: Arc<Common>,
    pub(crate) tenths: u64,
}

impl Share for Target {
    type Shared = Common;

    fn share(&self) -> Arc<Common> {
        self.common.clone()
    }
}

#[service]
impl Target {
    #[method]
    pub(crate) fn number(&mut self, id: u64) -> u64 {
        self.common.run(id);
        !id
    }

    /// The number of the call is in the first 8 bytes.
    #[method(raw)]
    pub(crate) fn echo(&mut self, request: &[u8]) -> Vec<u8> {
        if let Some(id) = request.first_chunk() {
            self.common.run(u64::from_le_bytes(*id));
        }
        request.to_vec()
    }

    #[method(oneway)]
    pub(crate) fn told(&mut self, id: u64) {
        self.common.run(id);
    }

    #[method(parallel, stream)]
    pub(crate) fn count(common: &Common, id: u64, items: u64) -> impl Stream<Item = u64> {
        common.run(id);
        stream::iter((0..items).map(move |n| id.wrapping_add(n)))
    }

    #[method]
    pub(crate) fn tenth(&mut self, id: u64) -> u64 {
        self.common.run(id);
        self.tenths += 1;
        assert!(!self.tenths.is_multiple_of(TENTH), "the tenth");
        !id
    }

    /// Registered memory in use, in bytes.
    #[method(parallel)]
    pub(crate) fn lent(common: &Common) -> usize {
        common.agent.memory().lent
    }
}
