//! A file descriptor that wakes its sleepers.

use std::io;
use std::os::fd::OwnedFd;

use rustix::event::EventfdFlags;

/// Creates an eventfd that is not raised.
pub(crate) fn create() -> io::Result<OwnedFd> {
    Ok(rustix::event::eventfd(
        0,
        EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
    )?)
}

/// Makes the descriptor readable, and wakes edge-triggered waiters once more.
pub(crate) fn raise(event: &OwnedFd) {
    let raise = || rustix::io::write(event, &1_u64.to_ne_bytes());
    if raise().is_err() {
        // The counter is at its maximum, because nobody has to lower it.
        lower(event);
        let _ = raise();
    }
}

/// Resets the counter.
pub(crate) fn lower(event: &OwnedFd) {
    // The only failure is that nothing was raised.
    let _ = rustix::io::read(event, &mut [0; 8]);
}

#[cfg(all(test, not(slime_loom), not(miri)))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rustix::buffer::spare_capacity;
    use rustix::event::{Timespec, epoll};

    use super::*;

    /// An edge-triggered waiter wakes at each raise, even if nobody lowers the counter, and
    /// whatever other holders write.
    #[test]
    fn each_raise_is_an_edge() {
        let event = create().unwrap();
        let watched = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let edges = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&watched, &event, epoll::EventData::new_u64(0), edges).unwrap();
        let edges = || {
            let mut events = Vec::with_capacity(1);
            let at_once = Timespec::default();
            epoll::wait(&watched, spare_capacity(&mut events), Some(&at_once)).unwrap()
        };
        for _ in 0..2 {
            raise(&event);
            assert_eq!((edges(), edges()), (1, 0));
        }
        lower(&event);
        rustix::io::write(&event, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        assert_eq!(edges(), 1);
        raise(&event);
        assert_eq!(edges(), 1);
    }
}
