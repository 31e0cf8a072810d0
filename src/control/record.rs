//! Records that the control plane keeps about agents.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{process, topology};

/// The data that an agent registers with (`POST /start_peer_agent`).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Registration {
    /// The alias that is requested; `None` for a generated one.
    pub alias: Option<String>,
    /// Host name or IP address under which peers may know this agent.
    pub address: String,
    /// The first usable device, if there is one.
    pub device: Option<String>,
    /// Port of that device.
    pub ib_port: Option<u32>,
    /// Link type of that device in DLSlime's spelling (`RoCE`, `IB`).
    pub link_type: Option<String>,
    /// Topology of this host.
    pub resource: Option<Value>,
}

/// A registered agent.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct PeerRecord {
    /// Alias of the agent.
    pub alias: String,
    /// Host name or IP address of the agent.
    pub address: String,
    /// Device of the agent, if it named one.
    pub device: Option<String>,
    /// Port of the device.
    pub ib_port: Option<u32>,
    /// Link type as the agent wrote it.
    pub link_type: Option<String>,
    /// Topology of the agent's host.
    pub resource: Option<Value>,
}

impl From<Registration> for PeerRecord {
    /// The alias is empty if the registration asks for a generated one.
    fn from(registration: Registration) -> Self {
        Self {
            alias: registration.alias.unwrap_or_default(),
            address: registration.address,
            device: registration.device,
            ib_port: registration.ib_port,
            link_type: registration.link_type,
            resource: registration.resource,
        }
    }
}

impl PeerRecord {
    /// Returns whether the agent uses this crate: DLSlime publishes no `slime` in its topology.
    pub fn is_native(&self) -> bool {
        let resource = self.resource.as_ref();
        resource.is_some_and(|resource| resource.get("slime").is_some())
    }

    /// Returns whether the agent's process is proved to have ended without leaving. False if that
    /// cannot be known from here.
    pub fn is_gone(&self) -> bool {
        let resource = self.resource.as_ref();
        let process = resource.and_then(|resource| resource.get("slime"));
        process.is_some_and(process::is_gone)
    }

    /// The device that a DLSlime agent would choose for a link of this type on this port: the first
    /// of its NICs that is in order and whose port is active; without a topology, the device it
    /// registered with.
    ///
    /// ```
    /// use serde_json::json;
    /// use slimerpc::control::PeerRecord;
    /// let port = json!({"port": 1, "state": "ACTIVE", "link_type": "RoCE"});
    /// let nic = json!({"name": "rxe0", "health": "AVAILABLE", "ports": [port]});
    /// let record = PeerRecord {
    ///     resource: Some(json!({"nics": [nic]})),
    ///     ..PeerRecord::default()
    /// };
    /// assert_eq!(record.device_on("RoCE", 1).as_deref(), Some("rxe0"));
    /// assert_eq!(record.device_on("IB", 1), None);
    /// ```
    pub fn device_on(&self, link_type: &str, port: u32) -> Option<String> {
        let Some(nics) = self
            .resource
            .as_ref()
            .and_then(|resource| resource.get("nics"))
        else {
            let theirs = self.link_type.as_deref().unwrap_or("RoCE");
            let fits =
                topology::link_type(theirs) == link_type && self.ib_port.unwrap_or(1) == port;
            return self.device.clone().filter(|name| fits && !name.is_empty());
        };
        let text = |of: &Value, name: &str, default: &str| {
            of.get(name)
                .and_then(Value::as_str)
                .unwrap_or(default)
                .to_uppercase()
        };
        let port_fits = |of: &Value| {
            of.get("port").and_then(Value::as_u64).unwrap_or(1) == u64::from(port)
                && matches!(&*text(of, "state", "ACTIVE"), "ACTIVE" | "UNKNOWN")
                && topology::link_type(
                    of.get("link_type")
                        .and_then(Value::as_str)
                        .unwrap_or_default(),
                ) == link_type
        };
        let nic_fits = |nic: &&Value| {
            let ports = nic.get("ports").and_then(Value::as_array);
            text(nic, "health", "AVAILABLE") != "UNAVAILABLE"
                && ports.is_some_and(|ports| ports.iter().any(port_fits))
        };
        let nic = nics.as_array()?.iter().find(nic_fits)?;
        Some(nic.get("name")?.as_str()?.to_owned())
    }
}

/// The owner that a record names, as those of DLSlime do.
pub(crate) fn record_owner(text: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Owned {
        agent_name: String,
    }
    let owned: Owned = serde_json::from_slice(text).ok()?;
    Some(owned.agent_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_names_its_owner_or_none() {
        let owned = br#"{"agent_name":"w:0","device":"rxe0","addr":5}"#;
        assert_eq!(record_owner(owned).as_deref(), Some("w:0"));
        for text in [
            &b""[..],
            b"{}",
            b"7",
            b"{\"agent_name\":7}",
            b"\xff{",
            &[b'['; 9999],
        ] {
            assert_eq!(record_owner(text), None);
        }
    }
}
