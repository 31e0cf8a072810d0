//! FENCE-1, where an agent hears of peers and of callers.
#![allow(clippy::unwrap_used)]

use std::pin::pin;
use std::sync::Arc;

use futures_util::stream::BoxStream;
use slimerpc::channel::{
    BufferPool, Dialer, Mailbox, MemoryLimits, ServiceInfo, ServiceTable, WaitPolicy,
};
use slimerpc::control::{Local, Mail, Registration};
use slimerpc::fabric::{LinkType, RetryPolicy, shm::ShmDevice};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::*;
use crate::agent::handshake::{Answer, OneSidedAnswer, OneSidedOpen, Open};
use crate::client::connection::{ConnectedService, ProxySetup};
use crate::client::reconnect::Heal;
use crate::client::watch::{Follow, Watch};
use crate::{PeerAgent, PeerEvent, Polling};

pub(super) const LONG: Duration = Duration::from_secs(20);

/// Looks at what the supervisor knows, or does something with it.
#[derive(Message)]
#[rtype(result = "()")]
struct Do(Work);

type Work = Box<dyn FnOnce(&Rc<AgentState>) + Send>;

impl Handler<Do> for Supervisor {
    type Result = ();

    fn handle(&mut self, work: Do, _: &mut Context<Self>) {
        (work.0)(&self.state);
    }
}

/// An agent of one test, without its handle.
async fn agent(scope: &str, alias: &str) -> RegisteredSupervisor {
    // Signs of life are rarer than a test takes.
    let polling = Polling::default().heartbeat(LONG * 6).detection(LONG * 12);
    agent_with(polling, scope, alias).await
}

pub(super) async fn agent_with(polling: Polling, scope: &str, alias: &str) -> RegisteredSupervisor {
    let builder = PeerAgent::builder().local().scope(scope).alias(alias);
    let settings = builder.polling(polling).device("shm0").settle(None);
    let events = broadcast::Sender::new(16);
    Supervisor::start_here(settings.unwrap(), events)
        .await
        .unwrap()
}

/// What this work gives, done by the supervisor.
pub(super) async fn ask<T: Send + 'static>(
    of: &RegisteredSupervisor,
    work: impl FnOnce(&Rc<AgentState>) -> T + Send + 'static,
) -> T {
    let (tell, told) = oneshot::channel();
    let work = |state: &Rc<AgentState>| drop(tell.send(work(state)));
    of.supervisor.send(Do(Box::new(work))).await.unwrap();
    told.await.unwrap()
}

/// The table of a service with one method.
fn table() -> ServiceTable {
    ServiceTable {
        name: "Calc".to_owned(),
        codec: "bincode".to_owned(),
        methods: vec!["add".to_owned()],
        parallel: Vec::new(),
        streams: Vec::new(),
        signatures: Vec::new(),
    }
}

/// Waits without polling.
fn asleep() -> WaitPolicy {
    WaitPolicy {
        busy_poll: Duration::ZERO,
        runtime: tokio::runtime::Handle::current(),
    }
}

/// A channel to somebody with this alias, and the other end.
fn channel(alias: &str) -> (Arc<ClientChannel>, Mailbox) {
    let device = ShmDevice::open().unwrap();
    let memory = BufferPool::new(device, MemoryLimits::default());
    let geometry = slimerpc::channel::Geometry::new(2, 256).unwrap();
    let retry = RetryPolicy::default();
    let service_info = ServiceInfo {
        name: "test".to_owned(),
        stream_patience: LONG,
        figures: None,
    };
    let mut mailbox = Mailbox::new(memory.clone(), geometry.into(), retry, service_info).unwrap();
    let dialer = Dialer::new(&memory, geometry, retry).unwrap();
    let endpoint = mailbox.accept("driver", 1, &dialer.endpoint()).unwrap();
    let channel = dialer.connect(alias, &endpoint, asleep()).unwrap();
    (channel, mailbox)
}

/// Somebody who writes mail as it likes.
struct Stranger {
    control: Local,
    mail: BoxStream<'static, MailEvent>,
    dialer: Dialer,
}

impl Stranger {
    const ALIAS: &str = "stranger:0";

    async fn new(scope: &str) -> Self {
        let control = Local::new(scope);
        let mail = control.mail();
        let registration = Registration {
            alias: Some(Self::ALIAS.to_owned()),
            ..Registration::default()
        };
        control.register(registration).await.unwrap();
        let memory = BufferPool::new(ShmDevice::open().unwrap(), MemoryLimits::default());
        let geometry = slimerpc::channel::Geometry::new(2, 256).unwrap();
        let dialer = Dialer::new(&memory, geometry, RetryPolicy::default()).unwrap();
        Self {
            control,
            mail,
            dialer,
        }
    }

    async fn sends(&mut self, to: &str, mail: &Mail) -> Handshake {
        self.control.send_mail(to, mail).await.unwrap();
        self.receives().await
    }

    async fn publishes(&self, descriptor: &Descriptor) {
        let record = serde_json::to_value(descriptor).unwrap();
        let published = self.control.publish(Descriptor::RECORD, record).await;
        published.unwrap();
    }

    async fn receives(&mut self) -> Handshake {
        loop {
            let event = timeout(LONG, self.mail.next()).await.expect("an answer");
            if let Some(MailEvent::Mail(mail)) = event
                && let Some(handshake) = Handshake::read(&mail).unwrap()
            {
                return handshake;
            }
        }
    }

    /// What comes of an open that is meant for this life of `to`.
    async fn opens(&mut self, to: &RegisteredSupervisor, life: u64) -> Result<(), Mismatch> {
        let open = Open {
            id: 7,
            service: "Calc".to_owned(),
            parallel: false,
            wire_version: WIRE_VERSION,
            from: 1,
            to: life,
            table: None,
            link: LinkType::Shm,
            endpoint: self.dialer.endpoint(),
            patience: None,
        };
        match self.sends(&to.alias, &open.to_mail(Self::ALIAS)).await {
            Handshake::Answer(Answer { id: 7, result }) => result.map(drop),
            other => panic!("{other:?}"),
        }
    }

    /// The same, to read and write its memory.
    async fn reaches(&mut self, to: &RegisteredSupervisor, life: u64) -> Result<(), Mismatch> {
        let open = OneSidedOpen {
            id: 8,
            wire_version: WIRE_VERSION,
            to: life,
            link: LinkType::Shm,
            qp: self.dialer.endpoint().qp,
        };
        match self.sends(&to.alias, &open.to_mail(Self::ALIAS)).await {
            Handshake::OneSidedAnswer(OneSidedAnswer { id: 8, result }) => result.map(drop),
            other => panic!("{other:?}"),
        }
    }
}

/// Follows `worker`, which `driver` can reach.
pub(super) async fn followed(
    driver: &RegisteredSupervisor,
    worker: &RegisteredSupervisor,
) -> Watch {
    let follow = Follow {
        peer: worker.alias.clone(),
        timeout: LONG,
    };
    let mut events = driver.supervisor.send(follow).await.unwrap().unwrap();
    let event = timeout(LONG, events.next()).await.expect("an event");
    let incarnation = worker.incarnation;
    assert_eq!(event, Some(PeerEvent::Connected { incarnation }));
    events
}

/// The life of `worker` that `driver` can reach.
async fn connected(driver: &RegisteredSupervisor, worker: &RegisteredSupervisor) -> u64 {
    followed(driver, worker).await;
    worker.incarnation
}

async fn is_doubted(peer: &RegisteredSupervisor, by: &RegisteredSupervisor) -> bool {
    let alias = peer.alias.clone();
    ask(by, move |state| state.want_monitor(&alias).is_doubted()).await
}

#[actix::test]
async fn a_life_that_is_doubted_and_gives_no_sign_of_life_for_long_goes_on() {
    let scope = "doubt-bound";
    let (worker, driver) = (
        agent(scope, "worker:0").await,
        agent(scope, "driver:0").await,
    );
    let life = connected(&driver, &worker).await;
    ask(&driver, move |state| state.doubt("worker:0", Some(life))).await;
    assert!(is_doubted(&worker, &driver).await);
    assert_eq!(connected(&driver, &worker).await, life);
    assert!(!is_doubted(&worker, &driver).await);
}

/// A proxy to `worker:0`.
struct Proxied {
    life: u64,
    closing: Arc<Notify>,
    cause: Option<LossCause>,
    setup: ProxySetup,
}

impl Heal for Proxied {
    fn setup(&self) -> &ProxySetup {
        &self.setup
    }
    fn life(&self) -> Option<u64> {
        Some(self.life)
    }
    fn closing(&self) -> Vec<Arc<Notify>> {
        vec![self.closing.clone()]
    }
    fn link(&self) -> Option<LinkType> {
        None
    }

    fn lost(&self) -> Option<LossCause> {
        self.cause.clone()
    }
    fn adopt(&self, _: ConnectedService) {}
    fn calls_if_idle(&self) -> Option<[u64; 2]> {
        None
    }
    fn rest(&self, _: [u64; 2]) -> bool {
        false
    }
    fn resting(&self) -> Option<Arc<Notify>> {
        None
    }
    fn is_called(&self) -> bool {
        false
    }
    fn lose(&self, _: LossCause) {}
}

#[actix::test]
async fn a_proxy_that_is_dropped_casts_no_doubt_on_its_peer_and_one_that_has_lost_it_does() {
    let scope = "doubt-dropped";
    let (worker, driver) = (
        agent(scope, "worker:0").await,
        agent(scope, "driver:0").await,
    );
    let life = connected(&driver, &worker).await;
    let closing = Arc::new(Notify::new());
    let proxy = |cause| {
        Arc::new(Proxied {
            life,
            closing: closing.clone(),
            cause,
            setup: ProxySetup {
                peer: "worker:0".into(),
                wanted: table(),
                methods: &[],
                wait_policy: asleep(),
                connect_timeout: LONG,
                is_local: false,
                events: tokio::sync::broadcast::Sender::new(1),
                observed: None,
                follow: driver.supervisor.clone().recipient(),
            },
        })
    };
    let keep_up = async |proxy: &Arc<Proxied>| {
        let weak: Weak<dyn Heal> = Arc::downgrade(&(proxy.clone() as Arc<dyn Heal>));
        driver
            .supervisor
            .send(reconnect::KeepUp(weak))
            .await
            .unwrap();
    };
    let dropped = proxy(Some(LossCause::Gone));
    keep_up(&dropped).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(dropped);
    closing.notify_waiters();
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(!is_doubted(&worker, &driver).await);
    }
    let lost = proxy(Some(LossCause::Gone));
    keep_up(&lost).await;
    let doubted = async {
        while !is_doubted(&worker, &driver).await {
            closing.notify_waiters();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG, doubted).await.expect("it is doubted");
}

#[actix::test]
async fn fence_1_an_open_that_was_meant_for_our_earlier_life_is_refused() {
    let scope = "fence-open";
    let worker = agent(scope, "worker:0").await;
    let mut stranger = Stranger::new(scope).await;
    let (found, earlier) = (worker.incarnation, worker.incarnation ^ 1);
    let refused = Mismatch::Incarnation {
        meant: earlier,
        found,
    };
    let opened = stranger.opens(&worker, earlier).await;
    assert_eq!(opened, Err(refused.clone()));
    let reached = stranger.reaches(&worker, earlier).await;
    assert_eq!(reached, Err(refused));
    // What is meant for this life gets further.
    let opened = stranger.opens(&worker, found).await;
    assert!(
        !matches!(opened, Err(Mismatch::Incarnation { .. })),
        "{opened:?}"
    );
    assert_eq!(stranger.reaches(&worker, found).await, Ok(()));
}

#[actix::test]
async fn fence_1_a_late_notice_that_an_earlier_life_of_a_peer_has_left_ends_nothing() {
    let scope = "fence-left";
    let (worker, driver) = (
        agent(scope, "worker:0").await,
        agent(scope, "driver:0").await,
    );
    let incarnation = connected(&driver, &worker).await;
    let (of_worker, _worker_end) = channel(&worker.alias);
    let (of_nobody, _other_end) = channel("nobody:0");
    let noted = [of_worker.clone(), of_nobody.clone()];
    ask(&driver, move |state| {
        for channel in noted {
            state.wanted.borrow_mut().insert(channel.peer().to_owned());
            state.note_channel(Some(incarnation), &channel);
            state.peer_left(channel.peer());
        }
        let wanted: Vec<_> = state.wanted.borrow().iter().cloned().collect();
        assert_eq!(wanted, ["worker:0"]);
    })
    .await;
    assert_eq!(of_worker.closed(), None, "its monitor is up");
    assert_eq!(
        of_nobody.closed(),
        Some(LossCause::Left),
        "nobody knows better"
    );
}

#[actix::test]
async fn fence_1_the_end_of_an_earlier_life_of_a_peer_closes_no_channel_of_a_later_one() {
    let driver = agent("fence-lost", "driver:0").await;
    let (earlier, _earlier_end) = channel("worker:0");
    let (later, _later_end) = channel("worker:0");
    let (other, _other_end) = channel("worker:1");
    let noted = [(1, earlier.clone()), (2, later.clone()), (1, other.clone())];
    ask(&driver, |state| {
        for (life, channel) in noted {
            state.note_channel(Some(life), &channel);
        }
        state.life_lost("worker:0", 1, &LossCause::Gone);
    })
    .await;
    assert_eq!(earlier.closed(), Some(LossCause::Gone));
    assert_eq!((later.closed(), other.closed()), (None, None));
}

/// How long it takes until a proxy's peer, which answers nothing and is another incarnation as soon
/// as it is asked, is asked as that.
async fn asked_again_after(scope: &str, again: bool) -> Duration {
    let driver = agent(scope, "driver:0").await;
    let mut stranger = Stranger::new(scope).await;
    let mut descriptor = ask(&driver, |state| state.descriptor.borrow().clone()).await;
    descriptor.services = vec![table()];
    descriptor.incarnation = 1;
    stranger.publishes(&descriptor).await;
    let started = Instant::now();
    let mut connecting = pin!(driver.supervisor.send(ConnectService {
        peer: Stranger::ALIAS.to_owned(),
        wanted: table(),
        wait_policy: asleep(),
        timeout: LONG,
        again,
    }));
    for life in [1, 2] {
        let asked = tokio::select! {
            asked = stranger.receives() => asked,
            ended = &mut connecting => panic!("{:?}", ended.unwrap().err()),
        };
        match asked {
            Handshake::Open(_, open) => assert_eq!(open.to, life),
            other => panic!("{other:?}"),
        }
        descriptor.incarnation = 2;
        stranger.publishes(&descriptor).await;
    }
    started.elapsed()
}

/// Where a thousand wait for one service, what each of them asks the control plane delays all.
#[actix::test]
async fn a_new_proxy_looks_for_another_incarnation_only_once_an_answer_is_late() {
    let late = Duration::from_secs(1);
    let new = asked_again_after("late-new", false).await;
    assert!(new >= late, "{new:?}");
    // Both take as long as publishing does on a busy machine; one of a few does not.
    let mut shortest = new;
    for scope in ["late-lost-1", "late-lost-2", "late-lost-3"] {
        shortest = shortest.min(asked_again_after(scope, true).await);
    }
    assert!(
        shortest < late,
        "one that has lost its peer looks at once: {shortest:?}"
    );
}
