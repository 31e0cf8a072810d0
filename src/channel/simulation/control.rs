//! The control plane: records may be stale, and messages may be late, come twice, or reach another
//! incarnation.

use super::agent::Spot;
use super::fabric::Port;
use super::schedule::{Event, Micros};
use super::world::World;
use crate::channel::peer_connection::{HandshakeMessage, Input};

/// What the world keeps under an alias, whichever incarnation runs there.
#[derive(Debug, Default)]
pub(super) struct Alias {
    /// The aliases that it knows.
    pub(super) neighbours: Vec<Neighbour>,
    /// What was published, and when.
    pub(super) records: Vec<(Micros, Option<u64>)>,
    /// All incarnations so far.
    pub(super) incarnations: Vec<u64>,
    /// Messages that came while no incarnation ran.
    pub(super) mail: Vec<(usize, HandshakeMessage<Port>)>,
}

/// One that an alias knows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Neighbour {
    pub(super) agent: usize,
    /// Our place among its neighbours.
    pub(super) back: usize,
    pub(super) wanted: bool,
}

impl World {
    /// When something said to the control plane now has been heard.
    fn heard_at(&mut self, least: Micros, most: Micros) -> Micros {
        let delay = self.rng.u64(least..most);
        (self.schedule.now + delay).max(self.outage_until)
    }

    pub(super) fn look_up(&mut self, spot: Spot, peer: usize) {
        let at = self.heard_at(100, 1000);
        self.schedule.at(at, Event::Record(spot, peer));
    }

    /// Answers a look-up, with something stale now and then.
    pub(super) fn answer_look_up(&mut self, spot: Spot, peer: usize) {
        let is_calm = self.is_calm;
        let age = match is_calm {
            false if self.percent(30) => self.rng.u64(..40_000),
            _ => 0,
        };
        let as_of = self.schedule.now.saturating_sub(age);
        let neighbour = self.aliases[spot.agent].neighbours[peer];
        let records = &self.aliases[neighbour.agent].records;
        let found = records.iter().rev().find(|(since, _)| *since <= as_of);
        let record = found.and_then(|(_, record)| *record);
        self.tell(|| format!("{spot:?} is told that {} is {record:x?}", neighbour.agent));
        self.handle(spot, peer, Input::Record(record));
    }

    pub(super) fn publish(&mut self, agent: usize, record: Option<u64>) {
        let now = self.schedule.now;
        self.aliases[agent].records.push((now, record));
    }

    pub(super) fn mail(&mut self, spot: Spot, peer: usize, message: HandshakeMessage<Port>) {
        let Neighbour { agent, back, .. } = self.aliases[spot.agent].neighbours[peer];
        self.tell(|| format!("{spot:?} writes to {agent}: {message:x?}"));
        let copies = if self.percent(4) { 2 } else { 1 };
        for _ in 0..copies {
            let most = if self.percent(6) { 60_000 } else { 2000 };
            let at = self.heard_at(100, most);
            self.schedule
                .at(at, Event::Mail(agent, back, message.clone()));
        }
    }
}
