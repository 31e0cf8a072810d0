//! What may be sent a second time.

use slimerpc_actors::{Ran, RpcError};

/// What a request says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// Running it twice does no harm.
    Harmless,
    /// It may be sent again only if it was certainly not run.
    #[allow(dead_code, reason = "inference changes nothing; training would")]
    Harmful,
}

/// Whether a request that failed like this is to be sent again: another worker might answer it, and
/// nothing that must not be is run twice.
pub(crate) fn is_worthwhile(error: &RpcError, repeat: Repeat) -> bool {
    let is_passing = matches!(
        error,
        RpcError::PeerLost { .. }
            | RpcError::ServiceDown { .. }
            | RpcError::Timeout { .. }
            | RpcError::NoMemory { .. }
    );
    is_passing && (error.ran() == Ran::No || repeat == Repeat::Harmless)
}
