//! What a file is that turns out not to be a readable model, and what to do with it.

use std::fmt;

/// A GGUF version field that is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufVersion {
    /// The first version, with 32-bit counts.
    One,
    /// Big-endian byte order, with its version.
    BigEndian(u32),
    /// A version that has never been published.
    Unknown(u32),
}

impl GgufVersion {
    pub(crate) fn hint(self) -> &'static str {
        match self {
            Self::One => {
                "version 1 was in use for a few weeks of 2023: convert the original model again with a current tool"
            }
            Self::BigEndian(_) => {
                "convert the file to little-endian (gguf-py's gguf_convert_endian does it), or fetch the little-endian release"
            }
            Self::Unknown(_) => {
                "the file is damaged or newer than this program: download it again, or update bitnet"
            }
        }
    }
}

impl fmt::Display for GgufVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One => f.write_str("version 1"),
            Self::BigEndian(version) => write!(f, "a big-endian file of version {version}"),
            Self::Unknown(version) => write!(f, "version {version}"),
        }
    }
}

/// What a file looks like that is not a model, from its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// No bytes at all.
    Empty,
    /// Fewer bytes than the smallest header.
    TooShort(u64),
    /// A pointer file that git-lfs left in place of the real one.
    GitLfsPointer,
    /// A web page: usually a login or error page saved under the model's name.
    Html,
    /// A JSON document.
    Json,
    /// Text.
    Text,
    /// A pickle or the zip archive that torch.save writes.
    Pickle,
    /// A safetensors file named by itself, without its directory.
    Safetensors,
    /// llama.cpp's formats before GGUF (ggml, ggmf, ggjt).
    OldGgml,
    /// A gzip, zstd or xz archive.
    Compressed,
    /// A later part of a GGUF split.
    LaterShard,
    /// None of the above.
    Unknown([u8; 4]),
}

impl FileKind {
    /// Guesses from the start of a file what it is, once it is known not to be GGUF.
    pub fn of(bytes: &[u8]) -> Self {
        let head = &bytes[..bytes.len().min(512)];
        let text = head.trim_ascii_start();
        let starts = |prefix: &[u8]| head.starts_with(prefix);
        if head.is_empty() {
            return Self::Empty;
        }
        if starts(b"version https://git-lfs") {
            return Self::GitLfsPointer;
        }
        let tag = text.get(..9).unwrap_or(text).to_ascii_lowercase();
        if tag.starts_with(b"<!doctype") || tag.starts_with(b"<html") || tag.starts_with(b"<?xml") {
            return Self::Html;
        }
        if starts(b"PK\x03\x04")
            || (head.len() > 1 && head[0] == 0x80 && (2..=5).contains(&head[1]))
        {
            return Self::Pickle;
        }
        if [
            &b"lmgg"[..],
            b"ggml",
            b"fmgg",
            b"ggmf",
            b"tjgg",
            b"ggjt",
            b"algg",
            b"ggla",
        ]
        .iter()
        .any(|m| starts(m))
        {
            return Self::OldGgml;
        }
        if starts(&[0x1f, 0x8b]) || starts(&[0x28, 0xb5, 0x2f, 0xfd]) || starts(b"\xfd7zXZ") {
            return Self::Compressed;
        }
        if head.len() > 9 && head[8] == b'{' && head[5..8] == [0, 0, 0] {
            return Self::Safetensors;
        }
        let is_text = |b: &u8| matches!(b, b'\t' | b'\n' | b'\r' | 0x20..=0x7e | 0x80..);
        if head.iter().all(is_text)
            && std::str::from_utf8(&head[..head.len().saturating_sub(3)]).is_ok()
        {
            return if text.starts_with(b"{") || text.starts_with(b"[") {
                Self::Json
            } else {
                Self::Text
            };
        }
        match head.first_chunk::<4>() {
            Some(magic) => Self::Unknown(*magic),
            None => Self::TooShort(head.len() as u64),
        }
    }

    pub(crate) fn hint(self) -> &'static str {
        match self {
            Self::Empty | Self::TooShort(_) => {
                "the download failed or is unfinished: fetch the file again"
            }
            Self::GitLfsPointer => {
                "this is git-lfs's note of where the file is: run `git lfs pull` in that folder, or download the file itself"
            }
            Self::Html => {
                "a web page was saved instead of the model: use the download link of the file itself (…/resolve/main/…)"
            }
            Self::Json | Self::Text => {
                "name the .gguf file, or the directory that holds config.json and model.safetensors"
            }
            Self::Pickle => {
                "pickles can run code when Python opens them: take the model's safetensors files (in Python, \
                 `from_pretrained(DIR).save_pretrained(OUT)` writes them), or have the tensors \
                 alone read from the directory with `bitnet convert --allow-pickle DIR OUT.gguf`"
            }
            Self::Safetensors => {
                "name the directory that holds this file, its config.json and its tokenizer.json"
            }
            Self::OldGgml => {
                "files from before GGUF (2023) are not read: convert the original model again"
            }
            Self::Compressed => "unpack the file first",
            Self::LaterShard => "name the first file of the split (…-00001-of-…)",
            Self::Unknown(_) => {
                "a GGUF file starts with the bytes GGUF: check that the download is the right file"
            }
        }
    }
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "empty",
            Self::TooShort(len) => return write!(f, "only {len} bytes long"),
            Self::GitLfsPointer => "a git-lfs pointer",
            Self::Html => "a web page",
            Self::Json => "a JSON document",
            Self::Text => "a text file",
            Self::Pickle => "a Python pickle or zip archive",
            Self::Safetensors => "a single safetensors file without its directory",
            Self::OldGgml => "a ggml file from before GGUF",
            Self::Compressed => "a compressed archive",
            Self::LaterShard => "a later file of a split model",
            Self::Unknown(magic) => {
                return write!(f, "of an unknown kind (first bytes {:02x?})", magic);
            }
        })
    }
}
