//! `bitnet-server`, the server as a program of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const MODEL: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../bitnet-cli/assets/stories-5m.I2_S.gguf"
);

/// No answer takes that long; a hang fails instead of blocking.
const PATIENCE: Duration = Duration::from_secs(60);

fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bitnet-server"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("BITNET_") {
            command.env_remove(name);
        }
    }
    command.args(args).stdin(Stdio::null());
    command
}

#[test]
fn a_configuration_is_checked_and_the_exit_code_tells() {
    let check = |args: &[&str]| {
        let ended = program(args).arg("--check-config").output().unwrap();
        let stderr = String::from_utf8(ended.stderr).unwrap();
        (ended.status.code(), stderr)
    };
    let (code, said) = check(&["--model", MODEL]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("can begin"), "{said}");
    for (args, message) in [
        (
            &["--model", MODEL, "--host", "0.0.0.0"][..],
            "--insecure-no-auth",
        ),
        (&["--model", "/nowhere/model.gguf"], "/nowhere/model.gguf"),
        (&[], "names no model"),
    ] {
        let (code, said) = check(args);
        assert_eq!(code, Some(2), "{said}");
        assert!(
            said.starts_with("error: ") && said.contains(message),
            "{said}"
        );
    }
}

#[test]
fn a_check_leaves_a_damaged_file_of_used_tokens_to_the_server_that_runs() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys.json");
    std::fs::write(&keys, "{\"version\": 1, \"keys\": []}").unwrap();
    let usage = folder.path().join("keys.json.usage");
    std::fs::write(&usage, "[]").unwrap();
    let args = ["--model", MODEL, "--check-config", "--keys-file"];
    let ended = program(&args).arg(&keys).output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(0), "{said}");
    assert!(said.contains("keys.json.usage.damaged"), "{said}");
    assert_eq!(std::fs::read(&usage).unwrap(), b"[]");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn it_serves_the_model_of_its_settings() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("server.yaml");
    let settings = format!(
        "server:\n  port: 0\nmodels:\n  default_model: {MODEL}\nperformance:\n  kv_cache_memory: 2MB\n\
         engine:\n  ctx: 64\n  kernel: scalar-i2s\n"
    );
    std::fs::write(&file, settings).unwrap();
    let mut command = program(&["--config", file.to_str().unwrap()]);
    command.env("BITNET_CPU_THREADS", "1");
    let mut served = Served(command.stderr(Stdio::piped()).spawn().unwrap());
    let mut stderr = BufReader::new(served.0.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("serving ") {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "it ended");
    }
    assert!(
        line.starts_with("serving stories-5m.I2_S on http://"),
        "{line}"
    );
    for word in ["context 64", "1 threads", "scalar-i2s"] {
        assert!(line.contains(word), "{word}: {line}");
    }
    let (_, cache) = line.split_once("KV cache ").unwrap();
    let megabytes: f64 = cache.split(' ').next().unwrap().parse().unwrap();
    assert!(megabytes > 1.5 && megabytes <= 2.0, "{line}");
    let (_, rest) = line.split_once("://").unwrap();
    let address = rest.split(": ").next().unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let body = r#"{"prompt": "Once", "max_tokens": 2}"#;
    let request = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// A server that ends with its test.
struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn without_a_model_it_says_which_setting_names_one() {
    let ended = program(&["--port", "0"]).output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let stderr = String::from_utf8(ended.stderr).unwrap();
    for way in ["models.default_model", "--model", "BITNET_GGUF"] {
        assert!(stderr.contains(way), "{way}: {stderr}");
    }
}

#[test]
fn its_settings_are_printed_as_those_of_the_command() {
    let ended = program(&["--print-config"]).output().unwrap();
    let stdout = String::from_utf8(ended.stdout).unwrap();
    assert!(stdout.contains("  port: 8080  # default"), "{stdout}");
}

#[test]
fn as_json_everything_that_it_says_is_an_object_a_line() {
    let ended = program(&[
        "--log-format",
        "json",
        "--default-model",
        "no/such.gguf",
        "--port",
        "0",
    ])
    .output()
    .unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let stderr = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(
        stderr.starts_with('{') && stderr.contains("\"level\":\"ERROR\""),
        "{stderr}"
    );
    assert!(stderr.contains("no/such.gguf"), "{stderr}");
}

/// Who sends a token is answered with this status.
#[cfg(unix)]
fn status_of(address: &str, token: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!(
        "GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().to_owned()
}

#[cfg(unix)]
#[test]
fn an_end_that_cuts_requests_off_has_an_exit_code_of_its_own() {
    let args = [
        "--model",
        MODEL,
        "--port",
        "0",
        "--threads",
        "1",
        "--shutdown-timeout",
        "0",
    ];
    let mut served = Served(program(&args).stderr(Stdio::piped()).spawn().unwrap());
    let mut stderr = BufReader::new(served.0.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("serving ") {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "it ended");
    }
    let (_, rest) = line.split_once("://").unwrap();
    let mut stream = TcpStream::connect(rest.split(": ").next().unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // Its body does not come; the answer to its head says that the server waits for it.
    let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                Content-Length: 9\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 100");
    let id = served.0.id().to_string();
    let sent = Command::new("kill").args(["-TERM", &id]).status();
    assert!(sent.unwrap().success());
    assert_eq!(served.0.wait().unwrap().code(), Some(5));
}

#[cfg(unix)]
#[test]
fn a_hangup_reads_the_key_of_tokens_again_and_a_bad_one_changes_nothing() {
    use jsonwebtoken::{EncodingKey, Header, encode};
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    let (old, new) = (
        "the old secret of 32 bytes or so",
        "the new secret of 32 bytes or so",
    );
    std::fs::write(&file, old).unwrap();
    let token = |secret: &str| {
        let claims = serde_json::json!({
            "sub": "u", "iss": "issuer", "aud": "bitnet", "exp": 4_000_000_000u64,
            "realm_access": {"roles": ["viewer", "infer"]}
        });
        let key = EncodingKey::from_secret(secret.as_bytes());
        encode(&Header::default(), &claims, &key).unwrap()
    };
    let args = [
        ["--model", MODEL],
        ["--port", "0"],
        ["--threads", "1"],
        ["--log-level", "info"],
        ["--jwt-key-file", file.to_str().unwrap()],
        ["--jwt-algorithm", "HS256"],
        ["--jwt-issuer", "issuer"],
        ["--jwt-audience", "bitnet"],
        ["--jwt-role-claim", "realm_access.roles"],
    ];
    let mut command = program(args.as_flattened());
    let mut served = Served(command.stderr(Stdio::piped()).spawn().unwrap());
    let mut stderr = BufReader::new(served.0.stderr.take().unwrap());
    let mut said = String::new();
    let mut until_line = |words: &str| {
        let mut line = String::new();
        while !line.contains(words) {
            line.clear();
            assert!(
                stderr.read_line(&mut line).unwrap() > 0,
                "no {words:?} in {said}"
            );
            said.push_str(&line);
        }
        (line, said.clone())
    };
    let hang_up = |served: &Served| {
        let id = served.0.id().to_string();
        let status = Command::new("kill").args(["-HUP", &id]).status();
        assert!(status.unwrap().success());
    };
    let (line, _) = until_line("serving ");
    assert!(
        line.trim_end().ends_with("; key needed: tokens by 1 key"),
        "{line}"
    );
    let (_, rest) = line.split_once("://").unwrap();
    let address = rest.split(": ").next().unwrap();
    assert_eq!(status_of(address, &token(old)), "200");
    assert_eq!(status_of(address, &token(new)), "401");
    let (refused, said) = until_line("a credential was refused");
    assert!(
        refused.contains("its signature is not by the key"),
        "{refused}"
    );
    let signature = token(new);
    let signature = signature.rsplit('.').next().unwrap();
    assert!(!said.contains(signature), "{said}");

    std::fs::write(&file, "too short").unwrap();
    hang_up(&served);
    until_line("the key of tokens stays as it was");
    assert_eq!(status_of(address, &token(old)), "200");

    std::fs::write(&file, new).unwrap();
    hang_up(&served);
    until_line("read the key of tokens");
    assert_eq!(status_of(address, &token(old)), "401");
    assert_eq!(status_of(address, &token(new)), "200");
}
