//! Why a connection with a peer uses its kind of link, in words.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use slimerpc::channel::{Descriptor, HostId};
use slimerpc::fabric::{FabricKind, LinkType};

/// Most peers whose link is remembered. Those without a connection are forgotten before.
const MOST: usize = 8192;

/// Why two agents share memory, whoever of them chose it.
const SHARED: &str = "same host, user and network namespace";

/// The links that were chosen last, with the reasons, by peer.
#[derive(Debug, Default)]
pub(super) struct LinkReasons(RefCell<HashMap<String, (LinkType, String)>>);

impl LinkReasons {
    pub(super) fn note(&self, peer: &str, link: LinkType, why: String) {
        let mut all = self.0.borrow_mut();
        if all.len() < MOST || all.contains_key(peer) {
            all.insert(peer.to_owned(), (link, why));
        }
    }

    /// Why the connection with this peer uses this kind of link.
    pub(super) fn of(&self, peer: &str, link: LinkType) -> String {
        match self.0.borrow().get(peer) {
            _ if link == LinkType::Shm => SHARED.to_owned(),
            Some((chosen, why)) if *chosen == link => why.clone(),
            // Either end may connect, and the one who does chooses.
            _ => "the peer chose it".to_owned(),
        }
    }

    /// Forgets all but these.
    pub(super) fn keep(&self, peers: &HashSet<&str>) {
        let mut all = self.0.borrow_mut();
        all.retain(|peer, _| peers.contains(&**peer));
    }
}

/// Why `link` was chosen out of `ours`, the kinds of links of this agent in order of preference,
/// for a peer that published `theirs`.
pub(super) fn why(
    link: LinkType,
    ours: &[LinkType],
    here: &HostId,
    theirs: &Descriptor,
    is_avoided: impl Fn(LinkType) -> bool,
) -> String {
    if link == LinkType::Shm {
        return SHARED.to_owned();
    }
    let has = |kind: LinkType| theirs.links.contains(&kind) || theirs.more_links.contains(&kind);
    let preferred = ours.iter().take_while(|other| **other != link);
    let mut reasons: Vec<_> = preferred
        .map(|other| match other {
            _ if !has(*other) => format!("no {} at the peer", FabricKind::of(*other)),
            LinkType::Shm if !theirs.host.shares_memory_with(here) => apart(&theirs.host, here),
            other if is_avoided(*other) => {
                format!("{other} is avoided for 5 min: two connections in a row failed")
            }
            LinkType::Tcp => "TLS over tcp on one side only".to_owned(),
            other => format!("{other} cannot be used"),
        })
        .collect();
    let has_rdma = ours.iter().any(|link| link.is_rdma());
    if link == LinkType::Tcp && !has_rdma {
        reasons.push("no rdma here".to_owned());
    }
    match ours {
        [_] => "the only fabric here".to_owned(),
        [first, ..] if *first == link => format!("{} comes first here", FabricKind::of(link)),
        _ => reasons.join("; "),
    }
}

/// Why two agents cannot share memory.
fn apart(theirs: &HostId, here: &HostId) -> String {
    let is_unknown = |host: &HostId| host.boot_id.is_empty() || host.network.is_empty();
    match () {
        () if is_unknown(theirs) || is_unknown(here) => "where one of the two runs is not known",
        () if theirs.boot_id != here.boot_id => "another host",
        () if theirs.uid != here.uid => "another user of this host",
        () => "another network namespace of this host",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use slimerpc::channel::Geometry;

    use super::*;

    const RDMA: LinkType = LinkType::Roce;
    const ALL: [LinkType; 3] = [LinkType::Shm, RDMA, LinkType::Tcp];

    fn host(boot_id: &str, uid: u32, network: &str) -> HostId {
        HostId {
            boot_id: boot_id.to_owned(),
            uid,
            pid: 1,
            network: network.to_owned(),
        }
    }

    #[test]
    fn each_choice_has_its_reason() {
        use LinkType::{Shm, Tcp};
        let here = host("a", 1, "net:[1]");
        let elsewhere = host("b", 1, "net:[1]");
        let none = |_| false;
        let told = |link,
                    ours: &[LinkType],
                    there: &HostId,
                    theirs: &[LinkType],
                    avoided: &dyn Fn(LinkType) -> bool| {
            let descriptor = Descriptor {
                wire_version: 1,
                incarnation: 1,
                host: there.clone(),
                geometry: Geometry::new(16, 32_768).expect("it is one"),
                links: theirs.to_vec(),
                more_links: Vec::new(),
                tls: false,
                services: Vec::new(),
                down: Vec::new(),
            };
            why(link, ours, &here, &descriptor, avoided)
        };
        assert_eq!(told(Shm, &ALL, &here, &ALL, &none), SHARED);
        assert_eq!(told(RDMA, &ALL, &elsewhere, &ALL, &none), "another host");
        let other = host("a", 2, "net:[1]");
        assert_eq!(
            told(RDMA, &ALL, &other, &ALL, &none),
            "another user of this host"
        );
        let other = host("a", 1, "net:[2]");
        assert_eq!(
            told(Tcp, &[Shm, Tcp], &other, &ALL, &none),
            "another network namespace of this host; no rdma here"
        );
        assert_eq!(
            told(Tcp, &ALL, &elsewhere, &[Shm, Tcp], &none),
            "another host; no rdma at the peer"
        );
        assert_eq!(
            told(Tcp, &ALL, &elsewhere, &ALL, &|link| link == RDMA),
            "another host; RoCE is avoided for 5 min: two connections in a row failed"
        );
        assert_eq!(
            told(Tcp, &[Tcp, Shm], &here, &ALL, &none),
            "tcp comes first here"
        );
        assert_eq!(
            told(Tcp, &[Tcp], &here, &ALL, &none),
            "the only fabric here"
        );
        assert_eq!(
            told(Tcp, &ALL, &here, &[Tcp], &none),
            "no shm at the peer; no rdma at the peer"
        );
    }

    #[test]
    fn a_link_that_was_not_chosen_here_was_chosen_there() {
        let reasons = LinkReasons::default();
        reasons.note("a", RDMA, "another host".to_owned());
        assert_eq!(reasons.of("a", RDMA), "another host");
        assert_eq!(reasons.of("a", LinkType::Tcp), "the peer chose it");
        reasons.keep(&HashSet::from(["b"]));
        assert_eq!(reasons.of("a", RDMA), "the peer chose it");
    }
}
