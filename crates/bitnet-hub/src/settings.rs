//! Where the Hub and the cache are, and who asks: the variables that huggingface_hub reads, with its meanings.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::HubError;
use crate::name::HubModel;
use crate::page;

/// The Hub itself, without a mirror.
pub const HUB: &str = "https://huggingface.co";

/// Longest silence of a server before it counts as gone. The Hub's own tools wait 10 s; a mirror may fetch first.
const SILENCE: Duration = Duration::from_secs(30);

/// Files that are downloaded at once: one stream seldom fills a line, and more of them run into the Hub's limits.
const AT_ONCE: usize = 4;

/// What a [`Hub`](crate::Hub) works with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubSettings {
    /// Address of the Hub or of a mirror (`HF_ENDPOINT`).
    pub endpoint: String,
    /// The cache (`HF_HUB_CACHE`, else `hub` in `HF_HOME`, else in `huggingface` of the user's cache folder); none
    /// where no variable tells the user's folder.
    pub cache: Option<PathBuf>,
    /// Shown to the endpoint (`HF_TOKEN`).
    pub token: Option<AccessToken>,
    /// Where there is no token, the file that must have one (`HF_TOKEN_PATH`).
    pub named_token_file: Option<PathBuf>,
    /// Where no file is named, the one that may have a token (`token` in `HF_HOME`).
    pub token_file: Option<PathBuf>,
    /// Never use the network (`HF_HUB_OFFLINE`).
    pub offline: bool,
    /// Address of a proxy (`HTTPS_PROXY`, `ALL_PROXY`).
    pub proxy: Option<String>,
    /// Hosts that are asked without it (`NO_PROXY`).
    pub no_proxy: Option<String>,
    /// Longest silence of a server before it counts as gone.
    pub silence: Duration,
    /// Files that are downloaded at once.
    pub at_once: usize,
}

impl Default for HubSettings {
    /// The Hub, no cache, no token.
    fn default() -> HubSettings {
        HubSettings {
            endpoint: HUB.into(),
            cache: None,
            token: None,
            named_token_file: None,
            token_file: None,
            offline: false,
            proxy: None,
            no_proxy: None,
            silence: SILENCE,
            at_once: AT_ONCE,
        }
    }
}

impl HubSettings {
    /// What the variables that `lookup` knows say.
    ///
    /// They are other tools' too, so nothing is checked before the Hub is asked: a bad token keeps nobody from a model
    /// that is there.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<OsString>) -> HubSettings {
        let get = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let text = |name: &str| get(name).map(|value| value.to_string_lossy().into_owned());
        let either = |one: &str, other: &str| text(one).or_else(|| text(other));
        let home = get("HF_HOME").map(PathBuf::from).or_else(|| {
            let base = match get("XDG_CACHE_HOME") {
                Some(folder) => PathBuf::from(folder),
                None => PathBuf::from(get("HOME").or_else(|| get("USERPROFILE"))?).join(".cache"),
            };
            Some(base.join("huggingface"))
        });
        let below = |name: &str| home.as_ref().map(|home| home.join(name));
        HubSettings {
            endpoint: text("HF_ENDPOINT").unwrap_or_else(|| HUB.into()),
            cache: get("HF_HUB_CACHE").map(PathBuf::from).or(below("hub")),
            token: text("HF_TOKEN").map(|text| AccessToken(text.trim().into())),
            named_token_file: get("HF_TOKEN_PATH").map(PathBuf::from),
            token_file: below("token"),
            offline: text("HF_HUB_OFFLINE").is_some_and(|value| is_true(&value)),
            proxy: either("HTTPS_PROXY", "https_proxy")
                .or_else(|| either("ALL_PROXY", "all_proxy")),
            no_proxy: either("NO_PROXY", "no_proxy"),
            ..HubSettings::default()
        }
    }

    /// The model that a user's `text` means: a name, or the address of one of its pages on the Hub or at the endpoint.
    ///
    /// # Errors
    /// [`HubError::Name`] for what is neither.
    pub fn model(&self, text: &str) -> Result<HubModel, HubError> {
        match page::is_address(text) {
            true => page::model(text, &self.endpoint),
            false => text.parse(),
        }
    }

    /// Whether a user's `text` is written as an address, so that nothing else can be meant.
    pub fn is_address(text: &str) -> bool {
        page::is_address(text)
    }

    /// The token, from where it is.
    pub(crate) fn find_token(&self) -> Result<Option<AccessToken>, HubError> {
        if let Some(token) = &self.token {
            if !token.fits() {
                return Err(HubError::Setting {
                    name: "HF_TOKEN",
                    why: "it is no token".into(),
                });
            }
            return Ok(Some(token.clone()));
        }
        let is_named = self.named_token_file.is_some();
        let Some(path) = self.named_token_file.as_ref().or(self.token_file.as_ref()) else {
            return Ok(None);
        };
        let refused = |why: String| match is_named {
            true => HubError::Setting {
                name: "HF_TOKEN_PATH",
                why: format!("{} {why}", path.display()),
            },
            false => HubError::TokenFile {
                path: path.clone(),
                why,
            },
        };
        match fs::read_to_string(path) {
            Ok(text) if text.trim().is_empty() && !is_named => Ok(None),
            Ok(text) => match AccessToken::of(&text) {
                Some(token) => Ok(Some(token)),
                None => Err(refused("holds no token".into())),
            },
            // What cannot be there is not there.
            Err(e)
                if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&e.kind()) =>
            {
                match is_named {
                    true => Err(refused("is no file".into())),
                    false => Ok(None),
                }
            }
            Err(_) if path.is_dir() => Err(refused("is a folder, not a file".into())),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                Err(refused("holds no token".into()))
            }
            Err(e) => Err(refused(format!("cannot be read: {}", e.kind()))),
        }
    }
}

/// What huggingface_hub takes for yes.
fn is_true(value: &str) -> bool {
    ["1", "on", "yes", "true"]
        .iter()
        .any(|yes| value.eq_ignore_ascii_case(yes))
}

/// An access token. It is shown to nobody but the endpoint, and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessToken(String);

impl AccessToken {
    /// `text` without the space around it, if that can go into a header.
    pub fn of(text: &str) -> Option<AccessToken> {
        let token = AccessToken(text.trim().into());
        token.fits().then_some(token)
    }

    fn fits(&self) -> bool {
        !self.0.is_empty() && self.0.bytes().all(|b| b.is_ascii_graphic())
    }

    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessToken(...)")
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn with(variables: &[(&str, &str)]) -> HubSettings {
        let found = |name: &str| variables.iter().find(|(n, _)| *n == name);
        HubSettings::from_lookup(|name| found(name).map(|(_, value)| value.into()))
    }

    #[test]
    fn the_cache_is_where_other_tools_have_it() {
        let cases: [(&[(&str, &str)], &str); 4] = [
            (&[("HOME", "/h")], "/h/.cache/huggingface/hub"),
            (
                &[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")],
                "/x/huggingface/hub",
            ),
            (&[("XDG_CACHE_HOME", "/x"), ("HF_HOME", "/hf")], "/hf/hub"),
            (&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/c")], "/c"),
        ];
        for (variables, expected) in cases {
            assert_eq!(with(variables).cache.as_deref(), Some(Path::new(expected)));
        }
        assert_eq!(with(&[]).cache, None);
        assert_eq!(
            with(&[("HF_HOME", "/hf")]).token_file.as_deref(),
            Some(Path::new("/hf/token"))
        );
    }

    #[test]
    fn the_other_variables_have_the_meaning_of_other_tools() {
        assert_eq!(with(&[]).endpoint, HUB);
        assert_eq!(with(&[("HF_ENDPOINT", "https://m")]).endpoint, "https://m");
        for (value, offline) in [
            ("1", true),
            ("TRUE", true),
            ("0", false),
            ("", false),
            ("no", false),
        ] {
            assert_eq!(
                with(&[("HF_HUB_OFFLINE", value)]).offline,
                offline,
                "{value}"
            );
        }
        let proxied = with(&[("all_proxy", "a"), ("https_proxy", "b")]);
        assert_eq!(proxied.proxy.as_deref(), Some("b"));
    }

    #[test]
    fn tokens_are_not_printed_and_those_that_would_break_a_header_are_refused() {
        let settings = with(&[("HF_TOKEN", " hf_secret\n")]);
        assert_eq!(settings.token.as_ref().unwrap().reveal(), "hf_secret");
        assert!(!format!("{settings:?}").contains("secret"));
        for bad in [" ", "a b", "a\r\nX-Other: b", "ä"] {
            assert!(AccessToken::of(bad).is_none(), "{bad:?}");
            assert!(with(&[("HF_TOKEN", bad)]).find_token().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_token_comes_from_the_variable_then_from_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = HubSettings {
            token_file: Some(folder.path().join("token")),
            ..HubSettings::default()
        };
        assert_eq!(settings.find_token().unwrap(), None);
        fs::write(folder.path().join("token"), "of-file\n").unwrap();
        assert_eq!(settings.find_token().unwrap(), AccessToken::of("of-file"));
        settings.token = AccessToken::of("of-variable");
        assert_eq!(
            settings.find_token().unwrap(),
            AccessToken::of("of-variable")
        );
        settings.token = None;
        fs::write(folder.path().join("token"), "two words").unwrap();
        let error = settings.find_token().unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with(folder.path().to_str().unwrap()) && !text.contains("two words"),
            "{text}"
        );
        assert!(error.is_usage() && !error.hint().contains("HF_TOKEN_PATH"));
        settings.token_file = Some(folder.path().into());
        let text = settings.find_token().unwrap_err().to_string();
        assert!(text.ends_with(" is a folder, not a file"), "{text}");
        // A file that somebody names is meant.
        fs::create_dir(folder.path().join("folder")).unwrap();
        for (name, content) in [
            ("named", None),
            ("named", Some(b"".as_slice())),
            ("named", Some(b"two words")),
            ("named", Some(b"\xff\xfe")),
            ("folder", None),
        ] {
            let named = folder.path().join(name);
            if let Some(content) = content {
                fs::write(&named, content).unwrap();
            }
            settings.named_token_file = Some(named.clone());
            let error = settings.find_token().unwrap_err().to_string();
            assert!(
                error.contains("HF_TOKEN_PATH") && error.contains(named.to_str().unwrap()),
                "{error}"
            );
        }
        let named = folder.path().join("named");
        fs::write(&named, "of-named\n").unwrap();
        settings.named_token_file = Some(named);
        assert_eq!(settings.find_token().unwrap(), AccessToken::of("of-named"));
    }
}
