//! The README and the book: links lead somewhere, commands name what there is, and so do names of
//! tests, settings and files. None of them needs mdbook; `tests/run book` renders the pages.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A page: its path in the repository, and its text.
struct Page {
    path: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All files below a folder whose names end so.
fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The text of all Rust files below these folders.
fn sources(folders: &[&str]) -> String {
    let files = folders.iter().flat_map(|folder| files(folder, ".rs"));
    files
        .map(|file| fs::read_to_string(file).unwrap())
        .collect()
}

fn pages() -> Vec<Page> {
    let mut paths: Vec<_> = files("docs", ".md")
        .iter()
        .map(|file| file.strip_prefix(root()).unwrap().display().to_string())
        .collect();
    paths.extend([
        "README.md".to_owned(),
        "examples/digits/README.md".to_owned(),
    ]);
    let page = |path: String| Page {
        text: read(&path),
        path,
    };
    paths.into_iter().map(page).collect()
}

impl Page {
    /// Lines of prose, and lines of code blocks with the language of the block.
    fn lines(&self) -> (Vec<&str>, Vec<(&str, &str)>) {
        let (mut prose, mut code, mut language) = (Vec::new(), Vec::new(), None);
        for line in self.text.lines() {
            match (line.strip_prefix("```"), language) {
                (Some(opening), None) => language = Some(opening),
                (Some(_), Some(_)) => language = None,
                (None, Some(language)) => code.push((language, line)),
                (None, None) => prose.push(line),
            }
        }
        (prose, code)
    }

    /// Code within prose.
    fn spans(&self) -> Vec<String> {
        let (prose, _) = self.lines();
        let prose = prose.join("\n");
        let spans = prose.split('`').skip(1).step_by(2);
        spans.map(|span| span.replace('\n', " ")).collect()
    }

    /// Where links and pictures lead.
    fn links(&self) -> Vec<String> {
        let (prose, _) = self.lines();
        let prose = prose.join("\n");
        let without_code: String = prose.split('`').step_by(2).collect();
        let inline = without_code.split("](").skip(1);
        let inline = inline.filter_map(|rest| rest.split_once(')').map(|(to, _)| to.to_owned()));
        let named = without_code.lines().filter_map(|line| {
            let (_, to) = line.strip_prefix('[')?.split_once("]: ")?;
            Some(to.trim().to_owned())
        });
        inline.chain(named).collect()
    }

    /// The anchors that its headings make, as GitHub and mdBook do.
    fn anchors(&self) -> BTreeSet<String> {
        let (prose, _) = self.lines();
        let headings = prose.iter().filter(|line| line.starts_with('#'));
        let anchor = |heading: &&str| {
            let text = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = text
                .chars()
                .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        };
        headings.map(anchor).collect()
    }

    /// Commands of code blocks and of prose, without what stands before and behind them.
    fn commands(&self) -> Vec<String> {
        let (_, code) = self.lines();
        let blocks = code.into_iter().filter(|(language, _)| *language == "sh");
        let blocks = blocks.map(|(_, line)| line.to_owned());
        let all = blocks.chain(self.spans());
        let bare = all.map(|line| {
            let line = line.split(" #").next().unwrap_or_default().trim();
            let line = line.split(" | ").next().unwrap_or_default();
            without_variables(line).to_owned()
        });
        bare.filter(|line| !line.is_empty()).collect()
    }
}

/// A command without `NAME=value` before it.
fn without_variables(line: &str) -> &str {
    let is_name =
        |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    match line.split_once('=') {
        Some((name, value)) if is_name(name) => {
            let end = if value.starts_with("$(") { ") " } else { " " };
            value
                .split_once(end)
                .map_or("", |(_, rest)| without_variables(rest.trim_start()))
        }
        _ => line,
    }
}

/// A word that stands for another: `NAME`, `URL`, `…`.
fn is_placeholder(word: &str) -> bool {
    !word.chars().any(|c| c.is_lowercase() || c.is_ascii_digit())
}

/// A name that reads as a sentence, and is not that of a metric.
fn is_test_name(name: &str) -> bool {
    if name.starts_with("slimerpc_") || name.starts_with("rpc_") {
        return false;
    }
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    name.chars().all(is_part) && name.matches('_').count() > 3
}

fn assert_none(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn links_of_the_documents_lead_somewhere() {
    let pages = pages();
    let anchors: BTreeMap<_, _> = pages
        .iter()
        .map(|page| (page.path.clone(), page.anchors()))
        .collect();
    let mut problems = Vec::new();
    for page in &pages {
        let folder = Path::new(&page.path).parent().unwrap();
        for link in page
            .links()
            .into_iter()
            .filter(|link| !link.contains("://"))
        {
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match file {
                "" => page.path.clone(),
                file => folder.join(file).display().to_string(),
            };
            if !root().join(&target).exists() {
                problems.push(format!("{}: there is no {link}", page.path));
            } else if !anchor.is_empty()
                && !anchors.get(&target).is_some_and(|all| all.contains(anchor))
            {
                problems.push(format!("{}: there is no heading {link}", page.path));
            }
            // mdBook has only what lies in its own folder.
            if folder == Path::new("docs") && (file.starts_with("../") || file.starts_with('/')) {
                problems.push(format!("{}: {link} is not in the book", page.path));
            }
        }
    }
    assert_none(&problems);
}

#[test]
fn each_chapter_of_the_book_is_in_its_summary_and_the_readme_is_one_page() {
    let pages = pages();
    let summary = pages
        .iter()
        .find(|page| page.path == "docs/SUMMARY.md")
        .unwrap();
    let listed: BTreeSet<_> = summary
        .links()
        .into_iter()
        .map(|link| format!("docs/{link}"))
        .collect();
    let chapters = pages.iter().map(|page| page.path.clone());
    let chapters = chapters.filter(|path| path.starts_with("docs/") && path != "docs/SUMMARY.md");
    assert_eq!(chapters.collect::<BTreeSet<_>>(), listed);
    let lines = read("README.md").lines().count();
    assert!(
        lines <= 150,
        "the README has {lines} lines; what is more belongs in the book"
    );
}

#[test]
fn tests_that_the_documents_name_exist() {
    let sources = sources(&["src", "actors", "tests"]);
    let pages = pages();
    let (mut named, mut problems) = (0, Vec::new());
    for page in &pages {
        for name in page.spans().iter().filter(|name| is_test_name(name)) {
            named += 1;
            if !sources.contains(&format!("fn {name}(")) {
                problems.push(format!("{}: there is no test {name}", page.path));
            }
        }
    }
    assert_none(&problems);
    assert!(
        named > 80,
        "only {named} tests are named: are they still found?"
    );
}

#[test]
fn each_promise_of_the_book_names_a_test() {
    let text = read("docs/semantics.md");
    let rows = text.lines().filter(|line| line.starts_with("| "));
    let promises = rows.filter(|row| !row.starts_with("| promise |") && !row.starts_with("| ---"));
    let names_a_test = |row: &&str| {
        let last = row.trim_end_matches([' ', '|']).rsplit(" | ").next();
        last.is_some_and(|cell| cell.split('`').any(is_test_name))
    };
    let unproved: Vec<_> = promises
        .filter(|row| !names_a_test(row))
        .map(str::to_owned)
        .collect();
    assert_none(&unproved);
}

#[test]
fn settings_and_files_that_the_documents_name_exist() {
    let sources = sources(&["src", "actors", "tests", "benches", "examples"]);
    let folders = [
        "src/",
        "actors/",
        "examples/",
        "tests/",
        "benches/",
        "docs/",
    ];
    let mut problems = Vec::new();
    for page in pages() {
        for span in page.spans() {
            let word = span.split_whitespace().next().unwrap_or_default();
            if folders.iter().any(|folder| word.starts_with(folder)) && !root().join(word).exists()
            {
                problems.push(format!("{}: there is no {word}", page.path));
            }
        }
        let is_part = |c: char| c.is_ascii_uppercase() || c == '_';
        for name in page.text.split(|c| !is_part(c)) {
            let prefix = ["SLIME_", "NANOCTRL_"]
                .iter()
                .find_map(|prefix| name.strip_prefix(prefix));
            if prefix.is_some_and(|rest| !rest.is_empty() && !sources.contains(rest)) {
                problems.push(format!("{}: nothing reads {name}", page.path));
            }
        }
    }
    assert_none(&problems);
}

#[test]
fn commands_in_the_documents_name_what_there_is() {
    let (mut checked, mut problems) = (0, Vec::new());
    for page in pages() {
        for command in page.commands() {
            let words: Vec<_> = command.split_whitespace().collect();
            let (program, arguments) = (words[0], &words[1..]);
            let checks = match program {
                "cargo" => cargo(arguments),
                "tests/run" => stages(arguments),
                "tests/soft_roce/run" => soft_roce(arguments),
                "nanoctrl" | "target/release/nanoctrl" => nanoctrl(arguments),
                _ => match program.strip_prefix("target/release/examples/") {
                    Some(example) => program_of("examples", example, arguments),
                    None => continue,
                },
            };
            checked += 1;
            if let Err(reason) = checks {
                problems.push(format!("{}: `{command}`: {reason}", page.path));
            }
        }
    }
    assert_none(&problems);
    assert!(
        checked > 60,
        "only {checked} commands: are they still found?"
    );
}

type Checked = Result<(), String>;

/// Cargo's own arguments, and those of the program behind `--`.
fn cargo(arguments: &[&str]) -> Checked {
    const KNOWN: [&str; 11] = [
        "add", "bench", "build", "clippy", "deny", "doc", "fmt", "install", "miri", "run", "test",
    ];
    let toolchain = arguments.first().filter(|word| word.starts_with('+'));
    let arguments = &arguments[usize::from(toolchain.is_some())..];
    let Some((command, rest)) = arguments.split_first() else {
        return Ok(());
    };
    if !KNOWN.contains(command) {
        return Err(format!("is there a `cargo {command}`?"));
    }
    let own = rest.split(|word| *word == "--").next().unwrap_or_default();
    let behind = rest.get(own.len() + 1..).unwrap_or_default();
    let mut manifest = read("Cargo.toml");
    let mut program = None;
    for pair in own.windows(2).filter(|pair| !is_placeholder(pair[1])) {
        match *pair {
            ["--manifest-path", path] if !root().join(path).exists() => {
                return Err(format!("there is no {path}"));
            }
            ["--manifest-path", path] => {
                manifest = read(path);
                program = Some(path.replace("/Cargo.toml", "/src"));
            }
            ["--example", name] => program = Some(source_of("examples", name)?),
            ["--bench", name] => program = Some(source_of("benches", name)?),
            ["--test", name] => program = Some(source_of("tests", name)?),
            ["--bin", name] => drop(source_of("src/bin", name)?),
            ["--features", names] => {
                let lacks = |name: &&str| !manifest.contains(&format!("\n{name} = ["));
                if let Some(name) = names.split(',').find(lacks) {
                    return Err(format!("there is no feature {name}"));
                }
            }
            ["-p", name] => {
                let folder = package(name).ok_or(format!("there is no package {name}"))?;
                manifest = read(&format!("{folder}/Cargo.toml"));
                program.get_or_insert(format!("{folder}/src"));
            }
            _ => {}
        }
    }
    // Behind `cargo test --` stand arguments of libtest, unless the program has no such harness.
    match program {
        Some(source) if *command != "test" || source == "tests/chaos" => {
            options_are_in(&source, behind)
        }
        _ => Ok(()),
    }
}

/// The folder of a package of the workspace.
fn package(name: &str) -> Option<&'static str> {
    let folders = [
        ".",
        "actors",
        "actors/macros",
        "examples/traces",
        "tests/console",
    ];
    let line = format!("\nname = \"{name}\"\n");
    let mut found = folders.into_iter();
    found.find(|folder| read(&format!("{folder}/Cargo.toml")).contains(&line))
}

/// Where the source of a program of this kind is.
fn source_of(kind: &str, name: &str) -> Result<String, String> {
    let candidates = [format!("{kind}/{name}"), format!("{kind}/{name}.rs")];
    let found = candidates
        .into_iter()
        .find(|path| root().join(path).exists());
    found.ok_or_else(|| format!("there is no {name} in {kind}"))
}

fn program_of(kind: &str, name: &str, arguments: &[&str]) -> Checked {
    options_are_in(&source_of(kind, name)?, arguments)
}

/// Whether a program knows these options: its source has a field or a text of that name.
fn options_are_in(source: &str, arguments: &[&str]) -> Checked {
    let text = match root().join(source).is_dir() {
        true => sources(&[source]),
        false => read(source),
    };
    for option in arguments.iter().filter_map(|word| word.strip_prefix("--")) {
        let field = format!(" {}: ", option.replace('-', "_"));
        if !text.contains(&field) && !text.contains(&format!("\"--{option}\"")) {
            return Err(format!("{source} knows no --{option}"));
        }
    }
    Ok(())
}

fn stages(arguments: &[&str]) -> Checked {
    let script = read("tests/run");
    let list = |line: &str| {
        let (_, rest) = line.split_once("=(")?;
        let is_list = ["short", "long", "apart"]
            .iter()
            .any(|name| line.starts_with(&format!("{name}=(")));
        is_list.then(|| {
            rest.trim_end_matches(')')
                .split(' ')
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
    };
    let stages: Vec<_> = script.lines().filter_map(list).flatten().collect();
    for argument in arguments.iter().filter(|word| !is_placeholder(word)) {
        let is_known = match argument.strip_prefix("--") {
            Some(_) => script.contains(argument),
            None => stages.iter().any(|stage| stage == argument),
        };
        if !is_known {
            return Err(format!("it has no {argument}; stages are {stages:?}"));
        }
    }
    Ok(())
}

fn soft_roce(arguments: &[&str]) -> Checked {
    let known = read("tests/soft_roce/run") + &read("tests/soft_roce/tests");
    match arguments
        .iter()
        .find(|word| !is_placeholder(word) && !known.contains(*word))
    {
        Some(word) => Err(format!("it has no {word}")),
        None => Ok(()),
    }
}

/// Asks the program for its help.
fn nanoctrl(arguments: &[&str]) -> Checked {
    let is_word = |word: &&&str| word.chars().all(char::is_alphabetic) && !is_placeholder(word);
    // A command, and maybe one of its own.
    let command = arguments.iter().take_while(is_word);
    let help = Command::new(env!("CARGO_BIN_EXE_nanoctrl"))
        .args(command)
        .arg("--help")
        .output()
        .unwrap();
    let text = String::from_utf8(help.stdout).unwrap();
    if !help.status.success() {
        return Err("there is no such command".to_owned());
    }
    match arguments
        .iter()
        .find(|word| word.starts_with("--") && !text.contains(**word))
    {
        Some(option) => Err(format!("it has no {option}")),
        None => Ok(()),
    }
}
