//! Whatever is encoded decodes again: trits exactly, values within half a step of their type.

use bitnet_quantization::{
    BlockTernaryRows, I2sDialect, I2sEncoder, I2sRows, ScaleLayout, TensorType, TernaryRows,
    dequantize, encode_i2s, quantize, recognise,
};
use proptest::prelude::*;

fn trits(n: impl Into<proptest::collection::SizeRange>) -> impl Strategy<Value = Vec<i8>> {
    proptest::collection::vec(-1i8..=1, n)
}

fn decode_all(weight: &dyn TernaryRows) -> Vec<i8> {
    let cols = weight.cols();
    let mut trits = vec![9; weight.rows() * cols];
    let mut scales = vec![0.0; weight.scale().scales_per_row(cols)];
    for (row, trits) in trits.chunks_exact_mut(cols).enumerate() {
        weight.read_row(row, trits, &mut scales).unwrap();
    }
    trits
}

/// Encodes values in blocks of `ty` and decodes them again.
fn through(ty: TensorType, values: &[f32]) -> Vec<f32> {
    let mut bytes = Vec::new();
    quantize(ty, values, &mut bytes).unwrap();
    let mut back = vec![f32::NAN; values.len()];
    dequantize(ty, &bytes, &mut back).unwrap();
    back
}

/// Values of all magnitudes that an f16 scale can serve, a block of 256 at one of them.
fn values() -> impl Strategy<Value = Vec<f32>> {
    (proptest::collection::vec(-1.0f32..=1.0, 256), -3i32..=3).prop_map(|(values, exponent)| {
        values
            .into_iter()
            .map(|value| value * 10f32.powi(exponent))
            .collect()
    })
}

fn absmax(values: &[f32]) -> f32 {
    values
        .iter()
        .fold(0.0, |max: f32, value| max.max(value.abs()))
}

/// Checks that each block's values return within the bound computed from the block.
fn check_bound(
    ty: TensorType,
    values: &[f32],
    bound: impl Fn(&[f32]) -> f32,
) -> Result<(), TestCaseError> {
    let back = through(ty, values);
    for (block, back) in values
        .chunks(ty.block_len())
        .zip(back.chunks(ty.block_len()))
    {
        let bound = bound(block);
        for (value, back) in block.iter().zip(back) {
            prop_assert!(
                (value - back).abs() <= bound,
                "{ty}: {value} became {back}, bound {bound}"
            );
        }
    }
    Ok(())
}

/// The error that rounding `x` to f16 makes at most: half a unit of its 11 bits, or half the smallest subnormal.
fn f16_error(x: f32) -> f32 {
    (x.abs() * 2f32.powi(-11)).max(2f32.powi(-25))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn i2s_returns_its_trits_in_every_dialect(
        groups in 1usize..4, cols in prop::sample::select(vec![1usize, 2, 32, 50, 128, 130, 384]), scale in -1e3f32..1e3, seed in trits(384 * 50)
    ) {
        // Whole groups of 128 and whole strips of four rows at any number of columns.
        let rows = 128 * groups;
        let (rows, cols) = if cols >= 128 { (rows / 32, 32 * (cols / 32)) } else { (rows, cols) };
        let trits = &seed[..rows * cols];
        for &dialect in I2sDialect::ALL {
            let mut bytes = Vec::new();
            encode_i2s(dialect, rows, cols, trits, scale, &mut bytes).unwrap();
            prop_assert_eq!(Some(bytes.len() as u64), TensorType::I2S.storage_bytes((rows * cols) as u64));
            let weight = I2sRows::new(dialect, rows, cols, &bytes).unwrap();
            prop_assert_eq!(weight.scale(), ScaleLayout::PerTensor(scale));
            prop_assert!(decode_all(&weight) == trits, "{} [{}, {}]", dialect, rows, cols);
        }
    }

    #[test]
    fn i2s_in_pieces_equals_i2s_at_once(trits in trits(128 * 5), cuts in proptest::collection::vec(0usize..=640, 0..8)) {
        let mut whole = Vec::new();
        encode_i2s(I2sDialect::Block128, 5, 128, &trits, 0.5, &mut whole).unwrap();
        let mut cuts = cuts;
        cuts.extend([0, trits.len()]);
        cuts.sort_unstable();
        let (mut encoder, mut bytes) = (I2sEncoder::new(), Vec::new());
        for cut in cuts.windows(2) {
            encoder.push(&trits[cut[0]..cut[1]], &mut bytes).unwrap();
        }
        encoder.finish(0.5, &mut bytes).unwrap();
        prop_assert!(bytes == whole);
    }

    #[test]
    fn ternary_blocks_return_their_trits(rows in 1usize..4, blocks in 1usize..4, seed in trits(9 * 256), scale in 1u16..0x7c00) {
        let cols = 256 * blocks;
        let trits = &seed[..rows * cols];
        let scale = half::f16::from_bits(scale).to_f32();
        let values: Vec<f32> = trits.iter().map(|&trit| f32::from(trit) * scale).collect();
        for ty in [TensorType::Tq1_0, TensorType::Tq2_0, TensorType::Q2_0] {
            let mut bytes = Vec::new();
            quantize(ty, &values, &mut bytes).unwrap();
            let weight = BlockTernaryRows::new(ty, rows, cols, &bytes).unwrap();
            if trits.iter().any(|&trit| trit != 0) {
                prop_assert_eq!(weight.scale(), ScaleLayout::PerTensor(scale));
            }
            prop_assert!(decode_all(&weight) == trits, "{} [{}, {}] scale {}", ty, rows, cols, scale);
            prop_assert!(through(ty, &values) == values);
        }
    }

    #[test]
    fn ternary_floats_return_their_trits(trits in trits(1..2000), scale in 1u16..0x7c00) {
        let scale = half::f16::from_bits(scale).to_f32();
        let values: Vec<f32> = trits.iter().map(|&trit| f32::from(trit) * scale).collect();
        for ty in [TensorType::F16, TensorType::F32] {
            let mut bytes = Vec::new();
            quantize(ty, &values, &mut bytes).unwrap();
            let weight = recognise(ty, 1, trits.len(), &bytes).unwrap().ternary().expect("ternary");
            prop_assert!(decode_all(&weight) == trits);
        }
    }

    #[test]
    fn floats_return_within_half_a_unit(values in values()) {
        prop_assert!(through(TensorType::F32, &values) == values);
        let f16 = through(TensorType::F16, &values);
        let bf16 = through(TensorType::BF16, &values);
        for (i, value) in values.iter().enumerate() {
            prop_assert!((value - f16[i]).abs() <= f16_error(*value));
            prop_assert!((value - bf16[i]).abs() <= value.abs() * 2f32.powi(-8));
        }
    }

    // A block's error is half a step of its codes, plus what rounding the scale to f16 moves the largest code by; the
    // 1.001 is for the arithmetic itself. Q4_0 and Q5_0 lose up to a whole step on the side opposite to their largest
    // magnitude, where the codes end one short.

    #[test]
    fn q8_0_returns_within_half_a_step(values in values()) {
        check_bound(TensorType::Q8_0, &values, |block| {
            let d = absmax(block) / 127.0;
            1.001 * (0.5 * d + 127.0 * f16_error(d))
        })?;
    }

    #[test]
    fn q4_0_and_q5_0_return_within_a_step(values in values()) {
        for (ty, steps) in [(TensorType::Q4_0, 8.0), (TensorType::Q5_0, 16.0)] {
            check_bound(ty, &values, |block| {
                let d = absmax(block) / steps;
                1.001 * (d + steps * f16_error(d))
            })?;
        }
    }

    #[test]
    fn q4_1_returns_within_half_a_step(values in values()) {
        check_bound(TensorType::Q4_1, &values, |block| {
            let (min, max) = block.iter().fold((f32::MAX, f32::MIN), |(min, max), &v| (min.min(v), max.max(v)));
            let d = (max - min) / 15.0;
            1.001 * (0.5 * d + 15.0 * f16_error(d) + f16_error(min))
        })?;
    }

    #[test]
    fn q6_k_returns_within_a_step(values in values()) {
        // Two roundings of the sub-block's scale: to int8 steps of the block's largest, and that to f16.
        check_bound(TensorType::Q6K, &values, |block| {
            let largest = absmax(block) / 32.0;
            let d = largest / 128.0;
            1.001 * (largest + 32.0 * (0.5 * d + d + 128.0 * f16_error(d)))
        })?;
    }

    #[test]
    fn any_bytes_decode_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        for &ty in TensorType::ALL {
            let n = bytes.len() / ty.block_bytes() * ty.block_len();
            let whole = bytes.len() / ty.block_bytes() * ty.block_bytes();
            let result = dequantize(ty, &bytes[..whole], &mut vec![0.0; n]);
            prop_assert_eq!(result.is_ok(), ty != TensorType::I2S);
            for (rows, cols) in [(1, n), (n / 4, 4), (4, n / 4)] {
                if let Ok(weight) = BlockTernaryRows::new(ty, rows, cols, &bytes[..whole]) {
                    let mut scales = vec![0.0; weight.scale().scales_per_row(cols)];
                    for row in 0..rows {
                        // Damaged codes are an error, never a panic.
                        let _ = weight.read_row(row, &mut vec![0; cols], &mut scales);
                    }
                }
                let _ = recognise(ty, rows, cols, &bytes[..whole]);
            }
        }
    }
}
