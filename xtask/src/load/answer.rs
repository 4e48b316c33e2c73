//! An HTTP/1.1 answer, read as its bytes come: status, whole body, or the events of a stream.
//!
//! Own and small: a measuring client must cost less than the server that it measures. It understands what a server of
//! ours sends (a length or chunks, `data:` lines) and calls everything else an error.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::time::Duration;

/// An answer under way.
#[derive(Debug)]
pub struct Answer {
    state: State,
    line: Vec<u8>,  // what came of a line of the head, or of a chunk's size
    event: Vec<u8>, // what came of a line of the stream
    /// Its status, once the head is there.
    pub status: Option<u16>,
    /// The body of what is no stream.
    pub body: Vec<u8>,
    /// Events with data, `[DONE]` not counted.
    pub n_events: usize,
    last_event: Vec<u8>,
    chunked: bool,
    is_stream: bool,
    length: usize,
    closes: bool,
    retry_after: Option<Duration>,
    check: Option<Duration>,
    done: bool,
    failure: Option<String>,
}

#[derive(Debug, PartialEq)]
enum State {
    StatusLine,
    Head,
    Body(usize), // bytes left
    ChunkSize,
    Chunk(usize), // bytes left
    ChunkEnd,
    LastChunkEnd,
    Complete,
}

/// Longest line of a head or an event: far more than any of ours.
const LONGEST_LINE: usize = 1 << 20;

impl Answer {
    /// Of which nothing has come yet.
    pub fn new() -> Answer {
        Answer {
            state: State::StatusLine,
            line: Vec::new(),
            event: Vec::new(),
            status: None,
            body: Vec::new(),
            n_events: 0,
            last_event: Vec::new(),
            chunked: false,
            is_stream: false,
            length: 0,
            closes: false,
            retry_after: None,
            check: None,
            done: false,
            failure: None,
        }
    }

    /// Forgets the answer and keeps the memory.
    pub fn clear(&mut self) {
        let Answer {
            mut line,
            mut event,
            mut body,
            mut last_event,
            ..
        } = std::mem::replace(self, Answer::new());
        line.clear();
        event.clear();
        body.clear();
        last_event.clear();
        (self.line, self.event) = (line, event);
        (self.body, self.last_event) = (body, last_event);
    }

    /// Takes the next bytes of the connection.
    ///
    /// # Errors
    /// What is no HTTP, and bytes behind the end.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            match self.state {
                State::StatusLine | State::Head | State::ChunkSize => {
                    let Some(line) = self.take_line(&mut bytes)? else {
                        return Ok(());
                    };
                    self.line_of_head(&line)?;
                }
                State::Body(left) => {
                    let n = left.min(bytes.len());
                    self.take_body(&bytes[..n])?;
                    bytes = &bytes[n..];
                    self.state = match left - n {
                        0 => State::Complete,
                        left => State::Body(left),
                    };
                }
                State::Chunk(left) => {
                    let n = left.min(bytes.len());
                    self.take_body(&bytes[..n])?;
                    bytes = &bytes[n..];
                    self.state = match left - n {
                        0 => State::ChunkEnd,
                        left => State::Chunk(left),
                    };
                }
                State::ChunkEnd | State::LastChunkEnd => {
                    let ends = bytes[0] == b'\n';
                    ensure!(ends || bytes[0] == b'\r', "a chunk is longer than it said");
                    bytes = &bytes[1..];
                    if ends {
                        self.state = match self.state {
                            State::ChunkEnd => State::ChunkSize,
                            _ => State::Complete,
                        };
                    }
                }
                State::Complete => bail!("{} bytes behind the end of the answer", bytes.len()),
            }
        }
        Ok(())
    }

    /// Whether all of it has come.
    pub fn is_complete(&self) -> bool {
        self.state == State::Complete
    }

    /// Whether the connection is of no further use.
    pub fn closes(&self) -> bool {
        self.closes
    }

    /// When to ask again, if it says so.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// How long the server took to give it to the scheduler, if its head says so.
    pub fn check(&self) -> Option<Duration> {
        self.check
    }

    /// The code of its error, or why it is no proper answer; `None` for a good one that is complete.
    pub fn trouble(&self) -> Option<String> {
        let code = |json: &[u8]| {
            let value: Option<Value> = serde_json::from_slice(json).ok();
            let code = value.and_then(|value| Some(value["error"]["code"].as_str()?.to_owned()));
            code.unwrap_or_else(|| "an error without a code".to_owned())
        };
        match self.status {
            _ if !self.is_complete() => Some("cut off".into()),
            Some(200) if self.is_stream && self.failure.is_some() => self.failure.clone(),
            Some(200) if self.is_stream && !self.done => Some("a stream without an end".into()),
            Some(200) => None,
            Some(status) => Some(format!("{status} {}", code(&self.body))),
            None => Some("no status".into()),
        }
    }

    /// Prompt and answer tokens as the server counts them.
    ///
    /// # Errors
    /// When it does not say.
    pub fn usage(&self) -> Result<(usize, usize)> {
        let json = if self.is_stream {
            &self.last_event
        } else {
            &self.body
        };
        let value: Value = serde_json::from_slice(json).context("the answer's usage")?;
        let count = |name: &str| {
            let count = value["usage"][name].as_u64();
            count
                .map(|count| count as usize)
                .with_context(|| format!("no usage.{name} in the answer"))
        };
        Ok((count("prompt_tokens")?, count("completion_tokens")?))
    }

    /// The next line, when all of it is there; what is there of it waits otherwise.
    fn take_line(&mut self, bytes: &mut &[u8]) -> Result<Option<Vec<u8>>> {
        let end = bytes.iter().position(|&byte| byte == b'\n');
        let (part, rest) = bytes.split_at(end.map_or(bytes.len(), |end| end + 1));
        self.line.extend_from_slice(part);
        *bytes = rest;
        ensure!(self.line.len() <= LONGEST_LINE, "a line without an end");
        Ok(end
            .map(|_| self.line.trim_ascii_end().to_owned())
            .inspect(|_| self.line.clear()))
    }

    fn line_of_head(&mut self, line: &[u8]) -> Result<()> {
        let line = std::str::from_utf8(line).context("a head that is no text")?;
        match self.state {
            State::StatusLine => {
                let status = line
                    .strip_prefix("HTTP/1.1 ")
                    .and_then(|rest| rest.get(..3));
                let status = status.with_context(|| format!("no HTTP: {line:?}"))?;
                self.status = Some(status.parse().context("the status")?);
                self.state = State::Head;
            }
            State::Head if line.is_empty() => {
                self.state = match (self.chunked, self.length) {
                    (true, _) => State::ChunkSize,
                    (false, 0) => State::Complete,
                    (false, length) => State::Body(length),
                };
            }
            State::Head => {
                let (name, value) = line.split_once(':').context("a header without a colon")?;
                let value = value.trim();
                match name.to_ascii_lowercase().as_str() {
                    "content-length" => self.length = value.parse().context("content-length")?,
                    "transfer-encoding" => self.chunked = value.eq_ignore_ascii_case("chunked"),
                    "content-type" => self.is_stream = value.starts_with("text/event-stream"),
                    "retry-after" => {
                        self.retry_after = value.parse().ok().map(Duration::from_secs);
                    }
                    "server-timing" => self.check = part_of_timing(value, "check"),
                    "connection" => self.closes = value.eq_ignore_ascii_case("close"),
                    _ => {}
                }
            }
            _ => {
                let size = usize::from_str_radix(line, 16);
                self.state = match size.with_context(|| format!("a chunk's size: {line:?}"))? {
                    0 => State::LastChunkEnd,
                    size => State::Chunk(size),
                };
            }
        }
        Ok(())
    }

    fn take_body(&mut self, mut bytes: &[u8]) -> Result<()> {
        if !self.is_stream {
            self.body.extend_from_slice(bytes);
            return Ok(());
        }
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            let (line, rest) = bytes.split_at(end);
            bytes = &rest[1..];
            if self.event.is_empty() {
                self.line_of_stream(line);
            } else {
                let mut whole = std::mem::take(&mut self.event);
                whole.extend_from_slice(line);
                self.line_of_stream(&whole);
                whole.clear();
                self.event = whole;
            }
        }
        self.event.extend_from_slice(bytes);
        ensure!(self.event.len() <= LONGEST_LINE, "an event without an end");
        Ok(())
    }

    fn line_of_stream(&mut self, line: &[u8]) {
        let Some(data) = line.strip_prefix(b"data: ") else {
            return;
        };
        if data == b"[DONE]" {
            self.done = true;
            return;
        }
        if data.starts_with(b"{\"error\"") {
            let value: Option<Value> = serde_json::from_slice(data).ok();
            let code = value.and_then(|value| Some(value["error"]["code"].as_str()?.to_owned()));
            self.failure = Some(format!("in the stream: {}", code.unwrap_or_default()));
        }
        self.n_events += 1;
        self.last_event.clear();
        self.last_event.extend_from_slice(data);
    }
}

/// The part of a `Server-Timing` header that has that name.
fn part_of_timing(header: &str, name: &str) -> Option<Duration> {
    let mut parts = header.split(',');
    let milliseconds = parts.find_map(|part| {
        let (part, duration) = part.trim().split_once(";dur=")?;
        (part == name).then_some(duration)
    })?;
    let milliseconds: f64 = milliseconds.parse().ok()?;
    Duration::try_from_secs_f64(milliseconds / 1e3).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream whose chunks end in the middle of lines.
    fn stream() -> String {
        let mut text = String::from(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\
            transfer-encoding: chunked\r\n\r\n",
        );
        for chunk in [
            "data: {\"choices\":[{}]}\n\nda",
            "ta: {\"choices\":[{}]}\n\n: p",
            "ing\n\ndata: {\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\ndata: [D",
            "ONE]\n\n",
            "",
        ] {
            text += &format!("{:x}\r\n{chunk}\r\n", chunk.len());
        }
        text
    }

    #[test]
    fn a_stream_is_the_same_in_one_piece_and_byte_by_byte() {
        let stream = stream();
        for size in [1, 2, 7, 50, stream.len()] {
            let mut answer = Answer::new();
            for piece in stream.as_bytes().chunks(size) {
                assert!(!answer.is_complete());
                answer.feed(piece).unwrap();
            }
            assert_eq!(answer.trouble(), None, "in pieces of {size}");
            assert_eq!((answer.status, answer.n_events), (Some(200), 3));
            assert_eq!(answer.usage().unwrap(), (3, 2));
            assert!(answer.feed(b"x").is_err());
        }
    }

    #[test]
    fn an_error_is_told_by_its_code() {
        let body = r#"{"error":{"code":"queue_full"}}"#;
        let text = format!(
            "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 2\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let mut answer = Answer::new();
        answer.feed(text.as_bytes()).unwrap();
        assert_eq!(answer.trouble().unwrap(), "429 queue_full");
        assert_eq!(answer.retry_after(), Some(Duration::from_secs(2)));
        assert!(answer.closes() && answer.usage().is_err());
        answer.clear();
        assert_eq!((answer.status, answer.is_complete()), (None, false));
    }

    #[test]
    fn the_head_tells_how_long_checking_took() {
        let head = "HTTP/1.1 200 OK\r\nServer-Timing: queue;dur=9, check;dur=0.25\r\n\r\n";
        let mut answer = Answer::new();
        answer.feed(head.as_bytes()).unwrap();
        assert_eq!(answer.check(), Some(Duration::from_micros(250)));
        answer.clear();
        for other in ["queue;dur=9", "check;dur=-1", "check;dur=x", "check"] {
            assert_eq!(part_of_timing(other, "check"), None, "{other}");
        }
        assert_eq!(answer.check(), None);
    }

    #[test]
    fn what_is_cut_off_or_fails_on_the_way_is_trouble() {
        let mut answer = Answer::new();
        let stream = stream();
        answer.feed(&stream.as_bytes()[..stream.len() - 3]).unwrap();
        assert_eq!(answer.trouble().unwrap(), "cut off");
        let event = "data: {\"error\":{\"code\":\"slow_reader\"}}\n\n";
        let failing = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {}\r\n\r\n{event}",
            event.len()
        );
        answer.clear();
        answer.feed(failing.as_bytes()).unwrap();
        assert_eq!(answer.trouble().unwrap(), "in the stream: slow_reader");
        let mut other = Answer::new();
        assert!(other.feed(b"SSH-2.0-OpenSSH\r\n").is_err());
    }
}
