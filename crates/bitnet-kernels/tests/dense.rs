//! Embeddings and heads of every storage type: the values of `dequantize`, multiplied in one order on every kernel.

mod support;

use bitnet_kernels::{Backend, CpuBackend, MatrixData};
use bitnet_quantization::{I2sDialect, TensorType, dequantize, encode_i2s};
use support::{Random, backends, bits, buffer};

/// Random stored rows: random codes with scales that are finite f16 numbers.
fn stored(ty: TensorType, rows: usize, cols: usize, random: &mut Random) -> Vec<u8> {
    if ty == TensorType::I2S {
        let trits: Vec<i8> = (0..rows * cols)
            .map(|_| random.below(3) as i8 - 1)
            .collect();
        let mut bytes = Vec::new();
        encode_i2s(I2sDialect::Block128, rows, cols, &trits, 0.37, &mut bytes).unwrap();
        return bytes;
    }
    if ty == TensorType::F32 {
        return random
            .floats(rows * cols)
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
    }
    let n = ty.storage_bytes((rows * cols) as u64).unwrap() as usize;
    let mut bytes: Vec<u8> = (0..n).map(|_| random.below(256) as u8).collect();
    // Bit 14 is the top of the exponent in f16 and bf16: cleared, every number is finite and below 2.
    let scales: &[usize] = match ty {
        TensorType::F16 | TensorType::BF16 => &[0],
        TensorType::Q4_1 | TensorType::Q4K | TensorType::Q5K => &[0, 2],
        TensorType::Q6K => &[208],
        TensorType::Tq1_0 => &[52],
        TensorType::Tq2_0 => &[64],
        TensorType::Ptq1_0 => &[26],
        _ => &[0],
    };
    for block in bytes.chunks_exact_mut(ty.block_bytes()) {
        for at in scales {
            block[at + 1] &= 0xbf;
        }
    }
    bytes
}

/// The stored values as f32, `[rows, cols]`.
fn widened(ty: TensorType, rows: usize, cols: usize, bytes: &[u8]) -> Vec<f32> {
    let mut values = vec![0.0; rows * cols];
    if ty != TensorType::I2S {
        dequantize(ty, bytes, &mut values).unwrap();
        return values;
    }
    let codes = bytes[..rows * cols / 4].chunks_exact(32);
    for (codes, values) in codes.zip(values.chunks_exact_mut(128)) {
        for (j, value) in values.iter_mut().enumerate() {
            *value = 0.37 * (f32::from((codes[j % 32] >> (6 - 2 * (j / 32))) & 3) - 1.0);
        }
    }
    values
}

/// The product in the documented order: column c in lane c % 32, lanes folded 32, 16, 8, 4, 2, 1.
fn dot(w: &[f32], x: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 32];
    for (c, (w, x)) in w.iter().zip(x).enumerate() {
        lanes[c % 32] += w * x;
    }
    for half in [16, 8, 4, 2, 1] {
        for j in 0..half {
            lanes[j] += lanes[j + half];
        }
    }
    lanes[0]
}

/// Column counts around one and two blocks, and around a widened chunk.
fn columns(ty: TensorType) -> Vec<usize> {
    match ty {
        _ if ty.is_float() => vec![1, 15, 16, 17, 31, 33, 255, 256, 257, 300],
        TensorType::I2S => vec![128, 384],
        _ => [1, 2, 3]
            .iter()
            .map(|blocks| blocks * ty.block_len())
            .chain([768])
            .collect(),
    }
}

fn matrix(
    backend: &CpuBackend,
    ty: TensorType,
    rows: usize,
    cols: usize,
    bytes: &[u8],
) -> <CpuBackend as Backend>::Matrix {
    backend
        .upload_matrix(MatrixData {
            ty,
            rows,
            cols,
            bytes: bytes.to_vec().into(),
        })
        .unwrap()
}

#[test]
fn products_of_every_type_are_those_of_the_dequantised_values() {
    let mut random = Random::new(1);
    let backends = backends(2);
    for &ty in TensorType::ALL {
        for cols in columns(ty) {
            let rows = 1 + random.below(40) as usize;
            let bytes = stored(ty, rows, cols, &mut random);
            let values = widened(ty, rows, cols, &bytes);
            let x = random.floats(40 * cols);
            let x_rows: Vec<u32> = (0..1 + random.below(37) as u32)
                .map(|i| i * 7 % 40)
                .collect();
            for x_rows in [&x_rows[..1], &x_rows[..]] {
                let expected: Vec<f32> = x_rows
                    .iter()
                    .flat_map(|&i| {
                        let x = &x[i as usize * cols..][..cols];
                        values
                            .chunks_exact(cols)
                            .map(|w| dot(w, x))
                            .collect::<Vec<_>>()
                    })
                    .collect();
                for backend in &backends {
                    let mut out = backend.buffer(expected.len()).unwrap();
                    backend.matmul(
                        &matrix(backend, ty, rows, cols, &bytes),
                        &buffer(backend, &x),
                        x_rows,
                        &mut out,
                    );
                    let name = backend.kernel_name();
                    assert_eq!(
                        bits(&out),
                        bits(&expected),
                        "{name} {ty} [{rows}, {cols}] {} rows",
                        x_rows.len()
                    );
                }
            }
        }
    }
}

#[test]
fn embeddings_of_every_type_are_the_dequantised_rows() {
    let mut random = Random::new(2);
    let backends = backends(2);
    for &ty in TensorType::ALL {
        for cols in columns(ty) {
            let bytes = stored(ty, 9, cols, &mut random);
            let values = widened(ty, 9, cols, &bytes);
            let tokens: Vec<u32> = (0..40).map(|_| random.below(9) as u32).collect();
            let expected: Vec<f32> = tokens
                .iter()
                .flat_map(|&t| &values[t as usize * cols..][..cols])
                .copied()
                .collect();
            for backend in &backends {
                let mut out = backend.buffer(expected.len()).unwrap();
                backend.embed(&matrix(backend, ty, 9, cols, &bytes), &tokens, &mut out);
                // Zero trits may carry a sign: == sees through it, NaN cannot occur.
                assert_eq!(
                    out[..],
                    expected[..],
                    "{} {ty} [9, {cols}]",
                    backend.kernel_name()
                );
            }
        }
    }
}

#[test]
fn every_f16_and_bf16_widens_exactly_on_every_kernel() {
    for backend in backends(1) {
        for ty in [TensorType::F16, TensorType::BF16] {
            let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
            let mut expected = vec![0.0; 1 << 16];
            dequantize(ty, &bytes, &mut expected).unwrap();
            let mut out = backend.buffer(1 << 16).unwrap();
            backend.embed(&matrix(&backend, ty, 1, 1 << 16, &bytes), &[0], &mut out);
            for (out, expected) in out.iter().zip(&expected) {
                let same = out.to_bits() == expected.to_bits() || out.is_nan() && expected.is_nan();
                assert!(same, "{} {ty}: {out} for {expected}", backend.kernel_name());
            }
        }
    }
}

#[test]
fn bytes_that_do_not_match_the_shape_are_refused() {
    let backend = &backends(1)[0];
    for (ty, cols, n_bytes, expected) in [
        (
            TensorType::F16,
            5,
            29,
            "F16 matrix [3, 5]: the byte count does not match the shape (expected 30, found 29)",
        ),
        (
            TensorType::Q6K,
            128,
            315,
            "Q6_K matrix [3, 128]: the columns are not a multiple of the block length (expected 256, found 128)",
        ),
        (
            TensorType::I2S,
            64,
            80,
            "I2_S matrix [3, 64]: the columns are not a multiple of the block length (expected 128, found 64)",
        ),
        (
            TensorType::F32,
            0,
            0,
            "F32 matrix [3, 0]: the columns are not a multiple of the block length (expected 1, found 0)",
        ),
    ] {
        let data = MatrixData {
            ty,
            rows: 3,
            cols,
            bytes: vec![0; n_bytes].into(),
        };
        assert_eq!(
            backend.upload_matrix(data).unwrap_err().to_string(),
            expected
        );
    }
    let data = MatrixData {
        ty: TensorType::F32,
        rows: usize::MAX / 2,
        cols: 9,
        bytes: vec![].into(),
    };
    assert!(backend.upload_matrix(data).is_err());
}
