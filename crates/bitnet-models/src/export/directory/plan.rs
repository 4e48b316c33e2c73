//! How each tensor of a GGUF file is stored in a directory, and with which scales.

use bitnet_kernels::RopeStyle;
use bitnet_quantization::{QuantError, ScaleLayout, TensorType, dequantize};

use super::{Content, Item};
use crate::checkpoint::Checkpoint;
use crate::export::ExportError;
use crate::export::report::{Change, ExportRefusal, TensorReport};
use crate::row_order::ReorderedRows;
use crate::safetensors::{DeclaredTensor, StoredType};
use crate::tensor_role::TensorRole;
use crate::weights::{rotates, rows_to_halves};

/// What is to be written, as far as the tensors have been looked at.
pub(super) struct Plan<'a> {
    pub checkpoint: &'a Checkpoint,
    pub items: Vec<Item<'a>>,
    /// Names of scales and what multiplies.
    pub scales: Vec<(String, f32)>,
    pub refusals: Vec<ExportRefusal>,
}

impl<'a> Plan<'a> {
    pub fn add(&mut self, role: TensorRole) -> Result<(), ExportError> {
        let lying = self.checkpoint.lying(role)?;
        let name = role.hf_name().unwrap_or_else(|| role.to_string());
        let mut refuse = |why: String| {
            self.refusals.push(ExportRefusal {
                name: lying.name.clone(),
                from: lying.type_name.clone(),
                why,
            });
            Ok(())
        };
        let (stored_type, shape, content, change) = if let TensorRole::Projection(..) = role {
            let config = self.checkpoint.config();
            let mut rows = match self.checkpoint.ternary(role) {
                Ok(rows) => rows,
                Err(error) => return refuse(error.to_string()),
            };
            let ScaleLayout::PerTensor(scale) = rows.scale() else {
                return refuse("its weights have several scales, a packed tensor has one".into());
            };
            if rotates(role) && rows_to_halves(config) {
                rows = Box::new(ReorderedRows::new(rows, config.head_dim, RopeStyle::Neox));
            }
            let mut trits = vec![0; rows.cols()];
            for row in 0..rows.rows() {
                if let Err(error) = rows.read_row(row, &mut trits, &mut []) {
                    return refuse(error.to_string());
                }
            }
            self.scales.push((format!("{name}_scale"), scale));
            let shape = vec![rows.rows().div_ceil(4), rows.cols()];
            (
                StoredType::U8,
                shape,
                Content::Packed(rows),
                Change::Repacked,
            )
        } else {
            let Some(ty) = lying.ty.filter(|ty| *ty != TensorType::I2S) else {
                return refuse(format!("a {role} is stored as floats"));
            };
            let stored_type = if ty == TensorType::F32 && is_bf16(lying.bytes) {
                StoredType::BF16
            } else {
                stored(ty)
            };
            let matrix = matches!(role, TensorRole::Embedding | TensorRole::Head);
            let shape = if matrix {
                vec![lying.rows, lying.cols]
            } else {
                vec![lying.cols]
            };
            let change = if stored_type == stored(ty) && ty.is_float() {
                Change::Copied
            } else {
                Change::Repacked
            };
            (stored_type, shape, Content::Values(ty, lying.bytes), change)
        };
        let declared = DeclaredTensor {
            name,
            stored_type,
            shape,
        };
        let report = TensorReport {
            name: declared.name.clone(),
            from: lying.type_name.clone(),
            to: stored_type.to_string(),
            change,
            bytes_before: lying.bytes.len() as u64,
            bytes_after: declared.bytes(),
            error: None,
            note: None,
        };
        self.items.push(Item {
            declared,
            report,
            bytes: lying.bytes,
            content,
        });
        Ok(())
    }

    /// Adds the scales, and tells whether they are stored as what divides.
    pub fn finish_scales(&mut self, sub_norms: bool) -> bool {
        let inverse = |scale: f32| {
            let stored = half::bf16::from_f32(1.0 / scale);
            (1.0 / stored.to_f32() == scale).then_some(stored)
        };
        let divides = !sub_norms
            && self
                .scales
                .iter()
                .all(|(_, scale)| inverse(*scale).is_some());
        for (name, scale) in std::mem::take(&mut self.scales) {
            let direct = half::bf16::from_f32(scale);
            let narrow = match inverse(scale) {
                Some(stored) if divides => Some(stored),
                _ => (direct.to_f32() == scale).then_some(direct),
            };
            let (stored_type, bytes) = match narrow {
                Some(value) => (StoredType::BF16, value.to_le_bytes().to_vec()),
                None => (StoredType::F32, scale.to_le_bytes().to_vec()),
            };
            let declared = DeclaredTensor {
                name,
                stored_type,
                shape: vec![1],
            };
            let report = TensorReport {
                name: declared.name.clone(),
                from: TensorType::F32.to_string(),
                to: stored_type.to_string(),
                change: Change::Repacked,
                bytes_before: 0,
                bytes_after: bytes.len() as u64,
                error: None,
                note: None,
            };
            self.items.push(Item {
                declared,
                report,
                bytes: &[],
                content: Content::Made(bytes),
            });
        }
        divides
    }
}

/// How a dense type is stored: block types as what they stand for.
pub(super) fn stored(ty: TensorType) -> StoredType {
    match ty {
        TensorType::F16 => StoredType::F16,
        TensorType::BF16 => StoredType::BF16,
        _ => StoredType::F32,
    }
}

/// Whether every f32 is a bf16 number.
fn is_bf16(bytes: &[u8]) -> bool {
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .all(|b| b[0] == 0 && b[1] == 0)
}

pub(super) fn values(ty: TensorType, bytes: &[u8]) -> Result<Vec<f32>, QuantError> {
    let mut values = vec![0.0; bytes.len() / ty.block_bytes() * ty.block_len()];
    dequantize(ty, bytes, &mut values)?;
    Ok(values)
}

pub(super) fn float_bytes(values: &[f32], narrow: bool) -> Vec<u8> {
    if narrow {
        let upper = values.iter().map(|value| (value.to_bits() >> 16) as u16);
        return upper.flat_map(u16::to_le_bytes).collect();
    }
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}
