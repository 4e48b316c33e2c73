//! Hands out the blocks of the paged KV cache.
//!
//! The cache is one pool of blocks of [`KV_BLOCK`] positions each; a sequence has a table of block numbers, and block
//! `b` of the table holds its positions `16 b ..= 16 b + 15`. Sequences take blocks as they grow. Full blocks never
//! change, so sequences that begin alike may hold the same ones; a block is free when nobody holds it. With a
//! [`PrefixCache`] the full ones stay findable until their memory is wanted for something else.
//!
//! Source: "Efficient Memory Management for Large Language Model Serving with PagedAttention" (Kwon et al. 2023).

use std::cmp::Reverse;
use std::ops::Range;

use bitnet_kernels::KV_BLOCK;

use crate::prefix_cache::{Prefix, PrefixCache};

/// Who holds which of the KV cache's blocks.
#[derive(Debug)]
pub struct BlockManager {
    holders: Vec<u32>, // [n_blocks], how many tables have the block
    free: Vec<u32>,    // [<= n_blocks], of no known contents; the next to hand out is the last
    prefixes: Option<PrefixCache>,
}

impl BlockManager {
    /// All of `n_blocks` free; `prefix_cache` says whether full blocks are kept for texts that begin alike.
    ///
    /// # Panics
    /// When `n_blocks` does not fit block tables of `u32`.
    pub fn new(n_blocks: usize, prefix_cache: bool) -> BlockManager {
        let count = u32::try_from(n_blocks).expect("block numbers are u32");
        BlockManager {
            holders: vec![0; n_blocks],
            // Handed out from 0 upwards: a single sequence walks the cache in order.
            free: (0..count).rev().collect(),
            prefixes: prefix_cache.then(|| PrefixCache::new(n_blocks)),
        }
    }

    /// Blocks that hold `n_positions`.
    pub fn blocks_for(n_positions: usize) -> usize {
        n_positions.div_ceil(KV_BLOCK)
    }

    /// Size of the pool.
    pub fn n_blocks(&self) -> usize {
        self.holders.len()
    }

    /// Blocks nobody holds, those included that can still be found.
    pub fn n_free(&self) -> usize {
        self.free.len() + self.n_idle()
    }

    /// Blocks that nobody holds but can still be found.
    pub fn n_idle(&self) -> usize {
        self.prefixes.as_ref().map_or(0, PrefixCache::n_idle)
    }

    /// Whether full blocks are kept for texts that begin alike.
    pub fn keeps_prefixes(&self) -> bool {
        self.prefixes.is_some()
    }

    /// Blocks of `table` that would be free if it gave them back.
    pub fn n_held_alone(&self, table: &[u32]) -> usize {
        let alone = |&&block: &&u32| self.holders[block as usize] == 1;
        table.iter().filter(alone).count()
    }

    /// A table of blocks for `n_positions`, or `None` when too few are free.
    pub fn allocate(&mut self, n_positions: usize) -> Option<Vec<u32>> {
        let mut table = Vec::new();
        self.grow(&mut table, n_positions).then_some(table)
    }

    /// Adds blocks to `table` until it holds `n_positions`; `false`, and nothing is changed, when too few are free.
    pub fn grow(&mut self, table: &mut Vec<u32>, n_positions: usize) -> bool {
        let wanted = Self::blocks_for(n_positions).saturating_sub(table.len());
        if wanted > self.n_free() {
            return false;
        }
        for _ in 0..wanted {
            let forgotten = || self.prefixes.as_mut().and_then(PrefixCache::evict);
            let block = self.free.pop().or_else(forgotten);
            let block = block.expect("as many are free as were counted");
            self.holders[block as usize] = 1;
            table.push(block);
        }
        true
    }

    /// Takes the blocks of `table` back and leaves it empty.
    ///
    /// # Panics
    /// When nobody holds one of them: some table was returned twice.
    pub fn release(&mut self, table: &mut Vec<u32>) {
        // The last one first: of a text that is kept, the end is forgotten before the beginning.
        for block in table.drain(..).rev() {
            self.let_go(block);
        }
    }

    /// Forgets the contents of all blocks that nobody holds; they are returned as ranges, ascending.
    pub fn forget_idle(&mut self) -> Vec<Range<u32>> {
        if let Some(prefixes) = &mut self.prefixes {
            self.free.extend(std::iter::from_fn(|| prefixes.evict()));
        }
        // As at the start: from 0 upwards.
        self.free.sort_unstable_by_key(|&block| Reverse(block));
        let mut ranges: Vec<Range<u32>> = Vec::new();
        for &block in self.free.iter().rev() {
            match ranges.last_mut() {
                Some(last) if last.end == block => last.end += 1,
                _ => ranges.push(block..block + 1),
            }
        }
        ranges
    }

    /// The kept block that holds `tokens` behind `before`, for a table to hold too, and what stands for the text up to
    /// its end.
    pub fn find(&mut self, before: Prefix, tokens: &[u32; KV_BLOCK]) -> Option<(u32, Prefix)> {
        let prefixes = self.prefixes.as_mut()?;
        let (block, prefix) = prefixes.find(before, tokens)?;
        let holders = &mut self.holders[block as usize];
        if *holders == 0 {
            prefixes.wake(block);
        }
        *holders += 1;
        Some((block, prefix))
    }

    /// Keeps `block` of somebody's table, filled with `tokens` behind `before`, to be found. Where the same is kept in
    /// another block already, that one (its keys and values are the same bits) takes its place in the table. Returns
    /// what stands for the text up to its end; `before` when nothing is kept.
    pub fn keep(&mut self, before: Prefix, tokens: &[u32; KV_BLOCK], block: &mut u32) -> Prefix {
        if let Some((kept, prefix)) = self.find(before, tokens) {
            self.let_go(std::mem::replace(block, kept));
            return prefix;
        }
        match &mut self.prefixes {
            Some(prefixes) => prefixes.insert(before, tokens, *block),
            None => before,
        }
    }

    /// Takes one holder off a block.
    pub fn let_go(&mut self, block: u32) {
        let holders = &mut self.holders[block as usize];
        assert!(*holders > 0, "a block was returned twice");
        *holders -= 1;
        if *holders > 0 {
            return;
        }
        match &mut self.prefixes {
            Some(prefixes) if prefixes.contains(block) => prefixes.rest(block),
            _ => self.free.push(block),
        }
    }
}

#[cfg(test)]
mod tests;
