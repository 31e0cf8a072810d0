//! Any bytes behind a header that announces a block are one or an error, and what is read survives
//! being written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use slimerpc::wire::Header;

const EXTENSION: u32 = 1 << 26;

fuzz_target!(|block: &[u8]| {
    let total = Header::LEN + block.len();
    let mut slot = vec![0; total];
    slot[..4].copy_from_slice(&EXTENSION.to_le_bytes());
    slot[4..8].copy_from_slice(&(total as u32).to_le_bytes());
    slot[Header::LEN..].copy_from_slice(block);
    let Ok((header, payload)) = Header::decode(&slot) else {
        return;
    };
    let extension = header.extension.expect("it was announced");
    assert!(payload.start <= payload.end && payload.end == total);
    assert!(extension.outside.is_none_or(|outside| outside.len > 0));
    let mut again = vec![0; total];
    header.encode(&mut again).expect("it fitted before");
    assert_eq!(Header::decode(&again).map(|(read, _)| read), Ok(header));
});
