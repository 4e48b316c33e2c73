//! `cargo run -p xtask -- clients`: programs that other people wrote, unmodified, against our server.
//!
//! Whether an interface is the one that clients expect is decided by the clients. Each row of [`CLIENTS`] is installed
//! at a pinned version in an environment of its own (litellm pulls openai down, so they cannot share one), below
//! `target/xtask/clients`, and runs its script of `xtask/clients` against a `bitnet serve` that was just built, on the
//! model inside the program.
//!
//! # Layout
//! - [`environment`]: installing from package indexes

mod environment;

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{cargo, find, output, run as run_shown, target_folder};
use crate::served::Served;
use environment::{ClientEnvironment, Packages};

/// The command line.
pub const USAGE: &str = "\
  clients [--fast] [--only NAME]... [--debug]
         install real clients of OpenAI's interface and run them against `bitnet serve`; --fast: those that are ready
         within a minute, skipped with a note where no package index can be reached; --debug: with a debug build";

/// A program of somebody else, and how it is run.
struct Client {
    name: &'static str,
    packages: Packages,
    /// What is run in its environment: a script of `xtask/clients`, or a command of the packages.
    script: &'static str,
    /// Part of the gate.
    is_fast: bool,
}

/// Versions are those that were new when they were written here, and of openai the last of the major version before
/// too: both are in wide use.
const CLIENTS: &[Client] = &[
    Client {
        name: "openai-3",
        packages: Packages::Python(&["openai==3.54.0"]),
        script: "openai_sdk.py",
        is_fast: true,
    },
    Client {
        name: "openai-2",
        packages: Packages::Python(&["openai==2.54.0"]),
        script: "openai_sdk.py",
        is_fast: false,
    },
    Client {
        name: "openai-node",
        packages: Packages::Node(&["openai@7.57.0"]),
        script: "openai_sdk.mjs",
        is_fast: false,
    },
    Client {
        name: "litellm",
        packages: Packages::Python(&["litellm==1.106.2"]),
        script: "litellm_sdk.py",
        is_fast: false,
    },
    Client {
        name: "langchain",
        packages: Packages::Python(&["langchain-openai==1.7.3"]),
        script: "langchain_chat.py",
        is_fast: false,
    },
    Client {
        name: "lm-eval",
        packages: Packages::Python(&["lm-eval[api]==0.4.13"]),
        script: "lm_eval_task.py",
        is_fast: false,
    },
    Client {
        name: "schemathesis",
        packages: Packages::Python(&["schemathesis==4.32.5"]),
        script: "schemathesis_run.py",
        is_fast: false,
    },
    Client {
        name: "ab",
        packages: Packages::Installed("ab", "apache2-utils"),
        script: "",
        is_fast: false,
    },
];

/// Installs and runs the clients that are asked for.
///
/// # Errors
/// Wrong arguments, a failed build or installation, and every client that was not content.
pub fn run(root: &Path, args: &[&str]) -> Result<()> {
    let options = Options::parse(args)?;
    let profile = if options.debug { "debug" } else { "release" };
    let target = target_folder(root)?;
    let folder = target.join("xtask/clients");
    std::fs::create_dir_all(&folder)?;

    let mut ready = Vec::new();
    for client in CLIENTS.iter().filter(|client| options.wants(client)) {
        let installed = ClientEnvironment::install(&folder.join(client.name), &client.packages);
        match installed {
            Ok(environment) => ready.push((client, environment)),
            Err(error) if options.fast => {
                println!(
                    "note: {} could not be installed and was not run: {error:#}",
                    client.name
                );
            }
            Err(error) => return Err(error.context(format!("installing {}", client.name))),
        }
    }
    if ready.is_empty() {
        return Ok(());
    }

    let mut build = cargo();
    build
        .current_dir(root)
        .args(["build", "--locked", "-q", "-p", "bitnet-cli"]);
    if !options.debug {
        build.arg("--release");
    }
    run_shown(&mut build)?;
    let bitnet = target
        .join(profile)
        .join(format!("bitnet{}", std::env::consts::EXE_SUFFIX));
    let mut failed = Vec::new();
    for (client, environment) in ready {
        println!("\n-- {}", client.name);
        let scratch = folder.join(client.name).join("scratch");
        std::fs::create_dir_all(&scratch)?;
        let job = Job {
            root,
            bitnet: &bitnet,
            scratch,
        };
        if let Err(error) = job.run(client, &environment) {
            println!("{}: {error:#}", client.name);
            failed.push(client.name);
        }
    }
    if !failed.is_empty() {
        bail!("not content: {}", failed.join(", "));
    }
    println!("\nall clients are content");
    Ok(())
}

struct Options {
    fast: bool,
    debug: bool,
    only: Vec<&'static str>,
}

impl Options {
    fn parse(args: &[&str]) -> Result<Options> {
        let mut options = Options {
            fast: false,
            debug: false,
            only: Vec::new(),
        };
        let mut args = args.iter();
        while let Some(&arg) = args.next() {
            match arg {
                "--fast" => options.fast = true,
                "--debug" => options.debug = true,
                "--only" => {
                    let name = args.next().context("--only needs a name")?;
                    let known = CLIENTS.iter().find(|client| client.name == *name);
                    let known = known.with_context(|| {
                        let names: Vec<_> = CLIENTS.iter().map(|client| client.name).collect();
                        format!("no client {name}; there is {}", names.join(", "))
                    })?;
                    options.only.push(known.name);
                }
                other => bail!("unknown argument {other}\n\n{USAGE}"),
            }
        }
        Ok(options)
    }

    fn wants(&self, client: &Client) -> bool {
        (!self.fast || client.is_fast) && (self.only.is_empty() || self.only.contains(&client.name))
    }
}

/// What a client is run with.
struct Job<'a> {
    root: &'a Path,
    bitnet: &'a Path,
    scratch: PathBuf,
}

impl Job<'_> {
    /// A server of its own for each client: what one leaves behind cannot help or hurt the next.
    fn run(&self, client: &Client, environment: &ClientEnvironment) -> Result<()> {
        let mut serve = Command::new(self.bitnet);
        serve.args([
            "serve",
            "--port",
            "0",
            "--served-model-name",
            MODEL,
            "--pooling",
            "last",
        ]);
        let server = Served::spawn(serve, |line| eprintln!("{line}"))?;
        let url = format!("http://{}", server.address);
        if client.name == "ab" {
            return self.bench(&url);
        }
        let script = self.root.join("xtask/clients").join(client.script);
        let mut command = environment.interpreter(&script)?;
        command
            .current_dir(&self.scratch)
            .env("BITNET_URL", &url)
            .env("BITNET_MODEL", MODEL)
            .env("BITNET_PROGRAM", self.bitnet)
            // Clients must not find a proxy or a key of this machine's.
            .env("NO_PROXY", "*")
            .env_remove("OPENAI_API_KEY")
            .env_remove("OPENAI_BASE_URL");
        run_shown(&mut command)
    }

    /// The requirement's own command: a thousand requests, a hundred at once, none refused.
    fn bench(&self, url: &str) -> Result<()> {
        let body = self.scratch.join("body.json");
        std::fs::write(&body, BENCH_BODY)?;
        let printed = output(
            Command::new("ab")
                .args([
                    "-q",
                    "-n",
                    "1000",
                    "-c",
                    "100",
                    "-T",
                    "application/json",
                    "-p",
                ])
                .arg(&body)
                .arg(format!("{url}/v1/inference")),
        )?;
        let figure = |name: &str| {
            let line = printed.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::trim)
        };
        for name in [
            "Complete requests:",
            "Requests per second:",
            "Time taken for tests:",
        ] {
            println!("{name} {}", figure(name).unwrap_or("?"));
        }
        for line in printed.lines().filter(|line| {
            line.trim_start().starts_with("50%") || line.trim_start().starts_with("99%")
        }) {
            println!("{}", line.trim());
        }
        let complete = figure("Complete requests:") == Some("1000");
        // Answers differ in length because they differ in times: ab counts that as a kind of failure.
        let refused = figure("Non-2xx responses:");
        let broken = printed
            .lines()
            .find_map(|line| line.trim().strip_prefix("(Connect: "));
        let sound = broken.is_none_or(|kinds| {
            let mut kinds = kinds.split([',', ')']).map(str::trim);
            kinds.all(|kind| {
                kind.is_empty()
                    || kind.starts_with("Length:")
                    || kind.ends_with(" 0")
                    || kind == "0"
            })
        });
        if !complete || refused.is_some() || !sound {
            bail!("ab is not content:\n{printed}");
        }
        println!("0 non-2xx");
        Ok(())
    }
}

/// What clients call the model.
const MODEL: &str = "stories";

/// Every field that the requirements name for `/v1/inference`.
const BENCH_BODY: &str = r#"{"prompt": "Once upon a time", "max_tokens": 16, "model": "default", "temperature": 0.7,
 "top_p": 0.9, "top_k": 40, "repetition_penalty": 1.1, "stop_sequences": ["THE END"], "seed": 42,
 "quantization_preference": "auto"}"#;

/// `program` where it is installed by the system.
///
/// # Errors
/// When it is not, with the package that has it.
fn need(program: &str, package: &str) -> Result<()> {
    find(program)
        .map(drop)
        .with_context(|| format!("{program} is missing; Debian has it in {package}"))
}
