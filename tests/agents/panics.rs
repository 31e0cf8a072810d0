//! Code of a service's user that panics where no handler runs: as something is dropped, encoded,
//! decoded, shown or woken. Whatever it is, its caller has an answer or is told of the panic, and
//! the service goes on (PANIC-1).
#![allow(clippy::unwrap_used)]

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::{FutureExt, Stream, StreamExt, stream};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use slimerpc_actors::{
    AgentError, Backoff, Builder, Lifecycle, Limits, PeerAgent, Polling, Proxy, Restart, RpcError,
    Share, service,
};
use support::{Tally, unique, until};
use tokio::time::timeout;

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(120);

/// Panics as it is dropped, where it was made. What arrives of it elsewhere does not.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Bomb {
    #[serde(skip)]
    armed: bool,
}

impl Bomb {
    fn armed() -> Self {
        Self { armed: true }
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(!self.armed, "a bomb");
    }
}

/// The same as bytes, an error and a message.
impl AsRef<[u8]> for Bomb {
    fn as_ref(&self) -> &[u8] {
        b"tick"
    }
}

impl fmt::Display for Bomb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tick")
    }
}

/// Armed wherever it arrives.
#[derive(Debug)]
struct Mine(#[allow(dead_code, reason = "its drop is what it is for")] Bomb);

impl Serialize for Mine {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        ().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Mine {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <()>::deserialize(deserializer)?;
        Ok(Self(Bomb::armed()))
    }
}

/// Panics as it is decoded.
#[derive(Debug, Serialize)]
struct Unreadable;

impl<'de> Deserialize<'de> for Unreadable {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        panic!("unreadable")
    }
}

/// Panics as it is encoded.
#[derive(Debug, Deserialize)]
struct Unwritable;

impl Serialize for Unwritable {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        panic!("unwritable")
    }
}

/// An error that panics as it is shown, and as it is dropped.
#[derive(Debug)]
struct Unspeakable(#[allow(dead_code, reason = "its drop is what it is for")] Bomb);

impl fmt::Display for Unspeakable {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("unspeakable")
    }
}

/// Items whose stream panics as it is dropped.
struct Ending<S>(
    S,
    #[allow(dead_code, reason = "its drop is what it is for")] Bomb,
);

impl<S: Stream + Unpin> Stream for Ending<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        self.0.poll_next_unpin(context)
    }
}

/// What an instance does beside its handlers.
#[derive(Debug, Default)]
struct Habits {
    /// Panics as it is started, as it is restarted and as it ends; and as it is dropped.
    start: AtomicBool,
    end: AtomicBool,
    shares: AtomicBool,
    made: AtomicU32,
    dropped: Tally,
    /// Handlers of `rest` that have begun.
    begun: Tally,
}

struct Shop {
    habits: Arc<Habits>,
    number: u32,
}

impl Shop {
    fn new(habits: &Arc<Habits>) -> Self {
        Self {
            habits: habits.clone(),
            number: habits.made.fetch_add(1, Ordering::SeqCst),
        }
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        self.habits.dropped.up();
        assert!(!self.habits.end.load(Ordering::SeqCst), "dropped");
    }
}

impl Lifecycle for Shop {
    fn started(&mut self) {
        assert!(!self.habits.start.swap(false, Ordering::SeqCst), "started");
    }

    fn restarting(&mut self, _: &slimerpc_actors::EndCause) {
        assert!(!self.habits.end.load(Ordering::SeqCst), "restarting");
    }

    fn stopped(&mut self) {
        assert!(!self.habits.end.load(Ordering::SeqCst), "stopped");
    }
}

/// What parallel methods see. Panics as it is dropped if the habits are so then.
struct Seen(Arc<Habits>);

impl Drop for Seen {
    fn drop(&mut self) {
        assert!(!self.0.end.load(Ordering::SeqCst), "seen no more");
    }
}

impl Share for Shop {
    type Shared = Seen;

    fn share(&self) -> Arc<Seen> {
        assert!(!self.habits.shares.swap(false, Ordering::SeqCst), "shared");
        Arc::new(Seen(self.habits.clone()))
    }
}

#[service(prefix = "Shop")]
impl Shop {
    #[method]
    fn number(&mut self) -> u32 {
        self.number
    }

    #[method]
    fn bomb(&mut self) -> Bomb {
        Bomb::armed()
    }

    #[method]
    async fn bomb_later(&mut self) -> Bomb {
        tokio::task::yield_now().await;
        Bomb::armed()
    }

    #[method(oneway)]
    fn ring(&mut self, _mine: Mine) {}

    #[method]
    fn error(&mut self) -> Result<u8, Bomb> {
        Err(Bomb::armed())
    }

    #[method]
    fn unspeakable(&mut self) -> Result<u8, Unspeakable> {
        Err(Unspeakable(Bomb::armed()))
    }

    #[method]
    fn argument(&mut self, _mine: Mine) -> u8 {
        1
    }

    #[method]
    async fn argument_later(&mut self, _mine: Mine) -> u8 {
        tokio::task::yield_now().await;
        1
    }

    #[method]
    fn unreadable(&mut self, _argument: Unreadable) -> u8 {
        1
    }

    #[method]
    async fn unreadable_later(&mut self, _argument: Unreadable) -> u8 {
        1
    }

    #[method]
    fn unwritable(&mut self) -> Unwritable {
        Unwritable
    }

    #[method]
    fn unreadable_result(&mut self) -> Unreadable {
        Unreadable
    }

    #[method]
    fn payload(&mut self) -> u8 {
        panic_any(Bomb::armed())
    }

    #[method]
    async fn payload_later(&mut self) -> u8 {
        tokio::task::yield_now().await;
        panic_any(Bomb::armed())
    }

    /// Awaits for ever, with something that panics as it is dropped.
    #[method]
    async fn rest(&mut self) -> u8 {
        let _bomb = Bomb::armed();
        self.habits.begun.up();
        std::future::pending::<()>().await;
        1
    }

    #[method(raw)]
    fn bytes(&mut self, _request: &[u8]) -> Bomb {
        Bomb::armed()
    }

    #[method(raw)]
    async fn bytes_later(&mut self, _request: &[u8]) -> Bomb {
        tokio::task::yield_now().await;
        Bomb::armed()
    }

    #[method(stream)]
    fn items(&mut self, bombs: u8) -> impl Stream<Item = Bomb> {
        stream::iter(0..3).map(move |n| Bomb { armed: n < bombs })
    }

    #[method(stream)]
    fn ending(&mut self) -> impl Stream<Item = u8> {
        Ending(stream::iter(0..3), Bomb::armed())
    }

    #[method(stream)]
    fn unreadable_items(&mut self, _argument: Unreadable) -> impl Stream<Item = u8> {
        stream::iter(0..3)
    }

    #[method(parallel)]
    fn beside(_seen: &Seen) -> Bomb {
        Bomb::armed()
    }

    #[method(parallel)]
    fn payload_beside(_seen: &Seen) -> u8 {
        panic_any(Bomb::armed())
    }
}

fn agent(role: &str) -> Builder {
    PeerAgent::builder()
        .alias(unique(role))
        .limits(Limits::default().slot_size(4096).max_inflight(8))
}

/// As often and as soon as there is a reason.
fn always() -> Restart {
    let soon = Duration::from_millis(1);
    let backoff = Backoff {
        first: soon,
        factor: 1.0,
        longest: soon,
        jitter: 0.0,
    };
    Restart::permanent()
        .limit(1_000, Duration::from_secs(1))
        .backoff(backoff)
}

struct Plant {
    shop: Proxy<Shop>,
    habits: Arc<Habits>,
    worker: PeerAgent,
    _driver: PeerAgent,
}

impl Plant {
    async fn new(is_restarted: bool) -> Self {
        let habits = Arc::<Habits>::default();
        let worker = agent("worker").start().await.unwrap();
        if is_restarted {
            let making = habits.clone();
            let serve = worker.serve_with(move || Shop::new(&making));
            serve.restart(always()).hooks().await.unwrap();
        } else {
            worker.serve(Shop::new(&habits)).await.unwrap();
        }
        let driver = agent("driver").polling(Polling::default().busy_poll(Duration::ZERO));
        let driver = driver.start().await.unwrap();
        Self {
            shop: driver.proxy(worker.alias()).await.unwrap(),
            habits,
            worker,
            _driver: driver,
        }
    }

    /// Everybody is served, and all credits come back (SLOT-2).
    async fn goes_on(&self, after: &str) {
        let number = timeout(LONG, self.shop.number()).await;
        number
            .unwrap_or_else(|_| panic!("after `{after}` nobody is served"))
            .unwrap_or_else(|error| panic!("after `{after}`: {error}"));
        for channel in [self.shop.channel(), self.shop.parallel_channel()] {
            let channel = channel.unwrap();
            let are_back = || channel.credits().free == channel.geometry().slots();
            until(&format!("credits are back after `{after}`"), are_back).await;
        }
    }
}

/// What a panic was raised with, as its caller is told.
fn told<T: fmt::Debug>(result: Result<T, RpcError>) -> String {
    match result {
        Err(RpcError::Remote {
            type_name, message, ..
        }) => format!("{type_name}: {message}"),
        other => panic!("{other:?}"),
    }
}

/// Every one of them, of a service that is made anew and of one that is not.
#[actix::test]
async fn panic_1_a_service_survives_what_its_values_do_when_no_handler_runs() {
    for is_restarted in [false, true] {
        let plant = Plant::new(is_restarted).await;
        let shop = &plant.shop;
        plant.goes_on("nothing").await;

        shop.bomb().await.unwrap();
        plant.goes_on("a result that panics as it is dropped").await;
        shop.bomb_later().await.unwrap();
        plant.goes_on("the same, of an async method").await;
        assert_eq!(told(shop.error().await), "panic: a bomb");
        plant.goes_on("an error that panics as it is dropped").await;
        let text = told(shop.unspeakable().await);
        assert!(text.contains("a bomb"), "{text}");
        plant.goes_on("an error that panics as it is shown").await;

        let mine = || Mine(Bomb::default());
        assert_eq!(told(shop.argument(mine()).await), "panic: a bomb");
        plant.goes_on("an argument").await;
        assert_eq!(told(shop.argument_later(mine()).await), "panic: a bomb");
        plant.goes_on("an argument of an async method").await;
        shop.ring(mine()).await.unwrap();
        plant.goes_on("an argument of a oneway method").await;
        assert_eq!(told(shop.unreadable(Unreadable).await), "panic: unreadable");
        plant.goes_on("decoding").await;
        let late = shop.unreadable_later(Unreadable).await;
        assert_eq!(told(late), "panic: unreadable");
        plant.goes_on("decoding for an async method").await;
        let error = shop.unwritable().await.unwrap_err();
        assert!(error.to_string().contains("unwritable"), "{error}");
        plant.goes_on("encoding").await;

        let unnamed = "panic: a panic without a message";
        assert_eq!(told(shop.payload().await), unnamed);
        plant.goes_on("a payload of a panic").await;
        assert_eq!(told(shop.payload_later().await), unnamed);
        plant
            .goes_on("a payload of a panic of an async method")
            .await;
        let begun = &plant.habits.begun;
        let (resting, before) = (shop.rest(), begun.get());
        begun.reaches(before + 1).await;
        drop(resting);
        plant.goes_on("a handler that is cancelled").await;

        assert_eq!(shop.bytes(b"").await.unwrap(), b"tick");
        plant.goes_on("bytes").await;
        assert_eq!(shop.bytes_later(b"").await.unwrap(), b"tick");
        plant.goes_on("bytes of an async method").await;

        // The third item is not reached: the panic of an item ends the stream.
        let items: Vec<_> = shop.items(1).collect().await;
        assert!(items[0].is_ok());
        let last = items.into_iter().last().unwrap();
        assert_eq!(told(last), "panic: a bomb");
        plant.goes_on("an item").await;
        let items: Vec<_> = shop.ending().map(Result::unwrap).collect().await;
        assert_eq!(items, [0, 1, 2]);
        plant.goes_on("a stream that ends").await;
        let mut dropped = shop.ending();
        dropped.next().await.unwrap().unwrap();
        drop(dropped);
        plant.goes_on("a stream that is dropped").await;
        let items: Vec<_> = shop.unreadable_items(Unreadable).collect().await;
        assert_eq!(told(items.into_iter().next().unwrap()), "panic: unreadable");
        plant.goes_on("decoding for a stream").await;

        shop.beside().await.unwrap();
        plant.goes_on("a result of a parallel method").await;
        assert_eq!(told(shop.payload_beside().await), unnamed);
        plant
            .goes_on("a payload of a panic of a parallel method")
            .await;
    }
}

/// The policy decides about an instance whose result panicked as it was dropped, as about one whose
/// handler did.
#[actix::test]
async fn panic_1_an_instance_whose_result_panics_as_it_is_dropped_is_made_anew() {
    let plant = Plant::new(true).await;
    assert_eq!(plant.shop.number().await, Ok(0));
    plant.shop.bomb().await.unwrap();
    assert_eq!(plant.shop.number().await, Ok(1));
    let last: Vec<_> = plant.shop.ending().collect().await;
    assert_eq!(last.len(), 3);
    assert_eq!(plant.shop.number().await, Ok(2));
}

/// Hooks, the state itself, and what the parallel methods saw of it.
#[actix::test]
async fn panic_1_a_restart_survives_what_the_instance_before_does() {
    let plant = Plant::new(true).await;
    for (number, failed_starts) in [(1, 0), (2, 0), (4, 1)] {
        plant.habits.end.store(true, Ordering::SeqCst);
        plant
            .habits
            .start
            .store(failed_starts > 0, Ordering::SeqCst);
        plant.shop.payload().await.unwrap_err();
        let next = timeout(LONG, plant.shop.number()).await.unwrap();
        plant.habits.end.store(false, Ordering::SeqCst);
        assert_eq!(next, Ok(number));
        plant.goes_on("a restart").await;
    }
    plant.habits.end.store(true, Ordering::SeqCst);
    plant.worker.shutdown().await.unwrap();
    // What is dropped with the agent is dropped by the time that it is gone, or soon.
    let made = plant.habits.made.load(Ordering::SeqCst) as usize;
    plant.habits.dropped.reaches(made).await;
    plant.habits.end.store(false, Ordering::SeqCst);
}

/// A first start that panics is an error of serving, also if what was begun panics as it is
/// dropped.
#[actix::test]
async fn panic_1_a_state_that_panics_as_it_starts_and_as_it_is_dropped_is_an_error_of_serving() {
    let habits = Arc::<Habits>::default();
    habits.start.store(true, Ordering::SeqCst);
    habits.end.store(true, Ordering::SeqCst);
    let worker = agent("worker").start().await.unwrap();
    let making = habits.clone();
    let factory = Bomb::armed();
    let make = move || {
        let _held = &factory;
        Shop::new(&making)
    };
    let refused = worker.serve_with(make).hooks().await.unwrap_err();
    habits.end.store(false, Ordering::SeqCst);
    let AgentError::FactoryPanicked { message, .. } = &refused else {
        panic!("{refused:?}");
    };
    assert_eq!(message, "started");
}

/// Where parallel methods take their turn with the others, what they see is asked for with each of
/// their requests.
#[actix::test]
async fn panic_1_a_caller_is_told_of_what_could_not_be_shared() {
    let habits = Arc::<Habits>::default();
    let worker = agent("worker").start().await.unwrap();
    let alias = worker.alias().to_owned();
    let mut shop = Shop::new(&habits);
    let serving = async {
        for _ in 0..3 {
            worker.serve_once(&mut shop).await.unwrap();
        }
    };
    let calling = async {
        let driver = agent("driver").start().await.unwrap();
        let shop: Proxy<Shop> = driver.proxy(&alias).await.unwrap();
        shop.number().await.unwrap();
        habits.shares.store(true, Ordering::SeqCst);
        assert_eq!(told(shop.beside().await), "panic: shared");
        shop.beside().await.unwrap();
    };
    let both = async { tokio::join!(serving, calling) };
    timeout(LONG, both).await.unwrap();
}

/// Panics as it is woken.
struct Loud;

impl Wake for Loud {
    fn wake(self: Arc<Self>) {
        panic!("woken");
    }
}

/// A waker of one task that panics must not keep others from being woken, nor end the task that
/// wakes all of them, nor the service of this process that answers.
#[actix::test]
async fn call_1_a_waker_that_panics_keeps_nobody_else_asleep() {
    let plant = Plant::new(false).await;
    let here: Proxy<Shop> = plant.worker.proxy(plant.worker.alias()).await.unwrap();
    for shop in [&plant.shop, &here] {
        for _ in 0..3 {
            let mut loud: Vec<_> = (0..3).map(|_| Box::pin(shop.bomb_later())).collect();
            let waker = Waker::from(Arc::new(Loud));
            let mut polled = loud.iter_mut().map(|reply| {
                let polled = reply.as_mut().poll(&mut Context::from_waker(&waker));
                polled.is_ready()
            });
            // Busy polling may wake at once.
            let _ = catch_unwind(AssertUnwindSafe(|| polled.any(|is_ready| is_ready)));
            let quiet = timeout(LONG, shop.number()).await;
            quiet.expect("it is woken").unwrap();
            drop(loud);
        }
    }
    plant.goes_on("wakers that panic").await;
}

/// At the driver what panics is the caller's own, and the channel goes on.
#[actix::test]
async fn slot_2_a_result_that_panics_as_it_is_decoded_leaves_the_channel_as_it_was() {
    let plant = Plant::new(false).await;
    for _ in 0..20 {
        let reply = AssertUnwindSafe(plant.shop.unreadable_result());
        reply.catch_unwind().await.unwrap_err();
        let call = || drop(plant.shop.unreadable(Unreadable));
        catch_unwind(AssertUnwindSafe(call)).unwrap();
    }
    plant.goes_on("results that cannot be decoded").await;
}

/// Owns what is left of a task, as wakers of some executors do.
struct Owner(
    #[expect(dead_code, reason = "it is only dropped")]
    std::sync::Mutex<Option<slimerpc_actors::Reply<u8>>>,
);

impl Wake for Owner {
    fn wake(self: Arc<Self>) {}
}

/// With the last waker of a task goes the task, and what it still waits for on the same channel.
#[actix::test]
async fn call_1_a_waker_that_is_replaced_may_have_another_call_of_the_channel() {
    let plant = Plant::new(false).await;
    let shop = plant.shop.clone();
    let (tell, told) = tokio::sync::oneshot::channel();
    // Of its own, since what is feared is that it hangs.
    std::thread::spawn(move || {
        for _ in 0..2 {
            let mut first = shop.rest();
            let owner = Arc::new(Owner(std::sync::Mutex::new(Some(shop.rest()))));
            let waker = Waker::from(owner);
            let mut poll = |waker: &Waker| {
                let polled = Pin::new(&mut first).poll(&mut Context::from_waker(waker));
                assert!(polled.is_pending());
            };
            poll(&waker);
            drop(waker);
            poll(Waker::noop());
            // The same where it is not replaced, but dropped with its call.
            let owner = Arc::new(Owner(std::sync::Mutex::new(Some(shop.rest()))));
            poll(&Waker::from(owner));
        }
        tell.send(()).unwrap();
    });
    let done = timeout(LONG, told).await;
    done.expect("it hangs").unwrap();
    plant.goes_on("wakers that own calls").await;
}
