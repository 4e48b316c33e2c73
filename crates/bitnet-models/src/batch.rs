//! The flat batch: rows of several sequences one after another, without padding.
//!
//! A row is one token at one position of one sequence. A prefill chunk is many rows of a sequence, a decode step is
//! one; the forward pass does not tell them apart, so both may share a batch. Where a sequence's keys and values
//! are is in its block table: logical block `b` (positions `16 b .. 16 b + 16`) lives in physical block `table[b]`.
//!
//! ```text
//! tokens       t0 t1 t2 | u0 | v0 v1        three sequences: a chunk, a decode step, a chunk
//! positions     0  1  2 | 41 | 16 17
//! sequences     0  0  0 |  1 |  2  2
//! logit_rows          2    3       5        the rows whose logits are wanted (here: the last of each)
//! ```

use std::ops::Range;

use bitnet_kernels::{BatchView, KV_BLOCK, Keep};

/// Which rows of a sequence need logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogitRows {
    /// None: an inner chunk of a prompt.
    None,
    /// The last one: what decoding samples from.
    Last,
    /// Every one: scoring.
    All,
}

/// One call's worth of tokens. Cleared and refilled, it keeps its memory, so decoding allocates nothing.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// Token ids, `[n]`.
    tokens: Vec<u32>,
    /// Position of each row in its sequence, `[n]`.
    positions: Vec<u32>,
    /// Sequence index of each row, `[n]`, ascending.
    sequences: Vec<u32>,
    /// Where each sequence's table starts in `block_tables`, `[n_sequences + 1]` once a sequence is in.
    table_offsets: Vec<u32>,
    /// All block tables, one after another.
    block_tables: Vec<u32>,
    /// The rows whose logits are wanted, ascending.
    logit_rows: Vec<u32>,
    /// What will be kept of each of them, `[n_logit_rows]`; `None`: everything is wanted.
    keeps: Vec<Option<Keep>>,
    /// Where the named ids of each of them are in `named`, `[n_logit_rows]`.
    named_ranges: Vec<Range<u32>>,
    /// Ids whose logits will be changed.
    named: Vec<u32>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Removes every sequence and keeps the memory.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.sequences.clear();
        self.table_offsets.clear();
        self.block_tables.clear();
        self.logit_rows.clear();
        self.keeps.clear();
        self.named_ranges.clear();
        self.named.clear();
    }

    /// Adds the next tokens of a sequence, the first of them at `start_position`.
    ///
    /// `block_table` holds the physical block of every logical block from position 0 to the last token added.
    /// [`crate::Model::forward`] checks what is added; this only collects.
    pub fn push_sequence(
        &mut self,
        tokens: &[u32],
        start_position: usize,
        block_table: &[u32],
        logits: LogitRows,
    ) {
        let first_row = self.tokens.len();
        if self.table_offsets.is_empty() {
            self.table_offsets.push(0);
        }
        let sequence = self.table_offsets.len() as u32 - 1;
        self.tokens.extend_from_slice(tokens);
        // A position past u32 is past every context: it stays refusable instead of wrapping round.
        let position =
            |row: usize| u32::try_from(start_position.saturating_add(row)).unwrap_or(u32::MAX);
        self.positions.extend((0..tokens.len()).map(position));
        self.sequences
            .extend(std::iter::repeat_n(sequence, tokens.len()));
        self.block_tables.extend_from_slice(block_table);
        self.table_offsets.push(self.block_tables.len() as u32);
        let rows = first_row as u32..self.tokens.len() as u32;
        match logits {
            LogitRows::None => {}
            LogitRows::Last => self.logit_rows.extend(rows.last()),
            LogitRows::All => self.logit_rows.extend(rows),
        }
        self.keeps.resize(self.logit_rows.len(), None);
        self.named_ranges.resize(self.logit_rows.len(), 0..0);
    }

    /// Says what will be kept of row `row` of the logits (see [`Batch::logit_rows`]), so that the others need not be
    /// known. Ids of `named` are wanted in any case, because their logits will be changed.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn keep(&mut self, row: usize, keep: Keep, named: impl IntoIterator<Item = u32>) {
        let start = self.named.len() as u32;
        self.named.extend(named);
        self.keeps[row] = Some(keep);
        self.named_ranges[row] = start..self.named.len() as u32;
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Token ids, `[n]`.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Position of each row in its sequence, `[n]`.
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// The rows whose logits are wanted; row `i` of the logits belongs to row `logit_rows()[i]` of the batch.
    pub fn logit_rows(&self) -> &[u32] {
        &self.logit_rows
    }

    /// What will be kept of the logits of each of [`Batch::logit_rows`]; `None`: everything is wanted.
    pub fn keeps(&self) -> &[Option<Keep>] {
        &self.keeps
    }

    /// The ids that row `row` of [`Batch::logit_rows`] names.
    pub fn named_of(&self, row: usize) -> &[u32] {
        let range = &self.named_ranges[row];
        &self.named[range.start as usize..range.end as usize]
    }

    /// What the kernels see.
    pub(crate) fn view(&self) -> BatchView<'_> {
        BatchView {
            positions: &self.positions,
            sequences: &self.sequences,
            table_offsets: &self.table_offsets,
            block_tables: &self.block_tables,
        }
    }

    /// Checks that a forward pass within `bounds` can run this batch without leaving any buffer.
    pub(crate) fn check(&self, bounds: &Bounds) -> Result<(), BatchError> {
        if self.len() > bounds.max_tokens {
            return Err(BatchError::Tokens {
                found: self.len(),
                max: bounds.max_tokens,
            });
        }
        if self.logit_rows.len() > bounds.max_logit_rows {
            return Err(BatchError::LogitRows {
                found: self.logit_rows.len(),
                max: bounds.max_logit_rows,
            });
        }
        if let Some(&id) = self
            .named
            .iter()
            .find(|&&id| id as usize >= bounds.vocab_size)
        {
            return Err(BatchError::Named {
                id,
                vocab_size: bounds.vocab_size,
            });
        }
        if let Some(row) = self
            .tokens
            .iter()
            .position(|&token| token as usize >= bounds.vocab_size)
        {
            return Err(BatchError::Token {
                row,
                token: self.tokens[row],
                vocab_size: bounds.vocab_size,
            });
        }
        for (&position, &sequence) in self.positions.iter().zip(&self.sequences) {
            if position as usize >= bounds.context_length {
                let context_length = bounds.context_length;
                return Err(BatchError::Position {
                    sequence,
                    position,
                    context_length,
                });
            }
            let blocks = self.block_table(sequence).len();
            if position as usize / KV_BLOCK >= blocks {
                return Err(BatchError::Table {
                    sequence,
                    position,
                    blocks,
                });
            }
        }
        if let Some(&block) = self
            .block_tables
            .iter()
            .find(|&&block| block as usize >= bounds.n_blocks)
        {
            return Err(BatchError::Block {
                block,
                n_blocks: bounds.n_blocks,
            });
        }
        Ok(())
    }

    fn block_table(&self, sequence: u32) -> &[u32] {
        let sequence = sequence as usize;
        let (start, end) = (
            self.table_offsets[sequence],
            self.table_offsets[sequence + 1],
        );
        &self.block_tables[start as usize..end as usize]
    }
}

/// What a batch must stay within.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Rows that the activations have room for.
    pub max_tokens: usize,
    /// Logit rows that the activations have room for.
    pub max_logit_rows: usize,
    /// Number of token ids.
    pub vocab_size: usize,
    /// Number of positions.
    pub context_length: usize,
    /// Number of physical blocks of the KV cache.
    pub n_blocks: usize,
}

/// Why a batch cannot run. A scheduler that keeps to its limits never sees one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// More rows than the activations have room for.
    #[error("the batch has {found} tokens, expected at most {max}")]
    Tokens {
        /// Rows in the batch.
        found: usize,
        /// Rows that there is room for.
        max: usize,
    },
    /// More logit rows than the activations have room for.
    #[error("the batch asks for the logits of {found} rows, expected at most {max}")]
    LogitRows {
        /// Logit rows in the batch.
        found: usize,
        /// Logit rows that there is room for.
        max: usize,
    },
    /// A token id that the embedding has no row for.
    #[error(
        "token {token} in row {row} of the batch, expected an id below the vocabulary size {vocab_size}"
    )]
    Token {
        /// Row of the batch.
        row: usize,
        /// The id.
        token: u32,
        /// Number of ids.
        vocab_size: usize,
    },
    /// A named id that the head has no row for.
    #[error("the batch names token {id}, expected an id below the vocabulary size {vocab_size}")]
    Named {
        /// The id.
        id: u32,
        /// Number of ids.
        vocab_size: usize,
    },
    /// A position past the end of the context.
    #[error(
        "position {position} of sequence {sequence} of the batch, expected one below the context length {context_length}"
    )]
    Position {
        /// Which sequence of the batch.
        sequence: u32,
        /// The position.
        position: u32,
        /// Number of positions.
        context_length: usize,
    },
    /// A block table that ends before the position it must cover.
    #[error(
        "the block table of sequence {sequence} of the batch has {blocks} blocks, expected one for position {position}"
    )]
    Table {
        /// Which sequence of the batch.
        sequence: u32,
        /// The position that has no block.
        position: u32,
        /// Blocks in the table.
        blocks: usize,
    },
    /// A block that the KV cache does not have.
    #[error("block {block} in a block table, expected one below {n_blocks}")]
    Block {
        /// The block.
        block: u32,
        /// Blocks in the cache.
        n_blocks: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        max_tokens: 8,
        max_logit_rows: 2,
        vocab_size: 10,
        context_length: 40,
        n_blocks: 4,
    };

    fn batch(tokens: &[u32], start: usize, table: &[u32], logits: LogitRows) -> Batch {
        let mut batch = Batch::new();
        batch.push_sequence(tokens, start, table, logits);
        batch
    }

    #[test]
    fn sequences_lie_flat_one_after_another() {
        let mut batch = batch(&[1, 2, 3], 15, &[2, 0], LogitRows::Last);
        batch.push_sequence(&[4], 0, &[3], LogitRows::None);
        batch.push_sequence(&[5, 6], 0, &[1], LogitRows::All);
        let view = batch.view();
        assert_eq!(view.positions, [15, 16, 17, 0, 0, 1]);
        assert_eq!(view.sequences, [0, 0, 0, 1, 2, 2]);
        assert_eq!(view.table_offsets, [0, 2, 3, 4]);
        assert_eq!(view.block_tables, [2, 0, 3, 1]);
        assert_eq!(batch.logit_rows(), [2, 4, 5]);
        batch.clear();
        batch.push_sequence(&[7], 0, &[0], LogitRows::Last);
        assert_eq!(
            (batch.view().table_offsets, batch.view().sequences),
            (&[0, 1][..], &[0][..])
        );
    }

    #[test]
    fn rows_keep_and_name_what_they_said() {
        let mut batch = batch(&[1, 2], 0, &[0], LogitRows::All);
        batch.push_sequence(&[3], 0, &[1], LogitRows::Last);
        batch.push_sequence(&[3], 0, &[1], LogitRows::Last);
        batch.push_sequence(&[3], 0, &[1], LogitRows::Last);
        batch.keep(4, Keep::Near(1.5), [8]);
        batch.keep(2, Keep::Best(3), [7, 9]);
        let keeps = [None, None, Some(Keep::Best(3)), None, Some(Keep::Near(1.5))];
        assert_eq!(batch.keeps(), keeps);
        let named: Vec<&[u32]> = (0..5).map(|row| batch.named_of(row)).collect();
        assert_eq!(named, [&[][..], &[], &[7, 9], &[], &[8]]);
    }

    #[test]
    fn what_leaves_a_buffer_is_refused() {
        let refused = |batch: Batch| batch.check(&BOUNDS).unwrap_err();
        let mut naming = batch(&[1], 0, &[0], LogitRows::Last);
        naming.keep(0, Keep::Best(1), [3, 10]);
        assert_eq!(
            refused(naming),
            BatchError::Named {
                id: 10,
                vocab_size: 10
            }
        );
        assert_eq!(
            refused(batch(&[1; 9], 0, &[0], LogitRows::None)),
            BatchError::Tokens { found: 9, max: 8 }
        );
        assert_eq!(
            refused(batch(&[1; 3], 0, &[0], LogitRows::All)),
            BatchError::LogitRows { found: 3, max: 2 }
        );
        let token = BatchError::Token {
            row: 1,
            token: 10,
            vocab_size: 10,
        };
        assert_eq!(refused(batch(&[9, 10], 0, &[0], LogitRows::None)), token);
        let position = BatchError::Position {
            sequence: 0,
            position: 40,
            context_length: 40,
        };
        assert_eq!(
            refused(batch(&[1, 1], 39, &[0, 1, 2], LogitRows::None)),
            position
        );
        let wrapped = BatchError::Position {
            sequence: 0,
            position: u32::MAX,
            context_length: 40,
        };
        assert_eq!(
            refused(batch(&[1], usize::MAX, &[0], LogitRows::None)),
            wrapped
        );
        let table = BatchError::Table {
            sequence: 0,
            position: 16,
            blocks: 1,
        };
        assert_eq!(refused(batch(&[1, 1], 15, &[0], LogitRows::None)), table);
        let block = BatchError::Block {
            block: 4,
            n_blocks: 4,
        };
        assert_eq!(refused(batch(&[1], 0, &[4], LogitRows::None)), block);
        assert_eq!(
            batch(&[9, 9], 38, &[3, 2, 0], LogitRows::All).check(&BOUNDS),
            Ok(())
        );
        assert_eq!(Batch::new().check(&BOUNDS), Ok(()));
    }
}
