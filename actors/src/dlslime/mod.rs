//! Messages that only DLSlime peers exchange.

pub(crate) mod qp_ready;
