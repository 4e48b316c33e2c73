//! `convert`: a directory becomes a file that runs alike, or nothing is written.

use std::path::Path;

use crate::bitnet::{Ended, bitnet, check_written, continued, data_arg, end, run};

fn convert(input: &str, out: &Path, args: &[&str]) -> Ended {
    let mut command = bitnet();
    command.args(["convert", input, out.to_str().unwrap()]);
    end(command.args(args))
}

#[test]
fn the_converted_file_tells_the_same_story() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("stories.gguf");
    let input = data_arg("stories-5m");
    let report = convert(&input, &out, &["--type", "q2_0", "--format", "json"]).json();
    check_written(&report, &out, Path::new(&input));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    run(&["compat-check", out.to_str().unwrap(), "--strict"]).ok();
}

#[test]
fn an_existing_file_is_replaced_only_by_force_and_inputs_never() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.gguf");
    let input = data_arg("reference/tiny-bitnet");
    std::fs::write(&out, b"mine").unwrap();
    convert(&input, &out, &[]).fails(2, "exists", "--force");
    assert_eq!(std::fs::read(&out).unwrap(), b"mine");
    convert(&input, &out, &["--force", "--dry-run"]).ok();
    assert_eq!(std::fs::read(&out).unwrap(), b"mine");
    convert(&input, &out, &["--force"]).ok();
    assert_eq!(&std::fs::read(&out).unwrap()[..4], b"GGUF");
    let weights = format!("{input}/model.safetensors");
    convert(&input, Path::new(&weights), &["--force"]).fails(2, "is a file to read", "name");
}

#[test]
fn what_cannot_be_converted_is_said_in_two_lines() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.gguf");
    let input = data_arg("reference/tiny-bitnet");
    convert(&input, &out, &["--type", "q8_0"]).fails(
        2,
        "expected one of i2_s, tq1_0, tq2_0, q2_0, pq2_0, ptq1_0",
        "--help",
    );
    convert(&input, &out, &["--embedding-type", "tq1_0"]).fails(2, "expected one of f32", "--help");
    convert(&input, &out, &["--head-type", "q8_0"]).fails(2, "output.weight", "inspect");
    let odd = data_arg("reference/tiny-bitnet-odd");
    convert(&odd, &out, &["--type", "tq1_0"]).fails(2, "cannot be written as asked", "--type");
    let file = data_arg("reference/gguf/tiny-bitnet.bitnet-b1.58.I2_S.gguf");
    convert(&file, &out, &["--type", "tq1_0"]).fails(2, "in the types that it has", "quantize");
    convert("/nowhere", &out, &[]).fails(1, "/nowhere", "");
    let blocks = data_arg("qwen3-tiny/qwen3-tiny.qwen3.Q2_0.gguf");
    convert(&blocks, &out, &[]).fails(2, "several scales", "");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_file_becomes_a_directory_and_the_same_file_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let (file, folder, again) = (path("a.gguf"), path("hf"), path("b.gguf"));
    convert(&data_arg("stories-5m"), &file, &[]).ok();
    let report = convert(file.to_str().unwrap(), &folder, &["--format", "json"]).json();
    assert_eq!(report["written"], true);
    let story = |model: &Path| continued(model, "Once upon a time", "16");
    assert_eq!(story(&folder), story(&file));
    convert(file.to_str().unwrap(), &folder, &[]).fails(1, "exists", "");
    convert(folder.to_str().unwrap(), &again, &[]).ok();
    assert!(std::fs::read(&file).unwrap() == std::fs::read(&again).unwrap());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
}

#[cfg(unix)]
#[test]
fn a_second_ctrl_c_leaves_nothing_behind_either() {
    use std::process::{Command, Stdio};
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let input = dir.path().join("in.gguf");
    let args = [
        "synth", "--shape", "2b-4t", "--layers", "3", "--vocab", "2000",
    ];
    end(bitnet().args(args).arg(&input)).ok();
    let out = dir.path().join("out.gguf");
    // Sent together, the two may be seen as one, or come when the command is done: then it begins again.
    let interrupted = (0..20).any(|_| {
        let mut child = bitnet()
            .args(["quantize", "--type", "tq1_0"])
            .args([&input, &out])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while std::fs::read_dir(dir.path()).unwrap().count() == 1
            && child.try_wait().unwrap().is_none()
        {
            std::thread::yield_now();
        }
        let id = child.id().to_string();
        let twice = format!("kill -INT {id}; kill -INT {id}");
        let _ = Command::new("sh")
            .args(["-c", &twice])
            .stderr(Stdio::null())
            .status();
        let code = child.wait().unwrap().code();
        let _ = std::fs::remove_file(&out);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        code == Some(130)
    });
    assert!(interrupted, "twenty times done before it was interrupted");
}

#[test]
fn pickled_weights_are_converted_where_they_are_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let plain = data_arg("llama-rope-tiny");
    let pickled = dir.path().join("llama-rope-tiny");
    std::fs::create_dir(&pickled).unwrap();
    for from in [plain.clone(), format!("{plain}/pickle")] {
        for entry in std::fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_file() && !name.ends_with(".safetensors") && !name.ends_with(".gguf") {
                std::fs::copy(&path, pickled.join(name)).unwrap();
            }
        }
    }
    let pickled = pickled.to_str().unwrap();
    let (a, b) = (dir.path().join("a.gguf"), dir.path().join("b.gguf"));
    convert(pickled, &a, &[]).fails(3, "Python pickle", "bitnet convert --allow-pickle");
    assert!(!a.exists());
    convert(pickled, &a, &["--allow-pickle"]).ok();
    convert(&plain, &b, &[]).ok();
    assert!(std::fs::read(&a).unwrap() == std::fs::read(&b).unwrap());

    run(&["run", "--model", pickled, "--prompt", "a"]).fails(3, "Python pickle", "--allow-pickle");
    assert_eq!(run(&["compat-check", pickled]).code, Some(3));
    let checked = run(&["compat-check", pickled, "--allow-pickle"]);
    assert!(
        checked
            .ok()
            .contains(": usable after `bitnet convert --allow-pickle` ("),
        "{}",
        checked.stdout
    );
    let check = |path, option| run(&["compat-check", path, option, "--format", "json"]).json();
    let after = &check(pickled, "--allow-pickle")["usable_after"];
    assert_eq!(after, "bitnet convert --allow-pickle");
    let plainly = check(&plain, "--allow-pickle");
    assert_eq!(
        (&plainly["usable"], &plainly["usable_after"]),
        (&true.into(), &().into())
    );
    let listing = run(&["inspect", pickled, "--allow-pickle", "--format", "json"]).json();
    assert_eq!(listing["container"], "PyTorch pickle");
    assert_eq!(listing["files"], 2);
    run(&["inspect", pickled, &plain, "--allow-pickle"]).ok();
}
