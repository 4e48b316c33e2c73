//! Writing TL1 and TL2: each group of weights at the place that [`super`] draws, then read again and compared.
//!
//! TL2's three regions run over the whole matrix, so a matrix is encoded as a whole: a quarter of a byte a weight in
//! memory.

use super::{TRAILER_BYTES, TileRows, Tiles, divides};
use crate::error::QuantError;
use crate::foreign::ForeignType;
use crate::ternary::{ScaleLayout, Shape, TernaryRows};

/// Bytes of a matrix `[rows, cols]` with its scale behind the codes.
///
/// # Errors
/// A format that has no tiles, tiles that do not cover the shape.
pub fn tile_bytes(
    ty: ForeignType,
    tiles: Tiles,
    rows: usize,
    cols: usize,
) -> Result<usize, QuantError> {
    let format = ty.name();
    Shape::new(format, rows, cols, ty.unit())?;
    let codes = ty
        .tensor_bytes(rows as u64, cols as u64)
        .and_then(|n| usize::try_from(n).ok());
    let fit = codes.filter(|_| divides(ty, tiles, rows, cols));
    let why = "the tile sizes do not divide it: choose another preset";
    fit.map(|codes| codes + TRAILER_BYTES)
        .ok_or(QuantError::Shape {
            format,
            rows,
            cols,
            why,
        })
}

/// Makes sure that [`encode_tiles`] will succeed: that the format has the shape and one scale is enough.
///
/// # Errors
/// As [`tile_bytes`], [`QuantError::ScaleLost`] for several scales, and what reading the source gives.
pub fn check_tiles(
    ty: ForeignType,
    tiles: Tiles,
    source: &dyn TernaryRows,
) -> Result<(), QuantError> {
    tile_bytes(ty, tiles, source.rows(), source.cols())?;
    let n_scales = source.scale().scales_per_row(source.cols());
    let (mut trits, mut scales) = (vec![0; source.cols()], vec![0.0; n_scales]);
    for row in 0..source.rows() {
        source.read_row(row, &mut trits, &mut scales)?;
        one_scale(ty, source.scale(), &scales)?;
    }
    Ok(())
}

/// The scale of the tensor; the error names the first of several.
fn one_scale(ty: ForeignType, layout: ScaleLayout, scales: &[f32]) -> Result<f32, QuantError> {
    match layout {
        ScaleLayout::PerTensor(scale) => Ok(scale),
        ScaleLayout::PerBlock { .. } => Err(QuantError::ScaleLost {
            format: ty.name(),
            row: 0,
            col: 0,
            scale: scales.first().copied().unwrap_or_default(),
            why: "the weights have several scales, the format has one",
        }),
    }
}

/// Appends `source` as TL1 or TL2 in tiles of these sizes, the scale behind the codes.
///
/// # Errors
/// As [`check_tiles`], and [`QuantError::NotReadBack`].
pub fn encode_tiles(
    ty: ForeignType,
    tiles: Tiles,
    source: &dyn TernaryRows,
    out: &mut Vec<u8>,
) -> Result<(), QuantError> {
    let (rows, cols) = (source.rows(), source.cols());
    let bytes = tile_bytes(ty, tiles, rows, cols)?;
    let n_scales = source.scale().scales_per_row(cols);
    let (mut trits, mut scales) = (vec![0; cols], vec![0.0; n_scales]);
    let start = out.len();
    out.resize(start + bytes, 0);
    let (codes, trailer) = out[start..].split_at_mut(bytes - TRAILER_BYTES);
    let mut scale = 0.0;
    for row in 0..rows {
        source.read_row(row, &mut trits, &mut scales)?;
        scale = one_scale(ty, source.scale(), &scales)?;
        match ty {
            ForeignType::Tl1 => put_tl1(tiles, cols, row, &trits, codes),
            _ => put_tl2(tiles, [rows, cols], row, &trits, codes),
        }
    }
    trailer[..4].copy_from_slice(&scale.to_le_bytes());

    let written = TileRows::new(ty, tiles, rows, cols, &out[start..], None)?;
    let mut read_back = vec![0; cols];
    for row in 0..rows {
        source.read_row(row, &mut trits, &mut scales)?;
        written.read_row(row, &mut read_back, &mut [])?;
        if let Some(col) = trits.iter().zip(&read_back).position(|(a, b)| a != b) {
            return Err(QuantError::NotReadBack {
                format: ty.name(),
                row,
                col,
            });
        }
    }
    Ok(())
}

/// The code of a pair.
fn pair_code([w0, w1]: [i8; 2]) -> u8 {
    (3 * w0 + w1 + 4) as u8
}

/// A nibble at its place, which is zero so far.
fn put(byte: &mut u8, nibble: u8, high: bool) {
    *byte |= if high { nibble << 4 } else { nibble };
}

/// Row `m` of a TL1 matrix of `cols` columns.
fn put_tl1(tiles: Tiles, cols: usize, m: usize, trits: &[i8], codes: &mut [u8]) {
    let Tiles {
        rows: bm_big,
        cols: bk,
        lane_rows: bm,
    } = tiles;
    let by = 256 / bm;
    let (a, c, e, r) = (m / bm_big, m % bm_big / bm, m % bm / 16, m % 16);
    for (j, pair) in trits.as_chunks::<2>().0.iter().enumerate() {
        let (b, d) = (j / (bk / 2), j % (bk / 2) / (by / 2));
        let (f, t) = (j % (by / 2) / 2, j % 2);
        let tile = (a * (cols / bk) + b) * (bm_big / bm) + c;
        let at = (((tile * (bk / by) + d) * (bm / 16) + e) * (by / 4) + f) * 16 + r;
        put(&mut codes[at], pair_code(*pair), t == 0);
    }
}

/// Row `m` of a TL2 matrix.
fn put_tl2(tiles: Tiles, [rows, cols]: [usize; 2], m: usize, trits: &[i8], codes: &mut [u8]) {
    let (bm, bk) = (tiles.rows, tiles.cols);
    let k3 = cols / bk * bk;
    let (indices, rest) = codes.split_at_mut(rows * k3 / 6);
    let (signs, pairs) = rest.split_at_mut(rows * k3 / 24);
    let (a, c, r) = (m / bm, m % bm / 32, m % 32);
    let lane = (r & 7) | (r >> 3 & 1) << 4 | (r >> 4 & 1) << 3;
    let (triples, tail) = trits.split_at(k3);
    for (j, [w0, w1, w2]) in triples.as_chunks::<3>().0.iter().enumerate() {
        let (b, i) = (j / (bk / 3), j % (bk / 3));
        let tile = (a * (k3 / bk) + b) * (bm / 32) + c;
        let value = 9 * w0 + 3 * w1 + w2;
        let at = (tile * (bk / 6) + i / 2) * 32 + lane;
        put(&mut indices[at], value.unsigned_abs(), i % 2 == 0);
        // Bit 15 - n of a little-endian u16.
        let bit = 15 - (2 * (i % 8) + r / 16);
        let at = 2 * ((tile * (bk / 24) + i / 8) * 16 + r % 16);
        signs[at + bit / 8] |= u8::from(value < 0) << (bit % 8);
    }
    for (j, pair) in tail.as_chunks::<2>().0.iter().enumerate() {
        let tile = (a * (tail.len() / 32) + j / 16) * (bm / 32) + c;
        let at = (tile * 8 + j % 16 / 2) * 32 + lane;
        put(&mut pairs[at], pair_code(*pair), j % 2 == 0);
    }
}
