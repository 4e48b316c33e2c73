//! Making the small copy: every row is widened once, scaled by blocks, rounded, and measured.
//!
//! All figures that enter the bound are rounded up: sums of squares in f32 have a relative error far below
//! `SUM_SLACK`, and the residues themselves are exact up to a rounding (a bf16 scale times a small code has few bits).

use super::*;
use crate::cpu::dense::{Matrix, with_codec};
use crate::cpu::dense::{codec::Codec, widen};
use crate::cpu::isa::{Isa, Kernel, Op};
use crate::cpu::memory::{Disjoint, Memory};
use crate::cpu::threads::Pool;
use crate::packed::PieceWriter;

/// Relative error of a length computed in f32, generously: 128 terms in 16 lanes and a square root are below 2e-6.
const SUM_SLACK: f64 = 1e-5;

/// Error of a rounded residue in units of the scale: 2^-24 of half a scale for each of 128 columns, generously.
const RESIDUE_SLACK: f64 = 1e-6;

/// Largest code.
const LARGEST_CODE: f32 = 2.0 * ZERO_CODE;

/// Vectors of a block.
const VECTORS: usize = BLOCK / LANES;

/// What the threads write to.
struct Parts<'a> {
    codes: Disjoint<'a, CodeBlock>,
    scales: Disjoint<'a, [u8; 32]>,
    bounds: Disjoint<'a, [[f32; 16]; 2]>,
    crumbs: Disjoint<'a, Crumbs>,
    row_scales: Disjoint<'a, [u8; 32]>,
    row_bounds: Disjoint<'a, [f32; 2]>,
    wild: Disjoint<'a, u8>,
}

impl HeadCopy {
    /// Copies `w`, on all threads.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`].
    pub fn new(kernel: Kernel, pool: &Pool, w: &Matrix) -> Result<HeadCopy, KernelError> {
        const WHAT: &str = "small copy of the head";
        let (rows, cols) = (w.rows(), w.cols());
        let (n_strips, n_blocks) = (rows.div_ceil(LANES), cols.div_ceil(BLOCK));
        let n_scales = rows * n_blocks.div_ceil(BLOCKS_AT_ONCE);
        let mut codes = Memory::zeroed(WHAT, n_strips * n_blocks)?;
        let mut scales = Memory::zeroed(WHAT, n_strips * n_blocks)?;
        let mut bounds = Memory::zeroed(WHAT, n_strips)?;
        let mut crumbs = Memory::zeroed(WHAT, rows * n_blocks)?;
        let mut row_scales = Memory::zeroed(WHAT, n_scales)?;
        let mut row_bounds = Memory::zeroed(WHAT, rows)?;
        let mut flags = Memory::<u8>::zeroed(WHAT, rows)?;
        let parts = Parts {
            codes: Disjoint::new(&mut codes),
            scales: Disjoint::new(&mut scales),
            bounds: Disjoint::new(&mut bounds),
            crumbs: Disjoint::new(&mut crumbs),
            row_scales: Disjoint::new(&mut row_scales),
            row_bounds: Disjoint::new(&mut row_bounds),
            wild: Disjoint::new(&mut flags),
        };
        pool.for_ranges(n_strips, pool.grain(n_strips, 1), |strips, _| {
            let mut row = vec![[[0.0; LANES]; VECTORS]; n_blocks];
            for strip in strips {
                with_codec!(w, codec => kernel.run(PackStrip {
                    codec, w, strip, parts: &parts, row: &mut row,
                }));
            }
        });
        let flagged = (0u32..).zip(&flags[..]).filter(|(_, flag)| **flag != 0);
        let rows_of = || flagged.clone().map(|(row, _)| row);
        let mut wild = Memory::zeroed(WHAT, rows_of().count())?;
        for (to, row) in wild.iter_mut().zip(rows_of()) {
            *to = row;
        }
        Ok(HeadCopy {
            rows,
            cols,
            n_blocks,
            codes: codes.into(),
            scales: scales.into(),
            bounds: bounds.into(),
            crumbs: crumbs.into(),
            row_scales: row_scales.into(),
            row_bounds: row_bounds.into(),
            wild: wild.into(),
        })
    }
}

impl HeadCopy {
    /// Writes the same arrays as [`HeadCopy::write`] without ever having more than a part of them in memory.
    ///
    /// # Errors
    /// The writer's; [`KernelError::OutOfMemory`] as [`io::ErrorKind::Other`].
    pub fn write_new(
        kernel: Kernel,
        pool: &Pool,
        w: &Matrix,
        writer: &mut dyn PieceWriter,
    ) -> io::Result<()> {
        let (n_strips, n_blocks) = (w.rows().div_ceil(LANES), w.cols().div_ceil(BLOCK));
        let n_scales = w.rows() * n_blocks.div_ceil(BLOCKS_AT_ONCE);
        writer.begin_arrays(&[
            n_strips * n_blocks * size_of::<CodeBlock>(),
            n_strips * n_blocks * size_of::<[u8; 32]>(),
            n_strips * size_of::<[[f32; 16]; 2]>(),
            w.rows() * n_blocks * size_of::<Crumbs>(),
            n_scales * size_of::<[u8; 32]>(),
            w.rows() * size_of::<[f32; 2]>(),
        ])?;
        let mut wild = Vec::new();
        for first in (0..w.rows()).step_by(ROWS_AT_ONCE) {
            let rows = w.part(first, ROWS_AT_ONCE.min(w.rows() - first));
            let part = HeadCopy::new(kernel, pool, &rows).map_err(io::Error::other)?;
            wild.extend(part.wild.iter().map(|row| row + first as u32));
            writer.piece(0, part.codes.bytes())?;
            writer.piece(1, part.scales.bytes())?;
            writer.piece(2, part.bounds.bytes())?;
            writer.piece(3, part.crumbs.bytes())?;
            writer.piece(4, part.row_scales.bytes())?;
            writer.piece(5, part.row_bounds.bytes())?;
        }
        let wild: Vec<u8> = wild.into_iter().flat_map(u32::to_le_bytes).collect();
        writer.array(wild.into())
    }
}

/// Rows that [`HeadCopy::write_new`] has in memory: whole strips, ten megabytes at 2560 columns.
const ROWS_AT_ONCE: usize = 4096;

/// Packs 16 rows.
struct PackStrip<'a, C> {
    codec: C,
    w: &'a Matrix,
    strip: usize,
    parts: &'a Parts<'a>,
    row: &'a mut [[[f32; LANES]; VECTORS]], // [n_blocks], zeros beyond the columns
}

impl<C: Codec> Op for PackStrip<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let PackStrip {
            codec,
            w,
            strip,
            parts,
            row,
        } = self;
        let n_blocks = row.len();
        let n_scales = n_blocks.div_ceil(BLOCKS_AT_ONCE);
        let first = strip * LANES;
        let n = LANES.min(w.rows() - first);
        // SAFETY: a strip is given to one thread; these are its blocks and its rows.
        let (codes, scales, bounds, crumbs, row_scales, row_bounds, wild) = unsafe {
            (
                parts.codes.range(strip * n_blocks, n_blocks),
                parts.scales.range(strip * n_blocks, n_blocks),
                parts.bounds.range(strip, 1),
                parts.crumbs.range(first * n_blocks, n * n_blocks),
                parts.row_scales.range(first * n_scales, n * n_scales),
                parts.row_bounds.range(first, n),
                parts.wild.range(first, n),
            )
        };
        for lane in 0..n {
            let values = row.as_flattened_mut().as_flattened_mut();
            widen(codec, isa, w.row(first + lane), &mut values[..w.cols()]);
            let mut constants = Constants::default();
            for (b, values) in row.iter().enumerate() {
                let block = round_block(isa, values);
                constants.add(&block);
                block.store_codes(&mut codes[b], lane);
                scales[b][2 * lane..][..2].copy_from_slice(&block.scale);
                crumbs[lane * n_blocks + b] = block.crumbs();
                row_scales[lane * n_scales + b / BLOCKS_AT_ONCE][2 * (b % BLOCKS_AT_ONCE)..][..2]
                    .copy_from_slice(&block.scale);
            }
            wild[lane] = u8::from(!constants.tame());
            [bounds[0][0][lane], bounds[0][1][lane]] = constants.scan();
            row_bounds[lane] = constants.refined();
        }
    }
}

/// One row's block in codes.
struct Rounded {
    scale: [u8; 2],                 // bf16
    codes: [[i8; LANES]; VECTORS],  // 0..=31
    crumbs: [[i8; LANES]; VECTORS], // 0..=3
    norms: Norms,
}

/// Sums of squares of one block.
struct Norms {
    weights: f32,
    codes: f32,
    residues: f32,
    last: f32, // what two more bits leave
    scale: f32,
}

/// Scales and rounds one block.
#[inline(always)]
fn round_block<I: Isa>(isa: I, values: &[[f32; LANES]; VECTORS]) -> Rounded {
    let zero = isa.splat(0.0);
    let (mut absmax, mut weights) = (zero, zero);
    for v in values {
        let v = isa.load(v);
        absmax = isa.max(isa.abs(v), absmax);
        weights = isa.add(weights, isa.mul(v, v));
    }
    let largest = isa.max_lane(absmax);
    let scale = if (LEAST_WEIGHT..=LARGEST_NORM as f32).contains(&largest) {
        bf16_above(largest / ZERO_CODE)
    } else {
        0.0
    };
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let (to_code, to_crumb) = (isa.splat(inverse), isa.splat(4.0 * inverse));
    let (s, quarter) = (isa.splat(scale), isa.splat(0.25 * scale));
    let (one_and_half, three) = (isa.splat(1.5), isa.splat(3.0));
    let (zero_code, largest_code) = (isa.splat(ZERO_CODE), isa.splat(LARGEST_CODE));
    let (mut codes2, mut residues2, mut last2) = (zero, zero, zero);
    let (mut codes, mut crumbs) = ([[0i8; LANES]; VECTORS], [[0i8; LANES]; VECTORS]);
    for ((v, code_out), crumb_out) in values.iter().zip(&mut codes).zip(&mut crumbs) {
        let v = isa.load(v);
        // Neither NaN nor infinity gets past these compares; such rows are always multiplied exactly.
        let code = isa.add(isa.mul(v, to_code), zero_code);
        isa.store_i8(isa.min(isa.max(code, zero), largest_code), code_out);
        let code = isa.sub(isa.load_i8(code_out), zero_code);
        codes2 = isa.add(codes2, isa.mul(code, code));
        let residue = isa.sub(v, isa.mul(code, s));
        residues2 = isa.add(residues2, isa.mul(residue, residue));
        let crumb = isa.add(isa.mul(residue, to_crumb), one_and_half);
        isa.store_i8(isa.min(isa.max(crumb, zero), three), crumb_out);
        let taken = isa.mul(isa.sub(isa.load_i8(crumb_out), one_and_half), quarter);
        let last = isa.sub(residue, taken);
        last2 = isa.add(last2, isa.mul(last, last));
    }
    Rounded {
        scale: ((scale.to_bits() >> 16) as u16).to_le_bytes(),
        codes,
        crumbs,
        norms: Norms {
            weights: isa.sum(weights),
            codes: isa.sum(codes2),
            residues: isa.sum(residues2),
            last: isa.sum(last2),
            scale,
        },
    }
}

impl Rounded {
    /// Puts the codes into row `lane` of a block.
    #[inline(always)]
    fn store_codes(&self, block: &mut CodeBlock, lane: usize) {
        let codes = self.codes.as_flattened().as_chunks::<4>().0;
        let quad = |k: usize| u32::from_le_bytes(codes[k].map(|code| code as u8));
        for (group, [fifths, nibbles @ ..]) in block.iter_mut().enumerate() {
            let mut bits = 0;
            for (m, (line, [of_low, of_high])) in nibbles.iter_mut().zip(FIFTH_BITS).enumerate() {
                let (low, high) = (quad(8 * group + 2 * m), quad(8 * group + 2 * m + 1));
                let both = (low & 0x0f0f_0f0f) | ((high >> 1) & 0x0f0f_0f0f) << 4;
                line[4 * lane..][..4].copy_from_slice(&both.to_le_bytes());
                bits |= ((low >> 4) & 0x0101_0101) << of_low;
                bits |= (high & 0x0101_0101) << of_high;
            }
            fifths[4 * lane..][..4].copy_from_slice(&bits.to_le_bytes());
        }
    }

    /// The residues, four to a byte.
    #[inline(always)]
    fn crumbs(&self) -> Crumbs {
        let mut out = [0; BLOCK / 4];
        let crumbs = self.crumbs.as_flattened().as_chunks::<{ BLOCK / 4 }>().0;
        for (p, crumbs) in crumbs.iter().enumerate() {
            for (out, crumb) in out.iter_mut().zip(crumbs) {
                *out |= (*crumb as u8) << (2 * p);
            }
        }
        out
    }
}

/// A row's constants of the bound, from its blocks.
#[derive(Default)]
struct Constants {
    weights: f64,       // sum of squares of the row
    of_blocks: Lengths, // the largest of |.| / s_b
    squares: Lengths,   // sums of squares over the row
}

/// Lengths of the three parts of a row or a block.
#[derive(Default)]
struct Lengths {
    codes: f64,    // w^
    residues: f64, // e
    last: f64,     // e2
    crumbs: f64,   // e - e2, at the most
}

impl Constants {
    #[inline(always)]
    fn add(&mut self, block: &Rounded) {
        let norms = &block.norms;
        self.weights += f64::from(norms.weights);
        if norms.scale == 0.0 {
            return;
        }
        // In units of the scale.
        let scale = f64::from(norms.scale);
        let length = |squares: f32| f64::from(squares).sqrt() * (1.0 + SUM_SLACK);
        let codes = length(norms.codes);
        let residues = length(norms.residues) / scale + RESIDUE_SLACK;
        let last = length(norms.last) / scale + RESIDUE_SLACK;
        let (of_blocks, squares) = (&mut self.of_blocks, &mut self.squares);
        of_blocks.codes = of_blocks.codes.max(codes);
        of_blocks.residues = of_blocks.residues.max(residues);
        of_blocks.last = of_blocks.last.max(last);
        of_blocks.crumbs = LONGEST_CRUMBS;
        squares.codes += (codes * scale) * (codes * scale);
        squares.residues += (residues * scale) * (residues * scale);
        squares.last += (last * scale) * (last * scale);
        squares.crumbs += (LONGEST_CRUMBS * scale) * (LONGEST_CRUMBS * scale);
    }

    /// Whether the row is so small (and finite) that nothing can overflow.
    fn tame(&self) -> bool {
        self.weights.sqrt() * (1.0 + SUM_SLACK) <= LARGEST_NORM
    }

    /// By blocks, in units of the scales; of the whole row.
    fn scan(&self) -> [f32; 2] {
        let of = |l: &Lengths| l.residues.max(l.codes / CODE_SHARE);
        [above(of(&self.of_blocks)), above(of(&self.of_row()))]
    }

    /// The same of what refining leaves.
    fn refined(&self) -> [f32; 2] {
        let of = |l: &Lengths| {
            l.last
                .max(l.codes / REFINED_SHARE)
                .max(l.crumbs / CRUMB_SHARE)
        };
        [above(of(&self.of_blocks)), above(of(&self.of_row()))]
    }

    /// Lengths of the whole row.
    fn of_row(&self) -> Lengths {
        let length = |squares: f64| squares.sqrt() * (1.0 + SUM_SLACK);
        Lengths {
            codes: length(self.squares.codes),
            residues: length(self.squares.residues),
            last: length(self.squares.last),
            crumbs: length(self.squares.crumbs),
        }
    }
}

/// The least bf16 that is not below a positive number.
#[inline(always)]
fn bf16_above(x: f32) -> f32 {
    f32::from_bits(x.to_bits().wrapping_add(0xffff) & 0xffff_0000)
}

/// An f32 that is not below a number that is not negative.
pub(super) fn above(x: f64) -> f32 {
    (x as f32).next_up()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::MatrixData;
    use bitnet_quantization::TensorType;
    use bytes::Bytes;

    /// Arrays in memory, whole or in pieces.
    #[derive(Default)]
    struct Arrays {
        whole: Vec<Vec<u8>>,
        begun: usize,
        lens: Vec<usize>,
    }

    impl PackWriter for Arrays {
        fn array(&mut self, bytes: Bytes) -> io::Result<()> {
            self.whole.push(bytes.to_vec());
            Ok(())
        }
    }

    impl PieceWriter for Arrays {
        fn begin_arrays(&mut self, lens: &[usize]) -> io::Result<()> {
            self.begun = self.whole.len();
            self.lens = lens.to_vec();
            self.whole.extend(lens.iter().map(|_| Vec::new()));
            Ok(())
        }

        fn piece(&mut self, array: usize, bytes: &[u8]) -> io::Result<()> {
            self.whole[self.begun + array].extend_from_slice(bytes);
            Ok(())
        }
    }

    #[test]
    fn a_copy_that_is_written_in_parts_is_the_same_bytes() {
        let pool = Pool::new(2).unwrap();
        let kernel = Kernel::choose(None).unwrap();
        for rows in [1, ROWS_AT_ONCE, 2 * ROWS_AT_ONCE + 17] {
            let cols = 160;
            let value = |i: usize| match i {
                // A row that is always multiplied exactly, in the last part.
                i if i / cols == rows - 1 => f32::INFINITY,
                i => ((i * 7919) % 1009) as f32 / 500.0 - 1.0,
            };
            let bytes: Vec<u8> = (0..rows * cols)
                .flat_map(|i| value(i).to_le_bytes())
                .collect();
            let w = Matrix::new(MatrixData {
                ty: TensorType::F32,
                rows,
                cols,
                bytes: bytes.into(),
            })
            .unwrap();
            let (mut whole, mut parts) = (Arrays::default(), Arrays::default());
            HeadCopy::new(kernel, &pool, &w)
                .unwrap()
                .write(&mut whole)
                .unwrap();
            HeadCopy::write_new(kernel, &pool, &w, &mut parts).unwrap();
            assert!(whole.whole == parts.whole, "{rows} rows");
            assert_eq!(
                whole.whole.last().unwrap()[..],
                (rows as u32 - 1).to_le_bytes()
            );
            let begun: Vec<usize> = parts.whole[..6].iter().map(Vec::len).collect();
            assert_eq!(begun, parts.lens);
        }
    }
}
