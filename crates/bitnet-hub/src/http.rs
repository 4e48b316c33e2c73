//! Requests to the Hub: redirects followed by hand, the token shown to its own host alone, answers sorted into success,
//! faults that may pass, and faults that last.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use ureq::http::{HeaderMap, HeaderName, header};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body, Proxy};

use crate::connection::{is_excepted, no_answer};
use crate::error::HubError;
use crate::patience::Fault;
use crate::settings::{AccessToken, HubSettings};
use crate::url::{Origin, Url};

/// Redirects of one request. The Hub needs one or two: a renamed repository, then the storage.
const MAX_REDIRECTS: usize = 8;
/// Time to connect, and as much before it to learn the address: a resolver without an answer may take a minute.
const CONNECT: Duration = Duration::from_secs(10);
/// Most bytes of headers that an answer may have: those of the storage are signed and long.
const MAX_HEADERS: usize = 64 << 10;

/// The Hub's client.
pub(crate) struct Http {
    direct: Agent,
    proxied: Option<(Agent, Proxy)>,
    endpoint: Url,
    token: Option<AccessToken>,
}

/// From where on a file is asked for.
#[derive(Debug, Clone)]
pub(crate) struct From {
    /// The first byte.
    pub(crate) offset: u64,
    /// What whoever sent the bytes before it called them.
    pub(crate) version: Option<Version>,
}

/// What a server called a file's content when it sent a part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Version {
    origin: Origin,
    etag: String,
}

/// An answer of 200 or 206.
pub(crate) struct Reply {
    /// The number.
    pub(crate) status: u16,
    /// Who sends it, after all redirects.
    pub(crate) origin: Origin,
    headers: HeaderMap,
    body: Body,
}

/// An answer that is no success, for whoever knows what was asked for.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// The number.
    pub(crate) status: u16,
    /// Who says so.
    pub(crate) host: String,
    /// Whether it is the Hub (or the mirror), and not where it has redirected to.
    pub(crate) is_endpoint: bool,
    /// Whether a token was shown.
    pub(crate) token_shown: bool,
    /// The Hub's word for it, as `GatedRepo`.
    pub(crate) code: String,
    asked: Option<Duration>,
}

/// Why there is no [`Reply`].
pub(crate) enum NoReply {
    /// The server says no.
    Refused(Refusal),
    /// There is no answer, or none that is HTTP.
    Fault(Fault),
}

impl Http {
    /// A client by the settings.
    pub(crate) fn new(settings: &HubSettings) -> Result<Http, HubError> {
        let endpoint = Url::parse(&settings.endpoint).map_err(|why| HubError::Setting {
            name: "HF_ENDPOINT",
            why: why.into(),
        })?;
        // Also for an endpoint on http: it may redirect to https, and a proxy may be asked by https.
        let tls = trusted();
        let agent = |proxy| {
            let config = Agent::config_builder()
                .tls_config(tls.clone())
                .max_redirects(0)
                .max_redirects_will_error(false)
                .http_status_as_error(false)
                .user_agent(concat!("bitnet/", env!("CARGO_PKG_VERSION")))
                .accept_encoding("identity")
                .max_response_header_size(MAX_HEADERS)
                .timeout_resolve(Some(CONNECT))
                .timeout_connect(Some(CONNECT))
                .timeout_recv_response(Some(settings.silence))
                .timeout_per_read(Some(settings.silence))
                .timeout_per_write(Some(settings.silence))
                .proxy(proxy);
            config.build().new_agent()
        };
        Ok(Http {
            direct: agent(None),
            proxied: proxy(settings)?.map(|proxy| (agent(Some(proxy.clone())), proxy)),
            endpoint,
            token: settings.find_token()?,
        })
    }

    /// The Hub or the mirror.
    pub(crate) fn endpoint(&self) -> &Url {
        &self.endpoint
    }

    /// Who asks `origin`, and by which proxy: one is another machine, which has no business with what stays on this.
    fn agent(&self, origin: &Origin) -> (&Agent, Option<&Proxy>) {
        match self.proxied.as_ref().filter(|_| !origin.is_loopback()) {
            Some((agent, proxy)) => (agent, Some(proxy)),
            None => (&self.direct, None),
        }
    }

    /// Whether the token would be sent for everybody on the way to read, a proxy among them.
    pub(crate) fn shows_token_openly(&self) -> bool {
        let origin = self.endpoint.origin();
        self.token.is_some() && !origin.is_encrypted() && !origin.is_loopback()
    }

    /// Asks the endpoint for `path`, from an offset on where one is given, and follows redirects.
    pub(crate) fn get(&self, path: &str, from: Option<&From>) -> Result<Reply, NoReply> {
        let mut url = self.endpoint.with(path);
        for _ in 0..=MAX_REDIRECTS {
            let origin = url.origin().clone();
            let is_endpoint = origin == *self.endpoint.origin();
            let token = self.token.as_ref().filter(|_| is_endpoint);
            let (agent, proxy) = self.agent(&origin);
            let mut request = agent.get(url.as_str());
            if let Some(token) = token {
                request =
                    request.header(header::AUTHORIZATION, format!("Bearer {}", token.reveal()));
            }
            if let Some(from) = from {
                request = request.header(header::RANGE, format!("bytes={}-", from.offset));
                // An entity tag is its server's own: another one would not know it, and send everything.
                if let Some(version) = from.version.as_ref().filter(|v| v.origin == origin) {
                    request = request.header(header::IF_RANGE, &version.etag);
                }
            }
            let answer = request.call().map_err(|e| {
                let asked = proxy.filter(|proxy| !is_excepted(proxy, &url));
                NoReply::Fault(no_answer(&origin, asked, &e))
            })?;
            let (parts, body) = answer.into_parts();
            let status = parts.status.as_u16();
            match status {
                200 | 206 => {
                    return Ok(Reply {
                        status,
                        origin,
                        headers: parts.headers,
                        body,
                    });
                }
                301 | 302 | 303 | 307 | 308 => {
                    let location = text(&parts.headers, header::LOCATION).unwrap_or_default();
                    url = url.redirected(location).map_err(|why| {
                        NoReply::Fault(Fault::Lasting(HubError::Redirect {
                            host: origin.host(),
                            why,
                        }))
                    })?;
                }
                _ => {
                    return Err(NoReply::Refused(Refusal {
                        status,
                        host: origin.host(),
                        is_endpoint,
                        token_shown: token.is_some(),
                        code: text(&parts.headers, ERROR_CODE).unwrap_or_default().into(),
                        asked: asked(status, &parts.headers),
                    }));
                }
            }
        }
        Err(NoReply::Fault(Fault::Lasting(HubError::Redirect {
            host: self.endpoint.origin().host(),
            why: "it redirects again and again",
        })))
    }
}

/// The Hub's word for what is wrong.
const ERROR_CODE: HeaderName = HeaderName::from_static("x-error-code");
/// How the Hub tells its limits: `"resolve";r=0;t=55`, `t` being the seconds until the next request.
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");

impl Refusal {
    /// What it comes down to where its number says no more than that.
    pub(crate) fn into_fault(self, what: &str) -> Fault {
        let host = || self.host.clone();
        let error = HubError::Status {
            host: host(),
            status: self.status,
            what: what.into(),
        };
        match self.status {
            // The network itself wants a login.
            511 => Fault::Lasting(HubError::WebPage { host: host() }),
            // What a server cannot do at all it cannot do later either.
            501 | 505 => Fault::Lasting(error),
            408 | 429 | 500..=599 => Fault::Passing {
                error,
                asked: self.asked,
            },
            _ => Fault::Lasting(error),
        }
    }
}

impl Reply {
    /// What the server calls the content, where it is a name that means the very same bytes.
    pub(crate) fn version(&self) -> Option<Version> {
        let etag = text(&self.headers, header::ETAG)?;
        let is_strong = etag.starts_with('"') && etag.ends_with('"') && etag.len() > 2;
        is_strong.then(|| Version {
            origin: self.origin.clone(),
            etag: etag.into(),
        })
    }

    /// How many bytes the server says that follow.
    pub(crate) fn length(&self) -> Option<u64> {
        self.body.content_length()
    }

    /// Offset of the first byte and size of the whole, where a part is sent: `bytes 7-9/10`.
    pub(crate) fn range(&self) -> Option<(u64, Option<u64>)> {
        let range = text(&self.headers, header::CONTENT_RANGE)?.strip_prefix("bytes ")?;
        let (range, size) = range.split_once('/')?;
        let (first, _) = range.split_once('-')?;
        Some((first.trim().parse().ok()?, size.trim().parse().ok()))
    }

    /// Whether the bytes are the file's own, and not packed for the way.
    pub(crate) fn is_plain(&self) -> bool {
        text(&self.headers, header::CONTENT_ENCODING)
            .is_none_or(|encoding| encoding.eq_ignore_ascii_case("identity"))
    }

    /// Whether it says that it is for people to look at.
    pub(crate) fn is_web_page(&self) -> bool {
        let kind = text(&self.headers, header::CONTENT_TYPE).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        ["text/html", "application/xhtml+xml"]
            .iter()
            .any(|page| kind.eq_ignore_ascii_case(page))
    }

    /// The bytes.
    pub(crate) fn into_body(self) -> impl Read {
        self.body.into_reader()
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

fn asked(status: u16, headers: &HeaderMap) -> Option<Duration> {
    let retry = text(headers, header::RETRY_AFTER).and_then(|text| text.parse().ok());
    let limit = || {
        let limit = text(headers, RATE_LIMIT)?;
        let number = |name: &str| -> Option<u64> {
            let value = |part: &str| part.trim().strip_prefix(name)?.parse().ok();
            limit.split(';').find_map(value)
        };
        // It comes with every answer; whoever has requests left need not wait for more of them.
        let is_limited = status == 429 || number("r=") == Some(0);
        number("t=").filter(|_| is_limited)
    };
    retry.or_else(limit).map(Duration::from_secs)
}

fn proxy(settings: &HubSettings) -> Result<Option<Proxy>, HubError> {
    let Some(address) = &settings.proxy else {
        return Ok(None);
    };
    let refused = |_| HubError::Setting {
        name: "HTTPS_PROXY",
        why: "it is no address of a proxy of http or https".into(),
    };
    let parts = Proxy::new(address).map_err(refused)?;
    let mut proxy = Proxy::builder(parts.protocol())
        .host(parts.host())
        .port(parts.port());
    if let Some(name) = parts.username() {
        proxy = proxy.username(name);
    }
    if let Some(password) = parts.password() {
        proxy = proxy.password(password);
    }
    for host in settings.no_proxy.iter().flat_map(|hosts| hosts.split(',')) {
        proxy = proxy.no_proxy(host.trim());
    }
    proxy.build().map(Some).map_err(refused)
}

/// Whom the system trusts. Certificates that cannot be read are left out: a connection that needs them fails and says
/// so.
fn trusted() -> TlsConfig {
    let found = rustls_native_certs::load_native_certs().certs;
    let certificates: Vec<_> = found
        .iter()
        .map(|der| Certificate::from_der(der).to_owned())
        .collect();
    TlsConfig::builder()
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .root_certs(RootCerts::new_with_certs(&certificates))
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_on_http_is_open_to_a_proxy_but_what_stays_on_this_machine_meets_none() {
        let open = |endpoint: &str, proxy: Option<&str>| {
            let settings = HubSettings {
                endpoint: endpoint.into(),
                proxy: proxy.map(Into::into),
                token: AccessToken::of("secret"),
                ..HubSettings::default()
            };
            let http = Http::new(&settings).unwrap();
            let is_proxied = http.agent(http.endpoint.origin()).1.is_some();
            (http.shows_token_openly(), is_proxied)
        };
        let proxy = Some("http://proxy.example:3128");
        assert_eq!(open("https://hub.example", proxy), (false, true));
        assert_eq!(open("http://hub.example", proxy), (true, true));
        assert_eq!(open("http://hub.example", None), (true, false));
        for local in ["http://127.0.0.1:8", "http://[::1]:8", "http://localhost:8"] {
            assert_eq!(open(local, proxy), (false, false), "{local}");
        }
    }

    #[test]
    fn names_are_looked_up_for_a_while_and_not_for_ever() {
        let http = Http::new(&HubSettings::default()).unwrap();
        let timeouts = http.direct.config().timeouts();
        assert_eq!(timeouts.resolve, Some(CONNECT));
        assert_eq!(timeouts.connect, Some(CONNECT));
    }

    #[test]
    fn a_rate_limit_counts_where_it_is_reached() {
        let wait = |status, limit: &'static str| {
            let headers = [(RATE_LIMIT, limit.parse().unwrap())];
            asked(status, &headers.into_iter().collect()).map(|wait| wait.as_secs())
        };
        assert_eq!(wait(503, "\"resolve\";r=4999;t=290"), None);
        assert_eq!(wait(503, "\"resolve\";r=0;t=290"), Some(290));
        assert_eq!(wait(429, "\"resolve\";r=1;t=290"), Some(290));
        assert_eq!(wait(429, "\"resolve\""), None);
    }
}
