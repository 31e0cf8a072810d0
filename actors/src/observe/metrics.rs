//! Figures as metrics: for the recorder that the program has installed, and over HTTP.

mod exporter;
mod names;

use std::time::Duration;

pub(crate) use exporter::Exporter;
use names::Series;

use crate::{AgentError, Figures};

/// How often the program's recorder is told.
const PERIOD: Duration = Duration::from_secs(1);

/// Tells the recorder that the program has installed.
pub(crate) struct Publisher(());

impl Publisher {
    pub(crate) fn new() -> Result<Self, AgentError> {
        Ok(Self(()))
    }

    /// Tells the recorder once a second, until there are no more figures.
    pub(crate) async fn publish(self, agent: String, read: impl Fn() -> Option<Figures> + 'static) {
        let mut series = Series::new(&agent);
        while let Some(figures) = read() {
            series.record(&figures);
            tokio::time::sleep(PERIOD).await;
        }
    }
}
