//! What loading takes in memory at most, in a process of its own: peaks count for all of it.
#![cfg(target_os = "linux")]

use std::fs::File;
use std::path::Path;

use bitnet_inference::{Engine, GenerateOptions, LoadOptions, LogitRows};
use bitnet_models::gguf::{Array, GgufWriter, Value};

const HIDDEN: u64 = 1024;
const INNER: u64 = 4096;
const LAYERS: u32 = 6;
const MIB: u64 = 1 << 20;

/// A model in 16-bit floats that hold trits: 192 MiB of layers, 24 MiB of them packed. Layers are written in
/// alphabetical order within, as llama.cpp's converter writes some.
fn write_model(path: &Path) {
    let mut writer = GgufWriter::new();
    let number = |writer: &mut GgufWriter, key: &str, value: u32| {
        let key = format!("llama.{key}");
        writer.metadata(&key, Value::U32(value)).unwrap();
    };
    writer
        .metadata("general.architecture", Value::string("llama"))
        .unwrap();
    number(&mut writer, "context_length", 64);
    number(&mut writer, "embedding_length", HIDDEN as u32);
    number(&mut writer, "block_count", LAYERS);
    number(&mut writer, "feed_forward_length", INNER as u32);
    number(&mut writer, "attention.head_count", 16);
    let heads = Value::Array(Array::of_i32(&[16]));
    writer
        .metadata("llama.attention.head_count_kv", heads)
        .unwrap();
    let eps = Value::F32(1e-5);
    writer
        .metadata("llama.attention.layer_norm_rms_epsilon", eps)
        .unwrap();
    let mut tensors = vec![("token_embd.weight".to_owned(), vec![HIDDEN, 32])];
    for layer in 0..LAYERS {
        let mut put = |name: &str, dims: &[u64]| {
            tensors.push((format!("blk.{layer}.{name}.weight"), dims.to_vec()));
        };
        put("attn_k", &[HIDDEN, HIDDEN]);
        put("attn_norm", &[HIDDEN]);
        put("attn_output", &[HIDDEN, HIDDEN]);
        put("attn_q", &[HIDDEN, HIDDEN]);
        put("attn_v", &[HIDDEN, HIDDEN]);
        put("ffn_down", &[INNER, HIDDEN]);
        put("ffn_gate", &[HIDDEN, INNER]);
        put("ffn_norm", &[HIDDEN]);
        put("ffn_up", &[HIDDEN, INNER]);
    }
    tensors.push(("output_norm.weight".to_owned(), vec![HIDDEN]));
    // GGUF's numbers of F32 and F16, and the bytes of a value.
    let ty = |dims: &[u64]| if dims.len() == 1 { (0, 4) } else { (1, 2) };
    for (name, dims) in &tensors {
        let (number, size) = ty(dims);
        let bytes = dims.iter().product::<u64>() * size;
        writer.raw_tensor(name, number, dims, bytes).unwrap();
    }
    // 0.5, 0 and -0.5, in eleven orders.
    let trits = |first: u64| -> Vec<u8> {
        let of = |i: u64| [0x3800u16, 0, 0xb800][((i * 7 + first) % 11 % 3) as usize];
        (0..INNER).flat_map(|i| of(i).to_le_bytes()).collect()
    };
    let orders: Vec<Vec<u8>> = (0..11).map(trits).collect();
    let ones = 1f32.to_le_bytes().repeat(HIDDEN as usize);
    let mut data = writer.start(File::create(path).unwrap()).unwrap();
    for (name, dims) in &tensors {
        for row in 0..dims.get(1).copied().unwrap_or(1) {
            let order = &orders[(row as usize * 5 + name.len()) % 11];
            match dims.len() {
                1 => data.write(&ones).unwrap(),
                _ => data.write(&order[..dims[0] as usize * 2]).unwrap(),
            }
        }
    }
    data.finish().unwrap();
}

/// A line of this process's status, in bytes.
fn status(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .unwrap();
    let kib: u64 = line
        .trim_start_matches(':')
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    kib * 1024
}

fn logits(engine: &Engine) -> Vec<u32> {
    let logits = engine.logits(&[1, 2, 3], LogitRows::All).unwrap();
    logits.into_iter().map(f32::to_bits).collect()
}

#[test]
fn a_stream_takes_its_packed_weights_and_a_layer_and_a_lazy_model_takes_nothing_yet() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    write_model(&path);
    let file_bytes = std::fs::metadata(&path).unwrap().len();
    assert!(file_bytes > 192 * MIB);
    let options = LoadOptions {
        threads: Some(2),
        context: Some(64),
        prefill_chunk: 16,
        prefill_beside: 16,
        ..LoadOptions::default()
    };
    let before = status("VmRSS");
    assert!(
        status("VmHWM") < before + 16 * MIB,
        "the writer needs a row at a time"
    );

    let lazy = Engine::load_lazy(&path, &options).unwrap();
    let taken = status("VmRSS").saturating_sub(before);
    assert!(taken < 16 * MIB, "{taken} bytes before any layer was read");
    drop(lazy);

    let stream = File::open(&path).unwrap();
    let streamed = Engine::load_streaming("model.gguf", stream, &options).unwrap();
    // 24 MiB packed, second copies of none of it, 32 MiB of a layer as it is stored, and what an engine needs.
    let peak = status("VmHWM").saturating_sub(before);
    assert!(peak < 96 * MIB, "{peak} bytes of a file of {file_bytes}");
    let packed = streamed.info().layer_bytes as u64;
    assert!((18 * MIB..40 * MIB).contains(&packed), "{packed}");

    // One layer at a time: never the file.
    let lazy = Engine::load_lazy(&path, &options).unwrap();
    assert_eq!(logits(&lazy), logits(&streamed));
    let peak = status("VmHWM").saturating_sub(before);
    assert!(peak < 144 * MIB, "{peak} bytes with two models of {packed}");
    let drawn = streamed.generate(vec![1, 2, 3], &GenerateOptions::greedy());
    assert!(drawn.unwrap().take(3).all(|token| token.is_ok()));
}
