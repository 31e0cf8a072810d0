//! What is true after each step, and when the world has come to rest.

use super::agent::Spot;
use super::control::Neighbour;
use super::fabric::{MessageState, Port};
use super::world::World;

impl World {
    /// SLOT-1, SLOT-2: the account of a caller.
    pub(super) fn check(&mut self, spot: Spot, at: usize) {
        let slots = self.slots;
        let peer = self.peer(spot, at);
        let credits = peer.caller.credits();
        assert_eq!(
            credits.free + credits.in_use + credits.orphaned,
            slots,
            "SLOT-2"
        );
        assert_eq!(
            credits.in_use,
            peer.live.len() - peer.caller.waiting(),
            "SLOT-2"
        );
        if peer.caller.closed().is_none() {
            assert_eq!(
                credits.orphaned, peer.forgotten,
                "SLOT-1: a slot is kept until its answer"
            );
        }
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
        let port = peer.up.as_ref().map(|up| up.port);
        let port = port.expect("what is connected is up");
        assert_eq!(
            peer.caller.credits().free,
            slots,
            "SLOT-2: credits are back"
        );
        let unanswered = peer.up.as_ref().map(|up| up.responder.unanswered());
        assert_eq!(unanswered, Some(0), "CALL-1: requests without an answer");
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
