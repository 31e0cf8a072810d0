//! Queue pairs of the shm fabric.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::connection::Connection;
use super::open_device::OpenDevice;
use super::port::Command;
use crate::fabric::{
    FabricError, LinkType, MemoryRegion, QueuePair, QueuePairAddress, QueuePairState, RecvRequest,
    RemoteSlice, SendRequest, SystemLimit, software,
};

/// The owner's handle of one end of a connection.
#[derive(Debug)]
pub(super) struct ShmQueuePair {
    connection: Arc<Connection>,
    max_inline: u32,
    /// Whether the completion queue polls the receive queue.
    is_attached: bool,
    device: Arc<OpenDevice>,
}

impl ShmQueuePair {
    pub(super) fn new(
        connection: Arc<Connection>,
        max_inline: u32,
        device: Arc<OpenDevice>,
    ) -> Self {
        Self {
            connection,
            max_inline,
            is_attached: false,
            device,
        }
    }

    fn advance(
        &self,
        verb: &'static str,
        from: QueuePairState,
        to: QueuePairState,
    ) -> Result<(), FabricError> {
        self.connection
            .receiver()
            .advance(from, to)
            .map_err(|state| FabricError::InvalidState {
                qp_num: self.number(),
                verb,
                state,
            })
    }

    fn unreachable(&self, reason: String) -> FabricError {
        FabricError::Unreachable {
            qp_num: self.number(),
            reason,
        }
    }

    /// Connects, except that a hello which the peer has sent before is not answered yet.
    pub(super) fn dial(&self, remote: &QueuePairAddress) -> Result<(), FabricError> {
        self.connection.dial(*remote, || {
            let link = self.device.port().link(remote.gid, &self.connection);
            let link = link.map_err(|error| match SystemLimit::of(&error) {
                Some(_) => FabricError::os("connecting a socket with a peer")(error),
                None => self.unreachable(format!(
                    "no process of this user has a port with the GID {}: {error}",
                    remote.gid
                )),
            })?;
            let reserve = link.socket().as_fd().try_clone_to_owned();
            let reserve = reserve.map_err(|error| {
                link.leave(&self.connection);
                FabricError::os("connecting with a peer")(error)
            })?;
            Ok((link, reserve))
        })?;
        let is_over = |error| self.unreachable(format!("the peer's port has ended: {error}"));
        self.advance("to_rtr", QueuePairState::Init, QueuePairState::Rtr)
            .map_err(|error| is_over(error.to_string()))?;
        let said = self.connection.say_hello();
        said.map_err(|error| is_over(error.to_string()))
    }
}

impl QueuePair for ShmQueuePair {
    fn number(&self) -> u32 {
        self.connection.number()
    }

    fn address(&self) -> QueuePairAddress {
        let port = software::port(LinkType::Shm, self.device.port().gid());
        QueuePairAddress {
            gid: port.gid,
            gid_index: port.gid_index,
            lid: port.lid,
            mtu: port.mtu,
            psn: self.connection.psn(),
            qp_num: self.number(),
            tcp: None,
        }
    }

    fn state(&self) -> QueuePairState {
        self.connection.state()
    }

    fn to_init(&mut self) -> Result<(), FabricError> {
        self.advance("to_init", QueuePairState::Reset, QueuePairState::Init)
    }

    fn to_rtr(&mut self, remote: &QueuePairAddress) -> Result<(), FabricError> {
        let state = self.state();
        if state != QueuePairState::Init {
            return Err(FabricError::InvalidState {
                qp_num: self.number(),
                verb: "to_rtr",
                state,
            });
        }
        self.dial(remote)?;
        self.device.port().command(Command::Greet(self.number()));
        Ok(())
    }

    fn to_rts(&mut self) -> Result<(), FabricError> {
        self.advance("to_rts", QueuePairState::Rtr, QueuePairState::Rts)
    }

    fn to_error(&mut self) -> Result<(), FabricError> {
        self.connection.give_up();
        Ok(())
    }

    fn to_reset(&mut self) -> Result<(), FabricError> {
        self.connection.give_up();
        self.connection.detach();
        let fresh = Arc::new(self.connection.renewed()?);
        self.device.port().replace(&fresh);
        self.connection = fresh;
        self.is_attached = false;
        Ok(())
    }

    fn post_recv(&mut self, request: RecvRequest) -> Result<(), FabricError> {
        self.post_recvs(request, 1)
    }

    fn post_recvs(&mut self, request: RecvRequest, count: u32) -> Result<(), FabricError> {
        let is_flushed = self.connection.receiver().post(request, count)?;
        if !self.is_attached {
            self.is_attached = true;
            self.connection.attach();
        }
        if is_flushed {
            self.connection.flush();
        }
        Ok(())
    }

    fn post_send(&mut self, request: &SendRequest<'_>) -> Result<(), FabricError> {
        request.check_inline(self.max_inline, crate::fabric::SHM)?;
        // SAFETY: this is the one handle, and it is borrowed by this thread alone.
        if unsafe { self.connection.post_send(request) }? {
            let command = Command::Look(Arc::downgrade(&self.connection));
            self.device.port().command(command);
        }
        Ok(())
    }

    fn write_now(&mut self, imm: u32, bytes: &[u8], remote: RemoteSlice) -> bool {
        // SAFETY: this is the one handle, and it is borrowed by this thread alone.
        unsafe { self.connection.write_now(imm, bytes, remote) }
    }

    fn notices_end(&self) -> bool {
        true
    }

    fn can_place(&self) -> bool {
        true
    }

    fn place(&mut self, remote: RemoteSlice, len: usize) -> Option<Arc<dyn MemoryRegion>> {
        // SAFETY: this is the one handle, and it is borrowed by this thread alone.
        let placed = unsafe { self.connection.place(remote, len) }?;
        Some(Arc::new(placed))
    }
}

impl Drop for ShmQueuePair {
    /// Ends the connection; none of its requests is executed afterwards (DROP-1).
    fn drop(&mut self) {
        self.connection.give_up();
        self.connection.detach();
        self.device.port().forget(self.number());
    }
}
