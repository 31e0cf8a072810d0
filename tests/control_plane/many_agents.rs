//! A thousand agents at one NanoCtrl, all at once.
#![allow(clippy::unwrap_used)]

use std::future::Future;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use slimerpc::control::{Control, ControlError, NanoCtrl, Registration};
use slimerpc::fabric::raise_open_files;
use support::NanoCtrlServer;
use tokio::time::sleep;

const COUNT: usize = 1000;
/// Fewer files than agents, as a server may have open that was started in a shell.
const FILES: u32 = 256;
/// Nobody may fail because the machine is slow.
const PATIENCE: Duration = Duration::from_secs(300);
/// Longer than the server waits for Redis, or lets a request wait for its turn.
const STALL: Duration = Duration::from_secs(5);

fn alias(number: usize) -> String {
    format!("w:{}", number % COUNT)
}

fn agents(server: &NanoCtrlServer) -> Vec<NanoCtrl> {
    raise_open_files().unwrap();
    let agent = |_| NanoCtrl::new(&server.url(), "many").unwrap();
    let patient = |agent: NanoCtrl| agent.register_timeout(PATIENCE).request_timeout(PATIENCE);
    (0..COUNT).map(agent).map(patient).collect()
}

async fn register(agent: &NanoCtrl, number: usize) -> Result<(), ControlError> {
    let registration = Registration {
        alias: Some(alias(number)),
        ..Registration::default()
    };
    agent.register(registration).await.map(drop)
}

async fn declare(agent: &NanoCtrl, number: usize) -> Result<(), ControlError> {
    agent.set_topology(&[alias(number + 1)]).await
}

async fn find(agent: &NanoCtrl, number: usize) -> Result<(), ControlError> {
    let other = alias(number + 1);
    assert!(agent.peer(&other).await?.is_some());
    let record = agent.lookup(&other, "number").await?;
    assert_eq!(record, Some(json!((number + 1) % COUNT)));
    Ok(())
}

/// All do this at once, and none fails.
async fn all<F: Future<Output = Result<(), ControlError>>>(each: impl Iterator<Item = F>) {
    let done: Result<Vec<()>, _> = join_all(each).await.into_iter().collect();
    done.unwrap();
}

#[tokio::test]
async fn a_thousand_agents_register_find_each_other_and_leave_at_once() {
    let server = NanoCtrlServer::start_with_files(FILES);
    let agents = agents(&server);
    let numbered = || agents.iter().enumerate();
    all(numbered().map(|(number, agent)| register(agent, number))).await;
    all(numbered().map(|(number, agent)| declare(agent, number))).await;
    all(numbered().map(|(number, agent)| agent.publish("number", json!(number)))).await;
    all(numbered().map(|(number, agent)| find(agent, number))).await;
    all(agents.iter().map(|agent| agent.heartbeat())).await;
    all(agents.iter().map(|agent| agent.clean_up())).await;
    let left = server.redis.keys();
    let are_notices = left.iter().all(|key| key.starts_with("many:inbox:"));
    assert!(are_notices, "{left:?}");
}

/// Commands of scripts included. An index is looked through at random for agents that are gone, so
/// the numbers vary by a few.
#[tokio::test]
async fn an_agent_takes_few_commands_of_redis() {
    let server = NanoCtrlServer::start();
    let agents = agents(&server);
    let mut before = server.redis.calls();
    let mut took = |what: &str, most: u64| {
        let calls = server.redis.calls() - before;
        before += calls;
        assert!(calls <= most, "{what}: {calls} commands");
    };
    // The first has the server load its scripts.
    for (number, agent) in agents[..2].iter().enumerate() {
        register(agent, number).await.unwrap();
        took("register", 64);
        declare(agent, number).await.unwrap();
        took("declare", 20);
        agent.publish("number", json!(number)).await.unwrap();
        took("publish", 12);
    }
    find(&agents[0], 0).await.unwrap();
    took("find", 2);
    agents[0].heartbeat().await.unwrap();
    took("heartbeat", 34);
    agents[0].clean_up().await.unwrap();
    took("leave", 44);
}

#[tokio::test]
async fn a_redis_that_stalls_makes_nobody_fail_who_has_patience() {
    let server = NanoCtrlServer::start();
    let agents = agents(&server);
    for (number, agent) in agents[..2].iter().enumerate() {
        register(agent, number).await.unwrap();
    }
    server.redis.suspend();
    let ask = agents.iter().map(|agent| agent.list_agents());
    let (answers, ()) = tokio::join!(join_all(ask), async {
        sleep(STALL).await;
        server.redis.resume();
    });
    for answer in answers {
        assert_eq!(answer.unwrap().len(), 2);
    }
}
