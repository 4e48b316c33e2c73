//! A client that keeps its connection and looks at what every read brings.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::load::answer::Answer;

/// No answer of a check takes that long.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection through a proxy.
pub struct ProxyClient {
    stream: TcpStream,
    answer: Answer,
    proxy: SocketAddr,
}

/// A request for `tokens` tokens.
pub fn completion(tokens: usize, stream: bool) -> String {
    format!(
        "{{\"prompt\": \"Once upon a time\", \"max_tokens\": {tokens}, \"ignore_eos\": true, \"n\": 1, \
         \"stream\": {stream}}}"
    )
}

impl ProxyClient {
    /// Connects.
    pub fn connect(proxy: SocketAddr) -> Result<ProxyClient> {
        let stream = TcpStream::connect(proxy)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(ProxyClient {
            stream,
            answer: Answer::new(),
            proxy,
        })
    }

    /// Sends a completion with this body.
    pub fn send(&mut self, body: &str) -> Result<()> {
        self.answer.clear();
        let head = format!(
            "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        self.stream.write_all((head + body).as_bytes())?;
        Ok(())
    }

    /// Reads what has come, waiting for something.
    pub fn read(&mut self) -> Result<()> {
        let mut buffer = [0; 64 << 10];
        let n = self.stream.read(&mut buffer)?;
        ensure!(n > 0, "the connection ended before the answer did");
        self.answer.feed(&buffer[..n])
    }

    /// Asks and waits for the whole answer: its status. A connection that the proxy has ended is replaced.
    pub fn ask(&mut self, body: &str) -> Result<u16> {
        if self.answer.closes() {
            *self = ProxyClient::connect(self.proxy)?;
        }
        self.send(body)?;
        while !self.is_complete() {
            self.read()?;
        }
        Ok(self.answer.status.unwrap_or_default())
    }

    /// Whether all of the answer has come.
    pub fn is_complete(&self) -> bool {
        self.answer.is_complete()
    }

    /// Events of the stream so far.
    pub fn n_events(&self) -> usize {
        self.answer.n_events
    }

    /// What is no stream.
    pub fn body(&self) -> String {
        String::from_utf8_lossy(&self.answer.body).into_owned()
    }

    /// Whether the answer is a good one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn content(&self) -> Result<()> {
        let trouble = self.answer.trouble();
        ensure!(trouble.is_none(), "{trouble:?}");
        Ok(())
    }
}
