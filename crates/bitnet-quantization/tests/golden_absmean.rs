//! Master weights quantise to the trits and scales that numpy computes, ties included.

use std::path::Path;

use bitnet_quantization::{AbsmeanRows, ScaleLayout, TensorType, TernaryRows};

const SHAPE: (usize, usize) = (24, 50);

fn read(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/absmean")
        .join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn absmean_gives_the_golden_trits_and_scales() {
    let scales = read("scales.f32");
    let cases = [
        ("F32", TensorType::F32),
        ("F16", TensorType::F16),
        ("BF16", TensorType::BF16),
        ("ties", TensorType::F32),
    ];
    for ((name, ty), scale) in cases.into_iter().zip(scales.as_chunks().0) {
        let bytes = read(&format!("{name}.weights"));
        let golden: Vec<i8> = read(&format!("{name}.trits"))
            .into_iter()
            .map(|byte| byte as i8)
            .collect();
        let (rows, cols) = SHAPE;
        let weight = AbsmeanRows::new(ty, rows, cols, &bytes).unwrap();
        assert_eq!(
            weight.scale(),
            ScaleLayout::PerTensor(f32::from_le_bytes(*scale)),
            "{name}"
        );
        let mut trits = vec![9; cols];
        for row in 0..rows {
            weight.read_row(row, &mut trits, &mut []).unwrap();
            assert_eq!(trits, golden[row * cols..][..cols], "{name} row {row}");
        }
    }
}

#[test]
fn the_golden_ties_hold_halves_of_both_signs() {
    let weights = read("ties.weights");
    let count = |wanted: f32| {
        weights
            .as_chunks()
            .0
            .iter()
            .filter(|bytes| f32::from_le_bytes(**bytes) == wanted)
            .count()
    };
    for tie in [0.5, -0.5, 1.5, -1.5] {
        assert!(count(tie) > 50, "{tie}");
    }
}
