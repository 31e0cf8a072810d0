//! What the links of two agents write to each other, as mail.

use serde::{Deserialize, Serialize};
use slimerpc::channel::QueuePairInfo;
use slimerpc::channel::link::{Body, Letter, Session};
use slimerpc::fabric::LinkType;

/// One end of a link: what the other must know to connect with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LinkEnd {
    /// What both devices are attached to.
    pub(crate) link: LinkType,
    /// The queue pair.
    pub(crate) qp: QueuePairInfo,
}

/// A [`Letter`] in JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct LinkLetter {
    from: u64,
    to: u64,
    opener: u64,
    attempt: u64,
    body: LinkBody,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum LinkBody {
    Open { end: LinkEnd, echo: Option<u64> },
    Challenge { number: u64 },
    Accept { end: LinkEnd, void: u64 },
    End,
}

impl From<Letter<LinkEnd>> for LinkLetter {
    fn from(letter: Letter<LinkEnd>) -> Self {
        Self {
            from: letter.from,
            to: letter.to,
            opener: letter.session.opener,
            attempt: letter.session.attempt,
            body: match letter.body {
                Body::Open { endpoint, echo } => LinkBody::Open {
                    end: endpoint,
                    echo,
                },
                Body::Challenge(number) => LinkBody::Challenge { number },
                Body::Accept { endpoint, void } => LinkBody::Accept {
                    end: endpoint,
                    void,
                },
                Body::End => LinkBody::End,
            },
        }
    }
}

impl From<LinkLetter> for Letter<LinkEnd> {
    fn from(letter: LinkLetter) -> Self {
        Self {
            from: letter.from,
            to: letter.to,
            session: Session {
                opener: letter.opener,
                attempt: letter.attempt,
            },
            body: match letter.body {
                LinkBody::Open { end, echo } => Body::Open {
                    endpoint: end,
                    echo,
                },
                LinkBody::Challenge { number } => Body::Challenge(number),
                LinkBody::Accept { end, void } => Body::Accept {
                    endpoint: end,
                    void,
                },
                LinkBody::End => Body::End,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use slimerpc::channel::GidHalves;

    #[test]
    fn every_letter_survives_the_mail() {
        let endpoint = LinkEnd {
            link: LinkType::Shm,
            qp: QueuePairInfo {
                gid: GidHalves {
                    subnet_prefix: u64::MAX,
                    interface_id: 1,
                },
                gidx: 0,
                lid: 0,
                mtu: 5,
                psn: 7,
                qpn: 9,
            },
        };
        let bodies = [
            Body::Open {
                endpoint,
                echo: Some(u64::MAX),
            },
            Body::Open {
                endpoint,
                echo: None,
            },
            Body::Challenge(3),
            Body::Accept { endpoint, void: 4 },
            Body::End,
        ];
        for body in bodies {
            let letter = Letter {
                from: u64::MAX,
                to: 2,
                session: Session {
                    opener: 2,
                    attempt: 1,
                },
                body,
            };
            let mail = serde_json::to_string(&LinkLetter::from(letter.clone())).unwrap();
            let read: LinkLetter = serde_json::from_str(&mail).unwrap();
            assert_eq!(Letter::from(read), letter);
        }
    }
}
