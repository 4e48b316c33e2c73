//! Any bytes as the three tensors of an MLX weight, in any shape: trits, a matrix of the same numbers, or an error.
#![no_main]

use bitnet_quantization::{MlxRows, MlxTensor, TensorType, TernaryRows, dequantize};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&[kind, rows, cols, group], rest)) = data.split_first_chunk() else {
        return;
    };
    let ty = [TensorType::F16, TensorType::BF16, TensorType::F32, TensorType::Q8_0][usize::from(kind % 4)];
    let (rows, cols, group_len) = (usize::from(rows), 16 * usize::from(cols), 16 * usize::from(group));
    let numbers = (rows * cols).checked_div(group_len).unwrap_or(0) * ty.block_bytes();
    let mut bytes = rest.to_vec();
    if kind & 0x80 == 0 {
        bytes.resize(rows * cols / 4 + 2 * numbers, 0x44); // else whatever length there is
    }
    let (codes, rest) = bytes.split_at(bytes.len().min(rows * cols / 4));
    let (scales, biases) = rest.split_at(rest.len().min(numbers));
    let tensor = MlxTensor { codes, scales, biases, ty, group_len };
    if let Ok((ty, matrix)) = tensor.to_matrix(rows, cols) {
        dequantize(ty, &matrix, &mut vec![0.0; rows * cols]).expect("a matrix of its type");
    }
    let Ok(weights) = MlxRows::new(tensor, rows, cols) else {
        return;
    };
    let mut trits = vec![0; cols];
    let mut scales = vec![0.0; weights.scale().scales_per_row(cols)];
    for row in 0..rows {
        if weights.read_row(row, &mut trits, &mut scales).is_ok() {
            assert!(trits.iter().all(|trit| (-1..=1).contains(trit)));
        }
    }
});
