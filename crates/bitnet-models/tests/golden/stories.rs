//! The small real model that the binary embeds, as GGUF and as a Hugging Face directory.

use crate::cases::data;
use crate::greedy::greedy;
use crate::logits::error;
use crate::session::{Session, two_threads};
use bitnet_kernels::KvType;
use bitnet_models::{Checkpoint, CheckpointOptions, LogitRows};
use serde::Deserialize;

#[derive(Deserialize)]
struct Story {
    prompt: String,
    ids: Vec<u32>,
    /// Logits after the prompt, `[vocab_size]`.
    last_logits: Vec<f32>,
    greedy: Vec<u32>,
    greedy_margins: Vec<f32>,
}

#[test]
fn stories_are_those_of_the_reference_from_both_layouts() {
    let stories = std::fs::read(data("stories-5m/golden.json")).expect("the golden stories");
    let stories: Vec<Story> = serde_json::from_slice(&stories).expect("a list of stories");
    for layout in [
        "stories-5m",
        "../../../bitnet-cli/assets/stories-5m.I2_S.gguf",
    ] {
        let checkpoint =
            Checkpoint::open(&data(layout), &CheckpointOptions::default()).expect("a checkpoint");
        let mut session = Session::with(&checkpoint, two_threads(), KvType::F32);
        for story in &stories {
            session.restart();
            let logits = session.feed(&story.ids, LogitRows::Last);
            let errors = logits
                .iter()
                .zip(&story.last_logits)
                .map(|(a, b)| error(*b, *a));
            let worst = errors.fold(0.0, f32::max);
            // One int8 activation on the other side of a tie moves a logit by up to about 0.1.
            assert!(worst <= 0.5, "{layout} {:?}: off by {worst}", story.prompt);

            let sure = story
                .greedy_margins
                .iter()
                .take_while(|&&margin| margin >= 0.25)
                .count();
            let said = greedy(&mut session, &story.ids, sure);
            assert_eq!(said, story.greedy[..sure], "{layout} {:?}", story.prompt);
        }
    }
}
