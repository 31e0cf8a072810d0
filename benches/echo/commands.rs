//! What a Redis has done: its commands, and the time that they took.

use crate::support::Result;

pub(crate) struct Commands(redis::Connection);

impl Commands {
    pub(crate) fn of(url: &str) -> Result<Self> {
        Ok(Self(redis::Client::open(url)?.get_connection()?))
    }

    pub(crate) fn so_far(&mut self) -> Result<u64> {
        let stats: String = redis::cmd("INFO").arg("stats").query(&mut self.0)?;
        Ok(field(&stats, "total_commands_processed:")?.parse()?)
    }

    /// Seconds of processor time that it has used.
    pub(crate) fn cpu(&mut self) -> Result<f64> {
        let cpu: String = redis::cmd("INFO").arg("cpu").query(&mut self.0)?;
        let [user, system] = ["used_cpu_user:", "used_cpu_sys:"].map(|name| field(&cpu, name));
        Ok(user?.parse::<f64>()? + system?.parse::<f64>()?)
    }
}

/// The field of that name in what Redis says of itself.
fn field<'a>(info: &'a str, name: &str) -> Result<&'a str> {
    let value = info.lines().find_map(|line| line.strip_prefix(name));
    Ok(value.ok_or("Redis does not say what it has done")?.trim())
}
