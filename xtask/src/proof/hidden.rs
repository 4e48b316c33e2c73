//! Where two forward passes part: the hidden states after each layer, next to each other.
//!
//! A wrong operation shows as a jump at its layer, at every position. Rounding that differs shows as a slow growth.

use super::tensors::TensorFile;
use anyhow::{Result, ensure};
use std::collections::BTreeMap;

/// A pair of tensors: the reference's name, ours, and the name in a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TracedStep {
    /// In the reference's file.
    pub reference: String,
    /// In ours.
    pub found: String,
}

/// The steps that both files hold, in the order of the computation; `reference` gives the reference's name of ours.
pub fn steps(
    reference: &TensorFile,
    found: &TensorFile,
    name: impl Fn(&str) -> String,
) -> Vec<TracedStep> {
    let layers = (0..).map(|layer| format!("layer.{layer}"));
    let layers = layers.take_while(|layer| found.has(layer));
    let all = std::iter::once("embedding".to_owned())
        .chain(layers)
        .chain(std::iter::once("final_norm".to_owned()));
    all.map(|found| TracedStep {
        reference: name(&found),
        found,
    })
    .filter(|step| found.has(&step.found) && reference.has(&step.reference))
    .collect()
}

/// Relative distances of hidden states.
#[derive(Debug, Default)]
pub struct HiddenStates {
    /// Of each step: squares of the differences, squares of the reference.
    sums: Vec<(String, f64, f64)>,
    /// Of each position (sample and index) the relative distance after each step.
    rows: BTreeMap<(String, usize), Vec<f64>>,
}

impl HiddenStates {
    /// Adds the first `n` positions of a sample.
    ///
    /// # Errors
    /// When the files hold tensors of other shapes.
    pub fn add(
        &mut self,
        sample: &str,
        n: usize,
        steps: &[TracedStep],
        reference: &TensorFile,
        found: &TensorFile,
    ) -> Result<()> {
        if self.sums.is_empty() {
            let names = steps.iter().map(|step| (step.found.clone(), 0.0, 0.0));
            self.sums = names.collect();
        }
        for (step, sums) in steps.iter().zip(&mut self.sums) {
            let (a, b) = (reference.rows(&step.reference)?, found.rows(&step.found)?);
            ensure!(
                a.width == b.width && a.len() >= n && b.len() >= n,
                "{}: the hidden states are [{}, {}] and [{}, {}]",
                step.found,
                a.len(),
                a.width,
                b.len(),
                b.width
            );
            for index in 0..n {
                let (difference, square) = squares(a.row(index), b.row(index));
                sums.1 += difference;
                sums.2 += square;
                let row = self.rows.entry((sample.to_owned(), index)).or_default();
                row.push(relative(difference, square));
            }
        }
        Ok(())
    }

    /// Whether nothing was traced.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Each step and its relative distance, over all positions together.
    pub fn all(&self) -> Vec<(&str, f64)> {
        let sums = self.sums.iter();
        sums.map(|(name, difference, square)| (name.as_str(), relative(*difference, *square)))
            .collect()
    }

    /// Each step and its relative distance at one position; empty where it was not traced.
    pub fn at(&self, sample: &str, index: usize) -> Vec<(&str, f64)> {
        let row = self.rows.get(&(sample.to_owned(), index));
        let names = self.sums.iter().map(|(name, ..)| name.as_str());
        names.zip(row.into_iter().flatten().copied()).collect()
    }
}

/// The first step that is further off than `limit`.
pub fn first_over<'a>(steps: &[(&'a str, f64)], limit: f64) -> Option<(&'a str, f64)> {
    steps
        .iter()
        .find(|(_, distance)| *distance > limit)
        .copied()
}

fn squares(reference: &[f32], found: &[f32]) -> (f64, f64) {
    let pairs = reference.iter().zip(found);
    pairs.fold((0.0, 0.0), |(difference, square), (&a, &b)| {
        let (a, b) = (f64::from(a), f64::from(b));
        (difference + (a - b) * (a - b), square + a * a)
    })
}

fn relative(difference: f64, square: f64) -> f64 {
    if difference == 0.0 {
        return 0.0;
    }
    (difference / square).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of `[2, 2]` tensors.
    fn file(tensors: &[(&str, [f32; 4])]) -> TensorFile {
        let mut header = serde_json::Map::new();
        let mut data = Vec::new();
        for (name, values) in tensors {
            let offsets = [data.len(), data.len() + 16];
            let entry =
                serde_json::json!({"dtype": "F32", "shape": [2, 2], "data_offsets": offsets});
            header.insert((*name).to_owned(), entry);
            data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        let header = serde_json::Value::Object(header).to_string();
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        TensorFile::of_bytes(bytes).unwrap()
    }

    #[test]
    fn the_first_layer_that_differs_is_found() {
        let reference = file(&[
            ("L0.out", [3.0, 4.0, 1.0, 0.0]),
            ("L1.out", [3.0, 4.0, 1.0, 0.0]),
        ]);
        let found = file(&[
            ("embedding", [0.0; 4]),
            ("layer.0", [3.0, 4.0, 1.0, 0.0]),
            ("layer.1", [3.0, 4.5, 1.0, 0.0]),
        ]);
        let name = |ours: &str| ours.replace("layer.", "L") + ".out";
        let steps = steps(&reference, &found, name);
        assert_eq!(steps.len(), 2);
        let mut hidden = HiddenStates::default();
        assert!(hidden.is_empty());
        hidden.add("s", 2, &steps, &reference, &found).unwrap();
        assert_eq!(hidden.at("s", 0), [("layer.0", 0.0), ("layer.1", 0.1)]);
        assert_eq!(hidden.at("s", 1), [("layer.0", 0.0), ("layer.1", 0.0)]);
        assert!(hidden.at("s", 2).is_empty());
        assert_eq!(first_over(&hidden.at("s", 0), 0.05), Some(("layer.1", 0.1)));
        assert_eq!(first_over(&hidden.at("s", 1), 0.05), None);
        let all = hidden.all();
        assert!((all[1].1 - (0.25f64 / 26.0).sqrt()).abs() < 1e-12);
    }
}
