//! The mailboxes of a service instance: one for each device that its callers use.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use slimerpc::channel::{
    BufferPool, CallFigures, ConnectError, Delivery, Geometries, LossCause, Mailbox, ServiceInfo,
};
use slimerpc::fabric::{CompletionEvents, FabricError, RetryPolicy};
use tokio::sync::mpsc::UnboundedReceiver;

/// Shared by the actor, which accepts callers, and its context, which polls.
pub(crate) type SharedMailboxes = Rc<RefCell<Mailboxes>>;

/// The mailboxes of an instance. They live on its arbiter.
#[derive(Debug)]
pub(crate) struct Mailboxes {
    service: ServiceInfo,
    geometries: Geometries,
    retry: RetryPolicy,
    sources: Vec<MailboxSource>,
    /// Requests that arrived at the service's front.
    forwarded: UnboundedReceiver<Delivery>,
}

#[derive(Debug)]
struct MailboxSource {
    memory: Arc<BufferPool>,
    mailbox: Mailbox,
    events: CompletionEvents,
}

impl Mailboxes {
    /// Makes an instance's mailboxes, none yet. They also deliver what comes from `forwarded`.
    pub(crate) fn new(
        service: ServiceInfo,
        geometries: Geometries,
        retry: RetryPolicy,
        forwarded: UnboundedReceiver<Delivery>,
    ) -> Self {
        Self {
            service,
            geometries,
            retry,
            sources: Vec::new(),
            forwarded,
        }
    }

    /// The mailbox on the device of `memory`, made on first use.
    pub(crate) fn on(&mut self, memory: &Arc<BufferPool>) -> Result<&mut Mailbox, ConnectError> {
        let found = self
            .sources
            .iter()
            .position(|source| Arc::ptr_eq(&source.memory, memory));
        let at = match found {
            Some(at) => at,
            None => {
                let service = self.service.clone();
                let mailbox = Mailbox::new(memory.clone(), self.geometries, self.retry, service)?;
                let events = mailbox.events();
                let events = events.map_err(FabricError::os("awaiting completions"))?;
                self.sources.push(MailboxSource {
                    memory: memory.clone(),
                    mailbox,
                    events,
                });
                self.sources.len() - 1
            }
        };
        Ok(&mut self.sources[at].mailbox)
    }

    /// Appends what has arrived to `deliveries`. Returns whether anything had.
    #[inline]
    pub(crate) fn poll(&mut self, deliveries: &mut VecDeque<Delivery>) -> bool {
        let mut any = false;
        let mut at = 0;
        while let Some(source) = self.sources.get_mut(at) {
            match source.mailbox.poll(deliveries) {
                Ok(found) => {
                    any |= found;
                    at += 1;
                }
                Err(error) => self.give_up(at, &error),
            }
        }
        // Cheaper than to try.
        if !self.forwarded.is_empty() {
            while let Ok(delivery) = self.forwarded.try_recv() {
                deliveries.push_back(delivery);
                any = true;
            }
        }
        any
    }

    /// Returns whether nothing has arrived in the rings, by a check that is cheaper than
    /// [`poll`](Self::poll).
    #[inline]
    pub(crate) fn is_quiet(&self) -> bool {
        self.sources.iter().all(|source| source.mailbox.is_quiet())
    }

    /// Requests an event at the next arrival. Poll once more before waiting for it.
    pub(crate) fn arm(&mut self) {
        self.each(|source| source.mailbox.arm());
    }

    /// Ready once a mailbox has raised an event since it was armed, or with a delivery that came
    /// otherwise.
    pub(crate) fn poll_raised(
        &mut self,
        task: &mut Context<'_>,
        deliveries: &mut VecDeque<Delivery>,
    ) -> Poll<()> {
        let mut raised = Poll::Pending;
        if let Poll::Ready(Some(delivery)) = self.forwarded.poll_recv(task) {
            deliveries.push_back(delivery);
            raised = Poll::Ready(());
        }
        self.each(|source| match source.events.poll_raised(task) {
            Poll::Pending => Ok(()),
            Poll::Ready(Ok(())) => {
                raised = Poll::Ready(());
                Ok(())
            }
            Poll::Ready(Err(source)) => Err(FabricError::Os {
                doing: "awaiting completions",
                source,
            }),
        });
        raised
    }

    /// Returns whether all answers have arrived at their callers, or never will. If not, ask again
    /// after each poll.
    pub(crate) fn flush(&self) -> bool {
        let mut flushed = true;
        for source in &self.sources {
            flushed &= source.mailbox.flush();
        }
        flushed
    }

    /// Returns whether every request of a connected caller is answered.
    pub(crate) fn is_idle(&self) -> bool {
        self.sources.iter().all(|source| source.mailbox.is_idle())
    }

    /// Makes sure that later polls notice which callers are gone.
    pub(crate) fn probe(&self) {
        self.sources
            .iter()
            .for_each(|source| source.mailbox.probe());
    }

    /// Where calls are counted, if they are.
    pub(crate) fn figures(&self) -> Option<Arc<CallFigures>> {
        self.service.figures.clone()
    }

    /// Number of connected callers.
    pub(crate) fn callers(&self) -> usize {
        let callers = self.sources.iter().map(|source| source.mailbox.callers());
        callers.sum()
    }

    /// Closes all channels.
    pub(crate) fn close(&mut self) {
        self.sources.clear();
    }

    /// Closes the channels of `peer`, or of one incarnation of it.
    pub(crate) fn dismiss(&mut self, peer: &str, life: Option<u64>, cause: &LossCause) {
        for source in &mut self.sources {
            source.mailbox.dismiss(peer, life, cause);
        }
    }

    /// Runs `work` for each mailbox.
    fn each(&mut self, mut work: impl FnMut(&mut MailboxSource) -> Result<(), FabricError>) {
        let mut at = 0;
        while let Some(source) = self.sources.get_mut(at) {
            match work(source) {
                Ok(()) => at += 1,
                Err(error) => self.give_up(at, &error),
            }
        }
    }

    /// Gives up a mailbox that has failed, with its callers; the others go on.
    #[cold]
    fn give_up(&mut self, at: usize, error: &FabricError) {
        let source = self.sources.remove(at);
        let (service, device) = (&*self.service.name, source.memory.device().name());
        tracing::error!(service, device, %error, "a mailbox has failed; its callers are lost");
    }
}
