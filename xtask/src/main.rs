#![forbid(unsafe_code)]
//! Project automation: `cargo run -p xtask -- COMMAND`.
fn main() {}
