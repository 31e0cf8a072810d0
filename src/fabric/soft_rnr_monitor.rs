//! Counts messages that found no receive posted ("receiver not ready").

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where the kernel keeps the counters of RDMA devices.
const SYSFS: &str = "/sys/class/infiniband";
/// Counters of a receiver without receives: of mlx5, and of soft-RoCE.
const COUNTERS: [&str; 2] = ["out_of_buffer", "send_rnr_err"];

/// Watches how often this host's RDMA ports had to turn a message away because no receive was
/// posted. Each time costs the sender a retry, or the connection once its retries are used up: too
/// few receives, or a service that is too slow to post them.
///
/// It reads the kernel's counters (`ports/*/hw_counters` in sysfs), so it sees all programs of the
/// host.
///
/// ```
/// use slimerpc::fabric::SoftRnrMonitor;
/// let mut monitor = SoftRnrMonitor::new()?; // a host without RDMA has nothing to watch
/// monitor.snapshot()?;
/// // ... work ...
/// println!("{} messages had to wait: {:?}", monitor.total_delta()?, monitor.delta()?);
/// # Ok::<_, slimerpc::fabric::RnrError>(())
/// ```
#[derive(Debug, Clone)]
pub struct SoftRnrMonitor {
    watched: Vec<Watched>,
}

/// The counter of one port.
#[derive(Debug, Clone)]
struct Watched {
    device: String,
    counter: String,
    path: PathBuf,
    before: u64,
}

/// A counter could not be found or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RnrError {
    /// The device does not exist.
    #[error("there is no RDMA device `{device}`; this host has {known:?}")]
    NoDevice {
        /// The name that was given.
        device: String,
        /// Names of the devices of this host.
        known: Vec<String>,
    },
    /// The device has no such counter.
    #[error("`{device}` has none of the counters {tried:?} on any port")]
    NoCounter {
        /// Name of the device.
        device: String,
        /// Names of the counters that were tried.
        tried: Vec<String>,
    },
    /// A counter cannot be read; its device may have gone.
    #[error("{path}: {source}")]
    Read {
        /// Path of the counter.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A counter does not contain a number.
    #[error("{path} says `{text}`, which is no count")]
    Malformed {
        /// Path of the counter.
        path: PathBuf,
        /// The text that it contains.
        text: String,
    },
}

impl SoftRnrMonitor {
    /// Watches every device of the host that has such a counter, from now on.
    ///
    /// # Errors
    /// A counter cannot be read.
    pub fn new() -> Result<Self, RnrError> {
        Self::in_sysfs(Path::new(SYSFS), None, None)
    }

    /// Watches these devices, and optionally a counter by name instead of those that the known
    /// drivers have.
    ///
    /// # Errors
    /// A device does not exist or does not have the counter; a counter cannot be read.
    ///
    /// ```no_run
    /// use slimerpc::fabric::SoftRnrMonitor;
    /// let retries = SoftRnrMonitor::of(&["rxe0"], Some("retry_rnr_exceeded_err"))?;
    /// assert_eq!(retries.counter("rxe0"), Some("retry_rnr_exceeded_err"));
    /// # Ok::<_, slimerpc::fabric::RnrError>(())
    /// ```
    pub fn of(devices: &[&str], counter: Option<&str>) -> Result<Self, RnrError> {
        Self::in_sysfs(Path::new(SYSFS), Some(devices), counter)
    }

    fn in_sysfs(
        sysfs: &Path,
        devices: Option<&[&str]>,
        counter: Option<&str>,
    ) -> Result<Self, RnrError> {
        let known = entries(sysfs);
        let tried: Vec<&str> = counter.map_or(COUNTERS.to_vec(), |counter| vec![counter]);
        let mut watched = Vec::new();
        let names: Vec<&str> = match devices {
            Some(names) => names.to_vec(),
            None => known.iter().map(String::as_str).collect(),
        };
        for device in names {
            if !known.iter().any(|name| name == device) {
                return Err(RnrError::NoDevice {
                    device: device.to_owned(),
                    known,
                });
            }
            let found = Watched::find(&sysfs.join(device), device, &tried);
            if found.is_empty() && devices.is_some() {
                return Err(RnrError::NoCounter {
                    device: device.to_owned(),
                    tried: tried.iter().map(ToString::to_string).collect(),
                });
            }
            watched.extend(found);
        }
        let mut monitor = Self { watched };
        monitor.snapshot()?;
        Ok(monitor)
    }

    /// Resets the start of counting to now.
    ///
    /// # Errors
    /// A counter cannot be read; then nothing changes.
    pub fn snapshot(&mut self) -> Result<(), RnrError> {
        let now: Vec<u64> = self
            .watched
            .iter()
            .map(Watched::read)
            .collect::<Result<_, _>>()?;
        for (watched, now) in self.watched.iter_mut().zip(now) {
            watched.before = now;
        }
        Ok(())
    }

    /// Returns how many messages were turned away since the last snapshot, by device.
    ///
    /// # Errors
    /// A counter cannot be read.
    pub fn delta(&self) -> Result<BTreeMap<String, u64>, RnrError> {
        let mut deltas = BTreeMap::new();
        for watched in &self.watched {
            // A counter that was reset starts from 0.
            let delta = watched.read()?.saturating_sub(watched.before);
            *deltas.entry(watched.device.clone()).or_insert(0) += delta;
        }
        Ok(deltas)
    }

    /// Returns how many messages were turned away since the last snapshot, on all devices.
    ///
    /// # Errors
    /// A counter cannot be read.
    pub fn total_delta(&self) -> Result<u64, RnrError> {
        Ok(self.delta()?.values().sum())
    }

    /// Names of the watched devices.
    pub fn devices(&self) -> Vec<&str> {
        let mut names: Vec<_> = self
            .watched
            .iter()
            .map(|watched| &*watched.device)
            .collect();
        names.dedup();
        names
    }

    /// Name of the counter that is read for a device.
    pub fn counter(&self, device: &str) -> Option<&str> {
        let watched = self
            .watched
            .iter()
            .find(|watched| watched.device == device)?;
        Some(&watched.counter)
    }
}

impl Watched {
    /// Finds the first of `counters` that each port has.
    fn find(dir: &Path, device: &str, counters: &[&str]) -> Vec<Self> {
        let of_port = |port: String| {
            let dir = dir.join("ports").join(port).join("hw_counters");
            let counter = counters
                .iter()
                .find(|counter| dir.join(counter).is_file())?;
            Some(Self {
                device: device.to_owned(),
                counter: (*counter).to_owned(),
                path: dir.join(counter),
                before: 0,
            })
        };
        entries(&dir.join("ports"))
            .into_iter()
            .filter_map(of_port)
            .collect()
    }

    fn read(&self) -> Result<u64, RnrError> {
        let text = fs::read_to_string(&self.path).map_err(|source| RnrError::Read {
            path: self.path.clone(),
            source,
        })?;
        text.trim().parse().map_err(|_| RnrError::Malformed {
            path: self.path.clone(),
            text: text.chars().take(40).collect(),
        })
    }
}

/// Names in a directory, sorted; empty if it does not exist.
fn entries(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Host(tempfile::TempDir);

    impl Host {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn set(&self, device: &str, port: u8, counter: &str, value: &str) {
            let dir = self
                .0
                .path()
                .join(format!("{device}/ports/{port}/hw_counters"));
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join(counter), value).unwrap();
        }

        fn monitor(&self, devices: Option<&[&str]>) -> Result<SoftRnrMonitor, RnrError> {
            SoftRnrMonitor::in_sysfs(self.0.path(), devices, None)
        }
    }

    #[test]
    fn each_driver_is_read_by_its_own_counter_and_ports_are_summed() {
        let host = Host::new();
        host.set("mlx5_0", 1, "out_of_buffer", "10\n");
        host.set("mlx5_0", 2, "out_of_buffer", "20\n");
        host.set("rxe0", 1, "send_rnr_err", "5\n");
        host.set("odd0", 1, "other", "1\n");
        let mut monitor = host.monitor(None).unwrap();
        assert_eq!(monitor.devices(), ["mlx5_0", "rxe0"]);
        assert_eq!(monitor.counter("mlx5_0"), Some("out_of_buffer"));
        assert_eq!(monitor.counter("rxe0"), Some("send_rnr_err"));
        assert_eq!(
            (monitor.counter("odd0"), monitor.total_delta().unwrap()),
            (None, 0)
        );

        host.set("mlx5_0", 2, "out_of_buffer", "23\n");
        host.set("rxe0", 1, "send_rnr_err", "6\n");
        let deltas = monitor.delta().unwrap();
        assert_eq!(
            (
                deltas["mlx5_0"],
                deltas["rxe0"],
                monitor.total_delta().unwrap()
            ),
            (3, 1, 4)
        );
        monitor.snapshot().unwrap();
        assert_eq!(monitor.total_delta().unwrap(), 0);
        // A device that was reset.
        host.set("rxe0", 1, "send_rnr_err", "0\n");
        assert_eq!(monitor.total_delta().unwrap(), 0);
    }

    #[test]
    fn what_is_not_there_or_no_number_is_an_error_that_names_it() {
        let host = Host::new();
        host.set("odd0", 1, "other", "1\n");
        let text = |result: Result<SoftRnrMonitor, RnrError>| result.unwrap_err().to_string();
        assert!(text(host.monitor(Some(&["mlx5_9"]))).contains("odd0"));
        assert!(text(host.monitor(Some(&["odd0"]))).contains("send_rnr_err"));
        host.set("odd0", 1, "out_of_buffer", "many\n");
        assert!(text(host.monitor(None)).contains("many"));
        host.set("odd0", 1, "out_of_buffer", "1\n");
        let monitor = host.monitor(None).unwrap();
        fs::remove_dir_all(host.0.path().join("odd0")).unwrap();
        assert!(matches!(monitor.delta(), Err(RnrError::Read { .. })));
        assert_eq!(host.monitor(None).unwrap().devices(), Vec::<&str>::new());
    }
}
