//! Answers requests: the functions that `#[service]`'s dispatch tables call.

use std::borrow::BorrowMut;
use std::cell::{Ref, RefCell, RefMut};
use std::fmt::Display;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use serde::Serialize;
use slimerpc::wire::{Codec, EncodeError, Fault, PayloadCodec, Raw};

use crate::error::type_path;
use crate::service::panics::{Panic, catch, discard};
use crate::{Call, Dispatch, Finished, Message, Parallel, Request, Service};

/// The failure of a handler, which its caller sees as
/// [`RpcError::Remote`](crate::RpcError::Remote).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    type_name: String,
    message: String,
    value: Option<FailureValue>,
}

/// The error as a value, to be encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FailureValue {
    bytes: Vec<u8>,
    codec: PayloadCodec,
    type_path: String,
}

/// The error that a handler returned, before it becomes a [`Failure`].
///
/// `(&Returned(error)).failure(codec)` is [`WithValue`]'s if the error implements `Serialize`,
/// otherwise [`TextOnly`]'s: method lookup finds the one that needs no further reference first.
#[derive(Debug)]
pub struct Returned<E>(E);

impl<E: Display> Returned<E> {
    /// Wraps an error, of which callers see at least the text.
    pub fn new(error: E) -> Self {
        Self(error)
    }
}

/// Makes a failure that carries the error as a value.
pub trait WithValue {
    /// The failure, for a service with this codec.
    fn failure(&self, codec: PayloadCodec) -> Failure;
}

/// Makes a failure that carries the error's type and text.
pub trait TextOnly {
    /// The failure, for a service with this codec.
    fn failure(&self, codec: PayloadCodec) -> Failure;
}

impl<E: Display + Serialize> WithValue for Returned<E> {
    fn failure(&self, codec: PayloadCodec) -> Failure {
        Failure {
            value: encode_value(&self.0, codec),
            ..Failure::text(&self.0)
        }
    }
}

impl<E: Display> TextOnly for &Returned<E> {
    fn failure(&self, _: PayloadCodec) -> Failure {
        Failure::text(&self.0)
    }
}

impl Failure {
    fn text<E: Display>(error: &E) -> Self {
        // Catch this panic before the error is dropped: a second panic during the unwinding would
        // abort the process.
        let shown = catch(|| error.to_string());
        Self {
            type_name: short_name::<E>(),
            message: shown.unwrap_or_else(|panic| {
                format!(
                    "an error that panics as it is shown: {}",
                    panic.into_message()
                )
            }),
            value: None,
        }
    }
}

/// Most bytes of an error that travels as a value.
const MAX_VALUE: usize = 64 * 1024;

/// Encodes an error. Returns `None` if it does not encode, panics, or is too large: only its text
/// travels then.
fn encode_value<E: Serialize>(error: &E, codec: PayloadCodec) -> Option<FailureValue> {
    let encoded = catch(|| codec.encode_to_vec(error).ok());
    let bytes = encoded
        .ok()
        .flatten()
        .filter(|bytes| bytes.len() <= MAX_VALUE)?;
    Some(FailureValue {
        bytes,
        codec,
        type_path: type_path::<E>(),
    })
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        let Failure {
            type_name,
            message,
            value,
        } = failure;
        match value {
            Some(value) => Self::Returned {
                type_name,
                message,
                value: value.bytes,
                codec: value.codec,
                type_path: value.type_path,
            },
            None => Self::Raised {
                type_name,
                message,
                traceback: String::new(),
            },
        }
    }
}

/// Name of a type without its path: `io::Error` is `Error`, `my::Oops<T>` is `Oops`.
pub(crate) fn short_name<E>() -> String {
    let full = std::any::type_name::<E>();
    let head = full.split('<').next().unwrap_or(full);
    head.rsplit("::").next().unwrap_or(head).to_owned()
}

/// The result of running a handler: its result or its failure, unless it panicked.
type Handled<T> = Result<Result<T, Fault>, Panic>;

/// Borrows the state for a handler with `&self`.
pub fn lend<A, L: BorrowMut<A>>(state: &RefCell<L>) -> Ref<'_, A> {
    Ref::map(state.borrow(), |state| state.borrow())
}

/// Borrows the state for a handler with `&mut self`.
pub fn lend_mut<A, L: BorrowMut<A>>(state: &RefCell<L>) -> RefMut<'_, A> {
    RefMut::map(state.borrow_mut(), |state| state.borrow_mut())
}

/// Runs a sync typed handler: decodes from the ring, calls, encodes into send memory.
pub fn answer<M: Call>(
    request: Request,
    handler: impl FnOnce(M) -> Result<M::Output, Failure>,
) -> Finished {
    let handled = catch(|| handler(decode(&request)?).map_err(Fault::from));
    let codec = codec::<M>(&request);
    complete(request, handled, encode_with(codec))
}

/// Runs an async typed handler: decodes from the ring, calls, encodes into send memory.
pub async fn answer_async<M: Call, F>(request: Request, handler: impl FnOnce(M) -> F) -> Finished
where
    F: Future<Output = Result<M::Output, Failure>>,
{
    let encode = encode_with(codec::<M>(&request));
    let begun = catch(|| decode(&request).map(handler));
    let handled = match begun {
        Ok(Ok(future)) => catch_panic(future).await,
        Ok(Err(fault)) => return complete::<M::Output>(request, Ok(Err(fault)), encode),
        Err(panic) => Err(panic),
    };
    let handled = handled.map(|result| result.map_err(Fault::from));
    complete(request, handled, encode)
}

/// Runs a sync raw handler on bytes borrowed from the ring (RING-1).
pub fn answer_raw<R: AsRef<[u8]>>(
    request: Request,
    handler: impl FnOnce(&[u8]) -> Result<R, Failure>,
) -> Finished {
    let handled = catch(|| handler(request.payload()).map_err(Fault::from));
    complete(request, handled, copied)
}

/// Runs an async raw handler on bytes that are borrowed from the ring until it is done (RING-1).
pub async fn answer_raw_async<R: AsRef<[u8]>>(
    request: Request,
    handler: impl AsyncFnOnce(&[u8]) -> Result<R, Failure>,
) -> Finished {
    let handled = {
        let payload = request.payload();
        catch_panic(handler(payload)).await
    };
    let handled = handled.map(|result| result.map_err(Fault::from));
    complete(request, handled, copied)
}

/// Runs a sync handler that writes its answer into send memory itself and returns its size in
/// bytes.
pub fn answer_inplace(
    mut request: Request,
    handler: impl FnOnce(&[u8], &mut [u8]) -> Result<usize, Failure>,
) -> Finished {
    let handled = catch(|| {
        let (payload, room) = request.parts();
        handler(payload, room).map_err(Fault::from)
    });
    complete_written(request, handled)
}

/// Runs an async handler that writes its answer into send memory itself and returns its size in
/// bytes.
pub async fn answer_inplace_async(
    mut request: Request,
    handler: impl AsyncFnOnce(&[u8], &mut [u8]) -> Result<usize, Failure>,
) -> Finished {
    let handled = {
        let (payload, room) = request.parts();
        catch_panic(handler(payload, room)).await
    };
    let handled = handled.map(|result| result.map_err(Fault::from));
    complete_written(request, handled)
}

/// Runs a sync handler that turns its request into the answer in place and returns the answer's
/// size in bytes.
pub fn answer_rewritten(
    mut request: Request,
    handler: impl FnOnce(&mut [u8]) -> Result<usize, Failure>,
) -> Finished {
    let handled = catch(|| handler(request.payload_mut()).map_err(Fault::from));
    complete_rewritten(request, handled)
}

/// Runs an async handler that turns its request into the answer in place and returns the answer's
/// size in bytes.
/// bytes.
pub async fn answer_rewritten_async(
    mut request: Request,
    handler: impl AsyncFnOnce(&mut [u8]) -> Result<usize, Failure>,
) -> Finished {
    let handled = {
        let payload = request.payload_mut();
        catch_panic(handler(payload)).await
    };
    let handled = handled.map(|result| result.map_err(Fault::from));
    complete_rewritten(request, handled)
}

fn copied<R: AsRef<[u8]>>(bytes: &R, room: &mut [u8]) -> Result<usize, EncodeError> {
    Raw::encode(bytes.as_ref(), room)
}

/// Answers with the result of a handler, panics included (PANIC-1).
fn complete<T>(
    request: Request,
    handled: Handled<T>,
    encode: impl Fn(&T, &mut [u8]) -> Result<usize, EncodeError>,
) -> Finished {
    complete_with(request, handled, |request, output| {
        reply(request, output, encode)
    })
}

/// Answers with `output`, even if encoding it panics. Returns an error if dropping it afterwards
/// panicked.
pub(crate) fn reply<T>(
    request: Request,
    output: T,
    encode: impl Fn(&T, &mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), Panic> {
    request.reply(|room| {
        let encoded = catch(|| encode(&output, room));
        encoded.unwrap_or_else(|panic| Err(EncodeError::Value(panic.into_message())))
    });
    discard(output)
}

/// Answers with bytes that stand in send memory already. A handler that claims more than there is
/// room for has a bug.
fn complete_written(request: Request, handled: Handled<usize>) -> Finished {
    complete_with(request, handled, |request, len| {
        request.reply_written(len);
        Ok(())
    })
}

fn complete_rewritten(request: Request, handled: Handled<usize>) -> Finished {
    complete_with(request, handled, |request, len| {
        request.reply_rewritten(len);
        Ok(())
    })
}

fn complete_with<T>(
    request: Request,
    handled: Handled<T>,
    reply: impl FnOnce(Request, T) -> Result<(), Panic>,
) -> Finished {
    let concluded = match handled {
        Ok(Ok(output)) => reply(request, output),
        Ok(Err(fault)) => {
            request.fail(fault);
            Ok(())
        }
        Err(panic) => {
            request.fail(panic.fault());
            Err(panic)
        }
    };
    concluded.map_or_else(Panic::finish, |()| Finished::Answered)
}

/// Begins a parallel handler of a service without a pool, which takes its turn with the serial
/// ones. `share` returns what it sees.
pub fn answer_in_turn<'state, T>(
    request: Request,
    share: impl FnOnce() -> T,
    dispatch: impl FnOnce(T, Request) -> Parallel,
) -> Dispatch<'state> {
    match catch(share) {
        Ok(shared) => Dispatch::Running(dispatch(shared, request)),
        Err(panic) => {
            request.fail(panic.fault());
            panic.finish().into()
        }
    }
}

/// The codec of a request's payloads.
pub(crate) fn codec<M: Message>(request: &Request) -> PayloadCodec {
    request.profile().codec(<M::Service as Service>::CODEC)
}

pub(crate) fn decode<M: Message>(request: &Request) -> Result<M, Fault> {
    let decoded = codec::<M>(request).decode(request.payload());
    let arguments = decoded.map_err(|error| Fault::BadArguments {
        reason: error.to_string(),
    })?;
    Ok(M::from_arguments(arguments))
}

pub(crate) fn encode_with<T: Serialize>(
    codec: PayloadCodec,
) -> impl Fn(&T, &mut [u8]) -> Result<usize, EncodeError> {
    move |value, room| codec.encode(value, room)
}

impl From<Finished> for Dispatch<'_> {
    fn from(finished: Finished) -> Self {
        match finished {
            Finished::Answered => Self::Done,
            Finished::Panicked => Self::Panicked,
        }
    }
}

async fn catch_panic<F: Future>(future: F) -> Result<F::Output, Panic> {
    let mut future = pin!(future);
    poll_fn(|context| {
        let polled = catch(|| future.as_mut().poll(context));
        match polled {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    })
    .await
}
