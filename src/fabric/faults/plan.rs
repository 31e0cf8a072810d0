//! What is to go wrong, and when.

use std::time::Duration;

use crate::fabric::{CompletionStatus, Opcode};

/// One thing that can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A registration is refused: no more memory may be locked.
    RegistrationRefused,
    /// A queue pair is not created: the system has no memory for it.
    QueuePairRefused,
    /// A send is not taken: the send queue says that it is full.
    SendQueueFull,
    /// A receive is not taken: the receive queue says that it is full.
    ReceiveQueueFull,
    /// A send is not taken: the system refuses.
    PostRefused,
    /// A send is taken, not executed, and completes with this status. What follows is flushed.
    SendFails(CompletionStatus),
    /// The queue pair goes to ERR as a send is posted, at both ends.
    PeerLost,
    /// A receive, and those after it, is posted only when this time has passed: until then the
    /// peer's messages find nothing posted (RNR) if there are no earlier ones.
    NotReady(Duration),
    /// What completed well is reported with this status, though it has been executed. What follows
    /// is flushed.
    CompletionFails(CompletionStatus),
    /// A completion, and what follows on its queue pair, is delayed by this time.
    Delayed(Duration),
    /// A completion comes at the next poll of its queue, so that completions of other queue pairs
    /// overtake it.
    Overtaken,
    /// From this completion on nothing completes for this time, on any queue of any device under
    /// the same [`Faults`](super::Faults).
    Frozen(Duration),
    /// The completion queue of this completion fails, as if it had been overrun, and so do its
    /// queue pairs.
    QueueFails,
}

/// Where a fault can strike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Point {
    Registration,
    QueuePair,
    Send,
    Receive,
    Completion,
}

/// A [`Fault`] and when it strikes.
#[derive(Debug, Clone, Copy, PartialEq)]
#[must_use = "a rule belongs into a plan"]
pub struct Rule {
    pub(super) fault: Fault,
    pub(super) when: When,
    pub(super) opcode: Option<Opcode>,
    pub(super) queue_pair: Option<u64>,
}

/// The occasions at which a rule strikes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum When {
    Nth(u64),
    Every(u64),
    Chance(f64),
}

impl Fault {
    /// Makes a rule that strikes once, at the occasion of this number, counted from 0 over all
    /// queue pairs that the rule applies to.
    pub fn nth(self, occasion: u64) -> Rule {
        self.when(When::Nth(occasion))
    }

    /// Makes a rule that strikes at each occasion whose number, counted from 1, is a multiple of
    /// `occasions`; never if that is 0.
    pub fn every(self, occasions: u64) -> Rule {
        self.when(When::Every(occasions))
    }

    /// Makes a rule that strikes with this probability, 0 to 1.
    pub fn chance(self, probability: f64) -> Rule {
        self.when(When::Chance(probability))
    }

    fn when(self, when: When) -> Rule {
        Rule {
            fault: self,
            when,
            opcode: None,
            queue_pair: None,
        }
    }

    pub(super) fn point(self) -> Point {
        match self {
            Self::RegistrationRefused => Point::Registration,
            Self::QueuePairRefused => Point::QueuePair,
            Self::SendQueueFull | Self::PostRefused | Self::SendFails(_) | Self::PeerLost => {
                Point::Send
            }
            Self::ReceiveQueueFull | Self::NotReady(_) => Point::Receive,
            Self::CompletionFails(_)
            | Self::Delayed(_)
            | Self::Overtaken
            | Self::Frozen(_)
            | Self::QueueFails => Point::Completion,
        }
    }
}

impl Rule {
    /// Limits the rule to work of this kind. Only sends and completions have one; elsewhere the
    /// rule then never strikes.
    pub fn of(mut self, opcode: Opcode) -> Self {
        self.opcode = Some(opcode);
        self
    }

    /// Limits the rule to this queue pair, numbered from 0 in the order of creation under one
    /// [`Faults`](super::Faults).
    pub fn on(mut self, queue_pair: u64) -> Self {
        self.queue_pair = Some(queue_pair);
        self
    }

    pub(super) fn is_about(&self, point: Point, queue_pair: u64, opcode: Option<Opcode>) -> bool {
        self.fault.point() == point
            && self.queue_pair.is_none_or(|only| only == queue_pair)
            && (self.opcode.is_none() || self.opcode == opcode)
    }
}

/// A fault plan: rules, and the seed for what is left to chance. At each occasion the first rule
/// that strikes applies.
///
/// ```
/// use std::time::Duration;
/// use slimerpc::fabric::{CompletionStatus, Opcode};
/// use slimerpc::fabric::faults::{Fault, Plan};
///
/// let script = Plan::new()
///     .with(Fault::CompletionFails(CompletionStatus::RetryExceeded).nth(3).of(Opcode::Read))
///     .with(Fault::PeerLost.nth(100).on(0));
/// let faults = Plan::seeded(42)
///     .with(Fault::Delayed(Duration::from_millis(2)).chance(0.05))
///     .with(Fault::PeerLost.chance(0.001));
/// # let _ = (script, faults);
/// ```
#[derive(Debug, Clone, Default)]
pub struct Plan {
    pub(super) seed: u64,
    pub(super) rules: Vec<Rule>,
}

impl Plan {
    /// Makes a plan without faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a plan without rules; `seed` decides the chances of rules that are added.
    pub fn seeded(seed: u64) -> Self {
        Self {
            seed,
            rules: Vec::new(),
        }
    }

    /// Makes a plan in which completions come late, and those of different queue pairs out of
    /// order: a correct program notices nothing but time.
    pub fn harmless(seed: u64) -> Self {
        Self::seeded(seed)
            .with(Fault::Overtaken.chance(0.2))
            .with(Fault::Delayed(Duration::from_micros(300)).chance(0.1))
            .with(Fault::Delayed(Duration::from_millis(2)).chance(0.01))
    }

    /// Adds a rule.
    pub fn with(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }
}
