//! A checkpoint's directory: `model.safetensors`, or several files and `model.safetensors.index.json`; for pickles
//! `pytorch_model.bin` and its index.
//!
//! The index is read twice and never kept: first for the files' names, then, when they are open, to hold each of its
//! entries against them.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::{Shard, TensorContainer, TensorFiles};
use crate::error::{ModelError, Place, file_name, quoted};
use crate::file_kind::FileKind;
use crate::gguf::limits::MAX_SHARDS;
use crate::mmap::{Access, FileBytes};
use crate::pickle;
use crate::safetensors::shown;

/// A whole checkpoint.
const WHOLE: &str = "model.safetensors";
/// The list of files of a sharded one.
const INDEX: &str = "model.safetensors.index.json";

impl TensorFiles {
    /// Maps the weights of a Hugging Face model directory. Where it has no safetensors, pickles are read in their place
    /// if `allow_pickle` says so.
    ///
    /// # Errors
    /// [`ModelError::IncompleteDirectory`] when there are none, [`ModelError::NotAModel`] for pickles that are not
    /// allowed, and every way in which files or index can be damaged or hostile.
    pub fn open_dir(dir: &Path, access: Access, allow_pickle: bool) -> Result<Self, ModelError> {
        let existing = |name: &str| Some(dir.join(name)).filter(|path| path.exists());
        if let Some(whole) = existing(WHOLE) {
            return Self::open_whole(TensorContainer::Safetensors, &whole, access);
        }
        if let Some(index) = existing(INDEX) {
            return Self::open_sharded(TensorContainer::Safetensors, dir, &index, access);
        }
        let whole = pickle::WHOLE.iter().find_map(|name| existing(name));
        let Some(found) = whole.or_else(|| existing(pickle::INDEX)) else {
            return Err(ModelError::IncompleteDirectory {
                file: file_name(dir),
                missing: WHOLE,
            });
        };
        if !allow_pickle {
            return Err(ModelError::NotAModel {
                file: file_name(&found),
                found: FileKind::Pickle,
            });
        }
        let opened = if found.ends_with(pickle::INDEX) {
            Self::open_sharded(TensorContainer::Pickle, dir, &found, access)?
        } else {
            Self::open_whole(TensorContainer::Pickle, &found, access)?
        };
        Ok(match access {
            Access::ReadIntoMemory => opened.keep_shared(),
            Access::Map | Access::MapOwn => opened,
        })
    }

    fn open_whole(
        container: TensorContainer,
        path: &Path,
        access: Access,
    ) -> Result<Self, ModelError> {
        Self::from_bytes(container, &file_name(path), FileBytes::load(path, access)?)
    }

    fn open_sharded(
        container: TensorContainer,
        dir: &Path,
        index: &Path,
        access: Access,
    ) -> Result<Self, ModelError> {
        let index_name = file_name(index);
        let index_bytes = FileBytes::load(index, access)?;
        let mut names = BTreeSet::new();
        walk(&index_name, &index_bytes, &mut |_, shard| {
            check_name(container, shard)?;
            if !names.contains(shard) {
                if names.len() as u64 == MAX_SHARDS {
                    return Err(format!("more than {MAX_SHARDS} files"));
                }
                names.insert(shard.to_owned());
            }
            Ok(())
        })?;
        if names.is_empty() {
            return Err(ModelError::Malformed {
                file: index_name,
                place: Place::Field("weight_map".into()),
                offset: None,
                expected: "at least one tensor".into(),
                found: "none".into(),
            });
        }
        let mut parts = Vec::new();
        for (shard, name) in names.iter().enumerate() {
            let path = dir.join(name);
            let bytes = FileBytes::load(&path, access)?;
            let tensors = container.read(&file_name(&path), &bytes, shard as u16)?;
            parts.push((
                Shard {
                    name: file_name(&path),
                    bytes,
                },
                tensors,
            ));
        }
        let joined = Self::join(container, parts)?;
        let order: Vec<&String> = names.iter().collect();
        walk(&index_name, &index_bytes, &mut |tensor, shard| {
            let found = joined.tensor(tensor).map(|tensor| order[tensor.shard()]);
            match found {
                Some(found) if found == shard => Ok(()),
                Some(found) => Err(format!(
                    "tensor {} in {}, not in {}",
                    quoted(tensor),
                    found,
                    quoted(shard)
                )),
                None => Err(format!("tensor {}, which no file holds", quoted(tensor))),
            }
        })?;
        Ok(joined)
    }
}

/// Refuses a file name that could lead out of the directory, or that is not one of weights.
fn check_name(container: TensorContainer, name: &str) -> Result<(), String> {
    let plain = !name.starts_with('.')
        && !name.contains(['/', '\\', ':', '\0'])
        && !name.chars().any(char::is_control);
    let (of_weights, pattern) = match container {
        TensorContainer::Safetensors => (name.ends_with(".safetensors"), "ending in .safetensors"),
        TensorContainer::Pickle => (pickle::is_weights(name), "like pytorch_model-….bin"),
    };
    if plain && of_weights {
        return Ok(());
    }
    Err(format!(
        "file name {}: only plain names {pattern} are followed",
        shown(name)
    ))
}

/// Calls `each(tensor, file)` for every entry of the index's `weight_map`.
fn walk(
    file: &str,
    index: &[u8],
    each: &mut dyn FnMut(&str, &str) -> Result<(), String>,
) -> Result<(), ModelError> {
    let mut json = serde_json::Deserializer::from_slice(index);
    let walked = Document(each)
        .deserialize(&mut json)
        .and_then(|()| json.end());
    walked.map_err(|error| ModelError::Malformed {
        file: file.into(),
        place: Place::Field("weight_map".into()),
        offset: None,
        expected: "an object of tensor names and file names".into(),
        found: error.to_string(),
    })
}

type Each<'f> = &'f mut dyn FnMut(&str, &str) -> Result<(), String>;

struct Document<'f>(Each<'f>);
struct WeightMap<'f>(Each<'f>);

impl<'de> DeserializeSeed<'de> for Document<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> DeserializeSeed<'de> for WeightMap<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Document<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a weight_map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut found = false;
        while let Some(key) = map.next_key::<Field<'de>>()? {
            if key.0 != "weight_map" {
                map.next_value::<IgnoredAny>()?;
            } else if found {
                return Err(A::Error::custom("weight_map twice"));
            } else {
                map.next_value_seed(WeightMap(&mut *self.0))?;
                found = true;
            }
        }
        if found {
            Ok(())
        } else {
            Err(A::Error::missing_field("weight_map"))
        }
    }
}

impl<'de> Visitor<'de> for WeightMap<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensor names and file names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((tensor, shard)) = map.next_entry::<Field<'de>, Field<'de>>()? {
            (self.0)(&tensor.0, &shard.0).map_err(A::Error::custom)?;
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Field<'a>(#[serde(borrow)] Cow<'a, str>);
