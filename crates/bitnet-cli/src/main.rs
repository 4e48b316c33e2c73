#![forbid(unsafe_code)]
//! The `bitnet` command.
fn main() {}
