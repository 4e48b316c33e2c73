//! One tenant that asks for far more than its share does not make the others wait: counted in steps of the engine, so
//! that no machine's speed decides.
//!
//! Places are not taken from who has one (of the same priority), so a quiet tenant waits until one of the noisy
//! tenant's answers ends: these are short here, as behind a limit of tokens.

use std::collections::HashMap;

use bitnet_inference::{Engine, GenerateOptions, KvPool, LoadOptions, RequestId, TenantId, Terms};

use crate::stories_path;

const NOISY: TenantId = TenantId(0);
const QUIET: std::ops::RangeInclusive<u64> = 1..=9;

/// Steps between two requests of a quiet tenant, and how many it sends.
const PAUSE: usize = 97;
const REQUESTS: usize = 4;

fn ask(engine: &Engine, tenant: TenantId, prompt: usize, answer: usize) -> RequestId {
    let options = GenerateOptions {
        max_tokens: Some(answer),
        ignore_eos: true,
        ..GenerateOptions::greedy()
    };
    let ids: Vec<u32> = (0..prompt as u32).map(|index| 300 + index % 97).collect();
    let terms = Terms {
        tenant,
        ..Terms::default()
    };
    let request = engine.check(ids.as_slice(), &options).expect("valid");
    engine.enqueue(request.with_terms(terms)).expect("fits")
}

/// Steps from asking to the first token, of every request of the quiet tenants.
fn first_tokens(noise: usize) -> Vec<usize> {
    let options = LoadOptions {
        threads: Some(2),
        max_sequences: 16,
        kv_pool: KvPool::Contexts,
        prefill_chunk: 32,
        prefill_beside: 32,
        ..LoadOptions::default()
    };
    let engine = Engine::load(stories_path(), &options).expect("loads");
    for _ in 0..noise {
        ask(&engine, NOISY, 24, 12);
    }
    let mut asked: HashMap<RequestId, usize> = HashMap::new();
    let mut waited = Vec::new();
    let mut events = Vec::new();
    let last = PAUSE * REQUESTS;
    for step in 0.. {
        for tenant in QUIET {
            // Each at another time.
            let at = step + tenant as usize * 11;
            if at.is_multiple_of(PAUSE) && step < last {
                asked.insert(ask(&engine, TenantId(tenant), 192, 8), step);
            }
        }
        let worked = engine.turn(&mut events);
        for event in events.drain(..) {
            event.outcome.expect("no errors");
            if let Some(asked) = asked.remove(&event.request) {
                waited.push(step + 1 - asked);
            }
        }
        if step >= last && asked.is_empty() {
            assert!(
                noise == 0 || worked && engine.current_load().waiting > 0,
                "there is noise to the end"
            );
            break;
        }
    }
    waited.sort_unstable();
    waited
}

#[test]
fn nine_quiet_tenants_hardly_notice_a_noisy_one() {
    let p95 = |steps: &[usize]| steps[steps.len() * 95 / 100];
    let alone = first_tokens(0);
    let beside = first_tokens(1000);
    assert_eq!(alone.len(), beside.len());
    assert!(
        2 * p95(&beside) <= 3 * p95(&alone),
        "p95 of {} steps beside a noisy tenant, {} alone: {beside:?}, {alone:?}",
        p95(&beside),
        p95(&alone)
    );
}
