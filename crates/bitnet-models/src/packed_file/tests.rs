use std::fs;

use bitnet_kernels::PieceWriter;

use super::*;

/// A file of three arrays in a folder of its own.
fn written(key: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/model.bnpk");
    let mut writer = PackedFileWriter::create(&path, key, "cpu-test").unwrap();
    writer.has_head_copy();
    for array in arrays() {
        writer.array(array.into()).unwrap();
    }
    let len = writer.finish(false).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), len);
    (folder, path)
}

fn arrays() -> [Vec<u8>; 3] {
    let long: Vec<u8> = (0..3 * SUMMED_AT_ONCE / 2)
        .map(|i| (i % 251) as u8)
        .collect();
    [vec![1, 2, 3], Vec::new(), long]
}

#[test]
fn arrays_come_back_aligned_and_in_order() {
    let (_folder, path) = written("key");
    let mut file = PackedFile::open(&path, "key", 2).unwrap().unwrap();
    assert_eq!((file.packing(), file.has_head_copy()), ("cpu-test", true));
    for expected in arrays() {
        let array = file.array().unwrap();
        assert!(array == expected);
        assert!(array.is_empty() || array.as_ptr().addr().is_multiple_of(PACKED_ALIGNMENT));
    }
    assert!(file.array().is_none());
}

#[test]
fn no_file_is_no_error_and_another_key_is_one() {
    let (folder, path) = written("key");
    let missing = folder.path().join("other.bnpk");
    assert!(PackedFile::open(&missing, "key", 1).unwrap().is_none());
    let error = PackedFile::open(&path, "other key", 1).unwrap_err();
    assert!(matches!(error, PackedFileError::OtherKey { .. }), "{error}");
}

#[test]
fn every_flipped_byte_that_matters_and_every_cut_is_found() {
    let (_folder, path) = written("key");
    let whole = fs::read(&path).unwrap();
    let arrays = arrays();
    let long = HEADER_BYTES + 64; // where the last array starts: behind the first, on the next border
    let last = long + arrays[2].len();
    let places = [
        0,
        8,
        13,
        20,
        30,
        34,
        HEADER_BYTES,
        HEADER_BYTES + 2,
        long,
        last - 1,
        last,
        whole.len() - 1,
    ];
    for at in places {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert!(PackedFile::open(&path, "key", 3).is_err(), "byte {at}");
    }
    for len in [0, 7, 63, 64, long, last, whole.len() - 1] {
        fs::write(&path, &whole[..len]).unwrap();
        assert!(PackedFile::open(&path, "key", 1).is_err(), "length {len}");
    }
    fs::write(&path, &whole).unwrap();
    assert!(PackedFile::open(&path, "key", 1).unwrap().is_some());
}

#[test]
fn an_unfinished_file_leaves_nothing_and_the_old_one_stays() {
    let (_folder, path) = written("key");
    let before = fs::read(&path).unwrap();
    let mut writer = PackedFileWriter::create(&path, "new key", "cpu-test").unwrap();
    writer.array(vec![9; 100].into()).unwrap();
    drop(writer);
    assert!(fs::read(&path).unwrap() == before);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn arrays_that_come_in_pieces_are_the_same_bytes() {
    let arrays: Vec<Bytes> = [1000, 0, 63, 64, 3 << 20]
        .iter()
        .map(|&len| {
            (0..len)
                .map(|i| (i % 241) as u8 + 1)
                .collect::<Vec<u8>>()
                .into()
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut whole = PackedFileWriter::create(&at("whole"), "key", "cpu-test").unwrap();
    for array in &arrays {
        whole.array(array.clone()).unwrap();
    }
    whole.finish(true).unwrap();

    let mut pieces = PackedFileWriter::create(&at("pieces"), "key", "cpu-test").unwrap();
    pieces.array(arrays[0].clone()).unwrap();
    let lens: Vec<usize> = arrays[1..4].iter().map(Bytes::len).collect();
    pieces.begin_arrays(&lens).unwrap();
    for range in [0..10, 10..63] {
        for (i, array) in arrays[1..4].iter().enumerate().rev() {
            let end = range.end.min(array.len());
            pieces.piece(i, &array[range.start.min(end)..end]).unwrap();
        }
    }
    assert!(pieces.piece(1, &[1]).is_err(), "bytes beyond an array");
    assert!(pieces.piece(3, &[]).is_err(), "no such array");
    pieces.piece(2, &arrays[3][63..]).unwrap();
    pieces.array(arrays[4].clone()).unwrap();
    pieces.finish(false).unwrap();
    assert!(fs::read(at("whole")).unwrap() == fs::read(at("pieces")).unwrap());
    assert!(PackedFile::open(&at("pieces"), "key", 1).unwrap().is_some());

    let mut lacking = PackedFileWriter::create(&at("lacking"), "key", "cpu-test").unwrap();
    lacking.begin_arrays(&[2]).unwrap();
    lacking.piece(0, &[1]).unwrap();
    assert!(lacking.finish(false).is_err());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}
