//! Ours: calls of bytes, written in place, and typed calls.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use slimerpc::fabric;
use slimerpc_actors::{Limits, Polling, Builder, PeerAgent, Proxy, Reply, service};
use tokio::runtime::Runtime;

use super::{OURS, Peer};
use crate::child::Child;
use crate::measure::{self, Echo, Job, Missing, Window};
use crate::support::{HOST, Result};
use crate::table::Report;

pub(super) const RAW: Peer = Peer {
    name: OURS,
    bytes: "no codec; copied by the caller into the service's ring, by the service into the caller's, and out by the caller; both poll",
    serve: Some(serve),
    measure: |job, report| measure(job, report, false),
};

pub(super) const TYPED: Peer = Peer {
    name: "slimerpc-typed",
    bytes: "bincode, bytes as a block; encoded into the peer's ring and decoded from there, each way; both poll",
    serve: Some(serve),
    measure: |job, report| measure(job, report, true),
};

/// Sizes up to this one are called through many small slots, others through few large ones.
const SMALL: usize = 64 << 10;
/// Of a slot, for its header and what a codec adds.
const ROOM: usize = 64;
const LARGE_SLOTS: usize = 2;
/// Long enough that neither side sleeps while it is measured.
const BUSY: Duration = Duration::from_millis(100);

struct Service;

#[service]
impl Service {
    #[method(raw, inplace)]
    fn raw(&mut self, request: &[u8], reply: &mut [u8]) -> usize {
        reply[..request.len()].copy_from_slice(request);
        request.len()
    }

    #[method]
    fn typed(&mut self, request: ByteBuf) -> ByteBuf {
        request
    }
}

/// What both sides must agree on.
#[derive(Serialize, Deserialize)]
struct Setting {
    device: String,
    /// Bytes and number of slots, of each kind of agents.
    kinds: Vec<(usize, usize)>,
}

impl Setting {
    fn new(job: &Job) -> Self {
        let inflight = job.inflight.iter().copied().max().unwrap_or(1);
        let mut kinds = vec![(SMALL + ROOM, inflight)];
        if job.largest() > SMALL {
            let slots = if job.first_size() > SMALL {
                inflight
            } else {
                LARGE_SLOTS
            };
            kinds.push((job.largest() + ROOM, slots));
        }
        Self {
            device: job.device.clone(),
            kinds,
        }
    }

    fn agents(&self, role: &str) -> impl Iterator<Item = Builder> {
        let role = role.to_owned();
        self.kinds.iter().map(move |&(slot_size, slots)| {
            PeerAgent::builder()
                .control(HOST)
                .device(&self.device)
                .alias(format!("{role}:{slot_size}:{}", std::process::id()))
                .limits(Limits::default().slot_size(slot_size).max_inflight(slots))
                .polling(Polling::default().busy_poll(BUSY))
        })
    }
}

struct Caller {
    small: Proxy<Service>,
    large: Option<Proxy<Service>>,
    is_typed: bool,
}

impl Caller {
    fn proxy(&self, request: &[u8]) -> &Proxy<Service> {
        let large = self.large.as_ref().filter(|_| request.len() > SMALL);
        large.unwrap_or(&self.small)
    }

    /// Calls through `call` now, and awaits each in turn.
    fn in_turn<T>(window: &mut Window, call: impl Fn() -> Reply<T>) -> Result<()> {
        let mut under_way = VecDeque::new();
        loop {
            while window.has_room() {
                under_way.push_back((window.begun(), call()));
            }
            let Some((began, reply)) = under_way.pop_front() else {
                return Ok(());
            };
            reply.wait()?;
            window.ended(began);
        }
    }
}

impl Echo for Caller {
    fn echo(&mut self, request: &[u8]) -> Result<impl AsRef<[u8]>> {
        let proxy = self.proxy(request);
        Ok(if self.is_typed {
            proxy.typed(ByteBuf::from(request)).wait()?.into_vec()
        } else {
            proxy.raw(request).wait()?
        })
    }

    fn many(&mut self, request: &[u8], window: &mut Window) -> Result<()> {
        let proxy = self.proxy(request);
        if self.is_typed {
            Self::in_turn(window, || proxy.typed(ByteBuf::from(request)))
        } else {
            Self::in_turn(window, || proxy.raw(request))
        }
    }
}

fn serve(at: &str) -> Result<()> {
    let setting: Setting = serde_json::from_str(at)?;
    actix::System::new().block_on(async {
        let mut agents = Vec::new();
        for agent in setting.agents("service") {
            let agent = agent.start().await?;
            agent.serve(Service).await?;
            println!("{}", agent.alias());
            agents.push(agent);
        }
        // This process ends with its parent.
        std::future::pending().await
    })
}

fn measure(job: &Job, report: &mut Report, is_typed: bool) -> Result<()> {
    if let Err(error) = fabric::open(&job.device, 1) {
        return Err(Missing(error.to_string()).into());
    }
    let setting = Setting::new(job);
    let at = serde_json::to_string(&setting)?;
    let peer = if is_typed { &TYPED } else { &RAW };
    let mut child = Child::serving(peer.name, &at, job.limit())?;
    // The agents live on threads of the library's, this one only waits for replies.
    let runtime = Runtime::new()?;
    let (mut agents, mut proxies) = (Vec::new(), Vec::new());
    for agent in setting.agents("caller") {
        let service = child.line()?;
        let agent = runtime.block_on(agent.start())?;
        proxies.push(runtime.block_on(agent.proxy::<Service>(&service))?);
        agents.push(agent);
    }
    let mut proxies = proxies.into_iter();
    let mut caller = Caller {
        small: proxies.next().ok_or("no agent")?,
        large: proxies.next(),
        is_typed,
    };
    let measured = measure::all(job, &mut caller, report);
    drop(caller);
    for agent in agents {
        runtime.block_on(agent.shutdown())?;
    }
    measured
}
