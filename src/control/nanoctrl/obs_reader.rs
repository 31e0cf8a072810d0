//! Reads what agents say of themselves, from a Redis that is named by its URL.

use std::time::Duration;

use redis::Pipeline;

use super::{access::Access, address::Address, store::Store};
use crate::control::{
    ControlError, Secret,
    keys::Keys,
    obs::{self, ObsScan},
};

/// How long one command may take, connecting included.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Reads the [records](crate::control::obs) of agents, native ones and DLSlime's, without
/// registering anywhere.
///
/// ```no_run
/// # async fn example() -> Result<(), slimerpc::control::ControlError> {
/// use slimerpc::control::ObsReader;
///
/// let reader = ObsReader::new(&"redis://127.0.0.1:6379".into())?;
/// for record in reader.read("job-7").await?.records {
///     println!("{} on {}", record.peer_id, record.host);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ObsReader {
    store: Store,
    scheme: &'static str,
}

impl ObsReader {
    /// Makes a reader for the Redis at `url`:
    /// `redis[s]://[[user]:password@]host[:port][/database]`. Nothing is connected yet.
    ///
    /// # Errors
    /// [`ControlError::BadSetting`] if the text is not such a URL.
    pub fn new(url: &Secret) -> Result<Self, ControlError> {
        let access = Access::parse(url)?;
        let default = || Address::parse("127.0.0.1");
        let address = access.address.clone().map_or_else(default, Ok)?;
        let named_by = "the URL of Redis".to_owned();
        let store = Store::at(address, named_by, access, TIMEOUT);
        let is_tls = url.expose().starts_with("rediss:");
        let scheme = if is_tls { "rediss" } else { "redis" };
        Ok(Self { store, scheme })
    }

    /// The URL of Redis, without login and database.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.store.address())
    }

    /// Reads all records of a scope; empty for none. Records that cannot be read are
    /// [counted](ObsScan::skipped_total). The search passes over all keys of that Redis, in steps
    /// of a thousand.
    ///
    /// # Errors
    /// Redis cannot be reached, or refuses.
    pub async fn read(&self, scope: &str) -> Result<ObsScan, ControlError> {
        let keys = Keys::new(scope);
        let ask = async |commands: &Pipeline| self.store.query(commands).await;
        obs::scan(&keys, ask, |error| self.store.explain(&error)).await
    }
}
