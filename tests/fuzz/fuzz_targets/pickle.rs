//! Any bytes are a value or an error, and a value survives being written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use slimerpc::wire::Pickle;
use slimerpc::wire::pickle::{Exception, Value};

fuzz_target!(|bytes: &[u8]| {
    let _ = Exception::decode(bytes);
    let Ok(value) = Pickle::decode::<Value>(bytes) else {
        return;
    };
    let mut room = vec![0; 1 << 24];
    if let Ok(len) = Pickle::encode(&value, &mut room) {
        let again: Value = Pickle::decode(&room[..len]).expect("what we write, we read");
        // NaN is not equal to itself, its text is.
        assert_eq!(again.to_string(), value.to_string());
    }
});
