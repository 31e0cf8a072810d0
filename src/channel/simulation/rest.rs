//! What is true after each step, and when the world has come to rest.

use super::agent::{Channels, Spot};
use super::control::Neighbour;
use super::fabric::{MessageState, Port};
use super::world::World;

impl World {
    /// SLOT-1, SLOT-2: the account of a caller.
    pub(super) fn check(&mut self, spot: Spot, port: Port) {
        let slots = self.slots;
        let Some(channels) = self.channels(spot, port).filter(|one| one.has_memory) else {
            return;
        };
        let channels = &*channels;
        let Channels { caller, live, .. } = channels;
        let credits = caller.credits();
        assert_eq!(
            credits.free + credits.in_use + credits.orphaned,
            slots,
            "SLOT-2"
        );
        let answered = live.values().filter(|live| live.is_answered).count();
        if caller.closed().is_some() {
            assert_eq!(
                credits.in_use, answered,
                "CALL-1: no other call has not ended"
            );
            return assert!(!caller.has_sleepers(), "CALL-1: they were woken");
        }
        assert_eq!(credits.in_use, live.len() - caller.waiting(), "SLOT-2");
        let may_be_granted = channels.may_send() && credits.free > 0;
        let mut waiting = live.iter().filter(|(id, _)| caller.is_waiting(**id));
        if let Some((id, first)) = waiting.next().filter(|_| may_be_granted) {
            assert!(first.is_encoding, "CALL-1: {id:?} waits beside its credit");
        }
        assert_eq!(
            credits.orphaned, channels.forgotten,
            "SLOT-1: a slot is kept until its answer"
        );
        let mut waits = live.values().map(|live| live.is_told || !live.is_awake());
        assert_eq!(
            caller.has_sleepers(),
            waits.any(|waits| waits),
            "CALL-1: who sleeps is woken, and the queue is watched so long"
        );
    }

    /// Everything has ended, and who wants to be connected is.
    pub(super) fn check_rest(&mut self) {
        let unended = self.calls.iter().filter(|call| !call.has_ended).count();
        assert_eq!(unended, 0, "CALL-1: calls that have not ended");
        for agent in 0..self.aliases.len() {
            let spot = self.spot(agent).expect("everybody lives in the end");
            for at in 0..self.aliases[agent].neighbours.len() {
                self.check_rest_of(spot, at);
            }
        }
    }

    fn check_rest_of(&mut self, spot: Spot, at: usize) {
        let slots = self.slots;
        let Neighbour { agent, back, .. } = self.aliases[spot.agent].neighbours[at];
        let peer = self.peer(spot, at);
        let connected = peer.link.connected();
        let (session, life) = connected.expect("one connection: this end has none");
        let up = peer.up.as_ref().expect("what is connected is up");
        let (port, credits) = (up.port, up.caller.credits());
        assert_eq!(credits.free, slots, "SLOT-2: credits are back");
        let unanswered = up.responder.unanswered();
        assert_eq!(unanswered, 0, "CALL-1: requests without an answer");
        assert_eq!(
            peer.closed.len(),
            0,
            "DROP-1: somebody has a closed channel"
        );
        let other = self.spot(agent).expect("everybody lives in the end");
        assert_eq!(life, self.living(other).incarnation, "FENCE-1");
        let theirs = self.peer(other, back).link.connected();
        let theirs = theirs.map(|(session, _)| session);
        assert_eq!(
            theirs,
            Some(session),
            "one connection: the ends have different ones"
        );
        let Port(port) = port;
        let remote = self.ports[port]
            .remote
            .map(|Port(remote)| &self.ports[remote]);
        let remote = remote.and_then(|remote| remote.remote);
        assert_eq!(self.ports[port].state, MessageState::Rts);
        assert_eq!(remote, Some(Port(port)), "one connection: joined crosswise");
    }
}
