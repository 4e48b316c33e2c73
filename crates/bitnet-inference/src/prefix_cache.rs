//! Which full blocks of the KV cache hold which beginnings of texts, and which of those nobody needs have been idle
//! longest.
//!
//! A block is found by the 16 tokens that it holds and by what comes before them: the block of its predecessors, or the
//! salt for the first. So blocks form chains, and a text finds its longest known beginning block by block.
//!
//! ```text
//! salt 7 --[the little fox ...]--> block 4 --[met a bear ...]--> block 9
//!                                     `-----[lived alone ...]--> block 2
//! ```
//!
//! Keys are compared whole, tokens and all, and a block that came into the cache has a number that is never given
//! again, which stands for everything up to its end. Hence no two texts can be taken for one another: there is no hash
//! whose collisions could be sought, and the one that picks a bucket is keyed at random. Nothing is allocated after the
//! start.
//!
//! Source: the hash-chained blocks of vLLM's automatic prefix caching, with numbers in the place of hashes.

use std::hash::{BuildHasher, RandomState};

use bitnet_kernels::KV_BLOCK;

/// Stands for a text up to the end of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Prefix {
    /// Nothing yet, under a salt.
    Start(u64),
    /// Everything up to the end of the block with this number.
    Block(u64),
}

/// No block.
const NONE: u32 = u32::MAX;

/// What is known of one physical block.
#[derive(Debug, Clone, Copy)]
struct Entry {
    before: Prefix,
    tokens: [u32; KV_BLOCK],
    number: u64,         // 0: not in the cache
    next_in_bucket: u32, // or NONE
    older: u32,          // neighbours among the idle blocks, or NONE
    newer: u32,
    idle: bool,
}

/// The blocks whose contents are known.
#[derive(Debug)]
pub struct PrefixCache {
    entries: Vec<Entry>, // [n_blocks]
    buckets: Vec<u32>,   // [a power of two >= n_blocks], the first block of each or NONE
    hasher: RandomState,
    last_number: u64,
    oldest: u32, // ends of the list of idle blocks, or NONE
    newest: u32,
    n_idle: usize,
}

impl PrefixCache {
    /// Nothing known of `n_blocks` blocks.
    pub fn new(n_blocks: usize) -> PrefixCache {
        let unknown = Entry {
            before: Prefix::Start(0),
            tokens: [0; KV_BLOCK],
            number: 0,
            next_in_bucket: NONE,
            older: NONE,
            newer: NONE,
            idle: false,
        };
        PrefixCache {
            entries: vec![unknown; n_blocks],
            buckets: vec![NONE; n_blocks.next_power_of_two()],
            hasher: RandomState::new(),
            last_number: 0,
            oldest: NONE,
            newest: NONE,
            n_idle: 0,
        }
    }

    /// The block that holds `tokens` behind `before`, and what stands for the text up to its end.
    pub fn find(&self, before: Prefix, tokens: &[u32; KV_BLOCK]) -> Option<(u32, Prefix)> {
        let mut block = self.buckets[self.bucket(before, tokens)];
        while block != NONE {
            let entry = &self.entries[block as usize];
            if entry.before == before && entry.tokens == *tokens {
                return Some((block, Prefix::Block(entry.number)));
            }
            block = entry.next_in_bucket;
        }
        None
    }

    /// Notes that `block`, which somebody holds, has `tokens` behind `before`; nobody else may. Returns what stands for
    /// the text up to its end.
    pub fn insert(&mut self, before: Prefix, tokens: &[u32; KV_BLOCK], block: u32) -> Prefix {
        debug_assert!(!self.contains(block) && self.find(before, tokens).is_none());
        let bucket = self.bucket(before, tokens);
        self.last_number += 1;
        self.entries[block as usize] = Entry {
            before,
            tokens: *tokens,
            number: self.last_number,
            next_in_bucket: std::mem::replace(&mut self.buckets[bucket], block),
            older: NONE,
            newer: NONE,
            idle: false,
        };
        Prefix::Block(self.last_number)
    }

    /// Whether the contents of `block` are known.
    pub fn contains(&self, block: u32) -> bool {
        self.entries[block as usize].number != 0
    }

    /// Notes that nobody holds a known `block` any more. Blocks are forgotten in the order in which they went idle, so
    /// the last one of a text has to come first.
    pub fn rest(&mut self, block: u32) {
        let newest = std::mem::replace(&mut self.newest, block);
        let entry = &mut self.entries[block as usize];
        debug_assert!(entry.number != 0 && !entry.idle);
        (entry.idle, entry.older, entry.newer) = (true, newest, NONE);
        match newest {
            NONE => self.oldest = block,
            newest => self.entries[newest as usize].newer = block,
        }
        self.n_idle += 1;
    }

    /// Notes that somebody holds an idle `block` again.
    pub fn wake(&mut self, block: u32) {
        let entry = &mut self.entries[block as usize];
        debug_assert!(entry.idle);
        entry.idle = false;
        let (older, newer) = (entry.older, entry.newer);
        match older {
            NONE => self.oldest = newer,
            older => self.entries[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.entries[newer as usize].older = older,
        }
        self.n_idle -= 1;
    }

    /// Forgets the block that has been idle longest and hands it out.
    pub fn evict(&mut self) -> Option<u32> {
        let block = self.oldest;
        if block == NONE {
            return None;
        }
        self.wake(block);
        let Entry {
            before,
            tokens,
            next_in_bucket,
            ..
        } = self.entries[block as usize];
        let bucket = self.bucket(before, &tokens);
        let mut at = self.buckets[bucket];
        if at == block {
            self.buckets[bucket] = next_in_bucket;
        } else {
            while self.entries[at as usize].next_in_bucket != block {
                at = self.entries[at as usize].next_in_bucket;
            }
            self.entries[at as usize].next_in_bucket = next_in_bucket;
        }
        self.entries[block as usize].number = 0;
        Some(block)
    }

    /// Known blocks that nobody holds.
    pub fn n_idle(&self) -> usize {
        self.n_idle
    }

    fn bucket(&self, before: Prefix, tokens: &[u32; KV_BLOCK]) -> usize {
        self.hasher.hash_one((before, tokens)) as usize & (self.buckets.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: [u32; KV_BLOCK] = [1; KV_BLOCK];
    const B: [u32; KV_BLOCK] = [2; KV_BLOCK];

    #[test]
    fn blocks_are_found_by_their_tokens_and_all_before_them() {
        let mut cache = PrefixCache::new(4);
        let a = cache.insert(Prefix::Start(7), &A, 3);
        let ab = cache.insert(a, &B, 0);
        let b = cache.insert(Prefix::Start(7), &B, 1);
        assert_eq!(cache.find(Prefix::Start(7), &A), Some((3, a)));
        assert_eq!(cache.find(a, &B), Some((0, ab)));
        assert_eq!(cache.find(Prefix::Start(7), &B), Some((1, b)));
        assert_eq!(cache.find(b, &B), None);
        assert_eq!(cache.find(Prefix::Start(8), &A), None, "another salt");
    }

    #[test]
    fn the_longest_idle_goes_first_and_its_number_never_comes_back() {
        let mut cache = PrefixCache::new(3);
        let first = cache.insert(Prefix::Start(0), &A, 0);
        cache.insert(first, &A, 1);
        cache.insert(first, &B, 2);
        assert_eq!((cache.evict(), cache.n_idle()), (None, 0));
        for block in [2, 1, 0] {
            cache.rest(block);
        }
        cache.wake(1);
        assert_eq!((cache.n_idle(), cache.evict()), (2, Some(2)));
        assert_eq!(cache.evict(), Some(0));
        assert_eq!((cache.evict(), cache.n_idle()), (None, 0));
        assert!(cache.contains(1) && !cache.contains(0) && !cache.contains(2));
        let again = cache.insert(Prefix::Start(0), &A, 0);
        assert_ne!(again, first);
        assert_eq!(cache.find(again, &A), None, "block 1 was behind the first");
    }

    #[test]
    fn one_bucket_can_hold_many_blocks() {
        // As many blocks as buckets: some share one.
        let mut cache = PrefixCache::new(64);
        let tokens = |n: u32| [n; KV_BLOCK];
        for n in 0..64 {
            cache.insert(Prefix::Start(0), &tokens(n), n);
        }
        for n in (0..64).filter(|n| n % 3 == 0) {
            cache.rest(n);
        }
        while cache.evict().is_some() {}
        for n in 0..64 {
            let found = cache.find(Prefix::Start(0), &tokens(n));
            assert_eq!(found.map(|(block, _)| block), (n % 3 != 0).then_some(n));
        }
    }
}
