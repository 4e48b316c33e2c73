//! A GGUF file as the source: which tensor becomes what.
//!
//! Ternary matrices are recognised by their type, and where they are stored as floats by their name and their values:
//! every one of them -s, 0 or +s. The keys of the header go over as they are, but for the file type, which says what
//! was asked for, and the keys of a split, which is joined.

use bitnet_quantization::{
    BlockTernaryRows, ForeignType, I2sDialect, I2sRows, QuantError, Recognition, TensorType,
    TernaryRows, TypeId, foreign, recognise,
};

use super::dense::DenseRows;
use super::form::{Form, TernaryTarget};
use super::masters::MasterRows;
use super::report::{Change, ExportRefusal, TensorReport};
use super::{Content, Export, ExportError, Item, Targets, go_on};
use crate::checkpoint::gguf::{number, scale_name};
use crate::checkpoint::weight::neighbour_note;
use crate::error::{ModelError, Place};
use crate::gguf::writer::ALIGNMENT_KEY;
use crate::gguf::{FILE_TYPE, Gguf, SPLIT_COUNT, SPLIT_NO, SPLIT_TENSORS, TensorInfo, Value};
use crate::mmap;
use crate::tensor_role::{Projection, TensorRole};

/// Types that ternary weights can be written as.
pub const TERNARY_TYPES: [TensorType; 6] = [
    TensorType::I2S,
    TensorType::Tq1_0,
    TensorType::Tq2_0,
    TensorType::Q2_0,
    TensorType::Pq2_0,
    TensorType::Ptq1_0,
];

/// Formats in tiles that ternary weights can be written as, where a build of bitnet.cpp has tile sizes for the shape.
pub const TILE_TYPES: [ForeignType; 2] = [ForeignType::Tl1, ForeignType::Tl2];

/// Types that embeddings and heads can be written as.
pub const DENSE_TYPES: [TensorType; 8] = [
    TensorType::F32,
    TensorType::F16,
    TensorType::BF16,
    TensorType::Q8_0,
    TensorType::Q6K,
    TensorType::Q5_0,
    TensorType::Q4_1,
    TensorType::Q4_0,
];

impl<'a> Export<'a> {
    /// Plans to write an open GGUF file with other types. Every tensor is read; `advance` is told the bytes read since
    /// its last call and returns whether to go on.
    ///
    /// # Errors
    /// [`ExportError::Stopped`] when `advance` says so,
    /// [`ExportError::Refused`] with every tensor that the types cannot hold, [`ExportError::Request`] for types that
    /// are not written and a head that the model does not have, [`ExportError::Model`] for a damaged file.
    pub fn of_gguf(
        gguf: &'a Gguf,
        targets: &Targets,
        advance: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Self, ExportError> {
        check_types(targets, |role| gguf.tensor(&role.gguf_name()).is_some())?;
        let mut tensors = Vec::with_capacity(gguf.tensors().len());
        let mut refusals = Vec::new();
        // The scales of TL1 and TL2 tensors go into the tensors.
        let is_tiles = |tensor: &TensorInfo| {
            matches!(
                tensor.type_id(),
                TypeId::Foreign(ForeignType::Tl1 | ForeignType::Tl2)
            )
        };
        let absorbed: Vec<String> = gguf
            .tensors()
            .iter()
            .filter(|tensor| is_tiles(tensor))
            .map(|tensor| scale_name(tensor.name()))
            .collect();
        let kept = |tensor: &&TensorInfo| !absorbed.iter().any(|name| name == tensor.name());
        for tensor in gguf.tensors().iter().filter(kept) {
            match item(gguf, tensor, targets)? {
                Ok(item) => tensors.push((item, tensor.dims().to_vec())),
                Err(why) => refusals.push(ExportRefusal {
                    name: tensor.name().into(),
                    from: type_name(tensor),
                    why,
                }),
            }
            if let Ok(bytes) = gguf.slice(tensor) {
                mmap::release(bytes);
            }
            go_on(advance, tensor.bytes().unwrap_or(0))?;
        }
        if !refusals.is_empty() {
            return Err(ExportError::Refused(refusals));
        }
        Self::new(gguf.alignment(), metadata(gguf, targets), tensors)
    }
}

/// Makes sure that the types can be written, and that the model has what they are for.
pub(super) fn check_types(
    targets: &Targets,
    has: impl Fn(TensorRole) -> bool,
) -> Result<(), ExportError> {
    let request = |what: String, expected: String| Err(ExportError::Request { what, expected });
    let names = |types: &[TensorType]| {
        types
            .iter()
            .map(|ty| ty.name())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let written = match targets.ternary {
        TernaryTarget::Rows(ty) => TERNARY_TYPES.contains(&ty),
        TernaryTarget::Tiles(ty) => TILE_TYPES.contains(&ty),
    };
    if !written {
        let what = format!("ternary weights as {}", targets.ternary);
        return request(what, format!("{}, TL1, TL2", names(&TERNARY_TYPES)));
    }
    for (what, wanted, role) in [
        ("an embedding", targets.embedding, TensorRole::Embedding),
        ("a head", targets.head, TensorRole::Head),
    ] {
        let Some(ty) = wanted else {
            continue;
        };
        if !DENSE_TYPES.contains(&ty) {
            return request(format!("{what} as {ty}"), names(&DENSE_TYPES));
        }
        if !has(role) {
            let expected = format!(
                "a model that has {} (one without a head uses its embedding)",
                role.gguf_name()
            );
            return request(format!("{what} as {ty}"), expected);
        }
    }
    Ok(())
}

/// The keys of the new file.
fn metadata(gguf: &Gguf, targets: &Targets) -> Vec<(String, Value)> {
    let dropped = [ALIGNMENT_KEY, SPLIT_NO, SPLIT_COUNT, SPLIT_TENSORS];
    gguf.metadata()
        .iter()
        .filter(|(key, _)| !dropped.contains(key))
        .map(|(key, value)| {
            let value = match key {
                FILE_TYPE => Value::U32(targets.ternary.file_type()),
                _ => value.clone(),
            };
            (key.to_owned(), value)
        })
        .collect()
}

/// What becomes of a tensor; the inner error says why nothing can.
fn item<'a>(
    gguf: &'a Gguf,
    tensor: &TensorInfo,
    targets: &Targets,
) -> Result<Result<Item<'a>, String>, ExportError> {
    if tensor.bytes().is_none() {
        return Ok(Err("its type is not read, so its size is not known".into()));
    }
    let bytes = gguf.slice(tensor)?;
    let item = |to: Form, change, note, content| {
        let report = TensorReport {
            name: tensor.name().into(),
            from: type_name(tensor),
            to: to.to_string(),
            change,
            bytes_before: bytes.len() as u64,
            bytes_after: 0, // known when it is declared
            error: None,
            note,
        };
        Ok(Ok(Item {
            report,
            bytes,
            to,
            content,
        }))
    };
    let (rows, cols) = shape(gguf, tensor)?;
    let name = tensor.name();
    let ternary_form = || targets.ternary.form(rows, cols, targets.tiles);
    let repacked = |rows: Box<dyn TernaryRows + 'a>, note| match ternary_form()
        .and_then(|to| to.check(&*rows).map(|()| to))
    {
        Ok(to) => {
            let masters = None;
            item(
                to,
                Change::Repacked,
                note,
                Content::Ternary { rows, masters },
            )
        }
        Err(error) => Ok(Err(error.to_string())),
    };
    let from = match tensor.type_id() {
        TypeId::Supported(from) => from,
        TypeId::Foreign(foreign) => {
            let scale = number(gguf, &scale_name(name))?;
            let opened = foreign::open(foreign, (rows, cols), bytes, scale, targets.tiles);
            return match opened {
                Ok(rows) => repacked(rows, None),
                Err(error) => Ok(Err(error.to_string())),
            };
        }
        other => return Ok(Err(other.to_string())),
    };
    let copy = || item(Form::Type(from), Change::Copied, None, Content::Copy);
    let wanted = [
        (TensorRole::Embedding, targets.embedding),
        (TensorRole::Head, targets.head),
    ];
    if let Some((_, wanted)) = wanted.iter().find(|(role, _)| role.gguf_name() == name) {
        return match *wanted {
            Some(to) if to != from => {
                if from == TensorType::I2S || !cols.is_multiple_of(to.block_len()) {
                    return Ok(Err(format!("rows of {cols} values cannot become {to}")));
                }
                let rows = DenseRows::new(from, to, cols, bytes);
                let change = if rows.is_exact() {
                    Change::Repacked
                } else {
                    Change::Converted
                };
                match rows.check() {
                    Ok(()) => item(Form::Type(to), change, None, Content::Dense(rows)),
                    Err(error) => Ok(Err(error.to_string())),
                }
            }
            _ => copy(),
        };
    }
    let mut note = None;
    let found: Result<Box<dyn TernaryRows + 'a>, QuantError> = match from {
        TensorType::I2S => {
            I2sRows::new(targets.i2s_dialect, rows, cols, bytes).map(|rows| Box::new(rows) as _)
        }
        _ if from.is_ternary() => {
            BlockTernaryRows::new(from, rows, cols, bytes).map(|rows| Box::new(rows) as _)
        }
        _ if from.is_float() && is_projection(name) => match recognise(from, rows, cols, bytes) {
            Err(error) => Err(error),
            Ok(Recognition::Ternary(rows)) => {
                note = neighbour_note(rows.neighbour());
                Ok(Box::new(rows) as _)
            }
            Ok(Recognition::Dense { .. }) if targets.ternarize => {
                return match MasterRows::new(from, (rows, cols), bytes) {
                    Ok(masters) => {
                        let rows: Box<dyn TernaryRows + 'a> = Box::new(masters.trits());
                        match ternary_form().and_then(|to| to.check(&*rows).map(|()| to)) {
                            Ok(to) => item(
                                to,
                                Change::Ternarised,
                                None,
                                Content::Ternary {
                                    rows,
                                    masters: Some(masters),
                                },
                            ),
                            Err(error) => Ok(Err(error.to_string())),
                        }
                    }
                    Err(error) => Ok(Err(error.to_string())),
                };
            }
            Ok(Recognition::Dense { magnitude, other }) => {
                return Ok(Err(format!(
                    "its weights are not ternary ({magnitude} and {other} are among their magnitudes)"
                )));
            }
        },
        _ => return copy(),
    };
    let found = match found {
        Ok(found) => found,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let standard = from != TensorType::I2S || targets.i2s_dialect == I2sDialect::Block128;
    if targets.ternary == TernaryTarget::Rows(from) && standard {
        // The same bytes, once they are known to be sound.
        return match repacked(found, note)? {
            Ok(_) => copy(),
            Err(why) => Ok(Err(why)),
        };
    }
    repacked(found, note)
}

fn shape(gguf: &Gguf, tensor: &TensorInfo) -> Result<(usize, usize), ModelError> {
    let size = |dim: u64| {
        usize::try_from(dim).map_err(|_| ModelError::Limit {
            file: gguf.file_of(tensor).into(),
            place: Place::Tensor(tensor.name().into()),
            offset: None,
            limit: usize::MAX as u64,
            unit: "values",
            found: dim,
        })
    };
    let (rows, cols) = tensor.shape();
    Ok((size(rows)?, size(cols)?))
}

/// Whether a name is that of one of a layer's seven matrices.
fn is_projection(name: &str) -> bool {
    let Some((layer, rest)) = name.strip_prefix("blk.").and_then(|n| n.split_once('.')) else {
        return false;
    };
    let Some(stem) = rest.strip_suffix(".weight") else {
        return false;
    };
    layer.bytes().all(|b| b.is_ascii_digit())
        && Projection::ALL
            .iter()
            .any(|projection| projection.gguf_name() == stem)
}

fn type_name(tensor: &TensorInfo) -> String {
    match tensor.tensor_type() {
        Some(ty) => ty.to_string(),
        None => tensor.type_id().to_string(),
    }
}
