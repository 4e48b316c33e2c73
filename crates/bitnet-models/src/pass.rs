//! One forward pass under way: the steps that a layer is written in.
//!
//! Each step is one operation of the backend, with the sizes taken from the configuration and the result shown to
//! the observer, so that [`crate::attention`] and [`crate::feed_forward`] read like their formulas.

use crate::batch::Batch;
use crate::config::ModelConfig;
use crate::head::HeadOutput;
use crate::observer::{Observer, Operation, Site, Work};
use crate::tensor_role::{NormPlace, Projection, TensorRole};
use bitnet_kernels::{Backend, KvType, RopeTable, Traffic};
use std::time::Instant;

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

    /// `out[i] = table[tokens[i]]`, `[n, hidden_size]`, times the embedding's scale if it has one.
    pub fn embed(&mut self, table: &B::Matrix, out: &mut B::Buffer) {
        let started = self.begin();
        self.backend.embed(table, self.batch.tokens(), out);
        if let Some(scale) = self.config.embedding_scale {
            let n = self.batch.len() * self.config.hidden_size;
            self.backend.scale(out, scale, n);
        }
        self.end(started, Operation::Embed, |_| Work::default());
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
        let (eps, n) = (self.config.norm_eps(place), self.batch.len());
        let started = self.begin();
        self.backend.rms_norm(x, weight, eps, n, out);
        self.end(started, Operation::Norm, |_| Work::default());
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
        let (eps, n) = (self.config.norm_eps(place), self.batch.len() * n_parts);
        let started = self.begin();
        self.backend.rms_norm_in_place(x, weight, eps, n);
        self.end(started, Operation::Norm, |_| Work::default());
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
        let (started, before) = (self.begin(), self.backend.traffic());
        self.backend.bitlinear(x, n, &weights, &mut outs);
        self.end(started, operation_of(projections[0].0), |pass| {
            pass.product(&projections, &before)
        });
        for ((projection, _), out) in projections.into_iter().zip(outs) {
            let (rows, cols) = TensorRole::Projection(self.layer, projection).shape(self.config);
            self.show(Site::LinearInput(self.layer, projection), x, cols);
            self.show(Site::LinearOutput(self.layer, projection), out, rows);
        }
    }

    /// Turns every query and key head by its row's position.
    pub fn rope(&mut self, queries: &mut B::Buffer, keys: &mut B::Buffer) {
        let (backend, config, positions) = (self.backend, self.config, self.batch.positions());
        let started = self.begin();
        for (heads, n_heads) in [
            (&mut *queries, config.n_heads),
            (&mut *keys, config.n_kv_heads),
        ] {
            backend.rope(heads, n_heads, config.head_dim, positions, self.rope);
        }
        self.end(started, Operation::Rope, |_| Work::default());
        self.show(Site::QueryRope(self.layer), queries, config.query_size());
        self.show(Site::KeyRope(self.layer), keys, config.kv_size());
    }

    /// Stores the batch's keys and values, `[n, n_kv_heads * head_dim]` each.
    pub fn kv_write(&mut self, cache: &mut B::KvCache, keys: &B::Buffer, values: &B::Buffer) {
        let started = self.begin();
        let (layer, batch) = (self.layer, self.batch.view());
        self.backend.kv_write(cache, layer, keys, values, &batch);
        self.end(started, Operation::KvWrite, |_| Work::default());
    }

    /// `out = softmax(q kT / sqrt(head_dim)) v` over the positions up to each row's own, `[n, n_heads * head_dim]`.
    pub fn attention(
        &mut self,
        queries: &B::Buffer,
        cache: &B::KvCache,
        kv_type: KvType,
        out: &mut B::Buffer,
    ) {
        let started = self.begin();
        let (layer, n_heads, batch) = (self.layer, self.config.n_heads, self.batch.view());
        self.backend
            .attention(queries, cache, layer, n_heads, &batch, out);
        self.end(started, Operation::Attention, |pass| {
            let (mut seen, mut read) = (0, 0);
            for (row, &position) in batch.positions.iter().enumerate() {
                seen += u64::from(position) + 1;
                // Rows of one sequence share what they read: its last row reads all that the others do.
                if batch.sequences.get(row + 1) != Some(&batch.sequences[row]) {
                    read += u64::from(position) + 1;
                }
            }
            let of_position = kv_type.position_bytes(pass.config.n_kv_heads, pass.config.head_dim);
            Work {
                bytes: read * of_position as u64,
                operations: seen * 4 * pass.config.query_size() as u64,
            }
        });
    }

    /// `out = activation(x W[0]) * (x W[1])`, all `[n, intermediate_size]`. The factors go to `products`; where nobody
    /// looks at values, the second one only where it counts.
    pub fn gated(
        &mut self,
        x: &B::Buffer,
        projections: [(Projection, &B::Ternary); 2],
        products: [&mut B::Buffer; 2],
        out: &mut B::Buffer,
    ) {
        let (activation, n) = (self.config.family.activation, self.batch.len());
        if self.observer.as_ref().is_some_and(|o| o.wants_values()) {
            let [gate, up] = products;
            self.bitlinear(x, projections, [&mut *gate, &mut *up]);
            let n = n * self.config.intermediate_size;
            return self.backend.gate(activation, gate, up, n, out);
        }
        let weights = projections.map(|(_, weight)| weight);
        let (started, before) = (self.begin(), self.backend.traffic());
        self.backend.gated(activation, x, n, weights, products, out);
        self.end(started, operation_of(projections[0].0), |pass| {
            pass.product(&projections, &before)
        });
    }

    /// `out = activation(gate) * up`, all `[n, intermediate_size]`.
    pub fn gate(&mut self, gate: &B::Buffer, up: &B::Buffer, out: &mut B::Buffer) {
        let activation = self.config.family.activation;
        let n = self.batch.len() * self.config.intermediate_size;
        let started = self.begin();
        self.backend.gate(activation, gate, up, n, out);
        self.end(started, Operation::GateUp, |_| Work::default());
    }

    /// `residual += update`, both `[n, hidden_size]`, the update times its scale if it has one.
    pub fn add(&mut self, residual: &mut B::Buffer, update: &mut B::Buffer) {
        let n = self.batch.len() * self.config.hidden_size;
        let started = self.begin();
        if let Some(scale) = self.config.residual_scale {
            self.backend.scale(update, scale, n);
        }
        self.backend.add(residual, update, n);
        self.end(started, Operation::Add, |_| Work::default());
    }

    /// The norm before the head: `out = norm(x)`, both `[n, hidden_size]`, times the scale of the head's input if it
    /// has one.
    pub fn final_norm(&mut self, weight: &B::Buffer, x: &B::Buffer, out: &mut B::Buffer) {
        let (eps, n) = (self.config.rms_norm_eps, self.batch.len());
        let started = self.begin();
        self.backend.rms_norm(x, weight, eps, n, out);
        self.end(started, Operation::Norm, |_| Work::default());
        self.show(Site::FinalNorm, out, self.config.hidden_size);
        if let Some(scale) = self.config.head_scale {
            self.backend.scale(out, scale, n * self.config.hidden_size);
        }
    }

    /// `logits[i] = hidden[logit_rows[i]] w`, `[n_logit_rows, vocab_size]`, or what can be kept of a row of them.
    pub fn head(
        &mut self,
        w: &B::Matrix,
        copy: Option<&B::HeadCopy>,
        hidden: &B::Buffer,
        out: &mut HeadOutput<B>,
    ) {
        let started = self.begin();
        out.run(self.backend, w, copy, hidden, self.batch);
        self.end(started, Operation::Head, |pass| {
            let full = if out.n_full() > 0 {
                pass.backend.matrix_bytes(w) as u64
            } else {
                0
            };
            let n_weights = pass.config.vocab_size * pass.config.hidden_size;
            Work {
                bytes: full + out.last_work().bytes,
                operations: 2 * (out.n_rows() * n_weights) as u64,
            }
        });
    }

    /// The time before an operation, if somebody wants to know how long it takes.
    fn begin(&self) -> Option<Instant> {
        let watched = self.observer.as_ref().is_some_and(|o| o.wants_times());
        watched.then(Instant::now)
    }

    /// What a product with ternary matrices did since the backend had read `before`.
    fn product(&self, projections: &[(Projection, &B::Ternary)], before: &Traffic) -> Work {
        let shapes = projections.iter().map(|(projection, _)| {
            TensorRole::Projection(self.layer, *projection).shape(self.config)
        });
        let n_weights: usize = shapes.map(|(rows, cols)| rows * cols).sum();
        let whole = projections
            .iter()
            .map(|(_, weight)| self.backend.ternary_bytes(weight));
        let read = self.backend.traffic().since(before);
        Work {
            // For one token row the backend has counted, and left out what is not needed.
            bytes: match self.batch.len() {
                1 => read.ternary_bytes,
                _ => whole.sum::<usize>() as u64,
            },
            operations: 2 * (n_weights * self.batch.len()) as u64,
        }
    }

    /// Tells the observer how long an operation took; `work` is asked only then.
    fn end(
        &mut self,
        started: Option<Instant>,
        operation: Operation,
        work: impl FnOnce(&Self) -> Work,
    ) {
        let Some(time) = started.map(|started| started.elapsed()) else {
            return;
        };
        let work = work(self);
        if let Some(observer) = &mut self.observer {
            observer.timed(operation, work, time);
        }
    }

    /// Shows the observer, if there is one, the batch's rows of a buffer.
    pub fn show(&mut self, site: Site, buffer: &B::Buffer, row_len: usize) {
        if let Some(observer) = self.observer.as_mut().filter(|o| o.wants_values()) {
            let mut values = vec![0.0; self.batch.len() * row_len];
            self.backend.read(buffer, 0, &mut values);
            observer.observe(site, &values, self.batch.len());
        }
    }
}

/// The operation that computes a projection, alone or with others of the same input.
fn operation_of(projection: Projection) -> Operation {
    match projection {
        Projection::Query | Projection::Key | Projection::Value => Operation::QueryKeyValue,
        Projection::Output => Operation::Output,
        Projection::Gate | Projection::Up => Operation::GateUp,
        Projection::Down => Operation::Down,
    }
}
