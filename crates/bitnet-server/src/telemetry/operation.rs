//! What the routes that run a model do, as the GenAI conventions call it.

/// Routes that run a model, and their operations: the conventions' own words where there is one, and else, as they
/// allow, the word that clients know. What other routes take is none of the metrics' business.
const OPERATIONS: [(&str, &str); 7] = [
    ("/v1/chat/completions", "chat"),
    ("/v1/completions", TEXT_COMPLETION),
    ("/v1/inference", TEXT_COMPLETION),
    ("/v1/inference/stream", TEXT_COMPLETION),
    ("/v1/embeddings", "embeddings"),
    ("/v1/rerank", RERANK),
    ("/rerank", RERANK),
];

const TEXT_COMPLETION: &str = "text_completion";
const RERANK: &str = "rerank";

/// What a route does; `None` for one that runs no model.
pub(super) fn operation(route: &str) -> Option<&'static str> {
    let found = OPERATIONS.iter().find(|(path, _)| *path == route);
    found.map(|(_, operation)| *operation)
}

#[cfg(test)]
mod tests {
    use axum::http::Method;

    use super::{OPERATIONS, operation};
    use crate::auth::RouteAccess;
    use crate::routes;

    #[test]
    fn every_named_route_is_one_that_runs_a_model() {
        let access = routes::access();
        for (route, _) in OPERATIONS {
            let needed = access.access(&Method::POST, route);
            assert_eq!(needed, Some(RouteAccess::Infer), "{route}");
        }
        for route in ["/tokenize", "/v1/models/load", "/v1/requests/{id}/cancel"] {
            assert_eq!(operation(route), None, "{route}");
        }
    }
}
