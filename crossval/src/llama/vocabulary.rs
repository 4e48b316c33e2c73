//! Text to ids as llama.cpp's programs do it, and what its files say about the beginning of a text.

use anyhow::{Result, ensure};
use llama_cpp_sys_2 as sys;

use super::LlamaModel;

impl LlamaModel {
    fn vocabulary(&self) -> *const sys::llama_vocab {
        // SAFETY: the model is alive, and its vocabulary as long.
        unsafe { sys::llama_model_get_vocab(self.handle.as_ptr()) }
    }

    /// Tokens of the vocabulary.
    pub fn n_vocab(&self) -> usize {
        // SAFETY: the vocabulary lives as long as the model.
        let n = unsafe { sys::llama_vocab_n_tokens(self.vocabulary()) };
        n.max(1) as usize
    }

    /// The token that begins a text, where the tokenizer puts one in front.
    pub fn bos(&self) -> Option<usize> {
        // SAFETY: the vocabulary lives as long as the model.
        let (adds, bos) = unsafe {
            (
                sys::llama_vocab_get_add_bos(self.vocabulary()),
                sys::llama_vocab_bos(self.vocabulary()),
            )
        };
        // Where a vocabulary has no such token its id is -1.
        adds.then(|| usize::try_from(bos).ok()).flatten()
    }

    /// The ids of a text, special tokens added as the tokenizer says and not recognised in the text: what llama.cpp's
    /// programs do with a prompt.
    ///
    /// # Errors
    /// When llama.cpp cannot.
    pub fn tokenize(&self, text: &str) -> Result<Vec<usize>> {
        // A token is a byte at least, and at most two are added.
        let mut ids: Vec<sys::llama_token> = vec![0; text.len() + 2];
        // SAFETY: the vocabulary lives as long as the model; text and room are as long as told.
        let n = unsafe {
            sys::llama_tokenize(
                self.vocabulary(),
                text.as_ptr().cast(),
                i32::try_from(text.len())?,
                ids.as_mut_ptr(),
                i32::try_from(ids.len())?,
                true,
                false,
            )
        };
        ensure!(n >= 0, "llama.cpp could not tokenize the text");
        ids.truncate(n as usize);
        Ok(ids.into_iter().map(|id| id as usize).collect())
    }
}
