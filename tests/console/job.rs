//! A job whose agents are records: a real NanoCtrl and a real Redis hold what agents would have
//! written there.
#![allow(clippy::unwrap_used)]

use std::time::{SystemTime, UNIX_EPOCH};

use redis::pipe;
use serde_json::json;
use slimerpc::control::keys::Keys;
use slimerpc::control::obs::{
    ObsConnection, ObsNic, ObsRecord, SlimerpcCall, SlimerpcEvent, SlimerpcMemory, SlimerpcMethod,
    SlimerpcObs, SlimerpcPeer, SlimerpcPeerState, SlimerpcService, SlimerpcServiceState,
};
use support::NanoCtrlServer;

/// Registrations and records of agents.
pub(crate) struct Job {
    pub(crate) server: NanoCtrlServer,
    pub(crate) agents: Vec<(&'static str, ObsRecord)>,
}

pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_millis() as u64
}

/// An agent that has no peers and no services yet.
pub(crate) fn agent(alias: &str, host: &str) -> ObsRecord {
    let now = now_ms();
    ObsRecord {
        schema_version: ObsRecord::SCHEMA_VERSION,
        peer_id: alias.to_owned(),
        session_id: format!("{alias}:4242:{now}"),
        host: host.to_owned(),
        pid: 4242,
        reported_at_ms: now,
        slimerpc: Some(SlimerpcObs {
            version: "0.1.0".to_owned(),
            incarnation: "9f3c51d2a07be644".to_owned(),
            started_ms: now - 5_025_000,
            period_ms: 1000,
            settings: [
                ("max_inflight", 16u64.into()),
                ("slot_size", 32_768u64.into()),
                ("busy_poll_us", 50u64.into()),
                ("control", "nanoctrl http://10.0.0.5:3000".to_owned().into()),
                ("tls", false.into()),
            ]
            .map(|(name, value)| (name.to_owned(), value))
            .into(),
            memory: SlimerpcMemory {
                registered_bytes: 96 << 20,
                pooled_bytes: 32 << 20,
            },
            ..SlimerpcObs::default()
        }),
        ..ObsRecord::default()
    }
}

pub(crate) fn peer(alias: &str, fabric: &str, state: SlimerpcPeerState) -> SlimerpcPeer {
    SlimerpcPeer {
        alias: alias.to_owned(),
        fabric: fabric.to_owned(),
        fabric_why: "another host".to_owned(),
        state,
        why: match state {
            SlimerpcPeerState::Gone => "its process has ended".to_owned(),
            _ => String::new(),
        },
        since_ms: now_ms() - 61_000,
    }
}

pub(crate) fn service(
    name: &str,
    type_name: &str,
    methods: &[(&str, f64, f64)],
) -> SlimerpcService {
    let methods = methods
        .iter()
        .map(|(name, per_second, p50_us)| SlimerpcMethod {
            name: (*name).to_owned(),
            calls: (per_second * 5_025.0) as u64,
            per_second: *per_second,
            p50_us: *p50_us,
            p99_us: p50_us * 3.4,
            p999_us: p50_us * 9.1,
            in_flight: (per_second / 900.0) as u64,
            ..SlimerpcMethod::default()
        });
    let methods: Vec<_> = methods.collect();
    SlimerpcService {
        name: name.to_owned(),
        type_name: type_name.to_owned(),
        state: SlimerpcServiceState::Up,
        callers: 3,
        in_flight: methods.iter().map(|method| method.in_flight).sum(),
        methods,
        ..SlimerpcService::default()
    }
}

pub(crate) fn event(ago_ms: u64, kind: &str, subject: &str, text: &str) -> SlimerpcEvent {
    SlimerpcEvent {
        at_ms: now_ms() - ago_ms,
        kind: kind.to_owned(),
        subject: subject.to_owned(),
        text: text.to_owned(),
    }
}

pub(crate) fn ours(record: &mut ObsRecord) -> &mut SlimerpcObs {
    record.slimerpc.as_mut().unwrap()
}

impl Job {
    /// No agents yet.
    pub(crate) fn empty() -> Self {
        Self {
            server: NanoCtrlServer::start(),
            agents: Vec::new(),
        }
    }

    /// A training job of a dozen agents on three hosts, with an agent of DLSlime among them. One
    /// trainer is stopped and one is gone.
    pub(crate) fn training() -> Self {
        use SlimerpcPeerState::{Alive, Gone, Stalled};
        let mut job = Self::empty();
        let trainers: Vec<String> = (0..8).map(|i| format!("trainer:{i}")).collect();
        let state = |trainer: usize| match trainer {
            5 => Stalled,
            6 => Gone,
            _ => Alive,
        };
        let mut driver = agent("driver:0", "node-1");
        for (i, trainer) in trainers.iter().enumerate() {
            let fabric = if i < 3 { "shm" } else { "RoCE" };
            ours(&mut driver)
                .peers
                .push(peer(trainer, fabric, state(i)));
        }
        ours(&mut driver).peers.push(peer("eval:0", "tcp", Alive));
        ours(&mut driver).calls = vec![SlimerpcCall {
            service: "trainer".to_owned(),
            method: "step".to_owned(),
            calls: 40_180,
            per_second: 8.0,
            p50_us: 182_000.0,
            p99_us: 240_400.0,
            p999_us: 301_000.0,
            in_flight: 8,
            ..SlimerpcCall::default()
        }];
        ours(&mut driver).events = vec![
            event(4_980_000, "joined", "trainer:6", "over RoCE"),
            event(1_900_000, "lost", "trainer:3", "no heartbeat for 3 s"),
            event(1_895_000, "healed", "trainer:3", "over RoCE, after 5 s"),
            event(
                64_000,
                "stalled",
                "trainer:5",
                "it is connected and sends no heartbeats",
            ),
            event(61_000, "lost", "trainer:6", "its process has ended"),
        ];
        job.agents.push(("", driver));
        for (i, alias) in trainers.iter().enumerate() {
            let host = ["node-1", "node-2", "node-3"][i / 3];
            let mut trainer = agent(alias, host);
            let mut steps = service(
                "trainer",
                "Trainer",
                &[("step", 1.0, 181_000.0), ("weights", 2.0, 940.0)],
            );
            steps.callers = 1;
            steps.in_flight = 1;
            if i == 3 {
                steps.restarts = 2;
                ours(&mut trainer).events = vec![event(
                    1_897_000,
                    "restarted",
                    "trainer",
                    "it panicked: loss is not finite",
                )];
            }
            let next = &trainers[(i + 1) % trainers.len()];
            let fabric = if (i + 1) % 3 == 0 { "RoCE" } else { "shm" };
            let link = peer(next, fabric, state((i + 1) % trainers.len()));
            ours(&mut trainer).peers = vec![
                peer("driver:0", if i < 3 { "shm" } else { "RoCE" }, Alive),
                link,
            ];
            ours(&mut trainer).services = vec![
                steps,
                service(
                    "gradients",
                    "Gradients",
                    &[("reduce", 412.0 + i as f64, 38.5)],
                ),
            ];
            trainer.nics = vec![ObsNic {
                nic: "mlx5_0".to_owned(),
                nic_bdf: "0000:17:00.0".to_owned(),
                completed_bytes_total: 318_000_000_000,
                ..ObsNic::default()
            }];
            if i == 5 || i == 6 {
                trainer.reported_at_ms -= 64_000;
            }
            job.agents.push(("", trainer));
        }
        let mut eval = agent("eval:0", "node-3");
        ours(&mut eval).services =
            vec![service("eval", "Eval", &[("perplexity", 0.2, 4_100_000.0)])];
        ours(&mut eval).peers = vec![peer("driver:0", "tcp", Alive), peer("kv:0", "RoCE", Alive)];
        ours(&mut eval).events = vec![event(
            900_000,
            "fabric",
            "driver:0",
            "RDMA failed twice in a row; over tcp for 5 min",
        )];
        job.agents.push(("", eval));
        let mut foreign = agent("kv:0", "node-2");
        foreign.slimerpc = None;
        foreign.connections = vec![ObsConnection {
            conn_id: "kv:0->eval:0".to_owned(),
            peer: "eval:0".to_owned(),
            local_nic: "mlx5_0".to_owned(),
            remote_nic: "mlx5_0".to_owned(),
            state: "connected".to_owned(),
            connected: true,
        }];
        job.agents.push(("", foreign));
        job.register();
        job.publish();
        job
    }

    /// So many agents on some hosts, each with a few peers and services.
    pub(crate) fn large(count: usize) -> Self {
        let mut job = Self::empty();
        for i in 0..count {
            let mut record = agent(&format!("worker:{i}"), &format!("node-{}", i / 25));
            for step in [1, 2, 25] {
                let other = format!("worker:{}", (i + step) % count);
                let fabric = if step == 25 { "RoCE" } else { "shm" };
                ours(&mut record)
                    .peers
                    .push(peer(&other, fabric, SlimerpcPeerState::Alive));
            }
            ours(&mut record).services = vec![
                service(
                    "shard",
                    "Shard",
                    &[("get", 900.0 + i as f64, 12.5), ("put", 40.0, 18.0)],
                ),
                service("health", "Health", &[("ping", 1.0, 3.0)]),
            ];
            ours(&mut record).events = vec![event(60_000, "joined", "worker:0", "over shm")];
            job.agents.push(("", record));
        }
        job.register();
        job.publish();
        job
    }

    /// Registers all agents as the server would.
    pub(crate) fn register(&self) {
        let mut redis = self.server.redis.connect();
        let mut pipe = pipe();
        for (scope, record) in &self.agents {
            let keys = Keys::new(*scope);
            let alias = &record.peer_id;
            let resource = json!({"nics": [{"name": "mlx5_0", "health": "AVAILABLE", "ports": [{"port": 1, "link_type": "RoCE"}]}]});
            let key = keys.agent(alias);
            pipe.cmd("HSET").arg(&key).arg("addr").arg("10.0.0.7");
            pipe.arg("device")
                .arg("mlx5_0")
                .arg("resource")
                .arg(resource.to_string());
            if record.slimerpc.is_some() {
                pipe.arg("incarnation").arg("9f3c51d2a07be644");
            }
            pipe.ignore();
            pipe.cmd("EXPIRE").arg(&key).arg(600).ignore();
            pipe.cmd("SADD").arg(keys.agents()).arg(alias).ignore();
        }
        pipe.query::<()>(&mut redis).unwrap();
    }

    /// Publishes the records of all agents as they are.
    pub(crate) fn publish(&self) {
        let mut redis = self.server.redis.connect();
        for chunk in self.agents.chunks(100) {
            let mut pipe = pipe();
            for (scope, record) in chunk {
                let key = Keys::new(*scope).obs(&record.peer_id);
                let text = serde_json::to_string(record).unwrap();
                pipe.cmd("SET")
                    .arg(key)
                    .arg(text)
                    .arg("EX")
                    .arg(180)
                    .ignore();
            }
            pipe.query::<()>(&mut redis).unwrap();
        }
    }

    /// Publishes the records of those that report, with what a second brings.
    pub(crate) fn tick(&mut self) {
        let now = now_ms();
        for (_, record) in &mut self.agents {
            if now.saturating_sub(record.reported_at_ms) > 30_000 {
                continue;
            }
            record.reported_at_ms = now;
            for service in record
                .slimerpc
                .iter_mut()
                .flat_map(|ours| &mut ours.services)
            {
                for method in &mut service.methods {
                    method.calls += method.per_second as u64;
                    method.per_second *= 1.01;
                }
            }
        }
        self.publish();
    }

    /// The address of the console.
    pub(crate) fn console(&self) -> String {
        format!("{}/console", self.server.url())
    }
}
