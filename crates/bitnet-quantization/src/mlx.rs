//! MLX's 2-bit weights, as far as they are ternary: codes, scales and biases in three tensors.
//!
//! ```text
//! weight  u32 [rows, cols / 16]      16 codes, the first in the lowest bits: bytes of 4 codes, one after another
//! scales  [rows, cols / group_len]   F16, BF16 or F32
//! biases  the same
//!
//! w = scale * code + bias
//! ```
//!
//! MLX's own quantiser puts the four codes evenly between the least and the largest weight. Ternary models (PrismML's
//! Ternary-Bonsai) have the bias `-scale` instead: code 1 is zero, and code 3 does not occur. Source: mlx
//! `mlx/ops.cpp` (`affine_dequantize`) and PrismML's model cards.

use crate::block_ternary::common_layout;
use crate::error::QuantError;
use crate::floats::{bf16_to_f32, f16_to_f32};
use crate::qtype::TensorType;
use crate::ternary::{ScaleLayout, Shape, StoredRows};

/// Codes of a byte.
const PER_BYTE: usize = 4;
/// Codes of a number of the `weight` tensor, the least unit of a row.
const PER_WORD: usize = 16;

/// The three tensors of a weight, in a file's bytes.
#[derive(Debug, Clone, Copy)]
pub struct MlxTensor<'a> {
    /// `weight`.
    pub codes: &'a [u8],
    /// `scales`.
    pub scales: &'a [u8],
    /// `biases`.
    pub biases: &'a [u8],
    /// F16, BF16 or F32: the type of scales and biases.
    pub ty: TensorType,
    /// Weights of a row that share a scale.
    pub group_len: usize,
}

impl<'a> MlxTensor<'a> {
    fn number(&self, bytes: &[u8], index: usize) -> f32 {
        match self.ty {
            TensorType::F32 => bytes
                .as_chunks::<4>()
                .0
                .get(index)
                .map_or(0.0, |b| f32::from_le_bytes(*b)),
            ty => {
                let bits = bytes
                    .as_chunks::<2>()
                    .0
                    .get(index)
                    .map_or(0, |b| u16::from_le_bytes(*b));
                if ty == TensorType::F16 {
                    f16_to_f32(bits)
                } else {
                    bf16_to_f32(bits)
                }
            }
        }
    }

    /// Scale and bias of a group, counted over the whole tensor.
    fn group(&self, index: usize) -> (f32, f32) {
        (
            self.number(self.scales, index),
            self.number(self.biases, index),
        )
    }

    /// Checks the sizes of a tensor `[rows, cols]`.
    fn shape(&self, rows: usize, cols: usize) -> Result<Shape, QuantError> {
        let shape = Shape::new(FORMAT, rows, cols, PER_WORD)?;
        if self.group_len == 0
            || !self.group_len.is_multiple_of(PER_WORD)
            || !cols.is_multiple_of(self.group_len)
        {
            let why = "the columns are not whole groups of a multiple of 16";
            return Err(QuantError::Shape {
                format: FORMAT,
                rows,
                cols,
                why,
            });
        }
        if !self.ty.is_float() {
            return Err(QuantError::NotPossible {
                format: FORMAT,
                operation: "read",
                why: "its scales are F16, BF16 or F32",
            });
        }
        shape.check_bytes(FORMAT, shape.elements() / PER_BYTE, self.codes.len())?;
        let groups = shape.elements() / self.group_len * self.ty.block_bytes();
        for numbers in [self.scales, self.biases] {
            shape.check_bytes("scales of MLX 2-bit", groups, numbers.len())?;
        }
        Ok(shape)
    }

    /// The weight as one of the engine's types for embeddings and heads: Q2_0 or PQ2_0 where it is ternary in their
    /// blocks, else F32.
    ///
    /// # Errors
    /// Sizes that do not fit together, numbers that are not finite.
    pub fn to_matrix(&self, rows: usize, cols: usize) -> Result<(TensorType, Vec<u8>), QuantError> {
        let shape = self.shape(rows, cols)?;
        let n_groups = shape.elements() / self.group_len;
        for index in 0..n_groups {
            let (scale, bias) = self.group(index);
            if !scale.is_finite() || !bias.is_finite() {
                return Err(self.bad_scale(
                    cols,
                    index,
                    if scale.is_finite() { bias } else { scale },
                ));
            }
        }
        let ty = match self.group_len {
            64 => TensorType::Q2_0,
            128 => TensorType::Pq2_0,
            _ => TensorType::F32,
        };
        let ternary = ty != TensorType::F32
            && self.ty == TensorType::F16
            && (0..n_groups).all(|index| {
                let (scale, bias) = self.group(index);
                bias == -scale
            });
        let group_bytes = self.group_len / PER_BYTE;
        let mut out = Vec::new();
        if ternary {
            // Their codes lie as MLX's do, behind the scale.
            out.reserve_exact(n_groups * ty.block_bytes());
            for (codes, scale) in self
                .codes
                .chunks_exact(group_bytes)
                .zip(self.scales.as_chunks::<2>().0)
            {
                out.extend(scale);
                out.extend(codes);
            }
            return Ok((ty, out));
        }
        out.reserve_exact(shape.elements() * 4);
        for (index, codes) in self.codes.chunks_exact(group_bytes).enumerate() {
            let (scale, bias) = self.group(index);
            for code in codes
                .iter()
                .flat_map(|byte| [0, 2, 4, 6].map(|shift| byte >> shift & 3))
            {
                out.extend((scale * f32::from(code) + bias).to_le_bytes());
            }
        }
        Ok((TensorType::F32, out))
    }

    fn bad_scale(&self, cols: usize, index: usize, scale: f32) -> QuantError {
        let groups_per_row = cols / self.group_len;
        QuantError::BlockScale {
            format: FORMAT,
            row: index / groups_per_row,
            block: index % groups_per_row,
            scale,
        }
    }
}

/// The name in messages.
const FORMAT: &str = "MLX 2-bit";

/// The trits of a ternary MLX weight.
#[derive(Debug, Clone, Copy)]
pub struct MlxRows<'a> {
    tensor: MlxTensor<'a>,
    shape: Shape,
    scale: ScaleLayout,
}

impl<'a> MlxRows<'a> {
    /// Takes the three tensors of a weight `[rows, cols]`.
    ///
    /// # Errors
    /// Sizes that do not fit together, numbers that are not finite, a bias that is not `-scale`. Codes are checked when
    /// their row is read.
    pub fn new(tensor: MlxTensor<'a>, rows: usize, cols: usize) -> Result<Self, QuantError> {
        let shape = tensor.shape(rows, cols)?;
        let n_groups = shape.elements() / tensor.group_len;
        for index in 0..n_groups {
            let (scale, bias) = tensor.group(index);
            if !scale.is_finite() {
                return Err(tensor.bad_scale(cols, index, scale));
            }
            if bias != -scale {
                let groups_per_row = cols / tensor.group_len;
                return Err(QuantError::GroupBias {
                    format: FORMAT,
                    row: index / groups_per_row,
                    block: index % groups_per_row,
                    scale,
                    bias,
                });
            }
        }
        let scales = (0..n_groups).map(|index| tensor.group(index).0);
        let scale = common_layout(cols, tensor.group_len, scales);
        Ok(Self {
            tensor,
            shape,
            scale,
        })
    }
}

impl StoredRows for MlxRows<'_> {
    fn header(&self) -> (Shape, ScaleLayout) {
        (self.shape, self.scale)
    }

    fn decode_row(
        &self,
        row: usize,
        trits: &mut [i8],
        scales: &mut [f32],
    ) -> Result<(), QuantError> {
        let row_bytes = self.shape.cols / PER_BYTE;
        let bytes = &self.tensor.codes[row * row_bytes..][..row_bytes];
        for (trits, byte) in trits.as_chunks_mut::<PER_BYTE>().0.iter_mut().zip(bytes) {
            *trits = [0, 2, 4, 6].map(|shift| (byte >> shift & 3) as i8 - 1);
        }
        if let Some(col) = trits.iter().position(|&trit| trit == 2) {
            return Err(QuantError::InvalidCode {
                format: FORMAT,
                row,
                col,
                code: 3,
            });
        }
        let group_len = self.tensor.group_len;
        let groups_per_row = self.shape.cols / group_len;
        let run = match self.scale {
            ScaleLayout::PerBlock { block_len } => block_len / group_len,
            ScaleLayout::PerTensor(_) => groups_per_row,
        };
        scales.fill(0.0);
        for (i, trits) in trits.chunks_exact_mut(group_len).enumerate() {
            let scale = self.tensor.group(row * groups_per_row + i).0;
            match scales.get_mut(i / run) {
                _ if scale == 0.0 => trits.fill(0),
                Some(out) => *out = scale,
                None => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::dequantize;
    use crate::ternary::TernaryRows;

    /// Two rows of 256 weights in groups of `group_len`, the trits cycling, with F16 scales and biases of `-scale`.
    struct Made {
        codes: Vec<u8>,
        scales: Vec<u8>,
        biases: Vec<u8>,
        group_len: usize,
    }

    fn trit(i: usize) -> i8 {
        [-1, 0, 1, 1, 0][i % 5]
    }

    fn made(group_len: usize, scale: impl Fn(usize) -> f32) -> Made {
        let codes = (0..128).map(|byte| {
            (0..4).fold(0, |bits, i| {
                bits | ((trit(4 * byte + i) + 1) as u8) << (2 * i)
            })
        });
        let numbers = |sign: f32| {
            let numbers =
                (0..512 / group_len).map(|group| half::f16::from_f32(sign * scale(group)));
            numbers
                .flat_map(half::f16::to_le_bytes)
                .collect::<Vec<u8>>()
        };
        Made {
            codes: codes.collect(),
            scales: numbers(1.0),
            biases: numbers(-1.0),
            group_len,
        }
    }

    impl Made {
        fn tensor(&self) -> MlxTensor<'_> {
            MlxTensor {
                codes: &self.codes,
                scales: &self.scales,
                biases: &self.biases,
                ty: TensorType::F16,
                group_len: self.group_len,
            }
        }
    }

    #[test]
    fn trits_and_scales_are_read_in_the_longest_blocks() {
        for (scales, expected) in [
            ([0.5, 0.5, 0.5, 0.5], ScaleLayout::PerTensor(0.5)),
            (
                [0.5, 0.5, 0.25, 0.25],
                ScaleLayout::PerBlock { block_len: 256 },
            ),
            (
                [0.5, 2.0, 0.25, 0.25],
                ScaleLayout::PerBlock { block_len: 128 },
            ),
        ] {
            let made = made(128, |group| scales[group]);
            let rows = MlxRows::new(made.tensor(), 2, 256).unwrap();
            assert_eq!(rows.scale(), expected);
            let n = expected.scales_per_row(256);
            let (mut trits, mut read) = ([9; 256], vec![9.0; n]);
            rows.read_row(1, &mut trits, &mut read).unwrap();
            assert!(trits.iter().enumerate().all(|(i, &t)| t == trit(256 + i)));
            assert_eq!(read, vec![0.25; n]);
        }
    }

    #[test]
    fn a_matrix_is_the_same_numbers() {
        for (group_len, ty) in [
            (64, TensorType::Q2_0),
            (128, TensorType::Pq2_0),
            (32, TensorType::F32),
        ] {
            let made = made(group_len, |group| 0.25 * (1 + group % 3) as f32);
            let (found, bytes) = made.tensor().to_matrix(2, 256).unwrap();
            assert_eq!(found, ty);
            let mut values = vec![0.0; 512];
            dequantize(ty, &bytes, &mut values).unwrap();
            let expected = |i: usize| f32::from(trit(i)) * 0.25 * (1 + i / group_len % 3) as f32;
            assert!(
                values
                    .iter()
                    .enumerate()
                    .all(|(i, &value)| value == expected(i))
            );
        }
        // Any bias, and code 3, where nobody says that it is ternary.
        let mut made = made(64, |_| 0.5);
        made.biases = half::f16::from_f32(0.125).to_le_bytes().repeat(8);
        made.codes[0] = 0b11_10_01_00;
        let (ty, bytes) = made.tensor().to_matrix(2, 256).unwrap();
        let mut values = vec![0.0; 512];
        dequantize(ty, &bytes, &mut values).unwrap();
        assert_eq!(
            (ty, &values[..4]),
            (TensorType::F32, &[0.125, 0.625, 1.125, 1.625][..])
        );
    }

    #[test]
    fn what_is_no_ternary_weight_is_refused_with_its_place() {
        let good = made(64, |_| 0.5);
        let mut bias = made(64, |_| 0.5);
        bias.biases[10] ^= 1;
        let error = MlxRows::new(bias.tensor(), 2, 256).unwrap_err();
        assert!(
            matches!(
                error,
                QuantError::GroupBias {
                    row: 1,
                    block: 1,
                    ..
                }
            ),
            "{error}"
        );
        let mut code = made(64, |_| 0.5);
        code.codes[65] |= 0b1100;
        let rows = MlxRows::new(code.tensor(), 2, 256).unwrap();
        let error = rows.read_row(1, &mut [0; 256], &mut []).unwrap_err();
        assert!(
            matches!(error, QuantError::InvalidCode { row: 1, col: 5, .. }),
            "{error}"
        );
        let mut infinite = made(64, |_| 0.5);
        infinite.scales[6..8].copy_from_slice(&half::f16::INFINITY.to_le_bytes());
        let error = MlxRows::new(infinite.tensor(), 2, 256).unwrap_err();
        assert!(
            matches!(
                error,
                QuantError::BlockScale {
                    row: 0,
                    block: 3,
                    ..
                }
            ),
            "{error}"
        );
        assert!(infinite.tensor().to_matrix(2, 256).is_err());
        for tensor in [
            MlxTensor {
                codes: &good.codes[1..],
                ..good.tensor()
            },
            MlxTensor {
                biases: &[],
                ..good.tensor()
            },
            MlxTensor {
                group_len: 0,
                ..good.tensor()
            },
            MlxTensor {
                group_len: 96,
                ..good.tensor()
            },
            MlxTensor {
                ty: TensorType::Q8_0,
                ..good.tensor()
            },
        ] {
            assert!(MlxRows::new(tensor, 2, 256).is_err());
            assert!(tensor.to_matrix(2, 256).is_err());
        }
    }
}
