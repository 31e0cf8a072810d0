use serde_json::{Value, json};

use super::*;

/// What DLSlime's reporter wrote, of an agent on soft-RoCE.
fn original() -> Value {
    json!({
        "schema_version": 1, "session_id": "driver:0:42:1795331684000", "peer_id": "driver:0", "host": "guest",
        "pid": 42, "reported_at_ms": 1795331685000u64,
        "summary": {"assign_total": 10, "batch_total": 5, "submitted_bytes_total": 9, "completed_bytes_total": 8,
            "failed_bytes_total": 1, "pending_ops": -1, "pending_by_op": {"read": 0, "imm_recv": 2048}, "error_total": 2,
            "user_mr_count": 1, "user_mr_bytes": 4096, "sys_mr_count": 2, "sys_mr_bytes": 512_000_000,
            "mr_count": 3, "mr_bytes": 512_004_096},
        "nics": [{"nic": "rxe0", "nic_bdf": "", "assign_total": 10, "pending_ops": 3, "cq_errors_total": 1,
            "ewma_bandwidth_bps": 0.5, "by_op": {"write": {"assign": 1, "pending": -1}}}],
        "ewma_bandwidth_bps": 9.5,
        "connections": [{"conn_id": "x", "peer": "worker:0", "local_nic": "rxe0", "remote_nic": "rxe0",
            "state": "connected", "connected": true}],
    })
}

fn parse(json: &Value) -> Result<ObsRecord, ObsProblem> {
    ObsRecord::parse(json.to_string().as_bytes())
}

/// A record with one field replaced, or added.
fn with(field: &str, value: Value) -> Value {
    let mut record = original();
    record[field] = value;
    record
}

#[test]
fn a_record_of_the_original_is_read_in_full() {
    let record = parse(&original()).expect("it is one");
    assert_eq!(record.summary.pending_ops, -1);
    assert_eq!(record.summary.pending_by_op["imm_recv"], 2048);
    assert_eq!(record.nics[0].by_op["write"]["pending"], -1);
    assert!(record.connections[0].connected);
    assert_eq!(record.slimerpc, None);
    let written = serde_json::to_value(&record).expect("it has text keys");
    for field in ["session_id", "summary", "connections", "ewma_bandwidth_bps"] {
        assert_eq!(written[field], original()[field], "{field}");
    }
    assert!(written.get("status").is_none() && written.get("slimerpc").is_none());
}

#[test]
fn what_native_agents_add_is_read_as_it_was_written() {
    let slimerpc = SlimerpcObs {
        version: "0.1.0".to_owned(),
        settings: [
            ("max_inflight", SlimerpcValue::from(16u64)),
            ("tls", false.into()),
            ("control", "http://ctrl:3000".to_owned().into()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into(),
        peers: vec![SlimerpcPeer {
            alias: "w".to_owned(),
            state: SlimerpcPeerState::Stalled,
            ..SlimerpcPeer::default()
        }],
        services: vec![SlimerpcService {
            name: "calc".to_owned(),
            state: SlimerpcServiceState::Up,
            methods: vec![SlimerpcMethod::default()],
            ..SlimerpcService::default()
        }],
        calls: vec![SlimerpcCall::default()],
        events: vec![SlimerpcEvent::default()],
        violations: [("rkey".to_owned(), 3)].into(),
        ..SlimerpcObs::default()
    };
    let written = serde_json::to_value(&slimerpc).expect("it has text keys");
    assert_eq!(written["peers"][0]["state"], "stalled");
    assert_eq!(written["services"][0]["type"], "");
    let read = parse(&with("slimerpc", written)).expect("it is one");
    assert_eq!(read.slimerpc, Some(slimerpc));
}

#[test]
fn what_a_later_release_adds_is_skipped_and_what_it_leaves_out_is_default() {
    let record = with(
        "slimerpc",
        json!({"shiny": [1, {}], "peers": [{"state": "dreaming", "mood": 3}]}),
    );
    let slimerpc = parse(&record)
        .expect("it is one")
        .slimerpc
        .expect("it is there");
    assert_eq!(slimerpc.peers[0].state, SlimerpcPeerState::Unknown);
    assert_eq!(slimerpc.services, []);
}

#[test]
fn input_1_records_that_cannot_be_used_are_typed_problems() {
    for text in [
        "",
        "null",
        "[]",
        "7",
        "{",
        "{}",
        "\"x\"",
        &"[".repeat(100_000),
    ] {
        let problem = ObsRecord::parse(text.as_bytes()).expect_err("it is no record");
        assert!(
            matches!(problem, ObsProblem::Malformed { .. }),
            "{text:.20}: {problem}"
        );
    }
    assert!(ObsRecord::parse(&[0xff, 0xfe]).is_err());
    let found = 2;
    assert_eq!(
        parse(&json!({"schema_version": 2, "peer_id": [7]})),
        Err(ObsProblem::OtherSchema { found })
    );
    assert_eq!(
        parse(&with("peer_id", json!(""))),
        Err(ObsProblem::Nameless)
    );
    for (field, value) in [
        ("pid", json!(-1)),
        ("pid", json!("42")),
        ("reported_at_ms", json!(1.5)),
        ("summary", json!(7)),
        ("summary", json!({"assign_total": 1e300})),
        ("nics", json!({"nic": "rxe0"})),
        ("connections", json!([7])),
        ("slimerpc", json!({"settings": {"a": {"b": 1}}})),
        ("slimerpc", json!({"events": [{"at_ms": -1}]})),
    ] {
        let read = parse(&with(field, value.clone()));
        assert!(
            matches!(read, Err(ObsProblem::Malformed { .. })),
            "{field} {value}"
        );
    }
}

#[test]
fn input_1_a_record_beyond_a_mebibyte_is_not_read() {
    let mut text = original().to_string().into_bytes();
    text.resize(ObsRecord::LONGEST, b' ');
    assert!(ObsRecord::parse(&text).is_ok());
    text.push(b' ');
    assert_eq!(ObsRecord::parse(&text), Err(ObsProblem::TooLong));
}

#[test]
fn input_1_what_a_problem_says_is_short_and_printable() {
    let odd = with("pid", json!(format!("\x1b[31m{}", "x".repeat(100_000))));
    let problem = parse(&odd).expect_err("a process has a number").to_string();
    assert!(
        problem.len() < 300 && !problem.contains('\x1b'),
        "{problem}"
    );
}

#[test]
fn input_1_lists_and_names_are_cut_at_their_limits() {
    let many = |item: Value, count: usize| Value::Array(vec![item; count]);
    let mut record = with("connections", many(json!({}), 9000));
    record["nics"] = many(json!({}), 9000);
    record["host"] = json!("ö".repeat(1000));
    let entries = |count: usize| -> Value {
        (0..count)
            .map(|i| (i.to_string(), Value::from(i)))
            .collect()
    };
    record["slimerpc"] = json!({
        "peers": many(json!({}), 9000),
        "services": many(json!({"methods": many(json!({}), 1)}), 300),
        "calls": many(json!({}), 2000),
        "events": many(json!({"text": "x".repeat(300)}), 100),
        "settings": entries(300),
        "violations": entries(100),
    });
    record["slimerpc"]["services"][0]["methods"] = many(json!({}), 2000);
    let read = parse(&record).expect("it is one");
    assert_eq!((read.connections.len(), read.nics.len()), (4096, 4096));
    assert_eq!(read.host, "ö".repeat(128));
    let ours = read.slimerpc.expect("it is there");
    assert_eq!((ours.peers.len(), ours.services.len()), (4096, 256));
    assert_eq!((ours.calls.len(), ours.events.len()), (1024, 64));
    assert_eq!((ours.settings.len(), ours.violations.len()), (256, 64));
    assert_eq!(ours.services[0].methods.len(), 1024);
    assert_eq!(ours.events[0].text.len(), ObsRecord::LONGEST_NAME);
}

#[test]
fn what_is_cut_off_must_be_json_too() {
    let text = original().to_string();
    let odd = text.replace(
        "\"connections\":[",
        &format!("\"connections\":[{}!", "{},".repeat(5000)),
    );
    assert!(matches!(
        ObsRecord::parse(odd.as_bytes()),
        Err(ObsProblem::Malformed { .. })
    ));
}

#[test]
fn a_record_is_alive_until_it_is_older_than_it_may_be_and_stopped_if_it_says_so() {
    let stale = Duration::from_secs(45);
    let at = |record: &ObsRecord, after| record.state(record.reported_at_ms + after, stale);
    let record = parse(&original()).expect("it is one");
    assert_eq!(at(&record, 45_000), ObsState::Alive);
    assert_eq!(at(&record, 45_001), ObsState::Stale);
    assert_eq!(
        record.state(0, stale),
        ObsState::Alive,
        "its clock is ahead"
    );
    let stopped = parse(&with("status", json!("stopped"))).expect("it is one");
    assert_eq!(at(&stopped, 99_000), ObsState::Stopped);
}

#[test]
fn input_1_a_record_full_of_methods_and_counts_is_cut_over_all_of_it() {
    let services = vec![json!({"methods": vec![json!({}); 1000]}); 10];
    let mut record = with("slimerpc", json!({"services": services}));
    record["nics"] = json!(vec![
        json!({"by_op": {"write": {"a": 1}, "read": {"b": 1}}});
        4000
    ]);
    let record = parse(&record).expect("it is one");
    let services = record.slimerpc.expect("it is there").services;
    let methods: Vec<_> = services
        .iter()
        .map(|service| service.methods.len())
        .collect();
    assert_eq!(methods, [1000, 1000, 1000, 1000, 96, 0, 0, 0, 0, 0]);
    let operations: usize = record.nics.iter().map(|nic| nic.by_op.len()).sum();
    assert_eq!(operations, 2048);
}
