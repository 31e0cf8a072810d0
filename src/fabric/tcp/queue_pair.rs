//! Queue pairs of the tcp fabric.

use std::sync::Arc;

use super::connection::Connection;
use super::device_state::Command;
use super::socket;
use super::worker::Worker;
use crate::fabric::{
    FabricError, LinkType, QueuePair, QueuePairAddress, QueuePairState, RecvRequest, SendRequest,
    SystemLimit, TcpAddress, software,
};
use crate::tls::TlsError;

/// The owner's handle of one end of a connection.
#[derive(Debug)]
pub(super) struct TcpQueuePair {
    connection: Arc<Connection>,
    max_inline: u32,
    worker: Arc<Worker>,
    /// The alias that the peer must prove to have.
    peer: Option<String>,
}

impl TcpQueuePair {
    pub(super) fn new(connection: Arc<Connection>, max_inline: u32, worker: Arc<Worker>) -> Self {
        Self {
            connection,
            max_inline,
            worker,
            peer: None,
        }
    }

    fn unreachable(&self, reason: String) -> FabricError {
        FabricError::Unreachable {
            qp_num: self.number(),
            reason,
        }
    }

    /// Has the device's thread look again at a peer that has come before it was expected.
    fn review_waiting(&self) {
        let number = self.number();
        self.worker.state().command(Command::Greet(number));
    }

    /// Why the queue pair is in ERR, if its peer could not be met.
    fn not_met(&self) -> Option<FabricError> {
        let is_not_met = self.connection.is_not_met();
        let address = self.connection.remote()?.tcp.filter(|_| is_not_met)?;
        Some(self.unreachable(format!(
            "{} did not become a connection: does the peer listen there, and is it the right \
             `advertise` of the peer?",
            address.socket
        )))
    }

    /// Whether this end dials: exactly one of the two does.
    fn dials(&self, remote: &QueuePairAddress) -> bool {
        (self.worker.state().gid(), self.number()) < (remote.gid, remote.qp_num)
    }
}

impl QueuePair for TcpQueuePair {
    fn number(&self) -> u32 {
        self.connection.number()
    }

    fn address(&self) -> QueuePairAddress {
        let state = self.worker.state();
        let port = software::port(LinkType::Tcp, state.gid());
        let identity = self.connection.identity();
        QueuePairAddress {
            gid: port.gid,
            gid_index: port.gid_index,
            lid: port.lid,
            mtu: port.mtu,
            psn: identity.psn,
            qp_num: identity.number,
            tcp: Some(TcpAddress {
                socket: state.advertised(),
                key: identity.key,
                tls: state.tls().is_some(),
            }),
        }
    }

    fn state(&self) -> QueuePairState {
        self.connection.state()
    }

    fn notices_end(&self) -> bool {
        true
    }

    fn to_init(&mut self) -> Result<(), FabricError> {
        let (from, to) = (QueuePairState::Reset, QueuePairState::Init);
        self.connection.advance_state("to_init", from, to)
    }

    fn expect_peer(&mut self, alias: &str) {
        self.peer = Some(alias.to_owned());
    }

    fn has_met_peer(&self) -> Result<bool, FabricError> {
        let qp_num = self.number();
        let met = self.connection.has_met_peer();
        let met = met.map_err(|error| FabricError::Tls { qp_num, error })?;
        match self.not_met() {
            Some(error) if met => Err(error),
            _ => Ok(met),
        }
    }

    fn to_rtr(&mut self, remote: &QueuePairAddress) -> Result<(), FabricError> {
        let (from, to) = (QueuePairState::Init, QueuePairState::Rtr);
        if self.state() != from {
            return Err(self.connection.invalid("to_rtr", self.state()));
        }
        let Some(address) = remote.tcp else {
            let reason = "the peer's address names no host and port of the tcp fabric";
            return Err(self.unreachable(reason.to_owned()));
        };
        let error = match (self.worker.state().tls(), address.tls) {
            (Some(_), false) => Some(TlsError::MissingThere),
            (None, true) => Some(TlsError::MissingHere),
            _ => None,
        };
        if let Some(error) = error {
            let qp_num = self.number();
            return Err(FabricError::Tls { qp_num, error });
        }
        let socket = if self.dials(remote) {
            let dialled = socket::dial(address.socket).map_err(|error| {
                if SystemLimit::of(&error).is_some() {
                    return FabricError::os("connecting a socket with a peer")(error);
                }
                let socket = address.socket;
                self.unreachable(format!(
                    "{socket} cannot be dialled: {error}; is it the right `advertise` of the peer?"
                ))
            });
            Some(dialled?)
        } else {
            None
        };
        self.connection.set_remote(*remote, self.peer.clone());
        self.connection.advance_state("to_rtr", from, to)?;
        let this = Arc::downgrade(&self.connection);
        self.worker.state().command(match socket {
            Some(socket) => Command::Dial(this, socket),
            None => Command::Greet(self.number()),
        });
        Ok(())
    }

    fn to_rts(&mut self) -> Result<(), FabricError> {
        let (from, to) = (QueuePairState::Rtr, QueuePairState::Rts);
        let advanced = self.connection.advance_state("to_rts", from, to);
        // That nobody listens there may be known already.
        advanced.map_err(|error| self.not_met().unwrap_or(error))
    }

    fn to_error(&mut self) -> Result<(), FabricError> {
        self.connection.give_up();
        self.review_waiting();
        Ok(())
    }

    fn to_reset(&mut self) -> Result<(), FabricError> {
        self.connection.give_up();
        self.connection = self.connection.renewed();
        self.worker.state().replace(&self.connection);
        Ok(())
    }

    fn post_recv(&mut self, request: RecvRequest) -> Result<(), FabricError> {
        self.post_recvs(request, 1)
    }

    fn post_recvs(&mut self, request: RecvRequest, count: u32) -> Result<(), FabricError> {
        self.connection.post_recvs(request, count)
    }

    fn post_send(&mut self, request: &SendRequest<'_>) -> Result<(), FabricError> {
        self.post_sends(std::slice::from_ref(request))
    }

    fn post_sends(&mut self, requests: &[SendRequest<'_>]) -> Result<(), FabricError> {
        self.connection.post_sends(requests, self.max_inline)
    }
}

impl Drop for TcpQueuePair {
    /// Ends the connection; nothing of it is executed afterwards (DROP-1).
    fn drop(&mut self) {
        self.connection.give_up();
        self.worker.state().forget(self.number());
        self.review_waiting();
    }
}
