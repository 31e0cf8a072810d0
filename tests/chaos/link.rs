//! The network device below a soft-RoCE device: made for tests, so it may be taken down.

use std::fs;
use std::process::Command;

/// See the [module](self).
pub(crate) struct Dummy(String);

impl Dummy {
    /// That of the RDMA device, or why it had better be left alone.
    pub(crate) fn of(device: Option<&str>) -> Result<Self, String> {
        let device = device.ok_or("shared memory has no link")?;
        if !rustix::process::geteuid().is_root() {
            return Err("only root may do that to a network device".to_owned());
        }
        let ports = format!("/sys/class/infiniband/{device}/ports/1/gid_attrs/ndevs/0");
        let name = fs::read_to_string(ports);
        let name = name.map_err(|_| format!("{device} is on no network device"))?;
        let name = name.trim().to_owned();
        let details = output("ip", &["-details", "link", "show", &name])?;
        if !details.contains("dummy") {
            return Err(format!("others may need {name}, which is no dummy device"));
        }
        Ok(Self(name))
    }

    /// Whether packets can be dropped.
    pub(crate) fn check_netem(&self) -> Result<(), String> {
        let lossy = self.lose(2)?;
        drop(lossy);
        Ok(())
    }

    pub(crate) fn set(&self, state: &str) {
        let set = output("ip", &["link", "set", &self.0, state]);
        set.expect("a dummy device goes up and down");
    }

    /// Its addresses go with it when it is taken down.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let list = output("ip", &["-4", "-oneline", "address", "show", "dev", &self.0]);
        let list = list.expect("it is there");
        let words: Vec<_> = list.split_whitespace().collect();
        let addresses = words.windows(2).filter(|pair| pair[0] == "inet");
        addresses.map(|pair| pair[1].to_owned()).collect()
    }

    /// Gives it those of the addresses that it has not.
    pub(crate) fn readdress(&self, addresses: &[String]) {
        let has = self.addresses();
        for address in addresses.iter().filter(|address| !has.contains(address)) {
            let added = output("ip", &["address", "add", address, "dev", &self.0]);
            added.expect("it had that address");
        }
    }

    /// Drops so many of 100 packets until what is given back is dropped. A device's packets to
    /// itself take the way over `lo`, or none.
    pub(crate) fn lose(&self, percent: u32) -> Result<Lossy, String> {
        let mut lossy = Lossy(Vec::new());
        for device in [&*self.0, "lo"] {
            let loss = format!("{percent}%");
            let words = [
                "qdisc", "add", "dev", device, "root", "netem", "loss", &loss,
            ];
            output("tc", &words)?;
            lossy.0.push(device.to_owned());
        }
        Ok(lossy)
    }
}

/// Devices that drop packets.
pub(crate) struct Lossy(Vec<String>);

impl Lossy {
    /// Packets that they have dropped.
    pub(crate) fn dropped(&self) -> u64 {
        let of = |device: &String| {
            let shown = output("tc", &["-s", "qdisc", "show", "dev", device]).unwrap_or_default();
            let count = shown
                .split_once("dropped ")?
                .1
                .split(',')
                .next()?
                .parse::<u64>();
            count.ok()
        };
        self.0.iter().filter_map(of).sum()
    }
}

impl Drop for Lossy {
    fn drop(&mut self) {
        for device in &self.0 {
            // What remains is a device of a guest that is about to end.
            let _ = output("tc", &["qdisc", "del", "dev", device, "root"]);
        }
    }
}

fn output(program: &str, words: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(words).output();
    let output = output.map_err(|error| format!("{program} cannot be run: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("{program} {}: {}", words.join(" "), said.trim()))
    }
}
