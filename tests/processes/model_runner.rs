//! The example `model_runner` as a user runs it: a driver and worker processes that are killed, and
//! what comes of it; and the parts of it that decide something.
#![allow(clippy::unwrap_used)]

#[allow(dead_code, unused_imports)]
#[path = "../../examples/digits/mod.rs"]
mod digits;
#[path = "../../examples/model_runner/resend.rs"]
mod resend;
#[path = "../../examples/processes/restarts.rs"]
mod restarts;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use digits::{Digits, Network};
use resend::{Repeat, is_worthwhile};
use restarts::{LIMIT, Restarts, WINDOW};
use rustix::process::{Signal, kill_process};
use slimerpc::channel::LossCause;
use slimerpc_actors::{Ran, RpcError};
use support::{job::Driver, wait_until};

/// So little work that it is soon done without optimisation, too.
const SMALL: [&str; 6] = ["--workers", "2", "--neurons", "64", "--batch", "32"];

fn start(words: &[&str]) -> Driver {
    Driver::start("model_runner", "model-runner", words)
}

/// The rows of an account: the name, and a value for each run.
fn account(out: &str) -> HashMap<String, Vec<String>> {
    let row = |line: &str| {
        // Cells are at least two blanks apart.
        let cells = line.split("  ").map(str::trim);
        let mut cells = cells.filter(|cell| !cell.is_empty()).map(str::to_owned);
        Some((cells.next()?, cells.collect()))
    };
    out.lines().filter_map(row).collect()
}

#[test]
fn killed_workers_lose_nothing_and_all_answer_as_a_single_process_does() {
    let words = ["--requests", "600", "--kill-every", "20ms"];
    let ended = start(&[&SMALL[..], &words].concat()).end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let account = account(&ended.out);
    for name in ["requests", "answered", "bit-equal to a single process's"] {
        assert_eq!(account[name], ["600", "600"], "{name}: {ended:?}");
    }
    assert_eq!(account["lost"], ["0", "0"]);
    let killed: u32 = account["killed"][1].parse().unwrap();
    assert!(killed > 0, "{ended:?}");
    assert_eq!(account["restarts"], account["killed"]);
    assert_eq!(account["accuracy"], account["accuracy of a single process"]);
    let accuracy: f64 = account["accuracy"][1].parse().unwrap();
    assert!(accuracy > 0.8, "{accuracy}");
}

#[test]
fn ctrl_c_answers_what_is_in_flight_and_ends_the_workers() {
    let mut driver = start(&[&SMALL[..], &["--requests", "10000000"]].concat());
    driver.wait_for_progress("without kills");
    assert_eq!(driver.left_behind().len(), 2, "two workers");
    driver.signal(Signal::INT);
    let ended = driver.end();
    assert_eq!(ended.code, Some(130), "{ended:?}");
    let account = account(&ended.out);
    assert_eq!(account["lost"], ["0"]);
    assert_eq!(account["answered"], account["requests"]);
    assert_ne!(account["answered"], ["0"]);
}

#[test]
fn a_driver_that_is_killed_takes_its_workers_with_it() {
    let mut driver = start(&[&SMALL[..], &["--requests", "10000000"]].concat());
    driver.wait_for_progress("without kills");
    // One of them can do nothing about it by itself.
    kill_process(driver.workers()[0], Signal::STOP).unwrap();
    driver.signal(Signal::KILL);
    driver.wait();
    driver.wait_for_others();
}

#[test]
fn a_worker_that_is_stopped_is_killed_and_its_requests_are_answered() {
    let mut driver = start(&[&SMALL[..], &["--requests", "10000000"]].concat());
    driver.wait_for_progress("without kills");
    let workers = driver.workers();
    kill_process(workers[0], Signal::STOP).unwrap();
    wait_until("another works in its place", || {
        let now = driver.workers();
        now.len() >= 2 && !now.contains(&workers[0])
    });
    driver.signal(Signal::INT);
    let ended = driver.end();
    let account = account(&ended.out);
    assert_eq!(account["lost"], ["0"], "{ended:?}");
    assert_ne!(account["retried"], ["0"], "what it had was sent again");
}

#[test]
fn workers_that_cannot_start_are_given_up() {
    let ended = start(&[&SMALL[..], &["--program", "/bin/false"]].concat()).end();
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""));
    for words in ["worker 1 is given up after 5 restarts", "exit status: 1"] {
        assert!(ended.err.contains(words), "{}", ended.err);
    }
}

#[test]
fn what_makes_no_sense_is_refused_at_once() {
    let refused = [
        ["--workers", "0"],
        ["--workers", "65"],
        ["--requests", "0"],
        ["--requests", "99999999999"],
        ["--batch", "361"],
        ["--neurons", "0"],
        ["--kill-every", "soon"],
        ["--kill-every", "0ms"],
        ["--kill-every", "NaNs"],
        ["--kill-every", "1e300m"],
    ];
    for words in refused {
        let ended = start(&words).end();
        assert_eq!(ended.code, Some(2), "{words:?}");
        assert!(ended.err.contains(words[1]), "{}", ended.err);
    }
    let ended = start(&["--device", "nope0"]).end();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("`nope0`"), "{}", ended.err);
}

#[test]
fn what_may_have_been_run_is_sent_again_only_if_that_is_harmless() {
    let lost = |ran| RpcError::PeerLost {
        method: "generate".to_owned(),
        peer: "worker:0".to_owned(),
        cause: LossCause::Gone,
        ran,
    };
    assert!(is_worthwhile(&lost(Ran::No), Repeat::Harmful));
    assert!(!is_worthwhile(&lost(Ran::Unknown), Repeat::Harmful));
    assert!(is_worthwhile(&lost(Ran::Unknown), Repeat::Harmless));
    // Nobody else would take it either.
    let too_large = RpcError::TooLarge { size: 2, limit: 1 };
    assert!(!is_worthwhile(&too_large, Repeat::Harmless));
}

#[test]
fn restarts_wait_longer_each_time_and_end_unless_a_life_was_useful() {
    let (mut restarts, now) = (Restarts::default(), Instant::now());
    let pauses: Vec<_> = (0..LIMIT).map(|_| restarts.after(false, now)).collect();
    assert!(pauses.iter().all(Option::is_some));
    assert!(pauses.is_sorted_by(|one, next| one < next), "{pauses:?}");
    assert_eq!(restarts.after(false, now), None);
    assert_eq!(restarts.after(false, now + WINDOW), pauses[0]);

    assert_eq!(restarts.after(true, now), Some(Duration::ZERO));
    assert_eq!(restarts.after(false, now), pauses[0]);
}

#[test]
fn images_are_parsed_with_checks() {
    let image = "0123456789abcdefg".repeat(4)[..64].to_owned();
    let digits = Digits::parse(&format!("{image} 7\n{image} 0\n")).unwrap();
    assert_eq!((digits.len(), digits.labels()), (2, &[7, 0][..]));
    assert_eq!(
        digits.pixels()[..17],
        std::array::from_fn::<u8, 17, _>(|at| at as u8)
    );

    let refused = |text: &str, part: &str| {
        let error = Digits::parse(text).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    refused("\n", "line 1");
    refused(&format!("{image} 1\n{image}0 1"), "line 2");
    refused(&format!("{image}1"), "a space");
    refused(&format!("{image} 10"), "\"10\"");
    refused(&format!("{image} "), "no digit");
    refused(&format!("{} 1", image.replacen('3', "h", 1)), "'h'");
    refused(&format!("{}é 1", &image[1..]), "'é'");
}

#[test]
fn weights_travel_unchanged_and_others_are_refused() {
    let network = Network::new(3, 1).unwrap();
    let bytes = network.to_bytes();
    assert_eq!(Network::from_bytes(3, &bytes).unwrap(), network);
    let refused = |neurons, bytes: &[u8], part: &str| {
        let error = Network::from_bytes(neurons, bytes).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    refused(0, &[], "not 0");
    refused(usize::MAX, &bytes, "hidden neurons");
    refused(4, &bytes, "4 hidden neurons");
    refused(3, &bytes[1..], "bytes are not");
    let nan = [&bytes[..8], &f32::NAN.to_le_bytes(), &bytes[12..]].concat();
    refused(3, &nan, "weight 2 is NaN");
}

#[test]
fn a_gradient_is_what_the_loss_does_nearby() {
    let (seen, unseen) = Digits::load().unwrap();
    assert_eq!((seen.len(), unseen.len()), (1437, 360));
    let loss = |network: &Network| -> f64 {
        let scores = network.scores(unseen.pixels());
        let losses = scores.iter().zip(unseen.labels()).map(|(scores, &label)| {
            let sum: f64 = scores.iter().map(|&score| f64::from(score).exp()).sum();
            sum.ln() - f64::from(scores[usize::from(label)])
        });
        losses.sum::<f64>() / unseen.len() as f64
    };
    let mut network = Network::new(8, 1).unwrap();
    let gradient = network.gradient(&unseen);
    let values = gradient.to_bytes();
    let values = values
        .as_chunks()
        .0
        .iter()
        .map(|&bytes| f32::from_le_bytes(bytes));
    let square: f64 = values.map(|value| f64::from(value).powi(2)).sum();
    let before = loss(&network);
    const RATE: f32 = 1e-3;
    network.step(&gradient, RATE);
    let expected = f64::from(RATE) * square;
    let fell = before - loss(&network);
    assert!(
        (fell / expected - 1.0).abs() < 0.05,
        "{fell} for {expected}"
    );
}
