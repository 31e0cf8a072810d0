//! Answers a request with a stream of items.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use futures_util::Stream;
use slimerpc::channel::ItemSink;
use slimerpc::wire::{EncodeError, Fault};
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::service::answer::{Failure, codec, decode, encode_with, reply};
use crate::service::panics::{Panic, catch, discard};
use crate::{Finished, Request, StreamCall};

/// Runs a method that returns a stream, and makes one item for each request of the caller, not
/// earlier.
///
/// The stream is a handler that runs until it has ended: if it has `&mut self`, other serial
/// handlers wait (SERIAL-1). A caller that does not request an item for too long loses the stream.
pub async fn answer_stream<M, S>(request: Request, begin: impl FnOnce(M) -> S) -> Finished
where
    M: StreamCall,
    S: Stream<Item = Result<M::Item, Failure>>,
{
    let encode = encode_with(codec::<M>(&request));
    if !request.opens_stream() {
        request.fail(Fault::NotStreamed);
        return Finished::Answered;
    }
    let begun = catch(|| decode(&request).map(begin));
    let Some(sink) = request.into_items() else {
        return Finished::Answered;
    };
    let mut stream = match begun {
        Ok(Ok(stream)) => Box::pin(stream),
        Ok(Err(fault)) => {
            sink.finish(None, Some(fault));
            return Finished::Answered;
        }
        Err(panic) => {
            sink.finish(None, Some(panic.fault()));
            return panic.finish();
        }
    };
    let finished = drive(sink, stream.as_mut(), encode).await;
    // The caller has been told how the stream ended.
    discard(stream).map_or_else(Panic::finish, |()| finished)
}

async fn drive<T, S: Stream<Item = Result<T, Failure>>>(
    mut sink: ItemSink,
    mut stream: Pin<&mut S>,
    encode: impl Fn(&T, &mut [u8]) -> Result<usize, EncodeError>,
) -> Finished {
    loop {
        let patience = sink.patience();
        let asked = timeout(patience, poll_fn(|context| sink.poll_request(context)));
        let request = match asked.await {
            Ok(Some(request)) => request,
            Ok(None) => return Finished::Answered,
            Err(_) => {
                let after_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
                sink.finish(None, Some(Fault::Stalled { after_ms }));
                return Finished::Answered;
            }
        };
        match next(&sink, stream.as_mut()).await {
            Next::Item(Some(Ok(item))) => {
                if let Err(panic) = reply(request, item, &encode) {
                    sink.finish(None, Some(panic.fault()));
                    return panic.finish();
                }
            }
            Next::Item(Some(Err(failure))) => {
                sink.finish(Some(request), Some(failure.into()));
                return Finished::Answered;
            }
            Next::Item(None) => {
                sink.finish(Some(request), None);
                return Finished::Answered;
            }
            Next::Unwanted => {
                sink.cancel(request);
                return Finished::Answered;
            }
            Next::Panicked(panic) => {
                sink.finish(Some(request), Some(panic.fault()));
                return panic.finish();
            }
        }
        // A stream that never waits must not keep the thread from its other work.
        yield_now().await;
    }
}

enum Next<T> {
    /// An item; `None` if there are no more.
    Item(Option<T>),
    /// The caller wants no more items.
    Unwanted,
    Panicked(Panic),
}

/// Waits for the next item, unless the caller stops wanting it first.
async fn next<S: Stream>(sink: &ItemSink, mut stream: Pin<&mut S>) -> Next<S::Item> {
    poll_fn(
        |context| match catch(|| stream.as_mut().poll_next(context)) {
            Ok(Poll::Ready(item)) => Poll::Ready(Next::Item(item)),
            Ok(Poll::Pending) => sink.poll_cancelled(context).map(|()| Next::Unwanted),
            Err(panic) => Poll::Ready(Next::Panicked(panic)),
        },
    )
    .await
}
