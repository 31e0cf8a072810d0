//! The fabric's specification under faults that it allows, and each fault where it is planned.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Fault, Faults, Plan};
use crate::fabric::conformance::CASES;
use crate::fabric::shm::ShmDevice;
use crate::fabric::{
    Access, Completion, CompletionQueue, CompletionStatus, Device, FabricError, Opcode, Operation,
    Payload, Poller, QueuePair, QueuePairInit, QueuePairState, RecvRequest, RemoteSlice,
    RetryPolicy, SendRequest,
};

const SOON: Duration = Duration::from_secs(30);
const A_WHILE: Duration = Duration::from_millis(30);
const DEPTH: u32 = 64;

/// A case that looks at a queue once, so what comes late is not there yet.
const LOOKS_ONCE: &str = "events::sends_and_receives_may_have_queues_of_their_own";

fn open() -> Arc<dyn Device> {
    ShmDevice::open().expect("a device")
}

#[test]
fn with_an_empty_plan_two_devices_conform_and_one_with_itself() {
    let faults = Faults::new(Plan::new());
    let (a, b) = (faults.wrap(open()), faults.wrap(open()));
    for case in CASES {
        println!("{}", case.name());
        case.run(&a, &b);
        case.run(&a, &a);
    }
    assert_eq!(faults.stats().total(), 0);
}

#[test]
fn late_completions_in_another_order_across_queue_pairs_conform_too() {
    for seed in 0..3 {
        let faults = Faults::new(Plan::harmless(seed));
        let (a, b) = (faults.wrap(open()), faults.wrap(open()));
        for case in CASES.iter().filter(|case| case.name() != LOOKS_ONCE) {
            println!("seed {seed}: {}", case.name());
            case.run(&a, &b);
        }
        let stats = faults.stats();
        assert!(stats.delayed > 100 && stats.overtaken > 100, "{stats:?}");
    }
}

#[test]
fn only_one_of_two_devices_under_faults_conforms_with_the_other() {
    let (a, b) = (Faults::new(Plan::harmless(9)).wrap(open()), open());
    for case in CASES.iter().filter(|case| case.name() != LOOKS_ONCE) {
        println!("{}", case.name());
        case.run(&a, &b);
    }
}

/// One end of a connection.
struct End {
    qp: Box<dyn QueuePair>,
    cq: Arc<dyn CompletionQueue>,
    /// Of the queue, unless another end has it.
    poller: Option<Box<dyn Poller>>,
}

impl End {
    fn on(
        device: &Arc<dyn Device>,
        cq: Arc<dyn CompletionQueue>,
        poller: Option<Box<dyn Poller>>,
    ) -> Self {
        let mut qp = device.create_queue_pair(&init(&cq)).expect("a queue pair");
        qp.to_init().expect("RESET to INIT");
        Self { qp, cq, poller }
    }

    fn new(device: &Arc<dyn Device>) -> Self {
        let (cq, poller) = device
            .create_completion_queue(4 * DEPTH)
            .expect("a completion queue");
        Self::on(device, cq, Some(poller))
    }

    fn connect(&mut self, peer: &End) {
        self.qp.to_rtr(&peer.qp.address()).expect("INIT to RTR");
        self.qp.to_rts().expect("RTR to RTS");
    }

    fn receives(&mut self, count: u64) {
        for wr_id in 0..count {
            self.qp.post_recv(RecvRequest { wr_id }).expect("post_recv");
        }
    }

    fn try_send(&mut self, wr_id: u64, operation: Operation) -> Result<(), FabricError> {
        self.qp.post_send(&SendRequest {
            wr_id,
            operation,
            local: Payload::Inline(&[]),
            remote: RemoteSlice::default(),
            signalled: true,
            solicited: true,
        })
    }

    /// A message without bytes.
    fn ring(&mut self, number: u32) {
        self.try_send(number.into(), Operation::WriteWithImm(number))
            .expect("post_send");
    }

    fn poller(&mut self) -> &mut dyn Poller {
        &mut **self.poller.as_mut().expect("it is not another's")
    }

    fn look(&mut self) -> Vec<Completion> {
        let mut batch = [Completion::EMPTY; 16];
        let count = self.poller().poll(&mut batch).expect("poll");
        batch[..count].to_vec()
    }

    fn take(&mut self, count: usize) -> Vec<Completion> {
        let (mut all, end) = (Vec::new(), Instant::now() + SOON);
        while all.len() < count {
            assert!(Instant::now() < end, "{} of {count} came", all.len());
            all.extend(self.look());
            thread::yield_now();
        }
        all
    }

    fn outcomes(&mut self, count: usize) -> Vec<(u64, CompletionStatus)> {
        let all = self.take(count);
        all.iter().map(|c| (c.wr_id, c.status)).collect()
    }

    /// Sleeps until there is something, as the channel does.
    fn sleep_until_one_comes(&mut self) -> Completion {
        let end = Instant::now() + SOON;
        loop {
            self.cq.arm().expect("arm");
            if let Some(first) = self.look().first() {
                return *first;
            }
            let left = Timespec::try_from(SOON).expect("a short time");
            let fd = self.cq.event_fd();
            let raised = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&left)).expect("poll");
            assert!(raised > 0 && Instant::now() < end, "the event was lost");
            self.cq.clear_events();
        }
    }
}

fn init(cq: &Arc<dyn CompletionQueue>) -> QueuePairInit {
    QueuePairInit {
        send_cq: cq.clone(),
        recv_cq: cq.clone(),
        max_send_wr: DEPTH,
        max_recv_wr: DEPTH,
        max_inline: 64,
        // Without receives messages wait, however long.
        retry: RetryPolicy {
            rnr_retry: 7,
            ..RetryPolicy::default()
        },
    }
}

/// Two ends, the first of them under `plan`. Its queue pair has the number 0.
fn pair(plan: Plan) -> (Faults, End, End) {
    let faults = Faults::new(plan);
    let (mut a, mut b) = (End::new(&faults.wrap(open())), End::new(&open()));
    b.receives(32);
    a.connect(&b);
    b.connect(&a);
    (faults, a, b)
}

#[test]
fn queue_pairs_overtake_one_another_and_each_stays_in_order() {
    const PAIRS: usize = 4;
    let plan = Plan::seeded(1)
        .with(Fault::Overtaken.chance(0.3))
        .with(Fault::Delayed(Duration::from_millis(1)).chance(0.1));
    let faults = Faults::new(plan);
    let (device, plain) = (faults.wrap(open()), open());
    let (cq, poller) = device
        .create_completion_queue(2 * DEPTH * PAIRS as u32)
        .expect("a completion queue");
    let mut poller = Some(poller);
    let mut servers: Vec<_> = (0..PAIRS)
        .map(|_| End::on(&device, cq.clone(), poller.take()))
        .collect();
    let mut clients: Vec<_> = (0..PAIRS).map(|_| End::new(&plain)).collect();
    for (server, client) in servers.iter_mut().zip(&mut clients) {
        server.receives(32);
        server.connect(client);
        client.connect(server);
    }
    for number in 0..32 {
        for (index, client) in clients.iter_mut().enumerate() {
            client.ring((number << 8) | index as u32);
        }
    }
    let came = servers[0].take(32 * PAIRS);
    let came: Vec<_> = came
        .iter()
        .map(|c| c.imm.expect("receives carry it"))
        .collect();
    for index in 0..PAIRS as u32 {
        let of_pair: Vec<_> = came.iter().filter(|imm| *imm & 0xff == index).collect();
        assert!(of_pair.is_sorted(), "RC order: {of_pair:?}");
    }
    assert!(!came.is_sorted(), "nobody was overtaken");
    assert!(faults.stats().overtaken > 0 && faults.stats().delayed > 0);
}

#[test]
fn a_completion_that_fails_ends_its_queue_pair_and_flushes_the_rest() {
    let failure = CompletionStatus::RetryExceeded;
    let (faults, mut a, mut b) = pair(Plan::new().with(Fault::CompletionFails(failure).nth(1)));
    a.receives(2);
    for number in 0..3 {
        a.ring(number);
    }
    let expected = [
        (0, CompletionStatus::Success),
        (1, failure),
        (2, CompletionStatus::Flushed),
    ];
    assert_eq!(a.outcomes(5)[..3], expected);
    assert_eq!(a.qp.state(), QueuePairState::Error);
    assert_eq!(
        b.take(3)[2].imm,
        Some(2),
        "it has been executed all the same"
    );
    assert_eq!(faults.stats().broken(), 1);
}

#[test]
fn a_send_that_fails_is_not_executed_and_nothing_after_it_is() {
    let failure = CompletionStatus::RnrRetryExceeded;
    let plan = Plan::new().with(Fault::SendFails(failure).nth(2).of(Opcode::Write));
    let (faults, mut a, mut b) = pair(plan);
    a.ring(0);
    a.ring(1);
    let mut outcomes = a.outcomes(2);
    a.ring(2);
    a.ring(3);
    outcomes.extend(a.outcomes(2));
    outcomes.sort_by_key(|(wr_id, _)| *wr_id);
    let executed = CompletionStatus::Success;
    let expected = [
        (0, executed),
        (1, executed),
        (2, failure),
        (3, CompletionStatus::Flushed),
    ];
    assert_eq!(outcomes, expected);
    let arrived = b.take(32).iter().filter(|c| c.status == executed).count();
    assert_eq!(arrived, 2);
    assert_eq!(faults.stats().failed_sends, 1);
}

#[test]
fn a_lost_peer_is_lost_at_both_ends() {
    let (faults, mut a, mut b) = pair(Plan::new().with(Fault::PeerLost.nth(1).on(0)));
    a.ring(0);
    a.ring(1);
    assert_eq!(a.outcomes(2)[1], (1, CompletionStatus::Flushed));
    assert_eq!(
        b.take(32).last().map(|c| c.status),
        Some(CompletionStatus::Flushed)
    );
    assert_eq!(faults.stats().lost_peers, 1);

    let (faults, a, mut b) = pair(Plan::new());
    faults.lose_peers();
    assert_eq!(a.qp.state(), QueuePairState::Error);
    assert!(
        b.outcomes(32)
            .iter()
            .all(|(_, status)| !status.is_success())
    );
    faults.lose_peers();
    assert_eq!(
        faults.stats().lost_peers,
        1,
        "only those that are connected are lost"
    );
}

#[test]
fn refusals_come_from_the_verb_and_change_nothing() {
    let plan = Plan::new()
        .with(Fault::SendQueueFull.nth(0))
        .with(Fault::PostRefused.nth(1))
        .with(Fault::ReceiveQueueFull.nth(3))
        .with(Fault::RegistrationRefused.nth(0))
        .with(Fault::QueuePairRefused.nth(1));
    let (faults, mut a, mut b) = pair(plan);
    let message = Operation::WriteWithImm(7);
    let full = a.try_send(7, message).expect_err("planned");
    assert!(matches!(
        full,
        FabricError::QueueFull {
            queue: "send",
            depth: DEPTH,
            ..
        }
    ));
    let refused = a.try_send(7, message).expect_err("planned");
    assert!(matches!(refused, FabricError::Os { .. }), "{refused:?}");
    a.try_send(7, message).expect("nothing is planned any more");
    assert_eq!(a.outcomes(1), [(7, CompletionStatus::Success)]);
    assert_eq!(b.take(1).len(), 1, "one message only");

    a.receives(3);
    let full =
        a.qp.post_recv(RecvRequest { wr_id: 3 })
            .expect_err("planned");
    assert!(matches!(
        full,
        FabricError::QueueFull {
            queue: "receive",
            depth: DEPTH,
            ..
        }
    ));

    let device = faults.wrap(open());
    let error = device.register(64, Access::ALL).expect_err("planned");
    assert!(
        matches!(error, FabricError::MemoryLock { needed: 64, .. }),
        "{error:?}"
    );
    let (cq, _) = device
        .create_completion_queue(8)
        .expect("a completion queue");
    let error = device.create_queue_pair(&init(&cq)).expect_err("planned");
    assert!(matches!(error, FabricError::Os { .. }), "{error:?}");
    let stats = faults.stats();
    assert_eq!((stats.total(), stats.broken()), (5, 0));
}

#[test]
fn the_queue_of_another_device_is_foreign_wrapped_or_not() {
    let faults = Faults::new(Plan::new());
    let (a, b) = (faults.wrap(open()), faults.wrap(open()));
    for queue in [
        b.create_completion_queue(8),
        open().create_completion_queue(8),
    ] {
        let (queue, _) = queue.expect("a completion queue");
        let error = a.create_queue_pair(&init(&queue)).expect_err("foreign");
        assert!(matches!(error, FabricError::Foreign { .. }), "{error:?}");
    }
}

#[test]
fn a_frozen_process_sees_nothing_until_it_is_thawed_and_then_everything() {
    let (faults, mut a, mut b) = pair(Plan::new());
    a.receives(8);
    faults.freeze();
    b.ring(1);
    b.ring(2);
    assert_eq!(b.outcomes(2).len(), 2, "the peer's fabric does not notice");
    let end = Instant::now() + A_WHILE;
    while Instant::now() < end {
        assert!(a.look().is_empty());
    }
    // Whoever sleeps meanwhile is woken.
    let thaw = thread::spawn(move || {
        thread::sleep(A_WHILE);
        faults.thaw();
        faults
    });
    assert_eq!(a.sleep_until_one_comes().imm, Some(1));
    let faults = thaw.join().expect("it does not panic");
    assert_eq!(faults.stats().freezes, 1);
}

#[test]
fn who_sleeps_is_woken_for_what_comes_late() {
    for fault in [
        Fault::Delayed(A_WHILE),
        Fault::Frozen(A_WHILE),
        Fault::Overtaken,
    ] {
        let (faults, mut a, mut b) = pair(Plan::new().with(fault.nth(0)));
        a.receives(4);
        let started = Instant::now();
        b.ring(5);
        assert_eq!(a.sleep_until_one_comes().imm, Some(5), "{fault:?}");
        if fault != Fault::Overtaken {
            assert!(started.elapsed() >= A_WHILE, "{fault:?}");
        }
        assert_eq!(faults.stats().total(), 1);
    }
}

#[test]
fn a_receive_that_is_not_ready_lets_the_message_wait_and_the_sleeper_posts_it() {
    let (faults, mut a, mut b) = pair(Plan::new().with(Fault::NotReady(A_WHILE).nth(0)));
    a.receives(4);
    let started = Instant::now();
    b.ring(5);
    assert!(
        b.look().iter().all(|c| c.opcode != Opcode::Write),
        "RNR: it waits"
    );
    assert_eq!(a.sleep_until_one_comes().imm, Some(5));
    assert!(started.elapsed() >= A_WHILE);
    assert_eq!(faults.stats().late_receives, 1);
    // What is withheld is flushed with the rest.
    let (_, mut a, _b) = pair(Plan::new().with(Fault::NotReady(SOON).nth(1)));
    a.receives(3);
    a.qp.to_error().expect("any state to ERR");
    let flushed = CompletionStatus::Flushed;
    assert_eq!(a.outcomes(3), [(0, flushed), (1, flushed), (2, flushed)]);
}

#[test]
fn a_queue_that_fails_says_so_from_then_on_and_takes_its_queue_pairs_along() {
    let (faults, mut a, _b) = pair(Plan::new().with(Fault::QueueFails.nth(0)));
    a.ring(0);
    let mut batch = [Completion::EMPTY; 4];
    let end = Instant::now() + SOON;
    while a.poller().poll(&mut batch).is_ok() {
        assert!(Instant::now() < end, "it does not fail");
    }
    assert!(a.poller().poll(&mut batch).is_err());
    assert_eq!(a.qp.state(), QueuePairState::Error);
    assert_eq!(faults.stats().failed_queues, 1);
}

#[test]
fn calm_ends_what_is_left_to_chance() {
    let (faults, mut a, _b) = pair(Plan::new().with(Fault::PostRefused.every(1)));
    assert!(a.try_send(0, Operation::WriteWithImm(0)).is_err());
    faults.calm();
    assert!(a.try_send(0, Operation::WriteWithImm(0)).is_ok());
    assert_eq!(faults.stats().refused_posts, 1);
}

#[test]
fn drop_1_a_queue_pair_is_drained_as_it_is_dropped_whoever_polls_its_queue_meanwhile() {
    for _ in 0..50 {
        let (_faults, mut a, mut b) = pair(Plan::harmless(3));
        a.receives(32);
        for number in 0..16 {
            b.ring(number);
        }
        let cq = a.cq.clone();
        let mut poll = a.poller.take().expect("it is there");
        let poller = thread::spawn(move || {
            let mut batch = [Completion::EMPTY; 1];
            while Arc::strong_count(&cq) > 2 {
                poll.poll(&mut batch).expect("poll");
            }
        });
        drop(a);
        // Both ends of the connection have ended, though the queue lives on.
        let end = Instant::now() + SOON;
        while b.qp.state() != QueuePairState::Error {
            assert!(Instant::now() < end, "it is still connected");
            thread::yield_now();
        }
        poller.join().expect("it does not panic");
    }
}
