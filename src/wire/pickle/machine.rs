//! The stack machine that reads pickles.
//!
//! Values are built in a [`Heap`], so that shared ones are built once. The limits on depth, values
//! and bytes apply when they are read from there: an exponential structure of shared lists is small
//! until then. Nothing here recurses, and no opcode takes longer than its own bytes and operands
//! are long.

use std::collections::HashMap;

use super::heap::{Chain, Constructor, Heap, Item, Literal, Node};
use super::opcode::*;
use crate::wire::guard::TOO_MANY_VALUES;
use crate::wire::{DecodeError, codec};

/// Most bytes of texts and the like, in addition to the bytes of the pickle.
const MAX_BYTES: usize = 64 << 20;

/// Runs a pickle and returns its result.
pub(super) fn run(bytes: &[u8]) -> Result<(Heap<'_>, Item), DecodeError> {
    let mut machine = Machine {
        bytes,
        at: 0,
        opcode_at: 0,
        heap: Heap::new(bytes, bytes.len().saturating_add(MAX_BYTES)),
        values_left: codec::max_pickle_values(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Memo::default(),
    };
    if u32::try_from(bytes.len()).is_err() {
        return Err(machine.fail("pickles of 4 GiB or more are not read"));
    }
    let result = machine.execute()?;
    match bytes.len() - machine.at {
        0 => Ok((machine.heap, result)),
        extra => Err(DecodeError::Trailing { extra }),
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    opcode_at: usize,
    heap: Heap<'a>,
    values_left: usize,
    stack: Vec<Item>,
    marks: Vec<u32>,
    memo: Memo,
}

/// The memo: values stored under numbers, mostly 0, 1, 2 ..
#[derive(Default)]
struct Memo {
    dense: Vec<Option<Item>>,
    sparse: HashMap<u32, Item>,
    len: u32,
}

impl Memo {
    fn insert(&mut self, index: u32, item: Item) {
        let at = index as usize;
        // At least half of the vector is in use.
        if at >= self.dense.len() && at <= 2 * self.dense.len() + 16 {
            self.dense.resize(at + 1, None);
        }
        let before = match self.dense.get_mut(at) {
            Some(place) => place.replace(item).or_else(|| self.sparse.remove(&index)),
            None => self.sparse.insert(index, item),
        };
        self.len += u32::from(before.is_none());
    }

    fn get(&self, index: u32) -> Option<Item> {
        let dense = self.dense.get(index as usize).copied().flatten();
        dense.or_else(|| self.sparse.get(&index).copied())
    }
}

impl<'a> Machine<'a> {
    fn execute(&mut self) -> Result<Item, DecodeError> {
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
                NONE => self.push(Item::None)?,
                NEWTRUE => self.push(Item::Bool(true))?,
                NEWFALSE => self.push(Item::Bool(false))?,
                BININT => {
                    let int = i32::from_le_bytes(self.array()?);
                    self.push(Item::Int(int))?;
                }
                BININT1 => {
                    let [int] = self.array()?;
                    self.push(Item::Int(int.into()))?;
                }
                BININT2 => {
                    let int = u16::from_le_bytes(self.array()?);
                    self.push(Item::Int(int.into()))?;
                }
                BINFLOAT => {
                    self.take(8)?;
                    self.push_literal()?;
                }
                SHORT_BINUNICODE | BINUNICODE | BINUNICODE8 => {
                    let bytes = self.counted(opcode)?;
                    if let Err(error) = std::str::from_utf8(bytes) {
                        return Err(self.fail(format!("a str that is not UTF-8: {error}")));
                    }
                    self.push_literal()?;
                }
                SHORT_BINBYTES | BINBYTES | BINBYTES8 | BYTEARRAY8 | LONG1 | LONG4 => {
                    self.counted(opcode)?;
                    self.push_literal()?;
                }
                // Each mark is a byte of the pickle.
                MARK => self.marks.push(self.stack.len() as u32),
                POP => drop(self.pop()?),
                POP_MARK => {
                    let from = self.mark()?;
                    self.stack.truncate(from);
                }
                EMPTY_LIST => self.push_node(Node::List(Chain::EMPTY))?,
                EMPTY_TUPLE => self.push(Item::EmptyTuple)?,
                EMPTY_DICT => self.push_node(Node::Dict(Chain::EMPTY))?,
                EMPTY_SET => self.push_node(Node::Set(Chain::EMPTY))?,
                LIST => {
                    let from = self.mark()?;
                    self.gather(from, Node::List)?;
                }
                TUPLE => {
                    let from = self.mark()?;
                    self.gather(from, Node::Tuple)?;
                }
                FROZENSET => {
                    let from = self.mark()?;
                    self.gather(from, Node::FrozenSet)?;
                }
                TUPLE1 | TUPLE2 | TUPLE3 => {
                    let from = self.last(usize::from(opcode - TUPLE1) + 1)?;
                    self.gather(from, Node::Tuple)?;
                }
                DICT => {
                    let from = self.mark()?;
                    self.check_pairs(from)?;
                    self.gather(from, Node::Dict)?;
                }
                APPEND => {
                    let from = self.last(1)?;
                    self.extend(from, "list")?;
                }
                APPENDS => {
                    let from = self.mark()?;
                    self.extend(from, "list")?;
                }
                ADDITEMS => {
                    let from = self.mark()?;
                    self.extend(from, "set")?;
                }
                SETITEM => {
                    let from = self.last(2)?;
                    self.extend(from, "dict")?;
                }
                SETITEMS => {
                    let from = self.mark()?;
                    self.check_pairs(from)?;
                    self.extend(from, "dict")?;
                }
                BINPUT => {
                    let [index] = self.array()?;
                    self.memoize(index.into())?;
                }
                LONG_BINPUT => {
                    let index = u32::from_le_bytes(self.array()?);
                    self.memoize(index)?;
                }
                MEMOIZE => self.memoize(self.memo.len)?,
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
                    let from = self.last(2)?;
                    let name = |at: usize| self.heap.text(self.stack[at]).unwrap_or("?");
                    let (module, name) = (name(from), name(from + 1));
                    self.stack.truncate(from);
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

    /// Bytes after their count, whose width the opcode determines.
    fn counted(&mut self, opcode: u8) -> Result<&'a [u8], DecodeError> {
        let count = match opcode {
            SHORT_BINUNICODE | SHORT_BINBYTES | LONG1 => self.array::<1>()?[0].into(),
            BINUNICODE | BINBYTES | LONG4 => u32::from_le_bytes(self.array()?).into(),
            _ => u64::from_le_bytes(self.array()?),
        };
        self.take(count)
    }

    fn line(&mut self) -> Result<&'a str, DecodeError> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|byte| *byte == b'\n');
        let end = end.ok_or_else(|| self.fail("it ends within a name"))?;
        self.at += end + 1;
        std::str::from_utf8(&rest[..end]).map_err(|_| self.fail("a name that is not UTF-8"))
    }

    fn push(&mut self, item: Item) -> Result<(), DecodeError> {
        let left = self.values_left.checked_sub(1);
        self.values_left = left.ok_or_else(|| self.fail(TOO_MANY_VALUES))?;
        self.stack.push(item);
        Ok(())
    }

    /// Pushes the text, bytes or number of the opcode that is being executed.
    fn push_literal(&mut self) -> Result<(), DecodeError> {
        self.push(Item::Literal(self.opcode_at as u32))
    }

    fn push_node(&mut self, node: Node) -> Result<(), DecodeError> {
        let item = self.heap.add(node);
        self.push(item)
    }

    /// The stack above the last mark, as far as it may be popped.
    fn floor(&self) -> usize {
        self.marks.last().map_or(0, |mark| *mark as usize)
    }

    /// Where the last `count` values of the stack begin.
    fn last(&self, count: usize) -> Result<usize, DecodeError> {
        match self.stack.len().checked_sub(count) {
            Some(at) if at >= self.floor() => Ok(at),
            _ => Err(self.fail("it takes more from the stack than there is")),
        }
    }

    fn pop(&mut self) -> Result<Item, DecodeError> {
        self.last(1)?;
        self.stack
            .pop()
            .ok_or_else(|| self.fail("the stack is empty"))
    }

    /// Removes the last mark. Returns where the values above it begin.
    fn mark(&mut self) -> Result<usize, DecodeError> {
        let mark = self.marks.pop();
        let mark = mark.ok_or_else(|| self.fail("there is no mark"))?;
        Ok(mark as usize)
    }

    /// Moves the values of the stack from there on into a new container.
    fn gather(&mut self, from: usize, make: fn(Chain) -> Node) -> Result<(), DecodeError> {
        let chain = self.heap.chain(&self.stack[from..]);
        self.stack.truncate(from);
        self.push_node(make(chain))
    }

    /// Moves the values of the stack from there on into the container below them.
    fn extend(&mut self, from: usize, kind: &str) -> Result<(), DecodeError> {
        let below = self.stack[..from]
            .get(self.floor()..)
            .and_then(<[Item]>::last);
        let container = *below.ok_or_else(|| self.fail("the stack is empty"))?;
        let is_one = self
            .heap
            .extend(container, &self.stack[from..], |node| match (node, kind) {
                (Node::List(chain), "list")
                | (Node::Set(chain), "set")
                | (Node::Dict(chain), "dict") => Some(chain),
                _ => None,
            });
        self.stack.truncate(from);
        if !is_one {
            return Err(self.fail(format!("items for a {kind} that is none")));
        }
        Ok(())
    }

    fn check_pairs(&self, from: usize) -> Result<(), DecodeError> {
        if !(self.stack.len() - from).is_multiple_of(2) {
            return Err(self.fail("a key without a value"));
        }
        Ok(())
    }

    fn memoize(&mut self, index: u32) -> Result<(), DecodeError> {
        let top = self.stack.get(self.floor()..).and_then(<[Item]>::last);
        let top = *top.ok_or_else(|| self.fail("the stack is empty"))?;
        self.memo.insert(index, top);
        Ok(())
    }

    fn recall(&mut self, index: u32) -> Result<(), DecodeError> {
        match self.memo.get(index) {
            Some(item) => self.push(item),
            None => Err(self.fail(format!("memo {index} was never written"))),
        }
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
        self.push(Item::Constructor(constructor))
    }

    /// Nothing is copied: a pickle may ask for that as often as it likes.
    fn reduce(&mut self) -> Result<(), DecodeError> {
        let from = self.last(2)?;
        let (function, arguments) = (self.stack[from], self.stack[from + 1]);
        self.stack.truncate(from);
        let (Item::Constructor(constructor), Some(arguments)) =
            (function, self.arguments(arguments))
        else {
            return Err(self.fail("refused: it would call something"));
        };
        let made = match (constructor, arguments) {
            (Constructor::Encode, [Some(text), Some(encoding)])
                if self.heap.text(encoding) == Some("latin1") =>
            {
                self.latin1(text)
            }
            (Constructor::Bytes, [Some(text), Some(encoding)])
                if self.heap.text(encoding) == Some("latin-1") =>
            {
                self.latin1(text)
            }
            (Constructor::Bytes, [None, None]) => Some(Item::EmptyBytes),
            (Constructor::Bytes, [Some(bytes), None]) => match bytes {
                Item::EmptyBytes => Some(bytes),
                Item::Literal(at) => match self.heap.literal(at) {
                    Some(Literal::Bytes(_)) => Some(bytes),
                    _ => None,
                },
                bytes => match self.heap.node(bytes) {
                    Some(Node::Latin1(_)) => Some(bytes),
                    _ => None,
                },
            },
            (Constructor::Set, [Some(list), None]) => match self.heap.node(list) {
                Some(Node::List(chain)) => {
                    let chain = *chain;
                    Some(self.heap.add(Node::FrozenSet(chain)))
                }
                _ => None,
            },
            _ => None,
        };
        match made {
            Some(made) => self.push(made),
            None => Err(self.fail("refused: it would call something")),
        }
    }

    /// The items of a tuple of two at most.
    fn arguments(&self, item: Item) -> Option<[Option<Item>; 2]> {
        let mut items = match (item, self.heap.node(item)) {
            (Item::EmptyTuple, _) => return Some([None, None]),
            (_, Some(Node::Tuple(chain))) => self.heap.items(*chain),
            _ => return None,
        };
        let arguments = [items.next(), items.next()];
        (items.len() == 0).then_some(arguments)
    }

    fn latin1(&mut self, text: Item) -> Option<Item> {
        let Item::Literal(at) = text else {
            return None;
        };
        let is_text = self.heap.is_text(at);
        is_text.then(|| self.heap.add(Node::Latin1(at)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::wire::Pickle;
    use crate::wire::pickle::Value;

    fn run(bytes: &[u8]) -> Result<Value, DecodeError> {
        Pickle::decode(bytes)
    }

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

    /// `count` times: `opcodes` on what the memo has under 0 and 1.
    fn repeated(prefix: &[u8], opcodes: &[u8], count: usize) -> Vec<u8> {
        let mut bytes = prefix.to_vec();
        bytes.extend(opcodes.repeat(count));
        bytes.extend(b"N.");
        bytes
    }

    /// Each of these would copy a megabyte 100,000 times.
    #[test]
    fn input_1_no_opcode_copies_what_is_shared() {
        let counted = |opcode: u8, content: &[u8]| {
            let mut bytes = vec![opcode];
            bytes.extend((content.len() as u32).to_le_bytes());
            bytes.extend(content);
            bytes
        };
        let text = counted(BINUNICODE, &[b'a'; 1 << 20]);
        let latin1 = counted(BINUNICODE, b"latin1");
        let encode = [
            b"\x80\x02",
            &text[..],
            b"q\0",
            &latin1,
            b"q\x01c_codecs\nencode\nq\x02",
        ];
        let many = repeated(&encode.concat(), b"h\x02h\0h\x01\x86R0", 100_000);
        assert_eq!(run(&many).unwrap(), Value::None);
        // The bytes of that, again and again.
        let prefix = [
            &encode.concat()[..],
            b"h\x02h\0h\x01\x86Rq\0cbuiltins\nbytes\nq\x01",
        ]
        .concat();
        let many = repeated(&prefix, b"h\x01h\0\x85R0", 100_000);
        assert_eq!(run(&many).unwrap(), Value::None);
        let list = [
            b"\x80\x02](",
            &[NONE; 1 << 20][..],
            b"eq\0cbuiltins\nset\nq\x01",
        ]
        .concat();
        let many = repeated(&list, b"h\x01h\0\x85R0", 100_000);
        assert_eq!(run(&many).unwrap(), Value::None);
        let arguments = [
            b"\x80\x02(",
            &[NONE; 1 << 20][..],
            b"tq\0cbuiltins\nset\nq\x01",
        ]
        .concat();
        assert!(reason(&repeated(&arguments, b"h\x01h\0R0", 2)).contains("call"));
    }

    /// A number of a megabyte that says nothing, read again and again.
    #[test]
    fn input_1_a_number_that_is_shared_counts_each_time() {
        let number = [
            &b"\x80\x04]\x8b"[..],
            &(1_u32 << 20).to_le_bytes(),
            &[0; 1 << 20],
            b"\x940(",
        ]
        .concat();
        let mut bytes = repeated(&number, b"h\0", 100_000);
        bytes.truncate(bytes.len() - 2);
        bytes.extend_from_slice(b"e.");
        let error = Pickle::decode::<Vec<i64>>(&bytes).unwrap_err();
        assert!(error.to_string().contains("too many bytes"), "{error}");
    }

    #[test]
    fn input_1_numbers_of_any_length_are_read_in_time_that_is_linear() {
        let mut long = b"\x80\x02\x8b\0\0\x80\0".to_vec();
        long.resize(long.len() + (8 << 20), 0x11);
        long.push(b'.');
        let refused = Pickle::decode::<f64>(&long).unwrap_err().to_string();
        assert!(refused.contains("too large for a float"), "{refused}");
        Pickle::decode::<i64>(&long).unwrap_err();
        Pickle::decode::<i128>(&long).unwrap_err();
        let value = run(&long).unwrap();
        assert_eq!(value.to_float(), None);
        assert!(value.to_string().contains("bits"), "{value}");
    }

    #[test]
    fn input_1_a_pickle_takes_memory_in_proportion() {
        assert_eq!(size_of::<Item>(), 8);
        assert_eq!(size_of::<Node>(), 12);
        let mut many = b"\x80\x04".to_vec();
        many.resize((1 << 24) + 10, NONE);
        many.push(STOP);
        assert!(reason(&many).contains("too many values"));
        // Puts aside what it likes under any number.
        let memo: Vec<u8> = (0..1000_u32)
            .flat_map(|index| [&[LONG_BINPUT][..], &(index << 20).to_le_bytes()].concat())
            .collect();
        let memo = [b"\x80\x02N", &memo[..], &[MEMOIZE; 1000], b"j\0\0\x10\0."].concat();
        assert_eq!(run(&memo).unwrap(), Value::None);
    }

    /// A set is what the list was when it was made.
    #[test]
    fn a_list_that_grows_does_not_change_what_was_made_of_it() {
        // r = [1]; s = set(r); r.append(2); (r, s)
        let bytes = b"\x80\x02cbuiltins\nset\n](K\x01eq\0\x85Rq\x01h\0K\x02ah\x01\x86.";
        let [one, two] = [1, 2].map(Value::from);
        let both = vec![Value::List(vec![one.clone(), two]), Value::Set(vec![one])];
        assert_eq!(run(bytes).unwrap(), Value::Tuple(both));
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
        assert!(reason(b"\x80\x04]\x94h\x00a.").contains("deep"));
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
