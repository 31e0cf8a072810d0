//! A plain actix actor in this process, on a thread of its own: what a call costs that leaves no
//! process.

use actix::prelude::*;

use super::Peer;
use crate::measure::{self, Echo, Job, Window};
use crate::support::Result;
use crate::table::Report;

pub(super) const PEER: Peer = Peer {
    name: "actix-local",
    bytes: "one process, two threads; no codec; copied once, by the caller, then moved there and back; both sleep",
    serve: None,
    measure,
};

struct Echoing;

impl Actor for Echoing {
    type Context = Context<Self>;
}

#[derive(Message)]
#[rtype(result = "Vec<u8>")]
struct Bytes(Vec<u8>);

impl Handler<Bytes> for Echoing {
    type Result = Vec<u8>;

    fn handle(&mut self, Bytes(bytes): Bytes, _: &mut Context<Self>) -> Vec<u8> {
        bytes
    }
}

struct Caller {
    system: SystemRunner,
    addr: Addr<Echoing>,
}

impl Echo for Caller {
    fn echo(&mut self, request: &[u8]) -> Result<impl AsRef<[u8]>> {
        let sending = self.addr.send(Bytes(request.to_vec()));
        Ok(self.system.block_on(sending)?)
    }

    fn many(&mut self, request: &[u8], window: &mut Window) -> Result<()> {
        self.system.block_on(window.fill(|| {
            let sending = self.addr.send(Bytes(request.to_vec()));
            async { Ok(sending.await.map(drop)?) }
        }))
    }
}

fn measure(job: &Job, report: &mut Report) -> Result<()> {
    let system = System::new();
    let arbiter = system.block_on(async { Arbiter::new() });
    let addr = Echoing::start_in_arbiter(&arbiter.handle(), |_| Echoing);
    let mut caller = Caller { system, addr };
    let measured = measure::all(job, &mut caller, report);
    arbiter.stop();
    let _ = arbiter.join();
    measured
}
