//! `keys add`, `keys revoke` and `keys list`.

use bitnet_server::auth::clock::unix_seconds;
use bitnet_server::auth::quota::Used;
use bitnet_server::auth::{expiry, usage_file};

use crate::bitnet::{bitnet, end, run};

/// Seconds of a day.
const DAY: u64 = 86_400;

fn seconds() -> u64 {
    unix_seconds(std::time::SystemTime::now())
}

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
    let list = format!("`bitnet keys list --file {file}` shows");
    run(&["keys", "revoke", "--file", file, id]).fails(2, "no key with the id", &list);
    // Whoever names the owner is told the id.
    let id = listed[1]["id"].as_str().unwrap();
    let told = format!("no key with the id 'ops'; the key of that name has the id {id}");
    let command = format!("`bitnet keys revoke --file {file} {id}` takes that one out");
    run(&["keys", "revoke", "--file", file, "ops"]).fails(2, &told, &command);
}

#[test]
fn what_is_used_of_quotas_is_listed_and_nothing_is_cut_for_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let keys = at("keys.json");
    let (name, models) = ("n".repeat(60), "m".repeat(100));
    let add = |args: &[&str]| {
        let added = run(&[&["keys", "add", "--file", &keys][..], args].concat());
        added.ok();
        added.stderr
    };
    let warned = add(&[
        "--name",
        &name,
        "--models",
        &models,
        "--tokens-per-day",
        "90000",
        "--tokens-per-month",
        "80000",
    ]);
    let words = "--tokens-per-month 80000 is less than --tokens-per-day 90000";
    assert!(warned.contains(words), "{warned}");
    let warned = add(&["--name", "b", "--tokens-per-month", "80000"]);
    assert!(!warned.contains("warning"), "{warned}");
    let list = |args: &[&str]| run(&[&["keys", "list", "--file", &keys][..], args].concat());

    // Nobody has written down what is used.
    let shown = list(&[]).ok().to_owned();
    for words in [&name, &models, "90000/day, 80000/month"] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    let listed = list(&["--format", "json"]).json();
    assert!(listed[0]["used"].is_null(), "{listed}");

    let id = listed[0]["id"].as_str().unwrap().to_owned();
    // What `args` and `variables` list of the file of used tokens at `file`, which has `tokens` of this day.
    let used = |file: &str, tokens: u64, args: &[&str], variables: &[(&str, &str)]| {
        loop {
            let now = seconds();
            let date = expiry::written(now);
            let number = |range: std::ops::Range<usize>| date[range].parse::<u64>().unwrap();
            let used = Used {
                day: now / DAY,
                in_day: tokens,
                month: number(0..4) * 12 + number(5..7) - 1,
                in_month: 50_000 + tokens,
            };
            let _ = std::fs::remove_file(file);
            usage_file::add(file.as_ref(), &[(id.clone(), used)], now).unwrap();
            let list = |more: &[&str]| {
                let mut command = bitnet();
                command.args(["keys", "list", "--file", &keys]);
                end(command
                    .args([args, more].concat())
                    .envs(variables.iter().copied()))
            };
            let shown = list(&[]).ok().to_owned();
            let listed = list(&["--format", "json"]).json();
            // At midnight nothing is used of the new day.
            if seconds() / DAY == now / DAY {
                return (shown, listed);
            }
        }
    };
    let (beside, elsewhere) = (format!("{keys}.usage"), at("used"));
    let usage = ("BITNET_SERVER__AUTH__USAGE_FILE", elsewhere.as_str());
    let keys_file = "BITNET_SERVER__AUTH__KEYS_FILE";
    let (these, others) = ((keys_file, keys.as_str()), (keys_file, "others.json"));
    let named = ["--usage-file", &elsewhere];
    for (file, tokens, args, variables) in [
        (&beside, 1234, &[][..], &[][..]),
        (&elsewhere, 2345, &named, &[]),
        (&elsewhere, 3456, &[], &[usage, these]),
        // What the settings name is that of other keys.
        (&beside, 4567, &[], &[usage, others]),
        (&beside, 5678, &[], &[usage]),
    ] {
        let (shown, listed) = used(file, tokens, args, variables);
        let used = format!("{tokens} of 90000/day, {} of 80000/month", 50_000 + tokens);
        for words in [&*used, "0 of 80000/month"] {
            assert!(shown.contains(words), "{words}: {shown}");
        }
        assert_eq!(listed[0]["used"]["tokens_today"], tokens);
        assert_eq!(listed[1]["used"]["tokens_this_month"], 0);
    }
    std::fs::remove_file(&beside).unwrap();
    let mut command = bitnet();
    command.args(["keys", "list", "--file", &keys]);
    let shown = end(command.envs([usage, others])).ok().to_owned();
    assert!(
        !shown.contains(" of "),
        "nobody knows what is used: {shown}"
    );
    let nowhere = list(&["--usage-file", "/nowhere/used"]);
    nowhere.fails(1, "/nowhere/used", "path");
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

#[test]
fn a_key_may_expire_and_be_for_some_models() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    let path = file.to_str().unwrap();
    let add = |name: &str, more: &[&str]| {
        let mut args = vec!["keys", "add", "--file", path, "--name", name];
        args.extend(more);
        run(&args)
    };
    add("always", &[]).ok();
    add("guest", &["--expires", "30d", "--models", "stories,bonsai"]).ok();
    add(
        "dated",
        &["--expires", "2100-01-31", "--tokens-per-day", "90000"],
    )
    .ok();
    for bad in ["yesterday", "2001-01-31", "0d"] {
        let refused = add("bad", &["--expires", bad]);
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(refused.stderr.contains(bad), "{refused:?}");
    }
    add("bad", &["--models", ""]).fails(2, "a key's models", "--help");
    let admin = ["--models", "stories", "--role", "admin"];
    add("bad", &admin).fails(2, "administrator", "--help");
    let listed = run(&["keys", "list", "--file", path, "--format", "json"]).json();
    let seconds = |i: usize, name: &str| listed[i][name].as_u64().unwrap();
    assert!(
        listed[0]["expires"].is_null() && listed[0]["models"].is_null(),
        "{listed}"
    );
    // The time was asked for twice.
    let span = seconds(1, "expires") - (seconds(1, "created") - 60);
    assert!((30 * 86_400..=30 * 86_400 + 60).contains(&span), "{listed}");
    assert_eq!(
        listed[1]["models"],
        serde_json::json!(["stories", "bonsai"])
    );
    assert_eq!(listed[1]["has_expired"], false);
    assert_eq!(seconds(2, "expires"), 4_105_036_800);
    let shown = run(&["keys", "list", "--file", path]).ok().to_owned();
    assert!(shown.contains(" 2100-01-31 "), "{shown}");
    // One whose time has come.
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("4105036800", "1000")).unwrap();
    let shown = run(&["keys", "list", "--file", path]).ok().to_owned();
    assert_eq!(listed[2]["quota"]["tokens_per_day"], 90_000);
    for words in ["90000", "never", "expired", "stories", "all"] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
}

#[test]
fn a_key_is_made_also_where_the_servers_first_model_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (keys, config) = (at("keys.json"), at("server.yaml"));
    let add = |name: &str, models: &str| {
        std::fs::write(&config, format!("models:\n  {models}\n")).unwrap();
        let mut command = bitnet();
        command.env_remove("HF_HUB_CACHE").env_remove("HF_HOME");
        command.args(["keys", "add", "--file", &keys, "--name", name]);
        command.args(["--models", "n", "--config", &config]);
        command
    };
    // Of the Hub and not in the cache; a folder beside the server's own; nowhere to look.
    let hub = at("hub");
    for (name, models) in [
        ("hub", "default_model: o/n:Q2_0"),
        ("folder", "default_model: models/tiny"),
    ] {
        for (home, words) in [
            (Some(&hub), "is not in"),
            (None, "no folder for downloaded models"),
        ] {
            let name = format!("{name}-{}", home.is_some());
            let mut command = add(&name, models);
            match home {
                Some(home) => command.env("HF_HOME", home),
                None => command.env_remove("HOME"),
            };
            let added = end(&mut command);
            assert!(added.ok().starts_with("bk_"), "{added:?}");
            assert!(
                added.stderr.contains("are held against nothing"),
                "{added:?}"
            );
            assert!(added.stderr.contains(words), "{added:?}");
        }
    }
    // It has a name all the same.
    let added = end(&mut add(
        "named",
        "default_model: o/n\n  served_model_name: m",
    ));
    assert!(added.ok().starts_with("bk_"), "{added:?}");
    assert!(added.stderr.contains("'n': there is m until"), "{added:?}");
    // In the cache it is found, and has the name that the Hub has for it.
    let snapshot = format!("hub/models--o--n/snapshots/{}", "0a".repeat(20));
    let snapshot = std::path::Path::new(&hub).join(snapshot);
    std::fs::create_dir_all(&snapshot).unwrap();
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        std::fs::write(snapshot.join(file), "{}").unwrap();
    }
    let added = end(add("found", "default_model: o/n").env("HF_HOME", &hub));
    assert!(added.ok().starts_with("bk_"), "{added:?}");
    assert!(!added.stderr.contains("warning"), "{added:?}");
}
