use super::*;
use crate::logits::Penalties;
use crate::logprobs::LogprobWishes;
use crate::metrics::Timings;
use crate::sampler::{Sampler, SamplingParams};
use crate::sequence::SequenceParts;
use crate::speculative::Drafter;
use crate::stop::StopMatcher;
use crate::terms::Terms;
use std::time::Duration;

fn sequence(id: u64, n_prompt: usize, max_tokens: usize) -> Sequence {
    Sequence::new(SequenceParts {
        id: RequestId(id),
        prompt: vec![1; n_prompt],
        max_tokens,
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
        terms: Terms::default(),
        drafter: Drafter::new(0),
        timings: Timings::default(),
    })
}

fn scheduler(max_running: usize, prefill_chunk: usize) -> Scheduler {
    Scheduler::new(ScheduleLimits {
        max_running,
        max_drafted: 0,
        prefill_chunk,
        prompt_logit_rows: 1,
    })
}

/// One turn without a model: every drawn token is 0. Returns (request, tokens, draws) of the plan.
fn turn(scheduler: &mut Scheduler, blocks: &mut BlockManager) -> Vec<(u64, usize, bool)> {
    let mut plan = Vec::new();
    scheduler.schedule(Duration::ZERO, blocks, &mut plan);
    let mut log = Vec::new();
    for chunk in plan {
        let sequence = &mut scheduler.running_mut()[chunk.index];
        sequence.advance(chunk.n_tokens, Duration::ZERO);
        if chunk.draws {
            sequence.draw(&[1.0, 0.0]).expect("a token");
        }
        log.push((sequence.id().0, chunk.n_tokens, chunk.draws));
    }
    scheduler.retire(blocks);
    log
}

#[test]
fn prompts_run_in_chunks_behind_the_decode_rows() {
    let mut blocks = BlockManager::new(100);
    let mut scheduler = scheduler(4, 5);
    scheduler
        .submit(sequence(1, 3, 9), Duration::ZERO, &blocks)
        .expect("fits");
    assert_eq!(turn(&mut scheduler, &mut blocks), [(1, 3, true)]);
    scheduler
        .submit(sequence(2, 7, 9), Duration::ZERO, &blocks)
        .expect("fits");
    scheduler
        .submit(sequence(3, 4, 9), Duration::ZERO, &blocks)
        .expect("fits");
    assert_eq!(
        turn(&mut scheduler, &mut blocks),
        [(1, 1, true), (2, 5, false)]
    );
    assert_eq!(
        turn(&mut scheduler, &mut blocks),
        [(1, 1, true), (2, 2, true), (3, 3, false)]
    );
    assert_eq!(
        turn(&mut scheduler, &mut blocks),
        [(1, 1, true), (2, 1, true), (3, 1, true)]
    );
    assert_eq!(
        turn(&mut scheduler, &mut blocks),
        [(1, 1, true), (2, 1, true), (3, 1, true)]
    );
}

#[test]
fn nobody_overtakes_a_sequence_that_waits_for_blocks() {
    let mut blocks = BlockManager::new(4);
    let mut scheduler = scheduler(4, 100);
    scheduler
        .submit(sequence(1, 33, 1), Duration::ZERO, &blocks)
        .expect("3 blocks");
    scheduler
        .submit(sequence(2, 32, 1), Duration::ZERO, &blocks)
        .expect("2 blocks");
    scheduler
        .submit(sequence(3, 1, 1), Duration::ZERO, &blocks)
        .expect("1 block");
    assert_eq!(turn(&mut scheduler, &mut blocks), [(1, 33, true)]);
    assert_eq!((scheduler.n_waiting(), blocks.n_free()), (2, 4));
    assert_eq!(
        turn(&mut scheduler, &mut blocks),
        [(2, 32, true), (3, 1, true)]
    );
    assert_eq!(turn(&mut scheduler, &mut blocks), []);
    assert_eq!(blocks.n_free(), 4);
}

#[test]
fn a_sequence_reserves_what_it_can_ever_use_and_no_more() {
    // (prompt, most tokens, positions): the last drawn token is never run.
    for (n_prompt, max_tokens, positions) in
        [(1, 1, 1), (16, 1, 16), (16, 2, 17), (10, usize::MAX, 1000)]
    {
        assert_eq!(
            sequence(1, n_prompt, max_tokens).positions_needed(),
            positions
        );
    }
}

#[test]
fn a_request_that_can_never_fit_is_refused() {
    let blocks = BlockManager::new(2);
    let mut scheduler = scheduler(1, 1);
    scheduler
        .submit(sequence(1, 32, 1), Duration::ZERO, &blocks)
        .expect("fits exactly");
    let error = scheduler
        .submit(sequence(2, 32, 2), Duration::ZERO, &blocks)
        .expect_err("one position too many");
    assert!(matches!(
        error,
        Error::NeverFits {
            needed: 3,
            available: 2
        }
    ));
    assert_eq!(scheduler.n_waiting(), 1);
}

#[test]
fn cancelling_frees_places_and_blocks_at_once() {
    let mut blocks = BlockManager::new(4);
    let mut scheduler = scheduler(1, 100);
    scheduler
        .submit(sequence(1, 20, 9), Duration::ZERO, &blocks)
        .expect("fits");
    scheduler
        .submit(sequence(2, 20, 9), Duration::ZERO, &blocks)
        .expect("fits");
    scheduler
        .submit(sequence(3, 20, 9), Duration::ZERO, &blocks)
        .expect("fits");
    turn(&mut scheduler, &mut blocks);
    assert_eq!(blocks.n_free(), 2);
    scheduler.cancel(RequestId(2), &mut blocks);
    scheduler.cancel(RequestId(1), &mut blocks);
    scheduler.cancel(RequestId(77), &mut blocks);
    assert_eq!((blocks.n_free(), scheduler.n_waiting()), (4, 1));
    assert_eq!(turn(&mut scheduler, &mut blocks), [(3, 20, true)]);
}
