//! Puts an agent's record together.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use slimerpc::channel::{MethodReading, RegisteredMemory, Violation, Violations};
use slimerpc::control::obs::{
    ObsConnection, ObsNic, ObsRecord, ObsSummary, SlimerpcCall, SlimerpcMemory, SlimerpcMethod,
    SlimerpcObs, SlimerpcPayload, SlimerpcPeer, SlimerpcPeerState, SlimerpcService,
    SlimerpcServiceState, SlimerpcValue,
};
use slimerpc::control::topology;
use slimerpc::fabric::LinkType;
use tokio::sync::broadcast;

use super::super::AgentState;
use super::log::unix_millis;
use super::rates::{Moved, Rates, Side};
use crate::agent::builder::Settings;
use crate::service::running::RunningService;
use crate::{AgentEvent, Figures, PayloadBytes, PeerStatus, ServiceFigures};

/// What stays the same from record to record.
pub(super) struct Reporter {
    session_id: String,
    host: String,
    started_ms: u64,
    period_ms: u64,
    settings: BTreeMap<String, SlimerpcValue>,
    /// What happened to the agent since the last record.
    events: broadcast::Receiver<AgentEvent>,
    rates: Rates,
    /// Bits a second that the agent has moved, smoothed.
    bandwidth: f64,
}

/// How much of the smoothed bandwidth the last period is.
const LAST_PERIOD: f64 = 0.5;

impl Reporter {
    pub(super) fn new(agent: &AgentState, period: Duration) -> Self {
        let started_ms = unix_millis();
        Self {
            session_id: format!("{}:{}:{started_ms}", agent.alias, std::process::id()),
            host: topology::hostname(),
            started_ms,
            period_ms: millis(period),
            settings: described(&agent.settings),
            events: agent.events.subscribe(),
            rates: Rates::new(Instant::now()),
            bandwidth: 0.0,
        }
    }

    /// What the agent says of itself now.
    pub(super) fn record(&mut self, agent: &AgentState) -> ObsRecord {
        self.note_events(agent);
        self.rates.end_period(Instant::now());
        let observed = agent.settings.observed.as_ref();
        let figures = observed.map(|it| it.figures(agent.settings.devices.account()));
        let figures = figures.unwrap_or_default();
        let registered = RegisteredMemory::now();
        let moved = moved(&figures);
        let bytes = moved.completed_bytes_total;
        let bits = 8.0 * self.rates.per_second(Moved::Posted, bytes);
        self.bandwidth += LAST_PERIOD * (bits - self.bandwidth);
        let nics = nics(agent, &moved, self.bandwidth);
        let (native, others) = (agent.native_peers(), agent.dlslime_peers());
        ObsRecord {
            schema_version: ObsRecord::SCHEMA_VERSION,
            session_id: self.session_id.clone(),
            peer_id: agent.alias.clone(),
            host: self.host.clone(),
            pid: std::process::id().into(),
            reported_at_ms: unix_millis(),
            status: None,
            summary: ObsSummary {
                mr_count: registered.regions.cast_signed(),
                mr_bytes: registered.bytes.cast_signed(),
                ..moved
            },
            nics,
            ewma_bandwidth_bps: self.bandwidth,
            connections: agent.observed_connections(&native, &others),
            slimerpc: Some(SlimerpcObs {
                peers: agent.observed_peers(native, others),
                ..self.ours(agent, &figures)
            }),
        }
    }

    fn note_events(&mut self, agent: &AgentState) {
        loop {
            match self.events.try_recv() {
                Ok(event) => agent.obs.note(event),
                Err(broadcast::error::TryRecvError::Lagged(_)) => {}
                Err(_) => return,
            }
        }
    }

    fn ours(&mut self, agent: &AgentState, figures: &Figures) -> SlimerpcObs {
        let memory = figures.memory;
        let mut services = agent.observed_services();
        for service in &mut services {
            let mut served = figures.served.iter();
            let methods = served.find(|it| it.service == service.name);
            service.methods = methods.map_or_else(Vec::new, |it| self.methods(it));
            service.in_flight = service.methods.iter().map(|method| method.in_flight).sum();
        }
        SlimerpcObs {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            incarnation: format!("{:016x}", agent.descriptor.borrow().incarnation),
            started_ms: self.started_ms,
            period_ms: self.period_ms,
            settings: self.settings.clone(),
            memory: SlimerpcMemory {
                registered_bytes: (memory.lent + memory.idle) as u64,
                pooled_bytes: memory.idle as u64,
            },
            peers: Vec::new(),
            payload: self.payload(figures),
            services,
            calls: self.calls(figures),
            events: agent.obs.events(),
            violations: violations(figures),
        }
    }
}

impl Reporter {
    /// Payloads that the agent has moved, and how fast.
    fn payload(&mut self, figures: &Figures) -> SlimerpcPayload {
        let payload = payload_of(figures);
        let sent = payload.sent_inline + payload.sent_by_rendezvous;
        let received = payload.received_inline + payload.received_by_rendezvous;
        SlimerpcPayload {
            sent_bytes: sent,
            received_bytes: received,
            sent_per_second: self.rates.per_second(Moved::Sent, sent),
            received_per_second: self.rates.per_second(Moved::Received, received),
        }
    }

    /// The figures of the methods of a service.
    fn methods(&mut self, service: &ServiceFigures) -> Vec<SlimerpcMethod> {
        let methods = service.methods.iter().take(SlimerpcObs::MOST_METHODS);
        let method = |reading: &MethodReading| {
            let rates = self.rates.of(Side::Service, &service.service, reading);
            SlimerpcMethod {
                name: reading.method.clone(),
                calls: reading.ended.iter().sum(),
                errors: reading.failed(),
                in_flight: reading.in_flight(),
                p50_us: rates.p50_us,
                p99_us: rates.p99_us,
                p999_us: rates.p999_us,
                per_second: rates.per_second,
            }
        };
        methods.map(method).collect()
    }

    /// The figures of the methods that the agent has called.
    fn calls(&mut self, figures: &Figures) -> Vec<SlimerpcCall> {
        let services = figures.calls.iter();
        let called =
            services.flat_map(|it| it.methods.iter().map(|reading| (&it.service, reading)));
        let call = |(service, reading): (&String, &MethodReading)| {
            let rates = self.rates.of(Side::Caller, service, reading);
            SlimerpcCall {
                service: service.clone(),
                method: reading.method.clone(),
                calls: reading.ended.iter().sum(),
                errors: reading.failed(),
                in_flight: reading.in_flight(),
                p50_us: rates.p50_us,
                p99_us: rates.p99_us,
                p999_us: rates.p999_us,
                per_second: rates.per_second,
            }
        };
        called.take(SlimerpcObs::MOST_METHODS).map(call).collect()
    }
}

/// Breaches of the protocol by peers, by kind; those that have happened.
fn violations(figures: &Figures) -> BTreeMap<String, u64> {
    let mut all = Violations::default();
    for service in figures.calls.iter().chain(&figures.served) {
        all.add(&service.connections.violations);
    }
    let counts = Violation::ALL.map(|kind| (kind.name().to_owned(), all.count(kind)));
    counts.into_iter().filter(|(_, count)| *count > 0).collect()
}

/// Payloads that the agent has moved, as a caller and in its services.
fn payload_of(figures: &Figures) -> PayloadBytes {
    let mut all = PayloadBytes::default();
    for service in figures.calls.iter().chain(&figures.served) {
        all.add(&service.connections.payload);
    }
    all
}

/// The devices. What moves over which is not counted apart, so only that of an agent with a single
/// one is known.
fn nics(agent: &AgentState, moved: &ObsSummary, bandwidth: f64) -> Vec<ObsNic> {
    let named = |name: &str| ObsNic {
        nic: name.to_owned(),
        ..ObsNic::default()
    };
    let mut nics: Vec<_> = agent.settings.devices.names().map(named).collect();
    if let [only] = &mut *nics {
        only.assign_total = moved.assign_total;
        only.submitted_bytes_total = moved.submitted_bytes_total;
        only.completed_bytes_total = moved.completed_bytes_total;
        only.pending_ops = moved.pending_ops;
        only.error_total = moved.error_total;
        only.ewma_bandwidth_bps = bandwidth;
    }
    nics
}

/// What the agent has moved, as DLSlime counts it: requests that it began, and answers that it
/// gave. Bytes are those of operations that it posted: payloads that it sent in slots, those that
/// it read because they are beyond one, and what it read and wrote one-sided. They are counted when
/// they have been posted or have arrived, so none is on its way or has failed.
fn moved(figures: &Figures) -> ObsSummary {
    let readings = |of: &[ServiceFigures], what: fn(&MethodReading) -> u64| -> u64 {
        of.iter().flat_map(|it| &it.methods).map(what).sum()
    };
    let answers = readings(&figures.served, |it| it.ended.iter().sum());
    let pending = readings(&figures.calls, MethodReading::in_flight);
    let (payload, one_sided) = (payload_of(figures), figures.one_sided);
    let calls = payload.sent_inline + payload.received_by_rendezvous;
    let bytes = calls + one_sided.read + one_sided.written;
    ObsSummary {
        submitted_bytes_total: bytes,
        completed_bytes_total: bytes,
        assign_total: readings(&figures.calls, |it| it.begun) + answers,
        pending_ops: pending.cast_signed(),
        error_total: readings(&figures.calls, MethodReading::failed),
        ..ObsSummary::default()
    }
}

impl AgentState {
    fn observed_connections(
        &self,
        native: &[PeerStatus],
        others: &[PeerStatus],
    ) -> Vec<ObsConnection> {
        let devices = &self.settings.devices;
        let connection = |peer: &PeerStatus, nic: &str| ObsConnection {
            conn_id: format!("{}:{nic}->{}", self.alias, peer.alias),
            // Only devices of RDMA have other names elsewhere.
            remote_nic: match devices.beside_rdma().contains(&nic) {
                true => nic.to_owned(),
                false => String::new(),
            },
            local_nic: nic.to_owned(),
            state: if peer.link.is_some() {
                "connected"
            } else {
                "connecting"
            }
            .to_owned(),
            connected: peer.link.is_some(),
            peer: peer.alias.clone(),
        };
        let native = native.iter().map(|peer| {
            let nic = peer.link.and_then(|link| devices.name_on(link));
            connection(peer, nic.unwrap_or_default())
        });
        let nic = devices.for_dlslime().device().name();
        let others = others.iter().map(|peer| connection(peer, nic));
        let mut all: Vec<_> = native.chain(others).collect();
        all.sort_by(|a, b| a.peer.cmp(&b.peer));
        all.truncate(ObsRecord::MOST_PEERS);
        all
    }

    fn observed_peers(
        &self,
        native: Vec<PeerStatus>,
        others: Vec<PeerStatus>,
    ) -> Vec<SlimerpcPeer> {
        let mut known: BTreeMap<_, _> = (native.into_iter())
            .map(|peer| (peer.alias, (peer.link, peer.why)))
            .collect();
        let noted = self.obs.peers(|peer| known.contains_key(peer));
        let native = noted.into_iter().map(|(alias, noted)| {
            let (link, fabric_why) = known.remove(&alias).unwrap_or_default();
            SlimerpcPeer {
                fabric: fabric(link),
                fabric_why,
                alias,
                state: noted.state,
                why: noted.why,
                since_ms: noted.since_ms,
            }
        });
        let link = self.dlslime_link();
        // They send no heartbeats; that messages can be sent is all that is known.
        let others = others.into_iter().map(|peer| SlimerpcPeer {
            alias: peer.alias,
            fabric: fabric(Some(link)),
            state: match peer.link {
                Some(_) => SlimerpcPeerState::Alive,
                None => SlimerpcPeerState::Unknown,
            },
            ..SlimerpcPeer::default()
        });
        let mut all: Vec<_> = native.chain(others).collect();
        all.sort_by_key(|peer| peer.state == SlimerpcPeerState::Gone);
        all.truncate(ObsRecord::MOST_PEERS);
        all
    }

    fn observed_services(&self) -> Vec<SlimerpcService> {
        let descriptor = self.descriptor.borrow();
        let down: BTreeSet<_> = descriptor.down.iter().collect();
        let services = self.services.borrow();
        let mut all: Vec<_> = services
            .iter()
            .map(|(name, running)| self.observed_service(name, running, down.contains(name)))
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all.truncate(SlimerpcObs::MOST_SERVICES);
        all
    }

    fn observed_service(
        &self,
        name: &str,
        running: &RunningService,
        is_down: bool,
    ) -> SlimerpcService {
        let child = running.child;
        let supervised = child.and_then(|child| self.supervised.borrow().observed(child));
        SlimerpcService {
            name: name.to_owned(),
            type_name: running.type_name.to_owned(),
            state: match supervised {
                _ if is_down => SlimerpcServiceState::Down,
                Some(supervised) if supervised.is_given_up => SlimerpcServiceState::Down,
                Some(supervised) if !supervised.is_up => SlimerpcServiceState::Restarting,
                _ => SlimerpcServiceState::Up,
            },
            restarts: supervised.map_or(0, |supervised| supervised.restarts),
            callers: running.callers() as u64,
            ..SlimerpcService::default()
        }
    }
}

/// The kind of a link, as records name it.
fn fabric(link: Option<LinkType>) -> String {
    let name = match link {
        Some(LinkType::Shm) => "shm",
        Some(LinkType::Roce) => "RoCE",
        Some(LinkType::InfiniBand) => "IB",
        Some(LinkType::Tcp) => "tcp",
        None => "",
    };
    name.to_owned()
}

/// The settings, without secrets: the control plane describes itself without its token, and its URL
/// has no login.
fn described(settings: &Settings) -> BTreeMap<String, SlimerpcValue> {
    let number = |number: usize| SlimerpcValue::from(number as u64);
    let time = |time: Duration| SlimerpcValue::from(millis(time));
    let links = settings.devices.links();
    let heartbeat = settings.heartbeat(links[0]);
    let mut all = vec![
        ("control", settings.control.describe().into()),
        ("scope", settings.scope.clone().into()),
        ("devices", settings.devices.to_string().into()),
        ("tls", settings.tls.is_some().into()),
        ("slot_size", number(settings.geometry.slot_size())),
        ("max_inflight", number(settings.geometry.slots())),
        ("workers", number(settings.workers.get())),
        (
            "busy_poll_us",
            (settings.busy_poll.as_micros() as u64).into(),
        ),
        ("connect_timeout_ms", time(settings.connect_timeout)),
        ("take_over_ms", time(settings.take_over)),
        ("reconnect_wait_ms", time(settings.reconnect_wait)),
        ("stream_patience_ms", time(settings.stream_patience)),
        ("heartbeat_ms", time(heartbeat.interval)),
        ("detection_ms", time(heartbeat.detection)),
        ("strategy", format!("{:?}", settings.strategy).into()),
    ];
    if let Some(limit) = settings.call_timeout {
        all.push(("call_timeout_ms", time(limit)));
    }
    for (_, value) in &mut all {
        if let SlimerpcValue::Text(text) = value {
            ObsRecord::cut(text);
        }
    }
    let all = all.into_iter();
    all.map(|(name, value)| (name.to_owned(), value)).collect()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
