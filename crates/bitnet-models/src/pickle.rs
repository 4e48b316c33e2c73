//! PyTorch's own files (`pytorch_model.bin`, `.pt`): the tensors of a state dict, read without running anything.
//!
//! `torch.save` writes a zip archive of stored entries: a pickle that says which tensors there are, and an entry of raw
//! numbers for each storage that they are views of. A pickle is a program, and Python's own machine calls whatever
//! function it names; the machine here has no calls. It knows the opcodes that a state dict is written with, and the
//! few names in them stand for what they build; any other opcode or name ends the reading, with its offset.
//!
//! ```text
//! NAME/data.pkl      the pickle: OrderedDict of name -> view of a storage (offset, size, stride)
//! NAME/byteorder     "little"
//! NAME/data/KEY      a storage's numbers
//! ```
//! The archive's CRCs are not compared, as safetensors has none either.
//! Source: torch/serialization.py and torch/_utils.py (PyTorch 1.6 to 2.13), Python's pickletools.

mod archive;
mod machine;
mod opcode;
mod state_dict;
mod value;
mod zip;

use bytes::Bytes;

use crate::error::ModelError;
use crate::tensor_files::StoredTensor;

/// Names of a whole checkpoint, in the order in which they are looked for.
pub(crate) const WHOLE: [&str; 4] = [
    "pytorch_model.bin",
    "pytorch_model.pt",
    "model.pt",
    "consolidated.00.pth",
];
/// The list of files of a sharded one.
pub(crate) const INDEX: &str = "pytorch_model.bin.index.json";

/// Whether a file of this name holds weights, and not the state of an optimizer or the arguments of a training run,
/// which lie beside them under the same extensions.
pub(crate) fn is_weights(name: &str) -> bool {
    let shard = name.starts_with("pytorch_model") && name.ends_with(".bin");
    shard || WHOLE.contains(&name)
}

/// Reads which tensors one file holds, and where.
pub(crate) fn read_file(
    file: &str,
    bytes: &Bytes,
    shard: u16,
) -> Result<Vec<StoredTensor>, ModelError> {
    let archive = archive::Archive::open(file, bytes)?;
    let built = machine::run(&archive)?;
    state_dict::tensors(&built, shard)
}
