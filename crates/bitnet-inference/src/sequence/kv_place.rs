//! A sequence's place in the KV cache: blocks found, filled, kept for others and given back.

use bitnet_kernels::KV_BLOCK;

use super::Sequence;
use crate::block_manager::BlockManager;
use crate::prefix_cache::Prefix;

impl Sequence {
    /// Takes the cached blocks that hold its next tokens, as many as there are in a row; at least one token is left to
    /// run, for the logits behind it.
    pub fn find_prefix(&mut self, blocks: &mut BlockManager) {
        while self.may_find_next_block() {
            let tokens = block_of(&self.tokens, self.n_kept);
            let Some((block, prefix)) = blocks.find(self.prefix, tokens) else {
                break;
            };
            match self.block_table.get_mut(self.n_kept) {
                None => self.block_table.push(block),
                Some(own) => blocks.let_go(std::mem::replace(own, block)),
            }
            self.prefix = prefix;
            self.n_kept += 1;
            self.n_cached += KV_BLOCK;
        }
    }

    /// Counts the tokens found since the last call that it never ran itself; they are all of the prompt.
    pub fn count_found(&mut self) -> usize {
        let found = self.n_cached.saturating_sub(self.n_computed);
        self.n_computed += found;
        self.parts.timings.n_cached += found;
        found
    }

    /// Whether its next tokens are a whole block that the cache might hold.
    fn may_find_next_block(&self) -> bool {
        self.n_cached == self.n_kept * KV_BLOCK
            && self.n_cached + KV_BLOCK < self.tokens.len()
            && !self.collects_prompt_logprobs()
            && (self.parts.pooler.as_ref())
                .is_none_or(|pooler| pooler.may_skip_to(self.n_cached + KV_BLOCK))
    }

    /// Whether its next block is among the next `n_tokens` of `other`: then it is worth waiting for.
    pub fn will_find_next_block(&self, other: &Sequence, n_tokens: usize) -> bool {
        let end = self.n_cached + KV_BLOCK;
        self.may_find_next_block()
            && other.n_cached < end
            && end <= other.n_cached + n_tokens
            && self.parts.terms.cache_salt == other.parts.terms.cache_salt
            && self.tokens[..end] == other.tokens[..end]
    }

    /// Lets others find the blocks that it has filled.
    pub fn keep_full_blocks(&mut self, blocks: &mut BlockManager) {
        if !blocks.keeps_prefixes() {
            return;
        }
        while (self.n_kept + 1) * KV_BLOCK <= self.n_cached {
            let tokens = block_of(&self.tokens, self.n_kept);
            let block = &mut self.block_table[self.n_kept];
            let own = *block;
            self.prefix = blocks.keep(self.prefix, tokens, block);
            // Where the cache had the same already, that takes its place; after a pre-emption it is written again.
            let is_new = *block == own && self.n_kept >= self.n_kept_most;
            self.n_kept += 1;
            self.n_kept_most = self.n_kept_most.max(self.n_kept);
            if is_new && self.n_kept * KV_BLOCK <= self.n_prompt {
                self.parts.timings.n_cache_written += KV_BLOCK;
            }
        }
    }

    /// Gives its blocks back; every token is to be run again.
    pub fn leave_cache(&mut self, blocks: &mut BlockManager) {
        blocks.release(&mut self.block_table);
        self.n_cached = 0;
        self.n_kept = 0;
        self.prefix = Prefix::Start(self.parts.terms.cache_salt);
    }
}

/// The tokens of full block `index`.
fn block_of(tokens: &[u32], index: usize) -> &[u32; KV_BLOCK] {
    tokens[index * KV_BLOCK..]
        .first_chunk()
        .expect("the block is full")
}
