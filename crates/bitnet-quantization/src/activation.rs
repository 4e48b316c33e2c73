//! Per-token absmax int8: what BitNet does to the input of every ternary linear layer.
//!
//! ```text
//! a = 127 * (1 / max(absmax(x), 1e-5))      q = clamp(round_half_even(x * a), -128, 127)      x is about q / a
//! ```
//!
//! Source: transformers, `integrations/bitnet.py` (`ActQuant`), in f32.

/// The smallest magnitude that is divided by.
pub const MIN_ABSMAX: f32 = 1e-5;

/// Quantises one token's activations `x` `[n]` to `q` `[n]` and returns the factor `a` between them.
///
/// A NaN becomes 0, and so does everything beside an infinity (`a` is then 0).
///
/// ```
/// use bitnet_quantization::activation::quantize_activations;
/// let mut q = [0; 3];
/// assert_eq!(quantize_activations(&[0.5, -2.0, 0.0], &mut q), 127.0 / 2.0);
/// assert_eq!(q, [32, -127, 0]); // 31.75 is rounded, halves go to the even neighbour
/// ```
///
/// # Panics
/// If the two lengths differ.
pub fn quantize_activations(x: &[f32], q: &mut [i8]) -> f32 {
    assert_eq!(
        x.len(),
        q.len(),
        "as many quantised activations as activations"
    );
    let absmax = x.iter().fold(0.0, |max: f32, value| max.max(value.abs()));
    let a = activation_factor(absmax);
    for (q, value) in q.iter_mut().zip(x) {
        *q = (value * a).round_ties_even().clamp(-128.0, 127.0) as i8;
    }
    a
}

/// The factor `a` of a token whose largest magnitude is `absmax`.
///
/// The reference writes `127 / absmax`, which PyTorch computes as the reciprocal times 127: two roundings, a last bit
/// other than the division's for every fourth token, and with it now and then another int8 value.
pub fn activation_factor(absmax: f32) -> f32 {
    127.0 * (1.0 / absmax.max(MIN_ABSMAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_go_to_the_even_neighbour() {
        // absmax 127 makes the factor exactly 1.
        let x = [127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5, -126.5];
        let mut q = [0; 9];
        assert_eq!(quantize_activations(&x, &mut q), 1.0);
        assert_eq!(q, [127, 0, 2, 2, 0, -2, -2, 126, -126]);
    }

    #[test]
    fn the_factor_is_rounded_twice_as_in_the_reference() {
        // A token's absmax and what PyTorch makes of `127 / absmax`.
        let (absmax, factor) = (f32::from_bits(0x3fdd_d336), f32::from_bits(0x4292_90e2));
        assert_eq!(activation_factor(absmax), factor);
        assert_ne!(127.0 / absmax, factor);
        // This activation of it is one that the last bit decides: -63.5 would be rounded to -64.
        assert_eq!((-0.866_504_1_f32 * factor).round_ties_even(), -63.0);
    }

    #[test]
    fn the_largest_magnitude_becomes_127() {
        for scale in [1e-5f32, 3e-4, 0.7, 12.0, 1e30] {
            let mut q = [0; 2];
            quantize_activations(&[-scale, scale / 2.0], &mut q);
            assert_eq!(q[0], -127, "{scale}");
        }
    }

    #[test]
    fn small_and_empty_inputs_use_the_floor() {
        assert_eq!(quantize_activations(&[], &mut []), 127.0 / 1e-5);
        let mut q = [9; 2];
        assert_eq!(quantize_activations(&[1e-6, 0.0], &mut q), 127.0 / 1e-5);
        assert_eq!(q, [13, 0]);
    }

    #[test]
    fn numbers_that_are_not_finite_become_zero() {
        let mut q = [9; 3];
        quantize_activations(&[f32::NAN, 1.0, -1.0], &mut q);
        assert_eq!(q, [0, 127, -127]);
        assert_eq!(
            quantize_activations(&[f32::INFINITY, 1.0, f32::NEG_INFINITY], &mut q),
            0.0
        );
        assert_eq!(q, [0, 0, 0]);
    }
}
