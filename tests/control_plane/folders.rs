//! Folders of a crate depend on each other in one direction: the order that the crate's front page
//! states.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Each crate's sources.
const SOURCES: [&str; 2] = ["src", "actors/src"];

/// What stands before the folders on a front page, from the lowest on.
const ORDER: &str = "Folders, from the lowest:";

struct Crate {
    source: PathBuf,
    /// Folders and files beside `lib.rs` that have a place in the order.
    order: Vec<String>,
    /// Which of them a name comes from that `lib.rs` exports.
    exports: BTreeMap<String, String>,
}

impl Crate {
    fn read(source: &str) -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(source);
        let front = fs::read_to_string(source.join("lib.rs")).unwrap();
        let page: Vec<_> = front
            .lines()
            .filter_map(|line| line.strip_prefix("//!"))
            .collect();
        let page = page.join(" ");
        let stated = page
            .split_once(ORDER)
            .expect("the front page states the order")
            .1;
        let stated = stated.split('.').next().unwrap();
        let order = stated
            .split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect();
        let mut exports = BTreeMap::new();
        for export in code(&front).split("pub use ").skip(1) {
            let mut names = words(export.split(';').next().unwrap());
            let from = names.next().unwrap();
            exports.extend(names.map(|name| (name.to_owned(), from.to_owned())));
        }
        Self {
            source,
            order,
            exports,
        }
    }

    fn place(&self, name: &str) -> Option<usize> {
        let position = |name: &str| self.order.iter().position(|folder| folder == name);
        position(name).or_else(|| position(self.exports.get(name)?))
    }

    /// Each file with a folder above its own that it uses.
    fn upward(&self) -> BTreeSet<(String, String)> {
        let mut found = BTreeSet::new();
        let mut folders = vec![self.source.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let file = path.strip_prefix(&self.source).unwrap().to_str().unwrap();
                let first = file.split(['/', '.']).next().unwrap();
                let Some(own) = self.place(first).filter(|_| file.ends_with(".rs")) else {
                    continue;
                };
                for name in used(&code(&fs::read_to_string(&path).unwrap())) {
                    if let Some(place) = self.place(&name).filter(|place| *place > own) {
                        found.insert((file.to_owned(), self.order[place].clone()));
                    }
                }
            }
        }
        found
    }
}

/// `text` without comments, and without the tests at its end.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    text.split(move |c| !is_word(c))
        .filter(|word| !word.is_empty())
}

/// What follows `crate::`, or each item of the braces that do.
fn used(code: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for path in code.split("crate::").skip(1) {
        let Some(items) = path.strip_prefix('{') else {
            names.extend(words(path).next().map(str::to_owned));
            continue;
        };
        let mut depth = 0;
        for item in items.split_inclusive(['{', '}', ',']) {
            if depth == 0 {
                names.extend(words(item).next().map(str::to_owned));
            }
            match item.chars().last() {
                Some('{') => depth += 1,
                Some('}') if depth == 0 => break,
                Some('}') => depth -= 1,
                _ => {}
            }
        }
    }
    names
}

#[test]
fn folders_depend_on_lower_ones_only() {
    for source in SOURCES {
        let parts = Crate::read(source);
        for entry in fs::read_dir(&parts.source).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(
                !path.is_dir() || name == "bin" || parts.order.iter().any(|folder| folder == name),
                "{source}/{name} has no place in the order that {source}/lib.rs states"
            );
        }
        let upward = parts.upward();
        assert!(
            upward.is_empty(),
            "files of {source} use folders above their own: {upward:?}"
        );
    }
}
