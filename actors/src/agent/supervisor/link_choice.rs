//! Which kind of link a connection with a peer uses: the first that both have, but for one over
//! which connections keep failing.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use slimerpc::channel::{Descriptor, LossCause, Mismatch};
use slimerpc::fabric::{CompletionStatus, LinkType, RetryPolicy};

use super::{AgentState, link_reason};
use crate::AgentEvent;

/// A connection that fails sooner than this has not worked, unless a device takes longer to give up
/// a peer that does not answer.
const YOUNG: Duration = Duration::from_secs(10);
/// Connections that are made within this time after a failure fail for the same reason: a port that
/// is down for a moment takes several with it.
const OUTAGE: Duration = Duration::from_secs(3);
/// Failures in a row after which another kind of link is used.
const FAILURES: u32 = 2;
/// How long a kind of link is avoided, before new connections try it again.
const AVOIDED: Duration = Duration::from_secs(300);

/// The failures of connections, by peer and kind of link.
#[derive(Debug, Default)]
pub(super) struct LinkFailures(RefCell<HashMap<(String, LinkType), Failures>>);

/// How connections with one incarnation of a peer failed.
#[derive(Debug)]
struct Failures {
    life: u64,
    /// How many in a row were young.
    count: u32,
    last: Instant,
    cause: LossCause,
    /// Whether it was told that another kind of link is used.
    is_told: bool,
}

impl Failures {
    /// Whether the kind of link is avoided for them.
    fn are_too_many(&self, life: u64, now: Instant) -> bool {
        self.life == life && self.count >= FAILURES && self.are_recent(now)
    }

    fn are_recent(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) < AVOIDED
    }
}

/// A connection with a native peer that has ended.
#[derive(Debug, Clone)]
pub(super) struct EndedConnection {
    /// Incarnation of the peer.
    pub(super) life: u64,
    pub(super) link: LinkType,
    /// When it was connected.
    pub(super) since: Instant,
    pub(super) cause: LossCause,
}

impl LinkFailures {
    fn note(&self, peer: &str, ended: EndedConnection, young: Duration, now: Instant) {
        let (life, since, cause) = (ended.life, ended.since, ended.cause);
        // Others say nothing about the way to the peer.
        if cause != LossCause::Completion(CompletionStatus::RetryExceeded) {
            return;
        }
        let mut all = self.0.borrow_mut();
        all.retain(|_, known| known.are_recent(now));
        let key = (peer.to_owned(), ended.link);
        let known = all.get(&key).filter(|known| known.life == life);
        let before = known.map_or(0, |known| known.count);
        if now.saturating_duration_since(since) >= young {
            // It has worked. What came before counts no more, unless the link is avoided for it.
            if before < FAILURES {
                all.remove(&key);
            }
            return;
        }
        // What was connected before the last failure has failed with it.
        if known.is_some_and(|known| since <= known.last + OUTAGE) {
            return;
        }
        let failures = Failures {
            life,
            count: before + 1,
            last: now,
            is_told: known.is_some_and(|known| known.is_told),
            cause,
        };
        all.insert(key, failures);
    }

    /// Lets every kind of link be tried again.
    fn forget(&self, peer: &str) {
        self.0.borrow_mut().retain(|(of, _), _| of != peer);
    }

    /// Whether this kind of link is avoided towards this incarnation of `peer`.
    fn avoids(&self, peer: &str, life: u64, link: LinkType, now: Instant) -> bool {
        let all = self.0.borrow();
        let known = all.get(&(peer.to_owned(), link));
        known.is_some_and(|known| known.are_too_many(life, now))
    }

    /// Why the kind of link is avoided, when this is asked for the first time.
    fn untold_cause(&self, peer: &str, link: LinkType) -> Option<LossCause> {
        let mut all = self.0.borrow_mut();
        let known = all.get_mut(&(peer.to_owned(), link))?;
        let is_told = std::mem::replace(&mut known.is_told, true);
        (!is_told).then(|| known.cause.clone())
    }
}

impl AgentState {
    /// Chooses the kind of link for a connection with `peer`, which published `theirs`, and notes
    /// why.
    pub(super) fn choose_link(
        &self,
        peer: &str,
        theirs: &Descriptor,
    ) -> Result<LinkType, Mismatch> {
        let link = self.find_link(peer, theirs)?;
        let (life, now) = (theirs.incarnation, Instant::now());
        let is_avoided = |link| self.link_failures.avoids(peer, life, link, now);
        let ours = self.settings.devices.links();
        let here = &self.descriptor.borrow().host;
        let why = link_reason::why(link, &ours, here, theirs, is_avoided);
        self.link_reasons.note(peer, link, why);
        Ok(link)
    }

    fn find_link(&self, peer: &str, theirs: &Descriptor) -> Result<LinkType, Mismatch> {
        let links = self.settings.devices.links();
        let here = &self.descriptor.borrow().host;
        let choose = |links: &[LinkType]| theirs.link(links, here, self.settings.tls.is_some());
        let preferred = choose(&links)?;
        let (life, now) = (theirs.incarnation, Instant::now());
        let is_avoided = |link: &LinkType| self.link_failures.avoids(peer, life, *link, now);
        if !is_avoided(&preferred) {
            return Ok(preferred);
        }
        let others = links.into_iter().filter(|link| !is_avoided(link));
        let Ok(other) = choose(&others.collect::<Vec<_>>()) else {
            return Ok(preferred);
        };
        if let Some(cause) = self.link_failures.untold_cause(peer, preferred) {
            tracing::warn!(%peer, from = %preferred, to = %other, %cause, "connections keep failing; another fabric is used");
            self.tell(AgentEvent::FabricChanged {
                peer: peer.to_owned(),
                from: preferred,
                to: other,
                cause,
            });
        }
        Ok(other)
    }

    /// Notes that a connection with `peer` has ended.
    pub(super) fn connection_ended(&self, peer: &str, ended: EndedConnection) {
        // To others this agent makes no connections, so what they do fills nothing here.
        if self.wanted.borrow().contains(peer) {
            let young = YOUNG.max(given_up_after(self.settings.retry));
            self.link_failures.note(peer, ended, young, Instant::now());
        }
    }

    /// Notes that no connection with `peer` could be made. If that was over another kind of link,
    /// the preferred one may be better.
    pub(super) fn connecting_failed(&self, peer: &str) {
        self.link_failures.forget(peer);
    }
}

/// How long a device may take to give up a peer that does not answer.
fn given_up_after(retry: RetryPolicy) -> Duration {
    4 * retry.gives_up_after()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const RDMA: LinkType = LinkType::Roce;
    const SECOND: Duration = Duration::from_secs(1);

    fn failed(life: u64, since: Instant) -> EndedConnection {
        EndedConnection {
            life,
            link: RDMA,
            since,
            cause: LossCause::Completion(CompletionStatus::RetryExceeded),
        }
    }

    #[test]
    fn two_young_failures_in_a_row_avoid_a_link_for_a_time_and_this_incarnation() {
        let failures = LinkFailures::default();
        let start = Instant::now();
        failures.note("a", failed(1, start), YOUNG, start + SECOND);
        assert!(!failures.avoids("a", 1, RDMA, start + SECOND));
        failures.note(
            "a",
            failed(1, start + 5 * SECOND),
            YOUNG,
            start + 6 * SECOND,
        );
        let now = start + 7 * SECOND;
        assert!(failures.avoids("a", 1, RDMA, now));
        assert!(!failures.avoids("a", 2, RDMA, now), "another incarnation");
        assert!(!failures.avoids("b", 1, RDMA, now), "another peer");
        assert!(!failures.avoids("a", 1, LinkType::Tcp, now), "another link");
        assert!(failures.untold_cause("a", RDMA).is_some());
        assert_eq!(failures.untold_cause("a", RDMA), None, "told once");
        assert!(!failures.avoids("a", 1, RDMA, now + AVOIDED), "tried again");
        failures.forget("b");
        assert!(failures.avoids("a", 1, RDMA, now));
        failures.forget("a");
        assert!(!failures.avoids("a", 1, RDMA, now), "it is no better");
    }

    #[test]
    fn one_outage_counts_once_and_what_has_worked_not_at_all() {
        let failures = LinkFailures::default();
        let start = Instant::now();
        for tenth in 0..30 {
            let since = start + SECOND * tenth / 10;
            failures.note("a", failed(1, since), YOUNG, since + SECOND);
        }
        assert!(!failures.avoids("a", 1, RDMA, start + 4 * SECOND));
        // This one worked, so those before do not count.
        failures.note("a", failed(1, start), YOUNG, start + YOUNG);
        let again = start + YOUNG + 5 * SECOND;
        failures.note("a", failed(1, again), YOUNG, again + SECOND);
        assert!(!failures.avoids("a", 1, RDMA, again + SECOND));
        for cause in [
            LossCause::Gone,
            LossCause::Fabric("no memory here".to_owned()),
            LossCause::Completion(CompletionStatus::RemoteAccess),
        ] {
            let since = again + 10 * SECOND;
            let other = EndedConnection {
                cause,
                ..failed(1, since)
            };
            failures.note("a", other, YOUNG, since + SECOND);
            assert!(!failures.avoids("a", 1, RDMA, since + SECOND));
        }
    }

    #[test]
    fn a_device_that_insists_is_given_time() {
        let policy = |timeout| RetryPolicy {
            timeout,
            ..RetryPolicy::default()
        };
        assert!(given_up_after(policy(14)) < YOUNG);
        assert!(given_up_after(policy(20)) > Duration::from_secs(100));
        let longest = RetryPolicy {
            retry_cnt: 6,
            ..policy(31)
        };
        assert!(given_up_after(longest) > Duration::from_secs(200_000));
    }
}
