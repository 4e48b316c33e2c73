//! A short race of the two run layouts on this machine: which one multiplies more weights a second from memory?
//!
//! Neither wins everywhere. Five weights a byte take a fifth less traffic and two thirds more instructions for each
//! weight, so they win where cores together outrun the memory, and lose where a core is alone or memory is quick. Both
//! kernels run over the same bytes, larger than the caches, one token, all threads of the pool, in short turns that
//! alternate, so that other work on the machine disturbs both alike. The choice changes no number.

use std::time::Instant;

use super::i2s::{TILE, Tile};
use super::isa::{Isa, Kernel, LANES, Op};
use super::layout::Layout;
use super::memory::{Disjoint, Memory};
use super::threads::Pool;
use crate::error::KernelError;

/// Bytes that are read in turns: twice the last-level cache of the larger desktop processors, and mapped, filled and
/// read often enough in less than a tenth of a second. Weights that take no more are left at 2 bits without a race:
/// caches serve a good part of them.
pub(crate) const PROBE_BYTES: usize = 64 << 20;

/// Bytes of a turn: 100 to 500 microseconds, so that most turns end within a time slice when the machine does other
/// things, and a barrier is small beside them.
const TURN_BYTES: usize = 4 << 20;

/// Times that each layout reads all bytes.
const ROUNDS: usize = 5;

/// How much faster five weights a byte must be to be chosen: what is within the noise stays with the layout whose
/// instructions leave more of a core to others.
const MARGIN: f64 = 1.05;

/// Tiles of a strip: about 2560 columns, the hidden size of a 2 B model.
const STRIP: usize = 128;

/// What came out: medians of 10^9 weights a second in products with one token, on all threads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayoutProbe {
    /// With 2 bits a weight.
    pub i2s: f64,
    /// With 1.6 bits a weight.
    pub t5: f64,
    /// How many times faster 1.6 bits are: the median over pairs of turns, one right after the other. When other work
    /// comes and goes it hits both turns of most pairs, while the medians above may be of different moments.
    pub gain: f64,
}

impl LayoutProbe {
    /// The layout to use.
    pub fn fastest(&self) -> Layout {
        if self.gain > MARGIN {
            Layout::T5
        } else {
            Layout::I2s
        }
    }
}

/// Lets both layouts run with the instructions of `kernel`.
///
/// # Errors
/// [`KernelError::OutOfMemory`].
pub(crate) fn race(kernel: Kernel, pool: &Pool) -> Result<LayoutProbe, KernelError> {
    let mut tiles =
        Memory::<Tile>::zeroed("the probe of layouts", PROBE_BYTES / size_of::<Tile>())?;
    let n_strips = tiles.len() / STRIP;
    let grain = pool.grain(n_strips, 1);
    {
        // Pages that were never written may all be one page of zeros.
        let tiles = Disjoint::new(&mut tiles);
        pool.for_ranges(n_strips, grain, |strips, _| {
            // SAFETY: ranges do not overlap.
            unsafe { tiles.range(strips.start * STRIP, strips.len() * STRIP) }.fill([1; 64]);
        });
    }
    let layouts = [Layout::I2s, Layout::T5];
    let quads = [[[1i8; 4]; 1]; STRIP * Layout::T5.tile_cols() / 4];
    let turn = TURN_BYTES / size_of::<Tile>();
    let n_strips = turn / STRIP;
    let n_turns = tiles.len() / turn;
    let mut rates = [const { Vec::new() }; 2];
    for number in 0..ROUNDS * n_turns {
        for (i, layout) in layouts.into_iter().enumerate() {
            // Half the tiles apart: whatever the first of a pair has left in a cache is not what the second reads.
            let at = (number + i * n_turns / 2) % n_turns;
            let tiles = &tiles[at * turn..][..turn];
            let start = Instant::now();
            pool.for_ranges(n_strips, pool.grain(n_strips, 1), |strips, _| {
                let tiles = &tiles[strips.start * STRIP..strips.end * STRIP];
                std::hint::black_box(kernel.run(Products {
                    layout,
                    tiles,
                    quads: &quads,
                }));
            });
            let weights = (turn * TILE * layout.tile_cols()) as f64;
            rates[i].push(weights / start.elapsed().as_secs_f64() / 1e9);
        }
    }
    let gains = rates[0].iter().zip(&rates[1]).map(|(i2s, t5)| t5 / i2s);
    let gain = median(gains.collect());
    let [i2s, t5] = rates.map(median);
    Ok(LayoutProbe { i2s, t5, gain })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Products of strips with one token.
struct Products<'a> {
    layout: Layout,
    tiles: &'a [Tile], // whole strips
    quads: &'a [[[i8; 4]; 1]],
}

impl Op for Products<'_> {
    type Output = [i32; LANES];

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> [i32; LANES] {
        let mut acc = [[0; LANES]];
        for strip in self.tiles.as_chunks::<STRIP>().0 {
            // Sums of ever more strips would overflow in a debug build of the scalar kernel.
            acc = [[0; LANES]];
            match self.layout {
                Layout::I2s => isa.ternary_dot(strip, self.quads, &mut acc),
                Layout::T5 => isa.t5_dot(strip, self.quads, &mut acc),
            }
            std::hint::black_box(&mut acc);
        }
        acc[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_a_byte_must_be_clearly_faster() {
        let fastest = |gain| {
            let (i2s, t5) = (100.0, 100.0);
            LayoutProbe { i2s, t5, gain }.fastest()
        };
        assert_eq!(fastest(1.04), Layout::I2s);
        assert_eq!(fastest(1.06), Layout::T5);
    }

    #[test]
    fn a_race_has_two_finishers() {
        let pool = Pool::new(2).unwrap();
        let probe = race(Kernel::choose(None).unwrap(), &pool).unwrap();
        assert!(
            probe.i2s > 0.0 && probe.t5 > 0.0 && probe.gain > 0.0,
            "{probe:?}"
        );
    }
}
