//! Products with chosen rows or columns on NEON, see the layouts in [`rows`](super::rows) and
//! [`columns`](super::columns): one text for both dot products, `sdot` and without.

use std::arch::aarch64::*;

use super::Tile;
use super::columns::{BLOCK_ROWS, CHUNK};
use super::neon::{add_to, broadcast, crumbs, quarter_of, sdot, smull_dot};
use super::rows::RowQuads;
use crate::cpu::isa::LANES;

/// Both products with `$dot`: a function of a sum, codes and activations that is compiled for `$features`. A macro,
/// because an instruction is inlined only into functions that are compiled for it.
macro_rules! products {
    ($rows:ident, $columns:ident, $features:literal, $dot:ident) => {
        /// See [`Isa::ternary_rows`](crate::cpu::isa::Isa::ternary_rows). Each quarter of a vector has a sum of its own.
        #[target_feature(enable = $features)]
        #[inline]
        pub(crate) fn $rows(vectors: &[Tile], list: &[u32], quads: &[RowQuads], out: &mut [i32]) {
            for (row, out) in list.iter().zip(out) {
                let row = &vectors[*row as usize * quads.len()..][..quads.len()];
                let mut sums = [vdupq_n_s32(0); 4];
                for (vector, quads) in row.iter().zip(quads) {
                    for (quarter, sum) in sums.iter_mut().enumerate() {
                        let codes = crumbs(quarter_of(vector, quarter));
                        for (codes, q) in codes.into_iter().zip(quads) {
                            let q = &q.as_chunks::<16>().0[quarter];
                            // SAFETY: 16 bytes are readable.
                            *sum = $dot(*sum, codes, unsafe { vld1q_s8(q.as_ptr()) });
                        }
                    }
                }
                *out = sums.into_iter().map(|sum| vaddvq_s32(sum)).sum();
            }
        }

        /// See [`Isa::ternary_columns`](crate::cpu::isa::Isa::ternary_columns). Four columns interleaved bytewise: a
        /// 32-bit lane is one row position of all four. A quarter of a block, 64 rows, is summed in registers.
        #[target_feature(enable = $features)]
        #[inline]
        pub(crate) fn $columns(vectors: &[Tile], list: &[u32], q: &[i8], sums: &mut [i32]) {
            let n_blocks = sums.len() / BLOCK_ROWS;
            let fours = list.as_chunks::<4>().0.chunks(CHUNK / 4);
            for (columns, q) in fours.zip(q.as_chunks::<4>().0.chunks(CHUNK / 4)) {
                for (block, sums) in sums.chunks_exact_mut(BLOCK_ROWS).enumerate() {
                    for quarter in 0..4 {
                        let mut acc = [vdupq_n_s32(0); LANES];
                        for (columns, q) in columns.iter().zip(q) {
                            let q = broadcast(*q);
                            let bytes = columns.map(|column| {
                                quarter_of(&vectors[column as usize * n_blocks + block], quarter)
                            });
                            let mixed = interleave(bytes).map(|mixed| crumbs(mixed));
                            for (acc, codes) in acc.iter_mut().zip(mixed.as_flattened()) {
                                *acc = $dot(*acc, *codes, q);
                            }
                        }
                        let sums = sums.as_chunks_mut::<LANES>().0;
                        for (sums, acc) in sums.iter_mut().zip(acc) {
                            add_to(sums, quarter, acc);
                        }
                    }
                }
            }
        }
    };
}

products!(rows_by_sdot, columns_by_sdot, "neon,dotprod", sdot);
products!(rows_by_smull, columns_by_smull, "neon", smull_dot);

/// Byte `4i + j` of the four registers in a row is byte i of register j.
#[target_feature(enable = "neon")]
#[inline]
fn interleave([a, b, c, d]: [uint8x16_t; 4]) -> [uint8x16_t; 4] {
    let low = [vzip1q_u8(a, c), vzip1q_u8(b, d)];
    let high = [vzip2q_u8(a, c), vzip2q_u8(b, d)];
    [
        vzip1q_u8(low[0], low[1]),
        vzip2q_u8(low[0], low[1]),
        vzip1q_u8(high[0], high[1]),
        vzip2q_u8(high[0], high[1]),
    ]
}
