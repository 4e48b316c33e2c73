//! While sequences decode, choosing what runs and keeping what ran allocates nothing, over borders of blocks too.
//!
//! Alone in its file, because the counting allocator sees every thread of the process.

use std::alloc::System;
use std::time::Duration;

use bitnet_inference::block_manager::BlockManager;
use bitnet_inference::logits::Penalties;
use bitnet_inference::logprobs::LogprobWishes;
use bitnet_inference::sampler::{Sampler, SamplingParams};
use bitnet_inference::scheduler::{ScheduleLimits, Scheduler};
use bitnet_inference::sequence::{RequestId, Sequence, SequenceParts};
use bitnet_inference::speculative::Drafter;
use bitnet_inference::stop::StopMatcher;
use bitnet_inference::{Terms, Timings};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn sequence(id: u64) -> Sequence {
    Sequence::new(SequenceParts {
        id: RequestId(id),
        prompt: vec![id as u32, 1, 2, 3],
        max_tokens: 200,
        context: 1000,
        sampler: Sampler::new(SamplingParams {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            penalties: Penalties::OFF,
            penalty_window: 0,
            logit_bias: Vec::new(),
            seed: 0,
        }),
        end_of_generation: [].into(),
        stop: StopMatcher::default(),
        decoder: None,
        logprobs: LogprobWishes::default(),
        pooler: None,
        terms: Terms::default(),
        drafter: Drafter::new(7),
        timings: Timings::default(),
    })
}

#[test]
fn steps_of_decoding_are_scheduled_and_settled_without_allocating() {
    let mut blocks = BlockManager::new(100, true);
    let mut scheduler = Scheduler::new(ScheduleLimits {
        max_running: 4,
        max_drafted: 15,
        prefill_chunk: 100,
        prefill_beside: 100,
        prompt_logit_rows: 1,
    });
    for id in 0..4 {
        scheduler
            .submit(sequence(id), Duration::ZERO, &blocks)
            .expect("fits");
    }
    let mut plan = Vec::new();
    let (mut n_steps, mut n_drafted) = (0, 0);
    loop {
        // The first step gives places and runs the prompts.
        let counted = (n_steps > 0).then(|| Region::new(ALLOCATOR));
        scheduler.schedule(Duration::ZERO, &mut blocks, &mut plan);
        if plan.is_empty() {
            break;
        }
        let mut allocations = counted.map_or(0, |region| {
            let change = region.change();
            change.allocations + change.reallocations
        });
        for chunk in &plan {
            n_drafted += chunk.n_drafted;
            let sequence = &mut scheduler.running_mut()[chunk.index];
            let done = sequence.advance(chunk.n_tokens, Duration::ZERO);
            let mut n_drawn = 0;
            for _ in 0..1 + chunk.n_drafted {
                let token = (sequence.n_tokens() % 5) as u32;
                let mut row = [0.0; 5];
                row[token as usize] = 1.0;
                let (token, _) = sequence.draw(&row).expect("a token");
                n_drawn += 1;
                if !sequence.confirms(&token) {
                    break;
                }
            }
            sequence.finish_draft();
            let region = Region::new(ALLOCATOR);
            scheduler.settle(chunk.index, done, n_drawn, &mut blocks);
            let change = region.change();
            if n_steps > 0 {
                allocations += change.allocations + change.reallocations;
            }
        }
        assert_eq!(allocations, 0, "step {n_steps}");
        scheduler.retire(&mut blocks);
        n_steps += 1;
    }
    assert!(n_steps > 20 && n_drafted > 100, "{n_steps} {n_drafted}");
    assert!(
        blocks.n_idle() >= 4 * (200 / 16),
        "all full blocks are kept"
    );
}
