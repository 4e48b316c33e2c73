//! `synth`: random models of real shapes, the same for the same seed.

use crate::bitnet::run;

#[test]
fn synthetic_models_can_be_checked_inspected_and_run() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.gguf");
    let out = path.to_str().unwrap();
    let cases: [(&[&str], &str); 5] = [
        (&["--shape", "125m"], "I2_S"),
        (
            &[
                "--shape",
                "125m",
                "--arch",
                "bitnet",
                "--type",
                "tq1_0",
                "--head-type",
                "q6_k",
            ],
            "TQ1_0",
        ),
        (
            &[
                "--shape",
                "125m",
                "--arch",
                "llama",
                "--type",
                "tq2_0",
                "--head-type",
                "q8_0",
            ],
            "TQ2_0",
        ),
        (
            &[
                "--shape",
                "125m",
                "--arch",
                "qwen3",
                "--type",
                "q2_0",
                "--head-type",
                "q4_0",
            ],
            "Q2_0",
        ),
        (
            &["--shape", "125m", "--type", "f16", "--head-type", "bf16"],
            "F16",
        ),
    ];
    for (args, ty) in cases {
        let synth = run(&[
            &["synth", out, "--layers", "2", "--vocab", "1000"][..],
            args,
        ]
        .concat());
        assert!(synth.ok().contains("ternary weights"), "{synth:?}");
        let inspected = run(&["inspect", out, "--format", "json"]).json();
        assert_eq!(inspected["model"]["layers"], 2, "{args:?}");
        assert_eq!(inspected["model"]["vocab_size"], 1000, "{args:?}");
        let types = inspected["types"].as_array().unwrap();
        assert_eq!(
            types.iter().find(|t| t["type"] == ty).unwrap()["tensors"],
            14,
            "{args:?}"
        );
        let checked = run(&["compat-check", out, "--format", "json"]).json();
        assert_eq!(checked["errors"], 0, "{args:?}: {checked}");
        let result = run(&[
            "run",
            "--model",
            out,
            "--prompt",
            "hello",
            "-n",
            "4",
            "--ignore-eos",
            "--format",
            "json",
        ]);
        assert_eq!(
            result.json()["token_ids"].as_array().unwrap().len(),
            4,
            "{args:?}"
        );
    }
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        1,
        "nothing but the model is left"
    );
}

#[test]
fn a_seed_gives_the_same_model_in_every_form() {
    let dir = tempfile::tempdir().unwrap();
    let name = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    for arch in ["bitnet-b1.58", "llama"] {
        let small = [
            "synth",
            "--shape",
            "falcon-e-1b",
            "--arch",
            arch,
            "--layers",
            "1",
            "--vocab",
            "500",
        ];
        let text = |model: &str| {
            let args = [
                "run",
                "--prompt",
                "hello",
                "--greedy",
                "-n",
                "12",
                "--ignore-eos",
                "--format",
                "json",
            ];
            run(&[&args[..], &["--model", model]].concat()).json()["token_ids"].clone()
        };
        let forms: [&[&str]; 3] = [&["--type", "i2_s"], &["--type", "tq2_0"], &["--hf"]];
        let texts: Vec<_> = forms
            .iter()
            .enumerate()
            .map(|(i, form)| {
                let out = name(&format!("{arch}-{i}"));
                run(&[&small[..], &[&out], form].concat()).ok();
                text(&out)
            })
            .collect();
        assert_eq!(texts[0], texts[1], "{arch}");
        assert_eq!(texts[0], texts[2], "{arch}");
        let other = name(&format!("{arch}-other"));
        run(&[&small[..], &[&other, "--seed", "1"]].concat()).ok();
        assert_ne!(
            text(&other),
            texts[0],
            "{arch}: another seed is another model"
        );
    }
}

#[test]
fn synth_refuses_what_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("no/x.gguf");
    run(&["synth", "--shape", "125m", missing.to_str().unwrap()]).fails(
        1,
        "there is no directory",
        "create",
    );
    let out = dir.path().join("x.gguf");
    let out = out.to_str().unwrap();
    run(&["synth", "--shape", "125m", "--vocab", "100", out]).fails(
        2,
        "vocabulary of 100 tokens",
        "ask for",
    );
    run(&["synth", "--shape", "125m", "--type", "q4_0", out]).fails(2, "expected i2_s", "");
    run(&["synth", "--shape", "125m", "--arch", "qwen3", "--hf", out]).fails(2, "qwen3", "--hf");
    run(&["synth", "--shape", "7b", out]).fails(2, "'7b'", "");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
