//! BitLinear: int8 activations times ternary weights, exact in integers, then one or two float multiplications.
//!
//! The strips of all weights that share an input (q, k, v; gate, up) are one list of work: one barrier for all. A strip
//! is multiplied with every panel of token rows while it is in the cache; for one token it is read once, as a stream.
//! Source: transformers `integrations/bitnet.py` (`AutoBitLinear`), bitnet.cpp's I2_S kernels for the integer form.

use super::i2s::{PackedTernary, Scales, TILE, Tile};
use super::isa::{Isa, Kernel, LANES, Op};
use super::lanes::store_tail;
use super::layout::Layout;
use super::memory::{Disjoint, Memory};
use super::quantize::{Panel, QuantizedRows, padded};
use super::threads::Pool;

/// Strips of a range of one thread, at the least: 16 rows of 2560 columns are 10 KiB, and a range should be long
/// enough to stream.
const LEAST_STRIPS: usize = 2;

/// Where the outputs of one weight go: `[n_rows, rows]`.
pub struct Output<'a> {
    weight: &'a PackedTernary,
    out: Disjoint<'a, f32>,
}

impl<'a> Output<'a> {
    /// The outputs of `weight` for `n_rows` token rows.
    ///
    /// # Panics
    /// If `out` is shorter than `[n_rows, weight.rows]`.
    pub fn new(weight: &'a PackedTernary, n_rows: usize, out: &'a mut [f32]) -> Self {
        Output {
            weight,
            out: Disjoint::new(&mut out[..n_rows * weight.rows()]),
        }
    }
}

/// Weights of one call that need no allocation: q, k, v are the most that a layer has.
const FEW: usize = 4;

/// Gathers weights with their outputs, calls `work` with them.
///
/// # Panics
/// If an output is too short.
pub fn with_outputs<'a>(
    weights: impl Iterator<Item = (&'a PackedTernary, &'a mut Memory<f32>)>,
    n_rows: usize,
    work: impl FnOnce(&[Output<'_>]),
) {
    let mut pairs = weights.map(|(weight, out)| Output::new(weight, n_rows, out));
    let few: [Option<Output<'_>>; FEW] = std::array::from_fn(|_| pairs.next());
    if let Some(more) = pairs.next() {
        let all = few.into_iter().flatten().chain([more]).chain(pairs);
        return work(&all.collect::<Vec<_>>());
    }
    match few {
        [Some(a), None, ..] => work(&[a]),
        [Some(a), Some(b), None, _] => work(&[a, b]),
        [Some(a), Some(b), Some(c), None] => work(&[a, b, c]),
        [Some(a), Some(b), Some(c), Some(d)] => work(&[a, b, c, d]),
        _ => work(&[]),
    }
}

/// Multiplies quantised rows with every weight of `outputs`.
///
/// # Panics
/// If a weight's columns are not those of the activations.
pub fn bitlinear(kernel: Kernel, pool: &Pool, x: &QuantizedRows, outputs: &[Output<'_>]) {
    for output in outputs {
        assert_eq!(output.weight.cols(), x.cols(), "columns of the weight");
        let sum_len = output.weight.block_len().unwrap_or(padded(x.cols()));
        assert_eq!(
            x.sum_len(),
            sum_len,
            "activations are summed for other blocks"
        );
    }
    let n_strips = outputs.iter().map(|output| output.weight.n_strips()).sum();
    pool.for_ranges(n_strips, pool.grain(n_strips, LEAST_STRIPS), |range, _| {
        kernel.run(Strips {
            x,
            outputs,
            first: range.start,
            end: range.end,
        });
    });
}

/// The exact integer products `[n_rows, rows]`, for checks against recorded ones.
pub fn bitlinear_acc(
    kernel: Kernel,
    pool: &Pool,
    x: &QuantizedRows,
    weight: &PackedTernary,
    out: &mut [i32],
) {
    assert_eq!(weight.cols(), x.cols(), "columns of the weight");
    assert_eq!(
        x.sum_len(),
        padded(x.cols()),
        "activations are summed in blocks"
    );
    assert_eq!(
        out.len(),
        x.n_rows() * weight.rows(),
        "output of [n_rows, rows]"
    );
    let n_strips = weight.n_strips();
    let out = Disjoint::new(out);
    pool.for_ranges(n_strips, pool.grain(n_strips, LEAST_STRIPS), |range, _| {
        kernel.run(Accumulators {
            x,
            weight,
            out: &out,
            first: range.start,
            end: range.end,
        });
    });
}

/// Strips `first..end` of the concatenated weights.
struct Strips<'a> {
    x: &'a QuantizedRows,
    outputs: &'a [Output<'a>],
    first: usize,
    end: usize,
}

impl Op for Strips<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let mut before = 0;
        for output in self.outputs {
            let n_strips = output.weight.n_strips();
            let first = self.first.saturating_sub(before).min(n_strips);
            let end = self.end.saturating_sub(before).min(n_strips);
            before += n_strips;
            for strip in first..end {
                for panel in self.x.panels() {
                    match panel.width {
                        16 => strip_panel::<I, 16>(isa, self.x, output, strip, panel),
                        8 => strip_panel::<I, 8>(isa, self.x, output, strip, panel),
                        4 => strip_panel::<I, 4>(isa, self.x, output, strip, panel),
                        2 => strip_panel::<I, 2>(isa, self.x, output, strip, panel),
                        _ => strip_panel::<I, 1>(isa, self.x, output, strip, panel),
                    }
                }
            }
        }
    }
}

/// Outputs of 16 rows of the weight for the T token rows of a panel.
#[inline(always)]
fn strip_panel<I: Isa, const T: usize>(
    isa: I,
    x: &QuantizedRows,
    output: &Output<'_>,
    strip: usize,
    panel: Panel,
) {
    let weight = output.weight;
    let (tiles, quads) = (weight.strip(strip), x.quads::<T>(panel));
    let a: &[f32; T] = x.scales()[panel.first..]
        .first_chunk()
        .expect("a scale for each row");
    for t in 0..T {
        // Outputs of 16 token rows are 16 lines far apart; they arrive while the products are summed.
        let (start, len) = place(output, strip, panel.first + t);
        // SAFETY: as in `store`.
        let out = unsafe { output.out.range(start, len) };
        isa.prefetch(&out[0], 0);
    }
    match weight.scales() {
        Scales::PerTensor(scale) => {
            let acc = corrected_dot(isa, weight.layout(), tiles, quads, x, panel, 0);
            let factors = a.map(|a| scale / a);
            for t in 0..T {
                let y = isa.mul(isa.load_i32(&acc[t]), isa.splat(factors[t]));
                store(isa, y, output, strip, panel.first + t);
            }
        }
        Scales::PerBlock { block_len, scales } => {
            let tiles_per_block = block_len / TILE;
            let n_blocks = tiles.len() / tiles_per_block;
            let scales = &scales[strip * n_blocks..][..n_blocks];
            let mut y = [[0.0f32; LANES]; T];
            for (block, scales) in scales.iter().enumerate() {
                let first = block * tiles_per_block;
                let (tiles, quads) = (
                    &tiles[first..][..tiles_per_block],
                    &quads[4 * first..][..4 * tiles_per_block],
                );
                let acc = corrected_dot(isa, Layout::I2s, tiles, quads, x, panel, block);
                let scales = isa.load(scales);
                for t in 0..T {
                    let term = isa.mul(isa.load_i32(&acc[t]), scales);
                    isa.store(isa.add(isa.load(&y[t]), term), &mut y[t]);
                }
            }
            let factors = a.map(|a| 1.0 / a);
            for t in 0..T {
                let y = isa.mul(isa.load(&y[t]), isa.splat(factors[t]));
                store(isa, y, output, strip, panel.first + t);
            }
        }
    }
}

/// Stores the outputs of a strip for one token row.
#[inline(always)]
fn store<I: Isa>(isa: I, y: I::F32x16, output: &Output<'_>, strip: usize, row: usize) {
    let (start, len) = place(output, strip, row);
    // SAFETY: a strip is given to one thread, and these are its rows' outputs for one token row.
    let out = unsafe { output.out.range(start, len) };
    match out.as_mut_array::<LANES>() {
        Some(out) => isa.store(y, out),
        None => store_tail(isa, y, out),
    }
}

/// Start and length of the outputs of a strip for one token row.
#[inline(always)]
fn place(output: &Output<'_>, strip: usize, row: usize) -> (usize, usize) {
    let all = output.weight.rows();
    (row * all + strip * TILE, TILE.min(all - strip * TILE))
}

/// Sums of trit * q over run `run` of the columns, whose tiles and quads these are.
#[inline(always)]
fn corrected_dot<I: Isa, const T: usize>(
    isa: I,
    layout: Layout,
    tiles: &[Tile],
    quads: &[[[i8; 4]; T]],
    x: &QuantizedRows,
    panel: Panel,
    run: usize,
) -> [[i32; LANES]; T] {
    // Codes are trits plus one, so the sum of q is one too many; integers do not mind where it is taken off.
    let mut acc = x.sums::<T>(panel, run).map(|sum| [-sum; LANES]);
    match layout {
        Layout::I2s => isa.ternary_dot(tiles, quads, &mut acc),
        Layout::T5 => isa.t5_dot(tiles, quads, &mut acc),
    }
    acc
}

/// Integer products of strips `first..end` of one weight.
struct Accumulators<'a> {
    x: &'a QuantizedRows,
    weight: &'a PackedTernary,
    out: &'a Disjoint<'a, i32>,
    first: usize,
    end: usize,
}

impl Op for Accumulators<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for strip in self.first..self.end {
            for panel in self.x.panels() {
                match panel.width {
                    16 => self.strip_panel::<I, 16>(isa, strip, panel),
                    8 => self.strip_panel::<I, 8>(isa, strip, panel),
                    4 => self.strip_panel::<I, 4>(isa, strip, panel),
                    2 => self.strip_panel::<I, 2>(isa, strip, panel),
                    _ => self.strip_panel::<I, 1>(isa, strip, panel),
                }
            }
        }
    }
}

impl Accumulators<'_> {
    #[inline(always)]
    fn strip_panel<I: Isa, const T: usize>(&self, isa: I, strip: usize, panel: Panel) {
        let rows = self.weight.rows();
        let (tiles, quads) = (self.weight.strip(strip), self.x.quads::<T>(panel));
        let acc = corrected_dot(isa, self.weight.layout(), tiles, quads, self.x, panel, 0);
        for (t, acc) in acc.iter().enumerate() {
            let here = TILE.min(rows - strip * TILE);
            // SAFETY: a strip is given to one thread, and these are its rows' outputs for one token row.
            let out = unsafe {
                self.out
                    .range((panel.first + t) * rows + strip * TILE, here)
            };
            out.copy_from_slice(&acc[..here]);
        }
    }
}
