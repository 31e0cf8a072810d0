//! What the page `slimerpc_actors::semantics` promises, sentence by sentence, over shared memory.
#![allow(clippy::unwrap_used)]

use std::fmt;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use actix::{Actor, ActorFutureExt, AsyncContext, Handler, Message, ResponseActFuture, WrapFuture};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use slimerpc::wire::pickle::Value;
use slimerpc_actors::{
    AgentError, AgentEvent, Caller, Error, Group, GroupError, Limits, PayloadCodec, PeerAgent,
    Proxy, Ran, Recipient, RpcError, Service, ServiceHandle, Stream, service, wait_all,
    wait_all_settled,
};
use support::{Gate, Tally, credits_are_back, unique, until};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(120);
/// What a handler that was held writes.
const HELD: u64 = 1_000;

#[derive(Default, Clone)]
struct Watch {
    run: Arc<Mutex<Vec<u64>>>,
    /// Handlers of methods that take time.
    begun: Tally,
    dropped: Tally,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Desk {
    watch: Watch,
    myself: Option<Proxy<Desk>>,
}

/// An error that travels as a value.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct OutOfStock {
    left: u32,
    article: String,
}

impl fmt::Display for OutOfStock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "only {} of {} left", self.left, self.article)
    }
}

#[service]
impl Desk {
    #[method]
    fn note(&mut self, n: u64) -> u64 {
        self.watch.run.lock().unwrap().push(n);
        n
    }

    /// Nothing there, and nothing back.
    #[method]
    fn rest(&mut self) {}

    #[method]
    fn block(&mut self, millis: u64) {
        self.watch.begun.up();
        std::thread::sleep(Duration::from_millis(millis));
        self.watch.run.lock().unwrap().push(millis);
    }

    #[method]
    async fn wait(&mut self, millis: u64) -> u64 {
        let _guard = self.watch.dropped.on_drop();
        self.watch.begun.up();
        tokio::time::sleep(Duration::from_millis(millis)).await;
        self.watch.run.lock().unwrap().push(millis);
        millis
    }

    /// Has the thread until the gate is open.
    #[method]
    fn block_at_gate(&mut self) -> u64 {
        self.watch.begun.up();
        self.watch.gate.pass();
        self.watch.run.lock().unwrap().push(HELD);
        HELD
    }

    #[method]
    async fn wait_at_gate(&mut self) -> u64 {
        self.watch.begun.up();
        self.watch.gate.passed().await;
        self.watch.run.lock().unwrap().push(HELD);
        HELD
    }

    #[method]
    async fn panics_when_dropped(&mut self) {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("dropped");
            }
        }
        let _bomb = Bomb;
        self.watch.begun.up();
        std::future::pending::<()>().await;
    }

    #[method]
    fn order(&mut self, count: u32) -> Result<u32, OutOfStock> {
        if count > 3 {
            return Err(OutOfStock {
                left: 3,
                article: "pens".to_owned(),
            });
        }
        Ok(count)
    }

    #[method]
    fn parse(&mut self, text: String) -> Result<u8, std::num::ParseIntError> {
        text.parse()
    }

    #[method]
    async fn asks_itself(&mut self) -> Result<u64, String> {
        let myself = self.myself.clone().unwrap();
        myself.note(1).await.map_err(|error| error.to_string())
    }

    #[method(oneway)]
    fn jot(&mut self, n: u64) -> Result<(), String> {
        self.watch.run.lock().unwrap().push(n);
        if n == 13 {
            Err("unlucky".to_owned())
        } else {
            Ok(())
        }
    }

    /// How far request and reply are from a multiple of 8 bytes.
    #[method(raw, inplace)]
    fn place(&mut self, request: &[u8], reply: &mut [u8]) -> usize {
        let places = [request.as_ptr().addr() % 8, reply.as_ptr().addr() % 8];
        reply[..2].copy_from_slice(&places.map(|place| place as u8));
        2
    }

    #[method(raw)]
    fn echo(&mut self, request: &[u8]) -> Vec<u8> {
        request.to_vec()
    }

    #[method(raw, inplace)]
    fn reversed(&mut self, request: &[u8], reply: &mut [u8]) -> usize {
        for (to, from) in reply.iter_mut().zip(request.iter().rev()) {
            *to = *from;
        }
        request.len()
    }

    #[method(raw, inplace)]
    async fn later(&mut self, request: &[u8], reply: &mut [u8]) -> Result<usize, String> {
        tokio::task::yield_now().await;
        let reply = reply.get_mut(..request.len()).ok_or("too long")?;
        reply.copy_from_slice(request);
        Ok(request.len())
    }

    #[method(raw, inplace)]
    fn claims(&mut self, request: &[u8], reply: &mut [u8]) -> usize {
        reply.len() + request.len()
    }
}

struct Office {
    watch: Watch,
    desk: Proxy<Desk>,
    service: ServiceHandle,
    agents: [PeerAgent; 2],
}

/// A worker with a desk, and a driver, with `slots` credits.
async fn office(slots: usize) -> Office {
    let agent = |role| {
        PeerAgent::builder().alias(unique(role)).limits(
            Limits::default()
                .slot_size(4096)
                .max_inflight(slots)
                .max_payload(100_000),
        )
    };
    let worker = agent("worker").start().await.unwrap();
    let watch = Watch::default();
    let desk = Desk {
        watch: watch.clone(),
        myself: None,
    };
    let service = worker.serve(desk).await.unwrap();
    let driver = agent("driver").start().await.unwrap();
    let desk = driver.proxy(worker.alias()).await.unwrap();
    Office {
        watch,
        desk,
        service,
        agents: [worker, driver],
    }
}

impl Office {
    fn run(&self) -> Vec<u64> {
        self.watch.run.lock().unwrap().clone()
    }

    /// Waits until the service has heard of all that was sent to it: that it gives up what was sent
    /// last, which is cancelled, tells so.
    async fn has_heard(&self) {
        drop(self.desk.note(u64::MAX));
        let channel = self.desk.channel().unwrap();
        until("the service has heard of it", || {
            channel.credits().orphaned == 0
        })
        .await;
    }

    /// SLOT-2
    async fn credits_are_back(&self) {
        let call = async || drop(self.desk.note(u64::MAX).await);
        credits_are_back(LONG, &self.desk, call).await;
    }
}

#[actix::test]
async fn an_expired_request_is_not_run_and_its_caller_has_long_had_timeout() {
    let office = office(4).await;
    let busy = office.desk.block_at_gate();
    let hasty = office.desk.with_timeout(Duration::from_millis(50));
    let error = hasty.note(7).await.unwrap_err();
    assert_eq!(
        error,
        RpcError::Timeout {
            peer: office.desk.peer().to_owned(),
            method: "note".to_owned(),
            after: Duration::from_millis(50),
            ran: Ran::Unknown
        }
    );
    // It expires for the service a moment later, as it came there later.
    tokio::time::sleep(Duration::from_millis(500)).await;
    office.watch.gate.open();
    busy.await.unwrap();
    office.desk.note(8).await.unwrap();
    assert_eq!(office.run(), [HELD, 8]);
    office.credits_are_back().await;
}

#[actix::test]
async fn a_deadline_that_travelled_ends_a_request_whose_caller_cannot_cancel() {
    // The reply is not dropped but forgotten, so no cancel is ever sent.
    let office = office(4).await;
    let busy = office.desk.wait_at_gate();
    let after = Duration::from_millis(50);
    std::mem::forget(office.desk.with_timeout(after).note(7));
    office.has_heard().await;
    tokio::time::sleep(2 * after).await;
    office.watch.gate.open();
    busy.await.unwrap();
    office.desk.note(8).await.unwrap();
    assert_eq!(office.run(), [HELD, 8]);
}

#[actix::test]
async fn deadlines_of_zero_are_not_sent_and_those_of_years_do_not_overflow() {
    let office = office(4).await;
    let zero = office.desk.with_timeout(Duration::ZERO).note(1).await;
    assert_eq!(
        zero,
        Err(RpcError::Timeout {
            peer: office.desk.peer().to_owned(),
            method: "note".to_owned(),
            after: Duration::ZERO,
            ran: Ran::No
        })
    );
    for after in [Duration::from_secs(u32::MAX.into()), Duration::MAX] {
        assert_eq!(office.desk.with_timeout(after).note(2).await, Ok(2));
    }
    assert_eq!(office.run(), [2, 2]);
    office.credits_are_back().await;
}

#[actix::test]
async fn a_call_that_waits_for_a_credit_until_its_deadline_was_certainly_not_run() {
    let office = office(1).await;
    let busy = office.desk.wait_at_gate();
    let error = office
        .desk
        .note(1)
        .timeout(Duration::from_millis(20))
        .await
        .unwrap_err();
    assert_eq!(error.ran(), Ran::No);
    office.watch.gate.open();
    busy.await.unwrap();
    assert_eq!(office.run(), [HELD]);
    office.credits_are_back().await;
}

#[actix::test]
async fn a_cancelled_request_that_has_not_begun_is_skipped() {
    let office = office(4).await;
    let busy = office.desk.wait_at_gate();
    office.has_heard().await;
    office.watch.gate.open();
    busy.await.unwrap();
    office.desk.note(2).await.unwrap();
    assert_eq!(office.run(), [HELD, 2]);
    office.credits_are_back().await;
}

#[actix::test]
async fn a_cancelled_async_handler_is_dropped_where_it_awaits() {
    let office = office(4).await;
    let running = office.desk.wait(60_000);
    office.watch.begun.reaches(1).await;
    assert_eq!(
        office
            .desk
            .note(1)
            .timeout(Duration::from_millis(30))
            .await
            .unwrap_err()
            .ran(),
        Ran::Unknown
    );
    drop(running);
    office.watch.dropped.reaches(1).await;
    assert_eq!(office.desk.note(2).await, Ok(2));
    assert_eq!(office.run(), [2]);
    office.credits_are_back().await;
}

#[actix::test]
async fn panic_1_a_handler_that_panics_as_it_is_dropped_harms_nobody() {
    let office = office(4).await;
    let running = office.desk.panics_when_dropped();
    office.watch.begun.reaches(1).await;
    drop(running);
    assert_eq!(office.desk.note(2).timeout(LONG).await, Ok(2));
    office.credits_are_back().await;
}

#[actix::test]
async fn a_cancelled_sync_handler_finishes_and_its_answer_is_dropped() {
    let office = office(4).await;
    let running = office.desk.block(50);
    office.watch.begun.reaches(1).await;
    drop(running);
    office.desk.note(2).await.unwrap();
    assert_eq!(office.run(), [50, 2]);
    office.credits_are_back().await;
}

#[actix::test]
async fn slot_2_a_reply_may_be_dropped_at_each_of_its_pending_points() {
    let office = office(2).await;
    let waker = Waker::noop();
    for polls in 0..60 {
        // With and without a credit, with and without a deadline, sync and async.
        let busy = office.desk.wait(1);
        let mut replies = vec![
            Box::pin(office.desk.note(1)),
            Box::pin(office.desk.wait(2)),
            Box::pin(office.desk.with_timeout(Duration::from_millis(3)).wait(4)),
            Box::pin(office.desk.note(5).timeout(Duration::from_millis(1))),
        ];
        for _ in 0..polls {
            replies.retain_mut(|reply| {
                let polled = reply.as_mut().poll(&mut Context::from_waker(waker));
                matches!(polled, Poll::Pending)
            });
        }
        drop(replies);
        busy.await.unwrap();
    }
    office.credits_are_back().await;
    assert_eq!(
        office.desk.channel().unwrap().violations(),
        Default::default()
    );
}

#[actix::test]
async fn a_handler_that_calls_its_own_instance_is_told_so() {
    // It may call an instance of the same service elsewhere.
    let other = office(4).await;
    let agent = PeerAgent::builder().limits(Limits::default().slot_size(4096).max_inflight(4));
    let worker = agent.start().await.unwrap();
    let desk = Desk {
        myself: Some(other.desk.clone()),
        ..Desk::default()
    };
    worker.serve(desk).await.unwrap();
    let proxy = other.agents[1].proxy::<Desk>(worker.alias()).await.unwrap();
    assert_eq!(proxy.asks_itself().await, Ok(1));
    // But not its own.
    let myself = Arc::new(Mutex::new(None));
    let late = Late {
        myself: myself.clone(),
    };
    worker.serve(late).await.unwrap();
    let proxy = worker.proxy::<Late>(worker.alias()).await.unwrap();
    *myself.lock().unwrap() = Some(proxy.clone());
    let error = proxy.ask().timeout(LONG).await.unwrap_err();
    assert!(error.to_string().contains("its own instance"), "{error}");
}

/// Knows itself only after it was served.
struct Late {
    myself: Arc<Mutex<Option<Proxy<Late>>>>,
}

#[service]
impl Late {
    #[method]
    async fn ask(&mut self) -> Result<(), String> {
        let myself = self.myself.lock().unwrap().clone().unwrap();
        myself.ask().await.map_err(|error| error.to_string())
    }
}

/// Calls a desk on behalf of its own callers.
struct Steward {
    desk: Proxy<Desk>,
}

#[service]
impl Steward {
    #[method]
    async fn buy(&mut self, count: u32) -> Result<u32, RpcError> {
        self.desk.order(count).await
    }

    #[method]
    async fn hurry(&mut self) -> Result<(), Error> {
        let hasty = self.desk.with_timeout(Duration::from_millis(20));
        hasty.block_at_gate().await?;
        Ok(())
    }

    #[method]
    async fn assemble(&mut self) -> Result<(), Error> {
        Ok(Group::new(Vec::<Proxy<Desk>>::new()).map(drop)?)
    }
}

#[actix::test]
async fn errors_of_the_calls_that_a_handler_makes_come_back_as_values() {
    let office = office(4).await;
    let [worker, driver] = &office.agents;
    let desk = driver.proxy::<Desk>(worker.alias()).await.unwrap();
    driver.serve(Steward { desk }).await.unwrap();
    let steward = worker.proxy::<Steward>(driver.alias()).await.unwrap();

    let error = steward.buy(9).await.unwrap_err();
    let of_desk: RpcError = error.returned().expect("the steward's error");
    let of_order: OutOfStock = of_desk.returned().expect("the desk's error");
    assert_eq!(of_order.left, 3);

    let error = steward.hurry().await.unwrap_err();
    office.watch.gate.open();
    let Some(Error::Call(error)) = error.returned::<Error>() else {
        panic!("{error:?}")
    };
    let timed_out = RpcError::Timeout {
        peer: worker.alias().to_owned(),
        method: "block_at_gate".to_owned(),
        after: Duration::from_millis(20),
        ran: Ran::Unknown,
    };
    assert_eq!(error, timed_out);

    let error = steward.assemble().await.unwrap_err();
    let error = error.returned::<Error>().unwrap();
    assert!(
        matches!(error, Error::Group(GroupError::Empty)),
        "{error:?}"
    );
}

#[actix::test]
async fn a_handlers_own_error_comes_back_as_a_value() {
    let office = office(4).await;
    let error = office.desk.order(9).await.unwrap_err();
    assert_eq!(error.to_string(), "OutOfStock: only 3 of pens left");
    assert_eq!(error.ran(), Ran::Yes);
    let expected = OutOfStock {
        left: 3,
        article: "pens".to_owned(),
    };
    assert_eq!(error.returned::<OutOfStock>(), Some(expected));
    assert_eq!(error.returned::<String>(), None, "another type's name");
    assert_eq!(
        error.returned::<elsewhere::OutOfStock>(),
        None,
        "of another module"
    );
    // One that serde does not know has its text.
    let error = office.desk.parse("x".to_owned()).await.unwrap_err();
    assert!(error.to_string().starts_with("ParseIntError: "), "{error}");
    assert_eq!(error.returned::<OutOfStock>(), None);
}

mod elsewhere {
    #[derive(Debug, PartialEq, serde::Deserialize)]
    pub(super) struct OutOfStock {
        left: u32,
        article: String,
    }
}

/// An error with a parameter.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Unknown<T>(T);

impl<T: fmt::Debug> fmt::Display for Unknown<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is unknown", self.0)
    }
}

#[derive(Default)]
struct Pickled;

#[service(codec = "pickle")]
impl Pickled {
    /// Only a pickle tells what this error is.
    #[method]
    fn find(&mut self) -> Result<u8, Unknown<Value>> {
        Err(Unknown(Value::Tuple(vec![1.into(), "a".into()])))
    }

    #[method]
    fn count(&mut self) -> Result<u8, Unknown<u32>> {
        Err(Unknown(7))
    }
}

#[actix::test]
async fn an_error_comes_back_as_its_whole_type_with_the_services_codec() {
    let [worker, driver] = ["pickled:worker", "pickled:driver"].map(|alias| {
        let builder = PeerAgent::builder().scope("pickled").alias(alias);
        builder.start()
    });
    let (worker, driver) = (worker.await.unwrap(), driver.await.unwrap());
    worker.serve(Pickled).await.unwrap();
    let there = driver.proxy::<Pickled>("pickled:worker").await.unwrap();
    let here = worker.proxy::<Pickled>("pickled:worker").await.unwrap();
    for proxy in [there, here] {
        let error = proxy.find().await.unwrap_err();
        let value = Value::Tuple(vec![1.into(), "a".into()]);
        assert_eq!(error.returned::<Unknown<Value>>(), Some(Unknown(value)));
        assert_eq!(error.returned::<Unknown<u32>>(), None);
        let error = proxy.count().await.unwrap_err();
        assert_eq!(error.returned::<Unknown<u32>>(), Some(Unknown(7)));
        assert_eq!(
            error.returned::<Unknown<u64>>(),
            None,
            "with another parameter"
        );
    }
}

#[derive(Debug, Serialize, Deserialize)]
enum Tree {
    Leaf,
    Node(Box<Tree>),
}

#[derive(Default)]
struct Forest;

#[service]
impl Forest {
    #[method]
    fn depth(&mut self, tree: Tree) -> usize {
        let (mut depth, mut tree) = (0, tree);
        while let Tree::Node(inner) = tree {
            (depth, tree) = (depth + 1, *inner);
        }
        depth
    }

    #[method]
    fn grow(&mut self, levels: usize) -> Tree {
        (0..levels).fold(Tree::Leaf, |tree, _| Tree::Node(Box::new(tree)))
    }

    #[method(stream)]
    fn grows(&mut self, levels: usize) -> impl Stream<Item = Tree> {
        futures_util::stream::iter([self.grow(levels)])
    }

    #[method]
    fn units(&mut self, units: Vec<()>) -> usize {
        units.len()
    }
}

/// The same service to those who send bytes of their own as arguments.
struct AnyBytes;

impl Service for AnyBytes {
    const NAME: &'static str = Forest::NAME;
    const METHODS: &'static [&'static str] = Forest::METHODS;
    const PARALLEL: &'static [bool] = Forest::PARALLEL;
    const STREAMS: &'static [bool] = Forest::STREAMS;
    const CODEC: PayloadCodec = Forest::CODEC;
    type Client = Caller;
}

#[actix::test]
async fn input_1_a_request_of_any_depth_or_count_ends_nothing_but_itself() {
    let [worker, driver] = ["forest:worker", "forest:driver"].map(|alias| {
        let builder = PeerAgent::builder().scope("forest").alias(alias);
        builder.start()
    });
    let (worker, driver) = (worker.await.unwrap(), driver.await.unwrap());
    worker.serve(Forest).await.unwrap();
    let forest = driver.proxy::<Forest>("forest:worker").await.unwrap();
    let bytes = driver.proxy::<AnyBytes>("forest:worker").await.unwrap();
    let send = |method: &str, arguments: &[u8]| {
        let number = Forest::METHODS.iter().position(|name| *name == method);
        bytes.call_raw(number.unwrap(), arguments)
    };
    let refused = |result: Result<Vec<u8>, RpcError>, why: &str| match result {
        Err(RpcError::BadArguments { reason, .. }) => assert!(reason.contains(why), "{reason}"),
        other => panic!("{other:?}"),
    };
    let mut deep = vec![1; 20_000];
    deep.push(0);
    refused(send("depth", &deep).await, "more than 128 deep");
    let many = [253, 0, 0, 0, 0, 0, 0, 0, 16];
    refused(send("units", &many).await, "too many");

    let tree = Forest.grow(120);
    assert_eq!(forest.depth(tree).await.unwrap(), 120);
    assert_eq!(forest.units(vec![(); 1000]).await.unwrap(), 1000);
    // A deep result or item is refused where it is written, and a deep argument here.
    let error = forest.grow(2000).await.unwrap_err().to_string();
    assert!(error.contains("more than 128 deep"), "{error}");
    let error = forest
        .grows(2000)
        .next()
        .await
        .unwrap()
        .unwrap_err()
        .to_string();
    assert!(error.contains("more than 128 deep"), "{error}");
    let error = forest.depth(Forest.grow(2000)).await.unwrap_err();
    assert_eq!(error.ran(), Ran::No);
    assert!(matches!(error, RpcError::Encode { .. }), "{error}");
    let error = forest
        .tell(Depth {
            tree: Forest.grow(2000),
        })
        .await
        .unwrap_err();
    assert!(matches!(error, RpcError::Encode { .. }), "{error}");
    assert_eq!(
        forest.depth(forest.grow(100).await.unwrap()).await.unwrap(),
        100
    );
}

#[actix::test]
async fn ring_1_raw_methods_write_requests_and_replies_in_place() {
    let office = office(2).await;
    assert_eq!(office.desk.reversed(b"abc").await.unwrap(), b"cba");
    assert_eq!(office.desk.reversed(b"").await.unwrap(), b"");
    assert_eq!(office.desk.later(b"later").await.unwrap(), b"later");
    let filled = office.desk.echo_with(|room| {
        room[..3].copy_from_slice(b"xyz");
        3
    });
    assert_eq!(filled.await.unwrap(), b"xyz");
    let full = office.desk.echo_with(|room| {
        room.fill(7);
        room.len()
    });
    assert_eq!(full.await.unwrap(), vec![7; 4096 - 16]);
    office.credits_are_back().await;
}

#[actix::test]
async fn payloads_of_0_bytes_are_payloads() {
    let office = office(2).await;
    let [worker, _] = &office.agents;
    let here = worker.proxy::<Desk>(worker.alias()).await.unwrap();
    for desk in [&office.desk, &here, &office.desk.with_timeout(LONG)] {
        for _ in 0..5 {
            assert_eq!(desk.echo(b"").await.unwrap(), b"");
            assert_eq!(desk.echo_with(|_| 0).await.unwrap(), b"");
            assert!(desk.echo(b"").lent().await.unwrap().is_empty());
            assert_eq!(desk.reversed(b"").await.unwrap(), b"");
            assert_eq!(desk.later(b"").await.unwrap(), b"");
            desk.rest().await.unwrap();
            desk.send(Rest {}).await.unwrap();
        }
    }
    office.credits_are_back().await;
}

#[actix::test]
async fn payloads_begin_at_a_multiple_of_8_bytes() {
    let office = office(4).await;
    // With a deadline in front of the payload, and without.
    for desk in [office.desk.clone(), office.desk.with_timeout(LONG)] {
        let calls: Vec<_> = (0..8).map(|_| desk.place(b"x")).collect();
        for call in calls {
            let reply = call.lent().await.unwrap();
            assert_eq!(reply.as_ptr().addr() % 8, 0);
            assert_eq!(*reply, [0, 0]);
        }
    }
}

#[actix::test]
async fn slot_2_bytes_of_a_reply_are_lent_until_they_are_dropped() {
    let office = office(2).await;
    let lent = office.desk.echo(b"first").lent().await.unwrap();
    assert_eq!(office.desk.channel().unwrap().credits().in_use, 1);
    for n in 0..50_u8 {
        assert_eq!(office.desk.echo(&[n; 100]).await.unwrap(), [n; 100]);
    }
    assert_eq!(&*lent, b"first");
    let channel_outlived = {
        let moved = std::thread::spawn(move || lent.to_vec());
        moved.join().unwrap()
    };
    assert_eq!(channel_outlived, b"first");
    office.credits_are_back().await;
    // Lent bytes outlive their connection.
    let lent = office.desk.echo(b"last").lent().await.unwrap();
    office.agents[0].shutdown().await.unwrap();
    drop(office);
    assert_eq!(&*lent, b"last");
}

#[actix::test]
async fn a_count_beyond_the_buffer_is_an_error_not_a_truncation() {
    let office = office(2).await;
    assert_eq!(office.desk.claims(b"").await.unwrap().len(), 4080);
    let error = office.desk.claims(b"12").await.unwrap_err();
    assert_eq!(
        error,
        RpcError::ReplyTooLarge {
            size: 4082,
            limit: 4080
        }
    );
    let lent = office.desk.claims(b"12").lent().await;
    assert_eq!(lent.unwrap_err(), error);
    let error = office
        .desk
        .echo_with(|room| room.len() + 100_000)
        .await
        .unwrap_err();
    assert_eq!(
        error,
        RpcError::TooLarge {
            size: 104_080,
            limit: 100_000
        }
    );
    assert_eq!(error.ran(), Ran::No);
    office.credits_are_back().await;
}

#[actix::test]
async fn a_message_that_was_not_sent_comes_back() {
    let office = office(2).await;
    assert_eq!(office.desk.try_send(Note { n: 1 }).unwrap().await, Ok(1));
    let text = "9".repeat(100_001);
    let unsent = office
        .desk
        .try_send(Parse { text: text.clone() })
        .unwrap_err();
    assert_eq!(unsent.message.text, text);
    assert!(
        matches!(unsent.error, RpcError::TooLarge { .. }),
        "{}",
        unsent.error
    );
    office.agents[0].shutdown().await.unwrap();
    until("it is closed", || {
        office.desk.channel().unwrap().closed().is_some()
    })
    .await;
    let unsent = office.desk.try_send(Note { n: 2 }).unwrap_err();
    assert_eq!((unsent.message.n, unsent.error.ran()), (2, Ran::No));
}

#[actix::test]
async fn losing_the_peer_says_which_calls_were_certainly_not_run() {
    let office = office(1).await;
    let (sent, waits) = (office.desk.wait(60_000), office.desk.note(1));
    office.watch.begun.reaches(1).await;
    office.agents[0].shutdown().await.unwrap();
    let ran = |result: Result<u64, RpcError>| match result {
        Err(RpcError::PeerLost { ran, .. }) => ran,
        other => panic!("{other:?}"),
    };
    assert_eq!(ran(sent.await), Ran::Unknown);
    assert_eq!(ran(waits.await), Ran::No);
}

#[actix::test]
async fn stop_answers_what_has_arrived_and_takes_nothing_more() {
    let office = office(4).await;
    let has = [
        office.desk.wait_at_gate(),
        office.desk.note(1),
        office.desk.note(2),
    ];
    office.watch.begun.reaches(1).await;
    let (service, desk) = (office.service.clone(), office.desk.clone());
    let stopping = actix::spawn(async move { service.stop().await });
    // It waits behind the others until the service has heard that it is to stop.
    let mut patience = Duration::from_millis(50);
    let late = loop {
        match desk.note(3).timeout(patience).await {
            Err(RpcError::Timeout { .. }) => patience *= 2,
            late => break late.unwrap_err(),
        }
    };
    assert!(matches!(late, RpcError::ServiceDown { .. }), "{late}");
    office.watch.gate.open();
    assert_eq!(wait_all(has, LONG).await, Ok(vec![HELD, 1, 2]));
    stopping.await.unwrap().unwrap();
    assert_eq!(office.run(), [HELD, 1, 2]);
    // The connection is lost a moment later; until then the service says itself that it is down.
    let started = Instant::now();
    loop {
        match desk.note(4).timeout(LONG).await.unwrap_err() {
            RpcError::PeerLost { .. } => break,
            RpcError::ServiceDown { .. } => assert!(started.elapsed() < LONG),
            other => panic!("{other}"),
        }
    }
    // The name is free again.
    office.agents[0].serve(Desk::default()).await.unwrap();
}

#[actix::test]
async fn a_handler_that_never_returns_does_not_hold_up_stop_nor_shutdown() {
    let limit = Duration::from_millis(50);
    let office = office(4).await;
    let never = office.desk.wait(3_600_000);
    office.watch.begun.reaches(1).await;
    let error = office.service.stop_within(limit).await.unwrap_err();
    assert!(matches!(error, AgentError::StillRunning { .. }), "{error}");
    office.watch.dropped.reaches(1).await;
    let error = never.await.unwrap_err();
    assert_eq!(error.ran(), Ran::Unknown, "{error}");

    // A sync one keeps its thread, but nothing else.
    let second = Desk::default();
    let (begun, gate) = (second.watch.begun.clone(), second.watch.gate.clone());
    let handle = office.agents[0].serve(second).await.unwrap();
    let proxy: Proxy<Desk> = office.agents[1]
        .proxy(office.agents[0].alias())
        .await
        .unwrap();
    let blocks = proxy.block_at_gate();
    begun.reaches(1).await;
    let error = handle.stop_within(limit).await.unwrap_err();
    assert!(matches!(error, AgentError::StillRunning { .. }), "{error}");
    office.agents[0].shutdown().await.unwrap();
    assert!(blocks.await.is_err());
    gate.open();
}

#[actix::test]
async fn oneway_calls_complete_when_they_are_taken_and_run_once_in_order() {
    let office = office(2).await;
    let busy = office.desk.wait_at_gate();
    office.desk.jot(1).await.unwrap();
    // No credit is free: this one is taken when the handler is done.
    let mut waits = office.desk.jot(2);
    let early = tokio::time::timeout(Duration::from_millis(100), &mut waits).await;
    assert!(early.is_err(), "{early:?}");
    office.watch.gate.open();
    waits.await.unwrap();
    busy.await.unwrap();
    for n in 3..100 {
        office.desk.jot(if n == 13 { 14 } else { n }).await.unwrap();
    }
    office.desk.note(100).await.unwrap();
    let expected = [HELD, 1, 2].into_iter().chain(3..13).chain([14]);
    let expected: Vec<u64> = expected.chain(14..=100).collect();
    assert_eq!(office.run(), expected);
    office.credits_are_back().await;
}

#[actix::test]
async fn a_oneway_call_that_is_not_taken_is_taken_back_when_it_is_dropped() {
    let office = office(1).await;
    let busy = office.desk.wait_at_gate();
    drop(office.desk.jot(1));
    office.watch.gate.open();
    busy.await.unwrap();
    office.desk.note(2).await.unwrap();
    assert_eq!(office.run(), [HELD, 2]);
    office.credits_are_back().await;
}

#[actix::test]
async fn what_goes_wrong_with_a_oneway_call_is_an_event_of_the_agent() {
    let office = office(4).await;
    let mut events = office.agents[1].events();
    office.desk.jot(13).await.unwrap();
    let event = tokio::time::timeout(LONG, events.next()).await.unwrap();
    let AgentEvent::TellFailed {
        peer,
        service,
        method,
        error,
    } = event.unwrap()
    else {
        panic!("another event");
    };
    assert_eq!(
        (&*peer, &*service, &*method),
        (office.agents[0].alias(), "Desk", "jot")
    );
    assert_eq!(error.to_string(), "String: unlucky");
    // One that is lost with its peer, though nobody polls anything.
    let busy = office.desk.wait(60_000);
    office.desk.tell(Note { n: 1 }).await.unwrap();
    office.agents[0].shutdown().await.unwrap();
    let event = tokio::time::timeout(LONG, events.next())
        .await
        .unwrap()
        .unwrap();
    let AgentEvent::TellFailed { method, error, .. } = event else {
        panic!("another event");
    };
    assert_eq!((&*method, error.ran()), ("note", Ran::Unknown));
    assert!(busy.await.is_err());
    let error = office.desk.jot(1).await.unwrap_err();
    assert_eq!(error.ran(), Ran::No);
}

#[actix::test]
async fn wait_all_keeps_order_and_ends_with_the_first_error_or_with_all_results() {
    let office = office(4).await;
    let replies = (0..20).map(|n| office.desk.note(n));
    assert_eq!(wait_all(replies, LONG).await, Ok((0..20).collect()));
    // The third fails first, and the first would never be there.
    let replies = [
        office.desk.wait(3_600_000),
        office.desk.note(1),
        office.desk.with_timeout(Duration::ZERO).note(2),
    ];
    assert!(matches!(
        wait_all(replies, LONG).await,
        Err(RpcError::Timeout { ran: Ran::No, .. })
    ));
    let first = office.desk.note(1);
    // Its answer is there when this one's is.
    office.desk.note(2).await.unwrap();
    let replies = [
        first,
        office.desk.wait(60_000),
        // Runs once the one before is cancelled, which may be before it is looked at.
        office.desk.wait(60_000),
    ];
    let results = wait_all_settled(replies, Duration::from_millis(100)).await;
    assert_eq!(results[0], Ok(1));
    assert!(
        matches!(
            results[1..],
            [Err(RpcError::Timeout { .. }), Err(RpcError::Timeout { .. })]
        ),
        "{results:?}"
    );
    office.credits_are_back().await;
}

/// An actix actor that calls a service.
struct Clerk {
    adder: Recipient<Note>,
    total: u64,
}

impl Actor for Clerk {
    type Context = actix::Context<Self>;
}

#[derive(Message)]
#[rtype(result = "Result<u64, RpcError>")]
struct Total(u64);

impl Handler<Total> for Clerk {
    type Result = ResponseActFuture<Self, Result<u64, RpcError>>;

    fn handle(&mut self, Total(n): Total, _: &mut Self::Context) -> Self::Result {
        let reply = self.adder.send(Note { n }).into_actor(self);
        Box::pin(reply.map(|result, clerk, _| {
            clerk.total += result.clone()?;
            Ok(clerk.total)
        }))
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Forget(u64);

impl Handler<Forget> for Clerk {
    type Result = ();

    fn handle(&mut self, Forget(n): Forget, context: &mut Self::Context) {
        let reply = self.adder.send(Note { n }).into_actor(self);
        context.spawn(reply.map(|result, clerk, _| clerk.total += result.unwrap_or_default()));
    }
}

#[actix::test]
async fn actors_send_through_recipients_and_await_in_their_own_context() {
    let office = office(4).await;
    let clerk = Clerk {
        adder: office.desk.recipient(),
        total: 0,
    }
    .start();
    assert_eq!(clerk.send(Total(2)).await.unwrap(), Ok(2));
    clerk.send(Forget(10)).await.unwrap();
    until("both have run", || office.run() == [2, 10]).await;
    let started = Instant::now();
    while clerk.send(Total(0)).await.unwrap() != Ok(12) {
        assert!(started.elapsed() < LONG);
    }
}
