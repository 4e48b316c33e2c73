//! The few calls of llama.cpp's C API that timing and comparing need, made safe. The only module of this package with
//! `unsafe`.
//!
//! # Layout
//! - [`trace`]: the hidden states of a pass
//! - [`vocabulary`]: text to ids
//!
//! Source: `include/llama.h` of the llama.cpp that the crate brings along.

pub mod trace;
mod vocabulary;

use std::ffi::{CStr, CString};
use std::marker::PhantomData;
use std::path::Path;
use std::ptr::{NonNull, null_mut};

use anyhow::{Context as _, Result, bail, ensure};
use llama_cpp_sys_2 as sys;

use trace::LayerOutputs;

/// llama.cpp rounds the positions of a sequence up to this.
pub const KV_PADDING: usize = 256;

/// What llama.cpp was built with: `CPU : SSE3 = 1 | AVX = 1 | ...`.
pub fn system_info() -> String {
    // SAFETY: no precondition; the text is static and ends with a zero.
    unsafe { CStr::from_ptr(sys::llama_print_system_info()) }
        .to_string_lossy()
        .into_owned()
}

/// Drops llama.cpp's log lines but warnings and errors.
unsafe extern "C" fn log(
    level: sys::ggml_log_level,
    text: *const std::os::raw::c_char,
    _: *mut std::os::raw::c_void,
) {
    if level == sys::GGML_LOG_LEVEL_ERROR || level == sys::GGML_LOG_LEVEL_WARN {
        // SAFETY: llama.cpp passes a text that ends with a zero.
        let text = unsafe { CStr::from_ptr(text) };
        eprint!("{}", text.to_string_lossy());
    }
}

/// Writes `input`'s weights as F32 into `output`, the way llama.cpp decodes them: what multiplies is then neither
/// packed nor rounded, and so are the activations that meet it.
///
/// # Errors
/// When llama.cpp cannot read or write one of the files.
pub fn dequantize(input: &Path, output: &Path, threads: usize) -> Result<()> {
    let name = |path: &Path| -> Result<CString> {
        Ok(CString::new(
            path.to_str().context("the path is not UTF-8")?,
        )?)
    };
    let (from, to) = (name(input)?, name(output)?);
    // SAFETY: the callback is a function and lives for ever; both paths end with a zero; the parameters are llama.cpp's
    // own defaults but for plain values.
    let code = unsafe {
        sys::llama_log_set(Some(log), null_mut());
        sys::llama_backend_init();
        let mut params = sys::llama_model_quantize_default_params();
        params.nthread = i32::try_from(threads)?;
        params.ftype = sys::LLAMA_FTYPE_ALL_F32;
        params.allow_requantize = true;
        sys::llama_model_quantize(from.as_ptr(), to.as_ptr(), &params)
    };
    ensure!(
        code == 0,
        "llama.cpp could not write {} as F32",
        input.display()
    );
    Ok(())
}

/// A loaded model.
pub struct LlamaModel {
    handle: NonNull<sys::llama_model>,
}

impl LlamaModel {
    /// Loads a GGUF file the way llama.cpp does by default: mapped, repacked where it has a better layout.
    ///
    /// # Errors
    /// When llama.cpp refuses the file.
    pub fn load(path: &Path) -> Result<LlamaModel> {
        let name = CString::new(path.to_str().context("the path is not UTF-8")?)?;
        // SAFETY: called before any other function of the library; the callback is a function and lives for ever; the
        // path ends with a zero.
        let handle = unsafe {
            sys::llama_log_set(Some(log), null_mut());
            sys::llama_backend_init();
            sys::llama_model_load_from_file(name.as_ptr(), sys::llama_model_default_params())
        };
        let handle = NonNull::new(handle)
            .with_context(|| format!("llama.cpp could not load {}", path.display()))?;
        Ok(LlamaModel { handle })
    }

    /// Size and type in llama.cpp's words.
    pub fn description(&self) -> String {
        let mut text = [0; 256];
        // SAFETY: the model is alive; the buffer has the length told and is always ended with a zero.
        unsafe {
            sys::llama_model_desc(self.handle.as_ptr(), text.as_mut_ptr(), text.len());
            CStr::from_ptr(text.as_ptr())
        }
        .to_string_lossy()
        .into_owned()
    }

    /// Layers.
    pub fn n_layers(&self) -> usize {
        // SAFETY: the model is alive.
        unsafe { sys::llama_model_n_layer(self.handle.as_ptr()) }.max(0) as usize
    }

    /// Length of a hidden state.
    pub fn hidden_size(&self) -> usize {
        // SAFETY: the model is alive.
        unsafe { sys::llama_model_n_embd(self.handle.as_ptr()) }.max(1) as usize
    }

    /// A context of `n_ctx` positions for `n_seq` sequences together; everything else as llama.cpp has it by default.
    ///
    /// # Errors
    /// When llama.cpp refuses it.
    pub fn context(&self, n_ctx: usize, n_seq: usize, threads: usize) -> Result<Context<'_>> {
        // SAFETY: no precondition.
        let mut params = unsafe { sys::llama_context_default_params() };
        params.n_ctx = u32::try_from(n_ctx)?;
        params.n_seq_max = u32::try_from(n_seq)?;
        params.n_threads = i32::try_from(threads)?;
        params.n_threads_batch = params.n_threads;
        self.open(params, None)
    }

    /// A context of one sequence whose cache is f32 and whose attention is not fused: llama.cpp's most exact arithmetic.
    /// `trace` keeps the hidden states of what runs in it.
    ///
    /// # Errors
    /// When llama.cpp refuses it.
    pub fn exact_context(
        &self,
        n_ctx: usize,
        threads: usize,
        trace: Option<LayerOutputs>,
    ) -> Result<Context<'_>> {
        // SAFETY: no precondition.
        let mut params = unsafe { sys::llama_context_default_params() };
        params.n_ctx = u32::try_from(n_ctx)?;
        params.n_threads = i32::try_from(threads)?;
        params.n_threads_batch = params.n_threads;
        params.type_k = sys::GGML_TYPE_F32;
        params.type_v = sys::GGML_TYPE_F32;
        params.flash_attn_type = sys::LLAMA_FLASH_ATTN_TYPE_DISABLED;
        self.open(params, trace)
    }

    fn open(
        &self,
        mut params: sys::llama_context_params,
        trace: Option<LayerOutputs>,
    ) -> Result<Context<'_>> {
        let trace = trace.map_or(null_mut(), |trace| Box::into_raw(Box::new(trace)));
        if !trace.is_null() {
            params.cb_eval = Some(trace::watch);
            params.cb_eval_user_data = trace.cast();
        }
        // SAFETY: the model is alive and outlives the context by the lifetime; what the callback is given lives as long
        // as the context, which frees it.
        let handle = unsafe { sys::llama_init_from_model(self.handle.as_ptr(), params) };
        let Some(handle) = NonNull::new(handle) else {
            if !trace.is_null() {
                // SAFETY: made by `Box::into_raw` above, and no context knows of it.
                drop(unsafe { Box::from_raw(trace) });
            }
            bail!("llama.cpp refused a context of {} positions", params.n_ctx);
        };
        Ok(Context {
            handle,
            trace,
            model: PhantomData,
        })
    }
}

impl Drop for LlamaModel {
    fn drop(&mut self) {
        // SAFETY: freed once; contexts borrow the model and are gone.
        unsafe { sys::llama_model_free(self.handle.as_ptr()) }
    }
}

/// A KV cache and what computes with it.
pub struct Context<'m> {
    handle: NonNull<sys::llama_context>,
    /// Made by `Box::into_raw`; null where nothing is traced. llama.cpp writes to it in [`Context::decode`] only.
    trace: *mut LayerOutputs,
    model: PhantomData<&'m LlamaModel>,
}

impl Context<'_> {
    /// Forgets all sequences.
    pub fn clear(&mut self) {
        // SAFETY: the context is alive and has the memory.
        unsafe { sys::llama_memory_clear(sys::llama_get_memory(self.handle.as_ptr()), true) }
    }

    /// Runs one batch and waits for it.
    ///
    /// # Errors
    /// llama.cpp's code when the pass fails.
    pub fn decode(&mut self, batch: &LlamaBatch) -> Result<()> {
        // SAFETY: the batch holds as many tokens as it says, each with a position and one sequence; llama.cpp reads
        // it and keeps nothing of it.
        let code = unsafe {
            let code = sys::llama_decode(self.handle.as_ptr(), batch.inner);
            sys::llama_synchronize(self.handle.as_ptr());
            code
        };
        match code {
            0 => Ok(()),
            code => bail!("llama_decode failed with code {code}"),
        }
    }

    /// The hidden states of all passes so far; `None` where nothing is traced.
    pub fn trace(&self) -> Option<&LayerOutputs> {
        // SAFETY: null or made by `Box::into_raw`, freed by `drop` only; llama.cpp writes to it while `decode` holds the
        // context mutably, and then no reference from here is left.
        unsafe { self.trace.as_ref() }
    }

    /// The logits of the last token that asked for them, `[n_vocab]`.
    ///
    /// # Errors
    /// When there are none.
    pub fn last_logits(&self, n_vocab: usize) -> Result<&[f32]> {
        self.logits_at(-1, n_vocab)
    }

    /// The logits of the batch's token `index`, `[n_vocab]`.
    ///
    /// # Errors
    /// When it did not ask for them.
    pub fn logits(&self, index: usize, n_vocab: usize) -> Result<&[f32]> {
        self.logits_at(i32::try_from(index)?, n_vocab)
    }

    fn logits_at(&self, index: i32, n_vocab: usize) -> Result<&[f32]> {
        // SAFETY: the context is alive; -1 names the last output, and one that is none gives a null.
        let logits = unsafe { sys::llama_get_logits_ith(self.handle.as_ptr(), index) };
        ensure!(!logits.is_null(), "the pass left no logits");
        // SAFETY: a row of logits has one value for each token; it is overwritten by the next pass only, which needs
        // the context alone.
        Ok(unsafe { std::slice::from_raw_parts(logits, n_vocab) })
    }

    /// Writes sequence 0's cache to a file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save_sequence(&mut self, file: &Path) -> Result<()> {
        let name = CString::new(file.to_str().context("the path is not UTF-8")?)?;
        // SAFETY: the context is alive, the path ends with a zero, and no tokens are read from the dangling pointer.
        let written = unsafe {
            let none = NonNull::<sys::llama_token>::dangling().as_ptr();
            sys::llama_state_seq_save_file(self.handle.as_ptr(), name.as_ptr(), 0, none, 0)
        };
        ensure!(written > 0, "could not write {}", file.display());
        Ok(())
    }

    /// Reads back what [`save_sequence`](Self::save_sequence) wrote; it must be `depth` positions.
    ///
    /// # Errors
    /// When it cannot be read or has another length.
    pub fn load_sequence(&mut self, file: &Path, depth: usize) -> Result<()> {
        let name = CString::new(file.to_str().context("the path is not UTF-8")?)?;
        let mut n_tokens = 0;
        // SAFETY: the context is alive, the path ends with a zero, and there is room for none of the no tokens.
        let (read, last) = unsafe {
            let context = self.handle.as_ptr();
            let none = NonNull::<sys::llama_token>::dangling().as_ptr();
            let read =
                sys::llama_state_seq_load_file(context, name.as_ptr(), 0, none, 0, &mut n_tokens);
            (
                read,
                sys::llama_memory_seq_pos_max(sys::llama_get_memory(context), 0),
            )
        };
        ensure!(
            read > 0 && usize::try_from(last) == Ok(depth - 1),
            "{} does not hold {depth} positions of this model: delete it",
            file.display()
        );
        Ok(())
    }
}

impl Drop for Context<'_> {
    fn drop(&mut self) {
        // SAFETY: both are freed once, the trace after the context that may write to it.
        unsafe {
            sys::llama_free(self.handle.as_ptr());
            if !self.trace.is_null() {
                drop(Box::from_raw(self.trace));
            }
        }
    }
}

/// Tokens of one pass, each of one sequence.
pub struct LlamaBatch {
    inner: sys::llama_batch,
    capacity: usize,
}

impl LlamaBatch {
    /// Room for `capacity` tokens.
    ///
    /// # Panics
    /// For more than `i32::MAX`.
    pub fn new(capacity: usize) -> LlamaBatch {
        let n = i32::try_from(capacity).expect("a batch is at most one pass");
        LlamaBatch {
            // SAFETY: no precondition; token ids, one sequence each.
            inner: unsafe { sys::llama_batch_init(n, 0, 1) },
            capacity,
        }
    }

    /// Removes all tokens.
    pub fn clear(&mut self) {
        self.inner.n_tokens = 0;
    }

    /// Adds a token at a position of a sequence.
    ///
    /// # Panics
    /// When the batch is full.
    pub fn push(&mut self, token: usize, position: usize, sequence: usize, logits: bool) {
        let i = self.inner.n_tokens as usize;
        assert!(i < self.capacity, "the batch is full");
        // SAFETY: all arrays have `capacity` elements, and each element of `seq_id` points to one number.
        unsafe {
            *self.inner.token.add(i) = token as sys::llama_token;
            *self.inner.pos.add(i) = position as sys::llama_pos;
            *self.inner.n_seq_id.add(i) = 1;
            **self.inner.seq_id.add(i) = sequence as sys::llama_seq_id;
            *self.inner.logits.add(i) = i8::from(logits);
        }
        self.inner.n_tokens += 1;
    }
}

impl Drop for LlamaBatch {
    fn drop(&mut self) {
        // SAFETY: made by `llama_batch_init`, freed once.
        unsafe { sys::llama_batch_free(self.inner) }
    }
}
