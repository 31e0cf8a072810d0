//! The shells around the machines: a real caller and a real mailbox over shared memory, in one
//! thread, through steps that proptest chooses, and shrinks.
//!
//! Programs make calls, sleep, keep answers and give up; runtimes are driven, or end; completion
//! queues have [trouble](super::trouble_queue). At the end all programs go to sleep, and all
//! requests are answered: then only the watchers poll.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Poll, Wake, Waker};
use std::time::Instant;

use proptest::prelude::*;
use tokio::runtime::{Builder, Runtime};

use super::trouble_queue::{Trouble, TroubledDevice};
use crate::channel::loopback::{DRIVER, LONG, Loopback};
use crate::channel::{
    Answer, CallError, Delivery, Inbound, LossCause, OneWayCall, PendingCall, ReplyBytes,
};
use crate::fabric::CompletionQueue;
use crate::fabric::shm::ShmDevice;
use crate::wire::{EncodeError, Fault};

/// Bytes of a payload: of some that fit a slot, and of two that do not, the larger of which moves
/// in pieces.
const SIZES: [usize; 4] = [0, 100, 1000, 300_000];

/// One thing that may happen next.
#[derive(Debug, Clone, Copy)]
enum Step {
    Call {
        size: usize,
    },
    Tell {
        size: usize,
    },
    /// The mailbox takes in what has arrived.
    Take,
    /// Without a size it is dropped.
    Answer {
        which: usize,
        size: Option<usize>,
    },
    /// Somebody looks, but at no call.
    Look,
    Read {
        which: usize,
        is_kept: bool,
    },
    Sleep {
        which: usize,
        as_guest: bool,
    },
    DriveHome,
    DriveGuest,
    /// The runtime of some sleepers ends, with all that runs there.
    EndGuest,
    /// A program gives up a call.
    Drop {
        which: usize,
    },
    /// A program is done with an answer that it has kept.
    Release {
        which: usize,
    },
    Close,
    Dismiss,
    Trouble(Trouble),
}

fn any_step() -> impl Strategy<Value = Step> {
    let which = || 0..8_usize;
    let size = || (0..SIZES.len()).prop_map(|at| SIZES[at]);
    prop_oneof![
        8 => size().prop_map(|size| Step::Call { size }),
        1 => size().prop_map(|size| Step::Tell { size }),
        6 => Just(Step::Take),
        6 => (which(), proptest::option::weighted(0.9, size())).prop_map(|(which, size)| Step::Answer { which, size }),
        3 => Just(Step::Look),
        3 => (which(), any::<bool>()).prop_map(|(which, is_kept)| Step::Read { which, is_kept }),
        3 => (which(), any::<bool>()).prop_map(|(which, as_guest)| Step::Sleep { which, as_guest }),
        2 => Just(Step::DriveHome),
        2 => Just(Step::DriveGuest),
        1 => Just(Step::EndGuest),
        3 => which().prop_map(|which| Step::Drop { which }),
        1 => which().prop_map(|which| Step::Release { which }),
        1 => prop_oneof![
            Just(Step::Close),
            Just(Step::Dismiss),
            Just(Step::Trouble(Trouble::Flood)),
            Just(Step::Trouble(Trouble::Failure)),
        ],
    ]
}

/// Rung once.
#[derive(Debug, Default)]
pub(super) struct Alarm(AtomicBool);

impl Alarm {
    pub(super) fn has_rung(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a program waits for. It does not look while it sleeps.
struct Waiting<T> {
    what: T,
    /// What it sleeps until.
    alarm: Option<Arc<Alarm>>,
}

impl<T> Waiting<T> {
    fn new(what: T) -> Self {
        Self { what, alarm: None }
    }

    fn is_awake(&self) -> bool {
        let alarm = self.alarm.as_ref();
        alarm.is_none_or(|alarm| alarm.has_rung())
    }

    /// What is to wake it from now on.
    fn set_alarm(&mut self) -> Waker {
        let alarm = Arc::<Alarm>::default();
        self.alarm = Some(alarm.clone());
        alarm.into()
    }
}

/// Calls are known by the number of their method.
struct World {
    ends: Loopback,
    trouble: Arc<TroubledDevice>,
    /// The caller's.
    queue: Weak<dyn CompletionQueue>,
    guest: Runtime,
    slots: usize,
    is_dismissed: bool,
    made: u32,
    calls: BTreeMap<u32, Waiting<PendingCall>>,
    told: Vec<Waiting<OneWayCall>>,
    kept: Vec<(u32, ReplyBytes)>,
    sizes: Vec<usize>,
    requests: Vec<Inbound>,
    ran: BTreeSet<u32>,
    /// With which size.
    answered: BTreeMap<u32, usize>,
}

fn fill(room: &mut [u8], size: usize, number: u32) -> Result<usize, EncodeError> {
    let limit = room.len();
    let room = room.get_mut(..size);
    room.ok_or(EncodeError::TooLarge { size, limit })?
        .fill(number as u8);
    Ok(size)
}

fn is_filled(bytes: &[u8], size: usize, number: u32) -> bool {
    bytes == vec![number as u8; size]
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Has what can run on a runtime do so, after a look at its descriptors.
fn drive(runtime: &Runtime) {
    runtime.block_on(async {
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
    });
}

impl World {
    fn new(slots: usize) -> Self {
        let trouble = TroubledDevice::new(ShmDevice::open().unwrap());
        let called = ShmDevice::open().unwrap();
        let ends = Loopback::in_runtime(runtime(), trouble.clone(), called, slots);
        let queue = Arc::downgrade(&ends.channel.lock().queue.as_ref().unwrap().0);
        Self {
            ends,
            trouble,
            queue,
            guest: runtime(),
            slots,
            is_dismissed: false,
            made: 0,
            calls: BTreeMap::new(),
            told: Vec::new(),
            kept: Vec::new(),
            sizes: Vec::new(),
            requests: Vec::new(),
            ran: BTreeSet::new(),
            answered: BTreeMap::new(),
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Call { size } => self.call(size, false),
            Step::Tell { size } => self.call(size, true),
            Step::Take => self.take(),
            Step::Answer { which, size } => self.answer(which, size),
            Step::Look => self.check_credits(),
            Step::Read { which, is_kept } => {
                // Also one that sleeps: it may be looked at for another reason.
                let number = self.calls.keys().nth(which % self.calls.len().max(1));
                if let Some(number) = number.copied() {
                    self.read(number, is_kept, false);
                }
            }
            Step::Sleep { which, as_guest } => {
                if let Some(number) = self.pick(which) {
                    self.sleep(number, as_guest);
                }
            }
            Step::DriveHome => drive(&self.ends.runtime),
            Step::DriveGuest => drive(&self.guest),
            Step::EndGuest => self.guest = runtime(),
            Step::Drop { which } => {
                let number = self.calls.keys().nth(which % self.calls.len().max(1));
                if let Some(number) = number.copied() {
                    self.calls.remove(&number);
                }
            }
            Step::Release { which } => {
                if which < self.kept.len() {
                    self.release(which);
                }
            }
            Step::Close => self.ends.channel.close(LossCause::Left),
            Step::Dismiss => {
                self.is_dismissed = true;
                self.ends.mailbox.dismiss(DRIVER, None, &LossCause::Left);
            }
            Step::Trouble(trouble) => self.trouble.set(trouble),
        }
    }

    fn pick(&self, which: usize) -> Option<u32> {
        let awake = self.calls.iter().filter(|(_, call)| call.is_awake());
        let awake: Vec<_> = awake.map(|(number, _)| *number).collect();
        awake.get(which % awake.len().max(1)).copied()
    }

    fn call(&mut self, size: usize, is_told: bool) {
        let number = self.made;
        let channel = &self.ends.channel;
        let encode = |room: &mut [u8]| fill(room, size, number);
        let made = match is_told {
            true => channel
                .tell(number, None, None, encode)
                .map(|told| self.told.push(Waiting::new(told))),
            false => channel.call(number, None, encode).map(|call| {
                self.calls.insert(number, Waiting::new(call));
            }),
        };
        self.made += 1;
        self.sizes.push(size);
        if let Err(error) = made {
            self.check_failure(number, &error);
        }
    }

    fn take(&mut self) {
        let mut deliveries = VecDeque::new();
        self.ends.mailbox.poll(&mut deliveries).unwrap();
        for delivery in deliveries {
            let Delivery::Request(request) = delivery else {
                continue;
            };
            let number = request.method();
            assert!(self.ran.insert(number), "CALL-1: {number} is run twice");
            let size = self.sizes[number as usize];
            assert!(is_filled(request.payload(), size, number), "RING-1");
            self.requests.push(request);
        }
    }

    fn answer(&mut self, which: usize, size: Option<usize>) {
        if self.requests.is_empty() {
            return;
        }
        let request = self.requests.remove(which % self.requests.len());
        let number = request.method();
        let expected = self.sizes[number as usize];
        assert!(is_filled(request.payload(), expected, number), "RING-1");
        let Some(size) = size else {
            return; // It answers as it is dropped.
        };
        self.answered.insert(number, size);
        match size {
            // Of its own bytes.
            0 => request.reply_rewritten(0),
            _ => request.reply(|room| fill(room, size, number)),
        }
    }

    /// Looks at a call. It sleeps if that is not decided, and it `may_sleep`. Says whether it does.
    fn read(&mut self, number: u32, is_kept: bool, may_sleep: bool) -> bool {
        let mut call = self.calls.remove(&number).unwrap();
        call.alarm = None;
        let waker = may_sleep.then(|| call.set_alarm());
        if let Poll::Ready(outcome) = call.what.poll(waker.as_ref()) {
            self.check_outcome(number, outcome, is_kept);
            return false;
        }
        self.calls.insert(number, call);
        may_sleep
    }

    fn check_outcome(
        &mut self,
        number: u32,
        outcome: Result<Answer<'_>, CallError>,
        is_kept: bool,
    ) {
        let answer = match outcome {
            Ok(answer) => answer,
            Err(error) => return self.check_failure(number, &error),
        };
        match answer.fault().unwrap() {
            None => {
                let size = self.answered[&number];
                assert!(is_filled(answer.payload(), size, number), "RING-1");
                if is_kept {
                    self.kept.push((number, answer.keep()));
                }
            }
            Some(Fault::ServiceDown { .. } | Fault::NoMemory { .. }) => {}
            Some(fault) => panic!("{number}: {fault}"),
        }
    }

    fn sleep(&mut self, number: u32, as_guest: bool) {
        if self.read(number, false, true) {
            let _entered = as_guest.then(|| self.guest.enter());
            let call = self.calls.get_mut(&number).expect("it was read");
            call.what.sleep();
        }
    }

    fn release(&mut self, which: usize) {
        let (number, bytes) = self.kept.remove(which);
        let size = self.answered[&number];
        assert!(is_filled(&bytes, size, number), "RING-1");
    }

    fn check_failure(&self, number: u32, error: &CallError) {
        match error {
            CallError::Closed { sent, .. } => {
                assert!(self.ends.channel.closed().is_some(), "{number}: {error}");
                let has_run = self.ran.contains(&number);
                assert!(*sent || !has_run, "{number} has run, and was not sent");
            }
            CallError::NoMemory { .. } => {}
            _ => panic!("{number}: {error}"),
        }
    }

    fn check_credits(&self) {
        let credits = self.ends.channel.credits();
        let all = credits.free + credits.in_use + credits.orphaned;
        assert_eq!(all, self.slots, "SLOT-2");
        assert_eq!(self.ends.channel.violations().total(), 0);
        assert!(!self.trouble.is_drowned(), "INPUT-1: a flood has no end");
    }

    /// CALL-1: all programs go to sleep, and everything is answered.
    fn end_calls(&mut self) {
        let until = Instant::now() + LONG;
        while !(self.calls.is_empty() && self.told.is_empty() && self.kept.is_empty()) {
            let awake = self.calls.iter().filter(|(_, call)| call.is_awake());
            for number in awake.map(|(number, _)| *number).collect::<Vec<_>>() {
                self.sleep(number, number % 2 == 0);
            }
            self.told.retain_mut(|told| {
                !told.is_awake() || {
                    let waker = told.set_alarm();
                    told.what.poll_taken(&waker).is_pending()
                }
            });
            // The credits of these are those of calls that wait.
            while !self.kept.is_empty() {
                self.release(0);
            }
            self.take();
            while !self.requests.is_empty() {
                self.answer(0, Some(1000));
            }
            drive(&self.guest);
            drive(&self.ends.runtime);
            let (calls, told) = (self.calls.keys(), self.told.len());
            assert!(
                Instant::now() < until,
                "CALL-1: nobody wakes {calls:?} and {told} that were told"
            );
        }
    }

    /// SLOT-2: credits, memory and descriptors are back.
    fn end(mut self) {
        if self.is_dismissed {
            // As the mailbox's agent says then: a queue pair that sends nothing need not notice.
            self.ends.channel.close(LossCause::Left);
        }
        self.end_calls();
        let until = Instant::now() + LONG;
        let channel = self.ends.channel.clone();
        let memory = channel.memory.as_ref().unwrap();
        let is_clear = |world: &Self| {
            let credits = channel.credits();
            let is_back = match channel.closed() {
                None => credits.free == world.slots,
                Some(_) => credits.in_use == 0,
            };
            let lent = memory.account().lent + world.ends.memory.account().lent;
            is_back && lent == 0
        };
        while !is_clear(&self) {
            self.take();
            self.requests.clear();
            drive(&self.ends.runtime);
            assert!(
                Instant::now() < until,
                "SLOT-2: {:?}, {:?} at the caller, {:?} at the mailbox",
                channel.credits(),
                memory.account(),
                self.ends.memory.account()
            );
        }
        self.check_credits();
        for (_, violations) in self.ends.mailbox.violations() {
            assert_eq!(violations.total(), 0);
        }
        assert!(!channel.lock().caller.has_sleepers(), "nobody sleeps");
        drop(channel);
        let Loopback {
            channel,
            mailbox,
            runtime,
            ..
        } = self.ends;
        drop((channel, mailbox));
        while self.queue.strong_count() > 0 {
            drive(&self.guest);
            drive(&runtime);
            assert!(Instant::now() < until, "somebody watches a queue of nobody");
        }
    }
}

fn live(slots: usize, steps: &[Step]) {
    let mut world = World::new(slots);
    for step in steps {
        world.step(step);
    }
    world.end();
}

/// What shells forgot once, and is rare among steps by chance.
#[test]
fn call_1_call_2_nobody_is_forgotten() {
    let (call, take) = (Step::Call { size: 0 }, Step::Take);
    let answer = Step::Answer {
        which: 0,
        size: Some(100),
    };
    let drop = Step::Drop { which: 0 };
    let read = Step::Read {
        which: 0,
        is_kept: false,
    };
    let sleep = |as_guest| Step::Sleep { which: 0, as_guest };
    let failure = Step::Trouble(Trouble::Failure);
    let (look, drive) = (Step::Look, Step::DriveGuest);
    // The credit of an answer that is dropped is that of a call that waits.
    live(1, &[call, call, take, answer, look, drop]);
    // A watcher ends with its runtime, and with its channel.
    live(1, &[call, sleep(true), drive, Step::EndGuest]);
    live(1, &[call, sleep(true), drive]);
    // It is idle as the next one goes to sleep; the first is looked at.
    let (first, second) = (sleep(true), sleep(true));
    let served = [call, first, drive, take, answer, drive];
    live(1, &[&served[..], &[call, first, second]].concat());
    // A call that is looked at does not sleep any more.
    live(1, &[call, sleep(false), read]);
    // What has run was sent, though its answer comes after the end.
    live(1, &[call, take, answer, failure, look, look]);
}

proptest! {
    // One that hangs takes its time.
    #![proptest_config(ProptestConfig { max_shrink_iters: 12, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn call_1_call_2_slot_2_ring_1_hold_in_the_shells(
        slots in 1..4_usize,
        steps in proptest::collection::vec(any_step(), 1..60),
    ) {
        live(slots, &steps);
    }
}
