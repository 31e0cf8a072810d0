//! Reads Redis for all open consoles together: at most once a second, never for more than a tenth
//! of the time, and not at all while none is open.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use actix_web::web::Bytes;
use tokio::sync::broadcast::{self, Receiver, Sender};

use super::board::{Board, Found, Reading};
use super::seats::{Seat, Seats};
use crate::complaints::Complaints;
use crate::control::keys::Keys;
use crate::nanoctrl::repository::{Repository, RepositoryError};

/// Time between two readings.
const PERIOD: Duration = Duration::from_secs(1);
/// A reading that takes long is followed by a pause that is so many times as long.
const SHARE: u32 = 10;

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
    state: Mutex<State>,
}

struct State {
    board: Board,
    seats: Seats,
    /// To all consoles; `None` once the server stops.
    updates: Option<Sender<Bytes>>,
    /// Number of the task that reads, if one does, and of the next.
    reading: Option<u64>,
    next: u64,
    complaints: Complaints,
}

/// What a console gets.
pub(super) struct Opened {
    /// What is known so far, if anything is.
    pub(super) all: Option<Bytes>,
    /// What follows.
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
            state: Mutex::new(State {
                board: Board::default(),
                seats: Seats::default(),
                updates: Some(broadcast::channel(BACKLOG).0),
                reading: None,
                next: 0,
                complaints: Complaints::default(),
            }),
        }))
    }

    /// Opens a console of this address, in a handler of the server.
    pub(super) fn open(&self, from: IpAddr) -> Result<Opened, Refused> {
        let state = &mut *self.0.lock();
        let updates = state.updates.as_ref().ok_or(Refused::Stopping)?;
        let seat = state.seats.take(from).ok_or(Refused::Full)?;
        let receiver = updates.subscribe();
        if state.reading.is_none() {
            let number = state.next;
            state.next += 1;
            state.reading = Some(number);
            let is_old = |read_at: Instant| read_at.elapsed() > KEPT;
            if state.board.read_at().is_some_and(is_old) {
                state.board = Board::default();
            }
            actix_web::rt::spawn(read_on(Task {
                shared: self.0.clone(),
                number,
            }));
        }
        Ok(Opened {
            all: all(&state.board),
            updates: receiver,
            seat,
        })
    }

    /// All that is known so far, for a console that has missed something.
    pub(super) fn all(&self) -> Bytes {
        all(&self.0.lock().board).unwrap_or_default()
    }

    /// All that is known of one agent, as JSON.
    pub(super) fn details(&self, scope: &str, alias: &str) -> Option<String> {
        self.0.lock().board.details(scope, alias)
    }

    /// Ends the streams of all consoles, and lets in no more.
    pub(in crate::nanoctrl) fn close(&self) {
        self.0.lock().updates = None;
    }
}

impl Shared {
    /// A poisoned lock is still good: the next reading replaces what a panic left half done.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        let state = &mut *self.shared.lock();
        let updates = state.updates.as_ref();
        let goes_on = updates.is_some_and(|updates| updates.receiver_count() > 0);
        if !goes_on {
            state.reading = None;
        }
        goes_on
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let state = &mut *self.shared.lock();
        state.reading.take_if(|reading| *reading == self.number);
    }
}

async fn read_on(task: Task) {
    let shared = &task.shared;
    while task.goes_on() {
        let started = Instant::now();
        let reading = read(&shared.repository).await;
        let took = started.elapsed();
        publish(shared, reading);
        tokio::time::sleep(PERIOD.saturating_sub(took).max(took * SHARE)).await;
    }
}

fn publish(shared: &Shared, reading: Result<Reading, RepositoryError>) {
    let state = &mut *shared.lock();
    let update = match reading {
        Ok(reading) => {
            let text = state.board.update(reading, Instant::now(), now_ms());
            event("change", &text)
        }
        Err(error) => {
            let now = Instant::now();
            let said = format_args!("the console cannot read Redis: {error}");
            state.complaints.warn(now, said);
            let text = serde_json::Value::from(error.to_string()).to_string();
            event("trouble", &text)
        }
    };
    if let Some(updates) = &state.updates {
        // It fails if no console is left, which the next look notices.
        let _ = updates.send(update);
    }
}

/// Reads what there is of all scopes.
async fn read(repository: &Repository) -> Result<Reading, RepositoryError> {
    let mut reading = Reading::default();
    // DLSlime's server keeps no list of scopes; agents of its own mostly have none.
    let mut scopes: BTreeSet<String> = repository.scopes().await?.into_iter().collect();
    scopes.insert(String::new());
    for scope in scopes.into_iter().take(MOST_SCOPES) {
        let keys = Keys::new(&*scope);
        let mut agents: BTreeMap<String, Found> = BTreeMap::new();
        let found = |alias: &str| Found {
            scope: scope.clone(),
            alias: alias.to_owned(),
            registration: None,
            record: None,
        };
        for row in repository.agents(&keys).await? {
            let agent = agents.entry(row.name.clone());
            agent.or_insert_with_key(|alias| found(alias)).registration = Some(row);
        }
        let observations = repository.observations(&keys).await?;
        reading.skipped += observations.skipped_total;
        reading.left_out += observations.left_out;
        for record in observations.records {
            let agent = agents.entry(record.peer_id.clone());
            agent.or_insert_with_key(|alias| found(alias)).record = Some(record);
        }
        let room = MOST_AGENTS - reading.agents.len();
        reading.left_out += agents.len().saturating_sub(room) as u64;
        reading.agents.extend(agents.into_values().take(room));
    }
    Ok(reading)
}

fn all(board: &Board) -> Option<Bytes> {
    board.read_at()?;
    Some(event("all", &board.all(now_ms())))
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
