//! Checks at the start that a Redis can do, and lets its user do, what agents and servers need, so
//! that the error names what is missing instead of coming from whichever command fails first.

use redis::{Cmd, Pipeline, Value, pipe};

/// The commands that are tried, each on a key that does not exist, so that they change nothing. `*`
/// stands for that key.
const COMMANDS: [&str; 29] = [
    "EVAL return(1) 3 * *2 *3",
    "EXISTS *",
    "EXPIRE * 60",
    "TTL *",
    "TYPE *",
    "GET *",
    "MGET *",
    "GETRANGE * 0 1",
    "HGET * field",
    "HMGET * field",
    "HEXISTS * field",
    "SMEMBERS *",
    "SISMEMBER * member",
    "SRANDMEMBER * 1",
    "SREM * member",
    "LTRIM * 0 1",
    "BLPOP * 0.01",
    "XREVRANGE * + - COUNT 1",
    "XREAD COUNT 1 STREAMS * 0",
    // These commands create the key, which is deleted at once.
    "SET * value EX 60",
    "DEL *",
    "INCR *",
    "DEL *",
    "HSET * field value",
    "DEL *",
    "SADD * member",
    "DEL *",
    "XADD * 1-1 field value",
    "DEL *",
];

/// The commands that show what Redis cannot do. `key` must not exist.
pub(crate) fn probe(key: &str) -> Pipeline {
    let mut probe = pipe();
    for command in COMMANDS {
        let mut built = Cmd::new();
        for word in command.split(' ') {
            built.arg(word.replace('*', key));
        }
        probe.add_command(built);
    }
    probe.ignore_errors();
    probe
}

/// Describes what Redis cannot do, from the answers to a [`probe`].
pub(crate) fn lacking(answers: &[Value]) -> Option<String> {
    let mut denied: Vec<String> = Vec::new();
    for (command, answer) in COMMANDS.iter().zip(answers) {
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
