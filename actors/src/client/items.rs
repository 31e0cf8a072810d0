//! Streams of items, as their caller sees them.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures_util::Stream;
use slimerpc::channel::{CallSpan, ClientChannel, Parker, StreamName};

use crate::client::blocking::would_block_a_runtime;
use crate::client::reconnect::Later;
use crate::client::reply::Decoder;
use crate::observe::trace;
use crate::{Outcome, Ran, Reply, RpcError};

/// Most items that are requested ahead, if the channel has enough credits.
const WINDOW: usize = 8;

/// The items of a stream that a service makes: a [`Stream`] of `Result<T, RpcError>`, returned by
/// the client's method of a `#[method(stream)]`.
///
/// The stream is opened when the method is called. Each item takes one of the proxy's credits from
/// its request until it is read. Some items are requested ahead, as [`window`](Self::window) sets,
/// and the service makes no more than that. After an error there are no further items. Dropping
/// this ends the stream at the service.
///
/// ```no_run
/// # use futures_util::StreamExt;
/// # use slimerpc_actors::{Items, RpcError};
/// # async fn example(mut tokens: Items<String>) -> Result<(), RpcError> {
/// while let Some(token) = tokens.next().await {
///     print!("{}", token?);
/// }
/// # Ok(())
/// # }
/// ```
#[must_use = "a stream is ended when its items are dropped"]
pub struct Items<T> {
    /// `None` once there are no more items.
    source: Option<ItemSource>,
    /// Opens the stream, while its peer is away.
    opening: Option<Box<Later<Opened<T>>>>,
    /// Requests for items, in order.
    asked: VecDeque<Reply<Option<T>>>,
    decode: Decoder<Option<T>>,
    method: &'static &'static str,
    /// `None` means the default of the source.
    window: Option<usize>,
    deadline: Option<(Instant, Duration)>,
    /// Whether the request that opens the stream was made.
    was_opened: bool,
    /// Whether an item has come, so that the handler ran.
    has_begun: bool,
    /// Told how the stream ends, if somebody wants to know.
    span: Option<CallSpan>,
}

/// An open stream: the reply with its first item, and the source of the others.
type Opened<T> = (Reply<Option<T>>, ItemSource);

/// The source of the items.
pub(crate) struct ItemSource {
    pub(crate) channel: Arc<ClientChannel>,
    pub(crate) stream: StreamName,
}

impl ItemSource {
    fn next<T>(
        &self,
        timeout: Option<Duration>,
        method: &'static &'static str,
        decode: Decoder<T>,
    ) -> Reply<T> {
        match self.channel.next_item(self.stream, timeout) {
            Ok(call) => Reply::called(call, method, decode),
            Err(error) => Reply::failed(RpcError::from_call(error, self.channel.peer(), method)),
        }
    }

    /// The default number of items to request ahead, at most half of the credits.
    fn window(&self) -> usize {
        WINDOW.min(self.channel.geometry().slots() / 2).max(1)
    }
}

impl<T> Items<T> {
    /// Makes the items of a stream that was opened; `first` brings its first item.
    pub(crate) fn new(
        source: ItemSource,
        first: Reply<Option<T>>,
        decode: Decoder<Option<T>>,
        method: &'static &'static str,
        timeout: Option<Duration>,
    ) -> Self {
        let deadline =
            timeout.and_then(|after| Instant::now().checked_add(after).map(|at| (at, after)));
        let mut items = Self {
            window: None,
            source: Some(source),
            opening: None,
            asked: VecDeque::from([first]),
            decode,
            method,
            deadline,
            was_opened: true,
            has_begun: false,
            span: None,
        };
        items.ask();
        items
    }

    /// Makes the items of a stream that could not be opened.
    pub(crate) fn failed(
        error: RpcError,
        decode: Decoder<Option<T>>,
        method: &'static &'static str,
    ) -> Self {
        Self {
            source: None,
            opening: None,
            asked: VecDeque::from([Reply::failed(error)]),
            decode,
            method,
            window: None,
            deadline: None,
            was_opened: false,
            has_begun: false,
            span: None,
        }
    }

    /// Makes the items of a stream that is opened once its peer is back.
    pub(crate) fn later(
        opening: Box<Later<Opened<T>>>,
        decode: Decoder<Option<T>>,
        method: &'static &'static str,
    ) -> Self {
        Self {
            source: None,
            deadline: opening.deadline(),
            opening: Some(opening),
            asked: VecDeque::new(),
            decode,
            method,
            window: None,
            was_opened: false,
            has_begun: false,
            span: None,
        }
    }

    /// Tells `span`, if there is one, how the stream ends.
    pub(crate) fn traced(mut self, span: Option<CallSpan>) -> Self {
        self.span = span;
        // Whoever drops them may not have looked.
        if let Some(outcome) = self.asked.front().and_then(Reply::failure) {
            self.tell_end(outcome);
        }
        self
    }

    /// Continues to open the stream, if it is not open.
    fn poll_opening(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(opening) = &mut self.opening else {
            return Poll::Ready(());
        };
        let opened = ready!(opening.poll(context));
        self.opening = None;
        let first = match opened {
            Ok((mut first, source)) => {
                self.source = Some(source);
                self.was_opened = true;
                if let Some((at, _)) = self.deadline {
                    first.set_timeout(at.saturating_duration_since(Instant::now()));
                }
                first
            }
            Err(error) => Reply::failed(error),
        };
        self.asked.push_back(first);
        self.ask();
        Poll::Ready(())
    }

    /// Sets how many items are requested ahead, at least 1; by default 8, or half of the proxy's
    /// credits if that is less. Items that were made and not read keep their credits.
    ///
    /// ```no_run
    /// # use slimerpc_actors::Items;
    /// # fn example(tokens: Items<String>) -> Items<String> {
    /// tokens.window(2)
    /// # }
    /// ```
    pub fn window(mut self, items: usize) -> Self {
        self.window = Some(items.max(1));
        self.ask();
        self
    }

    /// Sets a deadline for the whole stream, counted from now; it then ends with
    /// [`RpcError::Timeout`]. [`Proxy::with_timeout`](crate::Proxy::with_timeout) sets one when a
    /// stream is opened.
    ///
    /// ```no_run
    /// # use slimerpc_actors::Items;
    /// # use std::time::Duration;
    /// # fn example(tokens: Items<String>) -> Items<String> {
    /// tokens.timeout(Duration::from_secs(30))
    /// # }
    /// ```
    pub fn timeout(mut self, after: Duration) -> Self {
        self.deadline = Instant::now().checked_add(after).map(|at| (at, after));
        if let Some(opening) = &mut self.opening {
            opening.set_timeout(after);
        }
        for reply in &mut self.asked {
            reply.set_timeout(after);
        }
        self
    }

    /// Blocks the thread until the next item is there; `None` when there are no more.
    ///
    /// ```no_run
    /// # use slimerpc_actors::{Items, RpcError};
    /// # fn example(mut tokens: Items<String>) -> Result<(), RpcError> {
    /// while let Some(token) = tokens.wait_next() {
    ///     print!("{}", token?);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The errors of the stream; [`RpcError::WouldBlock`] on a thread that runs async code. That
    /// one takes no item, and the stream goes on. A stream of
    /// [`Proxy::blocking`](crate::Proxy::blocking) is not even opened there.
    pub fn wait_next(&mut self) -> Option<Result<T, RpcError>> {
        let first = self.asked.front();
        let waits = self.opening.is_some() || first.is_some_and(Reply::is_undecided);
        if waits && would_block_a_runtime() {
            let ran = match self.has_begun {
                true => Ran::Yes,
                false => Ran::Unknown,
            };
            return Some(Err(RpcError::WouldBlock { ran }));
        }
        Parker::with(|parker, waker| {
            while self
                .poll_opening(&mut Context::from_waker(waker))
                .is_pending()
            {
                parker.park(None);
            }
        });
        let result = self.asked.pop_front()?.wait();
        self.complete(result)
    }

    /// The result of the oldest request for an item.
    fn complete(&mut self, result: Result<Option<T>, RpcError>) -> Option<Result<T, RpcError>> {
        match result {
            Ok(Some(item)) => {
                self.has_begun = true;
                self.ask();
                Some(Ok(item))
            }
            Ok(None) => {
                // The requests that were made ahead have the same result.
                self.source = None;
                self.asked.clear();
                self.tell_end(Outcome::Ok);
                None
            }
            Err(error) => {
                self.end();
                self.tell_end(trace::outcome(&error));
                Some(Err(self.named(error)))
            }
        }
    }

    /// Rewrites an error for the whole stream: the deadline is the stream's, not that of one item;
    /// and the handler that ran is the stream's, whatever happened to the request for the item.
    fn named(&self, error: RpcError) -> RpcError {
        let ran = |of_item| if self.has_begun { Ran::Yes } else { of_item };
        match (error, self.deadline) {
            (
                RpcError::Timeout {
                    peer,
                    method,
                    ran: of,
                    ..
                },
                Some((_, after)),
            ) => RpcError::Timeout {
                peer,
                method,
                after,
                ran: if self.was_opened {
                    ran(Ran::Unknown)
                } else {
                    of
                },
            },
            (
                RpcError::PeerLost {
                    peer,
                    method,
                    cause,
                    ran: of,
                },
                _,
            ) => RpcError::PeerLost {
                peer,
                method,
                cause,
                ran: ran(of),
            },
            (error, _) => error,
        }
    }

    /// Requests items until as many are under way as allowed.
    fn ask(&mut self) {
        let Some(source) = &self.source else { return };
        let window = self.window.unwrap_or_else(|| source.window());
        while self.asked.len() < window {
            let left = |(at, _): (Instant, _)| at.saturating_duration_since(Instant::now());
            let asked = source.next(self.deadline.map(left), self.method, self.decode);
            self.asked.push_back(asked);
        }
    }

    fn tell_end(&mut self, outcome: Outcome) {
        if let Some(mut span) = self.span.take() {
            span.ends(outcome);
        }
    }

    fn end(&mut self) {
        self.opening = None;
        self.asked.clear();
        if let Some(source) = self.source.take() {
            source.channel.end_stream(source.stream);
        }
    }
}

impl<T> Stream for Items<T> {
    type Item = Result<T, RpcError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        ready!(self.poll_opening(context));
        let Some(first) = self.asked.front_mut() else {
            return Poll::Ready(None);
        };
        let result = ready!(Pin::new(first).poll(context));
        self.asked.pop_front();
        Poll::Ready(self.complete(result))
    }
}

impl<T> Drop for Items<T> {
    fn drop(&mut self) {
        self.end();
    }
}

impl<T> fmt::Debug for Items<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Items")
            .field("asked", &self.asked.len())
            .field("is_open", &self.source.is_some())
            .finish_non_exhaustive()
    }
}
