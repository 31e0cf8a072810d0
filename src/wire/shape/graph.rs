//! The graph of what was seen of a type, and its canonical text.

use std::collections::HashMap;

/// Index of a [`Node`] in its [`Graph`].
pub(super) type Id = usize;

/// Names of fields or variants, as serde lists them.
pub(super) type Names = &'static [&'static str];

/// Elements of a tuple that are distinguished. Those after them are taken to be of one type, as in
/// an array.
const DISTINCT_ELEMENTS: usize = 64;

/// Most characters of a text; the rest is cut.
const LONGEST_TEXT: usize = 1 << 20;

/// A type, or the part of it that was seen.
#[derive(Debug, Clone)]
enum Node {
    Unseen,
    /// A type without parts.
    Leaf(&'static str),
    /// A newtype, or another mention of a type that was seen.
    Same(Id),
    /// The arrangement of the parts, and the parts.
    Parts(&'static str, Vec<Id>),
    Tuple(usize, Vec<Id>),
    Struct(Names, Vec<Id>),
    Enum(Names, Vec<Id>),
}

/// A type and those that it is made of, which may lead back to it.
#[derive(Debug)]
pub(super) struct Graph {
    nodes: Vec<Node>,
    seen: usize,
}

impl Graph {
    /// The node of the type itself.
    pub(super) const ROOT: Id = 0;

    pub(super) fn new() -> Self {
        Self {
            nodes: vec![Node::Unseen],
            seen: 0,
        }
    }

    /// Number of the nodes that were seen.
    pub(super) fn seen(&self) -> usize {
        self.seen
    }

    pub(super) fn unseen(&mut self) -> Id {
        self.nodes.push(Node::Unseen);
        self.nodes.len() - 1
    }

    fn see(&mut self, at: Id, node: impl FnOnce(&mut Self) -> Node) -> &Node {
        if matches!(self.nodes[at], Node::Unseen) {
            let node = node(self);
            self.nodes[at] = node;
            self.seen += 1;
        }
        &self.nodes[at]
    }

    fn parts(&mut self, count: usize) -> Vec<Id> {
        (0..count).map(|_| self.unseen()).collect()
    }

    pub(super) fn leaf(&mut self, at: Id, kind: &'static str) {
        self.see(at, |_| Node::Leaf(kind));
    }

    /// Notes that `at` is the type that `of` stands for.
    pub(super) fn same(&mut self, at: Id, of: Id) {
        if at != of {
            self.see(at, |_| Node::Same(of));
        }
    }

    /// The parts of a type that is arranged as `kind` says. A type that is seen in two arrangements
    /// keeps the first one, and the second is dropped.
    pub(super) fn arranged<const N: usize>(&mut self, at: Id, kind: &'static str) -> [Id; N] {
        let node = self.see(at, |graph| Node::Parts(kind, graph.parts(N)));
        if let Node::Parts(seen, parts) = node
            && *seen == kind
            && let Ok(parts) = parts.as_slice().try_into()
        {
            return parts;
        }
        std::array::from_fn(|_| self.unseen())
    }

    pub(super) fn tuple(&mut self, at: Id, len: usize) -> Vec<Id> {
        let distinct = len.min(DISTINCT_ELEMENTS + 1);
        let node = self.see(at, |graph| Node::Tuple(len, graph.parts(distinct)));
        match node {
            Node::Tuple(seen, items) if *seen == len => items.clone(),
            _ => self.parts(distinct),
        }
    }

    pub(super) fn fields(&mut self, at: Id, names: Names) -> Vec<Id> {
        let node = self.see(at, |graph| Node::Struct(names, graph.parts(names.len())));
        match node {
            Node::Struct(seen, items) if *seen == names => items.clone(),
            _ => self.parts(names.len()),
        }
    }

    /// Notes that a struct was read with fewer fields than it has names: some are other names of
    /// the same field.
    pub(super) fn drop_fields(&mut self, at: Id, count: usize) {
        if let Node::Struct(_, items) = &mut self.nodes[at] {
            items.truncate(count);
        }
    }

    pub(super) fn variants(&mut self, at: Id, names: Names) -> Vec<Id> {
        let node = self.see(at, |graph| Node::Enum(names, graph.parts(names.len())));
        match node {
            Node::Enum(seen, variants) if *seen == names => variants.clone(),
            _ => self.parts(names.len()),
        }
    }

    fn resolve(&self, id: Id) -> Id {
        let mut id = id;
        // A type is not a newtype of itself, so this ends; the count is for the reader.
        for _ in 0..self.nodes.len() {
            match self.nodes[id] {
                Node::Same(of) => id = of,
                _ => break,
            }
        }
        id
    }

    /// What distinguishes a node from others, apart from its children.
    fn label(&self, id: Id) -> String {
        match &self.nodes[id] {
            Node::Unseen | Node::Same(_) => "?".to_owned(),
            Node::Leaf(kind) => (*kind).to_owned(),
            Node::Parts(kind, _) => format!("{kind}<"),
            Node::Tuple(len, _) => format!("({len}"),
            Node::Struct(names, items) => format!("{{{} {}", items.len(), names.join(" ")),
            Node::Enum(names, _) => format!("enum {}", names.join(" ")),
        }
    }

    fn children(&self, id: Id) -> &[Id] {
        match &self.nodes[id] {
            Node::Unseen | Node::Leaf(_) | Node::Same(_) => &[],
            Node::Parts(_, items)
            | Node::Tuple(_, items)
            | Node::Struct(_, items)
            | Node::Enum(_, items) => items,
        }
    }

    /// The type as text. It depends only on what is read: not on names of types, nor on where a
    /// recursion was noticed, nor on whether two equal types are one.
    pub(super) fn text(&self) -> String {
        let merged = Merged::of(self);
        let mut text = Text {
            graph: self,
            uses: merged.uses(),
            merged: &merged,
            numbers: HashMap::new(),
            out: String::new(),
        };
        text.write(merged.class(Self::ROOT));
        text.out
    }
}

/// Which nodes are equal at any depth.
struct Merged<'a> {
    graph: &'a Graph,
    classes: Vec<usize>,
    /// One node of each class.
    nodes: Vec<Id>,
}

impl<'a> Merged<'a> {
    fn of(graph: &'a Graph) -> Self {
        let labels: Vec<String> = (0..graph.nodes.len()).map(|id| graph.label(id)).collect();
        let mut merged = Self {
            graph,
            classes: vec![0; graph.nodes.len()],
            nodes: vec![0],
        };
        // Separate nodes that differ themselves, then those whose parts differ, until no class
        // splits any more.
        loop {
            let mut known = HashMap::new();
            let mut nodes = Vec::new();
            let mut classes = merged.classes.clone();
            for id in 0..graph.nodes.len() {
                if graph.resolve(id) != id {
                    continue;
                }
                let parts: Vec<_> = merged.parts(id).collect();
                classes[id] = *known.entry((&labels[id], parts)).or_insert_with(|| {
                    nodes.push(id);
                    nodes.len() - 1
                });
            }
            let is_done = nodes.len() == merged.nodes.len();
            (merged.classes, merged.nodes) = (classes, nodes);
            if is_done {
                return merged;
            }
        }
    }

    fn class(&self, id: Id) -> usize {
        self.classes[self.graph.resolve(id)]
    }

    fn parts(&self, id: Id) -> impl Iterator<Item = usize> {
        self.graph.children(id).iter().map(|part| self.class(*part))
    }

    /// How often each class is mentioned.
    fn uses(&self) -> Vec<usize> {
        let mut uses = vec![0; self.nodes.len()];
        uses[self.class(Graph::ROOT)] += 1;
        let (mut found, mut next) = (vec![self.class(Graph::ROOT)], 0);
        while let Some(&class) = found.get(next) {
            next += 1;
            for part in self.parts(self.nodes[class]) {
                if uses[part] == 0 {
                    found.push(part);
                }
                uses[part] += 1;
            }
        }
        uses
    }
}

struct Text<'a> {
    graph: &'a Graph,
    merged: &'a Merged<'a>,
    uses: Vec<usize>,
    /// Numbers of the types that are written once and then mentioned.
    numbers: HashMap<usize, usize>,
    out: String,
}

impl Text<'_> {
    fn parts(&self, class: usize) -> Vec<usize> {
        self.merged.parts(self.merged.nodes[class]).collect()
    }

    /// Returns whether a class is written once, and mentioned by its number elsewhere. One that
    /// consists of leaves only is written out.
    fn is_numbered(&self, class: usize) -> bool {
        let mut parts = self.merged.parts(self.merged.nodes[class]);
        self.uses[class] > 1
            && parts.any(|part| self.merged.parts(self.merged.nodes[part]).next().is_some())
    }

    fn write(&mut self, class: usize) {
        if self.out.len() > LONGEST_TEXT {
            return;
        }
        if self.is_numbered(class) {
            let next = self.numbers.len() + 1;
            if let Some(number) = self.numbers.get(&class) {
                self.out += &format!("#{number}");
                return;
            }
            self.numbers.insert(class, next);
            self.out += &format!("#{next}=");
        }
        let parts = self.parts(class);
        match &self.graph.nodes[self.merged.nodes[class]] {
            Node::Unseen | Node::Same(_) => self.out.push('?'),
            Node::Leaf(kind) => self.out += kind,
            Node::Parts("seq", _) => self.enclosed("[", &parts, "]"),
            Node::Parts("variant", _) => self.enclosed("(", &parts, ")"),
            Node::Parts(kind, _) => {
                self.out += kind;
                self.enclosed("<", &parts, ">");
            }
            Node::Tuple(len, _) => self.tuple(*len, &parts),
            Node::Struct(names, items) if names.len() == items.len() => {
                self.listed("{", parts.iter().copied().zip(names.iter()), "}");
            }
            Node::Struct(names, _) => {
                self.out += "{";
                self.out += &names.join(" ");
                self.enclosed(": ", &parts, "}");
            }
            Node::Enum(names, _) => {
                self.out += "enum ";
                self.variants(names, &parts);
            }
        }
    }

    fn enclosed(&mut self, open: &str, parts: &[usize], close: &str) {
        self.out += open;
        for (at, part) in parts.iter().enumerate() {
            if at > 0 {
                self.out += ", ";
            }
            self.write(*part);
        }
        self.out += close;
    }

    fn listed<'n>(
        &mut self,
        open: &str,
        parts: impl Iterator<Item = (usize, &'n &'static str)>,
        close: &str,
    ) {
        self.out += open;
        for (at, (part, name)) in parts.enumerate() {
            if at > 0 {
                self.out += ", ";
            }
            self.out += name;
            self.out += ": ";
            self.write(part);
        }
        self.out += close;
    }

    /// Consecutive elements of one type are counted.
    fn tuple(&mut self, len: usize, parts: &[usize]) {
        self.out.push('(');
        if len == 0 {
            // Unlike `()`, which takes no bytes.
            self.out += "; 0";
        }
        for (at, row) in parts.chunk_by(|a, b| a == b).enumerate() {
            if at > 0 {
                self.out += ", ";
            }
            self.write(row[0]);
            let is_last = row.as_ptr_range().end == parts.as_ptr_range().end;
            let count = row.len() + if is_last { len - parts.len() } else { 0 };
            if count > 1 {
                self.out += &format!("; {count}");
            }
        }
        self.out.push(')');
    }

    fn variants(&mut self, names: Names, parts: &[usize]) {
        self.out.push('{');
        for (at, (name, part)) in names.iter().zip(parts).enumerate() {
            if at > 0 {
                self.out += ", ";
            }
            self.out += name;
            match &self.graph.nodes[self.merged.nodes[*part]] {
                Node::Leaf(UNIT_VARIANT) => {}
                Node::Leaf(NO_VARIANT) => self.out += " -",
                Node::Unseen => self.out += " ?",
                _ => self.write(*part),
            }
        }
        self.out.push('}');
    }
}

/// The variant has no content.
pub(super) const UNIT_VARIANT: &str = "unit variant";
/// There is no variant of this number: some of the names are other names of one variant.
pub(super) const NO_VARIANT: &str = "no variant";
