//! What waits for the next poll, and what must not; and who is looked at by one.

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;
use crate::fabric::CompletionQueue;
use crate::fabric::tcp::connection::Connection;
use crate::fabric::tcp::gathering::PAUSE_HERE;

const NOWHERE: RemoteSlice = RemoteSlice { addr: 0, rkey: 0 };
/// More than are posted before somebody polls.
const DEPTH: u32 = 512;
/// Frames that wait at most.
const POSTS: usize = 16;
/// Posts after which whoever has not polled is not waited for.
const UNPOLLED: usize = 256;
const A_WHILE: Duration = Duration::from_millis(50);

struct Queue {
    cq: Arc<dyn CompletionQueue>,
    poller: Box<dyn Poller>,
}

impl Queue {
    fn new(device: &Arc<TcpDevice>) -> Self {
        let (cq, poller) = device.create_completion_queue(4 * DEPTH).unwrap();
        Self { cq, poller }
    }

    fn is_readable(&self, time: Duration) -> bool {
        let timeout = Timespec::try_from(time).unwrap();
        let fd = self.cq.event_fd();
        poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)).unwrap() > 0
    }

    /// Takes what there is, up to `room`.
    fn take(&mut self, room: usize) -> Vec<Completion> {
        let mut taken = vec![Completion::EMPTY; room];
        let count = self.poller.poll(&mut taken).unwrap();
        taken.truncate(count);
        taken
    }
}

struct End {
    // Dropped first (DROP-1).
    qp: Box<dyn QueuePair>,
    device: Arc<TcpDevice>,
}

impl End {
    fn new(device: &Arc<TcpDevice>, queue: &Queue) -> Self {
        let init = QueuePairInit {
            send_cq: queue.cq.clone(),
            recv_cq: queue.cq.clone(),
            max_send_wr: DEPTH,
            max_recv_wr: DEPTH,
            max_inline: 16,
            retry: RetryPolicy::default(),
        };
        let mut qp = device.create_queue_pair(&init).unwrap();
        qp.to_init().unwrap();
        qp.post_recvs(RecvRequest { wr_id: 0 }, DEPTH).unwrap();
        let device = device.clone();
        Self { qp, device }
    }

    fn connect(&mut self, peer: &Self) {
        self.qp.to_rtr(&peer.qp.address()).unwrap();
        self.qp.to_rts().unwrap();
    }

    fn request(imm: u32) -> SendRequest<'static> {
        SendRequest {
            wr_id: 1,
            operation: Operation::WriteWithImm(imm),
            local: Payload::Inline(&[]),
            remote: NOWHERE,
            signalled: imm.is_multiple_of(16),
            solicited: true,
        }
    }

    fn post(&mut self, imm: u32) {
        self.qp.post_send(&Self::request(imm)).unwrap();
    }

    fn connection(&self) -> Arc<Connection> {
        self.device.connection(self.qp.number()).unwrap()
    }

    /// Bytes that wait.
    fn waiting(&self) -> usize {
        self.connection().unsent()
    }
}

/// A connection, and a queue at either end.
struct Pair {
    here: End,
    there: End,
    queue: Queue,
    others: Queue,
    posted: u32,
}

impl Pair {
    fn new() -> Self {
        PAUSE_HERE.set(A_WHILE);
        let devices = [(); 2].map(|()| open());
        let [queue, others] = devices.each_ref().map(Queue::new);
        let mut here = End::new(&devices[0], &queue);
        let mut there = End::new(&devices[1], &others);
        here.connect(&there);
        there.connect(&here);
        let mut pair = Self {
            here,
            there,
            queue,
            others,
            posted: 0,
        };
        pair.post();
        pair.arrive();
        pair
    }

    fn post(&mut self) {
        self.here.post(self.posted);
        self.posted += 1;
    }

    /// All that was posted comes, in order. Nobody polls this end meanwhile.
    fn arrive(&mut self) {
        let end = Instant::now() + SOON;
        let mut messages = Vec::new();
        while messages.last() != Some(&(self.posted - 1)) {
            assert!(Instant::now() < end, "only {messages:?} came");
            messages.extend(self.others.take(16).iter().filter_map(|one| one.imm));
        }
        let count = messages.len() as u32;
        let all: Vec<u32> = (self.posted - count..self.posted).collect();
        assert_eq!(messages, all);
        let recv = RecvRequest { wr_id: 0 };
        self.there.qp.post_recvs(recv, count).unwrap();
    }

    /// Posts until something waits. Pauses that others cause must not be long for that, so it is
    /// tried until it is so.
    fn gather(&mut self) {
        let end = Instant::now() + SOON;
        loop {
            // Something is unanswered, and this end has polled.
            for _ in 0..4 {
                self.post();
                if self.here.waiting() > 0 {
                    return;
                }
            }
            assert!(Instant::now() < end, "nothing waits");
            self.arrive();
            self.queue.take(16);
        }
    }
}

#[test]
fn a_frame_that_is_alone_leaves_at_once() {
    let mut pair = Pair::new();
    for _ in 0..100 {
        // Its answer, which says that it came.
        pair.there.post(0);
        assert_eq!(pair.there.waiting(), 0);
        let end = Instant::now() + SOON;
        while !pair.queue.take(16).iter().any(|one| one.imm.is_some()) {
            assert!(Instant::now() < end, "no answer came");
        }
        pair.here.qp.post_recv(RecvRequest { wr_id: 0 }).unwrap();
        pair.post();
        assert_eq!(pair.here.waiting(), 0);
        pair.arrive();
    }
}

#[test]
fn frames_that_wait_leave_with_the_next_poll_and_are_few() {
    let mut pair = Pair::new();
    for _ in 0..20 {
        pair.gather();
        for _ in 0..3 * POSTS {
            pair.post();
            assert!(pair.here.waiting() < POSTS * HEADER);
        }
        // A poll that finds completions looks no further.
        while !pair.queue.take(16).is_empty() {}
        assert_eq!(pair.here.waiting(), 0);
        pair.arrive();
    }
}

#[test]
fn frames_that_wait_leave_when_whoever_posted_them_goes_to_sleep() {
    let mut pair = Pair::new();
    for is_solicited in [true, false] {
        pair.gather();
        match is_solicited {
            true => pair.queue.cq.arm_solicited().unwrap(),
            false => pair.queue.cq.arm().unwrap(),
        }
        assert_eq!(pair.here.waiting(), 0);
        pair.queue.take(16);
        // Others post while it sleeps. The device's thread may wake it meanwhile.
        for _ in 0..2 * POSTS {
            pair.post();
            let waiting = pair.here.waiting();
            assert!(waiting == 0 || pair.queue.is_readable(SOON));
        }
        pair.arrive();
        // It is woken, and polls.
        pair.there.post(0);
        assert!(pair.queue.is_readable(SOON));
        pair.queue.cq.clear_events();
        while pair.queue.take(16).is_empty() {}
    }
}

/// Whoever waits for one peer has something for others, too.
#[test]
fn frames_that_wait_leave_when_another_queue_of_the_device_is_polled() {
    let mut pair = Pair::new();
    let mut other = Queue::new(&pair.here.device);
    for is_asleep in [false, true] {
        pair.gather();
        match is_asleep {
            true => other.cq.arm().unwrap(),
            false => assert!(other.take(1).is_empty()),
        }
        assert_eq!(pair.here.waiting(), 0);
    }
}

/// Whoever calls many peers in turn posts seldom for each of them, and polls soon all the same: a
/// queue of this device, which says nothing of others.
#[test]
fn frames_wait_soon_after_one_for_another_peer_of_the_device() {
    let mut pair = Pair::new();
    let [here, elsewhere] = [pair.here.device.clone(), open()];
    let end = Instant::now() + SOON;
    // A connection posts for the first time while another frame of its own is unanswered.
    let mut waits = |device: &Arc<TcpDevice>| {
        let mut queue = Queue::new(device);
        let mut near = End::new(device, &queue);
        let far = Queue::new(&pair.there.device);
        let mut peer = End::new(&pair.there.device, &far);
        near.connect(&peer);
        peer.connect(&near);
        near.post(0);
        while queue.take(1).is_empty() {
            assert!(Instant::now() < end, "it is not acknowledged");
        }
        pair.gather();
        near.post(1);
        near.post(2);
        let waits = near.waiting() > 0;
        // What was gathered for that leaves.
        while !pair.queue.take(16).is_empty() {}
        pair.arrive();
        waits
    };
    for _ in 0..20 {
        assert!(!waits(&elsewhere));
    }
    // Pauses that others cause must not be long for it.
    while !waits(&here) {
        assert!(Instant::now() < end, "nothing waits");
    }
}

/// Who tells many peers something without ever polling has the device's thread send a few of it.
#[test]
fn few_frames_wait_of_one_who_posts_for_many_and_does_not_poll() {
    let mut pair = Pair::new();
    let (queue, far) = (
        Queue::new(&pair.here.device),
        Queue::new(&pair.there.device),
    );
    let mut ends = [(); 2 * UNPOLLED / POSTS].map(|()| {
        let mut near = End::new(&pair.here.device, &queue);
        let mut peer = End::new(&pair.there.device, &far);
        near.connect(&peer);
        peer.connect(&near);
        (near, peer)
    });
    pair.gather();
    for number in 0..3 * POSTS {
        for (near, _) in &mut ends {
            near.post(number as u32);
        }
        let connected = ends.iter().filter(|(near, _)| near.connection().is_made());
        let waiting: usize = connected.map(|(near, _)| near.waiting()).sum();
        assert!(waiting <= UNPOLLED * HEADER, "{waiting} bytes wait");
    }
}

/// Nobody may ever poll again.
#[test]
fn frames_that_wait_leave_without_a_poll() {
    let mut pair = Pair::new();
    pair.gather();
    pair.arrive();
    // More, as one whose answer comes meanwhile is alone and does not count.
    for _ in 0..UNPOLLED + 64 {
        pair.post();
    }
    pair.arrive();
    // Nobody has polled for so long that nobody is waited for.
    for _ in 0..2 * POSTS {
        pair.post();
        assert_eq!(pair.here.waiting(), 0);
    }
    pair.arrive();
}

#[test]
fn frames_that_wait_leave_before_their_queue_pair_ends() {
    for is_dropped in [true, false] {
        let mut pair = Pair::new();
        pair.gather();
        if is_dropped {
            let (queue, device) = (Queue::new(&pair.here.device), pair.here.device.clone());
            pair.here = End::new(&device, &queue);
        } else {
            pair.here.qp.to_error().unwrap();
        }
        let end = Instant::now() + SOON;
        let mut last = None;
        while last != Some(pair.posted - 1) {
            assert!(Instant::now() < end, "the last is {last:?}");
            last = pair
                .others
                .take(16)
                .iter()
                .filter_map(|one| one.imm)
                .next_back()
                .or(last);
        }
    }
}

/// The one that spoke last is looked at without asking which have something; the others have their
/// turn nevertheless.
#[test]
fn one_who_always_speaks_keeps_nobody_out() {
    let device = open();
    let mut queue = Queue::new(&device);
    let others = open();
    let far = Queue::new(&others);
    let mut ends = [(); 2].map(|()| {
        let mut near = End::new(&device, &queue);
        let mut peer = End::new(&others, &far);
        near.connect(&peer);
        peer.connect(&near);
        [near, peer]
    });
    let [first, second] = ends.each_ref().map(|[near, _]| near.qp.number());
    let comes = |queue: &mut Queue| {
        let end = Instant::now() + SOON;
        loop {
            if let Some(one) = queue.take(1).first() {
                assert!(one.status.is_success());
                return one.qp_num;
            }
            assert!(Instant::now() < end, "nothing came");
        }
    };
    // Both have been met.
    for [_, peer] in &mut ends {
        peer.post(1);
        comes(&mut queue);
    }
    for _ in 0..20 {
        ends[0][1].post(1);
        assert_eq!(comes(&mut queue), first);
        for [_, peer] in &mut ends {
            peer.post(1);
        }
        let mut turns = 1;
        while comes(&mut queue) != second {
            ends[0][1].post(1);
            turns += 1;
            assert!(turns < 50, "the other has no turn");
        }
        // That of the last turn.
        assert_eq!(comes(&mut queue), first);
    }
}

#[test]
fn who_polls_is_not_woken_and_who_sleeps_beside_it_is() {
    let mut pair = Pair::new();
    let end = Instant::now() + SOON;
    loop {
        pair.others.cq.arm().unwrap();
        pair.post();
        assert!(pair.others.is_readable(SOON));
        pair.others.cq.clear_events();
        pair.arrive();
        if !pair.others.is_readable(A_WHILE) {
            break;
        }
        // The device's thread was first, as this one was kept from polling.
        assert!(Instant::now() < end, "woken for what it has taken");
        pair.others.cq.clear_events();
    }
    // Both come at once, and one of them is left.
    pair.others.cq.arm().unwrap();
    let requests = [End::request(1), End::request(2)];
    pair.here.qp.post_sends(&requests).unwrap();
    let end = Instant::now() + SOON;
    while pair.others.take(1).is_empty() {
        assert!(Instant::now() < end, "nothing came");
    }
    assert!(pair.others.is_readable(SOON), "one is left");
}

#[test]
fn who_polls_long_after_it_slept_lets_the_wire_wake_nobody() {
    let mut pair = Pair::new();
    pair.others.cq.arm().unwrap();
    for _ in 0..2000 {
        assert!(pair.others.take(1).is_empty());
    }
    assert!(pair.others.is_readable(SOON), "whoever slept asks anew");
    pair.others.cq.clear_events();
    pair.post();
    assert!(!pair.others.is_readable(A_WHILE), "nobody asked");
    pair.arrive();
}
