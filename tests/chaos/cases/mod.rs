//! What is done to processes, case by case.

mod control_plane;
mod frozen;
mod killed_driver;
mod killed_worker;
mod leftovers;
mod link_down;
pub(crate) mod many_callers;
mod packet_loss;
mod panics;
mod restart_loop;
mod slow_reader;

use std::pin::Pin;
use std::process::ExitCode;

use crate::args::CaseArgs;
use crate::leash;
use crate::link::Dummy;
use crate::stage::Stage;
use support::DEVICE;

/// Exit status of a case that cannot be run here; it has said why.
pub(crate) const SKIPPED: u8 = 77;

/// See the [module](self).
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// In a few words.
    pub(crate) about: &'static str,
    needs: Needs,
    run: fn(&Stage) -> Pin<Box<dyn Future<Output = ()> + '_>>,
}

/// What a case cannot be run without.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    /// Root, and a soft-RoCE device on a network device that nothing else needs.
    Link,
    /// That, and `tc` with netem.
    Netem,
}

macro_rules! cases {
    ($($name:literal, $needs:ident, $run:path, $about:literal;)*) => {
        /// Those that take longest come first, as some are run side by side.
        pub(crate) const CASES: &[Case] = &[$(Case {
            name: $name,
            about: $about,
            needs: Needs::$needs,
            run: |stage| Box::pin($run(stage)),
        }),*];
    };
}

cases! {
    "control_plane", Nothing, control_plane::run,
        "kill -9 of NanoCtrl, then of Redis, which comes back empty: calls go on, and new agents can call again";
    "restart_loop", Nothing, restart_loop::run,
        "kill -9 of a worker twenty times, as soon as it answers: the driver loses no call and holds no more than before";
    "stopped_for_a_while", Nothing, frozen::for_a_while,
        "SIGSTOP of a worker for 5 s: stalled, not lost; deadlines hold; other calls are answered when it goes on";
    "stopped_for_ever", Nothing, frozen::for_ever,
        "SIGSTOP of a worker, then kill -9: stalled, then lost";
    "killed_worker", Nothing, killed_worker::run,
        "kill -9 of a worker under full load: calls end at once, and the proxy heals when it is back";
    "killed_driver", Nothing, killed_driver::run,
        "kill -9 of drivers under load: their worker gives back what it held for them and serves the next";
    "many_callers", Nothing, many_callers::run,
        "kill -9 of a tenth of all drivers each second (of 10, or of SLIME_CHAOS_CALLERS): the others go on";
    "slow_reader", Nothing, slow_reader::run,
        "a stream and replies that are held for seconds: other callers go on";
    "panics", Nothing, panics::run,
        "a worker that panics on every tenth request, under load: each call is answered exactly once";
    "leftovers", Nothing, leftovers::run,
        "after kills: no file, socket or key of the dead is left";
    "link_down", Link, link_down::run,
        "the network device of the RDMA device is taken down for 2 s: calls end typed or go on, and proxies heal";
    "packet_loss", Netem, packet_loss::run,
        "2 % of the packets are dropped: calls go on";
}

/// The process of a case.
pub(crate) fn run(args: &CaseArgs) -> ExitCode {
    let Some(case) = CASES.iter().find(|case| case.name == args.name) else {
        eprintln!("there is no case {}", args.name);
        return ExitCode::FAILURE;
    };
    let device = std::env::var(DEVICE).ok();
    if let Err(why) = case.needs.check(device.as_deref()) {
        return skipped(&why);
    }
    let why = actix::System::new().block_on(async {
        let _released = leash::tie().expect("a process can be tied to its parent");
        let stage = Stage::set(&args.dir, device);
        (case.run)(&stage).await;
        stage.take_skipped()
    });
    why.map_or(ExitCode::SUCCESS, |why| skipped(&why))
}

fn skipped(why: &str) -> ExitCode {
    println!("{why}");
    SKIPPED.into()
}

impl Needs {
    fn check(self, device: Option<&str>) -> Result<(), String> {
        if self == Self::Nothing {
            return Ok(());
        }
        let link = Dummy::of(device)?;
        if self == Self::Netem {
            link.check_netem()?;
        }
        Ok(())
    }
}
