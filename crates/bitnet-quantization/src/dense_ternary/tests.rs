//! Recognition of ternary values in every float type.

use super::*;

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
