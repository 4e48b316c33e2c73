//! Any bytes as the Hub's answer about a repository: files that stay in their folder, and a choice of those alone.
#![no_main]

use bitnet_hub::choice::{WantedFiles, choose};
use bitnet_hub::{Repository, Revision};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let id = "owner/name".parse().expect("it is a name");
    let Ok(repository) = Repository::of_answer(&id, &Revision::default(), "hub", data) else {
        return;
    };
    let files: Vec<_> = repository.files.iter().map(|file| (file.name.clone(), file.size)).collect();
    for (name, _) in &files {
        let parts: Vec<&str> = name.as_str().split('/').collect();
        assert!(parts.iter().all(|part| !part.is_empty() && *part != "." && *part != ".."), "{name}");
        assert!(!name.as_str().contains(['\\', '\0']), "{name}");
    }
    for pattern in [None, Some("q4"), Some("safetensors"), Some("model.gguf")] {
        for allow_pickle in [false, true] {
            let wanted = WantedFiles { pattern, revision: None, allow_pickle };
            let Ok(chosen) = choose(&id, &files, wanted) else { continue };
            assert!(!chosen.files.is_empty());
            assert!(chosen.files.iter().all(|name| files.iter().any(|(file, _)| file == name)));
        }
    }
});
