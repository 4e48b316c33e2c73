//! `/v1/rerank` beside `/v1/embeddings`: the order is that of the cosines which a client would compute itself.

use bitnet_server::routes::rerank::MAX_DOCUMENTS;
use serde_json::{Value, json};

use crate::access::server_with_key;
use crate::embeddings::{floats, server};
use crate::fixture::{Gated, TestServer, engine, until};

const RERANK: &str = "/v1/rerank";

const QUERY: &str = "a dog in the garden";
const DOCUMENTS: [&str; 5] = [
    "The sun is hot.",
    "Spot the dog ran into the garden.",
    "Once upon a time there was a king.",
    "A dog in the garden",
    "The sun is hot.",
];

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let pairs = a.iter().zip(b);
        pairs.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn indices(answer: &Value) -> Vec<u64> {
    let results = answer["results"].as_array().unwrap();
    let indices = results.iter().map(|one| one["index"].as_u64().unwrap());
    indices.collect()
}

#[test]
fn documents_come_in_the_order_of_their_cosines_with_the_query() {
    let server = server();
    let body = json!({"model": "stories", "query": QUERY, "documents": DOCUMENTS});
    let answer = server.post(RERANK, &body).json();

    let mut texts = vec![QUERY];
    texts.extend(DOCUMENTS);
    let embedded = server
        .post("/v1/embeddings", &json!({"input": texts}))
        .json();
    let vector = |place: usize| floats(&embedded["data"][place]["embedding"]);
    let query = vector(0);
    let cosines: Vec<f64> = (1..=DOCUMENTS.len())
        .map(|place| cosine(&query, &vector(place)))
        .collect();
    let mut expected: Vec<usize> = (0..DOCUMENTS.len()).collect();
    expected.sort_by(|&a, &b| cosines[b].total_cmp(&cosines[a]));
    assert!(!expected.is_sorted(), "the order has to be found out");

    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), DOCUMENTS.len());
    for (result, index) in results.iter().zip(expected) {
        assert_eq!(result["index"], index);
        let score = result["relevance_score"].as_f64().unwrap();
        // A number in JSON may lose its last bit on the way.
        assert!((score - cosines[index]).abs() < 1e-12, "{score}");
        assert_eq!(result["document"], json!({"text": DOCUMENTS[index]}));
    }
    let equal: Vec<u64> = indices(&answer)
        .into_iter()
        .filter(|index| [0, 4].contains(index))
        .collect();
    assert_eq!(equal, [0, 4], "of equal documents the first comes first");

    assert!(answer["id"].as_str().unwrap().starts_with("rerank-"));
    assert_eq!(answer["model"], "stories");
    assert_eq!(answer["usage"], embedded["usage"]);
    assert_eq!(
        answer["meta"]["tokens"]["input_tokens"],
        embedded["usage"]["prompt_tokens"]
    );
    let other_name = server.post("/rerank", &body).json();
    assert_eq!(other_name["results"], answer["results"]);
}

#[test]
fn as_many_as_are_wanted_are_told_with_their_texts_or_without() {
    let server = server();
    let ask = |extra: Value| {
        let mut body = json!({"query": QUERY, "documents": DOCUMENTS});
        let fields = body.as_object_mut().unwrap();
        fields.extend(extra.as_object().unwrap().clone());
        server.post(RERANK, &body).json()
    };
    let all = indices(&ask(json!({})));
    assert_eq!(indices(&ask(json!({"top_n": 2}))), all[..2]);
    for top_n in [0, DOCUMENTS.len(), 1000] {
        assert_eq!(indices(&ask(json!({"top_n": top_n}))), all);
    }
    let bare = ask(json!({"return_documents": false}));
    assert_eq!(indices(&bare), all);
    for result in bare["results"].as_array().unwrap() {
        assert!(result.get("document").is_none(), "{result}");
    }
    let objects = DOCUMENTS.map(|text| json!({"text": text, "title": "ignored"}));
    let of_objects = ask(json!({"query": {"text": QUERY}, "documents": objects}));
    assert_eq!(of_objects["results"], ask(json!({}))["results"]);
}

#[test]
fn more_documents_than_the_queue_holds_are_ranked_in_turns() {
    let server = TestServer::with_limits(bitnet_server::ServerLimits {
        pooling: Some(bitnet_inference::Pooling::Mean),
        max_queued_requests: 3,
        ..Default::default()
    });
    let documents: Vec<String> = (0..150).map(|n| format!("text {n}")).collect();
    let body = json!({"query": "text 149", "documents": documents, "top_n": 1});
    let answer = server.post(RERANK, &body);
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(indices(&answer.json()), [149]);
}

#[test]
fn what_cannot_be_ranked_is_refused_by_its_name() {
    let server = server();
    let long = "fox ".repeat(9000);
    for (body, code, param) in [
        (json!({"documents": ["a"]}), "missing_field", "query"),
        (json!({"query": "a"}), "missing_field", "documents"),
        (
            json!({"query": "a", "documents": []}),
            "invalid_value",
            "documents",
        ),
        (
            json!({"query": "a", "documents": "b"}),
            "invalid_value",
            "documents",
        ),
        (
            json!({"query": "a", "documents": vec!["b"; MAX_DOCUMENTS + 1]}),
            "invalid_value",
            "documents",
        ),
        (
            json!({"query": "a", "documents": ["b", 1]}),
            "invalid_value",
            "documents[1]",
        ),
        (
            json!({"query": "a", "documents": ["b", {"image": "c"}]}),
            "missing_field",
            "documents[1].text",
        ),
        (
            json!({"query": ["a"], "documents": ["b"]}),
            "invalid_value",
            "query",
        ),
        (
            json!({"query": long, "documents": ["b"]}),
            "context_length_exceeded",
            "query",
        ),
        (
            json!({"query": "a", "documents": ["b", long]}),
            "context_length_exceeded",
            "documents[1]",
        ),
        (
            json!({"query": "a", "documents": ["b"], "top_n": -1}),
            "invalid_value",
            "top_n",
        ),
        (
            json!({"query": "a", "documents": ["b"], "max_tokens_per_doc": 5}),
            "unsupported_parameter",
            "max_tokens_per_doc",
        ),
    ] {
        let answer = server.post(RERANK, &body);
        let error = &answer.json()["error"];
        assert_eq!(
            (answer.status, &error["code"], &error["param"]),
            (400, &json!(code), &json!(param)),
            "{error}"
        );
    }
    let generates = TestServer::start();
    let body = json!({"query": "a", "documents": ["b"]});
    let answer = generates.post(RERANK, &body);
    let error = &answer.json()["error"];
    assert_eq!((answer.status, &error["param"]), (400, &json!("model")));
}

#[test]
fn a_full_queue_and_a_missing_key_refuse_it() {
    let engine = engine();
    let gated = Gated::new(engine.clone());
    let limits = bitnet_server::ServerLimits {
        pooling: Some(bitnet_inference::Pooling::Mean),
        max_queued_requests: 0,
        ..Default::default()
    };
    let server = TestServer::with_turns(engine, gated.clone(), limits);
    let body = json!({"query": QUERY, "documents": DOCUMENTS});
    let mut first = crate::client::Connection::open(server.address);
    first.send("POST", RERANK, "", &body.to_string());
    let model = server.model();
    until("all places are taken", || !model.admission.has_room());
    let refused = server.post(RERANK, &body);
    assert_eq!(
        (refused.status, &refused.json()["error"]["code"]),
        (429, &json!("queue_full"))
    );
    assert!(refused.header("retry-after").is_some());
    gated.open();
    assert_eq!(first.answer().status, 200);

    let (with_keys, _) = server_with_key(&[], 0);
    assert_eq!(with_keys.post(RERANK, &body).status, 401);
}
