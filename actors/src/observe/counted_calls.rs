//! The figures of all calls in one direction.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use slimerpc::channel::{CallFigures, MethodReading};

use crate::ServiceFigures;

/// The figures of each connection, so that threads which call different peers count in different
/// places.
#[derive(Debug, Default)]
pub(crate) struct CountedCalls(Mutex<Counted>);

#[derive(Debug, Default)]
struct Counted {
    live: Vec<Arc<CallFigures>>,
    /// What connections that have gone had counted.
    gone: Totals,
}

/// Readings by service and method.
type Totals = BTreeMap<String, BTreeMap<String, MethodReading>>;

impl CountedCalls {
    /// Figures for the calls of one connection, or of one service instance.
    pub(crate) fn count(&self, service: &str, methods: &[impl AsRef<str>]) -> Arc<CallFigures> {
        let figures = Arc::new(CallFigures::new(service, methods));
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counted.live.push(figures.clone());
        figures
    }

    /// All figures at this moment, by service and method.
    pub(crate) fn read(&self) -> Vec<ServiceFigures> {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Counted { live, gone } = &mut *counted;
        // Nobody else counts in them any more.
        for figures in live.extract_if(.., |figures| Arc::get_mut(figures).is_some()) {
            add(gone, &figures);
        }
        let mut all = gone.clone();
        for figures in live {
            add(&mut all, figures);
        }
        drop(counted);
        let services = all.into_iter().map(|(service, methods)| ServiceFigures {
            service,
            methods: methods.into_values().collect(),
        });
        services.collect()
    }
}

fn add(totals: &mut Totals, figures: &CallFigures) {
    let methods = totals.entry(figures.service().to_owned()).or_default();
    for reading in figures.read() {
        let name = reading.method.clone();
        let total = methods.entry(name).or_insert_with(|| MethodReading {
            method: reading.method.clone(),
            ..MethodReading::default()
        });
        total.add(&reading);
    }
}
