//! The values that agents refuse, and the defaults that they are compared with.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::Refused;
use super::variables::TLS;
use crate::channel::{Geometries, Geometry, HeartbeatTiming, MemoryLimits};
use crate::fabric::tcp::{MalformedBind, TcpOptions};
use crate::fabric::{Fabrics, LinkType, MalformedFabrics};
use crate::tls::TlsFiles;
use crate::wire::CodecLimits;

const SLOT_SIZE: usize = 32 * 1024;
/// The slot size that DLSlime peers use by default.
const DLSLIME_SLOT_SIZE: usize = 32_000_000;
const MAX_INFLIGHT: usize = 16;
/// Most threads for the parallel methods of one service.
const MAX_WORKERS: usize = 1024;
/// How long a waiter polls by default before it sleeps, where there are several cores.
pub const DEFAULT_BUSY_POLL: Duration = Duration::from_micros(50);
const MAX_BUSY_POLL: Duration = Duration::from_secs(10);
/// How long registering and connecting may take by default.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const DETECTION: Duration = Duration::from_secs(3);
const DETECTION_SHM: Duration = Duration::from_secs(1);
const SHORTEST_HEARTBEAT: Duration = Duration::from_millis(1);
/// How long the caller of a stream may leave it unread by default.
pub const DEFAULT_STREAM_PATIENCE: Duration = Duration::from_secs(30);
const SHORTEST_IDLE: Duration = Duration::from_millis(20);
/// Time between two records of what an agent says of itself by default.
pub const DEFAULT_OBS_PERIOD: Duration = Duration::from_secs(1);
/// The times that may lie between two records.
const OBS_PERIODS: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(3600);

/// A number of threads for parallel methods.
pub fn workers(threads: usize) -> Result<NonZeroUsize, Refused> {
    NonZeroUsize::new(threads)
        .filter(|threads| threads.get() <= MAX_WORKERS)
        .ok_or_else(|| {
            let allowed = format!("parallel methods run on 1 to {MAX_WORKERS} threads");
            Refused::new("workers", threads, allowed)
        })
}

/// The codec limits of the process; those in force, where none is given.
pub fn codec(depth: Option<usize>, pickle_values: Option<usize>) -> Result<CodecLimits, Refused> {
    let current = CodecLimits::current();
    let limits = CodecLimits {
        depth: depth.unwrap_or(current.depth),
        pickle_values: pickle_values.unwrap_or(current.pickle_values),
    };
    if limits.depth == 0 {
        let allowed = "the arguments of a call are a tuple, which is a level";
        return Err(Refused::new("max_depth", 0, allowed));
    }
    if limits.pickle_values == 0 {
        let allowed = "a pickle has a value in it";
        return Err(Refused::new("max_pickle_values", 0, allowed));
    }
    Ok(limits)
}

/// The shapes of rings, towards native and towards DLSlime peers.
pub fn geometries(
    slot_size: Option<usize>,
    max_inflight: Option<usize>,
) -> Result<Geometries, Refused> {
    let slots = max_inflight.unwrap_or(MAX_INFLIGHT);
    let of_size = |default| {
        let slot_size = slot_size.unwrap_or(default);
        Geometry::new(slots, slot_size).map_err(|error| {
            let value = format!("{slot_size} x {slots}");
            Refused::new("slot_size x max_inflight", value, error.to_string())
        })
    };
    Ok(Geometries {
        compatible: of_size(DLSLIME_SLOT_SIZE)?,
        native: of_size(SLOT_SIZE)?,
    })
}

/// The limits of the memory for messages beyond a slot of this shape. Contradictory limits are
/// refused.
pub fn memory(
    geometry: Geometry,
    max_payload: Option<usize>,
    payload_memory: Option<usize>,
) -> Result<MemoryLimits, Refused> {
    let defaults = MemoryLimits::default();
    let payload = max_payload.unwrap_or(defaults.payload);
    let total = payload_memory.unwrap_or(defaults.total);
    let slot = geometry.max_payload();
    if payload < slot {
        let allowed = format!("a slot carries messages of {slot} bytes all the same");
        return Err(Refused::new("max_payload", payload, allowed));
    }
    if payload > slot && total == 0 {
        let allowed = "messages beyond a slot take some memory, or set max_payload to \
            what a slot carries";
        return Err(Refused::new("payload_memory", total, allowed));
    }
    Ok(MemoryLimits {
        payload,
        total,
        idle: total / 4,
    })
}

/// A timeout with which something can work: `connect_timeout`, `call_timeout` or
/// `stream_patience`.
pub fn some_time(setting: &'static str, time: Duration) -> Result<Duration, Refused> {
    if !time.is_zero() {
        return Ok(time);
    }
    let allowed = match setting {
        "connect_timeout" => "connecting takes more than no time",
        "call_timeout" => "a call takes more than no time",
        _ => "a caller takes some time to ask for the next item",
    };
    Err(Refused::time(setting, time, allowed))
}

/// How long a proxy has had nothing to do when its connection rests; `None` for never.
pub fn idle_after(idle: Duration) -> Result<Option<Duration>, Refused> {
    if idle.is_zero() {
        return Ok(None);
    }
    if idle < SHORTEST_IDLE {
        let allowed = format!(
            "at least {SHORTEST_IDLE:?}, or 0 for never: opening a connection takes milliseconds"
        );
        return Err(Refused::time("idle_after", idle, allowed));
    }
    Ok(Some(idle))
}

/// How long a waiter polls before it sleeps.
pub fn busy_poll(budget: Duration) -> Result<Duration, Refused> {
    if budget > MAX_BUSY_POLL {
        let allowed = "waiters would keep their cores busy for more than 10 s after each call";
        return Err(Refused::time("busy_poll", budget, allowed));
    }
    Ok(budget)
}

/// How often to send heartbeats on links of this kind, and how long the peer's may stay away.
pub fn heartbeats(
    link: LinkType,
    heartbeat: Option<Duration>,
    detection: Option<Duration>,
) -> HeartbeatTiming {
    let detection = detection.unwrap_or(match link {
        LinkType::Shm => DETECTION_SHM,
        _ => DETECTION,
    });
    HeartbeatTiming {
        interval: heartbeat.unwrap_or(detection / 2),
        detection,
    }
}

/// Refuses times that would keep cores busy, or that would declare living peers stalled.
pub fn check_heartbeats(timing: HeartbeatTiming) -> Result<(), Refused> {
    let HeartbeatTiming {
        interval,
        detection,
    } = timing;
    if interval < SHORTEST_HEARTBEAT {
        let allowed = "heartbeats more often than every millisecond would keep cores busy";
        return Err(Refused::time("heartbeat", interval, allowed));
    }
    if interval >= detection {
        let allowed = format!(
            "a peer that sends heartbeats no more often than that would be taken for stalled after {detection:?}, the \
             detection time"
        );
        return Err(Refused::time("heartbeat", interval, allowed));
    }
    Ok(())
}

/// Time between two records of what an agent says of itself.
pub fn obs_period(period: Duration) -> Result<Duration, Refused> {
    if !OBS_PERIODS.contains(&period) {
        let allowed = "10 to 3,600,000 ms may lie between two records";
        return Err(Refused::new(super::OBS_PERIOD, period.as_millis(), allowed));
    }
    Ok(period)
}

/// The fabrics that may be used, the preferred one first.
pub fn fabrics(list: &str) -> Result<Fabrics, Refused> {
    list.parse()
        .map_err(|error: MalformedFabrics| Refused::new("fabrics", list, error.to_string()))
}

/// Where the device `tcp0` listens.
pub fn tcp_bind(bind: &str) -> Result<TcpOptions, Refused> {
    let parsed = match TcpOptions::name_in(bind) {
        None => bind.parse(),
        Some((name, ports)) => {
            let address = address_of(name).map_err(|reason| {
                let allowed = format!(
                    "the name {name} does not resolve here: {reason}; give an address of this host, or \
                     a name of one"
                );
                Refused::new("tcp_bind", bind, allowed)
            })?;
            TcpOptions::at(address, ports)
        }
    };
    parsed.map_err(|error: MalformedBind| Refused::new("tcp_bind", bind, error.to_string()))
}

/// An address of a name: the first that this host has, or else the first.
fn address_of(name: &str) -> Result<IpAddr, String> {
    let addresses = (name, 0).to_socket_addrs();
    let addresses: Vec<_> = addresses.map_err(|error| error.to_string())?.collect();
    let is_here = |address: &&SocketAddr| UdpSocket::bind(address).is_ok();
    let address = addresses.iter().find(is_here).or(addresses.first());
    let address = address.ok_or("it has no address")?;
    Ok(address.ip())
}

/// Where peers dial `tcp0`.
pub fn tcp_advertise(advertise: &str) -> Result<IpAddr, Refused> {
    let parsed = advertise.trim().parse().ok();
    let one = parsed.filter(|address: &IpAddr| !address.is_unspecified());
    one.ok_or_else(|| {
        let allowed = "the IP address of one host is expected";
        Refused::new("tcp_advertise", advertise, allowed)
    })
}

/// Refuses options with which peers cannot dial.
pub fn tcp(options: TcpOptions) -> Result<TcpOptions, Refused> {
    if options.bind.is_unspecified() && options.advertise.is_none() {
        let allowed = "peers cannot dial all addresses: set tcp_advertise to one of them";
        return Err(Refused::new("tcp_bind", options.bind, allowed));
    }
    Ok(options)
}

/// The files for TLS between peers, if there are: certificate, key and authority.
pub fn tls_files(files: [Option<String>; 3]) -> Result<Option<TlsFiles>, Refused> {
    match files {
        [None, None, None] => Ok(None),
        [Some(cert), Some(key), Some(ca)] => Ok(Some(TlsFiles {
            cert: cert.into(),
            key: key.into(),
            ca: ca.into(),
        })),
        some => {
            let lacking = TLS.iter().zip(&some).find(|(_, it)| it.is_none());
            let name = lacking.map_or(TLS[0], |(name, _)| name);
            let others = "TLS needs certificate, key and authority: set all three or none";
            Err(Refused::new(name, "not set", others))
        }
    }
}

/// Where metrics are served.
pub fn metrics_address(address: &str) -> Result<SocketAddr, Refused> {
    address.trim().parse().map_err(|_| {
        let allowed = "an IP address and a port are expected, like 127.0.0.1:9464";
        Refused::new("metrics_address", address, allowed)
    })
}
