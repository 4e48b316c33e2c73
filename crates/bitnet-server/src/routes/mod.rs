//! The route table.

pub mod admin;
pub mod chat;
pub mod completions;
pub mod devices;
pub mod elsewhere;
pub mod embeddings;
pub mod health;
pub mod inference;
pub mod management;
pub mod metrics;
pub mod model_files;
pub mod models;
pub mod openapi;
mod query;
pub mod requests;
pub mod rerank;
pub mod stats;
pub mod tokens;

use std::sync::Arc;

use axum::Router;
use axum::http::{Method, Uri};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::IntoResponse;
use axum::routing::{get, post};

use crate::app::App;
use crate::auth::cors;
use crate::auth::layer::{self, AuthGate};
use crate::auth::{AccessTable, Guard, RouteAccess};
use crate::error::{ApiError, ErrorCode};
use crate::{leaving, panics, path, request_id};

/// What each route needs. One that is missing here is for administrators only.
pub fn access() -> AccessTable {
    let infer = |method, path| (method, path, RouteAccess::Infer);
    let admin = |method, path| (method, path, RouteAccess::Admin);
    let free = |method, path| (method, path, RouteAccess::Free);
    let probe = |path| (Method::GET, path, RouteAccess::Probe);
    AccessTable::new(&[
        infer(Method::POST, "/v1/chat/completions"),
        infer(Method::POST, "/v1/completions"),
        infer(Method::POST, "/v1/embeddings"),
        infer(Method::POST, "/v1/rerank"),
        infer(Method::POST, "/rerank"),
        infer(Method::POST, "/v1/inference"),
        infer(Method::POST, "/v1/inference/stream"),
        free(Method::POST, "/v1/requests/{id}/cancel"),
        infer(Method::GET, "/v1/models"),
        infer(Method::GET, "/v1/models/{id}"),
        infer(Method::GET, "/v1/models/{id}/status"),
        admin(Method::GET, "/v1/model_files"),
        admin(Method::POST, "/v1/models/load"),
        admin(Method::POST, "/v1/models/swap"),
        admin(Method::POST, "/v1/models/{id}/rollback"),
        admin(Method::POST, "/v1/models/{id}/unload"),
        admin(Method::DELETE, "/v1/models/{id}"),
        infer(Method::POST, "/tokenize"),
        infer(Method::POST, "/detokenize"),
        infer(Method::POST, "/apply-template"),
        infer(Method::GET, "/tokenizer_info"),
        infer(Method::GET, "/health"),
        infer(Method::GET, "/version"),
        infer(Method::GET, "/v1/stats"),
        infer(Method::GET, "/v1/devices"),
        infer(Method::GET, "/openapi.json"),
        (Method::GET, "/metrics", RouteAccess::Metrics),
        probe("/health/live"),
        probe("/health/ready"),
        probe("/health/startup"),
        probe("/livez"),
        probe("/readyz"),
        probe("/ping"),
        // A page without contents: what it shows it asks for with the key of whoever looks at it.
        probe("/admin"),
        probe("/admin/page.js"),
        probe("/admin/models.js"),
        probe("/admin/page.css"),
        probe("/admin/icon.svg"),
    ])
}

/// Which routes a port answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortUse {
    /// All.
    Everything,
    /// Those that administrators do not have to themselves: they have another port.
    Clients,
}

/// The routes of a port for `usage`, behind `guard`.
pub fn router(app: Arc<App>, guard: Arc<Guard>, usage: PortUse) -> Router {
    let gate = gate(&guard);
    let routes = probes()
        .merge(watching())
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/completions", post(completions::create))
        .route("/v1/embeddings", post(embeddings::create))
        .route("/v1/rerank", post(rerank::create))
        .route("/rerank", post(rerank::create))
        .route("/v1/inference", post(inference::create))
        .route("/v1/inference/stream", post(inference::stream))
        .route("/v1/requests/{id}/cancel", post(requests::cancel))
        .route("/v1/models", get(models::list))
        .route(
            "/v1/models/{id}",
            get(models::show).delete(management::delete),
        )
        .route("/v1/model_files", get(model_files::list))
        .route("/v1/models/load", post(management::load))
        .route("/v1/models/swap", post(management::swap))
        .route("/v1/models/{id}/status", get(management::status))
        .route("/v1/models/{id}/rollback", post(management::rollback))
        .route("/v1/models/{id}/unload", post(management::unload))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/apply-template", post(tokens::apply_template))
        .route("/tokenizer_info", get(tokens::tokenizer_info))
        .route("/v1/stats", get(stats::show))
        .route("/v1/devices", get(devices::list))
        .route("/admin", get(admin::page))
        .route("/admin/page.js", get(admin::script))
        .route("/admin/models.js", get(admin::models_script))
        .route("/admin/page.css", get(admin::style))
        .route("/admin/icon.svg", get(admin::icon))
        .route("/version", get(health::version))
        .route("/openapi.json", get(openapi::document))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(app.clone(), leaving::layer))
        .layer(from_fn(path::layer))
        .layer(from_fn_with_state(gate, layer::layer));
    let routes = match usage {
        PortUse::Everything => routes,
        // Outside of the guard: a key opens nothing here, and a wrong one is nothing to remember.
        PortUse::Clients => routes.layer(from_fn_with_state(guard.clone(), elsewhere::layer)),
    };
    finished(routes, app, guard)
}

/// The routes of the health port: the probes and, where it `takes_keys`, what else watches over a server. Who may ask
/// is `guard`'s matter, as on the other port; what is not here is not there for anybody.
pub fn health_router(app: Arc<App>, guard: Arc<Guard>, takes_keys: bool) -> Router {
    let routes = match takes_keys {
        true => probes().merge(watching()),
        false => probes(),
    };
    let routes = routes
        .route_layer(from_fn_with_state(gate(&guard), layer::layer))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed);
    finished(routes, app, guard)
}

/// What tells whether the server lives, and no more.
fn probes() -> Router<Arc<App>> {
    Router::new()
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/health/startup", get(health::startup))
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/ping", get(health::live))
}

/// What tells how it is.
fn watching() -> Router<Arc<App>> {
    Router::new()
        .route("/health", get(health::detail))
        .route("/metrics", get(metrics::text))
}

fn gate(guard: &Arc<Guard>) -> AuthGate {
    AuthGate {
        guard: guard.clone(),
        tell: |refusal| ApiError::from(refusal).into_response(),
    }
}

/// The layers that know nothing of who asks.
fn finished(routes: Router<Arc<App>>, app: Arc<App>, guard: Arc<Guard>) -> Router {
    routes
        .layer(from_fn(panics::layer))
        .layer(from_fn_with_state(guard, cors::layer))
        .layer(from_fn_with_state(app.clone(), request_id::layer))
        .with_state(app)
}

async fn not_found(method: Method, uri: Uri) -> ApiError {
    let message = format!("there is no route {method} {}", shown(&uri));
    ApiError::new(ErrorCode::NotFound, message)
}

async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    let message = format!("{} does not take {method}", shown(&uri));
    ApiError::new(ErrorCode::MethodNotAllowed, message)
}

/// A path as it is said back: not all of a long one.
fn shown(uri: &Uri) -> String {
    uri.path().chars().take(100).collect()
}
