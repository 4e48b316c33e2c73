//! Roles, and what each route needs.

use std::collections::BTreeMap;

use axum::http::Method;

/// What a principal may do. An administrator may do everything.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Use models.
    Infer,
    /// Manage models and the server too.
    Admin,
}

impl Role {
    /// As files, tokens and the command line write it.
    pub fn name(self) -> &'static str {
        match self {
            Role::Infer => "infer",
            Role::Admin => "admin",
        }
    }
}

/// What a route needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteAccess {
    /// Nothing: it tells whether the server lives, and no more.
    Probe,
    /// A principal, unless the operator opened the metrics.
    Metrics,
    /// A principal of any role, unless inference is open.
    Infer,
    /// As [`RouteAccess::Infer`]; it costs no tokens, so no limit of the principal holds it back.
    Free,
    /// An administrator, always.
    Admin,
}

/// Which route needs what. Routes that are not in it need [`RouteAccess::Admin`].
#[derive(Debug, Clone, Default)]
pub struct AccessTable {
    routes: BTreeMap<String, Vec<(Method, RouteAccess)>>,
}

impl AccessTable {
    /// A table of routes: path as the router has it (`/v1/models/{id}`), method, and need.
    pub fn new(routes: &[(Method, &str, RouteAccess)]) -> AccessTable {
        let mut table = AccessTable::default();
        for (method, path, access) in routes {
            let methods = table.routes.entry((*path).to_owned()).or_default();
            methods.push((method.clone(), *access));
        }
        table
    }

    /// Every route of the table: method, path, need.
    pub fn routes(&self) -> impl Iterator<Item = (&Method, &str, RouteAccess)> {
        self.routes.iter().flat_map(|(path, methods)| {
            methods
                .iter()
                .map(|(method, access)| (method, path.as_str(), *access))
        })
    }

    /// Whether all that a matched path is for is for administrators.
    pub fn is_for_administrators(&self, path: &str) -> bool {
        let listed = self.routes.get(path).map_or(&[][..], Vec::as_slice);
        listed
            .iter()
            .all(|(_, access)| *access == RouteAccess::Admin)
    }

    /// The methods of a matched path, as the header `Allow` has them; none of a path that is not listed.
    pub fn methods(&self, path: &str) -> String {
        let listed = self.routes.get(path).map_or(&[][..], Vec::as_slice);
        let mut names: Vec<&str> = listed.iter().map(|(method, _)| method.as_str()).collect();
        if names.contains(&"GET") {
            names.push("HEAD");
        }
        names.sort_unstable();
        names.join(", ")
    }

    /// What a matched path needs; `None` when the path is listed but not under this method, which then does not exist.
    pub fn access(&self, method: &Method, path: &str) -> Option<RouteAccess> {
        let Some(methods) = self.routes.get(path) else {
            return Some(RouteAccess::Admin);
        };
        let need = |method: &Method| {
            methods
                .iter()
                .find(|(of, _)| of == method)
                .map(|(_, access)| *access)
        };
        match need(method) {
            // The router answers HEAD by GET's handler.
            None if method == Method::HEAD => need(&Method::GET),
            found => found,
        }
    }
}
