//! What a server relies on: the same bytes alone, in a crowd, with the prefix cache, after pre-emption and on any
//! number of threads; and requests that end when they should and leave nothing behind.

use std::collections::HashMap;
use std::time::Duration;

use crate::{stories, stories_path, tokens};
use bitnet_inference::{
    Engine, EngineLoad, Error, Event, FinishReason, GenerateOptions, KvPool, LoadOptions,
    RequestId, TenantId, Terms, Token,
};

const BEGINNINGS: [&str; 5] = [
    "Once upon a time there was a little fox who lived near the river with a bear. One day the fox said to the bear",
    "Once upon a time there was a little fox who lived near the river with a bear. Then the bear",
    "Tom",
    "One day a girl named Lily went to the park. She saw a big dog and the dog was very happy to see her. Lily",
    "One day a girl named Lily went to the park. She saw a small bird",
];

/// Request `n` of a crowd: prompts that begin alike, greedy and drawn, with and without guesses.
fn request(n: u64) -> (&'static str, GenerateOptions, Terms) {
    let options = GenerateOptions {
        seed: Some(n),
        temperature: n.is_multiple_of(3).then_some(0.0),
        max_tokens: Some(match n % 5 {
            1 => 48, // long enough to need room that others have
            _ => 2 + (n as usize * 29) % 8,
        }),
        ignore_eos: true,
        speculate: if n.is_multiple_of(4) { 7 } else { 0 },
        logprobs: n.is_multiple_of(5),
        top_logprobs: if n.is_multiple_of(10) { 3 } else { 0 },
        ..GenerateOptions::default()
    };
    let terms = Terms {
        priority: (n % 3) as i32,
        tenant: TenantId(n % 4),
        cache_salt: n % 2,
        deadline: None,
        queue_timeout: None,
    };
    (BEGINNINGS[n as usize % BEGINNINGS.len()], options, terms)
}

const CROWD: u64 = 200;

fn load(max_sequences: usize, kv_pool: KvPool, prefix_cache: bool, threads: usize) -> Engine {
    let options = LoadOptions {
        max_sequences,
        kv_pool,
        prefix_cache,
        threads: Some(threads),
        prefill_chunk: 64,
        prefill_beside: 24,
        ..LoadOptions::default()
    };
    Engine::load(stories_path(), &options).expect("loads")
}

fn enqueue(engine: &Engine, prompt: &str, options: &GenerateOptions, terms: Terms) -> RequestId {
    let request = engine.check(prompt, options).expect("valid");
    engine.enqueue(request.with_terms(terms)).expect("fits")
}

/// Turns until nothing is left to do.
fn run_out(engine: &Engine) -> Vec<Event> {
    let mut events = Vec::new();
    while engine.turn(&mut events) {}
    events
}

/// Everything that the crowd yields when half of it comes at once and the other half one by one.
fn run_crowd(engine: &Engine) -> (Vec<Vec<Token>>, EngineLoad) {
    let mut number_of = HashMap::new();
    let mut out = vec![Vec::new(); CROWD as usize];
    let mut events = Vec::new();
    let mut submitted = 0;
    loop {
        let until = if submitted == 0 {
            CROWD / 2
        } else {
            submitted + 1
        }
        .min(CROWD);
        for n in submitted..until {
            let (prompt, options, terms) = request(n);
            number_of.insert(enqueue(engine, prompt, &options, terms), n);
        }
        submitted = until;
        if !engine.turn(&mut events) {
            break;
        }
        for event in events.drain(..) {
            let drawn = event.outcome.expect("no errors");
            out[number_of[&event.request] as usize].extend(drawn.token);
        }
    }
    (out, engine.current_load())
}

#[test]
fn crowds_yield_what_their_requests_yield_alone() {
    let alone: Vec<Vec<Token>> = (0..CROWD)
        .map(|n| {
            let (prompt, options, _) = request(n);
            tokens(stories(), prompt, &options)
        })
        .collect();
    for (max_sequences, pool, prefix_cache, threads) in [
        (8, KvPool::Contexts, false, 2),
        (8, KvPool::Contexts, true, 1),
        (6, KvPool::Blocks(12), false, 1),
        (6, KvPool::Blocks(12), true, 2),
    ] {
        let engine = load(max_sequences, pool, prefix_cache, threads);
        let (crowd, load) = run_crowd(&engine);
        let case = format!(
            "{max_sequences} at once, {pool:?}, cache {prefix_cache}, {threads} threads: {load:?}"
        );
        for (n, (crowd, alone)) in crowd.iter().zip(&alone).enumerate() {
            assert_eq!(crowd, alone, "request {n}, {case}");
        }
        if pool != KvPool::Contexts {
            assert!(load.preemptions > 0 && load.recomputed_tokens > 0, "{case}");
        }
        assert_eq!(load.prefix_hits > 0, prefix_cache, "{case}");
        assert_eq!(load.kv_blocks_cached > 0, prefix_cache, "{case}");
        let drawn: usize = alone.iter().map(Vec::len).sum();
        assert_eq!(load.generated_tokens, drawn as u64, "{case}");
        assert_eq!((load.waiting, load.running, load.kv_blocks_used), (0, 0, 0));
        assert_eq!(engine.n_free_kv_blocks(), load.kv_blocks);
    }
}

#[test]
fn a_prompt_that_is_known_is_not_computed_again() {
    let engine = load(2, KvPool::Contexts, true, 1);
    let options = GenerateOptions {
        max_tokens: Some(4),
        ..GenerateOptions::greedy()
    };
    let ask = |cache_salt| {
        let terms = Terms {
            cache_salt,
            ..Terms::default()
        };
        enqueue(&engine, BEGINNINGS[0], &options, terms);
        run_out(&engine).last().expect("events").timings
    };
    let cold = ask(1);
    assert_eq!(cold.n_cached, 0);
    let whole_blocks = (cold.n_prompt - 1) / 16 * 16;
    assert!(whole_blocks > 0);
    let warm = ask(1);
    assert_eq!(warm.n_cached, whole_blocks);
    assert_eq!(warm.n_prompt + warm.n_cached, cold.n_prompt);
    let stranger = ask(2);
    assert_eq!((stranger.n_cached, stranger.n_prompt), (0, cold.n_prompt));
    let load = engine.current_load();
    assert_eq!(load.prefix_queries, 3 * cold.n_prompt as u64);
    assert_eq!(load.prefix_hits, whole_blocks as u64);
}

#[test]
fn requests_end_at_their_deadline_and_leave_nothing_behind() {
    let engine = load(1, KvPool::Contexts, false, 1);
    let endless = GenerateOptions {
        ignore_eos: true,
        ..GenerateOptions::greedy()
    };
    let mut events = Vec::new();
    let running = enqueue(&engine, "Tom", &endless, Terms::default());
    assert!(engine.turn(&mut events));
    let no_time = Terms {
        deadline: Some(Duration::ZERO),
        ..Terms::default()
    };
    let late = enqueue(&engine, "Tom", &endless, no_time);
    assert_eq!(engine.current_load().waiting, 1);
    assert!(engine.turn(&mut events));
    let ended: Vec<&Event> = events
        .iter()
        .filter(|event| event.request == late)
        .collect();
    assert!(
        matches!(ended[..], [Event { outcome: Err(Error::DeadlineExceeded { after }), .. }] if after.is_zero()),
        "{ended:?}"
    );
    engine.cancel(running);
    let load = engine.current_load();
    assert_eq!((load.waiting, load.running, load.kv_blocks_used), (0, 0, 0));
    assert_eq!(load.deadlines_exceeded, 1);
    assert!(!engine.turn(&mut events));
    // With nobody else there, the one event is all that a turn does.
    enqueue(&engine, "Tom", &endless, no_time);
    assert_eq!(run_out(&engine).len(), 1);
}

#[test]
fn cancelling_at_any_moment_frees_everything_at_once() {
    let engine = load(2, KvPool::Blocks(16), true, 1);
    let endless = GenerateOptions {
        ignore_eos: true,
        ..GenerateOptions::greedy()
    };
    for turns_before in [0, 1, 2, 5, 150] {
        let requests = BEGINNINGS.map(|text| enqueue(&engine, text, &endless, Terms::default()));
        let mut events = Vec::new();
        for _ in 0..turns_before {
            assert!(engine.turn(&mut events));
        }
        if turns_before == 150 {
            assert!(engine.current_load().preemptions > 0, "some are pre-empted");
        }
        for request in requests {
            engine.cancel(request);
        }
        let load = engine.current_load();
        assert_eq!((load.waiting, load.running, load.kv_blocks_used), (0, 0, 0));
        assert!(!engine.turn(&mut events), "after {turns_before} turns");
    }
}

#[test]
fn log_probabilities_of_the_prompt_are_those_of_an_evaluation() {
    let engine = load(3, KvPool::Blocks(16), true, 1);
    let reported = GenerateOptions {
        prompt_logprobs: true,
        top_logprobs: 5,
        max_tokens: Some(3),
        ..GenerateOptions::greedy()
    };
    // Twice, and beside somebody whose prompt is the same: what the cache holds is not enough here.
    for _ in 0..2 {
        let beside = enqueue(
            &engine,
            BEGINNINGS[0],
            &GenerateOptions {
                max_tokens: Some(3),
                ..GenerateOptions::greedy()
            },
            Terms::default(),
        );
        let mut generation = engine.generate(BEGINNINGS[0], &reported).expect("valid");
        let drawn: Vec<Token> = generation
            .by_ref()
            .collect::<Result<_, _>>()
            .expect("no errors");
        assert_eq!(generation.timings().n_cached, 0);
        let ids = generation.prompt_ids();
        let expected = stories().logprobs(ids).expect("fits");
        let found = generation.prompt_logprobs().expect("asked for");
        assert_eq!(found.len(), ids.len());
        assert!(found[0].is_none());
        for (index, (found, expected)) in found[1..].iter().zip(expected).enumerate() {
            let found = found.as_ref().expect("all but the first");
            assert_eq!(found.id, ids[index + 1]);
            assert_eq!(found.logprob, expected as f32);
            assert_eq!(found.top.len(), 5);
            assert!(found.top.is_sorted_by(|a, b| a.1 >= b.1) && found.top[0].1 >= found.logprob);
        }
        // Greedy: the drawn token is the best one.
        for token in drawn {
            assert_eq!(Some(token.top_logprobs[0].1), token.logprob);
            assert_eq!(token.top_logprobs[0].0, token.id);
        }
        engine.cancel(beside);
        run_out(&engine);
    }
    let refused = GenerateOptions {
        top_logprobs: 21,
        ..GenerateOptions::default()
    };
    let error = engine.check("Tom", &refused).err().expect("too many");
    assert_eq!(
        error.to_string(),
        "top_logprobs is 21, expected a number from 0 to 20"
    );
}

#[test]
fn one_request_may_fill_the_whole_cache_and_a_small_cache_shortens_the_default_context() {
    let engine = load(4, KvPool::Blocks(3), false, 1);
    assert_eq!((engine.context(), engine.info().kv_positions), (48, 48));
    let endless = GenerateOptions {
        ignore_eos: true,
        ..GenerateOptions::greedy()
    };
    let mut generation = engine.generate("Tom", &endless).expect("fits");
    let n = generation.by_ref().count();
    assert_eq!(n + generation.prompt_ids().len(), 48 + 1);
    assert_eq!(generation.finish_reason(), Some(FinishReason::ContextFull));
    // An asked-for context is a promise.
    for kv_pool in [KvPool::Blocks(3), KvPool::Blocks(0), KvPool::Bytes(1)] {
        let options = LoadOptions {
            context: Some(49),
            kv_pool,
            ..LoadOptions::default()
        };
        let error = Engine::load(stories_path(), &options)
            .err()
            .expect("too small");
        assert!(error.to_string().contains("at least 4 blocks"), "{error}");
    }
}

#[test]
fn a_cache_sized_by_memory_has_the_models_own_context_as_far_as_there_is_room() {
    let info = stories().info();
    let (weights, position) = (info.weight_bytes(), info.kv_position_bytes);
    let longest = stories().config().context_length;
    // Memory without end is not taken: nobody needs more than a context each.
    let engine = load(3, KvPool::Within(usize::MAX), true, 1);
    let positions = engine.info().kv_positions;
    assert_eq!((engine.context(), positions), (longest, 3 * longest));
    // Less than a context for each: whoever comes may still have a whole one.
    let some = longest + 32;
    let engine = load(3, KvPool::Within(weights + some * position), true, 1);
    let positions = engine.info().kv_positions;
    assert_eq!((engine.context(), positions), (longest, some));
    // Less than a context: it is as long as there is room.
    let engine = load(3, KvPool::Within(weights + 40 * position), true, 1);
    assert_eq!((engine.context(), engine.info().kv_positions), (32, 32));
    let refused = |context, memory| {
        let options = LoadOptions {
            context,
            kv_pool: KvPool::Within(memory),
            ..LoadOptions::default()
        };
        let refused = Engine::load(stories_path(), &options);
        refused.err().expect("too small").to_string()
    };
    let error = refused(None, weights);
    let expected = format!("{weights} for weights");
    assert!(
        error.contains(&expected) && error.contains("16 positions"),
        "{error}"
    );
    // An asked-for context is a promise, and what does not fit without weights is refused before they are read.
    let error = refused(Some(33), weights + 40 * position);
    assert!(error.contains("48 positions"), "{error}");
    let error = refused(Some(33), 32 * position);
    assert!(error.contains("not enough: 0 for weights"), "{error}");
}
