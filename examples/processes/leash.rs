//! What ties a worker process to its driver, seen from the worker: on its standard output it says
//! once that it serves, and when its standard input ends, because the driver wants it so or is
//! gone, it leaves.

use std::io::{self, Read, Write};
use std::thread;
use std::time::Duration;

use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::sync::oneshot;

/// What it says when it serves. Anything else that it says is why it does not.
pub(crate) const READY: &str = "ready";
/// How long leaving may take: the control plane may have died with the driver.
const LEAVE: Duration = Duration::from_secs(2);

/// Completes when standard input ends. A while later the process ends, whatever it is at; and at
/// once if the driver dies, even if it is stopped.
pub(crate) fn watch_driver() -> io::Result<oneshot::Receiver<()>> {
    // Of a driver that died before this, standard input tells.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let (release, released) = oneshot::channel();
    let watch = move || {
        let mut ignored = [0; 64];
        while matches!(io::stdin().read(&mut ignored), Ok(1..)) {}
        // If nobody waits for it, the process is about to end.
        let _ = release.send(());
        thread::sleep(LEAVE);
        std::process::exit(1);
    };
    thread::Builder::new()
        .name("driver-watch".to_owned())
        .spawn(watch)?;
    Ok(released)
}

/// Tells the driver something, in one line.
pub(crate) fn say(line: &str) -> io::Result<()> {
    let mut output = io::stdout();
    writeln!(output, "{}", line.replace('\n', " "))?;
    output.flush()
}
