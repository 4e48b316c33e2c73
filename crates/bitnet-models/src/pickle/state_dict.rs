//! What a state dict is made of: storages in the archive, tensors as views of them, and their names.
//!
//! Source: torch/_utils.py (`_rebuild_tensor_v2`, `_rebuild_tensor_v3`), torch/serialization.py (`persistent_id`).

use std::ops::Range;

use super::machine::PickleMachine;
use super::value::{Global, PickleValue};
use crate::error::{ModelError, Place};
use crate::safetensors::{MAX_RANK, StoredType};
use crate::tensor_files::StoredTensor;

/// The numbers that tensors are views of.
#[derive(Debug, Clone)]
pub struct Storage {
    /// `None` where the tensors say.
    ty: Option<StoredType>,
    /// From the start of the file.
    range: Range<u64>,
}

/// A tensor: a part of a storage, from the start of the file, with the number of the tuple that is its shape.
#[derive(Debug, Clone)]
pub struct View {
    ty: StoredType,
    start: u64,
    end: u64,
    shape: usize,
}

/// The tensors of the dict that the pickle ended with. Its names are short: the machine takes no others.
pub fn tensors(machine: &PickleMachine, shard: u16) -> Result<Vec<StoredTensor>, ModelError> {
    let entries = machine.top();
    let refused = |name: &str, expected: &str, found: &str| ModelError::Pickle {
        file: machine.archive.file.into(),
        place: Place::Tensor(name.into()),
        offset: None,
        expected: expected.into(),
        found: found.into(),
    };
    // Before anything is copied: a memo can hand out the same name any number of times.
    let mut names: Vec<&str> = entries.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(refused(pair[0], "each name once", "it twice"));
    }
    let mut tensors = Vec::with_capacity(entries.len());
    for &(name, value) in entries {
        let PickleValue::Tensor(view) = value else {
            let expected =
                "a tensor (a training checkpoint has its state dict under a name: save that alone)";
            return Err(refused(name, expected, value.kind()));
        };
        let view = &machine.views[view];
        tensors.push(StoredTensor {
            name: name.into(),
            shape: machine.sizes(view.shape).unwrap_or_default().into(),
            start: view.start,
            end: view.end,
            stored_type: view.ty,
            shard,
        });
    }
    Ok(tensors)
}

impl<'a> PickleMachine<'a> {
    /// `BINPERSID` of `("storage", class, key, device, length)`.
    pub fn storage(&mut self, at: usize) -> Result<(), ModelError> {
        let [id] = self.pop_n(at)?;
        let parts = match id {
            PickleValue::Tuple(tuple) => &*self.tuples[tuple],
            _ => &[],
        };
        let [
            PickleValue::Text("storage"),
            PickleValue::Global(class @ (Global::Storage(_) | Global::UntypedStorage)),
            PickleValue::Text(key),
            PickleValue::Text(_),
            PickleValue::Int(len),
        ] = *parts
        else {
            let found = format!("{} of {} values", id.kind(), parts.len());
            return Err(self.refused(at, "the description of a storage", &found));
        };
        let Some(range) = self.archive.storage(key) else {
            let found = format!("the key \"{}\"", crate::error::quoted(key));
            return Err(self.refused(at, "the key of an entry in data/", &found));
        };
        let ty = match class {
            Global::Storage(ty) => Some(ty),
            _ => None,
        };
        let size = ty.map_or(Some(1), StoredType::bytes).unwrap_or(1);
        let bytes = u64::try_from(len)
            .ok()
            .and_then(|len| len.checked_mul(size));
        if bytes != Some(range.end - range.start) {
            let expected = format!(
                "the length of an entry of {} bytes",
                range.end - range.start
            );
            return Err(self.refused(at, &expected, &format!("{len} values of {size} bytes")));
        }
        self.storages.push(Storage { ty, range });
        let index = self.storages.len() - 1;
        self.push(at, PickleValue::Storage(index))
    }

    /// A tensor of its arguments: storage, offset, size, stride, whether it wants gradients, hooks; then the type,
    /// where the function is the one that names it; then flags, of which there are none.
    pub fn view(&self, at: usize, function: Global, arguments: usize) -> Result<View, ModelError> {
        let wrong = |expected: &str| Err(self.refused(at, expected, "other arguments"));
        let [
            PickleValue::Storage(storage),
            PickleValue::Int(offset),
            PickleValue::Tuple(shape),
            PickleValue::Tuple(stride),
            PickleValue::Bool,
            hooks,
            ref rest @ ..,
        ] = *self.tuples[arguments]
        else {
            return wrong("storage, offset, size, stride, requires_grad and hooks of a tensor");
        };
        self.no_hooks(at, hooks)?;
        let storage = &self.storages[storage];
        let (ty, flags) = match (storage.ty, function, rest) {
            (Some(ty), Global::RebuildTensor, flags) => (ty, flags),
            (_, Global::RebuildTyped, [PickleValue::Global(Global::Type(ty)), flags @ ..]) => {
                (*ty, flags)
            }
            _ => return wrong("a tensor with one type"),
        };
        match flags {
            [] => {}
            [flags] => self.no_hooks(at, *flags)?, // an empty dict too
            _ => return wrong("no more than flags behind the hooks"),
        }
        let (Some(sizes), Some(strides)) = (self.sizes(shape), self.sizes(stride)) else {
            let expected = format!("at most {MAX_RANK} sizes and strides, none negative");
            return wrong(&expected);
        };
        let whole = sizes
            .iter()
            .try_fold(1u64, |all, &size| all.checked_mul(size));
        let size = ty.bytes().unwrap_or(1);
        let place = whole.and_then(|elements| {
            let skipped = u64::try_from(offset).ok()?.checked_mul(size)?;
            let start = storage.range.start.checked_add(skipped)?;
            let end = start.checked_add(elements.checked_mul(size)?)?;
            (end <= storage.range.end).then_some((start, end))
        });
        let Some((start, end)) = place else {
            let found = format!("{ty} {sizes:?} from element {offset} on");
            let bytes = storage.range.end - storage.range.start;
            let expected = format!("a part of a storage of {bytes} bytes");
            return Err(self.refused(at, &expected, &found));
        };
        if strides.len() != sizes.len() || (start < end && !in_order(&sizes, &strides)) {
            let found = format!("strides {strides:?}: save the tensor's .contiguous() copy");
            let expected = format!("the elements of {sizes:?} in order");
            return Err(self.refused(at, &expected, &found));
        }
        Ok(View {
            ty,
            start,
            end,
            shape,
        })
    }

    /// A tuple of sizes; `None` for anything else.
    fn sizes(&self, tuple: usize) -> Option<Vec<u64>> {
        let values = &self.tuples[tuple];
        let size = |value: &PickleValue| match value {
            PickleValue::Int(size) => u64::try_from(*size).ok(),
            _ => None,
        };
        (values.len() <= MAX_RANK).then(|| values.iter().map(size).collect())?
    }
}

/// Whether elements lie as in a row-major array; the stride of a dimension of one element is never used. The product of
/// `sizes` is known to fit.
fn in_order(sizes: &[u64], strides: &[u64]) -> bool {
    let mut step = 1;
    for (&size, &stride) in sizes.iter().zip(strides).rev() {
        if size != 1 && stride != step {
            return false;
        }
        step *= size;
    }
    true
}
