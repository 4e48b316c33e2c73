//! The shipped dashboard and alert rules against a real server and a real Prometheus.
//!
//! A query that asks for a metric of another name, or with a label that does not exist, is no error anywhere: the panel
//! stays empty and the alert never fires. So `bitnet serve` runs on the embedded model under a load that meets every
//! kind of outcome, Prometheus scrapes it, and each query must return data; alert rules without their thresholds.
//!
//! # Layout
//! - [`http`]: the little HTTP that this needs
//! - [`queries`]: what the dashboard and the rules ask

pub mod http;
mod queries;

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process::{find, run as run_tool};
use crate::served::{Owned, Served};
use queries::Query;

/// One line of the usage.
pub const USAGE: &str = "  \
  monitoring   serve the embedded model, let a Prometheus scrape it under load, and check that promtool takes the
         metrics and rules and that every query of the dashboard and of the alerts returns data
         (needs prometheus and promtool: apt-get install prometheus)";

/// How long the load runs: several scrapes, so that rates exist.
const LOAD_TIME: Duration = Duration::from_secs(6);
/// How long queries may take to return data after it.
const PATIENCE: Duration = Duration::from_secs(20);
/// Clients at once: more than run and wait under [`SERVER_FLAGS`], so that some are refused.
const N_CLIENTS: usize = 6;
/// Few places, so that there is a queue, and measurements as often as scrapes.
const SERVER_FLAGS: [&str; 6] = [
    "--max-concurrent-requests",
    "2",
    "--max-queued-requests",
    "2",
    "--metrics-interval",
    "1s",
];

/// Runs everything.
///
/// # Errors
/// When a tool is missing, promtool objects, or a query returns nothing.
pub fn run(root: &Path) -> Result<()> {
    for tool in ["prometheus", "promtool"] {
        if find(tool).is_none() {
            bail!("{tool} is not installed: on Debian, `apt-get install prometheus`");
        }
    }
    let rules = root.join("deploy/prometheus/alerts.yaml");
    run_tool(
        Command::new("promtool")
            .args(["check", "rules"])
            .arg(&rules),
    )?;
    let config = root.join("deploy/prometheus/prometheus.yaml");
    run_tool(
        Command::new("promtool")
            .args(["check", "config"])
            .arg(&config),
    )?;

    let folder = root.join("target/xtask/monitoring");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let server = Served::start(root, &SERVER_FLAGS)?;
    let server_address = server.address;
    let (_prometheus, prometheus_address) = start_prometheus(root, &folder, server_address)?;
    load(server_address);

    check_metrics(server_address)?;
    let mut queries = queries::of_dashboard(&fs::read_to_string(
        root.join("deploy/grafana/bitnet.json"),
    )?)?;
    queries.extend(queries::of_rules(&fs::read_to_string(&rules)?));
    let asked = queries.len();
    let empty = unanswered(prometheus_address, queries)?;
    if !empty.is_empty() {
        for query in &empty {
            println!("no data: {}: {}", query.place, query.expression);
        }
        bail!("{} of {asked} queries return nothing", empty.len());
    }
    println!("monitoring: {asked} queries return data, and promtool has no objection");
    Ok(())
}

/// Prometheus with the shipped configuration, on this server and at a scrape a second.
fn start_prometheus(root: &Path, folder: &Path, server: SocketAddr) -> Result<(Owned, SocketAddr)> {
    let shipped = fs::read_to_string(root.join("deploy/prometheus/prometheus.yaml"))?;
    let config = shipped
        .replace("127.0.0.1:8080", &server.to_string())
        .replace("15s", "1s");
    if !config.contains(&server.to_string()) || !config.contains("scrape_interval: 1s") {
        bail!("deploy/prometheus/prometheus.yaml has another target or interval than expected");
    }
    fs::write(folder.join("prometheus.yaml"), config)?;
    fs::copy(
        root.join("deploy/prometheus/alerts.yaml"),
        folder.join("alerts.yaml"),
    )?;
    // Free a moment later again: Prometheus cannot choose a port itself.
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let log = fs::File::create(folder.join("prometheus.log"))?;
    let child = Command::new("prometheus")
        .arg(format!(
            "--config.file={}",
            folder.join("prometheus.yaml").display()
        ))
        .arg(format!(
            "--storage.tsdb.path={}",
            folder.join("data").display()
        ))
        .arg(format!("--web.listen-address={address}"))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("could not start prometheus")?;
    let prometheus = Owned(child);
    let deadline = Instant::now() + PATIENCE;
    while http::get(address, "/-/ready").is_none_or(|(status, _)| status != 200) {
        if Instant::now() > deadline {
            let log = fs::read_to_string(folder.join("prometheus.log")).unwrap_or_default();
            bail!("prometheus does not get ready:\n{log}");
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok((prometheus, address))
}

/// Requests of every kind for a while: whole answers, streams, refused and wrong ones, and clients that leave.
fn load(server: SocketAddr) {
    let end = Instant::now() + LOAD_TIME;
    let clients: Vec<_> = (0..N_CLIENTS)
        .map(|client| {
            thread::spawn(move || {
                for turn in 0.. {
                    if Instant::now() > end {
                        return;
                    }
                    let prompt =
                        r#""prompt": "Once upon a time, there was a little girl named Lily. She""#;
                    let body = match (client + turn) % 8 {
                        0 => r#"{"prompt": "x", "temperature": 9}"#.to_owned(),
                        1 => format!(r#"{{{prompt}, "max_tokens": 40, "stop": ["a"], "n": 2}}"#),
                        _ => format!(
                            r#"{{{prompt}, "max_tokens": 24, "ignore_eos": true, "seed": {turn}}}"#
                        ),
                    };
                    if (client + turn) % 8 == 2 {
                        http::post_and_leave(server, "/v1/completions", &body);
                    } else {
                        http::post(server, "/v1/completions", &body);
                    }
                }
            })
        })
        .collect();
    for client in clients {
        // A client that panicked has sent something all the same.
        let _ = client.join();
    }
}

/// promtool on what `/metrics` answers. It objects to names of vLLM's, which others' dashboards ask for: to nothing
/// else.
fn check_metrics(server: SocketAddr) -> Result<()> {
    let (status, text) = http::get(server, "/metrics").context("/metrics does not answer")?;
    if status != 200 {
        bail!("/metrics answers {status}: {text}");
    }
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    stdin.write_all(text.as_bytes())?;
    drop(stdin);
    let done = child.wait_with_output()?;
    let said = [done.stdout, done.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let objections: Vec<&str> = said
        .lines()
        .filter(|line| !line.starts_with("vllm:"))
        .collect();
    // 3 is its exit code for names that it would choose otherwise.
    if !objections.is_empty() || !matches!(done.status.code(), Some(0 | 3)) {
        bail!("promtool check metrics, {}:\n{said}", done.status);
    }
    Ok(())
}

/// Asks until all have returned something, or time is over; what is left has not.
fn unanswered(prometheus: SocketAddr, mut queries: Vec<Query>) -> Result<Vec<Query>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut left = Vec::new();
        for query in queries {
            let path = format!("/api/v1/query?query={}", http::escaped(&query.expression));
            let (_, body) = http::get(prometheus, &path).context("prometheus does not answer")?;
            let answer: Value = serde_json::from_str(&body)?;
            if answer["status"] != "success" {
                bail!("{}: {}: {body}", query.place, query.expression);
            }
            if !has_data(&answer["data"]["result"]) {
                left.push(query);
            }
        }
        if left.is_empty() || Instant::now() > deadline {
            return Ok(left);
        }
        queries = left;
        thread::sleep(Duration::from_millis(500));
    }
}

/// A series with a number: `NaN` is what a percentile of nothing is.
fn has_data(result: &Value) -> bool {
    result.as_array().is_some_and(|series| {
        series
            .iter()
            .filter_map(|one| one["value"][1].as_str()?.parse::<f64>().ok())
            .any(f64::is_finite)
    })
}
