//! `qp_ready`: the message by which DLSlime peers send each other their queue pairs.
//!
//! A `qp_ready` may be a request to connect or the answer to one; the two look the same. An answer
//! mirrors the path of the request: its `src_device` is the received `dst_device`, verbatim, or the
//! peer takes it for another connection.

use serde_json::{Value, json};
use slimerpc::channel::{GidHalves, QueuePairInfo};
use slimerpc::control::{Mail, topology};
use slimerpc::fabric::LinkType;

const KIND: &str = "qp_ready";
/// Most queue pairs in one message: more than any peer needs, and as many as a completion can
/// distinguish.
const MAX_QUEUE_PAIRS: usize = 64;

/// A peer's queue pairs, and the path on which it wants to be connected.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct QpReady {
    pub(crate) peer: String,
    pub(crate) queue_pairs: Vec<QueuePairInfo>,
    pub(crate) path: Path,
}

/// The two devices of a connection, from this side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Path {
    /// This agent's device as the peer names it; `None` if the peer leaves the choice to this
    /// agent.
    pub(crate) ours: Option<String>,
    /// The peer's device.
    pub(crate) theirs: Option<String>,
    /// Port of both devices.
    pub(crate) port: u32,
    /// The kind of link of both devices; `None` if the message does not say.
    pub(crate) link: Option<LinkType>,
}

/// Why a `qp_ready` cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field `{field}`: {reason}")]
pub(crate) struct BadQpReady {
    field: String,
    reason: String,
}

impl QpReady {
    /// Returns whether `mail` is a `qp_ready`.
    pub(crate) fn is(mail: &Mail) -> bool {
        mail.kind == KIND
    }

    /// Reads a `qp_ready`.
    pub(crate) fn read(mail: &Mail) -> Result<Self, BadQpReady> {
        let peer = mail.peer().filter(|peer| !peer.is_empty());
        let peer = peer.ok_or_else(|| bad("peer", "it is missing"))?.to_owned();
        let info = Field::of_mail(mail, "qp_info")?;
        let channels = info.get("io_info")?.get("data_channel_info")?;
        let queue_pairs = channels.list(queue_pair)?;
        let path = match mail.get("conn_meta") {
            None => Path::any(),
            Some(_) => path(&Field::of_mail(mail, "conn_meta")?, queue_pairs.len())?,
        };
        Ok(Self {
            peer,
            queue_pairs,
            path,
        })
    }
}

/// Makes the message that tells `peer` this agent's queue pairs. `path` is the one to connect on.
pub(crate) fn mail(me: &str, peer: &str, queue_pairs: &[QueuePairInfo], path: &Path) -> Mail {
    let (ours, theirs) = (path.ours.as_deref(), path.theirs.as_deref());
    let (ours, theirs) = (ours.unwrap_or_default(), theirs.unwrap_or_default());
    let (port, count) = (path.port, queue_pairs.len());
    let link = path.link.unwrap_or(LinkType::Roce).to_string();
    let info = json!({"mr_info": null, "io_info": {"data_channel_info": queue_pairs}});
    let meta = json!({
        "conn_id": format!("{me}:{ours}:port{port}->{peer}:{theirs}:port{port}#qp{count}"),
        "src": me, "dst": peer, "src_device": ours, "dst_device": theirs,
        "ib_port": port, "qp_num": count, "link_type": link, "profile": "default", "transport": "rdma",
    });
    Mail::new(KIND)
        .with("peer", me)
        .with("qp_info", info.to_string())
        .with("conn_meta", meta.to_string())
}

impl Path {
    fn any() -> Self {
        Self {
            ours: None,
            theirs: None,
            port: 1,
            link: None,
        }
    }
}

fn queue_pair(of: &Field) -> Result<QueuePairInfo, BadQpReady> {
    let gid = of.get("gid")?;
    Ok(QueuePairInfo {
        gid: GidHalves {
            subnet_prefix: gid.get("subnet_prefix")?.number(0, u64::MAX)?,
            interface_id: gid.get("interface_id")?.number(0, u64::MAX)?,
        },
        // Informative, and -1 on InfiniBand.
        gidx: of.get("gidx")?.integer()?,
        lid: of.get("lid")?.number(0, u16::MAX.into())? as u16,
        mtu: of.get("mtu")?.number(1, 5)? as u8,
        psn: of.get("psn")?.number(0, 0xff_ffff)? as u32,
        qpn: of.get("qpn")?.number(1, 0xff_ffff)? as u32,
        // DLSlime knows none.
        tcp: None,
    })
}

fn path(meta: &Field, queue_pairs: usize) -> Result<Path, BadQpReady> {
    if let Some(transport) = meta.text("transport")?
        && transport != "rdma"
    {
        return Err(meta.at("transport", format!("it is `{transport}`; RPC needs rdma")));
    }
    let count = meta.optional_number("qp_num", 1, MAX_QUEUE_PAIRS as u64)?;
    if let Some(count) = count.or((queue_pairs != 1).then_some(1))
        && count != queue_pairs as u64
    {
        return Err(meta.at(
            "qp_num",
            format!("it is {count}, but {queue_pairs} queue pairs came with it"),
        ));
    }
    let link = meta
        .text("link_type")?
        .map(|text| topology::link_type(&text));
    let link = match link.as_deref() {
        None | Some("UNKNOWN") => None,
        Some(text) => Some(
            text.parse()
                .map_err(|error| meta.at("link_type", format!("{error}")))?,
        ),
    };
    Ok(Path {
        ours: meta.text("dst_device")?,
        theirs: meta.text("src_device")?,
        port: meta.optional_number("ib_port", 1, 255)?.unwrap_or(1) as u32,
        link,
    })
}

/// A JSON value and its path, for error messages.
struct Field {
    name: String,
    value: Value,
}

impl Field {
    fn of_mail(mail: &Mail, name: &str) -> Result<Self, BadQpReady> {
        let text = mail.get(name).ok_or_else(|| bad(name, "it is missing"))?;
        let value = serde_json::from_str(text).map_err(|error| bad(name, error))?;
        Ok(Self {
            name: name.to_owned(),
            value,
        })
    }

    fn get(&self, name: &str) -> Result<Self, BadQpReady> {
        match self.value.get(name) {
            None | Some(Value::Null) => Err(self.at(name, "it is missing")),
            Some(value) => Ok(Self {
                name: format!("{}.{name}", self.name),
                value: value.clone(),
            }),
        }
    }

    fn list<T>(&self, read: impl Fn(&Self) -> Result<T, BadQpReady>) -> Result<Vec<T>, BadQpReady> {
        let items = self
            .value
            .as_array()
            .ok_or_else(|| bad(&self.name, "it is no list"))?;
        if !(1..=MAX_QUEUE_PAIRS).contains(&items.len()) {
            let reason = format!(
                "it has {} entries; 1 to {MAX_QUEUE_PAIRS} are possible",
                items.len()
            );
            return Err(bad(&self.name, reason));
        }
        let read = |(at, value): (usize, &Value)| {
            read(&Self {
                name: format!("{}[{at}]", self.name),
                value: value.clone(),
            })
        };
        items.iter().enumerate().map(read).collect()
    }

    fn number(&self, least: u64, most: u64) -> Result<u64, BadQpReady> {
        let number = self
            .value
            .as_u64()
            .filter(|number| (least..=most).contains(number));
        number.ok_or_else(|| {
            bad(
                &self.name,
                format!("{} is no number from {least} to {most}", self.value),
            )
        })
    }

    fn integer(&self) -> Result<i32, BadQpReady> {
        let number = self
            .value
            .as_i64()
            .and_then(|number| i32::try_from(number).ok());
        number.ok_or_else(|| bad(&self.name, format!("{} is no 32-bit number", self.value)))
    }

    /// A number that may be absent, null or a numeric string.
    fn optional_number(
        &self,
        name: &str,
        least: u64,
        most: u64,
    ) -> Result<Option<u64>, BadQpReady> {
        let Ok(mut field) = self.get(name) else {
            return Ok(None);
        };
        if let Some(number) = field
            .value
            .as_str()
            .and_then(|text| text.trim().parse::<u64>().ok())
        {
            field.value = number.into();
        }
        field.number(least, most).map(Some)
    }

    /// A text that may be absent or null.
    fn text(&self, name: &str) -> Result<Option<String>, BadQpReady> {
        match self.get(name) {
            Err(_) => Ok(None),
            Ok(Self {
                value: Value::String(text),
                ..
            }) => Ok(Some(text)),
            Ok(other) => Err(bad(&other.name, format!("{} is no text", other.value))),
        }
    }

    fn at(&self, name: &str, reason: impl ToString) -> BadQpReady {
        bad(&format!("{}.{name}", self.name), reason)
    }
}

/// The error for a field. The value is shortened, because a peer may have written anything.
fn bad(field: &str, reason: impl ToString) -> BadQpReady {
    BadQpReady {
        field: field.to_owned(),
        reason: reason.to_string().chars().take(200).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gid() -> Value {
        json!({"subnet_prefix": 0, "interface_id": u64::MAX})
    }

    fn good() -> (Value, Value) {
        let qp = json!({"gid": gid(), "gidx": 1, "lid": 0, "mtu": 5, "psn": 4_537_196, "qpn": 17});
        let info = json!({"mr_info": null, "io_info": {"data_channel_info": [qp]}});
        let meta = json!({
            "conn_id": "driver:0:rxe0:port1->worker:0:rxe0:port1#qp1", "src": "driver:0", "dst": "worker:0",
            "src_device": "rxe1", "dst_device": "rxe0", "ib_port": 1, "qp_num": 1, "link_type": "RoCE",
            "profile": "default", "transport": "rdma",
        });
        (info, meta)
    }

    fn read(info: &Value, meta: Option<&Value>) -> Result<QpReady, BadQpReady> {
        let mut mail = Mail::new(KIND)
            .with("peer", "driver:0")
            .with("qp_info", info.to_string());
        if let Some(meta) = meta {
            mail = mail.with("conn_meta", meta.to_string());
        }
        QpReady::read(&mail)
    }

    #[test]
    fn what_a_dlslime_peer_sends_is_read_and_its_answer_mirrors_the_path() {
        let (info, meta) = good();
        let ready = read(&info, Some(&meta)).unwrap();
        assert_eq!(ready.queue_pairs[0].qpn, 17);
        assert_eq!(ready.queue_pairs[0].gid.interface_id, u64::MAX);
        let answer = mail("worker:0", "driver:0", &ready.queue_pairs, &ready.path);
        let meta: Value = serde_json::from_str(answer.get("conn_meta").unwrap()).unwrap();
        assert_eq!(
            (&meta["src_device"], &meta["dst_device"]),
            (&json!("rxe0"), &json!("rxe1"))
        );
        assert_eq!(
            meta["conn_id"],
            "worker:0:rxe0:port1->driver:0:rxe1:port1#qp1"
        );
        let back: Value = serde_json::from_str(answer.get("qp_info").unwrap()).unwrap();
        assert_eq!(back["io_info"], info["io_info"]);
    }

    #[test]
    fn what_may_be_left_out_has_the_defaults_of_dlslime() {
        let (info, _) = good();
        assert_eq!(read(&info, None).unwrap().path, Path::any());
        assert_eq!(read(&info, Some(&json!({}))).unwrap().path, Path::any());
        let odd =
            json!({"dst_device": null, "qp_num": "1", "link_type": " rocev2 ", "ib_port": "2"});
        let path = read(&info, Some(&odd)).unwrap().path;
        assert_eq!(
            (path.ours, path.link, path.port),
            (None, Some(LinkType::Roce), 2)
        );
    }

    #[test]
    fn input_1_everything_that_kills_a_dlslime_peer_is_an_error_that_names_the_field() {
        let (info, meta) = good();
        let qp = "qp_info.io_info.data_channel_info[0]";
        let changes: [(&str, Value, &str); 16] = [
            ("/io_info", json!(null), "qp_info.io_info"),
            ("/io_info", json!({}), "qp_info.io_info.data_channel_info"),
            (
                "/io_info/data_channel_info",
                json!(7),
                "qp_info.io_info.data_channel_info",
            ),
            (
                "/io_info/data_channel_info",
                json!([]),
                "qp_info.io_info.data_channel_info",
            ),
            (
                "/io_info/data_channel_info",
                json!([{}, {}]),
                &format!("{qp}.gid"),
            ),
            (
                "/io_info/data_channel_info/0/gid",
                json!("fe80::1"),
                &format!("{qp}.gid.subnet_prefix"),
            ),
            (
                "/io_info/data_channel_info/0/gid",
                json!(null),
                &format!("{qp}.gid"),
            ),
            (
                "/io_info/data_channel_info/0/gid/interface_id",
                json!(-1),
                &format!("{qp}.gid.interface_id"),
            ),
            (
                "/io_info/data_channel_info/0/gid/interface_id",
                json!(1.5),
                &format!("{qp}.gid.interface_id"),
            ),
            (
                "/io_info/data_channel_info/0/gidx",
                json!(1_u64 << 40),
                &format!("{qp}.gidx"),
            ),
            (
                "/io_info/data_channel_info/0/lid",
                json!(65_536),
                &format!("{qp}.lid"),
            ),
            (
                "/io_info/data_channel_info/0/mtu",
                json!(0),
                &format!("{qp}.mtu"),
            ),
            (
                "/io_info/data_channel_info/0/mtu",
                json!(4096),
                &format!("{qp}.mtu"),
            ),
            (
                "/io_info/data_channel_info/0/psn",
                json!(1 << 24),
                &format!("{qp}.psn"),
            ),
            (
                "/io_info/data_channel_info/0/qpn",
                json!(0),
                &format!("{qp}.qpn"),
            ),
            (
                "/io_info/data_channel_info/0/qpn",
                json!("17"),
                &format!("{qp}.qpn"),
            ),
        ];
        for (at, value, field) in changes {
            let mut bad = info.clone();
            *bad.pointer_mut(at).unwrap() = value;
            assert_eq!(read(&bad, Some(&meta)).unwrap_err().field, field, "{bad}");
        }
        for (key, value) in [
            ("qp_num", json!(2)),
            ("qp_num", json!(0)),
            ("ib_port", json!("x")),
            ("link_type", json!("token ring")),
            ("src_device", json!(1)),
            ("transport", json!("tcp")),
        ] {
            let mut bad = meta.clone();
            bad[key] = value;
            assert_eq!(
                read(&info, Some(&bad)).unwrap_err().field,
                format!("conn_meta.{key}")
            );
        }
        let bare = QpReady::read(&Mail::new(KIND));
        assert_eq!(bare.unwrap_err().field, "peer");
        let no_json = Mail::new(KIND).with("peer", "a").with("qp_info", "{");
        assert_eq!(QpReady::read(&no_json).unwrap_err().field, "qp_info");
    }
}
