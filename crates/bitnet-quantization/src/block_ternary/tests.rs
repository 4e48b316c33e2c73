//! Scales, codes and sizes of the ternary block types.

use super::*;
use crate::blocks::quantize;
use crate::ternary::TernaryRows;

const TYPES: [TensorType; 5] = [
    TensorType::Tq1_0,
    TensorType::Tq2_0,
    TensorType::Q2_0,
    TensorType::Pq2_0,
    TensorType::Ptq1_0,
];

fn encoded(ty: TensorType, values: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    quantize(ty, values, &mut bytes).unwrap();
    bytes
}

/// Two rows of two 256-blocks, the trits cycling -1, 0, 1, with a scale for each 256.
fn values(scales: [f32; 4]) -> Vec<f32> {
    (0..1024)
        .map(|i| (i % 3) as f32 - 1.0)
        .zip(0..)
        .map(|(trit, i)| trit * scales[i / 256])
        .collect()
}

#[test]
fn equal_block_scales_are_one_scale_for_the_tensor() {
    for ty in TYPES {
        let bytes = encoded(ty, &values([0.5; 4]));
        let rows = BlockTernaryRows::new(ty, 2, 512, &bytes).unwrap();
        assert_eq!(rows.scale(), ScaleLayout::PerTensor(0.5));
        let mut trits = [9; 512];
        rows.read_row(1, &mut trits, &mut []).unwrap();
        assert!(
            trits
                .iter()
                .enumerate()
                .all(|(i, &trit)| trit == ((512 + i) % 3) as i8 - 1),
            "{ty}"
        );
    }
}

#[test]
fn blocks_of_scale_zero_join_the_common_scale_with_zero_trits() {
    for ty in TYPES {
        let mut bytes = encoded(ty, &values([0.5; 4]));
        // The codes of the first block stay as they are; only its scale becomes zero.
        let at = scale_at(ty);
        bytes[at..at + 2].copy_from_slice(&[0, 0]);
        let rows = BlockTernaryRows::new(ty, 2, 512, &bytes).unwrap();
        assert_eq!(rows.scale(), ScaleLayout::PerTensor(0.5), "{ty}");
        let mut trits = [9; 512];
        rows.read_row(0, &mut trits, &mut []).unwrap();
        let (zeroed, kept) = trits.split_at(ty.block_len());
        assert!(zeroed.iter().all(|&trit| trit == 0), "{ty}");
        assert!(kept.iter().any(|&trit| trit != 0), "{ty}");
    }
}

#[test]
fn a_tensor_of_zeros_has_scale_zero() {
    for ty in TYPES {
        let bytes = encoded(ty, &[0.0; 256]);
        let rows = BlockTernaryRows::new(ty, 1, 256, &bytes).unwrap();
        assert_eq!(rows.scale(), ScaleLayout::PerTensor(0.0));
    }
}

#[test]
fn different_block_scales_are_read_with_their_row() {
    for ty in TYPES {
        let bytes = encoded(ty, &values([0.5, 0.25, 2.0, 1.0]));
        let rows = BlockTernaryRows::new(ty, 2, 512, &bytes).unwrap();
        assert_eq!(rows.scale(), ScaleLayout::PerBlock { block_len: 256 });
        let (mut trits, mut scales) = ([9; 512], [0.0; 2]);
        rows.read_row(1, &mut trits, &mut scales).unwrap();
        assert_eq!(scales, [2.0, 1.0], "{ty}");
    }
}

#[test]
fn blocks_are_as_long_as_their_scales_agree() {
    let ty = TensorType::Q2_0;
    // Two rows of eight blocks of 64; what agrees is a row, four blocks, two, none. A scale of zero agrees with any.
    for (scales, block_len) in [
        ([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], 512),
        ([1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0], 256),
        ([1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 2.0, 2.0], 256),
        ([1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0], 128),
        ([1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 1.0, 1.0], 64),
    ] {
        let values: Vec<f32> = (0..1024)
            .map(|i| [-1.0, 0.0, 1.0][i % 3] * scales[i / 64 % 8] * [1.0, 4.0][i / 512])
            .collect();
        let bytes = encoded(ty, &values);
        let rows = BlockTernaryRows::new(ty, 2, 512, &bytes).unwrap();
        assert_eq!(rows.scale(), ScaleLayout::PerBlock { block_len });
        let (mut trits, mut read) = ([9; 512], vec![-1.0; 512 / block_len]);
        rows.read_row(1, &mut trits, &mut read).unwrap();
        let weights = trits.iter().enumerate();
        let weights: Vec<f32> = weights
            .map(|(i, &trit)| f32::from(trit) * read[i / block_len])
            .collect();
        assert_eq!(weights, values[512..], "{block_len}");
    }
}

#[test]
fn a_scale_that_is_not_finite_is_refused_with_its_place() {
    for ty in TYPES {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut bytes = encoded(ty, &values([0.5; 4]));
            // The last block of row 1.
            let block = 1024 / ty.block_len() - 1;
            let at = block * ty.block_bytes() + scale_at(ty);
            bytes[at..at + 2].copy_from_slice(&half::f16::from_f32(bad).to_le_bytes());
            let error = BlockTernaryRows::new(ty, 2, 512, &bytes).unwrap_err();
            let QuantError::BlockScale { row, block, .. } = error else {
                panic!("{ty}: {error}")
            };
            assert_eq!((row, block), (1, 512 / ty.block_len() - 1));
        }
    }
}

#[test]
fn code_three_is_refused_with_its_row_and_column() {
    // TQ2_0: second block, second half, third quarter, byte 8; Q2_0: second block, byte 3, second crumb.
    for (ty, byte, shift, col) in [
        (TensorType::Tq2_0, 66 + 40, 4, 256 + 128 + 64 + 8),
        (TensorType::Q2_0, 18 + 2 + 3, 2, 64 + 13),
    ] {
        let mut bytes = encoded(ty, &values([0.5; 4]));
        let row_bytes = bytes.len() / 2;
        bytes[row_bytes + byte] |= 3 << shift;
        let rows = BlockTernaryRows::new(ty, 2, 512, &bytes).unwrap();
        let mut trits = [0; 512];
        assert!(rows.read_row(0, &mut trits, &mut []).is_ok());
        let expected = QuantError::InvalidCode {
            format: ty.name(),
            row: 1,
            col,
            code: 3,
        };
        assert_eq!(rows.read_row(1, &mut trits, &mut []), Err(expected));
    }
}

#[test]
fn wrong_sizes_are_refused() {
    for ty in TYPES {
        let bytes = encoded(ty, &values([0.5; 4]));
        for len in [0, 1, bytes.len() - 1] {
            let error = BlockTernaryRows::new(ty, 2, 512, &bytes[..len]).unwrap_err();
            assert!(matches!(error, QuantError::ByteLength { found, .. } if found == len));
        }
        for (rows, cols) in [
            (0, 512),
            (2, 0),
            (2, 511),
            (1 << 40, 1 << 40),
            (2, usize::MAX),
        ] {
            let error = BlockTernaryRows::new(ty, rows, cols, &bytes).unwrap_err();
            assert!(
                matches!(error, QuantError::Shape { .. }),
                "[{rows}, {cols}]: {error}"
            );
        }
        let rows = BlockTernaryRows::new(ty, 2, 512, &bytes).unwrap();
        assert_eq!(
            rows.read_row(2, &mut [0; 512], &mut []),
            Err(QuantError::Row { row: 2, rows: 2 })
        );
        assert!(matches!(
            rows.read_row(0, &mut [0; 511], &mut []),
            Err(QuantError::Buffer { .. })
        ));
        assert!(matches!(
            rows.read_row(0, &mut [0; 512], &mut [0.0]),
            Err(QuantError::Buffer { .. })
        ));
    }
    assert!(BlockTernaryRows::new(TensorType::Q8_0, 1, 32, &[0; 34]).is_err());
}
