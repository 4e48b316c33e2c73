//! Which role a token gives: every issuer has a place of its own for roles.

use serde_json::{Map, Value};

use super::TokenRefused;
use crate::auth::Role;

/// Where tokens have their roles.
#[derive(Debug, Clone)]
pub struct RoleClaim(String);

impl RoleClaim {
    /// The claim of this name, or else what the path leads to: `realm_access.roles` is `roles` in `realm_access`. A
    /// name comes first because some issuers use addresses (`https://example.com/roles`), which have points in them.
    pub fn new(path: &str) -> RoleClaim {
        RoleClaim(path.to_owned())
    }

    /// The highest role that the claims give; without the claim it is the lesser one.
    ///
    /// # Errors
    /// When the claim is there and names no role that is known.
    pub fn role(&self, claims: &Map<String, Value>) -> Result<Role, TokenRefused> {
        let Some(found) = self.find(claims) else {
            return Ok(Role::Infer);
        };
        let roles: Vec<&str> = match found {
            Value::String(text) => text.split_ascii_whitespace().collect(),
            Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let known = [Role::Admin, Role::Infer];
        let role = known.into_iter().find(|role| roles.contains(&role.name()));
        role.ok_or_else(|| TokenRefused::Role {
            claim: self.0.clone(),
        })
    }

    fn find<'a>(&self, claims: &'a Map<String, Value>) -> Option<&'a Value> {
        if let Some(found) = claims.get(&self.0) {
            return Some(found);
        }
        let mut names = self.0.split('.');
        let first = claims.get(names.next()?)?;
        names.try_fold(first, |value, name| value.get(name))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn roles_are_found_where_issuers_put_them() {
        use Role::{Admin, Infer};
        let address = "https://example.com/roles";
        for (path, claims, expected) in [
            ("role", json!({"role": "admin"}), Some(Admin)),
            ("role", json!({"role": "infer"}), Some(Infer)),
            ("role", json!({"role": "viewer"}), None),
            ("role", json!({"role": "Admin"}), None),
            ("role", json!({"role": ""}), None),
            ("role", json!({"role": null}), None),
            ("role", json!({"role": 7}), None),
            ("role", json!({"role": {"admin": true}}), None),
            ("role", json!({"roles": ["admin"]}), Some(Infer)),
            (
                "roles",
                json!({"roles": ["viewer", "infer", "admin"]}),
                Some(Admin),
            ),
            (
                "roles",
                json!({"roles": ["viewer", 3, "infer"]}),
                Some(Infer),
            ),
            ("roles", json!({"roles": ["administrator"]}), None),
            ("roles", json!({"roles": []}), None),
            (
                "scope",
                json!({"scope": "openid  infer email"}),
                Some(Infer),
            ),
            ("scope", json!({"scope": "openid email"}), None),
            (
                "realm_access.roles",
                json!({"realm_access": {"roles": ["admin"]}}),
                Some(Admin),
            ),
            (
                "realm_access.roles",
                json!({"realm_access": {"roles": ["x"]}}),
                None,
            ),
            (
                "realm_access.roles",
                json!({"realm_access": "admin"}),
                Some(Infer),
            ),
            ("realm_access.roles", json!({}), Some(Infer)),
            (address, json!({address: ["admin"]}), Some(Admin)),
            (
                "a.b",
                json!({"a.b": "infer", "a": {"b": "admin"}}),
                Some(Infer),
            ),
        ] {
            let role = RoleClaim::new(path).role(claims.as_object().unwrap());
            assert_eq!(role.ok(), expected, "{path} {claims}");
        }
    }
}
