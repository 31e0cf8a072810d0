//! The tick of an agent: at the moments that all agents of a host share, one task exchanges
//! heartbeats with all peers of the host that are well.
//!
//! A thousand of them that have nothing to say cost one timer, one look at what has arrived, and
//! one walk. The task of a monitor is woken for what is more than that.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use slimerpc::fabric::LinkType;
use tokio::time::sleep_until;

use super::{AgentState, PeerMonitor};

/// See the [module](self).
#[derive(Default)]
pub(super) struct Tick {
    monitors: RefCell<Vec<Rc<PeerMonitor>>>,
    /// Whether there is a task.
    runs: Cell<bool>,
}

impl AgentState {
    /// Has the tick exchange heartbeats with the peer of `monitor`, as long as that is all there is
    /// to do.
    pub(super) fn leave_to_tick(self: &Rc<Self>, monitor: &Rc<PeerMonitor>) {
        if monitor.core.borrow().is_quiet() && !monitor.is_ticked.replace(true) {
            let tick = &self.monitors.tick;
            tick.monitors.borrow_mut().push(monitor.clone());
            if !tick.runs.replace(true) {
                actix::spawn(self.clone().tick());
            }
        }
    }

    async fn tick(self: Rc<Self>) {
        let timing = self.settings.heartbeat(LinkType::Shm);
        let tick = &self.monitors.tick;
        while !tick.monitors.borrow().is_empty() {
            sleep_until(timing.next(Instant::now()).into()).await;
            if self.left.get() {
                break;
            }
            self.monitors.queues.poll();
            let now = Instant::now();
            let next = timing.next(now);
            let mut effects = Vec::new();
            // What an effect leads to may add some.
            let mut monitors = tick.monitors.take();
            monitors.retain(|monitor| {
                let is_all = monitor.beat(&self, now, next, &mut effects);
                for effect in effects.drain(..) {
                    self.clone().take_effect(monitor, effect);
                }
                if !is_all {
                    monitor.is_ticked.set(false);
                    monitor.woken.notify_one();
                }
                is_all
            });
            tick.monitors.borrow_mut().append(&mut monitors);
        }
        tick.runs.set(false);
    }
}
