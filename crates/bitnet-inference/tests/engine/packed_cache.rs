//! Packed weights that are kept give the numbers that packing gives, and never those of another model.

use std::fs;
use std::path::{Path, PathBuf};

use bitnet_inference::{
    CachePurpose, Engine, GenerateOptions, HeadMode, LoadOptions, LogitRows, PackedCache,
    PackedWeights, REFERENCE_KERNEL, Reference, WeightsPlace,
};

use super::{reference_path, stories_path, text_of, tokens};

fn options(folder: &Path, purpose: CachePurpose) -> LoadOptions {
    LoadOptions {
        packed_cache: Some(PackedCache {
            folder: folder.into(),
            purpose,
            least_bytes: 0,
        }),
        ..LoadOptions::default()
    }
}

/// An engine that has written what it has to keep.
fn load(model: &Path, folder: &Path) -> Engine {
    let engine = Engine::load(model, &options(folder, CachePurpose::NextStart)).unwrap();
    if let Some(unwritten) = engine.take_unwritten() {
        unwritten.write().unwrap();
    }
    engine
}

fn serve(model: &Path, folder: &Path) -> Engine {
    Engine::load(model, &options(folder, CachePurpose::Serving)).unwrap()
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

/// The one file of packed weights.
fn kept(folder: &Path) -> PathBuf {
    let files = names(folder, ".bnpk");
    assert_eq!(files.len(), 1, "one file for a model");
    files[0].clone()
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
fn a_folder_that_cannot_be_made_costs_the_file_or_a_warning_only() {
    let folder = tempfile::tempdir().unwrap();
    let blocked = folder.path().join("file");
    fs::write(&blocked, "in the way").unwrap();
    let cache = blocked.join("cache");
    let options = |purpose| options(&cache, purpose);
    let engine = Engine::load(stories_path(), &options(CachePurpose::NextStart)).unwrap();
    let unwritten = engine.take_unwritten().unwrap();
    assert!(engine.take_unwritten().is_none());
    unwritten.write().unwrap_err();

    let served = Engine::load(stories_path(), &options(CachePurpose::Serving)).unwrap();
    let info = served.info();
    assert_eq!(
        (info.packed_weights, info.weights_in),
        (PackedWeights::Made, WeightsPlace::Memory)
    );
    assert!(
        info.warnings[0].contains("kept in memory"),
        "{:?}",
        info.warnings
    );
    assert_eq!(story(&engine), story(&served));
}

/// The names in a folder, by kind.
fn names(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    files
        .filter(|path| path.to_str().unwrap().ends_with(ending))
        .collect()
}

#[test]
fn weights_packed_through_the_file_are_those_packed_in_memory() {
    let (started, served) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = load(&stories_path(), started.path());
    let second = serve(&stories_path(), served.path());
    let third = serve(&stories_path(), served.path());
    assert_eq!(
        (from(&first), from(&second), from(&third)),
        (
            PackedWeights::Written,
            PackedWeights::Written,
            PackedWeights::Kept
        )
    );
    let place = |engine: &Engine| engine.info().weights_in;
    assert_eq!(
        (place(&first), place(&second), place(&third)),
        (
            WeightsPlace::Memory,
            WeightsPlace::Cache,
            WeightsPlace::Cache
        )
    );
    let packed = |folder: &Path| fs::read(&names(folder, ".bnpk")[0]).unwrap();
    assert!(packed(started.path()) == packed(served.path()));
    assert_eq!(story(&first), story(&second));
    assert_eq!(story(&first), story(&third));
}

#[test]
fn a_served_model_needs_its_own_files_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let (model, cache) = (
        folder.path().join("model.gguf"),
        folder.path().join("cache"),
    );
    fs::copy(stories_path(), &model).unwrap();
    let engine = serve(&model, &cache);
    // Cut short where it lies, then replaced by nonsense.
    fs::OpenOptions::new()
        .write(true)
        .open(&model)
        .unwrap()
        .set_len(100)
        .unwrap();
    let expected = story(&load(&stories_path(), &folder.path().join("other")));
    assert_eq!(story(&engine), expected);
    assert!(Engine::load(&model, &options(&cache, CachePurpose::Serving)).is_err());
    assert!(
        names(&cache, ".files").is_empty(),
        "what is no model is not kept"
    );
    assert_eq!(story(&engine), expected);
}

#[test]
fn every_reference_model_is_served_from_copies_with_the_same_bytes() {
    let mut seen = 0;
    for entry in fs::read_dir(reference_path("")).unwrap() {
        let model = entry.unwrap().path();
        if !model.join("config.json").exists() {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let bits = |engine: &Engine| -> Vec<u32> {
            let logits = engine.logits(&[1, 2, 3, 5, 8], LogitRows::All).unwrap();
            logits.iter().map(|x| x.to_bits()).collect()
        };
        let plain = Engine::load(&model, &LoadOptions::default()).unwrap();
        for _ in 0..2 {
            let served = serve(&model, folder.path());
            assert_eq!(served.info().weights_in, WeightsPlace::Cache);
            assert_eq!(bits(&plain), bits(&served), "{}", model.display());
        }
        seen += 1;
    }
    assert!(seen > 2, "reference models: {seen}");
}

#[test]
fn a_damaged_copy_is_made_again_and_an_old_one_goes() {
    let folder = tempfile::tempdir().unwrap();
    let (model, cache) = (
        folder.path().join("model.gguf"),
        folder.path().join("cache"),
    );
    fs::copy(stories_path(), &model).unwrap();
    let expected = story(&serve(&model, &cache));
    let copy = names(&cache, ".files").remove(0);
    let copied = copy.join("model/model.gguf");
    let whole = fs::read(&copied).unwrap();
    assert!(whole == fs::read(&model).unwrap());

    // Shorter, so that its stamp tells it apart however soon this comes.
    fs::write(&copied, &whole[..whole.len() / 2]).unwrap();
    assert_eq!(story(&serve(&model, &cache)), expected);
    assert!(fs::read(&copied).unwrap() == whole);

    // Of another model whose key has the same checksum.
    fs::write(copy.join("key"), "another").unwrap();
    assert_eq!(story(&serve(&model, &cache)), expected);
    assert_ne!(fs::read(copy.join("key")).unwrap(), b"another");

    fs::remove_file(&model).unwrap();
    fs::write(&model, &whole).unwrap();
    assert_eq!(story(&serve(&model, &cache)), expected);
    let now = names(&cache, ".files");
    assert!(now.len() == 1 && now[0] != copy, "{now:?}");
}

#[cfg(unix)]
#[test]
fn a_copy_that_somebody_else_could_cut_short_is_not_mapped() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (model, cache) = (
        folder.path().join("model.gguf"),
        folder.path().join("cache"),
    );
    fs::copy(stories_path(), &model).unwrap();
    let expected = story(&serve(&model, &cache));
    let copied = || names(&cache, ".files").remove(0).join("model/model.gguf");
    fs::set_permissions(copied(), fs::Permissions::from_mode(0o666)).unwrap();
    let again = serve(&model, &cache);
    assert_eq!(again.info().weights_in, WeightsPlace::Cache);
    assert_eq!(story(&again), expected);
    let mode = fs::metadata(copied()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "it was made again");
}

#[test]
fn a_copy_of_a_split_has_its_parts_and_nothing_that_begins_alike() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let at = |name: &str| folder.path().join(name);
    fs::copy(stories_path(), at("m-00001-of-00001.gguf")).unwrap();
    for name in [
        "m.tar",
        "m-large-00001-of-00002.gguf",
        "m-00001-of-00002.gguf",
    ] {
        fs::write(at(name), "another model").unwrap();
    }
    serve(&at("m-00001-of-00001.gguf"), &cache);
    let copied = names(&names(&cache, ".files")[0].join("model"), "");
    assert_eq!(copied.len(), 1, "{copied:?}");
}

#[cfg(unix)]
#[test]
fn a_folder_that_others_may_write_is_not_used() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    fs::create_dir(&cache).unwrap();
    mode(&cache, 0o777);
    let engine = serve(&stories_path(), &cache);
    assert_eq!(engine.info().weights_in, WeightsPlace::Memory);
    assert!(
        engine.info().warnings[0].contains("others may write it"),
        "{:?}",
        engine.info().warnings
    );
    mode(&cache, 0o700);
    assert_eq!(
        serve(&stories_path(), &cache).info().weights_in,
        WeightsPlace::Cache
    );

    // A file that somebody else could cut short is packed anew.
    let packed = names(&cache, ".bnpk").remove(0);
    mode(&packed, 0o666);
    let engine = serve(&stories_path(), &cache);
    assert_eq!(from(&engine), PackedWeights::Written);
    let now = fs::metadata(&packed).unwrap().permissions().mode();
    assert_eq!(now & 0o777, 0o600);
}

#[test]
fn the_plain_way_to_logits_gives_what_a_model_of_plain_kernels_gives() {
    let mut models = vec![stories_path()];
    models.extend(
        fs::read_dir(reference_path(""))
            .unwrap()
            .map(|entry| entry.unwrap().path()),
    );
    models.retain(|model| *model == stories_path() || model.join("config.json").exists());
    assert!(models.len() > 3);
    for model in models {
        let options = LoadOptions {
            kernel: Some(REFERENCE_KERNEL.into()),
            dense: true,
            head: HeadMode::Full,
            ..LoadOptions::default()
        };
        let engine = Engine::load(&model, &options).unwrap();
        let reference = Reference::open(&model, &LoadOptions::default()).unwrap();
        // More rows than run at once, and lengths around the borders of blocks.
        let prompts: Vec<Vec<u32>> = [1, 15, 16, 17, 20]
            .iter()
            .cycle()
            .filter(|&&len| len <= engine.context())
            .take(13)
            .enumerate()
            .map(|(i, &len)| (0..len).map(|t| (i + 7 * t) as u32 % 16).collect())
            .collect();
        let rows = reference.logits(&prompts, &mut || true).unwrap().unwrap();
        assert_eq!(rows.len(), prompts.len());
        for (prompt, row) in prompts.iter().zip(&rows) {
            let expected = engine.logits(prompt, LogitRows::Last).unwrap();
            let bits = |row: &[f32]| row.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(
                bits(&expected),
                bits(row),
                "{}: {prompt:?}",
                model.display()
            );
        }
        let mut asked = 0;
        let stopped = reference.logits(&prompts, &mut || {
            asked += 1;
            asked < 2
        });
        assert!(stopped.unwrap().is_none());
        let beyond = vec![vec![u32::MAX]];
        assert!(reference.logits(&beyond, &mut || true).is_err());
    }
}

#[test]
fn models_of_one_vocabulary_share_a_tokenizer_for_as_long_as_one_of_them_lives() {
    let with = |chat_template: Option<&str>| {
        let options = LoadOptions {
            chat_template: chat_template.map(str::to_owned),
            ..LoadOptions::default()
        };
        Engine::load(stories_path(), &options).unwrap()
    };
    // A template of this test's own, so that nobody else's engine has its tokenizer.
    let template = Some("{{ messages[0].content }} to share");
    let (first, second) = (with(template), with(template));
    let (own, other) = (with(Some("{{ messages[0].content }}")), with(None));
    let tokenizer = |engine: &Engine| std::ptr::from_ref(engine.tokenizer().unwrap());
    assert_eq!(tokenizer(&first), tokenizer(&second));
    assert_ne!(tokenizer(&first), tokenizer(&own));
    assert_ne!(tokenizer(&first), tokenizer(&other));
    let expected = story(&first);
    drop(first);
    assert_eq!(story(&second), expected);
}

#[test]
fn memory_that_is_given_back_changes_no_answer() {
    let options = LoadOptions {
        prefix_cache: true,
        max_sequences: 2,
        ..LoadOptions::default()
    };
    let engine = Engine::load(stories_path(), &options).unwrap();
    let expected = story(&engine);
    assert!(engine.current_load().kv_blocks_cached > 0);
    engine.forget_idle();
    assert_eq!(engine.current_load().kv_blocks_cached, 0);
    assert_eq!(story(&engine), expected);
    // In the middle of an answer, which keeps what it holds.
    let asked = GenerateOptions {
        max_tokens: Some(30),
        temperature: Some(0.0),
        ..GenerateOptions::default()
    };
    let mut told = Vec::new();
    for token in engine.generate("Once upon a time", &asked).unwrap() {
        engine.forget_idle();
        told.push(token.unwrap());
    }
    assert_eq!(text_of(&told), expected);
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

/// The disk is full, which a limit on the size of files stands for: it is the whole process's, so a process of its own
/// has it.
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
    // But for the line that says whose it would be.
    let nothing = || names(&cache, "").len() == names(&cache, ".model").len();
    let engine = Engine::load(stories_path(), &options(&cache, CachePurpose::NextStart)).unwrap();
    engine.take_unwritten().unwrap().write().unwrap_err();
    assert!(nothing(), "no part of a file");
    assert!(story(&engine).len() > 20, "it runs all the same");

    let served = serve(&stories_path(), &cache);
    let info = served.info();
    assert_eq!(
        (info.packed_weights, info.weights_in),
        (PackedWeights::Made, WeightsPlace::Memory)
    );
    let warnings = &info.warnings;
    assert!(warnings[0].contains("kept in memory"), "{warnings:?}");
    assert!(nothing(), "no part of a copy");
    assert_eq!(story(&engine), story(&served));
}
