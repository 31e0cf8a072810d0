//! Arbiters, with an actix system and without one.

use std::io;
use std::sync::{Mutex, mpsc};
use std::thread;

use actix::{Arbiter, System};

use crate::AgentError;

/// Starts an arbiter of the current actix system. A program without one (a plain `#[tokio::main]`,
/// or no runtime at all) gets a system on a thread of its own, shared by all its agents.
pub(crate) fn start() -> io::Result<Arbiter> {
    if System::try_current().is_some() {
        return Arbiter::try_new();
    }
    let system = background()?;
    // On a thread of its own, so that the caller's thread does not become part of the system.
    let started = thread::Builder::new().spawn(move || {
        System::set_current(system);
        Arbiter::try_new()
    });
    started?
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("an arbiter's thread panicked")))
}

/// The system for programs that have none.
fn background() -> io::Result<System> {
    static SYSTEM: Mutex<Option<System>> = Mutex::new(None);
    let mut system = SYSTEM
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(system) = &*system {
        return Ok(system.clone());
    }
    let (tell, told) = mpsc::channel();
    thread::Builder::new()
        .name("slimerpc-system".to_owned())
        .spawn(move || {
            let runner = System::new();
            let _ = tell.send(System::current());
            if let Err(error) = runner.run() {
                tracing::error!(%error, "the background actix system failed");
            }
        })?;
    let started = told.recv().map_err(io::Error::other)?;
    Ok(system.insert(started).clone())
}

/// Runs `work` on a new arbiter, which stays if that succeeds.
pub(crate) async fn on_new_arbiter<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, AgentError> + Send + 'static,
) -> Result<T, AgentError> {
    let arbiter = start().map_err(AgentError::Thread)?;
    let (tell, told) = tokio::sync::oneshot::channel();
    arbiter.spawn_fn(move || {
        let _ = tell.send(work());
    });
    let done = told.await.unwrap_or(Err(AgentError::ShutDown));
    if done.is_err() {
        arbiter.stop();
    }
    done
}
