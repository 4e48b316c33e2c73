//! Zip archives that lie about what they hold, or that two readers could read in two ways.

use crate::archive::{Entry, end, state_dict, zip, zip_of};
use crate::hostile::{NUMBERS, archive_of, open};

#[test]
fn an_archive_is_cut_short_or_whole() {
    let whole = archive_of(&state_dict(&[("a", &[8])]));
    assert!(open(whole.clone()).is_ok());
    for len in 0..whole.len() {
        assert!(open(whole[..len].to_vec()).is_err(), "{len} bytes");
    }
    let longer = [whole, vec![0]].concat();
    assert!(open(longer).is_err());
}

#[test]
fn archives_that_lie_about_their_entries_are_refused() {
    let pickle = state_dict(&[("a", &[8])]);
    let good = [
        Entry::new("m/data.pkl", &pickle),
        Entry::new("m/data/0", &NUMBERS),
    ];
    let numbers_at = (30 + 10 + pickle.len()) as u32;
    let change = |change: &dyn Fn(&mut Entry)| {
        let mut entries = good.clone();
        change(&mut entries[1]);
        open(zip_of(&entries)).unwrap_err()
    };
    for (error, words) in [
        (
            change(&|entry| entry.method = 8),
            "found m/data/0 compressed (method 8)",
        ),
        (change(&|entry| entry.flags = 1), "found m/data/0 encrypted"),
        (
            change(&|entry| entry.sizes = [64, 32]),
            "found 32 bytes for 64 of m/data/0",
        ),
        (
            change(&|entry| entry.sizes = [32, 16]),
            "found 16 bytes for 32 of m/data/0",
        ),
        (
            change(&|entry| entry.sizes = [16, 16]),
            "expected 16 bytes of m/data/0, found 32 and 32",
        ),
        (
            change(&|entry| entry.sizes = [64, 64]),
            "expected 64 bytes of m/data/0, found 32 and 32",
        ),
        (
            change(&|entry| {
                entry.sizes = [u32::MAX; 2];
                entry.extra = vec![1, 0, 4, 0, 1, 2, 3, 4];
            }),
            "expected a size of 64 bits, found no 64-bit extra field that holds it",
        ),
        (
            change(&|entry| {
                entry.sizes = [u32::MAX; 2];
                entry.extra = [vec![1, 0, 16, 0], vec![0xFF; 16]].concat();
            }),
            "expected 18446744073709551615 bytes of m/data/0, found 32 and 32",
        ),
        (
            change(&|entry| entry.header = Some(0)),
            "expected a local header of m/data/0, stored, found another",
        ),
        (
            change(&|entry| entry.header = Some(u32::MAX - 1)),
            "local header at byte 4294967294: expected 30 more bytes",
        ),
        (
            change(&|entry| entry.local_name = "m/data/1".into()),
            "expected a local header of m/data/0, stored, found another",
        ),
        (
            change(&|entry| entry.header = Some(numbers_at + 1)),
            "expected local header (PK\\x03\\x04)",
        ),
    ] {
        assert!(
            error.starts_with("FILE: ") && error.contains(words),
            "{error}"
        );
    }
}

#[test]
fn a_size_of_64_bits_is_read_where_32_are_full() {
    let pickle = state_dict(&[("a", &[8])]);
    let mut numbers = Entry::new("m/data/0", &NUMBERS);
    numbers.sizes = [u32::MAX; 2];
    let size = 32u64.to_le_bytes();
    // Another field, then that of the sizes, then padding.
    numbers.extra = [&[9, 9, 1, 0, 7, 1, 0, 16, 0][..], &size, &size, &[0, 0]].concat();
    let entries = [Entry::new("m/data.pkl", &pickle), numbers];
    assert_eq!(open(zip_of(&entries)).unwrap().tensors()[0].bytes(), 32);
}

#[test]
fn entries_lie_side_by_side_under_plain_names() {
    let pickle = state_dict(&[("a", &[8])]);
    // The second entry is a whole one inside of the first.
    let inner = zip(&[("m/data/1", &[1, 2, 3, 4])]);
    let mut hidden = Entry::new("m/data/1", &[1, 2, 3, 4]);
    hidden.header = Some((30 + 8) as u32);
    let entries = [
        Entry::new("m/data/0", &inner),
        hidden,
        Entry::new("m/data.pkl", &pickle),
    ];
    let error = open(zip_of(&entries)).unwrap_err();
    assert!(
        error.contains("expected entries side by side, found m/data/1 inside of m/data/0"),
        "{error}"
    );

    let twice = zip(&[
        ("m/data.pkl", &pickle),
        ("m/data/0", &NUMBERS),
        ("m/data/0", &NUMBERS),
    ]);
    let error = open(twice).unwrap_err();
    assert!(
        error.contains("expected each name once, found m/data/0 twice"),
        "{error}"
    );

    for name in [
        "../data/0",
        "/m/data/0",
        "m//0",
        "m/./0",
        "m/data/",
        "m\\data\\0",
        "c:/0",
        "m/\x1b",
        "",
    ] {
        let error = open(zip(&[("m/data.pkl", &pickle), (name, &NUMBERS)])).unwrap_err();
        assert!(
            error.contains("expected plain entries as torch.save stores them, found the name"),
            "{name}: {error}"
        );
        assert!(!error.contains('\x1b'));
    }
}

#[test]
fn an_archive_has_one_pickle_of_tensors_in_this_machines_byte_order() {
    let pickle = state_dict(&[("a", &[8])]);
    for (entries, words) in [
        (
            vec![("m/data/0", &NUMBERS[..])],
            "found 0 entries of this name",
        ),
        (
            vec![("data.pkl", &pickle[..])],
            "found 0 entries of this name",
        ),
        (
            vec![("m/data.pkl", &pickle[..]), ("n/data.pkl", &pickle)],
            "found 2 entries of this name",
        ),
        (
            vec![("m/data.pkl", &pickle[..]), ("m/constants.pkl", b"")],
            "found a TorchScript program",
        ),
        (
            vec![("m/data.pkl", &pickle[..]), ("m/byteorder", b"big")],
            "found numbers in the byte order \"big\"",
        ),
        (
            vec![("m/data.pkl", &pickle[..]), ("n/data/0", &NUMBERS)],
            "found the key \"0\"",
        ),
    ] {
        let error = open(zip(&entries)).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
    for (bytes, words) in [
        (pickle.clone(), "found a bare pickle"),
        (b"<!doctype html>".to_vec(), "it is a web page"),
        (Vec::new(), "it is empty"),
        (b"PK\x03\x04".to_vec(), "end of the archive at byte 0"),
    ] {
        let error = open(bytes).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn the_end_of_an_archive_points_into_it() {
    let whole = archive_of(&state_dict(&[("a", &[8])]));
    let body = &whole[..whole.len() - 22];
    let start = u32::from_le_bytes(whole[whole.len() - 6..whole.len() - 2].try_into().unwrap());
    let size = (body.len() as u32) - start;
    let with = |count, size, start| {
        let mut bytes = body.to_vec();
        end(&mut bytes, count, size, start);
        open(bytes)
    };
    assert!(with(2, size, start).is_ok());
    for (result, words) in [
        (with(1, size, start), "expected 1 entries and no more"),
        (with(3, size, start), "central directory at byte"),
        (
            with(2, size + 1, start),
            "expected a central directory before byte",
        ),
        (
            with(2, size, u32::MAX - 1),
            "expected a central directory before byte",
        ),
        (with(2, size - 1, start), "expected a record before byte"),
        (
            with(0xFFFF, size, start),
            "expected 64-bit end (PK\\x06\\x07)",
        ),
    ] {
        let error = result.unwrap_err();
        assert!(error.contains(words), "{error}");
    }
    let comment = [&whole[..whole.len() - 2], &[1, 0]].concat();
    assert!(
        open(comment)
            .unwrap_err()
            .contains("expected no comment, found 1 more bytes")
    );
}

#[test]
fn the_64_bit_end_of_an_archive_is_followed_and_held_against_the_file() {
    let whole = archive_of(&state_dict(&[("a", &[8])]));
    let body = &whole[..whole.len() - 22];
    let start = u64::from(u32::from_le_bytes(
        whole[whole.len() - 6..whole.len() - 2].try_into().unwrap(),
    ));
    let with = |count: u64, size: u64, start: u64, at: u64| {
        let mut bytes = body.to_vec();
        bytes.extend(b"PK\x06\x06");
        bytes.extend(44u64.to_le_bytes());
        bytes.extend([0; 12]);
        for number in [count, count, size, start] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(b"PK\x06\x07\0\0\0\0");
        bytes.extend(at.to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        end(&mut bytes, 0xFFFF, u32::MAX, u32::MAX);
        open(bytes)
    };
    let (size, at) = (body.len() as u64 - start, body.len() as u64);
    assert_eq!(with(2, size, start, at).unwrap().tensors().len(), 1);
    for (result, words) in [
        (
            with(u64::MAX, size, start, at),
            "expected at most 1048640 entries",
        ),
        (
            with(2, u64::MAX, start, at),
            "expected a central directory before byte",
        ),
        (
            with(2, size, u64::MAX, at),
            "expected a central directory before byte",
        ),
        (
            with(2, size, start, u64::MAX),
            "64-bit end at byte 18446744073709551615",
        ),
        (
            with(2, size, start, 0),
            "expected 64-bit end (PK\\x06\\x06)",
        ),
    ] {
        let error = result.unwrap_err();
        assert!(error.contains(words), "{error}");
    }
}
