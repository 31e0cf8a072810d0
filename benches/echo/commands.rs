//! How many commands a Redis has run.

use crate::support::Result;

pub(crate) struct Commands(redis::Connection);

impl Commands {
    pub(crate) fn of(url: &str) -> Result<Self> {
        Ok(Self(redis::Client::open(url)?.get_connection()?))
    }

    pub(crate) fn so_far(&mut self) -> Result<u64> {
        let stats: String = redis::cmd("INFO").arg("stats").query(&mut self.0)?;
        let count = stats
            .lines()
            .find_map(|line| line.strip_prefix("total_commands_processed:"));
        Ok(count
            .ok_or("Redis does not count its commands")?
            .trim()
            .parse()?)
    }
}
