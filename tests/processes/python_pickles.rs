//! Pickles between real Python and us, in both directions and all protocols.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;

use proptest::prelude::*;
use slimerpc::wire::Pickle;
use slimerpc::wire::pickle::{BigInt, Exception, Value};

/// Reads requests of one byte and a counted payload; answers with a counted payload.
///
/// - `0` and protocol: what we wrote, loaded and dumped again, twice in a tuple so that it is
///   shared.
/// - `1` and protocol: a random value made from the seed in the payload.
/// - `2`: whether the payload is equal to the random value made last, type by type.
const SCRIPT: &str = r#"
import pickle, random, struct, sys

def plain(depth):
    kinds = ["none", "bool", "int", "big", "float", "str", "bytes"]
    if depth < 4:
        kinds += ["list", "tuple", "dict", "set", "frozenset", "shared"] * 2
    kind = random.choice(kinds)
    some = lambda: [plain(depth + 1) for _ in range(random.randrange(5))]
    key = lambda: random.choice([random.randrange(1000), str(random.random()), bytes([random.randrange(256)]), (1, "a")])
    if kind == "none": return None
    if kind == "bool": return random.random() < 0.5
    if kind == "int": return random.choice([0, 255, 256, 65535, 65536, -1, 2**31 - 1, -2**31, 2**31, 2**63 - 1, -2**63])
    if kind == "big": return random.choice([-1, 1]) * random.getrandbits(random.randrange(1, 3000))
    if kind == "float": return random.choice([0.0, -0.0, 1e308, float("inf"), random.random()])
    if kind == "str": return "".join(chr(random.choice([65, 0, 233, 0x20AC, 0x1F600])) for _ in range(random.randrange(400)))
    if kind == "bytes": return random.randbytes(random.randrange(400))
    if kind == "list": return some()
    if kind == "tuple": return tuple(some())
    if kind == "dict": return {key(): plain(depth + 1) for _ in range(random.randrange(5))}
    if kind == "set": return {key() for _ in range(random.randrange(5))}
    if kind == "frozenset": return frozenset(key() for _ in range(random.randrange(5)))
    one = plain(depth + 1)
    return [one, one, (one, one)]

def same(a, b):
    if isinstance(a, (set, frozenset)):
        return isinstance(b, (set, frozenset)) and a == b
    if type(a) is not type(b): return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return a == b and repr(a) == repr(b)

last = None
source, sink = sys.stdin.buffer, sys.stdout.buffer
while True:
    head = source.read(6)
    if not head: break
    op, protocol, length = struct.unpack("<BBI", head)
    payload = source.read(length)
    if op == 0:
        value = pickle.loads(payload)
        answer = pickle.dumps((value, value), protocol)
    elif op == 1:
        random.seed(payload)
        last = plain(0)
        answer = pickle.dumps(last, protocol)
    elif op == 2:
        answer = b"same" if same(last, pickle.loads(payload)) else repr((last, pickle.loads(payload))).encode()
    else:
        try:
            raise ValueError("no \u20ac")
        except ValueError as error:
            answer = pickle.dumps({"type": type(error).__name__, "message": str(error), "traceback": "line 1"})
    sink.write(struct.pack("<I", len(answer)) + answer)
    sink.flush()
"#;

struct Python {
    child: Child,
    to: ChildStdin,
    from: ChildStdout,
}

impl Python {
    fn start() -> Mutex<Self> {
        let mut command = Command::new("python3");
        command
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().expect("this test needs python3");
        let (to, from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Mutex::new(Self { child, to, from })
    }

    fn ask(&mut self, op: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
        self.to.write_all(&[op, protocol]).unwrap();
        self.to
            .write_all(&(payload.len() as u32).to_le_bytes())
            .unwrap();
        self.to.write_all(payload).unwrap();
        let mut length = [0; 4];
        self.from.read_exact(&mut length).expect("python3 goes on");
        let mut answer = vec![0; u32::from_le_bytes(length) as usize];
        self.from.read_exact(&mut answer).unwrap();
        answer
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pickled(value: &Value) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 20];
    let len = Pickle::encode(value, &mut bytes).unwrap();
    bytes.truncate(len);
    bytes
}

/// Values that Python can hold: keys are hashable and differ.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::None),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<Vec<u8>>().prop_map(|bytes| Value::from(BigInt::from_signed_bytes_le(&bytes))),
        any::<f64>()
            .prop_filter("NaN equals nothing", |float| !float.is_nan())
            .prop_map(Value::Float),
        ".{0,40}".prop_map(Value::Str),
        any::<Vec<u8>>().prop_map(Value::Bytes),
        proptest::collection::btree_set("[a-z]{1,8}", 0..2)
            .prop_map(|keys| Value::Set(keys.into_iter().map(Value::Str).collect())),
    ];
    leaf.prop_recursive(5, 48, 6, |inner| {
        let some = proptest::collection::vec(inner.clone(), 0..6);
        prop_oneof![
            some.clone().prop_map(Value::List),
            some.prop_map(Value::Tuple),
            proptest::collection::btree_map("[a-z]{1,8}", inner, 0..4).prop_map(|map| Value::Dict(
                map.into_iter()
                    .map(|(key, value)| (Value::Str(key), value))
                    .collect()
            )),
        ]
    })
}

#[test]
fn what_we_write_python_reads_and_what_it_writes_of_it_we_read() {
    let python = Python::start();
    proptest!(ProptestConfig::with_cases(400), |(value in any_value(), protocol in 2..=5_u8)| {
        let twice = python.lock().unwrap().ask(0, protocol, &pickled(&value));
        let twice: Value = Pickle::decode(&twice).unwrap();
        prop_assert_eq!(twice, Value::Tuple(vec![value.clone(), value]));
    });
}

#[test]
fn what_python_writes_comes_back_to_it_as_it_was() {
    let python = Python::start();
    proptest!(ProptestConfig::with_cases(600), |(seed in any::<u64>(), protocol in 2..=5_u8)| {
        let mut python = python.lock().unwrap();
        let random = python.ask(1, protocol, &seed.to_le_bytes());
        let value: Value = Pickle::decode(&random).unwrap();
        let verdict = python.ask(2, 0, &pickled(&value));
        prop_assert_eq!(String::from_utf8_lossy(&verdict), "same");
    });
}

#[test]
fn a_python_exception_is_read() {
    let bytes = Python::start().lock().unwrap().ask(3, 0, b"");
    let raised = Exception {
        type_name: "ValueError".to_owned(),
        message: "no \u{20ac}".to_owned(),
        traceback: "line 1".to_owned(),
    };
    assert_eq!(Exception::decode(&bytes), raised);
}
