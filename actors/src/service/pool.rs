//! The threads that run parallel methods.

use std::future::poll_fn;
use std::io;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Context;
use std::thread;

use futures_util::task::AtomicWaker;
use slimerpc::channel::RequestId;
use slimerpc::panics::contain;
use slimerpc::wire::Fault;
use tokio::runtime::{self, Runtime};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::supervision::current_handler::parallel;
use crate::{Finished, Parallel, Request};

/// A pool of threads for parallel methods, whose handlers see a `T`.
pub(crate) struct Pool<T> {
    /// `Some` until the pool is dropped.
    runtime: Option<Runtime>,
    shared: watch::Receiver<T>,
    running: Vec<Task>,
    load: Arc<Load>,
}

/// A handler that runs, or waits for a thread.
struct Task {
    request: RequestId,
    waiting: Waiting,
    handle: AbortHandle,
}

/// A request until its handler begins. An aborted task goes when a thread gets to it, and its
/// request should not wait for that.
#[derive(Clone)]
struct Waiting(Arc<Mutex<Option<Request>>>);

impl Waiting {
    fn take(&self) -> Option<Request> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The handlers that have not ended.
#[derive(Default)]
struct Load {
    handlers: AtomicUsize,
    /// Woken when a handler ends.
    waiter: AtomicWaker,
}

/// Counts one handler while it exists.
struct Handler(Arc<Load>);

impl Handler {
    fn new(load: &Arc<Load>) -> Self {
        load.handlers.fetch_add(1, Ordering::AcqRel);
        Self(load.clone())
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        self.0.handlers.fetch_sub(1, Ordering::AcqRel);
        self.0.waiter.wake();
    }
}

impl<T: Clone> Pool<T> {
    /// Starts the threads.
    pub(crate) fn start(workers: NonZeroUsize, shared: watch::Receiver<T>) -> io::Result<Self> {
        let build = || {
            runtime::Builder::new_multi_thread()
                .worker_threads(workers.get())
                .thread_name("slimerpc-parallel")
                .enable_all()
                .build()
        };
        // Without a thread the runtime panics instead of failing.
        let runtime = contain(build).map_err(|message| {
            let another = thread::Builder::new().spawn(|| {});
            another.err().unwrap_or_else(|| io::Error::other(message))
        })??;
        Ok(Self {
            runtime: Some(runtime),
            shared,
            running: Vec::new(),
            load: Arc::default(),
        })
    }

    /// Handles `request` when a thread is free.
    pub(crate) fn run(
        &mut self,
        request: Request,
        handler: impl FnOnce(T, Request) -> Parallel + Send + 'static,
    ) where
        T: Send + 'static,
    {
        let Some(runtime) = &self.runtime else { return };
        self.running.retain(|task| !task.handle.is_finished());
        let id = request.id();
        let waiting = Waiting(Arc::new(Mutex::new(Some(request))));
        let shared = self.shared.borrow().clone();
        let running = Handler::new(&self.load);
        let request = waiting.clone();
        let task = runtime.spawn(async move {
            let _running = running;
            let Some(mut request) = request.take() else {
                return;
            };
            if request.is_expired() {
                return request.fail(Fault::Expired);
            }
            request.begin_handler();
            let service = request.service().to_owned();
            let mut handling = handler(shared, request);
            let finished = poll_fn(|context| parallel(|| handling.as_mut().poll(context))).await;
            if finished == Finished::Panicked {
                tracing::warn!(service, "a parallel handler panicked");
            }
        });
        self.running.push(Task {
            request: id,
            waiting,
            handle: task.abort_handle(),
        });
    }

    /// Returns whether no handler runs. If one does, the task is woken when it ends.
    pub(crate) fn is_idle(&self, task: &Context<'_>) -> bool {
        self.load.waiter.register(task.waker());
        self.load.handlers.load(Ordering::Acquire) == 0
    }

    /// Drops the handler of a request where it awaits, or before it begins. The request answers as
    /// it is dropped, which returns the caller's credit (SLOT-2).
    pub(crate) fn cancel(&mut self, request: RequestId) {
        for task in self.running.extract_if(.., |task| task.request == request) {
            drop(task.waiting.take());
            task.handle.abort();
        }
    }
}

impl<T> Drop for Pool<T> {
    /// Ends the threads, without waiting for sync handlers.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
