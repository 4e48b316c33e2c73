//! I2_S, the format of Microsoft's bitnet.cpp: 2-bit codes and one f32 scale for the whole tensor.
//!
//! ```text
//! n/4 bytes of codes | f32 scale | 28 bytes of padding        n = rows * cols
//! code 0, 1, 2 = -1, 0, +1                                    weight = (code - 1) * scale
//! ```
//!
//! Three layouts of the codes share one type number and one size, and nothing in the file tells which it is
//! ([`I2sDialect`]). Published files have the 128 layout. Two of the layouts group values over the flattened tensor
//! `i = row * cols + col`, so groups straddle rows when `cols` is no multiple of the group; bitnet.cpp's kernels
//! cannot run such a tensor, this reader can.
//!
//! Source: bitnet.cpp, `src/ggml-bitnet-mad.cpp` (`quantize_i2_s`) and its converters.

use crate::crumbs::{QuarterShifts, pack_group, unpack_group};
use crate::error::QuantError;
use crate::qtype::I2S_TRAILER_BYTES;
use crate::ternary::{ScaleLayout, Shape, StoredRows, finite_tensor_scale};

const FORMAT: &str = "I2_S";

/// The first quarter of a group is in the top bits.
const SHIFTS: QuarterShifts = [6, 4, 2, 0];

/// Which of the three layouts the codes of an I2_S tensor are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum I2sDialect {
    /// Groups of 128 values in 32 bytes: every published file, every converter, x86 builds of bitnet.cpp.
    ///
    /// ```text
    /// byte j (0..32) of a group:  bits 7:6   5:4      3:2      1:0
    ///                             value j    32 + j   64 + j   96 + j
    /// ```
    #[default]
    Block128,
    /// Groups of 64 values in 16 bytes: bitnet.cpp's own `llama-quantize` on ARM since November 2025.
    ///
    /// ```text
    /// byte j (0..16) of a group:  bits 7:6   5:4      3:2      1:0
    ///                             value j    16 + j   32 + j   48 + j
    /// ```
    Block64,
    /// Four rows interleaved: bitnet.cpp on x86 built without its default ACT_PARALLEL, since November 2025.
    ///
    /// ```text
    /// byte (row / 4) * cols + col:  bits 7:6      5:4      3:2      1:0
    ///                               row 0 mod 4   1 mod 4  2 mod 4  3 mod 4
    /// ```
    Rows4,
}

impl I2sDialect {
    /// Every dialect.
    pub const ALL: &'static [I2sDialect] =
        &[I2sDialect::Block128, I2sDialect::Block64, I2sDialect::Rows4];

    /// The name used on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            I2sDialect::Block128 => "i2s-128",
            I2sDialect::Block64 => "i2s-64",
            I2sDialect::Rows4 => "i2s-4row",
        }
    }

    fn shape(self, rows: usize, cols: usize) -> Result<Shape, QuantError> {
        let shape = Shape::new(FORMAT, rows, cols, 1)?;
        let why = match self {
            I2sDialect::Block128 if !shape.elements().is_multiple_of(128) => {
                "the 128 layout needs an element count that is a multiple of 128"
            }
            I2sDialect::Block64 if !shape.elements().is_multiple_of(64) => {
                "the 64 layout needs an element count that is a multiple of 64"
            }
            I2sDialect::Rows4 if !rows.is_multiple_of(4) => {
                "the 4-row layout needs a row count that is a multiple of 4"
            }
            _ => return Ok(shape),
        };
        Err(QuantError::Shape {
            format: FORMAT,
            rows,
            cols,
            why,
        })
    }
}

impl std::fmt::Display for I2sDialect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// A dialect's name that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown I2_S dialect `{0}`: expected i2s-128, i2s-64 or i2s-4row")]
pub struct UnknownDialect(String);

impl std::str::FromStr for I2sDialect {
    type Err = UnknownDialect;

    fn from_str(name: &str) -> Result<Self, UnknownDialect> {
        let found = Self::ALL
            .iter()
            .copied()
            .find(|dialect| dialect.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| UnknownDialect(name.to_owned()))
    }
}

/// The trits of an I2_S tensor in a file's bytes.
#[derive(Debug, Clone, Copy)]
pub struct I2sRows<'a> {
    dialect: I2sDialect,
    shape: Shape,
    codes: &'a [u8], // [rows * cols / 4]
    scale: f32,
}

impl<'a> I2sRows<'a> {
    /// Takes the bytes of a whole tensor `[rows, cols]`, trailer included.
    ///
    /// # Errors
    /// A shape that the dialect cannot hold, another byte count than `rows * cols / 4 + 32`, a scale that is NaN or
    /// infinite. Codes are checked when their row is read.
    pub fn new(
        dialect: I2sDialect,
        rows: usize,
        cols: usize,
        bytes: &'a [u8],
    ) -> Result<Self, QuantError> {
        let shape = dialect.shape(rows, cols)?;
        let n_codes = shape.elements() / 4;
        shape.check_bytes(FORMAT, n_codes + I2S_TRAILER_BYTES, bytes.len())?;
        let (codes, trailer) = bytes.split_at(n_codes);
        let scale = f32::from_le_bytes([trailer[0], trailer[1], trailer[2], trailer[3]]);
        Ok(I2sRows {
            dialect,
            shape,
            codes,
            scale: finite_tensor_scale(FORMAT, scale)?,
        })
    }

    /// The layout the codes are read in.
    pub fn dialect(&self) -> I2sDialect {
        self.dialect
    }

    /// Decodes the row that starts at any place of a flattened tensor in groups of `4 * B` values.
    fn read_flat<const B: usize>(&self, row: usize, trits: &mut [i8]) -> bool {
        let group_len = 4 * B;
        let start = row * self.shape.cols;
        let (groups, _) = self.codes.as_chunks::<B>();
        // The part of the row in a group that began in the row before.
        let skipped = start % group_len;
        let mut group = start / group_len;
        let mut straddling = [0i8; 128];
        let straddling = &mut straddling[..group_len];
        let mut valid = true;
        let mut rest = trits;
        if skipped != 0 {
            let (head, tail) = rest.split_at_mut(rest.len().min(group_len - skipped));
            valid &= unpack_group(&groups[group], SHIFTS, straddling);
            head.copy_from_slice(&straddling[skipped..skipped + head.len()]);
            (rest, group) = (tail, group + 1);
        }
        let mut whole = rest.chunks_exact_mut(group_len);
        for trits in &mut whole {
            valid &= unpack_group(&groups[group], SHIFTS, trits);
            group += 1;
        }
        let tail = whole.into_remainder();
        if !tail.is_empty() {
            valid &= unpack_group(&groups[group], SHIFTS, straddling);
            tail.copy_from_slice(&straddling[..tail.len()]);
        }
        valid
    }

    fn read_interleaved(&self, row: usize, trits: &mut [i8]) -> bool {
        let cols = self.shape.cols;
        let codes = &self.codes[row / 4 * cols..][..cols];
        let shift = 6 - 2 * (row % 4);
        let mut bad = 0;
        for (trit, &byte) in trits.iter_mut().zip(codes) {
            let code = (byte >> shift) & 3;
            bad |= code & (code >> 1);
            *trit = code as i8 - 1;
        }
        bad == 0
    }
}

impl StoredRows for I2sRows<'_> {
    fn header(&self) -> (Shape, ScaleLayout) {
        (self.shape, ScaleLayout::PerTensor(self.scale))
    }

    fn decode_row(
        &self,
        row: usize,
        trits: &mut [i8],
        _scales: &mut [f32],
    ) -> Result<(), QuantError> {
        let valid = match self.dialect {
            I2sDialect::Block128 => self.read_flat::<32>(row, trits),
            I2sDialect::Block64 => self.read_flat::<16>(row, trits),
            I2sDialect::Rows4 => self.read_interleaved(row, trits),
        };
        if !valid {
            // A group that straddles rows may be damaged in the other row only: then this row is good.
            if let Some(col) = trits.iter().position(|&trit| trit == 2) {
                return Err(QuantError::InvalidCode {
                    format: FORMAT,
                    row,
                    col,
                    code: 3,
                });
            }
        }
        Ok(())
    }
}

/// Appends a whole tensor `[rows, cols]` in a dialect to `out`: codes, scale, padding.
///
/// # Errors
/// A shape that the dialect cannot hold, another trit count than `rows * cols`, a trit that is not -1, 0, +1, a scale
/// that is not finite. `out` is then as it was.
pub fn encode_i2s(
    dialect: I2sDialect,
    rows: usize,
    cols: usize,
    trits: &[i8],
    scale: f32,
    out: &mut Vec<u8>,
) -> Result<(), QuantError> {
    let shape = dialect.shape(rows, cols)?;
    if trits.len() != shape.elements() {
        return Err(QuantError::Buffer {
            what: "trits",
            expected: shape.elements(),
            found: trits.len(),
        });
    }
    check_trits(trits, 0)?;
    finite_tensor_scale(FORMAT, scale)?;
    match dialect {
        I2sDialect::Block128 => trits
            .chunks_exact(128)
            .for_each(|group| out.extend(pack_group::<32>(group, SHIFTS))),
        I2sDialect::Block64 => trits
            .chunks_exact(64)
            .for_each(|group| out.extend(pack_group::<16>(group, SHIFTS))),
        I2sDialect::Rows4 => {
            for strip in trits.chunks_exact(4 * cols) {
                out.extend((0..cols).map(|col| {
                    (0..4).fold(0, |byte, row| {
                        byte << 2 | (strip[row * cols + col] + 1) as u8
                    })
                }));
            }
        }
    }
    out.extend(trailer(scale));
    Ok(())
}

/// Writes an I2_S tensor in the 128 layout piece by piece, for tensors that are never in memory as a whole.
///
/// ```
/// use bitnet_quantization::i2s::I2sEncoder;
/// # fn main() -> Result<(), bitnet_quantization::QuantError> {
/// let mut encoder = I2sEncoder::new();
/// let mut file = Vec::new();
/// for _row in 0..4 {
///     encoder.push(&[1; 96], &mut file)?; // any number of trits at a time
/// }
/// encoder.finish(0.5, &mut file)?;
/// assert_eq!(file.len(), 4 * 96 / 4 + 32);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct I2sEncoder {
    pending: Vec<i8>, // fewer than 128 trits that do not fill a group yet
    n_trits: usize,
}

impl I2sEncoder {
    /// An encoder at the start of a tensor.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next trits in row-major order and appends to `out` the bytes of all groups that are complete.
    ///
    /// # Errors
    /// [`QuantError::InvalidTrit`], its index counted from the start of the tensor; nothing is taken then.
    pub fn push(&mut self, trits: &[i8], out: &mut Vec<u8>) -> Result<(), QuantError> {
        check_trits(trits, self.n_trits)?;
        self.n_trits += trits.len();
        let mut rest = trits;
        if !self.pending.is_empty() {
            let (head, tail) = rest.split_at(rest.len().min(128 - self.pending.len()));
            self.pending.extend_from_slice(head);
            rest = tail;
            if self.pending.len() == 128 {
                out.extend(pack_group::<32>(&self.pending, SHIFTS));
                self.pending.clear();
            }
        }
        let groups = rest.chunks_exact(128);
        self.pending.extend_from_slice(groups.remainder());
        groups.for_each(|group| out.extend(pack_group::<32>(group, SHIFTS)));
        Ok(())
    }

    /// Ends the tensor: appends the scale and the padding.
    ///
    /// # Errors
    /// A trit count that is not a multiple of 128, a scale that is not finite.
    pub fn finish(self, scale: f32, out: &mut Vec<u8>) -> Result<(), QuantError> {
        if !self.pending.is_empty() {
            let expected = self.n_trits.next_multiple_of(128);
            return Err(QuantError::Buffer {
                what: "trits",
                expected,
                found: self.n_trits,
            });
        }
        out.extend(trailer(finite_tensor_scale(FORMAT, scale)?));
        Ok(())
    }
}

fn trailer(scale: f32) -> [u8; I2S_TRAILER_BYTES] {
    let mut bytes = [0; I2S_TRAILER_BYTES];
    bytes[..4].copy_from_slice(&scale.to_le_bytes());
    bytes
}

fn check_trits(trits: &[i8], before: usize) -> Result<(), QuantError> {
    // Two passes: the first has no early exit and vectorises.
    if trits
        .iter()
        .fold(true, |valid, trit| valid & (-1..=1).contains(trit))
    {
        return Ok(());
    }
    let index = trits
        .iter()
        .position(|trit| !(-1..=1).contains(trit))
        .unwrap_or_default();
    Err(QuantError::InvalidTrit {
        index: before + index,
        trit: trits[index],
    })
}

#[cfg(test)]
mod tests;
