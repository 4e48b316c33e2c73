//! One forward pass under way: the steps that a layer is written in.
//!
//! Each step is one operation of the backend, with the sizes taken from the configuration and the result shown to
//! the observer, so that [`crate::attention`] and [`crate::feed_forward`] read like their formulas.

use crate::batch::Batch;
use crate::config::ModelConfig;
use crate::observer::{Observer, Site};
use crate::tensor_role::{NormPlace, Projection, TensorRole};
use bitnet_kernels::{Backend, RopeTable};

/// What every step of a pass needs.
pub(crate) struct Pass<'a, 'o, B: Backend> {
    pub backend: &'a B,
    pub config: &'a ModelConfig,
    /// Cosines and sines of every position.
    pub rope: &'a RopeTable,
    pub batch: &'a Batch,
    pub observer: Option<&'o mut dyn Observer>,
    /// The layer that is being computed.
    pub layer: usize,
}

impl<'a, 'o, B: Backend> Pass<'a, 'o, B> {
    /// A pass before its first layer.
    pub fn new(
        backend: &'a B,
        config: &'a ModelConfig,
        rope: &'a RopeTable,
        batch: &'a Batch,
        observer: Option<&'o mut dyn Observer>,
    ) -> Self {
        Pass {
            backend,
            config,
            rope,
            batch,
            observer,
            layer: 0,
        }
    }

    /// `out[i] = table[tokens[i]]`, `[n, hidden_size]`.
    pub fn embed(&mut self, table: &B::Matrix, out: &mut B::Buffer) {
        self.backend.embed(table, self.batch.tokens(), out);
        self.show(Site::Embed, out, self.config.hidden_size);
    }

    /// `out = norm(x)`, both `[n, length of the norm]`.
    pub fn norm(
        &mut self,
        place: NormPlace,
        weight: &B::Buffer,
        x: &B::Buffer,
        out: &mut B::Buffer,
    ) {
        let (eps, n) = (self.config.rms_norm_eps, self.batch.len());
        self.backend.rms_norm(x, weight, eps, n, out);
        let (_, len) = TensorRole::Norm(self.layer, place).shape(self.config);
        self.show(Site::Norm(self.layer, place), out, len);
    }

    /// `x = norm(x)` on `[n, n_parts, length of the norm]`: `n_parts` heads, or the one row of a sub-norm.
    pub fn norm_in_place(
        &mut self,
        place: NormPlace,
        weight: &B::Buffer,
        n_parts: usize,
        x: &mut B::Buffer,
    ) {
        let (eps, n) = (self.config.rms_norm_eps, self.batch.len() * n_parts);
        self.backend.rms_norm_in_place(x, weight, eps, n);
        let (_, len) = TensorRole::Norm(self.layer, place).shape(self.config);
        self.show(Site::Norm(self.layer, place), x, n_parts * len);
    }

    /// `outs[i] = x W[i]`: `x` `[n, in_features]` is quantised to int8 once for all of them.
    pub fn bitlinear<const N: usize>(
        &mut self,
        x: &B::Buffer,
        projections: [(Projection, &B::Ternary); N],
        mut outs: [&mut B::Buffer; N],
    ) {
        let (n, weights) = (self.batch.len(), projections.map(|(_, weight)| weight));
        self.backend.bitlinear(x, n, &weights, &mut outs);
        for ((projection, _), out) in projections.into_iter().zip(outs) {
            let (rows, cols) = TensorRole::Projection(self.layer, projection).shape(self.config);
            self.show(Site::LinearInput(self.layer, projection), x, cols);
            self.show(Site::LinearOutput(self.layer, projection), out, rows);
        }
    }

    /// Turns every query and key head by its row's position.
    pub fn rope(&mut self, queries: &mut B::Buffer, keys: &mut B::Buffer) {
        let (backend, config, positions) = (self.backend, self.config, self.batch.positions());
        for (heads, n_heads) in [
            (&mut *queries, config.n_heads),
            (&mut *keys, config.n_kv_heads),
        ] {
            backend.rope(heads, n_heads, config.head_dim, positions, self.rope);
        }
        self.show(Site::QueryRope(self.layer), queries, config.query_size());
        self.show(Site::KeyRope(self.layer), keys, config.kv_size());
    }

    /// `out = activation(gate) * up`, all `[n, intermediate_size]`.
    pub fn gate(&mut self, gate: &B::Buffer, up: &B::Buffer, out: &mut B::Buffer) {
        let activation = self.config.family.activation;
        let n = self.batch.len() * self.config.intermediate_size;
        self.backend.gate(activation, gate, up, n, out);
    }

    /// `residual += update`, both `[n, hidden_size]`.
    pub fn add(&mut self, residual: &mut B::Buffer, update: &B::Buffer) {
        let n = self.batch.len() * self.config.hidden_size;
        self.backend.add(residual, update, n);
    }

    /// The norm before the head: `out = norm(x)`, both `[n, hidden_size]`.
    pub fn final_norm(&mut self, weight: &B::Buffer, x: &B::Buffer, out: &mut B::Buffer) {
        let (eps, n) = (self.config.rms_norm_eps, self.batch.len());
        self.backend.rms_norm(x, weight, eps, n, out);
        self.show(Site::FinalNorm, out, self.config.hidden_size);
    }

    /// `logits[i] = hidden[logit_rows[i]] w`, `[n_logit_rows, vocab_size]`.
    pub fn head(&mut self, w: &B::Matrix, hidden: &B::Buffer, logits: &mut B::Buffer) {
        let rows = self.batch.logit_rows();
        self.backend.matmul(w, hidden, rows, logits);
    }

    /// Shows the observer, if there is one, the batch's rows of a buffer.
    pub fn show(&mut self, site: Site, buffer: &B::Buffer, row_len: usize) {
        if let Some(observer) = &mut self.observer {
            let mut values = vec![0.0; self.batch.len() * row_len];
            self.backend.read(buffer, 0, &mut values);
            observer.observe(site, &values, self.batch.len());
        }
    }
}
