//! Ctrl-C and SIGTERM: the first asks for the end, the second is not to be argued with.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Exit status of a program that was interrupted, as shells have it.
pub(crate) const STATUS: u8 = 130;

/// Whether the end has been asked for.
#[derive(Clone)]
pub(crate) struct Interrupt(watch::Receiver<bool>);

impl Interrupt {
    /// Listens from now on. What is still to be done when the end has been asked for, `last` says.
    pub(crate) fn listen(last: &'static str) -> io::Result<Self> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let (tell, told) = watch::channel(false);
        actix::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if tell.send_replace(true) {
                    // Workers, and a Redis of ours, end with us.
                    std::process::exit(STATUS.into());
                }
                eprintln!("interrupted: {last}; once more to end at once");
            }
        });
        Ok(Self(told))
    }

    pub(crate) fn is_asked(&self) -> bool {
        *self.0.borrow()
    }

    /// Completes when it is asked for.
    pub(crate) async fn asked(&self) {
        // An error would mean that nobody listens; then it never is.
        if self.0.clone().wait_for(|asked| *asked).await.is_err() {
            std::future::pending().await
        }
    }
}
