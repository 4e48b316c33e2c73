//! Chance: what prompts are made of, who leaves, who reads slowly.

use std::cell::Cell;
use std::rc::Rc;

/// Random numbers, the same in every run (splitmix64). Clones go on where the others are, so that no request of a later
/// round, or behind a warm-up, is one that the server has in its cache.
#[derive(Debug, Clone)]
pub struct Draws(Rc<Cell<u64>>);

impl Default for Draws {
    fn default() -> Draws {
        Draws(Rc::new(Cell::new(0x9e37_79b9_7f4a_7c15)))
    }
}

impl Draws {
    /// A number below 1.
    pub fn uniform(&self) -> f64 {
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::Draws;

    #[test]
    fn a_clone_repeats_nothing() {
        let draws = Draws::default();
        let first = [draws.uniform(), draws.clone().uniform(), draws.uniform()];
        assert!(first[0] != first[1] && first[1] != first[2] && first[0] != first[2]);
        assert_eq!(
            Draws::default().uniform(),
            first[0],
            "the same in every run"
        );
    }
}
