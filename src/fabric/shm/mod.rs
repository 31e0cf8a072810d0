//! The shm fabric: reliable connections between processes of one user on one host, without any
//! device.
//!
//! It behaves as a verbs device does, completions, retries and error states included, so that what
//! runs on it runs on a NIC. How each part is made:
//!
//! | verbs | here |
//! | --- | --- |
//! | GID of the port | 16 random bytes, which name an abstract unix socket; the [`ShmDevice`]s of a process share it |
//! | connection | messages over a link, a unix socket that all queue pairs of two processes share; its end puts them all in ERR |
//! | memory region | a range of a sealed memfd, which the device has for all of them; a peer is handed it when it first uses the rkey |
//! | WRITE, READ | a copy by the poster, inside `post_send` |
//! | bytes that were made [in place](super::QueuePair::place) | no copy: the peer's region is mapped |
//! | WRITE_WITH_IMM | the copy, then an entry in the peer's receive queue, a ring in such a range |
//! | completion queue | its owner polls the receive queues that are in use; the others rest, and who writes into one of those reports it in a set that the queue has |
//! | completion channel | an eventfd; the peer writes to it only if the queue was armed. Who arms it fences for both (`membarrier`), where the kernel can |
//! | the NIC | one thread for each process, which sleeps unless links change or a send has to wait |
//!
//! **Descriptors.** Memory takes none: it is mapped, and its descriptor closed. A pair of processes
//! has its link, which the first dials that needs it, a handle of the peer's process, and an
//! eventfd for each completion queue of the peer's that is written to, unless it is a quiet one:
//! for those a message on the link wakes the owner, by way of the thread of its port.
//!
//! **Trust.** Only processes of the same user get past the listener (`SO_PEERCRED`). Nothing that
//! such a peer writes to shared memory is trusted with memory safety: lengths come from sealed
//! files, indices are our own. It can write all memory that this device shares, as it can ask for
//! all regions, and so it can keep an owner from being told of what others write; what another
//! device shares is in other files. The agents of a process share fate, though: a peer process that
//! violates the protocol towards one of them loses its connections with all, and one that means
//! harm can stop the thread by which all of them connect and continue, as by an eventfd that blocks
//! and is full. Who does not trust other processes of its user so far forbids shared memory
//! (`SLIME_RPC_FABRICS`). The sockets are in the abstract namespace and the memory in memfds, so
//! nothing has a name in the file system and the kernel removes everything with the last process,
//! `kill -9` included.

mod arena;
mod barrier;
mod bell;
mod biased_lock;
mod borrowed_lot;
mod completion_queue;
mod connection;
mod control_socket;
mod device;
mod key_table;
mod link;
mod message;
mod open_device;
mod owner_lock;
mod peer_process;
mod port;
mod queue_page;
mod queue_pair;
mod quiet_queues;
mod ready_set;
mod receive_ring;
mod receiver;
mod region;
mod remote_regions;
mod segment;
mod sender;
mod spare;
mod spin_lock;
mod sync;
mod waiting_hellos;

pub use device::ShmDevice;
pub(crate) use owner_lock::{OwnerGuard, OwnerLock};
pub(crate) use spin_lock::{SpinGuard, SpinLock};

#[cfg(test)]
mod tests;
