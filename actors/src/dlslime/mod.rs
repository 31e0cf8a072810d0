//! What only DLSlime peers are told.

pub(crate) mod qp_ready;
