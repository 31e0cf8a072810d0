//! The parts of the suite.

use clap::ValueEnum;

use crate::suite::Suite;
use crate::support::Result;
use crate::{
    asleep, callers, connect, copies, fairness, idle, latency, memory, metrics, over_tcp, polling,
    registry, sizes, steady, throughput, traces,
};

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Subset {
    /// 64 bytes there and back: cache line, fabric, raw and typed calls
    Latency,
    /// Calls a second against messages of the fabric, and against calls in flight
    Throughput,
    /// Large echoes in place against plain copies
    Copies,
    /// Both sides sleep between two messages: calls against a unix socket
    Asleep,
    /// Allocations, system calls and locks of a call
    Steady,
    /// Several clients of one service: how much, and how evenly
    Fairness,
    /// Processor time and Redis commands of connections that do nothing
    Idle,
    /// Memory of connections that do nothing
    Memory,
    /// Many agents connect to one
    Connect,
    /// Many agents register with one NanoCtrl, find each other and leave
    Registry,
    /// What each of many idle callers costs a service, and costs others
    Callers,
    /// What counting calls costs them
    Metrics,
    /// What it costs calls that somebody listens for their spans
    Traces,
    /// Latency against size
    Sizes,
    /// What polling before sleeping gains and costs
    Polling,
    /// Over TCP: calls against plain sockets, and what connections cost
    Tcp,
}

impl Subset {
    pub(crate) fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    pub(crate) fn run(self, suite: &Suite) -> Result<()> {
        match self {
            Self::Latency => latency::run(suite),
            Self::Throughput => throughput::run(suite),
            Self::Copies => copies::run(suite),
            Self::Asleep => asleep::run(suite),
            Self::Steady => steady::run(suite),
            Self::Fairness => fairness::run(suite),
            Self::Idle => idle::run(suite),
            Self::Memory => memory::run(suite),
            Self::Connect => connect::run(suite),
            Self::Registry => registry::run(suite),
            Self::Callers => callers::run(suite),
            Self::Metrics => metrics::run(suite),
            Self::Traces => traces::run(suite),
            Self::Sizes => sizes::run(suite),
            Self::Polling => polling::run(suite),
            Self::Tcp => over_tcp::run(suite),
        }
    }
}

/// Says what there is.
pub(crate) fn list() {
    for value in Subset::value_variants()
        .iter()
        .filter_map(Subset::to_possible_value)
    {
        let about = value
            .get_help()
            .map_or_else(String::new, ToString::to_string);
        println!("{:<12} {about}", value.get_name());
    }
}
