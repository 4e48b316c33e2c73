//! The command line of `load` and `soak`.

use anyhow::{Context, Result, bail, ensure};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::arguments::{self, is_json};

/// What `xtask --help` says of it.
pub const USAGE: &str = "\
  load   send requests to a server and measure it, from outside
         --address A:P       a server that runs [default: 127.0.0.1:8080]
         --serve MODEL       start `bitnet serve` for it, built in release: a file, or embedded
         --no-forward-pass   start one whose forward pass costs nothing, to measure serving alone
         --setting NAME=V    a setting of the server that is started, as --NAME V; repeatable
         --pid N             the process whose time and memory count, if it is not started here
         --clients N         that ask again as soon as they are answered [default: 1]
         --rate R            instead: R requests a second arrive at random (Poisson), however long they take
         --seconds S         how long [default: 10]; --requests N instead ends after N
         --warmup S          before, not measured [default: 1]
         --rounds N          measure N times and show the medians [default: 1]
         --prompt N          tokens of a prompt [default: 128]
         --shared-prefix N   of these, tokens that all prompts begin with [default: 0]
         --text              prompts are sent as text, not as ids: tokenising counts
         --answer N          tokens of an answer, whatever the model would end with [default: 128]
         --whole             answers in one piece instead of streams
         --disconnect SHARE  of the clients' requests that are left at some moment [default: 0]
         --slow SHARE        of the clients that read a kilobyte every 20 ms [default: 0]
         --key KEY           API key
         --format FORMAT     text or json [default: text]
         --out FILE          write the JSON document there, whatever the format
         --against-bench M   first of all: 16 clients of model M, held against what `bitnet bench` foresees
         --overhead          first of all: the three measurements of serving alone, held against their limits
  soak   the same for a long time, with judgement: no error, flat memory, even streams, prompt health
         --streams N         clients that stream all the time [default: 128]
         --clients N         instead: that many come at once, for --queue N places; 429 is an answer
         --minutes M         after a warm-up of 60 s [default: 10]";

/// What is asked and how.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadPlan {
    /// The server.
    pub server: Target,
    /// Settings of a server that is started, names and values.
    pub settings: Vec<(String, String)>,
    /// Who asks when.
    pub arrivals: Arrivals,
    /// How long a round is.
    pub extent: Extent,
    /// Time before the first round.
    pub warmup: Duration,
    /// Measurements.
    pub rounds: usize,
    /// What is asked.
    pub workload: Workload,
    /// API key.
    pub key: Option<String>,
    /// JSON instead of the table on standard output.
    pub json: bool,
    /// Where the JSON document goes too.
    pub out: Option<PathBuf>,
}

/// A server.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// One that runs.
    Running {
        /// Where.
        address: SocketAddr,
        /// Its process, if its figures are wanted.
        pid: Option<u32>,
    },
    /// `bitnet serve` for a model; none: the one inside the program.
    Serve(Option<PathBuf>),
    /// The example of bitnet-server without a forward pass.
    NoForwardPass,
}

/// When requests come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arrivals {
    /// From so many clients, each when its last one was answered.
    Closed(usize),
    /// So many a second, at random.
    Open(f64),
}

/// When a round ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Extent {
    /// After this time no request is begun.
    Time(Duration),
    /// After this many.
    Requests(usize),
}

/// The requests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Workload {
    /// Tokens of a prompt.
    pub prompt: usize,
    /// Of these, those that all begin with.
    pub shared_prefix: usize,
    /// Prompts as text.
    pub text: bool,
    /// Tokens of an answer.
    pub answer: usize,
    /// Not streamed.
    pub whole: bool,
    /// A stream tells the id of each token too, so that a token whose text waits for the next ones, as half a character
    /// does, is seen when it was drawn.
    pub token_ids: bool,
    /// Share of the requests that are left.
    pub disconnect: f64,
    /// Share of the clients that read slowly.
    pub slow: f64,
}

/// What `soak` adds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Trial {
    /// So many streams all the time.
    Streams(usize),
    /// So many clients at so many places in the queue.
    Crowd {
        /// Clients.
        clients: usize,
        /// Places.
        queue: usize,
    },
}

impl LoadPlan {
    /// Reads the arguments after `load`.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(args: &[&str]) -> Result<LoadPlan> {
        let mut options = LoadPlan {
            server: Target::Running {
                address: ([127, 0, 0, 1], 8080).into(),
                pid: None,
            },
            settings: Vec::new(),
            arrivals: Arrivals::Closed(1),
            extent: Extent::Time(Duration::from_secs(10)),
            warmup: Duration::from_secs(1),
            rounds: 1,
            workload: Workload {
                prompt: 128,
                shared_prefix: 0,
                text: false,
                answer: 128,
                whole: false,
                token_ids: false,
                disconnect: 0.0,
                slow: 0.0,
            },
            key: None,
            json: false,
            out: None,
        };
        let mut args = args.iter();
        while let Some(&arg) = args.next() {
            match arg {
                "--text" => options.workload.text = true,
                "--whole" => options.workload.whole = true,
                "--no-forward-pass" => options.server = Target::NoForwardPass,
                _ => {
                    let value = *args
                        .next()
                        .with_context(|| format!("{arg}: unknown, or needs a value"))?;
                    options.set(arg, value)?;
                }
            }
        }
        let workload = &options.workload;
        ensure!(
            workload.shared_prefix <= workload.prompt,
            "--shared-prefix: more than --prompt has"
        );
        Ok(options)
    }

    fn set(&mut self, arg: &str, value: &str) -> Result<()> {
        let workload = &mut self.workload;
        match arg {
            "--address" => {
                let address = value.parse();
                let address =
                    address.with_context(|| format!("{value}: expected 127.0.0.1:8080"))?;
                let pid = None;
                self.server = Target::Running { address, pid };
            }
            "--pid" => match &mut self.server {
                Target::Running { pid, .. } => *pid = Some(u32::try_from(number(value)?)?),
                _ => bail!("--pid: the process of a server that is started here is known"),
            },
            "--serve" => {
                let embedded = value == "embedded";
                self.server = Target::Serve((!embedded).then(|| value.into()));
            }
            "--setting" => {
                let (name, value) = value
                    .split_once('=')
                    .with_context(|| format!("{value}: expected NAME=VALUE"))?;
                self.settings.push((name.into(), value.into()));
            }
            "--clients" => self.arrivals = Arrivals::Closed(number(value)?),
            "--rate" => self.arrivals = Arrivals::Open(positive(value)?),
            "--seconds" => self.extent = Extent::Time(seconds(value)?),
            "--requests" => self.extent = Extent::Requests(number(value)?),
            "--warmup" => self.warmup = seconds(value)?,
            "--rounds" => self.rounds = number(value)?,
            "--prompt" => workload.prompt = number(value)?,
            "--shared-prefix" => {
                workload.shared_prefix = value.parse().context("--shared-prefix")?
            }
            "--answer" => workload.answer = number(value)?,
            "--disconnect" => workload.disconnect = share(value)?,
            "--slow" => workload.slow = share(value)?,
            "--key" => self.key = Some(value.into()),
            "--out" => self.out = Some(value.into()),
            "--format" => self.json = is_json(value)?,
            _ => bail!("unknown option {arg}"),
        }
        Ok(())
    }

    /// Reads the arguments after `soak`: those of `load`, from other defaults, and its own.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse_soak(args: &[&str]) -> Result<(LoadPlan, Trial)> {
        let (mut streams, mut clients, mut queue, mut minutes) = (128, None, 256, 10.0);
        // The warm-up fills the KV cache: until then memory grows as it should.
        let mut rest = vec!["--serve", "embedded", "--warmup", "60"];
        let mut args = args.iter();
        while let Some(&arg) = args.next() {
            let mut value = || {
                let value = args.next().copied();
                value.with_context(|| format!("{arg}: needs a value"))
            };
            match arg {
                "--streams" => streams = number(value()?)?,
                "--clients" => clients = Some(number(value()?)?),
                "--queue" => queue = number(value()?)?,
                "--minutes" => minutes = positive(value()?)?,
                _ => rest.push(arg),
            }
        }
        let mut options = LoadPlan::parse(&rest)?;
        options.workload.token_ids = true;
        options.extent = Extent::Time(Duration::from_secs_f64(minutes * 60.0));
        let trial = match clients {
            Some(clients) => Trial::Crowd { clients, queue },
            None => Trial::Streams(streams),
        };
        options.arrivals = Arrivals::Closed(clients.unwrap_or(streams));
        // What the operator asks for comes last, and so counts.
        let mut settings = match trial {
            Trial::Streams(streams) => {
                vec![("max-concurrent-requests".into(), streams.to_string())]
            }
            Trial::Crowd { queue, .. } => vec![("max-queued-requests".into(), queue.to_string())],
        };
        settings.append(&mut options.settings);
        options.settings = settings;
        Ok((options, trial))
    }
}

fn number(text: &str) -> Result<usize> {
    arguments::number(text, 1)
}

fn positive(text: &str) -> Result<f64> {
    match text.parse() {
        Ok(n) if f64::is_finite(n) && n > 0.0 => Ok(n),
        _ => bail!("{text}: expected a number above 0"),
    }
}

fn seconds(text: &str) -> Result<Duration> {
    let seconds = text.parse().ok();
    let time = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    time.with_context(|| format!("{text}: expected seconds"))
}

fn share(text: &str) -> Result<f64> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => bail!("{text}: expected a share from 0 to 1"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<&str> {
        line.split_whitespace().collect()
    }

    #[test]
    fn options_are_read() {
        let line = "--no-forward-pass --setting a=b --clients 64 --requests 100 --prompt 32 --shared-prefix 16 --text \
            --whole --slow 0.5 --rounds 3 --format json";
        let options = LoadPlan::parse(&words(line)).unwrap();
        assert_eq!(options.server, Target::NoForwardPass);
        assert_eq!(options.settings, [("a".into(), "b".into())]);
        assert_eq!(options.arrivals, Arrivals::Closed(64));
        assert_eq!(options.extent, Extent::Requests(100));
        let workload = options.workload;
        assert_eq!((workload.prompt, workload.shared_prefix), (32, 16));
        assert!(workload.text && workload.whole && workload.slow == 0.5);
        assert!(options.json && options.rounds == 3);
        let open = LoadPlan::parse(&["--rate", "2.5"]).unwrap();
        assert_eq!(open.arrivals, Arrivals::Open(2.5));
    }

    #[test]
    fn a_soak_is_streams_or_a_crowd() {
        let (options, trial) = LoadPlan::parse_soak(&words("--minutes 0.5 --answer 40")).unwrap();
        assert_eq!(trial, Trial::Streams(128));
        assert_eq!(options.extent, Extent::Time(Duration::from_secs(30)));
        assert_eq!(options.workload.answer, 40);
        let line = "--clients 2000 --queue 100 --setting max-queued-requests=9";
        let (options, trial) = LoadPlan::parse_soak(&words(line)).unwrap();
        let crowd = Trial::Crowd {
            clients: 2000,
            queue: 100,
        };
        assert_eq!(trial, crowd);
        assert_eq!(options.arrivals, Arrivals::Closed(2000));
        assert_eq!(options.settings.last().unwrap().1, "9");
    }

    #[test]
    fn mistakes_are_named() {
        for (line, what) in [
            ("--address localhost", "127.0.0.1:8080"),
            ("--clients 0", "1 or more"),
            ("--rate -1", "above 0"),
            ("--slow 2", "from 0 to 1"),
            ("--setting x", "NAME=VALUE"),
            ("--seconds", "needs a value"),
            ("--format xml", "xml"),
            ("--serve embedded --pid 3", "is known"),
            ("--prompt 5 --shared-prefix 6", "more than"),
            ("--frobnicate 3", "unknown"),
        ] {
            let error = format!("{:#}", LoadPlan::parse(&words(line)).unwrap_err());
            assert!(error.contains(what), "{line}: {error}");
        }
    }
}
