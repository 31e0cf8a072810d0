//! Probes the channels of an agent. Where the device does not tell that a queue pair is gone, only
//! a write to it does: one that is answered by nobody ends the channel. Without that, a call whose
//! request arrives as its service ends would wait for ever (CALL-1), a service would keep the rings
//! of proxies that were dropped, and DLSlime peers, which send no heartbeats, would not be missed.

use std::rc::Rc;

use tokio::time::sleep;

use super::AgentState;

impl AgentState {
    /// Probes at intervals, until the agent leaves.
    pub(super) async fn probe(self: Rc<Self>) {
        let devices = &self.settings.devices;
        let link = devices.for_dlslime().device().port().link_type;
        let interval = self.settings.heartbeat(link).interval;
        // Other devices tell: services need not be woken.
        let has_rdma = devices.links().iter().any(|link| link.is_rdma());
        while !self.left.get() {
            sleep(interval).await;
            for channel in self.channels.borrow().iter().map(|(_, channel)| channel) {
                channel.upgrade().inspect(|channel| channel.probe());
            }
            self.dlslime.probe();
            if has_rdma {
                self.services.borrow().values().for_each(|it| it.probe());
            }
        }
    }
}
