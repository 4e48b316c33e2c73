//! What a repository holds at a revision, as the Hub's API tells it: `GET /api/models/ID/revision/REVISION?blobs=true`.
//!
//! One answer has the commit, every file with size and checksum, and the licence of the model card. Files whose names
//! lead elsewhere, or that have no checksum, are left out and counted: nothing can be made of them.

use std::fmt;

use serde::Deserialize;
use serde_json::Value;

use crate::checksum::Checksum;
use crate::error::HubError;
use crate::name::{FileName, RepositoryId, Revision, is_hex};

/// Most bytes of the answer: ten thousand files take three million.
pub(crate) const MAX_ANSWER: u64 = 32 << 20;

/// Most bytes of a file: far more than the Hub takes, and so few that an answer full of them can be added up.
const MAX_FILE: u64 = 1 << 44;

/// A repository at a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// Which.
    pub id: RepositoryId,
    /// What was asked for.
    pub revision: Revision,
    /// What that is now: 40 hexadecimal digits.
    pub commit: String,
    /// Its files, by name.
    pub files: Vec<HubFile>,
    /// Files that cannot be had: their names lead elsewhere, their sizes are none, or the Hub tells no checksum.
    pub n_unusable: usize,
    /// What the model card says of it.
    pub licence: Option<Licence>,
}

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubFile {
    /// Where it is in the repository.
    pub name: FileName,
    /// Bytes.
    pub size: u64,
    /// What its bytes sum up to.
    pub checksum: Checksum,
}

/// Under which terms a model is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Licence {
    /// The Hub's word, as `mit` or `other`.
    pub id: String,
    /// The licence's own name, where the word is `other`.
    pub name: Option<String>,
    /// Where it can be read.
    pub link: Option<String>,
}

impl fmt::Display for Licence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name.as_deref().unwrap_or(&self.id))?;
        match &self.link {
            Some(link) => write!(f, " ({link})"),
            None => Ok(()),
        }
    }
}

#[derive(Deserialize)]
struct Answer {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
    #[serde(rename = "cardData")]
    card: Option<Value>,
    #[serde(default)]
    tags: Vec<String>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob: Option<String>,
    lfs: Option<Stored>,
}

/// A file that is stored apart from git.
#[derive(Deserialize)]
struct Stored {
    sha256: String,
    size: u64,
}

impl Repository {
    /// Reads the answer of `host`.
    ///
    /// # Errors
    /// An answer that is not one.
    pub fn of_answer(
        id: &RepositoryId,
        revision: &Revision,
        host: &str,
        answer: &[u8],
    ) -> Result<Repository, HubError> {
        let refused = |why: String| HubError::Answer {
            host: host.into(),
            why,
        };
        let answer: Answer = serde_json::from_slice(answer).map_err(|e| refused(e.to_string()))?;
        if !is_hex(&answer.sha, 40) {
            return Err(refused("the commit is no hash".into()));
        }
        if revision.is_commit() && revision.as_str() != answer.sha {
            return Err(refused("it is of another commit".into()));
        }
        let n_files = answer.siblings.len();
        let mut files: Vec<HubFile> = answer.siblings.iter().filter_map(Sibling::file).collect();
        files.sort_by(|a, b| a.name.cmp(&b.name));
        files.dedup_by(|a, b| a.name == b.name);
        Ok(Repository {
            id: id.clone(),
            revision: revision.clone(),
            commit: answer.sha,
            n_unusable: n_files - files.len(),
            files,
            licence: licence(answer.card.as_ref(), &answer.tags),
        })
    }
}

impl Sibling {
    fn file(&self) -> Option<HubFile> {
        let name = self.rfilename.parse().ok()?;
        let (size, checksum) = match &self.lfs {
            Some(stored) => (stored.size, Checksum::sha256(&stored.sha256)?),
            None => (self.size?, Checksum::git_blob(self.blob.as_deref()?)?),
        };
        (size <= MAX_FILE).then_some(HubFile {
            name,
            size,
            checksum,
        })
    }
}

fn licence(card: Option<&Value>, tags: &[String]) -> Option<Licence> {
    let text = |name: &str| match card?.get(name)? {
        Value::String(text) => Some(text.clone()),
        // Several licences may be listed.
        Value::Array(texts) => {
            let texts: Vec<&str> = texts.iter().filter_map(Value::as_str).collect();
            (!texts.is_empty()).then(|| texts.join(", "))
        }
        _ => None,
    };
    let tag = || {
        tags.iter()
            .find_map(|tag| tag.strip_prefix("license:").map(str::to_owned))
    };
    Some(Licence {
        id: text("license").or_else(tag)?,
        name: text("license_name"),
        link: text("license_link"),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(answer: &Value) -> Result<Repository, HubError> {
        let answer = answer.to_string();
        Repository::of_answer(
            &"o/n".parse().unwrap(),
            &Revision::default(),
            "hub",
            answer.as_bytes(),
        )
    }

    #[test]
    fn files_have_the_checksum_of_their_kind() {
        let (commit, sha256, sha1) = ("c".repeat(40), "2".repeat(64), "1".repeat(40));
        let repository = read(&json!({
            "sha": commit,
            "siblings": [
                {"rfilename": "model.gguf", "size": 1, "blobId": sha1,
                 "lfs": {"sha256": sha256, "size": 9, "pointerSize": 1}},
                {"rfilename": "config.json", "size": 7, "blobId": sha1},
            ],
            "cardData": {"license": "other", "license_name": "falcon", "license_link": "https://l"},
        }))
        .unwrap();
        assert_eq!(repository.commit, commit);
        let files: Vec<_> = repository
            .files
            .iter()
            .map(|f| (f.name.as_str(), f.size, f.checksum.hex()))
            .collect();
        assert_eq!(
            files,
            [("config.json", 7, &*sha1), ("model.gguf", 9, &*sha256)]
        );
        assert_eq!(
            repository.licence.unwrap().to_string(),
            "falcon (https://l)"
        );
    }

    #[test]
    fn hostile_files_are_left_out_and_counted() {
        let good = json!({"rfilename": "a", "size": 7, "blobId": "1".repeat(40)});
        let repository = read(&json!({"sha": "c".repeat(40), "siblings": [
            good, good,
            {"rfilename": "../a", "size": 7, "blobId": "1".repeat(40)},
            {"rfilename": "/a", "size": 7, "blobId": "1".repeat(40)},
            {"rfilename": "b", "size": 7, "blobId": "../../x"},
            {"rfilename": "c", "size": 7, "blobId": "1".repeat(40), "lfs": {"sha256": "x/../../y", "size": 7}},
            {"rfilename": "d", "blobId": "1".repeat(40)},
            {"rfilename": "e", "size": u64::MAX, "blobId": "1".repeat(40)},
        ]}))
        .unwrap();
        assert_eq!((repository.files.len(), repository.n_unusable), (1, 7));
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        let sibling = |size: Value| json!({"sha": "c".repeat(40), "siblings": [{"rfilename": "a", "size": size}]});
        for bad in [
            json!([]),
            json!({}),
            json!({"sha": "../x"}),
            sibling(json!(-1)),
            sibling(json!(1e30)),
            sibling(json!("9")),
        ] {
            assert!(matches!(read(&bad), Err(HubError::Answer { .. })), "{bad}");
        }
        let deep = "[".repeat(100_000);
        let id = "o/n".parse().unwrap();
        assert!(Repository::of_answer(&id, &Revision::default(), "hub", deep.as_bytes()).is_err());
        let commit: Revision = "d".repeat(40).parse().unwrap();
        let other = json!({"sha": "c".repeat(40)}).to_string();
        assert!(Repository::of_answer(&id, &commit, "hub", other.as_bytes()).is_err());
    }

    #[test]
    fn the_licence_is_the_cards_or_the_tags() {
        let licence = |card: Value, tags: Value| {
            read(&json!({"sha": "c".repeat(40), "cardData": card, "tags": tags}))
                .unwrap()
                .licence
                .map(|l| l.to_string())
        };
        assert_eq!(
            licence(json!({"license": "mit"}), json!(["license:x"])).as_deref(),
            Some("mit")
        );
        assert_eq!(
            licence(json!({"license": ["mit", "bsd"]}), json!([])).as_deref(),
            Some("mit, bsd")
        );
        assert_eq!(
            licence(Value::Null, json!(["x", "license:mit"])).as_deref(),
            Some("mit")
        );
        assert_eq!(licence(json!({"license": 7}), json!([])), None);
    }
}
