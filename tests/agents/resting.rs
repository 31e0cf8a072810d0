//! Connections that rest when they have nothing to do, and are open again for the next call.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use fastrand::Rng;
use futures_util::future::join_all;
use futures_util::{FutureExt, StreamExt, stream};
use serde_json::json;
use slimerpc::channel::{Descriptor, LossCause, Outcome};
use slimerpc::control::{Control, Local, Mail, MailEvent, Registration};
use slimerpc::fabric::Opcode;
use slimerpc::fabric::faults::{Fault, Faults, Plan};
use slimerpc_actors::{
    AgentError, Builder, ChannelView, Group, Mismatch, NotReopened, PeerAgent, PeerEvent, Polling,
    Proxy, Ran, RpcError, Share, Stream, Timeouts, service,
};
use support::alone::is_alone;
use support::{Gate, PATIENCE, ResourceUsage, Tally, joined, unique, until, wait_until, within};
use tokio::time::{sleep, timeout};

/// The shortest that is allowed.
const IDLE: Duration = Duration::from_millis(20);
/// A connection that may rest does so long before this has passed.
const LONG_IDLE: Duration = Duration::from_millis(400);
/// Longer than anything takes here.
const LONG: Duration = Duration::from_secs(30);

/// Notes what every caller says, in its order.
#[derive(Default)]
struct Ledger {
    /// The last number of each caller.
    last: HashMap<u64, u64>,
    total: u64,
    gate: Arc<Gate>,
    told: Tally,
}

impl Share for Ledger {
    type Shared = ();

    fn share(&self) -> Arc<()> {
        Arc::new(())
    }
}

#[service]
impl Ledger {
    /// Notes a call, which must be the next of its caller.
    #[method]
    fn note(&mut self, caller: u64, number: u64) -> Result<u64, String> {
        let last = self.last.insert(caller, number).unwrap_or(0);
        if number != last + 1 {
            return Err(format!("{number} of {caller} came after {last}"));
        }
        self.total += 1;
        Ok(self.total)
    }

    #[method(oneway)]
    fn jot(&mut self, number: u64) {
        self.total += number;
        self.told.up();
    }

    #[method(raw)]
    fn echo(&mut self, bytes: &[u8]) -> Vec<u8> {
        bytes.to_vec()
    }

    #[method]
    fn large(&mut self, bytes: Vec<u8>) -> Vec<u8> {
        bytes
    }

    #[method(parallel)]
    fn double(_shared: &(), number: u64) -> u64 {
        2 * number
    }

    #[method(stream)]
    fn count(&mut self, to: u64) -> impl Stream<Item = u64> {
        stream::iter(0..to)
    }

    #[method]
    async fn pass(&mut self) {
        self.gate.passed().await;
    }

    #[method(oneway)]
    async fn pass_untold(&mut self) {
        self.gate.passed().await;
    }
}

/// An agent whose connections rest soon.
fn resting(alias: String) -> Builder {
    support::agent(alias).timeouts(Timeouts::default().idle_after(IDLE))
}

struct Pair {
    worker: PeerAgent,
    driver: PeerAgent,
    ledger: Proxy<Ledger>,
}

impl Pair {
    async fn new() -> Self {
        Self::serving(Ledger::default()).await
    }

    async fn serving(served: Ledger) -> Self {
        let worker = resting(unique("worker")).start().await.unwrap();
        worker.serve(served).await.unwrap();
        let driver = resting(unique("driver")).start().await.unwrap();
        let ledger = driver.proxy(worker.alias()).await.unwrap();
        Self {
            worker,
            driver,
            ledger,
        }
    }

    async fn end(self) {
        self.driver.shutdown().await.unwrap();
        self.worker.shutdown().await.unwrap();
    }
}

fn has_rested(channel: Option<ChannelView>) -> bool {
    channel.unwrap().closed() == Some(LossCause::Resting)
}

/// Waits until both channels of a proxy rest.
async fn rests(ledger: &Proxy<Ledger>) {
    until("the connection rests", || {
        has_rested(ledger.channel()) && has_rested(ledger.parallel_channel())
    })
    .await;
}

fn is_open(ledger: &Proxy<Ledger>) -> bool {
    ledger.channel().unwrap().closed().is_none()
}

#[actix::test]
async fn a_connection_that_rests_is_open_again_for_the_next_call_of_every_kind() {
    let served = Ledger::default();
    let told = served.told.clone();
    let pair = Pair::serving(served).await;
    let ledger = &pair.ledger;
    let mut events = pair.driver.events();
    for round in 0..2 {
        rests(ledger).await;
        timeout(IDLE, ledger.ready()).await.unwrap().unwrap();
        assert!(!is_open(ledger), "to ask is no call");
        ledger.note(1, round + 1).await.unwrap();
        rests(ledger).await;
        assert_eq!(ledger.echo(b"raw").await.unwrap(), b"raw");
        rests(ledger).await;
        let filled = ledger.echo_with(|room| {
            // There is as much room as in a slot.
            room[20_000..20_003].copy_from_slice(b"raw");
            room.copy_within(20_000..20_003, 0);
            3
        });
        assert_eq!(filled.await.unwrap(), b"raw");
        rests(ledger).await;
        assert_eq!(*ledger.echo(b"lent").lent().await.unwrap(), *b"lent");
        rests(ledger).await;
        let bytes = vec![7; 1 << 20];
        assert_eq!(ledger.large(bytes.clone()).await.unwrap(), bytes);
        rests(ledger).await;
        assert_eq!(ledger.double(4).await.unwrap(), 8);
        rests(ledger).await;
        ledger.jot(1).await.unwrap();
        told.reaches(round as usize + 1).await;
        rests(ledger).await;
        let items = ledger.count(20).map(Result::unwrap).collect::<Vec<_>>();
        assert_eq!(items.await, (0..20).collect::<Vec<_>>());
        rests(ledger).await;
        let double = ledger.recipient::<Double>();
        assert_eq!(double.send(Double { number: 5 }).await.unwrap(), 10);
        rests(ledger).await;
        let reply = ledger.try_send(Double { number: 6 }).unwrap();
        assert_eq!(reply.await.unwrap(), 12);
    }
    // It is neither an event nor an error.
    assert!(events.next().now_or_never().is_none());
    pair.end().await;
}

#[actix::test]
async fn order_1_calls_made_while_a_connection_rests_are_made_at_once_and_in_order() {
    let pair = Pair::new().await;
    let ledger = &pair.ledger;
    for round in 0..10 {
        rests(ledger).await;
        // More than there are credits, and nobody polls.
        let mut number = round * 41;
        let mut note = || {
            number += 1;
            ledger.note(7, number)
        };
        let mut replies = (0..40).map(|_| note()).collect::<Vec<_>>();
        until("it is open", || is_open(ledger)).await;
        // The others were made before this one, which finds the connection open.
        replies.push(note());
        for (at, reply) in replies.into_iter().enumerate() {
            let noted = reply.await;
            noted.unwrap_or_else(|error| panic!("{at} of {round}: {error}"));
        }
    }
    pair.end().await;
}

/// Threads call, and pause for about as long as a connection may be idle.
#[actix::test]
async fn call_1_order_1_no_call_is_lost_or_overtaken_against_resting() {
    const THREADS: u64 = 12;
    const ROUNDS: u64 = 60;
    let pair = Pair::new().await;
    let slept = Arc::new(AtomicUsize::new(0));
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let threads = (0..THREADS).map(|caller| {
        let (ledger, slept) = (pair.ledger.clone(), slept.clone());
        let agent = pair.driver.clone();
        let alias = pair.worker.alias().to_owned();
        thread::spawn(move || {
            let mut rng = Rng::with_seed(seed ^ caller);
            // Every other one has a connection of its own, which rests more often.
            let ledger = match caller % 2 {
                0 => ledger,
                _ => actix::System::new().block_on(agent.proxy(&alias)).unwrap(),
            };
            let mut number = 0;
            for round in 0..ROUNDS {
                let calls = rng.u64(1..30);
                slept.fetch_add(usize::from(!is_open(&ledger)), Ordering::Relaxed);
                let replies = (0..calls).map(|_| {
                    // Some are made as the connection opens.
                    if rng.u8(..4) == 0 {
                        thread::sleep(Duration::from_micros(rng.u64(..800)));
                    }
                    number += 1;
                    ledger.note(caller, number)
                });
                let replies = replies.collect::<Vec<_>>();
                for reply in replies {
                    let noted = reply.wait_timeout(PATIENCE);
                    noted.unwrap_or_else(|error| panic!("{seed}, {caller}: {error}"));
                }
                thread::sleep(IDLE.mul_f64(0.8 + 0.7 * rng.f64()));
                // However late a busy machine lets it rest.
                if caller % 2 == 1 && round % 10 == 9 {
                    wait_until("it rests", || !is_open(&ledger));
                }
            }
            number
        })
    });
    let threads = threads.collect::<Vec<_>>();
    let made: Vec<u64> = join_all(threads.into_iter().map(joined)).await;
    let total = pair.ledger.note(99, 1).await.unwrap();
    assert_eq!(total, made.iter().sum::<u64>() + 1);
    let slept = slept.load(Ordering::Relaxed);
    assert!(slept > 20, "they called only {slept} times while it rested");
    pair.end().await;
}

#[actix::test]
async fn what_is_under_way_keeps_a_connection_awake() {
    let served = Ledger::default();
    let gate = served.gate.clone();
    let pair = Pair::serving(served).await;
    let ledger = &pair.ledger;
    let stays = async |what: &str| {
        sleep(LONG_IDLE).await;
        assert!(is_open(ledger), "{what}");
    };
    let lent = ledger.echo(b"lent").lent().await.unwrap();
    stays("a lent reply").await;
    assert_eq!(*lent, *b"lent");
    drop(lent);
    let mut items = ledger.count(1000);
    assert_eq!(items.next().await.unwrap().unwrap(), 0);
    stays("a stream").await;
    assert_eq!(items.next().await.unwrap().unwrap(), 1);
    drop(items);
    let call = ledger.pass();
    stays("a call").await;
    gate.open();
    call.await.unwrap();
    rests(ledger).await;
    pair.end().await;
}

#[actix::test]
async fn a_call_that_nobody_waits_for_keeps_its_connection_awake() {
    let served = Ledger::default();
    let gate = served.gate.clone();
    let pair = Pair::serving(served).await;
    pair.ledger.pass_untold().await.unwrap();
    sleep(LONG_IDLE).await;
    assert!(is_open(&pair.ledger));
    gate.open();
    rests(&pair.ledger).await;
    pair.end().await;
}

#[actix::test]
async fn a_call_that_nobody_wants_any_more_is_not_made_by_a_connection_that_rests() {
    let served = Ledger::default();
    let told = served.told.clone();
    let pair = Pair::serving(served).await;
    rests(&pair.ledger).await;
    drop(pair.ledger.jot(1));
    drop(pair.ledger.note(1, 1));
    assert_eq!(pair.ledger.note(1, 1).await.unwrap(), 1);
    assert_eq!(told.get(), 0);
    pair.end().await;
}

#[actix::test]
async fn a_call_that_was_made_as_its_connection_opened_may_have_run() {
    let served = Ledger::default();
    let told = served.told.clone();
    let pair = Pair::serving(served).await;
    rests(&pair.ledger).await;
    let (reply, untold) = (pair.ledger.double(1), pair.ledger.jot(1));
    // The later one has been sent, though nobody has polled either.
    told.reaches(1).await;
    let refused = reply.wait();
    assert_eq!(refused, Err(RpcError::WouldBlock { ran: Ran::Unknown }));
    untold.await.unwrap();
    pair.end().await;
}

#[actix::test]
async fn a_thread_without_a_runtime_calls_a_service_whose_connection_rests() {
    let pair = Pair::new().await;
    rests(&pair.ledger).await;
    let ledger = pair.ledger.blocking();
    let refused = ledger.double(1).wait();
    assert_eq!(refused, Err(RpcError::WouldBlock { ran: Ran::No }));
    assert!(!is_open(&pair.ledger), "nothing was sent");
    let thread = thread::spawn(move || {
        let double = ledger.double(2).wait().unwrap();
        let items: Vec<_> = {
            let mut items = ledger.count(3);
            std::iter::from_fn(move || items.wait_next())
                .map(Result::unwrap)
                .collect()
        };
        (double, items)
    });
    assert_eq!(joined(thread).await, (4, vec![0, 1, 2]));
    pair.end().await;
}

#[actix::test]
async fn members_of_a_group_that_rest_are_called_as_others_are() {
    let pair = Pair::new().await;
    let other = resting(unique("worker")).start().await.unwrap();
    other.serve(Ledger::default()).await.unwrap();
    let second: Proxy<Ledger> = pair.driver.proxy(other.alias()).await.unwrap();
    let group = Group::new([pair.ledger.clone(), second.clone()]).unwrap();
    for _ in 0..3 {
        rests(&pair.ledger).await;
        // One member may be awake.
        second.double(1).await.unwrap();
        let doubled = group.broadcast(Double { number: 3 });
        assert_eq!(doubled.await.unwrap(), [6, 6]);
    }
    other.shutdown().await.unwrap();
    pair.end().await;
}

#[actix::test]
async fn a_service_that_leaves_while_its_caller_rests_is_lost_and_another_is_found() {
    let pair = Pair::new().await;
    let ledger = &pair.ledger;
    assert_eq!(ledger.note(1, 1).await.unwrap(), 1);
    rests(ledger).await;
    let alias = pair.worker.alias().to_owned();
    pair.worker.shutdown().await.unwrap();
    let error = within("it is known to have left", async {
        loop {
            match ledger.double(1).timeout(Duration::from_secs(1)).await {
                Err(error @ RpcError::PeerLost { .. }) => return error,
                other => drop(other),
            }
        }
    })
    .await;
    assert_eq!(error.ran(), Ran::No);
    assert!(
        matches!(
            &error,
            RpcError::PeerLost {
                cause: LossCause::Left,
                ..
            }
        ),
        "{error}"
    );
    let worker = resting(alias).start().await.unwrap();
    worker.serve(Ledger::default()).await.unwrap();
    within("it is back", ledger.ready()).await.unwrap();
    assert_eq!(ledger.note(1, 1).await.unwrap(), 1, "it is another one");
    rests(ledger).await;
    assert_eq!(ledger.note(1, 2).await.unwrap(), 2);
    Pair { worker, ..pair }.end().await;
}

#[actix::test]
async fn a_call_of_a_service_that_has_stopped_meanwhile_ends_with_the_reason() {
    let short = Timeouts::default()
        .idle_after(IDLE)
        .connect_timeout(Duration::from_secs(3));
    let worker = support::agent(unique("worker")).start().await.unwrap();
    let service = worker.serve(Ledger::default()).await.unwrap();
    let driver = support::agent(unique("driver")).timeouts(short);
    let driver = driver.start().await.unwrap();
    let ledger: Proxy<Ledger> = driver.proxy(worker.alias()).await.unwrap();
    rests(&ledger).await;
    service.stop().await.unwrap();
    // A deadline ends the wait before the connect timeout does.
    let began = Instant::now();
    let after = Duration::from_millis(100);
    let early = ledger.with_timeout(after).double(1);
    let (one, two) = (ledger.double(1), ledger.double(2));
    let error = early.await.unwrap_err();
    assert!(
        matches!(&error, RpcError::Timeout { ran: Ran::No, .. }),
        "{error}"
    );
    assert!(began.elapsed() < Duration::from_secs(3));
    for reply in [one, two] {
        let error = reply.await.unwrap_err();
        let RpcError::PeerLost {
            cause: LossCause::NotReopened(reason),
            ran: Ran::No,
            ..
        } = &error
        else {
            panic!("{error}");
        };
        let wants_it = |wanted: &str| wanted == "Ledger";
        assert!(
            matches!(&**reason, NotReopened::Refused(Mismatch::NoSuchService { wanted, .. }) if wants_it(wanted)),
            "{reason:?}"
        );
    }
    // From now on it is as any service that is lost.
    let error = ledger.double(1).await.unwrap_err();
    assert!(matches!(&error, RpcError::PeerLost { .. }), "{error}");
    let waiting = ledger
        .with_reconnect_wait(Duration::from_secs(20))
        .double(4);
    worker.serve(Ledger::default()).await.unwrap();
    assert_eq!(waiting.await.unwrap(), 8);
    driver.shutdown().await.unwrap();
    worker.shutdown().await.unwrap();
}

/// What a worker answers to a caller who waits for so many milliseconds, if it says so.
async fn answer_to_open(worker: &PeerAgent, patience: Option<u64>) -> String {
    let caller = Local::new("resting");
    let alias = unique("caller");
    let registration = Registration {
        alias: Some(alias.clone()),
        ..Registration::default()
    };
    caller.register(registration).await.unwrap();
    let mut mail = caller.mail();
    let record = caller.lookup(worker.alias(), Descriptor::RECORD).await;
    let record = record.unwrap().unwrap();
    // It does not exist, which is found out by who lets it in.
    let gid = json!({"subnet_prefix": 0, "interface_id": 0});
    let queue_pair = json!({"gid": gid, "gidx": 0, "lid": 0, "mtu": 5, "psn": 0, "qpn": 9});
    let ring = json!({"addr": 0, "length": 0, "rkey": 0});
    let endpoint =
        json!({"qp": queue_pair, "bulk": queue_pair, "geometry": record["geometry"], "ring": ring});
    let mut open = json!({
        "id": 1, "service": "Ledger", "wire_version": record["wire_version"], "from": 2,
        "to": record["incarnation"], "link": record["links"][0], "endpoint": endpoint,
    });
    if let Some(patience) = patience {
        open["patience"] = patience.into();
    }
    let open = Mail::new("slimerpc_open")
        .with("peer", &alias)
        .with("body", open.to_string());
    caller.send_mail(worker.alias(), &open).await.unwrap();
    let answer = within("it answers", mail.next()).await;
    let Some(MailEvent::Mail(answer)) = answer else {
        panic!("{answer:?}")
    };
    answer.get("body").unwrap().to_owned()
}

/// A service that was busy has callers to let in that have given up, and asked again.
#[actix::test]
async fn a_caller_that_has_given_up_is_not_let_in() {
    let worker = PeerAgent::builder()
        .scope("resting")
        .alias(unique("worker"));
    let worker = worker.start().await.unwrap();
    worker.serve(Ledger::default()).await.unwrap();
    let refused = answer_to_open(&worker, Some(0)).await;
    assert!(refused.contains("stopped waiting"), "{refused}");
    for patience in [Some(60_000), Some(u64::MAX), None] {
        let answer = answer_to_open(&worker, patience).await;
        assert!(
            answer.contains("Err") && !answer.contains("stopped waiting"),
            "{answer}"
        );
    }
    worker.shutdown().await.unwrap();
}

#[actix::test]
async fn calls_of_an_agent_that_was_shut_down_while_its_proxy_rested_end_at_once() {
    let pair = Pair::new().await;
    rests(&pair.ledger).await;
    pair.driver.shutdown().await.unwrap();
    let error = within("it ends", pair.ledger.double(1)).await.unwrap_err();
    let is_it = matches!(
        &error,
        RpcError::PeerLost {
            cause: LossCause::ShutDown,
            ..
        }
    );
    assert!(is_it, "{error}");
    assert!(matches!(
        pair.ledger.ready().await,
        Err(AgentError::ShutDown)
    ));
    pair.worker.shutdown().await.unwrap();
}

#[actix::test]
async fn a_watch_goes_on_while_its_proxy_rests() {
    let pair = Pair::new().await;
    let mut events = pair.ledger.watch().await.unwrap();
    let next = async |events: &mut slimerpc_actors::Watch| {
        within("an event comes", events.next()).await.unwrap()
    };
    assert!(matches!(
        next(&mut events).await,
        PeerEvent::Connected { .. }
    ));
    for number in 1..4 {
        rests(&pair.ledger).await;
        let nothing = timeout(LONG_IDLE, events.next()).await;
        assert!(nothing.is_err(), "{nothing:?}");
        pair.ledger.note(1, number).await.unwrap();
    }
    rests(&pair.ledger).await;
    let alias = pair.worker.alias().to_owned();
    pair.worker.shutdown().await.unwrap();
    assert_eq!(next(&mut events).await, PeerEvent::Left);
    let worker = resting(alias).start().await.unwrap();
    worker.serve(Ledger::default()).await.unwrap();
    assert!(matches!(
        next(&mut events).await,
        PeerEvent::Reconnected { .. }
    ));
    assert_eq!(pair.ledger.double(1).await.unwrap(), 2);
    Pair { worker, ..pair }.end().await;
}

/// Both agents come to need the connection of their heartbeats while the other gives it up.
#[actix::test]
async fn watches_begun_while_heartbeats_come_to_rest_report_no_loss() {
    let often = Polling::default().heartbeat(Duration::from_millis(5));
    let agent = |role| resting(unique(role)).polling(often.clone()).start();
    let (worker, driver) = (
        agent("worker").await.unwrap(),
        agent("driver").await.unwrap(),
    );
    worker.serve(Ledger::default()).await.unwrap();
    let ledger: Proxy<Ledger> = driver.proxy(worker.alias()).await.unwrap();
    let seed = fastrand::u64(..);
    let mut rng = Rng::with_seed(seed);
    for round in 1..60 {
        ledger.note(1, round).await.unwrap();
        rests(&ledger).await;
        sleep(Duration::from_millis(rng.u64(..20))).await;
        let (who, whom) = match rng.bool() {
            true => (&driver, &worker),
            false => (&worker, &driver),
        };
        let mut events = who.watch(whom.alias()).await.unwrap();
        let first = within("it is there", events.next()).await.unwrap();
        let is_there = matches!(
            first,
            PeerEvent::Connected { .. } | PeerEvent::Reconnected { .. }
        );
        assert!(is_there, "{seed}, {round}: {first:?}");
        let more = timeout(Duration::from_millis(rng.u64(..40)), events.next()).await;
        assert!(more.is_err(), "{seed}, {round}: {more:?}");
    }
    driver.shutdown().await.unwrap();
    worker.shutdown().await.unwrap();
}

#[actix::test]
async fn a_connection_is_not_idle_too_soon_and_may_never_be() {
    let with = |idle| {
        let timeouts = Timeouts::default().idle_after(idle);
        support::agent(unique("driver")).timeouts(timeouts).start()
    };
    let refused = with(IDLE - Duration::from_millis(1)).await.unwrap_err();
    let AgentError::Setting { name, allowed, .. } = &refused else {
        panic!("{refused}");
    };
    assert_eq!((&**name, allowed.contains("20ms")), ("idle_after", true));
    let worker = resting(unique("worker")).start().await.unwrap();
    worker.serve(Ledger::default()).await.unwrap();
    let driver = with(Duration::ZERO).await.unwrap();
    let ledger: Proxy<Ledger> = driver.proxy(worker.alias()).await.unwrap();
    // Nor does that of an agent with itself.
    let own: Proxy<Ledger> = worker.proxy(worker.alias()).await.unwrap();
    ledger.double(1).await.unwrap();
    sleep(LONG_IDLE).await;
    assert!(is_open(&ledger) && is_open(&own));
    driver.shutdown().await.unwrap();
    worker.shutdown().await.unwrap();
}

#[actix::test]
async fn a_call_that_opens_a_connection_counts_once() {
    let worker = resting(unique("worker")).start().await.unwrap();
    worker.serve(Ledger::default()).await.unwrap();
    let driver = resting(unique("driver")).metrics(true);
    let driver = driver.start().await.unwrap();
    let ledger: Proxy<Ledger> = driver.proxy(worker.alias()).await.unwrap();
    for number in 1..=4 {
        rests(&ledger).await;
        ledger.note(1, number).await.unwrap();
        ledger.double(number).await.unwrap();
    }
    rests(&ledger).await;
    let lost = |method: &str| {
        let services = driver.figures().unwrap().calls;
        let methods = services.into_iter().flat_map(|service| service.methods);
        let found = methods.filter(|reading| reading.method == method);
        let counted = found.map(|it| (it.begun, it.in_flight(), it.ended_with(Outcome::Lost)));
        counted.collect::<Vec<_>>()
    };
    assert_eq!(lost("note"), [(4, 0, 0)]);
    assert_eq!(lost("double"), [(4, 0, 0)]);
    worker.shutdown().await.unwrap();
    let ends_lost = async { while ledger.double(1).await.is_ok() {} };
    within("the worker has left", ends_lost).await;
    let [(begun, in_flight, lost)] = lost("double")[..] else {
        panic!("it is one method");
    };
    assert_eq!((begun > 4, in_flight, lost), (true, 0, 1));
    driver.shutdown().await.unwrap();
}

/// How often the threads of this process went to sleep.
fn sleeps() -> u64 {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let statuses =
        tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("status")).ok());
    let count = |status: String| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.unwrap().trim().parse::<u64>().unwrap()
    };
    statuses.map(count).sum()
}

/// Bytes of shared memory, which is what shm devices register.
fn shared_memory() -> usize {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let lines = maps.lines().filter(|line| line.contains("/memfd:"));
    let len = |line: &str| {
        let (from, to) = line
            .split_whitespace()
            .next()
            .unwrap()
            .split_once('-')
            .unwrap();
        let address = |text| usize::from_str_radix(text, 16).unwrap();
        address(to) - address(from)
    };
    lines.map(len).sum()
}

/// What callers that rest cost both ends, which are in this process: as much as they did before
/// they were connected.
#[actix::test]
async fn callers_that_rest_cost_nothing() {
    const CALLERS: usize = 20;
    const BEAT: Duration = Duration::from_millis(10);
    if !is_alone(module_path!(), "callers_that_rest_cost_nothing") {
        return;
    }
    // A service that never lets its own connections rest lets those of its callers rest.
    let polling = Polling::default().heartbeat(BEAT);
    let worker = PeerAgent::builder()
        .alias("worker")
        .polling(polling.clone());
    let worker = worker.timeouts(Timeouts::default().idle_after(Duration::ZERO));
    let worker = worker.start().await.unwrap();
    worker.serve(Ledger::default()).await.unwrap();
    let idle = Duration::from_millis(400);
    let mut drivers = Vec::new();
    for number in 0..CALLERS {
        let driver = PeerAgent::builder()
            .alias(format!("driver:{number}"))
            .polling(polling.clone());
        let driver = driver.timeouts(Timeouts::default().idle_after(idle));
        drivers.push(driver.start().await.unwrap());
    }
    // What the first connection of a process takes stays.
    let first: Proxy<Ledger> = drivers[0].proxy("worker").await.unwrap();
    first.note(u64::MAX, 1).await.unwrap();
    rests(&first).await;
    sleep(20 * BEAT).await;
    let watched = async || {
        let began = (sleeps(), Instant::now());
        sleep(Duration::from_millis(150)).await;
        (sleeps() - began.0) as f64 / began.1.elapsed().as_secs_f64()
    };
    let before = (
        ResourceUsage::settled().await,
        shared_memory(),
        watched().await,
    );
    let mut ledgers = Vec::new();
    for driver in &drivers {
        ledgers.push(driver.proxy::<Ledger>("worker").await.unwrap());
    }
    let mut rounds = 0;
    for _ in 0..3 {
        let began = Instant::now();
        // Whether a busy machine shows a rate in so short a time is up to chance.
        let awake = loop {
            // All at once, or the first would rest again before the last is called.
            rounds += 1;
            let of_each = (0..).zip(&ledgers);
            let all = of_each.map(|(caller, ledger)| ledger.note(caller, rounds).into_future());
            futures_util::future::try_join_all(all).await.unwrap();
            let awake = (ResourceUsage::now(), shared_memory(), watched().await);
            let are_open = awake.0.descriptors > before.0.descriptors
                && awake.1 > before.1 + CALLERS * (64 << 10);
            if are_open && (awake.2 > before.2 * 1.4 || began.elapsed() > LONG) {
                break awake;
            }
            assert!(began.elapsed() < 3 * LONG, "{awake:?}, before {before:?}");
        };
        let shows_rates = awake.2 > before.2 * 1.4;
        for ledger in &ledgers {
            rests(ledger).await;
        }
        sleep(20 * BEAT).await;
        let resting = loop {
            let usage = ResourceUsage::settled().await;
            let resting = (usage, shared_memory(), watched().await);
            if resting.2 < before.2 * 1.2 || !shows_rates || began.elapsed() > 2 * LONG {
                break resting;
            }
        };
        println!("before {before:?}\nawake {awake:?}\nresting {resting:?}");
        // A caller's device keeps two files of its own, with nothing in them.
        let files = 2 * (CALLERS - 1);
        assert!(resting.0.descriptors <= before.0.descriptors + files);
        assert_eq!(resting.0.threads, before.0.threads);
        assert_eq!(resting.0.mappings, before.0.mappings);
        assert!(resting.1 <= before.1, "memory");
        assert!(resting.2 < before.2 * 1.2 || !shows_rates, "heartbeats");
    }
}

/// However busy the machine is: each message that the worker's device receives is counted.
#[actix::test]
async fn who_rests_sends_no_heartbeats() {
    const BEAT: Duration = Duration::from_millis(10);
    let counted = Fault::Delayed(Duration::ZERO).every(1);
    let heard = Faults::new(Plan::new().with(counted.of(Opcode::RecvWriteWithImm)));
    let agent = |role| resting(unique(role)).polling(Polling::default().heartbeat(BEAT));
    let wrapped = heard.clone();
    let worker = agent("worker").wrap_device(move |device| wrapped.wrap(device));
    let worker = worker.start().await.unwrap();
    worker.serve(Ledger::default()).await.unwrap();
    let driver = agent("driver").start().await.unwrap();
    let ledger: Proxy<Ledger> = driver.proxy(worker.alias()).await.unwrap();
    for round in 1..=3 {
        // A stream that is open keeps the connection awake.
        let mut items = ledger.count(1000);
        assert_eq!(items.next().await.unwrap().unwrap(), 0);
        let awake = heard.stats().delayed;
        until("heartbeats come", || heard.stats().delayed > awake + 10).await;
        drop(items);
        rests(&ledger).await;
        // Those of the peers end a moment after the connections of calls.
        within("none comes any more", async {
            let mut before = 0;
            while before < heard.stats().delayed {
                before = heard.stats().delayed;
                sleep(20 * BEAT).await;
            }
        })
        .await;
        let resting = heard.stats().delayed;
        sleep(20 * BEAT).await;
        assert_eq!(heard.stats().delayed, resting, "in round {round}");
    }
    driver.shutdown().await.unwrap();
    worker.shutdown().await.unwrap();
}
