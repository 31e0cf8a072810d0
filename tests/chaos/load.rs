//! Calls of all kinds, made over and over, each of them written down.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use futures_util::StreamExt;
use slimerpc_actors::{Proxy, Ran};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::account::CALLS_OF_DRIVER;
use crate::journal::{Event, Journal};
use crate::outcome::{Ending, Outcome};
use crate::target::{Count, Number, Target, Tenth, Told};

/// A call that takes longer than this hangs, whatever the test does to its peer.
const HANGS: Duration = Duration::from_secs(60);
/// While the peer is away, a caller tries again after this.
const PAUSE: Duration = Duration::from_millis(2);
const SMALL: usize = 512;
/// Beyond a slot: the worker reads it out of the driver's memory.
const LARGE: usize = 192 * 1024;
const ITEMS: u64 = 12;

/// How many callers there are of each kind.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Mix {
    pub(crate) typed: usize,
    pub(crate) raw: usize,
    pub(crate) large: usize,
    pub(crate) streams: usize,
    pub(crate) tells: usize,
    pub(crate) tenths: usize,
    /// What each caller rests between two calls.
    pub(crate) pause: Duration,
}

impl Mix {
    /// As much as there is to be had.
    pub(crate) const FULL: Self = Self {
        typed: 8,
        raw: 4,
        large: 2,
        streams: 2,
        tells: 1,
        tenths: 0,
        pause: Duration::ZERO,
    };
    /// As little as there may be, so that many can do it at once.
    pub(crate) const CALM: Self = Self {
        typed: 1,
        raw: 0,
        large: 1,
        streams: 1,
        tells: 1,
        tenths: 0,
        pause: Duration::from_millis(250),
    };
    /// Enough to notice when calls do not go on.
    pub(crate) const LIGHT: Self = Self {
        typed: 2,
        raw: 1,
        large: 1,
        streams: 1,
        tells: 1,
        tenths: 0,
        pause: Duration::from_millis(10),
    };
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Typed,
    Raw,
    Large,
    Stream,
    Tell,
    Tenth,
}

/// Who makes calls: numbers them, and writes down what becomes of them.
#[derive(Debug)]
pub(crate) struct Driver {
    journal: Journal,
    next: Cell<u64>,
}

impl Driver {
    /// Drivers with different numbers have different calls.
    pub(crate) fn new(number: u64, journal: Journal) -> Rc<Self> {
        Rc::new(Self {
            journal,
            next: Cell::new(number * CALLS_OF_DRIVER),
        })
    }

    /// Makes one call, whatever comes of it.
    pub(crate) async fn call(&self, make: impl AsyncFnOnce(u64) -> Outcome) -> Outcome {
        let id = self.next.replace(self.next.get() + 1);
        self.journal.note(id, Event::Made);
        let outcome = timeout(HANGS, make(id)).await.unwrap_or(Outcome::HUNG);
        self.journal.note(id, Event::Ended(outcome));
        outcome
    }

    pub(crate) fn note(&self, peer: u64, what: Event) {
        self.journal.note(peer, what);
    }
}

/// Callers of one target, at work until they are [stopped](Self::stop).
pub(crate) struct Load {
    shared: Rc<Shared>,
    callers: RefCell<Vec<JoinHandle<()>>>,
}

struct Shared {
    driver: Rc<Driver>,
    target: Proxy<Target>,
    pause: Duration,
    is_over: Cell<bool>,
    answered: Cell<u64>,
}

impl Load {
    pub(crate) fn start(driver: &Rc<Driver>, target: &Proxy<Target>, mix: Mix) -> Self {
        let shared = Rc::new(Shared {
            driver: driver.clone(),
            target: target.clone(),
            pause: mix.pause,
            is_over: Cell::new(false),
            answered: Cell::new(0),
        });
        let callers = [
            (Kind::Typed, mix.typed),
            (Kind::Raw, mix.raw),
            (Kind::Large, mix.large),
            (Kind::Stream, mix.streams),
            (Kind::Tell, mix.tells),
            (Kind::Tenth, mix.tenths),
        ];
        let callers = callers
            .into_iter()
            .flat_map(|(kind, count)| std::iter::repeat_n(kind, count))
            .map(|kind| actix::spawn(shared.clone().go_on(kind)));
        let callers = RefCell::new(callers.collect());
        Self { shared, callers }
    }

    /// Calls that have been answered.
    pub(crate) fn answered(&self) -> u64 {
        self.shared.answered.get()
    }

    /// Waits until so many more have been answered.
    #[track_caller]
    pub(crate) fn answers(&self, more: u64, limit: Duration) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let (began, wanted) = (Instant::now(), self.answered() + more);
            while self.answered() < wanted {
                let missing = wanted - self.answered();
                let elapsed = began.elapsed();
                assert!(
                    elapsed < limit,
                    "{caller}: {missing} of {more} answers are missing after {elapsed:?}"
                );
                sleep(Duration::from_millis(1)).await;
            }
        }
    }

    /// Makes no more calls and waits for the last of them to end.
    pub(crate) async fn stop(&self) {
        self.shared.is_over.set(true);
        for caller in self.callers.take() {
            caller.await.expect("no caller panics");
        }
    }
}

impl Shared {
    async fn go_on(self: Rc<Self>, kind: Kind) {
        while !self.is_over.get() {
            let call = async |id| self.call(kind, id).await;
            let outcome = self.driver.call(call).await;
            if outcome.ending == Ending::Answered {
                self.answered.set(self.answered.get() + 1);
            }
            let is_away = outcome.ran == Ran::No && outcome.ending.is_error();
            let pause = if is_away { PAUSE } else { self.pause };
            if pause.is_zero() {
                tokio::task::yield_now().await;
            } else {
                sleep(pause).await;
            }
        }
    }

    async fn call(&self, kind: Kind, id: u64) -> Outcome {
        match kind {
            Kind::Typed => Outcome::of(self.target.send(Number { id }).await, &!id),
            Kind::Tenth => Outcome::of(self.target.send(Tenth { id }).await, &!id),
            Kind::Raw => self.echo(id, SMALL).await,
            Kind::Large => self.echo(id, LARGE).await,
            Kind::Tell => Outcome::of_tell(self.target.tell(Told { id }).await),
            Kind::Stream => self.count(id).await,
        }
    }

    async fn echo(&self, id: u64, size: usize) -> Outcome {
        let mut bytes = vec![id as u8; size];
        bytes[..8].copy_from_slice(&id.to_le_bytes());
        Outcome::of(self.target.echo(&bytes).await, &bytes)
    }

    async fn count(&self, id: u64) -> Outcome {
        let mut items = self.target.stream(Count { id, items: ITEMS });
        let mut read = Vec::new();
        while let Some(item) = items.next().await {
            match item {
                Ok(item) => read.push(item),
                Err(error) => return Outcome::of_error(&error),
            }
        }
        let right = (0..ITEMS).map(|n| id.wrapping_add(n)).collect();
        Outcome::of(Ok(read), &right)
    }
}
