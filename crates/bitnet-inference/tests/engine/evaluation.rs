//! Logits, hidden states and traces agree with each other and with generation, however they are chunked.

use crate::{reference_path, stories, tokens};
use bitnet_inference::{Engine, GenerateOptions, KvType, LoadOptions, LogitRows, Operation};

#[test]
fn logits_of_all_positions_end_with_those_of_the_last() {
    let ids: Vec<u32> = (1..=100).collect();
    let all = stories().logits(&ids, LogitRows::All).expect("fits");
    let last = stories().logits(&ids, LogitRows::Last).expect("fits");
    assert_eq!((all.len(), last.len()), (100 * 1024, 1024));
    assert_eq!(all[99 * 1024..], last);
    assert!(
        stories()
            .logits(&ids, LogitRows::None)
            .expect("fits")
            .is_empty()
    );
}

#[test]
fn traces_do_not_depend_on_chunks_and_end_in_the_hidden_states() {
    let ids: Vec<u32> = (1..=77).collect();
    let with_chunk = |prefill_chunk| {
        let options = LoadOptions {
            prefill_chunk,
            ..LoadOptions::default()
        };
        let engine = Engine::load(reference_path("tiny-bitnet"), &options).expect("loads");
        (
            engine.trace(&ids).expect("fits"),
            engine.hidden_states(&ids).expect("fits"),
        )
    };
    let (trace, hidden) = with_chunk(512);
    assert_eq!(
        (trace.n_tokens, trace.hidden_size, trace.layers.len()),
        (77, 256, 4)
    );
    assert!(
        trace
            .layers
            .iter()
            .chain([&trace.embedding, &trace.final_norm])
            .all(|rows| rows.len() == 77 * 256)
    );
    assert_eq!(trace.final_norm, hidden);
    assert_ne!(trace.layers[3], trace.final_norm);
    assert_eq!(with_chunk(10), (trace, hidden));
}

#[test]
fn reported_log_probabilities_are_those_of_the_evaluated_text() {
    let options = GenerateOptions {
        max_tokens: Some(20),
        seed: Some(5),
        logprobs: true,
        ignore_eos: true,
        ..GenerateOptions::default()
    };
    let drawn = tokens(stories(), vec![0, 448], &options);
    let text: Vec<u32> = [0, 448]
        .into_iter()
        .chain(drawn.iter().map(|t| t.id))
        .collect();
    let evaluated = stories().logprobs(&text).expect("fits");
    for (token, expected) in drawn.iter().zip(&evaluated[1..]) {
        assert_eq!(token.logprob, Some(*expected as f32));
    }
}

#[test]
fn a_model_in_memory_is_the_model_on_disk() {
    let bytes = std::fs::read(crate::stories_path()).expect("it is committed");
    let engine =
        Engine::from_bytes("stories", bytes.into(), &LoadOptions::default()).expect("loads");
    let ids = [0, 448, 670];
    assert_eq!(
        engine.logits(&ids, LogitRows::All).expect("fits"),
        stories().logits(&ids, LogitRows::All).expect("fits"),
    );
    let info = engine.info();
    assert_eq!(info.context, 256);
    // Two bits for each of the ternary weights of 6 layers and a scale for each of 7 tensors; the F16 head of 1024
    // rows of 256.
    let layers = 6 * ((4 * 256 * 256 + 3 * 256 * 768) / 4 + 7 * 4);
    assert_eq!(
        (info.layer_bytes, info.head_bytes),
        (layers, 1024 * 256 * 2)
    );
    assert_eq!(info.bytes_per_token, layers + 1024 * 256 * 2);
    assert_eq!(info.kv_position_bytes, 6 * 2 * 256 * 4);
    // 256 positions, 6 layers, keys and values of 256 f32.
    assert_eq!(info.kv_cache_bytes, 256 * 6 * 2 * 256 * 4);
}

#[test]
fn an_f16_cache_takes_half_the_memory_and_changes_little() {
    let options = LoadOptions {
        kv_type: KvType::F16,
        ..LoadOptions::default()
    };
    let engine = Engine::load(crate::stories_path(), &options).expect("loads");
    assert_eq!(
        engine.info().kv_cache_bytes * 2,
        stories().info().kv_cache_bytes
    );
    let ids: Vec<u32> = (1..=60).collect();
    let half = engine.logits(&ids, LogitRows::All).expect("fits");
    let full = stories().logits(&ids, LogitRows::All).expect("fits");
    assert_ne!(half, full, "keys and values were not rounded at all");
    // 11 bits of keys and values flip int8 activations here and there, each worth tenths of a logit: far below the
    // spread of the logits, which is several units.
    let rms = |a: &[f32], b: &[f32]| {
        let sum: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        (sum / a.len() as f64).sqrt()
    };
    let (error, spread) = (rms(&half, &full), rms(&full, &vec![0.0; full.len()]));
    assert!(error < spread / 20.0, "{error} of {spread}");
}

#[test]
fn a_profile_names_every_operation_and_changes_no_token() {
    let engine = Engine::load(crate::stories_path(), &LoadOptions::default()).expect("loads");
    let options = GenerateOptions {
        max_tokens: Some(5),
        ..GenerateOptions::greedy()
    };
    let ids = |engine: &Engine| -> Vec<u32> {
        let generation = engine.generate("Once upon a time", &options).expect("runs");
        generation.map(|token| token.expect("runs").id).collect()
    };
    let plain = ids(&engine);
    assert!(engine.take_profile().is_none());
    let before = engine.traffic();
    engine.start_profile();
    assert_eq!(ids(&engine), plain);
    let read = engine.traffic().since(&before);
    let profile = engine.take_profile().expect("was started");
    assert!(engine.take_profile().is_none());

    let names: Vec<_> = profile.totals().map(|(op, _)| op.name()).collect();
    let all = "embed,norm,q k v,rope,kv write,attention,output,gate up,down,add,head";
    assert_eq!(names, all.split(',').collect::<Vec<_>>());
    let weights: u64 = profile
        .totals()
        .filter(|(op, _)| *op != Operation::Attention)
        .map(|(_, total)| total.work.bytes)
        .sum();
    // One pass over the prompt, then one for each token but the last, which may leave weights out.
    let info = engine.info();
    let whole = info.layer_bytes + 5 * info.head_bytes;
    assert_eq!(read.passes, 4);
    assert!(read.ternary_bytes <= 4 * info.layer_bytes as u64);
    assert_eq!(weights, whole as u64 + read.ternary_bytes);
    assert!(profile.totals().all(|(_, total)| !total.time.is_zero()));
}
