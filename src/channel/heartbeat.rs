//! A queue pair between two agents that carries heartbeats and nothing else, so that no transfer,
//! however large, delays them.
//!
//! A heartbeat is an empty WRITE_WITH_IMM. It uses up a receive of the peer, which posts it again
//! when it polls. A peer that does not poll is therefore sent only a bounded number, and then
//! probed with empty writes, which use up nothing: they fail when its end of the connection is
//! gone, and succeed when it is merely stalled.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use tokio::sync::Notify;

use super::heartbeat_queue::{HeartbeatQueues, Look, Place};
use super::send_queue::SendQueue;
use super::{ConnectError, LossCause, QueuePairInfo};
use crate::fabric::{
    Completion, CompletionStatus, Device, FabricError, Opcode, Operation, Payload, QueuePair,
    QueuePairInit, RecvRequest, RemoteSlice, RetryPolicy, SendRequest,
};

/// Most heartbeats to a peer that sends none. The peer has a receive for each, for as many that
/// crossed its own, and for as many that it has yet to poll.
const UNANSWERED: u32 = 8;
/// Receives that are posted again at once: of a thousand peers, each of whose queues is far away.
const RENEWED: u32 = 8;
const RECEIVES: u32 = 3 * UNANSWERED + RENEWED;
const SENDS: u32 = 16;

/// The low bits of an immediate are the kind of the message, those above its time in milliseconds.
const KIND: u32 = 3;
/// Earlier releases take every kind but LEAVING for BEAT.
const RESTING: u32 = 0;
const BEAT: u32 = 1;
const LEAVING: u32 = 2;
/// A heartbeat of an end that does not need the connection.
const SPARE: u32 = 3;
const MAX_MILLIS: u32 = u32::MAX >> 2;

/// A message that the peer's end of a [`Heartbeat`] has sent since the last call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeartbeatEvent {
    /// No message has arrived.
    Nothing,
    /// The peer was alive this long ago, by the clock of this host; meaningless unless the peer is
    /// on this host.
    Beat(Duration),
    /// The peer leaves.
    Leaving,
    /// The peer ends the connection, which neither end needs.
    Resting,
}

/// One end of a queue pair that carries heartbeats between two agents, and nothing else.
///
/// ```
/// use slimerpc::channel::{Heartbeat, HeartbeatEvent, HeartbeatQueues};
/// use slimerpc::fabric::{self, RetryPolicy};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// let (device, queues) = (fabric::open("shm0", 1)?, HeartbeatQueues::default());
/// let end = || Heartbeat::new(&queues, &device, RetryPolicy::default(), Default::default());
/// let [mut one, mut other] = [end()?, end()?];
/// one.connect(other.address())?;
/// other.connect(one.address())?;
/// one.send_heartbeat()?;
/// while !matches!(other.listen()?, HeartbeatEvent::Beat(_)) {}
/// # Ok(())
/// # })
/// # }
/// ```
#[derive(Debug)]
pub struct Heartbeat {
    // Before the queue that it completes into.
    qp: Box<dyn QueuePair>,
    place: Place,
    /// Empty: the memory for what arrives next.
    arrived: VecDeque<Completion>,
    /// Receives that are to be posted again.
    used: u32,
    /// Heartbeats sent since the peer's last one.
    unanswered: u32,
    queue: SendQueue,
    /// Whether a message of this end has arrived, and whether one of the peer's has.
    proven: [bool; 2],
    /// Whether this end needs the connection, and whether the peer's last heartbeat said so of its
    /// own.
    needed: [bool; 2],
}

impl Heartbeat {
    /// Creates a queue pair that is ready to be connected, with a place in one of `queues`.
    /// `listener` is notified of what this end [waits for](Self::wait_for_all).
    ///
    /// # Errors
    /// The device refuses.
    pub fn new(
        queues: &HeartbeatQueues,
        device: &Arc<dyn Device>,
        retry: RetryPolicy,
        listener: Arc<Notify>,
    ) -> Result<Self, ConnectError> {
        let mut place = queues.place(device, RECEIVES + SENDS, listener)?;
        let cq = place.completion_queue();
        let mut qp = device.create_queue_pair(&QueuePairInit {
            send_cq: cq.clone(),
            recv_cq: cq.clone(),
            max_send_wr: SENDS,
            max_recv_wr: RECEIVES,
            max_inline: 0,
            retry,
        })?;
        place.begin(qp.number());
        qp.to_init()?;
        qp.post_recvs(RecvRequest { wr_id: 0 }, RECEIVES)?;
        Ok(Self {
            qp,
            place,
            arrived: VecDeque::new(),
            used: 0,
            unanswered: 0,
            queue: SendQueue::new(SENDS),
            proven: [false; 2],
            needed: [true; 2],
        })
    }

    /// The address to send to the peer.
    pub fn address(&self) -> QueuePairInfo {
        self.qp.address().into()
    }

    /// Says which alias the peer must prove to have, where that can be proved, before
    /// [`connect`](Self::connect).
    pub fn expect_peer(&mut self, alias: &str) {
        self.qp.expect_peer(alias);
    }

    /// Connects to the peer's end.
    ///
    /// # Errors
    /// The peer's address is not acceptable, or the device refuses.
    pub fn connect(&mut self, theirs: QueuePairInfo) -> Result<(), ConnectError> {
        self.qp.to_rtr(&theirs.into())?;
        self.qp.to_rts()?;
        Ok(())
    }

    /// Has the listener notified of the next arrival. [Listen](Self::listen) once more before
    /// waiting for it.
    ///
    /// # Errors
    /// The device refuses.
    pub fn wait_for_all(&self) -> Result<(), LossCause> {
        self.place.wait_for_all().map_err(failed)
    }

    /// Has the listener notified when the peer leaves or is gone, and not of heartbeats: look for
    /// them now and then. This costs nothing, however often it is called.
    pub fn wait_for_end(&self) {
        self.place.wait_for_end();
    }

    /// Reads the peer's messages.
    ///
    /// # Errors
    /// Why the connection is gone.
    pub fn listen(&mut self) -> Result<HeartbeatEvent, LossCause> {
        // What is done next may depend on what the peer has said last.
        let is_spare = self.needed != [true; 2];
        self.hear(if is_spare { Look::ToDate } else { Look::Some })
    }

    /// Reads those of the peer's messages that had arrived when the queues were last
    /// [polled](HeartbeatQueues::poll), by which whoever listens to many peers looks once for all.
    ///
    /// # Errors
    /// Why the connection is gone.
    pub fn listen_to_polled(&mut self) -> Result<HeartbeatEvent, LossCause> {
        self.hear(Look::None)
    }

    fn hear(&mut self, look: Look) -> Result<HeartbeatEvent, LossCause> {
        let (mut heard, mut lost) = (HeartbeatEvent::Nothing, None);
        self.take(look, &mut heard, &mut lost)?;
        // Whether a connection is given up depends on what the peer has said last.
        let is_over = matches!(heard, HeartbeatEvent::Leaving | HeartbeatEvent::Resting);
        if look != Look::ToDate && self.needed == [false; 2] && !is_over {
            self.take(Look::ToDate, &mut heard, &mut lost)?;
        }
        match (heard, lost) {
            // A peer that has said goodbye is not lost, although its queue pair ends with it. The
            // end of what was sent to it may be told first.
            (HeartbeatEvent::Leaving | HeartbeatEvent::Resting, _) | (_, None) => Ok(heard),
            (_, Some(status)) => Err(status.into()),
        }
    }

    fn take(
        &mut self,
        look: Look,
        heard: &mut HeartbeatEvent,
        lost: &mut Option<CompletionStatus>,
    ) -> Result<(), LossCause> {
        let mut arrived = std::mem::take(&mut self.arrived);
        self.place.take(look, &mut arrived)?;
        for completion in arrived.drain(..) {
            if !completion.status.is_success() {
                lost.get_or_insert(completion.status);
                continue;
            }
            if completion.opcode != Opcode::RecvWriteWithImm {
                self.queue.retire(completion.wr_id as u32);
                self.proven[0] = true;
                continue;
            }
            self.proven[1] = true;
            self.unanswered = 0;
            self.used += 1;
            if self.used >= RENEWED && lost.is_none() {
                let used = std::mem::take(&mut self.used);
                self.qp
                    .post_recvs(RecvRequest { wr_id: 0 }, used)
                    .map_err(failed)?;
            }
            let imm = completion.imm.unwrap_or_default();
            self.needed[1] = imm & KIND != SPARE;
            *heard = match (*heard, imm & KIND) {
                (HeartbeatEvent::Leaving | HeartbeatEvent::Resting, _) => *heard,
                (_, LEAVING) => HeartbeatEvent::Leaving,
                (_, RESTING) => HeartbeatEvent::Resting,
                _ => HeartbeatEvent::Beat(age(imm)),
            };
        }
        self.arrived = arrived;
        Ok(())
    }

    /// Returns whether messages have arrived both ways: each end is connected and can send.
    pub fn is_proven(&self) -> bool {
        self.proven == [true; 2]
    }

    /// Says whether this end needs the connection; the next heartbeat tells the peer. It does
    /// unless this says otherwise.
    pub fn set_needed(&mut self, is_needed: bool) {
        self.needed[0] = is_needed;
    }

    /// Returns whether the peer needs the connection, as of its last heartbeat.
    pub fn is_needed_by_peer(&self) -> bool {
        self.needed[1]
    }

    /// Sends a heartbeat, or probes a peer that does not poll.
    ///
    /// # Errors
    /// The device refuses.
    pub fn send_heartbeat(&mut self) -> Result<(), LossCause> {
        let retires = match self.is_proven() {
            true => self.queue.admit(),
            false => self.queue.admit_signalled(),
        };
        if self.unanswered < UNANSWERED {
            self.unanswered += 1;
            let kind = if self.needed[0] { BEAT } else { SPARE };
            return self.send(Operation::WriteWithImm(now() << 2 | kind), retires, false);
        }
        self.send(Operation::Write, retires, false)
    }

    /// Sends a goodbye. It is lost if this end is dropped before it [has
    /// arrived](Self::has_arrived).
    pub fn leave(&mut self) {
        self.end(LEAVING);
    }

    /// Tells a peer [that does not need the connection](Self::is_needed_by_peer) that this end
    /// gives it up. It is lost as a [goodbye](Self::leave) is.
    pub fn rest(&mut self) {
        self.end(RESTING);
    }

    fn end(&mut self, kind: u32) {
        let retires = self.queue.admit_signalled();
        // If the connection is gone, the peer has noticed.
        let _ = self.send(Operation::WriteWithImm(now() << 2 | kind), retires, true);
    }

    /// Returns whether the goodbye has arrived, or never will. It waits for a peer whose end is not
    /// connected yet. Messages of the peer are read and dropped.
    pub fn has_arrived(&mut self) -> bool {
        self.listen().is_err() || self.queue.is_empty()
    }

    fn send(
        &mut self,
        operation: Operation,
        retires: Option<u32>,
        solicited: bool,
    ) -> Result<(), LossCause> {
        let Some(retires) = retires else {
            return Ok(()); // What was sent has yet to arrive, or to fail.
        };
        let posted = self.qp.post_send(&SendRequest {
            wr_id: retires.into(),
            operation,
            local: Payload::Inline(&[]),
            remote: RemoteSlice::default(),
            signalled: retires > 0,
            solicited,
        });
        posted.map_err(failed)
    }
}

/// Returns whether this says that the peer leaves or rests, or is gone.
pub(super) fn is_end(completion: &Completion) -> bool {
    let is_last = |imm| matches!(imm & KIND, LEAVING | RESTING);
    !completion.status.is_success() || completion.imm.is_some_and(is_last)
}

/// Milliseconds since this host was started, as many bits as a heartbeat carries.
fn now() -> u32 {
    let now = clock_gettime(ClockId::Monotonic);
    (now.tv_sec as u32)
        .wrapping_mul(1000)
        .wrapping_add((now.tv_nsec / 1_000_000) as u32)
        & MAX_MILLIS
}

/// Least age of a heartbeat: both clocks are cut to milliseconds.
fn age(imm: u32) -> Duration {
    let millis = now().wrapping_sub(imm >> 2) & MAX_MILLIS;
    Duration::from_millis(millis.saturating_sub(1).into())
}

fn failed(error: FabricError) -> LossCause {
    LossCause::Fabric(error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::LazyLock;
    use std::time::Instant;

    use tokio::runtime::{Builder, Runtime};
    use tokio::time::timeout;

    use super::*;
    use crate::fabric::{self, QueuePairState};

    const LONG: Duration = Duration::from_secs(30);

    /// Waits for the events of queues.
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

    fn end(queues: &HeartbeatQueues, device: &Arc<dyn Device>) -> Heartbeat {
        end_in(&RUNTIME, queues, device)
    }

    fn end_in(runtime: &Runtime, queues: &HeartbeatQueues, device: &Arc<dyn Device>) -> Heartbeat {
        let _in = runtime.enter();
        let listener = Arc::default();
        Heartbeat::new(queues, device, RetryPolicy::default(), listener).unwrap()
    }

    fn pair() -> (Heartbeat, Heartbeat) {
        let queues = HeartbeatQueues::default();
        let [mut one, mut other] =
            [(); 2].map(|()| end(&queues, &fabric::open(fabric::SHM, 1).unwrap()));
        one.connect(other.address()).unwrap();
        other.connect(one.address()).unwrap();
        (one, other)
    }

    fn hears(end: &mut Heartbeat) -> Result<HeartbeatEvent, LossCause> {
        let started = Instant::now();
        loop {
            match end.listen() {
                Ok(HeartbeatEvent::Nothing) => assert!(started.elapsed() < LONG),
                heard => return heard,
            }
        }
    }

    #[test]
    fn heartbeats_go_both_ways_and_so_does_a_goodbye() {
        let (mut one, mut other) = pair();
        for _ in 0..100 {
            one.send_heartbeat().unwrap();
            assert!(matches!(hears(&mut other), Ok(HeartbeatEvent::Beat(_))));
            other.send_heartbeat().unwrap();
            assert!(matches!(hears(&mut one), Ok(HeartbeatEvent::Beat(_))));
        }
        one.leave();
        assert_eq!(hears(&mut other), Ok(HeartbeatEvent::Leaving));
    }

    #[test]
    fn an_end_says_whether_it_needs_the_connection_and_that_it_gives_it_up() {
        let (mut one, mut other) = pair();
        one.wait_for_end();
        for is_needed in [true, false, true, false] {
            other.set_needed(is_needed);
            other.send_heartbeat().unwrap();
            assert!(matches!(hears(&mut one), Ok(HeartbeatEvent::Beat(_))));
            assert_eq!(one.is_needed_by_peer(), is_needed);
        }
        one.rest();
        let listener = other.place.listener().clone();
        other.wait_for_end();
        let woken = async { timeout(LONG, listener.notified()).await };
        RUNTIME.block_on(woken).unwrap();
        while !one.has_arrived() {}
        drop(one);
        assert_eq!(
            hears(&mut other),
            Ok(HeartbeatEvent::Resting),
            "not that it is gone"
        );
    }

    #[test]
    fn a_connection_is_proven_once_a_message_has_arrived_each_way() {
        let (mut one, mut other) = pair();
        one.send_heartbeat().unwrap();
        assert!(matches!(hears(&mut other), Ok(HeartbeatEvent::Beat(_))));
        one.listen().unwrap();
        assert!(!one.is_proven() && !other.is_proven());
        other.send_heartbeat().unwrap();
        assert!(matches!(hears(&mut one), Ok(HeartbeatEvent::Beat(_))));
        other.listen().unwrap();
        assert!(one.is_proven() && other.is_proven());
    }

    #[test]
    fn a_peer_that_does_not_look_is_neither_lost_nor_drowned() {
        let (mut one, mut other) = pair();
        for _ in 0..100 {
            one.send_heartbeat().unwrap();
            assert_eq!(one.listen(), Ok(HeartbeatEvent::Nothing));
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(matches!(hears(&mut other), Ok(HeartbeatEvent::Beat(_))));
        other.send_heartbeat().unwrap();
        assert!(matches!(hears(&mut one), Ok(HeartbeatEvent::Beat(_))));
        one.send_heartbeat().unwrap();
        assert!(matches!(hears(&mut other), Ok(HeartbeatEvent::Beat(_))));
    }

    #[test]
    fn a_peer_that_gives_signs_of_life_and_does_not_look_is_not_lost() {
        let (mut one, mut other) = pair();
        for _ in 0..UNANSWERED {
            one.send_heartbeat().unwrap();
        }
        for _ in 0..UNANSWERED {
            other.send_heartbeat().unwrap();
            assert!(matches!(hears(&mut one), Ok(HeartbeatEvent::Beat(_))));
            one.send_heartbeat().unwrap();
        }
        for _ in 0..100 {
            one.send_heartbeat().unwrap();
            assert_eq!(one.listen(), Ok(HeartbeatEvent::Nothing));
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(matches!(hears(&mut other), Ok(HeartbeatEvent::Beat(_))));
    }

    #[test]
    fn a_sign_of_life_says_how_old_it_is() {
        let (mut one, mut other) = pair();
        let begun = Instant::now();
        one.send_heartbeat().unwrap();
        std::thread::sleep(Duration::from_millis(30));
        let Ok(HeartbeatEvent::Beat(ago)) = hears(&mut other) else {
            panic!("it lives");
        };
        let at_least = Duration::from_millis(27);
        assert!(ago >= at_least && ago <= begun.elapsed() + Duration::from_millis(1));
    }

    #[test]
    fn who_waits_for_the_end_is_not_woken_by_heartbeats() {
        let is_woken = |heartbeat: &Heartbeat, time: Duration| {
            let listener = heartbeat.place.listener().clone();
            RUNTIME.block_on(async { timeout(time, listener.notified()).await.is_ok() })
        };
        let (mut one, mut other) = pair();
        other.wait_for_all().unwrap();
        one.send_heartbeat().unwrap();
        assert!(is_woken(&other, LONG), "it waits for all");
        assert!(matches!(hears(&mut other), Ok(HeartbeatEvent::Beat(_))));
        other.wait_for_end();
        let wakes = |_: &u32| {
            one.send_heartbeat().unwrap();
            is_woken(&other, Duration::from_millis(20))
        };
        // An event that was asked for before may come once more, at any time.
        let woken = (0..4).filter(wakes).count();
        assert!(woken <= 1, "{woken} of 4 heartbeats have woken it");
        one.leave();
        assert!(is_woken(&other, LONG));
        assert_eq!(hears(&mut other), Ok(HeartbeatEvent::Leaving));
        drop(one);
        assert!(is_woken(&other, LONG), "it is gone");
    }

    /// Whoever looks takes what has arrived for others from the queue, too.
    #[test]
    fn ends_of_one_queue_hear_their_own_peers() {
        const ENDS: usize = 20;
        let (here, there) = (HeartbeatQueues::default(), HeartbeatQueues::default());
        let [device, other] = [(); 2].map(|()| fabric::open(fabric::SHM, 1).unwrap());
        let mut pairs: Vec<_> = (0..ENDS)
            .map(|_| (end(&here, &device), end(&there, &other)))
            .collect();
        assert_eq!(here.count(), 2, "8 ends, and 16");
        for (one, other) in &mut pairs {
            one.connect(other.address()).unwrap();
            other.connect(one.address()).unwrap();
            one.wait_for_end();
        }
        for (one, other) in &mut pairs {
            other.send_heartbeat().unwrap();
            assert!(matches!(hears(one), Ok(HeartbeatEvent::Beat(_))));
        }
        for (_, other) in &mut pairs {
            other.send_heartbeat().unwrap();
        }
        let (mut last, theirs) = pairs.pop().unwrap();
        assert!(matches!(hears(&mut last), Ok(HeartbeatEvent::Beat(_))));
        for (one, _) in &mut pairs {
            assert!(matches!(hears(one), Ok(HeartbeatEvent::Beat(_))));
            assert_eq!(one.listen(), Ok(HeartbeatEvent::Nothing));
        }
        // A place is free again with its end, and what came for that is for nobody.
        drop((last, theirs));
        let next = end(&here, &device);
        assert_eq!((here.count(), next.place.waiting()), (2, 0));
        drop((pairs, next));
        // Whoever waits for the events of a queue may hold it for a moment.
        let until = Instant::now() + LONG;
        while here.count() > 0 {
            assert!(Instant::now() < until, "{} queues are left", here.count());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The heartbeats of all come at the same moment, and each of many ends would look for those of
    /// all others.
    #[test]
    fn the_first_end_that_looks_polls_for_all() {
        // Nothing runs in it: what waits for events would poll for all at any moment, too.
        let halted = Builder::new_current_thread().enable_all().build().unwrap();
        let (here, there) = (HeartbeatQueues::default(), HeartbeatQueues::default());
        let [device, other] = [(); 2].map(|()| fabric::open(fabric::SHM, 1).unwrap());
        let mut pairs: Vec<_> = (0..8)
            .map(|_| (end_in(&halted, &here, &device), end(&there, &other)))
            .collect();
        assert_eq!(here.count(), 1);
        for (one, other) in &mut pairs {
            one.connect(other.address()).unwrap();
            other.connect(one.address()).unwrap();
            one.wait_for_end();
            other.send_heartbeat().unwrap();
            assert!(matches!(hears(one), Ok(HeartbeatEvent::Beat(_))));
        }
        let mut beat = || {
            for (_, other) in &mut pairs {
                other.send_heartbeat().unwrap();
            }
        };
        beat();
        beat();
        let taken = |end: &Heartbeat| {
            let mut arrived = VecDeque::new();
            end.place.take(Look::Some, &mut arrived).unwrap();
            arrived.len()
        };
        assert_eq!(taken(&pairs[0].0), 2);
        for (_, other) in &mut pairs {
            other.send_heartbeat().unwrap();
        }
        for expected in [2, 1] {
            for (one, _) in &pairs[1..] {
                assert_eq!(taken(one), expected, "it has polled as well");
            }
        }
        // One that waits for everything must find what is there once it is armed.
        let [(first, _), (one, other), ..] = &mut pairs[..] else {
            panic!("there are eight");
        };
        one.wait_for_all().unwrap();
        other.send_heartbeat().unwrap();
        taken(first);
        other.send_heartbeat().unwrap();
        assert_eq!(taken(one), 2);
    }

    /// Twenty ends of an agent here, and of another there, each connected with the one of the
    /// same number, and proven. Nothing runs that waits for what arrives here.
    fn pairs_of_agents(halted: &Runtime) -> (HeartbeatQueues, Vec<(Heartbeat, Heartbeat)>) {
        let (here, there) = (HeartbeatQueues::default(), HeartbeatQueues::default());
        let [device, other] = [(); 2].map(|()| fabric::open(fabric::SHM, 1).unwrap());
        let mut pairs: Vec<_> = (0..20)
            .map(|_| (end_in(halted, &here, &device), end(&there, &other)))
            .collect();
        for (one, other) in &mut pairs {
            one.connect(other.address()).unwrap();
            other.connect(one.address()).unwrap();
            one.wait_for_end();
            other.send_heartbeat().unwrap();
            assert!(matches!(hears(one), Ok(HeartbeatEvent::Beat(_))));
        }
        (here, pairs)
    }

    #[test]
    fn one_poll_is_for_all_ends_of_all_queues() {
        let halted = Builder::new_current_thread().enable_all().build().unwrap();
        let (here, mut pairs) = pairs_of_agents(&halted);
        assert_eq!(here.count(), 2);
        for (one, other) in &mut pairs {
            // A service's end: only the caller needs the connection.
            one.set_needed(false);
            other.send_heartbeat().unwrap();
        }
        here.poll();
        for round in 0..3 {
            for (one, other) in &mut pairs {
                let polled = one.listen_to_polled();
                assert!(matches!(polled, Ok(HeartbeatEvent::Beat(_))), "{round}");
                other.send_heartbeat().unwrap();
                let later = one.listen_to_polled();
                assert_eq!(later, Ok(HeartbeatEvent::Nothing), "an end has looked");
            }
            here.poll();
        }
    }

    #[test]
    fn an_end_that_may_be_given_up_hears_what_the_peer_said_last() {
        let halted = Builder::new_current_thread().enable_all().build().unwrap();
        let (here, mut pairs) = pairs_of_agents(&halted);
        for (one, other) in &mut pairs {
            one.set_needed(false);
            other.set_needed(false);
            other.send_heartbeat().unwrap();
        }
        here.poll();
        for (one, other) in &mut pairs {
            other.set_needed(true);
            other.send_heartbeat().unwrap();
            let heard = one.listen_to_polled();
            assert!(matches!(heard, Ok(HeartbeatEvent::Beat(_))));
            assert!(one.is_needed_by_peer());
        }
    }

    #[test]
    fn who_has_left_is_not_lost_however_late_that_is_noticed() {
        for sends_too_late in [false, true] {
            let (mut one, mut other) = pair();
            one.send_heartbeat().unwrap();
            one.leave();
            let until = Instant::now() + LONG;
            while !one.has_arrived() {
                assert!(Instant::now() < until);
            }
            drop(one);
            while other.qp.state() != QueuePairState::Error {
                assert!(Instant::now() < until);
            }
            if sends_too_late {
                // That it has failed may be told before the goodbye.
                other.send_heartbeat().unwrap();
            }
            assert_eq!(other.listen(), Ok(HeartbeatEvent::Leaving));
        }
    }

    #[test]
    fn a_goodbye_waits_for_a_peer_that_is_not_connected_yet() {
        let (device, queues) = (
            fabric::open(fabric::SHM, 1).unwrap(),
            HeartbeatQueues::default(),
        );
        let [mut one, mut other] = [(); 2].map(|()| end(&queues, &device));
        one.connect(other.address()).unwrap();
        one.leave();
        assert!(!one.has_arrived());
        other.connect(one.address()).unwrap();
        let started = Instant::now();
        while !one.has_arrived() {
            assert!(started.elapsed() < LONG);
        }
        drop(one);
        assert_eq!(hears(&mut other), Ok(HeartbeatEvent::Leaving));
    }

    #[test]
    fn a_goodbye_to_a_peer_that_is_gone_is_not_awaited() {
        let (mut one, other) = pair();
        drop(other);
        one.leave();
        let started = Instant::now();
        while !one.has_arrived() {
            assert!(started.elapsed() < LONG);
        }
    }

    #[test]
    fn an_end_that_is_gone_is_a_loss() {
        let (mut one, other) = pair();
        drop(other);
        let started = Instant::now();
        let cause = loop {
            assert!(started.elapsed() < LONG);
            if let Err(cause) = one.send_heartbeat().and_then(|()| one.listen()) {
                break cause;
            }
        };
        assert!(
            matches!(cause, LossCause::Gone | LossCause::Completion(_)),
            "{cause}"
        );
    }
}
