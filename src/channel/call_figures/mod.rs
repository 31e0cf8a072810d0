//! What calls took and how they ended, counted by method where they begin and end.
//!
//! A channel counts only if it was given figures: one test of a pointer otherwise. Counting takes
//! no lock and allocates only at the first call of a method.

mod beside;
mod distribution;
mod payload;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, OnceLock};

use beside::Beside;
pub use beside::ConnectionReading;
pub use distribution::Distribution;
use distribution::Histogram;
pub use payload::PayloadBytes;
use quanta::Clock;

use super::Violation;

/// The processor's own counter where it can be trusted: a third of what the system's clock takes.
static CLOCK: LazyLock<Clock> = LazyLock::new(Clock::new);

/// How a call ended, as its caller or its service sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered with a result.
    Ok,
    /// It was answered with a failure.
    Error,
    /// Its deadline passed first.
    Timeout,
    /// Its caller dropped the reply.
    Cancelled,
    /// The channel was lost first.
    Lost,
    /// Nobody waits for its result; its failure is an [event](crate::channel::TellFailure).
    Told,
}

impl Outcome {
    /// Every outcome, for reports.
    pub const ALL: [Self; 6] = [
        Self::Ok,
        Self::Error,
        Self::Timeout,
        Self::Cancelled,
        Self::Lost,
        Self::Told,
    ];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::Lost => "lost",
            Self::Told => "told",
        }
    }
}

/// Bits of the clock's ticks in a [`Begun`]: 15 hours of a processor of 5 GHz. What takes longer is
/// counted as shorter by that.
const TICKS: u64 = (1 << 48) - 1;
/// Ticks by which the counters of two cores may differ.
const SKEW: u64 = 1 << 32;
/// The bit of a [`Begun`] whose waiter has slept.
const SLEPT: u64 = 1 << 63;
/// The number in a [`Begun`] of no method.
const NO_METHOD: u16 = i16::MAX as u16;

/// When a call began, and its method: of a call that is counted. In a word, because it is moved
/// with the call: 48 bits of ticks, the method's number in 15 others, and whether its waiter has
/// slept; 0 is not counted.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Begun(u64);

impl Begun {
    /// Of what is a part of another call: its payload counts, it does not.
    pub(super) const PART: Self = Self((NO_METHOD as u64) << TICKS.count_ones() | 1);

    fn new(method: u16) -> Self {
        Self(u64::from(method) << TICKS.count_ones() | now())
    }

    #[inline]
    pub(super) fn is_counted(self) -> bool {
        self.0 != 0
    }

    fn method(self) -> usize {
        ((self.0 & !SLEPT) >> TICKS.count_ones()) as usize
    }

    /// Notes that the waiter of a counted call sleeps. Returns whether it had not before.
    pub(super) fn falls_asleep(&mut self) -> bool {
        let had_slept = self.0 & SLEPT != 0;
        self.0 |= SLEPT;
        !had_slept
    }

    fn nanos_until(self, now: u64) -> u64 {
        let ticks = now.wrapping_sub(self.0) & TICKS;
        // The counters of two cores may differ a little, backwards too.
        let is_backwards = ticks > TICKS - SKEW;
        CLOCK.delta_as_nanos(0, if is_backwards { 0 } else { ticks })
    }
}

/// When a service that slept was found to run again.
#[derive(Debug, Clone, Copy)]
pub struct WokenAt(Begun);

/// The clock's ticks, never 0.
fn now() -> u64 {
    (CLOCK.raw() & TICKS).max(1)
}

/// The figures of the calls of one service, over one channel or many.
#[derive(Debug)]
pub struct CallFigures {
    service: String,
    methods: Box<[Method]>,
    beside: Beside,
}

#[derive(Debug)]
struct Method {
    name: String,
    /// Made at its first call.
    figures: OnceLock<Box<MethodFigures>>,
}

#[derive(Debug)]
struct MethodFigures {
    begun: AtomicU64,
    ended: [AtomicU64; Outcome::ALL.len()],
    took: Histogram,
    /// Made at the first request of a service; callers have none.
    waited: OnceLock<Box<Histogram>>,
}

/// The figures of one method at one moment. Each is a total that only grows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MethodReading {
    /// Name of the method.
    pub method: String,
    /// Calls that have begun.
    pub begun: u64,
    /// Calls that have ended, by [outcome](Outcome::ALL).
    pub ended: [u64; Outcome::ALL.len()],
    /// From the call to its answer at a caller; from the handler's start to its answer at a
    /// service. Of calls that were answered.
    pub took: Distribution,
    /// How long requests that could not be handled at once waited for their handler, at a service.
    pub waited: Distribution,
}

impl MethodReading {
    /// Calls that have begun and not ended.
    pub fn in_flight(&self) -> u64 {
        self.begun.saturating_sub(self.ended.iter().sum())
    }

    /// Calls that ended like this.
    pub fn ended_with(&self, outcome: Outcome) -> u64 {
        self.ended[outcome as usize]
    }

    /// Calls that ended otherwise than with a result.
    pub fn failed(&self) -> u64 {
        let fine = [Outcome::Ok, Outcome::Told].map(|outcome| self.ended_with(outcome));
        self.ended.iter().sum::<u64>() - fine.iter().sum::<u64>()
    }

    /// These calls and `others` of the same method.
    pub fn add(&mut self, others: &Self) {
        self.begun += others.begun;
        for (ended, more) in self.ended.iter_mut().zip(others.ended) {
            *ended += more;
        }
        self.took.add(&others.took);
        self.waited.add(&others.waited);
    }
}

impl CallFigures {
    /// Makes figures for the methods of a service, by number.
    pub fn new(service: &str, methods: &[impl AsRef<str>]) -> Self {
        // It is calibrated now, not in the first call.
        LazyLock::force(&CLOCK);
        let method = |name: &_| Method {
            name: AsRef::<str>::as_ref(name).to_owned(),
            figures: OnceLock::new(),
        };
        Self {
            service: service.to_owned(),
            methods: methods.iter().map(method).collect(),
            beside: Beside::default(),
        }
    }

    /// Name of the service.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// The figures of each method that has been called.
    pub fn read(&self) -> Vec<MethodReading> {
        let called = |method: &Method| {
            let figures = method.figures.get()?;
            // What has ended is read first, so that no more have ended than have begun.
            let ended = figures
                .ended
                .each_ref()
                .map(|it| it.load(Ordering::Acquire));
            Some(MethodReading {
                method: method.name.clone(),
                begun: figures.begun.load(Ordering::Relaxed),
                ended,
                took: figures.took.read(),
                waited: figures.waited.get().map(|it| it.read()).unwrap_or_default(),
            })
        };
        self.methods.iter().filter_map(called).collect()
    }

    /// What was counted beside calls.
    pub fn read_beside(&self) -> ConnectionReading {
        self.beside.read()
    }

    /// Counts a breach of the protocol.
    #[cold]
    pub(super) fn count_violation(&self, violation: Violation) {
        self.beside.violated(violation);
    }

    /// Counts that somebody goes to sleep, instead of polling on.
    #[cold]
    pub fn count_sleep(&self) {
        self.beside.sleeps();
    }

    /// Counts so many looks for arrivals.
    #[cold]
    pub fn count_polls(&self, count: u64) {
        self.beside.polls(count);
    }

    /// Notes that a service that slept runs again, so that
    /// [`count_woken`](Self::count_woken) can tell how long its first request waits.
    #[cold]
    pub fn wake(&self) -> WokenAt {
        WokenAt(Begun::new(NO_METHOD))
    }

    /// Counts how long it took from `woken` until a request is handed to its handler, now.
    #[cold]
    pub fn count_woken(&self, woken: WokenAt) {
        self.beside.woken(woken.0.nanos_until(now()));
    }

    /// Counts a payload that is sent.
    #[cold]
    pub(super) fn count_sent(&self, len: usize, is_inline: bool) {
        self.beside.sent.count(len, is_inline);
    }

    /// Counts a payload that was received.
    #[cold]
    pub(super) fn count_received(&self, len: usize, is_inline: bool) {
        self.beside.received.count(len, is_inline);
    }

    /// Counts a call that begins. Of methods that the service does not have, only payloads are.
    #[cold]
    pub(super) fn begin(&self, method: u32) -> Begun {
        let known = self.methods.get(method as usize);
        let number = u16::try_from(method).ok().filter(|it| *it < NO_METHOD);
        let (Some(known), Some(method)) = (known, number) else {
            return Begun::PART;
        };
        let figures = known.figures.get_or_init(Box::default);
        figures.begun.fetch_add(1, Ordering::Relaxed);
        Begun::new(method)
    }

    /// Takes back that a call has begun: nothing came of it, and somebody else counts that.
    #[cold]
    pub(super) fn forget(&self, call: Begun) {
        if let Some(figures) = self.of(call) {
            figures.begun.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Counts a call that could not be made, because the peer is away.
    pub fn count_lost(&self, method: &str) {
        let Some(known) = self.methods.iter().find(|known| known.name == method) else {
            return;
        };
        let figures = known.figures.get_or_init(Box::default);
        figures.begun.fetch_add(1, Ordering::Relaxed);
        figures.ended[Outcome::Lost as usize].fetch_add(1, Ordering::Release);
    }

    /// Counts the end of a call.
    #[cold]
    pub(super) fn end(&self, call: Begun, outcome: Outcome) {
        let Some(figures) = self.of(call) else { return };
        if matches!(outcome, Outcome::Ok | Outcome::Error) {
            figures.took.record(call.nanos_until(now()));
        }
        figures.ended[outcome as usize].fetch_add(1, Ordering::Release);
    }

    /// Counts how long a request has waited for its handler, which begins now.
    #[cold]
    pub(super) fn begin_handler(&self, call: &mut Begun) {
        let Some(figures) = self.of(*call) else {
            return;
        };
        let waited = figures.waited.get_or_init(|| Box::new(Histogram::new()));
        waited.record(call.nanos_until(now()));
        *call = Begun::new(call.method() as u16);
    }

    fn of(&self, call: Begun) -> Option<&MethodFigures> {
        let method = self.methods.get(call.method())?;
        method.figures.get().map(|figures| &**figures)
    }
}

impl Default for MethodFigures {
    fn default() -> Self {
        Self {
            begun: AtomicU64::new(0),
            ended: Default::default(),
            took: Histogram::new(),
            waited: OnceLock::new(),
        }
    }
}
