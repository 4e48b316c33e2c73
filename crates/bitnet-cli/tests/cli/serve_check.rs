//! What is told of a configuration before a server serves by it, by `--check-config` and by the start in the same
//! words.

use std::path::Path;

use crate::bitnet::{Ended, bitnet, data_arg, end, run};
use crate::served::{Served, command, serve};

/// The model inside the program, as a file.
fn stories() -> String {
    data_arg("../../../bitnet-cli/assets/stories-5m.I2_S.gguf")
}

fn check(args: &[&str]) -> Ended {
    run(&[&["serve", "--check-config"], args].concat())
}

#[test]
fn a_bound_on_models_that_is_too_small_is_an_error_and_one_that_pinned_ones_fill_a_warning() {
    let spare = format!("spare={}", stories());
    let args = ["--served-model-name", "story", "--configured", &spare];
    let too_small = [&args[..], &["--cache-size", "1KiB"]].concat();
    let message = "--cache-size: models.cache_size is 1024 bytes, and the model 'story' alone has";
    let checked = check(&too_small);
    checked.fails(2, message, "docs/config.md");
    let started = run(&[&["serve", "--port", "0"], &too_small[..]].concat());
    assert_eq!((started.code, started.stderr), (Some(2), checked.stderr));

    let bytes = std::fs::metadata(stories()).unwrap().len();
    let bound = (bytes * 3 / 2).to_string();
    let bounded = [&args[..], &["--cache-size", &bound]].concat();
    let pinned = [&bounded[..], &["--pinned", "story"]].concat();
    let told =
        format!("the model 'spare' has {bytes} bytes of files, those of models.pinned {bytes}");
    let checked = check(&pinned);
    checked.ok();
    assert!(checked.stderr.contains(&told), "{checked:?}");
    serve(&pinned).until_line(&told);
    let fits = check(&bounded);
    assert_eq!(fits.ok(), "");
    assert!(!fits.stderr.contains("warning"), "{fits:?}");
    let unknown = "models.cache_size is held against the sizes of files here";
    assert!(fits.stderr.contains(unknown), "{fits:?}");
    assert!(!check(&args).stderr.contains(unknown));

    // A pinned model beside another one: together they are too many, and both know it before one is loaded.
    let both = [&bounded[..], &["--pinned", "story,spare"]].concat();
    let told = format!(
        "the models of models.pinned have {} bytes of files together",
        2 * bytes
    );
    assert!(check(&both).stderr.contains(&told));
    serve(&both).until_line(&told);

    // What is made of the file is larger than the file, and only a server that has loaded it knows.
    let bound = bytes.to_string();
    let alone = ["--served-model-name", "story", "--cache-size", &bound];
    check(&alone).ok();
    serve(&alone).until_line("the model 'story' takes ");
}

#[test]
fn a_file_of_used_tokens_that_cannot_be_written_is_told_when_a_key_has_a_quota() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys.json");
    let keys = keys.to_str().unwrap();
    let add = |args: &[&str]| {
        run(&[&["keys", "add", "--file", keys][..], args].concat()).ok();
    };
    let args = ["--keys-file", keys, "--usage-file", "/nowhere/used.json"];
    let told = "cannot use the file of used tokens /nowhere/used.json";
    add(&["--name", "a"]);
    let checked = check(&args);
    checked.ok();
    assert!(
        !checked.stderr.contains(told),
        "nobody has a quota: {checked:?}"
    );
    add(&["--name", "b", "--tokens-per-day", "5"]);
    let checked = check(&args);
    checked.ok();
    assert!(checked.stderr.contains(told), "{checked:?}");
    serve(&args).until_line(told);
    // Where it can be written nothing is said, and nothing is left of the trial.
    let names = || {
        let entries = std::fs::read_dir(folder.path()).unwrap();
        entries.count()
    };
    let before = names();
    let checked = check(&args[..2]);
    checked.ok();
    assert!(!checked.stderr.contains("warning"), "{checked:?}");
    assert_eq!(names(), before);
}

#[test]
fn what_the_engine_refuses_is_told_with_the_setting_that_asked_for_it() {
    for (args, message) in [
        (
            ["--ctx", "16000000"],
            "--ctx: engine.ctx: the context is 16000000",
        ),
        (
            ["--kv-cache-memory", "1KiB"],
            "--kv-cache-memory: performance.kv_cache_memory: the KV cache is 0 blocks",
        ),
    ] {
        check(&args).fails(2, message, "");
        run(&["serve", "--port", "0", args[0], args[1]]).fails(2, message, "");
    }
    // And with the line of a file.
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("server.yaml");
    std::fs::write(&config, "engine:\n  ctx: 16000000\n").unwrap();
    let config = config.to_str().unwrap();
    let place = format!("{config}:2: engine.ctx: the context");
    check(&["--config", config]).fails(2, &place, "");
}

/// A cache of the Hub in `home` that has the story model as `o/n`.
fn write_cache(home: &Path) {
    let snapshot = format!("hub/models--o--n/snapshots/{}", "0a".repeat(20));
    let snapshot = home.join(snapshot);
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::copy(stories(), snapshot.join("stories.gguf")).unwrap();
}

#[test]
fn configured_models_may_be_names_of_the_hub() {
    let folder = tempfile::tempdir().unwrap();
    let at_home = |args: &[&str]| {
        let mut command = bitnet();
        command
            .env_remove("HF_HUB_CACHE")
            .env("HF_HOME", folder.path());
        command.args(args);
        command
    };
    for args in [
        &["serve", "--check-config", "--configured", "t=hf:o/n"][..],
        &["serve", "--port", "0", "--configured", "t=hf:o/n"],
    ] {
        let refused = end(&mut at_home(args));
        let message = "models.configured has t: o/n is not in";
        let code = if args.contains(&"--port") { 1 } else { 2 };
        refused.fails(code, message, "`bitnet pull o/n`");
    }
    write_cache(folder.path());
    let checked = end(&mut at_home(&[
        "serve",
        "--check-config",
        "--configured",
        "t=hf:o/n",
    ]));
    assert!(checked.stderr.contains("can begin"), "{checked:?}");
    let mut command = command(&["--configured", "t=hf:o/n"]);
    command
        .env_remove("HF_HUB_CACHE")
        .env("HF_HOME", folder.path());
    let served = Served::start(command);
    let body = r#"{"model": "t", "prompt": "Once", "max_tokens": 1}"#;
    let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                Connection: close\r\nContent-Length: ";
    let answer = served.ask(&format!("{head}{}\r\n\r\n{body}", body.len()));
    let answer = answer.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn a_public_port_of_administrators_needs_keys_too() {
    let args = ["--admin-port", "8081", "--admin-host", "0.0.0.0"];
    let told = "the server would listen on 0.0.0.0, which other machines can reach";
    check(&args).fails(2, told, "docs/config.md");
    let started = run(&[&["serve", "--port", "0"], &args[..]].concat());
    assert_eq!(
        (started.code, started.stderr.contains(told)),
        (Some(2), true)
    );
    check(&[&args[..], &["--insecure-no-auth"]].concat()).ok();
}
