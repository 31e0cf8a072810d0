//! What an agent tells of a peer.

use slimerpc::fabric::LinkType;

/// A peer that an agent is connected with, or connects with; see
/// [`PeerAgent::peers`](crate::PeerAgent::peers).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerStatus {
    /// Alias of the peer.
    pub alias: String,
    /// What carries the heartbeats of the two, and new connections; `None` while none is there.
    pub link: Option<LinkType>,
    /// Why it is this kind of link and none that the agent prefers, in words: `another host; no
    /// RDMA here`. Empty while there is no link.
    pub why: String,
}
