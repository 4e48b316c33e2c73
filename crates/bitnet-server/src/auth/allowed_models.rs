//! Which models a credential is good for.

use std::sync::Arc;

/// Longest id of a model in a file of keys.
const MAX_ID_LEN: usize = 256;
/// Most ids of one key.
const MAX_IDS: usize = 256;

/// The models that somebody may use and see. It says nothing of managing them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum AllowedModels {
    /// All there are.
    #[default]
    All,
    /// Those of these ids.
    These(Arc<[String]>),
}

impl AllowedModels {
    /// Whether the model of this id is one of them.
    pub fn has(&self, id: &str) -> bool {
        match self {
            AllowedModels::All => true,
            AllowedModels::These(ids) => ids.iter().any(|allowed| allowed == id),
        }
    }
}

impl From<Option<&Vec<String>>> for AllowedModels {
    fn from(ids: Option<&Vec<String>>) -> AllowedModels {
        ids.map_or(AllowedModels::All, |ids| {
            AllowedModels::These(ids.as_slice().into())
        })
    }
}

/// Whether a list in a file of keys, or of somebody who adds one, is one. None at all would be a key for nothing, and
/// more probably a mistake.
pub fn is_list(ids: &[String]) -> bool {
    let is_id = |id: &String| {
        (1..=MAX_ID_LEN).contains(&id.len()) && !id.chars().any(|c| c.is_control() || c == ',')
    };
    (1..=MAX_IDS).contains(&ids.len()) && ids.iter().all(is_id)
}
