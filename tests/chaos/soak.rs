//! Everything at once: several drivers keep several workers busy, while by chance any of them is
//! killed or stopped, and the control plane with them.

mod plan;
mod report;

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use fastrand::Rng;
use tokio::time::sleep;

use crate::args::Args;
use crate::clock::Timestamp;
use crate::host::ProcessUsage;
use crate::process::Process;
use crate::stage::Stage;
use plan::Disturbance;
use report::Report;

const WORKERS: [&str; 3] = ["worker:0", "worker:1", "worker:2"];
const DRIVERS: [&str; 2] = ["driver:0", "driver:1"];
/// These live through all of it, so that what leaks adds up in them.
const SURVIVOR: usize = 0;
/// How long what the living hold may take to come back after the last disturbance.
const CALM: Duration = Duration::from_secs(3);

/// The processes of a soak.
struct Soak<'a> {
    stage: &'a Stage,
    workers: Vec<Process>,
    /// Each with its number.
    drivers: Vec<(Process, u64)>,
    report: Report,
}

pub(crate) fn run(args: &Args) -> ExitCode {
    let seed = args.seed.unwrap_or_else(|| Timestamp::now().0);
    let minutes = args.minutes.expect("the command line requires it");
    let time = Duration::from_secs_f64(minutes * 60.0);
    println!("--seed {seed}, {time:.0?}");
    let home = tempfile::tempdir().expect("a temporary directory can be made");
    let device = args.device();
    let is_good = actix::System::new().block_on(live(seed, time, home.path(), device));
    println!(
        "{}",
        if is_good {
            "1 passed, 0 failed"
        } else {
            "0 passed, 1 failed"
        }
    );
    if is_good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

async fn live(seed: u64, time: Duration, home: &Path, device: Option<String>) -> bool {
    let stage = Stage::set(home, device);
    let mut soak = Soak::begin(&stage).await;
    sleep(CALM).await;
    let before = soak.survivors();
    let mut chance = Rng::with_seed(seed);
    let began = Instant::now();
    while began.elapsed() < time {
        let (pause, disturbance) = plan::next(&mut chance, &WORKERS, &DRIVERS);
        sleep(pause).await;
        soak.take(disturbance).await;
    }
    sleep(CALM).await;
    let after = soak.survivors();
    let mut report = soak.end().await;
    report.leaks(&before, &after, &stage.forgotten_keys());
    report.print(&stage.account())
}

impl<'a> Soak<'a> {
    async fn begin(stage: &'a Stage) -> Self {
        let mut workers = Vec::new();
        for alias in WORKERS {
            workers.push(stage.worker(alias).await);
        }
        let mut drivers = Vec::new();
        for alias in DRIVERS {
            drivers.push(stage.driver(alias, &WORKERS).await);
        }
        Self {
            stage,
            workers,
            drivers,
            report: Report::default(),
        }
    }

    async fn take(&mut self, disturbance: Disturbance) {
        match disturbance {
            Disturbance::KillWorker(which) => {
                let killed = self.workers[which].kill();
                let next = self.stage.worker(WORKERS[which]).await;
                self.report.worker_restarted(which, killed, next.registered);
                self.workers[which] = next;
            }
            Disturbance::KillDriver(which) => {
                self.drivers[which].0.kill();
                self.report.driver_killed(self.drivers[which].1);
                self.drivers[which] = self.stage.driver(DRIVERS[which], &WORKERS).await;
            }
            Disturbance::StopWorker(which, time) => {
                self.workers[which].freeze();
                sleep(time).await;
                self.workers[which].thaw();
                self.report.stops += 1;
            }
            Disturbance::RestartNanoCtrl(time) => {
                self.stage.servers.borrow_mut().stop();
                sleep(time).await;
                self.stage.servers.borrow_mut().serve();
                self.report.outages += 1;
            }
            Disturbance::RestartRedis(time) => {
                self.stage.servers.borrow_mut().redis.stop();
                sleep(time).await;
                self.stage.servers.borrow_mut().redis.restart();
                self.report.outages += 1;
            }
        }
    }

    /// What those hold that are never killed.
    fn survivors(&self) -> [ProcessUsage; 2] {
        [&self.workers[SURVIVOR], &self.drivers[SURVIVOR].0]
            .map(|process| ProcessUsage::by(process.pid()))
    }

    /// Lets all leave: the drivers first, so that their last calls are answered.
    async fn end(self) -> Report {
        let limit = self.stage.limits.anything;
        for (driver, _) in self.drivers {
            driver.leave(limit).await;
        }
        for worker in self.workers {
            worker.leave(limit).await;
        }
        self.report
    }
}
