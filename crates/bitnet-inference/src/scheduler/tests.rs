use super::*;
use crate::logits::Penalties;
use crate::logprobs::LogprobWishes;
use crate::metrics::Timings;
use crate::sampler::{Sampler, SamplingParams};
use crate::sequence::SequenceParts;
use crate::speculative::Drafter;
use crate::stop::StopMatcher;
use crate::terms::{TenantId, Terms};
use std::time::Duration;

mod properties;

fn sequence(id: u64, n_prompt: usize, max_tokens: usize) -> Sequence {
    on_terms(id, vec![1; n_prompt], max_tokens, Terms::default())
}

fn on_terms(id: u64, prompt: Vec<u32>, max_tokens: usize, terms: Terms) -> Sequence {
    drafting(id, prompt, max_tokens, terms, 0)
}

fn drafting(
    id: u64,
    prompt: Vec<u32>,
    max_tokens: usize,
    terms: Terms,
    speculate: usize,
) -> Sequence {
    Sequence::new(SequenceParts {
        id: RequestId(id),
        prompt,
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
        pooler: None,
        terms,
        drafter: Drafter::new(speculate),
        timings: Timings::default(),
    })
}

fn scheduler(max_running: usize, prefill_chunk: usize) -> Scheduler {
    Scheduler::new(ScheduleLimits {
        max_running,
        max_drafted: 0,
        prefill_chunk,
        prefill_beside: prefill_chunk,
        prompt_logit_rows: 1,
    })
}

/// One turn without a model: every drawn token is 0. Returns (request, tokens, draws) of the plan.
fn turn(scheduler: &mut Scheduler, blocks: &mut BlockManager) -> Vec<(u64, usize, bool)> {
    turn_at(Duration::ZERO, scheduler, blocks)
}

fn turn_at(
    now: Duration,
    scheduler: &mut Scheduler,
    blocks: &mut BlockManager,
) -> Vec<(u64, usize, bool)> {
    let mut plan = Vec::new();
    scheduler.schedule(now, blocks, &mut plan);
    let mut log = Vec::new();
    for chunk in plan {
        let sequence = &mut scheduler.running_mut()[chunk.index];
        let done = sequence.advance(chunk.n_tokens, Duration::ZERO);
        if chunk.draws {
            sequence.draw(&[1.0, 0.0]).expect("a token");
        }
        log.push((sequence.id().0, chunk.n_tokens, chunk.draws));
        scheduler.settle(chunk.index, done, usize::from(chunk.draws), blocks);
    }
    scheduler.retire(blocks);
    log
}

#[test]
fn prompts_run_in_chunks_behind_the_decode_rows() {
    let mut blocks = BlockManager::new(100, false);
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
    let mut blocks = BlockManager::new(4, false);
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
    let blocks = BlockManager::new(2, false);
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
    let mut blocks = BlockManager::new(4, false);
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

/// The requests of a plan.
fn ids(plan: Vec<(u64, usize, bool)>) -> Vec<u64> {
    plan.into_iter().map(|(id, ..)| id).collect()
}

fn submit(scheduler: &mut Scheduler, blocks: &BlockManager, sequence: Sequence) {
    scheduler
        .submit(sequence, Duration::ZERO, blocks)
        .expect("fits");
}

#[test]
fn prompts_take_smaller_steps_beside_answers() {
    let mut blocks = BlockManager::new(100, false);
    let mut scheduler = Scheduler::new(ScheduleLimits {
        max_running: 3,
        max_drafted: 0,
        prefill_chunk: 50,
        prefill_beside: 8,
        prompt_logit_rows: 1,
    });
    submit(&mut scheduler, &blocks, sequence(1, 30, 9));
    assert_eq!(turn(&mut scheduler, &mut blocks), [(1, 30, true)]);
    submit(&mut scheduler, &blocks, sequence(2, 6, 9));
    submit(&mut scheduler, &blocks, sequence(3, 30, 9));
    assert_eq!(
        turn(&mut scheduler, &mut blocks),
        [(1, 1, true), (2, 6, true), (3, 2, false)]
    );
}

/// Prompt tokens of a pass beside two answers.
fn beside_two(prefill_beside: usize, prefill_chunk: usize) -> usize {
    let mut blocks = BlockManager::new(100, false);
    let mut scheduler = Scheduler::new(ScheduleLimits {
        max_running: 3,
        max_drafted: 0,
        prefill_chunk,
        prefill_beside,
        prompt_logit_rows: 1,
    });
    submit(&mut scheduler, &blocks, sequence(1, 20, 9));
    submit(&mut scheduler, &blocks, sequence(2, 20, 9));
    turn(&mut scheduler, &mut blocks);
    submit(&mut scheduler, &blocks, sequence(3, 90, 9));
    let plan = turn(&mut scheduler, &mut blocks);
    assert_eq!(plan[..2], [(1, 1, true), (2, 1, true)]);
    plan[2].1
}

#[test]
fn a_pass_beside_answers_has_whole_panels_of_rows() {
    assert_eq!(beside_two(20, 50), 30);
    assert_eq!(beside_two(30, 50), 30);
    assert_eq!(beside_two(16, 50), 30);
    assert_eq!(beside_two(15, 50), 15, "less than a panel");
    assert_eq!(beside_two(45, 50), 46);
    assert_eq!(beside_two(47, 50), 50, "no more than a pass may have");
}

#[test]
fn whoever_came_last_gives_way_when_blocks_run_out_and_comes_back_first() {
    let mut blocks = BlockManager::new(3, false);
    let mut scheduler = scheduler(2, 100);
    submit(&mut scheduler, &blocks, sequence(1, 15, 20));
    submit(&mut scheduler, &blocks, sequence(2, 4, 20));
    submit(&mut scheduler, &blocks, sequence(3, 4, 1));
    // One block is left over, which the first takes for its second; then the other's first is full.
    let mut both = 0;
    while ids(turn(&mut scheduler, &mut blocks)) == [1, 2] {
        both += 1;
    }
    assert_eq!(both, 13, "until the other's first block is full");
    let load = scheduler.load(EngineLoad::default());
    assert_eq!((load.preemptions, load.waiting, load.running), (1, 2, 1));
    // 13 tokens were drawn behind its prompt of 4; all of them wait to be run again.
    assert_eq!(load.waiting_prompt_tokens, (4 + 13) + 4);
    let mut plan = turn(&mut scheduler, &mut blocks);
    while ids(plan.clone()) == [1] {
        plan = turn(&mut scheduler, &mut blocks);
    }
    assert_eq!(plan, [(2, 17, true)], "its place is its own again");
    while !turn(&mut scheduler, &mut blocks).is_empty() {}
    assert_eq!(blocks.n_free(), 3);
}

#[test]
fn lower_priorities_go_first_until_waiting_has_made_up_for_it() {
    let mut blocks = BlockManager::new(100, false);
    let mut scheduler = scheduler(1, 100);
    let prioritised = |id, priority| {
        let terms = Terms {
            priority,
            ..Terms::default()
        };
        on_terms(id, vec![1], 1, terms)
    };
    for (id, priority) in [(1, 2), (2, 0), (3, -1), (4, 0)] {
        submit(&mut scheduler, &blocks, prioritised(id, priority));
    }
    let mut order = Vec::new();
    for _ in 0..4 {
        order.extend(ids(turn(&mut scheduler, &mut blocks)));
    }
    assert_eq!(order, [3, 2, 4, 1]);

    // Somebody more important comes every second, yet the other waits two steps of ageing at most.
    submit(&mut scheduler, &blocks, prioritised(0, 2));
    let mut served_after = None;
    for second in 1..100 {
        let now = Duration::from_secs(second);
        for id in [2 * second, 2 * second + 1] {
            scheduler
                .submit(prioritised(id, 0), now, &blocks)
                .expect("fits");
        }
        if ids(turn_at(now, &mut scheduler, &mut blocks)) == [0] {
            served_after = Some(now);
            break;
        }
    }
    let served_after = served_after.expect("it was served");
    let latest = 2 * AGEING + Duration::from_secs(2);
    assert!(
        (AGEING..=latest).contains(&served_after),
        "{served_after:?}"
    );
}

#[test]
fn somebody_more_important_takes_the_place_of_somebody_less_so() {
    let mut blocks = BlockManager::new(4, false);
    let mut scheduler = scheduler(2, 100);
    let prioritised = |id, n_prompt, priority| {
        let terms = Terms {
            priority,
            ..Terms::default()
        };
        on_terms(id, vec![1; n_prompt], 3, terms)
    };
    submit(&mut scheduler, &blocks, prioritised(1, 16, 0));
    submit(&mut scheduler, &blocks, prioritised(2, 16, 1));
    assert_eq!(ids(turn(&mut scheduler, &mut blocks)), [1, 2]);
    // As important as the first: it takes the second's place only.
    submit(&mut scheduler, &blocks, prioritised(3, 16, 0));
    submit(&mut scheduler, &blocks, prioritised(4, 16, 0));
    assert_eq!(ids(turn(&mut scheduler, &mut blocks)), [1, 3]);
    assert_eq!(scheduler.load(EngineLoad::default()).preemptions, 1);
    while !turn(&mut scheduler, &mut blocks).is_empty() {}
    assert_eq!((blocks.n_free(), scheduler.n_waiting()), (4, 0));
}

#[test]
fn tenants_take_turns_by_what_was_done_for_them() {
    let mut blocks = BlockManager::new(100, false);
    let mut scheduler = scheduler(1, 100);
    let of_tenant = |id, n_prompt, tenant| {
        let terms = Terms {
            tenant: TenantId(tenant),
            ..Terms::default()
        };
        on_terms(id, vec![1; n_prompt], 1, terms)
    };
    // One tenant queues a flood of long prompts before the other's short ones.
    for id in 0..4 {
        submit(&mut scheduler, &blocks, of_tenant(id, 20, 1));
    }
    for id in 10..14 {
        submit(&mut scheduler, &blocks, of_tenant(id, 8, 2));
    }
    let mut order = Vec::new();
    for _ in 0..8 {
        order.extend(ids(turn(&mut scheduler, &mut blocks)));
    }
    // Each turn counts its prompt and two for the token: 22 against 10.
    assert_eq!(order, [0, 10, 11, 12, 1, 13, 2, 3]);
}

#[test]
fn requests_end_at_their_deadline_wherever_they_are() {
    let mut blocks = BlockManager::new(2, false);
    let mut scheduler = scheduler(1, 100);
    let within = |id, seconds| {
        let terms = Terms {
            deadline: Some(Duration::from_secs(seconds)),
            ..Terms::default()
        };
        on_terms(id, vec![1; 16], 9, terms)
    };
    submit(&mut scheduler, &blocks, within(1, 5));
    assert_eq!(ids(turn(&mut scheduler, &mut blocks)), [1]);
    submit(&mut scheduler, &blocks, within(2, 3));
    submit(&mut scheduler, &blocks, within(3, 60));
    let mut ended = Vec::new();
    for second in 0..6 {
        let now = Duration::from_secs(second);
        scheduler.expire(now, &mut blocks, |sequence, overdue| {
            ended.push((second, sequence.id().0, overdue));
        });
        turn_at(now, &mut scheduler, &mut blocks);
    }
    let deadline = |seconds| Overdue::Deadline(Duration::from_secs(seconds));
    assert_eq!(ended, [(3, 2, deadline(3)), (5, 1, deadline(5))]);
    assert_eq!(ids(turn(&mut scheduler, &mut blocks)), [3]);
    assert_eq!(blocks.n_free(), 0);
    scheduler.cancel(RequestId(3), &mut blocks);
    assert_eq!(blocks.n_free(), 2);
}

#[test]
fn of_one_tenant_the_request_goes_first_that_is_due_first() {
    let mut blocks = BlockManager::new(100, false);
    let mut scheduler = scheduler(1, 100);
    let of = |id, tenant, deadline: Option<u64>| {
        let terms = Terms {
            tenant: TenantId(tenant),
            deadline: deadline.map(Duration::from_secs),
            ..Terms::default()
        };
        on_terms(id, vec![1; 8], 1, terms)
    };
    // A deadline buys nothing from another tenant, which came first.
    submit(&mut scheduler, &blocks, of(1, 1, None));
    submit(&mut scheduler, &blocks, of(2, 2, Some(60)));
    submit(&mut scheduler, &blocks, of(3, 2, None));
    submit(&mut scheduler, &blocks, of(4, 2, Some(5)));
    // As old as it is by then, it goes before whoever comes with any deadline.
    let later = Duration::from_secs(3600);
    scheduler
        .submit(of(5, 2, Some(1)), later, &blocks)
        .expect("fits");
    let mut order = Vec::new();
    for _ in 0..5 {
        order.extend(ids(turn(&mut scheduler, &mut blocks)));
    }
    assert_eq!(order, [1, 4, 2, 3, 5]);
}

#[test]
fn patience_for_the_queue_ends_with_the_first_place() {
    let mut blocks = BlockManager::new(2, false);
    let mut scheduler = scheduler(1, 100);
    let patience = Duration::from_secs(2);
    let terms = Terms {
        queue_timeout: Some(patience),
        ..Terms::default()
    };
    submit(&mut scheduler, &blocks, on_terms(1, vec![1; 16], 9, terms));
    submit(&mut scheduler, &blocks, on_terms(2, vec![1; 16], 9, terms));
    let mut ended = Vec::new();
    for second in 0..5 {
        let now = Duration::from_secs(second);
        scheduler.expire(now, &mut blocks, |sequence, overdue| {
            ended.push((second, sequence.id().0, overdue));
        });
        turn_at(now, &mut scheduler, &mut blocks);
    }
    // The first got its place at once and keeps it.
    assert_eq!(ended, [(2, 2, Overdue::Queue(patience))]);
}

#[test]
fn prompts_that_begin_alike_are_computed_once() {
    let mut blocks = BlockManager::new(100, true);
    let mut scheduler = scheduler(4, 100);
    let prompt = |last: u32| [vec![1; 40], vec![last]].concat();
    let salted = |id, last, cache_salt| {
        let terms = Terms {
            cache_salt,
            ..Terms::default()
        };
        on_terms(id, prompt(last), 3, terms)
    };
    submit(&mut scheduler, &blocks, salted(1, 5, 7));
    submit(&mut scheduler, &blocks, salted(2, 6, 7));
    submit(&mut scheduler, &blocks, salted(3, 7, 8));
    // The second waits for what the first computes; the third is a stranger.
    assert_eq!(
        turn(&mut scheduler, &mut blocks),
        [(1, 41, true), (3, 41, true)]
    );
    assert_eq!(
        turn(&mut scheduler, &mut blocks),
        [(1, 1, true), (3, 1, true), (2, 41 - 32, true)]
    );
    let load = scheduler.load(EngineLoad::default());
    assert_eq!((load.prefix_queries, load.prefix_hits), (3 * 41, 32));
    assert_eq!(blocks.n_free(), 100 - 3 - 3 - 1);
    while !turn(&mut scheduler, &mut blocks).is_empty() {}
    assert_eq!((blocks.n_free(), blocks.n_idle()), (100, 4));
    // A whole prompt that is known runs its last token still: its logits are not kept.
    submit(
        &mut scheduler,
        &blocks,
        on_terms(
            4,
            vec![1; 32],
            1,
            Terms {
                cache_salt: 8,
                ..Terms::default()
            },
        ),
    );
    assert_eq!(turn(&mut scheduler, &mut blocks), [(4, 16, true)]);
}
