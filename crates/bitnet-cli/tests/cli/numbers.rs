//! `logits` and `score`: the file's content and the figures.

use std::collections::BTreeMap;
use std::path::Path;

use crate::bitnet::{data_arg, run, run_with_input, stories};
use serde_json::Value;

/// Every tensor of a safetensors file of f32: shape and values.
fn tensors(path: &Path) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let bytes = std::fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let data = &bytes[8 + length..];
    let entries = header
        .as_object()
        .unwrap()
        .iter()
        .filter(|(name, _)| *name != "__metadata__");
    let tensors = entries.map(|(name, entry)| {
        assert_eq!(entry["dtype"], "F32");
        let number = |v: &Value| v.as_u64().unwrap() as usize;
        let shape: Vec<usize> = entry["shape"]
            .as_array()
            .unwrap()
            .iter()
            .map(number)
            .collect();
        let bytes = &data[number(&entry["data_offsets"][0])..number(&entry["data_offsets"][1])];
        let values: Vec<f32> = bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect();
        assert_eq!(values.len(), shape.iter().product::<usize>());
        (name.clone(), (shape, values))
    });
    tensors.collect()
}

#[test]
fn the_last_logits_equal_the_golden_ones() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("logits.safetensors");
    for story in stories().as_array().unwrap() {
        let ids = story["ids"].to_string();
        run_with_input(
            &["logits", "--tokens", "-", "--out", out.to_str().unwrap()],
            ids.as_bytes(),
        )
        .ok();
        let tensors = tensors(&out);
        let (shape, logits) = &tensors["logits"];
        assert_eq!(shape, &[1, 1024]);
        let golden = story["last_logits"].as_array().unwrap();
        // A rounding tie inside the reference may flip an int8 value, which moves logits by up to some tenths.
        let largest = logits
            .iter()
            .zip(golden)
            .map(|(a, b)| (f64::from(*a) - b.as_f64().unwrap()).abs());
        let largest = largest.fold(0.0, f64::max);
        assert!(largest < 0.5, "{}: {largest}", story["prompt"]);
    }
}

#[test]
fn all_positions_and_the_trace_have_their_shapes() {
    let dir = tempfile::tempdir().unwrap();
    let (last, all) = (
        dir.path().join("last.safetensors"),
        dir.path().join("all.safetensors"),
    );
    let ids = b"0 448 670\n259, 534";
    run_with_input(
        &["logits", "--tokens", "-", "--out", last.to_str().unwrap()],
        ids,
    )
    .ok();
    let args = [
        "logits",
        "--tokens",
        "-",
        "--out",
        all.to_str().unwrap(),
        "--all",
        "--trace",
        "--format",
        "json",
    ];
    let report = run_with_input(&args, ids).json();
    let (last, all) = (tensors(&last), tensors(&all));
    assert_eq!(last.keys().collect::<Vec<_>>(), ["logits"]);
    assert_eq!(all["logits"].0, [5, 1024]);
    assert_eq!(
        all["logits"].1[4 * 1024..],
        last["logits"].1[..],
        "the last row is the last position"
    );
    for layer in 0..6 {
        assert_eq!(all[&format!("layer.{layer}")].0, [5, 256]);
    }
    assert_eq!(all["final_norm"].0, [5, 256]);
    assert_eq!(all.len(), 1 + 6 + 2);
    assert_eq!(report["tokens"], 5);
    assert_eq!(report["tensors"].as_array().unwrap().len(), all.len());
}

/// Sum of `-ln p` of the second half of a chunk, from the logits of all its positions.
fn second_half(chunk: &[u32], logits: &[f32], vocab_size: usize) -> f64 {
    let predictions = chunk.len() / 2..chunk.len() - 1;
    predictions
        .map(|position| {
            let row = &logits[position * vocab_size..][..vocab_size];
            let largest = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let sum: f64 = row.iter().map(|l| (f64::from(*l) - largest).exp()).sum();
            largest + sum.ln() - f64::from(row[chunk[position + 1] as usize])
        })
        .sum()
}

#[test]
fn perplexity_is_that_of_the_logits() {
    const CTX: usize = 64;
    let reference = data_arg("reference/golden/perplexity_ids.json");
    let model = data_arg("reference/tiny-bitnet");
    let ids: Vec<u32> = serde_json::from_slice(&std::fs::read(&reference).unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (
        dir.path().join("ids.json"),
        dir.path().join("logits.safetensors"),
    );
    std::fs::write(&file, serde_json::to_string(&ids[..2 * CTX + 5]).unwrap()).unwrap();
    let args = [
        "score",
        "--model",
        &model,
        "--ids",
        "--file",
        file.to_str().unwrap(),
        "--ctx",
        "64",
    ];
    let result = run(&[&args[..], &["--format", "json"]].concat()).json();

    let mut nll = 0.0;
    for chunk in ids[..2 * CTX].chunks(CTX) {
        let mut chunk = chunk.to_vec();
        chunk[0] = 496; // the tokenizer adds <|begin_of_text|>, which takes the place of a chunk's first token
        let input = serde_json::to_string(&chunk).unwrap();
        let args = [
            "logits",
            "--model",
            &model,
            "--tokens",
            "-",
            "--all",
            "--out",
            out.to_str().unwrap(),
        ];
        run_with_input(&args, input.as_bytes()).ok();
        nll += second_half(&chunk, &tensors(&out)["logits"].1, 512);
    }
    let n = (2 * (CTX - 1 - CTX / 2)) as f64;
    let perplexity = result["perplexity"].as_f64().unwrap();
    // Both sum the same numbers in f64, perhaps in another order.
    assert!(
        (perplexity / (nll / n).exp() - 1.0).abs() < 1e-6,
        "{result} {}",
        (nll / n).exp()
    );
    assert_eq!(result["n_predictions"], n as u64);
    assert_eq!(
        (result["n_chunks"].clone(), result["ctx"].clone()),
        (2.into(), CTX.into())
    );
    for field in ["error", "nll", "seconds", "tok_s"] {
        assert!(result[field].as_f64().unwrap() > 0.0, "{field}: {result}");
    }
    let table = run(&args);
    assert!(
        table.ok().contains(&format!("{perplexity:.4} +/- ")),
        "{table:?}"
    );
    assert_eq!(
        table.stderr, "",
        "no progress bar where there is no terminal"
    );
}

/// llama.cpp's `-f` takes a file without the line end at its end; a token more would be a chunk more here.
#[test]
fn a_line_end_at_the_end_of_a_text_is_not_scored() {
    let score = |text: &str| {
        let args = ["score", "--ctx", "8", "--format", "json"];
        run_with_input(&args, text.as_bytes()).json()
    };
    let text = "Once upon a time there was a little girl who liked to play outside with her big red ball. ";
    let (plain, ended, twice) = (
        score(text),
        score(&format!("{text}\n")),
        score(&format!("{text}\n\n")),
    );
    for field in ["n_tokens", "nll"] {
        assert_eq!(plain[field], ended[field], "{field}");
    }
    assert_ne!(
        plain["n_tokens"], twice["n_tokens"],
        "only one line end is taken away"
    );
}
