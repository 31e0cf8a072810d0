//! Whatever is registered as a service is one or an error, and what is read survives being
//! registered.
#![no_main]

use libfuzzer_sys::fuzz_target;
use slimerpc::control::{Entity, ServiceRecord};

fuzz_target!(|metadata: &[u8]| {
    let Ok(metadata) = serde_json::from_slice(metadata) else {
        return;
    };
    let entity = Entity {
        id: "id".to_owned(),
        kind: ServiceRecord::KIND.to_owned(),
        metadata,
    };
    let Ok(record) = ServiceRecord::read(&entity) else {
        return;
    };
    // What it says of its process may be anything.
    let _ = (record.is_on_this_host(), record.is_gone());
    assert_eq!(ServiceRecord::read(&record.entity("id")), Ok(record));
});
