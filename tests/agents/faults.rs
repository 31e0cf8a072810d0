//! Whole agents on a fabric that fails, by seed: what callers are promised holds all the same, and
//! nothing is left behind.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::{FutureExt, StreamExt};
use slimerpc::channel::MemoryAccount;
use slimerpc::fabric::faults::{Fault, FaultStats, Faults, Plan};
use slimerpc::fabric::{CompletionStatus, Opcode, RetryPolicy};
use slimerpc_actors::{
    AgentError, Builder, ChannelView, Limits, PeerAgent, PeerEvent, Polling, Proxy, Ran, RpcError,
    Watch, service,
};
use support::{ResourceUsage, alone::is_alone, until};
use tokio::time::{sleep, timeout};

/// Nothing takes so long unless it hangs.
const LONG: Duration = Duration::from_secs(120);
const SEEDS: u64 = 12;
const ROUNDS: u64 = 12;
const SLOTS: usize = 4;

/// The tests of this file count descriptors, so they take turns.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

type Runs = Arc<Mutex<HashMap<u64, u32>>>;

/// Notes how often each request was run.
struct Ledger {
    runs: Runs,
}

#[service]
impl Ledger {
    #[method]
    fn record(&mut self, id: u64, payload: Vec<u8>) -> (u64, Vec<u8>) {
        *self.runs.lock().unwrap().entry(id).or_default() += 1;
        (id, payload)
    }

    #[method]
    fn record_at_length(&mut self, id: u64, len: usize) -> Vec<u8> {
        *self.runs.lock().unwrap().entry(id).or_default() += 1;
        vec![7; len]
    }

    #[method]
    async fn record_slowly(&mut self, id: u64) -> u64 {
        *self.runs.lock().unwrap().entry(id).or_default() += 1;
        sleep(Duration::from_millis(3)).await;
        id
    }
}

/// The next event of a watch.
async fn next(events: &mut Watch) -> Option<PeerEvent> {
    timeout(LONG, events.next()).await.expect("an event comes")
}

/// Awaits the first event of a watch.
async fn is_connected(events: &mut Watch) {
    let first = next(events).await;
    assert!(
        matches!(first, Some(PeerEvent::Connected { .. })),
        "{first:?}"
    );
}

/// Everything that a peer can survive.
fn random_faults(seed: u64) -> Plan {
    Plan::seeded(seed)
        .with(Fault::PeerLost.chance(0.006))
        .with(Fault::SendFails(CompletionStatus::RetryExceeded).chance(0.008))
        .with(Fault::CompletionFails(CompletionStatus::RemoteAccess).chance(0.008))
        .with(Fault::PostRefused.chance(0.002))
        .with(Fault::SendQueueFull.chance(0.002))
        .with(Fault::ReceiveQueueFull.chance(0.0005))
        .with(Fault::RegistrationRefused.chance(0.02))
        .with(Fault::QueuePairRefused.chance(0.05))
        .with(Fault::NotReady(Duration::from_millis(1)).chance(0.01))
        .with(Fault::Frozen(Duration::from_millis(4)).chance(0.003))
        .with(Fault::Overtaken.chance(0.1))
        .with(Fault::Delayed(Duration::from_micros(500)).chance(0.1))
}

fn agent(role: &str, name: &str, faults: &Faults) -> Builder {
    let faults = faults.clone();
    PeerAgent::builder()
        .alias(format!("{role}:{name}"))
        .limits(
            Limits::default()
                .slot_size(1024)
                .max_inflight(SLOTS)
                .max_payload(1 << 20),
        )
        .device("shm0")
        .wrap_device(move |device| faults.wrap(device))
}

/// Two agents and what goes wrong at each.
struct Stage {
    faults: [Faults; 2],
    worker: PeerAgent,
    driver: PeerAgent,
    runs: Runs,
}

impl Stage {
    async fn set(name: &str, plans: [Plan; 2]) -> Self {
        let faults = plans.map(Faults::new);
        let worker = agent("worker", name, &faults[0]).start().await.unwrap();
        let driver = agent("driver", name, &faults[1]).start().await.unwrap();
        let runs = Runs::default();
        let state = Ledger { runs: runs.clone() };
        worker.serve(state).await.unwrap();
        Self {
            faults,
            worker,
            driver,
            runs,
        }
    }

    /// A new connection, however often it has to be tried. Every failure is an error that says so.
    async fn connect(&self) -> Proxy<Ledger> {
        let started = Instant::now();
        loop {
            let dialled = timeout(LONG, self.driver.proxy(self.worker.alias()));
            match dialled.await.expect("connecting ends") {
                Ok(proxy) => return proxy,
                Err(AgentError::Refused { .. } | AgentError::Connect(_)) => {}
                Err(other) => panic!("{other:?}"),
            }
            assert!(started.elapsed() < LONG, "it never connects");
        }
    }

    fn ran(&self, id: u64) -> u32 {
        self.runs.lock().unwrap().get(&id).copied().unwrap_or(0)
    }

    fn stats(&self) -> [FaultStats; 2] {
        [self.faults[0].stats(), self.faults[1].stats()]
    }

    async fn strike(self) {
        self.driver.shutdown().await.unwrap();
        self.worker.shutdown().await.unwrap();
    }
}

/// What the caller was told must be true.
fn check(stage: &Stage, id: u64, outcome: &Result<u64, RpcError>) {
    let runs = stage.ran(id);
    assert!(runs <= 1, "at most once, but {id} was run {runs} times");
    match outcome {
        Ok(answered) => assert_eq!((*answered, runs), (id, 1)),
        Err(error) => match error.ran() {
            Ran::No => assert_eq!(runs, 0, "{id}: {error}"),
            Ran::Yes => assert_eq!(runs, 1, "{id}: {error}"),
            Ran::Unknown => {}
        },
    }
}

/// SLOT-2: all credits come back, or, on a channel that is closed, none is in use.
async fn check_credits(proxy: &Proxy<Ledger>, channel: &ChannelView) {
    let started = Instant::now();
    loop {
        let credits = channel.credits();
        assert_eq!(credits.free + credits.in_use + credits.orphaned, SLOTS);
        if credits.in_use == 0 && (credits.free == SLOTS || channel.closed().is_some()) {
            return;
        }
        assert!(started.elapsed() < LONG, "SLOT-2: {credits:?}");
        look(proxy).await;
    }
}

/// Late answers are seen when somebody looks, who waits for another.
async fn look(proxy: &Proxy<Ledger>) {
    let _ = timeout(LONG, proxy.record(u64::MAX - 1, vec![]))
        .await
        .expect("CALL-1");
}

/// Calls of all kinds in flight together: small and large, patient and not, one dropped.
async fn round(stage: &Stage, proxy: &Proxy<Ledger>, first: u64) -> Vec<RpcError> {
    let hasty = proxy.with_timeout(Duration::from_millis(2));
    let large = vec![7; 20_000];
    let (answered, payload) = (|(id, _)| id, |len| large[..len].to_vec());
    let slow = [proxy.record_slowly(first), hasty.record_slowly(first + 1)];
    let fast = [10, 2000, 20_000, 10].into_iter().zip(first + 2..);
    let fast: Vec<_> = fast
        .map(|(len, id)| proxy.record(id, payload(len)))
        .collect();
    drop(proxy.record(first + 6, payload(10)));
    let slow = timeout(LONG, join_all(slow)).await.expect("CALL-1");
    let fast = timeout(LONG, join_all(fast)).await.expect("CALL-1");
    let fast = fast.into_iter().map(|outcome| outcome.map(answered));
    let outcomes: Vec<_> = slow.into_iter().chain(fast).collect();
    for (outcome, id) in outcomes.iter().zip(first..) {
        check(stage, id, outcome);
    }
    outcomes.into_iter().filter_map(Result::err).collect()
}

/// One life of two agents under the faults of a seed. Gives back how many calls were lost with
/// their connection.
async fn life(seed: u64) -> (usize, [FaultStats; 2]) {
    let plans = [random_faults(seed), random_faults(!seed)];
    let stage = Stage::set(&format!("faults:{seed}"), plans).await;
    let mut proxy = stage.connect().await;
    let mut lost = 0;
    for number in 0..ROUNDS {
        // A proxy heals, but we look at what it was connected by.
        let channel = proxy.channel().unwrap();
        let errors = round(&stage, &proxy, number * 10).await;
        let ends = |error: &&RpcError| matches!(error, RpcError::PeerLost { .. });
        let ended = errors.iter().filter(ends).count();
        lost += ended;
        if channel.closed().is_some() {
            check_credits(&proxy, &channel).await;
            proxy = stage.connect().await;
        } else {
            assert_eq!(ended, 0, "{errors:?} on an open channel");
        }
    }
    stage.faults.iter().for_each(Faults::calm);
    let channel = proxy.channel().unwrap();
    check_credits(&proxy, &channel).await;
    if channel.closed().is_some() {
        proxy = stage.connect().await;
    }
    let heals = async |proxy: &Proxy<Ledger>, id| {
        let healed = timeout(LONG, proxy.record(id, vec![1; 5000])).await;
        healed.expect("CALL-1")
    };
    let mut healed = heals(&proxy, u64::MAX).await;
    if let Err(RpcError::PeerLost { .. }) = healed {
        // The other end had been broken before the calm, which is noticed only now.
        proxy = stage.connect().await;
        healed = heals(&proxy, u64::MAX - 2).await;
    }
    assert!(healed.is_ok(), "{healed:?}");
    let accounts = stage.stats();
    drop(proxy);
    let is_empty = |account: MemoryAccount| account.lent == 0;
    until("payload memory comes back", || {
        is_empty(stage.driver.memory()) && is_empty(stage.worker.memory())
    })
    .await;
    stage.strike().await;
    (lost, accounts)
}

#[actix::test]
async fn call_1_slot_2_drop_1_hold_for_whole_agents_under_seeded_faults() {
    if !is_alone(
        module_path!(),
        "call_1_slot_2_drop_1_hold_for_whole_agents_under_seeded_faults",
    ) {
        return;
    }
    let _alone = ALONE.lock().await;
    let (mut lost, mut broken) = (0, 0);
    life(1000).await;
    let before = ResourceUsage::settled().await;
    for seed in 0..SEEDS {
        println!("seed {seed}");
        let (failures, accounts) = timeout(6 * LONG, life(seed)).await.expect("it ends");
        println!(
            "{failures} calls lost; worker {:?}, driver {:?}",
            accounts[0], accounts[1]
        );
        lost += failures;
        broken += accounts.iter().map(FaultStats::broken).sum::<u64>();
    }
    assert!(
        broken > 10,
        "only {broken} connections were broken by faults"
    );
    assert!(lost > 10, "only {lost} calls were lost with them");
    before.is_back().await;
}

#[actix::test]
async fn call_2_answers_of_a_worker_that_was_frozen_come_late_and_harm_nothing() {
    let _alone = ALONE.lock().await;
    let stage = Stage::set("frozen", [Plan::new(), Plan::new()]).await;
    let proxy = stage.connect().await;
    proxy.record(0, vec![]).await.unwrap();
    stage.faults[0].freeze();
    let started = Instant::now();
    let hasty = proxy.with_timeout(Duration::from_millis(50));
    let calls = (1..=SLOTS as u64 + 1).map(|id| hasty.record(id, vec![]));
    for outcome in timeout(LONG, join_all(calls)).await.expect("CALL-1") {
        assert!(
            matches!(outcome, Err(RpcError::Timeout { .. })),
            "{outcome:?}"
        );
    }
    let channel = proxy.channel().unwrap();
    assert_eq!(
        channel.credits().orphaned,
        SLOTS,
        "SLOT-1: a timeout frees no slot"
    );
    stage.faults[0].thaw();
    while channel.late_answers() < SLOTS as u64 {
        assert!(started.elapsed() < LONG, "CALL-2");
        look(&proxy).await;
    }
    assert_eq!(proxy.record(101, vec![]).await.unwrap().0, 101);
    assert_eq!(channel.violations().total(), 0);
    let late = stage.ran(SLOTS as u64 + 1);
    assert_eq!(late, 0, "what was never sent is never run");
    check_credits(&proxy, &proxy.channel().unwrap()).await;
    stage.strike().await;
}

/// Who is stopped is not lost: its calls wait, and nothing of its connections is given up.
#[actix::test]
async fn call_1_a_worker_that_was_frozen_is_stalled_and_not_lost() {
    let _alone = ALONE.lock().await;
    let (beat, detection) = (Duration::from_millis(20), Duration::from_millis(200));
    let faults = Faults::new(Plan::new());
    let often = |builder: Builder| {
        builder
            .polling(Polling::default().heartbeat(beat).detection(detection))
            .start()
    };
    let worker = often(agent("worker", "stalled", &faults)).await.unwrap();
    let driver = often(agent("driver", "stalled", &Faults::new(Plan::new())));
    let driver = driver.await.unwrap();
    worker
        .serve(Ledger {
            runs: Runs::default(),
        })
        .await
        .unwrap();
    let proxy = driver.proxy::<Ledger>(worker.alias()).await.unwrap();
    let mut events = driver.watch(worker.alias()).await.unwrap();
    is_connected(&mut events).await;
    proxy.record(1, vec![]).await.unwrap();
    let channel = proxy.channel().unwrap();

    faults.freeze();
    let call = proxy.record(2, vec![]);
    assert_eq!(next(&mut events).await, Some(PeerEvent::Stalled));
    // Longer than it takes to notice a loss.
    sleep(2 * detection).await;
    assert_eq!(channel.closed(), None);
    faults.thaw();
    assert_eq!(next(&mut events).await, Some(PeerEvent::Recovered));
    let (id, _) = timeout(LONG, call).await.expect("CALL-1").unwrap();
    assert_eq!((id, channel.closed()), (2, None));
    driver.shutdown().await.unwrap();
    worker.shutdown().await.unwrap();
}

/// Nobody is told that a peer is stalled of which they do not know that it is there.
#[actix::test]
async fn a_peer_that_is_heard_late_is_connected_before_it_can_be_stalled() {
    let _alone = ALONE.lock().await;
    let beat = Duration::from_millis(20);
    let late = Fault::Delayed(50 * beat).every(1);
    let late = Plan::new().with(late.of(Opcode::RecvWriteWithImm));
    let polling = Polling::default().heartbeat(beat);
    let start = |role, plan| {
        let agent = agent(role, "late", &Faults::new(plan));
        agent.polling(polling.clone()).start()
    };
    let worker = start("worker", Plan::new()).await.unwrap();
    let driver = start("driver", late).await.unwrap();
    let mut events = driver.watch(worker.alias()).await.unwrap();
    is_connected(&mut events).await;
    assert_eq!(events.next().now_or_never(), None);
    driver.shutdown().await.unwrap();
    worker.shutdown().await.unwrap();
}

/// The peer's goodbye waits for an end that cannot receive yet.
#[actix::test]
async fn a_peer_that_leaves_as_soon_as_it_is_reached_has_left_and_is_not_lost() {
    let _alone = ALONE.lock().await;
    let late = Fault::NotReady(Duration::from_millis(200)).nth(0);
    let faults = Faults::new(Plan::new().with(late));
    // As a device does that sends again what is not acknowledged.
    let patient = RetryPolicy {
        rnr_retry: 7,
        ..RetryPolicy::default()
    };
    // Counts the messages that the worker has received.
    let counted = Fault::Delayed(Duration::ZERO).every(1);
    let heard = Faults::new(Plan::new().with(counted.of(Opcode::RecvWriteWithImm)));
    let worker = agent("worker", "goodbye", &heard);
    let worker = worker.retry(patient).start().await.unwrap();
    let driver = agent("driver", "goodbye", &faults).start().await.unwrap();
    let mut events = driver.watch(worker.alias()).await.unwrap();
    until("the worker is reached", || heard.stats().delayed > 0).await;
    worker.shutdown().await.unwrap();
    is_connected(&mut events).await;
    assert_eq!(next(&mut events).await, Some(PeerEvent::Left));
    assert!(faults.stats().late_receives > 0);
    driver.shutdown().await.unwrap();
}

/// Either end of a monitor's connection fails before it has sent anything. What works goes on,
/// unwatched until the next attempt.
#[actix::test]
async fn a_monitor_that_was_never_heard_both_ways_takes_no_channel_with_it() {
    let _alone = ALONE.lock().await;
    for (broken, name) in ["accepting", "opening"].into_iter().enumerate() {
        // The first two queue pairs of each end are the channel's, the third the monitor's.
        let fault = Fault::SendFails(CompletionStatus::RetryExceeded);
        let mut plans = [Plan::new(), Plan::new()];
        plans[broken] = Plan::new().with(fault.nth(0).on(2));
        let stage = Stage::set(name, plans).await;
        let proxy = stage.connect().await;
        let channel = proxy.channel().unwrap();
        let mut events = stage.driver.watch(stage.worker.alias()).await.unwrap();
        is_connected(&mut events).await;
        assert_eq!(stage.stats()[broken].failed_sends, 1);
        timeout(LONG, proxy.record(1, vec![]))
            .await
            .expect("CALL-1")
            .unwrap();
        assert_eq!(channel.closed(), None);
        stage.strike().await;
    }
}

/// A caller that is told "not run" calls again.
#[actix::test]
async fn call_1_a_call_that_was_run_is_not_said_not_to_be_when_its_answer_comes_after_the_loss() {
    let _alone = ALONE.lock().await;
    // The driver's queue pair of messages is its first, and the answer to the second call comes
    // late; meanwhile the payload of the first one's, which has a queue pair of its own, cannot be
    // read.
    let late = Duration::from_millis(100);
    let loss = Duration::from_millis(30);
    let plan = Plan::new()
        .with(Fault::Delayed(late).nth(1).of(Opcode::RecvWriteWithImm))
        .with(Fault::Delayed(loss).nth(0).of(Opcode::Read))
        .with(
            Fault::CompletionFails(CompletionStatus::RemoteAccess)
                .nth(1)
                .of(Opcode::Read),
        );
    let stage = Stage::set("loss", [Plan::new(), plan]).await;
    let proxy = stage.connect().await;
    let (large, small) = (proxy.record_at_length(1, 600_000), proxy.record(2, vec![]));
    let lost = timeout(LONG, large).await.expect("CALL-1").unwrap_err();
    assert!(matches!(lost, RpcError::PeerLost { .. }), "{lost:?}");
    sleep(2 * late).await;
    let outcome = timeout(LONG, small)
        .await
        .expect("CALL-1")
        .map(|(id, _)| id);
    assert_eq!(stage.ran(2), 1);
    check(&stage, 2, &outcome);
    stage.strike().await;
}
