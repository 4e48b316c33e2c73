//! Downloads that break off, and go on in this process or the next.

use std::fs;

use bitnet_hub::HubError;

use crate::fake_hub::{FakeHub, Trouble, noise, sha256};
use crate::pulled::Client;

const SIZE: usize = 3_000_000;

/// Ten places in a file, in order, from a seed.
fn ten_places(seed: u64) -> Vec<usize> {
    let bytes = noise(40, seed);
    let place = |four: &[u8]| u32::from_le_bytes(four.try_into().unwrap()) as usize % SIZE;
    let mut places: Vec<usize> = bytes.chunks(4).map(place).collect();
    places.sort_unstable();
    places
}

/// Cuts that leave a file at these places, one after the other.
fn cuts(places: &[usize]) -> Vec<Trouble> {
    let before = std::iter::once(0).chain(places.iter().copied());
    before
        .zip(places)
        .map(|(before, place)| Trouble::Cut(place - before))
        .collect()
}

fn offsets(places: &[usize]) -> Vec<u64> {
    std::iter::once(0)
        .chain(places.iter().map(|place| *place as u64))
        .collect()
}

#[test]
fn a_file_cut_at_ten_random_points_has_the_right_hash_and_no_byte_comes_twice() {
    for seed in 1..=3 {
        let (hub, bytes) = (FakeHub::start(), noise(SIZE, seed));
        let places = ten_places(seed);
        hub.has("o/n", &[("m.gguf", &bytes)]);
        hub.has_trouble("o/n", "m.gguf", cuts(&places));
        let client = Client::of(&hub);
        assert_eq!(sha256(&client.content("o/n")), sha256(&bytes), "{places:?}");
        assert_eq!(hub.offsets("m.gguf"), offsets(&places));
        assert_eq!(hub.sent(), SIZE as u64);
    }
}

#[test]
fn a_file_goes_on_in_ten_further_processes() {
    let (hub, bytes) = (FakeHub::start(), noise(SIZE, 9));
    let places = ten_places(9);
    hub.has("o/n", &[("m.gguf", &bytes)]);
    let client = Client::of(&hub);
    for cut in cuts(&places) {
        // What ends the process: nothing of it is left but the file.
        hub.has_trouble("o/n", "m.gguf", [cut, Trouble::Status(404, Vec::new())]);
        let error = client.pull("o/n").unwrap_err();
        assert!(
            matches!(error, HubError::Status { status: 404, .. }),
            "{error}"
        );
        assert_eq!(
            client.names("snapshots"),
            [""; 0],
            "nobody finds half a model"
        );
    }
    assert_eq!(sha256(&client.content("o/n")), sha256(&bytes));
    assert_eq!(hub.sent(), SIZE as u64);
    let begun = client.record.begun.lock().unwrap();
    let there: Vec<u64> = begun.iter().map(|(_, there)| *there).collect();
    assert_eq!(there, offsets(&places));
    assert_eq!(client.names("blobs"), [sha256(&bytes)]);
}

#[test]
fn a_beginning_that_is_wrong_or_too_long_is_fetched_again() {
    let bytes = noise(SIZE, 5);
    for beginning in [
        noise(1000, 6),
        noise(SIZE, 6),
        noise(SIZE + 1, 6),
        bytes.iter().map(|_| 0).collect(),
    ] {
        let hub = FakeHub::start();
        hub.has("o/n", &[("m.gguf", &bytes)]);
        let client = Client::of(&hub);
        let blobs = client.repository().join("blobs");
        fs::create_dir_all(&blobs).unwrap();
        fs::write(
            blobs.join(format!("{}.incomplete", sha256(&bytes))),
            &beginning,
        )
        .unwrap();
        assert!(client.content("o/n") == bytes, "{}", beginning.len());
        match beginning.len() <= SIZE {
            true => client.was_told_anew(&[&format!(
                "m.gguf is damaged, of which {} bytes were in the cache before: its checksum is ",
                beginning.len()
            )]),
            false => client.was_told_anew(&[]), // it cannot be a beginning
        }
    }
}

#[test]
fn a_whole_file_that_was_only_not_renamed_needs_no_request() {
    let (hub, bytes) = (FakeHub::start(), noise(SIZE, 5));
    hub.has("o/n", &[("m.gguf", &bytes), ("empty.txt", b"")]);
    let client = Client::of(&hub);
    let blobs = client.repository().join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(format!("{}.incomplete", sha256(&bytes))), &bytes).unwrap();
    assert!(client.content("o/n") == bytes);
    assert_eq!(hub.offsets("m.gguf"), [0u64; 0]);
    assert_eq!(client.content("o/n:empty.txt"), b"");
}

#[cfg(unix)]
#[test]
fn a_link_in_the_place_of_the_beginning_is_not_written_through() {
    let (hub, bytes) = (FakeHub::start(), noise(1000, 5));
    hub.has("o/n", &[("m.gguf", &bytes)]);
    let client = Client::of(&hub);
    let blobs = client.repository().join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    let victim = client.repository().join("victim");
    fs::write(&victim, "precious").unwrap();
    std::os::unix::fs::symlink(
        &victim,
        blobs.join(format!("{}.incomplete", sha256(&bytes))),
    )
    .unwrap();
    assert!(matches!(client.pull("o/n"), Err(HubError::Io { .. })));
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
}
