//! Which files a model is loaded from, and what tells that they are still the same.
//!
//! Whoever confines, hashes, copies or keeps something of a model must mean the same files that loading it reads: the
//! file and the other parts of its split, or the weights, configurations and vocabularies of a directory.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};

#[cfg(not(unix))]
use std::time::UNIX_EPOCH;

use crate::gguf::shard_name;
use crate::pickle;

/// Extensions of the files of a model directory that loading may read.
const OF_DIRECTORY: [&str; 5] = [WEIGHTS, "json", "jinja", "model", "txt"];

/// The extension of weights; where no file has it, pickles are what loading may read.
const WEIGHTS: &str = "safetensors";

/// The file of a module of sentence-transformers, in a folder of its own (`1_Pooling/config.json`).
const OF_MODULE: &str = "config.json";

/// The files that the model at `path` is loaded from, in order of names: of a GGUF file it and the other parts of its
/// split, whether they are there or not; of a directory all weights, configurations and vocabularies in it, and the
/// configurations of its modules.
///
/// # Errors
/// A path that does not exist or may not be read, and a directory without any.
pub fn model_files(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(parts(path).unwrap_or_else(|| vec![path.to_owned()]));
    }
    let (mut files, mut pickles) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(path)? {
        let file = entry?.path();
        let module = file.join(OF_MODULE);
        let extension = file.extension().and_then(|extension| extension.to_str());
        if extension.is_some_and(|extension| OF_DIRECTORY.contains(&extension)) {
            files.push(file);
        } else if module.exists() {
            files.push(module);
        } else if file.file_name().is_some_and(is_pickle) {
            pickles.push(file);
        }
    }
    let has_weights = |file: &PathBuf| file.extension().is_some_and(|found| found == WEIGHTS);
    if !files.iter().any(has_weights) {
        files.append(&mut pickles);
    }
    if files.is_empty() {
        return Err(io::Error::from(io::ErrorKind::NotFound));
    }
    files.sort();
    Ok(files)
}

fn is_pickle(name: &OsStr) -> bool {
    name.to_str().is_some_and(pickle::is_weights)
}

/// The parts of `NAME-00001-of-00003.gguf`.
fn parts(path: &Path) -> Option<Vec<PathBuf>> {
    let name = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
    let (rest, count) = name.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(count) || !digits(number) {
        return None;
    }
    let count = count.parse().ok()?;
    let part = |index| path.with_file_name(shard_name(stem, index, count));
    Some((0..count).map(part).collect())
}

/// What tells that a file is still the one that was read: which it is, how long it is, and when its content and its own
/// data last changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileStamp {
    identity: (u64, u64),
    bytes: u64,
    modified: i128,
    changed: i128,
}

impl FileStamp {
    /// The stamp of a file, from what the system says of it.
    pub fn of(metadata: &Metadata) -> FileStamp {
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let time =
                |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
            FileStamp {
                identity: (metadata.dev(), metadata.ino()),
                bytes: metadata.len(),
                modified: time(metadata.mtime(), metadata.mtime_nsec()),
                changed: time(metadata.ctime(), metadata.ctime_nsec()),
            }
        }
        #[cfg(not(unix))]
        {
            let since = |time: io::Result<std::time::SystemTime>| {
                let since = time.ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
                since.map_or(0, |since| since.as_nanos() as i128)
            };
            FileStamp {
                identity: (0, 0),
                bytes: metadata.len(),
                modified: since(metadata.modified()),
                changed: since(metadata.created()),
            }
        }
    }

    /// The stamp of the file at `path`, through links.
    ///
    /// # Errors
    /// What the system says.
    pub fn at(path: &Path) -> io::Result<FileStamp> {
        Ok(FileStamp::of(&fs::metadata(path)?))
    }

    /// Bytes of the file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl std::fmt::Display for FileStamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let FileStamp {
            identity: (device, inode),
            bytes,
            modified,
            changed,
        } = self;
        write!(
            f,
            "{bytes} bytes, changed {modified} and {changed} ns, file {device}:{inode}"
        )
    }
}

/// The files of a model as they were at one time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ModelFiles(Vec<(PathBuf, FileStamp)>);

impl ModelFiles {
    /// The files of the model at `path`.
    ///
    /// # Errors
    /// As [`model_files`], and a file that is missing or is no regular file: opening another may wait for ever.
    pub fn of(path: &Path) -> io::Result<ModelFiles> {
        let stamped = |file: PathBuf| {
            let metadata = fs::metadata(&file)?;
            if !metadata.is_file() {
                let name = file.file_name().unwrap_or_default().display().to_string();
                let message = format!("{name} is no regular file");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
            }
            Ok((file, FileStamp::of(&metadata)))
        };
        let files = model_files(path)?.into_iter().map(stamped);
        Ok(ModelFiles(files.collect::<io::Result<_>>()?))
    }

    /// The files with their stamps, in order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&Path, FileStamp)> {
        self.0.iter().map(|(path, stamp)| (path.as_path(), *stamp))
    }

    /// Whether weights are pickles among them: no engine loads such a model before it is converted.
    pub fn has_pickles(&self) -> bool {
        self.iter()
            .any(|(file, _)| file.file_name().is_some_and(is_pickle))
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.iter().map(|(_, stamp)| stamp.bytes).sum()
    }

    /// Whether the files are still the same.
    ///
    /// # Errors
    /// When one has changed, or is gone.
    pub fn check_unchanged(&self) -> io::Result<()> {
        for (path, stamp) in self.iter() {
            if FileStamp::at(path)? != stamp {
                let name = path.file_name().unwrap_or_default();
                let message = format!("{} changed while it was read", name.display());
                return Err(io::Error::other(message));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &Path) -> Vec<String> {
        let files = model_files(path).unwrap();
        let base = path.parent().unwrap();
        let name = |file: PathBuf| file.strip_prefix(base).unwrap().display().to_string();
        files.into_iter().map(name).collect()
    }

    #[test]
    fn a_file_is_itself_or_all_parts_of_its_split_and_nothing_that_begins_alike() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["m.gguf", "m-00001-of-00002.gguf", "m-large.gguf", "m"] {
            fs::write(at(name), name).unwrap();
        }
        assert_eq!(names(&at("m.gguf")), ["m.gguf"]);
        let split = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"];
        assert_eq!(names(&at(split[0])), split);
        assert!(ModelFiles::of(&at(split[0])).is_err(), "a part is missing");
        fs::write(at(split[1]), "part").unwrap();
        assert_eq!(ModelFiles::of(&at(split[0])).unwrap().bytes(), 21 + 4);
    }

    #[test]
    fn a_directory_is_what_loading_reads_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model");
        for folder in ["1_Pooling", "onnx", ".git"] {
            fs::create_dir_all(model.join(folder)).unwrap();
        }
        for name in [
            "config.json",
            "model.safetensors",
            "README.md",
            "1_Pooling/config.json",
            "onnx/model.onnx",
            "pytorch_model.bin",
            "training_args.bin",
            "vocab.txt",
        ] {
            fs::write(model.join(name), name).unwrap();
        }
        let expected = [
            "model/1_Pooling/config.json",
            "model/config.json",
            "model/model.safetensors",
            "model/vocab.txt",
        ];
        assert_eq!(names(&model), expected);
        assert!(!ModelFiles::of(&model).unwrap().has_pickles());
        fs::remove_file(model.join("model.safetensors")).unwrap();
        let pickled = expected.map(|name| name.replace("model.safetensors", "pytorch_model.bin"));
        assert_eq!(names(&model), pickled);
        assert!(ModelFiles::of(&model).unwrap().has_pickles());
        assert!(model_files(&model.join(".git")).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_regular_file_is_none_of_a_model() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("config.json"), "{}").unwrap();
        let before = ModelFiles::of(folder.path()).unwrap();
        std::os::unix::fs::symlink("/dev/zero", at("vocab.json")).unwrap();
        let error = ModelFiles::of(folder.path()).unwrap_err();
        assert_eq!(error.to_string(), "vocab.json is no regular file");
        before.check_unchanged().unwrap();
        fs::write(at("config.json"), "{ }").unwrap();
        assert!(before.check_unchanged().is_err());
        fs::remove_file(at("config.json")).unwrap();
        assert!(before.check_unchanged().is_err());
    }
}
