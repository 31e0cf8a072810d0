//! Checks that both sides of a connection declare the same service (TYPE-1).
//!
//! The server publishes a table with the types of each method. The caller compares it with its own
//! declaration whenever it connects a proxy: at first, again after a loss, and for a service of its
//! own agent. It calls only methods that both declare with the same types, however a call is made:
//! by a group, as a message that nobody waits for, as a stream. Method numbers are those of the
//! table that was read, so the caller's open says which table that was.

use std::cell::RefCell;
use std::collections::HashSet;

use slimerpc::channel::{Mismatch, ServiceTable};

use super::AgentState;

/// Most peers for which the log line is remembered; others choose their names.
const MOST: usize = 1024;

/// Peers of earlier releases, whose types cannot be compared, with the service. Each is logged
/// once.
#[derive(Default)]
pub(super) struct Untyped(RefCell<HashSet<(String, String)>>);

impl Untyped {
    fn is_new(&self, peer: &str, service: &str) -> bool {
        let mut known = self.0.borrow_mut();
        known.len() < MOST && known.insert((peer.to_owned(), service.to_owned()))
    }
}

impl AgentState {
    /// Logs which methods of a service of `peer` cannot be called.
    pub(super) fn note_agreement(&self, peer: &str, ours: &ServiceTable, theirs: &ServiceTable) {
        for mismatch in theirs.differences(ours) {
            tracing::warn!(
                peer,
                service = theirs.name,
                %mismatch,
                "a method has other types at the peer and cannot be called"
            );
        }
        if !theirs.is_typed() && ours.is_typed() && self.untyped.is_new(peer, &theirs.name) {
            tracing::warn!(
                peer,
                service = theirs.name,
                "a peer of an earlier release does not say which types its methods have; they cannot be compared with ours"
            );
        }
    }

    /// Checks that `table` is that of the service as it is served now.
    pub(super) fn check_table(
        &self,
        peer: &str,
        service: &str,
        table: Option<u64>,
    ) -> Result<(), Mismatch> {
        let Some(table) = table else {
            if self.untyped.is_new(peer, service) {
                tracing::warn!(
                    peer,
                    service,
                    "a caller of an earlier release does not compare the types of methods"
                );
            }
            return Ok(());
        };
        let descriptor = self.descriptor.borrow();
        let mut services = descriptor.services.iter();
        match services.find(|ours| ours.name == service) {
            Some(ours) if ours.fingerprint() == table => Ok(()),
            _ => Err(Mismatch::ServiceChanged {
                service: service.to_owned(),
            }),
        }
    }
}
