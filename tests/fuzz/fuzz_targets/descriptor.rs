//! Whatever a peer publishes of itself is a descriptor or an error; it can be checked, and survives
//! being published again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use slimerpc::channel::Descriptor;
use slimerpc::fabric::LinkType;

fuzz_target!(|record: &[u8]| {
    let Ok(theirs) = serde_json::from_slice::<Descriptor>(record) else {
        return;
    };
    let ours = [LinkType::Roce, LinkType::Tcp, LinkType::Shm];
    for tls in [false, true] {
        if let Ok(link) = theirs.link(&ours, &theirs.host, tls) {
            assert!(theirs.links.contains(&link) || theirs.more_links.contains(&link));
            assert!(link != LinkType::Tcp || theirs.tls == tls);
        }
    }
    for wanted in &theirs.services {
        if let Ok(table) = theirs.check_service(theirs.geometry, wanted) {
            for route in table.resolve(wanted).into_iter().flatten() {
                assert!((route.number as usize) < table.methods.len());
            }
        }
    }
    let again = serde_json::to_value(&theirs).expect("it has string keys only");
    assert_eq!(
        serde_json::from_value::<Descriptor>(again).ok(),
        Some(theirs)
    );
});
