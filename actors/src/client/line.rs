//! The calls that wait until a connection that rests is open again.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use slimerpc::channel::LossCause;
use tokio::sync::Notify;

use crate::client::connection::{Connection, ProxySetup};

/// A call that waits.
pub(crate) trait Waiting: Send {
    /// Whether its caller has not given it up.
    fn is_wanted(&self) -> bool;
    /// Makes the call over the connection that was opened, or ends it with the reason why none was.
    fn opened(self: Box<Self>, setup: &ProxySetup, opened: Result<&Connection, &LossCause>);
}

/// Whose a call is that waits: it is made, or its caller gives it up, and never both.
#[derive(Debug, Default)]
pub(crate) struct Claim(AtomicU8);

const WAITING: u8 = 0;
const MADE: u8 = 1;
const WITHDRAWN: u8 = 2;

impl Claim {
    /// Returns whether the call is to be made. Its caller cannot withdraw it then.
    pub(crate) fn make(&self) -> bool {
        self.settle(MADE) == WAITING
    }

    /// Gives the call up. Returns whether it was not made, and never will be.
    pub(crate) fn withdraw(&self) -> bool {
        self.settle(WITHDRAWN) != MADE
    }

    /// Notes that nothing was sent: the call waits again.
    pub(crate) fn wait_again(&self) {
        self.0.store(WAITING, Ordering::Release);
    }

    /// Settles what becomes of the call, if that is not settled. Returns what it was.
    fn settle(&self, how: u8) -> u8 {
        let settled = self
            .0
            .compare_exchange(WAITING, how, Ordering::AcqRel, Ordering::Acquire);
        settled.unwrap_or_else(|before| before)
    }
}

/// So many may wait that nobody wants any more.
const FEW: usize = 16;

/// The calls of one proxy that wait, in the order in which they were made (ORDER-1).
#[derive(Default)]
pub(crate) struct Line {
    state: Mutex<LineState>,
    /// Notified when a call begins to wait, or no more can.
    pub(crate) asked: Arc<Notify>,
}

#[derive(Default)]
struct LineState {
    waiting: Vec<Box<dyn Waiting>>,
    /// With so many, those that nobody wants are looked for, whose arguments take memory.
    crowded: usize,
    /// Why the connection that rests is lost, if it is.
    lost: Option<LossCause>,
}

/// What becomes of a call that has found its connection resting.
pub(crate) enum Turn {
    /// It waits.
    Waits,
    /// The proxy has a connection again: call now.
    Now,
    /// No connection could be opened.
    Lost(LossCause),
}

impl Line {
    /// Lets a call wait, unless the connection does not rest any more.
    pub(crate) fn join(
        &self,
        rests: impl FnOnce() -> bool,
        waiting: impl FnOnce() -> Box<dyn Waiting>,
    ) -> Turn {
        let mut state = self.lock();
        if !rests() {
            return Turn::Now;
        }
        if let Some(cause) = &state.lost {
            return Turn::Lost(cause.clone());
        }
        if state.waiting.len() >= state.crowded.max(FEW) {
            state.waiting.retain(|call| call.is_wanted());
            state.crowded = 2 * state.waiting.len();
        }
        state.waiting.push(waiting());
        self.asked.notify_one();
        Turn::Waits
    }

    /// Returns whether calls wait.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.lock().waiting.is_empty()
    }

    /// Why the connection that rests is lost, if it is.
    pub(crate) fn lost(&self) -> Option<LossCause> {
        self.lock().lost.clone()
    }

    /// Makes the calls that wait over `connection`. Then, when no call waits any more, `adopt`
    /// gives it to all: no later call overtakes those (ORDER-1).
    pub(crate) fn serve(&self, setup: &ProxySetup, connection: &Connection, adopt: impl FnOnce()) {
        loop {
            let mut state = self.lock();
            if state.waiting.is_empty() {
                state.lost = None;
                return adopt();
            }
            let waiting = std::mem::take(&mut state.waiting);
            drop(state);
            waiting
                .into_iter()
                .for_each(|call| call.opened(setup, Ok(connection)));
        }
    }

    /// Ends the calls that wait, and all later ones, until there is a connection again.
    pub(crate) fn lose(&self, setup: &ProxySetup, cause: LossCause) {
        let mut state = self.lock();
        let waiting = std::mem::take(&mut state.waiting);
        state.lost = Some(cause.clone());
        drop(state);
        self.asked.notify_one();
        waiting
            .into_iter()
            .for_each(|call| call.opened(setup, Err(&cause)));
    }

    fn lock(&self) -> MutexGuard<'_, LineState> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Line")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A call that is wanted as long as there is another reference.
    struct Call(Arc<()>);

    impl Waiting for Call {
        fn is_wanted(&self) -> bool {
            Arc::strong_count(&self.0) > 1
        }

        fn opened(self: Box<Self>, _: &ProxySetup, _: Result<&Connection, &LossCause>) {}
    }

    #[test]
    fn calls_that_were_given_up_take_no_memory_in_the_line() {
        let line = Line::default();
        let mut wanted = Vec::new();
        for number in 0..1000 {
            let caller = Arc::new(());
            let call = || -> Box<dyn Waiting> { Box::new(Call(caller.clone())) };
            assert!(matches!(line.join(|| true, call), Turn::Waits));
            if number % 10 == 0 {
                wanted.push(caller);
            }
            let waiting = line.lock().waiting.len();
            assert!(waiting <= 2 * wanted.len().max(FEW), "{waiting} wait");
        }
        let state = line.lock();
        let kept = state.waiting.iter().filter(|call| call.is_wanted());
        assert_eq!(kept.count(), wanted.len());
    }
}
