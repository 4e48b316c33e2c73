//! Probes and models.

use bitnet_server::{App, ServerLimits};

use crate::fixture::TestServer;

#[test]
fn a_server_with_a_model_is_live_ready_and_healthy() {
    let server = TestServer::start();
    for probe in [
        "/health",
        "/health/live",
        "/health/ready",
        "/health/startup",
    ] {
        assert_eq!(server.get(probe).status, 200, "{probe}");
    }
    let health = server.get("/health").json();
    assert_eq!(health["status"], "healthy");
    assert_eq!(health["components"]["stories"]["engine"]["max_running"], 4);
    let version = server.get("/version").json();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn models_are_listed_for_both_kinds_of_clients() {
    let server = TestServer::start();
    let list = server.get("/v1/models").json();
    assert_eq!(list["object"], "list");
    assert_eq!(list["data"][0]["id"], "stories");
    assert_eq!(list["data"][0]["object"], "model");
    assert_eq!(list["models"][0]["status"], "loaded");
    assert!(list["models"][0]["weight_bytes"].as_u64().unwrap() > 1_000_000);
    let shown = server.get("/v1/models/stories").json();
    assert_eq!(shown, list["data"][0]);
    let missing = server.get("/v1/models/other");
    assert_eq!(missing.status, 404);
    assert_eq!(missing.json()["error"]["code"], "model_not_found");
}

#[test]
fn ids_are_never_given_twice() {
    let app = App::new(ServerLimits::default());
    let mut ids: Vec<String> = (0..1000).map(|_| app.new_id("x-")).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 1000);
}
