//! The entries of a zip archive, where each is stored as it is: enough for `torch.save`, and nothing that could make
//! two readers see two archives.
//!
//! The central directory says what there is; every local header is held against it. Archives of several disks,
//! compressed or encrypted entries, comments behind the end, names that lead elsewhere, entries that share bytes:
//! refused. Source: PKWARE's APPNOTE 6.3.10, sections 4.3 to 4.5.

use std::ops::Range;

use crate::error::{ModelError, Place, quoted};
use crate::gguf::limits::MAX_TENSORS;

/// An entry with its place in the archive.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    pub name: &'a str,
    /// Its bytes, from the start of the file.
    pub data: Range<u64>,
    /// Where its local header starts.
    header: u64,
}

const END_BYTES: u64 = 22;
const LOCATOR_BYTES: u64 = 20;
const END64_BYTES: u64 = 56;
const CENTRAL_BYTES: u64 = 46;
const LOCAL_BYTES: u64 = 30;
/// Entries: one for each storage, and the few that describe the archive.
const MAX_ENTRIES: u64 = MAX_TENSORS + 64;
/// The extra field of sizes that need 64 bits.
const ZIP64_EXTRA: u16 = 1;
/// Flag: sizes are told behind the data, not in the local header.
const SIZES_BEHIND: u16 = 1 << 3;
/// Flags: encrypted, patched, strongly encrypted, masked.
const UNREADABLE: u16 = 1 | 1 << 5 | 1 << 6 | 1 << 13;

/// All entries, sorted by name.
pub fn entries<'a>(file: &'a str, bytes: &'a [u8]) -> Result<Vec<Entry<'a>>, ModelError> {
    let zip = Zip { file, bytes };
    let (directory, n_entries) = zip.directory()?;
    let (mut at, mut entries) = (directory.start, Vec::new());
    for _ in 0..n_entries {
        let (entry, end) = zip.entry(at, &directory)?;
        entries.push(entry);
        at = end;
    }
    if at != directory.end {
        let found = format!("{} more bytes", directory.end - at);
        return Err(zip.malformed(at, format!("{n_entries} entries and no more"), found));
    }
    entries.sort_unstable_by_key(|entry| entry.header);
    for pair in entries.windows(2) {
        if pair[1].header < pair[0].data.end {
            let found = format!("{} inside of {}", shown(&pair[1]), shown(&pair[0]));
            return Err(zip.malformed(pair[1].header, "entries side by side".into(), found));
        }
    }
    entries.sort_unstable_by_key(|entry| entry.name);
    for pair in entries.windows(2) {
        if pair[0].name == pair[1].name {
            let found = format!("{} twice", shown(&pair[1]));
            return Err(zip.malformed(pair[1].header, "each name once".into(), found));
        }
    }
    Ok(entries)
}

fn shown(entry: &Entry) -> String {
    quoted(entry.name)
}

struct Zip<'a> {
    file: &'a str,
    bytes: &'a [u8],
}

/// A record's fields, read from a part that is known to be long enough.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.0[at], self.0[at + 1]])
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from(self.u16(at)) | u32::from(self.u16(at + 2)) << 16
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at)) | u64::from(self.u32(at + 4)) << 32
    }
}

impl<'a> Zip<'a> {
    /// Where the central directory is, and how many entries it has.
    fn directory(&self) -> Result<(Range<u64>, u64), ModelError> {
        let len = self.bytes.len() as u64;
        let end_at = len.saturating_sub(END_BYTES);
        let end = self.record(end_at, END_BYTES, *b"PK\x05\x06", "end of the archive")?;
        let comment = end.u16(20);
        if comment != 0 {
            let found = format!("{comment} more bytes");
            return Err(self.malformed(end_at, "no comment".into(), found));
        }
        let disks = [end.u16(4), end.u16(6)];
        let mut counts = [u64::from(end.u16(8)), u64::from(end.u16(10))];
        let mut size = u64::from(end.u32(12));
        let mut start = u64::from(end.u32(16));
        let saturated =
            counts.contains(&0xFFFF) || size == u64::from(u32::MAX) || start == u64::from(u32::MAX);
        let mut limit = end_at;
        if saturated {
            let locator_at = end_at.saturating_sub(LOCATOR_BYTES);
            let locator = self.record(locator_at, LOCATOR_BYTES, *b"PK\x06\x07", "64-bit end")?;
            limit = locator.u64(8);
            let end64 = self.record(limit, END64_BYTES, *b"PK\x06\x06", "64-bit end")?;
            if locator.u32(4) != 0 || end64.u32(16) != 0 || end64.u32(20) != 0 {
                return Err(self.malformed(limit, "one disk".into(), "several".into()));
            }
            counts = [end64.u64(24), end64.u64(32)];
            size = end64.u64(40);
            start = end64.u64(48);
        } else if disks != [0, 0] {
            return Err(self.malformed(end_at, "one disk".into(), "several".into()));
        }
        if counts[0] != counts[1] {
            let found = format!("{} of {}", counts[0], counts[1]);
            return Err(self.malformed(end_at, "all entries on one disk".into(), found));
        }
        if counts[1] > MAX_ENTRIES {
            return Err(ModelError::Limit {
                file: self.file.into(),
                place: Place::Part("entries of the archive"),
                offset: Some(end_at),
                limit: MAX_ENTRIES,
                unit: "entries",
                found: counts[1],
            });
        }
        match start.checked_add(size) {
            Some(end) if end <= limit => Ok((start..end, counts[1])),
            _ => {
                let found = format!("{size} bytes from byte {start} on");
                let expected = format!("a central directory before byte {limit}");
                Err(self.malformed(end_at, expected, found))
            }
        }
    }

    /// The entry whose record in the central directory starts at `at`, and where that record ends.
    fn entry(&self, at: u64, directory: &Range<u64>) -> Result<(Entry<'a>, u64), ModelError> {
        let central = self.record(at, CENTRAL_BYTES, *b"PK\x01\x02", "central directory")?;
        let lengths = [central.u16(28), central.u16(30), central.u16(32)].map(u64::from);
        let name_end = at + CENTRAL_BYTES + lengths[0];
        let end = name_end + lengths[1] + lengths[2];
        if end > directory.end {
            let found = format!("one that ends at byte {end}");
            let expected = format!("a record before byte {}", directory.end);
            return Err(self.malformed(at, expected, found));
        }
        let name = self.name(at + CENTRAL_BYTES..name_end)?;
        let (flags, method) = (central.u16(8), central.u16(10));
        if flags & UNREADABLE != 0 {
            return Err(self.refused(at, format!("{} encrypted", quoted(name))));
        }
        if method != 0 {
            let found = format!("{} compressed (method {method})", quoted(name));
            return Err(self.refused(at, found));
        }
        let [size, packed, header] = self.sizes(at, &central, name_end..name_end + lengths[1])?;
        if size != packed {
            let found = format!("{packed} bytes for {size} of {}", quoted(name));
            return Err(self.malformed(at, "entries stored as they are".into(), found));
        }
        let start = self.local(header, name, size)?;
        match start.checked_add(size) {
            Some(data_end) if data_end <= directory.start => {
                let data = start..data_end;
                Ok((Entry { name, data, header }, end))
            }
            _ => Err(ModelError::Truncated {
                file: self.file.into(),
                place: Place::Field(name.into()),
                offset: start,
                needed: size,
                available: directory.start.saturating_sub(start),
            }),
        }
    }

    /// Size, packed size and offset of the local header: those of 32 bits, or of the extra field where they are full.
    fn sizes(&self, at: u64, central: &Fields, extra: Range<u64>) -> Result<[u64; 3], ModelError> {
        let mut sizes = [central.u32(24), central.u32(20), central.u32(42)].map(u64::from);
        let full = u64::from(u32::MAX);
        let mut wide = Fields(&[]);
        let mut rest = self.part(extra);
        while let Some((head, tail)) = rest.split_first_chunk::<4>() {
            let len = usize::from(Fields(head).u16(2));
            let Some((content, tail)) = tail.split_at_checked(len) else {
                break; // padding, which some writers leave
            };
            if Fields(head).u16(0) == ZIP64_EXTRA {
                wide = Fields(content);
            }
            rest = tail;
        }
        let mut field = 0;
        for size in sizes.iter_mut().filter(|size| **size == full) {
            if wide.0.len() < field + 8 {
                let found = "no 64-bit extra field that holds it".into();
                return Err(self.malformed(at, "a size of 64 bits".into(), found));
            }
            *size = wide.u64(field);
            field += 8;
        }
        Ok(sizes)
    }

    /// Holds a local header against its entry; returns where the data start.
    fn local(&self, at: u64, name: &str, size: u64) -> Result<u64, ModelError> {
        let local = self.record(at, LOCAL_BYTES, *b"PK\x03\x04", "local header")?;
        let name_start = at + LOCAL_BYTES;
        let name_end = name_start + u64::from(local.u16(26));
        let start = name_end + u64::from(local.u16(28));
        if start > self.bytes.len() as u64 {
            return Err(self.cut_short(at, start - at, "local header"));
        }
        let (flags, method) = (local.u16(6), local.u16(8));
        let told = [local.u32(18), local.u32(22)].map(u64::from);
        let agrees = |told: u64| told == size || told == u64::from(u32::MAX);
        let sizes_agree = told.into_iter().all(agrees);
        let sizes_come_later = flags & SIZES_BEHIND != 0 && told == [0, 0];
        if self.part(name_start..name_end) != name.as_bytes()
            || method != 0
            || flags & UNREADABLE != 0
        {
            let expected = format!("a local header of {}, stored", quoted(name));
            return Err(self.malformed(at, expected, "another".into()));
        }
        if !sizes_agree && !sizes_come_later {
            let found = format!("{} and {}", told[0], told[1]);
            return Err(self.malformed(at, format!("{size} bytes of {}", quoted(name)), found));
        }
        Ok(start)
    }

    /// A name that means one file below the archive's root.
    fn name(&self, range: Range<u64>) -> Result<&'a str, ModelError> {
        let at = range.start;
        let bytes = self.part(range);
        let Ok(name) = std::str::from_utf8(bytes) else {
            let found = format!("{:?}", quoted(&String::from_utf8_lossy(bytes)));
            return Err(self.malformed(at, "a name in UTF-8".into(), found));
        };
        let plain = |part: &str| !matches!(part, "" | "." | "..");
        let odd = |c: char| c.is_control() || matches!(c, '\\' | ':');
        if name.split('/').all(plain) && !name.contains(odd) {
            return Ok(name);
        }
        Err(self.refused(at, format!("the name \"{}\"", quoted(name))))
    }

    /// The fixed part of a record that begins with `magic`.
    fn record(
        &self,
        at: u64,
        len: u64,
        magic: [u8; 4],
        what: &'static str,
    ) -> Result<Fields<'a>, ModelError> {
        if at
            .checked_add(len)
            .is_none_or(|end| end > self.bytes.len() as u64)
        {
            return Err(self.cut_short(at, len, what));
        }
        let bytes = self.part(at..at + len);
        if bytes[..4] != magic {
            let found = format!("the bytes {:02x?}", &bytes[..4]);
            let expected = format!("{what} ({})", magic.escape_ascii());
            return Err(self.malformed(at, expected, found));
        }
        Ok(Fields(bytes))
    }

    /// A part that is known to lie in the file.
    fn part(&self, range: Range<u64>) -> &'a [u8] {
        &self.bytes[range.start as usize..range.end as usize]
    }

    fn cut_short(&self, at: u64, needed: u64, what: &'static str) -> ModelError {
        ModelError::Truncated {
            file: self.file.into(),
            place: Place::Part(what),
            offset: at,
            needed,
            available: (self.bytes.len() as u64).saturating_sub(at),
        }
    }

    fn malformed(&self, at: u64, expected: String, found: String) -> ModelError {
        ModelError::Malformed {
            file: self.file.into(),
            place: Place::Part("zip archive"),
            offset: Some(at),
            expected,
            found,
        }
    }

    fn refused(&self, at: u64, found: String) -> ModelError {
        ModelError::Pickle {
            file: self.file.into(),
            place: Place::Part("zip archive"),
            offset: Some(at),
            expected: "plain entries as torch.save stores them".into(),
            found: found.into(),
        }
    }
}
