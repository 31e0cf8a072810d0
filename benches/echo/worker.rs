//! Agents: the service that is called, the process that serves it, and what calls it.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use slimerpc_actors::{Builder, Limits, PeerAgent, Polling, Proxy, Timeouts, service};
use tokio::task::spawn_blocking;

use crate::account::Account;
use crate::missing::Missing;
use crate::role::{Role, told};
use crate::suite::Suite;
use crate::support::footprint::allow_many_files;
use crate::support::{HOST, Peer, Result};
use crate::traces;

/// Long enough that neither side sleeps while it is measured.
const BUSY: Duration = Duration::from_millis(10);

pub(crate) struct Echo;

#[service]
impl Echo {
    #[method(raw)]
    fn raw(&mut self, request: &[u8]) -> Vec<u8> {
        request.to_vec()
    }

    /// From the ring to where it is sent from.
    #[method(raw, inplace)]
    fn in_place(&mut self, request: &[u8], reply: &mut [u8]) -> usize {
        reply[..request.len()].copy_from_slice(request);
        request.len()
    }

    /// Sent from where it arrived.
    #[method(raw, inplace)]
    fn untouched(&mut self, bytes: &mut [u8]) -> usize {
        bytes.len()
    }

    #[method]
    fn typed(&mut self, request: String) -> String {
        request
    }

    #[method]
    fn add(&mut self, a: i64, b: i64) -> i64 {
        a + b
    }
}

/// How agents are set; what is not is as it is by default.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Agents {
    /// Where they find each other.
    control: String,
    device: String,
    slot_size: Option<usize>,
    max_inflight: Option<usize>,
    busy_poll: Option<Duration>,
    counts: bool,
    tls: Option<[PathBuf; 3]>,
    idle_after: Option<Duration>,
    /// Somebody listens for the spans of one call in so many.
    listens: Option<u32>,
}

impl Agents {
    /// As they are by default.
    pub(crate) fn of(suite: &Suite) -> Self {
        Self {
            control: HOST.to_owned(),
            device: suite.args.device.clone(),
            slot_size: None,
            max_inflight: None,
            busy_poll: None,
            counts: false,
            tls: None,
            idle_after: None,
            listens: None,
        }
    }

    /// On this device.
    pub(crate) fn over(mut self, device: &str) -> Self {
        device.clone_into(&mut self.device);
        self
    }

    /// With certificates, over TCP.
    #[cfg(feature = "tls")]
    pub(crate) fn tls(mut self, files: slimerpc::tls::TlsFiles) -> Self {
        self.tls = Some([files.cert, files.key, files.ca]);
        self
    }

    pub(crate) fn control(mut self, control: &str) -> Self {
        control.clone_into(&mut self.control);
        self
    }

    /// Both sides poll while they are measured.
    pub(crate) fn polling(self) -> Self {
        self.busy_poll(BUSY)
    }

    pub(crate) fn busy_poll(mut self, budget: Duration) -> Self {
        self.busy_poll = Some(budget);
        self
    }

    /// Calls are counted, and served as metrics.
    pub(crate) fn counting(mut self) -> Self {
        self.counts = true;
        self
    }

    /// In the worker's process, somebody listens for the spans of one call in so many.
    pub(crate) fn listening(mut self, one_in: Option<u32>) -> Self {
        self.listens = one_in;
        self
    }

    /// Connections rest after so long without a call.
    pub(crate) fn idle_after(mut self, idle: Duration) -> Self {
        self.idle_after = Some(idle);
        self
    }

    /// Slots for payloads of so many bytes.
    pub(crate) fn slots(mut self, count: usize, payload: usize) -> Self {
        self.max_inflight = Some(count);
        self.slot_size = Some(payload + 64);
        self
    }

    pub(crate) fn named(&self, name: &str) -> Builder {
        let mut builder = PeerAgent::builder()
            .control(&self.control)
            .device(&self.device)
            .timeouts(Timeouts::default().connect_timeout(Duration::from_secs(60)))
            .alias(format!("{name}:{}", std::process::id()));
        if self.counts {
            builder = builder.metrics_address("127.0.0.1:0");
        }
        if let Some([cert, key, ca]) = &self.tls {
            builder = builder.tls(cert, key, ca);
        }
        if let Some(bytes) = self.slot_size {
            builder = builder.limits(Limits::default().slot_size(bytes));
        }
        if let Some(calls) = self.max_inflight {
            builder = builder.limits(Limits::default().max_inflight(calls));
        }
        if let Some(budget) = self.busy_poll {
            builder = builder.polling(Polling::default().busy_poll(budget));
        }
        if let Some(idle) = self.idle_after {
            builder = builder.timeouts(Timeouts::default().idle_after(idle));
        }
        builder
    }
}

/// A process that serves [`Echo`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Worker {
    settings: Agents,
    agents: usize,
    /// Of each agent: the first under its own name, the others under [those](service_name).
    services: usize,
}

/// The name of the service with that number, from 1.
pub(crate) fn service_name(number: usize) -> String {
    format!("echo-{number}")
}

impl Worker {
    /// With one agent and one service.
    pub(crate) fn new(settings: Agents) -> Self {
        Self {
            settings,
            agents: 1,
            services: 1,
        }
    }

    pub(crate) fn agents(mut self, count: usize) -> Self {
        self.agents = count;
        self
    }

    pub(crate) fn services(mut self, count: usize) -> Self {
        self.services = count;
        self
    }

    /// Starts it; when this returns, it serves.
    pub(crate) fn start(self) -> Result<WorkerProcess> {
        let mut peer = Role::Worker(self).start()?;
        let aliases = serde_json::from_str(&peer.line()?)?;
        Ok(WorkerProcess { peer, aliases })
    }
}

/// A process that serves, as the one that started it sees it.
pub(crate) struct WorkerProcess {
    pub(crate) peer: Peer,
    aliases: Vec<String>,
}

impl WorkerProcess {
    /// Of its first agent.
    pub(crate) fn alias(&self) -> &str {
        &self.aliases[0]
    }

    pub(crate) fn aliases(&self) -> &[String] {
        &self.aliases
    }

    /// How many files it has open.
    pub(crate) fn descriptors(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.peer.id()))?.count())
    }

    pub(crate) fn account(&mut self) -> Result<Account> {
        Ok(serde_json::from_str(&self.peer.ask("account")?)?)
    }
}

/// The other process.
pub(crate) fn serve(worker: &Worker) -> Result<()> {
    allow_many_files()?;
    if let Some(one_in) = worker.settings.listens {
        traces::listen(one_in)?;
    }
    actix::System::new().block_on(async {
        let (mut agents, mut serving) = (Vec::new(), Vec::new());
        for number in 0..worker.agents {
            let name = format!("worker-{number}");
            let agent = worker.settings.named(&name).start().await?;
            serving.push(agent.serve(Echo).await?);
            for number in 1..worker.services {
                serving.push(agent.serve(Echo).named(service_name(number)).await?);
            }
            agents.push(agent);
        }
        let aliases: Vec<_> = agents.iter().map(PeerAgent::alias).collect();
        println!("{}", serde_json::to_string(&aliases)?);
        loop {
            let line = spawn_blocking(|| told().map_err(|error| error.to_string()));
            if line.await??.is_none() {
                break;
            }
            println!("{}", serde_json::to_string(&Account::of_this_process()?)?);
        }
        for agent in agents {
            agent.shutdown().await?;
        }
        Ok(())
    })
}

/// A process that serves, and an agent of ours that calls it. Our agent lives on a thread of the
/// library's.
pub(crate) struct Pair {
    // In this order: callers leave before the service ends.
    pub(crate) echo: Proxy<Echo>,
    pub(crate) agent: PeerAgent,
    pub(crate) working: WorkerProcess,
}

impl Pair {
    pub(crate) fn start(suite: &Suite, settings: &Agents) -> Result<Self> {
        Self::with(suite, settings, Worker::new(settings.clone()))
    }

    pub(crate) fn with(suite: &Suite, settings: &Agents, worker: Worker) -> Result<Self> {
        let name = format!("caller-{}", suite.number());
        let starting = settings.named(&name).start();
        let agent = suite.runtime.block_on(starting).map_err(Missing::because)?;
        let working = worker.start()?;
        let echo = suite.runtime.block_on(agent.proxy(working.alias()))?;
        Ok(Self {
            echo,
            agent,
            working,
        })
    }

    pub(crate) fn end(self, suite: &Suite) -> Result<()> {
        Ok(suite.runtime.block_on(self.agent.shutdown())?)
    }
}
