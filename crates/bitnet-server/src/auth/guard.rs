//! The rules that every request is held against: host, credentials, role, limits, in this order.
//!
//! They know no shape of errors: whoever mounts the [layer](super::layer) says how a [`Refusal`] is told.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use axum::http::{HeaderMap, HeaderValue, Method, Uri};
use sha2::{Digest, Sha256};

use super::access::{AccessTable, Role, RouteAccess};
use super::allowed_models::AllowedModels;
use super::bind::{BindRefused, Exposure, exposure};
use super::clock::Moment;
use super::credentials::{BadCredential, CredentialCheck, ShownCredential};
use super::host;
use super::jwt::JwtKeyError;
use super::key_file::KeyFileError;
use super::quota::{Quota, QuotaLedger};
use super::rate::{Exceeded, Permit, RateLimiter, RateLimits, Remaining, TooMuch};
use super::refusals::RefusalLimiter;
use crate::config::ServerConfig;
use crate::config::settings::LimitSettings;
use crate::peers::peer_of;
use crate::request_log::{AdminAction, AuditNote, RequestNotes};

/// Who asks. Handlers find it, and the [`Permit`] in an `Arc`, in the request's extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// `key:ID`, `jwt:SUB` or, without credentials, `address:IP`.
    pub id: String,
    /// What it may do; `None` without credentials.
    pub role: Option<Role>,
    /// The models that it may use.
    pub models: AllowedModels,
    /// A number that stands for it in the scheduler.
    pub tenant: u64,
    /// What its cached prompts are found by: not to be guessed, and another one after a restart.
    pub cache_salt: u64,
}

/// Why a request goes no further.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// The host that it names is not this machine.
    #[error(
        "this server listens on a loopback address and the request's host is none; server.allowed_hosts adds names"
    )]
    HostNotAllowed,
    /// A page of another origin sent it.
    #[error("a web page of another origin sent this request without a key")]
    CrossSite,
    /// It has no credentials and needs some.
    #[error("this route needs an API key: send it as 'Authorization: Bearer KEY'")]
    MissingCredentials,
    /// It has none, and nobody could have.
    #[error("this route needs an API key or a token, and this server has none")]
    NobodyHasCredentials,
    /// Its credentials are not good.
    #[error("the API key or token is not valid")]
    InvalidCredentials,
    /// Its credentials were good once.
    #[error("this {what} has expired")]
    Expired {
        /// A token or an API key.
        what: &'static str,
    },
    /// Its credentials are not good for this.
    #[error("this route needs a key of the role admin")]
    InsufficientRole,
    /// The route has no such method.
    #[error("this route takes {allowed} alone")]
    MethodNotAllowed {
        /// The methods that it has, as the header `Allow` has them.
        allowed: String,
    },
    /// A limit of its principal is reached.
    #[error("{}", limit_reached(.0))]
    TooMuch(TooMuch),
}

/// What is told of a limit that is reached.
fn limit_reached(too_much: &TooMuch) -> String {
    match &too_much.quota {
        Some(quota) => quota.to_string(),
        None => format!(
            "too many {}: the limit of this client is reached; try again in {:.1} s",
            too_much.exceeded.counted(),
            too_much.retry_after.as_secs_f64()
        ),
    }
}

/// Nobody could be let in rightly, so the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// The address needs credentials.
    #[error(transparent)]
    Bind(#[from] BindRefused),
    /// The keys cannot be read.
    #[error(transparent)]
    Keys(#[from] KeyFileError),
    /// The key of tokens cannot be read.
    #[error(transparent)]
    Jwt(#[from] JwtKeyError),
    /// The system has no random numbers.
    #[error("no random numbers for the salt of the cache: {0}")]
    Random(getrandom::Error),
}

/// What is looked at of a request.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its URI.
    pub uri: &'a Uri,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// The route that it matched, as the router has it.
    pub route: Option<&'a str>,
    /// Where it comes from.
    pub peer: Option<IpAddr>,
}

/// Who asks, and what is its own.
struct Identity {
    id: String,
    role: Option<Role>,
    limits: RateLimits,
    quota: Quota,
    models: AllowedModels,
}

/// The rules of one server.
pub struct Guard {
    table: AccessTable,
    exposure: Exposure,
    open_metrics: bool,
    allowed_hosts: Vec<String>,
    allowed_origins: Vec<String>,
    credentials: CredentialCheck,
    limiter: RateLimiter,
    refusals: RefusalLimiter,
    quotas: Arc<QuotaLedger>,
    limits: ArcSwap<LimitSettings>,
    salt_key: [u8; 32],
}

/// Who asks without a credential that is good.
fn address_id(peer: Option<IpAddr>) -> String {
    match peer {
        Some(peer) => format!("address:{}", peer_of(peer)),
        None => "address:unknown".into(),
    }
}

impl Guard {
    /// The guard of a server on the configured address.
    ///
    /// # Errors
    /// As [`Guard::at`].
    pub fn new(config: &ServerConfig, table: AccessTable) -> Result<Guard, GuardError> {
        Guard::at(config.server.host, config, table)
    }

    /// The guard of a server on the address `host`, which is another than the configured one where somebody else has
    /// opened the socket. Reads keys, and holds the address against the rules.
    ///
    /// # Errors
    /// When the address needs credentials and there are none, or what they are checked by cannot be read.
    pub fn at(
        host: IpAddr,
        config: &ServerConfig,
        table: AccessTable,
    ) -> Result<Guard, GuardError> {
        let mut salt_key = [0; 32];
        getrandom::fill(&mut salt_key).map_err(GuardError::Random)?;
        Ok(Guard {
            table,
            exposure: exposure(host, &config.auth)?,
            open_metrics: config.auth.open_metrics,
            allowed_hosts: config.server.allowed_hosts.clone(),
            allowed_origins: config.server.allowed_origins.clone(),
            credentials: CredentialCheck::open(&config.auth)?,
            limiter: RateLimiter::default(),
            refusals: RefusalLimiter::default(),
            quotas: Arc::new(QuotaLedger::open(config.auth.usage_path())),
            limits: ArcSwap::from_pointee(config.limits.clone()),
            salt_key,
        })
    }

    /// Tells what [`Guard::at`] would refuse, and touches nothing: it begins no count of what keys have used.
    ///
    /// # Errors
    /// As [`Guard::at`].
    pub fn check(host: IpAddr, config: &ServerConfig) -> Result<(), GuardError> {
        exposure(host, &config.auth)?;
        CredentialCheck::open(&config.auth)?;
        Ok(())
    }

    /// What is open without credentials.
    pub fn exposure(&self) -> Exposure {
        self.exposure
    }

    /// Who may ask, in a few words.
    pub fn summary(&self) -> String {
        let opened = match self.exposure {
            Exposure {
                open_inference: false,
                ..
            } => None,
            Exposure { loopback: true, .. } => Some("open on loopback"),
            Exposure {
                loopback: false, ..
            } => Some("open to everybody"),
        };
        match (self.credentials.summary(), opened) {
            (None, None) => "key needed, and there is none".into(),
            (None, Some(opened)) => opened.into(),
            (Some(credentials), None) => format!("key needed: {credentials}"),
            (Some(credentials), Some(opened)) => format!("{opened}; {credentials}"),
        }
    }

    /// What keys have used of their quotas.
    pub fn quotas(&self) -> &Arc<QuotaLedger> {
        &self.quotas
    }

    /// The origin of the page that sends a request, if the operator lists it and the request is meant for this host.
    pub fn allowed_origin(&self, headers: &HeaderMap, uri: &Uri) -> Option<HeaderValue> {
        let meant = !self.exposure.loopback || host::is_allowed(headers, uri, &self.allowed_hosts);
        let origin = host::listed_origin(headers, &self.allowed_origins).filter(|_| meant);
        origin.cloned()
    }

    /// Whether a request is for administrators: for the log, whatever comes of it.
    pub(super) fn admin_action(&self, head: RequestHead<'_>) -> Option<AdminAction> {
        let need = self.table.access(head.method, head.route?)?;
        (need == RouteAccess::Admin).then(|| AdminAction {
            peer: head.peer,
            note: AuditNote::default(),
        })
    }

    /// Whether a request is one for administrators, that came where they have no routes: it is noted like one that this
    /// guard refuses. Where a path is for them alone, all its methods are.
    pub fn turns_away(&self, head: RequestHead<'_>, notes: &RequestNotes, now: Moment) -> bool {
        let is_theirs = |path| self.table.is_for_administrators(path);
        match self.admin_action(head) {
            None => head.route.is_some_and(is_theirs),
            Some(action) => {
                notes.set_action(action);
                self.shown(head, notes, now);
                true
            }
        }
    }

    /// What a request shows of credentials; notes whose they are.
    fn shown(&self, head: RequestHead<'_>, notes: &RequestNotes, now: Moment) -> ShownCredential {
        let shown = self.credentials.shown(head.headers, now.time);
        match &shown {
            ShownCredential::Good(holder) => notes.set_who(&holder.id),
            // Also of whom nothing good is known: a flood of bad keys has a sender.
            ShownCredential::Bad(_) | ShownCredential::Nothing => {
                notes.set_who(&address_id(head.peer))
            }
        }
        shown
    }

    /// The keys and the key of tokens.
    pub fn credentials(&self) -> &CredentialCheck {
        &self.credentials
    }

    /// Takes over changed limits.
    pub fn set_limits(&self, limits: &LimitSettings) {
        self.limits.store(limits.clone().into());
    }

    /// Lets a request through, or says why not. Probes have no principal. Who asks is noted as soon as it is known,
    /// whatever comes of it.
    ///
    /// # Errors
    /// The first rule that refuses it.
    pub fn admit(
        &self,
        head: RequestHead<'_>,
        notes: &RequestNotes,
        now: Moment,
    ) -> Result<Option<(Principal, Permit)>, Refusal> {
        let is_meant = !self.exposure.loopback
            || host::is_allowed(head.headers, head.uri, &self.allowed_hosts);
        let listed = match head.route {
            Some(route) => self.table.access(head.method, route),
            // No route: whoever may infer is told so.
            None => Some(RouteAccess::Infer),
        };
        if is_meant && listed == Some(RouteAccess::Probe) {
            return Ok(None);
        }
        // Looked at once: a signature costs something.
        let shown = self.shown(head, notes, now);
        if !is_meant {
            return Err(Refusal::HostNotAllowed);
        }
        let need = listed.unwrap_or(RouteAccess::Infer);
        let Identity {
            id,
            role,
            limits,
            quota,
            models,
        } = self.identify(head, shown, need, now.instant)?;
        notes.set_who(&id);
        if need == RouteAccess::Admin && role != Some(Role::Admin) {
            return Err(Refusal::InsufficientRole);
        }
        if listed.is_none() {
            let allowed = self.table.methods(head.route.unwrap_or_default());
            return Err(Refusal::MethodNotAllowed { allowed });
        }
        // What costs no tokens is never refused for them, and changes nothing: neither a scraper nor an operator's
        // look.
        let permit = if need == RouteAccess::Infer && head.method == Method::POST {
            let limits = limits.or(limits_of(&self.limits.load()));
            // First, so that whoever has nothing left takes nothing of a minute.
            let share = (!quota.is_none()).then(|| self.quotas.enter(&id, quota, now.time));
            let share = share.transpose().map_err(Refusal::TooMuch)?;
            let entered = self.limiter.enter(&id, limits, now.instant);
            let entered = entered.map_err(|too_much| {
                let of_quota = share.as_ref().and_then(|share| share.remaining(now.time));
                Refusal::TooMuch(TooMuch {
                    remaining: too_much.remaining.or_less(of_quota),
                    ..too_much
                })
            });
            entered?.with_quota(share)
        } else {
            self.limiter.let_free(&id)
        };
        let principal = Principal {
            role,
            models,
            tenant: self.number("tenant", &id),
            cache_salt: self.number("cache", &id),
            id,
        };
        Ok(Some((principal, permit)))
    }

    /// Who asks.
    fn identify(
        &self,
        head: RequestHead<'_>,
        shown: ShownCredential,
        need: RouteAccess,
        now: Instant,
    ) -> Result<Identity, Refusal> {
        let is_open = match need {
            RouteAccess::Probe => true,
            RouteAccess::Metrics => self.open_metrics || self.exposure.open_inference,
            RouteAccess::Infer | RouteAccess::Free => self.exposure.open_inference,
            RouteAccess::Admin => false,
        };
        match shown {
            ShownCredential::Good(holder) => {
                return Ok(Identity {
                    id: holder.id,
                    role: Some(holder.role),
                    limits: holder.limits,
                    quota: holder.quota,
                    models: holder.models,
                });
            }
            ShownCredential::Bad(bad) if self.credentials.is_set_up() => {
                return Err(self.refuse(&bad, head.peer, now));
            }
            // Clients send some key always; where nobody has one, it means nothing.
            ShownCredential::Bad(_) | ShownCredential::Nothing if is_open => {}
            ShownCredential::Nothing if self.credentials.is_set_up() => {
                return Err(Refusal::MissingCredentials);
            }
            ShownCredential::Bad(_) | ShownCredential::Nothing => {
                return Err(Refusal::NobodyHasCredentials);
            }
        }
        if self.exposure.loopback && self.is_cross_site(head.headers) {
            return Err(Refusal::CrossSite);
        }
        Ok(Identity {
            id: address_id(head.peer),
            role: None,
            limits: RateLimits::default(),
            quota: Quota::default(),
            models: AllowedModels::All,
        })
    }

    /// What is told to whoever shows a bad credential: the reason is for the log, so that nobody learns by trying.
    fn refuse(&self, bad: &BadCredential, peer: Option<IpAddr>, now: Instant) -> Refusal {
        let per_minute = self.limits.load().refused_credentials_per_minute;
        if let Err(retry_after) = self.refusals.count(peer, per_minute, now) {
            return Refusal::TooMuch(TooMuch {
                exceeded: Exceeded::Credentials,
                retry_after,
                remaining: Remaining::default(),
                quota: None,
            });
        }
        // As many lines as are counted: a flood is told by its answers' own.
        let peer = peer.map_or("unknown".into(), |peer| peer.to_string());
        tracing::info!(peer, reason = %bad, "a credential was refused");
        bad.expired()
            .map_or(Refusal::InvalidCredentials, |what| Refusal::Expired {
                what,
            })
    }

    fn is_cross_site(&self, headers: &HeaderMap) -> bool {
        host::is_cross_site(headers, &self.allowed_hosts, &self.allowed_origins)
    }

    /// A number that nobody outside can compute from a principal's name.
    fn number(&self, purpose: &str, id: &str) -> u64 {
        let digest = Sha256::new()
            .chain_update(self.salt_key)
            .chain_update(purpose)
            .chain_update(id)
            .finalize();
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&digest[..8]);
        u64::from_le_bytes(bytes)
    }
}

/// Looks at the file of keys every `interval`, for as long as the server runs.
pub async fn follow_keys(guard: Arc<Guard>, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        let guard = guard.clone();
        match tokio::task::spawn_blocking(move || guard.credentials.poll_keys()).await {
            Ok(None) => {}
            Ok(Some(Ok(0))) => {
                tracing::warn!("the changed file of keys has none: nobody has a key")
            }
            Ok(Some(Ok(n_keys))) => tracing::info!(n_keys, "read the changed file of keys"),
            Ok(Some(Err(e))) => tracing::error!("{e}; the keys stay as they were"),
            Err(e) => {
                tracing::error!("reading the file of keys failed: {e}; the keys stay as they were")
            }
        }
    }
}

/// Time between two writings of what was used: what a crash makes the server forget.
const WRITE_INTERVAL: Duration = Duration::from_secs(5);

/// Writes what keys have used of their quotas, for as long as the server runs.
pub async fn write_usage(guard: Arc<Guard>) {
    let mut is_failing = false;
    loop {
        tokio::time::sleep(WRITE_INTERVAL).await;
        let quotas = guard.quotas.clone();
        let written = tokio::task::spawn_blocking(move || quotas.write(SystemTime::now())).await;
        let failed = match written {
            Ok(Ok(())) => false,
            // Told once, until it works again.
            Ok(Err(error)) if !is_failing => {
                tracing::error!("{error}; what keys have used is kept in memory");
                true
            }
            Ok(Err(_)) => true,
            Err(error) => {
                tracing::error!("writing what keys have used failed: {error}");
                true
            }
        };
        is_failing = failed;
    }
}

fn limits_of(limits: &LimitSettings) -> RateLimits {
    RateLimits {
        requests_per_minute: limits.requests_per_minute,
        tokens_per_minute: limits.tokens_per_minute,
        concurrent_requests: limits.concurrent_requests,
    }
}
