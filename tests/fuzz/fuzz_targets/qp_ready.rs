//! Whatever a DLSlime peer tells of its queue pairs can be used or is an error, and survives being
//! told by us.
#![no_main]

use libfuzzer_sys::fuzz_target;
use slimerpc::control::Mail;
use slimerpc_actors::fuzzing;

fuzz_target!(|fields: (&str, Option<&str>)| {
    let (info, meta) = fields;
    let mail = Mail::new("qp_ready")
        .with("peer", "worker:0")
        .with("qp_info", info);
    let mail = match meta {
        Some(meta) => mail.with("conn_meta", meta),
        None => mail,
    };
    fuzzing::read_qp_ready(&mail);
});
