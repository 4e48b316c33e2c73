//! An archive of `torch.save`: its pickle, and where the numbers of each storage are.

use std::ops::Range;

use super::zip::{self, Entry};
use crate::error::{ModelError, Place, quoted};
use crate::file_kind::FileKind;
use crate::gguf::limits::MAX_NAME_BYTES;

/// Longest pickle that is read. A tensor takes 80 to 150 bytes of it, so this is some 100,000 tensors.
const MAX_PICKLE_BYTES: u64 = 16 << 20;
/// The first thing in files from before PyTorch 1.6, behind the protocol: a magic number of ten bytes.
const LEGACY: [u8; 12] = *b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
/// The first byte of a bare pickle.
const PROTO: u8 = 0x80;

/// An open archive.
#[derive(Debug)]
pub struct Archive<'a> {
    pub file: &'a str,
    bytes: &'a [u8],
    /// Sorted by name.
    entries: Vec<Entry<'a>>,
    /// The folder that all entries are in.
    folder: &'a str,
    /// Where the pickle is, from the start of the file.
    pickle: Range<u64>,
}

impl<'a> Archive<'a> {
    /// Finds the pickle, and makes sure that the numbers are little-endian.
    pub fn open(file: &'a str, bytes: &'a [u8]) -> Result<Self, ModelError> {
        let refused = |place, found: &str| ModelError::Pickle {
            file: file.into(),
            place: Place::Part(place),
            offset: None,
            expected: "a state dict as torch.save writes it since PyTorch 1.6 (a zip archive)"
                .into(),
            found: found.into(),
        };
        if bytes.first() == Some(&PROTO) {
            let is_legacy = bytes.get(2..2 + LEGACY.len()) == Some(&LEGACY[..]);
            return Err(refused(
                "container",
                if is_legacy {
                    "PyTorch's format from before 1.6: load and save it again with a newer PyTorch"
                } else {
                    "a bare pickle"
                },
            ));
        }
        if !bytes.starts_with(b"PK") {
            return Err(ModelError::NotAModel {
                file: file.into(),
                found: FileKind::of(bytes),
            });
        }
        let entries = zip::entries(file, bytes)?;
        let named = |entry: &&Entry<'a>| {
            let (_, name) = entry.name.split_once('/')?;
            (name == "data.pkl").then(|| (entry.name, entry.data.clone()))
        };
        let pickles: Vec<_> = entries.iter().filter_map(|entry| named(&entry)).collect();
        let [(name, pickle)] = pickles.as_slice() else {
            let found = format!("{} entries of this name", pickles.len());
            return Err(refused("data.pkl", &found));
        };
        let folder = name.strip_suffix("data.pkl").unwrap_or_default();
        // It is a part of each name that is searched for.
        if folder.len() as u64 > MAX_NAME_BYTES {
            let found = format!("an entry in a folder whose name has {} bytes", folder.len());
            return Err(refused("data.pkl", &found));
        }
        let archive = Self {
            file,
            bytes,
            folder,
            pickle: pickle.clone(),
            entries,
        };
        if archive.entry("constants.pkl").is_some() {
            return Err(refused("container", "a TorchScript program"));
        }
        if let Some(order) = archive.entry("byteorder") {
            let order = archive.part(order);
            if order != b"little" {
                let order = String::from_utf8_lossy(&order[..order.len().min(16)]);
                let found = format!("numbers in the byte order \"{}\"", quoted(&order));
                return Err(refused("byteorder", &found));
            }
        }
        let len = archive.pickle.end - archive.pickle.start;
        if len > MAX_PICKLE_BYTES {
            return Err(ModelError::Limit {
                file: file.into(),
                place: Place::Part("data.pkl"),
                offset: Some(archive.pickle.start),
                limit: MAX_PICKLE_BYTES,
                unit: "bytes",
                found: len,
            });
        }
        Ok(archive)
    }

    /// The pickle.
    pub fn pickle(&self) -> &'a [u8] {
        self.part(self.pickle.clone())
    }

    /// Where a byte of the pickle is in the file.
    pub fn offset(&self, at: usize) -> u64 {
        self.pickle.start + at as u64
    }

    /// Where the numbers of a storage are, from the start of the file. A key that is longer than names are is none: it
    /// would be searched for as often as a pickle says so.
    pub fn storage(&self, key: &str) -> Option<Range<u64>> {
        let is_short = key.len() as u64 <= MAX_NAME_BYTES;
        let plain = is_short && !key.is_empty() && !key.contains('/');
        plain.then(|| self.entry(&format!("data/{key}"))).flatten()
    }

    fn entry(&self, name: &str) -> Option<Range<u64>> {
        let name = format!("{}{name}", self.folder);
        let found = self
            .entries
            .binary_search_by(|entry| entry.name.cmp(&name))
            .ok()?;
        Some(self.entries[found].data.clone())
    }

    /// Checked against the file by the zip reader.
    fn part(&self, range: Range<u64>) -> &'a [u8] {
        &self.bytes[range.start as usize..range.end as usize]
    }
}
