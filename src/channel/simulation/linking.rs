//! What agents do as the machines of their links say.

use super::agent::{Channels, Spot};
use super::fabric::{MessageState, Port, QueuePair};
use super::schedule::Event;
use super::world::World;
use crate::channel::LossCause;
use crate::channel::peer_connection::{Action, Input, Session};

impl World {
    /// Tells a link something, and does what it says.
    pub(super) fn handle(&mut self, spot: Spot, peer: usize, input: Input<Port>) {
        let now = self.schedule.instant();
        self.peer(spot, peer).link.handle(input, now);
        self.drive(spot, peer);
    }

    pub(super) fn drive(&mut self, spot: Spot, peer: usize) {
        while let Some(action) = self.peer(spot, peer).link.poll_action() {
            match action {
                Action::LookUp => self.look_up(spot, peer),
                Action::Make(session) => {
                    self.peer(spot, peer).making = Some(session);
                    let delay = self.rng.u64(..600);
                    self.schedule.after(delay, Event::Made(spot, peer, session));
                }
                Action::Join { session, theirs } => {
                    if let Some((made, ours)) = self.peer(spot, peer).made {
                        assert_eq!(
                            made, session,
                            "SLOT-1: one session at a time has queue pairs"
                        );
                        self.join(ours, theirs);
                    }
                }
                Action::Send(message) => self.mail(spot, peer, message),
                Action::Up {
                    session,
                    peer: life,
                } => self.up(spot, peer, session, life),
                Action::Drain(session) => self.drain(spot, peer, session),
            }
        }
        self.plan_timer(spot, peer);
    }

    fn plan_timer(&mut self, spot: Spot, at: usize) {
        let Some(due) = self.peer(spot, at).link.next_timeout() else {
            return;
        };
        let due = self.schedule.micros_of(due);
        let peer = self.peer(spot, at);
        if peer.timer.is_none_or(|planned| due < planned) {
            peer.timer = Some(due);
            self.schedule.at(due, Event::Timer(spot, at));
        }
    }

    pub(super) fn time_is_up(&mut self, spot: Spot, at: usize) {
        let now = self.schedule.instant();
        let peer = self.peer(spot, at);
        peer.timer = None;
        peer.link.handle_timeout(now);
        self.drive(spot, at);
    }

    /// Queue pairs are made; now and then there is no memory for them.
    pub(super) fn make(&mut self, spot: Spot, at: usize, session: Session) {
        let making = &mut self.peer(spot, at).making;
        if making.take_if(|making| *making == session).is_none() {
            return;
        }
        if !self.is_calm && self.percent(4) {
            return self.handle(spot, at, Input::Lost(session));
        }
        let (slots, port) = (self.slots, Port(self.ports.len()));
        let peer = self.peer(spot, at);
        assert!(
            peer.made.is_none(),
            "SLOT-1: the session before is not drained"
        );
        peer.generation += 1;
        peer.made = Some((session, port));
        let pair = QueuePair::new(spot, at, session, peer.generation, slots);
        self.ports.push(pair);
        self.handle(
            spot,
            at,
            Input::Made {
                session,
                endpoint: port,
            },
        );
    }

    fn up(&mut self, spot: Spot, at: usize, session: Session, incarnation: u64) {
        let neighbour = self.aliases[spot.agent].neighbours[at].agent;
        let mut lives = self.aliases[neighbour].incarnations.iter();
        let life = lives.position(|known| *known == incarnation);
        let life = life.expect("FENCE-1: nobody ever had this incarnation");
        self.tell(|| {
            format!("{spot:?} is connected with life {life} of {neighbour}: {session:x?}")
        });
        let (slots, sends) = (self.slots, self.sends);
        let peer = self.peer(spot, at);
        assert!(
            peer.believed <= Some(life),
            "FENCE-1: {spot:?} believed in life {:?} of {neighbour}, and goes back to {life}",
            peer.believed
        );
        peer.believed = Some(life);
        let made = peer.made.filter(|(made, _)| *made == session);
        let (_, port) = made.expect("what is up was made");
        assert!(peer.up.is_none(), "one connection");
        peer.up = Some(Channels::new(port, slots, sends));
        self.check(spot, port);
    }

    /// A session is over: its calls end, its queue pair is flushed.
    fn drain(&mut self, spot: Spot, at: usize, session: Session) {
        self.tell(|| format!("{spot:?} drains {session:x?}"));
        let peer = self.peer(spot, at);
        peer.making.take_if(|making| *making == session);
        let made = peer.made.map(|(_, port)| port);
        if let Some(mut channels) = peer.up.take() {
            let port = channels.port;
            let (caller, responder) = (&mut channels.caller, &mut channels.responder);
            caller.close(LossCause::Gone);
            assert!(
                caller.claim(true).is_none() && caller.wait(None).is_none(),
                "SLOT-1: no credit before the drain"
            );
            assert!(responder.close(LossCause::Gone));
            channels.unsent.clear();
            peer.closed.push(channels);
            self.conclude(spot, port);
        }
        if let Some(port) = made
            && self.ports[port.0].state != MessageState::Error
        {
            self.fail(port);
        }
        let delay = self.rng.u64(..1500);
        self.schedule
            .after(delay, Event::Drained(spot, at, session));
    }

    pub(super) fn drained(&mut self, spot: Spot, at: usize, session: Session) {
        let made = &mut self.peer(spot, at).made;
        made.take_if(|(made, _)| *made == session);
        self.handle(spot, at, Input::Drained(session));
    }
}
