//! What goes wrong in a world.

use super::agent::{Agent, Peer, Spot};
use super::fabric::Port;
use super::schedule::{Event, Micros};
use super::world::{CALM, RETRY_TIMING, World};
use crate::channel::peer_connection::Input;

/// What goes wrong. Agents are named by their place.
#[derive(Debug, Clone, Copy)]
pub(super) enum Trouble {
    /// An agent dies without a word.
    Death(usize),
    /// An agent ends its connections and leaves.
    Leave(usize),
    /// An agent does without its connections, until it wants them again.
    Spare(usize),
    /// A new incarnation starts under an alias whose agent is gone.
    Birth(usize),
    /// An agent does nothing for a while.
    Freeze(usize, Micros),
    /// The connection of an agent with its so-manieth peer breaks.
    Break(usize, usize),
    /// The control plane says nothing for a while.
    Outage(Micros),
}

impl World {
    pub(super) fn plan_trouble(&mut self) {
        let agent = self.rng.usize(..self.aliases.len());
        let trouble = match self.rng.u64(..9) {
            0..=2 => Trouble::Death(agent),
            3 => Trouble::Leave(agent),
            4 => Trouble::Freeze(agent, self.rng.u64(500..25_000)),
            5 => Trouble::Spare(agent),
            6 | 7 => {
                let peers = self.aliases[agent].neighbours.len();
                Trouble::Break(agent, self.rng.usize(..peers))
            }
            _ => Trouble::Outage(self.rng.u64(1000..20_000)),
        };
        let at = self.rng.u64(2000..CALM - 5000);
        self.schedule.at(at, Event::Trouble(trouble));
    }

    pub(super) fn trouble(&mut self, trouble: Trouble) {
        self.tell(|| format!("{trouble:?}"));
        match trouble {
            Trouble::Birth(agent) => self.birth(agent),
            Trouble::Outage(time) => self.outage_until = self.schedule.now + time,
            Trouble::Death(agent) => {
                if let Some(spot) = self.spot(agent) {
                    self.death(spot);
                }
            }
            Trouble::Leave(agent) => {
                if let Some(spot) = self.spot(agent) {
                    for at in 0..self.living(spot).peers.len() {
                        self.handle(spot, at, Input::Leave);
                    }
                    self.publish(agent, None);
                    self.death(spot);
                }
            }
            Trouble::Spare(agent) => {
                if let Some(spot) = self.spot(agent) {
                    self.tell_wanted(spot, &Input::Spare);
                    let delay = self.rng.u64(..10_000);
                    self.schedule.after(delay, Event::Want(spot));
                }
            }
            Trouble::Freeze(agent, time) => {
                let until = self.schedule.now + time;
                if let Some(spot) = self.spot(agent) {
                    self.living(spot).frozen_until = until;
                }
            }
            Trouble::Break(agent, at) => {
                let spot = self.spot(agent);
                let up = spot.and_then(|spot| self.peer(spot, at).up.as_ref().map(|up| up.port));
                if let Some(port) = up {
                    self.fail(port);
                }
            }
        }
    }

    /// Gives an input to the connections that an agent wants.
    pub(super) fn tell_wanted(&mut self, spot: Spot, input: &Input<Port>) {
        for at in 0..self.living(spot).peers.len() {
            if self.aliases[spot.agent].neighbours[at].wanted {
                self.handle(spot, at, input.clone());
            }
        }
    }

    fn birth(&mut self, agent: usize) {
        if self.lives[agent].is_some() {
            return;
        }
        let incarnation = self.rng.u64(..);
        let neighbours = self.aliases[agent].neighbours.clone();
        let peers = neighbours
            .iter()
            .map(|_| Peer::new(incarnation, RETRY_TIMING));
        self.lives[agent] = Some(Agent {
            incarnation,
            frozen_until: 0,
            peers: peers.collect(),
            completions: Default::default(),
            is_polling: false,
        });
        let life = self.aliases[agent].incarnations.len();
        self.aliases[agent].incarnations.push(incarnation);
        self.publish(agent, Some(incarnation));
        let spot = Spot { agent, life };
        for (at, message) in std::mem::take(&mut self.aliases[agent].mail) {
            self.schedule.after(1, Event::Mail(agent, at, message));
        }
        for (at, neighbour) in neighbours.iter().enumerate() {
            if neighbour.wanted {
                self.handle(spot, at, Input::Want);
            }
            let delay = self.rng.u64(..4000);
            self.schedule.after(delay, Event::Call(spot, at));
            if self.percent(50)
                && let Some(other) = self.spot(neighbour.agent)
                && self.living(other).frozen_until <= self.schedule.now
            {
                self.handle(other, neighbour.back, Input::Wake);
            }
        }
    }

    /// An incarnation ends, and with it its queue pairs and its calls. Another follows.
    fn death(&mut self, spot: Spot) {
        let Some(mut agent) = self.lives[spot.agent].take() else {
            return;
        };
        self.tell(|| format!("{spot:?}, {:x}, is dead", agent.incarnation));
        for peer in &mut agent.peers {
            for live in peer.channels().flat_map(|channels| channels.live.values()) {
                self.calls[live.call].end();
            }
            if let Some((_, port)) = peer.made {
                self.fail(port);
            }
        }
        let delay = self.rng.u64(200..30_000);
        self.schedule
            .after(delay, Event::Trouble(Trouble::Birth(spot.agent)));
    }

    pub(super) fn calm(&mut self) {
        self.tell(|| "calm".to_owned());
        self.is_calm = true;
    }
}
