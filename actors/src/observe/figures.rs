//! The figures of an agent at one moment.

use std::collections::BTreeMap;

use slimerpc::channel::{ConnectionReading, MethodReading};

use crate::MemoryAccount;

/// The figures of an agent at one moment; [`PeerAgent::figures`](crate::PeerAgent::figures) reads
/// them. What is counted only grows, so that two readings tell what happened between them.
///
/// ```no_run
/// # fn example(agent: slimerpc_actors::PeerAgent) {
/// if let Some(figures) = agent.figures() {
///     for service in figures.calls {
///         for method in service.methods {
///             let p99 = method.took.quantile(0.99);
///             println!("{}.{}: p99 {p99:?}", service.service, method.method);
///         }
///     }
/// }
/// # }
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Figures {
    /// Calls through this agent's proxies, by the name of the service.
    pub calls: Vec<ServiceFigures>,
    /// Calls of this agent's services.
    pub served: Vec<ServiceFigures>,
    /// Bytes registered for payloads beyond a slot and for one-sided memory.
    pub memory: MemoryAccount,
    /// Bytes of peers' memory that this agent has read and written one-sided.
    pub one_sided: OneSidedBytes,
    /// How often each RDMA device of this agent turned a message away because no receive was
    /// posted (RNR), since the agent began; of all programs of the host.
    pub rnr: BTreeMap<String, u64>,
    /// How often each kind of incident happened, by kind and detail. `joined`, `lost` (with its
    /// cause), `stalled`, `recovered`: a peer. `connected`, `fabric_changed` (with the kind of
    /// link), `healed` (with the service): a proxy. `restarted`, `given_up`: a service.
    pub incidents: BTreeMap<(&'static str, String), u64>,
}

/// The figures of one service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceFigures {
    /// Name of the service.
    pub service: String,
    /// Its methods that have been called, in the order of their names.
    pub methods: Vec<MethodReading>,
    /// What was counted of its connections beside calls.
    pub connections: ConnectionReading,
    /// The slots that its callers have in its rings, at this moment; none of those for an agent's
    /// own services.
    pub rings: RingOccupancy,
}

/// Slots of the rings towards a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RingOccupancy {
    /// Free slots: credits of this agent's proxies.
    pub free: usize,
    /// Slots of calls that were made and whose answer has not been read.
    pub in_use: usize,
    /// Calls that wait for a slot.
    pub waiting: usize,
}

impl RingOccupancy {
    pub(crate) fn add(&mut self, others: Self) {
        self.free += others.free;
        self.in_use += others.in_use;
        self.waiting += others.waiting;
    }
}

/// Bytes of one-sided transfers that have taken place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OneSidedBytes {
    /// Bytes read from peers.
    pub read: u64,
    /// Bytes written to peers.
    pub written: u64,
}
