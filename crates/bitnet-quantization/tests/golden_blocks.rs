//! Every type decodes to gguf-py's values and encodes to gguf-py's bytes, element by element.

use std::path::Path;

use bitnet_quantization::{
    BlockTernaryRows, ScaleLayout, TensorType, TernaryRows, dequantize, quantize,
};

/// The ternary types of blocks.
const TERNARY: [TensorType; 5] = [
    TensorType::Tq1_0,
    TensorType::Tq2_0,
    TensorType::Q2_0,
    TensorType::Pq2_0,
    TensorType::Ptq1_0,
];

fn read(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn read_f32(name: &str) -> Vec<f32> {
    read(name)
        .as_chunks()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect()
}

#[test]
fn every_type_decodes_to_the_golden_values_bit_by_bit() {
    for &ty in TensorType::ALL.iter().filter(|&&ty| ty != TensorType::I2S) {
        let bytes = read(&format!("decode/{ty}.blocks"));
        let golden = read_f32(&format!("decode/{ty}.f32"));
        assert_eq!(
            golden.len(),
            bytes.len() / ty.block_bytes() * ty.block_len(),
            "{ty}"
        );
        let mut values = vec![f32::NAN; golden.len()];
        dequantize(ty, &bytes, &mut values).unwrap();
        for (i, (value, golden)) in values.iter().zip(&golden).enumerate() {
            assert_eq!(
                value.to_bits(),
                golden.to_bits(),
                "{ty} value {i}: {value} instead of {golden}"
            );
        }
    }
}

#[test]
fn values_encode_to_the_golden_blocks() {
    let values = read_f32("encode/values.f32");
    for ty in [
        TensorType::F16,
        TensorType::BF16,
        TensorType::Q4_0,
        TensorType::Q4_1,
        TensorType::Q5_0,
        TensorType::Q8_0,
    ] {
        let mut bytes = Vec::new();
        quantize(ty, &values, &mut bytes).unwrap();
        let golden = read(&format!("encode/{ty}.blocks"));
        assert_eq!(bytes.len(), golden.len(), "{ty}");
        let difference = bytes
            .iter()
            .zip(&golden)
            .position(|(byte, golden)| byte != golden);
        assert_eq!(difference, None, "{ty}: the first byte that differs");
    }
}

#[test]
fn trits_encode_to_the_golden_blocks() {
    let values = read_f32("encode/ternary.f32");
    for ty in TERNARY {
        let mut bytes = Vec::new();
        quantize(ty, &values, &mut bytes).unwrap();
        assert!(bytes == read(&format!("encode/{ty}.blocks")), "{ty}");
    }
}

#[test]
fn golden_ternary_blocks_are_rows_of_their_trits_and_scales() {
    let values = read_f32("encode/ternary.f32");
    for ty in TERNARY {
        let bytes = read(&format!("encode/{ty}.blocks"));
        let (rows, cols) = (2, 768);
        let weight = BlockTernaryRows::new(ty, rows, cols, &bytes).unwrap();
        let ScaleLayout::PerBlock { block_len } = weight.scale() else {
            panic!("{ty}: {:?}", weight.scale())
        };
        assert!(block_len.is_multiple_of(ty.block_len()), "{ty}");
        let (mut trits, mut scales) = (vec![0; cols], vec![0.0; cols / block_len]);
        for row in 0..rows {
            weight.read_row(row, &mut trits, &mut scales).unwrap();
            for (col, &trit) in trits.iter().enumerate() {
                assert!((-1..=1).contains(&trit));
                let value = f32::from(trit) * scales[col / block_len];
                assert_eq!(
                    value,
                    values[row * cols + col],
                    "{ty} row {row} column {col}"
                );
            }
        }
    }
}
