//! The command line's contracts, held by driving the built binary: one file for each behaviour.

mod bitnet;

mod bad_input;
mod bench;
mod chat;
mod convert;
#[cfg(target_os = "linux")]
mod disk_full;
mod environment;
#[path = "../../../bitnet-hub/tests/hub/fake_hub.rs"]
#[expect(dead_code, reason = "the Hub's own tests need more of it")]
mod fake_hub;
mod files;
mod help;
mod hub;
mod hub_damage;
mod hub_fixture;
mod hub_removal;
mod hub_unfinished;
mod keys;
mod manage;
mod numbers;
mod quantize;
mod run;
mod serve;
mod serve_check;
#[cfg(target_os = "linux")]
mod serve_faults;
#[cfg(target_os = "linux")]
mod serve_json;
#[cfg(target_os = "linux")]
mod serve_memory;
#[cfg(target_os = "linux")]
mod serve_restart;
#[cfg(target_os = "linux")]
mod serve_signals;
mod served;
mod signals;
mod split;
mod synth;
mod tokens;
