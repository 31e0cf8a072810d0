//! What a page is told about one agent: a row for the lists and the graph, and details for the
//! agent's own page.

use serde::Serialize;
use serde_json::Value;

use crate::control::obs::{
    ObsConnection, ObsRecord, SlimerpcMethod, SlimerpcObs, SlimerpcPeerState, SlimerpcService,
    SlimerpcServiceState,
};
use crate::nanoctrl::repository::AgentRow;

/// Most links of an agent, and most of its services, in its row. Its own page has all.
const MOST_IN_ROW: usize = 128;

/// Whether an agent is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum AgentState {
    /// It says so, or holds its registration.
    Alive,
    /// It has not said so for longer than it should.
    Stalled,
    /// Its peers have lost it, or its registration has expired.
    Gone,
    /// It has said that it leaves.
    Left,
}

/// An agent in lists and in the graph.
#[derive(Serialize)]
pub(super) struct Row<'a> {
    pub(super) scope: &'a str,
    pub(super) alias: &'a str,
    pub(super) state: AgentState,
    /// Why it is not there; otherwise empty.
    pub(super) why: &'a str,
    host: &'a str,
    address: &'a str,
    device: &'a str,
    /// `slimerpc` or `dlslime`.
    kind: &'static str,
    /// Whether it says anything of itself.
    observed: bool,
    registered: bool,
    started_ms: u64,
    registered_bytes: u64,
    errors: u64,
    links: Vec<Link<'a>>,
    services: Vec<Service<'a>>,
    /// Links and services beyond those that are listed.
    more: usize,
}

/// The way to a peer, as one end sees it.
#[derive(Serialize)]
struct Link<'a> {
    peer: &'a str,
    fabric: &'a str,
    state: &'static str,
}

#[derive(Serialize)]
struct Service<'a> {
    name: &'a str,
    #[serde(rename = "type")]
    type_name: &'a str,
    state: SlimerpcServiceState,
    restarts: u64,
    callers: u64,
    in_flight: u64,
    calls: u64,
    errors: u64,
    per_second: f64,
    /// Of the method that is called most.
    p50_us: f64,
    /// Of the slowest method.
    p99_us: f64,
}

impl<'a> Row<'a> {
    /// An agent that is registered, has a record, or both.
    pub(super) fn new(
        (scope, alias): (&'a str, &'a str),
        (state, why): (AgentState, &'a str),
        registration: Option<&'a AgentRow>,
        record: Option<&'a ObsRecord>,
    ) -> Self {
        let ours = record.and_then(|record| record.slimerpc.as_ref());
        let address = registration.map_or("", |row| row.address.as_str());
        let host = record.map_or("", |record| record.host.as_str());
        let links = match (ours, record) {
            (Some(ours), _) => links_of(ours),
            (None, Some(record)) => record.connections.iter().map(link_of).collect(),
            (None, None) => Vec::new(),
        };
        let services: Vec<_> = ours
            .iter()
            .flat_map(|ours| &ours.services)
            .map(service)
            .collect();
        let more =
            links.len().saturating_sub(MOST_IN_ROW) + services.len().saturating_sub(MOST_IN_ROW);
        let called = ours.iter().flat_map(|ours| &ours.calls);
        let native = registration.is_some_and(|row| row.incarnation.is_some()) || ours.is_some();
        Self {
            scope,
            alias,
            state,
            why,
            host: if host.is_empty() { address } else { host },
            address,
            device: registration
                .and_then(|row| row.device.as_deref())
                .unwrap_or_default(),
            kind: if native { "slimerpc" } else { "dlslime" },
            observed: record.is_some(),
            registered: registration.is_some(),
            started_ms: ours.map_or(0, |ours| ours.started_ms),
            registered_bytes: match (ours, record) {
                (Some(ours), _) => ours.memory.registered_bytes,
                (None, Some(record)) => record.summary.mr_bytes.try_into().unwrap_or(0),
                (None, None) => 0,
            },
            errors: called.fold(0, |sum, call| call.errors.saturating_add(sum)),
            links: links.into_iter().take(MOST_IN_ROW).collect(),
            services: services.into_iter().take(MOST_IN_ROW).collect(),
            more,
        }
    }
}

fn links_of(ours: &SlimerpcObs) -> Vec<Link<'_>> {
    let links = ours.peers.iter().map(|peer| Link {
        peer: &peer.alias,
        fabric: &peer.fabric,
        state: match peer.state {
            SlimerpcPeerState::Alive => "alive",
            SlimerpcPeerState::Stalled => "stalled",
            SlimerpcPeerState::Gone => "gone",
            SlimerpcPeerState::Unknown => "unknown",
        },
    });
    links.collect()
}

/// A connection of DLSlime, which knows RDMA only.
fn link_of(connection: &ObsConnection) -> Link<'_> {
    Link {
        peer: &connection.peer,
        fabric: "RoCE",
        state: match connection.connected {
            true => "alive",
            false => "unknown",
        },
    }
}

fn service(service: &SlimerpcService) -> Service<'_> {
    let methods = &service.methods;
    let sum = |of: fn(&SlimerpcMethod) -> u64| methods.iter().map(of).fold(0, u64::saturating_add);
    let busiest = methods
        .iter()
        .max_by(|a, b| a.per_second.total_cmp(&b.per_second));
    Service {
        name: &service.name,
        type_name: &service.type_name,
        state: service.state,
        restarts: service.restarts,
        callers: service.callers,
        in_flight: service.in_flight,
        calls: sum(|method| method.calls),
        errors: sum(|method| method.errors),
        per_second: methods.iter().map(|method| method.per_second).sum(),
        p50_us: busiest.map_or(0.0, |method| method.p50_us),
        p99_us: methods
            .iter()
            .map(|method| method.p99_us)
            .fold(0.0, f64::max),
    }
}

/// All that is known of an agent.
#[derive(Serialize)]
pub(super) struct Details<'a> {
    #[serde(flatten)]
    pub(super) row: Row<'a>,
    /// What it has registered of its devices.
    pub(super) resource: Option<Value>,
    pub(super) record: Option<&'a ObsRecord>,
}
