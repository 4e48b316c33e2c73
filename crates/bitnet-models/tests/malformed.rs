//! Files that are damaged, hostile or something else: each gives one exact error, in little memory, and never a panic.
//!
//! The tests of this binary run one at a time, because the allocator counts for the whole process.

#[path = "malformed/bytes.rs"]
mod bytes;
#[path = "malformed/case.rs"]
mod case;
#[path = "malformed/findings.rs"]
mod findings;
#[path = "malformed/gguf.rs"]
mod gguf;
#[path = "malformed/gguf_model.rs"]
mod gguf_model;
#[path = "malformed/hf.rs"]
mod hf;
#[path = "malformed/hf_weights.rs"]
mod hf_weights;
#[path = "malformed/splits.rs"]
mod splits;

use std::alloc::System;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;

use bitnet_models::{Checkpoint, CheckpointOptions, ErrorClass, ModelError, TensorRole};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

static ALONE: Mutex<()> = Mutex::new(());

/// The published attacks on GGUF readers whose shapes are among the cases. Two more (CVE-2024-32878, CVE-2024-41130)
/// free or follow what a parse that stopped half-way had not set up: [`no_prefix_and_no_changed_byte_panics`].
const ATTACKS: [&str; 14] = [
    "CVE-2024-21802",
    "CVE-2024-21825",
    "CVE-2024-21836",
    "CVE-2024-23496",
    "CVE-2024-23605",
    "CVE-2025-49847",
    "CVE-2025-53630",
    "CVE-2026-27940",
    "CVE-2026-33298",
    "UP#24997",
    "UP#25821",
    "UP#26318",
    "UP#27188",
    "UP#27203",
];

/// Opens a model and decodes every weight, as loading does, and returns the bytes that were allocated on the way.
fn load(path: &Path) -> (Result<(), ModelError>, usize) {
    let region = Region::new(ALLOCATOR);
    let result = (|| {
        let checkpoint = Checkpoint::open(path, &CheckpointOptions::default())?;
        let config = checkpoint.config();
        let mut roles = TensorRole::required(config);
        if checkpoint.has(TensorRole::RopeFactors) {
            roles.push(TensorRole::RopeFactors);
        }
        for role in roles {
            match role {
                TensorRole::Embedding | TensorRole::Head => drop(checkpoint.matrix(role)?),
                TensorRole::FinalNorm | TensorRole::RopeFactors | TensorRole::Norm(..) => {
                    drop(checkpoint.vector(role)?)
                }
                TensorRole::Projection(..) => {
                    let rows = checkpoint.ternary(role)?;
                    let mut trits = vec![0; rows.cols()];
                    let mut scales = vec![0.0; rows.scale().scales_per_row(rows.cols())];
                    for row in 0..rows.rows() {
                        let read = rows.read_row(row, &mut trits, &mut scales);
                        read.map_err(|source| checkpoint.upload_error(role, source.into()))?;
                    }
                }
            }
        }
        checkpoint.tokenizer_source().map(drop)
    })();
    (result, region.change().bytes_allocated)
}

/// What a file of `len` bytes may cost.
fn allowance(len: usize) -> usize {
    (16 << 20) + 4 * len
}

#[test]
fn every_malformed_gguf_file_gives_its_own_error() {
    let _alone = ALONE.lock();
    let dir = tempfile::tempdir().unwrap();
    let mut names = BTreeSet::new();
    let mut attacks = BTreeSet::new();
    let mut wrong = Vec::new();
    for case in [gguf::cases(), gguf_model::cases()].concat() {
        assert!(
            names.insert(case.name),
            "two cases are called {}",
            case.name
        );
        attacks.extend(case.attack);
        let path = dir.path().join("model.gguf");
        std::fs::write(&path, &case.bytes).unwrap();
        let (result, allocated) = load(&path);
        let Err(error) = result else {
            panic!("{} was accepted", case.name)
        };
        assert!(
            allocated <= allowance(case.bytes.len()),
            "{}: {allocated} bytes",
            case.name
        );
        assert_eq!(
            error.class(),
            ErrorClass::Unusable,
            "{}: {error}",
            case.name
        );
        let message = error.to_string();
        assert!(
            !message.contains(char::is_control),
            "{}: {message:?}",
            case.name
        );
        let message = message
            .strip_prefix(&path.display().to_string())
            .unwrap_or(&message);
        if message != case.error || !error.hint().contains(case.hint) {
            wrong.push(format!(
                "{} =>\n  {message}\n  {}\n",
                case.name,
                error.hint()
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.concat());
    assert!(names.len() >= 40);
    assert_eq!(attacks, BTreeSet::from(ATTACKS));
}

#[test]
fn every_malformed_directory_gives_its_own_error() {
    let _alone = ALONE.lock();
    let mut names = BTreeSet::new();
    let mut wrong = Vec::new();
    for case in hf::cases().into_iter().chain(hf_weights::cases()) {
        assert!(
            names.insert(case.name),
            "two cases are called {}",
            case.name
        );
        let dir = tempfile::tempdir().unwrap();
        hf::write_model(dir.path());
        (case.change)(dir.path());
        let size: u64 = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|f| f.unwrap().metadata().unwrap().len())
            .sum();
        let (result, allocated) = load(dir.path());
        let Err(error) = result else {
            panic!("{} was accepted", case.name)
        };
        assert!(
            allocated <= allowance(size as usize),
            "{}: {allocated} bytes",
            case.name
        );
        let message = error.to_string();
        assert!(
            !message.contains(char::is_control),
            "{}: {message:?}",
            case.name
        );
        let message = message.replace(&dir.path().display().to_string(), "DIR");
        if message != case.error || !error.hint().contains(case.hint) {
            wrong.push(format!(
                "{} =>\n  {message}\n  {}\n",
                case.name,
                error.hint()
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.concat());
    assert!(names.len() >= 40);
}

/// Both small models are right as they stand, so each case above fails for its own reason alone.
#[test]
fn the_unchanged_models_are_accepted() {
    let _alone = ALONE.lock();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, bytes::File::model().bytes()).unwrap();
    load(&path).0.unwrap();
    let version_2 = bytes::File {
        version: [2, 0, 0, 0],
        ..bytes::File::model()
    };
    std::fs::write(&path, version_2.bytes()).unwrap();
    load(&path).0.unwrap();
    hf::write_model(dir.path());
    load(dir.path()).0.unwrap();
    hf_weights::write_sharded(dir.path());
    load(dir.path()).0.unwrap();
}

/// Headers that are as large as they can be cost in proportion to the file, however they are filled.
#[test]
fn large_hostile_headers_stay_within_the_allowance() {
    let _alone = ALONE.lock();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let mut many_pairs = bytes::File::model();
    for i in 0..60_000u32 {
        many_pairs
            .pairs
            .push(bytes::Pair(format!("{i:x}").into(), bytes::BOOL, vec![1]));
    }
    let mut many_tensors = bytes::File::model();
    for i in 0..200_000u32 {
        many_tensors.add(&format!("{i:x}"), bytes::T_F32, &[1], Vec::new());
        many_tensors.tensors.last_mut().unwrap().offset = Some(0);
    }
    let mut many_strings = bytes::File::model();
    let empty = vec![0; 8 << 20];
    many_strings.set(
        "tokenizer.ggml.tokens",
        bytes::ARRAY,
        bytes::array(bytes::STRING, 1 << 20, &empty),
    );
    for file in [
        many_pairs.bytes(),
        many_tensors.bytes(),
        many_strings.bytes(),
    ] {
        std::fs::write(&path, &file).unwrap();
        let (_, allocated) = load(&path);
        assert!(
            allocated <= allowance(file.len()),
            "{allocated} bytes for {}",
            file.len()
        );
    }
    hf::write_model(dir.path());
    for header in [
        format!(
            "{{\"a\":{{\"dtype\":\"U8\",\"shape\":[{}1],\"data_offsets\":[0,1]}}}}",
            "1,".repeat(4 << 20)
        ),
        format!(
            "{{{}\"x\":0}}",
            (0..300_000)
                .map(|i| {
                    format!("\"{i:x}\":{{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,0]}},")
                })
                .collect::<String>()
        ),
        format!("{{\"__metadata__\":{}", "[".repeat(1 << 20)),
    ] {
        let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
        std::fs::write(dir.path().join("model.safetensors"), &file).unwrap();
        let (result, allocated) = load(dir.path());
        assert!(result.is_err());
        assert!(
            allocated <= allowance(file.len()),
            "{allocated} bytes for {}",
            file.len()
        );
    }
}

/// A download may stop anywhere and a disk may flip any bit: every outcome is a model or an error.
#[test]
fn no_prefix_and_no_changed_byte_panics() {
    let _alone = ALONE.lock();
    let whole = bytes::File::model().bytes();
    let open = |bytes: Vec<u8>| {
        Checkpoint::from_gguf_bytes("m", bytes.into(), &CheckpointOptions::default())
    };
    let header = 1472; // where the data begin, as the case "two tensors in one place" says
    for len in (0..header).chain([header, whole.len() - 1]) {
        assert!(open(whole[..len].to_vec()).is_err(), "{len}");
    }
    for at in 0..header {
        for value in [0, 1, 0x7f, 0x80, 0xff, whole[at] ^ 1] {
            let mut changed = whole.clone();
            changed[at] = value;
            _ = open(changed);
        }
    }
}
