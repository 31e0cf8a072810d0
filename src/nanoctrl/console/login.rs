//! Who may look: those who have brought the token, and what becomes of those who guess.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::rand::{GetRandomFlags, getrandom};
use subtle::{Choice, ConstantTimeEq};

use crate::complaints::Complaints;
use crate::control::Secret;
use crate::nanoctrl::gate;

/// How long a session lasts.
pub(super) const SESSION: Duration = Duration::from_secs(12 * 60 * 60);
/// Most sessions at once; a further one ends the oldest.
const MOST_SESSIONS: usize = 256;

/// Failures in a row after which an address is slowed.
const FREE_FAILURES: u32 = 10;
/// Time between two attempts of an address that is slowed.
const PAUSE: Duration = Duration::from_secs(2);
/// After this time without a failure an address begins anew.
const FORGIVEN: Duration = Duration::from_secs(10 * 60);
/// Most addresses whose failures are counted; a further one displaces that which failed longest
/// ago.
const MOST_ADDRESSES: usize = 1024;

/// What becomes of an attempt.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    /// It was the token.
    Right,
    /// It was not.
    Wrong,
    /// It was not looked at; the next one will be after this time.
    TooEarly(Duration),
}

/// The token, and those who have brought it.
pub(super) struct Login {
    token: Option<Secret>,
    sessions: Mutex<VecDeque<Session>>,
    failures: Mutex<HashMap<IpAddr, Failures>>,
    complaints: Mutex<Complaints>,
}

struct Session {
    key: String,
    ends: Instant,
}

struct Failures {
    count: u32,
    last: Instant,
}

impl Login {
    pub(super) fn new(token: Option<Secret>) -> Self {
        Self {
            token,
            sessions: Mutex::default(),
            failures: Mutex::default(),
            complaints: Mutex::default(),
        }
    }

    /// Whether everybody may look.
    pub(super) fn is_open(&self) -> bool {
        self.token.is_none()
    }

    /// Looks at what somebody at this address has brought. Addresses are slowed one by one, and
    /// sessions that are open stay. Those behind one proxy or address translation share an address:
    /// one who guesses there slows the others too. The right token has to wait as well, or slowing
    /// would not slow those who guess.
    pub(super) fn attempt(&self, from: IpAddr, guess: &[u8], now: Instant) -> Attempt {
        let Some(token) = &self.token else {
            return Attempt::Right;
        };
        let from = network(from);
        let mut failures = lock(&self.failures);
        let before = failures.get(&from).filter(|known| {
            let since = now.saturating_duration_since(known.last);
            since < FORGIVEN
        });
        let count = before.map_or(0, |known| known.count);
        if let Some(known) = before.filter(|known| known.count >= FREE_FAILURES) {
            let since = now.saturating_duration_since(known.last);
            if since < PAUSE {
                return Attempt::TooEarly(PAUSE - since);
            }
        }
        if gate::is(token, guess) {
            failures.remove(&from);
            return Attempt::Right;
        }
        if failures.len() >= MOST_ADDRESSES && !failures.contains_key(&from) {
            let oldest = failures.iter().min_by_key(|(_, known)| known.last);
            if let Some(oldest) = oldest.map(|(address, _)| *address) {
                failures.remove(&oldest);
            }
        }
        let said = format_args!("console: a wrong token from {from}");
        lock(&self.complaints).warn(now, said);
        let count = count.saturating_add(1);
        failures.insert(from, Failures { count, last: now });
        Attempt::Wrong
    }

    /// Begins a session and returns its key, which is random. `None` if the system has no random
    /// numbers.
    pub(super) fn begin(&self, now: Instant) -> Option<String> {
        let mut random = [0; 32];
        let drawn = getrandom(&mut random, GetRandomFlags::empty()).ok()?;
        if drawn != random.len() {
            return None;
        }
        let key: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut sessions = lock(&self.sessions);
        if sessions.len() >= MOST_SESSIONS {
            sessions.pop_front();
        }
        sessions.push_back(Session {
            key: key.clone(),
            ends: now + SESSION,
        });
        Some(key)
    }

    /// Returns whether a session has this key, in a time that does not depend on how much of one
    /// is right.
    pub(super) fn has(&self, key: &str, now: Instant) -> bool {
        let mut sessions = lock(&self.sessions);
        sessions.retain(|session| session.ends > now);
        let is = |session: &Session| session.key.as_bytes().ct_eq(key.as_bytes());
        let none = Choice::from(0);
        sessions.iter().fold(none, |any, one| any | is(one)).into()
    }

    /// Ends the session with this key.
    pub(super) fn end(&self, key: &str) {
        lock(&self.sessions).retain(|session| {
            let is: bool = session.key.as_bytes().ct_eq(key.as_bytes()).into();
            !is
        });
    }
}

/// Whoever has an IPv6 address has all of its network.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(network.into())
        }
        address => address,
    }
}

/// A poisoned lock is still good, as no change can panic half-way.
fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn locked() -> Login {
        Login::new(Some(Secret::from("right")))
    }

    #[test]
    fn who_fails_ten_times_waits_between_attempts_and_keeps_nobody_else_out() {
        let (login, start) = (locked(), Instant::now());
        for _ in 0..FREE_FAILURES {
            assert_eq!(login.attempt(HERE, b"wrong", start), Attempt::Wrong);
        }
        for _ in 0..1_000 {
            let early = login.attempt(HERE, b"right", start + PAUSE / 2);
            assert_eq!(early, Attempt::TooEarly(PAUSE / 2));
        }
        let other = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
        assert_eq!(login.attempt(other, b"right", start), Attempt::Right);
        // Attempts that were not looked at do not count.
        let later = start + PAUSE;
        assert_eq!(login.attempt(HERE, b"wrong", later), Attempt::Wrong);
        assert_eq!(login.attempt(HERE, b"right", later + PAUSE), Attempt::Right);
        assert_eq!(login.attempt(HERE, b"wrong", later + PAUSE), Attempt::Wrong);
        let next = login.attempt(HERE, b"wrong", later + PAUSE);
        assert_eq!(next, Attempt::Wrong, "the right token wipes the slate");
    }

    #[test]
    fn failures_are_forgiven_in_time() {
        let (login, start) = (locked(), Instant::now());
        for _ in 0..FREE_FAILURES {
            login.attempt(HERE, b"wrong", start);
        }
        let later = start + FORGIVEN;
        assert_eq!(login.attempt(HERE, b"wrong", later), Attempt::Wrong);
        assert_eq!(login.attempt(HERE, b"wrong", later), Attempt::Wrong);
    }

    #[test]
    fn a_network_counts_as_one_address_and_many_take_no_more_memory() {
        let (login, start) = (locked(), Instant::now());
        let address = |network: u128, host: u128| {
            let bits = (0x2001_0db8_u128 << 96) | (network << 64) | host;
            IpAddr::V6(Ipv6Addr::from(bits))
        };
        for host in 0..u128::from(FREE_FAILURES) {
            login.attempt(address(0, host), b"wrong", start);
        }
        let next = login.attempt(address(0, 77), b"right", start);
        assert_eq!(next, Attempt::TooEarly(PAUSE));
        for network in 0..3_000 {
            login.attempt(address(network, 1), b"wrong", start + PAUSE);
        }
        assert_eq!(lock(&login.failures).len(), MOST_ADDRESSES);
    }

    #[test]
    fn a_session_has_a_key_of_its_own_and_ends() {
        let (login, start) = (locked(), Instant::now());
        let (first, second) = (login.begin(start).unwrap(), login.begin(start).unwrap());
        assert_ne!(first, second);
        assert_eq!(first.len(), 64);
        assert!(login.has(&first, start) && login.has(&second, start));
        for guess in ["", "right", &first[..63], &format!("{first}0")] {
            assert!(!login.has(guess, start), "{guess}");
        }
        login.end(&first);
        assert!(!login.has(&first, start) && login.has(&second, start));
        assert!(!login.has(&second, start + SESSION));
    }

    #[test]
    fn sessions_do_not_pile_up() {
        let (login, start) = (locked(), Instant::now());
        let first = login.begin(start).unwrap();
        for _ in 0..MOST_SESSIONS {
            login.begin(start).unwrap();
        }
        assert!(!login.has(&first, start));
        assert_eq!(lock(&login.sessions).len(), MOST_SESSIONS);
    }
}
