//! What devices without hardware have in common.

use std::any::Any;
use std::sync::Arc;

use super::{
    CompletionQueue, DeviceLimits, FabricError, Gid, LinkType, PortAttributes, QueuePairInit,
    QueuePairState,
};

/// Longest message in bytes.
pub(super) const MAX_MESSAGE: u32 = 1 << 31;

pub(super) const LIMITS: DeviceLimits = DeviceLimits {
    max_qp_wr: 1 << 18,
    max_cqe: 1 << 24,
    max_inline: 1024,
    max_message: MAX_MESSAGE as u64,
};

/// The states of a queue pair, by their numbers.
pub(super) const STATES: [QueuePairState; 5] = [
    QueuePairState::Reset,
    QueuePairState::Init,
    QueuePairState::Rtr,
    QueuePairState::Rts,
    QueuePairState::Error,
];

/// The port of a device of this kind, with this GID.
pub(super) fn port(link_type: LinkType, gid: Gid) -> PortAttributes {
    PortAttributes {
        link_type,
        active: true,
        number: 1,
        mtu: 5,
        lid: 0,
        gid_index: 0,
        gid,
    }
}

/// Bytes that nobody can guess.
pub(super) fn random<const N: usize>() -> Result<[u8; N], FabricError> {
    let mut bytes = [0; N];
    let read = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(FabricError::os("drawing random bytes"))?;
    // The kernel gives up to 256 bytes at once.
    assert_eq!(read, N);
    Ok(bytes)
}

/// Refuses a memory region of an impossible length.
pub(super) fn check_region(device: &str, length: usize) -> Result<(), FabricError> {
    let most = isize::MAX as u64;
    check(device, "the length of a memory region", length as u64, most)
}

/// Refuses a completion queue of an impossible depth.
pub(super) fn check_completion_queue(device: &str, depth: u32) -> Result<(), FabricError> {
    let most = LIMITS.max_cqe.into();
    check(
        device,
        "the depth of a completion queue",
        depth.into(),
        most,
    )
}

/// Refuses impossible parameters of a queue pair.
pub(super) fn check_queue_pair(device: &str, init: &QueuePairInit) -> Result<(), FabricError> {
    let depth = LIMITS.max_qp_wr.into();
    check(device, "max_send_wr", init.max_send_wr.into(), depth)?;
    check(device, "max_recv_wr", init.max_recv_wr.into(), depth)?;
    if init.max_inline > LIMITS.max_inline {
        let most = LIMITS.max_inline.into();
        check(device, "max_inline", init.max_inline.into(), most)?;
    }
    init.retry.check(device)
}

/// Refuses a value outside of `1..=max`.
fn check(device: &str, what: &'static str, given: u64, max: u64) -> Result<(), FabricError> {
    if (1..=max).contains(&given) {
        return Ok(());
    }
    Err(FabricError::Limit {
        what,
        given,
        allowed: format!("1 to {max}"),
        device: device.to_owned(),
    })
}

/// Refuses a completion queue of another device.
pub(super) fn own<Q: CompletionQueue>(
    device: &str,
    queue: &Arc<dyn CompletionQueue>,
    is_own: impl Fn(&Q) -> bool,
) -> Result<Arc<Q>, FabricError> {
    let any: Arc<dyn Any + Send + Sync> = queue.clone();
    any.downcast::<Q>()
        .ok()
        .filter(|queue| is_own(queue))
        .ok_or_else(|| FabricError::Foreign {
            what: "completion queue",
            device: device.to_owned(),
        })
}
