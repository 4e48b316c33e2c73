//! Rows of the embedding table as f32.

use super::codec::Codec;
use super::{Matrix, with_codec};
use crate::cpu::isa::{Isa, Kernel, LANES, Op};
use crate::cpu::lanes::store_tail;
use crate::cpu::memory::Disjoint;
use crate::cpu::threads::Pool;

/// Tokens below which one thread is faster than a barrier.
const PARALLEL_FROM: usize = 32;

/// `out[i] = table[tokens[i]]`, out `[tokens.len(), cols]`.
///
/// # Panics
/// If a token is not in the table.
pub fn embed(kernel: Kernel, pool: &Pool, table: &Matrix, tokens: &[u32], out: &mut [f32]) {
    assert_eq!(
        out.len(),
        tokens.len() * table.cols,
        "embeddings are not [n, hidden_size]"
    );
    let out = Disjoint::new(out);
    pool.for_ranges(tokens.len(), PARALLEL_FROM, |range, _| {
        for i in range {
            let token = tokens[i] as usize;
            assert!(token < table.rows, "token {token} of {}", table.rows);
            // SAFETY: each index is given to one thread.
            let out = unsafe { out.range(i * table.cols, table.cols) };
            with_codec!(table, codec => kernel.run(WidenRow { codec, row: table.row(token), out }));
        }
    });
}

/// Widens one stored row.
struct WidenRow<'a, C> {
    codec: C,
    row: &'a [u8],
    out: &'a mut [f32], // [cols]
}

impl<C: Codec> Op for WidenRow<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        widen(self.codec, isa, self.row, self.out);
    }
}

/// Widens stored values into `out`; a last partial block (plain floats only) is filled up with zeros.
#[inline(always)]
pub fn widen<C: Codec, I: Isa>(codec: C, isa: I, stored: &[u8], out: &mut [f32]) {
    let mut blocks = stored.chunks_exact(C::BYTES);
    let mut chunks = out.chunks_exact_mut(C::LEN);
    for (block, out) in (&mut blocks).zip(&mut chunks) {
        let parts = codec.parts(isa, block);
        for (i, out) in out.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            isa.store(codec.vector(isa, block, &parts, i), out);
        }
    }
    let (rest, out) = (blocks.remainder(), chunks.into_remainder());
    if !out.is_empty() {
        store_tail(isa, widen_rest(codec, isa, rest), out);
    }
}

/// A last partial block of plain floats as a vector, zeros behind it.
#[inline(always)]
pub fn widen_rest<C: Codec, I: Isa>(codec: C, isa: I, rest: &[u8]) -> I::F32x16 {
    // Only types with blocks of one value get here: 64 bytes hold 16 of the widest.
    let mut block = [0u8; 4 * LANES];
    block[..rest.len()].copy_from_slice(rest);
    let block = &block[..C::BYTES.min(4 * LANES)];
    let parts = codec.parts(isa, block);
    codec.vector(isa, block, &parts, 0)
}
