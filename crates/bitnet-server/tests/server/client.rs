//! A client without a library: what is sent and received is seen as it is on the wire.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// No answer of these tests takes that long; a hang fails instead of blocking.
const PATIENCE: Duration = Duration::from_secs(60);

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// Whether it is this error.
    pub fn is_error(&self, status: u16, code: &str) -> bool {
        self.status == status && self.json()["error"]["code"] == code
    }

    /// The JSON of each `data:` line but `[DONE]`, which must come last.
    pub fn events(&self) -> Vec<Value> {
        let mut data: Vec<&str> = self
            .body
            .lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .collect();
        assert_eq!(data.pop(), Some("[DONE]"), "{}", self.body);
        data.iter()
            .map(|text| serde_json::from_str(text).unwrap())
            .collect()
    }
}

/// A connection on which a request was sent.
pub struct Connection(BufReader<TcpStream>);

impl Connection {
    pub fn open(address: SocketAddr) -> Connection {
        Connection::over(TcpStream::connect(address).unwrap())
    }

    pub fn over(stream: TcpStream) -> Connection {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Connection(BufReader::new(stream))
    }

    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    /// Sends a request; a body is said to be JSON unless the headers say something else.
    pub fn send(&mut self, method: &str, path: &str, headers: &str, body: &str) {
        let length = body.len();
        let kind = if body.is_empty() || headers.contains("Content-Type") {
            ""
        } else {
            "Content-Type: application/json\r\n"
        };
        let text = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{kind}{headers}\r\n{body}"
        );
        self.send_raw(text.as_bytes());
    }

    /// Reads one line, without its end.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Reads so many bytes.
    pub fn text(&mut self, length: usize) -> String {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    pub fn answer(&mut self) -> Answer {
        let status = self.line();
        let status = status
            .split(' ')
            .nth(1)
            .expect("a status line")
            .parse()
            .unwrap();
        let mut headers = Vec::new();
        loop {
            let line = self.line();
            let Some((name, value)) = line.split_once(": ") else {
                break;
            };
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        let mut answer = Answer {
            status,
            headers,
            body: String::new(),
        };
        let mut body = Vec::new();
        if let Some(length) = answer.header("content-length") {
            body.resize(length.parse().unwrap(), 0);
            self.0.read_exact(&mut body).unwrap();
        } else if answer.header("transfer-encoding") == Some("chunked") {
            loop {
                let size = usize::from_str_radix(&self.line(), 16).unwrap();
                let start = body.len();
                body.resize(start + size, 0);
                self.0.read_exact(&mut body[start..]).unwrap();
                assert_eq!(self.line(), "");
                if size == 0 {
                    break;
                }
            }
        }
        answer.body = String::from_utf8(body).unwrap();
        answer
    }
}

/// Sends one request on a connection of its own.
pub fn request(address: SocketAddr, method: &str, path: &str, body: &str) -> Answer {
    let mut connection = Connection::open(address);
    connection.send(method, path, "Content-Type: application/json\r\n", body);
    connection.answer()
}
