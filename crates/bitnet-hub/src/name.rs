//! Names of the Hub: repositories, revisions, files, and what a user writes for them.
//!
//! All of them become parts of paths and of addresses, and those of files come from a server: a name is checked once,
//! here, and every other file of the crate relies on it. The rules for repositories are huggingface_hub's
//! `validate_repo_id`.

use std::fmt;
use std::str::FromStr;

use crate::error::HubError;

/// Most characters of an owner and a name together, as the Hub has it.
const MAX_REPOSITORY: usize = 96;
/// Most bytes of a revision: it becomes one file name in some places.
const MAX_REVISION: usize = 200;
/// Most bytes of a file's name with its folders; with the cache's folder before it, it stays below what systems take.
const MAX_FILE: usize = 1024;
/// Most bytes of one part of a path on the usual file systems.
const MAX_PART: usize = 255;

/// `OWNER/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepositoryId(String);

impl RepositoryId {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its folder in the cache: `models--OWNER--NAME`.
    pub fn folder(&self) -> String {
        format!("{FOLDER_PREFIX}{}", self.0.replace('/', "--"))
    }

    /// The repository that a folder of the cache is of, if it is one of a model.
    pub fn of_folder(name: &str) -> Option<RepositoryId> {
        let (owner, name) = name.strip_prefix(FOLDER_PREFIX)?.split_once("--")?;
        format!("{owner}/{name}").parse().ok()
    }
}

/// What the cache puts before models, as opposed to data sets.
const FOLDER_PREFIX: &str = "models--";

impl FromStr for RepositoryId {
    type Err = HubError;

    fn from_str(text: &str) -> Result<RepositoryId, HubError> {
        let refused = |why: &'static str| HubError::Name {
            what: "a repository",
            name: text.into(),
            why,
        };
        let Some((owner, name)) = text.split_once('/') else {
            return Err(refused("it is not of the form OWNER/NAME"));
        };
        if text.len() > MAX_REPOSITORY {
            return Err(refused("it has more than 96 characters"));
        }
        for part in [owner, name] {
            let known = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            if part.is_empty() || !part.chars().all(known) {
                return Err(refused(
                    "owner and name are letters, digits and any of . _ -",
                ));
            }
            if part.starts_with(['.', '-']) || part.ends_with(['.', '-']) {
                return Err(refused("owner and name neither begin nor end with . or -"));
            }
            if part.contains("--") || part.contains("..") {
                return Err(refused("-- and .. are not part of a name"));
            }
        }
        Ok(RepositoryId(text.into()))
    }
}

impl fmt::Display for RepositoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A branch, a tag, `refs/pr/N` or a commit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(String);

impl Revision {
    /// What the Hub takes when nobody says.
    pub const DEFAULT: &str = "main";

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is a whole commit's hash, which never means anything else.
    pub fn is_commit(&self) -> bool {
        is_hex(&self.0, 40)
    }
}

impl Default for Revision {
    fn default() -> Revision {
        Revision(Revision::DEFAULT.into())
    }
}

impl FromStr for Revision {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Revision, HubError> {
        let refused = |why: &'static str| HubError::Name {
            what: "a revision",
            name: text.into(),
            why,
        };
        if text.is_empty() || text.len() > MAX_REVISION {
            return Err(refused("it is empty or too long"));
        }
        let known = |c: char| c.is_ascii_alphanumeric() || "._-+/".contains(c);
        if !text.chars().all(known) {
            return Err(refused("it is letters, digits and any of . _ - + /"));
        }
        let bad = |part: &str| part.is_empty() || part.starts_with('.') || part.contains("..");
        if text.split('/').any(bad) {
            return Err(refused("its parts are not empty and do not begin with ."));
        }
        Ok(Revision(text.into()))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A file of a repository, relative to its root, with `/` between folders. It stays below any folder that it is
/// joined to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName(String);

impl FileName {
    /// As the Hub writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// How many folders it is in.
    pub fn depth(&self) -> usize {
        self.0.matches('/').count()
    }
}

impl FromStr for FileName {
    type Err = HubError;

    fn from_str(text: &str) -> Result<FileName, HubError> {
        let refused = |why: &'static str| HubError::Name {
            what: "a file",
            name: text.into(),
            why,
        };
        if text.len() > MAX_FILE {
            return Err(refused("it is longer than 1024 bytes"));
        }
        // A backslash parts folders on Windows, a colon names drives and streams there.
        if text.contains(['\\', ':']) || text.contains(char::is_control) {
            return Err(refused(
                "a backslash, a colon or a control character is in it",
            ));
        }
        for part in text.split('/') {
            if part.is_empty() || part == "." || part == ".." {
                return Err(refused("it leads out of its folder"));
            }
            if part.len() > MAX_PART {
                return Err(refused("a part of it is longer than 255 bytes"));
            }
        }
        Ok(FileName(text.into()))
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A model as users write it: `[hf:]OWNER/NAME[:FILE][@REVISION]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubModel {
    /// The repository.
    pub id: RepositoryId,
    /// A file of it, or a part of its name such as the quantisation's.
    pub pattern: Option<String>,
    /// What revision is asked for, where one is.
    pub revision: Option<Revision>,
}

impl HubModel {
    /// Says that a name is meant for the Hub, where a path could be meant too.
    pub const PREFIX: &str = "hf:";

    /// The revision that is asked for, or the Hub's default.
    pub fn revision_or_default(&self) -> Revision {
        self.revision.clone().unwrap_or_default()
    }
}

impl FromStr for HubModel {
    type Err = HubError;

    fn from_str(text: &str) -> Result<HubModel, HubError> {
        let text = text.strip_prefix(HubModel::PREFIX).unwrap_or(text);
        let id_end = text.find([':', '@']).unwrap_or(text.len());
        let (id, rest) = text.split_at(id_end);
        let id = id.parse()?;
        let (pattern, revision) = match (rest.strip_prefix(':'), rest.strip_prefix('@')) {
            (Some(rest), _) => match rest.rsplit_once('@') {
                Some((pattern, revision)) => (Some(pattern), Some(revision)),
                None => (Some(rest), None),
            },
            (None, Some(revision)) => (None, Some(revision)),
            (None, None) => (None, None),
        };
        if pattern == Some("") {
            return Err(HubError::Name {
                what: "a file",
                name: text.into(),
                why: "nothing follows the colon",
            });
        }
        Ok(HubModel {
            id,
            pattern: pattern.map(Into::into),
            revision: revision.map(str::parse).transpose()?,
        })
    }
}

impl fmt::Display for HubModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.id)?;
        if let Some(pattern) = &self.pattern {
            write!(f, ":{pattern}")?;
        }
        match &self.revision {
            Some(revision) => write!(f, "@{revision}"),
            None => Ok(()),
        }
    }
}

/// Whether `text` is `n` lower-case hexadecimal digits.
pub(crate) fn is_hex(text: &str, n: usize) -> bool {
    text.len() == n
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_users_write_comes_apart() {
        let cases = [
            ("o/n", ("o/n", None, None)),
            ("hf:o/n", ("o/n", None, None)),
            ("o/n:I2_S", ("o/n", Some("I2_S"), None)),
            ("o/n@v1.0", ("o/n", None, Some("v1.0"))),
            (
                "o/n:a/b.gguf@refs/pr/1",
                ("o/n", Some("a/b.gguf"), Some("refs/pr/1")),
            ),
        ];
        for (text, (id, pattern, revision)) in cases {
            let model: HubModel = text.parse().unwrap();
            assert_eq!(model.id.as_str(), id);
            assert_eq!(model.pattern.as_deref(), pattern, "{text}");
            assert_eq!(
                model.revision.as_ref().map(Revision::as_str),
                revision,
                "{text}"
            );
            assert_eq!(model.to_string(), text.trim_start_matches("hf:"));
        }
        for bad in [
            "",
            "n",
            "/n",
            "o/",
            "o/n/x",
            "o/n:",
            "o/n@",
            "../n",
            "o/..",
            "o/a--b",
            "o/.n",
            "o/n@a/../b",
            "o/n@..",
            "o/n@a b",
            "ö/n",
        ] {
            assert!(bad.parse::<HubModel>().is_err(), "{bad}");
        }
    }

    #[test]
    fn folders_of_the_cache_name_their_repository() {
        let id: RepositoryId = "microsoft/bitnet-b1.58-2B-4T-gguf".parse().unwrap();
        assert_eq!(id.folder(), "models--microsoft--bitnet-b1.58-2B-4T-gguf");
        assert_eq!(RepositoryId::of_folder(&id.folder()), Some(id));
        for other in [
            "datasets--a--b",
            "models--a",
            "models--..--b",
            "version.txt",
        ] {
            assert_eq!(RepositoryId::of_folder(other), None, "{other}");
        }
    }

    #[test]
    fn names_of_files_that_lead_elsewhere_are_refused() {
        for bad in [
            "",
            "/etc/passwd",
            "../x",
            "a/../../x",
            "a//b",
            "a/",
            "./a",
            "a/.",
            "..\\x",
            "C:x",
            "a\0b",
            "a\nb",
            "a\u{9b}b",
        ] {
            assert!(bad.parse::<FileName>().is_err(), "{bad:?}");
        }
        assert!("x".repeat(256).parse::<FileName>().is_err());
        assert!("x/".repeat(600).parse::<FileName>().is_err());
        for good in [
            "model.gguf",
            "a/b/c.safetensors",
            "..a",
            "a..",
            ".gitattributes",
            "größe.gguf",
        ] {
            good.parse::<FileName>().unwrap();
        }
    }

    proptest! {
        #[test]
        fn no_name_of_a_file_leaves_its_folder(text in "[a./\\\\: \u{0}-\u{2}]{0,12}") {
            if let Ok(name) = text.parse::<FileName>() {
                let folder = std::path::Path::new("/folder");
                let joined = folder.join(name.as_str());
                prop_assert!(joined.starts_with(folder) && joined != folder);
                prop_assert!(joined.components().all(|part| part != std::path::Component::ParentDir));
            }
        }
    }
}
