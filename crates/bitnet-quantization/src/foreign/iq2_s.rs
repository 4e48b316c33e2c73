//! IQ2_S: llama.cpp's codebook of 2.56 bits a weight, made for ordinary models.
//!
//! ```text
//! 82 bytes for 256:  d  qs[32]  signs[32]  qh[8]  scales[8]
//! eight values v (32 groups of them), g = v / 4, l = v % 4:
//!   row of the codebook   qs[v] | (qh[g] >> 2 l & 3) << 8
//!   magnitude of lane j   d * (0.5 + s) / 4 * (8, 25 or 43), s the low nibble of scales[g] for l < 2, else the high one
//!   sign of lane j        bit j of signs[v], 1 is negative
//! ```
//!
//! The codebook has no zero: a weight is zero only where the whole block is (`d` of 0). A ternary model written in this
//! type has therefore lost its zeros, unless they fill whole blocks; what is read here is exact, and the rest is
//! refused. Source: llama.cpp `ggml-quants.c`, gguf-py `quants.py`.

use crate::block_ternary::common_layout;
use crate::error::QuantError;
use crate::floats::f16_at;
use crate::ternary::{ScaleLayout, Shape, StoredRows};

const FORMAT: &str = "IQ2_S";
/// Values per block.
pub const BLOCK_LEN: usize = 256;
/// Bytes per block.
pub const BLOCK_BYTES: usize = 82;

/// Weights of the shortest run that may have a scale of its own: that of the shortest blocks that kernels know.
const RUN: usize = 32;

/// The magnitudes of a lane, times 8 of the shortest.
const MAGNITUDES: [u8; 3] = [8, 25, 43];

/// Which of the 6561 ways to fill eight lanes are rows of the codebook, bit `x` of byte `x / 8` for lanes whose digits
/// are those of `x` in base 3, the first lane the lowest; in hexadecimal. Rows are numbered by ascending `x`.
const ROWS: &str = "\
    55555551554555150511555551504555140515145451105055040011111050554555555515544551505555145555145451104055\
    04005114045010004015551155555110010140055504445110404000000114100510000000400054555151455515155114545555\
    45551505551400501441410405001404005045551455551454511040551505551404501000401405011404001000004055510454\
    51104001000055140450100010000004100400100004000000005451155141050401110054504140050501140400101000510401\
    00000500445514055514045010004014050114040011000000050100040004000000001114005010000040000015040000000000\
    00100000044000000004400100505555455555151444515045550555551454511040411504511404500000405555555455515045\
    41005555145451105041000055140450100040000010145551504541000401005451104041000001400050100040000000000000\
    50455515555514545100405515055514045010004014050114040014000000555514545110404100005514045010004000000014\
    04001100000000000054511040414000010000501000400000000000001000100000000040000044451505511404401000401505\
    01140400100010000401000400010000000151140450100040000000140400101000100004000400000000000000100050100000\
    00001000000110000040000000000000000000000400000000404015451114541110410100455514545100404100401115005010\
    00000000005455115045410005010054511040410000010100501000500000000000001041010005010000004040010000010040\
    00000000000004000005400000014555105451104041000011140050101000000000140400100000000000405451104041000001\
    40005010004000000000001110000000100010000000404100100100000000005000000000110000000000000000000000004000\
    00111110541000000000040100001000000400000010044014000000440100511000400000000001401000100000000000000000\
    0000000004000000000040004000000000000001000000004000000400004001140100000010000001";

/// The codebook, `[1024, 8]`.
static CODEBOOK: [[u8; 8]; 1024] = codebook();

const fn codebook() -> [[u8; 8]; 1024] {
    const fn nibble(digit: u8) -> u8 {
        match digit {
            b'0'..=b'9' => digit - b'0',
            _ => digit - b'a' + 10,
        }
    }
    let text = ROWS.as_bytes();
    let mut rows = [[0; 8]; 1024];
    let (mut n, mut x) = (0, 0);
    while x < 6561 {
        let byte = nibble(text[x / 8 * 2]) << 4 | nibble(text[x / 8 * 2 + 1]);
        if byte >> (x % 8) & 1 == 1 {
            let (mut lane, mut digits) = (0, x);
            while lane < 8 {
                rows[n][lane] = MAGNITUDES[digits % 3];
                digits /= 3;
                lane += 1;
            }
            n += 1;
        }
        x += 1;
    }
    assert!(n == 1024);
    rows
}

/// Decodes a block: the same floats as gguf-py's, bit by bit.
pub fn decode(block: &[u8; BLOCK_BYTES], values: &mut [f32; BLOCK_LEN]) {
    let d = f16_at(block, 0);
    for (v, values) in values.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let (g, l) = (v / 4, v % 4);
        let row = usize::from(block[2 + v]) | usize::from(block[66 + g] >> (2 * l) & 3) << 8;
        let s = block[74 + g] >> (4 * (l / 2)) & 15;
        let scale = d * (0.5 + f32::from(s)) * 0.25;
        let signs = block[34 + v];
        for (j, (value, &magnitude)) in values.iter_mut().zip(&CODEBOOK[row]).enumerate() {
            let sign = if signs >> j & 1 == 1 { -1.0 } else { 1.0 };
            *value = scale * f32::from(magnitude) * sign;
        }
    }
}

/// The trits of an IQ2_S tensor that has any: every 32 weights in a row have one magnitude, or none.
#[derive(Debug, Clone)]
pub struct Iq2sRows<'a> {
    shape: Shape,
    blocks: &'a [[u8; BLOCK_BYTES]], // [rows * cols / 256]
    scale: ScaleLayout,
}

impl<'a> Iq2sRows<'a> {
    /// Looks at every weight of a tensor `[rows, cols]`.
    ///
    /// # Errors
    /// An impossible shape, another byte count than the shape has, a scale that is NaN or infinite, and
    /// [`QuantError::Codebook`] for weights that are no trits.
    pub fn new(rows: usize, cols: usize, bytes: &'a [u8]) -> Result<Self, QuantError> {
        let shape = Shape::new(FORMAT, rows, cols, BLOCK_LEN)?;
        let n_blocks = shape.elements() / BLOCK_LEN;
        shape.check_bytes(FORMAT, n_blocks * BLOCK_BYTES, bytes.len())?;
        let blocks = bytes.as_chunks().0;
        let blocks_per_row = cols / BLOCK_LEN;
        let mut scales = Vec::with_capacity(n_blocks * (BLOCK_LEN / RUN));
        for (index, block) in blocks.iter().enumerate() {
            let (row, first) = (index / blocks_per_row, index % blocks_per_row * BLOCK_LEN);
            let d = f16_at(block, 0);
            if !d.is_finite() {
                return Err(QuantError::BlockScale {
                    format: FORMAT,
                    row,
                    block: index % blocks_per_row,
                    scale: d,
                });
            }
            let mut values = [0.0; BLOCK_LEN];
            decode(block, &mut values);
            for (run, values) in values.as_chunks::<RUN>().0.iter().enumerate() {
                let magnitude = values[0].abs();
                if let Some(other) = values.iter().find(|value| value.abs() != magnitude) {
                    return Err(QuantError::Codebook {
                        format: FORMAT,
                        row,
                        col: first + run * RUN,
                        magnitude,
                        other: other.abs(),
                    });
                }
                scales.push(magnitude);
            }
        }
        let scale = common_layout(cols, RUN, scales.iter().copied());
        Ok(Self {
            shape,
            blocks,
            scale,
        })
    }
}

impl StoredRows for Iq2sRows<'_> {
    fn header(&self) -> (Shape, ScaleLayout) {
        (self.shape, self.scale)
    }

    fn decode_row(
        &self,
        row: usize,
        trits: &mut [i8],
        scales: &mut [f32],
    ) -> Result<(), QuantError> {
        let blocks_per_row = self.shape.cols / BLOCK_LEN;
        let blocks = &self.blocks[row * blocks_per_row..][..blocks_per_row];
        scales.fill(0.0);
        let block_len = match self.scale {
            ScaleLayout::PerTensor(_) => self.shape.cols,
            ScaleLayout::PerBlock { block_len } => block_len,
        };
        for (index, (block, trits)) in blocks.iter().zip(trits.as_chunks_mut().0).enumerate() {
            let mut values = [0.0; BLOCK_LEN];
            decode(block, &mut values);
            let trits: &mut [i8; BLOCK_LEN] = trits;
            for (at, (trit, value)) in trits.iter_mut().zip(values).enumerate() {
                *trit = i8::from(value > 0.0) - i8::from(value < 0.0);
                if let Some(scale) = scales.get_mut((index * BLOCK_LEN + at) / block_len) {
                    *scale = scale.max(value.abs());
                }
            }
        }
        Ok(())
    }
}
