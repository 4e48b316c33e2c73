//! The `curl` commands of the documents, sent to a server as curl would send them.

use std::path::Path;

use crate::client::Connection;
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

#[test]
fn curl_commands_of_the_documents_work() {
    let commands = commands();
    assert!(!commands.is_empty());
    for (document, command) in commands {
        let managed = Managed::start();
        // The documents' model is called by its file, the tests' is `stories`.
        let command = command
            .replace("$KEY", managed.admin_key())
            .replace("\"v1\"", "\"stories\"");
        let (mut method, mut headers, mut body, mut path) =
            ("GET", String::new(), String::new(), None);
        let mut words = words(&command).into_iter().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                "-H" => headers += &format!("{}\r\n", words.next().unwrap()),
                "-d" => (method, body) = ("POST", words.next().unwrap()),
                "-X" => {
                    method = if words.next().unwrap() == "DELETE" {
                        "DELETE"
                    } else {
                        "POST"
                    }
                }
                "-N" | "-s" => {}
                url => {
                    let rest = url.strip_prefix("http://").expect("an address");
                    path = Some(rest[rest.find('/').unwrap()..].to_owned());
                }
            }
        }
        if !body.is_empty() && !headers.contains("Content-Type") {
            headers += "Content-Type: application/x-www-form-urlencoded\r\n";
        }
        let mut connection = Connection::open(managed.server.address);
        connection.send(method, &path.expect("an address"), &headers, &body);
        let answer = connection.answer();
        assert!(
            (200..300).contains(&answer.status),
            "{document}: {command}\n{} {}",
            answer.status,
            answer.body
        );
    }
}
