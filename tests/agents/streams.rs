//! Streams of items, over whatever `SLIME_TEST_DEVICE` names, otherwise shared memory.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use slimerpc::channel::Credits;
use slimerpc_actors::{
    Builder, Items, Limits, PeerAgent, Polling, Proxy, Ran, RpcError, Share, Stream, Timeouts,
    service,
};
use support::{Tally, joined, unique, until};
use tokio::time::{sleep, timeout};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(120);
/// Long enough to see that nothing happens.
const A_WHILE: Duration = Duration::from_millis(50);

/// What streams share with each other, and with the test.
#[derive(Default)]
struct Board {
    made: Tally,
    /// Streams of `never` and `slowly` that have begun.
    begun: Tally,
    dropped: Tally,
}

#[derive(Default)]
struct Model {
    board: Arc<Board>,
    calls: u64,
}

impl Share for Model {
    type Shared = Board;

    fn share(&self) -> Arc<Board> {
        self.board.clone()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("out of tokens after {0}")]
struct OutOfTokens(u64);

#[service]
impl Model {
    /// Borrows the state for as long as it lasts.
    #[method(stream)]
    fn count(&mut self, to: u64) -> impl Stream<Item = u64> {
        let guard = self.board.dropped.on_drop();
        stream::iter(0..to).map(move |n| {
            let _ = &guard;
            self.calls += 1;
            self.board.made.up();
            n
        })
    }

    #[method(stream)]
    fn slowly(&mut self, to: u64, millis: u64) -> impl Stream<Item = String> {
        self.board.begun.up();
        let guard = self.board.dropped.on_drop();
        stream::iter(0..to).then(move |n| {
            let _ = &guard;
            async move {
                sleep(Duration::from_millis(millis)).await;
                format!("token {n}")
            }
        })
    }

    #[method(stream)]
    fn fails_after(&mut self, items: u64) -> impl Stream<Item = Result<u64, OutOfTokens>> {
        stream::iter(0..=items).map(move |n| {
            if n < items {
                Ok(n)
            } else {
                Err(OutOfTokens(n))
            }
        })
    }

    #[method(stream)]
    fn panics_after(&mut self, items: u64) -> impl Stream<Item = u64> {
        stream::iter(0..).map(move |n| {
            if n < items {
                n
            } else {
                panic!("no more than {items}")
            }
        })
    }

    #[method(stream)]
    fn panics_at_once(&mut self) -> impl Stream<Item = u64> {
        if self.calls < u64::MAX {
            panic!("not even one");
        }
        stream::empty()
    }

    #[method(stream)]
    fn blobs(&mut self, sizes: Vec<usize>) -> impl Stream<Item = Vec<u8>> {
        stream::iter(sizes).map(|size| vec![size as u8; size])
    }

    #[method(stream)]
    fn never(&mut self) -> impl Stream<Item = u64> {
        self.board.begun.up();
        let guard = self.board.dropped.on_drop();
        stream::pending().inspect(move |_: &u64| {
            let _ = &guard;
        })
    }

    #[method]
    fn calls(&mut self) -> u64 {
        self.calls
    }

    #[method(parallel)]
    fn nothing(_board: &Board) {}

    /// Beside all others.
    #[method(parallel, stream)]
    fn beside(board: &Board, to: usize) -> impl Stream<Item = usize> {
        stream::iter(0..to).then(move |n| async move {
            sleep(Duration::from_millis(1)).await;
            board.made.up();
            n
        })
    }
}

struct Fixture {
    agents: [PeerAgent; 2],
    board: Arc<Board>,
    model: Proxy<Model>,
}

impl Fixture {
    async fn start(set: impl Fn(Builder) -> Builder) -> Self {
        let agent = |role| set(support::agent(unique(role))).start();
        let (worker, driver) = (
            agent("worker").await.unwrap(),
            agent("driver").await.unwrap(),
        );
        let model = Model::default();
        let board = model.board.clone();
        worker.serve(model).workers(2).await.unwrap();
        let model = driver.proxy::<Model>(worker.alias()).await.unwrap();
        Self {
            agents: [worker, driver],
            board,
            model,
        }
    }

    async fn plain() -> Self {
        Self::start(|builder| builder).await
    }

    /// The same service as its own process calls it.
    async fn here(&self) -> Proxy<Model> {
        let [worker, _] = &self.agents;
        worker.proxy::<Model>(worker.alias()).await.unwrap()
    }

    /// Nothing is left of any stream (SLOT-2), and the service goes on.
    async fn settled(&self) {
        let started = Instant::now();
        for channel in [self.model.channel(), self.model.parallel_channel()] {
            let channel = channel.unwrap();
            let idle = Credits {
                free: channel.geometry().slots(),
                ..Credits::default()
            };
            while channel.credits() != idle {
                assert!(started.elapsed() < LONG, "{:?}", channel.credits());
                // Answers are taken in by who waits for one.
                self.model.calls().await.unwrap();
                self.model.nothing().await.unwrap();
            }
            assert_eq!(channel.violations().total(), 0);
        }
    }

    async fn made(&self, items: usize) {
        self.board.made.reaches(items).await;
        // No more than that.
        sleep(A_WHILE).await;
        assert_eq!(self.board.made.get(), items);
    }

    async fn dropped(&self, streams: usize) {
        self.board.dropped.reaches(streams).await;
    }
}

async fn poll_once<F: Future + Unpin>(mut future: F) -> std::task::Poll<F::Output> {
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(std::pin::Pin::new(&mut future).poll(context))
    })
    .await
}

async fn all<T>(items: Items<T>) -> Result<Vec<T>, RpcError> {
    timeout(LONG, items.try_collect())
        .await
        .expect("the stream ends")
}

#[actix::test]
async fn items_come_in_order_and_the_stream_ends() {
    let fixture = Fixture::plain().await;
    for model in [fixture.model.clone(), fixture.here().await] {
        for to in [0, 1, 7, 8, 9, 1000] {
            assert_eq!(
                all(model.count(to)).await.unwrap(),
                (0..to).collect::<Vec<_>>()
            );
        }
        assert_eq!(all(model.stream(Count { to: 3 })).await.unwrap(), [0, 1, 2]);
    }
    fixture.settled().await;
}

#[actix::test]
async fn many_streams_at_once_each_have_their_own_items() {
    let fixture = Fixture::plain().await;
    let streams = (0..100).map(|n| all(fixture.model.beside(n % 20)));
    let results = futures_util::future::join_all(streams).await;
    for (n, result) in results.into_iter().enumerate() {
        assert_eq!(result.unwrap(), (0..n % 20).collect::<Vec<_>>());
    }
    fixture.settled().await;
}

#[actix::test]
async fn no_more_items_are_made_than_are_asked_for() {
    let fixture = Fixture::plain().await;
    for model in [fixture.model.clone(), fixture.here().await] {
        fixture.board.made.reset();
        let mut items = model.count(1000).window(3);
        // 8 were asked for as it was opened.
        fixture.made(8).await;
        for n in 0..6 {
            assert_eq!(items.next().await.unwrap().unwrap(), n);
        }
        fixture.made(9).await;
        drop(items);
        fixture.made(9).await;
    }
    fixture.settled().await;
}

#[actix::test]
async fn dropping_the_items_ends_the_stream_wherever_it_is() {
    let fixture = Fixture::plain().await;
    let mut streams = 0;
    for model in [fixture.model.clone(), fixture.here().await] {
        // Before the first item, between items, and with a service that waits for the caller.
        let before = fixture.board.begun.get();
        let items = model.never();
        fixture.board.begun.reaches(before + 1).await;
        drop(items);
        streams += 1;
        fixture.dropped(streams).await;
        let mut items = model.slowly(1000, 3);
        assert_eq!(items.next().await.unwrap().unwrap(), "token 0");
        drop(items);
        streams += 1;
        fixture.dropped(streams).await;
        fixture.board.made.reset();
        let mut items = model.count(1000);
        assert_eq!(items.next().await.unwrap().unwrap(), 0);
        // It has made what was asked for, and waits for the caller.
        fixture.board.made.reaches(8).await;
        drop(items);
        streams += 1;
        fixture.dropped(streams).await;
    }
    fixture.settled().await;
}

/// SLOT-2, CALL-1: at whatever point the items are dropped.
#[actix::test]
async fn slot_2_items_may_be_dropped_at_each_of_their_pending_points() {
    let fixture =
        Fixture::start(|builder| builder.polling(Polling::default().busy_poll(Duration::ZERO)))
            .await;
    for polls in 0..40 {
        let mut items = fixture.model.slowly(5, 1);
        for _ in 0..polls {
            let mut next = items.next();
            if poll_once(&mut next).await.is_pending() {
                tokio::task::yield_now().await;
            }
        }
    }
    fixture.settled().await;
}

#[actix::test]
async fn an_error_ends_the_stream_and_can_be_had_back() {
    let fixture = Fixture::plain().await;
    for model in [fixture.model.clone(), fixture.here().await] {
        let mut items = model.fails_after(20);
        for n in 0..20 {
            assert_eq!(items.next().await.unwrap().unwrap(), n);
        }
        let error = items.next().await.unwrap().unwrap_err();
        assert_eq!(error.returned::<OutOfTokens>(), Some(OutOfTokens(20)));
        assert!(items.next().await.is_none());
    }
    fixture.settled().await;
}

#[actix::test]
async fn panic_1_a_stream_that_panics_answers_its_caller_and_the_service_goes_on() {
    let fixture = Fixture::plain().await;
    for model in [fixture.model.clone(), fixture.here().await] {
        let mut items = model.panics_after(3);
        for n in 0..3 {
            assert_eq!(items.next().await.unwrap().unwrap(), n);
        }
        let error = items.next().await.unwrap().unwrap_err();
        assert!(
            matches!(&error, RpcError::Remote { type_name, message, .. } if type_name == "panic" && message.contains("no more than 3")),
            "{error:?}"
        );
        let error = all(model.panics_at_once()).await.unwrap_err();
        assert!(error.to_string().contains("not even one"), "{error}");
    }
    fixture.settled().await;
}

#[actix::test]
async fn serial_1_the_stream_of_a_serial_method_has_the_state_until_it_ends() {
    let fixture = Fixture::plain().await;
    let started = Instant::now();
    let items = fixture.model.slowly(10, 5);
    let calls = fixture.model.calls();
    let (items, calls) = tokio::join!(all(items), calls);
    assert_eq!((items.unwrap().len(), calls.unwrap()), (10, 0));
    assert!(started.elapsed() >= Duration::from_millis(50));
    // While those of parallel methods run beside it.
    let mut slow = fixture.model.never();
    assert_eq!(all(fixture.model.beside(5)).await.unwrap(), [0, 1, 2, 3, 4]);
    assert!(poll_once(slow.next()).await.is_pending());
    drop(slow);
    fixture.settled().await;
}

#[actix::test]
async fn a_consumer_that_stops_reading_loses_the_stream_and_is_told() {
    // Nor may it take so long to read the first item.
    let patience = Duration::from_secs(1);
    let fixture =
        Fixture::start(|builder| builder.timeouts(Timeouts::default().stream_patience(patience)))
            .await;
    let mut items = fixture.model.count(1000);
    assert_eq!(items.next().await.unwrap().unwrap(), 0);
    // The serial method is free again, although the items are still held.
    assert_eq!(
        timeout(LONG, fixture.model.calls()).await.unwrap().unwrap(),
        9
    );
    let mut read = 1;
    let error = loop {
        match items.next().await.unwrap() {
            Ok(item) => assert_eq!(item, read),
            Err(error) => break error,
        }
        read += 1;
    };
    // What was asked for arrives all the same.
    assert_eq!((read, error), (9, RpcError::Stalled { after: patience }));
    assert!(items.next().await.is_none());
    fixture.settled().await;
}

#[actix::test]
async fn the_deadline_is_that_of_the_whole_stream() {
    let fixture = Fixture::plain().await;
    let (there, here) = (fixture.model.clone(), fixture.here().await);
    // They would take an hour.
    let opened: [&dyn Fn(Duration) -> Items<String>; 3] = [
        &|after| there.with_timeout(after).slowly(720_000, 5),
        &|after| there.slowly(720_000, 5).timeout(after),
        &|after| here.with_timeout(after).slowly(720_000, 5),
    ];
    for open in opened {
        let (begun, mut after) = (fixture.board.begun.get(), Duration::from_millis(150));
        // On a busy machine it may expire before it is begun.
        while fixture.board.begun.get() == begun {
            let started = Instant::now();
            let error = all(open(after)).await.unwrap_err();
            assert!(
                matches!(error, RpcError::Timeout { after: a, .. } if a == after),
                "{error:?}"
            );
            assert!(started.elapsed() >= after);
            after *= 2;
        }
    }
    fixture.dropped(fixture.board.begun.get()).await;
    let error = all(fixture.model.with_timeout(Duration::ZERO).count(1))
        .await
        .unwrap_err();
    assert!(matches!(error, RpcError::Timeout { .. }), "{error:?}");
    fixture.settled().await;
}

#[actix::test]
async fn items_beyond_a_slot_and_without_bytes_arrive_in_order() {
    let fixture = Fixture::plain().await;
    let sizes = vec![
        0, 1, 40_000, 0, 3_000_000, 32_000, 100_000, 0, 7, 33_000, 1_000_000, 2,
    ];
    for model in [fixture.model.clone(), fixture.here().await] {
        let blobs = all(model.blobs(sizes.clone())).await.unwrap();
        assert_eq!(blobs.iter().map(Vec::len).collect::<Vec<_>>(), sizes);
        assert!(
            blobs
                .iter()
                .all(|blob| blob.iter().all(|&byte| byte == blob.len() as u8))
        );
    }
    // The arguments may be beyond a slot, too.
    let many = vec![1; 100_000];
    let count = fixture.model.blobs(many).take(10).count();
    assert_eq!(timeout(LONG, count).await.unwrap(), 10);
    fixture.settled().await;
    until("memory is given back", || {
        fixture.agents.iter().all(|agent| agent.memory().lent == 0)
    })
    .await;
}

#[actix::test]
async fn more_streams_than_credits_take_turns_with_calls() {
    let fixture = Fixture::start(|builder| builder.limits(Limits::default().max_inflight(2))).await;
    let streams = (0..10).map(|_| all(fixture.model.beside(10)));
    let results = futures_util::future::join_all(streams).await;
    assert!(
        results
            .into_iter()
            .all(|result| result.unwrap().len() == 10)
    );
    let (items, calls) = (fixture.model.count(50), fixture.model.calls());
    let (items, calls) = tokio::join!(all(items), calls);
    assert_eq!((items.unwrap().len(), calls.unwrap()), (50, 50));
    fixture.settled().await;
}

#[actix::test]
async fn call_1_a_stream_ends_when_its_service_stops_or_its_peer_leaves() {
    let fixture = Fixture::plain().await;
    let [worker, driver] = &fixture.agents;
    let served = Model::default();
    let board = served.board.clone();
    let handle = worker.serve(served).named("second").await.unwrap();
    let second = driver
        .proxy_named::<Model>(worker.alias(), "second")
        .await
        .unwrap();
    let mut items = second.never();
    assert!(timeout(A_WHILE, items.next()).await.is_err());
    board.begun.reaches(1).await;
    handle.stop_within(A_WHILE).await.unwrap_err();
    let error = timeout(LONG, items.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap_err();
    assert!(
        matches!(
            error,
            RpcError::ServiceDown { .. } | RpcError::PeerLost { .. }
        ),
        "{error:?}"
    );
    let mut items = fixture.model.slowly(1000, 5);
    items.next().await.unwrap().unwrap();
    worker.shutdown().await.unwrap();
    let rest = timeout(LONG, items.collect::<Vec<_>>()).await.unwrap();
    let error = rest.last().unwrap().as_ref().unwrap_err();
    assert!(
        matches!(
            error,
            RpcError::ServiceDown { .. } | RpcError::PeerLost { .. }
        ),
        "{error:?}"
    );
}

#[actix::test]
async fn an_error_after_an_item_says_that_the_handler_was_run() {
    let fixture = Fixture::plain().await;
    let [worker, _] = &fixture.agents;
    let mut items = fixture.model.count(1000).window(1);
    items.next().await.unwrap().unwrap();
    worker.shutdown().await.unwrap();
    let channel = fixture.model.channel().unwrap();
    until("the channel is closed", || channel.closed().is_some()).await;
    // The second may have come before; a third can be asked for no more.
    let rest = timeout(LONG, items.collect::<Vec<_>>()).await.unwrap();
    let error = rest.last().unwrap().as_ref().unwrap_err();
    assert!(matches!(error, RpcError::PeerLost { .. }), "{error:?}");
    assert_eq!(error.ran(), Ran::Yes);
}

#[actix::test]
async fn a_caller_that_dies_leaves_no_stream_behind() {
    let fixture = Fixture::plain().await;
    let [_, driver] = &fixture.agents;
    let mut items = fixture.model.never();
    assert!(timeout(A_WHILE, items.next()).await.is_err());
    fixture.board.begun.reaches(1).await;
    driver.shutdown().await.unwrap();
    fixture.dropped(1).await;
    let error = items.next().await.unwrap().unwrap_err();
    assert!(matches!(error, RpcError::PeerLost { .. }), "{error:?}");
}

#[test]
fn a_plain_thread_reads_a_stream_without_a_runtime() {
    let (tell, told) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let model: Proxy<Model> = told.recv().unwrap();
        let mut items = model.count(100);
        let items: Result<Vec<_>, _> = std::iter::from_fn(|| items.wait_next()).collect();
        items
    });
    actix::System::new().block_on(async move {
        let fixture = Fixture::plain().await;
        let mut items = fixture.model.count(1);
        let refused = |ran| Some(Err(RpcError::WouldBlock { ran }));
        assert_eq!(items.wait_next(), refused(Ran::Unknown));
        assert_eq!(items.next().await, Some(Ok(0)));
        assert_eq!(items.wait_next(), refused(Ran::Yes));
        assert_eq!(items.next().await, None);
        assert_eq!(items.wait_next(), None, "there is nothing to wait for");
        let blocking = fixture.model.blocking();
        assert_eq!(blocking.count(1).wait_next(), refused(Ran::No));
        let read = tokio::task::spawn_blocking(move || blocking.count(1).wait_next());
        assert_eq!(read.await.unwrap(), Some(Ok(0)));
        let endless = fixture.model.with_timeout(Duration::MAX).count(3);
        let endless = endless.timeout(Duration::MAX).collect::<Vec<_>>();
        assert_eq!(endless.await, [Ok(0), Ok(1), Ok(2)]);
        tell.send(fixture.model.clone()).unwrap();
        assert_eq!(joined(thread).await.unwrap(), (0..100).collect::<Vec<_>>());
    });
}
