//! What a pass leaves behind the head: for each row that wants logits all of them, or the candidates that can be kept.
//!
//! Rows of a batch say what will be kept of their logits ([`Batch::keep`]); a model with a small copy of its head finds
//! the candidates of those, and the full head is multiplied with the others only.

use crate::batch::Batch;
use crate::config::ModelConfig;
use bitnet_kernels::{
    Backend, Candidate, CandidateRequest, Candidates, HeadWork, Keep, KernelError,
};

/// Logits and candidates of the last pass.
pub struct HeadOutput<B: Backend> {
    /// Full rows: `[max_logit_rows, vocab_size]`, as many in use as [`HeadOutput::n_full`].
    pub(crate) logits: B::Buffer,
    candidates: Candidates,
    places: Vec<Place>,  // [n_logit_rows]
    full_rows: Vec<u32>, // rows of the batch that the full head was multiplied with
    // The request that is being made: rows of the batch, what they keep, what they name.
    searched: Vec<u32>,
    keeps: Vec<Keep>,
    named_offsets: Vec<u32>,
    named: Vec<u32>,
    work: HeadWork, // of all passes
}

/// Where a row's logits are.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// Row of the full ones.
    Full(usize),
    /// Row of the candidates.
    Candidates(usize),
}

/// The logits of one row of the last pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RowLogits<'a> {
    /// All, in this row of the full ones.
    Full(usize),
    /// Every token that can be kept, by ascending id.
    Candidates(&'a [Candidate]),
}

impl<B: Backend> HeadOutput<B> {
    /// Room for `max_logit_rows` rows.
    pub(crate) fn new(
        backend: &B,
        config: &ModelConfig,
        max_logit_rows: usize,
    ) -> Result<HeadOutput<B>, KernelError> {
        Ok(HeadOutput {
            logits: backend.buffer(max_logit_rows * config.vocab_size)?,
            candidates: Candidates::default(),
            places: Vec::with_capacity(max_logit_rows),
            full_rows: Vec::with_capacity(max_logit_rows),
            searched: Vec::with_capacity(max_logit_rows),
            keeps: Vec::with_capacity(max_logit_rows),
            named_offsets: Vec::with_capacity(max_logit_rows + 1),
            named: Vec::new(),
            work: HeadWork::default(),
        })
    }

    /// Runs the head for the rows of `batch` that want logits.
    pub(crate) fn run(
        &mut self,
        backend: &B,
        w: &B::Matrix,
        copy: Option<&B::HeadCopy>,
        hidden: &B::Buffer,
        batch: &Batch,
    ) {
        self.search(backend, w, copy, hidden, batch);
        self.full_rows.clear();
        self.places.clear();
        let mut searched = 0;
        for (&row, keep) in batch.logit_rows().iter().zip(batch.keeps()) {
            let found = copy.is_some() && keep.is_some() && {
                searched += 1;
                self.candidates.rows[searched - 1].is_some()
            };
            self.places.push(if found {
                Place::Candidates(searched - 1)
            } else {
                self.full_rows.push(row);
                Place::Full(self.full_rows.len() - 1)
            });
        }
        if !self.full_rows.is_empty() {
            backend.matmul(w, hidden, &self.full_rows, &mut self.logits);
        }
    }

    fn search(
        &mut self,
        backend: &B,
        w: &B::Matrix,
        copy: Option<&B::HeadCopy>,
        hidden: &B::Buffer,
        batch: &Batch,
    ) {
        self.candidates.clear();
        self.searched.clear();
        let Some(copy) = copy else { return };
        self.keeps.clear();
        self.named.clear();
        self.named_offsets.clear();
        self.named_offsets.push(0);
        for (i, (&row, keep)) in batch.logit_rows().iter().zip(batch.keeps()).enumerate() {
            let Some(keep) = keep else { continue };
            self.searched.push(row);
            self.keeps.push(*keep);
            self.named.extend_from_slice(batch.named_of(i));
            self.named_offsets.push(self.named.len() as u32);
        }
        if self.searched.is_empty() {
            return;
        }
        let request = CandidateRequest {
            x_rows: &self.searched,
            keeps: &self.keeps,
            named_offsets: &self.named_offsets,
            named: &self.named,
        };
        backend.head_candidates(w, copy, hidden, &request, &mut self.candidates);
        self.work += self.candidates.work;
    }

    /// Rows of the last pass that wanted logits.
    pub fn n_rows(&self) -> usize {
        self.places.len()
    }

    /// Rows of the last pass whose logits are all there.
    pub fn n_full(&self) -> usize {
        self.full_rows.len()
    }

    /// The logits of row `row` of those that wanted some.
    ///
    /// # Panics
    /// When the last pass had no such row.
    pub fn row(&self, row: usize) -> RowLogits<'_> {
        match self.places[row] {
            Place::Full(row) => RowLogits::Full(row),
            Place::Candidates(row) => {
                let range = self.candidates.rows[row]
                    .clone()
                    .expect("a row that was found");
                RowLogits::Candidates(&self.candidates.entries[range])
            }
        }
    }

    /// What the search took in the last pass.
    pub(crate) fn last_work(&self) -> HeadWork {
        self.candidates.work
    }

    /// What the search took in all passes.
    pub fn work(&self) -> HeadWork {
        self.work
    }
}
