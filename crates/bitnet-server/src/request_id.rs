//! A name for every request, in its answer and in the log, and how long it took to answer.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use tracing::Instrument;

use crate::app::App;
use crate::auth::rate::Permit;
use crate::cancellation::{Hold, Listed, RequestsUnderWay};
use crate::error::{ApiError, ErrorCode};
use crate::request_log::{AccessLine, AuditEvent, AuditLine, RequestNotes};
use crate::running::CLIENT_CLOSED;
use crate::telemetry::RequestTrace;
use crate::usage;

/// The header that carries it: the client's own name, or ours.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// W3C's header that names a trace and the span in it.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Longest name that is taken from a client.
const MAX_LENGTH: usize = 128;

/// Milliseconds from the request's headers to its answer's, as OpenAI's clients log them.
const PROCESSING: HeaderName = HeaderName::from_static("openai-processing-ms");

/// W3C's header that tells where the time went, which browsers show and proxies log.
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// What the parts of a request are told by.
#[derive(Debug)]
pub struct RequestContext {
    /// Its name.
    pub id: String,
    /// Its trace, where traces are exported.
    pub trace: Option<RequestTrace>,
    /// What it has in the engine's queue.
    pub hold: Arc<Hold>,
    /// When its head had arrived.
    pub arrived: Instant,
    timing: OnceLock<PhaseTimes>,
    listed: OnceLock<Listed>,
}

/// Where the time of a request went that a model ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PhaseTimes {
    /// From its head to the scheduler: reading the body, authorisation, tokenising, admission.
    pub check: Duration,
    /// Waiting for a place.
    pub queue: Duration,
    /// Forward passes over its prompt.
    pub prefill: Duration,
    /// Forward passes over what it drew.
    pub decode: Duration,
}

impl PhaseTimes {
    /// The header, in milliseconds.
    fn header(&self) -> HeaderValue {
        let [check, queue, prefill, decode] =
            [self.check, self.queue, self.prefill, self.decode].map(usage::milliseconds);
        let text = format!(
            "check;dur={check}, queue;dur={queue}, prefill;dur={prefill}, decode;dur={decode}"
        );
        HeaderValue::try_from(text).expect("words and numbers are a header")
    }
}

impl RequestContext {
    fn new(id: String, trace: Option<RequestTrace>, arrived: Instant) -> RequestContext {
        RequestContext {
            id,
            trace,
            hold: Arc::default(),
            arrived,
            timing: OnceLock::new(),
            listed: OnceLock::new(),
        }
    }

    /// What it ran has ended, and its time went there.
    pub fn timed(&self, times: PhaseTimes) {
        // Nothing runs for it twice.
        let _ = self.timing.set(times);
    }

    /// Puts it in the list of those that can be cancelled, until it is dropped; one without a name, which came by no
    /// route, or without a sender cannot be asked for.
    pub fn list(&self, requests: &RequestsUnderWay, permit: Option<&Permit>) {
        if let Some(permit) = permit.filter(|_| !self.id.is_empty()) {
            let listed = || requests.enter(&self.id, permit.principal(), &self.hold);
            self.listed.get_or_init(listed);
        }
    }
}

tokio::task_local! {
    /// The request that this task answers.
    static CURRENT: Arc<RequestContext>;
}

/// The request that the caller's task answers; nameless outside of one.
pub fn current() -> Arc<RequestContext> {
    CURRENT
        .try_with(Arc::clone)
        .unwrap_or_else(|_| Arc::new(RequestContext::new(String::new(), None, Instant::now())))
}

/// Names the request and writes a line about it. Prompts and answers are in no log.
pub async fn layer(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let id = client_id(&request).unwrap_or_else(|| {
        HeaderValue::try_from(app.new_id("req-")).expect("hexadecimal digits are a header")
    });
    let mut entry = Entry::new(&app, &request, shown(&id));
    request.extensions_mut().insert(entry.notes.clone());
    let trace = trace(&app, &request, route.as_ref(), shown(&id));
    let context = Arc::new(RequestContext::new(shown(&id).to_owned(), trace, started));
    let span = tracing::info_span!("request", id = &*context.id);
    let mut unanswered = Unanswered(context.trace.as_ref());
    let answered = CURRENT.scope(context.clone(), next.run(request));
    let mut response = answered.instrument(span).await;
    unanswered.0 = None;
    if let Some(name) = response.extensions().get::<StreamName>() {
        // Nobody has polled the stream yet, so nobody has set it.
        let _ = name.0.name.set(shown(&id).to_owned());
    }
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        response = error.of_request(shown(&id)).add_to(response);
    }
    let error = response.extensions().get::<ApiError>();
    if let Some(error) = error {
        let code = error.code.name();
        app.metrics.request_failed(code);
        if let Some(trace) = &context.trace {
            trace.refused(code);
        }
        if matches!(
            error.code,
            ErrorCode::QueueFull
                | ErrorCode::RateLimitExceeded
                | ErrorCode::ShuttingDown
                | ErrorCode::Overloaded
        ) {
            app.metrics.request_rejected(code);
        }
    }
    entry.answered(&response);
    tracing::info!(
        request = shown(&id),
        %method,
        route = route.as_ref().map_or("none", MatchedPath::as_str),
        status = response.status().as_u16(),
        code = error.map(|error| error.code.name()),
        milliseconds = started.elapsed().as_millis() as u64,
        "answered"
    );
    let headers = response.headers_mut();
    let traceparent = context.trace.as_ref().map(RequestTrace::traceparent);
    if let Some(Ok(value)) = traceparent.map(HeaderValue::try_from) {
        headers.insert(TRACEPARENT, value);
    }
    headers.insert(REQUEST_ID, id);
    let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    headers.insert(PROCESSING, HeaderValue::from(milliseconds));
    // A stream's head goes out before there is anything to tell: its last event has `timings`.
    if let Some(times) = context.timing.get() {
        headers.insert(SERVER_TIMING, times.header());
    }
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    if !app.log.has_access_log() {
        return response;
    }
    response.map(|body| Body::new(Logged { body, entry }))
}

/// The trace of a request that has no answer yet. When this is dropped before there is one, the client has left: a
/// request that ran has said so, one whose model was loaded or whose text was tokenised meanwhile has not.
struct Unanswered<'a>(Option<&'a RequestTrace>);

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if let Some(trace) = self.0 {
            trace.refused(CLIENT_CLOSED);
        }
    }
}

/// The trace of a request that runs a model; looking at the server is not traced.
fn trace(
    app: &App,
    request: &Request,
    route: Option<&MatchedPath>,
    id: &str,
) -> Option<RequestTrace> {
    let telemetry = app.telemetry.as_ref()?;
    let is_traced = request.method() == Method::POST;
    let route = route.filter(|_| is_traced)?;
    Some(telemetry.request(route.as_str(), request.headers(), id))
}

/// What the logs will say of a request: written when this is dropped, with the last byte of the answer or without one.
struct Entry {
    app: Arc<App>,
    started: Instant,
    target: String, // path of an administrator's action
    notes: RequestNotes,
    is_audited: bool,
    stream: Option<StreamName>,
    line: AccessLine,
}

/// The status that the log has for a client that left before there was an answer, as nginx has it.
const CLIENT_CLOSED_STATUS: u16 = 499;

impl Entry {
    fn new(app: &Arc<App>, request: &Request, id: &str) -> Entry {
        let route = request.extensions().get::<MatchedPath>();
        Entry {
            app: app.clone(),
            started: Instant::now(),
            target: request.uri().path().to_owned(),
            notes: RequestNotes::default(),
            is_audited: false,
            stream: None,
            line: AccessLine {
                arrived: SystemTime::now(),
                request: id.to_owned(),
                who: None,
                method: request.method().to_string(),
                route: route.map(|route| route.as_str().to_owned()),
                status: CLIENT_CLOSED_STATUS,
                code: Some(CLIENT_CLOSED),
                milliseconds: 0,
                bytes: 0,
                complete: false,
            },
        }
    }

    fn answered(&mut self, response: &Response) {
        self.stream = response.extensions().get::<StreamName>().cloned();
        let error = response.extensions().get::<ApiError>();
        let code = error.map(|error| error.code.name());
        (self.line.status, self.line.code) = (response.status().as_u16(), code);
        let outcome = match response.status() {
            StatusCode::ACCEPTED => "begun",
            _ => code.unwrap_or("done"),
        };
        self.audit(outcome);
    }

    /// Writes the audit log's line about it, if it is an administrator's action.
    fn audit(&mut self, outcome: &'static str) {
        let Some(action) = self.notes.action().filter(|_| !self.is_audited) else {
            return;
        };
        let line = &self.line;
        let about = action.note.about().map(|about| format!(" {about}"));
        self.app.log.audit(&AuditLine {
            time: SystemTime::now(),
            event: AuditEvent::Answered,
            who: self.notes.who().map(str::to_owned),
            peer: action.peer,
            action: format!(
                "{} {}",
                line.method,
                line.route.as_deref().unwrap_or_default()
            ),
            target: format!("{}{}", self.target, about.unwrap_or_default()),
            status: line.status,
            outcome,
            reason: None,
            request: line.request.clone(),
        });
        self.is_audited = true;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // Only an answer that never was leaves something to say: a load or a swap goes on without its client.
        self.audit(CLIENT_CLOSED);
        // The status had been sent by then; the code and an answer that is not complete say what became of it.
        let failure = (self.stream.as_ref()).and_then(|stream| stream.0.failure.get());
        if let Some(&code) = failure {
            (self.line.code, self.line.complete) = (Some(code), false);
        }
        self.line.milliseconds =
            u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.line.who = self.notes.who().map(str::to_owned);
        self.app.log.access(&self.line);
    }
}

/// A body that counts its bytes for the log.
struct Logged {
    body: Body,
    entry: Entry,
}

impl HttpBody for Logged {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        let bytes = match &frame {
            Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len),
            _ => 0,
        };
        self.entry.line.bytes += bytes as u64;
        self.entry.line.complete |= frame.is_none();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        self.entry.line.complete |= self.body.is_end_stream();
    }
}

/// What a stream and the log tell each other: the name of the request, which the stream is made before anybody knows
/// and tells when it fails, and how it failed, which the log would not know.
#[derive(Debug, Clone, Default)]
pub struct StreamName(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    name: OnceLock<String>,
    failure: OnceLock<&'static str>,
}

impl StreamName {
    /// The name, once the answer is on its way.
    pub fn get(&self) -> Option<&str> {
        self.0.name.get().map(String::as_str)
    }

    /// The stream ends with an error of this code.
    pub fn fails(&self, code: &'static str) {
        // The first one ends it.
        let _ = self.0.failure.set(code);
    }
}

fn shown(id: &HeaderValue) -> &str {
    id.to_str().unwrap_or_default()
}

fn client_id(request: &Request) -> Option<HeaderValue> {
    let id = request.headers().get(REQUEST_ID)?;
    let printable = id.as_bytes().iter().all(u8::is_ascii_graphic);
    (printable && (1..=MAX_LENGTH).contains(&id.len())).then(|| id.clone())
}
