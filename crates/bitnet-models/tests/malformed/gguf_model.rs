//! GGUF files that are sound containers and no sound model, with the error that each must give.

use crate::bytes::*;
use crate::case::{AGAIN, CONVERTER, Case, attack, changed};

pub(super) fn cases() -> Vec<Case> {
    [shapes(), contents()].concat()
}

fn shapes() -> Vec<Case> {
    let set = |key: &'static str, value: u32| {
        move |f: &mut File| _ = f.set_arch(key, U32, value.to_le_bytes().into())
    };
    let eps = |value: f32| {
        move |f: &mut File| _ = f.set_arch("attention.layer_norm_rms_epsilon", F32, f32s(&[value]))
    };
    vec![
        changed(
            "no architecture",
            |f| _ = f.remove("general.architecture"),
            ": field general.architecture: expected a string, found no such field",
            CONVERTER,
        ),
        changed(
            "architecture that is a number",
            |f| _ = f.set("general.architecture", U32, vec![0; 4]),
            ": field general.architecture: expected a UTF-8 string, found 0",
            CONVERTER,
        ),
        changed(
            "unsupported architecture",
            |f| _ = f.set("general.architecture", STRING, string("mamba\x1b[2J")),
            ": field general.architecture: expected one of bitnet-b1.58, bitnet-25, bitnet, llama, qwen3, gemma3, minicpm, found mamba\\u{1b}[2J",
            "bitnet-b1.58",
        ),
        changed(
            "no hidden size",
            |f| _ = f.remove("bitnet-b1.58.embedding_length"),
            ": field bitnet-b1.58.embedding_length: expected an integer, found no such field",
            CONVERTER,
        ),
        changed(
            "hidden size that is a string",
            |f| _ = f.set_arch("embedding_length", STRING, string("128")),
            ": field bitnet-b1.58.embedding_length: expected one non-negative integer, the same for every layer, found \"128\"",
            CONVERTER,
        ),
        changed(
            "negative layer count",
            |f| _ = f.set_arch("block_count", I32, vec![0xff; 4]),
            ": field bitnet-b1.58.block_count: expected one non-negative integer, the same for every layer, found -1",
            CONVERTER,
        ),
        changed(
            "no layers",
            set("block_count", 0),
            ": field bitnet-b1.58.block_count: expected 1 to 512, found 0",
            CONVERTER,
        ),
        attack(
            "UP#25821",
            "513 layers",
            set("block_count", 513),
            ": field bitnet-b1.58.block_count: expected 1 to 512, found 513",
            CONVERTER,
        ),
        changed(
            "2^32-1 layers",
            set("block_count", u32::MAX),
            ": field bitnet-b1.58.block_count: expected 1 to 512, found 4294967295",
            CONVERTER,
        ),
        changed(
            "no heads",
            set("attention.head_count", 0),
            ": field bitnet-b1.58.attention.head_count: expected 1 to 4096, found 0",
            CONVERTER,
        ),
        changed(
            "no KV heads",
            set("attention.head_count_kv", 0),
            ": field bitnet-b1.58.attention.head_count_kv: expected 1 to 4096, found 0",
            CONVERTER,
        ),
        changed(
            "KV heads that do not divide",
            |f| {
                set("attention.head_count", 4)(f);
                set("attention.head_count_kv", 3)(f)
            },
            ": field bitnet-b1.58.attention.head_count_kv: expected a divisor of the 4 query heads, found 3",
            CONVERTER,
        ),
        changed(
            "layers of different width",
            |f| {
                _ = f.set_arch(
                    "feed_forward_length",
                    ARRAY,
                    array(U32, 2, &[0, 1, 0, 0, 0, 2, 0, 0]),
                )
            },
            ": field bitnet-b1.58.feed_forward_length: expected one non-negative integer, the same for every layer, found an array of 2 u32",
            CONVERTER,
        ),
        changed(
            "epsilon 0",
            eps(0.0),
            ": field bitnet-b1.58.attention.layer_norm_rms_epsilon: expected a finite number above 0, found 0",
            CONVERTER,
        ),
        changed(
            "epsilon NaN",
            eps(f32::NAN),
            ": field bitnet-b1.58.attention.layer_norm_rms_epsilon: expected a finite number above 0, found NaN",
            CONVERTER,
        ),
        changed(
            "odd rotary dimension",
            set("rope.dimension_count", 63),
            ": field bitnet-b1.58.rope.dimension_count: expected an even number, found 63",
            CONVERTER,
        ),
        changed(
            "rotary dimension above the head's",
            set("rope.dimension_count", 128),
            ": field bitnet-b1.58.rope.dimension_count: expected 1 to 64, found 128",
            CONVERTER,
        ),
        changed(
            "vocabulary of 2^32-1",
            set("vocab_size", u32::MAX),
            ": field bitnet-b1.58.vocab_size: expected 1 to 4194304, found 4294967295",
            CONVERTER,
        ),
        changed(
            "vocabulary that is not the embedding's",
            set("vocab_size", 9),
            ": tensor token_embd.weight: expected shape [9, 128], found [8, 128]",
            "convert it again",
        ),
        changed(
            "missing projection",
            |f| f.tensors.retain(|t| t.name != b"blk.0.ffn_up.weight"),
            ": tensor blk.0.ffn_up.weight: expected the up projection of layer 0, [256, 128], found no such tensor",
            "convert it again",
        ),
        changed(
            "transposed projection",
            |f| f.tensor("blk.0.ffn_down.weight").dims.reverse(),
            ": tensor blk.0.ffn_down.weight: expected shape [128, 256], found [256, 128]",
            "convert it again",
        ),
        changed(
            "norm that is a matrix",
            |f| f.tensor("output_norm.weight").dims = vec![64, 2],
            ": tensor output_norm.weight: expected shape [128], found [2, 64]",
            "convert it again",
        ),
    ]
}

fn contents() -> Vec<Case> {
    let query = "blk.0.attn_q.weight";
    let scale =
        |scale: f32| move |f: &mut File| f.tensor(query).data = i2s(128 * 128, TRITS, scale);
    let typed = |ty: u32| move |f: &mut File| f.tensor(query).ty = ty;
    vec![
        changed(
            "removed type",
            typed(4),
            ": tensor blk.0.attn_q.weight: expected a ternary type (I2_S, TQ1_0, TQ2_0, Q2_0), found Q4_2, which ggml has removed: convert the model again",
            "convert the model again",
        ),
        changed(
            "type that is not read",
            typed(10),
            ": tensor blk.0.attn_q.weight: expected a ternary type (I2_S, TQ1_0, TQ2_0, Q2_0), found Q2_K, which this build does not read: this build reads Q4_K, Q5_K and Q6_K of the K types; requantise the tensor to one of them",
            "convert the model again",
        ),
        changed(
            "type that is unknown",
            typed(999),
            ": tensor blk.0.attn_q.weight: expected a ternary type (I2_S, TQ1_0, TQ2_0, Q2_0), found the unknown type number 999: the file is newer than this build, or damaged",
            "convert the model again",
        ),
        changed(
            "embedding in I2_S",
            |f| (f.tensors[0].ty, f.tensors[0].data) = (T_I2S, i2s(128 * 8, TRITS, 1.0)),
            ": tensor token_embd.weight: expected a type of embeddings and heads (F16, Q6_K, ...), found I2_S",
            "convert the model again",
        ),
        changed(
            "embedding in a type that is imported for projections only",
            |f| (f.tensors[0].ty, f.tensors[0].data) = (135, vec![0; 8 * (4 + 128 / 4)]),
            ": tensor token_embd.weight: expected a type of embeddings and heads (F16, Q6_K, ...), found IQ2_BN",
            "convert the model again",
        ),
        changed(
            "norm in Q8_0",
            |f| {
                let t = f.tensor("output_norm.weight");
                (t.ty, t.data) = (T_Q8_0, vec![0; 136])
            },
            ": tensor output_norm.weight: expected F32, F16 or BF16, found Q8_0",
            "convert the model again",
        ),
        changed(
            "scale NaN",
            scale(f32::NAN),
            ": tensor blk.0.attn_q.weight: expected a finite scale above 0, found NaN",
            "lost the scale",
        ),
        changed(
            "scale infinite",
            scale(f32::INFINITY),
            ": tensor blk.0.attn_q.weight: expected a finite scale above 0, found inf",
            "lost the scale",
        ),
        changed(
            "scale 0",
            scale(0.0),
            ": tensor blk.0.attn_q.weight: expected a finite scale above 0, found 0",
            "lost the scale",
        ),
        changed(
            "code 3",
            |f| f.tensor(query).data[40] = 0b01_11_01_01,
            ": tensor blk.0.attn_q.weight: I2_S weights: code 3 at row 1, column 40 is not a trit (0, 1, 2 stand for -1, 0, +1): the data are damaged or written in another layout",
            "--dialect",
        ),
        changed(
            "projection in Q8_0",
            |f| {
                let t = f.tensor(query);
                (t.ty, t.data) = (T_Q8_0, vec![0; 128 * 128 / 32 * 34])
            },
            ": tensor blk.0.attn_q.weight: expected ternary weights, found Q8_0, a type for ordinary weights",
            "ternary release",
        ),
        changed(
            "projection of ordinary floats",
            |f| {
                let t = f.tensor(query);
                (t.ty, t.data) = (
                    T_F32,
                    f32s(&(0..128 * 128).map(|i| i as f32).collect::<Vec<_>>()),
                )
            },
            ": tensor blk.0.attn_q.weight: expected ternary weights, found F32 weights of several magnitudes (1 and 2 among the first)",
            "ternary release",
        ),
        changed(
            "norm with a NaN",
            |f| {
                f.tensor("blk.0.attn_norm.weight").data[8..12]
                    .copy_from_slice(&f32::NAN.to_le_bytes())
            },
            ": tensor blk.0.attn_norm.weight, element 2: expected a finite number, found NaN",
            AGAIN,
        ),
        changed(
            "rotary factor 0",
            |f| _ = f.add("rope_freqs.weight", T_F32, &[32], f32s(&[0.0; 32])),
            ": tensor rope_freqs.weight, element 0: expected a finite number above 0, found 0",
            AGAIN,
        ),
        changed(
            "multiplier 0",
            |f| _ = f.add("blk.0.attn_q.scale", T_F32, &[1], f32s(&[0.0])),
            ": tensor blk.0.attn_q.scale: expected a finite scale above 0, found 0",
            "lost the scale",
        ),
        changed(
            "multiplier of two values",
            |f| _ = f.add("blk.0.attn_q.scale", T_F32, &[2], f32s(&[1.0; 2])),
            ": tensor blk.0.attn_q.scale: expected shape [1], found [2]",
            "convert it again",
        ),
        changed(
            "bias",
            |f| _ = f.add("blk.0.attn_q.bias", T_F32, &[128], f32s(&[0.0; 128])),
            ": tensor blk.0.attn_q.bias: expected no such tensor in a model of family bitnet-b1.58, found it",
            "another kind of model",
        ),
        changed(
            "norm of another family",
            |f| _ = f.add("blk.0.attn_q_norm.weight", T_F32, &[64], f32s(&[1.0; 64])),
            ": tensor blk.0.attn_q_norm.weight: expected no such tensor in a model of family bitnet-b1.58, found it",
            "another kind of model",
        ),
    ]
}
