//! The size test: what a type number means that several projects use.
//!
//! The number stands for the one format whose size all its tensors have, measured by where the next tensor starts. A
//! name that somebody gave (`--dialect`) goes before it: for files whose tensors have gaps between them, or are so
//! small that two formats fit.

use bitnet_quantization::type_id::{TypeCandidate, candidates};
use bitnet_quantization::{Dialects, TypeId, type_from_ggml_id};

use super::tensor::{DataSection, TensorInfo};
use crate::error::{ModelError, quoted};

/// Numbers that several projects use, each with a size of its own, and those of formats that only their size vouches
/// for.
const SHARED_NUMBERS: [u32; 10] = [22, 36, 38, 39, 42, 43, 134, 135, 142, 143];

/// Where a tensor is: its place in the order of the file, and in the directory.
type Place = (usize, usize);

/// Gives every tensor of a shared number its meaning and its size. Where no format fits, the number keeps what it means
/// by itself, and the file is held to that.
pub(super) fn resolve(
    file: &str,
    tensors: &mut [TensorInfo],
    by_offset: &[u32],
    spans: &[u64],
    data: DataSection,
    dialects: Dialects,
) -> Result<(), ModelError> {
    for number in SHARED_NUMBERS {
        let of_number: Vec<Place> = by_offset
            .iter()
            .enumerate()
            .map(|(at, &i)| (at, i as usize))
            .filter(|&(_, i)| tensors[i].type_number() == number)
            .collect();
        let Some(&(_, first)) = of_number.first() else {
            continue;
        };
        let all = |holds: &dyn Fn(u64, usize) -> bool, format: TypeCandidate, variant: usize| {
            of_number.iter().all(|&(at, i)| {
                let (rows, cols) = tensors[i].shape();
                let bytes = format.tensor_bytes(rows, cols)[variant];
                bytes.is_some_and(|bytes| holds(bytes, at))
            })
        };
        let fits = |bytes: u64, at: usize| {
            let is_last = at + 1 == by_offset.len();
            // What comes last in a stream has as much room as it likes.
            let open_end = is_last && data.file_len.is_none();
            data.padded(bytes) == Some(spans[at]) || (is_last && bytes == spans[at]) || open_end
        };
        let fitting = |format: TypeCandidate| {
            let variant = (0..2).find(|&variant| all(&fits, format, variant))?;
            Some((format, variant))
        };
        let mut fit = candidates(number)
            .iter()
            .filter_map(|format| fitting(*format));
        let mut overruled = None;
        let found = match dialects.format_of(number) {
            Some(format) => {
                let by_size = fit.next().filter(|_| fitting(format).is_none());
                overruled = by_size.map(|(by_size, _)| by_size.type_id());
                // The larger size, where there is room for it: TL1 and TL2 with their scale.
                let room = |bytes: u64, at: usize| bytes <= spans[at];
                let roomy = || (0..2).rev().find(|&variant| all(&room, format, variant));
                let variant = fitting(format).map(|(_, variant)| variant).or_else(roomy);
                let variant = variant.ok_or_else(|| too_small(file, &tensors[first], format))?;
                Some((format, variant))
            }
            None => {
                let (one, other) = (fit.next(), fit.next());
                if let (Some((one, _)), Some((other, _))) = (one, other) {
                    return Err(ambiguous(file, &tensors[first], [one, other]));
                }
                one
            }
        };
        let Some((format, variant)) = found else {
            continue;
        };
        if let (TypeCandidate::Other { name, .. }, TypeId::Supported(ty)) =
            (format, type_from_ggml_id(number))
        {
            return Err(ModelError::TensorType {
                file: file.into(),
                tensor: quoted(tensors[first].name()),
                expected: format!("{ty} (type {number})"),
                found: format!("data of the size of {name}"),
            });
        }
        for &(_, i) in &of_number {
            let (rows, cols) = tensors[i].shape();
            let bytes = format.tensor_bytes(rows, cols)[variant].unwrap_or_default();
            tensors[i].means(format.type_id(), bytes, overruled);
        }
    }
    Ok(())
}

/// The error for a chosen format that the tensors have no room for.
fn too_small(file: &str, tensor: &TensorInfo, format: TypeCandidate) -> ModelError {
    let (rows, cols) = tensor.shape();
    ModelError::Dialect {
        file: file.into(),
        tensor: quoted(tensor.name()),
        number: tensor.type_number(),
        what: format!(
            "cannot be {}: [{rows}, {cols}] and others of its number have no room for that, or no such shape",
            name(format)
        ),
        hint: "leave out --dialect, or name another format".into(),
    }
}

/// The error for tensors so small that their size does not decide.
fn ambiguous(file: &str, tensor: &TensorInfo, formats: [TypeCandidate; 2]) -> ModelError {
    let [one, other] = formats.map(name);
    let names: Vec<&str> = formats.into_iter().filter_map(Dialects::name_of).collect();
    ModelError::Dialect {
        file: file.into(),
        tensor: quoted(tensor.name()),
        number: tensor.type_number(),
        what: format!("has a size that both {one} and {other} have"),
        hint: format!(
            "say which it is: --dialect {}",
            names.join(" or --dialect ")
        ),
    }
}

fn name(format: TypeCandidate) -> String {
    match format {
        TypeCandidate::Tensor(ty) => ty.to_string(),
        TypeCandidate::Foreign(ty) => ty.to_string(),
        TypeCandidate::Other { name, .. } => name.into(),
    }
}
