//! Products with chosen rows or columns in plain Rust: the meaning that the vector kernels copy.

use super::columns::BLOCK_ROWS;
use super::rows::RowQuads;
use super::{TILE, Tile};

/// See [`Isa::ternary_rows`](crate::cpu::isa::Isa::ternary_rows).
#[inline(always)]
pub(crate) fn rows(vectors: &[Tile], list: &[u32], quads: &[RowQuads], out: &mut [i32]) {
    for (row, out) in list.iter().zip(out) {
        let row = &vectors[*row as usize * quads.len()..][..quads.len()];
        let mut sum = 0;
        for (codes, quads) in row.iter().zip(quads) {
            for (crumb, q) in quads.iter().enumerate() {
                for (code, q) in codes.iter().zip(q) {
                    sum += i32::from((code >> (2 * crumb)) & 3) * i32::from(*q);
                }
            }
        }
        *out = sum;
    }
}

/// See [`Isa::ternary_columns`](crate::cpu::isa::Isa::ternary_columns).
#[inline(always)]
pub(crate) fn columns(vectors: &[Tile], list: &[u32], q: &[i8], sums: &mut [i32]) {
    let n_blocks = sums.len() / BLOCK_ROWS;
    for (column, q) in list.iter().zip(q) {
        let column = &vectors[*column as usize * n_blocks..][..n_blocks];
        for (codes, sums) in column.iter().zip(sums.chunks_exact_mut(BLOCK_ROWS)) {
            for (m, sums) in sums.as_chunks_mut::<TILE>().0.iter_mut().enumerate() {
                let (v, crumb) = (m / 4, m % 4);
                for (row, sum) in sums.iter_mut().enumerate() {
                    let code = (codes[16 * (row / 4) + 4 * v + row % 4] >> (2 * crumb)) & 3;
                    *sum += i32::from(code) * i32::from(*q);
                }
            }
        }
    }
}

/// See [`Isa::list_nonzero`](crate::cpu::isa::Isa::list_nonzero).
#[inline(always)]
pub(crate) fn list_nonzero(q: &[i8], list: &mut [u32], kept: &mut [i8]) -> usize {
    let mut n = 0;
    for (place, &q) in q.iter().enumerate() {
        // Without a branch: whether an activation is 0 cannot be guessed.
        (list[n], kept[n]) = (place as u32, q);
        n += usize::from(q != 0);
    }
    n
}

/// See [`Isa::list_positive`](crate::cpu::isa::Isa::list_positive).
#[inline(always)]
pub(crate) fn list_positive(x: &[f32], list: &mut [u32]) -> usize {
    let mut n = 0;
    for (place, &x) in x.iter().enumerate() {
        list[n] = place as u32;
        n += usize::from(x > 0.0);
    }
    n
}
