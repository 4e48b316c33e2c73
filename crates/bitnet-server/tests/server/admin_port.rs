//! The port for administrators: what is theirs is answered there alone.

use std::net::SocketAddr;

use axum::http::Method;
use bitnet_server::auth::key_file::{self, NewKey};
use bitnet_server::auth::rate::RateLimits;
use bitnet_server::auth::{Role, RouteAccess};
use bitnet_server::config::ServerConfig;
use bitnet_server::{ServerLimits, Stopped, routes};
use serde_json::json;

use crate::access::{TestKeys, config_with_keys};
use crate::client::{Answer, Connection};
use crate::fixture::{Gated, TestServer, engine, until};

/// A configuration with an admin port, and keys of both roles: for inference and of an administrator.
fn config() -> (ServerConfig, TestKeys, String) {
    let (config, keys) = config_with_keys(&[("admin-port", "0")], &[RateLimits::default()]);
    let path = config.auth.keys_file.clone().unwrap();
    let new = NewKey::new("operator", Role::Admin, RateLimits::default());
    let admin = key_file::add(&path, &new).unwrap().reveal().to_owned();
    (config, keys, admin)
}

/// A server of such a configuration, and the keys.
fn server() -> (TestServer, String, String) {
    let (config, keys, admin) = config();
    (TestServer::with_config(config), keys[0].clone(), admin)
}

fn ask(address: SocketAddr, key: Option<&str>, method: &str, path: &str) -> Answer {
    let mut connection = Connection::open(address);
    let headers = key.map_or_else(String::new, |key| {
        format!("Authorization: Bearer {key}\r\n")
    });
    connection.send(method, path, &headers, "");
    connection.answer()
}

#[test]
fn orders_and_the_page_are_answered_on_the_port_of_administrators_alone() {
    let (server, infer, admin) = server();
    let admin_port = server.admin_address.unwrap();
    let table = routes::access();
    let mut n_orders = 0;
    for (method, route, access) in table.routes() {
        let path = route.replace("{id}", "stories");
        if access != RouteAccess::Admin && !path.starts_with("/admin") {
            continue;
        }
        n_orders += 1;
        for key in [None, Some(&*infer), Some(&*admin)] {
            let answer = ask(server.address, key, method.as_str(), &path);
            assert_eq!(answer.status, 404, "{method} {path}");
            let error = answer.json()["error"].clone();
            assert_eq!(error["code"], "not_found", "{method} {path}");
            assert!(
                error["hint"]
                    .as_str()
                    .unwrap()
                    .contains("server.admin_port")
            );
        }
        // It is theirs there too, and an administrator gets past the door: to the order itself.
        if access == RouteAccess::Admin {
            let status = |key| ask(admin_port, key, method.as_str(), &path).status;
            assert_eq!(status(None), 401, "{method} {path}");
            assert_eq!(status(Some(&*infer)), 403, "{method} {path}");
        }
    }
    assert!(n_orders >= 10, "{n_orders}");
    // Nor does another method tell what the path is for.
    assert_eq!(
        ask(server.address, Some(&admin), "PUT", "/v1/models/load").status,
        404
    );
    assert_eq!(
        ask(admin_port, Some(&admin), "GET", "/v1/model_files").status,
        200
    );
    assert_eq!(ask(admin_port, None, "GET", "/admin").status, 200);
}

#[test]
fn everything_else_is_answered_on_both_ports_alike() {
    let (server, infer, _) = server();
    let admin_port = server.admin_address.unwrap();
    until("clients can connect", || server.app.is_accepting());
    let table = routes::access();
    for (method, path, access) in table.routes() {
        let is_plain = !path.contains('{') && !path.starts_with("/admin");
        if access == RouteAccess::Admin || !is_plain || method != Method::GET {
            continue;
        }
        for key in [None, Some(&*infer)] {
            let status = |address| ask(address, key, "GET", path).status;
            assert_eq!(status(server.address), status(admin_port), "{path}");
        }
    }
    let body = json!({"prompt": "Once", "max_tokens": 2, "temperature": 0}).to_string();
    let texts = [server.address, admin_port].map(|address| {
        let mut connection = Connection::open(address);
        let headers = format!("Authorization: Bearer {infer}\r\n");
        connection.send("POST", "/v1/completions", &headers, &body);
        connection.answer().json()["choices"][0]["text"].clone()
    });
    assert!(texts[0].is_string());
    assert_eq!(texts[0], texts[1]);
    // What one method has on the same path as an order of another one.
    assert_eq!(
        ask(server.address, Some(&infer), "GET", "/v1/models/stories").status,
        200
    );
}

#[test]
fn administrators_see_a_server_drain_to_its_end() {
    let (config, keys, admin) = config();
    let engine = engine();
    let gated = Gated::new(engine.clone());
    let limits = ServerLimits::default();
    let server = TestServer::with_turns_and_config(engine, gated.clone(), limits, config);
    let admin_port = server.admin_address.unwrap();
    let body = json!({"prompt": "Once", "max_tokens": 2}).to_string();
    let mut waiting = Connection::open(server.address);
    let headers = format!(
        "Content-Type: application/json\r\nAuthorization: Bearer {}\r\n",
        keys[0]
    );
    waiting.send("POST", "/v1/completions", &headers, &body);
    let model = server.model();
    until("it is taken", || model.admission.waiting().0 == 1);
    server.ask_to_stop();
    until("it drains", || server.app.is_draining());
    let files = ask(admin_port, Some(&admin), "GET", "/v1/model_files");
    assert_eq!(
        (files.status, &files.json()["draining"]),
        (200, &json!(true))
    );
    gated.open();
    assert_eq!(waiting.answer().status, 200);
    assert_eq!(server.join(), Stopped::Drained);
    let closed = std::net::TcpStream::connect(admin_port).is_err();
    assert!(closed, "it closes with the server");
}

#[test]
fn a_stream_on_the_port_of_administrators_is_told_that_it_is_cut_off() {
    let (config, _keys, admin) = config();
    let engine = engine();
    let gated = Gated::idle(engine.clone());
    let limits = ServerLimits::default();
    let server = TestServer::with_turns_and_config(engine, gated.clone(), limits, config);
    let mut stream = Connection::open(server.admin_address.unwrap());
    let headers = format!("Content-Type: application/json\r\nAuthorization: Bearer {admin}\r\n");
    let body = json!({"prompt": "Once", "ignore_eos": true, "max_tokens": 9, "stream": true});
    stream.send("POST", "/v1/completions", &headers, &body.to_string());
    let model = server.model();
    until("it is queued", || model.handle.load().waiting == 1);
    gated.allow(3);
    until("three tokens are drawn", || {
        model.handle.load().generated_tokens == 3
    });
    server.ask_to_stop();
    until("it drains", || server.app.is_draining());
    server.ask_to_hurry();
    let told = stream.answer().body;
    assert!(told.contains("\"code\":\"shutting_down\""), "{told}");
    assert_eq!(server.join(), Stopped::CutOff { requests: 1 });
}

#[test]
fn without_the_setting_all_is_on_one_port() {
    let server = TestServer::with_config(ServerConfig::default());
    assert_eq!(server.admin_address, None);
    assert_eq!(server.get("/admin").status, 200);
    assert_eq!(server.get("/v1/model_files").status, 401);
}
