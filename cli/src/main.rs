//! The sharklock binary.
fn main() {}
