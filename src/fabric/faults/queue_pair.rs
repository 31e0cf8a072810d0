//! A queue pair that may not do what it is told.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::completion_queue::FaultyCompletionQueue;
use super::controller::FaultsState;
use super::pair::Pair;
use super::plan::{Fault, Point};
use crate::clock::later;
use crate::fabric::{
    FabricError, MemoryRegion, Opcode, Operation, QueuePair, QueuePairAddress, QueuePairState,
    RecvRequest, RemoteSlice, SendRequest,
};

/// The owner's handle.
#[derive(Debug)]
pub(super) struct FaultyQueuePair {
    pair: Arc<Pair>,
    core: Arc<FaultsState>,
    send_cq: Arc<FaultyCompletionQueue>,
    recv_cq: Arc<FaultyCompletionQueue>,
    /// Depths of the send and the receive queue.
    depths: (u32, u32),
}

impl FaultyQueuePair {
    pub(super) fn new(
        pair: Arc<Pair>,
        core: Arc<FaultsState>,
        send_cq: Arc<FaultyCompletionQueue>,
        recv_cq: Arc<FaultyCompletionQueue>,
        depths: (u32, u32),
    ) -> Self {
        Self {
            pair,
            core,
            send_cq,
            recv_cq,
            depths,
        }
    }

    fn throw(&self, point: Point, opcode: Option<Opcode>) -> Option<Fault> {
        self.core.throw(point, self.pair.ordinal, opcode)
    }

    fn full(&self, queue: &'static str, depth: u32) -> FabricError {
        FabricError::QueueFull {
            qp_num: self.number(),
            queue,
            depth,
        }
    }

    fn post_under(&self, fault: Fault, request: &SendRequest<'_>) -> Result<(), FabricError> {
        let mut end = self.pair.lock();
        match fault {
            Fault::SendQueueFull => return Err(self.full("send", self.depths.0)),
            Fault::PostRefused => {
                return Err(FabricError::Os {
                    doing: "posting a send, and a fault was planned there",
                    source: io::ErrorKind::OutOfMemory.into(),
                });
            }
            Fault::SendFails(status) => return end.post_doomed(request, status),
            Fault::PeerLost => end.fail(),
            // No other fault strikes here.
            _ => {}
        }
        end.qp().post_send(request)
    }
}

impl QueuePair for FaultyQueuePair {
    fn number(&self) -> u32 {
        self.pair.number
    }

    fn address(&self) -> QueuePairAddress {
        self.pair.lock().qp().address()
    }

    fn state(&self) -> QueuePairState {
        self.pair.lock().state()
    }

    fn to_init(&mut self) -> Result<(), FabricError> {
        self.pair.lock().qp().to_init()
    }

    fn expect_peer(&mut self, alias: &str) {
        self.pair.lock().qp().expect_peer(alias);
    }

    fn has_met_peer(&self) -> Result<bool, FabricError> {
        self.pair.lock().qp().has_met_peer()
    }

    fn to_rtr(&mut self, remote: &QueuePairAddress) -> Result<(), FabricError> {
        self.pair.lock().qp().to_rtr(remote)
    }

    fn to_rts(&mut self) -> Result<(), FabricError> {
        self.pair.lock().qp().to_rts()
    }

    fn to_error(&mut self) -> Result<(), FabricError> {
        let mut end = self.pair.lock();
        // Post them, so that they are flushed, too.
        end.post_withheld();
        end.qp().to_error()
    }

    fn to_reset(&mut self) -> Result<(), FabricError> {
        self.pair.lock().qp().to_reset()?;
        for queue in [&self.send_cq, &self.recv_cq] {
            queue.forget(self.pair.number);
        }
        self.pair.lock().forget();
        Ok(())
    }

    fn post_recv(&mut self, request: RecvRequest) -> Result<(), FabricError> {
        let is_live = self.state() != QueuePairState::Reset;
        let fault = is_live.then(|| self.throw(Point::Receive, None)).flatten();
        let mut end = self.pair.lock();
        let Some(Fault::NotReady(time)) = fault else {
            if fault == Some(Fault::ReceiveQueueFull) {
                return Err(self.full("receive", self.depths.1));
            }
            return end.post_recv(request);
        };
        let until = later(Instant::now(), time);
        end.withhold(until);
        let posted = end.post_recv(request);
        drop(end);
        // Wake a sleeper on the queue: it has to come and post the receive.
        self.recv_cq.remind(until);
        posted
    }

    fn post_send(&mut self, request: &SendRequest<'_>) -> Result<(), FabricError> {
        if self.state() == QueuePairState::Rts
            && let Some(fault) = self.throw(Point::Send, Some(opcode(request.operation)))
        {
            return self.post_under(fault, request);
        }
        self.pair.lock().qp().post_send(request)
    }

    fn notices_end(&self) -> bool {
        self.pair.lock().qp().notices_end()
    }

    fn can_place(&self) -> bool {
        self.pair.lock().qp().can_place()
    }

    fn place(&mut self, remote: RemoteSlice, len: usize) -> Option<Arc<dyn MemoryRegion>> {
        self.pair.lock().qp().place(remote, len)
    }
}

fn opcode(operation: Operation) -> Opcode {
    match operation {
        Operation::Write | Operation::WriteWithImm(_) => Opcode::Write,
        Operation::Read => Opcode::Read,
    }
}

impl Drop for FaultyQueuePair {
    /// Drains the queue pair here and now, even while another thread polls its queues (DROP-1).
    fn drop(&mut self) {
        let qp = self.pair.lock().take();
        drop(qp);
        for queue in [&self.send_cq, &self.recv_cq] {
            queue.detach(&self.pair);
        }
    }
}
