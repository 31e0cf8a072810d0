//! The metrics, their names and labels: those of OpenTelemetry's conventions for RPC where it has
//! some, `slimerpc_` otherwise.

use std::collections::BTreeMap;

use metrics::{counter, describe_counter, describe_gauge, gauge};
use slimerpc::channel::{ConnectionReading, Distribution, MethodReading, Outcome, Violation};

use crate::{Figures, RingOccupancy, ServiceFigures};

/// Times are counted in buckets that end at these powers of two of a nanosecond: from 256 ns to
/// 68 s.
const OCTAVES: std::ops::RangeInclusive<u32> = 8..=36;
/// The quantiles that are told beside the buckets, which are coarse.
const QUANTILES: [f64; 4] = [0.5, 0.9, 0.99, 0.999];

/// One side of the calls.
struct Side {
    calls: &'static str,
    in_flight: &'static str,
    /// Names of a distribution: its buckets, sum and count, and the quantiles of late.
    took: [&'static str; 4],
    /// The same of how long requests waited, at a service.
    waited: Option<[&'static str; 4]>,
    violations: &'static str,
    sleeps: &'static str,
}

macro_rules! distribution {
    ($name:literal) => {
        [
            concat!($name, "_bucket"),
            concat!($name, "_sum"),
            concat!($name, "_count"),
            concat!($name, "_recent"),
        ]
    };
}

const CALLER: Side = Side {
    calls: "slimerpc_client_calls_total",
    in_flight: "slimerpc_client_calls_in_flight",
    took: distribution!("rpc_client_call_duration_seconds"),
    waited: None,
    violations: "slimerpc_client_violations_total",
    sleeps: "slimerpc_client_sleeps_total",
};

const SERVICE: Side = Side {
    calls: "slimerpc_server_calls_total",
    in_flight: "slimerpc_server_calls_in_flight",
    took: distribution!("rpc_server_call_duration_seconds"),
    waited: Some(distribution!("slimerpc_server_queue_duration_seconds")),
    violations: "slimerpc_server_violations_total",
    sleeps: "slimerpc_server_sleeps_total",
};

/// The metrics of one agent.
pub(super) struct Series {
    agent: String,
    /// The figures as they were told last, by name, service and method. Recorders are told what is
    /// new: another agent of this alias may have been told of before.
    told: BTreeMap<(&'static str, String, String), MethodReading>,
    /// The same of what is beside calls, by name and service.
    told_beside: BTreeMap<(&'static str, String), ConnectionReading>,
    /// The same of counters without services, by name and label.
    told_totals: BTreeMap<(&'static str, String), u64>,
    incidents: BTreeMap<(&'static str, String), u64>,
}

impl Series {
    pub(super) fn new(agent: &str) -> Self {
        Self {
            agent: agent.to_owned(),
            told: BTreeMap::new(),
            told_beside: BTreeMap::new(),
            told_totals: BTreeMap::new(),
            incidents: BTreeMap::new(),
        }
    }

    /// Tells the current recorder.
    pub(super) fn record(&mut self, figures: &Figures) {
        describe();
        for (side, services) in [(CALLER, &figures.calls), (SERVICE, &figures.served)] {
            for service in services {
                self.record_service(&side, service);
            }
        }
        let name = self.agent.clone();
        let agent = || name.clone();
        let memory = [("lent", figures.memory.lent), ("idle", figures.memory.idle)];
        for (state, bytes) in memory {
            gauge!("slimerpc_memory_bytes", "agent" => agent(), "state" => state).set(bytes as f64);
        }
        let one_sided = [
            ("read", figures.one_sided.read),
            ("written", figures.one_sided.written),
        ];
        for (operation, total) in one_sided {
            let name = "slimerpc_one_sided_bytes_total";
            let new = self.new_of(name, operation, total);
            counter!(name, "agent" => agent(), "operation" => operation).increment(new);
        }
        for (device, total) in &figures.rnr {
            let name = "slimerpc_rnr_total";
            let new = self.new_of(name, device, *total);
            counter!(name, "agent" => agent(), "device" => device.clone()).increment(new);
        }
        for ((kind, detail), count) in &figures.incidents {
            let (kind, detail) = (*kind, detail.clone());
            let told = self.incidents.entry((kind, detail.clone())).or_default();
            let new = count.saturating_sub(std::mem::replace(told, *count));
            counter!("slimerpc_incidents_total", "agent" => agent(), "kind" => kind, "detail" => detail)
                .increment(new);
        }
    }

    /// Tells the current recorder the last figures of an agent that has ended, if there are, and
    /// that it has nothing any more: a recorder forgets no gauge.
    pub(super) fn end(&mut self, last: Option<Figures>) {
        let mut figures = last.unwrap_or_default();
        figures.memory = crate::MemoryAccount::default();
        for service in figures.calls.iter_mut().chain(&mut figures.served) {
            service.rings = RingOccupancy::default();
        }
        self.record(&figures);
        for (side, service, method) in self.told.keys() {
            let labels = self.labels(service);
            let labels = with(&labels, "rpc_method", method.clone());
            let side = if *side == CALLER.calls {
                CALLER
            } else {
                SERVICE
            };
            gauge!(side.in_flight, &labels).set(0.0);
            for [.., recent] in [Some(side.took), side.waited].into_iter().flatten() {
                for quantile in QUANTILES {
                    gauge!(recent, &with(&labels, "quantile", quantile.to_string())).set(f64::NAN);
                }
            }
        }
        for (side, service) in self.told_beside.keys() {
            if *side == CALLER.sleeps {
                record_rings(RingOccupancy::default(), &self.labels(service));
            }
        }
    }

    /// What is new of a total.
    fn new_of(&mut self, name: &'static str, label: &str, total: u64) -> u64 {
        let told = self.told_totals.entry((name, label.to_owned()));
        total.saturating_sub(std::mem::replace(told.or_default(), total))
    }

    fn labels(&self, service: &str) -> [(&'static str, String); 3] {
        [
            ("agent", self.agent.clone()),
            ("rpc_system", "slimerpc".to_owned()),
            ("rpc_service", service.to_owned()),
        ]
    }

    fn record_beside(&mut self, side: &Side, service: &ServiceFigures) {
        let labels = self.labels(&service.service);
        let now = &service.connections;
        let told = (self.told_beside)
            .entry((side.sleeps, service.service.clone()))
            .or_default();
        for violation in Violation::ALL {
            // Also those that have not happened, as of outcomes.
            let labels = with(&labels, "kind", violation.name().to_owned());
            let told = told.violations.count(violation);
            let new = now.violations.count(violation).saturating_sub(told);
            counter!(side.violations, &labels).increment(new);
        }
        counter!(side.sleeps, &labels).increment(now.sleeps.saturating_sub(told.sleeps));
        if side.sleeps == CALLER.sleeps {
            record_rings(service.rings, &labels);
        }
        *told = *now;
    }

    fn record_service(&mut self, side: &Side, service: &ServiceFigures) {
        self.record_beside(side, service);
        for method in &service.methods {
            let labels = self.labels(&service.service);
            let labels = with(&labels, "rpc_method", method.method.clone());
            let names = (side.calls, service.service.clone(), method.method.clone());
            let told = self.told.entry(names).or_default();
            record_calls(side, method, told, &labels);
            record_times(side.took, &method.took, &told.took, &labels);
            if let Some(waited) = side.waited {
                record_times(waited, &method.waited, &told.waited, &labels);
            }
            *told = method.clone();
        }
    }
}

fn record_rings(rings: RingOccupancy, labels: &[(&'static str, String)]) {
    for (state, slots) in [("free", rings.free), ("in_use", rings.in_use)] {
        let labels = with(labels, "state", state.to_owned());
        gauge!("slimerpc_client_ring_slots", &labels).set(slots as f64);
    }
    gauge!("slimerpc_client_calls_waiting", labels).set(rings.waiting as f64);
}

fn record_times(
    [bucket, sum, count, recent]: [&'static str; 4],
    times: &Distribution,
    told: &Distribution,
    labels: &[(&'static str, String)],
) {
    let new = times.since(told);
    for octave in OCTAVES {
        let end = 2f64.powi(octave as i32) / 1e9;
        let labels = with(labels, "le", end.to_string());
        counter!(bucket, &labels).increment(new.below(octave));
    }
    counter!(bucket, &with(labels, "le", "+Inf".to_owned())).increment(new.count());
    counter!(count, labels).increment(new.count());
    gauge!(sum, labels).set(times.sum().as_secs_f64());
    for quantile in QUANTILES {
        let labels = with(labels, "quantile", quantile.to_string());
        gauge!(recent, &labels).set(match new.count() {
            0 => f64::NAN,
            _ => new.quantile(quantile).as_secs_f64(),
        });
    }
}

fn record_calls(
    side: &Side,
    method: &MethodReading,
    told: &MethodReading,
    labels: &[(&'static str, String)],
) {
    for outcome in Outcome::ALL {
        // Also those that have not happened: a counter that begins with 1 has not grown.
        let labels = with(labels, "outcome", outcome.name().to_owned());
        let new = method
            .ended_with(outcome)
            .saturating_sub(told.ended_with(outcome));
        counter!(side.calls, &labels).increment(new);
    }
    gauge!(side.in_flight, labels).set(method.in_flight() as f64);
}

fn with(
    labels: &[(&'static str, String)],
    name: &'static str,
    value: String,
) -> Vec<(&'static str, String)> {
    let mut labels = labels.to_vec();
    labels.push((name, value));
    labels
}

fn describe() {
    for side in [CALLER, SERVICE] {
        describe_counter!(side.calls, "Calls that have ended, by outcome");
        describe_gauge!(side.in_flight, "Calls that have begun and not ended");
    }
    for side in [CALLER, SERVICE] {
        describe_counter!(
            side.violations,
            "Messages of the other end that a correct one never sends, by kind"
        );
    }
    describe_counter!(CALLER.sleeps, "Waiters that gave up polling and slept");
    describe_counter!(
        SERVICE.sleeps,
        "How often the service gave up polling and slept"
    );
    describe_gauge!(
        "slimerpc_client_ring_slots",
        "Slots of the rings that proxies write into"
    );
    describe_gauge!(
        "slimerpc_client_calls_waiting",
        "Calls that wait for a slot"
    );
    describe_counter!(
        "slimerpc_one_sided_bytes_total",
        "Bytes of peers' memory read and written one-sided"
    );
    describe_counter!(
        "slimerpc_rnr_total",
        "Messages that an RDMA device of this host turned away for want of a receive"
    );
    let times = [
        (CALLER.took, "From the call to its answer"),
        (SERVICE.took, "From the start of the handler to its answer"),
    ];
    let waited = SERVICE.waited.map(|names| {
        let text = "How long requests waited for their handler";
        (names, text)
    });
    for ([bucket, sum, count, recent], text) in times.into_iter().chain(waited) {
        describe_counter!(
            bucket,
            format!("{text}: calls that took at most `le` seconds")
        );
        describe_gauge!(sum, format!("{text}: all of them, in seconds"));
        describe_counter!(count, format!("{text}: number of calls"));
        describe_gauge!(
            recent,
            format!("{text}: quantiles of the calls since the last look, NaN if there were none")
        );
    }
    describe_gauge!(
        "slimerpc_memory_bytes",
        "Registered for payloads beyond a slot and for one-sided memory"
    );
    describe_counter!(
        "slimerpc_incidents_total",
        "What happened beside calls: connections made, lost and healed, peers stalled, restarts"
    );
}
