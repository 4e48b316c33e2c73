//! `keys add`, `keys revoke` and `keys list`.

use crate::bitnet::run;

#[test]
fn a_key_is_shown_once_listed_without_its_secret_and_revoked() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    let file = file.to_str().unwrap();
    let added = run(&["keys", "add", "--file", file, "--name", "alice"]);
    let key = added.ok().trim().to_owned();
    assert!(
        key.starts_with("bk_") && !added.stderr.contains(&key),
        "{added:?}"
    );
    let admin = [
        "keys",
        "add",
        "--file",
        file,
        "--name",
        "ops",
        "--role",
        "admin",
        "--requests-per-minute",
        "9",
    ];
    run(&admin).ok();
    run(&admin).fails(2, "a key named 'ops' already", "--help");

    let listed = run(&["keys", "list", "--file", file, "--format", "json"]);
    assert!(!listed.stdout.contains(&key[12..]), "{listed:?}");
    let listed = listed.json();
    assert_eq!(listed[0]["name"], "alice");
    assert_eq!(
        (
            &listed[1]["role"],
            &listed[1]["limits"]["requests_per_minute"]
        ),
        (&"admin".into(), &9.into())
    );

    let id = listed[0]["id"].as_str().unwrap();
    assert!(
        run(&["keys", "revoke", "--file", file, id])
            .ok()
            .contains("alice")
    );
    let left = run(&["keys", "list", "--file", file]).ok().to_owned();
    assert!(left.contains("ops") && !left.contains("alice"), "{left}");
    run(&["keys", "revoke", "--file", file, id]).fails(2, "no key with the id", "--help");
}

#[test]
fn a_bad_name_or_file_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    let path = file.to_str().unwrap();
    run(&["keys", "add", "--file", path, "--name", "a b"]).fails(2, "a key's name", "--help");
    run(&["keys", "list", "--file", path]).fails(1, "cannot use the file of keys", "keys add");
    std::fs::write(&file, "{\"version\": 1, \"keys\": [").unwrap();
    run(&["keys", "list", "--file", path]).fails(1, "no complete file of keys", "restore");
}
