//! Every setting of the server: its type, default, limits and meaning, once.
//!
//! The table makes the typed sections, the defaults, the flags, the variables, `--print-config` and, by a test, the
//! table of `docs/config.md`. `reload` settings follow the file while the server runs, `restart` settings do not.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use bitnet_inference::Dialects;
use bitnet_inference::KvType;

use super::ServerConfig;
use super::value::Limit::{Any, Within};
use super::value::{
    AccessLogFormat, ByteSize, DevicePreference, EngineWord, Given, JwtAlgorithm, Limit, LogFormat,
    LoopbackInference, OtlpProtocol, PoolingChoice, SettingValue, TimeLimit,
};
use crate::auth::usage_file;

/// When a changed setting takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applies {
    /// At the next start.
    Restart,
    /// On SIGHUP.
    Reload,
}

/// One row of the table.
pub struct Setting {
    /// The section it is in: `server`.
    pub section: &'static str,
    /// Its own name, unique among all sections: `port`.
    pub name: &'static str,
    /// When a change of it takes effect.
    pub applies: Applies,
    /// What it does, a line each.
    pub doc: &'static [&'static str],
    /// Whether it is a switch, so that the flag alone means `true`.
    pub is_switch: bool,
    pub(super) expected: fn() -> String,
    pub(super) write: fn(&ServerConfig) -> String,
    pub(super) set: fn(&mut ServerConfig, Given<'_>) -> Result<(), String>,
    pub(super) copy: fn(&ServerConfig, &mut ServerConfig),
}

/// Variables of all commands that load a model, and the settings that they stand for: those of the server alone win.
pub const SHARED_VARIABLES: &[(&str, &str)] = &[
    ("BITNET_GGUF", "models.default_model"),
    ("BITNET_DEVICE", "performance.device_preference"),
    ("BITNET_CPU_THREADS", "engine.threads"),
    ("BITNET_KERNEL", "engine.kernel"),
    ("BITNET_FULL_HEAD", "engine.full_head"),
    ("BITNET_DENSE", "engine.dense"),
    ("BITNET_TOKENIZER", "engine.tokenizer"),
    ("BITNET_STRICT_TOKENIZERS", "engine.strict_tokenizers"),
    ("BITNET_SEED", "engine.seed"),
    ("BITNET_DETERMINISTIC", "engine.deterministic"),
    ("BITNET_CACHE", "models.cache_folder"),
    ("BITNET_LOG", "monitoring.log_level"),
];

/// Most threads that may be asked for: more than any machine has cores, few enough that a typing error (a port number,
/// say) does not start them.
pub const MAX_THREADS: usize = 1024;

/// Positions of context that may be asked for. The upper end is far beyond every model's; the model's own length is
/// checked when it is loaded.
pub const CONTEXTS: std::ops::RangeInclusive<usize> = 2..=1 << 24;

impl AuthSettings {
    /// Where it is kept what keys have used of their quotas; nowhere without keys.
    pub fn usage_path(&self) -> Option<PathBuf> {
        let keys = self.keys_file.as_ref()?;
        let beside = || usage_file::of_keys(keys);
        Some(self.usage_file.clone().unwrap_or_else(beside))
    }
}

impl Setting {
    /// As a file nests it, with a point between: `server.port`.
    pub fn key(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// The flag that sets it, without the hyphens in front: `port`.
    pub fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    /// Another name of the flag, by which the other commands know it: `model`.
    pub fn flag_alias(&self) -> Option<&'static str> {
        match (self.section, self.name) {
            ("models", "default_model") => Some("model"),
            ("performance", "device_preference") => Some("device"),
            _ => None,
        }
    }

    /// The letter of the flag, for those that have one in the other commands.
    pub fn short_flag(&self) -> Option<char> {
        match (self.section, self.name) {
            ("models", "default_model") => Some('m'),
            ("engine", "threads") => Some('t'),
            _ => None,
        }
    }

    /// The variable that sets it: `BITNET_SERVER__PORT`, `BITNET_SERVER__AUTH__KEYS_FILE`.
    pub fn variable(&self) -> String {
        let section = match self.section {
            "server" => String::new(),
            section => format!("{section}__"),
        };
        format!("{}{section}{}", super::ENV_PREFIX, self.name).to_ascii_uppercase()
    }

    /// What may be given, with the limits.
    pub fn expected(&self) -> String {
        (self.expected)()
    }

    /// The value in `config`, in the notation of the file.
    pub fn value(&self, config: &ServerConfig) -> String {
        (self.write)(config)
    }

    /// What the documents say of it: `doc` in one line.
    pub fn meaning(&self) -> String {
        let lines: Vec<&str> = self.doc.iter().map(|line| line.trim()).collect();
        lines.join(" ")
    }
}

macro_rules! applies {
    (restart) => {
        Applies::Restart
    };
    (reload) => {
        Applies::Reload
    };
}

macro_rules! is_switch {
    (bool) => {
        true
    };
    ($other:ty) => {
        false
    };
}

macro_rules! settings {
    ($(
        $(#[$about:meta])*
        $section:ident: $struct:ident {
            $(
                $(#[doc = $doc:literal])+
                $applies:ident $name:ident: [$($type:tt)+] = $default:expr, $limit:expr;
            )+
        }
    )+) => {
        /// The sections of the configuration, and every setting in them.
        #[derive(Debug, Clone, PartialEq)]
        pub struct Sections {
            $($(#[$about])* pub $section: $struct,)+
        }

        $(
            $(#[$about])*
            #[derive(Debug, Clone, PartialEq)]
            pub struct $struct {
                $($(#[doc = $doc])+ pub $name: $($type)+,)+
            }
        )+

        pub(super) fn defaults() -> Sections {
            Sections {
                $($section: $struct { $($name: $default,)+ },)+
            }
        }

        /// Every setting, in the order of the documents.
        pub static SETTINGS: &[Setting] = &[
            $($(Setting {
                section: stringify!($section),
                name: stringify!($name),
                applies: applies!($applies),
                doc: &[$($doc),+],
                is_switch: is_switch!($($type)+),
                expected: || {
                    let limit: Limit<$($type)+> = $limit;
                    limit.expected()
                },
                write: |config| config.$section.$name.write(),
                set: |config, given| {
                    let limit: Limit<$($type)+> = $limit;
                    config.sections.$section.$name = limit.read(given)?;
                    Ok(())
                },
                copy: |from, to| to.sections.$section.$name.clone_from(&from.$section.$name),
            },)+)+
        ];
    };
}

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A time limit of at least `least`, and at most a day.
const fn from(least: Duration) -> Limit<TimeLimit> {
    Within(TimeLimit::of(least)..=TimeLimit::of(DAY))
}

const fn mib(n: u64) -> ByteSize {
    ByteSize(n << 20)
}

/// A day: longer waits are no waits.
const DAY: Duration = seconds(86_400);

settings! {
    /// Where and how connections are taken.
    server: ServerSettings {
        /// Address to listen on. Another than a loopback address needs keys or tokens (`auth`).
        restart host: [IpAddr] = IpAddr::V4(Ipv4Addr::LOCALHOST), Any;
        /// Port to listen on; 0 lets the system choose one, which is printed.
        restart port: [u16] = 8080, Any;
        /// A second port on the same address, for probes and metrics alone, in plain HTTP, answered by a thread of its
        /// own however busy the server is; 0 lets the system choose one, which is logged. Without it, none.
        restart health_port: [Option<u16>] = None, Any;
        /// A port for administrators: their routes and the page `/admin` are answered on it alone, everything else on both
        /// ports; 0 lets the system choose one, which is logged. Without it, all is on one port.
        restart admin_port: [Option<u16>] = None, Any;
        /// Address of `server.admin_port`. Another than a loopback address needs keys or tokens (`auth`).
        restart admin_host: [IpAddr] = IpAddr::V4(Ipv4Addr::LOCALHOST), Any;
        /// Connections open at once. Past them, those that have waited longest for a request are closed for new ones.
        restart max_connections: [usize] = 4096, Within(1..=1_000_000);
        /// Connections of one address (of IPv6, one network of 64 bits) open at once; more are closed. 0 is no limit:
        /// behind a proxy all have one address.
        restart max_connections_per_peer: [usize] = 0, Within(0..=1_000_000);
        /// Largest request body.
        restart max_body_bytes: [ByteSize] = mib(2), Within(ByteSize(1024)..=mib(256));
        /// Bytes of bodies that may be arriving at once, of all requests together; one more is answered 429.
        restart max_arriving_bytes: [ByteSize] = mib(64), Within(ByteSize(1024)..=mib(1 << 20));
        /// Bytes of whole answers that may wait for their clients to read them, of all together; one more is answered
        /// 429.
        restart max_leaving_bytes: [ByteSize] = mib(256), Within(ByteSize(1024)..=mib(1 << 20));
        /// Time a client has to send the head of a request, and for which a connection may be idle.
        restart header_timeout: [Duration] = seconds(60), Within(Duration::from_millis(100)..=DAY);
        /// Time a client has to send the body of a request.
        restart body_timeout: [Duration] = seconds(30), Within(Duration::from_millis(100)..=DAY);
        /// Time a client may go without reading before its stream is ended.
        restart write_timeout: [Duration] = seconds(30), Within(Duration::from_millis(100)..=DAY);
        /// Time a request may take, from its arrival to its last token. 0 is no limit.
        restart request_timeout: [TimeLimit] = TimeLimit::NONE, from(Duration::from_millis(100));
        /// Silence on a stream after which a comment is sent, so that proxies keep it open.
        restart sse_ping_interval: [Duration] = seconds(15), Within(seconds(1)..=seconds(3600));
        /// Time that running requests have to finish after SIGTERM; a second signal ends at once, and so does 0.
        restart shutdown_timeout: [Duration] = seconds(30), Within(seconds(0)..=DAY);
        /// Host names that are accepted on loopback besides `localhost` and loopback addresses.
        restart allowed_hosts: [Vec<String>] = Vec::new(), Any;
        /// Origins (`https://app.example`) whose web pages may use this server from a browser (CORS). Without one,
        /// none.
        restart allowed_origins: [Vec<String>] = Vec::new(), Any;
        /// Certificate chain (PEM), the server's own first. With the key it turns TLS on. Its changes are followed.
        restart tls_certificate_file: [Option<PathBuf>] = None, Any;
        /// Private key of that certificate (PEM, without a password).
        restart tls_key_file: [Option<PathBuf>] = None, Any;
        /// Authorities (PEM) one of which must have signed the client's certificate. Without it, clients need none.
        restart tls_client_ca_file: [Option<PathBuf>] = None, Any;
        /// How often the files of TLS are looked at.
        restart tls_poll_interval: [Duration] = seconds(5), Within(seconds(1)..=seconds(3600));
        /// Unix socket by which the next process, started with the same setting, takes over the listening socket.
        restart handover_socket: [Option<PathBuf>] = None, Any;
    }

    /// Which models are served.
    models: ModelSettings {
        /// Model to load at start: a path; also `--model` and `BITNET_GGUF`. Without one, `bitnet serve` has the story
        /// model inside the program, and `bitnet-server` does not start.
        restart default_model: [Option<String>] = None, Any;
        /// Name under which clients ask for the model; without it, the model's own.
        restart served_model_name: [Option<String>] = None, Any;
        /// Directories that requests may load models from. Without any, they may load none.
        restart directories: [Vec<String>] = Vec::new(), Any;
        /// Further models, each as `id=path`, loaded when a request first asks for them.
        restart configured: [Vec<String>] = Vec::new(), Any;
        /// Ids of models that are never unloaded to make room.
        restart pinned: [Vec<String>] = Vec::new(), Any;
        /// Time without a request after which a model sleeps: it leaves memory, and the next request for it wakes it.
        /// Pinned models never do. Without it, none does.
        restart keep_alive: [Option<Duration>] = None, Any;
        /// Bytes of weights kept loaded; past them, idle models that were used longest ago make room. 0 is no limit.
        restart cache_size: [ByteSize] = ByteSize(0), Any;
        /// Time for which a model that was loaded does not make room for others.
        restart min_residency: [Duration] = seconds(10), Within(seconds(0)..=DAY);
        /// Pack weights into files of a cache folder and use them from there, with copies of the models' files: another
        /// model, or a new version of one, then takes next to no memory of the process's own.
        restart packed_cache: [bool] = true, Any;
        /// The folder, which nobody else may write; also `BITNET_CACHE`. Without it, that of the user.
        restart cache_folder: [Option<PathBuf>] = None, Any;
        /// Use files where they lie, without cache and copies: less memory, but a file that is cut short under a
        /// running model ends the process.
        restart map_files: [bool] = false, Any;
        /// Time that a request waits for its model to be loaded; with 0 it does not wait.
        restart load_wait: [Duration] = seconds(60), Within(seconds(0)..=DAY);
        /// Time that running requests have to end when their model is unloaded; with 0 a model in use stays.
        restart unload_timeout: [Duration] = seconds(30), Within(seconds(0)..=DAY);
        /// Time for which a swap of strategy `blue_green` keeps the old version ready.
        restart keep_previous: [Duration] = seconds(300), Within(seconds(0)..=DAY);
        /// Time between the steps of a swap of strategy `rolling`: 10, 50 and 100 percent of new requests.
        restart rolling_step: [Duration] = seconds(10), Within(seconds(0)..=DAY);
        /// Time after a swap in which a new version that fails gives its place back to the old one. With `blue_green`
        /// it is `keep_previous`.
        restart rollback_period: [Duration] = seconds(60), Within(seconds(0)..=DAY);
        /// How `/v1/embeddings` pools hidden states. `model`: as the model's files say, or not at all.
        restart pooling: [PoolingChoice] = PoolingChoice::Model, Any;
    }

    /// How much is done at once.
    performance: PerformanceSettings {
        /// Requests that run at once, in one batch; more wait in the queue.
        restart max_concurrent_requests: [usize] = 8, Within(1..=4096);
        /// Requests that may wait; one more is answered 429.
        restart max_queued_requests: [usize] = 256, Within(0..=1_000_000);
        /// Prompt tokens that may wait; a request that would exceed them is answered 429.
        restart max_queued_prompt_tokens: [usize] = 262_144, Within(1..=1_000_000_000);
        /// Time a request may wait for a place before it is answered 503. 0 is no limit.
        restart queue_timeout: [TimeLimit] = TimeLimit::NONE, from(Duration::from_millis(100));
        /// Taken for the sake of older files, without effect: requests join the batch at every step, so none waits.
        restart batch_timeout_ms: [u64] = 0, Within(0..=10_000);
        /// Memory for keys and values of each model, for all requests together. Without it, what memory (of the machine
        /// or the control group) has room for beside the weights, a whole context of each running request at most.
        restart kv_cache_memory: [Option<ByteSize>] = None, Any;
        /// Whether everybody may ask for a `priority` below 0, which goes before all others and takes places from
        /// requests that run. Administrators always may.
        restart allow_urgent: [bool] = false, Any;
        /// Where models run; also `--device` and `BITNET_DEVICE`. This version has the CPU alone and refuses `gpu`.
        restart device_preference: [DevicePreference] = DevicePreference::Auto, Any;
        /// Whether prompts that begin alike are computed once.
        restart prefix_cache: [bool] = true, Any;
    }

    /// How models are run. The keys are the flags of `bitnet run`.
    engine: EngineSettings {
        /// Threads to compute with; also `BITNET_CPU_THREADS`. Without it, a thread on each core that this process may
        /// use: within its affinity and its container's quota, hyperthreads of one core counted once.
        restart threads: [Option<usize>] = None, Within(Some(1)..=Some(MAX_THREADS));
        /// Positions of context of each request. Without it, the model's, as far as the memory for keys and values
        /// goes.
        restart ctx: [Option<usize>] = None, Within(Some(*CONTEXTS.start())..=Some(*CONTEXTS.end()));
        /// Type of keys and values: f32 (the reference's numbers), f16 (half the memory) or i8 (a quarter).
        restart kv_type: [EngineWord<KvType>] = EngineWord(KvType::F32), Any;
        /// Kernel to use, by name, as `bitnet --version` lists them; also `BITNET_KERNEL`. Without it, the fastest.
        restart kernel: [Option<String>] = None, Any;
        /// Compute every logit for every token, with no small copy of the head to search: tokens are the same. Also
        /// `BITNET_FULL_HEAD`.
        restart full_head: [bool] = false, Any;
        /// Read every weight, also those of channels that are exactly 0: for comparison, the output is the same. Also
        /// `BITNET_DENSE`.
        restart dense: [bool] = false, Any;
        /// Byte layout of I2_S tensors, which no file tells (without it, i2s-128), and the format of type numbers that
        /// several projects use (without it, the one whose size the tensors have).
        restart dialect: [Option<EngineWord<Dialects>>] = None, Any;
        /// Tokenizer of the first model instead of its own: a tokenizer.json, a .gguf or a Hugging Face directory; also
        /// `BITNET_TOKENIZER`.
        restart tokenizer: [Option<PathBuf>] = None, Any;
        /// Refuse to repair or guess a tokenizer or a chat template; also `BITNET_STRICT_TOKENIZERS`.
        restart strict_tokenizers: [bool] = false, Any;
        /// Jinja file with the chat template of the first model, instead of its own.
        restart template: [Option<PathBuf>] = None, Any;
        /// Seed of requests that name none; also `BITNET_SEED`. Without it, a new one for each.
        restart seed: [Option<u64>] = None, Any;
        /// Use seed 42 where nobody gives one; also `BITNET_DETERMINISTIC`.
        restart deterministic: [bool] = false, Any;
    }

    /// What can be seen of the server.
    monitoring: MonitoringSettings {
        /// What is logged: error, warn, info, debug, trace, off, or a list such as `warn,bitnet_server=debug`; also
        /// `BITNET_LOG`. At info each request is a line. Start, reload and end are logged at every level.
        reload log_level: [String] = "warn".into(), Any;
        /// How: `json` makes everything that the server says on standard error an object a line, notices, errors and
        /// panics included, and the access log where that is `on`; what is wrong with the command line or the settings
        /// themselves is said in plain text.
        restart log_format: [LogFormat] = LogFormat::Text, Any;
        /// Whether `/metrics` is served.
        restart prometheus_enabled: [bool] = true, Any;
        /// Whether the page `/admin` is served. It holds nothing itself: what it shows needs the keys that routes need.
        restart admin_page: [bool] = true, Any;
        /// Whether traces and metrics are exported. It needs a build with `--features opentelemetry`; another one does
        /// not start.
        restart opentelemetry_enabled: [bool] = false, Any;
        /// Where a collector takes them by OTLP: `http://HOST:PORT` or `https://HOST:PORT`. Without it, port 4318 of
        /// this machine, or 4317 by gRPC.
        restart opentelemetry_endpoint: [Option<String>] = None, Any;
        /// How they travel to it: `http` (protobuf) or `grpc`.
        restart opentelemetry_protocol: [OtlpProtocol] = OtlpProtocol::Http, Any;
        /// Traces of how many in a hundred requests; one whose sender traces it is traced too.
        restart opentelemetry_sampling_percent: [u32] = 1, Within(0..=100);
        /// A line for every request on standard error: who, what, outcome, time. Prompts and answers are in none. `on`
        /// is as `log_format` says; `text` and `json` are, whatever that says.
        restart access_log: [AccessLogFormat] = AccessLogFormat::None, Any;
        /// File to which a line of JSON is added for every action of an administrator; without it, standard error.
        restart audit_log_file: [Option<PathBuf>] = None, Any;
        /// How often the process's own figures (memory, processor) are measured, and metrics exported.
        restart metrics_interval: [Duration] = seconds(10), Within(seconds(1)..=seconds(3600));
        /// Whether `/health` answers 200 while the server is degraded (full, draining, without a model), and not 503.
        restart degraded_ok: [bool] = cfg!(feature = "degraded-ok"), Any;
        /// Time that one step of the engine may take before the server calls itself hung.
        restart stall_timeout: [Duration] = seconds(60), Within(seconds(1)..=DAY);
        /// Time that one step of the engine may take before the process is aborted, so that whoever watches over it
        /// starts another one: better some times `monitoring.stall_timeout`. 0 is no limit: the process lives on and
        /// the probes tell.
        restart watchdog: [TimeLimit] = TimeLimit::NONE, from(seconds(1));
    }

    /// Who may ask.
    auth: AuthSettings {
        /// File of hashed API keys, made by `bitnet keys add`. Its changes are followed while the server runs.
        restart keys_file: [Option<PathBuf>] = None, Any;
        /// File of the tokens that keys with a quota have used, which is written; without it, that of the keys with
        /// `.usage` behind its name.
        restart usage_file: [Option<PathBuf>] = None, Any;
        /// How often the file of keys is looked at.
        restart keys_poll_interval: [Duration] = seconds(5), Within(seconds(1)..=seconds(3600));
        /// Whether inference needs a key on loopback. Management always does.
        restart loopback_inference: [LoopbackInference] = LoopbackInference::Auto, Any;
        /// Whether `/metrics` is open to everybody who can connect.
        restart open_metrics: [bool] = false, Any;
        /// Listen on a public address though nobody has to show a key. Management stays closed.
        restart insecure_no_auth: [bool] = false, Any;
        /// The one algorithm by which JSON Web Tokens are signed.
        restart jwt_algorithm: [JwtAlgorithm] = JwtAlgorithm::EdDsa, Any;
        /// Public key (PEM) or, for HS256, secret of at least 32 bytes; or a JSON Web Key Set, or a folder with a file
        /// for each key, whose `kid` is its name without `.pem`. It turns tokens on, and is read again on SIGHUP.
        restart jwt_key_file: [Option<PathBuf>] = None, Any;
        /// Who must have made a token (`iss`).
        restart jwt_issuer: [Option<String>] = None, Any;
        /// For whom a token must be (`aud`).
        restart jwt_audience: [Option<String>] = None, Any;
        /// Claim with the role of a token's owner, `admin` or `infer`: a name, or a path such as `realm_access.roles`.
        /// A text with spaces or a list may have several, of which the highest counts.
        restart jwt_role_claim: [String] = "role".into(), Any;
        /// How far the clocks of the issuer and of this machine may be apart.
        restart jwt_leeway: [Duration] = seconds(10), Within(seconds(0)..=seconds(30));
    }

    /// What one key, or one address where no key is needed, may take. 0 is no limit; a key's own limits win.
    limits: LimitSettings {
        /// Requests a minute.
        reload requests_per_minute: [u32] = 0, Within(0..=10_000_000);
        /// Tokens a minute, of prompts and answers together.
        reload tokens_per_minute: [u32] = 0, Within(0..=1_000_000_000);
        /// Requests at once, waiting ones included.
        reload concurrent_requests: [u32] = 0, Within(0..=1_000_000);
        /// Keys and tokens that are not good, of one address (of IPv6, one network of 64 bits) a minute: further ones
        /// are answered 429. Good ones are let in all the same.
        reload refused_credentials_per_minute: [u32] = 60, Within(0..=10_000_000);
    }
}
