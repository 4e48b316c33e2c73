//! The start-up check: the chosen kernel must give the scalar kernel's bits on this very machine.
//!
//! Hypervisors that report instructions they emulate wrongly, and compilers that miscompile an intrinsic, exist. A few
//! milliseconds at start-up are cheaper than a model that talks nonsense.

use bitnet_quantization::{QuantError, ScaleLayout, TensorType, TernaryRows};

use super::bitlinear::{bitlinear, with_outputs};
use super::dense::{Matrix, matmul};
use super::gate::Gate;
use super::head::HeadCopy;
use super::head::hidden::Hidden;
use super::head::refine::Refine;
use super::head::scan::{Scores, scan};
use super::i2s::PackedTernary;
use super::isa::portable::Portable;
use super::isa::{Kernel, LANES};
use super::memory::{Arena, Memory};
use super::quantize::QuantizedRows;
use super::rms_norm::RmsNorm;
use super::threads::Pool;
use crate::backend::{Activation, MatrixData};
use crate::error::KernelError;

/// Shapes to check `[rows, cols, token rows, block length (0: one scale)]`: whole and partial strips and tiles, one
/// token and all panel widths, runs that are long enough for every inner flush.
const SHAPES: [[usize; 4]; 5] = [
    [16, 64, 1, 0],
    [40, 300, 3, 0],
    [33, 640, 1, 64],
    [17, 512, 31, 256],
    [48, 1040, 16, 0],
];

/// Runs the ternary kernel and the float ops of `kernel` against the scalar ones.
///
/// # Errors
/// [`KernelError::SelfTest`] with the first difference.
pub fn run(kernel: Kernel, pool: &Pool) -> Result<(), KernelError> {
    let reference = Kernel::Scalar(Portable);
    for [rows, cols, n_rows, block_len] in SHAPES {
        let weights = RandomRows {
            rows,
            cols,
            block_len,
        };
        let packed = PackedTernary::pack(&weights, kernel.layout(), pool, &mut Arena::default())?;
        let x = random_floats(n_rows * cols, 7);
        let outputs = |kernel| -> Result<[Memory<f32>; 5], KernelError> {
            let ternary = ternary_product(kernel, pool, &packed, &x, n_rows)?;
            let (norm, gate) = (norm(kernel, &x, cols)?, gate(kernel, &x)?);
            let w = head_matrix(rows, cols)?;
            let head = head_product(kernel, pool, &w, &x)?;
            let bounds = head_bounds(kernel, pool, &w, &x, n_rows)?;
            Ok([ternary, norm, gate, head, bounds])
        };
        let (expected, found) = (outputs(reference)?, outputs(kernel)?);
        let ops = ["bitlinear", "rms_norm", "gate", "matmul", "head_candidates"];
        for ((expected, found), op) in expected.iter().zip(&found).zip(ops) {
            let differs = expected
                .iter()
                .zip(&found[..])
                .position(|(a, b)| a.to_bits() != b.to_bits());
            if let Some(index) = differs {
                return Err(KernelError::SelfTest {
                    kernel: kernel.name(),
                    op,
                    rows,
                    cols,
                    n_rows,
                    index,
                    expected: expected[index],
                    found: found[index],
                });
            }
        }
    }
    Ok(())
}

fn ternary_product(
    kernel: Kernel,
    pool: &Pool,
    weight: &PackedTernary,
    x: &[f32],
    n_rows: usize,
) -> Result<Memory<f32>, KernelError> {
    let mut rows = QuantizedRows::new()?;
    rows.quantize(kernel, pool, x, n_rows, weight.cols(), weight.block_len())?;
    let mut out = Memory::zeroed("self-test", n_rows * weight.rows())?;
    with_outputs([(weight, &mut out)].into_iter(), n_rows, |outputs| {
        bitlinear(kernel, pool, &rows, outputs)
    });
    Ok(out)
}

fn norm(kernel: Kernel, x: &[f32], cols: usize) -> Result<Memory<f32>, KernelError> {
    let mut out = Memory::zeroed("self-test", x.len())?;
    kernel.run(RmsNorm {
        x,
        weight: &random_floats(cols, 9),
        eps: 1e-5,
        out: &mut out,
    });
    Ok(out)
}

fn gate(kernel: Kernel, x: &[f32]) -> Result<Memory<f32>, KernelError> {
    let mut out = Memory::zeroed("self-test", x.len())?;
    kernel.run(Gate {
        activation: Activation::Silu,
        gate: x,
        up: &random_floats(x.len(), 11),
        out: &mut out,
    });
    Ok(out)
}

fn head_matrix(rows: usize, cols: usize) -> Result<Matrix, KernelError> {
    let mut state = 13;
    // f16 of both signs from 2^-7 to 1: every mantissa bit varies.
    let bytes: Vec<u8> = (0..rows * cols)
        .flat_map(|_| {
            let bits = next(&mut state);
            ((0x2000 + (bits % 0x1c00) as u16) | ((bits >> 31) << 15) as u16).to_le_bytes()
        })
        .collect();
    Matrix::new(MatrixData {
        ty: TensorType::F16,
        rows,
        cols,
        bytes: bytes.into(),
    })
}

fn head_product(
    kernel: Kernel,
    pool: &Pool,
    w: &Matrix,
    x: &[f32],
) -> Result<Memory<f32>, KernelError> {
    let mut out = Memory::zeroed("self-test", w.rows())?;
    matmul(kernel, pool, w, x, &[0], &mut out);
    Ok(out)
}

/// Estimates of all rows and token rows, then refined bounds for the last token row.
fn head_bounds(
    kernel: Kernel,
    pool: &Pool,
    w: &Matrix,
    x: &[f32],
    n_rows: usize,
) -> Result<Memory<f32>, KernelError> {
    let copy = HeadCopy::new(kernel, pool, w)?;
    let x_rows: Vec<u32> = (0..n_rows as u32).collect();
    let mut hidden = Hidden::new()?;
    hidden.quantize(x, &x_rows, w.cols(), kernel.panel().max(2))?;
    let mut scores = Scores::new()?;
    scores.reserve(n_rows, copy.n_strips())?;
    scan(kernel, pool, &copy, &hidden, &mut scores);
    let n = n_rows * copy.n_strips();
    let estimates = &scores.estimates[..n];
    let mut out = Memory::zeroed("self-test", n * LANES + w.rows())?;
    let (scanned, refined) = out.split_at_mut(n * LANES);
    scanned.copy_from_slice(estimates.as_flattened());
    kernel.run(Refine {
        copy: &copy,
        hidden: &hidden,
        index: n_rows - 1,
        rows: &(0..w.rows() as u32).collect::<Vec<u32>>(),
        estimates: &estimates[n - copy.n_strips()..],
        uppers: refined,
    });
    Ok(out)
}

/// A ternary matrix computed from its indices.
struct RandomRows {
    rows: usize,
    cols: usize,
    block_len: usize, // 0: one scale for the tensor
}

impl TernaryRows for RandomRows {
    fn rows(&self) -> usize {
        self.rows
    }

    fn cols(&self) -> usize {
        self.cols
    }

    fn scale(&self) -> ScaleLayout {
        if self.block_len == 0 {
            ScaleLayout::PerTensor(0.75)
        } else {
            ScaleLayout::PerBlock {
                block_len: self.block_len,
            }
        }
    }

    fn read_row(&self, row: usize, trits: &mut [i8], scales: &mut [f32]) -> Result<(), QuantError> {
        let mut state = row as u32 + 1;
        for trit in trits {
            *trit = (next(&mut state) >> 8) as i8 % 3 % 2;
            *trit = if next(&mut state) >> 31 == 0 {
                -trit.abs()
            } else {
                trit.abs()
            };
        }
        for scale in scales {
            *scale = (next(&mut state) >> 16) as f32 / 32768.0;
        }
        Ok(())
    }
}

/// Numbers in -8..8 of many magnitudes.
fn random_floats(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut float = || (next(&mut state) as i32 as f32) / (1u32 << 28) as f32;
    (0..n).map(|i| float() / [1.0, 3.0, 50.0][i % 3]).collect()
}

/// Marsaglia's xorshift32: short, and the same everywhere.
fn next(state: &mut u32) -> u32 {
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    *state
}
