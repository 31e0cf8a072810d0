//! The tcp fabric: reliable connections between any two hosts, without any device.
//!
//! It behaves as a verbs device does, completions, retries and error states included, so that what
//! runs on it runs on a NIC. How each part is made:
//!
//! | verbs | here |
//! | --- | --- |
//! | GID of the port | 16 random bytes; the address that peers dial travels beside it, as a [`TcpAddress`] |
//! | connection | one TCP connection, dialled by the end with the smaller GID and number; its end puts both ends in ERR |
//! | memory region | memory of this process. Its owner checks key, bounds and rights of every access |
//! | WRITE, READ | a frame; the bytes go from the region to the socket and from the socket into the region |
//! | WRITE_WITH_IMM | a frame; its immediate waits in the receiver until there is a receive, or for as long as the sender insists |
//! | acknowledgement | a count in every frame; a frame of its own only if none goes back before the next poll |
//! | completion channel | an epoll over the sockets while the queue is armed: the wire itself wakes who sleeps |
//! | doorbell | a system call; what is posted behind unanswered frames waits for the next poll, so that many leave in one |
//! | the NIC | whoever polls. One thread for each device makes connections, and serves those that nobody polls |
//!
//! Of a frame up to a few KiB come with its header into a buffer of the connection and are copied
//! from there; all others are received where they belong. Up to 1 KiB are copied behind the header
//! when they are posted; all others are sent from where they lie.
//!
//! **Trust.** A peer shows the random key of the queue pair that it dials, and the one that answers
//! shows the key of the dialler's: both come from the control plane, which thereby decides who
//! connects. With certificates ([`TcpOptions::tls`]) both ends also speak TLS and check each
//! other's alias; without, bytes are not encrypted. Nothing that comes over the wire is trusted: a
//! frame that breaks the protocol ends its connection, is counted and logged at most once in a
//! while, and nobody else notices.

mod address;
mod completion_queue;
mod connection;
mod device;
mod device_state;
mod frame;
mod gathering;
mod hello;
mod input;
mod options;
mod output;
mod poller;
mod queue_pair;
mod region;
mod socket;
mod stream;
mod timing;
#[cfg(feature = "tls")]
mod tls;
#[cfg(not(feature = "tls"))]
#[path = "tls_absent.rs"]
mod tls;
mod unsettled;
mod worker;

pub use address::{TcpAddress, TcpKey};
pub use device::TcpDevice;
#[cfg(test)]
pub(crate) use gathering::PAUSE_HERE;
pub use options::{MalformedBind, TcpOptions};

#[cfg(test)]
mod tests;
