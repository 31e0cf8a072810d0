//! Calls of an agent to services of its own, which are like all others.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use slimerpc_actors::{
    AgentError, AgentEvent, Mismatch, PeerAgent, Proxy, Ran, RpcError, ServiceHandle, Share,
    Timeouts, service, wait_all,
};
use support::{Tally, TallyOnDrop, joined, unique};
use tokio::time::{sleep, timeout};

const LONG: Duration = Duration::from_secs(120);
const SOON: Duration = Duration::from_millis(30);

#[derive(Default)]
struct Shop {
    /// Handlers of `wait` and `nap`.
    begun: Tally,
    dropped: Tally,
    sold: u64,
}

impl Share for Shop {
    type Shared = Tally;

    fn share(&self) -> Arc<Tally> {
        Arc::new(self.begun.clone())
    }
}

#[service]
impl Shop {
    #[method]
    fn sell(&mut self, n: u64) -> u64 {
        self.sold += n;
        self.sold
    }

    #[method]
    async fn wait(&mut self, millis: u64) -> u64 {
        let _guard = self.dropped.on_drop();
        self.begun.up();
        sleep(Duration::from_millis(millis)).await;
        millis
    }

    #[method]
    fn fails(&mut self) -> Result<u8, String> {
        Err("sold out".into())
    }

    #[method]
    fn panics(&mut self) {
        panic!("oh no");
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

    #[method(raw, inplace, parallel)]
    async fn parallel_reversed(_begun: &Tally, request: &[u8], reply: &mut [u8]) -> usize {
        sleep(Duration::from_millis(1)).await;
        for (to, from) in reply.iter_mut().zip(request.iter().rev()) {
            *to = *from;
        }
        request.len()
    }

    #[method(parallel)]
    async fn nap(begun: &Tally, millis: u64) -> u64 {
        begun.up();
        sleep(Duration::from_millis(millis)).await;
        millis
    }

    #[method(oneway)]
    fn note(&mut self, n: u64) -> Result<(), String> {
        self.sold += n;
        if n == 13 {
            Err("unlucky".into())
        } else {
            Ok(())
        }
    }
}

struct Corner {
    agent: PeerAgent,
    _there: PeerAgent,
    /// Of the same type, whether it is here or far away.
    shops: [Proxy<Shop>; 2],
    handle: ServiceHandle,
    begun: Tally,
    dropped: Tally,
}

async fn corner() -> Corner {
    let agent = |role| PeerAgent::builder().alias(unique(role)).start();
    let (here, there) = (agent("here").await.unwrap(), agent("there").await.unwrap());
    let shop = Shop::default();
    let (begun, dropped) = (shop.begun.clone(), shop.dropped.clone());
    let handle = here.serve(shop).await.unwrap();
    let shops = [
        here.proxy::<Shop>(here.alias()).await.unwrap(),
        there.proxy::<Shop>(here.alias()).await.unwrap(),
    ];
    assert!(shops[0].is_local() && !shops[1].is_local());
    Corner {
        agent: here,
        _there: there,
        shops,
        handle,
        begun,
        dropped,
    }
}

#[actix::test]
async fn code_need_not_care_where_the_service_lives() {
    let corner = corner().await;
    for shop in &corner.shops {
        let before = shop.sell(0).await.unwrap();
        assert_eq!(shop.sell(2).await, Ok(before + 2));
        assert_eq!(shop.send(Sell { n: 3 }).await, Ok(before + 5));
        assert_eq!(
            shop.recipient::<Sell>().send(Sell { n: 0 }).await,
            Ok(before + 5)
        );
        let many = (0..1000).map(|_| shop.sell(0));
        assert_eq!(wait_all(many, LONG).await.unwrap().len(), 1000);
        for bytes in [&b""[..], b"abc", &[7; 100_000]] {
            assert_eq!(shop.echo(bytes).await.unwrap(), bytes);
            assert_eq!(*shop.echo(bytes).lent().await.unwrap(), *bytes);
        }
        assert_eq!(shop.reversed(b"abc").await.unwrap(), b"cba");
        assert_eq!(shop.parallel_reversed(b"abc").await.unwrap(), b"cba");
        let error = shop.reversed(&[0; 100_000]).await.unwrap_err();
        assert!(
            matches!(error, RpcError::ReplyTooLarge { size: 100_000, .. }),
            "{error}"
        );
        let error = shop.fails().await.unwrap_err();
        assert_eq!(error.to_string(), "String: sold out");
        assert_eq!(error.returned::<String>().as_deref(), Some("sold out"));
        let error = shop.panics().await.unwrap_err();
        assert!(matches!(&error, RpcError::Remote { type_name, .. } if type_name == "panic"));
        let shop = shop.clone();
        let blocking = std::thread::spawn(move || shop.nap(1).wait());
        assert_eq!(joined(blocking).await, Ok(1));
    }
}

#[actix::test]
async fn order_1_serial_1_local_and_remote_callers_share_one_instance() {
    let corner = corner().await;
    let started = Instant::now();
    let waits: Vec<_> = (0..4).map(|n| corner.shops[n % 2].wait(5)).collect();
    let sold: Vec<_> = (0..20).map(|_| corner.shops[0].sell(1)).collect();
    assert_eq!(wait_all(waits, LONG).await, Ok(vec![5; 4]));
    assert!(started.elapsed() >= Duration::from_millis(20), "SERIAL-1");
    assert_eq!(
        wait_all(sold, LONG).await,
        Ok((1..=20).collect()),
        "ORDER-1"
    );
}

#[actix::test]
async fn deadlines_cancels_and_tells_are_as_with_others() {
    let corner = corner().await;
    for (round, shop) in corner.shops.iter().enumerate() {
        let before = corner.dropped.get();
        let mut patience = SOON;
        // On a busy machine it may expire before it is begun.
        while corner.dropped.get() == before {
            assert!(patience < LONG, "{round}: it is not begun, or not dropped");
            let error = shop.wait(3_600_000).timeout(patience).await.unwrap_err();
            assert!(
                matches!(error, RpcError::Timeout { .. }),
                "{round}: {error}"
            );
            assert!(shop.sell(0).timeout(LONG).await.is_ok());
            patience *= 2;
        }
        drop(shop.with_timeout(LONG).wait(3_600_000));
        let error = shop.with_timeout(Duration::ZERO).sell(1).await.unwrap_err();
        assert_eq!(error.ran(), Ran::No);
        // A serial method is free again, whether the second had begun or not.
        assert!(shop.sell(0).timeout(LONG).await.is_ok());

        let mut events = corner.agent.events();
        let sold = shop.sell(0).await.unwrap();
        shop.note(5).await.unwrap();
        shop.note(13).await.unwrap();
        assert_eq!(shop.sell(0).await, Ok(sold + 18));
        if shop.is_local() {
            let AgentEvent::TellFailed { method, error, .. } = events.next().await.unwrap() else {
                panic!("another event")
            };
            assert_eq!(
                (&*method, error.to_string()),
                ("note", "String: unlucky".to_owned())
            );
        }
    }
}

#[actix::test]
async fn stop_answers_local_requests_and_later_ones_end() {
    let corner = corner().await;
    let has = [corner.shops[0].wait(100), corner.shops[0].nap(150)];
    corner.begun.reaches(2).await;
    corner.handle.stop().await.unwrap();
    assert_eq!(wait_all(has, LONG).await, Ok(vec![100, 150]));
    for late in [corner.shops[0].sell(1), corner.shops[0].nap(1)] {
        let error = late.timeout(LONG).await.unwrap_err();
        assert!(
            matches!(
                error,
                RpcError::ServiceDown { .. } | RpcError::PeerLost { .. }
            ),
            "{error}"
        );
    }
    let impatient = PeerAgent::builder()
        .timeouts(Timeouts::default().connect_timeout(SOON))
        .start()
        .await
        .unwrap();
    let error = impatient
        .proxy::<Shop>(impatient.alias())
        .await
        .unwrap_err();
    assert!(matches!(error, AgentError::Refused { .. }), "{error}");
}

#[actix::test]
async fn slot_2_calls_to_oneself_take_credits() {
    let corner = corner().await;
    for shop in &corner.shops {
        for channel in [shop.channel(), shop.parallel_channel()] {
            let slots = channel.unwrap().geometry().slots();
            assert!(slots < 20, "more calls than that are made");
        }
        let credits = || shop.channel().unwrap().credits();
        let begun = corner.begun.get();
        let calls: Vec<_> = (0..20).map(|_| shop.wait(1)).collect();
        assert_eq!((credits().free, credits().in_use), (0, 16));
        assert_eq!(wait_all(calls, LONG).await.unwrap().len(), 20);
        assert_eq!(corner.begun.get(), begun + 20);
        let lent = shop.echo(b"abc").lent().await.unwrap();
        assert_eq!(credits().in_use, 1);
        drop(lent);
        assert_eq!(credits().free, 16);
    }
}

#[actix::test]
async fn a_proxy_to_oneself_is_connected_again_when_its_service_is_served_again() {
    let corner = corner().await;
    assert_eq!(corner.shops[0].sell(1).await, Ok(1));
    corner.handle.stop().await.unwrap();
    corner.agent.serve(Shop::default()).await.unwrap();
    for (sold, shop) in (1..).zip(&corner.shops) {
        let late = async {
            loop {
                match shop.sell(1).await {
                    Err(RpcError::PeerLost { .. } | RpcError::ServiceDown { .. }) => {
                        shop.ready().await.unwrap();
                    }
                    done => return done,
                }
            }
        };
        assert_eq!(timeout(LONG, late).await.unwrap(), Ok(sold));
        assert_eq!(shop.nap(1).timeout(LONG).await, Ok(1));
    }
}

#[actix::test]
async fn an_agent_is_no_peer_of_itself() {
    let agent = PeerAgent::builder().alias(unique("alone")).start();
    let agent = agent.await.unwrap();
    agent.serve(Shop::default()).await.unwrap();
    agent.connect_to(agent.alias()).await.unwrap();
    let shop = agent.proxy::<Shop>(agent.alias()).await.unwrap();
    assert_eq!(shop.sell(1).await, Ok(1));
    let error = agent.serve(Shop::default()).named("only").only_peer().await;
    assert!(
        matches!(&error, Err(AgentError::WhichPeer { peers }) if peers.is_empty()),
        "{error:?}"
    );
    let error = agent.watch(agent.alias()).await.unwrap_err();
    assert!(matches!(error, AgentError::WatchesItself { .. }), "{error}");
    // Nor is it let in where another agent is meant.
    let other = agent.serve(Shop::default()).named("other").peer("another");
    other.await.unwrap();
    let refused = agent.proxy_named::<Shop>(agent.alias(), "other").await;
    assert!(
        matches!(
            &refused,
            Err(AgentError::Refused {
                mismatch: Mismatch::NotServed { .. },
                ..
            })
        ),
        "{refused:?}"
    );
}

/// Has a proxy to itself once it was served.
struct Keeper {
    myself: Arc<Mutex<Option<Proxy<Self>>>>,
    _gone: TallyOnDrop,
}

#[service]
impl Keeper {
    #[method]
    fn keeps_itself(&mut self) -> bool {
        self.myself.lock().unwrap().is_some()
    }
}

#[actix::test]
async fn drop_1_a_service_that_has_a_proxy_to_itself_ends_with_its_agent() {
    for is_shut_down in [true, false] {
        let agent = PeerAgent::builder().alias(unique("keeper")).start();
        let agent = agent.await.unwrap();
        let (myself, gone) = (Arc::default(), Tally::default());
        let keeper = Keeper {
            myself: Arc::clone(&myself),
            _gone: gone.on_drop(),
        };
        agent.serve(keeper).await.unwrap();
        let proxy = agent.proxy::<Keeper>(agent.alias()).await.unwrap();
        *myself.lock().unwrap() = Some(proxy.clone());
        drop(myself);
        assert_eq!(proxy.keeps_itself().await, Ok(true));
        drop(proxy);
        if is_shut_down {
            agent.shutdown().await.unwrap();
        }
        drop(agent);
        gone.reaches(1).await;
    }
}
