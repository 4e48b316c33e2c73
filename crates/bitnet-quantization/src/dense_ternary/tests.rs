//! Recognition of ternary values in every float type.

use super::*;
use crate::ternary::TernaryRows;

const FLOATS: [TensorType; 3] = [TensorType::F32, TensorType::F16, TensorType::BF16];

fn bytes_of(ty: TensorType, values: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    crate::blocks::quantize(ty, values, &mut bytes).unwrap();
    bytes
}

#[test]
fn ternary_floats_become_their_trits() {
    for ty in FLOATS {
        for (rows, cols) in [(1, 1), (1, 3), (7, 5), (3, 1025), (64, 64)] {
            let trits: Vec<i8> = (0..rows * cols)
                .map(|i| (i * i % 7 % 3) as i8 - 1)
                .collect();
            let values: Vec<f32> = trits
                .iter()
                .map(|&trit| f32::from(trit) * 0.15625)
                .collect();
            let bytes = bytes_of(ty, &values);
            let found = recognise(ty, rows, cols, &bytes)
                .unwrap()
                .ternary()
                .expect("ternary");
            assert_eq!(found.scale(), ScaleLayout::PerTensor(0.15625));
            assert_eq!(found.neighbour(), None);
            let mut row_trits = vec![9; cols];
            for row in 0..rows {
                found.read_row(row, &mut row_trits, &mut []).unwrap();
                assert_eq!(row_trits, trits[row * cols..][..cols]);
            }
        }
    }
}

#[test]
fn zeros_of_both_signs_are_zero() {
    for ty in FLOATS {
        let bytes = bytes_of(ty, &[0.0, -0.0, 0.0, -0.0]);
        let found = recognise(ty, 2, 2, &bytes)
            .unwrap()
            .ternary()
            .expect("ternary");
        assert_eq!(found.scale(), ScaleLayout::PerTensor(0.0));
        let mut trits = [9; 2];
        found.read_row(1, &mut trits, &mut []).unwrap();
        assert_eq!(trits, [0, 0]);
    }
}

#[test]
fn two_magnitudes_one_bit_apart_are_the_more_frequent_one() {
    for ty in FLOATS {
        let mut bytes = bytes_of(ty, &[1.0, -1.0, 0.0, 1.0, 1.0]);
        bytes[0] += 1; // the first value's last bit
        let found = recognise(ty, 1, 5, &bytes)
            .unwrap()
            .ternary()
            .expect("ternary");
        assert_eq!(found.scale(), ScaleLayout::PerTensor(1.0));
        let neighbour = found.neighbour().unwrap();
        assert!(neighbour > 1.0 && neighbour < 1.01, "{ty} {neighbour}");
        let mut trits = [9; 5];
        found.read_row(0, &mut trits, &mut []).unwrap();
        assert_eq!(trits, [1, -1, 0, 1, 1]);
    }
}

#[test]
fn dense_tensors_say_which_magnitudes_do_not_fit() {
    for ty in FLOATS {
        // Also when the second magnitude is the very last value, far from the first.
        for at in [1, 1023, 1024, 4999] {
            let mut values = vec![0.5; 5000];
            values[at] = -0.75;
            let bytes = bytes_of(ty, &values);
            let Recognition::Dense { magnitude, other } = recognise(ty, 5, 1000, &bytes).unwrap()
            else {
                panic!("{ty} with a second magnitude at {at}")
            };
            assert_eq!((magnitude, other), (0.5, 0.75));
        }
    }
}

#[test]
fn three_neighbouring_magnitudes_are_dense() {
    for ty in FLOATS {
        let mut bytes = bytes_of(ty, &[1.0, 1.0, 1.0]);
        bytes[ty.block_bytes()] += 1;
        bytes[2 * ty.block_bytes()] += 2;
        assert!(recognise(ty, 1, 3, &bytes).unwrap().ternary().is_none());
    }
}

#[test]
fn values_that_are_not_finite_are_refused_with_their_place() {
    for ty in FLOATS {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut bytes = bytes_of(ty, &[0.0; 12]);
            let at = 7 * ty.block_bytes();
            match ty {
                TensorType::F32 => bytes[at..at + 4].copy_from_slice(&bad.to_le_bytes()),
                TensorType::F16 => {
                    bytes[at..at + 2].copy_from_slice(&half::f16::from_f32(bad).to_le_bytes())
                }
                _ => bytes[at..at + 2].copy_from_slice(&half::bf16::from_f32(bad).to_le_bytes()),
            }
            let error = recognise(ty, 3, 4, &bytes).unwrap_err();
            assert!(
                matches!(error, QuantError::NonFiniteWeight { row: 1, col: 3, .. }),
                "{error}"
            );
        }
    }
}

#[test]
fn wrong_types_and_sizes_are_refused() {
    assert!(matches!(
        recognise(TensorType::Q4_0, 1, 32, &[0; 18]),
        Err(QuantError::NotPossible { .. })
    ));
    assert!(matches!(
        recognise(TensorType::F16, 2, 3, &[0; 13]),
        Err(QuantError::ByteLength { expected: 12, .. })
    ));
    assert!(matches!(
        recognise(TensorType::F32, 1 << 62, 1 << 20, &[]),
        Err(QuantError::Shape { .. })
    ));
}

/// Trits times a scale that changes every `block_len` weights, with blocks of nothing but zeros in between.
fn blocked(rows: usize, cols: usize, block_len: usize) -> (Vec<i8>, Vec<f32>, Vec<f32>) {
    let trits: Vec<i8> = (0..rows * cols)
        .map(|i| match i / block_len % 5 {
            3 => 0,
            _ => (i * i % 7 % 3) as i8 - 1,
        })
        .collect();
    let scales: Vec<f32> = (0..rows * cols / block_len)
        .map(|block| match block % 5 {
            3 => 0.0,
            _ => 0.125 + 0.0625 * (block % 11) as f32,
        })
        .collect();
    let values = trits.iter().enumerate();
    let values = values.map(|(i, &trit)| f32::from(trit) * scales[i / block_len]);
    (trits.clone(), values.collect(), scales)
}

#[test]
fn scales_of_rows_and_of_blocks_are_found() {
    for ty in FLOATS {
        // Rows that no block type can hold too, and blocks beside each other that happen to agree.
        for (rows, cols, block_len) in [
            (7, 17, 17),
            (5, 1024, 1024),
            (3, 512, 256),
            (3, 384, 128),
            (9, 192, 64),
            (4, 96, 32),
        ] {
            let (trits, values, scales) = blocked(rows, cols, block_len);
            let bytes = bytes_of(ty, &values);
            let found = recognise(ty, rows, cols, &bytes).unwrap().ternary();
            let found = found.unwrap_or_else(|| panic!("{ty} [{rows}, {cols}] by {block_len}"));
            assert_eq!(found.scale(), ScaleLayout::PerBlock { block_len });
            assert_eq!(found.neighbour(), None);
            let n = cols / block_len;
            let (mut row_trits, mut row_scales) = (vec![9; cols], vec![-1.0; n]);
            for row in 0..rows {
                found
                    .read_row(row, &mut row_trits, &mut row_scales)
                    .unwrap();
                assert_eq!(row_trits, trits[row * cols..][..cols]);
                assert_eq!(row_scales, scales[row * n..][..n]);
            }
        }
    }
}

#[test]
fn scales_of_rows_that_are_neighbours_stay_apart() {
    for ty in FLOATS {
        let mut bytes = bytes_of(ty, &[1.0, -1.0, 0.0, 1.0, 1.0, 0.0]);
        for at in 3..5 {
            bytes[at * ty.block_bytes()] += 1; // the second row's last bits
        }
        let found = recognise(ty, 2, 3, &bytes).unwrap().ternary().unwrap();
        assert_eq!(found.scale(), ScaleLayout::PerBlock { block_len: 3 });
        let (mut trits, mut first, mut second) = ([9; 3], [0.0], [0.0]);
        found.read_row(0, &mut trits, &mut first).unwrap();
        assert_eq!(trits, [1, -1, 0]);
        found.read_row(1, &mut trits, &mut second).unwrap();
        assert_eq!(trits, [1, 1, 0]);
        assert!(first[0] == 1.0 && second[0] > 1.0 && second[0] < 1.01);
    }
}

#[test]
fn one_value_that_is_no_trit_of_its_block_makes_the_tensor_dense() {
    for ty in FLOATS {
        for at in [0, 1, 63, 64, 64 * 8 - 1] {
            let (_, mut values, _) = blocked(3, 192, 64);
            values[at] = 3.0;
            let zeros = values[at / 64 * 64..][..64].iter().filter(|v| **v != 0.0);
            assert!(zeros.count() > 1, "{at}: the block has other weights");
            let bytes = bytes_of(ty, &values);
            let found = recognise(ty, 3, 192, &bytes).unwrap();
            assert!(found.ternary().is_none(), "{ty} {at}");
        }
    }
}

#[test]
fn a_column_of_different_values_is_dense() {
    for ty in FLOATS {
        let bytes = bytes_of(ty, &[1.0, 0.5, 0.25]);
        assert!(recognise(ty, 3, 1, &bytes).unwrap().ternary().is_none());
    }
}

#[test]
fn a_block_that_is_not_finite_is_refused_with_its_place() {
    for ty in FLOATS {
        let (_, mut values, _) = blocked(3, 192, 64);
        // Every weight of the second row's last block, so that the block has one magnitude.
        values[320..384].fill(1.0);
        let mut bytes = bytes_of(ty, &values);
        let at = 320 * ty.block_bytes();
        let infinity = match ty {
            TensorType::F16 => half::f16::INFINITY.to_le_bytes().to_vec(),
            TensorType::BF16 => half::bf16::INFINITY.to_le_bytes().to_vec(),
            _ => f32::INFINITY.to_le_bytes().to_vec(),
        };
        bytes[at..at + 64 * ty.block_bytes()].copy_from_slice(&infinity.repeat(64));
        let error = recognise(ty, 3, 192, &bytes).unwrap_err();
        let place = matches!(
            error,
            QuantError::NonFiniteWeight {
                row: 1,
                col: 128,
                ..
            }
        );
        assert!(place, "{error}");
    }
}
