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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::mpsc;
    use std::time::Duration;

    use actix::Arbiter;
    use futures_util::StreamExt;
    use tokio::sync::oneshot;
    use tokio::time::{sleep, timeout};

    use super::super::super::RegisteredSupervisor;
    use super::super::super::tests::{LONG, agent_with, ask, followed};
    use super::*;
    use crate::{PeerEvent, Polling};

    const INTERVAL: Duration = Duration::from_millis(50);
    /// Longer than a busy machine pauses.
    const DETECTION: Duration = Duration::from_secs(3);
    const PEERS: usize = 20;

    async fn agent(scope: &'static str, alias: String) -> RegisteredSupervisor {
        let polling = Polling::default().heartbeat(INTERVAL).detection(DETECTION);
        agent_with(polling, scope, &alias).await
    }

    /// The same, which another thread runs.
    async fn agent_elsewhere(scope: &'static str, alias: String) -> RegisteredSupervisor {
        let (tell, told) = oneshot::channel();
        Arbiter::new().spawn_fn(move || {
            actix::spawn(async move { tell.send(agent(scope, alias).await).ok() });
        });
        told.await.unwrap()
    }

    /// What is known of the peers that the tick exchanges heartbeats with.
    #[derive(Debug, Default)]
    struct Ticked {
        peers: Vec<String>,
        /// When the next heartbeats to them are due.
        next: Vec<Instant>,
        /// When their last heartbeats were sent.
        heard: Vec<Instant>,
        /// How often their own tasks have looked.
        looks: u32,
    }

    async fn ticked(hub: &RegisteredSupervisor) -> Ticked {
        ask(hub, |state| {
            let mut all = Ticked::default();
            for monitor in &*state.monitors.tick.monitors.borrow() {
                assert!(monitor.is_ticked.get());
                all.peers.push(monitor.peer.clone());
                let core = monitor.core.borrow();
                all.next.extend(core.end.as_ref().map(|end| end.next_beat));
                all.heard.push(*monitor.heard.borrow());
                all.looks += monitor.looks.get();
            }
            all
        })
        .await
    }

    /// Waits until the tick has so many peers, and has exchanged heartbeats with them.
    async fn settled(hub: &RegisteredSupervisor, peers: usize) -> Ticked {
        let settled = async {
            loop {
                let all = ticked(hub).await;
                if all.peers.len() == peers && all.next.iter().all(|it| *it == all.next[0]) {
                    return all;
                }
                sleep(INTERVAL / 2).await;
            }
        };
        timeout(LONG, settled).await.expect("all go by one tick")
    }

    #[actix::test]
    async fn one_tick_exchanges_the_heartbeats_of_all_peers_that_are_well() {
        let hub = agent("tick-all", "hub:0".to_owned()).await;
        let mut peers = Vec::new();
        for number in 0..PEERS {
            let peer = agent("tick-all", format!("peer:{number}")).await;
            followed(&hub, &peer).await;
            peers.push(peer);
        }
        // A pause of the machine has a task look for itself; in time none does.
        let calm = async {
            loop {
                let before = settled(&hub, PEERS).await;
                sleep(10 * INTERVAL).await;
                let after = settled(&hub, PEERS).await;
                // A task that was just about to sleep may look once more.
                if after.looks - before.looks <= PEERS as u32 && before.peers == after.peers {
                    return (before, after);
                }
            }
        };
        let (before, after) = timeout(LONG, calm)
            .await
            .expect("tasks look beside the tick");
        for (number, before) in before.heard.iter().enumerate() {
            assert!(after.heard[number] > *before, "{}", after.peers[number]);
        }

        let new = agent("tick-all", "new:0".to_owned()).await;
        followed(&hub, &new).await;
        settled(&hub, PEERS + 1).await;
    }

    #[actix::test]
    async fn a_peer_that_falls_silent_is_noticed_in_time_and_comes_back_to_the_tick() {
        let hub = agent("tick-silent", "hub:0".to_owned()).await;
        let well = agent_elsewhere("tick-silent", "well:0".to_owned()).await;
        let silent = agent_elsewhere("tick-silent", "silent:0".to_owned()).await;
        let mut of_well = followed(&hub, &well).await;
        let mut events = followed(&hub, &silent).await;
        settled(&hub, 2).await;

        let (release, released) = mpsc::channel::<()>();
        let began = Instant::now();
        let stopped = ask(&silent, move |_| released.recv_timeout(LONG).is_ok());
        let stalled = async {
            let event = timeout(LONG, events.next()).await.unwrap();
            let after = began.elapsed();
            assert_eq!(event, Some(PeerEvent::Stalled));
            assert!(after < 3 * DETECTION, "noticed after {after:?}");
            assert_eq!(settled(&hub, 1).await.peers, ["well:0"]);
            release.send(()).unwrap();
        };
        let (stopped, ()) = tokio::join!(stopped, stalled);
        assert!(stopped);
        let event = timeout(LONG, events.next()).await.unwrap();
        assert_eq!(event, Some(PeerEvent::Recovered));
        settled(&hub, 2).await;
        let early = timeout(INTERVAL, of_well.next()).await;
        assert!(early.is_err(), "{early:?}");
    }
}
