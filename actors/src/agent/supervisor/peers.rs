//! What the agent tells of its peers.

use actix::{Context, Handler, Message, MessageResult};

use super::{AgentState, Supervisor};
use crate::{AgentError, LinkType, PeerStatus};

/// Asks for the peers of the agent.
pub(crate) struct ListPeers;

impl Message for ListPeers {
    type Result = Result<Vec<PeerStatus>, AgentError>;
}

impl Handler<ListPeers> for Supervisor {
    type Result = MessageResult<ListPeers>;

    fn handle(&mut self, _: ListPeers, _: &mut Context<Self>) -> Self::Result {
        // The actor outlives the agent by a moment.
        let open = self.state.check_open();
        MessageResult(open.map(|()| self.state.peers()))
    }
}

impl AgentState {
    /// The peers that the agent is connected with or connects with, in order of their aliases.
    pub(super) fn peers(&self) -> Vec<PeerStatus> {
        let mut all = self.native_peers();
        all.extend(self.dlslime_peers());
        all.sort_by(|a, b| a.alias.cmp(&b.alias));
        all
    }

    /// Its native peers, in no order.
    pub(super) fn native_peers(&self) -> Vec<PeerStatus> {
        let observed = self.monitors.observed();
        self.link_reasons
            .keep(&observed.iter().map(|peer| &*peer.alias).collect());
        let native = observed.into_iter().map(|peer| PeerStatus {
            why: peer
                .link
                .map_or_else(String::new, |link| self.link_reasons.of(&peer.alias, link)),
            alias: peer.alias,
            link: peer.link,
        });
        native.collect()
    }

    /// Its peers of DLSlime, in no order.
    pub(super) fn dlslime_peers(&self) -> Vec<PeerStatus> {
        let link = self.dlslime_link();
        let others = self.dlslime.observed().into_iter();
        let others = others.map(|(alias, is_connected)| PeerStatus {
            alias,
            link: is_connected.then_some(link),
            why: match is_connected {
                true => "a peer of DLSlime".to_owned(),
                false => String::new(),
            },
        });
        others.collect()
    }

    /// The kind of link to DLSlime's peers.
    pub(super) fn dlslime_link(&self) -> LinkType {
        let memory = self.settings.devices.for_dlslime();
        memory.device().port().link_type
    }
}
