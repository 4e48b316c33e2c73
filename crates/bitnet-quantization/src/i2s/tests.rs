//! I2_S against its index formulas, at shapes where groups straddle rows.

use super::*;
use crate::ternary::TernaryRows;

/// Trits without a short period.
fn trits(n: usize) -> Vec<i8> {
    (0..n)
        .map(|i| ((i * i + i / 7) % 5 % 3) as i8 - 1)
        .collect()
}

/// Byte and shift of flattened value `i`, from the formula alone.
fn place(dialect: I2sDialect, cols: usize, i: usize) -> (usize, usize) {
    match dialect {
        I2sDialect::Block128 => (32 * (i / 128) + i % 128 % 32, 6 - 2 * (i % 128 / 32)),
        I2sDialect::Block64 => (16 * (i / 64) + i % 64 % 16, 6 - 2 * (i % 64 / 16)),
        I2sDialect::Rows4 => (i / cols / 4 * cols + i % cols, 6 - 2 * (i / cols % 4)),
    }
}

/// Encodes value by value.
fn encode_by_formula(dialect: I2sDialect, cols: usize, trits: &[i8], scale: f32) -> Vec<u8> {
    let mut bytes = vec![0; trits.len() / 4];
    for (i, trit) in trits.iter().enumerate() {
        let (byte, shift) = place(dialect, cols, i);
        bytes[byte] |= ((trit + 1) as u8) << shift;
    }
    bytes.extend(scale.to_le_bytes());
    bytes.resize(trits.len() / 4 + 32, 0);
    bytes
}

/// Shapes that every dialect can hold: rows of less than a group, of whole groups, of anything between.
const SHAPES: [(usize, usize); 12] = [
    (128, 1),
    (128, 3),
    (64, 2),
    (32, 4),
    (4, 32),
    (4, 96),
    (4, 128),
    (8, 160),
    (12, 256),
    (4, 2080),
    (128, 127),
    (128, 129),
];

#[test]
fn every_dialect_decodes_what_the_formula_encodes() {
    for &dialect in I2sDialect::ALL {
        for (rows, cols) in SHAPES {
            let trits = trits(rows * cols);
            let bytes = encode_by_formula(dialect, cols, &trits, 0.0625);
            let weight = I2sRows::new(dialect, rows, cols, &bytes).unwrap();
            assert_eq!(weight.scale(), ScaleLayout::PerTensor(0.0625));
            let mut row_trits = vec![9; cols];
            for row in 0..rows {
                weight.read_row(row, &mut row_trits, &mut []).unwrap();
                assert_eq!(
                    row_trits,
                    trits[row * cols..][..cols],
                    "{dialect} [{rows}, {cols}] row {row}"
                );
            }
        }
    }
}

#[test]
fn every_dialect_encodes_as_the_formula() {
    for &dialect in I2sDialect::ALL {
        for (rows, cols) in SHAPES {
            let trits = trits(rows * cols);
            let mut bytes = vec![7];
            encode_i2s(dialect, rows, cols, &trits, -1.5, &mut bytes).unwrap();
            assert_eq!(bytes[0], 7);
            assert!(
                bytes[1..] == encode_by_formula(dialect, cols, &trits, -1.5),
                "{dialect} [{rows}, {cols}]"
            );
        }
    }
}

#[test]
fn the_encoder_in_pieces_writes_the_same_bytes() {
    let trits = trits(128 * 9);
    let mut whole = Vec::new();
    encode_i2s(I2sDialect::Block128, 9, 128, &trits, 0.5, &mut whole).unwrap();
    for piece in [1, 31, 127, 128, 129, 500, 1152] {
        let (mut encoder, mut bytes) = (I2sEncoder::new(), Vec::new());
        for trits in trits.chunks(piece) {
            encoder.push(trits, &mut bytes).unwrap();
            encoder.push(&[], &mut bytes).unwrap();
        }
        encoder.finish(0.5, &mut bytes).unwrap();
        assert!(bytes == whole, "pieces of {piece}");
    }
}

#[test]
fn the_encoder_refuses_what_is_no_tensor() {
    let mut out = Vec::new();
    let mut encoder = I2sEncoder::new();
    encoder.push(&[1; 130], &mut out).unwrap();
    let error = encoder.push(&[0, 1, 2], &mut out).unwrap_err();
    assert_eq!(
        error,
        QuantError::InvalidTrit {
            index: 132,
            trit: 2
        }
    );
    let error = encoder.clone().finish(1.0, &mut out).unwrap_err();
    assert_eq!(
        error,
        QuantError::Buffer {
            what: "trits",
            expected: 256,
            found: 130
        }
    );
    encoder.push(&[0; 126], &mut out).unwrap();
    assert!(matches!(
        encoder.finish(f32::NAN, &mut out),
        Err(QuantError::TensorScale { .. })
    ));

    let mut out = Vec::new();
    assert!(encode_i2s(I2sDialect::Block128, 1, 128, &[-2; 128], 1.0, &mut out).is_err());
    assert!(encode_i2s(I2sDialect::Block128, 1, 128, &[0; 127], 1.0, &mut out).is_err());
    assert!(
        encode_i2s(
            I2sDialect::Block128,
            1,
            128,
            &[0; 128],
            f32::INFINITY,
            &mut out
        )
        .is_err()
    );
    assert_eq!(out, []);
}

#[test]
fn code_three_is_refused_in_its_own_row_only() {
    for &dialect in I2sDialect::ALL {
        for (rows, cols) in SHAPES {
            let trits = trits(rows * cols);
            let mut bytes = encode_by_formula(dialect, cols, &trits, 1.0);
            let (bad_row, bad_col) = (rows / 2, cols / 3);
            let (byte, shift) = place(dialect, cols, bad_row * cols + bad_col);
            bytes[byte] |= 3 << shift;
            let weight = I2sRows::new(dialect, rows, cols, &bytes).unwrap();
            for row in 0..rows {
                let result = weight.read_row(row, &mut vec![0; cols], &mut []);
                let expected = QuantError::InvalidCode {
                    format: FORMAT,
                    row,
                    col: bad_col,
                    code: 3,
                };
                assert_eq!(
                    result,
                    if row == bad_row {
                        Err(expected)
                    } else {
                        Ok(())
                    },
                    "{dialect} row {row}"
                );
            }
        }
    }
}

#[test]
fn shapes_that_a_dialect_cannot_hold_are_refused() {
    for (dialect, rows, cols) in [
        (I2sDialect::Block128, 1, 64),
        (I2sDialect::Block128, 3, 129),
        (I2sDialect::Block64, 1, 96),
        (I2sDialect::Rows4, 6, 128),
        (I2sDialect::Block128, 0, 128),
        (I2sDialect::Block128, 128, 0),
        (I2sDialect::Block128, usize::MAX, 128),
        (I2sDialect::Block128, 1 << 40, 1 << 23),
        (I2sDialect::Block128, 1, 1 << 24),
    ] {
        let error = I2sRows::new(dialect, rows, cols, &[]).unwrap_err();
        assert!(
            matches!(error, QuantError::Shape { .. }),
            "{dialect} [{rows}, {cols}]: {error}"
        );
    }
}

#[test]
fn wrong_sizes_and_scales_are_refused() {
    let bytes = encode_by_formula(I2sDialect::Block128, 128, &[0; 256], 1.0);
    for len in [0, 1, 63, 64, 68, 95] {
        let error = I2sRows::new(I2sDialect::Block128, 2, 128, &bytes[..len]).unwrap_err();
        let expected = QuantError::ByteLength {
            format: FORMAT,
            rows: 2,
            cols: 128,
            expected: 96,
            found: len,
        };
        assert_eq!(error, expected);
    }
    for scale in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let bytes = encode_by_formula(I2sDialect::Block128, 128, &[0; 256], scale);
        let error = I2sRows::new(I2sDialect::Block128, 2, 128, &bytes).unwrap_err();
        assert!(matches!(error, QuantError::TensorScale { .. }), "{error}");
    }
    let weight = I2sRows::new(I2sDialect::Block128, 2, 128, &bytes).unwrap();
    assert_eq!(
        weight.read_row(2, &mut [0; 128], &mut []),
        Err(QuantError::Row { row: 2, rows: 2 })
    );
    assert!(matches!(
        weight.read_row(0, &mut [0; 129], &mut []),
        Err(QuantError::Buffer { .. })
    ));
    assert!(matches!(
        weight.read_row(0, &mut [0; 128], &mut [0.0]),
        Err(QuantError::Buffer { .. })
    ));
}

#[test]
fn dialects_have_names() {
    for &dialect in I2sDialect::ALL {
        assert_eq!(dialect.to_string().parse(), Ok(dialect));
    }
    let error = "i2s".parse::<I2sDialect>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "unknown I2_S dialect `i2s`: expected i2s-128, i2s-64 or i2s-4row"
    );
}
