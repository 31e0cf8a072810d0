//! The stack machine that reads pickles.
//!
//! Values are built in an arena, so that shared ones are built once; the result is copied out of it at the end, and
//! there the limits hold: an exponential structure of shared lists is small until then. Nothing here recurses on what
//! the bytes say but that copying, which stops at [`MAX_DEPTH`].

use std::collections::HashMap;

use num_bigint::BigInt;

use super::opcode::*;
use super::value::Value;
use crate::wire::DecodeError;

/// Containers within containers. A list that contains itself is deeper than any number.
const MAX_DEPTH: usize = 256;
/// Values in all, besides one for each byte.
const MAX_VALUES: usize = 1 << 20;
/// Bytes of texts and the like in all, besides as many as came.
const MAX_BYTES: usize = 64 << 20;

type Id = u32;

/// Runs a pickle and gives back what it leaves.
pub(super) fn run(bytes: &[u8]) -> Result<Value, DecodeError> {
    let mut machine = Machine {
        bytes,
        at: 0,
        opcode_at: 0,
        nodes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    let result = machine.execute()?;
    match bytes.len() - machine.at {
        0 => {}
        extra => return Err(DecodeError::Trailing { extra }),
    }
    let mut copy = Copy {
        nodes: &machine.nodes,
        values_left: MAX_VALUES + bytes.len(),
        bytes_left: MAX_BYTES + bytes.len(),
    };
    copy.value(result, 0)
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    opcode_at: usize,
    nodes: Vec<Node<'a>>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

enum Node<'a> {
    None,
    Bool(bool),
    Int(i64),
    BigInt(&'a [u8]),
    Float(f64),
    Str(&'a str),
    Bytes(&'a [u8]),
    OwnedBytes(Vec<u8>),
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Set(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Constructor(Constructor),
}

/// Functions by which Python writes plain values where a protocol has no opcode for them.
#[derive(Clone, Copy)]
enum Constructor {
    /// `_codecs.encode(text, "latin1")`: bytes in protocol 2.
    Encode,
    /// `bytes()` and `bytearray(bytes)`.
    Bytes,
    /// `set(list)` and `frozenset(list)`.
    Set,
}

impl<'a> Machine<'a> {
    fn execute(&mut self) -> Result<Id, DecodeError> {
        loop {
            self.opcode_at = self.at;
            let [opcode] = self.array()?;
            match opcode {
                STOP => return self.pop(),
                PROTO => {
                    let [protocol] = self.array()?;
                    if !(2..=5).contains(&protocol) {
                        return Err(self.fail(format!("protocol {protocol}; 2 to 5 are read")));
                    }
                }
                FRAME => {
                    let length = u64::from_le_bytes(self.array()?);
                    if length > (self.bytes.len() - self.at) as u64 {
                        return Err(
                            self.fail(format!("a frame of {length} bytes, which are not there"))
                        );
                    }
                }
                NONE => self.push(Node::None),
                NEWTRUE => self.push(Node::Bool(true)),
                NEWFALSE => self.push(Node::Bool(false)),
                BININT => {
                    let int = i32::from_le_bytes(self.array()?);
                    self.push(Node::Int(int.into()));
                }
                BININT1 => {
                    let [int] = self.array()?;
                    self.push(Node::Int(int.into()));
                }
                BININT2 => {
                    let int = u16::from_le_bytes(self.array()?);
                    self.push(Node::Int(int.into()));
                }
                LONG1 | LONG4 => self.long(opcode)?,
                BINFLOAT => {
                    let float = f64::from_be_bytes(self.array()?);
                    self.push(Node::Float(float));
                }
                SHORT_BINUNICODE | BINUNICODE | BINUNICODE8 => {
                    let bytes = self.counted(opcode)?;
                    let text = std::str::from_utf8(bytes);
                    let text = text
                        .map_err(|error| self.fail(format!("a str that is not UTF-8: {error}")))?;
                    self.push(Node::Str(text));
                }
                SHORT_BINBYTES | BINBYTES | BINBYTES8 | BYTEARRAY8 => {
                    let bytes = self.counted(opcode)?;
                    self.push(Node::Bytes(bytes));
                }
                MARK => self.marks.push(self.stack.len()),
                POP => drop(self.pop()?),
                POP_MARK => drop(self.pop_to_mark()?),
                EMPTY_LIST => self.push(Node::List(Vec::new())),
                EMPTY_TUPLE => self.push(Node::Tuple(Vec::new())),
                EMPTY_DICT => self.push(Node::Dict(Vec::new())),
                EMPTY_SET => self.push(Node::Set(Vec::new())),
                LIST => {
                    let items = self.pop_to_mark()?;
                    self.push(Node::List(items));
                }
                TUPLE => {
                    let items = self.pop_to_mark()?;
                    self.push(Node::Tuple(items));
                }
                FROZENSET => {
                    let items = self.pop_to_mark()?;
                    self.push(Node::Set(items));
                }
                TUPLE1 | TUPLE2 | TUPLE3 => {
                    let count = usize::from(opcode - TUPLE1) + 1;
                    let items = self.pop_many(count)?;
                    self.push(Node::Tuple(items));
                }
                DICT => {
                    let items = self.pop_to_mark()?;
                    let pairs = self.pairs(&items)?;
                    self.push(Node::Dict(pairs));
                }
                APPEND => {
                    let item = self.pop()?;
                    self.extend(vec![item])?;
                }
                APPENDS => {
                    let items = self.pop_to_mark()?;
                    self.extend(items)?;
                }
                ADDITEMS => {
                    let items = self.pop_to_mark()?;
                    match self.top()? {
                        Node::Set(set) => set.extend(items),
                        _ => return Err(self.fail("items for a set that is none")),
                    }
                }
                SETITEM => {
                    let items = self.pop_many(2)?;
                    self.set_items(&items)?;
                }
                SETITEMS => {
                    let items = self.pop_to_mark()?;
                    self.set_items(&items)?;
                }
                BINPUT => {
                    let [index] = self.array()?;
                    self.memoize(index.into())?;
                }
                LONG_BINPUT => {
                    let index = u32::from_le_bytes(self.array()?);
                    self.memoize(index)?;
                }
                MEMOIZE => self.memoize(self.memo.len() as u32)?,
                BINGET => {
                    let [index] = self.array()?;
                    self.recall(index.into())?;
                }
                LONG_BINGET => {
                    let index = u32::from_le_bytes(self.array()?);
                    self.recall(index)?;
                }
                GLOBAL => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.constructor(module, name)?;
                }
                STACK_GLOBAL => {
                    let names = self.pop_many(2)?;
                    let [module, name] =
                        [names[0], names[1]].map(|id| match &self.nodes[id as usize] {
                            Node::Str(text) => text,
                            _ => "?",
                        });
                    self.constructor(module, name)?;
                }
                REDUCE => self.reduce()?,
                refused => {
                    return Err(self.fail(format!("refused: {}", refusal(refused))));
                }
            }
        }
    }

    fn fail(&self, reason: impl AsRef<str>) -> DecodeError {
        let opcode = self.bytes.get(self.opcode_at).copied().unwrap_or_default();
        DecodeError::Malformed {
            reason: format!(
                "pickle, byte {} (opcode {opcode:#04x}): {}",
                self.opcode_at,
                reason.as_ref()
            ),
        }
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], DecodeError> {
        let rest = &self.bytes[self.at..];
        let taken = usize::try_from(count)
            .ok()
            .and_then(|count| rest.get(..count));
        match taken {
            Some(taken) => {
                self.at += taken.len();
                Ok(taken)
            }
            None => Err(self.fail(format!(
                "it ends early: {count} bytes are missing, {} are left",
                rest.len()
            ))),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let taken = self.take(N as u64)?;
        Ok(taken.try_into().expect("as many as were asked for"))
    }

    /// Bytes behind their count, whose width the opcode says.
    fn counted(&mut self, opcode: u8) -> Result<&'a [u8], DecodeError> {
        let count = match opcode {
            SHORT_BINUNICODE | SHORT_BINBYTES => self.array::<1>()?[0].into(),
            BINUNICODE | BINBYTES => u32::from_le_bytes(self.array()?).into(),
            _ => u64::from_le_bytes(self.array()?),
        };
        self.take(count)
    }

    fn long(&mut self, opcode: u8) -> Result<(), DecodeError> {
        let count = match opcode {
            LONG1 => self.array::<1>()?[0].into(),
            _ => u32::from_le_bytes(self.array()?),
        };
        let bytes = self.take(count.into())?;
        let is_negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
        let mut wide = [if is_negative { 0xff } else { 0 }; 8];
        match wide.get_mut(..bytes.len()) {
            Some(low) => {
                low.copy_from_slice(bytes);
                self.push(Node::Int(i64::from_le_bytes(wide)));
            }
            None => self.push(Node::BigInt(bytes)),
        }
        Ok(())
    }

    fn line(&mut self) -> Result<&'a str, DecodeError> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|byte| *byte == b'\n');
        let end = end.ok_or_else(|| self.fail("it ends within a name"))?;
        self.at += end + 1;
        std::str::from_utf8(&rest[..end]).map_err(|_| self.fail("a name that is not UTF-8"))
    }

    fn push(&mut self, node: Node<'a>) {
        // At most one for each byte, of which a payload has less than 2^32.
        self.stack.push(self.nodes.len() as Id);
        self.nodes.push(node);
    }

    /// The stack above the last mark, as far as it may be popped.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Id, DecodeError> {
        Ok(self.pop_many(1)?[0])
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Id>, DecodeError> {
        match self.stack.len().checked_sub(count) {
            Some(at) if at >= self.floor() => Ok(self.stack.split_off(at)),
            _ => Err(self.fail("it takes more from the stack than there is")),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, DecodeError> {
        let mark = self
            .marks
            .pop()
            .ok_or_else(|| self.fail("there is no mark"))?;
        Ok(self.stack.split_off(mark))
    }

    fn top(&mut self) -> Result<&mut Node<'a>, DecodeError> {
        match self.stack.get(self.floor()..).and_then(<[Id]>::last) {
            Some(id) => Ok(&mut self.nodes[*id as usize]),
            None => Err(self.fail("the stack is empty")),
        }
    }

    fn extend(&mut self, items: Vec<Id>) -> Result<(), DecodeError> {
        match self.top()? {
            Node::List(list) => {
                list.extend(items);
                Ok(())
            }
            _ => Err(self.fail("items for a list that is none")),
        }
    }

    fn set_items(&mut self, items: &[Id]) -> Result<(), DecodeError> {
        let pairs = self.pairs(items)?;
        match self.top()? {
            Node::Dict(dict) => {
                dict.extend(pairs);
                Ok(())
            }
            _ => Err(self.fail("items for a dict that is none")),
        }
    }

    fn pairs(&self, items: &[Id]) -> Result<Vec<(Id, Id)>, DecodeError> {
        if !items.len().is_multiple_of(2) {
            return Err(self.fail("a key without a value"));
        }
        Ok(items
            .chunks_exact(2)
            .map(|pair| (pair[0], pair[1]))
            .collect())
    }

    fn memoize(&mut self, index: u32) -> Result<(), DecodeError> {
        self.top()?;
        if let Some(id) = self.stack.last() {
            self.memo.insert(index, *id);
        }
        Ok(())
    }

    fn recall(&mut self, index: u32) -> Result<(), DecodeError> {
        match self.memo.get(&index) {
            Some(id) => self.stack.push(*id),
            None => return Err(self.fail(format!("memo {index} was never written"))),
        }
        Ok(())
    }

    fn constructor(&mut self, module: &str, name: &str) -> Result<(), DecodeError> {
        let constructor = match (module, name) {
            ("_codecs", "encode") => Constructor::Encode,
            ("builtins" | "__builtin__", "bytes" | "bytearray") => Constructor::Bytes,
            ("builtins" | "__builtin__", "set" | "frozenset") => Constructor::Set,
            _ => {
                let short = |text: &str| text.chars().take(64).collect::<String>();
                return Err(self.fail(format!(
                    "refused: it would look up {}.{}; only plain values are read",
                    short(module),
                    short(name)
                )));
            }
        };
        self.push(Node::Constructor(constructor));
        Ok(())
    }

    fn reduce(&mut self) -> Result<(), DecodeError> {
        let called = self.pop_many(2)?;
        let [function, arguments] = [called[0], called[1]].map(|id| &self.nodes[id as usize]);
        let (Node::Constructor(constructor), Node::Tuple(arguments)) = (function, arguments) else {
            return Err(self.fail("refused: it would call something"));
        };
        let arguments: Vec<_> = arguments
            .iter()
            .map(|id| &self.nodes[*id as usize])
            .collect();
        let made = match (constructor, &arguments[..]) {
            (Constructor::Encode, [Node::Str(text), Node::Str("latin1")]) => {
                let bytes = text.chars().map(|letter| u8::try_from(letter).ok());
                bytes.collect::<Option<Vec<u8>>>().map(Node::OwnedBytes)
            }
            (Constructor::Bytes, []) => Some(Node::Bytes(&[])),
            (Constructor::Bytes, [Node::Bytes(bytes)]) => Some(Node::Bytes(bytes)),
            (Constructor::Bytes, [Node::OwnedBytes(bytes)]) => {
                Some(Node::OwnedBytes(bytes.clone()))
            }
            (Constructor::Set, [Node::List(items)]) => Some(Node::Set(items.clone())),
            _ => None,
        };
        match made {
            Some(made) => self.push(made),
            None => return Err(self.fail("refused: it would call something")),
        }
        Ok(())
    }
}

/// Copies values out of the arena, as often as they appear.
struct Copy<'a> {
    nodes: &'a [Node<'a>],
    values_left: usize,
    bytes_left: usize,
}

impl Copy<'_> {
    fn value(&mut self, id: Id, depth: usize) -> Result<Value, DecodeError> {
        let beyond = |reason: &str| DecodeError::Malformed {
            reason: format!("pickle: {reason}"),
        };
        if depth > MAX_DEPTH {
            return Err(beyond(&format!(
                "nested more than {MAX_DEPTH} deep, or a value that contains itself"
            )));
        }
        let left = self.values_left.checked_sub(1);
        self.values_left =
            left.ok_or_else(|| beyond("too many values: shared ones count each time"))?;
        let node = &self.nodes[id as usize];
        let length = match node {
            Node::Str(text) => text.len(),
            Node::Bytes(bytes) | Node::BigInt(bytes) => bytes.len(),
            Node::OwnedBytes(bytes) => bytes.len(),
            _ => 0,
        };
        let left = self.bytes_left.checked_sub(length);
        self.bytes_left =
            left.ok_or_else(|| beyond("too many bytes: shared ones count each time"))?;
        Ok(match node {
            Node::None => Value::None,
            Node::Bool(bool) => Value::Bool(*bool),
            Node::Int(int) => Value::Int(*int),
            Node::BigInt(bytes) => BigInt::from_signed_bytes_le(bytes).into(),
            Node::Float(float) => Value::Float(*float),
            Node::Str(text) => Value::Str((*text).to_owned()),
            Node::Bytes(bytes) => Value::Bytes(bytes.to_vec()),
            Node::OwnedBytes(bytes) => Value::Bytes(bytes.clone()),
            Node::List(items) => Value::List(self.values(items, depth)?),
            Node::Tuple(items) => Value::Tuple(self.values(items, depth)?),
            Node::Set(items) => Value::Set(self.values(items, depth)?),
            Node::Dict(items) => {
                let mut pairs = Vec::new();
                for (key, value) in items {
                    pairs.push((self.value(*key, depth + 1)?, self.value(*value, depth + 1)?));
                }
                Value::Dict(pairs)
            }
            Node::Constructor(_) => return Err(beyond("a function is no plain value")),
        })
    }

    fn values(&mut self, items: &[Id], depth: usize) -> Result<Vec<Value>, DecodeError> {
        items.iter().map(|id| self.value(*id, depth + 1)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(bytes: &[u8]) -> String {
        run(bytes).unwrap_err().to_string()
    }

    #[test]
    fn what_dlslime_sends_is_read() {
        let hex = |text: &str| -> Vec<u8> {
            let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
            (0..text.len()).step_by(2).map(byte).collect()
        };
        let pair = Value::Tuple(vec![1.into(), 2.into()]);
        assert_eq!(
            run(&hex("80059507000000000000004b014b0286942e")).unwrap(),
            pair
        );
        assert_eq!(run(&hex("8005292e")).unwrap(), Value::Tuple(Vec::new()));
        assert_eq!(run(&hex("80054e2e")).unwrap(), Value::None);
        assert_eq!(run(&hex("80054b032e")).unwrap(), 3.into());
    }

    #[test]
    fn shared_values_are_read_as_often_as_they_appear() {
        // r = [{}]; (r, r)
        let both = run(b"\x80\x02]q\x00}q\x01ah\x00\x86.").unwrap();
        let r = Value::List(vec![Value::Dict(Vec::new())]);
        assert_eq!(both, Value::Tuple(vec![r.clone(), r]));
    }

    #[test]
    fn input_1_what_would_run_code_is_refused_by_name() {
        for (bytes, why) in [
            (
                &b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R."[..],
                "os.system",
            ),
            (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "os.system"),
            (b"\x80\x02(X\x01\x00\x00\x00aR.", "more from the stack"),
            (b"\x80\x02NN\x85R.", "call"),
            (b"\x80\x02N2.", "DUP"),
            (b"\x80\x02c_codecs\nencode\n.", "function"),
            (b"\x80\x02N)\x81.", "NEWOBJ"),
            (b"\x80\x02N}b.", "BUILD"),
            (b"\x80\x02NQ.", "PERSID"),
            (b"\x80\x02\x82\x01.", "EXT"),
            (b"\x80\x05\x97.", "NEXT_BUFFER"),
            (b"I1\n.", "protocol 0"),
            (b"\x80\x06N.", "protocol 6"),
            (b"\x80\x04\xff.", "no opcode"),
        ] {
            let reason = reason(bytes);
            assert!(reason.contains(why), "{reason}: {why}");
        }
    }

    #[test]
    fn input_1_what_ends_early_or_misuses_the_stack_is_an_error_that_says_where() {
        for (bytes, why) in [
            (&b"\x80\x04"[..], "byte 2"),
            (b"\x80\x04.", "more from the stack"),
            (b"\x80\x04NX\xff\xff\xff\xff.", "4294967295"),
            (
                b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xff.",
                "ends early",
            ),
            (b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.", "frame"),
            (b"\x80\x04\x8c\x01\xff.", "UTF-8"),
            (b"\x80\x04Nh\x07.", "memo 7"),
            (b"\x80\x04t.", "no mark"),
            (b"\x80\x04}(NNNu.", "without a value"),
            (b"\x80\x04N(Ne.", "list"),
            (b"\x80\x04](Na.", "stack"),
            (b"\x80\x04q\x00.", "stack is empty"),
        ] {
            let reason = reason(bytes);
            assert!(reason.contains(why), "{reason}: {why}");
        }
        assert_eq!(
            run(b"\x80\x04N.N").unwrap_err(),
            DecodeError::Trailing { extra: 1 }
        );
    }

    #[test]
    fn input_1_bombs_are_refused() {
        // Each list contains the one before twice.
        let mut doubling = b"\x80\x04]\x94".to_vec();
        for index in 0..60 {
            doubling.extend([b']', 0x94, b'(', b'h', index, b'h', index, b'e']);
        }
        doubling.push(b'.');
        assert!(reason(&doubling).contains("too many values"));

        let mut long = b"\x80\x04B\x00\x00\x10\x00".to_vec();
        long.resize(long.len() + (1 << 20), 7);
        long.extend(b"\x940](");
        long.extend(b"h\x00".repeat(1000));
        long.extend(b"e.");
        assert!(reason(&long).contains("too many bytes"));

        // A list that contains itself.
        assert!(reason(b"\x80\x04]\x94h\x00a.").contains("contains itself"));
        for open in [b']', b'}', b'('] {
            let mut deep = b"\x80\x04".to_vec();
            deep.resize(1 << 20, open);
            deep.push(b'.');
            let _ = run(&deep);
        }
        let mut deep = b"\x80\x04)".to_vec();
        deep.resize(1 << 20, TUPLE1);
        deep.push(b'.');
        assert!(reason(&deep).contains("deep"));
    }
}
