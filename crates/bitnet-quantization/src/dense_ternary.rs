//! Dense tensors that are secretly ternary: floats whose values are only `-s`, `0` and `+s`.
//!
//! Many files hold trained trits widened to F16, BF16 or F32. Recognised, they lose nothing and run on the ternary
//! kernels. The two values may have been rounded apart by the last bit on their way through a 16-bit format, so two
//! neighbouring magnitudes that no block keeps apart count as one, and the result says so.
//!
//! Where a tensor has several magnitudes, each row may have one of its own (weights trained in shards, as TriLM's), or
//! each block of a row (Ternary-Bonsai's unpacked files). The longest block wins: fewest scales, longest integer sums.

use crate::block_ternary::longest_blocks;
use crate::error::QuantError;
use crate::floats::{bf16_to_f32, f16_to_f32};
use crate::qtype::TensorType;
use crate::ternary::{ScaleLayout, Shape, StoredRows};

/// What a dense tensor turned out to be.
#[derive(Debug, Clone, Copy)]
pub enum Recognition<'a> {
    /// One magnitude besides zero, or one in each block of a row, or two anywhere that are one bit apart.
    Ternary(DenseTernaryRows<'a>),
    /// Really dense: the first magnitudes found that do not belong together, whatever the blocks.
    Dense {
        /// The magnitude that came first.
        magnitude: f32,
        /// One that is not it, nor its neighbour.
        other: f32,
    },
}

impl<'a> Recognition<'a> {
    /// The trits, if the tensor is ternary.
    pub fn ternary(self) -> Option<DenseTernaryRows<'a>> {
        match self {
            Recognition::Ternary(rows) => Some(rows),
            Recognition::Dense { .. } => None,
        }
    }
}

/// The trits of a dense tensor: the sign of every value that is not zero.
#[derive(Debug, Clone, Copy)]
pub struct DenseTernaryRows<'a> {
    ty: TensorType,
    shape: Shape,
    bytes: &'a [u8],
    scale: ScaleLayout,
    neighbour: Option<f32>,
}

impl DenseTernaryRows<'_> {
    /// The magnitude one bit beside the scale that some values have; reading them as the scale changed them by that
    /// bit. `None`: nothing was changed.
    pub fn neighbour(&self) -> Option<f32> {
        self.neighbour
    }
}

/// Looks at every value of a dense tensor `[rows, cols]`. A tensor that is not ternary is found out within its first
/// few values.
///
/// # Errors
/// A type other than F32, F16, BF16, an impossible shape, a wrong byte count, a value that is NaN or infinite.
pub fn recognise(
    ty: TensorType,
    rows: usize,
    cols: usize,
    bytes: &[u8],
) -> Result<Recognition<'_>, QuantError> {
    let shape = float_shape(ty, rows, cols, bytes.len())?;
    let magnitudes = match ty {
        TensorType::F32 => Magnitudes::find(bytes.as_chunks::<4>().0, f32_magnitude),
        _ => Magnitudes::find(bytes.as_chunks::<2>().0, half_magnitude),
    };
    let value = |bits| magnitude_value(ty, bits);
    let refuse = |value: f32, index: usize| QuantError::NonFiniteWeight {
        format: ty.name(),
        row: index / cols,
        col: index % cols,
        value,
    };
    for (bits, index) in magnitudes.all() {
        if !value(bits).is_finite() {
            return Err(refuse(value(bits), index));
        }
    }
    let found = |scale, neighbour| {
        Recognition::Ternary(DenseTernaryRows {
            ty,
            shape,
            bytes,
            scale,
            neighbour,
        })
    };
    let whole = |scale, neighbour| found(ScaleLayout::PerTensor(scale), neighbour);
    let (magnitude, other, neighbours) = match magnitudes {
        Magnitudes::Zero => return Ok(whole(0.0, None)),
        Magnitudes::One(only) => return Ok(whole(value(only.0), None)),
        Magnitudes::Two { most, fewer } => {
            let neighbours = most.0.abs_diff(fewer.0) == 1;
            (value(most.0), value(fewer.0), neighbours)
        }
        Magnitudes::More { first, other } => (value(first.0), value(other.0), false),
    };
    // Blocks come before neighbours: scales of two shards may be so near, and in blocks nothing is changed.
    for block_len in longest_blocks(cols) {
        let block_bytes = block_len * ty.block_bytes();
        let mut scales = bytes
            .chunks_exact(block_bytes)
            .map(|block| common_magnitude(ty, block))
            .enumerate();
        let broken = scales.find(|(_, scale)| !scale.is_some_and(|bits| value(bits).is_finite()));
        match broken {
            None => return Ok(found(ScaleLayout::PerBlock { block_len }, None)),
            Some((block, Some(bits))) => return Err(refuse(value(bits), block * block_len)),
            Some((_, None)) => {}
        }
    }
    if neighbours {
        return Ok(whole(magnitude, Some(other)));
    }
    Ok(Recognition::Dense { magnitude, other })
}

/// The bits of the one magnitude that the values of a block have besides zero (0: none), `None` if there are several.
fn common_magnitude(ty: TensorType, block: &[u8]) -> Option<u32> {
    match ty {
        TensorType::F32 => common_of(block.as_chunks::<4>().0, f32_magnitude),
        _ => common_of(block.as_chunks::<2>().0, half_magnitude),
    }
}

fn common_of<const BYTES: usize>(
    values: &[[u8; BYTES]],
    magnitude: impl Fn(&[u8; BYTES]) -> u32,
) -> Option<u32> {
    // The largest is the one, if there is one; without a branch inside, both loops vectorise.
    let largest = values
        .iter()
        .fold(0, |largest, value| largest.max(magnitude(value)));
    let stray = |value| {
        let bits = magnitude(value);
        (bits != 0) & (bits != largest)
    };
    let any = values.iter().fold(false, |any, value| any | stray(value));
    (!any).then_some(largest)
}

fn f32_magnitude(bytes: &[u8; 4]) -> u32 {
    u32::from_le_bytes(*bytes) & 0x7fff_ffff
}

/// Sign and magnitude are at the same bits in F16 and BF16.
fn half_magnitude(bytes: &[u8; 2]) -> u32 {
    u32::from(u16::from_le_bytes(*bytes) & 0x7fff)
}

/// Checks type, shape and byte count of a tensor of plain floats.
pub(crate) fn float_shape(
    ty: TensorType,
    rows: usize,
    cols: usize,
    n_bytes: usize,
) -> Result<Shape, QuantError> {
    if !ty.is_float() {
        let why = "only F32, F16 and BF16 hold plain numbers";
        return Err(QuantError::NotPossible {
            format: ty.name(),
            operation: "read as floats",
            why,
        });
    }
    let shape = Shape::new(ty.name(), rows, cols, 1)?;
    shape.check_bytes(ty.name(), shape.elements() * ty.block_bytes(), n_bytes)?;
    Ok(shape)
}

/// The number whose magnitude has these bits.
fn magnitude_value(ty: TensorType, bits: u32) -> f32 {
    match ty {
        TensorType::F32 => f32::from_bits(bits),
        TensorType::F16 => f16_to_f32(bits as u16),
        _ => bf16_to_f32(bits as u16),
    }
}

/// Bits of a magnitude and the index of the first value that has it.
type Found = (u32, usize);

/// The distinct magnitudes of a tensor besides zero.
enum Magnitudes {
    Zero,
    One(Found),
    /// By the number of values that have them.
    Two {
        most: Found,
        fewer: Found,
    },
    /// Found out early; `other` is not next to `first`, or is a third one.
    More {
        first: Found,
        other: Found,
    },
}

impl Magnitudes {
    /// Looks at all values until there are three magnitudes, or two that are not neighbours.
    fn find<const BYTES: usize>(
        values: &[[u8; BYTES]],
        magnitude: impl Fn(&[u8; BYTES]) -> u32,
    ) -> Self {
        /// Long enough to vectorise, short enough that a dense tensor is found out at once.
        const CHUNK: usize = 1024;
        let mut first: Option<Found> = None;
        let mut second: Option<Found> = None;
        for (chunk_index, chunk) in values.chunks(CHUNK).enumerate() {
            let known = [first, second].map(|found| found.map_or(0, |found| found.0));
            let unknown = |bits: u32| (bits != 0) & (bits != known[0]) & (bits != known[1]);
            if !chunk
                .iter()
                .fold(false, |any, value| any | unknown(magnitude(value)))
            {
                continue;
            }
            for (i, value) in chunk.iter().enumerate() {
                let found = (magnitude(value), chunk_index * CHUNK + i);
                match (first, second) {
                    _ if found.0 == 0 => {}
                    (None, _) => first = Some(found),
                    (Some(first), _) if first.0 == found.0 => {}
                    (Some(first), None) if first.0.abs_diff(found.0) != 1 => {
                        return Magnitudes::More {
                            first,
                            other: found,
                        };
                    }
                    (Some(_), None) => second = Some(found),
                    (Some(_), Some(second)) if second.0 == found.0 => {}
                    (Some(first), Some(_)) => {
                        return Magnitudes::More {
                            first,
                            other: found,
                        };
                    }
                }
            }
        }
        match (first, second) {
            (None, _) => Magnitudes::Zero,
            (Some(only), None) => Magnitudes::One(only),
            (Some(first), Some(second)) => {
                let count = |found: Found| {
                    values
                        .iter()
                        .filter(|value| magnitude(value) == found.0)
                        .count()
                };
                let first_wins = count(first) >= count(second);
                let (most, fewer) = if first_wins {
                    (first, second)
                } else {
                    (second, first)
                };
                Magnitudes::Two { most, fewer }
            }
        }
    }

    fn all(&self) -> impl Iterator<Item = Found> {
        let found = match *self {
            Magnitudes::Zero => [None, None],
            Magnitudes::One(only) => [Some(only), None],
            Magnitudes::Two { most, fewer } => [Some(most), Some(fewer)],
            Magnitudes::More { first, other } => [Some(first), Some(other)],
        };
        found.into_iter().flatten()
    }
}

impl StoredRows for DenseTernaryRows<'_> {
    fn header(&self) -> (Shape, ScaleLayout) {
        (self.shape, self.scale)
    }

    fn decode_row(
        &self,
        row: usize,
        trits: &mut [i8],
        scales: &mut [f32],
    ) -> Result<(), QuantError> {
        let row_bytes = self.shape.cols * self.ty.block_bytes();
        let bytes = &self.bytes[row * row_bytes..][..row_bytes];
        if self.ty == TensorType::F32 {
            for (trit, value) in trits.iter_mut().zip(bytes.as_chunks::<4>().0) {
                let bits = i32::from_le_bytes(*value);
                *trit = (bits << 1 != 0) as i8 * ((bits >> 31) as i8 | 1);
            }
        } else {
            for (trit, value) in trits.iter_mut().zip(bytes.as_chunks::<2>().0) {
                let bits = i16::from_le_bytes(*value);
                *trit = (bits << 1 != 0) as i8 * ((bits >> 15) as i8 | 1);
            }
        }
        if let ScaleLayout::PerBlock { block_len } = self.scale {
            let blocks = bytes.chunks_exact(block_len * self.ty.block_bytes());
            for (scale, block) in scales.iter_mut().zip(blocks) {
                // recognise() has seen that each block has one.
                let bits = common_magnitude(self.ty, block).unwrap_or_default();
                *scale = magnitude_value(self.ty, bits);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
