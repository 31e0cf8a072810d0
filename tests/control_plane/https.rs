//! NanoCtrl over TLS: its server, agents and commands, with certificates that fit and others:
//! `--features tls`.
#![cfg(feature = "tls")]
#![allow(clippy::unwrap_used)]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use slimerpc::control::{ClientTls, ControlError, NanoCtrl};
use slimerpc::nanoctrl::{Config, Server, ServerTls, StartError};
use slimerpc::tls::{CertificateProblem, TlsError};
use slimerpc_actors::{AgentError, PeerAgent};
use support::certificates::{Authority, Issued};
use support::{Redis, free_port};
use tempfile::TempDir;

const HERE: &str = "IP:127.0.0.1";

fn files(issued: &Issued, client_ca: Option<PathBuf>) -> ServerTls {
    let Issued { cert, key } = issued.clone();
    ServerTls {
        cert,
        key,
        client_ca,
    }
}

/// A server in this process with a Redis of its own.
struct Served {
    server: Server,
    _redis: Redis,
}

impl Served {
    async fn with(tls: ServerTls) -> Self {
        let redis = Redis::start();
        let config = Config::with_redis(redis.url()).tls(tls);
        Self {
            server: Server::start(config).await.unwrap(),
            _redis: redis,
        }
    }

    fn url(&self) -> String {
        format!("https://{}", self.server.address())
    }
}

fn trusting(authority: &Authority) -> ClientTls {
    ClientTls {
        ca: Some(authority.ca()),
        ..ClientTls::default()
    }
}

fn showing(authority: &Authority, issued: &Issued) -> ClientTls {
    ClientTls {
        ca: Some(authority.ca()),
        cert: Some(issued.cert.clone()),
        key: Some(issued.key.clone()),
    }
}

/// Asks the server once.
async fn ask(url: &str, tls: &ClientTls) -> Result<(), ControlError> {
    let control = NanoCtrl::new(url, "").unwrap().tls(tls)?;
    control.list_agents().await.map(drop)
}

async fn refused(url: &str, tls: &ClientTls) -> TlsError {
    match ask(url, tls).await {
        Err(ControlError::Tls { error, .. }) => error,
        other => panic!("{other:?}"),
    }
}

#[actix::test]
async fn agents_meet_over_tls_with_a_private_authority_and_certificates_of_their_own() {
    let authority = Authority::new();
    let server = authority.issue("ctrl", HERE);
    let ours = authority.issue("agent", "DNS:agent");
    let served = Served::with(files(&server, Some(authority.ca()))).await;
    let url = served.url();
    let start = |alias: &str| {
        let builder = PeerAgent::builder().nanoctrl(&url).alias(alias);
        builder
            .nanoctrl_tls(showing(&authority, &ours))
            .device("shm0")
            .start()
    };
    let (a, b) = (start("a").await.unwrap(), start("b").await.unwrap());
    let mut command = Command::new(env!("CARGO_BIN_EXE_nanoctrl"));
    command.args(["agents", "--json", "--address", &url]);
    command.env("NANOCTRL_CA", authority.ca());
    command.env("NANOCTRL_CERT", &ours.cert);
    command.env("NANOCTRL_KEY", &ours.key);
    // The server's connection to Redis lives on this thread.
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = output.await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let listed: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(listed.len(), 2, "{listed:?}");
    a.shutdown().await.unwrap();
    b.shutdown().await.unwrap();
}

#[actix::test]
async fn each_thing_that_is_wrong_with_a_servers_certificate_is_an_error_of_its_own() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let trusted = trusting(&authority);
    let over = async |issued| {
        let served = Served::with(files(&issued, None)).await;
        let url = served.url();
        (served, url)
    };
    let (_good, url) = over(authority.issue("good", HERE)).await;
    ask(&url, &trusted).await.unwrap();
    assert_eq!(
        refused(&url, &trusting(&stranger)).await,
        TlsError::Theirs(CertificateProblem::UnknownAuthority)
    );
    // Without a setting, what the system trusts.
    let error = ask(&url, &ClientTls::default()).await.unwrap_err();
    assert!(error.to_string().contains("NANOCTRL_CA"), "{error}");

    let (_old, url) = over(authority.issue_expired("old", HERE)).await;
    assert_eq!(
        refused(&url, &trusted).await,
        TlsError::Theirs(CertificateProblem::Expired)
    );
    let (_elsewhere, url) = over(authority.issue("elsewhere", "DNS:elsewhere")).await;
    let error = refused(&url, &trusted).await;
    let TlsError::Theirs(CertificateProblem::WrongName(detail)) = error else {
        panic!("{error}");
    };
    assert!(detail.contains("elsewhere"), "{detail}");
    // An agent's start does not wait for what will not pass.
    let builder = PeerAgent::builder().nanoctrl(url).nanoctrl_tls(trusted);
    let error = builder.device("shm0").start().await.unwrap_err();
    assert!(
        matches!(error, AgentError::Control(ControlError::Tls { .. })),
        "{error}"
    );
}

#[actix::test]
async fn a_server_that_wants_certificates_says_what_is_wrong_with_ours() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let good = authority.issue("good", HERE);
    let served = Served::with(files(&good, Some(authority.ca()))).await;
    let url = served.url();
    let with = |issued: &Issued| showing(&authority, issued);
    ask(&url, &with(&good)).await.unwrap();
    for (tls, problem) in [
        (trusting(&authority), CertificateProblem::Missing),
        (
            with(&stranger.issue("stranger", HERE)),
            CertificateProblem::UnknownAuthority,
        ),
        (
            with(&authority.issue_expired("old", HERE)),
            CertificateProblem::Expired,
        ),
    ] {
        assert_eq!(refused(&url, &tls).await, TlsError::Ours(problem));
    }
}

fn assert_speaks_no_tls(error: ControlError) {
    let told = error.to_string();
    assert!(
        matches!(
            error,
            ControlError::Tls {
                error: TlsError::Handshake(_),
                ..
            }
        ) && told.contains("http://"),
        "{told}"
    );
}

#[actix::test]
async fn a_url_of_the_wrong_scheme_is_an_error_that_names_the_other() {
    let authority = Authority::new();
    let redis = Redis::start();
    let plain = Server::start(Config::with_redis(redis.url())).await;
    let plain = plain.unwrap();
    let url = format!("https://{}", plain.address());
    assert_speaks_no_tls(ask(&url, &trusting(&authority)).await.unwrap_err());
    let served = Served::with(files(&authority.issue("ctrl", HERE), None)).await;
    let url = format!("http://{}", served.server.address());
    let error = ask(&url, &ClientTls::default()).await.unwrap_err();
    assert!(
        matches!(error, ControlError::NotHttp { .. }) && error.to_string().contains("https://"),
        "{error}"
    );
}

#[actix::test]
async fn an_address_without_a_scheme_means_tls_to_those_who_have_an_authority() {
    let authority = Authority::new();
    let trusted = trusting(&authority);
    let served = Served::with(files(&authority.issue("ctrl", HERE), None)).await;
    let address = served.server.address().to_string();
    ask(&address, &trusted).await.unwrap();
    let builder = PeerAgent::builder().nanoctrl(&address).device("shm0");
    let agent = builder.nanoctrl_tls(trusted.clone()).start().await.unwrap();
    agent.shutdown().await.unwrap();
    let port = served.server.address().port().to_string();
    for words in [["--host", "127.0.0.1"], ["--address", &address]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nanoctrl"));
        command.arg("agents").args(words);
        if words[0] == "--host" {
            command.args(["--port", &port]);
        }
        command.env("NANOCTRL_CA", authority.ca());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap());
        let output = output.await.unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    // A server that does not speak TLS is not talked to in the clear instead.
    let redis = Redis::start();
    let plain = Server::start(Config::with_redis(redis.url())).await;
    let plain = plain.unwrap();
    let address = plain.address().to_string();
    assert_speaks_no_tls(ask(&address, &trusted).await.unwrap_err());
    ask(&address, &ClientTls::default()).await.unwrap();
}

#[actix::test]
async fn a_file_that_cannot_be_used_is_named_with_its_setting_on_both_sides() {
    let (authority, other) = (Authority::new(), Authority::new());
    let good = authority.issue("good", HERE);
    let missing = authority.at("missing");
    let nonsense = authority.at("nonsense");
    fs::write(&nonsense, "-----BEGIN CERTIFICATE-----\n!\n").unwrap();
    let alien = other.issue("alien", HERE).key;
    let pair = |cert: &PathBuf, key: &PathBuf| Issued {
        cert: cert.clone(),
        key: key.clone(),
    };
    let cases = [
        (pair(&missing, &good.key), None, "--tls-cert", &missing),
        (pair(&nonsense, &good.key), None, "--tls-cert", &nonsense),
        (pair(&good.cert, &missing), None, "--tls-key", &missing),
        (pair(&good.cert, &good.cert), None, "--tls-key", &good.cert),
        (pair(&good.cert, &alien), None, "--tls-key", &alien),
        (
            good.clone(),
            Some(nonsense.clone()),
            "--tls-client-ca",
            &nonsense,
        ),
        (
            good.clone(),
            Some(good.key.clone()),
            "--tls-client-ca",
            &good.key,
        ),
    ];
    let redis = Redis::start();
    for (issued, client_ca, setting, path) in cases {
        let config = Config::with_redis(redis.url()).tls(files(&issued, client_ca));
        let error = Server::start(config).await.unwrap_err();
        assert!(matches!(error, StartError::TlsFile(_)), "{error}");
        let (text, path) = (error.to_string(), path.to_str().unwrap());
        assert!(text.contains(setting) && text.contains(path), "{text}");
    }
    let url = "https://127.0.0.1:1";
    let lonely = ClientTls {
        cert: Some(good.cert.clone()),
        ..ClientTls::default()
    };
    for (tls, setting) in [
        (
            ClientTls {
                ca: Some(missing),
                ..ClientTls::default()
            },
            "NANOCTRL_CA",
        ),
        (
            showing(&authority, &pair(&nonsense, &good.key)),
            "NANOCTRL_CERT",
        ),
        (
            showing(&authority, &pair(&good.cert, &alien)),
            "NANOCTRL_KEY",
        ),
        (lonely, "NANOCTRL_KEY"),
    ] {
        let error = ask(url, &tls).await.unwrap_err();
        assert!(matches!(error, ControlError::TlsFile(_)), "{error}");
        assert!(error.to_string().contains(setting), "{error}");
    }
}

/// Puts one file into the place of another at once, as those do it who renew certificates.
fn replace(path: &Path, with: &Path) {
    let next = path.with_extension("next");
    fs::copy(with, &next).unwrap();
    fs::rename(&next, path).unwrap();
}

#[actix::test]
async fn certificates_of_a_server_are_replaced_while_it_runs_and_bad_ones_change_nothing() {
    let (old, new) = (Authority::new(), Authority::new());
    let (was, becomes) = (old.issue("ctrl", HERE), new.issue("ctrl", HERE));
    let [client, other] = [&old, &new].map(|authority| authority.issue("client", "DNS:client"));
    let clients = old.at("clients");
    fs::copy(old.ca(), &clients).unwrap();
    let served = Served::with(files(&was, Some(clients.clone()))).await;
    let url = served.url();
    let sees = async |authority: &Authority, shown: &Issued| {
        // Each asks over a connection of its own.
        ask(&url, &showing(authority, shown)).await.is_ok()
    };
    assert!(sees(&old, &client).await && !sees(&new, &client).await);
    // Half a file, and a certificate without its key.
    let whole = fs::read(&was.cert).unwrap();
    fs::write(&was.cert, &whole[..whole.len() / 2]).unwrap();
    assert!(sees(&old, &client).await);
    replace(&was.cert, &becomes.cert);
    assert!(sees(&old, &client).await && !sees(&new, &client).await);
    replace(&was.key, &becomes.key);
    assert!(sees(&new, &client).await && !sees(&old, &client).await);
    // Now those of other callers.
    assert!(!sees(&new, &other).await);
    fs::write(&clients, "nobody").unwrap();
    assert!(sees(&new, &client).await && !sees(&new, &other).await);
    replace(&clients, &new.ca());
    assert!(sees(&new, &other).await && !sees(&new, &client).await);
}

#[actix::test]
async fn files_of_a_client_are_replaced_while_it_runs_and_bad_ones_change_nothing() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = authority.issue("ctrl", HERE);
    let served = Served::with(files(&server, Some(authority.ca()))).await;
    let tls = showing(&other, &other.issue("client", "DNS:client"));
    let control = NanoCtrl::new(&served.url(), "").unwrap().tls(&tls).unwrap();
    let refused = async || match control.list_agents().await {
        Err(ControlError::Tls { error, .. }) => error,
        answer => panic!("{answer:?}"),
    };
    let unknown = CertificateProblem::UnknownAuthority;
    assert_eq!(refused().await, TlsError::Theirs(unknown.clone()));
    let [ca, cert, key] = [&tls.ca, &tls.cert, &tls.key].map(|path| path.as_ref().unwrap());
    fs::write(ca, "nobody").unwrap();
    assert_eq!(refused().await, TlsError::Theirs(unknown.clone()));
    replace(ca, &authority.ca());
    assert_eq!(refused().await, TlsError::Ours(unknown));
    let ours = authority.issue("client", "DNS:client");
    replace(key, &ours.key);
    replace(cert, &ours.cert);
    control.list_agents().await.unwrap();
}

/// A user of the command line, with nothing else in the environment.
struct User {
    home: TempDir,
    redis: Redis,
    port: u16,
}

impl User {
    fn run(&self, words: &[&str], variables: &[(&str, PathBuf)]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nanoctrl"));
        command.args(words).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap());
        command.env("NANOCTRL_RUNTIME_DIR", self.home.path());
        command.env("NANOCTRL_REDIS_URL", self.redis.url());
        command.envs(variables.iter().cloned());
        command.output().unwrap()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        self.run(&["stop", "--force"], &[]);
    }
}

#[test]
fn the_command_line_starts_asks_and_examines_a_server_over_tls() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let Issued { cert, key } = authority.issue("ctrl", HERE);
    let user = User {
        home: TempDir::new().unwrap(),
        redis: Redis::start(),
        port: free_port(),
    };
    let [cert, key] = [cert, key].map(|path| path.to_str().unwrap().to_owned());
    let port = user.port.to_string();
    let start = ["start", "--host", "127.0.0.1", "--port", &port];
    let tls = ["--tls-cert", &cert, "--tls-key", &key];
    let text = |output: &Output| {
        let [out, err] = [&output.stdout, &output.stderr].map(|it| String::from_utf8_lossy(it));
        format!("{out}{err}")
    };

    let output = user.run(&[&start[..], &tls[..2]].concat(), &[]);
    assert!(!output.status.success() && text(&output).contains("--tls-key"));
    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    let output = user.run(&[&start[..], &tls].concat(), &[]);
    let log = fs::read_to_string(user.home.path().join("nanoctrl.log")).unwrap();
    assert_eq!(log.matches(&format!("chmod 600 {key}")).count(), 1, "{log}");
    let url = format!("https://127.0.0.1:{port}");
    assert!(
        text(&output).contains(&format!("address: {url}")),
        "{}",
        text(&output)
    );

    let trusted = [("NANOCTRL_CA", authority.ca())];
    let other = [("NANOCTRL_CA", stranger.ca())];
    let output = user.run(&["status"], &trusted);
    assert!(text(&output).contains("health: ok"), "{}", text(&output));
    let output = user.run(&["status"], &other);
    assert!(text(&output).contains("authority"), "{}", text(&output));
    // The address is that of the started server.
    for list in ["agents", "services"] {
        let output = user.run(&[list], &trusted);
        assert!(output.status.success(), "{}", text(&output));
        let output = user.run(&[list], &other);
        let said = text(&output);
        assert!(
            !output.status.success() && said.contains("NANOCTRL_CA"),
            "{said}"
        );
    }
    let examined = |variables: &[_]| {
        let output = user.run(&["doctor", "--json", "--address", &url], variables);
        let findings: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        let found = findings.into_iter().find(|it| it["check"] == "NanoCtrl");
        found.unwrap()
    };
    assert_eq!(examined(&trusted)["severity"], "ok");
    let found = examined(&other);
    assert_eq!(found["severity"], "problem");
    let remedy = found["remedy"].as_str().unwrap();
    assert!(remedy.contains("NANOCTRL_CA"), "{found}");
    let output = user.run(&["stop"], &[]);
    assert!(
        text(&output).contains("nanoctrl stopped"),
        "{}",
        text(&output)
    );
}
