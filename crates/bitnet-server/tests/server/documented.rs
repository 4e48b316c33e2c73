//! The `curl` commands of the documents, sent to a server as curl would send them.

use std::path::Path;

use bitnet_server::ServerLimits;

use crate::client::Connection;
use crate::fixture::{Gated, TestServer, engine, until};
use crate::managed::Managed;

/// The words of a command of a shell: quotes of both kinds, nothing else of its language.
fn words(command: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for c in command.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, ' ') if words.last().is_some_and(String::is_empty) => {}
            (None, ' ') => words.push(String::new()),
            (_, c) => words.last_mut().unwrap().push(c),
        }
    }
    assert_eq!(quote, None, "{command}");
    words
}

/// The commands of the documents' blocks, each in one line, with the document.
fn commands() -> Vec<(String, String)> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let mut commands = Vec::new();
    for entry in std::fs::read_dir(docs).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).unwrap().replace("\\\n", " ");
        let found = text.lines().filter(|line| line.starts_with("curl "));
        commands.extend(found.map(|line| (name.clone(), line.to_owned())));
    }
    commands
}

/// A request of a command.
struct Asked {
    method: &'static str,
    path: String,
    headers: String,
    body: String,
    /// Whether the shell goes on without its answer.
    aside: bool,
}

/// What curl would send.
fn asked(command: &str) -> Asked {
    let mut asked = Asked {
        method: "GET",
        path: String::new(),
        headers: String::new(),
        body: String::new(),
        aside: false,
    };
    let mut words = words(command).into_iter().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "-H" => asked.headers += &format!("{}\r\n", words.next().unwrap()),
            "-d" => (asked.method, asked.body) = ("POST", words.next().unwrap()),
            "-X" => {
                let method = words.next().unwrap();
                asked.method = ["POST", "DELETE"]
                    .into_iter()
                    .find(|m| *m == method)
                    .unwrap();
            }
            "-N" | "-s" => {}
            "&" => asked.aside = true,
            url => {
                let rest = url.strip_prefix("http://").expect("an address");
                asked.path = rest[rest.find('/').unwrap()..].to_owned();
            }
        }
    }
    if !asked.body.is_empty() && !asked.headers.contains("Content-Type") {
        asked.headers += "Content-Type: application/x-www-form-urlencoded\r\n";
    }
    asked
}

#[test]
fn curl_commands_of_the_documents_work() {
    let commands = commands();
    assert!(!commands.is_empty());
    let managed = Managed::start();
    let engine = engine();
    let gated = Gated::idle(engine.clone());
    let open = TestServer::with_turns(engine, gated.clone(), ServerLimits::default());
    let mut under_way = Vec::new();
    for (document, command) in commands {
        // The documents' model is called by its file, the tests' is `stories`.
        let command = command
            .replace("$KEY", managed.admin_key())
            .replace("\"v1\"", "\"stories\"");
        let asked = asked(&command);
        let server = match asked.headers.contains("Authorization") {
            true => &managed.server,
            false => &open,
        };
        if asked.aside {
            gated.allow_only(0); // it is still there when the next command comes
        }
        let mut connection = Connection::open(server.address);
        connection.send(asked.method, &asked.path, &asked.headers, &asked.body);
        if asked.aside {
            let model = server.model();
            until("it is queued", || model.handle.load().waiting > 0);
            under_way.push(connection);
            continue;
        }
        if under_way.is_empty() {
            gated.open();
        }
        let answer = connection.answer();
        assert!(
            (200..300).contains(&answer.status),
            "{document}: {command}\n{} {}",
            answer.status,
            answer.body
        );
    }
    gated.open();
}
