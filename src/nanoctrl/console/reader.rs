//! Reads Redis for all open consoles together: at most once a second, seldom for more than a tenth
//! of the time, and not at all while none is open.
//!
//! What takes long happens on threads that may wait, as the threads of handlers serve heartbeats
//! too.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use actix_web::web::{self, Bytes};
use tokio::sync::broadcast::{self, Receiver, Sender};

use super::board::{Board, Found, Reading};
use super::seats::{Seat, Seats};
use crate::complaints::Complaints;
use crate::control::keys::Keys;
use crate::control::obs::RawScan;
use crate::nanoctrl::repository::{AgentRow, Repository, RepositoryError};

/// Time between two readings.
const PERIOD: Duration = Duration::from_secs(1);
/// A reading that takes long is followed by a pause that is so many times as long, up to a limit.
const SHARE: u32 = 10;
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Updates that wait for a console which is slow; it misses older ones, and is then told all.
const BACKLOG: usize = 4;

/// Most scopes, and most agents in all of them together, that are read.
const MOST_SCOPES: usize = 64;
const MOST_AGENTS: usize = 16 * 1024;

/// How long what was seen is of use to a console that opens later.
const KEPT: Duration = Duration::from_secs(60);

/// The reader of a server.
pub(in crate::nanoctrl) struct Reader(Arc<Shared>);

struct Shared {
    repository: Repository,
    /// Held as long as a reading or a page takes: only threads that may wait take this lock. Who
    /// takes both takes this one first.
    board: Mutex<Board>,
    /// Held for moments.
    hub: Mutex<Hub>,
}

struct Hub {
    seats: Seats,
    /// To all consoles; `None` once the server stops.
    updates: Option<Sender<Bytes>>,
    /// Number of the task that reads, if one does, and of the next.
    reading: Option<u64>,
    next: u64,
    /// When the last task began.
    began: Instant,
    complaints: Complaints,
}

/// What a console gets.
pub(super) struct Opened {
    /// What follows what is known so far.
    pub(super) updates: Receiver<Bytes>,
    pub(super) seat: Seat,
}

/// Why a console gets no updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// There are as many as may be.
    Full,
    /// The server stops.
    Stopping,
}

impl Reader {
    pub(super) fn new(repository: Repository) -> Self {
        Self(Arc::new(Shared {
            repository,
            board: Mutex::default(),
            hub: Mutex::new(Hub {
                seats: Seats::default(),
                updates: Some(broadcast::channel(BACKLOG).0),
                reading: None,
                next: 0,
                began: Instant::now(),
                complaints: Complaints::default(),
            }),
        }))
    }

    /// Opens a console of this address, in a handler of the server. It must
    /// [catch up](Self::catch_up) first.
    pub(super) fn open(&self, from: IpAddr) -> Result<Opened, Refused> {
        let hub = &mut *self.0.hub();
        let updates = hub.updates.as_ref().ok_or(Refused::Stopping)?;
        let seat = hub.seats.take(from).ok_or(Refused::Full)?;
        let receiver = updates.subscribe();
        if hub.reading.is_none() {
            let number = hub.next;
            hub.next += 1;
            hub.reading = Some(number);
            hub.began = Instant::now();
            actix_web::rt::spawn(read_on(Task {
                shared: self.0.clone(),
                number,
            }));
        }
        Ok(Opened {
            updates: receiver,
            seat,
        })
    }

    /// All that is known so far, which is empty for nothing, and the updates that follow it: none
    /// is missing and none is part of both. `None` if the thread that was to tell has failed.
    pub(super) async fn catch_up(
        &self,
        updates: Receiver<Bytes>,
    ) -> Option<(Bytes, Receiver<Bytes>)> {
        let shared = self.0.clone();
        let told = web::block(move || {
            // Updates are sent under this lock.
            let board = shared.board();
            let updates = updates.resubscribe();
            let is_of_use = board.read_at().is_some() && !shared.is_outdated(&board);
            let all = is_of_use.then(|| event("all", &board.all(now_ms())));
            (all.unwrap_or_default(), updates)
        });
        told.await.ok()
    }

    /// All that is known of one agent, as JSON.
    pub(super) async fn details(&self, scope: String, alias: String) -> Option<String> {
        let shared = self.0.clone();
        let told = web::block(move || shared.board().details(&scope, &alias));
        told.await.ok().flatten()
    }

    /// Ends the streams of all consoles, and lets in no more.
    pub(in crate::nanoctrl) fn close(&self) {
        self.0.hub().updates = None;
    }
}

impl Shared {
    /// A poisoned lock is still good: the next reading replaces what a panic left half done.
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hub(&self) -> MutexGuard<'_, Hub> {
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the board is from long before anybody looked again.
    fn is_outdated(&self, board: &Board) -> bool {
        let began = self.hub().began;
        let age = |read_at: Instant| began.saturating_duration_since(read_at);
        board.read_at().is_some_and(|read_at| age(read_at) > KEPT)
    }

    /// Takes over a reading, and tells the consoles what is new.
    fn take(&self, reading: Reading) {
        let mut board = self.board();
        if self.is_outdated(&board) {
            *board = Board::default();
        }
        let text = board.update(reading, Instant::now(), now_ms());
        self.send(event("change", &text));
    }

    /// Tells the consoles, and the log, that there is no reading.
    fn complain(&self, error: &RepositoryError) {
        let said = format_args!("the console cannot read Redis: {error}");
        self.hub().complaints.warn(Instant::now(), said);
        let text = serde_json::Value::from(error.to_string()).to_string();
        self.send(event("trouble", &text));
    }

    fn send(&self, update: Bytes) {
        if let Some(updates) = &self.hub().updates {
            // It fails if no console is left, which the next look notices.
            let _ = updates.send(update);
        }
    }
}

/// A task that reads. Another may begin when it has ended, however it did.
struct Task {
    shared: Arc<Shared>,
    number: u64,
}

impl Task {
    /// Returns whether a console is open; if none is, the task must end.
    fn goes_on(&self) -> bool {
        let hub = &mut *self.shared.hub();
        let updates = hub.updates.as_ref();
        let goes_on = updates.is_some_and(|updates| updates.receiver_count() > 0);
        if !goes_on {
            hub.reading = None;
        }
        goes_on
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let hub = &mut *self.shared.hub();
        hub.reading.take_if(|reading| *reading == self.number);
    }
}

async fn read_on(task: Task) {
    let shared = &task.shared;
    while task.goes_on() {
        let started = Instant::now();
        let raw = read(&shared.repository).await;
        let is_good = raw.is_ok();
        match raw {
            Ok(raw) => {
                let shared = shared.clone();
                // If it panics, the next reading may do better.
                let _ = web::block(move || shared.take(raw.parse())).await;
            }
            Err(error) => shared.complain(&error),
        }
        tokio::time::sleep(pause(started.elapsed(), is_good)).await;
    }
}

/// How long to wait after a reading. One that failed has cost Redis nothing.
fn pause(took: Duration, is_good: bool) -> Duration {
    if !is_good {
        return PERIOD;
    }
    let share = took.saturating_mul(SHARE).min(LONGEST_PAUSE);
    PERIOD.saturating_sub(took).max(share)
}

/// What was read, as it was found.
struct Raw {
    rows: Vec<(String, AgentRow)>,
    records: RawScan,
    left_out: u64,
    unread_scopes: BTreeSet<String>,
}

/// Reads what there is of all scopes.
async fn read(repository: &Repository) -> Result<Raw, RepositoryError> {
    let records = repository.observations().await?;
    let mut raw = Raw {
        rows: Vec::new(),
        left_out: records.left_out,
        records,
        unread_scopes: BTreeSet::new(),
    };
    // DLSlime's server keeps no list of scopes; agents of its own mostly have none. That one is
    // the first.
    let mut scopes: BTreeSet<String> = match repository.scopes().await {
        Err(error) if error.is_wrong_type() => BTreeSet::new(),
        listed => listed?.into_iter().collect(),
    };
    scopes.insert(String::new());
    for (at, scope) in scopes.into_iter().enumerate() {
        if at >= MOST_SCOPES {
            raw.unread_scopes.insert(scope);
            continue;
        }
        let room = MOST_AGENTS - raw.rows.len();
        match repository.some_agents(&Keys::new(&*scope), room).await {
            Ok((rows, left_out)) => {
                raw.left_out += left_out;
                raw.rows
                    .extend(rows.into_iter().map(|row| (scope.clone(), row)));
            }
            Err(error) if error.is_wrong_type() => _ = raw.unread_scopes.insert(scope),
            Err(error) => return Err(error),
        }
    }
    Ok(raw)
}

impl Raw {
    /// Makes sense of it, which takes long.
    fn parse(self) -> Reading {
        let mut agents: BTreeMap<(String, String), Found> = BTreeMap::new();
        let found = |(scope, alias): &(String, String)| Found {
            scope: scope.clone(),
            alias: alias.clone(),
            registration: None,
            record: None,
        };
        for (scope, row) in self.rows {
            let agent = agents.entry((scope, row.name.clone()));
            agent.or_insert_with_key(found).registration = Some(row);
        }
        let (records, skipped) = self.records.parse();
        for (scope, record) in records {
            if !self.unread_scopes.contains(&scope) {
                let agent = agents.entry((scope, record.peer_id.clone()));
                agent.or_insert_with_key(found).record = Some(record);
            }
        }
        let beyond = agents.len().saturating_sub(MOST_AGENTS) as u64;
        Reading {
            agents: agents.into_values().take(MOST_AGENTS).collect(),
            skipped,
            left_out: self.left_out + beyond,
            unread_scopes: self.unread_scopes,
        }
    }
}

/// A server-sent event. JSON has no line breaks of its own.
fn event(name: &str, json: &str) -> Bytes {
    Bytes::from(format!("event: {name}\ndata: {json}\n\n"))
}

/// Unix time in milliseconds.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_follow_the_time_of_a_reading_up_to_a_limit_and_not_that_of_a_failure() {
        let ms = Duration::from_millis;
        assert_eq!(pause(ms(1), true), ms(999));
        assert_eq!(pause(ms(200), true), ms(2000));
        assert_eq!(pause(ms(4000), true), LONGEST_PAUSE);
        assert_eq!(pause(Duration::MAX, true), LONGEST_PAUSE);
        assert_eq!(pause(ms(5000), false), PERIOD);
    }
}
