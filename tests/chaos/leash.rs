//! What ties a process to the one that started it.

use std::io::{self, Read};
use std::thread;

use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::sync::oneshot;

/// Has this process killed if its parent dies, even if it is stopped then. Completes when standard
/// input ends: when the parent lets go of it, or died before it could be tied to it.
pub(crate) fn tie() -> io::Result<oneshot::Receiver<()>> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let (release, released) = oneshot::channel();
    let watch = move || {
        let mut ignored = [0; 64];
        while matches!(io::stdin().read(&mut ignored), Ok(1..)) {}
        // If nobody waits for it, the process is about to end.
        let _ = release.send(());
    };
    let name = "parent-watch".to_owned();
    thread::Builder::new().name(name).spawn(watch)?;
    Ok(released)
}
