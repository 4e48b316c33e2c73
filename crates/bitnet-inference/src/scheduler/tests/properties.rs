//! Random crowds, with a cache whose contents are checked: every block that a row reads must hold exactly the tokens
//! that its sequence has there. Stands in for the model by a hash: the next token is a function of all before it.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::*;

const VOCABULARY: u64 = 3; // small, so that texts repeat and drafts and prefixes meet

/// A request and when it comes and goes.
#[derive(Debug, Clone)]
struct Plan {
    at: u64, // turn
    cancelled_at: Option<u64>,
    deadline: Option<u64>, // turns
    priority: i32,
    tenant: u64,
    salt: u64,
    n_shared: usize, // leading tokens of a text that all have in common
    n_own: usize,
    max_tokens: usize,
    speculate: usize,
}

fn plan() -> impl Strategy<Value = Plan> {
    let when = (
        0..60u64,
        prop::option::weighted(0.2, 0..120u64),
        prop::option::weighted(0.1, 1..40u64),
    );
    let who = (-2..3i32, 0..3u64, 0..2u64);
    let what = (
        0..50usize,
        1..30usize,
        1..60usize,
        prop::sample::select(vec![0, 7]),
    );
    (when, who, what).prop_map(
        |((at, cancelled_at, deadline), (priority, tenant, salt), what)| Plan {
            at,
            cancelled_at,
            deadline,
            priority,
            tenant,
            salt,
            n_shared: what.0,
            n_own: what.1,
            max_tokens: what.2,
            speculate: what.3,
        },
    )
}

/// The hash of a text, which stands for the keys and values of its last token.
fn state(tokens: &[u32]) -> u64 {
    tokens.iter().fold(1, |hash: u64, &token| {
        (hash ^ u64::from(token))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(23)
    })
}

/// The row of logits behind a text.
fn row(tokens: &[u32]) -> [f32; VOCABULARY as usize] {
    let mut row = [0.0; VOCABULARY as usize];
    row[(state(tokens) % VOCABULARY) as usize] = 1.0;
    row
}

impl Plan {
    fn prompt(&self, id: u64) -> Vec<u32> {
        let shared = (0..self.n_shared as u64).map(|n| ((n * n) % 3) as u32);
        let own = (0..self.n_own as u64).map(|n| ((n * id + id) % 3) as u32);
        shared.chain(own).collect()
    }

    fn sequence(&self, id: u64) -> Sequence {
        let terms = Terms {
            priority: self.priority,
            tenant: TenantId(self.tenant),
            deadline: self.deadline.map(Duration::from_secs),
            cache_salt: self.salt,
            queue_timeout: None,
        };
        drafting(id, self.prompt(id), self.max_tokens, terms, self.speculate)
    }

    /// What it draws alone.
    fn alone(&self, id: u64) -> Vec<u32> {
        let mut tokens = self.prompt(id);
        let n_prompt = tokens.len();
        for _ in 0..self.max_tokens {
            tokens.push((state(&tokens) % VOCABULARY) as u32);
        }
        tokens.split_off(n_prompt)
    }
}

/// Everything that the properties look at.
struct World {
    scheduler: Scheduler,
    blocks: BlockManager,
    cache: Vec<[u64; KV_BLOCK]>,
    texts: BTreeMap<u64, Vec<u32>>, // prompt and drawn, of all that came
    drawn: BTreeMap<u64, Vec<u32>>,
    ended: BTreeMap<u64, bool>, // whether it drew all its tokens
}

impl World {
    fn turn(&mut self, now: Duration) {
        let World {
            scheduler,
            blocks,
            ended,
            ..
        } = self;
        scheduler.expire(now, blocks, |sequence, _| {
            ended.insert(sequence.id().0, false);
        });
        let mut plan = Vec::new();
        scheduler.schedule(now, blocks, &mut plan);
        assert!(
            !plan.is_empty() || scheduler.n_waiting() == 0,
            "somebody waits for nothing"
        );
        self.check_blocks();
        self.check_limits(&plan);
        // The pass: first every row is written, then each reads what is before it.
        for chunk in &plan {
            let sequence = &self.scheduler.running()[chunk.index];
            let start = sequence.start_position();
            let mut text = self.texts[&sequence.id().0][..start].to_vec();
            for (offset, &token) in sequence
                .rows(chunk.n_tokens + chunk.n_drafted)
                .iter()
                .enumerate()
            {
                text.push(token);
                let at = start + offset;
                let block = sequence.block_table()[at / KV_BLOCK];
                self.cache[block as usize][at % KV_BLOCK] = state(&text);
            }
        }
        for chunk in &plan {
            let sequence = &self.scheduler.running()[chunk.index];
            let text = &self.texts[&sequence.id().0];
            for at in 0..sequence.start_position() + chunk.n_tokens {
                let block = sequence.block_table()[at / KV_BLOCK];
                assert_eq!(
                    self.cache[block as usize][at % KV_BLOCK],
                    state(&text[..=at]),
                    "position {at} of request {}",
                    sequence.id().0
                );
            }
        }
        for chunk in &plan {
            let sequence = &mut self.scheduler.running_mut()[chunk.index];
            let id = sequence.id().0;
            let done = sequence.advance(chunk.n_tokens, Duration::ZERO);
            let mut n_drawn = 0;
            for _ in 0..if chunk.draws { 1 + chunk.n_drafted } else { 0 } {
                let text = self.texts.get_mut(&id).expect("it came");
                let (token, finish) = sequence.draw(&row(text)).expect("a token");
                text.push(token.id);
                self.drawn.entry(id).or_default().push(token.id);
                n_drawn += 1;
                if finish.is_some() {
                    self.ended.insert(id, true);
                }
                if !sequence.confirms(&token) {
                    break;
                }
            }
            sequence.finish_draft();
            self.scheduler
                .settle(chunk.index, done, n_drawn, &mut self.blocks);
        }
        self.scheduler.retire(&mut self.blocks);
    }

    /// Every block is held as often as tables have it, and all others are free.
    fn check_blocks(&self) {
        let mut holders: HashMap<u32, usize> = HashMap::new();
        for sequence in self.scheduler.running() {
            for &block in sequence.block_table() {
                *holders.entry(block).or_default() += 1;
            }
            let alone = sequence
                .block_table()
                .iter()
                .filter(|block| holders[block] == 1);
            assert!(self.blocks.n_held_alone(sequence.block_table()) <= alone.count());
        }
        assert_eq!(self.blocks.n_free(), self.blocks.n_blocks() - holders.len());
        if !self.blocks.keeps_prefixes() {
            assert!(holders.values().all(|&n| n == 1), "nothing is shared");
        }
    }

    fn check_limits(&self, plan: &[Chunk]) {
        let limits = self.scheduler.limits;
        let running = self.scheduler.running();
        assert!(running.len() <= limits.max_running);
        assert!(running.is_sorted_by_key(|sequence| sequence.rank()));
        let n_rows: usize = plan.iter().map(|c| c.n_tokens + c.n_drafted).sum();
        assert!(n_rows <= limits.max_rows());
    }
}

/// Runs `plans` to their end and returns how often somebody was pre-empted.
fn run(plans: &[Plan], n_blocks: usize, prefix_cache: bool, prefill_chunk: usize) -> u64 {
    let mut world = World {
        scheduler: Scheduler::new(ScheduleLimits {
            max_running: 5,
            max_drafted: 15,
            prefill_chunk,
            prefill_beside: prefill_chunk.div_ceil(2),
            prompt_logit_rows: 1,
        }),
        blocks: BlockManager::new(n_blocks, prefix_cache),
        cache: vec![[0; KV_BLOCK]; n_blocks],
        texts: BTreeMap::new(),
        drawn: BTreeMap::new(),
        ended: BTreeMap::new(),
    };
    // Each token needs a turn at worst, and so does each chunk of what is run again for somebody of lower rank.
    let patience = 200 * (plans.len() as u64 + 1);
    for turn in 0.. {
        let now = Duration::from_secs(turn);
        for (id, plan) in (0..).zip(plans) {
            if plan.at == turn {
                world.texts.insert(id, plan.prompt(id));
                let sequence = plan.sequence(id);
                world
                    .scheduler
                    .submit(sequence, now, &world.blocks)
                    .expect("fits");
            }
            if plan.cancelled_at == Some(turn) && !world.ended.contains_key(&id) && plan.at <= turn
            {
                world.scheduler.cancel(RequestId(id), &mut world.blocks);
                world.ended.insert(id, false);
                world.check_blocks();
            }
        }
        world.turn(now);
        if world.ended.len() == plans.len() {
            break;
        }
        assert!(turn < patience, "somebody starves: {:?}", world.ended);
    }
    assert_eq!(world.blocks.n_free(), n_blocks, "all blocks come back");
    assert!(world.scheduler.running().is_empty() && world.scheduler.n_waiting() == 0);
    for (id, plan) in (0..).zip(plans) {
        let alone = plan.alone(id);
        let drawn = world.drawn.get(&id).map_or(&[][..], Vec::as_slice);
        match world.ended[&id] {
            true => assert_eq!(drawn, alone, "request {id}"),
            false => assert!(alone.starts_with(drawn), "request {id}"),
        }
    }
    world.scheduler.load(EngineLoad::default()).preemptions
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn crowds_finish_as_if_alone_and_leak_nothing(
        plans in prop::collection::vec(plan(), 1..16),
        n_blocks in 9..24usize, // the longest text has 9 blocks
        prefix_cache: bool,
        prefill_chunk in 1..70usize,
    ) {
        run(&plans, n_blocks, prefix_cache, prefill_chunk);
    }
}

#[test]
fn a_crowd_in_a_small_cache_is_preempted_often_and_finishes_as_if_alone() {
    let plans: Vec<Plan> = (0..12)
        .map(|n| Plan {
            at: n / 3,
            cancelled_at: None,
            deadline: None,
            priority: (n % 3) as i32 - 1,
            tenant: n % 2,
            salt: n % 2,
            n_shared: 20,
            n_own: 3 + n as usize,
            max_tokens: 40,
            speculate: 0,
        })
        .collect();
    for prefix_cache in [false, true] {
        assert!(
            run(&plans, 9, prefix_cache, 16) >= 3,
            "cache: {prefix_cache}"
        );
    }
}
