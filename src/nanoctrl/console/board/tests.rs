use serde_json::{Value, json};

use super::*;

/// Unix time at which the tests begin, in milliseconds.
const BEGAN: u64 = 1_800_000_000_000;

/// A board, and the time.
struct Scene {
    board: Board,
    started: Instant,
    passed: Duration,
}

impl Scene {
    fn new() -> Self {
        // Some systems count from their start, and records may be older.
        let started = Instant::now() + Duration::from_secs(86_400);
        Self {
            board: Board::default(),
            started,
            passed: Duration::ZERO,
        }
    }

    fn now_ms(&self) -> u64 {
        BEGAN + self.passed.as_millis() as u64
    }

    /// What a reading tells, after so many seconds.
    fn read(&mut self, seconds: u64, agents: Vec<Found>) -> Value {
        self.passed += Duration::from_secs(seconds);
        let reading = Reading {
            agents,
            ..Reading::default()
        };
        let now = self.started + self.passed;
        let told = self.board.update(reading, now, self.now_ms());
        serde_json::from_str(&told).expect("it is JSON")
    }

    fn state(&self, alias: &str) -> AgentState {
        self.board.agents[&(String::new(), alias.to_owned())].state
    }
}

fn row(alias: &str, incarnation: Option<&str>, registered_at: u64) -> AgentRow {
    AgentRow {
        name: alias.to_owned(),
        address: "127.0.0.1".to_owned(),
        device: None,
        ib_port: None,
        link_type: None,
        resource: None,
        memory_keys: None,
        incarnation: incarnation.map(str::to_owned),
        registered_at: Some(registered_at),
    }
}

fn record(alias: &str, reported_at_ms: u64, slimerpc: &Value) -> ObsRecord {
    let record = json!({
        "schema_version": 1, "peer_id": alias, "reported_at_ms": reported_at_ms, "slimerpc": slimerpc,
    });
    ObsRecord::parse(record.to_string().as_bytes()).expect("it is one")
}

fn found(alias: &str, registration: Option<AgentRow>, record: Option<ObsRecord>) -> Found {
    Found {
        scope: String::new(),
        alias: alias.to_owned(),
        registration,
        record,
    }
}

fn kinds(told: &Value) -> Vec<&str> {
    let events = told["events"].as_array().expect("a list");
    events.iter().filter_map(|e| e["kind"].as_str()).collect()
}

#[test]
fn an_agent_whose_record_has_expired_is_as_silent_as_before_and_repeats_nothing() {
    let mut scene = Scene::new();
    let says = json!({"period_ms": 1000, "events": [{"at_ms": 1, "kind": "joined"}]});
    let registered = || Some(row("w", Some("1-a"), 0));
    let with = |at_ms| found("w", registered(), Some(record("w", at_ms, &says)));
    let without = || found("w", registered(), None);

    assert_eq!(kinds(&scene.read(0, vec![with(BEGAN)])), ["joined"]);
    scene.read(2, vec![with(BEGAN)]);
    scene.read(2, vec![with(BEGAN)]);
    assert_eq!(scene.state("w"), AgentState::Stalled);
    for _ in 0..3 {
        assert_eq!(kinds(&scene.read(2, vec![without()])), [""; 0]);
        assert_eq!(scene.state("w"), AgentState::Stalled);
    }
    let told = scene.read(1, vec![with(BEGAN + 21_000)]);
    assert_eq!(kinds(&told), ["back"]);
}

#[test]
fn a_new_life_without_records_has_nothing_of_the_last_one() {
    for (old, new) in [(Some("1-a"), Some("2-b")), (None, None)] {
        let mut scene = Scene::new();
        let says = record("w", BEGAN, &json!({}));
        scene.read(0, vec![found("w", Some(row("w", old, 0)), Some(says))]);
        scene.read(5, vec![]);
        assert_eq!(scene.state("w"), AgentState::Gone);
        scene.read(5, vec![found("w", Some(row("w", new, 0)), None)]);
        assert_eq!(scene.state("w"), AgentState::Alive);
    }
}

#[test]
fn a_loss_is_not_that_of_who_has_come_since_under_the_same_alias() {
    let mut scene = Scene::new();
    let loses = |since_ms: u64| {
        let peers =
            json!([{"alias": "re", "state": "gone", "why": "it ended", "since_ms": since_ms}]);
        found(
            "w",
            None,
            Some(record("w", since_ms.max(BEGAN), &json!({"peers": peers}))),
        )
    };
    let re = || found("re", Some(row("re", Some("2-b"), BEGAN / 1000)), None);

    scene.read(0, vec![loses(BEGAN - 86_400_000), re()]);
    assert_eq!(scene.state("re"), AgentState::Alive);
    scene.read(1, vec![loses(BEGAN + 1000), re()]);
    assert_eq!(scene.state("re"), AgentState::Gone);
    scene.read(1, vec![loses(0), re()]);
    assert_eq!(scene.state("re"), AgentState::Gone, "it does not say when");
}

#[test]
fn a_clock_that_is_behind_makes_nobody_stalled_and_silence_does() {
    let mut scene = Scene::new();
    let behind = BEGAN - 3_600_000;
    let says = |alias, at_ms| {
        let record = record(alias, at_ms, &json!({"period_ms": 1000}));
        found(alias, Some(row(alias, Some("1-a"), 0)), Some(record))
    };
    scene.read(0, vec![]);
    for second in 0..10 {
        let told = scene.read(
            1,
            vec![says("w", behind + second * 1000), says("dead", behind)],
        );
        assert_eq!(scene.state("w"), AgentState::Alive, "after {second} s");
        let is_dead = scene.state("dead") == AgentState::Stalled;
        assert_eq!(is_dead, second >= 3, "after {second} s");
        let is_told = kinds(&told).iter().any(|kind| *kind != "appeared");
        assert!(!is_told, "{told}");
    }
}
