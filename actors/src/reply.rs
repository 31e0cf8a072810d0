//! The future of an answer.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use slimerpc::channel::{Answer, CallError, PendingCall};
use slimerpc::wire::{DecodeError, Fault, PayloadCodec};
use tokio::time::Sleep;

use crate::RpcError;

/// Polls in a row before other tasks get a turn.
const SPINS: usize = 32;

/// The answer to a call that has been made already: the request was posted when the call was made, not when
/// this is first polled. Dropping it cancels the call.
///
/// ```no_run
/// # use slimerpc_actors::{Caller, Reply, RpcError};
/// # use std::time::Duration;
/// # async fn example(first: Reply<i64>, second: Reply<i64>) -> Result<(), RpcError> {
/// let sum = first.timeout(Duration::from_secs(1)).await? + second.await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a call is cancelled when its reply is dropped"]
pub struct Reply<T> {
    state: State,
    decode: Decoder<T>,
}

/// How to decode the result, and with which codec.
pub(crate) type Decoder<T> = (
    PayloadCodec,
    fn(PayloadCodec, &[u8]) -> Result<T, DecodeError>,
);

enum State {
    Pending(Waiting),
    Failed(RpcError),
    Done,
}

struct Waiting {
    call: PendingCall,
    /// When busy polling began.
    since: Option<Instant>,
    /// Wakes us at the deadline; made when we first go to sleep.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<T> Reply<T> {
    pub(crate) fn new(call: Result<PendingCall, RpcError>, decode: Decoder<T>) -> Self {
        let state = match call {
            Ok(call) => State::Pending(Waiting {
                call,
                since: None,
                timer: None,
            }),
            Err(error) => State::Failed(error),
        };
        Self { state, decode }
    }

    /// Gives the call this long from now; then it ends with [`RpcError::Timeout`].
    pub fn timeout(mut self, after: Duration) -> Self {
        self.set_timeout(after);
        self
    }

    pub(crate) fn set_timeout(&mut self, after: Duration) {
        if let State::Pending(waiting) = &mut self.state {
            waiting.call.set_timeout(after);
            waiting.timer = None;
        }
    }

    /// Blocks the thread until the answer is there.
    ///
    /// # Errors
    /// As the future's; [`RpcError::WouldBlock`] on a thread that runs a tokio runtime.
    pub fn wait(mut self) -> Result<T, RpcError> {
        if tokio::runtime::Handle::try_current().is_ok() {
            return Err(RpcError::WouldBlock);
        }
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut context = Context::from_waker(&waker);
        loop {
            match Pin::new(&mut self).poll_with(&mut context, BusyPoll::InPlace) {
                Poll::Ready(result) => return result,
                Poll::Pending => std::thread::park(),
            }
        }
    }

    /// Blocks the thread until the answer is there or `after` has passed.
    ///
    /// # Errors
    /// As [`wait`](Self::wait); [`RpcError::Timeout`].
    pub fn wait_timeout(self, after: Duration) -> Result<T, RpcError> {
        self.timeout(after).wait()
    }

    fn poll_with(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        busy: BusyPoll,
    ) -> Poll<Result<T, RpcError>> {
        let decode = self.decode;
        let polled = match &mut self.state {
            State::Pending(waiting) => waiting.poll(context, busy, decode),
            State::Failed(error) => Poll::Ready(Err(error.clone())),
            State::Done => panic!("a reply is polled after it was ready"),
        };
        if polled.is_ready() {
            self.state = State::Done;
        }
        polled
    }
}

/// What to do between two busy polls.
#[derive(Clone, Copy, PartialEq, Eq)]
enum BusyPoll {
    /// Let the runtime's other tasks have a turn.
    Yielding,
    /// Stay: the thread has nothing else to do.
    InPlace,
}

impl Waiting {
    fn poll<T>(
        &mut self,
        context: &mut Context<'_>,
        busy: BusyPoll,
        decode: Decoder<T>,
    ) -> Poll<Result<T, RpcError>> {
        let patience = self.call.channel().patience();
        loop {
            for _ in 0..SPINS {
                if let ready @ Poll::Ready(_) = self.poll_call(None, decode) {
                    return ready;
                }
                std::hint::spin_loop();
            }
            let now = Instant::now();
            let since = *self.since.get_or_insert(now);
            if now.duration_since(since) >= patience {
                break;
            }
            if busy == BusyPoll::Yielding {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        let polled = self.poll_call(Some(context.waker()), decode);
        if polled.is_pending() {
            self.sleep(context);
        }
        polled
    }

    fn poll_call<T>(
        &mut self,
        waker: Option<&Waker>,
        decode: Decoder<T>,
    ) -> Poll<Result<T, RpcError>> {
        let polled = self.call.poll(waker).map(|answer| conclude(answer, decode));
        polled.map(|result| result.map_err(|error| self.named(error)))
    }

    /// Makes sure that we are woken by the answer and by the deadline.
    fn sleep(&mut self, context: &mut Context<'_>) {
        self.call.sleep();
        let Some(deadline) = self.call.deadline() else {
            return;
        };
        let runtime = self.call.channel().runtime().clone();
        let timer = self.timer.get_or_insert_with(|| {
            let _guard = runtime.enter();
            Box::pin(tokio::time::sleep_until(deadline.into()))
        });
        if timer.as_mut().poll(context).is_ready() {
            context.waker().wake_by_ref();
        }
    }

    fn named(&self, error: Conclusion) -> RpcError {
        match error {
            Conclusion::Call(error) => RpcError::from_call(error, self.call.channel().peer()),
            Conclusion::Fault(fault) => fault.into(),
            Conclusion::Decode(error) => RpcError::BadReply(error),
        }
    }
}

enum Conclusion {
    Call(CallError),
    Fault(Fault),
    Decode(DecodeError),
}

/// Decodes an answer from the ring, outside of every lock.
fn conclude<T>(answer: Result<Answer<'_>, CallError>, decode: Decoder<T>) -> Result<T, Conclusion> {
    let answer = answer.map_err(Conclusion::Call)?;
    if answer.is_exception() {
        let fault = answer.profile().decode_fault(answer.payload());
        return Err(fault.map_or_else(Conclusion::Decode, Conclusion::Fault));
    }
    let (codec, decode) = decode;
    decode(codec, answer.payload()).map_err(Conclusion::Decode)
}

impl<T> Future for Reply<T> {
    type Output = Result<T, RpcError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_with(context, BusyPoll::Yielding)
    }
}

impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.state {
            State::Pending(_) => "Reply(pending)",
            State::Failed(_) => "Reply(failed)",
            State::Done => "Reply(done)",
        })
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for all replies under one deadline; results come in the order of the replies.
///
/// # Errors
/// The first failure in that order; the calls behind it are cancelled.
///
/// ```no_run
/// # use slimerpc_actors::{Reply, RpcError, wait_all};
/// # use std::time::Duration;
/// # async fn example(replies: Vec<Reply<i64>>) -> Result<(), RpcError> {
/// let sums: Vec<i64> = wait_all(replies, Duration::from_secs(1)).await?;
/// # Ok(())
/// # }
/// ```
pub async fn wait_all<T>(
    replies: impl IntoIterator<Item = Reply<T>>,
    timeout: impl Into<Option<Duration>>,
) -> Result<Vec<T>, RpcError> {
    let mut replies: Vec<_> = replies.into_iter().collect();
    if let Some(after) = timeout.into() {
        for reply in &mut replies {
            reply.set_timeout(after);
        }
    }
    let mut results = Vec::with_capacity(replies.len());
    for reply in replies {
        results.push(reply.await?);
    }
    Ok(results)
}
