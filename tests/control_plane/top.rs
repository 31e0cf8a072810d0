//! `nanoctrl top`, in a terminal that tmux is.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;
use std::sync::Once;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use support::{Redis, until};
use tempfile::TempDir;

/// A terminal in which one command runs, and then tells how it ended and what the terminal is like.
struct Terminal(TempDir);

impl Terminal {
    fn new(words: &[&str]) -> Self {
        static INSTALLED: Once = Once::new();
        INSTALLED.call_once(|| {
            let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/packages");
            let status = Command::new(packages).arg("tmux").status().unwrap();
            assert!(status.success(), "this test needs tmux");
        });
        let terminal = Self(TempDir::new().unwrap());
        let program = env!("CARGO_BIN_EXE_nanoctrl");
        let command = format!(
            "{program} top {}; echo ended $?; stty -a | grep -o '[-]*icanon\\|[-]*echo '; cat",
            words.join(" ")
        );
        terminal.tmux(&["new-session", "-d", "-x", "80", "-y", "24", &command]);
        terminal
    }

    fn tmux(&self, words: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(self.0.path().join("socket"));
        let output = command.args(["-f", "/dev/null"]).args(words).output();
        let output = output.unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    fn resize(&self, width: &str, height: &str) {
        self.tmux(&["resize-window", "-x", width, "-y", height]);
    }

    /// Waits until what is shown is so.
    async fn shows(&self, what: &str, is_so: impl Fn(&[&str]) -> bool) -> String {
        let mut shown = String::new();
        let look = || {
            shown = self.tmux(&["capture-pane", "-p"]);
            is_so(&shown.lines().collect::<Vec<_>>())
        };
        until(what, look).await;
        shown
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

/// First words of the lines of the list that this heads.
fn names<'a>(lines: &[&'a str], head: &str, at: usize) -> Vec<&'a str> {
    let rows = lines.iter().skip_while(|line| !line.starts_with(head));
    let rows = rows.skip(1).take_while(|line| !line.contains('─'));
    let word = |line: &&'a str| line.split_whitespace().nth(at);
    rows.filter_map(word).collect()
}

fn write(redis: &Redis, alias: &str, ago_ms: u64, rate: f64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let method =
        json!({"name": "add", "per_second": rate, "p50_us": 2.5, "p99_us": 90.0, "errors": 7});
    let record: Value = json!({
        "schema_version": 1, "peer_id": alias, "host": "gpu7\u{1b}[31m",
        "reported_at_ms": now.as_millis() as u64 - ago_ms,
        "slimerpc": {"services": [{"name": "calc", "type": "Calc", "state": "up", "methods": [method]}]},
    });
    redis.run::<()>(&["SET", &format!("obs:peer:{alias}"), &record.to_string()]);
}

#[actix::test]
async fn services_are_shown_by_rate_and_agents_by_state_and_the_terminal_is_given_back() {
    let redis = Redis::start();
    write(&redis, "w:0", 60_000, 10.0);
    write(&redis, "w:1", 0, 2000.0);
    write(&redis, "w:10", 0, 300.0);
    let terminal = Terminal::new(&["--redis-url", &redis.url()]);
    let by_rate = |lines: &[&str]| names(lines, "SERVICE", 1) == ["w:1", "w:10", "w:0"];
    let shown = terminal.shows("services by rate", by_rate).await;
    let lines: Vec<_> = shown.lines().collect();
    assert_eq!(lines.len(), 24, "{shown}");
    assert!(lines[1].contains("2 alive, 1 stale, 0 stopped"), "{shown}");
    assert!(lines[1].contains("calls: 2300/s"), "{shown}");
    assert_eq!(
        names(&lines, "AGENT", 0)[..3],
        ["w:1", "w:10", "w:0"],
        "{shown}"
    );
    assert!(
        lines
            .iter()
            .any(|line| line.contains("2000     2.5      90")),
        "{shown}"
    );
    assert!(lines[23].starts_with("q quit"), "{shown}");
    assert!(
        shown.contains("gpu7\\u{1b}") && !shown.contains("gpu7\u{1b}"),
        "{shown}"
    );

    // The least first; then by agent.
    terminal.press(&["Up"]);
    let least_first = |lines: &[&str]| names(lines, "SERVICE", 1) == ["w:0", "w:10", "w:1"];
    terminal.shows("the least first", least_first).await;
    terminal.press(&["Left", "Left"]);
    let by_agent = |lines: &[&str]| names(lines, "SERVICE", 1) == ["w:0", "w:1", "w:10"];
    terminal.shows("by agent", by_agent).await;
    terminal.press(&["Tab", "Left"]);
    let by_alias = |lines: &[&str]| names(lines, "AGENT", 0)[..3] == ["w:0", "w:1", "w:10"];
    terminal.shows("agents by alias", by_alias).await;

    for (width, height) in [("40", "12"), ("120", "40"), ("9", "3"), ("80", "24")] {
        terminal.resize(width, height);
        let (width, height): (usize, usize) = (width.parse().unwrap(), height.parse().unwrap());
        let fits = |lines: &[&str]| {
            let last = lines.get(height - 1);
            lines.iter().all(|line| line.chars().count() <= width)
                && last.is_some_and(|line| line.starts_with("q quit"))
        };
        terminal.shows("the last line at the new size", fits).await;
    }

    // News come by themselves.
    write(&redis, "w:2", 0, 5.0);
    let news = |lines: &[&str]| names(lines, "SERVICE", 1).contains(&"w:2");
    terminal.shows("another agent", news).await;

    terminal.press(&["q"]);
    let given_back = |lines: &[&str]| lines[..3] == ["ended 0", "icanon", "echo"];
    terminal.shows("the terminal as it was", given_back).await;
}

#[actix::test]
async fn a_redis_that_is_away_is_said_and_sigterm_gives_the_terminal_back() {
    let mut redis = Redis::start();
    write(&redis, "w:0", 0, 1.0);
    let terminal = Terminal::new(&["--redis-url", &redis.url()]);
    let there = |lines: &[&str]| names(lines, "SERVICE", 1) == ["w:0"];
    terminal.shows("the agent", there).await;
    redis.stop();
    let away = |lines: &[&str]| {
        lines.iter().any(|line| line.contains("cannot be reached")) && there(lines)
    };
    terminal.shows("that Redis is away", away).await;
    let shell = terminal.tmux(&["display-message", "-p", "#{pane_pid}"]);
    let killed = Command::new("pkill")
        .args(["-TERM", "-P", shell.trim()])
        .status();
    assert!(killed.unwrap().success());
    let given_back = |lines: &[&str]| lines[..3] == ["ended 0", "icanon", "echo"];
    terminal.shows("the terminal as it was", given_back).await;
}

#[test]
fn without_a_terminal_it_says_what_else_there_is() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nanoctrl"));
    let output = command.arg("top").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("needs a terminal; `nanoctrl obs`"), "{said}");
}
