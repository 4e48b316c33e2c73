//! Hands out the blocks of the paged KV cache.
//!
//! The cache is one pool of blocks of [`KV_BLOCK`] positions each; a sequence owns a table of block numbers, and block
//! `b` of the table holds its positions `16 b ..= 16 b + 15`. A sequence takes every block it can ever need when it is
//! admitted, so a running sequence never waits for memory and two can never starve each other.
//!
//! Source: "Efficient Memory Management for Large Language Model Serving with PagedAttention" (Kwon et al. 2023).

use bitnet_kernels::KV_BLOCK;

/// The free list of the KV cache's blocks.
#[derive(Debug)]
pub struct BlockManager {
    n_blocks: usize,
    free: Vec<u32>, // [<= n_blocks], the next block to hand out is the last
}

impl BlockManager {
    /// All of `n_blocks` free.
    ///
    /// # Panics
    /// When `n_blocks` does not fit block tables of `u32`.
    pub fn new(n_blocks: usize) -> BlockManager {
        let count = u32::try_from(n_blocks).expect("block numbers are u32");
        BlockManager {
            n_blocks,
            // Handed out from 0 upwards: a single sequence walks the cache in order.
            free: (0..count).rev().collect(),
        }
    }

    /// Blocks that hold `n_positions`.
    pub fn blocks_for(n_positions: usize) -> usize {
        n_positions.div_ceil(KV_BLOCK)
    }

    /// Size of the pool.
    pub fn n_blocks(&self) -> usize {
        self.n_blocks
    }

    /// Blocks nobody owns.
    pub fn n_free(&self) -> usize {
        self.free.len()
    }

    /// A table of blocks for `n_positions`, or `None` when too few are free.
    pub fn allocate(&mut self, n_positions: usize) -> Option<Vec<u32>> {
        let kept = self.free.len().checked_sub(Self::blocks_for(n_positions))?;
        let mut table = self.free.split_off(kept);
        table.reverse();
        Some(table)
    }

    /// Takes the blocks of `table` back and leaves it empty.
    ///
    /// # Panics
    /// When more blocks come back than exist: some table was returned twice.
    pub fn release(&mut self, table: &mut Vec<u32>) {
        self.free.extend(table.drain(..).rev());
        assert!(
            self.free.len() <= self.n_blocks,
            "a block was returned twice"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_round_up_to_whole_blocks() {
        for (positions, blocks) in [(0, 0), (1, 1), (15, 1), (16, 1), (17, 2), (32, 2), (33, 3)] {
            assert_eq!(BlockManager::blocks_for(positions), blocks, "{positions}");
        }
    }

    #[test]
    fn tables_never_share_a_block_and_all_come_back() {
        let mut blocks = BlockManager::new(5);
        let mut a = blocks.allocate(2 * KV_BLOCK).expect("two of five");
        let mut b = blocks.allocate(2 * KV_BLOCK + 1).expect("three of three");
        assert_eq!(blocks.n_free(), 0);
        let mut all = [a.clone(), b.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3, 4]);
        assert_eq!(blocks.allocate(1), None);
        blocks.release(&mut a);
        assert_eq!(blocks.allocate(3 * KV_BLOCK), None);
        blocks.release(&mut b);
        assert_eq!(blocks.n_free(), 5);
        assert!(a.is_empty() && b.is_empty());
    }

    #[test]
    fn a_refused_allocation_takes_nothing() {
        let mut blocks = BlockManager::new(2);
        assert_eq!(blocks.allocate(3 * KV_BLOCK), None);
        assert_eq!(blocks.n_free(), 2);
        assert_eq!(blocks.allocate(0), Some(vec![]));
    }
}
