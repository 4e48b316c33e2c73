//! Clients that ask, and what they find: closed and open loops on one thread.
//!
//! One thread, because the client shares the machine with what it measures. A gap between tokens is the time between
//! two reads that brought any: a server that sends several at once is not rewarded with gaps of zero.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::task::LocalSet;

use super::answer::Answer;
use super::draws::Draws;
use super::gaps::StreamGaps;
use super::latency::LatencyHistogram;
use super::options::{Arrivals, Extent, LoadPlan, Workload};
use super::vocabulary::PromptVocabulary;
use super::watch::cpu_seconds;

/// What the clients of a round found.
#[derive(Debug, Clone, Default)]
pub struct LoadTally {
    /// Requests with a good answer.
    pub answered: usize,
    /// Requests that were left on purpose.
    pub left: usize,
    /// All others, by what was wrong.
    pub troubles: BTreeMap<String, usize>,
    /// Tokens that came.
    pub tokens: u64,
    /// Tokens of the prompts of good answers.
    pub prompt_tokens: u64,
    /// Time from a request's head to the scheduler, as the server tells it of whole answers.
    pub check: LatencyHistogram,
    /// Time from asking to the first token.
    pub first: LatencyHistogram,
    /// Time between two tokens, or groups of them.
    pub gap: LatencyHistogram,
    /// Time from asking to the end.
    pub whole: LatencyHistogram,
    /// Time to a refusal (429).
    pub refusal: LatencyHistogram,
    /// Of each stream, how evenly its tokens came.
    pub streams: Vec<StreamGaps>,
    /// Seconds measured.
    pub seconds: f64,
    /// Processor seconds of the server and of this client in that time.
    pub cpu: (Option<f64>, Option<f64>),
}

/// Whom to ask what.
pub struct Driver {
    /// Where.
    pub address: SocketAddr,
    /// Its process.
    pub pid: Option<u32>,
    /// How.
    pub plan: LoadPlan,
    /// Of what prompts are made.
    pub vocabulary: PromptVocabulary,
    /// Of which tokens, and who leaves when.
    pub draws: Draws,
}

struct Shared {
    address: SocketAddr,
    workload: Workload,
    key: Option<String>,
    vocabulary: PromptVocabulary,
    tally: RefCell<LoadTally>,
    counts: Cell<bool>,
    ends: Cell<bool>,
    ended: Notify,         // wakes clients that wait before asking again
    to_begin: Cell<usize>, // requests
    draws: Draws,
}

/// Bytes read at once.
const READ: usize = 32 << 10;

/// Of a slow reader: what its system holds for it, what it reads at once, and how often.
const SLOW_BUFFER: u32 = 4 << 10;
const SLOW_READ: usize = 1 << 10;
const SLOW_PAUSE: Duration = Duration::from_millis(20);

/// A request that has no answer after that time has none.
const PATIENCE: Duration = Duration::from_secs(600);

impl Driver {
    /// Measures one round. `begun` is called when the measured time begins.
    ///
    /// # Errors
    /// When there is no asynchronous input and output to be had.
    pub fn round(&self, begun: impl FnOnce()) -> Result<LoadTally> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let local = LocalSet::new();
        let shared = |to_begin| {
            Rc::new(Shared {
                address: self.address,
                workload: self.plan.workload,
                key: self.plan.key.clone(),
                vocabulary: self.vocabulary.clone(),
                tally: RefCell::default(),
                counts: Cell::new(false),
                ends: Cell::new(false),
                ended: Notify::new(),
                to_begin: Cell::new(to_begin),
                draws: self.draws.clone(),
            })
        };
        Ok(local.block_on(&runtime, async {
            match self.plan.extent {
                Extent::Time(time) => {
                    let shared = shared(usize::MAX);
                    let clients = self.clients(&shared);
                    let clock = async {
                        tokio::time::sleep(self.plan.warmup).await;
                        let meter = self.begin(&shared);
                        begun();
                        tokio::time::sleep(time).await;
                        self.end(&shared, meter);
                    };
                    tokio::join!(clients, clock);
                    shared.tally.take()
                }
                Extent::Requests(n) => {
                    if !self.plan.warmup.is_zero() {
                        let warm = shared(usize::MAX);
                        let clock = async {
                            tokio::time::sleep(self.plan.warmup).await;
                            warm.end();
                        };
                        tokio::join!(self.clients(&warm), clock);
                    }
                    let shared = shared(n);
                    let meter = self.begin(&shared);
                    begun();
                    self.clients(&shared).await;
                    self.end(&shared, meter);
                    shared.tally.take()
                }
            }
        }))
    }

    fn begin(&self, shared: &Shared) -> Meter {
        *shared.tally.borrow_mut() = LoadTally::default();
        shared.counts.set(true);
        Meter::read(self.pid)
    }

    fn end(&self, shared: &Shared, begun: Meter) {
        let now = Meter::read(self.pid);
        let passed = |then: Option<f64>, now: Option<f64>| Some(now? - then?);
        let mut tally = shared.tally.borrow_mut();
        tally.seconds = (now.at - begun.at).as_secs_f64();
        tally.cpu = (
            passed(begun.server, now.server),
            passed(begun.client, now.client),
        );
        shared.counts.set(false);
        shared.end();
    }

    /// Lets the clients ask until the round ends, and waits for their last answers.
    async fn clients(&self, shared: &Rc<Shared>) {
        match self.plan.arrivals {
            Arrivals::Closed(n) => {
                let n_slow = (n as f64 * shared.workload.slow).round() as usize;
                let clients: Vec<_> = (0..n)
                    .map(|index| tokio::task::spawn_local(client(shared.clone(), index < n_slow)))
                    .collect();
                for client in clients {
                    client
                        .await
                        .expect("a client counts its troubles and goes on");
                }
            }
            Arrivals::Open(rate) => {
                let mut requests = Vec::new();
                let mut next = tokio::time::Instant::now();
                while shared.take_place() {
                    tokio::time::sleep_until(next).await;
                    // Inverse of the exponential distribution, whose arrivals are Poisson's.
                    let wait = -(1.0 - shared.draws.uniform()).ln() / rate;
                    next += Duration::from_secs_f64(wait);
                    let shared = shared.clone();
                    requests.push(tokio::task::spawn_local(async move {
                        let slow = shared.draws.uniform() < shared.workload.slow;
                        let mut connection = Connection::default();
                        connection.ask(&shared, slow).await;
                    }));
                    requests.retain(|request| !request.is_finished());
                }
                for request in requests {
                    request.await.expect("a request counts its troubles");
                }
            }
        }
    }
}

struct Meter {
    at: Duration,
    server: Option<f64>,
    client: Option<f64>,
}

impl Meter {
    fn read(pid: Option<u32>) -> Meter {
        thread_local! {
            static START: Instant = Instant::now();
        }
        Meter {
            at: START.with(Instant::elapsed),
            server: pid.and_then(cpu_seconds),
            client: cpu_seconds(std::process::id()),
        }
    }
}

impl Shared {
    /// No request begins any more.
    fn end(&self) {
        self.ends.set(true);
        self.ended.notify_waiters();
    }

    /// Whether one more request may begin.
    fn take_place(&self) -> bool {
        let left = self.to_begin.get();
        if self.ends.get() || left == 0 {
            return false;
        }
        self.to_begin.set(left - 1);
        true
    }

    /// The bytes of a request.
    fn write_request(&self, out: &mut String) {
        let workload = &self.workload;
        let mut body = String::from("{\"prompt\":");
        let random = || self.draws.uniform();
        self.vocabulary.write_prompt(workload, random, &mut body);
        let _ = write!(
            body,
            ",\"max_tokens\":{},\"ignore_eos\":true,\"temperature\":0",
            workload.answer
        );
        if !workload.whole {
            body.push_str(",\"stream\":true,\"stream_options\":{\"include_usage\":true}");
            if workload.token_ids {
                body.push_str(",\"return_token_ids\":true");
            }
        }
        body.push('}');
        out.clear();
        let _ = write!(
            out,
            "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
            body.len()
        );
        if let Some(key) = &self.key {
            let _ = write!(out, "Authorization: Bearer {key}\r\n");
        }
        out.push_str("\r\n");
        out.push_str(&body);
    }
}

async fn client(shared: Rc<Shared>, slow: bool) {
    let mut connection = Connection::default();
    while shared.take_place() {
        let pause = connection.ask(&shared, slow).await;
        if !pause.is_zero() && !shared.ends.get() {
            // Not all at the same moment.
            let pause = pause.mul_f64(0.5 + shared.draws.uniform());
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shared.ended.notified() => {}
            }
        }
    }
}

/// A client's connection, kept while it is of use, and its memory.
#[derive(Default)]
struct Connection {
    stream: Option<TcpStream>,
    request: String,
    answer: Option<Answer>,
    buffer: Vec<u8>,
    gaps: Vec<(Instant, Duration)>, // of the answer under way, each with its end
}

/// How an answer came.
struct Arrival {
    first: Option<Duration>,
    last: Duration,
    left: bool,
}

impl Connection {
    /// Asks once and counts what comes of it. Returns how long to wait before asking again.
    async fn ask(&mut self, shared: &Shared, slow: bool) -> Duration {
        shared.write_request(&mut self.request);
        let leaves = shared.draws.uniform() < shared.workload.disconnect;
        let leave_after =
            leaves.then(|| (shared.draws.uniform() * shared.workload.answer as f64) as usize);
        let mut answer = self.answer.take().unwrap_or_else(Answer::new);
        answer.clear();
        let asked = self.exchange(shared, slow, leave_after, &mut answer);
        let asked = tokio::time::timeout(PATIENCE, asked).await;
        let asked = asked.unwrap_or_else(|_| bail!("no answer in {PATIENCE:?}"));
        let keeps = asked.as_ref().is_ok_and(|arrival| !arrival.left) && !answer.closes();
        if !keeps {
            self.stream = None;
        }
        let pause = self.count(shared, &answer, asked);
        self.answer = Some(answer);
        pause
    }

    async fn exchange(
        &mut self,
        shared: &Shared,
        slow: bool,
        leave_after: Option<usize>,
        answer: &mut Answer,
    ) -> Result<Arrival> {
        let started = Instant::now();
        self.gaps.clear();
        self.buffer.resize(if slow { SLOW_READ } else { READ }, 0);
        if self.stream.as_ref().is_none_or(is_closed) {
            self.stream = Some(connect(shared.address, slow).await.context("connecting")?);
        }
        let stream = self.stream.as_mut().expect("it was just made");
        stream
            .write_all(self.request.as_bytes())
            .await
            .context("sending")?;
        let mut arrival = Arrival {
            first: None,
            last: Duration::ZERO,
            left: false,
        };
        loop {
            if leave_after.is_some_and(|events| answer.n_events >= events) {
                arrival.left = true;
                return Ok(arrival);
            }
            let n = stream.read(&mut self.buffer).await.context("reading")?;
            if n == 0 {
                bail!("the connection ended");
            }
            let now = started.elapsed();
            let before = answer.n_events;
            answer.feed(&self.buffer[..n])?;
            let new = answer.n_events - before;
            if new > 0 {
                if arrival.first.is_none() {
                    arrival.first = Some(now);
                } else {
                    self.gaps.push((started + now, now - arrival.last));
                }
                if shared.counts.get() {
                    shared.tally.borrow_mut().tokens += new as u64;
                }
            }
            arrival.last = now;
            if answer.is_complete() {
                return Ok(arrival);
            }
            if slow {
                tokio::time::sleep(SLOW_PAUSE).await;
            }
        }
    }

    fn count(&mut self, shared: &Shared, answer: &Answer, asked: Result<Arrival>) -> Duration {
        let mut tally = shared.tally.borrow_mut();
        let arrival = match asked {
            Ok(arrival) if arrival.left => {
                tally.left += 1;
                return Duration::ZERO;
            }
            Ok(arrival) => arrival,
            Err(error) => {
                *tally.troubles.entry(format!("{error:#}")).or_default() += 1;
                return Duration::from_secs(1);
            }
        };
        if let Some(trouble) = answer.trouble() {
            *tally.troubles.entry(trouble).or_default() += 1;
            if answer.status == Some(429) && shared.counts.get() {
                tally.refusal.add(arrival.last);
            }
            return answer.retry_after().unwrap_or(Duration::from_secs(1));
        }
        let (prompt, drawn) = match answer.usage() {
            Ok(usage) => usage,
            Err(error) => {
                *tally.troubles.entry(format!("{error:#}")).or_default() += 1;
                return Duration::ZERO;
            }
        };
        if !shared.counts.get() {
            return Duration::ZERO;
        }
        tally.answered += 1;
        tally.prompt_tokens += prompt as u64;
        tally.whole.add(arrival.last);
        if let Some(check) = answer.check() {
            tally.check.add(check);
        }
        match arrival.first {
            // The last event of a stream tells the usage and is no token.
            Some(first) => {
                tally.first.add(first);
                tally.tokens = tally.tokens.saturating_sub(1);
            }
            None => tally.tokens += drawn as u64,
        }
        for &(_, gap) in &self.gaps {
            tally.gap.add(gap);
        }
        tally.streams.extend(StreamGaps::new(&mut self.gaps));
        Duration::ZERO
    }
}

/// Whether the server gave up a connection that nobody used for a while.
fn is_closed(stream: &TcpStream) -> bool {
    let silent = stream.try_read(&mut [0]);
    !silent.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

async fn connect(address: SocketAddr, slow: bool) -> std::io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if slow {
        socket.set_recv_buffer_size(SLOW_BUFFER)?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
