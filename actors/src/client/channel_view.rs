//! A read-only view of the channel under a proxy.

use std::sync::Arc;
use std::time::Duration;

use slimerpc::channel::{ClientChannel, Credits, Geometry, LossCause, Profile, Violations};
use slimerpc::fabric::LinkType;

/// A view of the channel under a [`Proxy`](crate::Proxy): its credits, its counters, and whether it
/// is closed. It cannot change the channel, so no channel is closed under its proxy.
///
/// ```no_run
/// # fn example<S: slimerpc_actors::Service + ?Sized>(proxy: &slimerpc_actors::Proxy<S>) {
/// if let Some(channel) = proxy.channel() {
///     let under_way = channel.credits().in_use;
///     println!("{under_way} calls under way, {} late replies", channel.late_answers());
/// }
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct ChannelView(pub(crate) Arc<ClientChannel>);

impl ChannelView {
    /// The account of credits, after everything that has arrived was handled.
    pub fn credits(&self) -> Credits {
        self.0.credits()
    }

    /// Number and size of the slots of a ring.
    pub fn geometry(&self) -> Geometry {
        self.0.geometry()
    }

    /// The protocol of the peer: this crate's, or DLSlime's.
    pub fn profile(&self) -> Profile {
        self.0.profile()
    }

    /// The kind of link that the channel runs over; unknown towards DLSlime peers.
    pub fn link(&self) -> Option<LinkType> {
        self.0.link()
    }

    /// Returns how long a waiter polls before it sleeps.
    pub fn busy_poll(&self) -> Duration {
        self.0.busy_poll()
    }

    /// Returns why the channel is closed, or `None` while it is open. That it is
    /// [resting](LossCause::Resting) is no loss: the next call through the proxy opens another.
    pub fn closed(&self) -> Option<LossCause> {
        self.0.closed()
    }

    /// Number of replies that came after their call had ended.
    pub fn late_answers(&self) -> u64 {
        self.0.late_answers()
    }

    /// Counts of the peer's protocol violations.
    pub fn violations(&self) -> Violations {
        self.0.violations()
    }
}
