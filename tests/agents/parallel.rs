//! Methods that run beside others, and services that are served one request at a time, over shared
//! memory.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use slimerpc_actors::{
    AgentError, Builder, Limits, PeerAgent, Proxy, RpcError, ServedBy, Share, service, wait_all,
};
use support::{Gate, Tally, credits_are_back, unique, until};
use tokio::time::{sleep, timeout};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(120);
/// Long enough to see that nothing happens.
const A_WHILE: Duration = Duration::from_millis(30);

/// What the handlers share with each other, and with the test.
#[derive(Default)]
struct Board {
    running: AtomicUsize,
    /// Handlers of `step`, `rest` and `nap` that have begun.
    begun: Tally,
    most: AtomicUsize,
    noted: Mutex<Vec<u64>>,
    dropped: Tally,
    gate: Gate,
    /// Of the state that it belongs to.
    generation: AtomicU32,
    myself: Mutex<Option<Proxy<Runner>>>,
}

#[derive(Default)]
struct Runner {
    board: Arc<Board>,
    steps: u64,
}

impl Share for Runner {
    type Shared = Board;

    fn share(&self) -> Arc<Board> {
        self.board.clone()
    }
}

#[service]
impl Runner {
    /// A model step: has the arbiter until the gate is open.
    #[method]
    fn step(&mut self) -> u64 {
        self.board.begun.up();
        self.board.gate.pass();
        self.steps += 1;
        self.steps
    }

    #[method]
    async fn rest(&mut self, millis: u64) -> u64 {
        self.board.begun.up();
        let _guard = self.board.dropped.on_drop();
        sleep(Duration::from_millis(millis)).await;
        millis
    }

    #[method]
    fn note(&mut self, n: u64) -> u64 {
        self.board.noted.lock().unwrap().push(n);
        n
    }

    #[method]
    async fn asks_its_own_health(&mut self) -> Result<usize, String> {
        let asked = self.board.myself.lock().unwrap().as_ref().unwrap().health();
        asked.await.map_err(|error| error.to_string())
    }

    #[method]
    async fn asks_itself(&mut self) -> Result<u64, String> {
        let asked = self.board.myself.lock().unwrap().as_ref().unwrap().note(9);
        asked.await.map_err(|error| error.to_string())
    }

    #[method]
    fn breaks(&mut self) {
        panic!("broken");
    }

    #[method(parallel)]
    fn health(board: &Board) -> usize {
        board.noted.lock().unwrap().len()
    }

    #[method(parallel)]
    fn generation(board: &Board) -> u32 {
        board.generation.load(Ordering::SeqCst)
    }

    /// Opens the gate that `step` waits at.
    #[method(parallel)]
    fn open(board: &Board) {
        board.gate.open();
    }

    #[method(parallel)]
    fn pass(board: &Board, n: u64) -> u64 {
        let running = board.running.fetch_add(1, Ordering::SeqCst) + 1;
        board.most.fetch_max(running, Ordering::SeqCst);
        board.gate.pass();
        board.running.fetch_sub(1, Ordering::SeqCst);
        board.noted.lock().unwrap().push(n);
        n
    }

    #[method(parallel)]
    async fn nap(board: &Board, millis: u64) -> u64 {
        board.begun.up();
        let _guard = board.dropped.on_drop();
        sleep(Duration::from_millis(millis)).await;
        millis
    }

    #[method(parallel)]
    fn fails(_board: &Board, text: String) -> Result<u8, std::num::ParseIntError> {
        text.parse()
    }

    #[method(parallel)]
    fn panics(_board: &Board) -> u8 {
        panic!("oh no")
    }

    #[method(parallel, oneway)]
    fn jot(board: &Board, n: u64) {
        board.noted.lock().unwrap().push(n);
    }

    #[method(parallel, raw)]
    fn echo(_board: &Board, request: &[u8]) -> Vec<u8> {
        request.to_vec()
    }

    #[method(parallel, raw)]
    async fn echo_later(_board: &Board, request: &[u8]) -> Result<Vec<u8>, String> {
        sleep(Duration::from_millis(1)).await;
        Ok(request.to_vec())
    }

    #[method(parallel, raw, inplace)]
    fn reversed(_board: &Board, request: &[u8], reply: &mut [u8]) -> usize {
        reply[..request.len()].copy_from_slice(request);
        reply[..request.len()].reverse();
        request.len()
    }

    #[method(parallel, raw, inplace)]
    async fn claims(_board: &Board, request: &[u8], reply: &mut [u8]) -> usize {
        sleep(Duration::from_millis(1)).await;
        reply.len() + request.len()
    }
}

fn agent(role: &str) -> Builder {
    PeerAgent::builder()
        .alias(unique(role))
        .limits(Limits::default().slot_size(4096).max_inflight(4))
}

/// A runner, served with this many threads, and a driver.
struct Plant {
    board: Arc<Board>,
    runner: Proxy<Runner>,
    worker: PeerAgent,
    driver: PeerAgent,
}

async fn plant(workers: usize, slots: usize) -> Plant {
    let worker = agent("worker").limits(Limits::default().max_inflight(slots).workers(workers));
    let worker = worker.start().await.unwrap();
    let driver = agent("driver")
        .limits(Limits::default().max_inflight(slots))
        .start()
        .await
        .unwrap();
    let board = Arc::new(Board::default());
    let state = Runner {
        board: board.clone(),
        ..Runner::default()
    };
    worker.serve(state).await.unwrap();
    Plant {
        board,
        runner: driver.proxy(worker.alias()).await.unwrap(),
        worker,
        driver,
    }
}

impl Plant {
    fn noted(&self) -> Vec<u64> {
        self.board.noted.lock().unwrap().clone()
    }

    /// SLOT-2
    async fn credits_are_back(&self) {
        credits_are_back(LONG, &self.runner, async || {}).await;
    }
}

#[actix::test]
async fn a_parallel_method_answers_while_a_serial_one_keeps_its_thread_and_all_credits() {
    let plant = plant(1, 2).await;
    let steps: Vec<_> = (0..10).map(|_| plant.runner.step()).collect();
    plant.board.begun.reaches(1).await;
    assert_eq!(plant.runner.channel().unwrap().credits().free, 0);
    for _ in 0..100 {
        assert_eq!(plant.runner.health().timeout(LONG).await, Ok(0));
    }
    // Nothing but a parallel method ends the steps.
    plant.runner.open().timeout(LONG).await.unwrap();
    assert_eq!(wait_all(steps, LONG).await, Ok((1..=10).collect()));
    plant.credits_are_back().await;
}

#[actix::test]
async fn parallel_methods_run_beside_one_another_as_many_as_there_are_workers() {
    for workers in [1, 3] {
        let plant = plant(workers, 8).await;
        let passes: Vec<_> = (0..8).map(|n| plant.runner.pass(n)).collect();
        until("every worker runs one", || {
            plant.board.running.load(Ordering::SeqCst) == workers
        })
        .await;
        sleep(A_WHILE).await;
        plant.board.gate.open();
        assert_eq!(wait_all(passes, LONG).await, Ok((0..8).collect()));
        assert_eq!(plant.board.most.load(Ordering::SeqCst), workers);
        plant.credits_are_back().await;
    }
}

#[actix::test]
async fn a_service_has_its_own_number_of_workers_and_zero_is_refused() {
    for threads in [0, 1025] {
        let error = agent("x")
            .limits(Limits::default().workers(threads))
            .start()
            .await
            .unwrap_err();
        let text = error.to_string();
        assert!(text.contains("workers") && text.contains("1024"), "{text}");
    }
    let worker = agent("worker").start().await.unwrap();
    let serve = || worker.serve(Runner::default());
    let error = serve().workers(0).await.unwrap_err();
    assert!(matches!(error, AgentError::Setting { .. }), "{error}");
    let state = Runner::default();
    let board = state.board.clone();
    worker.serve(state).workers(2).await.unwrap();
    let driver = agent("driver").start().await.unwrap();
    let runner = driver.proxy::<Runner>(worker.alias()).await.unwrap();
    let both = [runner.pass(1), runner.pass(2)];
    until("both run", || board.running.load(Ordering::SeqCst) == 2).await;
    board.gate.open();
    assert_eq!(wait_all(both, LONG).await, Ok(vec![1, 2]));
}

#[actix::test]
async fn every_form_of_method_may_be_parallel() {
    let plant = plant(2, 4).await;
    let runner = &plant.runner;
    assert_eq!(runner.nap(1).await, Ok(1));
    assert_eq!(runner.fails("7".into()).await, Ok(7));
    let error = runner.fails("x".into()).await.unwrap_err();
    assert!(matches!(&error, RpcError::Remote { type_name, .. } if type_name == "ParseIntError"));
    for bytes in [&b""[..], b"x", &[7; 4080]] {
        assert_eq!(runner.echo(bytes).await.unwrap(), bytes);
        assert_eq!(runner.echo_later(bytes).await.unwrap(), bytes);
        let reversed: Vec<u8> = bytes.iter().rev().copied().collect();
        assert_eq!(runner.reversed(bytes).await.unwrap(), reversed);
    }
    assert_eq!(runner.claims(b"").await.unwrap().len(), 4080);
    let error = runner.claims(b"x").await.unwrap_err();
    assert!(matches!(error, RpcError::ReplyTooLarge { size: 4081, .. }));
    runner.jot(5).await.unwrap();
    until("it is noted", || plant.noted() == [5]).await;
    plant.credits_are_back().await;
}

#[actix::test]
async fn panic_1_a_panic_of_a_parallel_method_answers_its_caller_and_the_pool_goes_on() {
    let plant = plant(1, 4).await;
    for _ in 0..3 {
        let error = plant.runner.panics().await.unwrap_err();
        assert!(matches!(&error, RpcError::Remote { type_name, message, .. }
            if type_name == "panic" && message == "oh no"));
    }
    assert_eq!(plant.runner.health().await, Ok(0));
    plant.credits_are_back().await;
}

#[actix::test]
async fn cancelled_parallel_methods_are_dropped_or_never_begin() {
    let plant = plant(1, 4).await;
    let naps = [plant.runner.nap(3_600_000), plant.runner.nap(3_600_000)];
    plant.board.begun.reaches(2).await;
    drop(naps);
    plant.board.dropped.reaches(2).await;
    // The only thread is busy with the first; the second waits, and is cancelled.
    let first = plant.runner.pass(1);
    until("it runs", || {
        plant.board.running.load(Ordering::SeqCst) == 1
    })
    .await;
    let second = plant.runner.pass(2);
    // It has most likely reached the pool by then; its cancel must not wait for the thread.
    sleep(Duration::from_millis(300)).await;
    drop(second);
    let channel = plant.runner.parallel_channel().unwrap();
    until("no slot is orphaned", || channel.credits().orphaned == 0).await;
    plant.board.gate.open();
    assert_eq!(first.await, Ok(1));
    assert_eq!(plant.runner.pass(3).await, Ok(3));
    assert_eq!(plant.noted(), [1, 3]);
    plant.credits_are_back().await;
}

#[actix::test]
async fn a_parallel_request_that_expires_while_it_waits_is_not_run() {
    let plant = plant(1, 4).await;
    let first = plant.runner.pass(1);
    until("it runs", || {
        plant.board.running.load(Ordering::SeqCst) == 1
    })
    .await;
    let after = Duration::from_millis(20);
    let hasty = plant.runner.with_timeout(after);
    // Told, so that nobody cancels it.
    hasty.tell(Pass { n: 2 }).await.unwrap();
    // The service gives up one that is cancelled, so it has heard of the one before it, too.
    drop(plant.runner.pass(0));
    let channel = plant.runner.parallel_channel().unwrap();
    until("it has heard of it", || channel.credits().orphaned == 0).await;
    sleep(2 * after).await;
    plant.board.gate.open();
    assert_eq!(first.await, Ok(1));
    assert_eq!(plant.runner.pass(3).await, Ok(3));
    assert_eq!(plant.noted(), [1, 3]);
    plant.credits_are_back().await;
}

#[actix::test]
async fn stop_answers_parallel_requests_that_have_arrived() {
    let worker = agent("worker").start().await.unwrap();
    let driver = agent("driver").start().await.unwrap();
    let board = Arc::new(Board::default());
    let state = Runner {
        board: board.clone(),
        ..Runner::default()
    };
    let handle = worker.serve(state).await.unwrap();
    let runner = driver.proxy::<Runner>(worker.alias()).await.unwrap();
    let has = [runner.nap(1_500), runner.nap(1_000), runner.rest(1_200)];
    board.begun.reaches(3).await;
    let stopping = actix::spawn(async move { handle.stop().await });
    let late = loop {
        match runner.health().await {
            Ok(_) => sleep(Duration::from_millis(2)).await,
            Err(late) => break late,
        }
    };
    assert!(matches!(late, RpcError::ServiceDown { .. }), "{late}");
    assert_eq!(wait_all(has, LONG).await, Ok(vec![1_500, 1_000, 1_200]));
    stopping.await.unwrap().unwrap();
    // The connection is lost a moment later; until then the service says itself that it is down.
    let gone = || async { runner.health().timeout(LONG).await.unwrap_err() };
    let started = Instant::now();
    loop {
        match gone().await {
            RpcError::PeerLost { .. } => break,
            RpcError::ServiceDown { .. } => assert!(started.elapsed() < LONG),
            other => panic!("{other}"),
        }
    }
}

#[actix::test]
async fn a_parallel_handler_that_never_returns_does_not_hold_up_stop_nor_shutdown() {
    let plant = plant(1, 4).await;
    let (blocks, naps) = (plant.runner.pass(1), plant.runner.nap(3_600_000));
    until("it runs", || {
        plant.board.running.load(Ordering::SeqCst) == 1
    })
    .await;
    let started = Instant::now();
    plant.worker.shutdown().await.unwrap();
    assert!(blocks.await.is_err() && naps.await.is_err());
    assert!(started.elapsed() < Duration::from_secs(5));
    plant.board.gate.open();
}

#[actix::test]
async fn parallel_methods_see_what_the_factory_built_last() {
    let worker = agent("worker").start().await.unwrap();
    let mut generation = 0;
    let factory = move || {
        let runner = Runner::default();
        runner.board.generation.store(generation, Ordering::SeqCst);
        generation += 1;
        runner
    };
    worker.serve_with(factory).await.unwrap();
    let driver = agent("driver").start().await.unwrap();
    let runner = driver.proxy::<Runner>(worker.alias()).await.unwrap();
    assert_eq!(runner.generation().await, Ok(0));
    assert!(runner.breaks().await.is_err());
    // Served after the panic.
    runner.note(1).await.unwrap();
    assert_eq!(runner.generation().await, Ok(1));
}

#[actix::test]
async fn a_serial_handler_may_ask_the_parallel_methods_of_its_own_service() {
    let plant = plant(1, 4).await;
    let myself = plant.worker.proxy(plant.worker.alias()).await.unwrap();
    plant.runner.note(1).await.unwrap();
    *plant.board.myself.lock().unwrap() = Some(myself);
    let asked = plant.runner.asks_its_own_health();
    assert_eq!(asked.timeout(LONG).await, Ok(1));
    // A serial one of it would wait for itself.
    let error = plant.runner.asks_itself().await.unwrap_err();
    assert!(error.to_string().contains("its own"), "{error}");
    plant.board.myself.lock().unwrap().take();
}

/// `Runner`, as it was before its methods became parallel.
mod older {
    use super::service;

    #[derive(Default)]
    pub(super) struct Runner;

    #[service]
    impl Runner {
        #[method]
        fn note(&mut self, n: u64) -> u64 {
            n
        }

        #[method]
        fn health(&mut self) -> usize {
            77
        }
    }
}

#[actix::test]
async fn two_versions_meet_one_of_which_has_parallel_methods() {
    let plant = plant(1, 4).await;
    let old: Proxy<older::Runner> = plant.driver.proxy(plant.worker.alias()).await.unwrap();
    let steps = plant.runner.step();
    plant.board.begun.reaches(1).await;
    assert_eq!(
        old.health().timeout(LONG).await,
        Ok(0),
        "it is parallel there"
    );
    plant.board.gate.open();
    assert_eq!(steps.await, Ok(1));

    let worker = agent("worker").start().await.unwrap();
    worker.serve(older::Runner).await.unwrap();
    let new: Proxy<Runner> = plant.driver.proxy(worker.alias()).await.unwrap();
    assert!(new.parallel_channel().is_none());
    assert_eq!(new.health().await, Ok(77));
    assert_eq!(new.note(3).await, Ok(3));
    let error = new.nap(1).await.unwrap_err();
    assert!(matches!(error, RpcError::MethodNotFound { .. }), "{error}");
}

/// What the readers of a `Store` see.
struct Newest(AtomicU64);

/// A trait that shares something too.
#[service]
trait Store {
    #[method]
    async fn put(&mut self, n: u64);
    #[method(parallel)]
    fn latest(latest: &Newest) -> u64;
    #[method(parallel)]
    async fn later(latest: &Newest, millis: u64) -> u64 {
        sleep(Duration::from_millis(millis)).await;
        latest.0.load(Ordering::SeqCst)
    }
}

struct Shelf(Arc<Newest>);

impl Share for Shelf {
    type Shared = Newest;

    fn share(&self) -> Arc<Newest> {
        self.0.clone()
    }
}

impl Store for Shelf {
    async fn put(&mut self, n: u64) {
        sleep(Duration::from_millis(1)).await;
        self.0.0.store(n, Ordering::SeqCst);
    }

    fn latest(latest: &Newest) -> u64 {
        latest.0.load(Ordering::SeqCst)
    }
}

#[actix::test]
async fn methods_of_a_trait_may_be_parallel() {
    let worker = agent("worker").start().await.unwrap();
    let shelf = Shelf(Arc::new(Newest(AtomicU64::new(1))));
    worker.serve(shelf).as_service::<dyn Store>().await.unwrap();
    let driver = agent("driver").start().await.unwrap();
    let store = driver.proxy::<dyn Store>(worker.alias()).await.unwrap();
    store.put(5).await.unwrap();
    assert_eq!(store.latest().await, Ok(5));
    assert_eq!(store.later(1).await, Ok(5));
}

#[actix::test]
async fn ring_1_many_callers_of_parallel_methods_get_each_their_own_bytes_back() {
    let plant = plant(4, 16).await;
    let runners: Vec<Proxy<Runner>> = {
        let proxies = (0..4).map(|_| plant.driver.proxy(plant.worker.alias()));
        let proxies: Vec<_> = futures_util::future::join_all(proxies).await;
        proxies.into_iter().map(Result::unwrap).collect()
    };
    for round in 0..50_u8 {
        let calls: Vec<_> = runners
            .iter()
            .flat_map(|runner| {
                (0..16_u8).map(move |n| {
                    let bytes = vec![n ^ round; usize::from(n) * 200];
                    (runner.echo(&bytes), bytes)
                })
            })
            .collect();
        for (reply, bytes) in calls {
            assert_eq!(reply.await.unwrap(), bytes);
        }
    }
}

/// A worker that serves now and then, and a driver.
async fn workshop() -> (PeerAgent, PeerAgent) {
    let worker = agent("worker").start().await.unwrap();
    let driver = agent("driver").start().await.unwrap();
    (worker, driver)
}

/// The proxy of a runner that is served once, for `call`.
async fn served_once<T>(
    worker: &PeerAgent,
    driver: &PeerAgent,
    runner: &mut Runner,
    call: impl AsyncFnOnce(&Proxy<Runner>) -> T,
) -> (Proxy<Runner>, T) {
    let driven = async {
        let proxy = driver.proxy::<Runner>(worker.alias()).await.unwrap();
        let result = call(&proxy).await;
        (proxy, result)
    };
    let (served, driven) = tokio::join!(worker.serve_once(runner), driven);
    served.unwrap();
    driven
}

#[actix::test]
async fn serve_once_handles_one_request_and_lets_the_others_wait() {
    let (worker, driver) = workshop().await;
    let mut runner = Runner::default();
    let note = async |runner: &Proxy<Runner>| (runner.note(1), runner.note(2), runner.note(3));
    let (proxy, (first, second, third)) = served_once(&worker, &driver, &mut runner, note).await;
    assert_eq!(first.await, Ok(1));
    assert_eq!(*runner.board.noted.lock().unwrap(), [1]);
    worker.serve_once(&mut runner).await.unwrap();
    assert_eq!(second.await, Ok(2));
    drop(third);
    // Async ones as well. A cancelled one is skipped if its cancel arrives before its turn, which
    // is a matter of moments: sooner or later one does.
    let board = runner.board.clone();
    let skipped = async {
        for n in 4.. {
            drop(proxy.note(n));
            let mut rest = proxy.rest(5);
            loop {
                tokio::select! {
                    biased;
                    rested = &mut rest => break assert_eq!(rested, Ok(5)),
                    served = worker.serve_once(&mut runner) => served.unwrap(),
                }
            }
            if !board.noted.lock().unwrap().contains(&n) {
                return;
            }
        }
    };
    let skipped = timeout(LONG, skipped).await;
    assert!(skipped.is_ok(), "no cancelled call is skipped");
    // Parallel ones take their turn.
    let (health, noted) = (proxy.health(), board.noted.lock().unwrap().len());
    worker.serve_once(&mut runner).await.unwrap();
    assert_eq!(health.await, Ok(noted));
    let error = worker.serve(Runner::default()).await.unwrap_err();
    assert!(matches!(error, AgentError::AlreadyServed { .. }), "{error}");
}

#[actix::test]
async fn serve_once_may_be_given_up_while_it_waits_and_loses_nothing() {
    let (worker, driver) = workshop().await;
    let mut runner = Runner::default();
    let proxy = tokio::select! {
        served = worker.serve_once(&mut runner) => panic!("nobody has called: {served:?}"),
        proxy = driver.proxy::<Runner>(worker.alias()) => proxy.unwrap(),
    };
    let notes: Vec<_> = (0..20).map(|n| proxy.note(n)).collect();
    let notes = actix::spawn(wait_all(notes, LONG));
    for _ in 0..20 {
        while timeout(Duration::from_micros(50), worker.serve_once(&mut runner))
            .await
            .is_err()
        {}
    }
    assert_eq!(notes.await.unwrap(), Ok((0..20).collect()));
    assert_eq!(
        *runner.board.noted.lock().unwrap(),
        (0..20).collect::<Vec<_>>()
    );
}

#[actix::test]
async fn serve_once_drops_a_handler_that_is_cancelled_and_skips_what_has_expired() {
    let (worker, driver) = workshop().await;
    let mut runner = Runner::default();
    let board = runner.board.clone();
    let cancel = async |runner: &Proxy<Runner>| {
        let rest = runner.rest(3_600_000);
        board.begun.reaches(1).await;
        drop(rest);
    };
    let (proxy, ()) = served_once(&worker, &driver, &mut runner, cancel).await;
    assert_eq!(board.dropped.get(), 1);
    let hasty = proxy.with_timeout(Duration::from_millis(10));
    hasty.tell(Note { n: 1 }).await.unwrap();
    let expired = Duration::from_millis(300);
    sleep(expired).await;
    let note = proxy.note(2);
    worker.serve_once(&mut runner).await.unwrap();
    assert_eq!(note.await, Ok(2));
    assert_eq!(*board.noted.lock().unwrap(), [2]);
    credits_are_back(LONG, &proxy, async || {}).await;
}

#[actix::test]
async fn serve_once_ends_when_the_agent_leaves_and_its_last_answer_arrives() {
    let (worker, driver) = workshop().await;
    let mut runner = Runner::default();
    let note = async |runner: &Proxy<Runner>| runner.note(1);
    let (_, note) = served_once(&worker, &driver, &mut runner, note).await;
    worker.shutdown().await.unwrap();
    assert_eq!(note.await, Ok(1));
    let error = worker.serve_once(&mut runner).await.unwrap_err();
    assert!(matches!(error, AgentError::ShutDown), "{error}");
}

#[test]
fn what_is_parallel_stands_in_the_table() {
    use slimerpc_actors::Service;
    let parallel = |name| {
        let at = Runner::METHODS.iter().position(|method| *method == name);
        Runner::PARALLEL[at.unwrap()]
    };
    assert!(parallel("health") && parallel("echo") && !parallel("step"));
    assert!(older::Runner::PARALLEL.iter().all(|parallel| !parallel));
    assert!(<Runner as ServedBy<Runner>>::share(&Runner::default()).is_some());
}
