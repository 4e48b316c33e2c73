//! Stop strings end a generation wherever tokens happen to be cut, and never show.

use crate::{stories, text_of, tokens};
use bitnet_inference::{FinishReason, GenerateOptions};

#[test]
fn any_piece_of_the_story_stops_it_right_before() {
    let greedy = GenerateOptions {
        max_tokens: Some(40),
        ..GenerateOptions::greedy()
    };
    let story = text_of(&tokens(stories(), "Once upon a time", &greedy));
    assert!(story.len() > 60, "{story}");
    // Windows of 5 bytes at every offset begin and end inside tokens as often as at their borders.
    for start in (0..60).step_by(7) {
        let stop = &story[start..start + 5];
        let options = GenerateOptions {
            stop: vec!["#never#".into(), stop.into()],
            ..greedy.clone()
        };
        let mut generation = stories()
            .generate("Once upon a time", &options)
            .expect("valid");
        let text = generation.text().expect("no errors");
        assert_eq!(
            text,
            story[..story.find(stop).expect("it is in there")],
            "stop {stop:?}"
        );
        assert_eq!(generation.finish_reason(), Some(FinishReason::StopString));
    }
}

#[test]
fn held_back_text_comes_out_at_the_end() {
    let greedy = GenerateOptions {
        max_tokens: Some(12),
        ..GenerateOptions::greedy()
    };
    let story = text_of(&tokens(stories(), "Once upon a time", &greedy));
    let stop = format!("{}#", &story[story.len() - 4..]);
    let options = GenerateOptions {
        stop: vec![stop],
        ..greedy
    };
    let drawn = tokens(stories(), "Once upon a time", &options);
    assert_eq!(text_of(&drawn), story);
}

#[test]
fn pieces_of_a_stream_are_never_empty_and_make_the_text() {
    let options = GenerateOptions {
        max_tokens: Some(30),
        stop: vec!["zzz".into()],
        ..GenerateOptions::greedy()
    };
    let mut stream = stories()
        .stream("Once upon a time", &options)
        .expect("valid");
    let pieces: Vec<String> = stream
        .by_ref()
        .collect::<Result<_, _>>()
        .expect("no errors");
    assert!(pieces.iter().all(|piece| !piece.is_empty()));
    assert_eq!(
        pieces.concat(),
        text_of(&tokens(stories(), "Once upon a time", &options))
    );
    assert_eq!(stream.generation().timings().n_generated, 30);
}

#[test]
fn a_stop_token_ends_the_text_and_does_not_show() {
    let greedy = GenerateOptions {
        max_tokens: Some(12),
        ..GenerateOptions::greedy()
    };
    let story = tokens(stories(), "Once upon a time", &greedy);
    let stop = story[5].id;
    let at = story.iter().position(|token| token.id == stop).unwrap();
    for ignore_eos in [false, true] {
        let options = GenerateOptions {
            stop_token_ids: vec![stop],
            ignore_eos,
            ..greedy.clone()
        };
        let mut generation = stories()
            .generate("Once upon a time", &options)
            .expect("valid");
        let text = generation.text().expect("no errors");
        assert_eq!(text, text_of(&story[..at]));
        assert_eq!(generation.finish_reason(), Some(FinishReason::EndOfText));
    }
    let beyond = GenerateOptions {
        stop_token_ids: vec![u32::MAX],
        ..greedy
    };
    assert!(stories().generate("Once", &beyond).is_err());
}
