//! The attention part of a layer.
//!
//! ```text
//! q, k, v  = norm(x) Wq, norm(x) Wk, norm(x) Wv          ternary, int8 activations
//! q, k     = rope(head_norm(q)), rope(head_norm(k))      head norms: Qwen3, Gemma3
//! context  = softmax(q kT / sqrt(head_dim)) v            over the positions up to the row's own
//! x       += post_norm(sub_norm(context) Wo)             sub-norm: BitNet; post-norm: Gemma3; times a scale: MiniCPM
//!
//! each W may have a norm of its own before it           BitNet's embedding models
//! ```
//!
//! Source: `transformers` `modeling_bitnet.py` (BitNetAttention), `modeling_qwen3.py` (Qwen3Attention).

use crate::activations::Activations;
use crate::kv_cache::KvCache;
use crate::pass::Pass;
use crate::tensor_role::NormPlace::{
    Attention, AttentionPost, AttentionSub, Input, KeyHead, QueryHead,
};
use crate::tensor_role::Projection::{Key, Output, Query, Value};
use crate::weights::AttentionWeights;
use bitnet_kernels::Backend;

/// Adds the attention's update to `a.residual`, after writing the batch's keys and values into `cache`.
pub(crate) fn attention<B: Backend>(
    pass: &mut Pass<'_, '_, B>,
    w: &AttentionWeights<B>,
    cache: &mut KvCache<B>,
    a: &mut Activations<B>,
) {
    let (n_heads, n_kv_heads) = (pass.config.n_heads, pass.config.n_kv_heads);

    pass.norm(Attention, &w.norm, &a.residual, &mut a.normed);
    let projections = [(Query, &w.query), (Key, &w.key), (Value, &w.value)];
    let outs = [&mut a.queries, &mut a.keys, &mut a.values];
    match &w.input_norms {
        None => pass.bitlinear(&a.normed, projections, outs),
        Some(norms) => {
            for ((projection, out), norm) in projections.into_iter().zip(outs).zip(norms) {
                pass.norm(Input(projection.0), norm, &a.normed, &mut a.input);
                pass.bitlinear(&a.input, [projection], [out]);
            }
        }
    }
    if let Some(norms) = &w.head_norms {
        pass.norm_in_place(QueryHead, &norms.query, n_heads, &mut a.queries);
        pass.norm_in_place(KeyHead, &norms.key, n_kv_heads, &mut a.keys);
    }
    pass.rope(&mut a.queries, &mut a.keys);

    pass.kv_write(&mut cache.storage, &a.keys, &a.values);
    let kv_type = cache.kv_type();
    pass.attention(&a.queries, &cache.storage, kv_type, &mut a.context);

    if let Some(sub_norm) = &w.sub_norm {
        pass.norm_in_place(AttentionSub, sub_norm, 1, &mut a.context);
    }
    if let Some([.., norm]) = &w.input_norms {
        pass.norm_in_place(Input(Output), norm, 1, &mut a.context);
    }
    pass.bitlinear(&a.context, [(Output, &w.output)], [&mut a.update]);
    if let Some(post_norm) = &w.post_norm {
        pass.norm_in_place(AttentionPost, post_norm, 1, &mut a.update);
    }
    pass.add(&mut a.residual, &mut a.update);
}
