//! `bitnet ps`, `load`, `swap`, `rollback` and `unload` against a server that runs.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::bitnet::{Ended, bitnet, data, end, run};
use crate::served::{Served, serve};

/// A server with keys and a directory of two versions of a model, a cut one, and another model that is configured.
struct Managed {
    served: Served,
    folder: tempfile::TempDir,
}

impl Managed {
    fn start() -> Managed {
        Managed::start_with(&[])
    }

    /// With these flags of `serve` too.
    fn start_with(flags: &[&str]) -> Managed {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| text(&folder.path().join(name));
        write_models(folder.path());
        for role in ["admin", "infer"] {
            let added = run(&[
                "keys",
                "add",
                "--file",
                &at("keys.json"),
                "--name",
                role,
                "--role",
                role,
            ]);
            std::fs::write(at(&format!("{role}.key")), added.ok()).unwrap();
        }
        let spare = format!("spare={}", at("v2.gguf"));
        let args = [
            "--model",
            &at("v1.gguf"),
            "--served-model-name",
            "story",
            "--directories",
            &text(folder.path()),
            "--configured",
            &spare,
            "--keys-file",
            &at("keys.json"),
        ];
        let served = serve(&[&args[..], flags].concat());
        Managed { served, folder }
    }

    fn at(&self, name: &str) -> String {
        text(&self.folder.path().join(name))
    }

    /// Runs a command against it with the key of `role`.
    fn run_as(&self, role: &str, args: &[&str]) -> Ended {
        let url = format!("http://127.0.0.1:{}", self.served.port());
        let key = self.at(&format!("{role}.key"));
        end(bitnet()
            .args(args)
            .args(["--url", &url, "--key-file", &key]))
    }

    fn run(&self, args: &[&str]) -> Ended {
        self.run_as("admin", args)
    }

    /// What `ps` tells of a model.
    fn seen(&self, id: &str) -> Value {
        let models = self.run(&["ps", "--format", "json"]).json()["models"].clone();
        let models = models.as_array().unwrap().clone();
        models
            .into_iter()
            .find(|model| model["id"] == id)
            .unwrap_or_default()
    }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// The embedded model as `v1.gguf`, with another base of its positions as `v2.gguf`, and half of it as `cut.gguf`.
fn write_models(folder: &Path) {
    let embedded: PathBuf = data("../../../bitnet-cli/assets/stories-5m.I2_S.gguf");
    let mut bytes = std::fs::read(embedded).unwrap();
    std::fs::write(folder.join("v1.gguf"), &bytes).unwrap();
    std::fs::write(folder.join("cut.gguf"), &bytes[..bytes.len() / 2]).unwrap();
    let name = b"rope.freq_base";
    let at = bytes.windows(name.len()).position(|it| it == name).unwrap();
    let at = at + name.len() + 4; // the type of the value comes first
    bytes[at..at + 4].copy_from_slice(&50f32.to_le_bytes());
    std::fs::write(folder.join("v2.gguf"), &bytes).unwrap();
}

#[test]
fn a_running_server_is_managed_from_a_shell() {
    let managed = Managed::start();
    let first = managed.seen("story")["version"].clone();
    let (spare, table) = (managed.seen("spare"), managed.run(&["ps"]));
    assert_eq!(
        (&spare["status"], &spare["version"]),
        (&"unloaded".into(), &Value::Null)
    );
    let lines: Vec<&str> = table.ok().lines().collect();
    assert!(
        lines[0].starts_with("model") && lines.iter().all(|line| line.chars().count() <= 80),
        "{table:?}"
    );
    assert!(
        table.stdout.contains(&first.as_str().unwrap()[..12]),
        "{table:?}"
    );

    // By its name alone, which the server knows; by a path, under a name of its own.
    let loaded = managed.run(&["load", "--name", "spare", "--wait"]);
    assert!(
        loaded.ok().starts_with("loaded spare, version "),
        "{loaded:?}"
    );
    let second = managed.seen("spare")["version"].clone();
    assert_ne!(first, second);
    let validated = managed.run(&[
        "load",
        "v2.gguf",
        "--name",
        "other",
        "--validate",
        "--wait",
        "--format",
        "json",
    ]);
    let validated = validated.json();
    assert_eq!(
        (&validated["id"], &validated["version"]),
        (&"other".into(), &second)
    );
    assert_eq!(
        validated["validation"]["top1_agreement"], 1.0,
        "{validated}"
    );
    let begun = managed.run(&["load", "v1.gguf", "--name", "third"]);
    let typed = format!(
        "`bitnet ps --url http://127.0.0.1:{} --key-file ",
        managed.served.port()
    );
    assert!(begun.ok().contains(&typed), "{begun:?}");

    let swapped = managed.run(&["swap", "story", "v2.gguf"]);
    assert!(swapped.ok().starts_with("swapped story in "), "{swapped:?}");
    assert!(
        swapped
            .stdout
            .contains(&format!("version: {}\n", second.as_str().unwrap()))
    );
    assert_eq!(managed.seen("story")["version"], second);
    let back = managed.run(&["rollback", "story", "--format", "json"]);
    assert_eq!(back.json()["version"], first);
    managed.run(&["rollback", "story"]).fails(
        1,
        "there is no version",
        "`bitnet swap` puts any version in place",
    );
    managed.run(&["load", "v2.gguf", "--name", "story"]).fails(
        1,
        "model_already_loaded",
        "`bitnet swap` puts another version",
    );

    assert_eq!(managed.run(&["unload", "spare"]).ok(), "unloaded spare\n");
    assert_eq!(managed.seen("spare")["status"], "unloaded");
    let forgotten = managed.run(&["unload", "other", "--forget", "--patience", "5", "--force"]);
    assert_eq!(forgotten.ok(), "deleted other\n");
    assert_eq!(managed.seen("other"), Value::Null);
}

#[test]
fn what_a_server_refuses_is_told_with_the_exit_code_of_its_kind() {
    let managed = Managed::start();
    managed
        .run(&["load", "cut.gguf", "--wait"])
        .fails(3, "model_incompatible", "");
    managed
        .run(&["swap", "story", "cut.gguf"])
        .fails(3, "model_incompatible", "");
    for order in [
        &["load", "/etc/passwd"][..],
        &["swap", "story", "gone.gguf"],
    ] {
        managed.run(order).fails(
            1,
            "PATH names no model in the configured directories",
            "models.directories: `bitnet ps --files` lists",
        );
    }
    managed.run(&["load", "v1.gguf", "--name", "spare"]).fails(
        1,
        "'spare' means v2.gguf, not v1.gguf; without PATH that one is loaded (model_id_taken)",
        "`bitnet swap` puts another file behind the name",
    );
    managed.run(&["load", "v1.gguf", "--name", "a/b"]).fails(
        2,
        "--name is \"a/b\"",
        "change --name",
    );
    managed.run(&["load", "--name", "nobody"]).fails(
        1,
        "there is no model 'nobody'",
        "name its file too: PATH",
    );
    managed.run(&["unload", "a/../b?c"]).fails(
        1,
        "there is no model 'a/../b?c'",
        "`bitnet ps` lists",
    );
    managed
        .run_as("infer", &["unload", "story"])
        .fails(1, "insufficient_role", "--role admin");
    assert_eq!(managed.run_as("infer", &["ps"]).code, Some(0));

    let url = format!("http://127.0.0.1:{}", managed.served.port());
    let nobody = run(&["ps", "--url", &url]);
    nobody.fails(1, "missing_api_key", "--key-file");
    let key = std::fs::read_to_string(managed.at("admin.key")).unwrap();
    let by_variable = end(bitnet()
        .args(["ps", "--url", &url])
        .env("BITNET_API_KEY", key.trim()));
    assert!(by_variable.ok().contains("story"), "{by_variable:?}");
    // The settings of the server say where it is, as for `healthcheck`.
    let by_settings = end(bitnet()
        .args(["ps", "--key-file", &managed.at("admin.key")])
        .env("BITNET_SERVER__PORT", managed.served.port().to_string()));
    assert!(by_settings.ok().contains("story"), "{by_settings:?}");
}

#[test]
fn who_manages_a_server_is_told_why_a_load_failed() {
    let managed = Managed::start();
    managed
        .run(&["load", "cut.gguf", "--name", "next", "--wait"])
        .fails(3, "model_incompatible", "");
    let seen = managed.seen("next");
    assert_eq!(
        (&seen["status"], &seen["error"]["code"]),
        (&"failed".into(), &"model_incompatible".into()),
        "{seen}"
    );
    let said = |field: &str| seen["error"][field].as_str().unwrap().to_owned();
    let (message, hint) = (said("message"), said("hint"));
    assert!(!message.contains("download it again"), "{seen}");
    assert!(hint.contains("download it again"), "{seen}");
    let table = managed.run(&["ps"]);
    let (_, reason) = table.ok().split_once("\nnext failed:\n").unwrap();
    // It asks the same server, and names the file as the server found it.
    let cut = managed.folder.path().canonicalize().unwrap();
    let again = format!("bitnet load {} --name next", cut.join("cut.gguf").display());
    let server = format!(
        " --url http://127.0.0.1:{} --key-file {}",
        managed.served.port(),
        managed.at("admin.key")
    );
    let words = |text: &str| {
        text.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        words(reason),
        words(&format!(
            "{message} (model_incompatible) {hint} try again: `{again}{server}`"
        ))
    );
    managed.run(&["load", "--name", "next"]).fails(
        2,
        "only PATH says where it is; the last load of it failed: cut.gguf",
        &format!("mend the file, then `{again}`"),
    );
    let typed: Vec<&str> = again.split(' ').skip(1).collect();
    managed.run(&typed).ok();
    let lines = table.stdout.lines();
    let mut texts = lines.filter(|line| !line.contains("try again:"));
    assert!(
        texts.all(|line| line.chars().count() <= 80),
        "a command alone is not cut: {table:?}"
    );
    // Requests may not name it, and who may only send requests learns nothing of it.
    assert!(!managed.run_as("infer", &["ps"]).ok().contains("next"));

    // One that the server knows is told in the same way, and no more when it is there.
    std::fs::rename(managed.at("v2.gguf"), managed.at("away")).unwrap();
    let failed = managed.run(&["load", "--name", "spare", "--wait"]);
    assert_ne!(failed.code, Some(0), "{failed:?}");
    let table = managed.run(&["ps"]);
    assert!(table.ok().contains("\nspare failed:\n"), "{table:?}");
    assert!(
        table
            .stdout
            .contains(&format!("try again: `bitnet load --name spare{server}`")),
        "{table:?}"
    );
    std::fs::rename(managed.at("away"), managed.at("v2.gguf")).unwrap();
    managed.run(&["load", "--name", "spare", "--wait"]).ok();
    assert!(!managed.run(&["ps"]).ok().contains("spare failed"));
}

#[test]
fn files_are_listed_for_administrators_with_the_models_that_come_from_them() {
    let managed = Managed::start();
    let long =
        "a-name-that-is-longer-than-any-column-of-eighty-characters-would-ever-have-room-for.gguf";
    std::fs::copy(managed.at("v1.gguf"), managed.at(long)).unwrap();
    let files = managed.run(&["ps", "--files"]);
    let row = |table: &str, begin: &str| {
        let line = table.lines().find(|line| line.starts_with(begin));
        line.unwrap_or_else(|| panic!("{begin}: {table}"))
            .to_owned()
    };
    assert!(row(files.ok(), "v1.gguf ").ends_with(" story"), "{files:?}");
    assert!(row(files.ok(), "v2.gguf ").ends_with(" spare"), "{files:?}");
    // No terminal reads this, so it is whole.
    assert!(row(files.ok(), long).ends_with(" -"), "{files:?}");
    let listed = managed.run(&["ps", "--files", "--format", "json"]).json();
    assert_eq!(listed["files"].as_array().unwrap().len(), 4, "{listed}");
    managed
        .run_as("infer", &["ps", "--files"])
        .fails(1, "insufficient_role", "--role admin");

    let models = managed.run(&["ps"]);
    assert!(
        row(models.ok(), "story ").ends_with(" v1.gguf"),
        "{models:?}"
    );
    assert!(
        row(models.ok(), "spare ").ends_with(" v2.gguf"),
        "{models:?}"
    );
    let models = managed.run_as("infer", &["ps"]);
    assert!(row(models.ok(), "story ").ends_with(" -"), "{models:?}");
}

#[cfg(unix)]
#[test]
fn a_server_that_is_shutting_down_is_listed_and_called_so() {
    use std::io::{Read, Write};
    // However slow the machine is, the body is waited for until `ps` has seen it.
    let managed = Managed::start_with(&["--body-timeout", "1h", "--shutdown-timeout", "1h"]);
    let served = &managed.served;
    assert_eq!(managed.run(&["ps"]).stderr, "");
    // A body that does not come holds the end up; the answer to its head says that the server waits for it.
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", served.port())).unwrap();
    stream
        .set_read_timeout(Some(std::time::Duration::from_secs(60)))
        .unwrap();
    let key = std::fs::read_to_string(managed.at("admin.key")).unwrap();
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n",
        key.trim()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 100");
    served.signal("TERM");
    served.until_line("draining");
    let told = |ended: Ended| {
        assert!(ended.ok().contains("v1.gguf"), "{ended:?}");
        ended.stderr.contains("the server is shutting down")
    };
    crate::served::until(
        "words about the end",
        || served.text(),
        || told(managed.run(&["ps"])).then_some(()),
    );
    let listed = managed.run(&["ps", "--format", "json"]).json();
    assert_eq!(listed["draining"], true);
    let files = managed.run(&["ps", "--files"]);
    assert!(
        files.stderr.contains("the server is shutting down"),
        "{files:?}"
    );
}

#[test]
fn addresses_and_keys_that_are_none_are_told_before_anybody_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let empty = text(&folder.path().join("empty.key"));
    std::fs::write(&empty, "\n").unwrap();
    run(&["ps", "--key-file", &empty]).fails(2, "is no key", "bitnet keys add");
    run(&["ps", "--key-file", "missing.key"]).fails(1, "missing.key", "path");
    run(&["ps", "--url", "127.0.0.1:8080"]).fails(2, "expected http://HOST:PORT", "--help");
    run(&["ps", "--url", "https://127.0.0.1:1"]).fails(2, "certificate", "--tls-certificate-file");
    run(&["load"]).fails(2, "required", "--help");
    let variable = end(bitnet().arg("ps").env("BITNET_API_KEY", "two words"));
    variable.fails(2, "BITNET_API_KEY", "unset");
    assert!(!variable.stderr.contains("two words"), "{variable:?}");

    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    run(&["ps", "--url", &url]).fails(1, "does not answer", "bitnet serve");
}
