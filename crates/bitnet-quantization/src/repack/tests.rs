//! Round trips through every pair of types, and what is refused.

use proptest::prelude::*;

use super::*;
use crate::dense_ternary::recognise;

/// The types that are written.
const TYPES: [TensorType; 6] = [
    TensorType::I2S,
    TensorType::Tq1_0,
    TensorType::Tq2_0,
    TensorType::Q2_0,
    TensorType::Pq2_0,
    TensorType::Ptq1_0,
];

/// A tensor in memory with a scale per `block_len` weights (or one), as a source.
struct Plain {
    rows: usize,
    cols: usize,
    trits: Vec<i8>,
    scales: Vec<f32>,
    layout: ScaleLayout,
}

impl TernaryRows for Plain {
    fn rows(&self) -> usize {
        self.rows
    }

    fn cols(&self) -> usize {
        self.cols
    }

    fn scale(&self) -> ScaleLayout {
        self.layout
    }

    fn read_row(&self, row: usize, trits: &mut [i8], scales: &mut [f32]) -> Result<(), QuantError> {
        let n = self.layout.scales_per_row(self.cols);
        trits.copy_from_slice(&self.trits[row * self.cols..][..self.cols]);
        scales.copy_from_slice(&self.scales[row * n..][..n]);
        Ok(())
    }
}

fn one_scale(rows: usize, cols: usize, scale: f32) -> Plain {
    let trits = (0..rows * cols).map(|i| (i * 7 % 11 % 3) as i8 - 1);
    Plain {
        rows,
        cols,
        trits: trits.collect(),
        scales: Vec::new(),
        layout: ScaleLayout::PerTensor(scale),
    }
}

fn repack(source: &dyn TernaryRows, ty: TensorType) -> Result<Vec<u8>, QuantError> {
    let mut repacker = Repacker::new(source, ty)?;
    repacker.check()?;
    let mut bytes = Vec::new();
    while repacker.next_piece(&mut bytes)? {}
    Ok(bytes)
}

fn open(ty: TensorType, rows: usize, cols: usize, bytes: &[u8]) -> Box<dyn TernaryRows + '_> {
    match ty {
        TensorType::I2S => Box::new(I2sRows::new(I2sDialect::Block128, rows, cols, bytes).unwrap()),
        _ => Box::new(BlockTernaryRows::new(ty, rows, cols, bytes).unwrap()),
    }
}

/// Every weight of a source, as the bits of its scale under its trit; a zero has no scale.
fn weights(source: &dyn TernaryRows) -> Vec<(i8, u32)> {
    let (layout, cols) = (source.scale(), source.cols());
    let mut trits = vec![0; cols];
    let mut scales = vec![0.0; layout.scales_per_row(cols)];
    let mut all = Vec::new();
    for row in 0..source.rows() {
        source.read_row(row, &mut trits, &mut scales).unwrap();
        for (col, &trit) in trits.iter().enumerate() {
            let scale = match layout {
                ScaleLayout::PerTensor(scale) => scale,
                ScaleLayout::PerBlock { block_len } => scales[col / block_len],
            };
            let zero = trit == 0 || scale == 0.0;
            all.push(if zero {
                (0, 0)
            } else {
                (trit, scale.to_bits())
            });
        }
    }
    all
}

#[test]
fn trits_and_scale_survive_every_pair_of_types_and_bytes_repeat() {
    for (rows, cols) in [(1, 256), (3, 512), (1100, 256)] {
        let plain = one_scale(rows, cols, 0.75);
        for from in TYPES {
            let first = repack(&plain, from).unwrap();
            let size = from.storage_bytes((rows * cols) as u64).unwrap();
            assert_eq!(first.len() as u64, size);
            for to in TYPES {
                let source = open(from, rows, cols, &first);
                let second = repack(&*source, to).unwrap();
                let back = open(to, rows, cols, &second);
                assert_eq!(back.scale(), ScaleLayout::PerTensor(0.75), "{from} to {to}");
                assert!(
                    weights(&*back) == weights(&plain),
                    "{from} to {to} [{rows}, {cols}]"
                );
                assert!(
                    repack(&*back, from).unwrap() == first,
                    "{from} to {to} and back"
                );
            }
        }
    }
}

#[test]
fn i2s_pieces_are_whole_groups_where_rows_are_not() {
    // 100 columns: a group straddles rows, 32 rows are whole groups; more than one piece.
    let (rows, cols) = (32 * 100, 100);
    let plain = one_scale(rows, cols, 0.3);
    let bytes = repack(&plain, TensorType::I2S).unwrap();
    assert!(rows * cols > PIECE_WEIGHTS);
    let mut whole = Vec::new();
    encode_i2s(
        I2sDialect::Block128,
        rows,
        cols,
        &plain.trits,
        0.3,
        &mut whole,
    )
    .unwrap();
    assert!(bytes == whole);
}

#[test]
fn a_scale_that_is_no_f16_is_refused_by_block_types_only() {
    let plain = one_scale(2, 256, 0.3);
    for ty in TYPES {
        let result = repack(&plain, ty);
        if ty == TensorType::I2S {
            assert!(weights(&*open(ty, 2, 256, &result.unwrap())) == weights(&plain));
        } else {
            let lost = QuantError::ScaleLost {
                format: ty.name(),
                row: 0,
                col: 0,
                scale: 0.3,
                why: NO_F16,
            };
            assert_eq!(result, Err(lost));
        }
    }
    // Beyond f16's range, and below its subnormals.
    for scale in [1e6, 1e-12] {
        assert!(repack(&one_scale(2, 256, scale), TensorType::Tq2_0).is_err());
    }
}

#[test]
fn several_scales_in_a_block_are_refused_unless_zeros_hide_them() {
    let mut plain = one_scale(1, 256, 0.0);
    plain.layout = ScaleLayout::PerBlock { block_len: 64 };
    plain.scales = vec![0.5, 0.5, 0.25, 0.5];
    assert!(repack(&plain, TensorType::Q2_0).is_ok());
    let error = repack(&plain, TensorType::Tq1_0).unwrap_err();
    assert!(
        matches!(error, QuantError::ScaleLost { col: 128, scale, .. } if scale == 0.25),
        "{error}"
    );
    let error = repack(&plain, TensorType::I2S).unwrap_err();
    assert!(error.to_string().contains("several scales"), "{error}");

    plain.trits[128..192].fill(0);
    let bytes = repack(&plain, TensorType::Tq1_0).unwrap();
    let back = open(TensorType::Tq1_0, 1, 256, &bytes);
    assert!(weights(&*back) == weights(&plain));
}

#[test]
fn a_scale_of_zero_makes_zeros() {
    let mut plain = one_scale(1, 256, 0.0);
    plain.layout = ScaleLayout::PerBlock { block_len: 64 };
    plain.scales = vec![0.0, 0.5, 0.5, 0.5];
    let bytes = repack(&plain, TensorType::Tq2_0).unwrap();
    assert!(weights(&*open(TensorType::Tq2_0, 1, 256, &bytes)) == weights(&plain));
}

#[test]
fn shapes_and_types_that_cannot_be_are_refused() {
    let shape = |rows, cols, ty| repack(&one_scale(rows, cols, 0.5), ty).unwrap_err();
    assert!(matches!(
        shape(1, 100, TensorType::I2S),
        QuantError::Shape { .. }
    ));
    assert!(matches!(
        shape(4, 64, TensorType::Tq2_0),
        QuantError::Shape { .. }
    ));
    assert!(matches!(
        shape(4, 96, TensorType::Q2_0),
        QuantError::Shape { .. }
    ));
    assert!(matches!(
        shape(4, 256, TensorType::F16),
        QuantError::NotPossible { .. }
    ));
}

#[test]
fn floats_that_are_trits_are_packed_with_their_scale() {
    let plain = one_scale(4, 256, 0.3);
    let values: Vec<u8> = plain
        .trits
        .iter()
        .flat_map(|&trit| (f32::from(trit) * 0.3).to_le_bytes())
        .collect();
    let rows = recognise(TensorType::F32, 4, 256, &values)
        .unwrap()
        .ternary()
        .unwrap();
    let bytes = repack(&rows, TensorType::I2S).unwrap();
    assert!(weights(&*open(TensorType::I2S, 4, 256, &bytes)) == weights(&plain));
}

proptest! {
    #[test]
    fn block_scales_survive_where_blocks_are_no_longer(
        rows in 1usize..4,
        blocks in 1usize..4,
        seed in any::<u64>(),
    ) {
        let cols = blocks * 256;
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize
        };
        let plain = Plain {
            rows,
            cols,
            trits: (0..rows * cols).map(|_| (next() % 3) as i8 - 1).collect(),
            scales: (0..rows * blocks).map(|_| (next() % 5) as f32 * 0.125).collect(),
            layout: ScaleLayout::PerBlock { block_len: 256 },
        };
        for ty in &TYPES[1..] {
            let ty = *ty;
            let bytes = repack(&plain, ty).unwrap();
            prop_assert!(weights(&*open(ty, rows, cols, &bytes)) == weights(&plain), "{ty}");
        }
    }
}
