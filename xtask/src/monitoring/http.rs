//! The little HTTP that checks of servers need: version 1.0, so that an answer ends where its connection does.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// No answer of a test takes that long.
const PATIENCE: Duration = Duration::from_secs(30);

/// Status and body of an answer, if there was a whole one.
pub fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    answer(send(address, "GET", path, "")?)
}

/// The same for a request with a body of JSON.
pub fn post(address: SocketAddr, path: &str, body: &str) -> Option<(u16, String)> {
    answer(send(address, "POST", path, body)?)
}

/// Sends a request and hangs up without reading its answer.
pub fn post_and_leave(address: SocketAddr, path: &str, body: &str) {
    let connection = send(address, "POST", path, body);
    // Long enough that the request is under way, and short beside its answer.
    std::thread::sleep(Duration::from_millis(20));
    drop(connection);
}

/// A text as a part of a query.
pub fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

fn send(address: SocketAddr, method: &str, path: &str, body: &str) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(body.as_bytes()).ok()?;
    Some(stream)
}

fn answer(mut stream: TcpStream) -> Option<(u16, String)> {
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_a_meaning_in_a_url_is_escaped() {
        assert_eq!(
            escaped("rate(a:b{c=\"d\"}[1m])"),
            "rate%28a%3Ab%7Bc%3D%22d%22%7D%5B1m%5D%29"
        );
    }
}
