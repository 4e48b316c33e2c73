//! What a model is called that nobody gave a name.

use super::*;

#[test]
fn a_model_of_the_hub_keeps_its_name_whatever_its_commit() {
    let name = |path: &str| short_name(&OriginSource::Path(path.into()));
    for digit in ["0", "f"] {
        let commit = digit.repeat(40);
        let snapshot = format!("cache/models--owner--Some-Model.2/snapshots/{commit}");
        assert_eq!(name(&snapshot), "Some-Model.2");
        // Not a cache's, or a file of one: that has a name of its own.
        assert_eq!(name(&format!("cache/snapshots/{commit}")), commit);
        assert_eq!(name(&format!("models--o--n/other/{commit}")), commit);
        assert_eq!(name(&format!("models--n/snapshots/{commit}")), commit);
        assert_eq!(name(&format!("{snapshot}/tiny.gguf")), "tiny");
    }
    assert_eq!(name("models--o--n/snapshots/main"), "main");
}
