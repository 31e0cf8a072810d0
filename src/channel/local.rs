//! Calls within a process: the requests and answers of a channel, without a fabric.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::inbound::{Inbound, RequestId};
use super::ring_request::AnswerError;
use super::{Answer, CallError, Delivery, LossCause, ServiceInfo, StreamCredit, WaitPolicy};
use crate::panics::contain;
use crate::wire::{EncodeError, Fault};

/// A service of this process: requests go straight to its instance.
#[derive(Debug, Clone)]
pub struct LocalService {
    /// The queue of the instance.
    pub deliveries: UnboundedSender<Delivery>,
    /// Description of the service.
    pub service: Arc<ServiceInfo>,
    /// Alias of the caller, which is also the service's.
    pub peer: Arc<str>,
    /// Bytes of a slot's payload: the largest answer that is written in place.
    pub max_in_place: usize,
    /// How callers wait.
    pub wait_policy: WaitPolicy,
}

/// The result of a request; `None` if it asked a stream for an item and there is none.
type Outcome = Result<Option<Vec<u8>>, Fault>;

/// Receives the result of a request.
pub(super) struct OnCompletion(Box<dyn FnOnce(Outcome) + Send + Sync>);

impl fmt::Debug for OnCompletion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnCompletion")
    }
}

/// A request from this process.
#[derive(Debug)]
pub(super) struct LocalRequest {
    pub(super) service: Arc<ServiceInfo>,
    pub(super) method: u32,
    pub(super) payload: Box<[u8]>,
    pub(super) peer: Arc<str>,
    pub(super) expires: Option<Instant>,
    pub(super) id: RequestId,
    pub(super) max_in_place: usize,
    /// Memory for an answer that is written in place.
    pub(super) room: Vec<u8>,
    /// For a request that opens a stream: its further requests for items.
    pub(super) stream_credit: Option<Arc<StreamCredit>>,
    complete: Option<OnCompletion>,
}

impl LocalRequest {
    /// Passes the result to the caller. Only the first call has an effect.
    pub(super) fn complete(&mut self, outcome: Outcome) {
        if let Some(complete) = self.complete.take() {
            // The caller's waker may panic, which must not end the service.
            if let Err(message) = contain(|| complete.0(outcome)) {
                tracing::error!(message, "a caller's waker panicked");
            }
        }
    }

    /// The arguments, and the memory for an answer that is written in place.
    pub(super) fn parts(&mut self) -> (&[u8], &mut [u8]) {
        self.room.resize(self.max_in_place, 0);
        (&self.payload, &mut self.room)
    }

    /// Answers with what `encode` writes.
    pub(super) fn answer(
        &mut self,
        encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
    ) -> Result<(), AnswerError> {
        let bytes = to_vec(encode)?;
        self.complete(Ok(Some(bytes)));
        Ok(())
    }
}

impl Drop for LocalRequest {
    fn drop(&mut self) {
        if self.complete.is_some() {
            let service = self.service.name.clone();
            self.complete(Err(Fault::ServiceDown { service }));
        }
        // Nobody makes items of a stream that was not answered as one.
        if let Some(stream_credit) = self.stream_credit.take() {
            stream_credit.complete(None);
        }
    }
}

/// Collects what `encode` writes, whatever its size.
fn to_vec(
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<Vec<u8>, EncodeError> {
    const FIRST: usize = 256;
    let mut bytes = vec![0; FIRST];
    let encoded = match encode(&mut bytes) {
        Err(EncodeError::TooLarge { size, .. }) => {
            bytes
                .try_reserve(size)
                .map_err(|error| EncodeError::Value(error.to_string()))?;
            bytes.resize(size, 0);
            encode(&mut bytes)
        }
        encoded => encoded,
    };
    bytes.truncate(encoded?);
    Ok(bytes)
}

impl LocalService {
    /// Makes a call now. Unlike [`ClientChannel::call`](super::ClientChannel::call) it needs no
    /// credit: like an actor's queue, the service takes every call.
    ///
    /// # Errors
    /// The arguments do not encode, no time is allowed, or the service has ended.
    pub fn call(
        &self,
        method: u32,
        timeout: Option<Duration>,
        encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
    ) -> Result<LocalCall, CallError> {
        self.request(method, timeout, None, encode)
    }

    /// Opens a stream now; the call returns its first item.
    ///
    /// # Errors
    /// The errors of [`call`](Self::call).
    pub fn open_stream(
        &self,
        method: u32,
        timeout: Option<Duration>,
        encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
    ) -> Result<(LocalCall, Arc<StreamCredit>), CallError> {
        let stream_credit = Arc::<StreamCredit>::default();
        let call = self.request(method, timeout, Some(stream_credit.clone()), encode)?;
        Ok((call, stream_credit))
    }

    /// Requests the next item of a stream.
    ///
    /// # Errors
    /// The time allowed is zero.
    pub fn next_item(
        &self,
        stream_credit: &StreamCredit,
        timeout: Option<Duration>,
    ) -> Result<LocalCall, CallError> {
        let (request, call) = self.prepare(0, timeout, None, |_| Ok(0))?;
        stream_credit.ask(request);
        Ok(call)
    }

    fn request(
        &self,
        method: u32,
        timeout: Option<Duration>,
        stream_credit: Option<Arc<StreamCredit>>,
        encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
    ) -> Result<LocalCall, CallError> {
        let (request, call) = self.prepare(method, timeout, stream_credit, encode)?;
        self.hand_over(request)?;
        Ok(call)
    }

    fn prepare(
        &self,
        method: u32,
        timeout: Option<Duration>,
        stream_credit: Option<Arc<StreamCredit>>,
        encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
    ) -> Result<(Inbound, LocalCall), CallError> {
        let (tell, told) = oneshot::channel();
        let complete = move |outcome| drop(tell.send(outcome));
        let (mut request, deadline) = self.make(method, timeout, encode, complete)?;
        request.stream_credit = stream_credit;
        let call = LocalCall {
            service: self.clone(),
            id: request.id,
            answer: told,
            deadline,
            done: false,
        };
        Ok((Inbound::local(request), call))
    }

    /// Makes a call whose result nobody waits for; `failed` is called if it fails.
    ///
    /// # Errors
    /// The errors of [`call`](Self::call).
    pub fn tell(
        &self,
        method: u32,
        timeout: Option<Duration>,
        encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
        failed: impl FnOnce(Fault) + Send + Sync + 'static,
    ) -> Result<(), CallError> {
        let complete = move |outcome: Outcome| {
            if let Err(fault) = outcome {
                failed(fault);
            }
        };
        let (request, _) = self.make(method, timeout, encode, complete)?;
        self.hand_over(Inbound::local(request))
    }

    fn make(
        &self,
        method: u32,
        timeout: Option<Duration>,
        encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
        complete: impl FnOnce(Outcome) + Send + Sync + 'static,
    ) -> Result<(LocalRequest, Option<(Instant, Duration)>), CallError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        if let Some(after @ Duration::ZERO) = timeout {
            return Err(CallError::Timeout { after, sent: false });
        }
        let deadline =
            timeout.and_then(|after| Instant::now().checked_add(after).map(|at| (at, after)));
        let id = RequestId::local(NEXT.fetch_add(1, Ordering::Relaxed));
        let request = LocalRequest {
            service: self.service.clone(),
            method,
            payload: to_vec(encode)?.into(),
            peer: self.peer.clone(),
            expires: deadline.map(|(at, _)| at),
            id,
            max_in_place: self.max_in_place,
            room: Vec::new(),
            stream_credit: None,
            complete: Some(OnCompletion(Box::new(complete))),
        };
        Ok((request, deadline))
    }

    fn hand_over(&self, request: Inbound) -> Result<(), CallError> {
        let sent = self.deliveries.send(Delivery::Request(request));
        sent.map_err(|_| CallError::Closed {
            cause: LossCause::ShutDown,
            sent: false,
        })
    }
}

/// A call within the process. Dropping it cancels the call.
#[derive(Debug)]
pub struct LocalCall {
    service: LocalService,
    id: RequestId,
    answer: oneshot::Receiver<Outcome>,
    deadline: Option<(Instant, Duration)>,
    done: bool,
}

impl LocalCall {
    /// The service that was called.
    pub fn service(&self) -> &LocalService {
        &self.service
    }

    /// Sets the deadline, counted from now.
    pub fn set_timeout(&mut self, after: Duration) {
        let at = Instant::now().checked_add(after);
        self.deadline = at.map(|at| (at, after));
    }

    /// The time that was allowed, if a deadline was set.
    pub fn timeout(&self) -> Option<Duration> {
        self.deadline.map(|(_, after)| after)
    }

    /// The deadline, if one was set.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline.map(|(at, _)| at)
    }

    /// The runtime for callers that are not in one.
    pub fn runtime(&self) -> &Handle {
        &self.service.wait_policy.runtime
    }

    /// Returns the result of the call if it has ended. If it has not and a `waker` is given, that
    /// is woken when it does.
    pub fn poll(&mut self, waker: Option<&Waker>) -> Poll<Result<Answer<'static>, CallError>> {
        let waker = waker.unwrap_or(Waker::noop());
        let polled = Pin::new(&mut self.answer).poll(&mut Context::from_waker(waker));
        let decided = match polled {
            Poll::Ready(Ok(outcome)) => Ok(Answer::local(outcome)),
            Poll::Ready(Err(_)) => Err(CallError::Closed {
                cause: LossCause::ShutDown,
                sent: true,
            }),
            Poll::Pending => match self.deadline {
                Some((at, after)) if at <= Instant::now() => {
                    self.cancel();
                    Err(CallError::Timeout { after, sent: true })
                }
                _ => return Poll::Pending,
            },
        };
        self.done = true;
        Poll::Ready(decided)
    }

    fn cancel(&mut self) {
        if !std::mem::replace(&mut self.done, true) {
            // A failure means that nobody is there any more.
            let _ = self.service.deliveries.send(Delivery::Cancel(self.id));
        }
    }
}

impl Drop for LocalCall {
    fn drop(&mut self) {
        self.cancel();
    }
}
