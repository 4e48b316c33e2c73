//! Every reference GGUF file holds the trits and scales of the checkpoint it was made from, tensor by tensor.

use std::path::PathBuf;

use bitnet_models::{
    Checkpoint, CheckpointOptions, NormPlace, Projection, Severity, TensorRole, check,
};
use bitnet_quantization::{ScaleLayout, TensorType, dequantize};

fn reference(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/data/reference", name]
        .iter()
        .collect()
}

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(&reference(name), &CheckpointOptions::default())
        .unwrap_or_else(|error| panic!("{error}"))
}

/// GGUF files and the directory whose weights they hold.
const PAIRS: [(&str, &str); 7] = [
    ("gguf/tiny-bitnet.bitnet-b1.58.I2_S.gguf", "tiny-bitnet"),
    ("gguf/tiny-bitnet.bitnet-b1.58.F16.gguf", "tiny-bitnet"),
    ("gguf/tiny-bitnet-silu.bitnet.F32.gguf", "tiny-bitnet-silu"),
    ("gguf/tiny-bitnet-silu.bitnet.F16.gguf", "tiny-bitnet-silu"),
    (
        "gguf/tiny-bitnet-silu.bitnet.TQ2_0.gguf",
        "tiny-bitnet-silu",
    ),
    (
        "gguf/tiny-bitnet-silu.bitnet.TQ1_0.gguf",
        "tiny-bitnet-silu",
    ),
    ("gguf/tiny-falcon3-158.llama.F16.gguf", "tiny-falcon3-158"),
];

/// All trits of a projection, row by row, and its scale.
fn trits(checkpoint: &Checkpoint, role: TensorRole) -> (Vec<Vec<i8>>, f32) {
    let rows = checkpoint
        .ternary(role)
        .unwrap_or_else(|error| panic!("{error}"));
    let ScaleLayout::PerTensor(scale) = rows.scale() else {
        panic!("{role}: expected one scale")
    };
    let mut all = vec![vec![0; rows.cols()]; rows.rows()];
    all.iter_mut()
        .enumerate()
        .for_each(|(row, trits)| rows.read_row(row, trits, &mut []).unwrap());
    (all, scale)
}

/// Undoes llama.cpp's permutation of query and key rows: file row `2 i + l` of a head is row `l * head_dim / 2 + i`.
fn unpermuted(rows: Vec<Vec<i8>>, head_dim: usize) -> Vec<Vec<i8>> {
    let mut out = rows.clone();
    for (at, row) in rows.into_iter().enumerate() {
        let (head, within) = (at / head_dim, at % head_dim);
        out[head * head_dim + within % 2 * head_dim / 2 + within / 2] = row;
    }
    out
}

fn values(checkpoint: &Checkpoint, role: TensorRole) -> Vec<f32> {
    let matrix = checkpoint.matrix(role).unwrap();
    let mut values = vec![0.0; matrix.rows * matrix.cols];
    dequantize(matrix.ty, &matrix.bytes, &mut values).unwrap();
    values
}

#[test]
fn gguf_files_equal_their_checkpoints() {
    for (file, dir) in PAIRS {
        let (gguf, hf) = (open(file), open(dir));
        let (a, b) = (gguf.config(), hf.config());
        assert_eq!(
            (a.family, a.hidden_size, a.n_layers, a.vocab_size),
            (b.family, b.hidden_size, b.n_layers, b.vocab_size)
        );
        assert_eq!(
            (a.n_heads, a.n_kv_heads, a.head_dim),
            (b.n_heads, b.n_kv_heads, b.head_dim),
            "{file}"
        );
        assert_eq!(
            (a.rms_norm_eps, a.rope.base, a.tied_head),
            (b.rms_norm_eps, b.rope.base, b.tied_head),
            "{file}"
        );
        for role in TensorRole::required(b) {
            match role {
                TensorRole::Projection(_, projection) => {
                    let ((mut ours, scale), (theirs, expected)) =
                        (trits(&gguf, role), trits(&hf, role));
                    if a.family.name == "llama"
                        && matches!(projection, Projection::Query | Projection::Key)
                    {
                        ours = unpermuted(ours, a.head_dim);
                    }
                    assert!(ours == theirs, "{file}: {role}");
                    // 1/weight_scale of the llama file is rounded to f16: half an ulp is 2^-11 of the value.
                    let tolerance = if a.family.name == "llama" {
                        expected / 2048.0
                    } else {
                        0.0
                    };
                    assert!(
                        (scale - expected).abs() <= tolerance,
                        "{file}: {role}: {scale} {expected}"
                    );
                }
                TensorRole::Norm(..) | TensorRole::FinalNorm => {
                    assert_eq!(
                        gguf.vector(role).unwrap(),
                        hf.vector(role).unwrap(),
                        "{file}: {role}"
                    );
                }
                // bf16 values below 2^-14 lose bits in f16: half a step of its subnormals is 2^-25.
                _ => {
                    let (ours, theirs) = (values(&gguf, role), values(&hf, role));
                    let error = ours
                        .iter()
                        .zip(&theirs)
                        .map(|(a, b)| (a - b).abs())
                        .fold(0.0, f32::max);
                    assert!(
                        ours.len() == theirs.len() && error <= 2f32.powi(-25),
                        "{file}: {role}: {error}"
                    );
                }
            }
        }
    }
}

#[test]
fn master_weights_quantise_to_the_packed_checkpoint() {
    let (masters, packed) = (open("tiny-bitnet-bf16"), open("tiny-bitnet"));
    for role in TensorRole::required(packed.config()) {
        if let TensorRole::Projection(..) = role {
            let ((ours, scale), (theirs, expected)) = (trits(&masters, role), trits(&packed, role));
            assert!(ours == theirs, "{role}");
            // The packed scale is stored as bf16: half an ulp is at most 2^-8 of the value.
            assert!(
                (scale - expected).abs() <= expected / 256.0,
                "{role}: {scale} {expected}"
            );
        }
    }
}

#[test]
fn odd_sizes_and_the_new_style_of_config_are_read() {
    let odd = open("tiny-bitnet-odd");
    assert_eq!(
        (
            odd.config().hidden_size,
            odd.config().intermediate_size,
            odd.config().n_kv_heads
        ),
        (192, 704, 1)
    );
    assert_eq!(odd.config().rope.base, 10_000.0);
    let falcon = open("tiny-falcon3-158");
    assert_eq!(
        (
            falcon.config().head_dim,
            falcon.config().rope.base,
            falcon.config().tied_head
        ),
        (48, 1_000_042.0, false)
    );
}

#[test]
fn bitlinear_scales_are_inverted_once() {
    let falcon = open("tiny-falcon3-158");
    let role = TensorRole::Projection(0, Projection::Query);
    let file = std::fs::read(reference("tiny-falcon3-158/model.safetensors")).unwrap();
    let stored = safetensors::SafeTensors::deserialize(&file).unwrap();
    let stored = stored
        .tensor("model.layers.0.self_attn.q_proj.weight_scale")
        .unwrap();
    let mut divisor = [0.0];
    dequantize(TensorType::BF16, stored.data(), &mut divisor).unwrap();
    assert_eq!(trits(&falcon, role).1, 1.0 / divisor[0]);
}

#[test]
fn generation_settings_come_from_the_directory() {
    let defaults = open("tiny-bitnet").generation_defaults().clone();
    assert_eq!(
        (defaults.do_sample, defaults.temperature, defaults.top_p),
        (Some(true), Some(0.6), Some(0.9))
    );
    assert_eq!((defaults.eos, defaults.bos), (vec![497, 505], Some(496)));
    assert!(
        open("gguf/tiny-bitnet.bitnet-b1.58.I2_S.gguf")
            .generation_defaults()
            .eos
            .is_empty()
    );
}

#[test]
fn embeddings_stay_in_the_file() {
    let gguf = open("gguf/tiny-bitnet.bitnet-b1.58.I2_S.gguf");
    let (first, second) = (
        gguf.matrix(TensorRole::Embedding).unwrap(),
        gguf.matrix(TensorRole::Embedding).unwrap(),
    );
    assert_eq!(first.bytes.as_ptr(), second.bytes.as_ptr());
}

#[test]
fn the_check_names_what_the_published_layout_lacks_and_nothing_else() {
    for (name, codes) in [
        (
            "gguf/tiny-bitnet.bitnet-b1.58.I2_S.gguf",
            &["tokenizer-pre-missing", "chat-template-placeholder"][..],
        ),
        ("gguf/tiny-bitnet-silu.bitnet.TQ1_0.gguf", &[]),
        ("gguf/tiny-falcon3-158.llama.F16.gguf", &[]),
        ("tiny-bitnet", &[]),
        ("tiny-falcon3-158", &[]),
    ] {
        let findings = check(&reference(name), &CheckpointOptions::default());
        let found: Vec<&str> = findings.iter().map(|finding| finding.code).collect();
        assert_eq!(found, codes, "{name}: {findings:?}");
        assert!(
            findings
                .iter()
                .all(|finding| finding.severity < Severity::Error)
        );
    }
}

#[test]
fn a_role_that_the_family_lacks_is_absent() {
    let falcon = open("tiny-falcon3-158");
    assert!(falcon.has(TensorRole::Head) && !falcon.has(TensorRole::RopeFactors));
    assert!(!falcon.has(TensorRole::Norm(0, NormPlace::AttentionSub)));
    assert!(
        falcon
            .vector(TensorRole::Norm(0, NormPlace::AttentionSub))
            .is_err()
    );
}
