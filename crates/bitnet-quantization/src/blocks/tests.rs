//! Sizes and refusals of the block conversions; their values are held to gguf-py in `tests/`.

use super::*;

#[test]
fn only_whole_blocks_convert() {
    for &ty in TensorType::ALL.iter().filter(|&&ty| ty != TensorType::I2S) {
        let (len, size) = (ty.block_len(), ty.block_bytes());
        assert_eq!(dequantize(ty, &[], &mut []), Ok(()));
        assert_eq!(
            dequantize(ty, &vec![0; 3 * size], &mut vec![0.0; 3 * len]),
            Ok(())
        );
        for (n_bytes, n_values) in [
            (size, 0),
            (0, len),
            (size, 2 * len),
            (size + 1, len),
            (size - 1, len),
            (2 * size, len),
        ] {
            let result = dequantize(ty, &vec![0; n_bytes], &mut vec![0.0; n_values]);
            assert_eq!(result, Err(mismatch(ty, n_bytes, n_values)), "{ty}");
        }
        if len > 1 && !matches!(ty, TensorType::Q4K | TensorType::Q5K) {
            assert_eq!(
                quantize(ty, &vec![0.0; len - 1], &mut Vec::new()),
                Err(mismatch(ty, 0, len - 1))
            );
        }
    }
}

#[test]
fn types_without_a_conversion_say_what_to_use_instead() {
    let i2s = dequantize(TensorType::I2S, &[0], &mut [0.0; 4]).unwrap_err();
    assert!(i2s.to_string().contains("I2sRows"), "{i2s}");
    for ty in [TensorType::I2S, TensorType::Q4K, TensorType::Q5K] {
        assert!(matches!(
            quantize(ty, &[0.0; 256], &mut Vec::new()),
            Err(QuantError::NotPossible { .. })
        ));
    }
}

#[test]
fn values_that_cannot_be_written_are_refused_with_their_index() {
    for &ty in TensorType::ALL {
        if matches!(ty, TensorType::I2S | TensorType::Q4K | TensorType::Q5K) {
            continue;
        }
        for bad in [f32::NAN, f32::INFINITY] {
            let mut values = vec![1.0; 512];
            values[300] = bad;
            let error = quantize(ty, &values, &mut Vec::new()).unwrap_err();
            assert!(
                matches!(error, QuantError::Unwritable { index: 300, .. }),
                "{ty}: {error}"
            );
        }
        // Beyond the f16 scale of any type, and what bf16 rounds to infinity.
        let mut values = vec![1.0; 512];
        values[300] = f32::MAX;
        let result = quantize(ty, &values, &mut Vec::new());
        let first = 300 / ty.block_len() * ty.block_len();
        match ty {
            TensorType::F32 => assert_eq!(result, Ok(())),
            _ => assert!(
                matches!(result, Err(QuantError::Unwritable { index, .. }) if index == first),
                "{ty}"
            ),
        }
    }
}

#[test]
fn zeros_stay_zeros() {
    for &ty in TensorType::ALL {
        if matches!(ty, TensorType::I2S | TensorType::Q4K | TensorType::Q5K) {
            continue;
        }
        let mut bytes = Vec::new();
        quantize(ty, &[0.0; 256], &mut bytes).unwrap();
        let mut values = [1.0; 256];
        dequantize(ty, &bytes, &mut values).unwrap();
        assert_eq!(values, [0.0; 256], "{ty}");
    }
}
