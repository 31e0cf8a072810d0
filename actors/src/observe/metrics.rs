//! Figures as metrics: for the recorder that the program has installed, and over HTTP.

mod exporter;
mod names;

use std::time::Duration;

use tokio::sync::oneshot;

pub(crate) use exporter::Exporter;
use names::Series;

use crate::observe::Labels;
use crate::{AgentError, Figures};

/// How often the program's recorder is told.
const PERIOD: Duration = Duration::from_secs(1);

/// Tells the recorder that the program has installed.
pub(crate) struct Publisher(());

impl Publisher {
    pub(crate) fn new() -> Result<Self, AgentError> {
        Ok(Self(()))
    }

    /// Tells the recorder once a second, until there are no more figures or the agent leaves. Then
    /// it tells what has come since and that nothing is under way any more, and whoever is to know;
    /// and once the agent has left, what its end brought about.
    pub(crate) async fn publish(
        self,
        agent: Labels,
        read: impl Fn() -> Option<Figures> + 'static,
        mut leaving: oneshot::Receiver<oneshot::Sender<()>>,
        left: oneshot::Receiver<()>,
    ) {
        let mut series = Series::new(agent);
        let mut told = None;
        while let Some(figures) = read() {
            series.record(&figures);
            if let Ok(leaves) = tokio::time::timeout(PERIOD, &mut leaving).await {
                told = leaves.ok();
                break;
            }
        }
        series.leave(read());
        drop(told);
        let _ = left.await;
        if let Some(last) = read() {
            series.record(&last);
        }
    }
}
