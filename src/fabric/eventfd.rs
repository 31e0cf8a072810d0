//! A file descriptor that wakes who sleeps on it.

use std::io;
use std::os::fd::OwnedFd;

use rustix::event::EventfdFlags;

/// One that nobody has raised.
pub(crate) fn create() -> io::Result<OwnedFd> {
    Ok(rustix::event::eventfd(
        0,
        EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
    )?)
}

/// Makes it readable.
pub(crate) fn raise(event: &OwnedFd) {
    // The only failure is that the counter is at its end; then it is readable anyway.
    let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
}

/// Takes back what was raised.
pub(crate) fn lower(event: &OwnedFd) {
    // The only failure is that nothing was raised.
    let _ = rustix::io::read(event, &mut [0; 8]);
}
