//! What a row needs and this machine lacks.

use std::fmt::Display;

/// Its rows are skipped, and this is why.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Missing(String);

impl Missing {
    pub(crate) fn because(why: impl Display) -> Self {
        Self(why.to_string())
    }
}
