//! The story model says what Hugging Face transformers says it says (`stories-5m/golden.json`).

use crate::{floats, ids, json, stories, text_of, tokens};
use bitnet_inference::{GenerateOptions, LogitRows, Prompt};

/// Below this distance between the best two logits a rounding tie may fall either way.
const CLEAR_MARGIN: f64 = 0.25;

#[test]
fn greedy_tokens_and_text_are_the_references() {
    for case in json("bitnet-models/tests/data/stories-5m/golden.json")
        .as_array()
        .expect("cases")
    {
        let prompt = case["prompt"].as_str().expect("a text");
        let greedy = ids(&case["greedy"]);
        let clear = floats(&case["greedy_margins"])
            .iter()
            .position(|&margin| margin < CLEAR_MARGIN)
            .unwrap_or(greedy.len());
        let engine = stories();
        let encoded = engine
            .encode_prompt(&Prompt::from(prompt))
            .expect("encodes");
        assert_eq!(encoded, ids(&case["ids"]), "{prompt}");

        let options = GenerateOptions {
            max_tokens: Some(clear),
            ..GenerateOptions::greedy()
        };
        let drawn = tokens(engine, prompt, &options);
        let drawn_ids: Vec<u32> = drawn.iter().map(|token| token.id).collect();
        assert_eq!(drawn_ids, greedy[..clear], "{prompt}");
        let text = engine
            .tokenizer()
            .expect("it has one")
            .decode(&greedy[..clear], true);
        assert_eq!(text_of(&drawn), text.expect("known ids"), "{prompt}");
    }
}

#[test]
fn every_clear_argmax_of_the_whole_story_is_the_references() {
    for case in json("bitnet-models/tests/data/stories-5m/golden.json")
        .as_array()
        .expect("cases")
    {
        let (prompt, greedy) = (ids(&case["ids"]), ids(&case["greedy"]));
        let story = [prompt.as_slice(), &greedy].concat();
        let vocab_size = stories().config().vocab_size;
        let logits = stories().logits(&story, LogitRows::All).expect("it fits");
        let rows = logits.chunks_exact(vocab_size).skip(prompt.len() - 1);
        let margins = floats(&case["greedy_margins"]);
        let mut n_clear = 0;
        for ((row, &expected), margin) in rows.zip(&greedy).zip(margins) {
            if margin > CLEAR_MARGIN {
                n_clear += 1;
                let best = (0..vocab_size).max_by(|&a, &b| row[a].total_cmp(&row[b]));
                assert_eq!(best, Some(expected as usize), "{}", case["prompt"]);
            }
        }
        assert!(
            n_clear > 50,
            "{n_clear} clear steps: too few to mean anything"
        );
    }
}

#[test]
fn the_next_token_logits_are_the_references() {
    for case in json("bitnet-models/tests/data/stories-5m/golden.json")
        .as_array()
        .expect("cases")
    {
        let golden = floats(&case["last_logits"]);
        let logits = stories()
            .logits(&ids(&case["ids"]), LogitRows::Last)
            .expect("it fits");
        assert_eq!(logits.len(), golden.len());
        let worst = logits
            .iter()
            .zip(&golden)
            .map(|(&l, g)| (f64::from(l) - g).abs())
            .fold(0.0, f64::max);
        // One int8 activation on the other side of a rounding tie moves logits by tenths (reference README).
        assert!(worst < 0.5, "{}: {worst}", case["prompt"]);
    }
}
