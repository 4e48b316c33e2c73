//! `inspect` and `compat-check`.

use crate::bitnet::{data, data_arg, run, run_with_input};

#[test]
fn inspect_lists_the_embedded_model() {
    let result = run(&["inspect", "--format", "json"]).json();
    assert_eq!(result["file"], "stories-5m (embedded)");
    assert_eq!(result["model"]["family"], "bitnet-b1.58");
    assert_eq!(result["model"]["layers"], 6);
    assert_eq!(result["model"]["vocab_size"], 1024);
    assert_eq!(result["model"]["dialect"], "i2s-128");
    assert_eq!(result["tokenizer"], "gpt2");
    assert_eq!(result["problem"], serde_json::Value::Null);
    assert_eq!(result["tensors"].as_array().unwrap().len(), 68);
    assert_eq!(result["metadata"].as_array().unwrap().len(), 24);
    let types = result["types"].as_array().unwrap();
    let i2s = types.iter().find(|t| t["type"] == "I2_S").unwrap();
    assert_eq!(i2s["tensors"], 42);
    assert_eq!(
        i2s["elements"].as_u64().unwrap(),
        6 * (4 * 256 * 256 + 3 * 256 * 768)
    );
}

#[test]
fn inspect_of_two_files_tells_in_what_they_differ() {
    let (tq1, tq2) = (
        data_arg("reference/gguf/tiny-bitnet-silu.bitnet.TQ1_0.gguf"),
        data_arg("reference/gguf/tiny-bitnet-silu.bitnet.TQ2_0.gguf"),
    );
    let same = run(&["inspect", &tq1, &tq1, "--format", "json"]);
    assert_eq!(same.code, Some(0), "{same:?}");
    assert_eq!(same.json()["same"], true);

    let differ = run(&["inspect", &tq1, &tq2, "--format", "json"]);
    assert_eq!(differ.code, Some(4), "{differ:?}");
    let report: serde_json::Value = serde_json::from_str(&differ.stdout).unwrap();
    let changes = report["metadata"].as_array().unwrap();
    let file_type = changes.iter().find(|c| c["name"] == "general.file_type");
    assert_eq!(file_type.unwrap()["a"], "36 (u32)");
    let tensors = report["tensors"].as_array().unwrap();
    assert_eq!(tensors.len(), 14, "two layers of seven: {tensors:?}");
    assert!(tensors[0]["a"].as_str().unwrap().starts_with("TQ1_0 "));
    assert_eq!(report["contents"].as_array().unwrap().len(), 0);

    // One bit of one tensor, the last of the file, and one key.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("changed.gguf");
    let mut bytes = std::fs::read(&tq2).unwrap();
    let listed = run(&["inspect", &tq2, "--format", "json"]).json();
    let last = listed["tensors"].as_array().unwrap();
    let last = last.iter().max_by_key(|t| t["offset"].as_u64()).unwrap();
    bytes[last["offset"].as_u64().unwrap() as usize] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let changed = run(&["inspect", &tq2, path.to_str().unwrap()]);
    assert_eq!(changed.code, Some(4));
    let name = last["name"].as_str().unwrap();
    assert!(
        changed
            .stdout
            .contains(&format!("Other bytes (1)\n{name}\n")),
        "{}",
        changed.stdout
    );

    let directories = ["reference/tiny-bitnet", "reference/tiny-bitnet-silu"].map(data_arg);
    let ended = run(&["inspect", &directories[0], &directories[1]]);
    assert_eq!(ended.code, Some(4), "{ended:?}");
    assert!(ended.stdout.contains("hidden_act"), "{}", ended.stdout);
    run(&["inspect", &tq1, "no-such.gguf"]).fails(1, "no-such.gguf", "check the path");
}

#[test]
fn inspect_fits_80_columns_for_files_and_directories() {
    let gguf = data_arg("reference/gguf/tiny-bitnet.bitnet-b1.58.I2_S.gguf");
    for path in [
        gguf,
        data_arg("reference/tiny-bitnet"),
        data_arg("reference/tiny-falcon3-158"),
    ] {
        let text = run(&["inspect", &path]).ok().to_string();
        // The template is shown as it is.
        let tables = text.split("\nChat template\n").next().unwrap();
        // A path is never cut: it is there to be copied.
        let wide = tables
            .lines()
            .skip(1)
            .find(|line| line.chars().count() > 80);
        assert_eq!(wide, None, "{path}");
        assert!(
            text.contains("Tensors (") && text.contains("Types"),
            "{text}"
        );
    }
}

#[test]
fn inspect_lists_a_model_that_cannot_be_run_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mamba.gguf");
    let mut bytes = std::fs::read(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/assets/stories-5m.I2_S.gguf"
    ))
    .unwrap();
    let name = b"bitnet-b1.58";
    let at = bytes.windows(name.len()).position(|w| w == name).unwrap();
    bytes[at..at + name.len()].copy_from_slice(b"mamba-2-big!");
    std::fs::write(&path, bytes).unwrap();
    let ended = run(&["inspect", path.to_str().unwrap()]);
    ended.fails(3, "mamba-2-big!", "architectures");
    assert!(
        ended.stdout.contains("This model cannot be run")
            && ended.stdout.contains("blk.0.attn_q.weight")
    );
}

#[test]
fn the_layout_of_i2s_tensors_is_told_by_the_loss_of_a_text() {
    let path = data_arg("reference/gguf/tiny-bitnet.bitnet-b1.58.I2_S.gguf");
    let command = [
        "compat-check",
        &path,
        "--probe-layout",
        "--format",
        "json",
        "-t",
        "1",
    ];
    let report = run(&command).json();
    let layouts = report["layout_probe"]["layouts"].as_array().unwrap();
    let loss = |i: usize| layouts[i]["nats_a_token"].as_f64().unwrap();
    assert_eq!(layouts[0]["dialect"], "i2s-128");
    assert!(
        loss(0) + 0.25 < loss(1) && loss(0) + 0.25 < loss(2),
        "{layouts:?}"
    );
    assert_eq!(report["layout_probe"]["best"], "i2s-128");

    let wrong = [
        "compat-check",
        &path,
        "--probe-layout",
        "--dialect",
        "i2s-64",
        "-t",
        "1",
    ];
    let wrong = run(&wrong);
    assert_eq!(wrong.code, Some(3), "{wrong:?}");
    assert!(
        wrong.stdout.contains("--dialect i2s-128"),
        "{}",
        wrong.stdout
    );

    // Nobody asked, or there is nothing to ask.
    let other = data_arg("reference/gguf/tiny-bitnet.bitnet-b1.58.F16.gguf");
    let other = run(&["compat-check", &other, "--probe-layout", "--format", "json"]).json();
    assert!(other["layout_probe"].is_null(), "{other}");
}

#[test]
fn a_repaired_copy_has_no_warnings_and_the_same_tensors() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("fixed.gguf");
    let out = out.to_str().unwrap();
    let path = data_arg("reference/gguf/tiny-bitnet.bitnet-b1.58.I2_S.gguf");
    let report = run(&["compat-check", &path, "--fix", out, "--format", "json"]).json();
    let fixed = report["fixed"].as_array().unwrap();
    let keys: Vec<&str> = fixed.iter().map(|f| f["key"].as_str().unwrap()).collect();
    assert!(
        keys.contains(&"tokenizer.ggml.pre") && keys.contains(&"tokenizer.chat_template"),
        "{keys:?}"
    );
    assert_eq!(report["warnings"], 0, "{report}");

    let differ = run(&["inspect", &path, out, "--format", "json"]);
    let difference: serde_json::Value = serde_json::from_str(&differ.stdout).unwrap();
    assert_eq!(difference["metadata"].as_array().unwrap().len(), keys.len());
    assert_eq!(difference["tensors"].as_array().unwrap().len(), 0);
    assert_eq!(difference["contents"].as_array().unwrap().len(), 0);
    let text = |model: &str| {
        let args = [
            "run", "--model", model, "--prompt", "The sun", "--greedy", "-n", "8",
        ];
        run(&args).ok().to_string()
    };
    assert_eq!(text(&path), text(out));

    // It is there already; and nothing is left to repair.
    run(&["compat-check", &path, "--fix", out]).fails(2, "exists", "--force");
    run(&["compat-check", &path, "--fix", out, "--force"]).ok();
    let again = dir.path().join("again.gguf");
    run(&["compat-check", out, "--fix", again.to_str().unwrap()]).fails(
        2,
        "nothing in",
        "leave out --fix",
    );
    let directory = data_arg("reference/tiny-bitnet");
    run(&["compat-check", &directory, "--fix", again.to_str().unwrap()]).fails(
        2,
        "no .gguf file",
        "name one",
    );
}

#[test]
fn compat_check_reports_and_exits_by_what_it_finds() {
    let sound = run(&["compat-check", "--format", "json"]).json();
    assert_eq!(
        (sound["usable"].clone(), sound["errors"].clone()),
        (true.into(), 0.into())
    );

    // The published layout of this file lacks tokenizer.ggml.pre and has a placeholder template: usable with warnings.
    let path = data_arg("reference/gguf/tiny-bitnet.bitnet-b1.58.I2_S.gguf");
    let warned = run(&["compat-check", &path, "--format", "json"]).json();
    assert_eq!(warned["usable"], true);
    assert!(warned["warnings"].as_u64().unwrap() >= 1, "{warned}");
    for finding in warned["findings"].as_array().unwrap() {
        for field in ["severity", "code", "place", "message", "remedy"] {
            assert!(finding[field].is_string(), "{field}: {finding}");
        }
    }
    let strict = run(&["compat-check", &path, "--strict"]);
    assert_eq!(strict.code, Some(4), "{strict:?}");
    assert!(strict.stdout.contains("warning ["), "{strict:?}");
    assert!(
        strict
            .stdout
            .lines()
            .skip(1)
            .all(|line| line.chars().count() <= 80),
        "{}",
        strict.stdout
    );

    let dir = tempfile::tempdir().unwrap();
    let half = dir.path().join("half.gguf");
    let bytes = std::fs::read(data("reference/gguf/tiny-bitnet.bitnet-b1.58.I2_S.gguf")).unwrap();
    std::fs::write(&half, &bytes[..bytes.len() / 2]).unwrap();
    let broken = run(&["compat-check", half.to_str().unwrap(), "--format", "json"]);
    assert_eq!(broken.code, Some(3), "{broken:?}");
    let report: serde_json::Value = serde_json::from_str(&broken.stdout).unwrap();
    assert_eq!(report["usable"], false);
    assert_eq!(report["findings"][0]["severity"], "error");

    run(&["compat-check", "no-such.gguf"]).fails(1, "no-such.gguf", "check the path");
}

/// The embedded model as a file, with `old` replaced by `new` of the same length.
fn stories_with(dir: &std::path::Path, old: &str, new: &str) -> String {
    let assets = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/stories-5m.I2_S.gguf");
    let mut bytes = std::fs::read(assets).unwrap();
    assert_eq!(old.len(), new.len());
    let at = bytes
        .windows(old.len())
        .position(|w| w == old.as_bytes())
        .unwrap();
    bytes[at..at + old.len()].copy_from_slice(new.as_bytes());
    let path = dir.join("stories.gguf");
    std::fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_string()
}

#[test]
fn guesses_about_the_tokenizer_are_listed_once() {
    let dir = tempfile::tempdir().unwrap();
    let types = ("tokenizer.ggml.token_type", "tokenizer.ggml.token_typo");
    let path = stories_with(dir.path(), types.0, types.1);
    for command in ["inspect", "compat-check"] {
        let report = run(&[command, &path, "--format", "json"]).json();
        let findings = report["findings"].as_array().unwrap();
        let guess = findings
            .iter()
            .find(|f| f["code"] == "tokenizer-guess")
            .unwrap_or_else(|| panic!("{report}"));
        assert_eq!(guess["place"], "field tokenizer.ggml.token_type");
        assert_eq!(guess["severity"], "warning");
        let message = guess["message"].as_str().unwrap();
        assert!(
            message.contains("assumed: tell special tokens by"),
            "{message}"
        );
    }
    let note = "note: tokenizer.ggml.token_type is missing; assumed: tell special tokens";
    let args = ["run", "--model", &path, "--prompt", "Once", "-n", "2"];
    let text = run(&args);
    text.ok();
    assert_eq!(text.stderr.matches(note).count(), 1, "{text:?}");
    let json = run(&[&args[..], &["--format", "json"]].concat());
    json.ok();
    assert!(!json.stderr.contains("note:"), "{json:?}");
    let chat = run_with_input(&["chat", "--model", &path, "-n", "2"], b"Once\n");
    chat.ok();
    assert_eq!(chat.stderr.matches(note).count(), 1, "{chat:?}");

    // What the headers tell is completed, not repeated.
    let path = data_arg("reference/gguf/tiny-bitnet.bitnet-b1.58.I2_S.gguf");
    for command in ["inspect", "compat-check"] {
        let report = run(&[command, &path, "--format", "json"]).json();
        for (place, assumed) in [
            ("field tokenizer.ggml.pre", "assumed: split text as LLaMA-3"),
            (
                "field tokenizer.chat_template",
                "assumed: use the documented chat format",
            ),
        ] {
            let messages: Vec<&str> = report["findings"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|f| f["place"] == place)
                .map(|f| f["message"].as_str().unwrap())
                .collect();
            assert_eq!(messages.len(), 1, "{report}");
            assert!(messages[0].contains(assumed), "{messages:?}");
        }
    }
    let embedded = run(&["run", "--prompt", "Once", "-n", "2"]);
    embedded.ok();
    assert!(!embedded.stderr.contains("note:"), "{embedded:?}");
}

#[test]
fn a_tokenizer_that_cannot_be_built_is_an_error_finding() {
    let dir = tempfile::tempdir().unwrap();
    let path = stories_with(dir.path(), "gpt2", "gpt9");
    let checked = run(&["compat-check", &path, "--format", "json"]);
    assert_eq!(checked.code, Some(3), "{checked:?}");
    let inspected = run(&["inspect", &path, "--format", "json"]);
    inspected.ok();
    for ended in [checked, inspected] {
        let report: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
        let findings = report["findings"].as_array().unwrap();
        let errors: Vec<_> = findings
            .iter()
            .filter(|f| f["severity"] == "error")
            .collect();
        assert_eq!(errors.len(), 1, "{report}");
        assert_eq!(errors[0]["code"], "tokenizer-unusable");
        assert!(errors[0]["message"].as_str().unwrap().contains("`gpt9`"));
        assert!(!errors[0]["remedy"].as_str().unwrap().is_empty());
    }
}
