//! `cargo run -p xtask -- proxies`: the server behind nginx and HAProxy, by the very files of `deploy/` that are
//! shipped for them, with other addresses.
//!
//! What can go wrong between a proxy and a server shows nowhere else: streams that are gathered into blocks, clients
//! whose leaving nobody passes on, connections that are used again in the moment in which the other side lets go of
//! them. Each check says what was seen, and fails when it is not what the documents promise.
//!
//! # Layout
//! - [`client`]: connections through a proxy

mod client;

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::monitoring::http::get;
use crate::process::{find, target_folder};
use crate::served::{Owned, Served, binary};
use client::{ProxyClient, completion};

/// The command line.
pub const USAGE: &str = "\
  proxies
         run `bitnet serve` behind nginx and HAProxy with the files of deploy/: streams, clients that leave, connections
         that are used again, and a drain; a proxy that is not installed is skipped with a note";

/// A proxy, and how it is run.
struct Proxy {
    program: &'static str,
    /// Debian's package.
    package: &'static str,
    /// What is shipped for it.
    file: &'static str,
    /// The line in it that says where it listens, and what stands there in a test.
    listens: (&'static str, &'static str),
    /// Written around the file, with `{}` for the folder of the test and the file itself.
    around: &'static str,
    args: &'static [&'static str],
}

const PROXIES: [Proxy; 2] = [
    Proxy {
        program: "nginx",
        package: "nginx-light",
        file: "deploy/nginx/bitnet.conf",
        listens: ("listen 80;", "listen PORT;"),
        // One process, so that ending it ends all of it.
        around: "daemon off; master_process off; pid FOLDER/pid; error_log stderr; events {} http { access_log off;
client_body_temp_path FOLDER/body; proxy_temp_path FOLDER/proxy; fastcgi_temp_path FOLDER/f; uwsgi_temp_path FOLDER/u;
scgi_temp_path FOLDER/s;
FILE
}
",
        args: &["-e", "stderr", "-c"],
    },
    Proxy {
        program: "haproxy",
        package: "haproxy",
        file: "deploy/haproxy/bitnet.cfg",
        listens: ("bind :80\n", "bind PORT\n"),
        around: "FILE",
        args: &["-db", "-f"],
    },
];

/// Where the shipped files expect the server.
const SERVER: &str = "127.0.0.1:8080";

/// Time for what takes moments.
const PATIENCE: Duration = Duration::from_secs(30);

/// Checks every proxy that is installed.
///
/// # Errors
/// The first thing that is not as it should be.
pub fn run(root: &Path) -> Result<()> {
    let folder = target_folder(root)?.join("xtask/proxies");
    let mut bitnet = None;
    for proxy in &PROXIES {
        let Some(program) = find(proxy.program) else {
            println!(
                "note: {} is not installed and was not checked; Debian has it in {}",
                proxy.program, proxy.package
            );
            continue;
        };
        let bitnet = match &bitnet {
            Some(bitnet) => bitnet,
            None => bitnet.insert(binary(root)?),
        };
        println!("\n-- {}", proxy.program);
        let folder = folder.join(proxy.program);
        std::fs::create_dir_all(&folder)?;
        let check = Check::start(root, proxy, program, bitnet, &folder)?;
        check
            .run()
            .with_context(|| format!("behind {}", proxy.program))?;
    }
    Ok(())
}

/// A server behind a proxy.
struct Check {
    server: Served,
    proxy: SocketAddr,
    _process: Owned,
}

impl Check {
    fn start(
        root: &Path,
        proxy: &Proxy,
        program: PathBuf,
        bitnet: &Path,
        folder: &Path,
    ) -> Result<Check> {
        let mut serve = Command::new(bitnet);
        serve.args(["serve", "--port", "0", "--threads", "1"]);
        let server = Served::spawn(serve, |line| eprintln!("{line}"))?;
        let address = free_address()?;
        let shipped = std::fs::read_to_string(root.join(proxy.file))?;
        let (listens, there) = proxy.listens;
        ensure!(
            shipped.matches(listens).count() == 1 && shipped.matches(SERVER).count() == 1,
            "{} must say once where it listens ({listens:?}) and where the server is ({SERVER})",
            proxy.file
        );
        let text = shipped
            .replace(listens, &there.replace("PORT", &address.to_string()))
            .replace(SERVER, &server.address.to_string());
        let text = proxy
            .around
            .replace("FOLDER", &folder.display().to_string())
            .replace("FILE", &text);
        let file = folder.join("conf");
        std::fs::write(&file, text)?;
        let child = Command::new(program)
            .args(proxy.args)
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("could not start {}", proxy.program))?;
        let check = Check {
            server,
            proxy: address,
            _process: Owned(child),
        };
        until("the proxy passes on that the server is ready", || {
            matches!(get(address, "/health/ready"), Some((200, _)))
        })?;
        Ok(check)
    }

    fn run(mut self) -> Result<()> {
        self.streams()?;
        self.leaving()?;
        self.reuse()?;
        self.drain()
    }

    /// Tokens come one by one, while the server still draws others.
    fn streams(&self) -> Result<()> {
        const TOKENS: usize = 150;
        let mut client = ProxyClient::connect(self.proxy)?;
        client.send(&completion(TOKENS, true))?;
        let mut reads = Vec::new(); // events in each
        while !client.is_complete() {
            let before = client.n_events();
            client.read()?;
            let n = client.n_events() - before;
            if n == 0 {
                continue;
            }
            if reads.is_empty() {
                let running = self.metric("bitnet_active_inference_requests")?;
                ensure!(
                    running >= 1.0,
                    "the first token came when all of them were drawn"
                );
            }
            reads.push(n);
        }
        client.content()?;
        let n_events: usize = reads.iter().sum();
        // A token that is no whole character waits for the next one.
        ensure!(
            n_events >= TOKENS / 2,
            "{n_events} events for {TOKENS} tokens"
        );
        let largest = reads.iter().max().copied().unwrap_or_default();
        println!(
            "stream: {n_events} events in {} reads, at most {largest} at once",
            reads.len()
        );
        // A proxy that gathers lets none come alone; a machine that is busy with other things lets some come together.
        let n_alone = reads.iter().filter(|&&n| n == 1).count();
        ensure!(n_alone * 10 >= n_events, "events come in blocks: {reads:?}");
        Ok(())
    }

    /// Who leaves, with or without a stream, takes the request along.
    fn leaving(&self) -> Result<()> {
        for stream in [true, false] {
            let before = self.metric("bitnet_requests_cancelled_total")?;
            let mut client = ProxyClient::connect(self.proxy)?;
            // More choices than run at once: it takes far longer than the check.
            client.send(&completion(200, stream).replace("\"n\": 1", "\"n\": 16"))?;
            until("the request runs", || {
                self.metric("bitnet_active_inference_requests")
                    .is_ok_and(|n| n > 0.0)
            })?;
            if stream {
                client.read()?;
            }
            let left = Instant::now();
            drop(client);
            until("its place is free", || {
                self.metric("bitnet_active_inference_requests")
                    .is_ok_and(|n| n == 0.0)
            })?;
            let took = left.elapsed();
            let cancelled = self.metric("bitnet_requests_cancelled_total")? - before;
            println!("a client that leaves (stream: {stream}): all is free after {took:.0?}");
            ensure!(cancelled >= 1.0, "the request ran to its end");
        }
        Ok(())
    }

    /// Requests one after the other on connections that are kept.
    fn reuse(&self) -> Result<()> {
        const CLIENTS: usize = 4;
        const REQUESTS: usize = 100;
        let ask = || -> Result<()> {
            let mut client = ProxyClient::connect(self.proxy)?;
            for _ in 0..REQUESTS {
                let status = client.ask(&completion(1, false))?;
                ensure!(status == 200, "status {status}: {}", client.body());
            }
            Ok(())
        };
        thread::scope(|scope| {
            let asked: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(ask)).collect();
            asked
                .into_iter()
                .try_for_each(|asked| asked.join().expect("a client does not panic"))
        })?;
        println!(
            "kept connections: {} requests of {CLIENTS} clients, all 200",
            CLIENTS * REQUESTS
        );
        Ok(())
    }

    /// Every request that the server took is answered whole; until it is gone, the others are told to go elsewhere.
    fn drain(&mut self) -> Result<()> {
        const CLIENTS: usize = 6;
        let (told, stop) = (Mutex::new(None::<Instant>), AtomicBool::new(false));
        let n_answered = AtomicUsize::new(0);
        let (proxy, server) = (self.proxy, &mut self.server);
        // When it was sent, and what came of it: the first answer that is not 200.
        let ask = || -> Result<(Instant, String)> {
            let mut client = ProxyClient::connect(proxy)?;
            loop {
                let sent = Instant::now();
                match client.ask(&completion(20, false)) {
                    Ok(200) => n_answered.fetch_add(1, Ordering::Relaxed),
                    Ok(status) => return Ok((sent, format!("{status} {}", client.body()))),
                    Err(error) => return Ok((sent, format!("{error:#}"))),
                };
                if stop.load(Ordering::Relaxed) {
                    bail!("a request was answered by a server that is gone");
                }
            }
        };
        let (ends, gone, status) = thread::scope(|scope| -> Result<_> {
            let asked: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(ask)).collect();
            until("answers", || {
                n_answered.load(Ordering::Relaxed) >= 5 * CLIENTS
            })?;
            *told.lock().expect("nobody panics with it") = Some(Instant::now());
            let status = server.drain()?;
            let gone = Instant::now();
            stop.store(true, Ordering::Relaxed);
            let ends: Result<Vec<_>> = asked
                .into_iter()
                .map(|asked| asked.join().expect("a client does not panic"))
                .collect();
            Ok((ends?, gone, status))
        })?;
        let told = told.into_inner().ok().flatten().context("it was told")?;
        ensure!(status.success(), "the server ended with {status}");
        let mut n_refused = 0;
        for (sent, answer) in &ends {
            ensure!(
                *sent >= told,
                "a request that was under way was answered {answer}"
            );
            // The server is gone some moments before its end is noticed.
            if *sent + Duration::from_millis(50) < gone {
                ensure!(
                    answer.starts_with("503"),
                    "while the server drained: {answer}"
                );
                n_refused += 1;
            }
        }
        println!(
            "drain: {} requests answered, {n_refused} of {CLIENTS} clients told to go elsewhere, the others found nobody",
            n_answered.load(Ordering::Relaxed)
        );
        Ok(())
    }

    /// The sum of a metric's samples, from the server itself.
    fn metric(&self, name: &str) -> Result<f64> {
        let (_, text) = get(self.server.address, "/metrics").context("no metrics")?;
        let samples = text.lines().filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        samples
            .map(|line| {
                let value = line.rsplit(' ').next().unwrap_or_default();
                value
                    .parse::<f64>()
                    .with_context(|| format!("no number in {line}"))
            })
            .sum()
    }
}

/// An address that nobody has; a proxy cannot be asked to choose one.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn until(what: &str, holds: impl Fn() -> bool) -> Result<()> {
    let started = Instant::now();
    while !holds() {
        ensure!(started.elapsed() < PATIENCE, "{what}: it never came true");
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
