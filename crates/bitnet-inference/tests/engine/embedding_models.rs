//! Embedding models give the vectors of the reference, from a directory and from GGUF files: the whole way from text.
//!
//! `make_embeddings.py` of bitnet-models' test data says what the reference computed.

use crate::{floats, ids, in_crates, json};
use bitnet_inference::{EmbeddingConfig, Engine, LoadOptions, Pooling, Prompt};

const DATA: &str = "bitnet-models/tests/data";

fn engine(path: &str) -> Engine {
    let options = LoadOptions {
        max_sequences: 4,
        ..LoadOptions::default()
    };
    Engine::load(in_crates(DATA).join(path), &options)
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn cosine(a: &[f32], b: &[f64]) -> f64 {
    let dot = |a: &mut dyn Iterator<Item = (f64, f64)>| a.map(|(a, b)| a * b).sum::<f64>();
    let a: Vec<f64> = a.iter().map(|&a| f64::from(a)).collect();
    let of = |a: &[f64], b: &[f64]| dot(&mut a.iter().copied().zip(b.iter().copied()));
    of(&a, b) / (of(&a, &a) * of(b, b)).sqrt()
}

/// Every text's vectors against the golden ones under `key`. An activation on a rounding tie moves a vector by up to a
/// thousandth of its length; one text at least has none.
fn check(path: &str, model: &str, key: &str) {
    let engine = engine(path);
    assert_eq!(engine.pooling(), Some(Pooling::Last), "{path}");
    let own = EmbeddingConfig {
        pooling: Pooling::Last,
        normalize: true,
    };
    assert_eq!(engine.config().embedding, Some(own), "{path}");
    let golden = json(&format!("{DATA}/{model}/embeddings.json"));
    let golden = golden[key].as_array().expect("a list");
    let prompts: Vec<Prompt> = golden
        .iter()
        .map(|golden| golden["text"].as_str().expect("a text").into())
        .collect();
    for (pooling, name) in [(Pooling::Last, "last"), (Pooling::Mean, "mean")] {
        let found = engine.embed(&prompts, pooling).expect("fits");
        let mut closest = f64::INFINITY;
        for ((found, prompt), golden) in found.iter().zip(&prompts).zip(golden) {
            let request = engine.check_embedding(prompt, pooling).expect("fits");
            assert_eq!(request.prompt_ids(), ids(&golden["ids"]), "{path}");
            assert_eq!(found.n_tokens, request.prompt_ids().len());
            let expected = floats(&golden[name]);
            let length: f64 = found.vector.iter().map(|&v| f64::from(v).powi(2)).sum();
            assert!((length - 1.0).abs() < 1e-5, "{path}: {length}");
            let worst = found
                .vector
                .iter()
                .zip(&expected)
                .map(|(a, b)| (f64::from(*a) - b).abs())
                .fold(0.0, f64::max);
            let what = format!("{path}, {name} of {prompt:?}: off by {worst}");
            assert!(
                cosine(&found.vector, &expected) > 0.9995 && worst < 0.01,
                "{what}"
            );
            closest = closest.min(worst);
        }
        assert!(closest < 1e-5, "{path}, {name}: {closest}");
    }
}

#[test]
fn a_qwen3_model_gives_the_references_vectors() {
    for path in [
        "qwen3-embed-tiny",
        "qwen3-embed-tiny/qwen3-embed-tiny.qwen3.I2_S.gguf",
    ] {
        check(path, "qwen3-embed-tiny", "embeddings");
    }
}

#[test]
fn a_gemma3_model_gives_the_references_vectors() {
    for path in [
        "gemma3-embed-tiny",
        "gemma3-embed-tiny/gemma3-embed-tiny.gemma3.sliding.I2_S.gguf",
    ] {
        check(path, "gemma3-embed-tiny", "embeddings");
    }
}

#[test]
fn a_gemma3_file_without_a_window_has_one_rotary_base() {
    let path = "gemma3-embed-tiny/gemma3-embed-tiny.gemma3.I2_S.gguf";
    check(path, "gemma3-embed-tiny", "embeddings_of_one_base");
    assert!(engine(path).config().sliding.is_none());
}

#[test]
fn the_golden_vectors_tell_poolings_and_rotary_bases_apart() {
    let golden = json(&format!("{DATA}/gemma3-embed-tiny/embeddings.json"));
    let vector = |key: &str, name: &str| floats(&golden[key][0][name]);
    let single = |v: &[f64]| v.iter().map(|&v| v as f32).collect::<Vec<f32>>();
    let last = vector("embeddings", "last");
    for other in [
        vector("embeddings", "mean"),
        vector("embeddings_of_one_base", "last"),
    ] {
        assert!(cosine(&single(&last), &other) < 0.9995);
    }
}
