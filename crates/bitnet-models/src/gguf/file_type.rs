//! `general.file_type`: one number for what most tensors of a file are stored as. Informational, and projects disagree
//! about some of the numbers, so nothing ever branches on it.

use bitnet_quantization::TensorType;

/// Key of the number.
pub const FILE_TYPE: &str = "general.file_type";

/// llama.cpp's number for a file of `ty`; Microsoft's for I2_S.
pub const fn file_type(ty: TensorType) -> u32 {
    match ty {
        TensorType::F32 => 0,
        TensorType::F16 => 1,
        TensorType::BF16 => 32,
        TensorType::Tq1_0 => 36,
        TensorType::Tq2_0 => 37,
        TensorType::I2S => 40,
        TensorType::Q2_0 => 41,
        // "guessed": llama.cpp's number for a file whose types are mixed.
        _ => 1024,
    }
}
