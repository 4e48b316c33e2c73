//! The file of keys while a server follows it, and files that are none.

use super::super::key::{ApiKey, KeyHash};
use super::super::key_store::KeyStore;
use super::*;

#[test]
fn keys_are_added_revoked_and_followed() {
    let (_folder, path) = keys();
    let first = new_key(&path, Role::Infer);
    let store = KeyStore::open(&path).unwrap();
    assert!(store.poll().is_none(), "nothing has changed");
    let second = new_key(&path, Role::Admin);
    assert_eq!(store.find(&second), None);
    assert_eq!(store.poll().unwrap().unwrap(), 2);
    assert_eq!(store.find(&second).unwrap().role, Role::Admin);
    let id = store.find(&first).unwrap().id;
    assert_eq!(key_file::revoke(&path, &id).unwrap().id, id);
    assert_eq!(store.poll().unwrap().unwrap(), 1);
    assert_eq!(store.find(&first), None, "a revoked key is no key");
    assert!(matches!(
        key_file::revoke(&path, &id),
        Err(KeyFileError::NoSuchKey { .. })
    ));
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains(&second), "keys are kept as hashes only");
}

#[test]
fn a_file_that_is_cut_off_anywhere_keeps_the_old_keys_and_is_told_once() {
    let (_folder, path) = keys();
    let key = new_key(&path, Role::Infer);
    new_key(&path, Role::Admin);
    let store = KeyStore::open(&path).unwrap();
    let whole = std::fs::read(&path).unwrap();
    for len in 0..whole.trim_ascii_end().len() {
        std::fs::write(&path, &whole[..len]).unwrap();
        assert!(store.reload().is_err(), "cut after {len} bytes");
        assert!(store.find(&key).is_some());
    }
    assert!(store.poll().is_none(), "the same failure is not told again");
    std::fs::remove_file(&path).unwrap();
    assert!(store.poll().unwrap().is_err() && store.find(&key).is_some());
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(store.poll().unwrap().unwrap(), 2);
}

#[cfg(unix)]
#[test]
fn an_older_reading_of_the_file_never_replaces_a_newer_one() {
    let (folder, path) = keys();
    let revoked = new_key(&path, Role::Infer);
    let store = Arc::new(KeyStore::open(&path).unwrap());
    let old_file = std::fs::read(&path).unwrap();
    // A reading that has begun and goes on when somebody writes.
    let pipe = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    std::fs::remove_file(&path).unwrap();
    std::fs::rename(&pipe, &path).unwrap();
    let reload = || {
        let store = store.clone();
        let (done, is_done) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            store.reload().unwrap();
            let _ = done.send(());
        });
        (thread, is_done)
    };
    let (older, _) = reload();
    let mut writer = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    // The file is another by now.
    std::fs::rename(&path, &pipe).unwrap();
    let new = new_key(&path, Role::Infer);
    let (newer, is_done) = reload();
    // If it does not wait for the older one, it is done soon.
    let _ = is_done.recv_timeout(Duration::from_millis(200));
    std::io::Write::write_all(&mut writer, &old_file).unwrap();
    drop(writer);
    older.join().unwrap();
    newer.join().unwrap();
    assert_eq!(store.find(&revoked), None);
    assert!(store.find(&new).is_some());
}

#[test]
fn hostile_files_of_keys_are_errors() {
    let (_folder, path) = keys();
    let hash = ApiKey::generate().unwrap().hash().to_hex();
    let entry = |id: &str, name: &str, hash: &str| json!({"id": id, "name": name, "role": "infer", "sha256": hash, "created": 0});
    let with = |name: &str, value: Value, role: &str| {
        let mut entry = entry("0123abcd", "n", &hash);
        (entry[name], entry["role"]) = (value, json!(role));
        json!({"version": 1, "keys": [entry]})
    };
    let many = vec!["a"; 257];
    let cases = [
        json!([]),
        with("expires", json!(u64::MAX), "infer"),
        with("expires", json!(-1), "infer"),
        with("models", json!([]), "infer"),
        with("models", json!([""]), "infer"),
        with("models", json!(["a\u{1b}[2J"]), "infer"),
        with("models", json!(many), "infer"),
        with("models", json!(["a"]), "admin"),
        json!({"version": 2, "keys": []}),
        json!({"version": 1, "keys": [], "more": 1}),
        json!({"version": 1, "keys": [entry("short", "n", &hash)]}),
        json!({"version": 1, "keys": [entry("0123abcd", "a\u{1b}[2J", &hash)]}),
        json!({"version": 1, "keys": [entry("0123abcd", "n", "00")]}),
        json!({"version": 1, "keys": [entry("0123abcd", "n", &hash), entry("0123abcd", "m", &hash)]}),
        json!({"version": 1, "keys": [{"id": "0123abcd", "name": "n", "role": "root", "sha256": hash, "created": 0}]}),
    ];
    for case in cases {
        std::fs::write(&path, case.to_string()).unwrap();
        assert!(key_file::read(&path).is_err(), "{case}");
    }
    assert!(matches!(
        key_file::add(
            &path,
            &NewKey::new("a b", Role::Infer, RateLimits::default())
        ),
        Err(KeyFileError::Name)
    ));
}

#[test]
fn keys_do_not_show_in_debug_output() {
    let key = ApiKey::generate().unwrap();
    let shown = format!("{key:?} {:?}", key.hash());
    assert!(
        !shown.contains(&key.reveal()[12..]) && !shown.contains(&key.hash().to_hex()),
        "{shown}"
    );
    assert!(
        KeyHash::parse(&key.hash().to_hex())
            .unwrap()
            .is(&key.hash())
    );
    assert!(!key.hash().is(&ApiKey::generate().unwrap().hash()));
}
