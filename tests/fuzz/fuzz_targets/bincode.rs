//! Any bytes are a value or an error, within limits of memory, depth and time, and a value survives
//! being written and read again.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use libfuzzer_sys::fuzz_target;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use slimerpc::wire::{Bincode, Fault};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Tree {
    Leaf(Option<i128>, String),
    Node(Box<Tree>),
    Nodes(Vec<Tree>, BTreeMap<u16, Vec<u8>>),
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    flag: bool,
    letter: char,
    fixed: [u16; 3],
    unit: (),
    nested: Option<Option<Box<Record>>>,
}

fn round_trip<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8], room: &mut [u8]) {
    let Ok(value) = Bincode::decode::<T>(bytes) else {
        return;
    };
    let len = Bincode::encode(&value, room).expect("it is no larger than what was read");
    assert_eq!(Bincode::decode::<T>(&room[..len]).as_ref(), Ok(&value));
}

fuzz_target!(|bytes: &[u8]| {
    let Some((which, bytes)) = bytes.split_first() else {
        return;
    };
    let room = &mut vec![0; 64 + 2 * bytes.len()][..];
    match which % 8 {
        0 => round_trip::<Tree>(bytes, room),
        1 => round_trip::<Record>(bytes, room),
        2 => round_trip::<Fault>(bytes, room),
        3 => round_trip::<Vec<()>>(bytes, room),
        4 => round_trip::<BTreeSet<()>>(bytes, room),
        5 => round_trip::<Vec<Vec<String>>>(bytes, room),
        6 => round_trip::<BTreeMap<String, (u64, Option<i8>)>>(bytes, room),
        _ => round_trip::<(u128, i64, Vec<[u8; 0]>, String)>(bytes, room),
    }
});
