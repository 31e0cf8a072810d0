//! The `nanoctrl` command line.
fn main() {}
