//! Redis over TLS, with a private certificate authority: `--features tls`.
#![cfg(feature = "tls")]
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::json;
use slimerpc::control::{Control, NanoCtrl, Registration};
use slimerpc_actors::PeerAgent;
use support::{alone::test_process, free_port, wait_until};
use tempfile::TempDir;

/// Variables by which the tests below tell [`child`] what to do.
const NANOCTRL: &str = "SLIME_TEST_TLS_NANOCTRL";

/// A child process that does not outlive the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn openssl(folder: &Path, words: &str) {
    let mut command = Command::new("openssl");
    command.args(words.split_whitespace()).current_dir(folder);
    let output = command.output().unwrap();
    assert!(output.status.success(), "openssl {words}: {output:?}");
}

/// An authority, `ca.crt`, and a certificate for 127.0.0.1 that it has signed.
fn certificates() -> TempDir {
    let folder = TempDir::new().unwrap();
    let at = folder.path();
    openssl(
        at,
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -keyout ca.key -out ca.crt \
                 -subj /CN=authority",
    );
    openssl(
        at,
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout redis.key -out redis.csr -subj /CN=redis",
    );
    std::fs::write(at.join("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    openssl(
        at,
        "x509 -req -in redis.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out redis.crt",
    );
    folder
}

/// A Redis that speaks nothing but TLS and wants a password.
fn redis(folder: &Path) -> (Server, u16) {
    let port = free_port();
    let mut command = Command::new("redis-server");
    command.args([
        "--bind",
        "127.0.0.1",
        "--port",
        "0",
        "--tls-port",
        &port.to_string(),
    ]);
    command.args([
        "--tls-cert-file",
        "redis.crt",
        "--tls-key-file",
        "redis.key",
    ]);
    command.args(["--tls-ca-cert-file", "ca.crt", "--tls-auth-clients", "no"]);
    command.args(["--save", "", "--requirepass", "hunter2"]);
    command.current_dir(folder).stdout(Stdio::null());
    let server = Server(command.spawn().unwrap());
    wait_for(port);
    (server, port)
}

fn wait_for(port: u16) {
    wait_until("somebody listens", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
}

fn nanoctrl(redis: &str, authority: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nanoctrl"));
    command.env("SSL_CERT_FILE", authority);
    command.env("NANOCTRL_REDIS_URL", redis);
    command
}

/// Registers agents with the Redis that the environment names, publishes, and calls nobody.
#[actix::test]
#[ignore = "run by the others"]
async fn child() {
    let url = std::env::var(NANOCTRL).unwrap();
    let agent = NanoCtrl::new(&url, "").unwrap();
    let agent = agent.redis("rediss://:hunter2@").unwrap();
    let registration = Registration {
        alias: Some("a".to_owned()),
        address: "127.0.0.1".to_owned(),
        ..Registration::default()
    };
    if let Err(error) = agent.register(registration).await {
        return println!("refused: {error}");
    }
    agent.publish("ring", json!(1)).await.unwrap();
    println!("published {:?}", agent.lookup("a", "ring").await.unwrap());
    agent.clean_up().await.unwrap();
    // The environment's URL, without a host.
    let agent = PeerAgent::builder().nanoctrl(url).alias("b").device("shm0");
    agent.start().await.unwrap().shutdown().await.unwrap();
    println!("started");
}

fn run_child(url: &str, authority: &Path) -> String {
    let mut child = test_process(module_path!(), "child");
    child.env(NANOCTRL, url).env("SSL_CERT_FILE", authority);
    child.env("SLIME_RPC_REDIS_URL", "rediss://:hunter2@");
    let output = child.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    said
}

#[test]
fn server_and_agents_reach_a_redis_over_tls_that_a_private_authority_vouches_for() {
    let folder = certificates();
    let authority = folder.path().join("ca.crt");
    let (_redis, port) = redis(folder.path());
    let url = format!("rediss://:hunter2@127.0.0.1:{port}");
    let http = free_port();
    let mut server = nanoctrl(&url, &authority);
    server.args(["server", "--host", "127.0.0.1", "--port", &http.to_string()]);
    let _server = Server(server.stdout(Stdio::null()).spawn().unwrap());
    wait_for(http);
    let url = format!("http://127.0.0.1:{http}");
    let said = run_child(&url, &authority);
    assert!(
        said.contains("published Some(Number(1))") && said.contains("started"),
        "{said}"
    );

    // Another authority of the same name vouches for nothing here.
    let stranger = certificates();
    let said = run_child(&url, &stranger.path().join("ca.crt"));
    assert!(
        said.contains("refused: ") && said.contains("certificate"),
        "{said}"
    );
}

#[test]
fn a_server_does_not_start_with_a_redis_whose_certificate_nobody_vouches_for() {
    let (folder, stranger) = (certificates(), certificates());
    let (_redis, port) = redis(folder.path());
    let url = format!("rediss://:hunter2@127.0.0.1:{port}");
    let mut server = nanoctrl(&url, &stranger.path().join("ca.crt"));
    let output = server.args(["server", "--port", "0"]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        told.contains("rediss://127.0.0.1") && told.contains("certificate"),
        "{told}"
    );
    assert!(!told.contains("hunter"), "{told}");
}
