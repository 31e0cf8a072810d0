//! What the readings of Redis have shown: the agents, those that went lately, and what happened to
//! them. A page that opens is told all of it, and then what each reading changes.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::view::{AgentState, Details, Row};
use crate::control::obs::{ObsRecord, SlimerpcEvent, SlimerpcPeerState};
use crate::nanoctrl::repository::AgentRow;

/// Most events that are remembered, of all agents together.
const MOST_EVENTS: usize = 512;
/// How long an agent that is gone is shown.
const REMEMBERED: Duration = Duration::from_secs(10 * 60);
/// Most agents that are gone and are shown.
const MOST_GONE: usize = 1024;
/// Silence after which an agent of DLSlime counts as stalled. It does not say how often it reports.
const STALE: Duration = Duration::from_secs(45);
/// Shortest silence after which a native agent counts as stalled, and how many periods it may miss.
const SHORTEST_STALE: Duration = Duration::from_secs(3);
const MISSED: u32 = 3;

/// What is in Redis at a moment.
#[derive(Default)]
pub(super) struct Reading {
    pub(super) agents: Vec<Found>,
    /// Records that could not be read.
    pub(super) skipped: u64,
    /// Agents that were not read, because there are too many.
    pub(super) left_out: u64,
    /// Scopes that were not read: there are too many, or Redis holds something else for them.
    pub(super) unread_scopes: BTreeSet<String>,
}

/// An agent that is registered, has a record, or both.
pub(super) struct Found {
    pub(super) scope: String,
    pub(super) alias: String,
    pub(super) registration: Option<AgentRow>,
    pub(super) record: Option<ObsRecord>,
}

/// Names an agent: scope and alias.
type Name = (String, String);

#[derive(Default)]
pub(super) struct Board {
    agents: BTreeMap<Name, Seen>,
    /// Oldest first, each as JSON.
    events: VecDeque<String>,
    skipped: u64,
    left_out: u64,
    unread_scopes: usize,
    read_at: Option<Instant>,
    hasher: RandomState,
}

struct Seen {
    found: Found,
    state: AgentState,
    why: String,
    /// The incarnation that was last registered; agents of DLSlime have none.
    life: Option<String>,
    /// When its record was last seen to be a new one.
    reported: Instant,
    /// When that one says that it was written.
    reported_at_ms: Option<u64>,
    /// Its record was old when it was first seen, which may be its clock: until when nothing is
    /// concluded from that.
    doubt: Option<Instant>,
    missing_since: Option<Instant>,
    /// The row as pages have it.
    row: String,
    /// Hashes of the events of its last record.
    events: HashSet<u64>,
}

/// An event as pages are told.
#[derive(Serialize)]
struct Event<'a> {
    at_ms: u64,
    scope: &'a str,
    /// The agent that says so; empty if this server does.
    agent: &'a str,
    kind: &'a str,
    subject: &'a str,
    text: &'a str,
}

impl Board {
    /// When the last reading was, if there was one.
    pub(super) fn read_at(&self) -> Option<Instant> {
        self.read_at
    }

    /// All that is known, as JSON.
    pub(super) fn all(&self, now_ms: u64) -> String {
        let rows = self.agents.values().map(|seen| seen.row.as_str());
        let events = self.events.iter().map(String::as_str);
        self.message(now_ms, rows, &[], events)
    }

    /// All that is known of one agent, as JSON.
    pub(super) fn details(&self, scope: &str, alias: &str) -> Option<String> {
        let seen = self.agents.get(&(scope.to_owned(), alias.to_owned()))?;
        let registration = seen.found.registration.as_ref();
        let resource = registration.and_then(|row| row.resource.as_deref());
        let details = Details {
            row: seen.to_row(),
            resource: resource.and_then(|text| serde_json::from_str(text).ok()),
            record: seen.found.record.as_ref(),
        };
        serde_json::to_string(&details).ok()
    }

    /// Takes over a reading, and returns what is new, as JSON.
    pub(super) fn update(&mut self, reading: Reading, now: Instant, now_ms: u64) -> String {
        let pause = self
            .read_at
            .map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        let is_first = self.read_at.replace(now).is_none();
        (self.skipped, self.left_out) = (reading.skipped, reading.left_out);
        self.unread_scopes = reading.unread_scopes.len();

        let mut events: Vec<(u64, String)> = Vec::new();
        let mut present = HashSet::new();
        for found in reading.agents {
            let name = (found.scope.clone(), found.alias.clone());
            self.take(&name, found, now, now_ms, &mut events);
            present.insert(name);
        }
        for (name, seen) in &mut self.agents {
            if !present.contains(name) {
                seen.missing_since.get_or_insert(now);
                seen.found.registration = None;
            }
        }
        let removed = self.forget(now, &reading.unread_scopes);

        let lost = self.lost(now, pause);
        let mut changed = Vec::new();
        for (name, seen) in &mut self.agents {
            let (state, why) = seen.judge(lost.get(name).map(String::as_str), now, pause);
            let is_new = seen.row.is_empty();
            if state != seen.state || why != seen.why || is_new {
                // Nobody knows when an agent fell silent that was so when it was first seen.
                let is_old = seen.doubt.is_some() && state != AgentState::Alive;
                if (state != seen.state && !is_old) || (is_new && !is_first) {
                    let event = Event {
                        at_ms: now_ms,
                        scope: &name.0,
                        agent: "",
                        kind: seen.kind_of_change(state, is_new),
                        subject: &name.1,
                        text: &why,
                    };
                    if !is_first {
                        events.push((now_ms, to_json(&event)));
                    }
                }
                if is_old {
                    seen.doubt = None;
                }
                (seen.state, seen.why) = (state, why);
            }
            let row = to_json(&seen.to_row());
            if row != seen.row {
                seen.row = row;
                changed.push(name.clone());
            }
        }

        events.sort_by_key(|(at_ms, _)| *at_ms);
        let beyond = events.len().saturating_sub(MOST_EVENTS);
        let events: Vec<String> = events.into_iter().skip(beyond).map(|(_, e)| e).collect();
        self.events.extend(events.iter().cloned());
        let beyond = self.events.len().saturating_sub(MOST_EVENTS);
        self.events.drain(..beyond);

        let rows = changed.iter().filter_map(|name| self.agents.get(name));
        let rows = rows.map(|seen| seen.row.as_str());
        self.message(now_ms, rows, &removed, events.iter().map(String::as_str))
    }

    /// Stores what was found of one agent, and adds its new events.
    fn take(
        &mut self,
        name: &Name,
        mut found: Found,
        now: Instant,
        now_ms: u64,
        new: &mut Vec<(u64, String)>,
    ) {
        // A record that has expired is still the last word of an agent that is registered.
        if found.record.is_none()
            && let Some(seen) = self.agents.get_mut(name)
            && seen.is_same_life(&found)
        {
            found.record = seen.found.record.take();
        }
        let mut hashes = HashSet::new();
        let known = self.agents.get(name);
        for event in events_of(&found) {
            let fields = (event.at_ms, &event.kind, &event.subject, &event.text);
            let hash = self.hasher.hash_one(fields);
            hashes.insert(hash);
            if known.is_none_or(|seen| !seen.events.contains(&hash)) {
                // A clock that is ahead keeps no event at the top.
                let at_ms = event.at_ms.min(now_ms);
                let event = Event {
                    at_ms,
                    scope: &found.scope,
                    agent: &found.alias,
                    kind: &event.kind,
                    subject: &event.subject,
                    text: &event.text,
                };
                new.push((at_ms, to_json(&event)));
            }
        }
        let reported_at_ms = found.record.as_ref().map(|record| record.reported_at_ms);
        let registered = found.registration.as_ref();
        let life = registered.and_then(|row| row.incarnation.clone());
        match self.agents.get_mut(name) {
            Some(seen) => {
                if seen.reported_at_ms != reported_at_ms {
                    seen.reported_at_ms = reported_at_ms;
                    seen.reported = now;
                    seen.doubt = None;
                }
                if registered.is_some() {
                    seen.life = life;
                }
                seen.events = hashes;
                seen.found = found;
                seen.missing_since = None;
            }
            None => {
                // Clocks of two hosts differ; only for the first record there is nothing better.
                let age = found.record.as_ref().map(|record| record.age(now_ms));
                let reported = now.checked_sub(age.unwrap_or_default()).unwrap_or(now);
                let mut seen = Seen {
                    found,
                    life,
                    state: AgentState::Alive,
                    why: String::new(),
                    reported,
                    reported_at_ms,
                    doubt: None,
                    missing_since: None,
                    row: String::new(),
                    events: hashes,
                };
                if !seen.is_fresh(now, Duration::ZERO) {
                    seen.doubt = Some(now + seen.stale() * 2 / MISSED);
                }
                self.agents.insert(name.clone(), seen);
            }
        }
    }

    /// Removes agents that have been gone for long, or of which there are too many, and those of
    /// scopes that are not read, of which nobody knows.
    fn forget(&mut self, now: Instant, unread_scopes: &BTreeSet<String>) -> Vec<Name> {
        let missing = self.agents.iter().filter_map(|(name, seen)| {
            let since = seen.missing_since?;
            Some((since, name.clone()))
        });
        let mut missing: Vec<(Instant, Name)> = missing.collect();
        missing.sort();
        let beyond = missing.len().saturating_sub(MOST_GONE);
        let is_old = |since: Instant| now.saturating_duration_since(since) >= REMEMBERED;
        let removed = missing.into_iter().enumerate();
        let removed = removed.filter(|(at, (since, _))| *at < beyond || is_old(*since));
        let mut removed: Vec<Name> = removed.map(|(_, (_, name))| name).collect();
        let unknown = self.agents.keys();
        let unknown = unknown.filter(|(scope, _)| unread_scopes.contains(scope));
        removed.extend(unknown.cloned());
        for name in &removed {
            self.agents.remove(name);
        }
        removed
    }

    /// The agents that a peer has lost which is itself alive, and why.
    fn lost(&self, now: Instant, pause: Duration) -> HashMap<Name, String> {
        let mut lost = HashMap::new();
        for ((scope, _), seen) in &self.agents {
            let ours = seen.found.record.as_ref().and_then(|r| r.slimerpc.as_ref());
            let Some(ours) = ours.filter(|_| seen.is_fresh(now, pause)) else {
                continue;
            };
            for peer in &ours.peers {
                let name = (scope.clone(), peer.alias.clone());
                let began_ms = self.agents.get(&name).map_or(0, Seen::began_ms);
                // What was lost before may have had the same alias. 0 says nothing.
                let is_earlier = peer.since_ms != 0 && peer.since_ms < began_ms;
                if peer.state == SlimerpcPeerState::Gone && !is_earlier {
                    lost.insert(name, peer.why.clone());
                }
            }
        }
        lost
    }

    fn message<'a>(
        &self,
        now_ms: u64,
        rows: impl Iterator<Item = &'a str>,
        removed: &[Name],
        events: impl Iterator<Item = &'a str>,
    ) -> String {
        let mut text = format!(
            r#"{{"now":{now_ms},"skipped":{},"left_out":{},"unread_scopes":{},"removed":{},"agents":["#,
            self.skipped,
            self.left_out,
            self.unread_scopes,
            to_json(&removed)
        );
        join(&mut text, rows);
        text += r#"],"events":["#;
        join(&mut text, events);
        text += "]}";
        text
    }
}

impl Seen {
    /// Whether what was found now, without a record, is the agent whose record this has.
    fn is_same_life(&self, found: &Found) -> bool {
        let Some(row) = &found.registration else {
            return false;
        };
        let has_stopped = self.found.record.as_ref().is_some_and(has_stopped);
        let is_known = self.missing_since.is_none() || row.incarnation.is_some();
        !has_stopped && is_known && self.life == row.incarnation
    }

    /// When it began, in Unix milliseconds, as far as its registration and its record say; 0 if it
    /// is not registered, as then it is not said to be there.
    fn began_ms(&self) -> u64 {
        let Some(row) = &self.found.registration else {
            return 0;
        };
        let registered_ms = row.registered_at.map_or(0, |at| at.saturating_mul(1000));
        let record = self.found.record.as_ref();
        let ours = record.and_then(|record| record.slimerpc.as_ref());
        registered_ms.max(ours.map_or(0, |ours| ours.started_ms))
    }

    /// The silence after which it counts as stalled.
    fn stale(&self) -> Duration {
        let record = self.found.record.as_ref();
        match record.and_then(|record| record.slimerpc.as_ref()) {
            Some(ours) => {
                let period = Duration::from_millis(ours.period_ms.min(3_600_000));
                SHORTEST_STALE.max(MISSED * period)
            }
            None => STALE,
        }
    }

    /// Whether its record is young enough, or it has none.
    fn is_fresh(&self, now: Instant, pause: Duration) -> bool {
        // A record is seen to be new when it is read, and not before.
        let silence = now.saturating_duration_since(self.reported);
        self.found.record.is_none() || silence < self.stale().max(2 * pause)
    }

    /// Its state, and why it is so.
    fn judge(&self, lost: Option<&str>, now: Instant, pause: Duration) -> (AgentState, String) {
        let is_registered = self.found.registration.is_some();
        let has_stopped = self.found.record.as_ref().is_some_and(has_stopped);
        if has_stopped && !is_registered {
            return (AgentState::Left, "it has shut down".to_owned());
        }
        if self.missing_since.is_some() {
            let why = lost.unwrap_or("its registration has expired or was removed");
            return (AgentState::Gone, why.to_owned());
        }
        let has_record = self.found.record.is_some();
        let is_in_doubt = self.doubt.is_some_and(|until| now < until + pause);
        let is_fresh = has_stopped || is_in_doubt || self.is_fresh(now, pause);
        match lost {
            _ if has_record && is_fresh => (AgentState::Alive, String::new()),
            Some(why) => (AgentState::Gone, why.to_owned()),
            None if is_fresh => (AgentState::Alive, String::new()),
            None if is_registered => (AgentState::Stalled, "it reports no more".to_owned()),
            None => {
                let why = "it reports no more, and its registration has expired";
                (AgentState::Gone, why.to_owned())
            }
        }
    }

    fn kind_of_change(&self, state: AgentState, is_new: bool) -> &'static str {
        match state {
            AgentState::Alive if is_new => "appeared",
            AgentState::Alive => "back",
            AgentState::Stalled => "stalled",
            AgentState::Gone => "gone",
            AgentState::Left => "left",
        }
    }

    fn to_row(&self) -> Row<'_> {
        let found = &self.found;
        Row::new(
            (&found.scope, &found.alias),
            (self.state, &self.why),
            found.registration.as_ref(),
            found.record.as_ref(),
        )
    }
}

fn has_stopped(record: &ObsRecord) -> bool {
    record.status.as_deref() == Some(ObsRecord::STOPPED)
}

fn events_of(found: &Found) -> &[SlimerpcEvent] {
    let ours = found.record.as_ref().and_then(|r| r.slimerpc.as_ref());
    ours.map_or(&[], |ours| &ours.events)
}

fn to_json(what: &impl Serialize) -> String {
    serde_json::to_string(what).expect("it has text keys")
}

fn join<'a>(text: &mut String, parts: impl Iterator<Item = &'a str>) {
    for (at, part) in parts.enumerate() {
        if at > 0 {
            text.push(',');
        }
        text.push_str(part);
    }
}

#[cfg(test)]
mod tests;
