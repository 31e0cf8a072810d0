//! What agents say of themselves.

use redis::Pipeline;

use super::{Repository, RepositoryError};
use crate::control::obs::{RawScan, scan_all};

impl Repository {
    /// The records of all scopes.
    pub(in crate::nanoctrl) async fn observations(&self) -> Result<RawScan, RepositoryError> {
        self.run(async |mut redis| {
            let ask = async |pipe: &Pipeline| Ok(pipe.query_async(&mut redis).await?);
            scan_all(ask, RepositoryError::from).await
        })
        .await
    }
}
