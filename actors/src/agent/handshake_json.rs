//! What the peer monitors of two agents send each other, as messages in JSON.

use serde::{Deserialize, Serialize};
use slimerpc::channel::QueuePairInfo;
use slimerpc::channel::peer_connection::{Body, HandshakeMessage, Session};
use slimerpc::fabric::LinkType;

/// One end of a monitor's connection: what the other end needs to connect with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LinkEndpoint {
    /// The kind of link of both devices.
    pub(crate) link: LinkType,
    /// The queue pair.
    pub(crate) qp: QueuePairInfo,
}

/// A [`HandshakeMessage`] in JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct HandshakeJson {
    from: u64,
    to: u64,
    opener: u64,
    attempt: u64,
    body: HandshakeBody,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum HandshakeBody {
    Open {
        end: LinkEndpoint,
        echo: Option<u64>,
    },
    Challenge {
        number: u64,
    },
    Accept {
        end: LinkEndpoint,
        void: u64,
    },
    End,
}

impl From<HandshakeMessage<LinkEndpoint>> for HandshakeJson {
    fn from(message: HandshakeMessage<LinkEndpoint>) -> Self {
        Self {
            from: message.from,
            to: message.to,
            opener: message.session.opener,
            attempt: message.session.attempt,
            body: match message.body {
                Body::Open { endpoint, echo } => HandshakeBody::Open {
                    end: endpoint,
                    echo,
                },
                Body::Challenge(number) => HandshakeBody::Challenge { number },
                Body::Accept { endpoint, void } => HandshakeBody::Accept {
                    end: endpoint,
                    void,
                },
                Body::End => HandshakeBody::End,
            },
        }
    }
}

impl From<HandshakeJson> for HandshakeMessage<LinkEndpoint> {
    fn from(message: HandshakeJson) -> Self {
        Self {
            from: message.from,
            to: message.to,
            session: Session {
                opener: message.opener,
                attempt: message.attempt,
            },
            body: match message.body {
                HandshakeBody::Open { end, echo } => Body::Open {
                    endpoint: end,
                    echo,
                },
                HandshakeBody::Challenge { number } => Body::Challenge(number),
                HandshakeBody::Accept { end, void } => Body::Accept {
                    endpoint: end,
                    void,
                },
                HandshakeBody::End => Body::End,
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
        let endpoint = LinkEndpoint {
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
                tcp: None,
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
            let message = HandshakeMessage {
                from: u64::MAX,
                to: 2,
                session: Session {
                    opener: 2,
                    attempt: 1,
                },
                body,
            };
            let mail = serde_json::to_string(&HandshakeJson::from(message.clone())).unwrap();
            let read: HandshakeJson = serde_json::from_str(&mail).unwrap();
            assert_eq!(HandshakeMessage::from(read), message);
        }
    }
}
