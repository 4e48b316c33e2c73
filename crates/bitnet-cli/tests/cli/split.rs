//! `split` and `merge`: the same bytes in other files.

use std::path::Path;

use crate::bitnet::{data_arg, run};

const MODEL: &str = "reference/gguf/tiny-bitnet-silu.bitnet.F16.gguf";

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_split_merges_to_the_same_keys_and_tensors_and_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    // Written by this program, so that bytes between tensors are its own.
    let (whole, again) = (path("whole.gguf"), path("again.gguf"));
    let args = [
        "synth", "--shape", "125m", "--layers", "1", "--vocab", "2000",
    ];
    run(&[&args[..], &[&whole]].concat()).ok();
    for (limit, n) in [(["--max-tensors", "5"], 3), (["--max-size", "1M"], 3)] {
        let out = path("part");
        let args = [
            "split", &whole, &out, limit[0], limit[1], "--format", "json",
        ];
        let report = run(&args).json();
        let files = report["files"].as_array().unwrap();
        assert!(files.len() >= n, "{report}");
        if limit[0] == "--max-size" {
            for file in files {
                let bytes = file["bytes"].as_u64().unwrap();
                assert!(bytes <= 1_000_000 || file["tensors"] == 1, "{file}");
            }
        }
        let first = path(&format!("part-00001-of-{:05}.gguf", files.len()));
        assert_eq!(files[0]["name"], first);
        run(&["compat-check", &first]).ok();
        run(&["merge", &first, &again]).ok();
        assert!(std::fs::read(&whole).unwrap() == std::fs::read(&again).unwrap());
        run(&["merge", &first, &again]).fails(2, "exists", "--force");
        run(&["merge", &first, &again, "--force"]).ok();
        run(&["merge", &first, &first, "--force"]).fails(2, "is a file to read", "name");
        run(&args).fails(2, "exists", "another name");
        let parts = names(dir.path())
            .into_iter()
            .filter(|name| *name != "whole.gguf");
        for name in parts {
            std::fs::remove_file(path(&name)).unwrap();
        }
    }
    assert_eq!(names(dir.path()), ["whole.gguf"]);
}

#[test]
fn wrong_limits_and_dry_runs_write_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("part").to_str().unwrap().to_string();
    let model = data_arg(MODEL);
    run(&["split", &model, &out, "--max-size", "9G"]).fails(2, "fits in one file", "inspect");
    run(&["split", &model, &out, "--max-size", "2K"]).fails(2, "such as 2G", "--help");
    run(&["split", &model, &out]).fails(2, "--max-size", "--help");
    run(&["split", &model, &out, "--max-tensors", "7", "--dry-run"]).ok();
    assert_eq!(names(dir.path()), [""; 0]);
    let later = dir.path().join("x-00002-of-00003.gguf");
    run(&[
        "split",
        &model,
        later.parent().unwrap().join("x").to_str().unwrap(),
        "--max-tensors",
        "9",
    ])
    .ok();
    let name = names(dir.path())[1].clone();
    let later = dir.path().join(name);
    run(&["merge", later.to_str().unwrap(), &out]).fails(3, "later file of a split", "first");
}
