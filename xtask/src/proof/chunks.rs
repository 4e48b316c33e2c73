//! The chunks of a text that engines are compared on: those of llama-perplexity, so that the same numbers also give the
//! perplexity that people publish.
//!
//! Source: llama.cpp's `tools/perplexity/perplexity.cpp`.

use super::distance::Position;
use super::tensors::Rows;
use anyhow::{Result, ensure};

/// A stretch of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextChunk {
    /// What reports call it.
    pub name: String,
    /// What runs: the first token is the one that begins a text, where the tokenizer puts one in front.
    pub input: Vec<usize>,
    /// What is predicted: the text's own tokens.
    pub tokens: Vec<usize>,
}

/// Cuts a text into chunks of `ctx` tokens, at most `most`; the rest is left out.
///
/// # Errors
/// When it is shorter than two chunks.
pub fn cut(
    tokens: &[usize],
    bos: Option<usize>,
    ctx: usize,
    most: usize,
) -> Result<Vec<TextChunk>> {
    ensure!(
        tokens.len() >= 2 * ctx,
        "the text has {} tokens, too few for two chunks of {ctx}: give a longer one (--text) or shorter chunks (--ctx)",
        tokens.len()
    );
    let chunks = tokens.chunks_exact(ctx).take(most).enumerate();
    Ok(chunks
        .map(|(index, tokens)| {
            let mut input = tokens.to_vec();
            if let Some(bos) = bos {
                input[0] = bos;
            }
            TextChunk {
                name: format!("chunk {}", index + 1),
                input,
                tokens: tokens.to_vec(),
            }
        })
        .collect())
}

impl TextChunk {
    /// Compares the logits of all positions, `[n, vocab_size]` each; the second half is scored.
    ///
    /// # Errors
    /// When a side has other shapes.
    pub fn compare(&self, reference: &Rows, found: &Rows) -> Result<Vec<Position>> {
        let n = self.tokens.len();
        ensure!(
            reference.width == found.width && reference.len() == n && found.len() == n,
            "{}: logits are [{}, {}] and [{}, {}], expected {n} rows",
            self.name,
            reference.len(),
            reference.width,
            found.len(),
            found.width
        );
        let outside = self.tokens.iter().find(|&&id| id >= found.width);
        ensure!(
            outside.is_none(),
            "{}: a token is outside the vocabulary of {}",
            self.name,
            found.width
        );
        let position = |index| {
            let next = self.tokens.get(index + 1);
            let next = next.map(|&id| (id, index >= n / 2));
            Position::compare(
                &self.name,
                index,
                reference.row(index),
                found.row(index),
                next,
            )
        };
        Ok((0..n).map(position).collect())
    }
}

/// Where two lists of tokens part; `None` where they are the same.
pub fn first_difference(a: &[usize], b: &[usize]) -> Option<usize> {
    let parted = a.iter().zip(b).position(|(a, b)| a != b);
    parted.or((a.len() != b.len()).then(|| a.len().min(b.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_begin_with_the_beginning_of_a_text() {
        let text: Vec<usize> = (0..11).collect();
        let chunks = cut(&text, Some(99), 4, usize::MAX).unwrap();
        assert_eq!(chunks.len(), 2);
        assert_eq!(chunks[1].input, [99, 5, 6, 7]);
        assert_eq!(chunks[1].tokens, [4, 5, 6, 7]);
        assert_eq!(cut(&text, None, 4, 1).unwrap().len(), 1);
        assert!(cut(&text, None, 6, usize::MAX).is_err());
    }

    #[test]
    fn the_second_half_of_a_chunk_is_scored() {
        for (ctx, scored) in [(512, 255), (4, 1), (5, 2), (33, 16)] {
            let rows = Rows {
                width: 2,
                values: vec![0.0; 2 * ctx],
            };
            let text = vec![1; 2 * ctx];
            let chunk = &cut(&text, None, ctx, 1).unwrap()[0];
            let positions = chunk.compare(&rows, &rows).unwrap();
            let next = positions.iter().filter_map(|position| position.next);
            let counted: Vec<bool> = next.map(|next| next.scored).collect();
            assert_eq!(counted.len(), ctx - 1);
            assert_eq!(counted.iter().filter(|scored| **scored).count(), scored);
            assert!(counted[ctx / 2..].iter().all(|scored| *scored));
        }
    }

    #[test]
    fn other_shapes_are_no_comparison() {
        let rows = |width: usize, n: usize| Rows {
            width,
            values: vec![0.0; width * n],
        };
        let chunk = &cut(&[1; 8], None, 4, 1).unwrap()[0];
        assert!(chunk.compare(&rows(2, 4), &rows(2, 4)).is_ok());
        assert!(chunk.compare(&rows(2, 4), &rows(3, 4)).is_err());
        assert!(chunk.compare(&rows(2, 3), &rows(2, 4)).is_err());
        assert!(chunk.compare(&rows(1, 4), &rows(1, 4)).is_err());
    }

    #[test]
    fn lists_part_where_they_first_differ() {
        assert_eq!(first_difference(&[1, 2], &[1, 2]), None);
        assert_eq!(first_difference(&[1, 2], &[1, 3]), Some(1));
        assert_eq!(first_difference(&[1, 2], &[1, 2, 3]), Some(2));
        assert_eq!(first_difference(&[], &[]), None);
    }
}
