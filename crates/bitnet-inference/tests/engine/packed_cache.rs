//! Packed weights that are kept give the numbers that packing gives, and never those of another model.

use std::fs;
use std::path::Path;

use bitnet_inference::{
    Engine, GenerateOptions, LoadOptions, LogitRows, PackedCache, PackedWeights,
};

use super::{reference_path, stories_path, text_of, tokens};

fn load(model: &Path, folder: &Path) -> Engine {
    let options = LoadOptions {
        packed_cache: Some(PackedCache {
            folder: folder.into(),
            least_bytes: 0,
        }),
        ..LoadOptions::default()
    };
    Engine::load(model, &options).unwrap()
}

fn from(engine: &Engine) -> PackedWeights {
    engine.info().packed_weights
}

fn story(engine: &Engine) -> String {
    let options = GenerateOptions {
        max_tokens: Some(30),
        temperature: Some(0.0),
        ..GenerateOptions::default()
    };
    text_of(&tokens(engine, "Once upon a time", &options))
}

/// The one file of the cache.
fn kept(folder: &Path) -> std::path::PathBuf {
    let mut files = fs::read_dir(folder).unwrap();
    let file = files.next().unwrap().unwrap().path();
    assert!(files.next().is_none(), "one file for a model");
    file
}

#[test]
fn the_second_start_packs_nothing_and_tells_the_same_story() {
    let folder = tempfile::tempdir().unwrap();
    let first = load(&stories_path(), folder.path());
    let second = load(&stories_path(), folder.path());
    assert_eq!(
        (from(&first), from(&second)),
        (PackedWeights::Written, PackedWeights::Kept)
    );
    assert_eq!(story(&first), story(&second));
    let bytes = |engine: &Engine| {
        let info = engine.info();
        (info.kernel.clone(), info.layer_bytes, info.layer_copy_bytes)
    };
    assert_eq!(bytes(&first), bytes(&second));
    assert_eq!(second.info().warnings, Vec::<String>::new());
}

#[test]
fn logits_of_every_reference_model_are_the_same_bytes() {
    let mut seen = 0;
    for entry in fs::read_dir(reference_path("")).unwrap() {
        let model = entry.unwrap().path();
        if !model.join("config.json").exists() {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let logits = || {
            let engine = load(&model, folder.path());
            let logits = engine.logits(&[1, 2, 3, 5, 8], LogitRows::All).unwrap();
            (from(&engine), logits)
        };
        let (written, first) = logits();
        let (kept, second) = logits();
        assert_eq!(
            (written, kept),
            (PackedWeights::Written, PackedWeights::Kept)
        );
        let bits = |row: &[f32]| row.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&first), bits(&second), "{}", model.display());
        seen += 1;
    }
    assert!(seen > 2, "reference models: {seen}");
}

#[test]
fn a_replaced_model_replaces_its_packed_weights() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.gguf");
    let cache = folder.path().join("cache");
    let gguf = fs::read(stories_path()).unwrap();
    fs::write(&model, &gguf).unwrap();
    assert_eq!(from(&load(&model, &cache)), PackedWeights::Written);
    assert_eq!(from(&load(&model, &cache)), PackedWeights::Kept);
    fs::remove_file(&model).unwrap();
    fs::write(&model, &gguf).unwrap();
    assert_eq!(from(&load(&model, &cache)), PackedWeights::Written);
    kept(&cache);
}

#[test]
fn a_damaged_file_is_told_and_written_again() {
    let folder = tempfile::tempdir().unwrap();
    let first = load(&stories_path(), folder.path());
    let file = kept(folder.path());
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(&file, &bytes).unwrap();
    let second = load(&stories_path(), folder.path());
    assert_eq!(from(&second), PackedWeights::Written);
    assert!(
        second.info().warnings[0].contains("checksum"),
        "{:?}",
        second.info().warnings
    );
    assert_eq!(story(&first), story(&second));
    assert_eq!(
        from(&load(&stories_path(), folder.path())),
        PackedWeights::Kept
    );
}

#[test]
fn a_folder_that_cannot_be_made_costs_a_warning_only() {
    let folder = tempfile::tempdir().unwrap();
    let blocked = folder.path().join("file");
    fs::write(&blocked, "in the way").unwrap();
    let engine = load(&stories_path(), &blocked.join("cache"));
    assert_eq!(from(&engine), PackedWeights::Made);
    assert!(
        engine
            .info()
            .warnings
            .iter()
            .any(|text| text.contains("could not be kept"))
    );
}

#[test]
fn small_models_and_chosen_kernels_are_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let cache = PackedCache::in_folder(folder.path().join("cache"));
    let options = LoadOptions {
        packed_cache: Some(cache.clone()),
        ..LoadOptions::default()
    };
    let small = Engine::load(stories_path(), &options).unwrap();
    assert_eq!(from(&small), PackedWeights::Made);
    let options = LoadOptions {
        packed_cache: Some(PackedCache {
            least_bytes: 0,
            ..cache.clone()
        }),
        kernel: Some("scalar-i2s".into()),
        ..LoadOptions::default()
    };
    let scalar = Engine::load(stories_path(), &options).unwrap();
    assert_eq!(from(&scalar), PackedWeights::Made);
    assert!(!cache.folder.exists());
}

/// Set in a process whose files have no room.
#[cfg(unix)]
const WITHOUT_ROOM: &str = "BITNET_TEST_WITHOUT_ROOM";

/// The disk is full, which a limit on the size of files stands for: it is the whole process's, so a process of its own has it.
#[cfg(unix)]
#[test]
fn packed_weights_that_do_not_fit_on_the_disk_are_a_warning_and_leave_nothing_behind() {
    if std::env::var_os(WITHOUT_ROOM).is_none() {
        let script = "trap '' XFSZ; ulimit -f 64; exec \"$@\""; // of half a kilobyte
        let this = "packed_cache::packed_weights_that_do_not_fit_on_the_disk_are_a_warning_and_leave_nothing_behind";
        let ended = std::process::Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", this, "--nocapture"])
            .env(WITHOUT_ROOM, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ended.stdout);
        assert!(
            ended.status.success() && said.contains("1 passed"),
            "{ended:?}"
        );
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let engine = load(&stories_path(), &cache);
    assert_eq!(from(&engine), PackedWeights::Made);
    let warnings = &engine.info().warnings;
    assert!(warnings[0].contains("could not be kept"), "{warnings:?}");
    assert_eq!(
        fs::read_dir(&cache).unwrap().count(),
        0,
        "no part of a file"
    );
    let other = folder.path().join("other");
    assert!(story(&engine).len() > 20, "it runs all the same");
    assert_eq!(story(&engine), story(&load(&stories_path(), &other)));
}
