//! What the two ends of a channel exchange before they connect.

use serde::{Deserialize, Serialize};

use super::geometry::RingShape;
use super::{ConnectError, Geometry, Profile, lend::RemoteRing};
use crate::fabric::{Gid, MemoryRegion, QueuePairAddress, TcpAddress};

/// One end of a channel: its queue pairs, and the ring that the peer will write into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The queue pair for messages.
    pub qp: QueuePairInfo,
    /// The queue pair through which payloads outside of the rings are read.
    pub bulk: QueuePairInfo,
    /// Location of the receive ring.
    pub ring: RingAddress,
    /// Shape of the receive ring.
    pub geometry: Geometry,
}

/// The location of a ring in its owner's memory, as a memory-region record gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingAddress {
    /// Address of the first byte.
    pub addr: u64,
    /// Length in bytes.
    pub length: u64,
    /// Key for the peer.
    pub rkey: u32,
}

/// A queue pair in the JSON form of DLSlime's `data_channel_info`.
///
/// The GID travels as two halves of eight bytes, each read as a *little-endian* number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuePairInfo {
    /// The GID in two halves.
    pub gid: GidHalves,
    /// Index of the GID in its owner's table, -1 on InfiniBand.
    pub gidx: i32,
    /// Local identifier.
    pub lid: u16,
    /// `ibv_mtu` code.
    pub mtu: u8,
    /// First packet sequence number.
    pub psn: u32,
    /// Number of the queue pair.
    pub qpn: u32,
    /// Where to dial, and with which key; of the tcp fabric alone, and unknown to DLSlime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpAddress>,
}

/// The two halves of a GID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GidHalves {
    /// Bytes 0 to 7, as a little-endian number.
    pub subnet_prefix: u64,
    /// Bytes 8 to 15, as a little-endian number.
    pub interface_id: u64,
}

impl From<QueuePairAddress> for QueuePairInfo {
    fn from(address: QueuePairAddress) -> Self {
        let bits = u128::from_le_bytes(address.gid.0);
        Self {
            gid: GidHalves {
                subnet_prefix: bits as u64,
                interface_id: (bits >> 64) as u64,
            },
            gidx: address.gid_index,
            lid: address.lid,
            mtu: address.mtu,
            psn: address.psn,
            qpn: address.qp_num,
            tcp: address.tcp,
        }
    }
}

impl From<QueuePairInfo> for QueuePairAddress {
    fn from(info: QueuePairInfo) -> Self {
        let bits = u128::from(info.gid.subnet_prefix) | u128::from(info.gid.interface_id) << 64;
        Self {
            gid: Gid(bits.to_le_bytes()),
            gid_index: info.gidx,
            lid: info.lid,
            mtu: info.mtu,
            psn: info.psn,
            qp_num: info.qpn,
            tcp: info.tcp,
        }
    }
}

impl RingAddress {
    pub(crate) fn of(region: &dyn MemoryRegion, geometry: Geometry) -> Self {
        Self {
            addr: region.addr(),
            length: geometry.len() as u64,
            rkey: region.rkey(),
        }
    }

    /// The ring of a native peer, which has this shape; else what is wrong.
    pub(super) fn native_ring(&self, geometry: Geometry) -> Result<RemoteRing, String> {
        let length = geometry.len() as u64;
        if self.length != length {
            return Err(format!(
                "its length is {} bytes, and the geometry takes {length}",
                self.length
            ));
        }
        if self.addr.checked_add(length).is_none() {
            return Err(format!("its address {:#x} wraps around", self.addr));
        }
        Ok(RemoteRing {
            addr: self.addr,
            rkey: self.rkey,
            geometry,
        })
    }

    /// The ring of a DLSlime peer, which publishes only its length. It must be a whole number of
    /// slots of this side's size.
    pub(crate) fn compatible_ring(&self, ours: Geometry) -> Result<RemoteRing, ConnectError> {
        let refuse = |field: &'static str, reason| {
            let field = field.into();
            Err(ConnectError::BadEndpoint { field, reason })
        };
        let slot_size = ours.slot_size() as u64;
        let slots = self.length / slot_size;
        if slots == 0 || !self.length.is_multiple_of(slot_size) {
            let reason = format!(
                "{} bytes are no whole number of slots of {slot_size} bytes; set equal slot sizes on both sides",
                self.length
            );
            return refuse("mailbox length", reason);
        }
        if self.addr.checked_add(self.length).is_none() {
            return refuse("mailbox address", format!("{:#x} wraps around", self.addr));
        }
        match Geometry::new(
            usize::try_from(slots).unwrap_or(usize::MAX),
            ours.slot_size(),
        ) {
            Ok(geometry) => Ok(RemoteRing {
                addr: self.addr,
                rkey: self.rkey,
                geometry,
            }),
            Err(error) => refuse("mailbox length", error.to_string()),
        }
    }
}

impl Endpoint {
    /// Checks that the peer's ring has the shape of this side's and lies in addressable memory.
    pub(super) fn remote_ring(&self, ours: Geometry) -> Result<RemoteRing, ConnectError> {
        let refuse = |field: &'static str, reason| {
            let field = field.into();
            Err(ConnectError::BadEndpoint { field, reason })
        };
        if let Err(error) = self.geometry.checked() {
            return refuse("geometry", error.to_string());
        }
        if self.geometry != ours {
            return refuse(
                "geometry",
                format!("{:?} is not ours, {ours:?}", self.geometry),
            );
        }
        let first = RingShape::of(ours, Profile::Native).first;
        self.ring.native_ring(first).map_err(|reason| {
            let field = "ring".into();
            ConnectError::BadEndpoint { field, reason }
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_gid_travels_as_dlslime_writes_it() {
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 168, 77, 1];
        let address = QueuePairAddress {
            gid: Gid(mapped),
            gid_index: 1,
            lid: 0,
            mtu: 5,
            psn: 4_537_196,
            qp_num: 17,
            tcp: None,
        };
        let json = serde_json::to_value(QueuePairInfo::from(address)).unwrap();
        let expected = serde_json::json!({
            "gid": {"subnet_prefix": 0, "interface_id": 93_916_714_126_737_408_u64},
            "gidx": 1, "lid": 0, "mtu": 5, "psn": 4_537_196, "qpn": 17
        });
        assert_eq!(json, expected);
        let back: QueuePairInfo = serde_json::from_value(json).unwrap();
        assert_eq!(QueuePairAddress::from(back), address);
    }

    #[test]
    fn a_ring_that_does_not_fit_is_refused_by_field() {
        let ours = Geometry::new(16, 1024).unwrap();
        let qp = QueuePairInfo {
            gid: GidHalves {
                subnet_prefix: 0,
                interface_id: 0,
            },
            gidx: 0,
            lid: 0,
            mtu: 5,
            psn: 0,
            qpn: 1,
            tcp: None,
        };
        let good = Endpoint {
            qp,
            bulk: qp,
            ring: RingAddress {
                addr: 4096,
                length: 16 * 1024,
                rkey: 1,
            },
            geometry: ours,
        };
        assert!(good.remote_ring(ours).is_ok());
        let short = Endpoint {
            ring: RingAddress {
                length: 1024,
                ..good.ring
            },
            ..good
        };
        let wraps = Endpoint {
            ring: RingAddress {
                addr: u64::MAX,
                ..good.ring
            },
            ..good
        };
        let other = Endpoint {
            geometry: Geometry::new(8, 2048).unwrap(),
            ..good
        };
        for (bad, field) in [
            (short, "its length"),
            (wraps, "its address"),
            (other, "geometry"),
        ] {
            let error = bad.remote_ring(ours).unwrap_err();
            assert!(error.to_string().contains(field), "{error}");
        }
    }
}
