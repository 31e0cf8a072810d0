//! Two processes on the bare fabric: WRITE_WITH_IMM there and back, or one way as fast as they can
//! be taken.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use slimerpc::channel::QueuePairInfo;
use slimerpc::fabric::{
    self, Access, Completion, MemoryRegion, Operation, Payload, Poller, QueuePair, QueuePairInit,
    RecvRequest, RemoteSlice, RetryPolicy, SendRequest, Sge,
};

use crate::missing::Missing;
use crate::role::{Role, told};
use crate::support::{Figures, PATIENCE, Peer, Result};
use crate::{LEAST, SMALL};

/// Messages that may be under way, one way.
const DEPTH: usize = 256;
/// The receiver of a stream says after so many that there is room again.
const BATCH: usize = DEPTH / 4;
/// Bytes that a send carries itself.
const INLINE: u32 = 220;

/// The immediate of a message is its size. No message has that one: the other process is done with
/// what it does.
const STOP: u32 = u32::MAX;

/// One end.
struct Pong {
    qp: Box<dyn QueuePair>,
    poller: Box<dyn Poller>,
    sends: Arc<dyn MemoryRegion>,
    ring: Arc<dyn MemoryRegion>,
    inline: usize,
    sent: usize,
    /// Immediates that have arrived and were not taken.
    arrived: VecDeque<u32>,
    /// A virtual machine's device is emulated by its processors, which need a turn.
    yields: bool,
}

#[derive(Serialize, Deserialize)]
struct PongEndpoint {
    qp: QueuePairInfo,
    addr: u64,
    rkey: u32,
}

impl Pong {
    fn new(device: &str, largest: usize) -> Result<Self> {
        let name = device;
        let device = fabric::open(name, 1)?;
        let inline = INLINE.min(device.limits().max_inline);
        let (cq, poller) = device.create_completion_queue(4 * DEPTH as u32)?;
        let mut qp = device.create_queue_pair(&QueuePairInit {
            send_cq: cq.clone(),
            recv_cq: cq.clone(),
            max_send_wr: 2 * DEPTH as u32,
            max_recv_wr: 2 * DEPTH as u32,
            max_inline: inline,
            retry: RetryPolicy::default(),
        })?;
        let sends = device.register(largest, Access::LOCAL_WRITE)?;
        let ring = device.register(largest, Access::LOCAL_WRITE | Access::REMOTE_WRITE)?;
        qp.to_init()?;
        for wr_id in 0..2 * DEPTH as u64 {
            qp.post_recv(RecvRequest { wr_id })?;
        }
        Ok(Self {
            qp,
            poller,
            sends,
            ring,
            inline: inline as usize,
            sent: 0,
            arrived: VecDeque::with_capacity(2 * DEPTH),
            yields: name != fabric::SHM,
        })
    }

    fn told(&self) -> Result<String> {
        Ok(serde_json::to_string(&PongEndpoint {
            qp: self.qp.address().into(),
            addr: self.ring.addr(),
            rkey: self.ring.rkey(),
        })?)
    }

    fn connect(&mut self, peer: &PongEndpoint) -> Result<()> {
        self.qp.to_rtr(&peer.qp.into())?;
        Ok(self.qp.to_rts()?)
    }

    /// Sends that many bytes, whatever they are.
    fn send(&mut self, peer: &PongEndpoint, size: usize, imm: u32) -> Result<()> {
        let bytes = [7; SMALL];
        let local = match bytes.get(..size) {
            Some(bytes) if size <= self.inline => Payload::Inline(bytes),
            _ => Payload::Region(Sge {
                addr: self.sends.addr(),
                length: size as u32,
                lkey: self.sends.lkey(),
            }),
        };
        self.sent += 1;
        Ok(self.qp.post_send(&SendRequest {
            wr_id: 1 << 32,
            operation: Operation::WriteWithImm(imm),
            local,
            remote: RemoteSlice {
                addr: peer.addr,
                rkey: peer.rkey,
            },
            // Once per half of what is under way, as a NIC needs it.
            signalled: self.sent.is_multiple_of(DEPTH / 2),
            solicited: true,
        })?)
    }

    /// Takes what is there, and posts receives for as many again.
    fn poll(&mut self) -> Result<()> {
        let mut batch = [Completion::EMPTY; 16];
        let count = self.poller.poll(&mut batch)?;
        for completion in &batch[..count] {
            if !completion.status.is_success() {
                return Err(completion.status.to_string().into());
            }
            if let Some(imm) = completion.imm {
                self.qp.post_recv(RecvRequest { wr_id: 0 })?;
                self.arrived.push_back(imm);
            }
        }
        Ok(())
    }

    /// Polls until a message is there.
    fn receive(&mut self) -> Result<u32> {
        let mut spins = 0_u32;
        let mut since = None;
        loop {
            self.poll()?;
            if let Some(imm) = self.arrived.pop_front() {
                return Ok(imm);
            }
            spins = spins.wrapping_add(1);
            if spins.is_multiple_of(1 << 12)
                && since.get_or_insert_with(Instant::now).elapsed() > PATIENCE
            {
                return Err(format!(
                    "the other process has sent nothing for {PATIENCE:?} on the fabric"
                )
                .into());
            }
            if self.yields {
                thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
    }
}

/// Both ends; this one measures.
pub(crate) struct Fabric {
    ping: Pong,
    other: PongEndpoint,
    peer: Peer,
}

impl Fabric {
    pub(crate) fn start(device: &str, largest: usize) -> Result<Self> {
        let mut ping = Pong::new(device, largest).map_err(Missing::because)?;
        let role = Role::Fabric {
            device: device.to_owned(),
            largest,
        };
        let mut peer = role.start()?;
        let other: PongEndpoint = serde_json::from_str(&peer.line()?)?;
        peer.tell(&ping.told()?)?;
        ping.connect(&other)?;
        Ok(Self { ping, other, peer })
    }

    /// Round trips.
    pub(crate) fn measure(&mut self, size: usize, seconds: f64) -> Result<Figures> {
        self.peer.tell("echo")?;
        let figures = Figures::measure(seconds, LEAST, || -> Result<()> {
            self.ping.send(&self.other, size, size as u32)?;
            self.ping.receive().map(drop)
        })?;
        self.stop()?;
        Ok(figures)
    }

    /// Messages of 64 bytes a second, one way.
    pub(crate) fn rate(&mut self, seconds: f64) -> Result<f64> {
        self.peer.tell("take")?;
        let (mut under_way, mut sent) = (0, 0_u64);
        let limit = Duration::from_secs_f64(seconds);
        let started = Instant::now();
        while started.elapsed() < limit {
            for _ in 0..BATCH {
                self.ping.send(&self.other, SMALL, SMALL as u32)?;
            }
            sent += BATCH as u64;
            under_way += BATCH;
            if under_way == DEPTH {
                self.ping.receive()?;
                under_way -= BATCH;
            }
        }
        while under_way > 0 {
            self.ping.receive()?;
            under_way -= BATCH;
        }
        let rate = sent as f64 / started.elapsed().as_secs_f64();
        self.stop()?;
        Ok(rate)
    }

    fn stop(&mut self) -> Result<()> {
        self.ping.send(&self.other, 0, STOP)?;
        self.peer.line().map(drop)
    }
}

/// The other process.
pub(crate) fn answer(device: &str, largest: usize) -> Result<()> {
    let mut pong = Pong::new(device, largest)?;
    println!("{}", pong.told()?);
    let Some(other) = told()? else {
        return Ok(());
    };
    let other: PongEndpoint = serde_json::from_str(&other)?;
    pong.connect(&other)?;
    while let Some(task) = told()? {
        match task.as_str() {
            "echo" => echo(&mut pong, &other)?,
            _ => take(&mut pong, &other)?,
        }
        println!("stopped");
    }
    Ok(())
}

fn echo(pong: &mut Pong, other: &PongEndpoint) -> Result<()> {
    loop {
        match pong.receive()? {
            STOP => return Ok(()),
            size => pong.send(other, size as usize, size)?,
        }
    }
}

fn take(pong: &mut Pong, other: &PongEndpoint) -> Result<()> {
    let mut taken = 0;
    while pong.receive()? != STOP {
        taken += 1;
        if taken % BATCH == 0 {
            pong.send(other, 0, 0)?;
        }
    }
    Ok(())
}
