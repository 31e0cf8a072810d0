//! The values of a pickle, in little memory.
//!
//! Texts, bytes and numbers stay where they stand in the pickle; the elements of all containers
//! stand in one array. So memory is at most some 20 times the pickle's size, and shared values
//! exist once.

use std::cell::Cell;

use super::opcode::*;
use crate::wire::DecodeError;

/// No run of items.
const END: u32 = u32::MAX;

/// A value, or its location.
#[derive(Clone, Copy)]
pub(super) enum Item {
    None,
    Bool(bool),
    Int(i32),
    /// The operand of the opcode there.
    Literal(u32),
    EmptyBytes,
    EmptyTuple,
    Node(u32),
    Constructor(Constructor),
}

/// Functions through which Python writes plain values where a protocol has no opcode for them.
#[derive(Clone, Copy)]
pub(super) enum Constructor {
    /// `_codecs.encode(text, "latin1")`: bytes in protocol 2.
    Encode,
    /// `bytes()`, `bytearray(bytes)` and `bytearray(text, "latin-1")`.
    Bytes,
    /// `set(list)` and `frozenset(list)`.
    Set,
}

/// A value that can be shared or changed.
pub(super) enum Node {
    List(Chain),
    Tuple(Chain),
    Set(Chain),
    /// A set that nothing can be added to.
    FrozenSet(Chain),
    /// Keys and values in turn.
    Dict(Chain),
    /// Bytes that stand as Latin-1 text at this offset.
    Latin1(u32),
}

/// A text, bytes or number as it stands in the pickle.
pub(super) enum Literal<'a> {
    Str(&'a str),
    Bytes(&'a [u8]),
    Float(f64),
    /// In two's complement, without redundant bytes.
    Int(&'a [u8]),
}

/// A chain of runs of items, from the first to the last, whatever was linked behind that later.
#[derive(Clone, Copy)]
pub(super) struct Chain {
    first: u32,
    last: u32,
}

impl Chain {
    pub(super) const EMPTY: Self = Self {
        first: END,
        last: END,
    };
}

/// Items that were added together.
struct Run {
    start: u32,
    len: u32,
    next: u32,
}

pub(super) struct Heap<'a> {
    bytes: &'a [u8],
    nodes: Vec<Node>,
    runs: Vec<Run>,
    items: Vec<Item>,
    /// Bytes of texts and the like that may still be read. Shared ones count each time.
    bytes_left: Cell<usize>,
}

impl<'a> Heap<'a> {
    pub(super) fn new(bytes: &'a [u8], bytes_left: usize) -> Self {
        Self {
            bytes,
            nodes: Vec::new(),
            runs: Vec::new(),
            items: Vec::new(),
            bytes_left: Cell::new(bytes_left),
        }
    }

    // Nodes, runs and items are at most as many as the bytes of the pickle, which are fewer than
    // 2^32.

    pub(super) fn add(&mut self, node: Node) -> Item {
        self.nodes.push(node);
        Item::Node(self.nodes.len() as u32 - 1)
    }

    pub(super) fn node(&self, item: Item) -> Option<&Node> {
        match item {
            Item::Node(at) => self.nodes.get(at as usize),
            _ => None,
        }
    }

    pub(super) fn items(&self, chain: Chain) -> Items<'_> {
        let mut left = 0;
        let mut run = chain.first;
        while let Some(at) = self.runs.get(run as usize) {
            left += at.len as usize;
            run = if run == chain.last { END } else { at.next };
        }
        Items {
            heap: self,
            run: chain.first,
            at: 0,
            left,
        }
    }

    /// Makes a chain of these items.
    pub(super) fn chain(&mut self, items: &[Item]) -> Chain {
        let mut chain = Chain::EMPTY;
        self.link(&mut chain, items);
        chain
    }

    fn link(&mut self, chain: &mut Chain, items: &[Item]) {
        if items.is_empty() {
            return;
        }
        let run = self.runs.len() as u32;
        self.runs.push(Run {
            start: self.items.len() as u32,
            len: items.len() as u32,
            next: END,
        });
        self.items.extend_from_slice(items);
        match self.runs.get_mut(chain.last as usize) {
            Some(last) => last.next = run,
            None => chain.first = run,
        }
        chain.last = run;
    }

    /// Adds items to the container, if `open` accepts it. Returns false if it does not.
    pub(super) fn extend(
        &mut self,
        container: Item,
        items: &[Item],
        open: impl Fn(&mut Node) -> Option<&mut Chain>,
    ) -> bool {
        let Item::Node(at) = container else {
            return false;
        };
        let node = |heap: &mut Self| heap.nodes.get_mut(at as usize).and_then(&open).copied();
        let Some(mut chain) = node(self) else {
            return false;
        };
        self.link(&mut chain, items);
        if let Some(place) = self.nodes.get_mut(at as usize).and_then(open) {
            *place = chain;
        }
        true
    }

    /// The literal at `at`, behind its opcode. The machine has checked it.
    pub(super) fn literal(&self, at: u32) -> Option<Literal<'a>> {
        let (opcode, rest) = self.bytes.get(at as usize..)?.split_first()?;
        let counted = |width: usize| {
            let mut count = [0; 8];
            count[..width].copy_from_slice(rest.get(..width)?);
            let end = width.checked_add(usize::try_from(u64::from_le_bytes(count)).ok()?)?;
            rest.get(width..end)
        };
        Some(match *opcode {
            BINFLOAT => Literal::Float(f64::from_be_bytes(*rest.first_chunk()?)),
            SHORT_BINUNICODE => Literal::Str(str::from_utf8(counted(1)?).ok()?),
            BINUNICODE => Literal::Str(str::from_utf8(counted(4)?).ok()?),
            BINUNICODE8 => Literal::Str(str::from_utf8(counted(8)?).ok()?),
            SHORT_BINBYTES => Literal::Bytes(counted(1)?),
            BINBYTES => Literal::Bytes(counted(4)?),
            BINBYTES8 | BYTEARRAY8 => Literal::Bytes(counted(8)?),
            LONG1 => Literal::Int(counted(1)?),
            LONG4 => Literal::Int(counted(4)?),
            _ => return None,
        })
    }

    /// Returns whether a text stands at `at`, without reading all of it.
    pub(super) fn is_text(&self, at: u32) -> bool {
        let opcode = self.bytes.get(at as usize);
        matches!(opcode, Some(&(SHORT_BINUNICODE | BINUNICODE | BINUNICODE8)))
    }

    /// The text there.
    pub(super) fn text(&self, item: Item) -> Option<&'a str> {
        match item {
            Item::Literal(at) => match self.literal(at)? {
                Literal::Str(text) => Some(text),
                _ => None,
            },
            _ => None,
        }
    }

    /// Accounts for `len` bytes that are about to be read.
    pub(super) fn spend(&self, len: usize) -> Result<(), DecodeError> {
        match self.bytes_left.get().checked_sub(len) {
            Some(left) => {
                self.bytes_left.set(left);
                Ok(())
            }
            None => Err(DecodeError::Malformed {
                reason: "pickle: too many bytes: shared ones count each time".to_owned(),
            }),
        }
    }
}

/// A little-endian number in two's complement, without the redundant bytes.
pub(super) fn significant(bytes: &[u8]) -> &[u8] {
    let mut bytes = bytes;
    while let [rest @ .., before, last] = bytes
        && (*last == 0 && before & 0x80 == 0 || *last == 0xff && before & 0x80 != 0)
    {
        bytes = &bytes[..rest.len() + 1];
    }
    bytes
}

/// The items of a container, in their order.
#[derive(Clone)]
pub(super) struct Items<'m> {
    heap: &'m Heap<'m>,
    run: u32,
    at: u32,
    left: usize,
}

impl Items<'_> {
    pub(super) fn len(&self) -> usize {
        self.left
    }
}

impl Iterator for Items<'_> {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        self.left = self.left.checked_sub(1)?;
        let mut run = self.heap.runs.get(self.run as usize)?;
        if self.at == run.len {
            (self.run, self.at) = (run.next, 0);
            run = self.heap.runs.get(self.run as usize)?;
        }
        let item = self.heap.items.get((run.start + self.at) as usize).copied();
        self.at += 1;
        item
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}
