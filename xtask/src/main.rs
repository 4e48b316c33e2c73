#![forbid(unsafe_code)]
//! Project automation: `cargo run -p xtask -- COMMAND`.
//!
//! Everything here spawns cargo and other tools; nothing here depends on the engine's crates, so a broken engine
//! can still be checked.
//!
//! # Layout
//! - [`tidy`]: the rules of the house (crate edges, file sizes, rooms of `unsafe`, documented commands)
//! - [`documents`]: the commands that the documents show
//! - [`download_model`]: a model from the Hub, pulled and tried
//! - [`check_features`]: the program with every feature alone
//! - [`neon`]: the kernels' tests on emulated ARM processors
//! - [`wasm`]: the engine for wasm32, built and run
//! - [`load`]: a server under load
//! - [`clients`]: real clients of the server
//! - [`proxies`]: the server behind nginx and HAProxy
//! - [`peers`]: speed beside llama.cpp's and bitnet.cpp's
//! - [`conversion`]: speed and memory of `bitnet convert` beside `cp`
//! - [`proof`]: our numbers against other engines'
//! - [`llama_cpp`]: a build of llama.cpp
//! - [`monitoring`]: the dashboard and the alert rules against a real Prometheus
//! - [`admin_page`]: the page `/admin` in a real browser
//! - [`served`]: a server of this tree
//! - [`arguments`]: values that several commands take
//! - [`cross`]: a standard library for a target that the toolchain does not carry
//! - [`process`]: running a tool and failing with its name

mod admin_page;
mod arguments;
mod check_features;
mod clients;
mod conversion;
mod cross;
mod documents;
mod download_model;
mod llama_cpp;
mod load;
mod monitoring;
mod neon;
mod peers;
mod process;
mod proof;
mod proxies;
mod served;
mod tidy;
mod wasm;

use std::path::PathBuf;
use std::process::ExitCode;

use proof::{Disagreement, ProofKind};

/// A check ran and disagrees, as of `bitnet` itself.
const DISAGREES: u8 = 4;

const USAGE: &str = "\
usage: cargo run -p xtask -- COMMAND

  tidy   check the rules of the house: crate edges, root files, file sizes, unsafe, ignored tests,
         doubled type names, commands in the documents
  neon   run bitnet-kernels' tests for ARM under qemu, with and without the dot-product instructions
  wasm   build bitnet-inference for wasm32 and, where node is installed, generate a story with it";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args.as_slice() {
        ["tidy"] => tidy::run(&root()),
        ["neon"] => neon::run(&root()),
        ["wasm"] => wasm::run(&root()),
        ["check-features"] => check_features::run(&root()),
        ["load", options @ ..] => load::run(&root(), options),
        ["soak", options @ ..] => load::soak(&root(), options),
        ["monitoring"] => monitoring::run(&root()),
        ["clients", options @ ..] => clients::run(&root(), options),
        ["proxies"] => proxies::run(&root()),
        ["admin-page"] => admin_page::run(&root()),
        ["download-model", options @ ..] => download_model::download(&root(), options),
        ["peers", options @ ..] => peers::run(&root(), options),
        ["conversion", options @ ..] => conversion::run(&root(), options),
        ["crossval", options @ ..] => proof::run(&root(), ProofKind::Crossval, options),
        ["full-crossval", options @ ..] => proof::run(&root(), ProofKind::FullCrossval, options),
        ["verify", options @ ..] => proof::run(&root(), ProofKind::Verify, options),
        ["compare", options @ ..] => proof::run(&root(), ProofKind::Compare, options),
        ["--help" | "-h" | "help"] => {
            println!("{}", usage());
            Ok(())
        }
        _ => {
            eprintln!("{}", usage());
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            match error.downcast_ref::<Disagreement>() {
                Some(_) => ExitCode::from(DISAGREES),
                None => ExitCode::FAILURE,
            }
        }
    }
}

/// All commands.
fn usage() -> String {
    let parts = [
        USAGE,
        check_features::USAGE,
        download_model::USAGE,
        monitoring::USAGE,
        admin_page::USAGE,
        load::USAGE,
        clients::USAGE,
        proxies::USAGE,
        peers::USAGE,
        conversion::USAGE,
        proof::USAGE,
    ];
    parts.join("\n")
}

/// The repository's root: the parent of this crate's folder.
fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map(PathBuf::from).unwrap_or(here)
}
