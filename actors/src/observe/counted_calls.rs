//! The figures of all calls in one direction.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use slimerpc::channel::{CallFigures, ClientChannel, ConnectionReading, MethodReading};

use crate::{RingOccupancy, ServiceFigures};

/// The figures of each connection, so that threads which call different peers count in different
/// places.
#[derive(Debug, Default)]
pub(crate) struct CountedCalls(Mutex<Counted>);

#[derive(Debug, Default)]
struct Counted {
    live: Vec<Counter>,
    /// What connections that have gone had counted.
    gone: Totals,
}

#[derive(Debug)]
struct Counter {
    figures: Arc<CallFigures>,
    /// The channels of a caller whose calls are counted.
    channels: Vec<Weak<ClientChannel>>,
}

type Totals = BTreeMap<String, Total>;

/// The readings of one service, by method.
#[derive(Debug, Clone, Default)]
struct Total {
    methods: BTreeMap<String, MethodReading>,
    connections: ConnectionReading,
    rings: RingOccupancy,
}

impl Counted {
    /// Adds up what is counted in no more.
    fn settle(&mut self) {
        let is_gone = |it: &mut Counter| Arc::get_mut(&mut it.figures).is_some();
        for counter in self.live.extract_if(.., is_gone) {
            add(&mut self.gone, &counter.figures);
        }
    }
}

impl CountedCalls {
    /// Figures for the calls of one connection, over these channels, or of one service instance.
    pub(crate) fn count(
        &self,
        service: &str,
        methods: &[impl AsRef<str>],
        channels: &[&Arc<ClientChannel>],
    ) -> Arc<CallFigures> {
        let figures = Arc::new(CallFigures::new(service, methods));
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Also if nobody ever reads.
        counted.settle();
        counted.live.push(Counter {
            figures: figures.clone(),
            channels: channels.iter().map(|it| Arc::downgrade(it)).collect(),
        });
        figures
    }

    /// All figures at this moment, by service and method.
    pub(crate) fn read(&self) -> Vec<ServiceFigures> {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counted.settle();
        let Counted { live, gone } = &mut *counted;
        let mut all = gone.clone();
        let mut channels = Vec::new();
        for Counter {
            figures,
            channels: of_these,
        } in live
        {
            let mut rings = RingOccupancy::default();
            for channel in of_these.iter().filter_map(Weak::upgrade) {
                channel.count_polls();
                let (free, in_use, waiting) = channel.occupancy();
                rings.free += free;
                rings.in_use += in_use;
                rings.waiting += waiting;
                // The last reference ends the channel, which may take time.
                channels.push(channel);
            }
            add(&mut all, figures).rings.add(rings);
        }
        drop(counted);
        drop(channels);
        let services = all.into_iter().map(|(service, total)| ServiceFigures {
            service,
            methods: total.methods.into_values().collect(),
            connections: total.connections,
            rings: total.rings,
        });
        services.collect()
    }
}

fn add<'a>(totals: &'a mut Totals, figures: &CallFigures) -> &'a mut Total {
    let total = totals.entry(figures.service().to_owned()).or_default();
    for reading in figures.read() {
        let name = reading.method.clone();
        let method = total.methods.entry(name).or_insert_with(|| MethodReading {
            method: reading.method.clone(),
            ..MethodReading::default()
        });
        method.add(&reading);
    }
    total.connections.add(&figures.read_beside());
    total
}
