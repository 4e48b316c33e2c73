//! A window into the forward pass: what every step computed, for tests against a reference and for `--trace`.
//!
//! Without an observer nothing is read back and nothing is spent. One that wants times (see [`crate::profile`]) is told
//! how long each operation took and what it had to read and compute.

use std::time::Duration;

use crate::tensor_role::{NormPlace, Projection};

/// A step of the forward pass. The number is the layer's, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Site {
    /// Rows of the embedding: `[n, hidden_size]`.
    Embed,
    /// Output of a norm: `[n, length of the norm]`, the head norms `[n, heads * head_dim]`.
    Norm(usize, NormPlace),
    /// What enters a ternary matrix, before its quantisation to int8: `[n, in_features]`.
    LinearInput(usize, Projection),
    /// What leaves it: `[n, out_features]`.
    LinearOutput(usize, Projection),
    /// Queries after their rotation: `[n, n_heads * head_dim]`.
    QueryRope(usize),
    /// Keys after their rotation: `[n, n_kv_heads * head_dim]`.
    KeyRope(usize),
    /// The residual stream after a layer: `[n, hidden_size]`.
    Layer(usize),
    /// The last hidden states: `[n, hidden_size]`.
    FinalNorm,
}

/// A kind of operation of the forward pass, for where the time goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Rows of the embedding.
    Embed,
    /// Every RMSNorm.
    Norm,
    /// The ternary products of queries, keys and values, with the rounding of their input to int8.
    QueryKeyValue,
    /// Rotation of queries and keys.
    Rope,
    /// Storing keys and values.
    KvWrite,
    /// Scores, softmax and weighted sum.
    Attention,
    /// The ternary product after attention.
    Output,
    /// The ternary products that widen, and the nonlinearity on them.
    GateUp,
    /// The ternary product that narrows.
    Down,
    /// Additions to the residual stream.
    Add,
    /// Logits.
    Head,
}

impl Operation {
    /// All, in the order of the computation.
    pub const ALL: [Operation; 11] = [
        Operation::Embed,
        Operation::Norm,
        Operation::QueryKeyValue,
        Operation::Rope,
        Operation::KvWrite,
        Operation::Attention,
        Operation::Output,
        Operation::GateUp,
        Operation::Down,
        Operation::Add,
        Operation::Head,
    ];

    /// The name that reports use.
    pub const fn name(self) -> &'static str {
        match self {
            Operation::Embed => "embed",
            Operation::Norm => "norm",
            Operation::QueryKeyValue => "q k v",
            Operation::Rope => "rope",
            Operation::KvWrite => "kv write",
            Operation::Attention => "attention",
            Operation::Output => "output",
            Operation::GateUp => "gate up",
            Operation::Down => "down",
            Operation::Add => "add",
            Operation::Head => "head",
        }
    }
}

/// What an operation had to do at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Work {
    /// Bytes of weights, or of keys and values, that it read. 0 where activations are all it needs.
    pub bytes: u64,
    /// Additions and multiplications of its products: two for each weight and row.
    pub operations: u64,
}

/// Somebody who watches a forward pass.
pub trait Observer {
    /// Called after each step, in the order of the computation, with the `n_rows` rows that it computed.
    fn observe(&mut self, site: Site, values: &[f32], n_rows: usize);

    /// Whether [`observe`](Self::observe) is to be called; reading the values back costs time.
    fn wants_values(&self) -> bool {
        true
    }

    /// Whether [`timed`](Self::timed) is to be called.
    fn wants_times(&self) -> bool {
        false
    }

    /// Called after each operation with the time that it took.
    fn timed(&mut self, operation: Operation, work: Work, time: Duration) {
        let _ = (operation, work, time);
    }
}

impl<F: FnMut(Site, &[f32], usize)> Observer for F {
    fn observe(&mut self, site: Site, values: &[f32], n_rows: usize) {
        self(site, values, n_rows);
    }
}
