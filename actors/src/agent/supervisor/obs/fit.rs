//! Makes records as short as their readers want them: a longer one would be refused, and its agent
//! not be seen any more.

use slimerpc::control::obs::{ObsRecord, SlimerpcObs};

/// Encodes a record. If it is longer than [`ObsRecord::LONGEST`], its longest list is halved until
/// it is not. Peers that are gone come last, so they are left out first.
pub(super) fn fitted(mut record: ObsRecord) -> String {
    loop {
        let text = serde_json::to_string(&record).expect("a record has text keys only");
        if text.len() <= ObsRecord::LONGEST || !halve(&mut record) {
            return text;
        }
    }
}

/// Halves the longest list. Returns `false` if all are empty: what is left has limits.
fn halve(record: &mut ObsRecord) -> bool {
    let mut none = SlimerpcObs::default();
    let ours = record.slimerpc.as_mut().unwrap_or(&mut none);
    let methods = ours.services.iter().map(|it| it.methods.len());
    let most = methods.max().unwrap_or_default();
    let methods: usize = ours.services.iter().map(|it| it.methods.len()).sum();
    let longest = [
        record.connections.len(),
        ours.peers.len(),
        ours.calls.len(),
        methods,
        record.nics.len(),
        ours.services.len(),
        ours.events.len(),
    ];
    let Some((list, &length)) = longest
        .iter()
        .enumerate()
        .max_by_key(|(_, length)| **length)
    else {
        return false;
    };
    let half = length / 2;
    match list {
        0 => record.connections.truncate(half),
        1 => ours.peers.truncate(half),
        2 => ours.calls.truncate(half),
        3 => (ours.services.iter_mut()).for_each(|it| it.methods.truncate(most / 2)),
        4 => record.nics.truncate(half),
        5 => ours.services.truncate(half),
        // The newest stay.
        _ => drop(ours.events.drain(..length - half)),
    }
    length > 0
}

#[cfg(test)]
mod tests {
    use slimerpc::control::obs::{
        ObsConnection, SlimerpcCall, SlimerpcMethod, SlimerpcPeer, SlimerpcService,
    };

    use super::super::log::ObsLog;
    use super::*;
    use crate::{AgentEvent, EndCause, PeerEvent};

    fn record() -> ObsRecord {
        ObsRecord {
            schema_version: ObsRecord::SCHEMA_VERSION,
            peer_id: "a".to_owned(),
            ..ObsRecord::default()
        }
    }

    fn alias(number: usize) -> String {
        format!("{number:0>200}")
    }

    #[test]
    fn many_peers_with_long_names_and_a_long_panic_are_a_record_that_is_read() {
        let log = ObsLog::new(true);
        for number in 0..2 * ObsRecord::MOST_PEERS {
            log.note_peer(&alias(number), &PeerEvent::Left);
        }
        let cause = EndCause::Panicked {
            message: "ä".repeat(1 << 20),
        };
        let service = "calc".to_owned();
        log.note(AgentEvent::GivenUp { service, cause });
        let noted = log.peers(|_| true);
        assert_eq!(noted.len(), ObsRecord::MOST_PEERS);
        let events = log.events();
        let text = &events.last().expect("it was noted").text;
        assert!(text.len() <= ObsRecord::LONGEST_NAME, "{}", text.len());
        let peers = noted.into_iter().map(|(alias, noted)| SlimerpcPeer {
            alias,
            state: noted.state,
            why: noted.why,
            ..SlimerpcPeer::default()
        });
        let connections = (0..ObsRecord::MOST_PEERS).map(|number| ObsConnection {
            conn_id: format!("{}:nic->{}", alias(0), alias(number)),
            peer: alias(number),
            ..ObsConnection::default()
        });
        let text = fitted(ObsRecord {
            connections: connections.collect(),
            slimerpc: Some(SlimerpcObs {
                peers: peers.collect(),
                events,
                ..SlimerpcObs::default()
            }),
            ..record()
        });
        let read = ObsRecord::parse(text.as_bytes()).expect("readers take it");
        let ours = read.slimerpc.expect("it is ours");
        assert!(read.connections.len() > 256 && ours.peers.len() > 256);
        assert_eq!(ours.events.len(), SlimerpcObs::MOST_EVENTS);
    }

    #[test]
    fn lists_of_any_kind_are_cut() {
        let long = "\u{1}".repeat(ObsRecord::LONGEST_NAME);
        let method = SlimerpcMethod {
            name: long.clone(),
            ..SlimerpcMethod::default()
        };
        let service = SlimerpcService {
            name: "\u{1}".repeat(100_000),
            methods: vec![method; SlimerpcObs::MOST_METHODS],
            ..SlimerpcService::default()
        };
        let call = SlimerpcCall {
            service: long.clone(),
            method: long,
            ..SlimerpcCall::default()
        };
        let text = fitted(ObsRecord {
            slimerpc: Some(SlimerpcObs {
                services: vec![service; 8],
                calls: vec![call; SlimerpcObs::MOST_METHODS],
                ..SlimerpcObs::default()
            }),
            ..record()
        });
        let read = ObsRecord::parse(text.as_bytes()).expect("readers take it");
        assert!(!read.slimerpc.expect("it is ours").services.is_empty());
    }
}
