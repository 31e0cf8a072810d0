//! What every control plane does, proved on each: in one process, on one host, and with NanoCtrl
//! and Redis (with a scope and without, as the keys differ).
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream::BoxStream};
use serde_json::json;
use slimerpc::control::{
    Control, ControlError, Entity, EntityEvent, Host, Local, Mail, MailEvent, NanoCtrl, PeerRecord,
    Registration,
};
use support::NanoCtrlServer;
use tempfile::TempDir;
use tokio::time::timeout;

/// Longer than anything here takes; a test that reaches it fails.
const SOON: Duration = Duration::from_secs(60);

/// Long enough to see that nothing comes.
const A_WHILE: Duration = Duration::from_millis(300);

/// A control plane that agents can join.
trait World {
    fn agent(&self) -> Arc<dyn Control>;
}

/// A scope of this process that no other test uses.
struct InProcess(String);

impl InProcess {
    fn start() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        Self(format!(
            "contract-{}",
            COUNT.fetch_add(1, Ordering::Relaxed)
        ))
    }
}

impl World for InProcess {
    fn agent(&self) -> Arc<dyn Control> {
        Arc::new(Local::new(&self.0))
    }
}

/// A scope in a directory of its own.
struct OnHost(TempDir);

impl World for OnHost {
    fn agent(&self) -> Arc<dyn Control> {
        Arc::new(Host::at(self.0.path().join("agents"), "job"))
    }
}

/// A scope of a server.
struct Served(NanoCtrlServer, &'static str);

impl World for Served {
    fn agent(&self) -> Arc<dyn Control> {
        Arc::new(NanoCtrl::new(&self.0.url(), self.1).unwrap())
    }
}

/// Runs every test below on every control plane.
macro_rules! contract {
    ($($name:ident)*) => {
        mod local {
            $(#[tokio::test] async fn $name() { super::$name(&super::InProcess::start()).await })*
        }
        mod host {
            $(#[tokio::test] async fn $name() {
                super::$name(&super::OnHost(super::TempDir::new().unwrap())).await
            })*
        }
        mod nanoctrl {
            $(#[tokio::test] async fn $name() {
                super::$name(&super::Served(super::NanoCtrlServer::start(), "job")).await
            })*
        }
        mod nanoctrl_without_scope {
            $(#[tokio::test] async fn $name() {
                super::$name(&super::Served(super::NanoCtrlServer::start(), "")).await
            })*
        }
    };
}

contract! {
    a_taken_alias_is_refused_until_its_owner_has_left
    an_agent_registers_once
    agents_without_an_alias_get_different_names
    input_1_names_that_cannot_be_used_are_refused
    only_registered_agents_are_served
    a_peer_is_known_while_it_is_registered
    mail_arrives_complete_and_in_order
    mail_sent_before_the_peer_registers_arrives
    mail_is_read_from_its_beginning
    mail_ends_when_the_agent_leaves
    mail_asked_for_before_registering_is_read_afterwards
    records_are_seen_by_peers_until_they_are_withdrawn
    records_go_with_their_owner
    declared_peers_come_by_mail
    peers_are_told_when_an_agent_leaves_that_declared_them
    an_agent_is_told_when_a_peer_leaves_that_it_declared
    a_declaration_replaces_the_one_before
    fence_1_a_new_life_is_not_told_of_an_earlier_ones_peers
    entities_are_listed_by_kind_until_they_are_retracted
    an_entity_advertised_again_is_replaced
    entities_go_with_their_owner_and_those_of_others_stay
    whoever_watches_entities_is_told_what_there_is_and_what_happens
    watching_entities_ends_when_the_agent_leaves
}

async fn join(world: &dyn World, alias: &str) -> Arc<dyn Control> {
    let agent = world.agent();
    agent.register(named(alias)).await.unwrap();
    agent
}

fn named(alias: &str) -> Registration {
    Registration {
        alias: Some(alias.to_owned()),
        address: "127.0.0.1".to_owned(),
        ..Registration::default()
    }
}

fn entity(id: &str, kind: &str) -> Entity {
    Entity {
        id: id.to_owned(),
        kind: kind.to_owned(),
        metadata: json!({"of": id}),
    }
}

/// The entities of a kind, by id.
async fn entities(agent: &dyn Control, kind: &str) -> Vec<Entity> {
    let mut entities = agent.entities(kind).await.unwrap();
    entities.sort_by(|a, b| a.id.cmp(&b.id));
    entities
}

/// What a reader of entity events knows.
struct Follower {
    events: BoxStream<'static, EntityEvent>,
    known: BTreeMap<String, Entity>,
}

impl Follower {
    fn new(agent: &dyn Control, kind: &str) -> Self {
        Self {
            events: agent.watch_entities(kind),
            known: BTreeMap::new(),
        }
    }

    /// Reads events until exactly these entities are known.
    async fn until(&mut self, wanted: &[Entity]) {
        let reading = async {
            while !self.known.values().eq(wanted) {
                match self.events.next().await.expect("it goes on") {
                    EntityEvent::All(all) => {
                        self.known = all.into_iter().map(|it| (it.id.clone(), it)).collect();
                    }
                    EntityEvent::Added(it) => drop(self.known.insert(it.id.clone(), it)),
                    EntityEvent::Removed { id } => drop(self.known.remove(&id)),
                }
            }
        };
        let done = timeout(SOON, reading).await;
        done.unwrap_or_else(|_| panic!("{wanted:?} expected"));
    }
}

fn aliases(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// The next event of the mail of an agent, read from its beginning, that is not `connect_peer`.
async fn next_event(agent: &dyn Control) -> Option<MailEvent> {
    let mut events = agent.mail();
    let wanted = async {
        loop {
            match events.next().await {
                Some(MailEvent::Mail(mail)) if mail.kind == "connect_peer" => {}
                event => return event,
            }
        }
    };
    timeout(SOON, wanted).await.expect("an event comes")
}

/// Asserts that nothing but `connect_peer` comes.
async fn assert_quiet(agent: &dyn Control) {
    let mut events = agent.mail();
    while let Ok(event) = timeout(A_WHILE, events.next()).await {
        assert!(
            matches!(&event, Some(MailEvent::Mail(mail)) if mail.kind == "connect_peer"),
            "{event:?}"
        );
    }
}

fn left(peer: &str) -> Option<MailEvent> {
    let peer = peer.to_owned();
    Some(MailEvent::Left { peer })
}

async fn a_taken_alias_is_refused_until_its_owner_has_left(world: &dyn World) {
    let owner = join(world, "worker:0").await;
    match world.agent().register(named("worker:0")).await {
        Err(ControlError::AliasTaken { alias, .. }) => assert_eq!(alias, "worker:0"),
        other => panic!("{other:?}"),
    }
    owner.clean_up().await.unwrap();
    join(world, "worker:0").await;
}

async fn an_agent_registers_once(world: &dyn World) {
    let agent = join(world, "a").await;
    let again = agent.register(named("b")).await;
    assert!(matches!(again, Err(ControlError::AliasTaken { alias, .. }) if alias == "a"));
    agent.clean_up().await.unwrap();
    let again = agent.register(named("b")).await;
    assert!(matches!(again, Err(ControlError::NotRegistered)));
}

async fn agents_without_an_alias_get_different_names(world: &dyn World) {
    let agents = [world.agent(), world.agent()];
    for (agent, name) in agents.iter().zip(["agent-1", "agent-2"]) {
        assert_eq!(agent.register(Registration::default()).await.unwrap(), name);
    }
}

async fn input_1_names_that_cannot_be_used_are_refused(world: &dyn World) {
    for name in ["", "a/b", "a*", "a\n", &"x".repeat(257)] {
        let error = world.agent().register(named(name)).await.unwrap_err();
        assert!(
            matches!(error, ControlError::BadName { what: "alias", .. }),
            "{name:?}: {error}"
        );
    }
}

async fn only_registered_agents_are_served(world: &dyn World) {
    let agent = world.agent();
    for _ in ["before", "after"] {
        let mail = Mail::new("hello");
        let refusals = [
            agent.heartbeat().await.unwrap_err(),
            agent.set_topology(&[]).await.unwrap_err(),
            agent.peer("b").await.unwrap_err(),
            agent.send_mail("b", &mail).await.unwrap_err(),
            agent.publish("r", json!(1)).await.unwrap_err(),
            agent.withdraw("r").await.unwrap_err(),
            agent.lookup("b", "r").await.unwrap_err(),
            agent.advertise(entity("e", "k")).await.unwrap_err(),
            agent.retract("e").await.unwrap_err(),
            agent.entities("k").await.unwrap_err(),
        ];
        for refusal in refusals {
            assert!(matches!(refusal, ControlError::NotRegistered), "{refusal}");
        }
        agent.clean_up().await.unwrap();
    }
}

async fn a_peer_is_known_while_it_is_registered(world: &dyn World) {
    let observer = join(world, "observer").await;
    assert_eq!(observer.peer("w:0").await.unwrap(), None);
    let peer = world.agent();
    let registration = Registration {
        alias: Some("w:0".to_owned()),
        address: "127.0.0.1".to_owned(),
        device: Some("mlx5_0".to_owned()),
        ib_port: Some(1),
        link_type: Some("RoCE".to_owned()),
        resource: Some(json!({"schema_version": 1, "nics": []})),
    };
    peer.register(registration.clone()).await.unwrap();
    let known = PeerRecord {
        alias: "w:0".to_owned(),
        address: registration.address,
        device: registration.device,
        ib_port: registration.ib_port,
        link_type: registration.link_type,
        resource: registration.resource,
    };
    assert_eq!(observer.peer("w:0").await.unwrap(), Some(known));
    peer.heartbeat().await.unwrap();
    peer.clean_up().await.unwrap();
    assert_eq!(observer.peer("w:0").await.unwrap(), None);
}

async fn mail_arrives_complete_and_in_order(world: &dyn World) {
    let (sender, receiver) = (join(world, "a").await, join(world, "b").await);
    let mut events = receiver.mail();
    for number in 0..250 {
        let mail = Mail::new("qp_ready")
            .with("peer", "a")
            .with("number", number.to_string())
            .with("text", "größer: \"1\"\n\0");
        sender.send_mail("b", &mail).await.unwrap();
    }
    for number in 0..250 {
        let event = timeout(SOON, events.next()).await.unwrap();
        let Some(MailEvent::Mail(mail)) = event else {
            panic!("{event:?}");
        };
        assert_eq!((mail.kind.as_str(), mail.peer()), ("qp_ready", Some("a")));
        assert_eq!(mail.get("number"), Some(number.to_string().as_str()));
        assert_eq!(mail.get("text"), Some("größer: \"1\"\n\0"));
        assert_eq!(mail.fields.len(), 3);
    }
}

async fn mail_sent_before_the_peer_registers_arrives(world: &dyn World) {
    let early = join(world, "early").await;
    let mail = Mail::new("qp_ready").with("peer", "early");
    early.send_mail("late", &mail).await.unwrap();
    let late = join(world, "late").await;
    assert_eq!(next_event(&*late).await, Some(MailEvent::Mail(mail)));
}

async fn mail_is_read_from_its_beginning(world: &dyn World) {
    let agent = join(world, "a").await;
    let mail = Mail::new("note").with("peer", "a");
    agent.send_mail("a", &mail).await.unwrap();
    for _ in 0..2 {
        assert_eq!(
            next_event(&*agent).await,
            Some(MailEvent::Mail(mail.clone()))
        );
    }
}

async fn mail_ends_when_the_agent_leaves(world: &dyn World) {
    let agent = join(world, "a").await;
    let mut events = agent.mail();
    let mut reading = events.next();
    let early = timeout(A_WHILE, &mut reading).await;
    assert!(early.is_err(), "{early:?}");
    agent.clean_up().await.unwrap();
    let end = timeout(SOON, reading).await;
    assert_eq!(end.expect("the stream ends at once"), None);
    assert_eq!(timeout(SOON, agent.mail().next()).await.unwrap(), None);
}

async fn mail_asked_for_before_registering_is_read_afterwards(world: &dyn World) {
    let agent = world.agent();
    let mut events = agent.mail();
    let mail = Mail::new("note").with("peer", "a");
    let (event, ()) = tokio::join!(timeout(SOON, events.next()), async {
        agent.register(named("a")).await.unwrap();
        agent.send_mail("a", &mail).await.unwrap();
    });
    assert_eq!(event.unwrap(), Some(MailEvent::Mail(mail)));
}

async fn records_are_seen_by_peers_until_they_are_withdrawn(world: &dyn World) {
    let (owner, reader) = (join(world, "w:0").await, join(world, "r").await);
    let name = "rpc:events:w:0:r";
    let record = json!({"addr": u64::MAX, "length": 512_000_000, "rkey": u32::MAX, "lkey": 0});
    assert_eq!(reader.lookup("w:0", name).await.unwrap(), None);
    owner.publish(name, json!(null)).await.unwrap();
    owner.publish(name, record.clone()).await.unwrap();
    owner.publish("other", json!([1])).await.unwrap();
    assert_eq!(reader.lookup("w:0", name).await.unwrap(), Some(record));
    owner.withdraw(name).await.unwrap();
    owner.withdraw(name).await.unwrap();
    assert_eq!(reader.lookup("w:0", name).await.unwrap(), None);
    assert_eq!(
        reader.lookup("w:0", "other").await.unwrap(),
        Some(json!([1]))
    );
}

async fn records_go_with_their_owner(world: &dyn World) {
    let (owner, reader) = (join(world, "w:0").await, join(world, "r").await);
    owner.publish("ring", json!(1)).await.unwrap();
    owner.clean_up().await.unwrap();
    assert_eq!(reader.lookup("w:0", "ring").await.unwrap(), None);
}

async fn declared_peers_come_by_mail(world: &dyn World) {
    let agent = join(world, "a").await;
    let mut events = agent.mail();
    agent.set_topology(&aliases(&["b:0", "c"])).await.unwrap();
    for peer in ["b:0", "c"] {
        let event = timeout(SOON, events.next()).await.unwrap();
        let Some(MailEvent::Mail(mail)) = event else {
            panic!("{event:?}");
        };
        assert_eq!(
            (mail.kind.as_str(), mail.peer()),
            ("connect_peer", Some(peer))
        );
        assert!(mail.get("timestamp").unwrap().parse::<f64>().unwrap() > 1e9);
    }
}

async fn peers_are_told_when_an_agent_leaves_that_declared_them(world: &dyn World) {
    let (leaver, peer) = (join(world, "a:0").await, join(world, "b:0").await);
    let stranger = join(world, "c").await;
    leaver.set_topology(&aliases(&["b:0"])).await.unwrap();
    leaver.clean_up().await.unwrap();
    assert_eq!(next_event(&*peer).await, left("a:0"));
    assert_quiet(&*stranger).await;
}

async fn an_agent_is_told_when_a_peer_leaves_that_it_declared(world: &dyn World) {
    let (agent, leaver) = (join(world, "a:0").await, join(world, "b:0").await);
    agent.set_topology(&aliases(&["x", "b:0"])).await.unwrap();
    leaver.clean_up().await.unwrap();
    assert_eq!(next_event(&*agent).await, left("b:0"));
}

async fn a_declaration_replaces_the_one_before(world: &dyn World) {
    let (leaver, first, second) = (
        join(world, "a").await,
        join(world, "b").await,
        join(world, "c").await,
    );
    leaver.set_topology(&aliases(&["b"])).await.unwrap();
    leaver.set_topology(&aliases(&["c"])).await.unwrap();
    leaver.clean_up().await.unwrap();
    assert_eq!(next_event(&*second).await, left("a"));
    assert_quiet(&*first).await;
}

async fn fence_1_a_new_life_is_not_told_of_an_earlier_ones_peers(world: &dyn World) {
    let leaver = join(world, "a").await;
    leaver.set_topology(&aliases(&["b"])).await.unwrap();
    leaver.clean_up().await.unwrap();
    let peer = join(world, "b").await;
    assert_quiet(&*peer).await;
}

async fn entities_are_listed_by_kind_until_they_are_retracted(world: &dyn World) {
    let (owner, reader) = (join(world, "a").await, join(world, "b").await);
    assert_eq!(entities(&*reader, "rpc").await, []);
    let all = [entity("x/1", "rpc"), entity("y:2", "rpc")];
    for entity in all.iter().chain([&entity("z", "cache")]) {
        owner.advertise(entity.clone()).await.unwrap();
    }
    assert_eq!(entities(&*reader, "rpc").await, all);
    owner.retract("x/1").await.unwrap();
    owner.retract("unknown").await.unwrap();
    assert_eq!(entities(&*reader, "rpc").await, all[1..]);
    assert_eq!(entities(&*owner, "cache").await, [entity("z", "cache")]);
}

async fn an_entity_advertised_again_is_replaced(world: &dyn World) {
    let agent = join(world, "a").await;
    agent.advertise(entity("x", "rpc")).await.unwrap();
    let other = Entity {
        metadata: json!([1]),
        ..entity("x", "rpc")
    };
    agent.advertise(other.clone()).await.unwrap();
    agent.heartbeat().await.unwrap();
    assert_eq!(entities(&*agent, "rpc").await, [other]);
}

async fn entities_go_with_their_owner_and_those_of_others_stay(world: &dyn World) {
    let (leaver, other) = (join(world, "a").await, join(world, "a:0").await);
    leaver.advertise(entity("1", "rpc")).await.unwrap();
    other.advertise(entity("2", "rpc")).await.unwrap();
    leaver.advertise(entity("3", "rpc")).await.unwrap();
    leaver.clean_up().await.unwrap();
    assert_eq!(entities(&*other, "rpc").await, [entity("2", "rpc")]);
}

async fn whoever_watches_entities_is_told_what_there_is_and_what_happens(world: &dyn World) {
    let (owner, reader) = (join(world, "a").await, join(world, "b").await);
    owner.advertise(entity("1", "rpc")).await.unwrap();
    let mut follower = Follower::new(&*reader, "rpc");
    follower.until(&[entity("1", "rpc")]).await;
    owner.advertise(entity("2", "rpc")).await.unwrap();
    owner.advertise(entity("3", "cache")).await.unwrap();
    follower
        .until(&[entity("1", "rpc"), entity("2", "rpc")])
        .await;
    owner.retract("1").await.unwrap();
    follower.until(&[entity("2", "rpc")]).await;
    owner.clean_up().await.unwrap();
    follower.until(&[]).await;
}

async fn watching_entities_ends_when_the_agent_leaves(world: &dyn World) {
    let agent = join(world, "a").await;
    let mut events = agent.watch_entities("rpc");
    assert_eq!(events.next().await, Some(EntityEvent::All(Vec::new())));
    agent.clean_up().await.unwrap();
    assert_eq!(timeout(SOON, events.next()).await, Ok(None));
}
