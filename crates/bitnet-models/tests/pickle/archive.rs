//! Zip archives and pickles written byte by byte, so that each field can lie.

/// An entry as it is written: what the two headers say, and the bytes.
#[derive(Debug, Clone)]
pub struct Entry {
    pub name: String,
    /// The name in the local header.
    pub local_name: String,
    pub data: Vec<u8>,
    pub method: u16,
    pub flags: u16,
    /// Sizes in the central directory: unpacked and packed.
    pub sizes: [u32; 2],
    /// Where the central directory says that the local header is; by default where it is.
    pub header: Option<u32>,
    pub extra: Vec<u8>,
}

impl Entry {
    pub fn new(name: &str, data: &[u8]) -> Self {
        Self {
            name: name.into(),
            local_name: name.into(),
            data: data.into(),
            method: 0,
            flags: 0,
            sizes: [data.len() as u32; 2],
            header: None,
            extra: Vec::new(),
        }
    }
}

/// The archive of these entries.
pub fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let entries: Vec<_> = entries
        .iter()
        .map(|(name, data)| Entry::new(name, data))
        .collect();
    zip_of(&entries)
}

pub fn zip_of(entries: &[Entry]) -> Vec<u8> {
    let (mut out, mut central) = (Vec::new(), Vec::new());
    for entry in entries {
        let at = out.len() as u32;
        let numbers = |out: &mut Vec<u8>, numbers: &[u16]| {
            out.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        };
        out.extend(b"PK\x03\x04");
        numbers(&mut out, &[20, entry.flags, entry.method, 0, 0, 0, 0]);
        for size in [entry.data.len() as u32; 2] {
            out.extend(size.to_le_bytes());
        }
        numbers(&mut out, &[entry.local_name.len() as u16, 0]);
        out.extend(entry.local_name.as_bytes());
        out.extend(&entry.data);
        central.extend(b"PK\x01\x02");
        numbers(
            &mut central,
            &[20, 20, entry.flags, entry.method, 0, 0, 0, 0],
        );
        let [size, packed] = entry.sizes;
        central.extend(packed.to_le_bytes());
        central.extend(size.to_le_bytes());
        let lengths = [entry.name.len() as u16, entry.extra.len() as u16];
        numbers(&mut central, &[lengths[0], lengths[1], 0, 0, 0, 0, 0]);
        central.extend(entry.header.unwrap_or(at).to_le_bytes());
        central.extend(entry.name.as_bytes());
        central.extend(&entry.extra);
    }
    let start = out.len() as u32;
    out.extend(&central);
    end(&mut out, entries.len() as u16, central.len() as u32, start);
    out
}

/// The record that ends an archive.
pub fn end(out: &mut Vec<u8>, count: u16, size: u32, start: u32) {
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend([count.to_le_bytes(); 2].concat());
    out.extend(size.to_le_bytes());
    out.extend(start.to_le_bytes());
    out.extend([0, 0]);
}

/// `BINUNICODE`.
pub fn text(text: &str) -> Vec<u8> {
    let mut out = vec![b'X'];
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
    out
}

/// `BININT`.
pub fn int(number: u32) -> Vec<u8> {
    let mut out = vec![b'J'];
    out.extend(number.to_le_bytes());
    out
}

/// A tuple of integers.
pub fn sizes(sizes: &[u32]) -> Vec<u8> {
    let numbers = sizes.iter().flat_map(|size| int(*size));
    [b"(".to_vec(), numbers.collect(), b"t".to_vec()].concat()
}

/// A storage of `len` floats.
pub fn storage(key: &str, len: u32) -> Vec<u8> {
    let class = b"ctorch\nFloatStorage\n".to_vec();
    let parts = [text("storage"), class, text(key), text("cpu"), int(len)].concat();
    [b"(".to_vec(), parts, b"tQ".to_vec()].concat()
}

/// A call of `_rebuild_tensor_v2`.
pub fn tensor(storage: &[u8], offset: u32, shape: &[u32], stride: &[u32]) -> Vec<u8> {
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n(",
        storage,
        &*int(offset),
        &*sizes(shape),
        &*sizes(stride),
        b"\x89ccollections\nOrderedDict\n)RtR",
    ]
    .concat()
}

/// A pickle that ends with a dict of these pairs of key and value.
pub fn dict(pairs: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let pairs = pairs
        .iter()
        .flat_map(|(key, value)| [text(key), value.clone()].concat());
    [b"\x80\x02}(".to_vec(), pairs.collect(), b"u.".to_vec()].concat()
}

/// Tensors of floats, all of them the start of storage 0, which has as many floats as the first.
pub fn state_dict(tensors: &[(&str, &[u32])]) -> Vec<u8> {
    let len = tensors
        .first()
        .map_or(0, |(_, shape)| shape.iter().product());
    let pairs = tensors.iter().map(|(name, shape)| {
        let stride: Vec<u32> = (1..=shape.len())
            .map(|dim| shape[dim..].iter().product())
            .collect();
        (*name, tensor(&storage("0", len), 0, shape, &stride))
    });
    dict(&pairs.collect::<Vec<_>>())
}
