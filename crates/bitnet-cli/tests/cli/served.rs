//! A server process for a test: what it writes, what it is asked, how it ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::bitnet::bitnet;

/// Nothing in these tests takes that long; a hang fails instead of blocking.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server, and the lines that it has written to standard error.
pub struct Served {
    pub child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command that serves on a free port with one thread.
pub fn command(args: &[&str]) -> Command {
    let mut command = bitnet();
    command
        .args(["serve", "--port", "0", "--threads", "1"])
        .args(args);
    command
}

/// Runs `command` from a shell, which does `script` before: `exec "$@"` in it is the command.
#[cfg(unix)]
pub fn in_shell(script: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh"]).arg(command.get_program());
    shell.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

/// Serves with `args`, and waits until it says so.
pub fn serve(args: &[&str]) -> Served {
    let served = Served::start(command(args));
    served.until_line("serving ");
    served
}

impl Served {
    /// Starts `command` and waits for nothing.
    pub fn start(mut command: Command) -> Served {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let lines = Arc::new(Mutex::new(Vec::new()));
        let written = lines.clone();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                written.lock().unwrap().push(line);
            }
        });
        Served { child, lines }
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything that it has written.
    pub fn text(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    /// Waits for a line with `words` in it.
    pub fn until_line(&self, words: &str) -> String {
        let found = || {
            let lines = self.lines.lock().unwrap();
            lines.iter().find(|line| line.contains(words)).cloned()
        };
        until(&format!("a line with {words:?}"), || self.text(), found)
    }

    /// The port that it serves on.
    pub fn port(&self) -> u16 {
        let line = self.until_line("serving ");
        let (_, rest) = line.split_once("://127.0.0.1:").unwrap();
        rest.split(':').next().unwrap().parse().unwrap()
    }

    /// The port that probes are answered on.
    pub fn health_port(&self) -> u16 {
        self.side_port("answering probes on http://127.0.0.1:")
    }

    /// The port that administrators have.
    pub fn admin_port(&self) -> u16 {
        self.side_port("orders of administrators and /admin are answered on http://127.0.0.1:")
    }

    fn side_port(&self, words: &str) -> u16 {
        let line = self.until_line(words);
        let (_, port) = line.rsplit_once(':').unwrap();
        port.trim_end_matches(|c: char| !c.is_ascii_digit())
            .parse()
            .unwrap()
    }

    /// Asks on a connection of its own; the whole answer.
    pub fn ask(&self, request: &str) -> std::io::Result<String> {
        ask(self.port(), request)
    }

    /// Sends a signal by its name, `TERM`.
    #[cfg(unix)]
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let status = Command::new("kill")
            .args([&format!("-{name}"), &id])
            .status();
        assert!(status.unwrap().success());
    }

    /// Waits for its end; the exit code.
    pub fn end(&mut self) -> Option<i32> {
        let lines = self.lines.clone();
        let child = &mut self.child;
        let text = move || lines.lock().unwrap().join("\n");
        until("the end of the process", text, || child.try_wait().unwrap()).code()
    }
}

/// Waits for what another process is about to do.
pub fn until<T>(what: &str, shown: impl Fn() -> String, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < deadline, "no {what}: {}", shown());
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A request that is answered at once.
pub const LIVE: &str = "GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// A request for `n` tokens.
pub fn completion(n: usize) -> String {
    let body = format!(r#"{{"prompt": "Once", "max_tokens": {n}, "ignore_eos": true}}"#);
    format!(
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Sends `request` to `port` and reads until the connection ends.
pub fn ask(port: u16, request: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
