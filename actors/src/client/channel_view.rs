//! What can be seen of the channel under a proxy.

use std::sync::Arc;
use std::time::Duration;

use slimerpc::channel::{ClientChannel, Credits, Geometry, LossCause, Profile, Violations};

/// A look at the channel under a [`Proxy`](crate::Proxy): its credits, its counters, and whether it
/// is closed. It changes nothing, so no channel is closed under its proxy.
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
    /// The account of credits, after what has arrived was taken in.
    pub fn credits(&self) -> Credits {
        self.0.credits()
    }

    /// Number and size of the slots of a ring.
    pub fn geometry(&self) -> Geometry {
        self.0.geometry()
    }

    /// Which protocol the peer speaks: that of this crate, or DLSlime's.
    pub fn profile(&self) -> Profile {
        self.0.profile()
    }

    /// How long a waiter polls before it sleeps.
    pub fn patience(&self) -> Duration {
        self.0.patience()
    }

    /// Why the channel is closed; `None` while it is open.
    pub fn closed(&self) -> Option<LossCause> {
        self.0.closed()
    }

    /// Replies that came after their call had ended.
    pub fn late_answers(&self) -> u64 {
        self.0.late_answers()
    }

    /// What the peer did that the protocol does not allow.
    pub fn violations(&self) -> Violations {
        self.0.violations()
    }
}
