//! Runs a `Deserialize` repeatedly, until it shows nothing new.

use std::any::type_name;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::graph::{Graph, Id, NO_VARIANT, Names};
use super::recorder::Recorder;
use crate::panics::contain;
use crate::wire::PayloadCodec;

/// Most values in all runs. An ordinary type takes some tens in a run.
const MOST_STEPS: usize = 250_000;
const MOST_RUNS: usize = 10_000;
/// Consecutive runs without news before the exploration ends: more than there are values to offer
/// in one place.
const VAIN_RUNS: usize = 48;
/// Runs into a variant or field that do not return before others are preferred.
const MOST_TRIES: u32 = 24;
/// Most levels of types within each other. More is a recursion that has found no end.
const DEEPEST: usize = 96;

/// Why a run ended early.
#[derive(Debug)]
pub(super) enum Stop {
    /// The type refused a made-up value.
    Refused,
    /// The enum has no such variant.
    NoVariant,
    /// A recursion does not end.
    Deep,
    /// The run has taken too many steps.
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

/// Identifies a type within this process. Nothing of it gets into the text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    visitor: &'static str,
    name: &'static str,
    names: Names,
}

/// What is known of a struct, an enum or a newtype that helps to explore the rest of it.
#[derive(Debug, Default)]
struct Known {
    /// The state of each field or variant.
    parts: Vec<Part>,
    /// The variant by which a recursion ends.
    least: usize,
    /// Whether that variant has no content.
    least_is_unit: bool,
    /// Whether the struct reads its fields in order only.
    by_order_only: bool,
    /// Which variant each number means, and each name as far as it was explored. Only bincode
    /// writes numbers.
    by_number: Vec<Option<VariantId>>,
    by_name: Vec<Option<VariantId>>,
}

/// Identifies a variant within one enum.
type VariantId = u64;

impl Known {
    /// The next name whose meaning is to be explored: serde lists other names of a variant among
    /// the names, which shows when there are fewer variants than names.
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

    /// Returns whether the name at some number means another variant, as far as is known.
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
    /// Number of runs into the part.
    visits: u32,
    /// Number of consecutive runs that did not return.
    failed: u32,
    /// Whether the part is known as well as it can be.
    done: bool,
}

/// A frame of the run's position.
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

/// A made-up value: the type that it is for, the place, and the kind.
type Offer = (&'static str, usize, &'static str);

pub(super) struct Explorer {
    pub(super) codec: PayloadCodec,
    pub(super) graph: Graph,
    types: HashMap<Key, Id>,
    known: HashMap<Id, Known>,
    stack: Vec<Frame>,
    /// Number of types that are on the stack twice: then only values that end the recursion are
    /// offered.
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

    /// Explores the type as far as possible.
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
            // A panic may leave a user's `Deserialize` in any state, but none of it outlives the
            // run.
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

    /// Returns whether the value is inside of another of its type, so that it should be as small as
    /// possible.
    pub(super) fn is_again(&self) -> bool {
        self.again > 0
    }

    /// Chooses which of the values to offer.
    pub(super) fn offer(&mut self, of: &'static str, at: usize, kind: &'static str) -> usize {
        let offer = (of, at, kind);
        self.last_offer = Some(offer);
        self.offers.get(&offer).copied().unwrap_or_default()
    }

    /// Changes the offer that was made last: most likely that one was refused.
    fn offer_another(&mut self) {
        if let Some(offer) = self.last_offer.take() {
            *self.offers.entry(offer).or_default() += 1;
        }
    }

    /// Enters a named type at `at`.
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

    /// Enters a part. Returns where from.
    pub(super) fn go(&mut self, place: TypeStep) -> usize {
        self.stack.push(Frame::TypeStep(place));
        self.stack.len() - 1
    }

    /// The present position, to [return](Self::back_to) to.
    pub(super) fn depth(&self) -> usize {
        self.stack.len()
    }

    /// Returns to an earlier position, also after a failure: not every `Deserialize` passes errors
    /// on.
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

    /// Notes an attempt to read a field or variant.
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

    /// Notes that a field or variant was read.
    pub(super) fn has_read(&mut self, of: Id, at: usize) {
        self.part(of, at).failed = 0;
        self.finish(of, at);
    }

    /// The order in which to offer the fields of a struct that is read by name: those that were
    /// refused repeatedly come last, so that the others are seen.
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

    /// Notes that the struct cannot be read by name.
    pub(super) fn by_order_only(&mut self, of: Id) {
        self.known.entry(of).or_default().by_order_only = true;
    }

    /// Notes that a struct has fewer fields than names.
    pub(super) fn forget_parts(&mut self, of: Id, count: usize) {
        if let Some(known) = self.known.get_mut(&of) {
            known.parts.truncate(count);
        }
        self.graph.drop_fields(of, count);
    }

    /// Chooses the variant to read: one that is not known yet, or else the one that was read least
    /// often, for its content.
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

    /// Notes that the variant has no content, so that a recursion can end with it.
    pub(super) fn is_unit(&mut self, of: Id, at: usize) {
        let known = self.known.entry(of).or_default();
        if !std::mem::replace(&mut known.least_is_unit, true) {
            known.least = at;
        }
    }

    /// Notes the variant that a number means.
    pub(super) fn note_number<T>(&mut self, of: Id, number: usize, variant: Option<&T>) {
        let numbers = &mut self.known.entry(of).or_default().by_number;
        if numbers.len() <= number {
            numbers.resize(number + 1, None);
        }
        numbers[number] = variant.map(variant_id);
    }

    /// The name whose meaning is to be explored before anything else.
    pub(super) fn name_to_ask(&self, of: Id) -> Option<usize> {
        self.known.get(&of)?.name_to_ask()
    }

    /// Notes the variant that the name at this index means. Fails if numbers and names at the same
    /// index mean different variants.
    pub(super) fn note_name<T>(&mut self, of: Id, variant: Option<&T>, name: &'static str) -> Stop {
        self.done += 1;
        let known = self.known.entry(of).or_default();
        known.by_name.push(variant.map(variant_id));
        if !known.is_shifted() {
            return Stop::NoVariant;
        }
        // The fault is the enum's, not one variant's.
        self.stack.pop();
        self.obstacle(ALIAS, name)
    }

    /// Notes that there is no variant of this number.
    pub(super) fn no_variant(&mut self, of: Id, at: usize, content: Id) {
        self.graph.leaf(content, NO_VARIANT);
        self.finish(of, at);
        let known = self.known.entry(of).or_default();
        if known.least == at && !known.least_is_unit {
            known.least = 0;
        }
    }

    /// Chooses other variants to end a recursion that found no end.
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

    /// Notes that the type asks the data what it is, which the codec cannot answer.
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
