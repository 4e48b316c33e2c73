//! `bitnet serve` as a process: its first line, its health, what it refuses.

use crate::bitnet::{bitnet, end, run};
use crate::served::serve;

#[test]
fn the_first_line_tells_the_address_and_the_memory() {
    let served = serve(&[]);
    let line = served.until_line("serving ");
    for word in [
        "stories-5m",
        "http://",
        "weights",
        "KV cache",
        "2048 positions; context 256",
        "1 threads",
        "; open on loopback",
    ] {
        assert!(line.contains(word), "{word}: {line}");
    }
    let port = served.port().to_string();
    assert_eq!(run(&["healthcheck", "--port", &port]).code, Some(0));
    let body =
        r#"{"messages": [{"role": "user", "content": "Once upon a time"}], "max_tokens": 3}"#;
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = served.ask(&request).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("\"model\":\"stories-5m\""), "{answer}");
}

#[test]
fn the_first_line_tells_who_may_ask_and_a_file_without_keys_is_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    let path = file.to_str().unwrap();
    std::fs::write(&file, r#"{"version": 1, "keys": []}"#).unwrap();
    let served = serve(&["--keys-file", path]);
    let line = served.until_line("serving ");
    assert!(line.ends_with("; key needed: 0 keys"), "{line}");
    let warned = served.until_line("has no keys");
    assert!(warned.contains("bitnet keys add --file"), "{warned}");
    drop(served);
    for name in ["alice", "bob"] {
        run(&["keys", "add", "--file", path, "--name", name]).ok();
    }
    let served = serve(&["--keys-file", path, "--loopback-inference", "open"]);
    let line = served.until_line("serving ");
    assert!(line.ends_with("; open on loopback; 2 keys"), "{line}");
    assert!(!served.text().contains("has no keys"), "{}", served.text());
    drop(served);
    let served = serve(&["--loopback-inference", "key"]);
    let line = served.until_line("serving ");
    assert!(line.ends_with("; key needed, and there is none"), "{line}");
    // Nobody is to guess which of two is meant.
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("bob", "alice")).unwrap();
    run(&["serve", "--port", "0", "--keys-file", path]).fails(2, "both named 'alice'", "");
}

#[test]
fn a_health_check_asks_where_the_settings_say() {
    let served = serve(&[]);
    let port = served.port();
    let checked = end(bitnet()
        .arg("healthcheck")
        .env("BITNET_SERVER__PORT", port.to_string()));
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("server.yaml");
    let settings = format!("server:\n  host: 0.0.0.0\n  port: {port}\n");
    std::fs::write(&file, settings).unwrap();
    let file = file.to_str().unwrap();
    let checked = run(&["healthcheck", "--config", file]);
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
    run(&["healthcheck", "--config", "missing.yaml"]).fails(2, "missing.yaml", "docs/config.md");
}

#[test]
fn a_public_address_needs_leave() {
    let refused = run(&["serve", "--host", "0.0.0.0", "--port", "0"]);
    assert_eq!(refused.code, Some(2));
    assert!(
        refused.stderr.contains("--insecure-no-auth"),
        "{}",
        refused.stderr
    );
}

#[test]
fn a_certificate_without_its_key_is_told_before_the_model_is_loaded() {
    let args = [
        "serve",
        "--tls-certificate-file",
        "cert.pem",
        "--model",
        "missing.gguf",
    ];
    let refused = run(&args);
    refused.fails(2, "tls_key_file is not", "docs/config.md");
}

#[test]
fn a_port_that_is_taken_or_empty_is_told() {
    let served = serve(&[]);
    let port = served.port().to_string();
    let taken = run(&["serve", "--port", &port]);
    assert_eq!(taken.code, Some(1));
    assert!(taken.stderr.contains("cannot serve on"), "{}", taken.stderr);
    // Before the model is looked for, which may take minutes.
    let taken = run(&["serve", "--port", &port, "--model", "missing.gguf"]);
    taken.fails(1, "cannot serve on", "name another --port");

    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port().to_string();
    drop(free);
    let nobody = run(&["healthcheck", "--port", &port]);
    assert_eq!(nobody.code, Some(1));
    assert!(
        nobody.stderr.contains("does not answer"),
        "{}",
        nobody.stderr
    );
}

#[test]
fn a_configuration_is_checked_without_serving_by_it() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(at("text.gguf"), "no model, but a text of some length").unwrap();
    let served = serve(&[]);
    let port = served.port().to_string();
    // The server that the settings are for may run: its port is none of the check's business.
    let audit = at("audit.jsonl");
    let good = run(&[
        "serve",
        "--check-config",
        "--port",
        &port,
        "--audit-log-file",
        &audit,
    ]);
    assert_eq!(good.ok(), "");
    assert!(good.stderr.contains("can begin"), "{good:?}");
    assert!(!std::path::Path::new(&audit).exists(), "nothing is made");

    let refused = |args: &[&str], message: &str, hint: &str| {
        let checked = run(&[&["serve", "--check-config"], args].concat());
        checked.fails(2, message, hint);
        checked.stderr
    };
    for (args, message) in [
        (&["--host", "0.0.0.0"][..], "--insecure-no-auth"),
        (
            &["--tls-certificate-file", "cert.pem"],
            "tls_key_file is not",
        ),
        (&["--directories", "/nowhere/models"], "/nowhere/models"),
        (&["--configured", "a=x.gguf,a=y.gguf"], "twice"),
        (&["--template", "/nowhere/chat.jinja"], "chat.jinja"),
        (&["--keys-file", "/nowhere/keys.json"], "keys.json"),
        (&["--kernel", "vax"], "expected one of"),
        (
            &["--kv-cache-memory", "8000000GB"],
            "--kv-cache-memory: performance.kv_cache_memory is",
        ),
        (
            &["--tokenizer", "/nowhere/tokenizer.json"],
            "tokenizer.json",
        ),
    ] {
        let checked = refused(args, message, "docs/config.md");
        // The very error that a server tells; this one has no port of its own to fail for.
        let served = run(&[&["serve", "--port", "0"], args].concat());
        assert_eq!((served.code, served.stderr), (Some(2), checked), "{args:?}");
    }
    // What the model says is said by the start in the same words, and with the exit code of its kind.
    for (args, code, message) in [
        (&["--model", "/nowhere/a.gguf"][..], 1, "/nowhere/a.gguf"),
        (&["/nowhere/named.gguf"], 1, "/nowhere/named.gguf"),
        (&["--model", &at("text.gguf")], 3, "not a model"),
        (&["--ctx", "16000000"], 2, "the context"),
        (&["--kv-cache-memory", "1KiB"], 2, "the KV cache"),
    ] {
        let checked = refused(args, message, "");
        let served = run(&[&["serve", "--port", "0"], args].concat());
        assert_eq!(
            (served.code, served.stderr),
            (Some(code), checked),
            "{args:?}"
        );
    }
    refused(
        &["--configured", "a=/nowhere/b.gguf"],
        "/nowhere/b.gguf",
        "",
    );
    refused(
        &["--audit-log-file", "/nowhere/audit.jsonl"],
        "logs cannot be opened",
        "",
    );
    refused(&["--no-such-setting"], "--no-such-setting", "");
    let both = run(&["serve", "--check-config", "--print-config"]);
    both.fails(2, "cannot be used with", "");
}

#[test]
fn names_that_no_model_has_are_told_by_the_check_and_by_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let keys = at("keys.json");
    let add = |name: &str, models: &str, more: &[&str]| {
        let args = [
            "keys", "add", "--file", &keys, "--name", name, "--models", models,
        ];
        run(&[&args[..], more].concat())
    };
    // Nobody says which models there are, so nothing is said of them.
    assert!(!add("guest", "story,other", &[]).stderr.contains("warning"));
    let config = at("server.yaml");
    let settings = "models:\n  served_model_name: story\n  pinned: [story, spare]\n";
    std::fs::write(&config, settings).unwrap();
    let added = add("second", "story,other", &["--config", &config]);
    assert!(added.ok().starts_with("bk_"), "{added:?}");
    assert!(
        added
            .stderr
            .contains("configures the model 'other': there is story until"),
        "{added:?}"
    );
    assert!(!added.stderr.contains("'story'"), "{added:?}");
    let broken = at("broken.yaml");
    std::fs::write(&broken, "models: 7\n").unwrap();
    add("third", "story", &["--config", &broken]).fails(2, "broken.yaml", "docs/config.md");

    let args = ["--config", &config, "--keys-file", &keys];
    let checked = run(&[&["serve", "--check-config"], &args[..]].concat());
    assert_eq!(checked.ok(), "");
    let served = serve(&args);
    let pinned = "models.pinned has the model 'spare', which no setting configures";
    for words in [pinned, "the key 'guest' (", "the key 'second' ("] {
        assert!(checked.stderr.contains(words), "{words}: {checked:?}");
        served.until_line(words);
    }
    assert!(!checked.stderr.contains("model 'story'"), "{checked:?}");
    assert!(!checked.stderr.contains("third"), "{checked:?}");
}

#[test]
fn the_help_of_a_setting_tells_what_it_may_be() {
    let help = run(&["serve", "--help"]).ok().to_owned();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for words in [
        "[values: none, on, text, json] [default: none]",
        "[values: f32, f16, i8]",
        "[values: a whole number from 0 to 65535] [default: 8080]",
        "scalar-i2s",
    ] {
        assert!(help.contains(words), "{words}: {help}");
    }
}
