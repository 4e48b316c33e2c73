//! The server under test: a process of its own on a free port, ended with this value.

use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

/// A running `bitnet serve`.
pub struct Server {
    process: Child,
    model: String,
    url: String,
}

impl Server {
    /// Starts one on the model inside the program and waits until it takes requests.
    ///
    /// # Errors
    /// When it ends before it does, with what it printed.
    pub fn start(bitnet: &Path, flags: &[&str]) -> Result<Server> {
        let mut process = Command::new(bitnet)
            .args(["serve", "--port", "0"])
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("could not start {}", bitnet.display()))?;
        let mut lines =
            BufReader::new(process.stderr.take().context("its output is piped")?).lines();
        let mut said = Vec::new();
        // `serving NAME on http://ADDRESS: ...`
        let found = loop {
            let Some(line) = lines.next().transpose()? else {
                break None;
            };
            let found = line
                .strip_prefix("serving ")
                .and_then(|rest| rest.split_once(" on http://"))
                .and_then(|(model, rest)| {
                    Some((model.to_owned(), rest.split_once(": ")?.0.to_owned()))
                });
            said.push(line);
            if found.is_some() {
                break found;
            }
        };
        let Some((model, address)) = found else {
            let status = process.wait()?;
            bail!("the server ended with {status}: {}", said.join("\n"));
        };
        // A pipe that nobody empties would stop it. What it says from here on is shown.
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                eprintln!("server: {line}");
            }
        });
        Ok(Server {
            process,
            model,
            url: format!("http://{address}"),
        })
    }

    /// `http://ADDRESS`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The name of its model.
    pub fn model(&self) -> &str {
        &self.model
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
