//! The feed-forward part of a layer.
//!
//! ```text
//! gate, up = norm(x) Wg, norm(x) Wu                      ternary, int8 activations
//! x       += post_norm(sub_norm(activation(gate) * up) Wd)
//!
//! sub-norm: BitNet; post-norm: Gemma3; times a scale: MiniCPM; activation: ReLU^2, SiLU or GELU
//! each W may have a norm of its own before it           BitNet's embedding models
//! ```
//!
//! Source: `transformers` `modeling_bitnet.py` (BitNetMLP), `modeling_llama.py` (LlamaMLP).

use crate::activations::Activations;
use crate::pass::Pass;
use crate::tensor_role::NormPlace::{FeedForward, FeedForwardPost, FeedForwardSub, Input};
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
    let projections = [(Gate, &w.gate), (Up, &w.up)];
    let products = [&mut a.gate, &mut a.up];
    match &w.input_norms {
        None => pass.gated(&a.normed, projections, products, &mut a.gated),
        Some(norms) => {
            for ((projection, out), norm) in projections.into_iter().zip(products).zip(norms) {
                pass.norm(Input(projection.0), norm, &a.normed, &mut a.input);
                pass.bitlinear(&a.input, [projection], [out]);
            }
            pass.gate(&a.gate, &a.up, &mut a.gated);
        }
    }
    if let Some(sub_norm) = &w.sub_norm {
        pass.norm_in_place(FeedForwardSub, sub_norm, 1, &mut a.gated);
    }
    if let Some([.., norm]) = &w.input_norms {
        pass.norm_in_place(Input(Down), norm, 1, &mut a.gated);
    }
    pass.bitlinear(&a.gated, [(Down, &w.down)], [&mut a.update]);
    if let Some(post_norm) = &w.post_norm {
        pass.norm_in_place(FeedForwardPost, post_norm, 1, &mut a.update);
    }
    pass.add(&mut a.residual, &mut a.update);
}
