//! Whether what the cache has is still what the Hub names: a disk that fails, or a program that writes where it should
//! not, changes bytes and leaves the size.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::choice::ChosenFiles;
use crate::error::HubError;
use crate::hub::Hub;
use crate::lock::Lock;
use crate::repository::{HubFile, Repository};
use crate::stop::Stop;

/// Bytes that are read at once.
const BUFFER: usize = 256 << 10;

impl Hub {
    /// The chosen files that the cache has, and whose size or bytes are not what the Hub names; `advance` is told how many
    /// bytes have been read.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn damaged<'a>(
        &self,
        repository: &'a Repository,
        chosen: &ChosenFiles,
        advance: &dyn Fn(u64),
    ) -> Result<Vec<&'a HubFile>, HubError> {
        let mut damaged = Vec::new();
        for file in &repository.files {
            if chosen.files.contains(&file.name)
                && !self.damaged_paths(repository, file, advance)?.is_empty()
            {
                damaged.push(file);
            }
        }
        Ok(damaged)
    }

    /// Takes what is damaged still of `files` out of the cache, so that a pull fetches it. Where there are no links, and
    /// a file is there twice, the one that is whole stays.
    ///
    /// # Errors
    /// What the system says.
    pub fn discard(&self, repository: &Repository, files: &[&HubFile]) -> Result<(), HubError> {
        let (id, cache) = (&repository.id, self.cache());
        for file in files {
            let path = cache.lock(id, file.checksum.hex());
            let _lock = Lock::take(&path, &Stop::default(), &|| ())?;
            // Whoever had the lock before may have brought it anew.
            for path in self.damaged_paths(repository, file, &|_| ())? {
                match fs::remove_file(&path) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => {
                        return Err(HubError::io("remove", path)(e));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Which of the file's name in the snapshot and the blob, which may be two files where there are no links, lead to
    /// bytes that are not what they should be. What is of another size need not be read.
    fn damaged_paths(
        &self,
        repository: &Repository,
        file: &HubFile,
        advance: &dyn Fn(u64),
    ) -> Result<Vec<PathBuf>, HubError> {
        let (id, cache) = (&repository.id, self.cache());
        let named = cache
            .snapshot(id, &repository.commit)
            .join(file.name.as_str());
        let blob = cache.blob(id, &file.checksum);
        // Both names of one file are read once.
        let mut sums = BTreeMap::new();
        let mut damaged = Vec::new();
        for path in [named, blob] {
            let Ok(target) = path.canonicalize() else {
                continue;
            };
            let found = target.metadata().map_err(HubError::io("read", &target))?;
            if !found.is_file() {
                continue;
            }
            if found.len() != file.size {
                damaged.push(path);
                continue;
            }
            let sum = match sums.get(&target) {
                Some(sum) => sum,
                None => {
                    let sum = sum_of(&target, file, advance);
                    let sum = sum.map_err(HubError::io("read", &target))?;
                    sums.entry(target).or_insert(sum)
                }
            };
            if sum != file.checksum.hex() {
                damaged.push(path);
            }
        }
        Ok(damaged)
    }
}

/// What the bytes of a file sum up to.
fn sum_of(path: &Path, file: &HubFile, advance: &dyn Fn(u64)) -> io::Result<String> {
    let mut bytes = File::open(path)?;
    let mut sum = file.checksum.begin(file.size);
    let mut buffer = vec![0; BUFFER];
    loop {
        match bytes.read(&mut buffer) {
            Ok(0) => return Ok(sum.end()),
            Ok(n) => {
                sum.add(&buffer[..n]);
                advance(n as u64);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
