//! `/openapi.json` beside what it describes: routes, limits, refused fields.

use std::collections::BTreeSet;

use bitnet_inference::logprobs::MAX_TOP_LOGPROBS;
use bitnet_server::ServerLimits;
use bitnet_server::routes::embeddings::MAX_INPUTS;
use bitnet_server::routes::rerank::MAX_DOCUMENTS;
use bitnet_server::unsupported::{self, RefusedField};
use serde_json::{Value, json};

use crate::fixture::TestServer;

fn document() -> Value {
    serde_json::from_str(bitnet_server::routes::openapi::DOCUMENT).unwrap()
}

/// Method and path of every route, read from the one place where routes are made.
fn routes() -> BTreeSet<(String, String)> {
    let source = include_str!("../../src/routes/mod.rs");
    let mut routes = BTreeSet::new();
    for route in source.split(".route(").skip(1) {
        let route = route.split("\n        .").next().expect("a part");
        let route = route.split("\n}").next().expect("a part");
        let path = route.split('"').nth(1).expect("a path");
        let before = routes.len();
        for method in ["get", "post", "delete", "put", "patch"] {
            let called = |start: &str| route.contains(&format!("{start}{method}("));
            if called(" ") || called(".") {
                routes.insert((method.to_owned(), path.to_owned()));
            }
        }
        assert!(routes.len() > before, "no method of {path}");
    }
    routes
}

#[test]
fn every_route_is_described_and_nothing_else() {
    let document = document();
    let paths = document["paths"].as_object().unwrap();
    let described: BTreeSet<(String, String)> = paths
        .iter()
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().unwrap();
            methods
                .keys()
                .map(move |method| (method.clone(), path.clone()))
        })
        .collect();
    assert!(described.len() > 15);
    assert_eq!(described, routes());
}

#[test]
fn the_server_shows_it_and_answers_its_routes() {
    let server = TestServer::start();
    let shown = server.get("/openapi.json").json();
    assert_eq!(shown["info"]["version"], env!("CARGO_PKG_VERSION"));
    for (method, path) in routes() {
        let path = path.replace("{id}", "nobody");
        let answer = match method.as_str() {
            "get" => server.get(&path),
            method => crate::client::request(server.address, &method.to_uppercase(), &path, "{}"),
        };
        assert_ne!(answer.status, 405, "{method} {path}");
        let unknown = answer.status == 404 && answer.json()["error"]["code"] == "not_found";
        assert!(!unknown, "{method} {path}");
    }
}

#[test]
fn its_numbers_are_the_servers() {
    let document = document();
    let limits = ServerLimits::default();
    let at = |path: &str| {
        let path = format!("/components/schemas/{path}");
        document
            .pointer(&path)
            .unwrap_or_else(|| panic!("{path}"))
            .clone()
    };
    for (path, expected) in [
        ("ChatRequest/properties/n/maximum", limits.max_n),
        ("CompletionRequest/properties/n/maximum", limits.max_n),
        ("CompletionRequest/properties/best_of/maximum", limits.max_n),
        (
            "ChatRequest/properties/messages/maxItems",
            limits.max_messages,
        ),
        (
            "ChatRequest/properties/top_logprobs/maximum",
            MAX_TOP_LOGPROBS,
        ),
        (
            "ChatRequest/properties/prompt_logprobs/maximum",
            MAX_TOP_LOGPROBS,
        ),
        (
            "ChatRequest/properties/logit_bias/maxProperties",
            limits.max_biases,
        ),
        (
            "ChatRequest/properties/stop/anyOf/2/maxItems",
            limits.max_stops,
        ),
        (
            "ChatRequest/properties/stop/anyOf/1/maxLength",
            limits.max_stop_bytes,
        ),
        (
            "ChatRequest/properties/stop_token_ids/maxItems",
            limits.max_stops,
        ),
        (
            "CompletionRequest/properties/prompt/anyOf/2/maxItems",
            limits.max_choices,
        ),
        (
            "EmbeddingRequest/properties/input/anyOf/2/maxItems",
            MAX_INPUTS,
        ),
        ("RerankRequest/properties/documents/maxItems", MAX_DOCUMENTS),
    ] {
        assert_eq!(at(path), json!(expected), "{path}");
    }
}

#[test]
fn every_refused_field_is_listed() {
    let document = document();
    let tables: [(&str, &[RefusedField]); 9] = [
        ("ChatRequest", unsupported::GENERATION),
        ("ChatRequest", unsupported::CHAT),
        ("CompletionRequest", unsupported::GENERATION),
        ("CompletionRequest", unsupported::COMPLETIONS),
        ("InferenceRequest", unsupported::GENERATION),
        ("InferenceRequest", unsupported::INFERENCE),
        ("EmbeddingRequest", unsupported::EMBEDDINGS),
        ("RerankRequest", unsupported::RERANK),
        ("StreamOptions", unsupported::STREAM_OPTIONS),
    ];
    for (schema, fields) in tables {
        let properties = &document["components"]["schemas"][schema]["properties"];
        for field in fields {
            assert!(
                properties.get(field.name).is_some(),
                "{schema}: {}",
                field.name
            );
        }
    }
    for (schema, fields) in [
        ("WholeInferenceRequest", unsupported::WHOLE_INFERENCE),
        ("StreamedInferenceRequest", unsupported::STREAMED_INFERENCE),
    ] {
        let own = &document["components"]["schemas"][schema]["allOf"][1]["properties"];
        assert!(
            fields.iter().all(|field| own.get(field.name).is_some()),
            "{schema}"
        );
    }
    for (field, _) in unsupported::WITHOUT_EFFECT {
        let properties = &document["components"]["schemas"]["ChatRequest"]["properties"];
        assert!(properties.get(field).is_some(), "{field}");
    }
}

#[test]
fn every_reference_leads_somewhere() {
    fn walk(value: &Value, document: &Value) {
        match value {
            Value::Array(values) => values.iter().for_each(|value| walk(value, document)),
            Value::Object(map) => map.iter().for_each(|(key, value)| match value.as_str() {
                Some(target) if key == "$ref" => {
                    let pointer = target.strip_prefix('#').unwrap();
                    assert!(document.pointer(pointer).is_some(), "{target}");
                }
                _ => walk(value, document),
            }),
            _ => {}
        }
    }
    let document = document();
    walk(&document, &document);
}
