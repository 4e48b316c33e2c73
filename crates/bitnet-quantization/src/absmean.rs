//! Absmean: how BitNet b1.58 makes trits of its master weights at every forward pass.
//!
//! ```text
//! m = max(mean |W|, 1e-5)     s = 1 / m     trit = clamp(round_half_even(W * s), -1, 1)     weight = trit / s
//! ```
//!
//! All in f32 over the whole matrix, but for the mean: its last bits depend on the order of summation, and a weight
//! near `m / 2` can fall on either side of the border by it. It is summed in f64, which is as near to the true mean as
//! f32 can show.
//! Source: "The Era of 1-bit LLMs" (arXiv 2402.17764); transformers, `integrations/bitnet.py` (`WeightQuant`).

use crate::dense_ternary::float_shape;
use crate::error::QuantError;
use crate::floats::{bf16_to_f32, f16_to_f32};
use crate::qtype::TensorType;
use crate::ternary::{ScaleLayout, Shape, StoredRows};

/// The smallest mean that is divided by, for matrices of (almost) nothing but zeros.
const MIN_MEAN: f32 = 1e-5;

/// Independent partial sums of the mean, so that the loop vectorises; the order of summation is fixed by it.
const LANES: usize = 16;

/// Master weights (F32, F16 or BF16), quantised by absmean row by row as they are read.
#[derive(Debug, Clone, Copy)]
pub struct AbsmeanRows<'a> {
    ty: TensorType,
    shape: Shape,
    bytes: &'a [u8],
    inverse_mean: f32,
}

impl<'a> AbsmeanRows<'a> {
    /// Takes the bytes of a whole tensor `[rows, cols]` and computes its mean magnitude.
    ///
    /// # Errors
    /// A type that is no float, an impossible shape, a wrong byte count, a weight that is NaN or infinite.
    pub fn new(
        ty: TensorType,
        rows: usize,
        cols: usize,
        bytes: &'a [u8],
    ) -> Result<Self, QuantError> {
        let shape = float_shape(ty, rows, cols, bytes.len())?;
        let sum = match ty {
            TensorType::F32 => sum_of_magnitudes(bytes.as_chunks().0, widen_f32),
            TensorType::F16 => sum_of_magnitudes(bytes.as_chunks().0, widen_f16),
            _ => sum_of_magnitudes(bytes.as_chunks().0, widen_bf16),
        };
        // A sum of finite f32 magnitudes cannot overflow an f64.
        if !sum.is_finite() {
            let (index, value) = match ty {
                TensorType::F32 => first_non_finite(bytes.as_chunks().0, widen_f32),
                TensorType::F16 => first_non_finite(bytes.as_chunks().0, widen_f16),
                _ => first_non_finite(bytes.as_chunks().0, widen_bf16),
            };
            let (row, col) = (index / cols, index % cols);
            return Err(QuantError::NonFiniteWeight {
                format: ty.name(),
                row,
                col,
                value,
            });
        }
        let mean = (sum / shape.elements() as f64) as f32;
        Ok(AbsmeanRows {
            ty,
            shape,
            bytes,
            inverse_mean: 1.0 / mean.max(MIN_MEAN),
        })
    }
}

impl StoredRows for AbsmeanRows<'_> {
    fn header(&self) -> (Shape, ScaleLayout) {
        (self.shape, ScaleLayout::PerTensor(1.0 / self.inverse_mean))
    }

    fn decode_row(
        &self,
        row: usize,
        trits: &mut [i8],
        _scales: &mut [f32],
    ) -> Result<(), QuantError> {
        let row_bytes = self.shape.cols * self.ty.block_bytes();
        let bytes = &self.bytes[row * row_bytes..][..row_bytes];
        match self.ty {
            TensorType::F32 => {
                quantize_row(bytes.as_chunks().0, widen_f32, self.inverse_mean, trits)
            }
            TensorType::F16 => {
                quantize_row(bytes.as_chunks().0, widen_f16, self.inverse_mean, trits)
            }
            _ => quantize_row(bytes.as_chunks().0, widen_bf16, self.inverse_mean, trits),
        }
        Ok(())
    }
}

fn widen_f32(bytes: &[u8; 4]) -> f32 {
    f32::from_le_bytes(*bytes)
}

fn widen_f16(bytes: &[u8; 2]) -> f32 {
    f16_to_f32(u16::from_le_bytes(*bytes))
}

fn widen_bf16(bytes: &[u8; 2]) -> f32 {
    bf16_to_f32(u16::from_le_bytes(*bytes))
}

#[inline]
fn sum_of_magnitudes<const B: usize>(values: &[[u8; B]], widen: impl Fn(&[u8; B]) -> f32) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(widen(value).abs());
        }
    }
    let rest: f64 = rest.iter().map(|value| f64::from(widen(value).abs())).sum();
    lanes.iter().sum::<f64>() + rest
}

fn first_non_finite<const B: usize>(
    values: &[[u8; B]],
    widen: impl Fn(&[u8; B]) -> f32,
) -> (usize, f32) {
    let mut values = values.iter().map(widen).enumerate();
    values
        .find(|(_, value)| !value.is_finite())
        .unwrap_or((0, f32::NAN))
}

/// `clamp(round_half_even(w * s), -1, 1)`: the product rounds to 1 or more exactly when it is above 0.5 (0.5 itself
/// goes to the even 0), so two comparisons do it on any CPU.
#[inline]
fn quantize_row<const B: usize>(
    values: &[[u8; B]],
    widen: impl Fn(&[u8; B]) -> f32,
    inverse_mean: f32,
    trits: &mut [i8],
) {
    for (trit, value) in trits.iter_mut().zip(values) {
        let scaled = widen(value) * inverse_mean;
        *trit = i8::from(scaled > 0.5) - i8::from(scaled < -0.5);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ternary::TernaryRows;

    fn bytes_of(values: &[f32]) -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect()
    }

    fn trits_of(values: &[f32]) -> (Vec<i8>, ScaleLayout) {
        let bytes = bytes_of(values);
        let rows = AbsmeanRows::new(TensorType::F32, 1, values.len(), &bytes).unwrap();
        let mut trits = vec![9; values.len()];
        rows.read_row(0, &mut trits, &mut []).unwrap();
        (trits, rows.scale())
    }

    #[test]
    fn comparison_equals_round_half_even_and_clamp_around_every_border() {
        for border in [-2.5f32, -1.5, -0.5, 0.0, 0.5, 1.5, 2.5] {
            for value in [border.next_down(), border, border.next_up()] {
                let mut trit = [9];
                quantize_row(&[value.to_le_bytes()], widen_f32, 1.0, &mut trit);
                assert_eq!(
                    f32::from(trit[0]),
                    value.round_ties_even().clamp(-1.0, 1.0) + 0.0,
                    "{value}"
                );
            }
        }
    }

    #[test]
    fn half_the_mean_is_a_tie_and_goes_to_zero() {
        // The magnitudes sum to 8: the mean is exactly 1.
        let (trits, scale) = trits_of(&[0.5, -0.5, 1.5, -1.5, 1.0, -1.0, 2.0, 0.0]);
        assert_eq!(trits, [0, 0, 1, -1, 1, -1, 1, 0]);
        assert_eq!(scale, ScaleLayout::PerTensor(1.0));
    }

    #[test]
    fn a_matrix_of_zeros_has_the_smallest_scale() {
        let (trits, scale) = trits_of(&[0.0; 33]);
        assert_eq!(trits, [0; 33]);
        assert_eq!(scale, ScaleLayout::PerTensor(1.0 / (1.0 / 1e-5)));
    }

    #[test]
    fn weights_that_are_not_finite_are_refused_with_their_place() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = [1.0; 40];
            values[27] = bad;
            let error = AbsmeanRows::new(TensorType::F32, 4, 10, &bytes_of(&values)).unwrap_err();
            assert!(
                matches!(error, QuantError::NonFiniteWeight { row: 2, col: 7, .. }),
                "{error}"
            );
        }
        let largest = [f32::MAX; 64];
        assert!(AbsmeanRows::new(TensorType::F32, 8, 8, &bytes_of(&largest)).is_ok());
    }

    #[test]
    fn wrong_types_and_sizes_are_refused() {
        assert!(matches!(
            AbsmeanRows::new(TensorType::Q8_0, 1, 32, &[0; 34]),
            Err(QuantError::NotPossible { .. })
        ));
        assert!(matches!(
            AbsmeanRows::new(TensorType::F16, 2, 3, &[0; 11]),
            Err(QuantError::ByteLength { .. })
        ));
        assert!(matches!(
            AbsmeanRows::new(TensorType::F16, 0, 3, &[]),
            Err(QuantError::Shape { .. })
        ));
    }
}
