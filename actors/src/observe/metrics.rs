//! Figures as metrics: for the recorder that the program has installed, and over HTTP.

mod exporter;
mod names;

use std::time::Duration;

use tokio::sync::oneshot;

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

    /// Tells the recorder once a second, until there are no more figures or this is stopped. Then
    /// it tells what has come since, and that nothing is under way any more.
    pub(crate) async fn publish(
        self,
        agent: String,
        read: impl Fn() -> Option<Figures> + 'static,
        mut stopped: oneshot::Receiver<()>,
    ) {
        let mut series = Series::new(&agent);
        while let Some(figures) = read() {
            series.record(&figures);
            if tokio::time::timeout(PERIOD, &mut stopped).await.is_ok() {
                break;
            }
        }
        series.end(read());
    }
}
