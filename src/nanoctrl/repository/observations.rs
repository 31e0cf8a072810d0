//! What agents say of themselves.

use redis::Pipeline;

use super::{Repository, RepositoryError};
use crate::control::keys::Keys;
use crate::control::obs::{ObsScan, scan};

impl Repository {
    /// The records of a scope.
    pub(in crate::nanoctrl) async fn observations(
        &self,
        keys: &Keys,
    ) -> Result<ObsScan, RepositoryError> {
        self.run(async |mut redis| {
            let ask = async |pipe: &Pipeline| Ok(pipe.query_async(&mut redis).await?);
            scan(keys, ask, RepositoryError::from).await
        })
        .await
    }
}
