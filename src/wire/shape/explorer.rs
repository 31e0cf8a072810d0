//! Runs a `Deserialize` again and again, until it shows nothing new.

use std::any::type_name;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::graph::{Graph, Id, NO_VARIANT, Names};
use super::recorder::Recorder;
use crate::panics::contain;
use crate::wire::PayloadCodec;

/// Values asked for, in all runs. A run of an ordinary type asks for some tens.
const MOST_STEPS: usize = 250_000;
const MOST_RUNS: usize = 10_000;
/// Runs that show nothing new before it is left at that: more than there are values to offer in one
/// place.
const VAIN_RUNS: usize = 48;
/// Runs into a variant or field that do not come out of it before others are preferred.
const MOST_TRIES: u32 = 24;
/// Types and places within each other. Deeper is only a recursion that has found no end.
const DEEPEST: usize = 96;

/// Why a run ended early.
#[derive(Debug)]
pub(super) enum Stop {
    /// The type did not take a value that was made up.
    Refused,
    /// There is no such variant.
    NoVariant,
    /// A recursion goes on and on.
    Deep,
    /// It has taken long enough.
    Steps,
    /// The codec cannot carry the type.
    Obstacle,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value was made up to see the shape of its type")
    }
}

impl std::error::Error for Stop {}

impl serde::de::Error for Stop {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self::Refused
    }
}

/// Why bincode cannot carry an enum whose numbers and names are not in step.
const ALIAS: &str = "has `#[serde(alias)]` on a variant in front of others, which serde counts among the variants when it \
    reads, and not when it writes";

fn variant_id<T>(variant: &T) -> VariantId {
    let mut hasher = DefaultHasher::new();
    std::mem::discriminant(variant).hash(&mut hasher);
    hasher.finish()
}

/// Tells types apart within this process. None of it gets into the text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    visitor: &'static str,
    name: &'static str,
    names: Names,
}

/// What is known of a struct, an enum or a newtype that helps to see the rest of it.
#[derive(Debug, Default)]
struct Known {
    /// For each field or variant.
    parts: Vec<Part>,
    /// The variant by which a recursion ends.
    least: usize,
    /// That one has no content.
    least_is_unit: bool,
    /// It reads its fields in order only.
    by_order_only: bool,
    /// Which variant each number means, and each name as far as that was asked. Only bincode writes
    /// numbers.
    by_number: Vec<Option<VariantId>>,
    by_name: Vec<Option<VariantId>>,
}

/// Tells the variants of one enum apart.
type VariantId = u64;

impl Known {
    /// The next name of which to ask what it means: serde lists other names of a variant among the
    /// names, which shows where there are fewer variants than names.
    fn name_to_ask(&self) -> Option<usize> {
        let numbers = &self.by_number;
        let is_asked = numbers.len() == self.parts.len() && self.parts.iter().all(|it| it.done);
        let is_doubtful = || {
            let distinct: HashSet<_> = numbers.iter().flatten().collect();
            distinct.len() < numbers.len()
        };
        let next = self.by_name.len();
        (is_asked && next < numbers.len() && is_doubtful()).then_some(next)
    }

    /// Whether the name in the place of some number means another variant, as far as is known.
    fn is_shifted(&self) -> bool {
        let numbers = &self.by_number;
        let is_other = |(number, name): (&Option<VariantId>, &Option<VariantId>)| {
            number.is_some() && number != name && name.is_some() && numbers.contains(name)
        };
        numbers.iter().zip(&self.by_name).any(is_other)
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Part {
    /// Runs into it.
    visits: u32,
    /// Those in a row that did not come out again.
    failed: u32,
    /// It is known as well as it can be.
    done: bool,
}

/// Where a run is.
#[derive(Debug)]
enum Frame {
    Type { id: Id, is_again: bool },
    TypeStep(TypeStep),
}

/// A step into a type, for error messages.
#[derive(Debug, Clone, Copy)]
pub(super) enum TypeStep {
    Field(&'static str),
    Variant(&'static str),
    Item(usize),
    Some,
    Element,
    Key,
    Value,
}

impl fmt::Display for TypeStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Variant(name) => write!(f, "::{name}"),
            Self::Item(at) => write!(f, ".{at}"),
            Self::Some => Ok(()),
            Self::Element => f.write_str("[..]"),
            Self::Key => f.write_str("{key}"),
            Self::Value => f.write_str("{value}"),
        }
    }
}

/// A value that was made up: whose, and which of those that there are to offer.
type Offer = (&'static str, usize, &'static str);

pub(super) struct Explorer {
    pub(super) codec: PayloadCodec,
    pub(super) graph: Graph,
    types: HashMap<Key, Id>,
    known: HashMap<Id, Known>,
    stack: Vec<Frame>,
    /// Types on the stack that are there twice: then only what ends a value is asked for.
    again: usize,
    /// Which value is offered where.
    offers: HashMap<Offer, usize>,
    last_offer: Option<Offer>,
    done: usize,
    steps: usize,
    obstacle: Option<String>,
}

impl Explorer {
    pub(super) fn new(codec: PayloadCodec) -> Self {
        Self {
            codec,
            graph: Graph::new(),
            types: HashMap::new(),
            known: HashMap::new(),
            stack: Vec::new(),
            again: 0,
            offers: HashMap::new(),
            last_offer: None,
            done: 0,
            steps: 0,
            obstacle: None,
        }
    }

    pub(super) fn text(&self) -> String {
        self.graph.text()
    }

    pub(super) fn into_obstacle(self) -> Option<String> {
        self.obstacle
    }

    /// Sees as much of the type as can be seen.
    pub(super) fn explore(
        &mut self,
        of: &'static str,
        mut read: impl FnMut(Recorder<'_>) -> Result<(), Stop>,
    ) {
        let mut in_vain = 0;
        for _ in 0..MOST_RUNS {
            let before = self.progress();
            (self.again, self.last_offer) = (0, None);
            self.stack.clear();
            // What a user's `Deserialize` does to itself when it panics is its own: no state of it
            // outlives the run.
            let outcome = contain(|| read(Recorder::new(self, Graph::ROOT, of, 0)));
            let outcome = outcome.unwrap_or_else(|message| {
                tracing::debug!(
                    of,
                    message,
                    "a `Deserialize` panics instead of refusing a value"
                );
                Err(Stop::Refused)
            });
            match outcome {
                Err(Stop::Refused) => self.offer_another(),
                Err(Stop::Steps | Stop::Obstacle) => return,
                Ok(()) | Err(Stop::NoVariant | Stop::Deep) => {}
            }
            let is_all = || {
                let is_done = |known: &Known| {
                    known.parts.iter().all(|part| part.done) && known.name_to_ask().is_none()
                };
                self.known.values().all(is_done)
            };
            if outcome.is_ok() && is_all() {
                return;
            }
            in_vain = if self.progress() > before {
                0
            } else {
                in_vain + 1
            };
            if in_vain > VAIN_RUNS {
                return;
            }
        }
    }

    fn progress(&self) -> usize {
        self.graph.seen() + self.done
    }

    /// Counts a value that is asked for.
    pub(super) fn step(&mut self) -> Result<(), Stop> {
        self.steps += 1;
        if self.steps > MOST_STEPS {
            return Err(Stop::Steps);
        }
        if self.stack.len() > DEEPEST {
            self.end_elsewhere();
            return Err(Stop::Deep);
        }
        Ok(())
    }

    /// Whether the value is inside of another of its type, so that it is to be as small as it can.
    pub(super) fn is_again(&self) -> bool {
        self.again > 0
    }

    /// Which of the values is to be offered.
    pub(super) fn offer(&mut self, of: &'static str, at: usize, kind: &'static str) -> usize {
        let offer = (of, at, kind);
        self.last_offer = Some(offer);
        self.offers.get(&offer).copied().unwrap_or_default()
    }

    /// The value that was offered last is most likely the one that was refused.
    fn offer_another(&mut self) {
        if let Some(offer) = self.last_offer.take() {
            *self.offers.entry(offer).or_default() += 1;
        }
    }

    /// Goes into a named type, which stands at `at`.
    pub(super) fn enter<V>(&mut self, at: Id, name: &'static str, names: Names) -> Id {
        let key = Key {
            visitor: type_name::<V>(),
            name,
            names,
        };
        let graph = &mut self.graph;
        let id = *self.types.entry(key).or_insert_with(|| graph.unseen());
        self.graph.same(at, id);
        self.known.entry(id).or_insert_with(|| Known {
            parts: vec![Part::default(); names.len()],
            ..Known::default()
        });
        let is_same = |frame: &Frame| matches!(frame, Frame::Type { id: held, .. } if *held == id);
        let is_again = self.stack.iter().any(is_same);
        self.again += usize::from(is_again);
        self.stack.push(Frame::Type { id, is_again });
        id
    }

    /// Goes to a part. Says where from.
    pub(super) fn go(&mut self, place: TypeStep) -> usize {
        self.stack.push(Frame::TypeStep(place));
        self.stack.len() - 1
    }

    /// Where the run is, to [come back](Self::back_to) to.
    pub(super) fn depth(&self) -> usize {
        self.stack.len()
    }

    /// Comes back from types and places, also when they failed: not everybody passes errors on.
    pub(super) fn back_to(&mut self, depth: usize) {
        for frame in self.stack.drain(depth..) {
            if let Frame::Type { is_again: true, .. } = frame {
                self.again -= 1;
            }
        }
    }

    fn part(&mut self, of: Id, at: usize) -> &mut Part {
        let parts = &mut self.known.entry(of).or_default().parts;
        if parts.len() <= at {
            parts.resize(at + 1, Part::default());
        }
        &mut parts[at]
    }

    fn finish(&mut self, of: Id, at: usize) {
        let part = self.part(of, at);
        if !std::mem::replace(&mut part.done, true) {
            self.done += 1;
        }
    }

    /// Goes into a field or variant.
    pub(super) fn try_part(&mut self, of: Id, at: usize) {
        if self.is_again() {
            // However often it is within itself, that is one attempt.
            return;
        }
        let part = self.part(of, at);
        part.visits += 1;
        part.failed += 1;
        if part.failed > MOST_TRIES {
            self.finish(of, at);
        }
    }

    /// It was read.
    pub(super) fn has_read(&mut self, of: Id, at: usize) {
        self.part(of, at).failed = 0;
        self.finish(of, at);
    }

    /// The fields of a struct in the order in which they are to be offered, if that is by name:
    /// those that were refused time and again come last, so that the others are seen.
    pub(super) fn order(&self, of: Id) -> Option<Vec<usize>> {
        let known = self.known.get(&of)?;
        let is_stuck = |part: &Part| part.failed > MOST_TRIES;
        if known.by_order_only || !known.parts.iter().any(is_stuck) {
            return None;
        }
        let mut order: Vec<_> = (0..known.parts.len()).collect();
        order.sort_by_key(|at| {
            let part = &known.parts[*at];
            (is_stuck(part), if is_stuck(part) { part.visits } else { 0 })
        });
        Some(order)
    }

    /// The struct cannot be read by name.
    pub(super) fn by_order_only(&mut self, of: Id) {
        self.known.entry(of).or_default().by_order_only = true;
    }

    /// A struct has fewer fields than names.
    pub(super) fn forget_parts(&mut self, of: Id, count: usize) {
        if let Some(known) = self.known.get_mut(&of) {
            known.parts.truncate(count);
        }
        self.graph.drop_fields(of, count);
    }

    /// The variant to read: one that is not known yet, or else the one that was read least often,
    /// for what is in it.
    pub(super) fn choose(&self, of: Id) -> usize {
        let Some(known) = self.known.get(&of) else {
            return 0;
        };
        if self.is_again() {
            return known.least;
        }
        let parts = &known.parts;
        let is_new = |part: &Part| !part.done;
        let least = || (0..parts.len()).min_by_key(|at| parts[*at].visits);
        parts
            .iter()
            .position(is_new)
            .or_else(least)
            .unwrap_or_default()
    }

    /// The variant has no content: a recursion can end with it.
    pub(super) fn is_unit(&mut self, of: Id, at: usize) {
        let known = self.known.entry(of).or_default();
        if !std::mem::replace(&mut known.least_is_unit, true) {
            known.least = at;
        }
    }

    /// The variant that a number means.
    pub(super) fn note_number<T>(&mut self, of: Id, number: usize, variant: Option<&T>) {
        let numbers = &mut self.known.entry(of).or_default().by_number;
        if numbers.len() <= number {
            numbers.resize(number + 1, None);
        }
        numbers[number] = variant.map(variant_id);
    }

    /// The name of which to ask what it means, before anything else is seen.
    pub(super) fn name_to_ask(&self, of: Id) -> Option<usize> {
        self.known.get(&of)?.name_to_ask()
    }

    /// The variant that the name of this place means. An obstacle if numbers mean others than the
    /// names in their places.
    pub(super) fn note_name<T>(&mut self, of: Id, variant: Option<&T>, name: &'static str) -> Stop {
        self.done += 1;
        let known = self.known.entry(of).or_default();
        known.by_name.push(variant.map(variant_id));
        if !known.is_shifted() {
            return Stop::NoVariant;
        }
        // It is the enum's, not one variant's.
        self.stack.pop();
        self.obstacle(ALIAS, name)
    }

    /// There is no variant of this number.
    pub(super) fn no_variant(&mut self, of: Id, at: usize, content: Id) {
        self.graph.leaf(content, NO_VARIANT);
        self.finish(of, at);
        let known = self.known.entry(of).or_default();
        if known.least == at && !known.least_is_unit {
            known.least = 0;
        }
    }

    /// A recursion found no end with the variants that were chosen for that.
    fn end_elsewhere(&mut self) {
        let again = self.stack.iter().filter_map(|frame| match frame {
            Frame::Type { id, is_again: true } => Some(*id),
            _ => None,
        });
        for id in again.collect::<HashSet<_>>() {
            if let Some(known) = self.known.get_mut(&id)
                && !known.least_is_unit
                && !known.parts.is_empty()
            {
                known.least = (known.least + 1) % known.parts.len();
            }
        }
    }

    /// Here the type asks the data what it is.
    pub(super) fn obstacle(&mut self, what: &str, of: &str) -> Stop {
        let mut text = String::new();
        for frame in &self.stack {
            if let Frame::TypeStep(place) = frame {
                text += &place.to_string();
            }
        }
        let path = text.trim_start_matches('.');
        let at = if path.is_empty() {
            String::new()
        } else {
            format!(" at `{path}`")
        };
        let of = match of {
            "" => String::new(),
            of => format!(" `{of}`"),
        };
        self.obstacle = Some(format!("the type{of}{at} {what}"));
        Stop::Obstacle
    }
}
