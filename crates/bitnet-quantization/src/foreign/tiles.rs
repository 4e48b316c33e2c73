//! TL1 and TL2, the layouts of bitnet.cpp's table lookup kernels: groups of weights as table indices, in tiles whose
//! sizes the build chose and no file tells.
//!
//! A matrix is `[m, k]`. TL1 has a nibble for each pair of weights, TL2 a nibble and a sign for each triple and nibbles
//! for the pairs of the last columns, which no tile covers. Places of nibbles, in the words of the loops that write
//! them:
//!
//! ```text
//! TL1   m = a BM + c bm + e 16 + r,  pair j = b BK/2 + d by/2 + 2 f + t,  by = 256 / bm
//!       byte ((((((a K/BK + b) BM/bm + c) BK/by + d) bm/16 + e) by/4 + f) 16 + r, high nibble for t = 0
//!       nibble = 3 w0 + w1 + 4
//!
//! TL2   m = a BM + c 32 + r,  q(r) = r with bits 3 and 4 exchanged,  triple j = b BK/3 + i
//!       byte (((a K3/BK + b) BM/32 + c) BK/6 + i/2) 32 + q(r), high nibble for even i:  |9 w0 + 3 w1 + w2|
//!       u16  (((a K3/BK + b) BM/32 + c) BK/24 + i/8) 16 + r%16, bit 15 - (2 (i%8) + r/16):  1 if that is negative
//!       pair j of the last K2 columns:  byte (((a K2/32 + j/16) BM/32 + c) 8 + (j%16)/2) 32 + q(r), high nibble for
//!       even j:  3 w0 + w1 + 4
//! ```
//!
//! Source: bitnet.cpp's `utils/codegen_tl1.py`, `codegen_tl2.py` and its converter's `preprocess_weights_tl1/tl2`.

mod encode;

pub use self::encode::{check_tiles, encode_tiles, tile_bytes};

use super::ForeignType;
use crate::error::QuantError;
use crate::ternary::{ScaleLayout, Shape, StoredRows, finite_tensor_scale};

/// Bytes of a scale stored behind the codes, padded.
const TRAILER_BYTES: usize = 32;

/// The tile sizes of one matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tiles {
    /// Rows of a tile (BM).
    pub rows: usize,
    /// Columns of a tile (BK).
    pub cols: usize,
    /// Rows that a TL1 kernel takes at once (bm); TL2 always takes 32.
    pub lane_rows: usize,
}

/// Whose tile sizes a file has: the build presets of bitnet.cpp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TilePreset {
    /// `bitnet_b1_58-large`: matrices of 1536 and 4096.
    Large,
    /// `bitnet_b1_58-3B`: matrices of 3200 and 8640.
    B3,
    /// `Llama3-8B-1.58` and Falcon as `setup_env.py` builds them.
    Llama3,
    /// `Llama3-8B-1.58` by the preset file of the repository.
    Llama3Ini,
}

/// Rows, columns and tile sizes (BM, BK, bm) of one matrix.
type Entry = (usize, usize, [usize; 3]);

impl TilePreset {
    /// Every preset.
    pub const ALL: &'static [TilePreset] = &[
        TilePreset::Large,
        TilePreset::B3,
        TilePreset::Llama3,
        TilePreset::Llama3Ini,
    ];

    /// The name used on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            TilePreset::Large => "large",
            TilePreset::B3 => "3b",
            TilePreset::Llama3 => "llama3",
            TilePreset::Llama3Ini => "llama3-ini",
        }
    }

    /// The tile sizes of a matrix `[rows, cols]`, `None` for a shape that the preset does not have.
    pub fn tiles(self, ty: ForeignType, rows: usize, cols: usize) -> Option<Tiles> {
        let table: &[Entry] = match (self, ty == ForeignType::Tl2) {
            (TilePreset::Large, false) => &[
                (1536, 4096, [256, 128, 32]),
                (1536, 1536, [128, 64, 64]),
                (4096, 1536, [256, 128, 32]),
            ],
            (TilePreset::Large, true) => &[
                (1536, 4096, [256, 96, 32]),
                (1536, 1536, [128, 192, 32]),
                (4096, 1536, [256, 96, 32]),
            ],
            (TilePreset::B3, false) => &[
                (3200, 8640, [160, 64, 32]),
                (3200, 3200, [320, 128, 64]),
                (8640, 3200, [320, 64, 32]),
            ],
            (TilePreset::B3, true) => &[
                (3200, 8640, [160, 96, 32]),
                (3200, 3200, [320, 96, 32]),
                (8640, 3200, [320, 96, 32]),
            ],
            (TilePreset::Llama3, false) => &[
                (14336, 4096, [256, 128, 32]),
                (4096, 14336, [128, 64, 64]),
                (1024, 4096, [256, 128, 32]),
                (4096, 4096, [128, 64, 64]),
            ],
            (TilePreset::Llama3Ini, false) => &[
                (14336, 4096, [256, 128, 64]),
                (4096, 14336, [256, 128, 32]),
                (1024, 4096, [128, 64, 64]),
                (4096, 4096, [128, 64, 32]),
            ],
            (TilePreset::Llama3 | TilePreset::Llama3Ini, true) => &[
                (14336, 4096, [256, 96, 32]),
                (4096, 14336, [128, 96, 32]),
                (1024, 4096, [256, 96, 32]),
                (4096, 4096, [128, 96, 32]),
            ],
        };
        let entry = table.iter().find(|(m, k, _)| (*m, *k) == (rows, cols))?;
        let [rows, cols, lane_rows] = entry.2;
        Some(Tiles {
            rows,
            cols,
            lane_rows,
        })
    }
}

/// A preset's name that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown tile preset `{0}`: expected large, 3b, llama3 or llama3-ini")]
pub struct UnknownPreset(String);

impl std::str::FromStr for TilePreset {
    type Err = UnknownPreset;

    fn from_str(name: &str) -> Result<Self, UnknownPreset> {
        let found = Self::ALL
            .iter()
            .copied()
            .find(|preset| preset.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| UnknownPreset(name.to_owned()))
    }
}

/// Bytes of the codes of a TL1 matrix.
pub(super) fn tl1_bytes(rows: u64, cols: u64) -> Option<u64> {
    let n = rows.checked_mul(cols)?;
    n.is_multiple_of(4).then_some(n / 4)
}

/// Bytes of the codes of a TL2 matrix as bitnet.cpp counts them: as if 256 columns were pairs, in whole 32 bytes.
pub(super) fn tl2_bytes(rows: u64, cols: u64) -> Option<u64> {
    let triples = cols.checked_sub(256)?.checked_mul(rows)? / 3;
    let pairs = rows.checked_mul(256)? / 2;
    let bytes = (triples.checked_mul(5)? / 8).checked_add(pairs.checked_mul(4)? / 8)?;
    bytes.checked_next_multiple_of(32)
}

/// The trits of a TL1 or TL2 tensor in a file's bytes.
#[derive(Debug, Clone, Copy)]
pub struct TileRows<'a> {
    ty: ForeignType,
    tiles: Tiles,
    shape: Shape,
    bytes: &'a [u8],
    scale: f32,
}

impl<'a> TileRows<'a> {
    /// Takes the bytes of a whole tensor `[rows, cols]`, with or without a scale behind the codes; `scale` is the
    /// tensor of its own that holds it otherwise, and wins.
    ///
    /// # Errors
    /// A format that is neither, tiles that do not divide the shape, another byte count than the shape has, no scale at
    /// all, one that is not finite. Codes are checked when their row is read.
    pub fn new(
        ty: ForeignType,
        tiles: Tiles,
        rows: usize,
        cols: usize,
        bytes: &'a [u8],
        scale: Option<f32>,
    ) -> Result<Self, QuantError> {
        let format = ty.name();
        let shape = Shape::new(format, rows, cols, ty.unit())?;
        let codes = ty
            .tensor_bytes(rows as u64, cols as u64)
            .and_then(|n| usize::try_from(n).ok());
        let fit = codes.filter(|_| divides(ty, tiles, rows, cols));
        let Some(codes) = fit else {
            let why = "the tile sizes do not divide it: choose another preset";
            return Err(QuantError::Shape {
                format,
                rows,
                cols,
                why,
            });
        };
        let trailer = bytes
            .get(codes..)
            .filter(|rest| rest.len() == TRAILER_BYTES)
            .and_then(<[u8]>::first_chunk);
        if trailer.is_none() {
            shape.check_bytes(format, codes, bytes.len())?;
        }
        let scale = scale.or(trailer.map(|bytes| f32::from_le_bytes(*bytes)));
        let Some(scale) = scale else {
            let why = "the file has no scale for it, neither behind the codes nor as NAME_scale";
            return Err(QuantError::NotPossible {
                format,
                operation: "decoded",
                why,
            });
        };
        Ok(TileRows {
            ty,
            tiles,
            shape,
            bytes: &bytes[..codes],
            scale: finite_tensor_scale(format, scale)?,
        })
    }

    /// Decodes a row of TL1; the error is the pair with a code that is none.
    fn read_tl1(&self, m: usize, trits: &mut [i8]) -> Result<(), usize> {
        let Tiles {
            rows: bm_big,
            cols: bk,
            lane_rows: bm,
        } = self.tiles;
        let by = 256 / bm;
        let (a, c, e, r) = (m / bm_big, m % bm_big / bm, m % bm / 16, m % 16);
        for (j, pair) in trits.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let (b, d) = (j / (bk / 2), j % (bk / 2) / (by / 2));
            let (f, t) = (j % (by / 2) / 2, j % 2);
            let tile = (a * (self.shape.cols / bk) + b) * (bm_big / bm) + c;
            let at = (((tile * (bk / by) + d) * (bm / 16) + e) * (by / 4) + f) * 16 + r;
            *pair = pair_of(nibble(self.bytes[at], t == 0)).ok_or(2 * j)?;
        }
        Ok(())
    }

    /// Decodes a row of TL2; the error is the first column of a code that is none.
    fn read_tl2(&self, m: usize, trits: &mut [i8]) -> Result<(), usize> {
        let Tiles {
            rows: bm, cols: bk, ..
        } = self.tiles;
        let (n_rows, k3) = (self.shape.rows, self.shape.cols / bk * bk);
        let (indices, rest) = self.bytes.split_at(n_rows * k3 / 6);
        let (signs, pairs) = rest.split_at(n_rows * k3 / 24);
        let (a, c, r) = (m / bm, m % bm / 32, m % 32);
        let lane = (r & 7) | (r >> 3 & 1) << 4 | (r >> 4 & 1) << 3;
        let (triples, tail) = trits.split_at_mut(k3);
        for (j, triple) in triples.as_chunks_mut::<3>().0.iter_mut().enumerate() {
            let (b, i) = (j / (bk / 3), j % (bk / 3));
            let tile = (a * (k3 / bk) + b) * (bm / 32) + c;
            let index = nibble(indices[(tile * (bk / 6) + i / 2) * 32 + lane], i % 2 == 0);
            let at = 2 * ((tile * (bk / 24) + i / 8) * 16 + r % 16);
            let sign =
                u16::from_le_bytes([signs[at], signs[at + 1]]) >> (15 - (2 * (i % 8) + r / 16));
            *triple = triple_of(index, sign & 1 == 1).ok_or(3 * j)?;
        }
        let k2 = tail.len();
        for (j, pair) in tail.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let tile = (a * (k2 / 32) + j / 16) * (bm / 32) + c;
            let code = nibble(pairs[(tile * 8 + j % 16 / 2) * 32 + lane], j % 2 == 0);
            *pair = pair_of(code).ok_or(k3 + 2 * j)?;
        }
        Ok(())
    }
}

/// Whether tiles cover a shape, so that every place of the formulas is within the codes.
fn divides(ty: ForeignType, tiles: Tiles, rows: usize, cols: usize) -> bool {
    let Tiles {
        rows: bm_big,
        cols: bk,
        lane_rows: bm,
    } = tiles;
    if bm_big == 0 || bk == 0 || !rows.is_multiple_of(bm_big) {
        return false;
    }
    match ty {
        ForeignType::Tl1 => {
            // Lanes of whole vectors of 16 rows, and of whole bytes of four columns.
            let lanes = matches!(bm, 16 | 32 | 64) && bm_big.is_multiple_of(bm);
            lanes && bk.is_multiple_of(256 / bm) && cols.is_multiple_of(bk)
        }
        ForeignType::Tl2 => {
            let pairs = cols % bk;
            let needed = rows * (cols - pairs) / 6 + rows * (cols - pairs) / 24 + rows * pairs / 4;
            let reported = ty.tensor_bytes(rows as u64, cols as u64);
            bm_big.is_multiple_of(32)
                && bk.is_multiple_of(24)
                && pairs.is_multiple_of(32)
                && reported.is_some_and(|bytes| bytes >= needed as u64)
        }
        _ => false,
    }
}

fn nibble(byte: u8, high: bool) -> u8 {
    if high { byte >> 4 } else { byte & 15 }
}

/// The two trits of a pair's code.
fn pair_of(code: u8) -> Option<[i8; 2]> {
    (code < 9).then(|| [code as i8 / 3 - 1, code as i8 % 3 - 1])
}

/// The three trits of a triple's index and sign: the digits of a number from -13 to 13.
fn triple_of(index: u8, negative: bool) -> Option<[i8; 3]> {
    if index > 13 {
        return None;
    }
    let value = if negative {
        -(index as i8)
    } else {
        index as i8
    } + 13;
    Some([value / 9 - 1, value / 3 % 3 - 1, value % 3 - 1])
}

impl StoredRows for TileRows<'_> {
    fn header(&self) -> (Shape, ScaleLayout) {
        (self.shape, ScaleLayout::PerTensor(self.scale))
    }

    fn decode_row(
        &self,
        row: usize,
        trits: &mut [i8],
        _scales: &mut [f32],
    ) -> Result<(), QuantError> {
        let read = match self.ty {
            ForeignType::Tl1 => self.read_tl1(row, trits),
            _ => self.read_tl2(row, trits),
        };
        read.map_err(|col| QuantError::TableIndex {
            format: self.ty.name(),
            row,
            col,
        })
    }
}
