//! A window into the forward pass: what every step computed, for tests against a reference and for `--trace`.
//!
//! Without an observer nothing is read back and nothing is spent.

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

/// Somebody who watches a forward pass.
pub trait Observer {
    /// Called after each step, in the order of the computation, with the `n_rows` rows that it computed.
    fn observe(&mut self, site: Site, values: &[f32], n_rows: usize);
}

impl<F: FnMut(Site, &[f32], usize)> Observer for F {
    fn observe(&mut self, site: Site, values: &[f32], n_rows: usize) {
        self(site, values, n_rows);
    }
}
