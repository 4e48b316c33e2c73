//! The cache is the one of the Hub's own tools: what they have is used, what is written they find.

use std::fs;

use bitnet_hub::HubError;
use serde_json::json;

use crate::fake_hub::{COMMIT, FakeHub, git_blob, noise, sha256};
use crate::pulled::Client;

const CONFIG: &[u8] = b"{}";

#[test]
fn a_directory_is_laid_out_as_huggingface_hub_does() {
    let (hub, weights) = (FakeHub::start(), noise(1000, 1));
    let files: [(&str, &[u8]); 5] = [
        ("config.json", CONFIG),
        ("model.safetensors", &weights),
        ("pytorch_model.bin", b"code"),
        ("tokenizer.json", b"{ }"),
        ("README.md", b"# Model"),
    ];
    hub.has("o/n", &files);
    let client = Client::of(&hub);
    let pulled = client.pull("o/n").unwrap();
    assert_eq!((pulled.n_downloaded, pulled.n_there), (3, 0));
    let snapshot = client.repository().join("snapshots").join(COMMIT);
    assert_eq!(pulled.path, snapshot);
    let names = ["config.json", "model.safetensors", "tokenizer.json"];
    assert_eq!(client.names(&format!("snapshots/{COMMIT}")), names);
    let mut blobs = vec![git_blob(CONFIG), sha256(&weights), git_blob(b"{ }")];
    blobs.sort();
    assert_eq!(client.names("blobs"), blobs);
    assert_eq!(
        fs::read_to_string(client.repository().join("refs/main")).unwrap(),
        COMMIT
    );
    #[cfg(unix)]
    {
        let link = fs::read_link(snapshot.join("config.json")).unwrap();
        assert_eq!(
            link.to_str().unwrap(),
            format!("../../blobs/{}", git_blob(CONFIG))
        );
    }
}

#[test]
fn what_is_there_is_not_asked_for_again() {
    let (hub, weights) = (FakeHub::start(), noise(1000, 1));
    hub.has(
        "o/n",
        &[("config.json", CONFIG), ("model.safetensors", &weights)],
    );
    let client = Client::of(&hub);
    client.pull("o/n").unwrap();
    let again = client.pull("o/n").unwrap();
    assert_eq!((again.n_downloaded, again.n_there), (0, 2));
    assert_eq!(hub.sent(), 1002);
}

#[test]
fn another_revision_shares_the_files_that_are_the_same() {
    let (hub, weights) = (FakeHub::start(), noise(1000, 1));
    hub.has(
        "o/n",
        &[("config.json", CONFIG), ("model.safetensors", &weights)],
    );
    let other = "f".repeat(40);
    let files: [(&str, &[u8]); 2] = [
        ("config.json", b"{\"a\": 1}"),
        ("model.safetensors", &weights),
    ];
    hub.has_at("o/n", "v2", &other, &files, &json!(null));
    let client = Client::of(&hub);
    client.pull("o/n").unwrap();
    let pulled = client.pull("o/n@v2").unwrap();
    assert_eq!((pulled.n_downloaded, pulled.n_there), (1, 1));
    assert_eq!(client.names("snapshots").len(), 2);
    assert_eq!(client.names("blobs").len(), 3);
    assert_eq!(
        fs::read_to_string(client.repository().join("refs/v2")).unwrap(),
        other
    );
    let found = client
        .cache()
        .find(&"o/n@v2".parse().unwrap(), true)
        .unwrap();
    assert_eq!(found.path, pulled.path);
}

#[test]
fn files_that_other_tools_put_into_a_snapshot_without_links_are_used() {
    let (hub, weights) = (FakeHub::start(), noise(1000, 1));
    hub.has("o/n", &[("m.gguf", &weights)]);
    let client = Client::of(&hub);
    let snapshot = client.repository().join("snapshots").join(COMMIT);
    fs::create_dir_all(&snapshot).unwrap();
    fs::write(snapshot.join("m.gguf"), &weights).unwrap();
    let pulled = client.pull("o/n").unwrap();
    assert_eq!((pulled.n_downloaded, pulled.n_there), (0, 1));
    assert!(fs::symlink_metadata(pulled.path).unwrap().is_file());
}

#[test]
fn a_file_of_another_size_is_fetched_again_by_any_pull() {
    let (hub, weights) = (FakeHub::start(), noise(1000, 1));
    hub.has("o/n", &[("m.gguf", &weights)]);
    let client = Client::of(&hub);
    let path = client.pull("o/n").unwrap().path;
    for wrong in [&weights[..999], &[], &noise(1001, 2)] {
        fs::write(&path, wrong).unwrap();
        assert!(client.content("o/n") == weights, "{}", wrong.len());
        // Whoever compares is told of it.
        fs::write(&path, wrong).unwrap();
        assert_eq!(client.discard_damaged("o/n"), ["m.gguf"]);
        assert!(client.content("o/n") == weights, "{}", wrong.len());
    }
}

#[test]
fn a_file_of_the_same_size_is_found_damaged_by_its_bytes_and_fetched_again() {
    let (hub, weights) = (FakeHub::start(), noise(1_000_000, 1));
    let files: [(&str, &[u8]); 2] = [("config.json", CONFIG), ("model.safetensors", &weights)];
    hub.has("o/n", &files);
    let client = Client::of(&hub);
    let folder = client.pull("o/n").unwrap().path;
    assert_eq!(client.discard_damaged("o/n"), [""; 0]);
    let path = folder.join("model.safetensors");
    // As a link, and as other tools have it without links.
    for is_link in [true, false] {
        let mut damaged = weights.clone();
        damaged[500_000] ^= 1;
        if !is_link {
            let blob = path.canonicalize().unwrap();
            fs::remove_file(&path).unwrap();
            fs::remove_file(blob).unwrap();
        }
        fs::write(&path, &damaged).unwrap();
        assert_eq!(client.pull("o/n").unwrap().n_downloaded, 0);
        assert!(fs::read(&path).unwrap() == damaged);
        assert_eq!(client.discard_damaged("o/n"), ["model.safetensors"]);
        let pulled = client.pull("o/n").unwrap();
        assert_eq!((pulled.n_downloaded, pulled.n_there), (1, 1));
        assert!(fs::read(&path).unwrap() == weights);
    }
}

#[test]
fn of_a_file_that_is_there_twice_the_whole_one_stays() {
    let (hub, weights) = (FakeHub::start(), noise(1000, 1));
    hub.has("o/n", &[("m.gguf", &weights)]);
    let client = Client::of(&hub);
    let path = client.pull("o/n").unwrap().path;
    let blob = client.repository().join("blobs").join(sha256(&weights));
    // As it is where no links can be made.
    fs::remove_file(&path).unwrap();
    fs::copy(&blob, &path).unwrap();
    for (bad, good) in [(&blob, &path), (&path, &blob)] {
        fs::write(bad, noise(1000, 2)).unwrap();
        assert_eq!(client.discard_damaged("o/n"), ["m.gguf"]);
        assert!(!bad.exists() && fs::read(good).unwrap() == weights);
        assert_eq!(client.pull("o/n").unwrap().n_downloaded, 0);
        assert!(fs::read(&path).unwrap() == weights);
        if !blob.exists() {
            fs::copy(&path, &blob).unwrap();
        }
    }
}

#[test]
fn of_several_models_the_named_one_is_taken() {
    let hub = FakeHub::start();
    hub.has("o/n", &[("m-Q2_0.gguf", b"two"), ("m-TQ1_0.gguf", b"one")]);
    let client = Client::of(&hub);
    let error = client.pull("o/n").unwrap_err();
    let HubError::Choice { choices, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(
        choices[..],
        [
            ("m-Q2_0.gguf".to_owned(), 3),
            ("m-TQ1_0.gguf".to_owned(), 3)
        ]
    );
    assert_eq!(client.content("o/n:tq1_0"), b"one");
    assert_eq!(
        client.names(&format!("snapshots/{COMMIT}")),
        ["m-TQ1_0.gguf"]
    );
}

#[test]
fn files_whose_names_exclude_one_another_do_no_harm() {
    let hub = FakeHub::start();
    hub.has(
        "o/n",
        &[
            ("a-00001-of-00002.gguf", b"1"),
            ("a-00002-of-00002.gguf", b"2"),
        ],
    );
    let client = Client::of(&hub);
    // A folder of a file's name.
    let snapshot = client.repository().join("snapshots").join(COMMIT);
    fs::create_dir_all(snapshot.join("a-00002-of-00002.gguf")).unwrap();
    assert!(matches!(client.pull("o/n"), Err(HubError::Io { .. })));
}

#[test]
fn a_part_that_only_the_index_names_fails_the_pull_before_the_weights() {
    let hub = FakeHub::start();
    let index = br#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#;
    let mut files: Vec<(&str, &[u8])> = vec![
        ("config.json", CONFIG),
        ("model.safetensors.index.json", index),
        ("model-1.safetensors", b"1"),
    ];
    hub.has("o/n", &files);
    let client = Client::of(&hub);
    // Also where the index is there already.
    for _ in 0..2 {
        let error = client.pull("o/n").unwrap_err();
        assert!(
            matches!(error, HubError::NoModel { .. })
                && error.to_string().contains("it lacks model-2.safetensors"),
            "{error}"
        );
    }
    assert_eq!(hub.offsets("model-1.safetensors"), [0u64; 0]);
    assert_eq!(hub.offsets("model.safetensors.index.json"), [0]);
    assert!(client.names("snapshots").is_empty());
    files.push(("model-2.safetensors", b"2"));
    hub.has("o/n", &files);
    assert_eq!(client.pull("o/n").unwrap().n_there, 1);
}
