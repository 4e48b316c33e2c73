//! Whether `models.cache_size` has room for what the settings name, by the sizes of files: what a model counts as
//! before it is loaded (`model_manager/room.rs`).

use crate::config::{ServerConfig, SettingError};
use crate::model_manager::policy::{ModelPolicy, OriginSource};
use crate::model_manager::room::source_bytes;

/// The models that the settings name, and what they count as.
pub(super) struct NamedModels {
    /// Name and bytes of files, the first model first; 0 for what is not there.
    models: Vec<(String, u64)>,
    /// Bytes for all of them; 0 is no limit.
    limit: u64,
    pinned: Vec<String>,
}

impl NamedModels {
    /// Those of `policy` behind the first one. Without a limit no file is looked at.
    pub fn of(policy: &ModelPolicy, first_name: &str, first: &OriginSource) -> NamedModels {
        let mut models = Vec::new();
        if policy.cache_bytes > 0 {
            let configured = policy.configured.iter();
            let configured =
                configured.map(|(id, path)| (id.clone(), OriginSource::Path(path.clone())));
            let all = [(first_name.to_owned(), first.clone())];
            let sized = |(id, source)| (id, source_bytes(&source));
            models.extend(all.into_iter().chain(configured).map(sized));
        }
        NamedModels {
            models,
            limit: policy.cache_bytes,
            pinned: policy.pinned.clone(),
        }
    }

    /// Refuses a limit that a model is larger than: no request would ever have it loaded.
    ///
    /// # Errors
    /// [`SettingError::Contradiction`].
    pub fn check(&self, config: &ServerConfig) -> Result<(), SettingError> {
        let limit = self.limit;
        let too_large = self.models.iter().find(|(_, bytes)| *bytes > limit);
        too_large.map_or(Ok(()), |(id, bytes)| {
            let setting = config.named("models.cache_size");
            Err(SettingError::Contradiction(format!(
                "{setting} is {limit} bytes, and the model '{id}' alone has {bytes} of files: raise it, \
                 leave that model out, or say 0, which is no limit"
            )))
        })
    }

    /// Which models there is no room for beside pinned ones, a line each: pinned models never leave, so whoever asks
    /// for those when they are loaded is refused.
    pub fn doubts(&self) -> Vec<String> {
        let limit = self.limit;
        let is_pinned = |id: &String| self.pinned.contains(id);
        let pinned: u64 = self.sum(is_pinned);
        if pinned > limit {
            return vec![format!(
                "the models of models.pinned have {pinned} bytes of files together, and models.cache_size is {limit}: \
                 when the first of them are loaded, the others, and all other models, are refused"
            )];
        }
        let others = self.models.iter().filter(|(id, _)| !is_pinned(id));
        others
            .filter(|(_, bytes)| pinned.saturating_add(*bytes) > limit)
            .map(|(id, bytes)| {
                format!(
                    "the model '{id}' has {bytes} bytes of files, those of models.pinned {pinned}, and \
                     models.cache_size is {limit}: beside them it has no room, and requests for it are refused"
                )
            })
            .collect()
    }

    fn sum(&self, counts: impl Fn(&String) -> bool) -> u64 {
        let counted = self.models.iter().filter(|(id, _)| counts(id));
        counted.fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }
}

/// What a check of `config` cannot know of the room for models, if that is bounded.
pub fn unknown_sizes(config: &ServerConfig) -> Option<&'static str> {
    (config.models.cache_size.0 > 0).then_some(
        "models.cache_size is held against the sizes of files here: in memory a model may be larger, which is told when \
         it is loaded",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    fn named(limit: u64, pinned: &[&str]) -> NamedModels {
        NamedModels {
            models: [("first", 40), ("second", 50), ("third", 5)]
                .map(|(id, bytes)| (id.to_owned(), bytes))
                .into(),
            limit,
            pinned: pinned.iter().map(|&id| id.to_owned()).collect(),
        }
    }

    #[test]
    fn a_bound_that_a_model_is_larger_than_is_refused_by_its_name() {
        let config = ServerConfig::default();
        named(50, &[]).check(&config).unwrap();
        let error = named(49, &[]).check(&config).unwrap_err().to_string();
        for words in ["models.cache_size is 49", "'second' alone has 50"] {
            assert!(error.contains(words), "{words}: {error}");
        }
        let unbounded = NamedModels::of(
            &ModelPolicy::default(),
            "first",
            &OriginSource::Path("nowhere".into()),
        );
        unbounded.check(&config).unwrap();
        assert!(unbounded.doubts().is_empty());
    }

    #[test]
    fn a_check_says_what_it_does_not_know_where_memory_is_bounded() {
        assert_eq!(unknown_sizes(&ServerConfig::default()), None);
        let bounded = ServerConfig::load(&Sources {
            flags: vec![("cache-size".into(), "1GB".into())],
            ..Sources::default()
        });
        let told = unknown_sizes(&bounded.unwrap()).unwrap();
        assert!(told.contains("may be larger"), "{told}");
    }

    #[test]
    fn models_that_pinned_ones_leave_no_room_for_are_told() {
        assert!(named(90, &["first"]).doubts().is_empty());
        let doubts = named(89, &["first"]).doubts();
        assert_eq!(doubts.len(), 1, "{doubts:?}");
        assert!(
            doubts[0].contains("the model 'second' has 50"),
            "{doubts:?}"
        );
        let doubts = named(89, &["first", "second"]).doubts();
        assert_eq!(doubts.len(), 1, "{doubts:?}");
        assert!(
            doubts[0].contains("have 90 bytes of files together"),
            "{doubts:?}"
        );
        assert!(named(90, &[]).doubts().is_empty());
    }
}
