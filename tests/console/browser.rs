//! Chromium, driven over WebDriver.
#![allow(clippy::unwrap_used)]

use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use fantoccini::elements::Element;
use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use url::{ParseError, Url};

/// How long a page may take to show something.
const PATIENCE: Duration = Duration::from_secs(20);

/// A browser with one page.
pub(crate) struct Browser {
    pub(crate) client: Client,
    /// Dropped last.
    _driver: Driver,
}

/// The process that drives the browser; the browser ends with it.
struct Driver(Child);

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Installs what is missing, once for all tests; says why if that fails.
fn install() -> Result<(), String> {
    static INSTALLED: OnceLock<Result<(), String>> = OnceLock::new();
    INSTALLED.get_or_init(try_install).clone()
}

fn try_install() -> Result<(), String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../packages");
    let packages = ["chromium", "chromium-driver", "fonts-dejavu-core"];
    let installed = Command::new(script).args(packages).status();
    match installed {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!(
            "chromium and chromium-driver cannot be installed: {status}"
        )),
        Err(error) => Err(format!("{script} does not start: {error}")),
    }
}

impl Browser {
    /// Starts one; `None`, with a line that says why, if there is none for this machine.
    pub(crate) async fn start() -> Option<Self> {
        if let Err(reason) = tokio::task::block_in_place(install) {
            println!("skipped: {reason}");
            return None;
        }
        let port = support::free_port();
        let driver = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "chromedriver"])
            .arg(format!("--port={port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver is installed");
        let driver = Driver(driver);
        let start = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            assert!(start.elapsed() < PATIENCE, "chromedriver does not listen");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let capabilities = json!({
            "goog:chromeOptions": {"args": [
                "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
                "--disable-background-networking", "--no-first-run", "--window-size=1280,900",
            ]},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        });
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities.as_object().unwrap().clone())
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .unwrap();
        Some(Self {
            client,
            _driver: driver,
        })
    }

    /// Closes the browser. Fails if a page has complained, or asked another server than this.
    pub(crate) async fn close(self, server: &str) {
        self.check(server).await;
        self.client.close().await.unwrap();
    }

    /// Fails if a page has complained since the last look, or asked another server than this.
    pub(crate) async fn check(&self, server: &str) {
        assert_eq!(self.complaints().await, Vec::<Value>::new());
        let requests = self.log("performance").await;
        let asked = requests.iter().filter_map(|entry| {
            let message: Value = serde_json::from_str(entry["message"].as_str()?).ok()?;
            let message = &message["message"];
            let is_request = message["method"] == "Network.requestWillBeSent";
            let url = message["params"]["request"]["url"].as_str()?.to_owned();
            is_request.then_some(url)
        });
        let asked: Vec<String> = asked.collect();
        assert!(!asked.is_empty(), "requests are no longer found");
        let elsewhere = |url: &&String| !url.starts_with(server) && !url.starts_with("data:");
        assert_eq!(asked.iter().find(elsewhere), None);
    }

    /// What a page has complained of since the last look. What a browser recommends is no
    /// complaint.
    pub(crate) async fn complaints(&self) -> Vec<Value> {
        let mut complaints = self.log("browser").await;
        complaints.retain(|entry| entry["level"] != "DEBUG");
        complaints
    }

    /// What has been logged since the last look.
    async fn log(&self, kind: &str) -> Vec<Value> {
        let answer = self.command("se/log", json!({ "type": kind })).await;
        serde_json::from_value(answer).unwrap()
    }

    /// Gives the page so many pixels.
    pub(crate) async fn resize(&self, width: u32, height: u32) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.devtools("Emulation.setDeviceMetricsOverride", size)
            .await;
    }

    /// Sets what the page learns of its user's wishes.
    pub(crate) async fn prefer(&self, features: &[(&str, &str)]) {
        let features = features.iter();
        let features: Vec<_> = features
            .map(|(name, value)| json!({"name": name, "value": value}))
            .collect();
        let features = json!({ "features": features });
        self.devtools("Emulation.setEmulatedMedia", features).await;
    }

    async fn devtools(&self, command: &str, params: Value) {
        let body = json!({"cmd": command, "params": params});
        self.command("goog/cdp/execute", body).await;
    }

    async fn command(&self, path: &'static str, body: Value) -> Value {
        let command = DriverCommand { path, body };
        self.client.issue_cmd(command).await.unwrap()
    }

    /// The value of an expression in the page.
    pub(crate) async fn value(&self, expression: &str) -> Value {
        let script = format!("return {expression};");
        self.client.execute(&script, Vec::new()).await.unwrap()
    }

    /// Waits until an expression in the page is true.
    #[track_caller]
    pub(crate) fn until(&self, expression: &str) -> impl Future<Output = ()> {
        self.until_within(expression, PATIENCE)
    }

    #[track_caller]
    pub(crate) fn until_within(
        &self,
        expression: &str,
        patience: Duration,
    ) -> impl Future<Output = ()> {
        let at = std::panic::Location::caller();
        async move {
            let start = Instant::now();
            while self.value(&format!("Boolean({expression})")).await != json!(true) {
                if start.elapsed() > patience {
                    let text = self.value("document.body.innerText").await;
                    panic!(
                        "{at}: not so after {patience:?}: {expression}\n{text}\n{:?}",
                        self.log("browser").await
                    );
                }
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
        }
    }

    pub(crate) async fn find(&self, selector: &str) -> Element {
        self.client.find(Locator::Css(selector)).await.unwrap()
    }

    /// Presses keys, wherever the focus is.
    pub(crate) async fn press(&self, keys: &str) {
        let focused = self.client.active_element().await.unwrap();
        focused.send_keys(keys).await.unwrap();
    }
}

/// A command beside the standard.
#[derive(Debug)]
struct DriverCommand {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for DriverCommand {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, ParseError> {
        let session = session.unwrap_or_default();
        base.join(&format!("session/{session}/{}", self.path))
    }

    fn method_and_body(&self, _: &Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(self.body.to_string()))
    }
}
