//! The world: which agents run, what goes wrong, and what has to hold nevertheless.

use std::time::Duration;

use fastrand::Rng;

use super::agent::{Agent, Channels, Peer, Spot};
use super::calls::Call;
use super::control::{Alias, Neighbour};
use super::fabric::{Port, QueuePair};
use super::schedule::{Event, Micros, Schedule};
use super::trouble::Trouble;
use crate::channel::peer_connection::{Input, RetryTiming};

/// When nothing goes wrong any more.
pub(super) const CALM: Micros = 60_000;
/// Events after which a world that has not come to rest never will.
const MANY: usize = 100_000;

pub(super) const RETRY_TIMING: RetryTiming = RetryTiming {
    answer: Duration::from_millis(15),
    first: Duration::from_millis(1),
    last: Duration::from_millis(16),
};

/// A world of agents.
#[derive(Debug)]
pub(super) struct World {
    pub(super) schedule: Schedule,
    pub(super) rng: Rng,
    pub(super) slots: usize,
    /// Places in a send queue.
    pub(super) sends: u32,
    pub(super) aliases: Vec<Alias>,
    pub(super) lives: Vec<Option<Agent>>,
    pub(super) ports: Vec<QueuePair>,
    pub(super) calls: Vec<Call>,
    pub(super) items: usize,
    pub(super) outage_until: Micros,
    pub(super) is_calm: bool,
    /// Whether it says what happens.
    is_loud: bool,
}

/// What a world has seen.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    pub(super) events: usize,
    pub(super) agents: usize,
    pub(super) lives: usize,
    pub(super) sessions: usize,
    pub(super) calls: usize,
    pub(super) answered: usize,
    pub(super) late: u64,
    /// Items of streams that were read.
    pub(super) items: usize,
}

impl World {
    /// Everything that happens in it follows from `seed`.
    pub(super) fn new(seed: u64, is_loud: bool) -> Self {
        let mut rng = Rng::with_seed(seed);
        let agents = match rng.u64(..10) {
            0..=4 => 2,
            5..=7 => 3,
            8 => 4,
            _ => rng.usize(5..9),
        };
        let slots = rng.usize(1..5);
        let mut world = Self {
            schedule: Schedule::new(),
            slots,
            sends: slots as u32 * rng.u32(1..7),
            rng,
            aliases: Vec::new(),
            lives: Vec::new(),
            ports: Vec::new(),
            calls: Vec::new(),
            items: 0,
            outage_until: 0,
            is_calm: false,
            is_loud,
        };
        world.aliases.resize_with(agents, Alias::default);
        world.lives.resize_with(agents, || None);
        for later in 1..agents {
            let earlier = world.rng.usize(..later);
            world.acquaint(earlier, later);
        }
        for agent in 0..agents {
            let delay = world.rng.u64(..3000);
            let birth = Event::Trouble(Trouble::Birth(agent));
            world.schedule.after(delay, birth);
        }
        for _ in 0..world.rng.u64(..3 + agents as u64) {
            world.plan_trouble();
        }
        world.schedule.at(CALM, Event::Calm);
        world
    }

    /// Two agents know each other; one or both want to be connected.
    fn acquaint(&mut self, a: usize, b: usize) {
        let (at_a, at_b) = (
            self.aliases[a].neighbours.len(),
            self.aliases[b].neighbours.len(),
        );
        let wanted = match self.rng.u64(..4) {
            0 => (true, false),
            1 => (false, true),
            _ => (true, true),
        };
        for (me, agent, back, wanted) in [(a, b, at_b, wanted.0), (b, a, at_a, wanted.1)] {
            self.aliases[me].neighbours.push(Neighbour {
                agent,
                back,
                wanted,
            });
        }
    }

    /// Runs until nothing happens any more, and checks that all is well then.
    pub(super) fn run(mut self) -> Seen {
        let mut events = 0;
        while let Some(event) = self.schedule.next() {
            events += 1;
            assert!(events < MANY, "CALL-1: the world does not come to rest");
            self.step(event);
        }
        self.check_rest();
        let peers = || self.lives.iter().flatten().flat_map(|agent| &agent.peers);
        let late = |peer: &Peer| peer.late + peer.up.as_ref().map_or(0, |up| up.late);
        Seen {
            events,
            agents: self.aliases.len(),
            lives: self
                .aliases
                .iter()
                .map(|alias| alias.incarnations.len())
                .sum(),
            sessions: peers().map(|peer| peer.generation as usize).sum(),
            calls: self.calls.len(),
            answered: self.calls.iter().filter(|call| call.runs > 0).count(),
            late: peers().map(late).sum(),
            items: self.items,
        }
    }

    /// True in so many of a hundred cases.
    pub(super) fn percent(&mut self, percent: u64) -> bool {
        self.rng.u64(..100) < percent
    }

    pub(super) fn tell(&self, what: impl FnOnce() -> String) {
        if self.is_loud {
            println!("{:>8} us: {}", self.schedule.now, what());
        }
    }

    /// An incarnation, if it has not ended.
    pub(super) fn agent(&mut self, spot: Spot) -> Option<&mut Agent> {
        let is_current = self.aliases[spot.agent].incarnations.len() == spot.life + 1;
        self.lives[spot.agent].as_mut().filter(|_| is_current)
    }

    pub(super) fn living(&mut self, spot: Spot) -> &mut Agent {
        self.agent(spot).expect("only the living do anything")
    }

    pub(super) fn peer(&mut self, spot: Spot, at: usize) -> &mut Peer {
        &mut self.living(spot).peers[at]
    }

    /// The channels of the session that has this queue pair, unless they were left.
    pub(super) fn channels(&mut self, spot: Spot, port: Port) -> Option<&mut Channels> {
        let at = self.ports[port.0].peer;
        let mut channels = self.agent(spot)?.peers[at].channels();
        channels.find(|channels| channels.port == port)
    }

    /// The present incarnation under an alias.
    pub(super) fn spot(&self, agent: usize) -> Option<Spot> {
        self.lives[agent].as_ref()?;
        let life = self.aliases[agent].incarnations.len() - 1;
        Some(Spot { agent, life })
    }

    fn step(&mut self, event: Event) {
        let now = self.schedule.now;
        if let Some(spot) = event.spot() {
            match self.agent(spot).map(|agent| agent.frozen_until) {
                None => return,
                Some(until) if now < until => return self.schedule.at(until, event),
                Some(_) => {}
            }
        }
        match event {
            Event::Arrive(flight) => self.arrive(flight),
            Event::Fail(port) => self.fail(port),
            Event::Poll(spot) => self.poll(spot),
            Event::Handled(spot, port) => self.handled(spot, port),
            Event::Encoded(spot, port, id) => self.encoded(spot, port, id),
            Event::Item(spot, port, stream) => self.make_item(spot, port, stream),
            Event::Look(spot, at) => self.look(spot, at),
            Event::Call(spot, at) => self.call(spot, at),
            Event::Want(spot) => self.tell_wanted(spot, &Input::Want),
            Event::Timer(spot, at) => self.time_is_up(spot, at),
            Event::Record(spot, at) => self.answer_look_up(spot, at),
            Event::Made(spot, at, session) => self.make(spot, at, session),
            Event::Drained(spot, at, session) => self.drained(spot, at, session),
            Event::Mail(agent, at, message) => match self.spot(agent) {
                None => self.aliases[agent].mail.push((at, message)),
                Some(spot) => {
                    let until = self.living(spot).frozen_until;
                    if now < until {
                        return self.schedule.at(until, Event::Mail(agent, at, message));
                    }
                    self.handle(spot, at, Input::HandshakeMessage(message));
                }
            },
            Event::Trouble(trouble) => self.trouble(trouble),
            Event::Calm => self.calm(),
        }
    }
}
