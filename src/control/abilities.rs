//! Checks at the start that a Redis can do, and lets its user do, what agents and servers need, so
//! that the error names what is missing instead of coming from whichever command fails first.

use redis::{Cmd, Pipeline, Value, pipe};

/// The commands that are tried, each on a key that does not exist, so that they change nothing. `*`
/// stands for that key.
const COMMANDS: [&str; 22] = [
    "EVAL return(1) 3 * *2 *3",
    "EXISTS *",
    "EXPIRE * 60",
    "TTL *",
    "GET *",
    "GETRANGE * 0 1",
    "HGET * field",
    "HMGET * field",
    "HEXISTS * field",
    "SMEMBERS *",
    "SISMEMBER * member",
    "SRANDMEMBER * 1",
    "SREM * member",
    "BLPOP * 0.01",
    "XREVRANGE * + - COUNT 1",
    "XREAD COUNT 1 STREAMS * 0",
    "SET * value XX",
    "XADD * NOMKSTREAM 1-1 field value",
    // These commands create the key, which is deleted at once.
    "HSET * field value",
    "DEL *",
    "SADD * member",
    "DEL *",
];

/// The commands that a server needs besides.
const OF_SERVERS: [&str; 5] = ["TYPE *", "MGET *", "LTRIM * 0 1", "INCR *", "DEL *"];

/// Those whose commands are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// What agents need.
    Agent,
    /// What agents and servers need.
    #[cfg(feature = "server")]
    Server,
}

impl Needs {
    fn commands(self) -> impl Iterator<Item = &'static str> {
        let more = match self {
            Self::Agent => &OF_SERVERS[..0],
            #[cfg(feature = "server")]
            Self::Server => &OF_SERVERS[..],
        };
        COMMANDS.iter().chain(more).copied()
    }

    /// The commands that show what Redis cannot do. `key` must not exist.
    pub(crate) fn probe(self, key: &str) -> Pipeline {
        let mut probe = pipe();
        for command in self.commands() {
            let mut built = Cmd::new();
            for word in command.split(' ') {
                built.arg(word.replace('*', key));
            }
            probe.add_command(built);
        }
        probe.ignore_errors();
        probe
    }

    /// Describes what Redis cannot do, from the answers to a [`probe`](Self::probe).
    pub(crate) fn lacking(self, answers: &[Value]) -> Option<String> {
        let mut denied: Vec<String> = Vec::new();
        for (command, answer) in self.commands().zip(answers) {
            let Value::ServerError(error) = answer else {
                continue;
            };
            let text = error.details().unwrap_or_default();
            match error.code() {
                "CROSSSLOT" | "MOVED" | "ASK" | "CLUSTERDOWN" => {
                    return Some(
                    "it is a node of a Redis Cluster, and what belongs together has to be on one Redis; name one that is \
                     not part of a cluster"
                        .to_owned(),
                );
                }
                code if code == "NOPERM" || text.starts_with("unknown command") => {
                    let name = command.split(' ').next().unwrap_or_default();
                    let why = format!("{name} ({text})");
                    if !denied.iter().any(|it| it.starts_with(name)) {
                        denied.push(why);
                    }
                }
                _ => {}
            }
        }
        (!denied.is_empty()).then(|| format!("it does not let its user run {}", denied.join(", ")))
    }
}
