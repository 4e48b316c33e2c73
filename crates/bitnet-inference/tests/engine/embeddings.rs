//! Embeddings are the hidden states of an evaluation, pooled, whatever batch and chunks they were computed in.

use crate::{stories, stories_path, tokens};
use bitnet_inference::{
    Engine, Error, Event, FinishReason, GenerateOptions, KvPool, LoadOptions, Pooling, Prompt,
    Terms,
};

fn load(options: LoadOptions) -> Engine {
    Engine::load(stories_path(), &options).expect("the story model loads")
}

/// Texts that begin alike and differ in length, over borders of blocks.
fn texts() -> Vec<Vec<u32>> {
    let text = |n: u32, own: u32| -> Vec<u32> {
        let same = (1..=n).map(|i| i * 7 % 1000);
        same.chain([own]).collect()
    };
    vec![
        text(0, 3),
        text(15, 4),
        text(40, 5),
        text(40, 6),
        text(90, 7),
        text(33, 8),
    ]
}

/// What pooling is, in f64, from the states that an evaluation gives.
fn expected(ids: &[u32], pooling: Pooling) -> Vec<f32> {
    let states = stories().hidden_states(ids).expect("fits");
    let size = stories().config().hidden_size;
    match pooling {
        Pooling::Last => states[states.len() - size..].to_vec(),
        Pooling::Cls => states[..size].to_vec(),
        Pooling::Mean => (0..size)
            .map(|i| {
                let column = states[i..].iter().step_by(size);
                (column.map(|&v| f64::from(v)).sum::<f64>() / ids.len() as f64) as f32
            })
            .collect(),
    }
}

fn vectors(engine: &Engine, pooling: Pooling) -> Vec<Vec<f32>> {
    let prompts: Vec<Prompt> = texts().into_iter().map(Prompt::Ids).collect();
    let found = engine.embed(&prompts, pooling).expect("fits");
    found
        .iter()
        .map(|embedding| embedding.vector.to_vec())
        .collect()
}

#[test]
fn they_are_the_hidden_states_of_an_evaluation_pooled() {
    for pooling in Pooling::ALL {
        let expected: Vec<_> = texts().iter().map(|ids| expected(ids, pooling)).collect();
        assert_eq!(vectors(stories(), pooling), expected, "{pooling:?}");
    }
}

#[test]
fn chunks_batch_mates_and_cached_beginnings_change_no_byte() {
    let alone = Pooling::ALL.map(|pooling| vectors(stories(), pooling));
    for (prefill_chunk, max_sequences, prefix_cache, blocks) in
        [(7, 1, false, 64), (16, 4, true, 64), (50, 6, true, 9)]
    {
        let engine = load(LoadOptions {
            prefill_chunk,
            prefill_beside: 3,
            max_sequences,
            prefix_cache,
            kv_pool: KvPool::Blocks(blocks),
            ..LoadOptions::default()
        });
        let mut story = engine
            .generate(vec![0, 448], &GenerateOptions::greedy())
            .expect("fits");
        story.next().expect("draws").expect("draws");
        for (pooling, alone) in Pooling::ALL.into_iter().zip(&alone) {
            // The second time all beginnings are in the cache.
            for turn in 0..2 {
                let found = vectors(&engine, pooling);
                assert_eq!(&found, alone, "{pooling:?} {prefill_chunk} {turn}");
            }
        }
    }
}

#[test]
fn last_states_use_cached_beginnings_and_means_run_them() {
    let engine = load(LoadOptions {
        prefix_cache: true,
        ..LoadOptions::default()
    });
    let ids = Prompt::Ids((1..=60).collect());
    let n_cached = |pooling| {
        let found = engine
            .embed(std::slice::from_ref(&ids), pooling)
            .expect("fits");
        (found[0].timings.n_cached, found[0].timings.n_prompt)
    };
    assert_eq!(n_cached(Pooling::Last), (0, 60));
    assert_eq!(n_cached(Pooling::Mean), (0, 60));
    assert_eq!(n_cached(Pooling::Last), (48, 12));
    assert_eq!(n_cached(Pooling::Cls), (0, 60));
}

#[test]
fn one_that_gives_up_its_place_counts_no_state_twice() {
    // Blocks for one text of 91 tokens and a half: the urgent one takes the place of the other.
    let engine = load(LoadOptions {
        prefill_chunk: 20,
        max_sequences: 2,
        kv_pool: KvPool::Blocks(9),
        prefix_cache: true,
        ..LoadOptions::default()
    });
    let long = texts()[4].clone();
    for pooling in [Pooling::Mean, Pooling::Cls] {
        let before = engine.current_load().preemptions;
        let request = |ids: &[u32], priority| {
            let prompt = Prompt::Ids(ids.to_vec());
            let request = engine.check_embedding(&prompt, pooling).expect("fits");
            assert_eq!(request.max_tokens(), 0);
            let terms = Terms {
                priority,
                ..Terms::default()
            };
            engine.enqueue(request.with_terms(terms)).expect("fits")
        };
        let slow = request(&long, 0);
        let mut events = Vec::new();
        engine.turn(&mut events);
        engine.turn(&mut events);
        let other: Vec<u32> = (100..180).collect();
        let urgent = request(&other, -10);
        while engine.turn(&mut events) {}
        assert_eq!(engine.current_load().preemptions, before + 1);
        let order: Vec<_> = events.iter().map(|event| event.request).collect();
        assert_eq!(order, [urgent, slow]);
        for (event, ids) in events.iter().zip([&other, &long]) {
            let drawn = event.outcome.as_ref().expect("runs");
            assert_eq!(
                (&drawn.token, drawn.finish),
                (&None, Some(FinishReason::Length))
            );
            let vector = drawn.embedding.as_deref().expect("is an embedding");
            assert_eq!(vector, expected(ids, pooling), "{pooling:?}");
        }
    }
}

#[test]
fn they_draw_nothing_and_leave_nothing_behind() {
    let engine = load(LoadOptions {
        max_sequences: 3,
        ..LoadOptions::default()
    });
    let free = engine.n_free_kv_blocks();
    let prompt = Prompt::Text("Once upon a time".into());
    let found = engine
        .embed(&[prompt.clone(), prompt.clone()], Pooling::Last)
        .expect("fits");
    assert_eq!(found[0].vector, found[1].vector);
    let load = engine.current_load();
    assert_eq!(
        (load.generated_tokens, load.running, load.waiting),
        (0, 0, 0)
    );
    assert_eq!(load.prompt_tokens, 2 * found[0].n_tokens as u64);
    assert_eq!(engine.n_free_kv_blocks(), free);

    let cancelled = engine
        .check_embedding(&prompt, Pooling::Last)
        .expect("fits");
    let cancelled = engine.enqueue(cancelled).expect("fits");
    engine.cancel(cancelled);
    let mut events: Vec<Event> = Vec::new();
    assert!(!engine.turn(&mut events) && events.is_empty());

    // Whoever generates beside them draws what it draws alone.
    let options = GenerateOptions {
        max_tokens: Some(12),
        ..GenerateOptions::greedy()
    };
    let mut story = engine.generate("Once upon a time", &options).expect("fits");
    let mut beside = vec![story.next().expect("draws").expect("draws")];
    engine.embed(&[prompt], Pooling::Mean).expect("fits");
    beside.extend(story.map(|token| token.expect("draws")));
    assert_eq!(beside, tokens(stories(), "Once upon a time", &options));
}

#[test]
fn what_cannot_be_embedded_is_refused_before_it_waits() {
    assert_eq!(stories().pooling(), None);
    let refused = |prompt: Prompt| {
        stories()
            .check_embedding(&prompt, Pooling::Last)
            .err()
            .expect("refused")
    };
    assert!(matches!(refused(Prompt::Ids(vec![])), Error::EmptyPrompt));
    assert!(matches!(
        refused(Prompt::Ids(vec![1; 257])),
        Error::PromptTooLong {
            prompt: 257,
            context: 256
        }
    ));
    assert!(matches!(
        refused(Prompt::Ids(vec![1024])),
        Error::TokenOutOfRange { .. }
    ));
}
