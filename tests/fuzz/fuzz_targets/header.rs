//! Any slot holds a message or an error, and a header survives being written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use slimerpc::wire::Header;

fuzz_target!(|slot: &[u8]| {
    if let Ok((header, payload)) = Header::decode_compatible(slot) {
        assert!(payload.end <= slot.len());
        assert_eq!(payload.len(), header.payload_len as usize);
    }
    let Ok((header, payload)) = Header::decode(slot) else {
        return;
    };
    assert!(payload.end <= slot.len());
    assert_eq!(payload.len(), header.payload_len as usize);
    // Fields that we do not know are not written again, so it may be shorter.
    let mut again = vec![0; slot.len()];
    let at = header.encode(&mut again).expect("it fitted before");
    assert!(at <= payload.start);
    let (read, payload) = Header::decode(&again).expect("what we write, we read");
    assert_eq!(read, header);
    assert_eq!(payload.start, at);
});
