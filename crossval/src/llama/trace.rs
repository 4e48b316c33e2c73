//! The hidden states of a pass: llama.cpp shows every step of its graph to whoever asks, and names the steps.
//!
//! Names are those of `src/models/*.cpp`: `l_out-N` is the residual stream after layer N, `result_norm` the final norm.
//! The embedded tokens have no name of their own.
//!
//! Source: `ggml_backend_sched_eval_callback` in `ggml/include/ggml-backend.h`.

use std::ffi::{CStr, c_void};

use llama_cpp_sys_2 as sys;

/// What passes computed, the rows of each appended to those before.
#[derive(Debug, Default)]
pub struct LayerOutputs {
    /// The residual stream after each layer, `[n_layers]` of `[n_tokens, hidden_size]`.
    pub layers: Vec<Vec<f32>>,
    /// After the final norm, `[n_tokens, hidden_size]`.
    pub final_norm: Vec<f32>,
}

impl LayerOutputs {
    /// An empty one.
    pub fn new(n_layers: usize) -> LayerOutputs {
        LayerOutputs {
            layers: vec![Vec::new(); n_layers],
            final_norm: Vec::new(),
        }
    }

    /// Where the values of the step called `name` go; `None` for one that is not kept.
    fn of(&mut self, name: &[u8]) -> Option<&mut Vec<f32>> {
        if name == b"result_norm" {
            return Some(&mut self.final_norm);
        }
        let layer = std::str::from_utf8(name.strip_prefix(b"l_out-")?).ok()?;
        self.layers.get_mut(layer.parse::<usize>().ok()?)
    }
}

/// llama.cpp asks whether a step is wanted, and then shows it; the answer to the second call is to go on.
///
/// # Safety
/// `tensor` is a step of the graph that runs, and `trace` points to a [`LayerOutputs`] that nobody else uses meanwhile.
pub unsafe extern "C" fn watch(
    tensor: *mut sys::ggml_tensor,
    ask: bool,
    trace: *mut c_void,
) -> bool {
    // SAFETY: the caller's promise; a tensor's name always ends with a zero.
    let (trace, name) = unsafe {
        (
            &mut *trace.cast::<LayerOutputs>(),
            CStr::from_ptr(sys::ggml_get_name(tensor)),
        )
    };
    // SAFETY: the tensor is alive.
    let readable =
        unsafe { (*tensor).type_ == sys::GGML_TYPE_F32 && sys::ggml_is_contiguous(tensor) };
    let values = match trace.of(name.to_bytes()) {
        Some(values) if readable => values,
        _ => return !ask,
    };
    if !ask {
        let start = values.len();
        // SAFETY: the tensor is contiguous f32, so its elements are as many times four bytes, and there is room for them.
        unsafe {
            let n = usize::try_from(sys::ggml_nelements(tensor)).unwrap_or(0);
            values.resize(start + n, 0.0);
            let room = values[start..].as_mut_ptr().cast();
            sys::ggml_backend_tensor_get(tensor, room, 0, n * size_of::<f32>());
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_told_by_their_names() {
        let mut trace = LayerOutputs::new(2);
        trace.of(b"l_out-1").unwrap().push(1.0);
        trace.of(b"result_norm").unwrap().push(2.0);
        assert_eq!(
            (trace.layers, trace.final_norm),
            (vec![vec![], vec![1.0]], vec![2.0])
        );
        let mut trace = LayerOutputs::new(2);
        for name in [&b"l_out-2"[..], b"l_out-x", b"l_out", b"Qcur-0"] {
            assert!(trace.of(name).is_none());
        }
    }
}
