//! Whole-block conversion between a stored type and f32: embeddings, heads and dense weights.
//!
//! The decoders of single blocks are public, take and fill fixed-size arrays and vectorise: a kernel calls them
//! inside its own loops. They go in two steps, codes as bytes and then floats, each into a local array: one loop
//! over both, or one that might write over what it reads, stays scalar.
//!
//! Formulas are evaluated in f32 from left to right as llama.cpp and gguf-py do, so that every value is equal to
//! theirs bit by bit. Scales are taken as they are: a NaN in a file comes out as NaN values.
//! Source: llama.cpp `ggml-quants.c`, gguf-py `quants.py`.

pub mod q4_0;
pub mod q4_1;
pub mod q4_k;
pub mod q5_0;
pub mod q5_k;
pub mod q6_k;
pub mod q8_0;

use crate::error::QuantError;
use crate::floats::{bf16_bytes, bf16_to_f32, f16_bytes, f16_to_f32};
use crate::qtype::TensorType;
use crate::{q2_0, tq};

/// Decodes whole blocks of `ty` into as many values.
///
/// A ternary code of 3 comes out as +2 scales, which is what the formulas of the types say;
/// [`TernaryRows`](crate::TernaryRows) refuses it instead.
///
/// # Errors
/// Byte and value counts that are not the same whole number of blocks; I2_S, whose scale is not in its blocks.
pub fn dequantize(ty: TensorType, bytes: &[u8], out: &mut [f32]) -> Result<(), QuantError> {
    let whole =
        out.len().is_multiple_of(ty.block_len()) && bytes.len().is_multiple_of(ty.block_bytes());
    if !whole || out.len() / ty.block_len() != bytes.len() / ty.block_bytes() {
        return Err(mismatch(ty, bytes.len(), out.len()));
    }
    match ty {
        TensorType::F32 => decode(bytes, out, |b, v: &mut [f32; 1]| {
            v[0] = f32::from_le_bytes(*b)
        }),
        TensorType::F16 => decode(bytes, out, |b, v: &mut [f32; 1]| {
            v[0] = f16_to_f32(u16::from_le_bytes(*b))
        }),
        TensorType::BF16 => decode(bytes, out, |b, v: &mut [f32; 1]| {
            v[0] = bf16_to_f32(u16::from_le_bytes(*b))
        }),
        TensorType::Q4_0 => decode(bytes, out, q4_0::decode),
        TensorType::Q4_1 => decode(bytes, out, q4_1::decode),
        TensorType::Q5_0 => decode(bytes, out, q5_0::decode),
        TensorType::Q8_0 => decode(bytes, out, q8_0::decode),
        TensorType::Q4K => decode(bytes, out, q4_k::decode),
        TensorType::Q5K => decode(bytes, out, q5_k::decode),
        TensorType::Q6K => decode(bytes, out, q6_k::decode),
        TensorType::Tq1_0 => decode(bytes, out, |b, v| {
            scaled(v, |trits| tq::decode_tq1_0(b, trits))
        }),
        TensorType::Tq2_0 => decode(bytes, out, |b, v| {
            scaled(v, |trits| tq::decode_tq2_0(b, trits))
        }),
        TensorType::Q2_0 => decode(bytes, out, |b, v| {
            scaled(v, |trits| q2_0::decode_q2_0(b, trits))
        }),
        TensorType::Pq2_0 => decode(bytes, out, |b, v| {
            scaled(v, |trits| q2_0::decode_pq2_0(b, trits))
        }),
        TensorType::Ptq1_0 => decode(bytes, out, |b, v| {
            scaled(v, |trits| tq::decode_ptq1_0(b, trits))
        }),
        TensorType::I2S => {
            let why = "its scale is at the end of the tensor: read it with I2sRows";
            return Err(QuantError::NotPossible {
                format: ty.name(),
                operation: "decoded block by block",
                why,
            });
        }
    }
    Ok(())
}

/// Encodes values as whole blocks of `ty` and appends them to `out`.
///
/// The rounding is that of gguf-py where it has an encoder (the same bytes); Q6_K takes each sub-block's scale from
/// its largest magnitude. A ternary block takes its largest magnitude as the scale, which loses nothing if its
/// values are `{-d, 0, +d}` and `d` is an f16.
///
/// # Errors
/// A value count that is not whole blocks, a value that is not finite, a scale or float beyond the range of f16 (or
/// bf16), and the types that are only read: Q4_K, Q5_K, and I2_S, which has its own encoder.
/// `out` then holds the blocks before the failing one.
pub fn quantize(ty: TensorType, values: &[f32], out: &mut Vec<u8>) -> Result<(), QuantError> {
    if !values.len().is_multiple_of(ty.block_len()) {
        return Err(mismatch(ty, 0, values.len()));
    }
    let format = ty.name();
    if let Some(index) = values.iter().position(|value| !value.is_finite()) {
        return Err(QuantError::Unwritable {
            format,
            index,
            value: values[index],
        });
    }
    out.reserve(values.len() / ty.block_len() * ty.block_bytes());
    let overflow = match ty {
        TensorType::F32 => encode(values, out, |v: &[f32; 1]| Ok(v[0].to_le_bytes())),
        TensorType::F16 => encode(values, out, |v: &[f32; 1]| f16_bytes(v[0]).ok_or(v[0])),
        TensorType::BF16 => encode(values, out, |v: &[f32; 1]| bf16_bytes(v[0]).ok_or(v[0])),
        TensorType::Q4_0 => encode(values, out, q4_0::encode),
        TensorType::Q4_1 => encode(values, out, q4_1::encode),
        TensorType::Q5_0 => encode(values, out, q5_0::encode),
        TensorType::Q8_0 => encode(values, out, q8_0::encode),
        TensorType::Q6K => encode(values, out, q6_k::encode),
        TensorType::Tq1_0 => encode(values, out, |v| {
            to_trits(v).map(|(trits, d)| tq::encode_tq1_0(&trits, d))
        }),
        TensorType::Tq2_0 => encode(values, out, |v| {
            to_trits(v).map(|(trits, d)| tq::encode_tq2_0(&trits, d))
        }),
        TensorType::Q2_0 => encode(values, out, |v| {
            to_trits(v).map(|(trits, d)| q2_0::encode_q2_0(&trits, d))
        }),
        TensorType::Pq2_0 => encode(values, out, |v| {
            to_trits(v).map(|(trits, d)| q2_0::encode_pq2_0(&trits, d))
        }),
        TensorType::Ptq1_0 => encode(values, out, |v| {
            to_trits(v).map(|(trits, d)| tq::encode_ptq1_0(&trits, d))
        }),
        TensorType::Q4K | TensorType::Q5K => {
            let why = "it is only read; write Q6_K, Q5_0 or Q4_0";
            return Err(QuantError::NotPossible {
                format,
                operation: "encoded",
                why,
            });
        }
        TensorType::I2S => {
            let why =
                "its scale is at the end of the tensor: write it with encode_i2s or I2sEncoder";
            return Err(QuantError::NotPossible {
                format,
                operation: "encoded block by block",
                why,
            });
        }
    };
    overflow.map_err(|(block, value)| QuantError::Unwritable {
        format,
        index: block * ty.block_len(),
        value,
    })
}

fn mismatch(ty: TensorType, n_bytes: usize, n_values: usize) -> QuantError {
    let (block_len, block_bytes) = (ty.block_len(), ty.block_bytes());
    QuantError::Blocks {
        format: ty.name(),
        block_len,
        block_bytes,
        n_bytes,
        n_values,
    }
}

/// Runs a block decoder over whole blocks (counts already checked).
#[inline]
fn decode<const BYTES: usize, const LEN: usize>(
    bytes: &[u8],
    out: &mut [f32],
    block: impl Fn(&[u8; BYTES], &mut [f32; LEN]),
) {
    for (bytes, values) in bytes
        .as_chunks::<BYTES>()
        .0
        .iter()
        .zip(out.as_chunks_mut::<LEN>().0)
    {
        block(bytes, values);
    }
}

/// Runs a block encoder over whole blocks. An encoder's error is the number that is too large; the block's index
/// comes with it.
#[inline]
fn encode<const BYTES: usize, const LEN: usize>(
    values: &[f32],
    out: &mut Vec<u8>,
    block: impl Fn(&[f32; LEN]) -> Result<[u8; BYTES], f32>,
) -> Result<(), (usize, f32)> {
    for (index, values) in values.as_chunks::<LEN>().0.iter().enumerate() {
        out.extend_from_slice(&block(values).map_err(|value| (index, value))?);
    }
    Ok(())
}

/// Decodes a ternary block to values: `trit * d`.
#[inline]
fn scaled<const LEN: usize>(values: &mut [f32; LEN], decode: impl Fn(&mut [i8; LEN]) -> f32) {
    let mut trits = [0; LEN];
    let d = decode(&mut trits);
    for (value, trit) in values.iter_mut().zip(trits) {
        *value = d * f32::from(trit);
    }
}

/// Small integers times their scale.
#[inline]
fn scaled_codes<const LEN: usize>(scale: f32, codes: &[i8; LEN]) -> [f32; LEN] {
    let mut values = [0.0; LEN];
    for (value, &code) in values.iter_mut().zip(codes) {
        *value = scale * f32::from(code);
    }
    values
}

/// Small integers times their scale, plus an offset.
#[inline]
fn shifted_codes<const LEN: usize>(scale: f32, codes: &[i8; LEN], offset: f32) -> [f32; LEN] {
    let mut values = [0.0; LEN];
    for (value, &code) in values.iter_mut().zip(codes) {
        *value = scale * f32::from(code) + offset;
    }
    values
}

/// The codes of a 32-block with two in a byte: the low nibbles, then the high ones.
#[inline]
fn nibbles(bytes: &[u8]) -> [u8; 32] {
    let mut codes = [0; 32];
    for (j, &byte) in bytes[..16].iter().enumerate() {
        codes[j] = byte & 15;
        codes[16 + j] = byte >> 4;
    }
    codes
}

/// The trits of a block whose scale is its largest magnitude, and that scale as f16 bytes.
fn to_trits<const LEN: usize>(values: &[f32; LEN]) -> Result<([i8; LEN], [u8; 2]), f32> {
    let d = absmax(values);
    let inverse = inverse(d);
    // round() is away from zero on ties, as in the C and Python encoders.
    let trits = values.map(|value| ((value * inverse).round() as i8).clamp(-1, 1));
    Ok((trits, scale_bytes(d)?))
}

/// The largest magnitude of a block.
fn absmax(values: &[f32]) -> f32 {
    values
        .iter()
        .fold(0.0, |max: f32, value| max.max(value.abs()))
}

/// The value of largest magnitude with its sign, the first of equals.
fn signed_absmax(values: &[f32]) -> f32 {
    values.iter().fold(
        0.0,
        |max: f32, &value| if value.abs() > max.abs() { value } else { max },
    )
}

/// `1 / d`, or 0 for a block of zeros.
fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// A block scale as f16 bytes; the error is the scale that does not fit.
fn scale_bytes(d: f32) -> Result<[u8; 2], f32> {
    f16_bytes(d).ok_or(d)
}

#[cfg(test)]
mod tests;
