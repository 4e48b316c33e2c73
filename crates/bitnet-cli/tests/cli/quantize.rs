//! `quantize`: the same weights in other types, or nothing at all.

use std::path::Path;

use crate::bitnet::{Ended, bitnet, check_written, data_arg, end, run};

/// Upstream's TQ2_0 file of a model, written by gguf-py.
const TQ2_0: &str = "reference/gguf/tiny-bitnet-silu.bitnet.TQ2_0.gguf";

/// The same model with its trits as floats.
const F16: &str = "reference/gguf/tiny-bitnet-silu.bitnet.F16.gguf";

fn quantize(input: &str, out: &Path, args: &[&str]) -> Ended {
    let mut command = bitnet();
    command.args(["quantize", input, out.to_str().unwrap()]);
    end(command.args(args))
}

#[test]
fn every_pair_of_types_gives_the_same_text_and_the_same_bytes_again() {
    let dir = tempfile::tempdir().unwrap();
    let original = data_arg(F16);
    let types = ["i2_s", "tq1_0", "tq2_0", "q2_0", "pq2_0", "ptq1_0"];
    for from in types {
        let first = dir.path().join(format!("{from}.gguf"));
        let report = quantize(&original, &first, &["--type", from, "--format", "json"]).json();
        let bytes = check_written(&report, &first, Path::new(&original));
        for to in types {
            let second = dir.path().join("second.gguf");
            let back = dir.path().join("back.gguf");
            quantize(first.to_str().unwrap(), &second, &["--type", to]).ok();
            quantize(second.to_str().unwrap(), &back, &["--type", from]).ok();
            assert!(std::fs::read(&back).unwrap() == bytes, "{from} {to}");
        }
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 8);
}

#[test]
fn floats_that_are_trits_are_packed_and_metadata_goes_over() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.gguf");
    let input = data_arg(F16);
    let args = [
        "--type",
        "i2_s",
        "--embedding-type",
        "q8_0",
        "--format",
        "json",
    ];
    let report = quantize(&input, &out, &args).json();
    let tensors = report["tensors"].as_array().unwrap();
    let query = tensors
        .iter()
        .find(|t| t["name"] == "blk.0.attn_q.weight")
        .unwrap();
    assert_eq!(
        (&query["from"], &query["to"], &query["change"]),
        (&"F16".into(), &"I2_S".into(), &"repacked".into())
    );
    let embedding = tensors
        .iter()
        .find(|t| t["name"] == "token_embd.weight")
        .unwrap();
    assert_eq!(embedding["change"], "converted");
    let relative = embedding["error"]["relative"].as_f64().unwrap();
    assert!((1e-4..1e-2).contains(&relative), "{relative}");

    let metadata = |path: &str| {
        let listing = run(&["inspect", path, "--format", "json"]).json();
        let keys = listing["metadata"].as_array().unwrap().clone();
        keys.into_iter()
            .filter(|entry| entry["key"] != "general.file_type")
            .collect::<Vec<_>>()
    };
    assert!(!metadata(&input).is_empty());
    assert_eq!(metadata(&input), metadata(out.to_str().unwrap()));
}

#[test]
fn a_dry_run_tells_the_same_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.gguf");
    let args = ["--type", "tq1_0", "--dry-run", "--format", "json"];
    let report = quantize(&data_arg(TQ2_0), &out, &args).json();
    assert_eq!(report["written"], false);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    quantize(&data_arg(TQ2_0), &out, &["--type", "tq1_0"]).ok();
    assert_eq!(
        report["bytes_after"],
        std::fs::metadata(&out).unwrap().len()
    );
}

#[test]
fn what_the_types_cannot_hold_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.gguf");
    let blocks = data_arg("qwen3-tiny/qwen3-tiny.qwen3.Q2_0.gguf");
    let ended = quantize(&blocks, &out, &["--type", "i2_s"]);
    ended.fails(2, "several scales, I2_S has one", "--type");
    assert!(ended.stderr.contains("blk.0.attn_q.weight"), "{ended:?}");
    let ended = quantize(&blocks, &out, &["--type", "i2_s", "--format", "json"]);
    let report: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert!(report["refused"].as_array().unwrap().len() > 7, "{report}");

    let tied = data_arg(TQ2_0);
    quantize(&tied, &out, &["--type", "i2_s", "--head-type", "q8_0"]).fails(
        2,
        "output.weight",
        "inspect",
    );
    quantize(&tied, &out, &["--type", "q8_0"]).fails(2, "i2_s, tq1_0, tq2_0, q2_0", "--help");
    quantize(&tied, Path::new(&tied), &["--type", "i2_s"]).fails(2, "is a file to read", "name");
    let missing = dir.path().join("no/out.gguf");
    quantize(&tied, &missing, &["--type", "i2_s"]).fails(1, "no", "");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_nothing_behind() {
    use std::process::{Command, Stdio};
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let input = dir.path().join("in.gguf");
    let args = [
        "synth", "--shape", "2b-4t", "--layers", "3", "--vocab", "2000",
    ];
    end(bitnet().args(args).arg(&input)).ok();
    let out = dir.path().join("out.gguf");
    // On a busy machine the command may be done before it is noticed that it has begun: then it begins again.
    let ended = (0..20).find_map(|_| {
        let mut child = bitnet()
            .args(["quantize", "--type", "tq1_0"])
            .args([&input, &out])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Under way as soon as the file in the making is there.
        while std::fs::read_dir(dir.path()).unwrap().count() == 1
            && child.try_wait().unwrap().is_none()
        {
            std::thread::yield_now();
        }
        let id = child.id().to_string();
        let signal = Command::new("kill").args(["-INT", &id]).status();
        let output = child.wait_with_output().unwrap();
        if output.status.success() {
            std::fs::remove_file(&out).unwrap();
            return None;
        }
        assert!(signal.unwrap().success());
        Some(output)
    });
    let output = ended.expect("a run that was interrupted");
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("nothing was written"), "{text}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}
