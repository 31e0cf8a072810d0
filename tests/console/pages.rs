//! What people see and do.
#![allow(clippy::unwrap_used)]

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use slimerpc::control::obs::SlimerpcPeerState;
use slimerpc::nanoctrl::{Config, Server};
use slimerpc_actors::{PeerAgent, service};
use support::{Redis, program};

use crate::browser::Browser;
use crate::job::{Job, agent, event, ours, peer, service as served};

const SCRIPT: &str = "<script>document.title='hacked'</script>";
const SHOWN: &str =
    "document.querySelector('#live').innerText === 'live' && document.querySelector('tbody tr')";

/// An expression that finds the row of an agent, and its text.
fn row(alias: &str) -> String {
    format!(
        "[...document.querySelectorAll('tbody tr')].find((row) => row.cells[0].innerText === {alias:?})?.innerText"
    )
}

/// A browser, the first thing of a test: where it has to be installed, agents would have been
/// silent for too long meanwhile. Where it cannot be, there is nothing to test.
macro_rules! browser {
    () => {{
        let Some(browser) = Browser::start().await else {
            return;
        };
        browser
    }};
}

/// What a caller may know of the example's service.
struct CalcService;

#[service]
impl CalcService {
    #[method]
    async fn add(&mut self, a: i64, b: i64) -> i64 {
        a + b
    }
}

/// A worker in a process of its own, killed when dropped.
struct Worker(Child);

impl Worker {
    fn start(job: &Job, alias: &str) -> Self {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL"])
            .arg(program("examples/calc"));
        command.args([
            "--role",
            "worker",
            "--alias",
            alias,
            "--ctrl",
            &job.server.url(),
        ]);
        command
            .env("DLSLIME_OBS", "1")
            .env("DLSLIME_OBS_TIME_STEP_MS", "500");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An agent in this process that calls workers until it is dropped.
struct Driver {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Driver {
    fn start(job: &Job, workers: &'static [&'static str]) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let (over, url) = (is_over.clone(), job.server.url());
        let drive = async move {
            let agent = PeerAgent::builder().nanoctrl(url).alias("driver").obs(true);
            let agent = agent.start().await.unwrap();
            let mut proxies = Vec::new();
            for worker in workers {
                proxies.push(agent.proxy::<CalcService>(worker).await.unwrap());
            }
            while !over.load(Ordering::Relaxed) {
                for calc in &proxies {
                    // Those that are stopped or killed do not answer.
                    let answer = calc.add(1, 2).timeout(Duration::from_millis(20));
                    let _ = answer.await;
                }
                actix::clock::sleep(Duration::from_millis(5)).await;
            }
            agent.shutdown().await.unwrap();
        };
        let thread = std::thread::spawn(|| actix::System::new().block_on(drive));
        Self {
            is_over,
            thread: Some(thread),
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn live_agents_are_seen_as_they_are_called_stopped_and_killed() {
    let browser = browser!();
    let job = Job::empty();
    browser.client.goto(&job.console()).await.unwrap();
    browser
        .until("document.querySelector('#empty')?.innerText.includes('DLSLIME_OBS=1')")
        .await;

    let workers = ["worker:0", "worker:1"].map(|alias| Worker::start(&job, alias));
    let driver = Driver::start(&job, &["worker:0", "worker:1"]);
    for alias in ["worker:0", "worker:1", "driver"] {
        browser
            .until(&format!("{}?.includes('alive')", row(alias)))
            .await;
    }
    browser.until("!document.querySelector('#empty')").await;
    browser
        .until("document.querySelectorAll('.node[data-state=alive]').length === 3")
        .await;
    browser.until("document.querySelector('.links [data-fabric=shm][data-state=alive]').getAttribute('d')").await;

    browser
        .find("nav a[data-view=services]")
        .await
        .click()
        .await
        .unwrap();
    let service = "[...document.querySelectorAll('tbody tr')].find((row) => row.cells[2].innerText === 'worker:0')";
    browser
        .until(&format!("{service}?.innerText.includes('up')"))
        .await;
    let name = browser
        .value(&format!("{service}.cells[0].innerText"))
        .await;
    assert_eq!(name, "CalcService");
    // Rate, percentiles and callers.
    browser
        .until(&format!("Number({service}.cells[4].innerText) > 1"))
        .await;
    for cell in [5, 6] {
        browser
            .until(&format!(
                "/\\d (µs|ms)/.test({service}.cells[{cell}].innerText)"
            ))
            .await;
    }
    browser
        .until(&format!("{service}.cells[8].innerText === '1'"))
        .await;

    browser
        .client
        .goto(&format!("{}#/agent//worker%3A0", job.console()))
        .await
        .unwrap();
    browser
        .until("document.querySelector('.agent').innerText.includes('CalcService.add')")
        .await;
    browser
        .until("document.body.innerText.includes('max_inflight')")
        .await;

    browser
        .client
        .goto(&format!("{}#/", job.console()))
        .await
        .unwrap();
    workers[0].signal(Signal::STOP);
    browser
        .until(&format!("{}?.includes('stalled')", row("worker:0")))
        .await;
    workers[0].signal(Signal::CONT);
    browser
        .until(&format!("{}?.includes('alive')", row("worker:0")))
        .await;
    workers[1].signal(Signal::KILL);
    browser
        .until(&format!("{}?.includes('gone')", row("worker:1")))
        .await;
    browser
        .until("document.querySelector('.node[data-state=gone]')")
        .await;

    browser
        .find("nav a[data-view=events]")
        .await
        .click()
        .await
        .unwrap();
    for (kind, alias) in [("stalled", "worker:0"), ("lost", "worker:1")] {
        let found = format!(
            "[...document.querySelectorAll('tbody tr')].find((row) => row.cells[1].innerText === {kind:?} && row.cells[2].innerText === {alias:?})"
        );
        browser.until(&found).await;
    }
    tokio::task::block_in_place(|| drop(driver));
    browser.close(&job.server.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_text_wherever_they_stand() {
    let browser = browser!();
    let mut job = Job::empty();
    let mut hostile = agent(SCRIPT, "<img src=x onerror=alert(1)>");
    let said = ours(&mut hostile);
    said.services = vec![served(SCRIPT, "<b>Type</b>", &[("<i>m</i>", 5.0, 3.0)])];
    said.peers = vec![
        peer("friend", "<fabric>", SlimerpcPeerState::Gone),
        peer(SCRIPT, "shm", SlimerpcPeerState::Alive),
    ];
    said.events = vec![event(
        1000,
        "<u>kind</u>",
        "javascript:alert(1)",
        "</script><script>alert(1)</script>",
    )];
    said.settings
        .insert("<s>".to_owned(), "</s>".to_owned().into());
    job.agents.push(("<scope>", hostile));
    job.agents.push(("<scope>", agent("friend", "node")));
    job.agents
        .push(("<scope>", agent("a/b#c?d&e%f \u{202e}", "node")));
    job.register();
    job.publish();
    job.server
        .redis
        .run::<()>(&["SADD", "nanoctrl/scopes", "<scope>"]);
    browser.client.goto(&job.console()).await.unwrap();
    browser.until(&row(SCRIPT)).await;
    for view in ["services", "events", "agents"] {
        browser
            .find(&format!("nav a[data-view={view}]"))
            .await
            .click()
            .await
            .unwrap();
        browser.until(SHOWN).await;
        browser
            .until("document.querySelector('#view').innerText.includes('<script>')")
            .await;
    }
    let link = format!(
        "[...document.querySelectorAll('tbody a')].find((link) => link.innerText === {SCRIPT:?}).click()"
    );
    browser.value(&link).await;
    browser
        .until("document.querySelector('.heading h2')?.innerText.startsWith('<script>')")
        .await;
    browser
        .until("document.body.innerText.includes('</script><script>')")
        .await;
    browser.client.goto(&job.console()).await.unwrap();
    browser.until(&row(SCRIPT)).await;
    browser.value("[...document.querySelectorAll('tbody a')].find((link) => link.innerText.startsWith('a/b')).click()").await;
    browser
        .until(r"document.querySelector('.heading h2')?.innerText === 'a/b#c?d&e%f \\u{202e}'")
        .await;
    let title = browser.client.title().await.unwrap();
    assert!(title.starts_with("Agent a/b#c"), "{title}");
    for name in ["constructor", "__proto__"] {
        let address = format!("{}#/{name}", job.console());
        browser.client.goto(&address).await.unwrap();
        browser.until(&row(SCRIPT)).await;
    }
    let foreign = browser.value("document.querySelectorAll('script:not([src]), i, u, b, s, img:not([src^=\"/console/\"])').length").await;
    assert_eq!(foreign, 0);
    browser.close(&job.server.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_reached_by_keyboard_and_search_narrows_what_is_shown() {
    let browser = browser!();
    let mut job = Job::training();
    browser.client.goto(&job.console()).await.unwrap();
    browser.until(SHOWN).await;
    // The first stop leads past the navigation.
    browser.press("\u{e004}").await;
    assert_eq!(
        browser.value("document.activeElement.className").await,
        "skip"
    );
    browser.press("/").await;
    assert_eq!(browser.value("document.activeElement.id").await, "search");
    browser.press("gradients node-2").await;
    browser
        .until("document.querySelector('#count').innerText === '3 shown'")
        .await;
    assert_eq!(
        browser
            .value("document.querySelectorAll('.node').length")
            .await,
        3
    );
    assert_eq!(
        browser
            .value("document.querySelectorAll('tbody tr').length")
            .await,
        3
    );
    browser.press(" nobody").await;
    browser
        .until("document.querySelector('#count').innerText === '0 shown'")
        .await;
    browser
        .value("document.querySelector('#search').value = ''")
        .await;
    browser.press(" ").await;
    browser
        .until("document.querySelector('#count').innerText === '11 shown'")
        .await;

    let mut seen = Vec::new();
    for _ in 0..40 {
        // Lest the rows are sorted anew, as agents that are silent come first.
        job.tick();
        browser.press("\u{e004}").await;
        let at = browser
            .value("(document.activeElement.id || document.activeElement.innerText)")
            .await;
        let outline = browser
            .value("getComputedStyle(document.activeElement).outlineStyle")
            .await;
        assert_ne!(outline, "none", "the focus is not seen at {at}");
        seen.push(at.as_str().unwrap_or_default().trim().to_owned());
        if seen.last().is_some_and(|at| at == "trainer:6") {
            break;
        }
    }
    for stop in ["scope", "state", "Agent", "Host", "trainer:5"] {
        assert!(seen.iter().any(|at| at == stop), "{stop}: {seen:?}");
    }
    // What is told every second moves no focus.
    for _ in 0..2 {
        job.tick();
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
    assert_eq!(
        browser.value("document.activeElement.innerText").await,
        "trainer:6"
    );
    browser.press("\u{e007}").await;
    browser
        .until("document.querySelector('.heading h2')?.innerText === 'trainer:6'")
        .await;
    browser
        .until("document.querySelector('.heading').innerText.includes('its process has ended')")
        .await;
    assert_eq!(browser.value("document.activeElement.id").await, "main");
    browser.client.back().await.unwrap();
    browser.until(SHOWN).await;

    // Sorting is told in words, not by colour.
    browser.value("[...document.querySelectorAll('th button')].find((b) => b.innerText === 'Calls/s').click()").await;
    browser
        .until("document.querySelector('[aria-sort=descending]')?.innerText === 'Calls/s'")
        .await;
    let unnamed = browser.value("[...document.querySelectorAll('button, input, select, a')].filter((e) => !e.innerText.trim() && !e.labels?.length).length").await;
    assert_eq!(unnamed, 0);
    for landmark in [
        "header",
        "nav[aria-label]",
        "main",
        "[role=search]",
        "table caption",
        "th[scope=col]",
        "h1",
    ] {
        let found = browser
            .value(&format!("document.querySelectorAll({landmark:?}).length"))
            .await;
        assert_ne!(found, 0, "{landmark}");
    }
    browser.close(&job.server.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_fit_a_telephone_and_follow_what_its_owner_prefers() {
    let browser = browser!();
    let job = Job::training();
    browser.client.goto(&job.console()).await.unwrap();
    browser.resize(360, 740).await;
    for page in [
        "#/",
        "#/services",
        "#/events",
        "#/agent//trainer%3A3",
        "#/agent//driver%3A0",
    ] {
        browser.client.goto("about:blank").await.unwrap();
        browser
            .client
            .goto(&format!("{}{page}", job.console()))
            .await
            .unwrap();
        browser.until(SHOWN).await;
        let width = browser.value("document.documentElement.scrollWidth").await;
        assert_eq!(width, 360, "{page}");
    }
    let ground = "getComputedStyle(document.body).backgroundColor";
    browser.prefer(&[("prefers-color-scheme", "light")]).await;
    let light = browser.value(ground).await;
    browser.prefer(&[("prefers-color-scheme", "dark")]).await;
    let dark = browser.value(ground).await;
    assert_ne!(light, dark);
    // The button wins over the system, here and after the page is loaded again.
    browser.find("#theme").await.click().await.unwrap();
    assert_eq!(browser.value(ground).await, light);
    browser.client.refresh().await.unwrap();
    browser.until(SHOWN).await;
    assert_eq!(browser.value(ground).await, light);
    browser.value("localStorage.clear()").await;

    let moves = "[...document.querySelectorAll('*')].filter((e) => parseFloat(getComputedStyle(e).transitionDuration) > 0 || getComputedStyle(e).animationName !== 'none').length";
    browser
        .prefer(&[("prefers-reduced-motion", "reduce")])
        .await;
    assert_eq!(browser.value(moves).await, 0);
    browser.close(&job.server.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for_once_and_the_page_notices_that_its_server_has_gone() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let redis = tokio::task::block_in_place(Redis::start);
    let config = || Config::with_redis(redis.url()).token("hunter2");
    let server = Server::start(config()).await.unwrap();
    let address = server.address();
    let url = format!("http://{address}");
    browser
        .client
        .goto(&format!("{url}/console"))
        .await
        .unwrap();
    for (token, says) in [
        ("wrong", "That is not the token."),
        ("hunter2", "No agents yet"),
    ] {
        let field = browser.find("#token").await;
        field.send_keys(&format!("{token}\u{e007}")).await.unwrap();
        browser
            .until(&format!("document.body.innerText.includes({says:?})"))
            .await;
    }
    assert_eq!(
        browser.value("document.cookie").await,
        "",
        "scripts do not see it"
    );
    let at = browser.client.current_url().await.unwrap();
    assert_eq!(at.as_str(), format!("{url}/console"));
    browser
        .until("!document.querySelector('#logout').hidden")
        .await;
    // A refused login is an answer that browsers log.
    let refusals = browser.complaints().await;
    let is_refusal = |entry: &Value| {
        entry["message"]
            .as_str()
            .is_some_and(|text| text.contains("401"))
    };
    assert!(refusals.iter().all(is_refusal), "{refusals:?}");

    server.stop().await;
    browser
        .until("document.querySelector('#live').innerText === 'not connected'")
        .await;
    // Its next life knows none of the sessions.
    let again = config().listen("127.0.0.1", address.port());
    let server = Server::start(again).await.unwrap();
    browser.until("document.querySelector('#token')").await;
    browser.client.clone().close().await.unwrap();
    server.stop().await;
    tokio::task::block_in_place(|| drop(redis));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_agents_are_shown_searched_and_told_anew_quickly() {
    let browser = browser!();
    let mut job = Job::large(1000);
    browser.client.goto(&job.console()).await.unwrap();
    browser
        .until("document.querySelector('#count').innerText === '1000 shown'")
        .await;
    let painted = browser.value("performance.getEntriesByType('paint').find((e) => e.name === 'first-contentful-paint').startTime").await;
    let shown = browser
        .value("performance.getEntriesByName('console-shown')[0].startTime")
        .await;
    assert_eq!(
        browser
            .value("document.querySelectorAll('.node').length")
            .await,
        1000
    );
    assert_eq!(
        browser
            .value("document.querySelectorAll('tbody tr').length")
            .await,
        100
    );
    let watch = "(window.longest = 0, new PerformanceObserver((list) => { for (const task of list.getEntries()) window.longest = Math.max(window.longest, task.duration) }).observe({type: 'longtask'}))";
    browser.value(watch).await;
    for _ in 0..4 {
        job.tick();
        tokio::time::sleep(Duration::from_millis(1000)).await;
    }
    let draw = browser
        .value("performance.getEntriesByName('console-draw')[0].duration")
        .await;
    // Tasks shorter than 50 ms are not reported.
    let longest = browser.value("window.longest").await;
    browser.press("/").await;
    browser.press("worker:77 node-31").await;
    browser
        .until("document.querySelector('#count').innerText === '5 shown'")
        .await;
    println!(
        "1,000 agents: first paint after {painted} ms, all shown after {shown} ms; an update is drawn in {draw} ms, the longest task took {longest} ms (0: below 50)"
    );
    // A machine may be busy; the targets are 1,000 and 100.
    assert!(shown.as_f64().unwrap() < 5_000.0 && longest.as_f64().unwrap() < 1_000.0);
    browser.close(&job.server.url()).await;
}

/// Time that a process has computed for.
fn computed(process: i32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks = fields.split(' ').skip(11).take(2);
    let ticks: u64 = ticks.map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a figure: set SLIME_TEST_NANOCTRL to a nanoctrl that is built with --release"]
async fn a_console_that_is_open_takes_less_than_a_fiftieth_of_a_core_for_a_hundred_agents() {
    let browser = browser!();
    let mut job = Job::large(100);
    browser.client.goto(&job.console()).await.unwrap();
    browser
        .until("document.querySelector('#count').innerText === '100 shown'")
        .await;
    let port = job.server.port.to_string();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let processes = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_server = |process: &i32| {
        let command = std::fs::read_to_string(format!("/proc/{process}/cmdline"));
        command.is_ok_and(|command| {
            let mut words = command.split('\0');
            let is_nanoctrl = words.next().is_some_and(|word| word.ends_with("/nanoctrl"));
            is_nanoctrl && words.any(|word| word == port)
        })
    };
    let server = processes.into_iter().find(is_server).unwrap();
    let (start, before) = (std::time::Instant::now(), computed(server));
    for _ in 0..20 {
        job.tick();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let share = (computed(server) - before).as_secs_f64() / start.elapsed().as_secs_f64();
    println!(
        "100 agents and an open console: {:.2} % of a core",
        share * 100.0
    );
    assert!(share < 0.02, "{share}");
    browser.close(&job.server.url()).await;
}
