//! The ternary linear layer, written for reading: what every fast kernel must equal bit by bit.
//!
//! ```text
//! a, q = quantize_activations(x)                             per token
//! one scale s:         y[r] = (sum over k of t[r,k] q[k]) * (s / a)
//! block scales d[g]:   y[r] = (sum over g of (sum over k in g of t[r,k] q[k]) * d[r,g]) * (1 / a)
//! ```
//!
//! The sums over `k` are exact integers, so their order is free. The sum over blocks is in f32 and goes from left to
//! right; every product is rounded before it is added.

use crate::activation::quantize_activations;
use crate::error::QuantError;
use crate::ternary::{ScaleLayout, TernaryRows};

/// Multiplies `n` tokens `x` `[n, cols]` by a ternary weight `[rows, cols]`: returns `[n, rows]`.
///
/// # Errors
/// An `x` that is not `n * cols` long; whatever reading a row of the weight reports.
///
/// # Examples
/// ```
/// use bitnet_quantization::bitlinear::bitlinear_reference;
/// use bitnet_quantization::i2s::{I2sDialect, I2sRows, encode_i2s};
/// # fn main() -> Result<(), bitnet_quantization::QuantError> {
/// let mut trits = vec![0; 128];
/// trits[..2].copy_from_slice(&[1, -1]);
/// let mut bytes = Vec::new();
/// encode_i2s(I2sDialect::Block128, 1, 128, &trits, 0.5, &mut bytes)?;
/// let weight = I2sRows::new(I2sDialect::Block128, 1, 128, &bytes)?;
/// let mut x = vec![0.0; 128];
/// x[0] = 127.0;
/// x[1] = 27.0;
/// assert_eq!(bitlinear_reference(&weight, &x, 1)?, [50.0]);
/// # Ok(())
/// # }
/// ```
pub fn bitlinear_reference(
    w: &dyn TernaryRows,
    x: &[f32],
    n: usize,
) -> Result<Vec<f32>, QuantError> {
    let (rows, cols) = (w.rows(), w.cols());
    let expected = n.saturating_mul(cols);
    if x.len() != expected {
        return Err(QuantError::Buffer {
            what: "activations",
            expected,
            found: x.len(),
        });
    }
    let mut q = vec![0; x.len()]; // [n, cols]
    let a: Vec<f32> = x
        .chunks_exact(cols)
        .zip(q.chunks_exact_mut(cols))
        .map(|(x, q)| quantize_activations(x, q))
        .collect(); // [n]

    let mut y = vec![0.0; n * rows]; // [n, rows]
    let mut trits = vec![0; cols];
    let mut scales = vec![0.0; w.scale().scales_per_row(cols)];
    for row in 0..rows {
        w.read_row(row, &mut trits, &mut scales)?;
        for (token, q) in q.chunks_exact(cols).enumerate() {
            y[token * rows + row] = match w.scale() {
                ScaleLayout::PerTensor(scale) => dot(&trits, q) as f32 * (scale / a[token]),
                ScaleLayout::PerBlock { block_len } => {
                    let blocks = trits
                        .chunks_exact(block_len)
                        .zip(q.chunks_exact(block_len))
                        .zip(&scales);
                    let sum = blocks.fold(0.0, |sum: f32, ((trits, q), scale)| {
                        sum + dot(trits, q) as f32 * scale
                    });
                    sum * (1.0 / a[token])
                }
            };
        }
    }
    Ok(y)
}

/// The exact integer dot product; [`MAX_COLS`](crate::ternary::MAX_COLS) keeps it inside an i32.
fn dot(trits: &[i8], q: &[i8]) -> i32 {
    trits
        .iter()
        .zip(q)
        .map(|(&trit, &q)| i32::from(trit) * i32::from(q))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::quantize;
    use crate::{BlockTernaryRows, HfPackedRows, TensorType};

    #[test]
    fn one_scale_multiplies_the_integer_sum() {
        // Rows (+1, -1, 0) and (-1, -1, +1) in the four bands of one byte row: codes 2 0 1 and 0 0 2.
        let bytes = [0b00_00_00_10, 0b00_00_00_00, 0b00_00_10_01];
        let w = HfPackedRows::new(2, 3, &bytes, 0.25).unwrap();
        let x = [127.0, 10.0, 4.0, 0.0, 0.0, 0.0];
        assert_eq!(
            bitlinear_reference(&w, &x, 2).unwrap(),
            [117.0 * 0.25, -133.0 * 0.25, 0.0, 0.0]
        );
    }

    #[test]
    fn block_scales_multiply_their_own_sums_in_order() {
        let values: Vec<f32> = (0..128).map(|i| if i < 64 { 0.5 } else { -2.0 }).collect();
        let mut bytes = Vec::new();
        quantize(TensorType::Q2_0, &values, &mut bytes).unwrap();
        let w = BlockTernaryRows::new(TensorType::Q2_0, 1, 128, &bytes).unwrap();
        assert_eq!(w.scale(), ScaleLayout::PerBlock { block_len: 64 });
        let mut x = vec![1.0; 128];
        x[0] = 127.0;
        let expected = (127.0 + 63.0) * 0.5 - 64.0 * 2.0;
        assert_eq!(bitlinear_reference(&w, &x, 1).unwrap(), [expected]);
    }

    #[test]
    fn a_batch_is_its_tokens_one_by_one() {
        let bytes: Vec<u8> = (0..33 * 3)
            .map(|i| [0b00_01_10_00, 0b10_01_00_01, 0b01_10_10_00][i % 3])
            .collect();
        let w = HfPackedRows::new(10, 33, &bytes, 0.7).unwrap();
        let x: Vec<f32> = (0..5 * 33).map(|i| (i as f32 * 0.37).sin()).collect();
        let batch = bitlinear_reference(&w, &x, 5).unwrap();
        for token in 0..5 {
            let alone = bitlinear_reference(&w, &x[token * 33..][..33], 1).unwrap();
            assert_eq!(alone, batch[token * 10..][..10]);
        }
        assert_eq!(bitlinear_reference(&w, &[], 0).unwrap(), []);
    }

    #[test]
    fn wrong_activation_counts_are_refused() {
        let w = HfPackedRows::new(4, 3, &[0b01_01_01_01; 3], 1.0).unwrap();
        let error = bitlinear_reference(&w, &[0.0; 5], 2).unwrap_err();
        assert_eq!(
            error,
            QuantError::Buffer {
                what: "activations",
                expected: 6,
                found: 5
            }
        );
        assert!(bitlinear_reference(&w, &[0.0; 5], usize::MAX).is_err());
    }
}
