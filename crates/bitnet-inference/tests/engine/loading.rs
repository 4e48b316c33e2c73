//! Every way to load a model gives the same bytes, and keeps the promise that the others do not make.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bitnet_inference::{
    Engine, Error, GenerateOptions, KvPool, LoadOptions, PackedWeights, WeightsPlace,
};
use bitnet_models::gguf::Gguf;

use super::{in_crates, reference_path, stories_path, tokens};

fn drawn(engine: &Engine) -> Vec<(u32, String)> {
    let options = GenerateOptions {
        max_tokens: Some(30),
        temperature: Some(0.9),
        seed: Some(7),
        ..GenerateOptions::default()
    };
    let tokens = tokens(engine, "Once upon a time", &options);
    tokens.into_iter().map(|t| (t.id, t.text)).collect()
}

/// A model of three layers in TQ2_0, with a scale for every block, and one in I2_S.
fn models() -> [PathBuf; 2] {
    [
        stories_path(),
        reference_path("gguf/tiny-bitnet-silu.bitnet.TQ2_0.gguf"),
    ]
}

/// A file in pieces of odd sizes, with an end of its own choice.
struct Pieces {
    bytes: Vec<u8>,
    at: usize,
    /// What follows the bytes: nothing, an error, or zeros without end.
    then: Then,
}

#[derive(Clone, Copy)]
enum Then {
    End,
    Error,
    Zeros,
}

impl Read for Pieces {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let rest = &self.bytes[self.at..];
        let n = rest.len().min(out.len()).min(977);
        out[..n].copy_from_slice(&rest[..n]);
        self.at += n;
        match self.then {
            _ if n > 0 || out.is_empty() => Ok(n),
            Then::End => Ok(0),
            Then::Error => Err(io::ErrorKind::ConnectionReset.into()),
            Then::Zeros => {
                let n = out.len().min(977);
                out[..n].fill(0);
                Ok(n)
            }
        }
    }
}

fn stream(bytes: &[u8], then: Then) -> Result<Engine, Error> {
    let pieces = Pieces {
        bytes: bytes.to_vec(),
        at: 0,
        then,
    };
    Engine::load_streaming("a stream", pieces, &LoadOptions::default())
}

#[test]
fn every_way_of_loading_draws_the_same_tokens() {
    for path in models() {
        let options = LoadOptions::default();
        let expected = drawn(&Engine::load(&path, &options).unwrap());
        assert_eq!(expected.len(), 30);
        let folder = tempfile::tempdir().unwrap();
        let mapped = Engine::load_mmap(&path, folder.path().join("cache"), &options).unwrap();
        assert_eq!(drawn(&mapped), expected);
        let streamed = stream(&fs::read(&path).unwrap(), Then::End).unwrap();
        assert_eq!(drawn(&streamed), expected);
        let lazy = Engine::load_lazy(&path, &options).unwrap();
        assert_eq!(lazy.info().layer_bytes, 0);
        assert_eq!(drawn(&lazy), expected);
        assert_eq!(drawn(&lazy), expected, "of layers that are in memory");
    }
}

#[test]
fn a_stream_is_read_to_its_last_tensor_and_no_further() {
    // A stream that never ends.
    let engine = stream(&fs::read(stories_path()).unwrap(), Then::Zeros).unwrap();
    let whole = Engine::load(stories_path(), &LoadOptions::default()).unwrap();
    assert_eq!(drawn(&engine), drawn(&whole));
}

#[test]
fn streams_that_are_cut_or_fail_are_refused_wherever_they_are() {
    let bytes = fs::read(stories_path()).unwrap();
    let gguf = Gguf::open(&stories_path()).unwrap();
    let data = gguf.tensors().iter().map(|t| t.offset()).min().unwrap() as usize;
    let end = gguf.tensors().iter();
    let end = end.map(|t| t.offset() + t.bytes().unwrap()).max().unwrap() as usize;
    for cut in [
        0,
        3,
        20,
        data / 2,
        data,
        data + 100,
        (data + end) / 2,
        end - 1,
    ] {
        for then in [Then::End, Then::Error] {
            let Err(error) = stream(&bytes[..cut], then) else {
                panic!("{cut} bytes of {end} are no model")
            };
            assert!(
                error.to_string().starts_with("a stream: "),
                "{cut}: {error}"
            );
            assert!(error.hint().is_some());
        }
    }
    let Err(error) = stream(b"<!DOCTYPE html><html></html>", Then::Zeros) else {
        panic!("a web page without end")
    };
    assert!(error.to_string().contains("not a model file"), "{error}");
}

/// A copy of the story model whose bytes `change` has changed.
fn changed(folder: &Path, change: impl FnOnce(&Gguf, &mut Vec<u8>)) -> PathBuf {
    let path = folder.join("model.gguf");
    let mut bytes = fs::read(stories_path()).unwrap();
    change(&Gguf::open(&stories_path()).unwrap(), &mut bytes);
    fs::write(&path, bytes).unwrap();
    path
}

fn first_error(engine: &Engine) -> String {
    let mut generation = engine
        .generate("Once upon a time", &GenerateOptions::default())
        .unwrap();
    let error = generation.find_map(Result::err);
    error.expect("the pass fails").to_string()
}

#[test]
fn a_layer_is_looked_at_when_a_pass_comes_to_it_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    let mut name = String::new();
    // Codes that stand for no trit, in the last layer.
    let path = changed(folder.path(), |gguf, bytes| {
        let tensors = gguf.tensors().iter();
        let layer = |name: &str| name.split('.').nth(1).and_then(|n| n.parse::<u32>().ok());
        let last = tensors.filter(|t| t.name().ends_with("ffn_down.weight"));
        let last = last.max_by_key(|t| layer(t.name())).unwrap();
        name = last.name().to_owned();
        bytes[last.offset() as usize..][..64].fill(0xff);
    });
    assert!(Engine::load(&path, &LoadOptions::default()).is_err());
    let lazy = Engine::load_lazy(&path, &LoadOptions::default()).unwrap();
    for _ in 0..2 {
        let error = first_error(&lazy);
        assert!(error.contains(&name), "{error}");
    }
}

#[test]
fn a_file_that_is_written_before_its_layers_were_read_is_an_error_and_not_a_signal() {
    let folder = tempfile::tempdir().unwrap();
    for len in [0, 1 << 20] {
        let path = changed(folder.path(), |_, _| {});
        let lazy = Engine::load_lazy(&path, &LoadOptions::default()).unwrap();
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(len)
            .unwrap();
        let error = first_error(&lazy);
        assert!(error.contains("since it was opened"), "{error}");
    }
    // Of the same length, at another time.
    let path = changed(folder.path(), |_, _| {});
    let lazy = Engine::load_lazy(&path, &LoadOptions::default()).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    file.set_modified(modified + std::time::Duration::from_secs(5))
        .unwrap();
    let error = first_error(&lazy);
    assert!(error.contains("since it was opened"), "{error}");
}

#[test]
fn what_happens_to_a_file_later_does_not_concern_layers_that_were_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = changed(folder.path(), |_, _| {});
    let lazy = Engine::load_lazy(&path, &LoadOptions::default()).unwrap();
    // Replaced by another, as `mv` does: who has it open reads on in the old one.
    let other = folder.path().join("other.gguf");
    fs::write(&other, "no model").unwrap();
    #[cfg(unix)]
    fs::rename(&other, &path).unwrap();
    let expected = drawn(&Engine::load(stories_path(), &LoadOptions::default()).unwrap());
    assert_eq!(drawn(&lazy), expected);
    fs::write(&path, "").unwrap();
    assert_eq!(drawn(&lazy), expected);
}

#[test]
fn what_cannot_be_loaded_layer_by_layer_is_refused() {
    let directory = in_crates("bitnet-models/tests/data/reference/tiny-bitnet");
    let within = LoadOptions {
        kv_pool: KvPool::Within(1 << 30),
        ..LoadOptions::default()
    };
    for (path, options) in [
        (directory, LoadOptions::default()),
        (stories_path(), within),
    ] {
        let refused = Engine::load_lazy(&path, &options).err().unwrap();
        assert!(matches!(refused, Error::InvalidOption { .. }), "{refused}");
    }
    let missing = Engine::load_lazy("no-such.gguf", &LoadOptions::default());
    assert!(missing.err().unwrap().to_string().contains("no-such.gguf"));
}

#[test]
fn mapped_weights_are_in_files_of_their_own_or_the_model_is_not_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let (path, cache) = (
        changed(folder.path(), |_, _| {}),
        folder.path().join("cache"),
    );
    let options = LoadOptions::default();
    let expected = drawn(&Engine::load(&path, &options).unwrap());
    for kept in [PackedWeights::Written, PackedWeights::Kept] {
        let engine = Engine::load_mmap(&path, &cache, &options).unwrap();
        assert_eq!(engine.info().weights_in, WeightsPlace::Cache);
        assert_eq!(engine.info().packed_weights, kept);
        assert_eq!(drawn(&engine), expected);
    }
    // Cut short under a model that has not run yet.
    let engine = Engine::load_mmap(&path, &cache, &options).unwrap();
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(0)
        .unwrap();
    assert_eq!(drawn(&engine), expected);

    let no_folder = Engine::load_mmap(stories_path(), stories_path(), &options)
        .err()
        .unwrap();
    assert!(matches!(no_folder, Error::NotMapped { .. }), "{no_folder}");
    let dense = LoadOptions {
        dense: true,
        ..options
    };
    let refused = Engine::load_mmap(stories_path(), &cache, &dense)
        .err()
        .unwrap();
    assert!(matches!(refused, Error::InvalidOption { .. }), "{refused}");
}
