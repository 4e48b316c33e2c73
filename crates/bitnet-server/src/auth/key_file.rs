//! The file of API keys: JSON, hashes only, replaced as a whole.
//!
//! JSON because a file that was cut off anywhere is no JSON: a half-written file can be told from one with fewer keys.
//! Writers hold a lock on a file beside it and rename a finished copy over it, so that readers see the old keys or the
//! new ones. The copy has the old file's owner and mode, and where the name is a symbolic link it is what the link
//! leads to that is replaced: a server that could read its keys can still read them.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Role;
use super::allowed_models::is_list;
use super::clock::unix_seconds;
use super::expiry::LAST_SECOND;
use super::key::{ApiKey, KeyHash, is_id};
use super::private_file;
use super::quota::Quota;
use super::rate::RateLimits;

/// Largest file: about 10 000 keys.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// Longest name of a key.
const MAX_NAME_LEN: usize = 64;
/// What is written; another number is a file of another time.
const VERSION: u32 = 1;

/// A key as the file keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyEntry {
    /// The key's public part.
    pub id: String,
    /// Whose it is, for people: letters, digits and `._-`.
    pub name: String,
    /// What it opens.
    pub role: Role,
    /// SHA-256 of the key, in hexadecimal digits.
    pub sha256: String,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// Limits of its own.
    #[serde(default)]
    pub limits: RateLimits,
    /// What it may take in a day and in a month.
    #[serde(default, skip_serializing_if = "Quota::is_none")]
    pub quota: Quota,
    /// When it stops being good, in seconds since 1970; without it, never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// Ids of the models that it is good for; without it, all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<String>>,
}

impl KeyEntry {
    /// Whether its time is over at the second `now` since 1970.
    pub fn has_expired(&self, now: u64) -> bool {
        self.expires.is_some_and(|expires| now >= expires)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    version: u32,
    keys: Vec<KeyEntry>,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The system refuses.
    #[error("cannot use the file of keys {path}: {source}")]
    Io {
        /// Its name.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// It is not a file of keys, or cut off.
    #[error("{path} is no complete file of keys: {reason}")]
    Invalid {
        /// Its name.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The file is another user's, and would become this one's.
    #[error("{path} belongs to user {owner}, and only that user, or root, may replace it")]
    Owner {
        /// Its name.
        path: String,
        /// Whose it is, by number.
        owner: u32,
    },
    /// A name that cannot be a name.
    #[error("a key's name has 1 to {MAX_NAME_LEN} letters, digits and ._- only")]
    Name,
    /// Models that can be none.
    #[error(
        "a key's models are 1 to 256 ids without commas, and an administrator's key has none: leave them out for all models"
    )]
    Models,
    /// A name that another key has.
    #[error(
        "{path} has a key named '{name}' already, {id}: choose another name, or revoke that one first"
    )]
    NameTaken {
        /// The file.
        path: String,
        /// The name.
        name: String,
        /// The key that has it.
        id: String,
    },
    /// Nothing to revoke.
    #[error("{path} has no key with the id '{id}'; {}", instead(.named_so))]
    NoSuchKey {
        /// The file.
        path: String,
        /// What was asked for.
        id: String,
        /// Ids of the keys that have it as their name.
        named_so: Vec<String>,
    },
}

/// What to name instead of an id that is none.
fn instead(named_so: &[String]) -> String {
    match named_so {
        [] => "`bitnet keys list` lists them".into(),
        [id] => format!("the key of that name has the id {id}"),
        ids => format!("keys of that name have the ids {}", ids.join(", ")),
    }
}

/// What `add` is asked for.
#[derive(Debug, Clone)]
pub struct NewKey<'a> {
    /// Whose it is.
    pub name: &'a str,
    /// What it opens.
    pub role: Role,
    /// Limits of its own.
    pub limits: RateLimits,
    /// What it may take in a day and in a month.
    pub quota: Quota,
    /// When it stops being good, in seconds since 1970; without it, never.
    pub expires: Option<u64>,
    /// Ids of the models that it is good for; without it, all of them.
    pub models: Option<Vec<String>>,
}

impl<'a> NewKey<'a> {
    /// A key for all models that never expires.
    pub fn new(name: &'a str, role: Role, limits: RateLimits) -> NewKey<'a> {
        NewKey {
            name,
            role,
            limits,
            quota: Quota::default(),
            expires: None,
            models: None,
        }
    }
}

/// All keys of a file that is good to serve with.
///
/// # Errors
/// As [`entries`], and when two keys have one name: whoever revokes the one would think that the other was meant.
pub fn read(path: &Path) -> Result<Vec<KeyEntry>, KeyFileError> {
    let keys = entries(path)?;
    let mut names = std::collections::BTreeMap::new();
    for entry in &keys {
        let (id, name) = (&entry.id, &entry.name);
        if let Some(first) = names.insert(name, id) {
            let reason = format!(
                "the keys {first} and {id} are both named '{name}': take one of them out with `bitnet keys revoke`"
            );
            return Err(invalid(path, reason));
        }
    }
    Ok(keys)
}

/// All keys of a file, though some may have one name: those can be listed and revoked.
///
/// # Errors
/// When it cannot be read, is cut off, or has an entry that is no key.
pub fn entries(path: &Path) -> Result<Vec<KeyEntry>, KeyFileError> {
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut text))
        .map_err(io(path))?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(invalid(
            path,
            format!("it is larger than {MAX_FILE_BYTES} bytes"),
        ));
    }
    let contents: Contents =
        serde_json::from_slice(&text).map_err(|e| invalid(path, e.to_string()))?;
    if contents.version != VERSION {
        return Err(invalid(
            path,
            format!("its version is {}, expected {VERSION}", contents.version),
        ));
    }
    let mut ids = std::collections::BTreeSet::new();
    for (i, entry) in contents.keys.iter().enumerate() {
        let place = format!("keys[{i}]");
        if !is_id(&entry.id) || !ids.insert(&entry.id) {
            return Err(invalid(
                path,
                format!("{place}.id is no id, or the id of two keys"),
            ));
        }
        if !is_name(&entry.name) {
            return Err(invalid(
                path,
                format!("{place}.name: {}", KeyFileError::Name),
            ));
        }
        if entry.expires.is_some_and(|at| at > LAST_SECOND) {
            let reason = format!("{place}.expires is after the year 9999: leave it out");
            return Err(invalid(path, reason));
        }
        if !may_have(entry.role, entry.models.as_deref()) {
            let reason = format!("{place}.models: {}", KeyFileError::Models);
            return Err(invalid(path, reason));
        }
        if KeyHash::parse(&entry.sha256).is_none() {
            return Err(invalid(
                path,
                format!("{place}.sha256 is not 64 hexadecimal digits"),
            ));
        }
    }
    Ok(contents.keys)
}

/// Makes a key and adds its hash; the file is made when there is none.
///
/// # Errors
/// When the name or the models are none, the name is another key's, there are no random numbers, or the file cannot be
/// read or replaced.
pub fn add(path: &Path, new: &NewKey<'_>) -> Result<ApiKey, KeyFileError> {
    if !is_name(new.name) {
        return Err(KeyFileError::Name);
    }
    if !may_have(new.role, new.models.as_deref()) {
        return Err(KeyFileError::Models);
    }
    let path = &real(path)?;
    let _lock = lock(path)?;
    let mut keys = match read(path) {
        Err(KeyFileError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Vec::new(),
        read => read?,
    };
    if let Some(taken) = keys.iter().find(|entry| entry.name == new.name) {
        return Err(KeyFileError::NameTaken {
            path: path.display().to_string(),
            name: taken.name.clone(),
            id: taken.id.clone(),
        });
    }
    // 32 bits of id: two keys of one file may draw the same, one in 400 000 for 10 000 keys, so it is drawn again.
    let key = loop {
        let key = ApiKey::generate().map_err(|e| io(path)(std::io::Error::other(e.to_string())))?;
        if keys.iter().all(|entry| entry.id != key.id()) {
            break key;
        }
    };
    keys.push(KeyEntry {
        id: key.id().to_owned(),
        name: new.name.to_owned(),
        role: new.role,
        sha256: key.hash().to_hex(),
        created: unix_seconds(std::time::SystemTime::now()),
        limits: new.limits,
        quota: new.quota,
        expires: new.expires,
        models: new.models.clone(),
    });
    replace(path, keys)?;
    Ok(key)
}

/// Takes the key with this id out of the file, and returns what was there.
///
/// # Errors
/// When there is no such key, or the file cannot be read or replaced.
pub fn revoke(path: &Path, id: &str) -> Result<KeyEntry, KeyFileError> {
    let path = &real(path)?;
    let _lock = lock(path)?;
    let mut keys = entries(path)?;
    let Some(i) = keys.iter().position(|entry| entry.id == id) else {
        return Err(KeyFileError::NoSuchKey {
            path: path.display().to_string(),
            id: id.chars().filter(|c| !c.is_control()).take(80).collect(),
            named_so: keys
                .iter()
                .filter(|entry| entry.name == id)
                .map(|entry| entry.id.clone())
                .collect(),
        });
    };
    let revoked = keys.remove(i);
    replace(path, keys)?;
    Ok(revoked)
}

/// Whether a key of this role may be for these models: whoever may load any of them under any id is held back by no
/// list.
fn may_have(role: Role, models: Option<&[String]>) -> bool {
    models.is_none_or(|ids| role == Role::Infer && is_list(ids))
}

fn is_name(name: &str) -> bool {
    (1..=MAX_NAME_LEN).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// What a path leads to, symbolic links followed; a file that is not there yet is what its name says.
fn real(path: &Path) -> Result<PathBuf, KeyFileError> {
    match path.canonicalize() {
        Ok(real) => Ok(real),
        // A link that leads nowhere is not written over.
        Err(e) if e.kind() == ErrorKind::NotFound && !path.is_symlink() => Ok(path.to_owned()),
        Err(e) => Err(io(path)(e)),
    }
}

/// Holds off other writers until it is dropped.
fn lock(path: &Path) -> Result<File, KeyFileError> {
    let name = private_file::lock_name(path);
    let failed = io(&name);
    let file = private_file::open_lock(path).map_err(&failed)?;
    // So that whoever owns the keys can lock them after root did. The lock has no secrets and works without.
    let _ = like(path, &file);
    file.lock().map_err(failed)?;
    Ok(file)
}

/// Replaces the file as a whole. Called with the lock held.
fn replace(path: &Path, keys: Vec<KeyEntry>) -> Result<(), KeyFileError> {
    let contents = Contents {
        version: VERSION,
        keys,
    };
    let mut text =
        serde_json::to_vec_pretty(&contents).map_err(|e| invalid(path, e.to_string()))?;
    text.push(b'\n');
    private_file::replace(path, &text, |copy| like(path, copy), io(path))
}

/// Gives `file` the owner and the mode of what is at `path`, if anything is.
#[cfg(unix)]
fn like(path: &Path, file: &File) -> Result<(), KeyFileError> {
    use std::os::unix::fs::{MetadataExt, fchown};
    let Ok(old) = std::fs::metadata(path) else {
        return Ok(());
    };
    let new = file.metadata().map_err(io(path))?;
    if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
        fchown(file, Some(old.uid()), Some(old.gid())).map_err(|_| KeyFileError::Owner {
            path: path.display().to_string(),
            owner: old.uid(),
        })?;
    }
    // After the owner, whose change may clear bits.
    file.set_permissions(old.permissions()).map_err(io(path))
}

/// Elsewhere a file has its folder's rights.
#[cfg(not(unix))]
fn like(_: &Path, _: &File) -> Result<(), KeyFileError> {
    Ok(())
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> KeyFileError {
    let path = path.display().to_string();
    move |source| KeyFileError::Io {
        path: path.clone(),
        source,
    }
}

fn invalid(path: &Path, reason: String) -> KeyFileError {
    KeyFileError::Invalid {
        path: path.display().to_string(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(name: &str) -> NewKey<'_> {
        NewKey::new(name, Role::Infer, RateLimits::default())
    }

    #[cfg(unix)]
    #[test]
    fn a_changed_file_keeps_its_owner_its_mode_and_the_link_to_it() {
        use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("real.json"), folder.path().join("keys"));
        let first = add(&file, &new("first")).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        // Only root may give files away; anybody else keeps them.
        let given_away = chown(&file, Some(4321), Some(4322)).is_ok();
        let owner = |path: &Path| {
            let metadata = std::fs::metadata(path).unwrap();
            (metadata.uid(), metadata.gid(), metadata.mode() & 0o777)
        };
        let before = owner(&file);
        assert_eq!(given_away, before == (4321, 4322, 0o640));
        symlink("real.json", &link).unwrap();
        add(&link, &new("second")).unwrap();
        revoke(&link, first.id()).unwrap();
        assert!(link.is_symlink());
        assert_eq!(owner(&file), before);
        assert_eq!(read(&file).unwrap()[0].name, "second");
        let beside: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(
            beside.len(),
            3,
            "the file, its lock and the link: {beside:?}"
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_link_that_leads_nowhere_is_not_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("keys");
        std::os::unix::fs::symlink("mounted-later", &link).unwrap();
        let error = add(&link, &new("first")).unwrap_err();
        assert!(matches!(error, KeyFileError::Io { .. }), "{error}");
        assert!(link.is_symlink() && !link.exists());
    }

    #[test]
    fn two_keys_have_two_names_and_one_too_many_can_be_taken_out() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.json");
        let first = add(&file, &new("alice")).unwrap();
        let again = add(&file, &new("alice")).unwrap_err();
        let told = again.to_string();
        assert!(matches!(again, KeyFileError::NameTaken { .. }), "{told}");
        assert!(told.contains(first.id()), "{told}");
        let second = add(&file, &new("bob")).unwrap();
        // As somebody may have written it, or an older version.
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace("bob", "alice")).unwrap();
        let told = read(&file).unwrap_err().to_string();
        for words in [first.id(), second.id(), "'alice'", "keys revoke"] {
            assert!(told.contains(words), "{words}: {told}");
        }
        assert!(add(&file, &new("carol")).is_err());
        assert_eq!(entries(&file).unwrap().len(), 2);
        revoke(&file, second.id()).unwrap();
        assert_eq!(read(&file).unwrap().len(), 1);
        add(&file, &new("bob")).unwrap();
    }
}
