//! Any bytes as a tensor of the formats that are only imported, in any shape and any tiles: trits or an error.
#![no_main]

use bitnet_quantization::{ForeignType, Repacker, TensorType, TernaryRows, TileRows, Tiles, foreign};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&[kind, rows, cols, tile_rows, tile_cols, lane_rows], rest)) = data.split_first_chunk()
    else {
        return;
    };
    let ty = ForeignType::ALL[usize::from(kind) % ForeignType::ALL.len()];
    let (rows, cols) = (usize::from(rows), 32 * usize::from(cols));
    let size = ty.tensor_bytes(rows as u64, cols as u64).unwrap_or(0) as usize;
    let mut bytes = rest.to_vec();
    if kind & 0x80 == 0 {
        bytes.resize(size, 0x44); // else whatever length there is
    }
    if let Ok(weights) = foreign::open(ty, (rows, cols), &bytes, Some(0.5), None) {
        read(&*weights);
    }
    let tiles = Tiles {
        rows: usize::from(tile_rows),
        cols: 8 * usize::from(tile_cols),
        lane_rows: usize::from(lane_rows),
    };
    if let Ok(weights) = TileRows::new(ty, tiles, rows, cols, &bytes, Some(0.5)) {
        read(&weights);
    }
});

fn read(weights: &dyn TernaryRows) {
    let mut trits = vec![0; weights.cols()];
    let mut scales = vec![0.0; weights.scale().scales_per_row(weights.cols())];
    for row in 0..weights.rows() {
        if weights.read_row(row, &mut trits, &mut scales).is_ok() {
            assert!(trits.iter().all(|trit| (-1..=1).contains(trit)));
        }
    }
    if let Ok(mut repacker) = Repacker::new(weights, TensorType::Q2_0) {
        let mut out = Vec::new();
        while repacker.next_piece(&mut out).unwrap_or(false) {}
    }
}
