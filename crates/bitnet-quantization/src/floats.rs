//! 16-bit floats widened to f32, exactly and without branches, so that the loops around them vectorise.
//!
//! The `half` crate asks the CPU for its conversion instruction at every call, which no loop survives; in the other
//! direction, where nothing is hot, its rounding is used.

/// The value of an IEEE 754 half-precision number.
///
/// A half's exponent field is moved to where an f32 has its own, which leaves the value 2^112 too small; one
/// multiplication by 2^112 is exact and turns half subnormals into f32 normals on the way. Infinities and NaNs come
/// out of it with exponent 143 (2^16 and more) and get the all-ones exponent back.
#[inline]
pub fn f16_to_f32(bits: u16) -> f32 {
    const TWO_POW_112: f32 = f32::from_bits((127 + 112) << 23);
    const INFINITY_OF_F16: f32 = 65536.0;
    let magnitude = f32::from_bits(u32::from(bits & 0x7fff) << 13) * TWO_POW_112;
    let exponent = if magnitude >= INFINITY_OF_F16 {
        0xff << 23
    } else {
        0
    };
    f32::from_bits(magnitude.to_bits() | exponent | (u32::from(bits & 0x8000) << 16))
}

/// The value of a bfloat16 number: the upper half of an f32.
#[inline]
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The f16 stored in two bytes of a block, widened.
#[inline]
pub(crate) fn f16_at(block: &[u8], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// The bytes of `value` rounded to f16 (half to even), `None` if it is not finite there.
pub(crate) fn f16_bytes(value: f32) -> Option<[u8; 2]> {
    let rounded = half::f16::from_f32(value);
    rounded.is_finite().then(|| rounded.to_le_bytes())
}

/// The bytes of `value` rounded to bf16 (half to even), `None` if it is not finite there.
pub(crate) fn bf16_bytes(value: f32) -> Option<[u8; 2]> {
    let rounded = half::bf16::from_f32(value);
    rounded.is_finite().then(|| rounded.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_and_bf16_widens_as_the_half_crate_widens_it() {
        for bits in 0..=u16::MAX {
            let (f16, bf16) = (
                half::f16::from_bits(bits).to_f32(),
                half::bf16::from_bits(bits).to_f32(),
            );
            if f16.is_nan() {
                assert!(f16_to_f32(bits).is_nan(), "{bits:#06x}");
            } else {
                assert_eq!(f16_to_f32(bits).to_bits(), f16.to_bits(), "{bits:#06x}");
            }
            assert!(
                bf16_to_f32(bits).to_bits() == bf16.to_bits() || bf16.is_nan(),
                "{bits:#06x}"
            );
        }
    }

    #[test]
    fn values_beyond_the_range_are_not_written() {
        assert_eq!(f16_bytes(65504.0), Some([0xff, 0x7b]));
        assert_eq!(f16_bytes(65520.0), None);
        assert_eq!(f16_bytes(f32::NAN), None);
        assert_eq!(bf16_bytes(1.0), Some([0x80, 0x3f]));
        assert_eq!(bf16_bytes(f32::MAX), None);
    }
}
