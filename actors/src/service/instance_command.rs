//! What an instance is told about its own life.

use actix::Message;
use tokio::sync::oneshot;

use crate::EndCause;

/// Carried out when no handler runs: a sync one is waited for, an async one is dropped where it awaits.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) enum InstanceCommand {
    /// End; another will take your place.
    Retire {
        /// Why.
        cause: EndCause,
        /// Whom to tell when that is done.
        tell: oneshot::Sender<()>,
    },
    /// Take the place of the one before.
    Start {
        /// Of starts, counted from 0.
        number: u64,
        /// Why the one before ended, or was not started.
        cause: EndCause,
        /// Whom to tell whether it has worked.
        tell: oneshot::Sender<Result<(), EndCause>>,
    },
    /// End; none will take your place. Requests that wait, and those to come, are answered with that.
    GiveUp,
    /// End, and the connections and the arbiter with you.
    End,
}
