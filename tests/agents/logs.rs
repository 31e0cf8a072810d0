//! What agents log.
#![allow(clippy::unwrap_used)]

use std::process::Output;

use slimerpc_actors::{PeerAgent, service};
use support::alone::test_process;

struct Calc;

#[service]
impl Calc {
    #[method]
    fn add(&mut self, a: i64, b: i64) -> i64 {
        a + b
    }
}

/// A program that sets up nothing; other tests run it.
#[actix::test]
#[ignore = "run by the others"]
async fn a_pair_of_agents() {
    let worker = PeerAgent::builder().alias("logged:worker");
    let worker = worker.start().await.unwrap();
    worker.serve(Calc).await.unwrap();
    let driver = PeerAgent::builder().alias("logged:driver");
    let driver = driver.start().await.unwrap();
    let calc = driver.proxy::<Calc>("logged:worker").await.unwrap();
    for number in 0..100 {
        assert_eq!(calc.add(number, 1).await, Ok(number + 1));
    }
    driver.shutdown().await.unwrap();
    worker.shutdown().await.unwrap();
}

fn logged(level: Option<&str>) -> String {
    let mut command = test_process(module_path!(), "a_pair_of_agents");
    command.env_remove("SLIME_RPC_LOG");
    command.envs(level.map(|level| ("SLIME_RPC_LOG", level)));
    let Output { status, stderr, .. } = command.output().unwrap();
    let said = String::from_utf8_lossy(&stderr).into_owned();
    assert!(status.success(), "{said}");
    said
}

#[test]
fn a_program_that_sets_up_nothing_logs_what_the_variable_says() {
    let said = logged(Some("info"));
    for (line, fields) in [
        ("agent registered", &["alias", "control", "devices"][..]),
        ("connected", &["peer", "service", "fabric"]),
        ("agent leaves", &["alias"]),
    ] {
        let found = said.lines().find(|it| it.contains(&format!("{line} ")));
        let found = found.unwrap_or_else(|| panic!("{line} is not logged: {said}"));
        for field in fields {
            assert!(found.contains(field), "{field}: {found}");
        }
    }
    // 100 calls leave no trace.
    assert!(said.lines().count() < 20, "{said}");
    assert_eq!(logged(None), "");
}
