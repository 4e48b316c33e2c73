//! Opening a model's files: where they lie, or as their copy in the cache.

use std::path::Path;

use bitnet_models::mmap::Access;
use bitnet_models::{Checkpoint, CheckpointOptions, ModelError};

use crate::error::Error;
use crate::loader::LoadOptions;
use crate::packed_cache::{CacheEntry, CachePurpose, PackedCache};
use crate::private_copy;

/// A model's files, opened.
pub(crate) struct Opened {
    pub checkpoint: Checkpoint,
    /// Where its packed weights are kept.
    pub entry: Option<CacheEntry>,
    /// Why there is no copy that should be there.
    pub warning: Option<String>,
}

/// Opens the model at `path` as `options` say.
pub(crate) fn open_checkpoint(path: &Path, options: &LoadOptions) -> Result<Opened, Error> {
    let cache = options.packed_cache.as_ref();
    let cache = cache.filter(|_| options.packs_as_chosen());
    // What cannot be looked at cannot be opened either, and that error is the better one.
    let entry = cache.and_then(|cache| CacheEntry::of(cache, path, &options.checkpoint).ok());
    let where_it_lies = |entry, warning| {
        Ok(Opened {
            checkpoint: Checkpoint::open(path, &options.checkpoint)?,
            entry,
            warning,
        })
    };
    let Some((cache, entry)) = cache.zip(entry) else {
        return where_it_lies(None, None);
    };
    if cache.purpose == CachePurpose::NextStart {
        return where_it_lies(Some(entry), None);
    }
    match open_copy(cache, &entry, path, &options.checkpoint)? {
        Copy::Of(checkpoint) => Ok(Opened {
            checkpoint: *checkpoint,
            entry: Some(entry),
            warning: None,
        }),
        Copy::NotWorthIt => where_it_lies(None, None),
        Copy::None(why) => {
            let warning = format!("the model is kept in memory, as its copy cannot be used: {why}");
            where_it_lies(None, Some(warning))
        }
    }
}

enum Copy {
    Of(Box<Checkpoint>),
    /// The model is too small for one.
    NotWorthIt,
    /// It cannot be made or read, for a reason that is not the model's.
    None(String),
}

fn open_copy(
    cache: &PackedCache,
    entry: &CacheEntry,
    path: &Path,
    options: &CheckpointOptions,
) -> Result<Copy, Error> {
    let copy = match private_copy::of(entry, path, cache.least_bytes) {
        Ok(Some(copy)) => copy,
        Ok(None) => return Ok(Copy::NotWorthIt),
        Err(error) => return Ok(Copy::None(error.to_string())),
    };
    let mapped = CheckpointOptions {
        // Through what is mapped, not by its name: that may lead elsewhere by now.
        access: Access::MapOwn,
        ..*options
    };
    match Checkpoint::open(&copy, &mapped) {
        Ok(checkpoint) => Ok(Copy::Of(Box::new(checkpoint))),
        Err(error @ ModelError::Io { .. }) => Ok(Copy::None(error.to_string())),
        Err(error) => {
            // Nothing is gained by keeping what is no model; that it cannot be removed costs room alone.
            let _ = private_copy::remove(entry);
            Err(error.into())
        }
    }
}
