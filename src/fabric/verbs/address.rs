//! The address of a port.

use std::ffi::OsStr;
use std::fs;

use ibverbs_sys::{
    IBV_LINK_LAYER_INFINIBAND, ibv_gid, ibv_port_attr, ibv_port_state, ibv_query_gid,
    ibv_query_port,
};

use super::context::Context;
use super::diagnosis::check;
use crate::fabric::{FabricError, Gid, LinkType, PortAttributes};

/// Overrides the choice of the GID index. DLSlime honours it too.
const GID_INDEX: &str = "SLIME_GID_INDEX";

/// The port's index in the GID table and the GID there; index -1 where LIDs are used.
#[derive(Debug, Clone, Copy)]
pub(super) struct Address {
    pub(super) index: i32,
    pub(super) gid: Gid,
}

/// The attributes of a port as it is now.
pub(super) fn query_port(context: &Context, port: u8) -> Result<ibv_port_attr, FabricError> {
    let mut attributes = ibv_port_attr::default();
    // SAFETY: the context is open. The parameter's type is a stand-in; the library writes an
    // `ibv_port_attr` of the size it had before extensions, which is a prefix of ours.
    let queried = unsafe { ibv_query_port(context.raw(), port, (&raw mut attributes).cast()) };
    check("ibv_query_port", queried, || {
        format!("port {port} of {}", context.name())
    })?;
    Ok(attributes)
}

impl Address {
    /// Chooses the GID: the one that `SLIME_GID_INDEX` says, or the first of RoCE v2 that maps an
    /// IPv4 address, or none on InfiniBand.
    pub(super) fn of_port(context: &Context, port: u8) -> Result<Self, FabricError> {
        let attributes = query_port(context, port)?;
        let is_infiniband = u32::from(attributes.link_layer) == IBV_LINK_LAYER_INFINIBAND;
        let index = std::env::var_os(GID_INDEX);
        let index = index.as_deref().map(OsStr::to_string_lossy);
        if let Some(index) = index.filter(|index| !index.trim().is_empty()) {
            return Self::at_setting(context, port, index.trim(), attributes.gid_tbl_len);
        }
        if is_infiniband {
            return Ok(Self {
                index: -1,
                gid: query_gid(context, port, 0)?,
            });
        }
        let mut any = None;
        for index in 0..attributes.gid_tbl_len {
            if !is_roce_v2(context.name(), port, index) {
                continue;
            }
            let gid = query_gid(context, port, index)?;
            if std::net::Ipv6Addr::from(gid.0).to_ipv4_mapped().is_some() {
                return Ok(Self { index, gid });
            }
            any.get_or_insert(Self { index, gid });
        }
        any.ok_or_else(|| {
            no_address(
                context,
                format!("port {port} has no RoCE v2 GID; has its network interface an address?"),
            )
        })
    }

    fn at_setting(
        context: &Context,
        port: u8,
        setting: &str,
        table: i32,
    ) -> Result<Self, FabricError> {
        let index = setting
            .trim()
            .parse()
            .ok()
            .filter(|index| (0..table).contains(index));
        let Some(index) = index else {
            let reason = format!(
                "{GID_INDEX} is `{setting}`, and port {port} has the GID indices 0 to {}",
                table - 1
            );
            return Err(no_address(context, reason));
        };
        let gid = query_gid(context, port, index)?;
        if gid == Gid::default() {
            return Err(no_address(
                context,
                format!("{GID_INDEX} is {index}, where port {port} has no GID"),
            ));
        }
        Ok(Self { index, gid })
    }
}

fn no_address(context: &Context, reason: String) -> FabricError {
    FabricError::NoDevice {
        device: context.name().to_owned(),
        reason,
    }
}

fn query_gid(context: &Context, port: u8, index: i32) -> Result<Gid, FabricError> {
    let mut gid = ibv_gid { raw: [0; 16] };
    // SAFETY: the context is open and `gid` valid for a write.
    let queried = unsafe { ibv_query_gid(context.raw(), port, index, &mut gid) };
    check("ibv_query_gid", queried, || {
        format!("index {index} of port {port} of {}", context.name())
    })?;
    // SAFETY: every member of the union is 16 plain bytes.
    Ok(Gid(unsafe { gid.raw }))
}

fn is_roce_v2(device: &str, port: u8, index: i32) -> bool {
    let path = format!("/sys/class/infiniband/{device}/ports/{port}/gid_attrs/types/{index}");
    // Empty entries of the table cannot be read.
    fs::read_to_string(path).is_ok_and(|kind| kind.trim() == "RoCE v2")
}

/// The attributes of a port in the fabric's terms.
pub(super) fn port_attributes(context: &Context, number: u8, address: Address) -> PortAttributes {
    // A device that is gone has no attributes, and its port is down.
    let attributes = query_port(context, number).unwrap_or_default();
    let link_type = if u32::from(attributes.link_layer) == IBV_LINK_LAYER_INFINIBAND {
        LinkType::InfiniBand
    } else {
        LinkType::Roce
    };
    PortAttributes {
        link_type,
        active: attributes.state == ibv_port_state::IBV_PORT_ACTIVE,
        number,
        mtu: attributes.active_mtu as u8,
        lid: attributes.lid,
        gid_index: address.index,
        gid: address.gid,
    }
}
