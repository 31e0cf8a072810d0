//! The stages of an agent in the control plane: new, registered, gone. All implementations use it.

use std::sync::Arc;

use tokio::sync::watch;

use super::ControlError;

/// The stage of an agent, which only ever moves forwards.
#[derive(Debug)]
enum Stage<T> {
    New,
    Registered(Arc<T>),
    Left,
}

/// The stage of one agent, with ways to wait for the next one. `T` is what is known once it is
/// registered.
#[derive(Debug)]
pub(super) struct Life<T>(watch::Sender<Stage<T>>);

impl<T> Life<T> {
    /// An agent that has not registered.
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(Stage::New))
    }

    /// Returns whether the agent has never registered, so that it may.
    pub(super) fn is_new(&self) -> bool {
        matches!(*self.0.borrow(), Stage::New)
    }

    /// What the agent is registered with.
    pub(super) fn current(&self) -> Result<Arc<T>, ControlError> {
        match &*self.0.borrow() {
            Stage::Registered(what) => Ok(Arc::clone(what)),
            Stage::New | Stage::Left => Err(ControlError::NotRegistered),
        }
    }

    /// Moves from new to registered; returns whether the agent was new.
    pub(super) fn begin(&self, what: Arc<T>) -> bool {
        self.0.send_if_modified(|stage| {
            let is_new = matches!(stage, Stage::New);
            if is_new {
                *stage = Stage::Registered(what);
            }
            is_new
        })
    }

    /// Moves from any stage to gone; returns what the agent was registered with.
    pub(super) fn end(&self) -> Option<Arc<T>> {
        match self.0.send_replace(Stage::Left) {
            Stage::Registered(what) => Some(what),
            Stage::New | Stage::Left => None,
        }
    }

    /// Waits until the agent is registered; `None` if it has left instead.
    pub(super) async fn begun(&self) -> Option<Arc<T>> {
        let mut stages = self.0.subscribe();
        let stage = stages
            .wait_for(|stage| !matches!(stage, Stage::New))
            .await
            .ok()?;
        match &*stage {
            Stage::Registered(what) => Some(Arc::clone(what)),
            Stage::New | Stage::Left => None,
        }
    }

    /// Waits until the agent has left.
    pub(super) async fn ended(&self) {
        let mut stages = self.0.subscribe();
        // An error would mean that the sender, which is `self`, is gone.
        let _ = stages.wait_for(|stage| matches!(stage, Stage::Left)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_begins_once_and_ends_for_good() {
        let life = Life::new();
        assert!(matches!(life.current(), Err(ControlError::NotRegistered)));
        assert!(life.begin(Arc::new(1)));
        assert!(!life.begin(Arc::new(2)));
        assert_eq!(life.current().ok().as_deref(), Some(&1));
        assert_eq!(life.end().as_deref(), Some(&1));
        assert_eq!(life.end(), None);
        assert!(!life.begin(Arc::new(3)));
    }

    #[tokio::test]
    async fn waiting_for_the_beginning_ends_when_the_agent_leaves_unregistered() {
        let life = Life::<()>::new();
        let (begun, ()) = tokio::join!(life.begun(), async {
            life.end();
        });
        assert!(begun.is_none());
        life.ended().await;
    }
}
