//! Which files of a repository an engine needs.
//!
//! A repository often holds one model many times: in ten quantisations, in PyTorch's format beside safetensors, for
//! other engines. Of GGUF files one is taken, or all parts of one; of a directory the configuration, the tokenizer,
//! the template and the weights as safetensors. Where several could be meant, nobody guesses.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::HubError;
use crate::name::{FileName, RepositoryId, Revision};

/// What of a Hugging Face directory is read, beside weights.
const DIRECTORY_FILES: [&str; 11] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
];

/// What stands for the directory of safetensors where a file is named.
const SAFETENSORS: &str = "safetensors";
/// Ends the name of the file that tells which part of the weights has which tensor.
const INDEX: &str = ".index.json";
/// Endings of files that run code when they are read plainly.
const PICKLES: [&str; 6] = [".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"];

/// What is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChosenFiles {
    /// The files.
    pub files: Vec<FileName>,
    /// Parts that belong to them and are not there.
    pub missing: Vec<String>,
    /// Which of them names the model to an engine; none: the folder that they are in.
    pub model: Option<FileName>,
}

/// Names for a line: the first few, and how many there are more.
pub(crate) fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 4;
    let more = names.len().saturating_sub(SHOWN);
    let more = (more > 0).then(|| format!("{more} more"));
    let shown: Vec<String> = names.iter().take(SHOWN).cloned().chain(more).collect();
    match shown.as_slice() {
        [first @ .., last] if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        _ => shown.concat(),
    }
}

/// The same as the subject of a sentence about what they are.
pub(crate) fn are(names: &[String]) -> String {
    let verb = if names.len() == 1 { "is" } else { "are" };
    format!("{} {verb}", some_of(names))
}

/// What a user wants of a repository.
#[derive(Debug, Clone, Copy, Default)]
pub struct WantedFiles<'a> {
    /// A file's name, or a part of it.
    pub pattern: Option<&'a str>,
    /// The revision that was named, for whoever is asked to choose.
    pub revision: Option<&'a Revision>,
    /// Take PyTorch's files where there is nothing else.
    pub allow_pickle: bool,
}

/// A model in a file or in numbered parts.
struct Gguf<'a> {
    first: &'a FileName,
    files: Vec<&'a FileName>,
    split: Option<Split<'a>>,
    bytes: u64,
}

/// What the names of a model's parts say.
struct Split<'a> {
    stem: &'a str,
    of: usize,
    there: BTreeSet<usize>,
}

/// A part of a split by its number.
type NumberedPart<'a> = (usize, &'a (FileName, u64));

/// Chooses from `files`, each with its bytes.
///
/// # Errors
/// [`HubError::Choice`] where several could be meant, [`HubError::NoModel`] where nothing could.
pub fn choose(
    id: &RepositoryId,
    files: &[(FileName, u64)],
    wanted: WantedFiles<'_>,
) -> Result<ChosenFiles, HubError> {
    let ggufs = ggufs(files);
    let weights = weights(files, is_safetensors);
    let has_directory = !weights.is_empty() && has(files, "config.json");
    let choices = |of: &[&Gguf<'_>], directory: bool| {
        let mut choices: Vec<(String, u64)> =
            of.iter().map(|g| (g.first.to_string(), g.bytes)).collect();
        if directory {
            choices.push((
                SAFETENSORS.into(),
                weights.iter().map(|(_, size)| size).sum(),
            ));
        }
        choices
    };
    let all: Vec<&Gguf<'_>> = ggufs.iter().collect();
    if let Some(pattern) = wanted.pattern {
        if has_directory && pattern.eq_ignore_ascii_case(SAFETENSORS) {
            return Ok(directory(files, &weights));
        }
        let named = files.iter().find(|(name, _)| name.as_str() == pattern);
        let part = named.and_then(|(name, _)| ggufs.iter().find(|g| g.files.contains(&name)));
        if let Some(gguf) = part {
            return Ok(gguf.chosen());
        }
        if let Some((name, _)) = named {
            if is_pickle(name) && !wanted.allow_pickle {
                return Err(no_pickle(
                    id,
                    name,
                    "what is named is one of its pickle files",
                ));
            }
            return Ok(ChosenFiles {
                files: vec![name.clone()],
                missing: Vec::new(),
                model: Some(name.clone()),
            });
        }
        let meant = matching(&all, pattern);
        return match meant.as_slice() {
            [gguf] => Ok(gguf.chosen()),
            [] if all.is_empty() && !has_directory => Err(no_model(id, files)),
            [] => Err(several(id, wanted, false, choices(&all, has_directory))),
            meant => Err(several(id, wanted, true, choices(meant, false))),
        };
    }
    // What goes with a model (the weights of its eyes, statistics of its quantisation) is nothing to run.
    let models: Vec<&Gguf<'_>> = all.into_iter().filter(|g| !g.is_companion()).collect();
    match models.as_slice() {
        [gguf] if !has_directory => Ok(gguf.chosen()),
        [] if has_directory => Ok(directory(files, &weights)),
        [] => {
            let pickles = weights_of_pytorch(files);
            match wanted.allow_pickle && !pickles.is_empty() && has(files, "config.json") {
                true => Ok(directory(files, &pickles)),
                false => Err(no_model(id, files)),
            }
        }
        models => Err(several(id, wanted, true, choices(models, has_directory))),
    }
}

fn several(
    id: &RepositoryId,
    wanted: WantedFiles<'_>,
    are_meant: bool,
    choices: Vec<(String, u64)>,
) -> HubError {
    HubError::Choice {
        id: id.clone(),
        pattern: wanted.pattern.map(Into::into),
        revision: wanted.revision.cloned(),
        are_meant,
        choices,
    }
}

/// Whether an error says that the file which was named is not among those that are there.
pub(crate) fn names_another(error: &HubError) -> bool {
    matches!(
        error,
        HubError::Choice {
            are_meant: false,
            ..
        }
    )
}

fn no_model(id: &RepositoryId, files: &[(FileName, u64)]) -> HubError {
    if let Some((pickle, _)) = files.iter().find(|(name, _)| is_pickle(name)) {
        return no_pickle(id, pickle, "its weights are pickle files");
    }
    let (why, hint) = if files.iter().any(|(name, _)| is_safetensors(name.as_str())) {
        (
            "it has safetensors but no config.json beside them".into(),
            format!("name a file, as {id}:FILE, to download that alone"),
        )
    } else {
        (
            "it has neither GGUF files nor safetensors".into(),
            format!("its page lists its files; {id}:FILE downloads one"),
        )
    };
    HubError::NoModel {
        id: id.clone(),
        why,
        hint,
    }
}

/// Whether a file names the parts of a model's weights.
pub(crate) fn is_index(name: &FileName) -> bool {
    name.as_str().ends_with(INDEX)
}

fn is_pickle(name: &FileName) -> bool {
    let name = name.as_str().to_lowercase();
    PICKLES.iter().any(|ending| name.ends_with(ending))
}

fn no_pickle(id: &RepositoryId, pickle: &FileName, what: &str) -> HubError {
    HubError::NoModel {
        id: id.clone(),
        why: format!("{what} ({pickle}), which can run code when they are read"),
        hint: "look for the same model as GGUF or safetensors; --allow-pickle downloads them all the same".into(),
    }
}

fn has(files: &[(FileName, u64)], name: &str) -> bool {
    files.iter().any(|(file, _)| file.as_str() == name)
}

fn is_safetensors(name: &str) -> bool {
    name.ends_with(".safetensors")
}

/// Weights beside the configuration, the usual name before all others: a repository may hold the same weights twice.
fn weights(files: &[(FileName, u64)], is_weights: impl Fn(&str) -> bool) -> Vec<&(FileName, u64)> {
    let at_root = files.iter().filter(|(name, _)| {
        name.depth() == 0 && is_weights(name.as_str()) && !name.as_str().starts_with("adapter_")
    });
    let at_root: Vec<_> = at_root.collect();
    let whole: Vec<_> = at_root
        .iter()
        .copied()
        .filter(|(name, _)| name.as_str() == "model.safetensors")
        .collect();
    if !whole.is_empty() {
        return whole;
    }
    let parts: Vec<_> = at_root
        .iter()
        .copied()
        .filter(|(name, _)| name.as_str().starts_with("model-"))
        .collect();
    match parts.is_empty() {
        true => at_root,
        false => parts,
    }
}

fn weights_of_pytorch(files: &[(FileName, u64)]) -> Vec<&(FileName, u64)> {
    weights(files, |name| {
        name.starts_with("pytorch_model") && name.ends_with(".bin")
    })
}

/// The configuration, the tokenizer and the weights, with the index of their parts.
fn directory(files: &[(FileName, u64)], weights: &[&(FileName, u64)]) -> ChosenFiles {
    // `model.safetensors.index.json` tells of `model-00001-of-00002.safetensors`, and of no pickles beside it.
    let is_theirs = |index: &FileName| {
        let whole = index.as_str().strip_suffix(INDEX).unwrap_or_default();
        let Some((stem, ending)) = whole.rsplit_once('.') else {
            return false;
        };
        let is_part = |name: &str| {
            let rest = name
                .strip_suffix(ending)
                .and_then(|name| name.strip_prefix(stem));
            rest.is_some_and(|rest| rest.starts_with('-') && rest.ends_with('.'))
        };
        weights.iter().any(|(name, _)| is_part(name.as_str()))
            && !weights.iter().any(|(name, _)| name.as_str() == whole)
    };
    let beside = files.iter().filter(|(name, _)| {
        DIRECTORY_FILES.contains(&name.as_str()) || (name.depth() == 0 && is_theirs(name))
    });
    ChosenFiles {
        files: beside
            .chain(weights.iter().copied())
            .map(|(name, _)| name.clone())
            .collect(),
        missing: Vec::new(),
        model: None,
    }
}

impl Split<'_> {
    /// The names of parts that are not there: of the model that is chosen alone, for a hostile repository may claim
    /// parts by the billion.
    fn missing(&self) -> Vec<String> {
        let absent = (1..=self.of).filter(|n| !self.there.contains(n));
        absent
            .map(|n| format!("{}-{n:05}-of-{:05}.gguf", self.stem, self.of))
            .collect()
    }
}

impl Gguf<'_> {
    fn chosen(&self) -> ChosenFiles {
        ChosenFiles {
            files: self.files.iter().map(|name| (*name).clone()).collect(),
            missing: self.split.as_ref().map_or_else(Vec::new, Split::missing),
            model: Some(self.first.clone()),
        }
    }

    fn is_companion(&self) -> bool {
        let name = self
            .first
            .as_str()
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .to_lowercase();
        name.contains("mmproj") || name.contains("imatrix")
    }
}

/// Those whose name has `pattern` in it: as a word if there are any, else anywhere.
fn matching<'a, 'b>(ggufs: &[&'a Gguf<'b>], pattern: &str) -> Vec<&'a Gguf<'b>> {
    let pattern = pattern.to_lowercase();
    let name = |gguf: &Gguf<'_>| gguf.first.as_str().to_lowercase();
    let is_edge = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '_');
    let is_word = |gguf: &&&Gguf<'_>| {
        let name = name(gguf);
        name.match_indices(&pattern).any(|(at, found)| {
            is_edge(name[..at].chars().next_back())
                && is_edge(name[at + found.len()..].chars().next())
        })
    };
    let words: Vec<_> = ggufs.iter().filter(is_word).copied().collect();
    match words.is_empty() {
        false => words,
        true => ggufs
            .iter()
            .filter(|gguf| name(gguf).contains(&pattern))
            .copied()
            .collect(),
    }
}

/// The GGUF files, parts of one split as one.
fn ggufs(files: &[(FileName, u64)]) -> Vec<Gguf<'_>> {
    let mut splits: BTreeMap<(&str, usize), Vec<NumberedPart<'_>>> = BTreeMap::new();
    let mut ggufs = Vec::new();
    for file in files {
        let Some(stem) = file.0.as_str().strip_suffix(".gguf") else {
            continue;
        };
        match part(stem) {
            Some((stem, n, of)) => splits.entry((stem, of)).or_default().push((n, file)),
            None => ggufs.push(Gguf {
                first: &file.0,
                files: vec![&file.0],
                split: None,
                bytes: file.1,
            }),
        }
    }
    for ((stem, of), mut parts) in splits {
        parts.sort_by_key(|(n, _)| *n);
        ggufs.push(Gguf {
            first: &parts[0].1.0,
            files: parts.iter().map(|(_, file)| &file.0).collect(),
            split: Some(Split {
                stem,
                of,
                there: parts.iter().map(|(n, _)| *n).collect(),
            }),
            bytes: parts
                .iter()
                .fold(0, |sum, (_, file)| file.1.saturating_add(sum)),
        });
    }
    ggufs.sort_by_key(|gguf| gguf.first);
    ggufs
}

/// The name, the number and the count of a part: `NAME-00001-of-00003`. Five digits keep the count small.
fn part(stem: &str) -> Option<(&str, usize, usize)> {
    let (rest, of) = stem.rsplit_once("-of-")?;
    let (stem, n) = rest.rsplit_once('-')?;
    let number = |digits: &str| {
        let is_number = digits.len() == 5 && digits.bytes().all(|b| b.is_ascii_digit());
        is_number.then(|| digits.parse().ok()).flatten()
    };
    let (n, of) = (number(n)?, number(of)?);
    (1..=of).contains(&n).then_some((stem, n, of))
}

#[cfg(test)]
mod tests;
