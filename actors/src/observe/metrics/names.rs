//! The metrics, their names and labels: those of OpenTelemetry's conventions for RPC where it has
//! some, `slimerpc_` otherwise.

use std::collections::BTreeMap;

use metrics::{counter, describe_counter, describe_gauge, gauge};
use slimerpc::channel::{
    ConnectionReading, Distribution, MethodReading, Outcome, PayloadBytes, Violation,
};

use crate::observe::Labels;
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
    polls: &'static str,
    payload: &'static str,
    /// Names of the distribution of how long it took from a wake-up to a handler, at a service.
    woken: Option<[&'static str; 4]>,
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
    polls: "slimerpc_client_polls_total",
    payload: "slimerpc_client_payload_bytes_total",
    woken: None,
};

const SERVICE: Side = Side {
    calls: "slimerpc_server_calls_total",
    in_flight: "slimerpc_server_calls_in_flight",
    took: distribution!("rpc_server_call_duration_seconds"),
    waited: Some(distribution!("slimerpc_server_queue_duration_seconds")),
    violations: "slimerpc_server_violations_total",
    sleeps: "slimerpc_server_sleeps_total",
    polls: "slimerpc_server_polls_total",
    payload: "slimerpc_server_payload_bytes_total",
    woken: Some(distribution!("slimerpc_server_wake_duration_seconds")),
};

/// The metrics of one agent.
pub(super) struct Series {
    /// The labels of all of them.
    agent: Labels,
    /// Whether the agent has left, so that its name may be another's: no gauge is its own any more.
    has_left: bool,
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
    pub(super) fn new(agent: Labels) -> Self {
        Self {
            agent,
            has_left: false,
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
        let agent = self.agent.clone();
        let of = |label, value: &str| with(&agent, label, value.to_owned());
        let memory = [("lent", figures.memory.lent), ("idle", figures.memory.idle)];
        for (state, bytes) in memory.into_iter().filter(|_| !self.has_left) {
            gauge!("slimerpc_memory_bytes", &of("state", state)).set(bytes as f64);
        }
        let one_sided = [
            ("read", figures.one_sided.read),
            ("written", figures.one_sided.written),
        ];
        for (operation, total) in one_sided {
            let name = "slimerpc_one_sided_bytes_total";
            let new = self.new_of(name, operation, total);
            counter!(name, &of("operation", operation)).increment(new);
        }
        for (device, total) in &figures.rnr {
            let name = "slimerpc_rnr_total";
            let new = self.new_of(name, device, *total);
            counter!(name, &of("device", device)).increment(new);
        }
        for ((kind, detail), count) in &figures.incidents {
            let told = self.incidents.entry((kind, detail.clone())).or_default();
            let new = count.saturating_sub(std::mem::replace(told, *count));
            let labels = with(&of("kind", kind), "detail", detail.clone());
            counter!("slimerpc_incidents_total", &labels).increment(new);
        }
    }

    /// Tells the current recorder the figures of an agent that leaves, if there are, and that it
    /// has nothing any more: a recorder forgets no gauge. What is [recorded](Self::record) later
    /// only counts on.
    pub(super) fn leave(&mut self, last: Option<Figures>) {
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
            record_none_lately(Some(side.took), &labels);
            record_none_lately(side.waited, &labels);
        }
        for (side, service) in self.told_beside.keys() {
            let labels = self.labels(service);
            match *side == CALLER.sleeps {
                true => record_rings(RingOccupancy::default(), &labels),
                false => record_none_lately(SERVICE.woken, &labels),
            }
        }
        self.has_left = true;
    }

    /// What is new of a total.
    fn new_of(&mut self, name: &'static str, label: &str, total: u64) -> u64 {
        let told = self.told_totals.entry((name, label.to_owned()));
        total.saturating_sub(std::mem::replace(told.or_default(), total))
    }

    fn labels(&self, service: &str) -> Labels {
        let labels = with(&self.agent, "rpc_system", "slimerpc".to_owned());
        with(&labels, "rpc_service", service.to_owned())
    }

    fn record_beside(&mut self, side: &Side, service: &ServiceFigures) {
        let (labels, has_left) = (self.labels(&service.service), self.has_left);
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
        counter!(side.polls, &labels).increment(now.polls.saturating_sub(told.polls));
        for ((direction, transfer, bytes), (.., told)) in
            by_way(&now.payload).into_iter().zip(by_way(&told.payload))
        {
            let labels = with(&labels, "direction", direction.to_owned());
            let labels = with(&labels, "transfer", transfer.to_owned());
            counter!(side.payload, &labels).increment(bytes.saturating_sub(told));
        }
        if let Some(woken) = side.woken {
            record_times(woken, &now.woken, &told.woken, &labels, has_left);
        }
        if side.sleeps == CALLER.sleeps && !has_left {
            record_rings(service.rings, &labels);
        }
        *told = now.clone();
    }

    fn record_service(&mut self, side: &Side, service: &ServiceFigures) {
        self.record_beside(side, service);
        let has_left = self.has_left;
        for method in &service.methods {
            let labels = self.labels(&service.service);
            let labels = with(&labels, "rpc_method", method.method.clone());
            let names = (side.calls, service.service.clone(), method.method.clone());
            let told = self.told.entry(names).or_default();
            record_calls(side, method, told, &labels);
            record_times(side.took, &method.took, &told.took, &labels, has_left);
            if let Some(waited) = side.waited {
                record_times(waited, &method.waited, &told.waited, &labels, has_left);
            }
            if !has_left {
                gauge!(side.in_flight, &labels).set(method.in_flight() as f64);
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

/// Tells that no time was counted lately.
fn record_none_lately(names: Option<[&'static str; 4]>, labels: &[(&'static str, String)]) {
    let Some([.., recent]) = names else { return };
    for quantile in QUANTILES {
        gauge!(recent, &with(labels, "quantile", quantile.to_string())).set(f64::NAN);
    }
}

/// Bytes of payloads by direction and by how they travelled.
fn by_way(payload: &PayloadBytes) -> [(&'static str, &'static str, u64); 4] {
    [
        ("sent", "inline", payload.sent_inline),
        ("sent", "rendezvous", payload.sent_by_rendezvous),
        ("received", "inline", payload.received_inline),
        ("received", "rendezvous", payload.received_by_rendezvous),
    ]
}

fn record_times(
    [bucket, sum, count, recent]: [&'static str; 4],
    times: &Distribution,
    told: &Distribution,
    labels: &[(&'static str, String)],
    has_left: bool,
) {
    let new = times.since(told);
    for octave in OCTAVES {
        let end = 2f64.powi(octave as i32) / 1e9;
        let labels = with(labels, "le", end.to_string());
        counter!(bucket, &labels).increment(new.below(octave));
    }
    counter!(bucket, &with(labels, "le", "+Inf".to_owned())).increment(new.count());
    counter!(count, labels).increment(new.count());
    // There are no counters of fractions.
    gauge!(sum, labels).increment(new.sum().as_secs_f64());
    if has_left {
        return;
    }
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
}

fn with(labels: &[(&'static str, String)], name: &'static str, value: String) -> Labels {
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
        describe_counter!(side.polls, "How often arrivals were looked for");
        describe_counter!(
            side.payload,
            "Bytes of payloads, by direction and by how they travelled"
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
    let woken = SERVICE.woken.map(|names| {
        let text = "From when a service that slept runs again to the handler of the first request";
        (names, text)
    });
    for ([bucket, sum, count, recent], text) in times.into_iter().chain(waited).chain(woken) {
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

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    /// Figures of an agent that has called so often, of which as many calls are under way as it has
    /// registered bytes.
    fn figures(answered: u64, under_way: u64) -> Figures {
        let mut method = MethodReading {
            method: "add".to_owned(),
            begun: answered + under_way,
            ..MethodReading::default()
        };
        method.ended[Outcome::Ok as usize] = answered;
        let mut figures = Figures::default();
        figures.memory.idle = under_way as usize;
        figures.calls.push(ServiceFigures {
            service: "calc".to_owned(),
            methods: vec![method],
            ..ServiceFigures::default()
        });
        figures
    }

    #[test]
    fn whoever_has_left_counts_on_and_leaves_the_gauges_to_the_next_of_its_name() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let page = recorder.handle();
        let series = || Series::new(vec![("agent", "a".to_owned())]);
        let value = |name: &str, labels: &str| {
            let start = format!(r#"{name}{{agent="a",{labels}}} "#);
            let text = page.render();
            let mut lines = text.lines();
            lines.find_map(|line| Some(line.strip_prefix(&start)?.to_owned()))
        };
        let add = r#"rpc_system="slimerpc",rpc_service="calc",rpc_method="add""#;
        let now = || {
            let ok = format!(r#"{add},outcome="ok""#);
            [
                value("slimerpc_client_calls_total", &ok),
                value("slimerpc_client_calls_in_flight", add),
                value("slimerpc_memory_bytes", r#"state="idle""#),
            ]
            .map(|it| it.expect("it is told").parse::<u64>().expect("it is whole"))
        };
        metrics::with_local_recorder(&recorder, || {
            let (mut old, mut new) = (series(), series());
            old.record(&figures(3, 2));
            assert_eq!(now(), [3, 2, 2]);
            old.leave(Some(figures(4, 1)));
            assert_eq!(now(), [4, 0, 0]);
            new.record(&figures(1, 7));
            assert_eq!(now(), [5, 7, 7]);
            old.record(&figures(6, 0));
            assert_eq!(now(), [7, 7, 7]);
        });
    }
}
