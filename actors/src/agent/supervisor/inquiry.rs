//! Finds out whether a silent peer is merely stalled, or dead. The connection does not always tell:
//! processes that were forked from a killed peer keep its sockets and its device open.

use slimerpc::channel::Descriptor;

use super::AgentState;

impl AgentState {
    /// Returns whether this incarnation of `peer` is proved to be over: another one is registered
    /// under its alias, or its process has ended. False if the control plane cannot tell.
    pub(super) async fn is_life_over(&self, peer: &str, life: u64) -> bool {
        let Ok(Some(record)) = self.control().lookup(peer, Descriptor::RECORD).await else {
            return self.is_process_gone(peer).await;
        };
        match serde_json::from_value::<Descriptor>(record) {
            Ok(found) if found.incarnation != life => {
                let now = found.incarnation;
                tracing::info!(%peer, life, now, "a stalled peer has been replaced by another life");
                true
            }
            _ => self.is_process_gone(peer).await,
        }
    }

    /// Returns whether the process that has registered as `peer` is proved to have ended.
    async fn is_process_gone(&self, peer: &str) -> bool {
        let registered = self.control().peer(peer).await;
        let has_ended = matches!(registered, Ok(Some(registered)) if registered.is_gone());
        if has_ended {
            tracing::info!(%peer, "the process of a stalled peer has ended");
        }
        has_ended
    }
}
