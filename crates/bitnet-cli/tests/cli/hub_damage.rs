//! `pull --verify`: damaged files of the cache are hinted at, found and fetched again.

use std::fs;

use crate::hub_fixture::Fixture;

#[test]
fn a_damaged_file_is_hinted_at_found_and_fetched_again() {
    let f = Fixture::new();
    let first = f.run(&["pull", "o/n", "--verify"]);
    let path = first.ok().trim_end().to_owned();
    let told = "nothing of it is in the cache that could be compared\n";
    assert!(first.stderr.contains(told), "{}", first.stderr);
    let sound = f.run(&["pull", "o/n", "--verify"]);
    sound.ok();
    assert!(
        sound
            .stderr
            .contains("1 file in the cache is what the Hub names"),
        "{}",
        sound.stderr
    );
    let mut damaged = f.model.clone();
    damaged[..4].fill(b'x');
    fs::write(&path, &damaged).unwrap();
    for command in ["inspect", "convert"] {
        let run = match command {
            "convert" => f.run(&[
                "convert",
                "o/n",
                f.cache.path().join("out").to_str().unwrap(),
            ]),
            _ => f.run(&[command, "o/n"]),
        };
        run.fails(3, "", "`bitnet pull o/n --verify` fetches it again");
    }
    let hint = "`bitnet pull o/n --verify` fetches it again";
    let check = ["serve", "--port", "0", "--model", "o/n", "--check-config"];
    f.run(&check).fails(2, "", hint);
    f.run(&check[..5]).fails(3, "", hint);
    let plainly = f.run(&["inspect", &path]);
    assert!(!plainly.stderr.contains("--verify"), "{}", plainly.stderr);
    f.run(&["pull", "o/n"]).ok();
    assert!(fs::read(&path).unwrap() == damaged);
    let dry = ["pull", "o/n", "--verify", "--dry-run", "--format", "json"];
    // Also of another size, which is told once.
    for damaged in [&damaged[..], &f.model[..100]] {
        fs::write(&path, damaged).unwrap();
        let found = f.run(&dry);
        assert_eq!(found.code, Some(4), "{}", found.stderr);
        let report: serde_json::Value = serde_json::from_str(&found.stdout).unwrap();
        assert_eq!(
            (&report["damaged"], &report["download_bytes"]),
            (
                &serde_json::json!(["tiny-I2_S.gguf"]),
                &f.model.len().into()
            )
        );
        assert!(fs::read(&path).unwrap() == damaged);
    }
    let healed = f.run(&["pull", "o/n", "--verify"]);
    assert_eq!(healed.ok().trim_end(), path);
    assert!(
        healed
            .stderr
            .contains("warning: tiny-I2_S.gguf is damaged and is fetched again"),
        "{}",
        healed.stderr
    );
    assert!(fs::read(&path).unwrap() == f.model);
    assert_eq!(f.run(&dry).json()["damaged"], serde_json::json!([]));
    f.run(&["pull", "o/n", "--verify", "--offline"])
        .fails(2, "cannot be used with", "");
}
