//! Formats of single projects, read once: their trits go into a layout of the engine's own. TL1 and TL2 are also
//! written.
//!
//! - **STQ1_0** (Tencent's Sherry): one zero in every four weights, 42 bytes for 256.
//! - **IQ1_BN, IQ2_BN** (ik_llama.cpp): a scale in front of each row, then 13 or 16 bytes for 64 weights.
//! - **IQ2_S** (llama.cpp): a codebook of ordinary weights, as far as they are trits: see [`iq2_s`].
//! - **TL1, TL2** (bitnet.cpp's table lookup kernels): see [`tiles`].
//!
//! Bit layouts are drawn at the decoders.

pub mod iq2_s;
pub mod tiles;

use self::iq2_s::Iq2sRows;
use self::tiles::{TilePreset, TileRows, Tiles};
use crate::error::QuantError;
use crate::floats::f16_at;
use crate::ternary::{ScaleLayout, Shape, StoredRows, TernaryRows};

/// A format that is only imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ForeignType {
    /// Blocks of 256 with an f16 scale, three weights of four not zero.
    Stq1_0,
    /// Rows with an f16 scale, 64 weights in 13 bytes of base 3.
    Iq1Bn,
    /// Rows with an f32 scale, 64 weights in 16 bytes of 2-bit codes.
    Iq2Bn,
    /// Blocks of 256 with an f16 scale, rows of a codebook without zeros.
    Iq2S,
    /// Pairs of weights in tiles, for ARM.
    Tl1,
    /// Triples of weights in tiles, for x86.
    Tl2,
}

impl ForeignType {
    /// Every format.
    pub const ALL: &'static [ForeignType] = &[
        ForeignType::Stq1_0,
        ForeignType::Iq1Bn,
        ForeignType::Iq2Bn,
        ForeignType::Iq2S,
        ForeignType::Tl1,
        ForeignType::Tl2,
    ];

    /// The name that its project gives it.
    pub const fn name(self) -> &'static str {
        match self {
            ForeignType::Stq1_0 => "STQ1_0",
            ForeignType::Iq1Bn => "IQ1_BN",
            ForeignType::Iq2Bn => "IQ2_BN",
            ForeignType::Iq2S => "IQ2_S",
            ForeignType::Tl1 => "TL1",
            ForeignType::Tl2 => "TL2",
        }
    }

    /// The number that stands for it in a GGUF file of its project.
    pub const fn ggml_id(self) -> u32 {
        match self {
            ForeignType::Stq1_0 => 43,
            ForeignType::Iq1Bn => 134,
            ForeignType::Iq2Bn => 135,
            ForeignType::Iq2S => 22,
            ForeignType::Tl1 => 38,
            ForeignType::Tl2 => 39,
        }
    }

    /// Bytes of a tensor `[rows, cols]`, `None` for a shape that the format cannot hold. TL1 and TL2 have 32 bytes more
    /// where the scale is not a tensor of its own.
    pub fn tensor_bytes(self, rows: u64, cols: u64) -> Option<u64> {
        match self {
            ForeignType::Stq1_0 if cols.is_multiple_of(256) => {
                rows.checked_mul(cols / 256)?.checked_mul(42)
            }
            ForeignType::Iq1Bn if cols.is_multiple_of(64) => {
                rows.checked_mul((cols / 64).checked_mul(13)?.checked_add(2)?)
            }
            ForeignType::Iq2Bn if cols.is_multiple_of(64) => {
                rows.checked_mul((cols / 64).checked_mul(16)?.checked_add(4)?)
            }
            ForeignType::Iq2S if cols.is_multiple_of(iq2_s::BLOCK_LEN as u64) => rows
                .checked_mul(cols / iq2_s::BLOCK_LEN as u64)?
                .checked_mul(iq2_s::BLOCK_BYTES as u64),
            ForeignType::Tl1 => tiles::tl1_bytes(rows, cols),
            ForeignType::Tl2 => tiles::tl2_bytes(rows, cols),
            _ => None,
        }
    }

    /// Weights that a row must be a multiple of.
    const fn unit(self) -> usize {
        match self {
            ForeignType::Stq1_0 => STQ1_0_LEN,
            ForeignType::Iq1Bn | ForeignType::Iq2Bn => BN_LEN,
            ForeignType::Iq2S => iq2_s::BLOCK_LEN,
            ForeignType::Tl1 => 2,
            ForeignType::Tl2 => 32,
        }
    }
}

impl std::fmt::Display for ForeignType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// Opens the bytes of a whole tensor `[rows, cols]`. `scale` is that of a tensor of its own, which TL1 and TL2 may
/// have; their tile sizes are those of `preset`, or of the only presets that have the shape.
///
/// # Errors
/// As [`ForeignRows::new`], [`Iq2sRows::new`] and [`tiles::TileRows::new`], and for tile sizes that nobody tells.
pub fn open(
    ty: ForeignType,
    (rows, cols): (usize, usize),
    bytes: &[u8],
    scale: Option<f32>,
    preset: Option<TilePreset>,
) -> Result<Box<dyn TernaryRows + '_>, QuantError> {
    match ty {
        ForeignType::Tl1 | ForeignType::Tl2 => {}
        ForeignType::Iq2S => return Ok(Box::new(Iq2sRows::new(rows, cols, bytes)?)),
        _ => return Ok(Box::new(ForeignRows::new(ty, rows, cols, bytes)?)),
    }
    let tiles = tile_sizes(ty, rows, cols, preset)?;
    let rows = TileRows::new(ty, tiles, rows, cols, bytes, scale)?;
    Ok(Box::new(rows))
}

/// The tile sizes of a TL1 or TL2 matrix: those of `preset`, or of the only presets that have the shape.
///
/// # Errors
/// [`QuantError::Shape`] for a shape that no preset has, or that several have in other tiles.
pub fn tile_sizes(
    ty: ForeignType,
    rows: usize,
    cols: usize,
    preset: Option<TilePreset>,
) -> Result<Tiles, QuantError> {
    let mut known = TilePreset::ALL
        .iter()
        .filter(|known| preset.is_none_or(|preset| preset == **known))
        .filter_map(|known| known.tiles(ty, rows, cols));
    let first = known.next();
    let tiles = first.filter(|first| known.all(|other| other == *first));
    tiles.ok_or_else(|| {
        let why = match first {
            Some(_) => {
                "builds with several tile sizes have this shape: name one (`quantize --tiles`)"
            }
            None => "no known build has tile sizes for this shape",
        };
        QuantError::Shape {
            format: ty.name(),
            rows,
            cols,
            why,
        }
    })
}

/// Weights of an STQ1_0 block.
const STQ1_0_LEN: usize = 256;
/// Bytes of an STQ1_0 block.
const STQ1_0_BYTES: usize = 42;
/// Weights of a block of the two row formats.
const BN_LEN: usize = 64;

/// The trits of an STQ1_0, IQ1_BN or IQ2_BN tensor in a file's bytes.
#[derive(Debug, Clone, Copy)]
pub struct ForeignRows<'a> {
    ty: ForeignType,
    shape: Shape,
    bytes: &'a [u8],
    row_bytes: usize,
    scale: ScaleLayout,
}

impl<'a> ForeignRows<'a> {
    /// Takes the bytes of a whole tensor `[rows, cols]`. Scales that are all the same are one scale for the tensor.
    ///
    /// # Errors
    /// TL1, TL2 and IQ2_S ([`tiles::TileRows`] and [`Iq2sRows`] read them), an impossible shape, another byte count
    /// than the shape has, a scale that is NaN or infinite.
    pub fn new(
        ty: ForeignType,
        rows: usize,
        cols: usize,
        bytes: &'a [u8],
    ) -> Result<Self, QuantError> {
        let format = ty.name();
        let why = match ty {
            ForeignType::Tl1 | ForeignType::Tl2 => {
                Some("its layout depends on tile sizes: read it with TileRows")
            }
            ForeignType::Iq2S => Some("its weights may be no trits: read it with Iq2sRows"),
            _ => None,
        };
        if let Some(why) = why {
            return Err(QuantError::NotPossible {
                format,
                operation: "decoded row by row",
                why,
            });
        }
        let shape = Shape::new(format, rows, cols, ty.unit())?;
        let row_bytes = ty.tensor_bytes(1, cols as u64).unwrap_or_default() as usize;
        shape.check_bytes(format, rows * row_bytes, bytes.len())?;
        let block_len = match ty {
            ForeignType::Stq1_0 => STQ1_0_LEN,
            _ => cols,
        };
        let mut rows = ForeignRows {
            ty,
            shape,
            bytes,
            row_bytes,
            scale: ScaleLayout::PerBlock { block_len },
        };
        let mut first = None;
        let mut all_equal = true;
        for row in 0..shape.rows {
            for (block, scale) in rows.row_scales(row).enumerate() {
                if !scale.is_finite() {
                    return Err(QuantError::BlockScale {
                        format,
                        row,
                        block,
                        scale,
                    });
                }
                all_equal &= *first.get_or_insert(scale) == scale;
            }
        }
        if let (true, Some(scale)) = (all_equal, first) {
            rows.scale = ScaleLayout::PerTensor(scale);
        }
        Ok(rows)
    }

    fn row(&self, row: usize) -> &'a [u8] {
        &self.bytes[row * self.row_bytes..][..self.row_bytes]
    }

    /// The scales of a row, of which the row formats have one.
    fn row_scales(&self, row: usize) -> impl Iterator<Item = f32> + use<'a> {
        let bytes = self.row(row);
        let (step, at) = match self.ty {
            ForeignType::Stq1_0 => (STQ1_0_BYTES, STQ1_0_BYTES - 2),
            _ => (bytes.len(), 0),
        };
        let wide = self.ty == ForeignType::Iq2Bn;
        bytes.chunks_exact(step).map(move |block| match wide {
            true => f32::from_le_bytes([block[0], block[1], block[2], block[3]]),
            false => f16_at(block, at),
        })
    }
}

impl StoredRows for ForeignRows<'_> {
    fn header(&self) -> (Shape, ScaleLayout) {
        (self.shape, self.scale)
    }

    fn decode_row(
        &self,
        row: usize,
        trits: &mut [i8],
        scales: &mut [f32],
    ) -> Result<(), QuantError> {
        for (out, scale) in scales.iter_mut().zip(self.row_scales(row)) {
            *out = scale;
        }
        let bytes = self.row(row);
        let blocks = trits.chunks_exact_mut(self.ty.unit());
        match self.ty {
            ForeignType::Stq1_0 => blocks
                .zip(bytes.chunks_exact(STQ1_0_BYTES))
                .for_each(|(trits, block)| decode_stq1_0(block, trits)),
            ForeignType::Iq1Bn => blocks
                .zip(bytes[2..].chunks_exact(13))
                .for_each(|(trits, block)| decode_iq1_bn(block, trits)),
            _ => {
                for (at, (trits, block)) in blocks.zip(bytes[4..].chunks_exact(16)).enumerate() {
                    decode_iq2_bn(block, trits);
                    if let Some(col) = trits.iter().position(|&trit| trit == 2) {
                        return Err(QuantError::InvalidCode {
                            format: self.ty.name(),
                            row,
                            col: at * BN_LEN + col,
                            code: 3,
                        });
                    }
                }
            }
        }
        Ok(())
    }
}

/// Decodes an STQ1_0 block; every byte decodes to some trits.
///
/// ```text
/// 42 bytes:  qs[32] sign[8] d
/// group g of 64, lanes p < 4:  value 64 (g / 16) + g % 16 + 16 p
/// slot = nibble g of qs (low first):  bits 3:2 the lane that is 0; of the other three in order the first is +1,
///                                     the second -1 if bit 0, the third -1 if bit 1
/// bit g of sign:  all negated
/// ```
fn decode_stq1_0(block: &[u8], trits: &mut [i8]) {
    for g in 0..64 {
        let slot = block[g / 2] >> (4 * (g % 2)) & 15;
        let sign = if block[32 + g / 8] >> (g % 8) & 1 == 1 {
            -1
        } else {
            1
        };
        let flip = |bit: u8| if slot >> bit & 1 == 1 { -sign } else { sign };
        let mut others = [sign, flip(0), flip(1)].into_iter();
        let zero = usize::from(slot >> 2);
        for p in 0..4 {
            let value = match p == zero {
                true => 0,
                false => others.next().unwrap_or_default(),
            };
            trits[64 * (g / 16) + g % 16 + 16 * p] = value;
        }
    }
}

/// Decodes 64 weights of IQ1_BN; every byte decodes to some trits.
///
/// ```text
/// 13 bytes:  ql[12] extra     byte = ceil(256 v / 243), v = sum of t_j 3^j
/// value 16 i + 5 k + j (k < 3, j < 5) = digit j of ql[3 i + k],   value 16 i + 15 = digit i of extra
/// ```
fn decode_iq1_bn(block: &[u8], trits: &mut [i8]) {
    // 3^(4 - j) moves digit j to the top.
    const POWERS: [u8; 5] = [81, 27, 9, 3, 1];
    let digit = |byte: u8, j: usize| ((u16::from(byte.wrapping_mul(POWERS[j])) * 3) >> 8) as i8 - 1;
    for i in 0..4 {
        for k in 0..3 {
            for j in 0..5 {
                trits[16 * i + 5 * k + j] = digit(block[3 * i + k], j);
            }
        }
        trits[16 * i + 15] = digit(block[12], i);
    }
}

/// Decodes 64 weights of IQ2_BN: value `16 s + m` is crumb `s` of byte `m`, less one; a code 3 comes out as 2.
fn decode_iq2_bn(block: &[u8], trits: &mut [i8]) {
    for (s, trits) in trits.chunks_exact_mut(16).enumerate() {
        for (trit, byte) in trits.iter_mut().zip(block) {
            *trit = ((byte >> (2 * s)) & 3) as i8 - 1;
        }
    }
}
