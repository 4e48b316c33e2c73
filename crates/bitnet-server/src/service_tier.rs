//! OpenAI's `service_tier`: classes of requests, which are priorities by name.
//!
//! `auto` is `default`. An answer tells the tier that it was served on where its request named one.

use serde::Serialize;

use crate::error::ApiError;
use crate::fields::Fields;

/// The field.
pub const FIELD: &str = "service_tier";

/// A class of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceTier {
    /// Like those that name none.
    Default,
    /// Whoever has time: after the others.
    Flex,
    /// Before the others, for those who may ask for that.
    Priority,
}

impl ServiceTier {
    /// The one that a request names.
    ///
    /// # Errors
    /// [`crate::error::ErrorCode::InvalidValue`].
    pub fn read(fields: &mut Fields) -> Result<Option<ServiceTier>, ApiError> {
        Ok(Some(match fields.text(FIELD)?.as_deref() {
            None => return Ok(None),
            Some("auto" | "default") => ServiceTier::Default,
            Some("flex") => ServiceTier::Flex,
            Some("priority") => ServiceTier::Priority,
            Some(other) => {
                let expected = "auto, default, flex or priority";
                return Err(ApiError::invalid(FIELD, &other.into(), expected));
            }
        }))
    }

    /// As a priority: ten steps apart, so that a request of one tier has waited a minute or two when it goes before a
    /// new one of the next.
    pub fn priority(self) -> i32 {
        match self {
            ServiceTier::Default => 0,
            ServiceTier::Flex => 10,
            ServiceTier::Priority => -10,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ServiceTier::{Default, Flex, Priority};

    #[test]
    fn tiers_go_in_their_order_and_the_default_one_as_those_that_name_none() {
        // Lower goes first.
        assert!(Priority.priority() < Default.priority());
        assert!(Default.priority() < Flex.priority());
        assert_eq!(Default.priority(), 0);
    }
}
