//! Calls services: the contract, proxies, replies, streams, groups.

pub(crate) mod blocking;
pub(crate) mod channel_view;
pub(crate) mod connection;
pub(crate) mod group;
pub(crate) mod items;
pub(crate) mod line;
pub(crate) mod peer_status;
pub(crate) mod proxy;
pub(crate) mod reconnect;
pub(crate) mod reply;
pub(crate) mod service;
pub(crate) mod tell;
pub(crate) mod watch;
