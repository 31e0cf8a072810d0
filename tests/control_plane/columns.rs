//! No comment is wider than a reader's window. rustfmt wraps code, and leaves comments as they are.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// As wide as rustfmt lets code be.
const COLUMNS: usize = 100;

/// Each Rust file of the checkout, in this folder and those below.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, found);
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

/// A row of a table is one line, however long.
fn is_too_wide(line: &str) -> bool {
    let text = line.trim_start();
    let comment = text.trim_start_matches(['/', '!']).trim_start();
    text.starts_with("//") && !comment.starts_with('|') && line.chars().count() > COLUMNS
}

/// Written by a compiler of schemas, which says so first.
fn is_generated(text: &str) -> bool {
    text.lines().take(2).any(|line| line.contains("@generated"))
}

#[test]
fn comments_are_at_most_as_wide_as_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    sources(root, &mut found);
    assert!(found.len() > 100, "{} files", found.len());
    let mut too_wide = Vec::new();
    for path in found {
        let text = fs::read_to_string(&path).unwrap();
        if is_generated(&text) {
            continue;
        }
        let lines = text.lines().zip(1..).filter(|(line, _)| is_too_wide(line));
        let path = path.strip_prefix(root).unwrap().display();
        too_wide.extend(lines.map(|(_, number)| format!("{path}:{number}")));
    }
    let count = too_wide.len();
    let list = too_wide.join("\n");
    assert_eq!(count, 0, "comments over {COLUMNS} columns:\n{list}");
}
