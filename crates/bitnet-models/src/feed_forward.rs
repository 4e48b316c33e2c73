//! The feed-forward part of a layer.
//!
//! ```text
//! gate, up = norm(x) Wg, norm(x) Wu                      ternary, int8 activations
//! x       += sub_norm(activation(gate) * up) Wd          sub-norm: BitNet; activation: ReLU^2 or SiLU
//! ```
//!
//! Source: `transformers` `modeling_bitnet.py` (BitNetMLP), `modeling_llama.py` (LlamaMLP).

use crate::activations::Activations;
use crate::pass::Pass;
use crate::tensor_role::NormPlace::{FeedForward, FeedForwardSub};
use crate::tensor_role::Projection::{Down, Gate, Up};
use crate::weights::FeedForwardWeights;
use bitnet_kernels::Backend;

/// Adds the feed-forward part's update to `a.residual`.
pub(crate) fn feed_forward<B: Backend>(
    pass: &mut Pass<'_, '_, B>,
    w: &FeedForwardWeights<B>,
    a: &mut Activations<B>,
) {
    pass.norm(FeedForward, &w.norm, &a.residual, &mut a.normed);
    pass.gated(
        &a.normed,
        [(Gate, &w.gate), (Up, &w.up)],
        [&mut a.gate, &mut a.up],
        &mut a.gated,
    );
    if let Some(sub_norm) = &w.sub_norm {
        pass.norm_in_place(FeedForwardSub, sub_norm, 1, &mut a.gated);
    }
    pass.bitlinear(&a.gated, [(Down, &w.down)], [&mut a.update]);
    pass.add(&mut a.residual, &a.update);
}
