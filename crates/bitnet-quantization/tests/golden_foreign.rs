//! Formats of single projects read to exactly the trits and scales that their golden files were made of.

use std::path::Path;

use bitnet_quantization::foreign::{self, iq2_s};
use bitnet_quantization::{
    BlockTernaryRows, ForeignRows, ForeignType, I2sDialect, I2sRows, QuantError, ScaleLayout,
    TensorType, TernaryRows, TilePreset, TileRows, Tiles, check_tiles, encode_i2s, encode_tiles,
    quantize, tile_bytes,
};
use proptest::prelude::*;

fn read(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/foreign")
        .join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn trits(name: &str) -> Vec<i8> {
    read(name).into_iter().map(|byte| byte as i8).collect()
}

/// All trits and all scales.
fn decode(rows: &dyn TernaryRows) -> Result<(Vec<i8>, Vec<f32>), QuantError> {
    let cols = rows.cols();
    let n_scales = rows.scale().scales_per_row(cols);
    let mut trits = vec![9; rows.rows() * cols];
    let mut scales = vec![0.0; rows.rows() * n_scales];
    for row in 0..rows.rows() {
        rows.read_row(
            row,
            &mut trits[row * cols..][..cols],
            &mut scales[row * n_scales..][..n_scales],
        )?;
    }
    Ok((trits, scales))
}

#[test]
fn rows_and_blocks_with_their_scales_are_read_exactly() {
    for (ty, rows, cols, expected) in [
        (
            ForeignType::Stq1_0,
            3,
            512,
            &[0.5, 0.25, 1.5, 0.0625, 2.0, 0.75][..],
        ),
        (ForeignType::Iq1Bn, 4, 192, &[0.5, 0.25, -1.5, 0.75]),
        (ForeignType::Iq2Bn, 4, 192, &[0.5, 0.25, -1.5, 0.75]),
    ] {
        let bytes = read(&format!("{ty}.bytes"));
        assert_eq!(
            ty.tensor_bytes(rows as u64, cols as u64),
            Some(bytes.len() as u64)
        );
        let weights = ForeignRows::new(ty, rows, cols, &bytes).unwrap();
        let (found, scales) = decode(&weights).unwrap();
        assert!(found == trits(&format!("{ty}.trits")), "{ty}");
        assert_eq!(scales, expected, "{ty}");
        let short = ForeignRows::new(ty, rows, cols, &bytes[1..]).unwrap_err();
        assert!(matches!(short, QuantError::ByteLength { .. }), "{short}");
    }
}

fn floats(name: &str) -> Vec<f32> {
    let bytes = read(name);
    let values = bytes.as_chunks().0.iter();
    values.map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

#[test]
fn every_row_of_the_iq2_s_codebook_decodes_to_gguf_pys_floats() {
    let bytes = read("IQ2_S.blocks");
    let (blocks, []) = bytes.as_chunks::<{ iq2_s::BLOCK_BYTES }>() else {
        panic!("whole blocks")
    };
    let mut found = Vec::new();
    for block in blocks {
        let mut values = [0.0; iq2_s::BLOCK_LEN];
        iq2_s::decode(block, &mut values);
        found.extend(values.map(f32::to_bits));
    }
    let expected = floats("IQ2_S.blocks.f32").into_iter().map(f32::to_bits);
    assert!(found == expected.collect::<Vec<_>>());
}

#[test]
fn iq2_s_weights_of_one_magnitude_are_exact_trits() {
    let (bytes, expected) = (read("IQ2_S.bytes"), floats("IQ2_S.f32"));
    let size = ForeignType::Iq2S.tensor_bytes(4, 512);
    assert_eq!(size, Some(bytes.len() as u64));
    let weights = foreign::open(ForeignType::Iq2S, (4, 512), &bytes, None, None).unwrap();
    // The last row has another scale for every 32 weights.
    assert_eq!(weights.scale(), ScaleLayout::PerBlock { block_len: 32 });
    let (trits, scales) = decode(&*weights).unwrap();
    let found = trits.iter().zip(0..);
    let found = found.map(|(&trit, i): (_, usize)| f32::from(trit) * scales[i / 32]);
    assert!(found.eq(expected.iter().copied()));
    assert!(trits[2 * 512..][..256].iter().all(|&trit| trit == 0));

    // One scale, and one for each row.
    let rows = |n: usize| foreign::open(ForeignType::Iq2S, (n, 512), &bytes[..n * 164], None, None);
    assert_eq!(rows(1).unwrap().scale(), ScaleLayout::PerTensor(3.5));
    let three = rows(3).unwrap();
    assert_eq!(three.scale(), ScaleLayout::PerBlock { block_len: 512 });
    let (trits, scales) = decode(&*three).unwrap();
    assert_eq!(scales, [3.5, 1.34375, 120.9375]);
    let found = trits.iter().zip(0..);
    let found = found.map(|(&trit, i): (_, usize)| f32::from(trit) * scales[i / 512]);
    assert!(found.eq(expected[..3 * 512].iter().copied()));
}

#[test]
fn iq2_s_weights_that_are_no_trits_are_refused_with_their_place_and_the_reason() {
    let mut bytes = read("IQ2_S.bytes");
    let open = |bytes: &[u8]| {
        let opened = foreign::open(ForeignType::Iq2S, (4, 512), bytes, None, None);
        opened.err().map(|error| error.to_string())
    };
    assert_eq!(open(&bytes), None);
    // Row 3, second block, the last eight weights of its third run: another row of the codebook.
    let block = 7 * iq2_s::BLOCK_BYTES;
    bytes[block + 2 + 11] = 1;
    let text = open(&bytes).unwrap();
    assert!(
        text.contains("row 3") && text.contains("column 320"),
        "{text}"
    );
    assert!(text.contains("lost its zeros"), "{text}");
    // Two halves of a run with scales of their own.
    let mut halves = read("IQ2_S.bytes");
    halves[74] = 0x21;
    let text = open(&halves).unwrap();
    assert!(
        text.contains("row 0") && text.contains("column 0"),
        "{text}"
    );
    let mut infinite = read("IQ2_S.bytes");
    infinite[82..84].copy_from_slice(&0x7c00u16.to_le_bytes());
    let text = open(&infinite).unwrap();
    assert!(text.contains("row 0, block 1"), "{text}");
    let text = open(&read("IQ2_S.bytes")[1..]).unwrap();
    assert!(text.contains("656 bytes"), "{text}");
    let direct = ForeignRows::new(ForeignType::Iq2S, 4, 512, &bytes).unwrap_err();
    assert!(direct.to_string().contains("Iq2sRows"), "{direct}");
}

#[test]
fn equal_scales_are_one_scale() {
    let mut bytes = read("IQ2_BN.bytes");
    for row in bytes.chunks_exact_mut(52) {
        row[..4].copy_from_slice(&0.3f32.to_le_bytes());
    }
    let weights = ForeignRows::new(ForeignType::Iq2Bn, 4, 192, &bytes).unwrap();
    assert_eq!(weights.scale(), ScaleLayout::PerTensor(0.3));
    bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    assert!(ForeignRows::new(ForeignType::Iq2Bn, 4, 192, &bytes).is_err());
}

#[test]
fn tiles_are_read_exactly_with_their_scale_behind_or_beside_them() {
    for (ty, cols, tiles) in [
        (ForeignType::Tl1, 256, [32, 128, 32]),
        (ForeignType::Tl2, 512, [32, 96, 32]),
    ] {
        let [rows, tile_cols, lane_rows] = tiles;
        let tiles = Tiles {
            rows,
            cols: tile_cols,
            lane_rows,
        };
        let mut bytes = read(&format!("{ty}.bytes"));
        assert_eq!(ty.tensor_bytes(64, cols as u64), Some(bytes.len() as u64));
        let beside = TileRows::new(ty, tiles, 64, cols, &bytes, Some(0.5)).unwrap();
        assert_eq!(beside.scale(), ScaleLayout::PerTensor(0.5));
        assert!(
            decode(&beside).unwrap().0 == trits(&format!("{ty}.trits")),
            "{ty}"
        );
        let none = TileRows::new(ty, tiles, 64, cols, &bytes, None).unwrap_err();
        assert!(none.to_string().contains("no scale"), "{none}");

        bytes.extend(0.25f32.to_le_bytes());
        bytes.extend([0; 28]);
        let behind = TileRows::new(ty, tiles, 64, cols, &bytes, None).unwrap();
        assert_eq!(behind.scale(), ScaleLayout::PerTensor(0.25));
        assert!(decode(&behind).unwrap().0 == trits(&format!("{ty}.trits")));
    }
}

#[test]
fn tiles_of_other_sizes_are_refused_or_give_other_trits() {
    let bytes = read("TL1.bytes");
    let tiles = |rows, cols, lane_rows| Tiles {
        rows,
        cols,
        lane_rows,
    };
    let open = |tiles| TileRows::new(ForeignType::Tl1, tiles, 64, 256, &bytes, Some(1.0));
    for bad in [
        tiles(0, 128, 32),
        tiles(32, 0, 32),
        tiles(48, 128, 16),
        tiles(32, 96, 32),
        tiles(32, 128, 0),
        tiles(32, 128, 128),
    ] {
        assert!(open(bad).is_err(), "{bad:?}");
    }
    let other = open(tiles(64, 64, 64)).unwrap();
    assert!(decode(&other).unwrap().0 != trits("TL1.trits"));
}

#[test]
fn every_preset_covers_its_shapes() {
    for (preset, shapes) in [
        (
            TilePreset::Large,
            &[(1536, 4096), (1536, 1536), (4096, 1536)][..],
        ),
        (TilePreset::B3, &[(3200, 8640), (3200, 3200), (8640, 3200)]),
        (
            TilePreset::Llama3,
            &[(14336, 4096), (4096, 14336), (1024, 4096), (4096, 4096)],
        ),
        (
            TilePreset::Llama3Ini,
            &[(14336, 4096), (4096, 14336), (1024, 4096), (4096, 4096)],
        ),
    ] {
        assert_eq!(preset.name().parse(), Ok(preset));
        for &(rows, cols) in shapes {
            for ty in [ForeignType::Tl1, ForeignType::Tl2] {
                let tiles = preset.tiles(ty, rows, cols).unwrap();
                let n = ty.tensor_bytes(rows as u64, cols as u64).unwrap();
                // All codes 4 or 0: valid everywhere.
                let bytes = vec![if ty == ForeignType::Tl1 { 0x44 } else { 0 }; n as usize];
                let weights = TileRows::new(ty, tiles, rows, cols, &bytes, Some(1.0)).unwrap();
                let mut row = vec![9; cols];
                weights.read_row(rows - 1, &mut row, &mut []).unwrap();
                assert!(row.iter().all(|trit| (-1..=1).contains(trit)));
            }
        }
        assert_eq!(preset.tiles(ForeignType::Tl1, 7, 7), None);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_trits_or_an_error(
        bytes in proptest::collection::vec(any::<u8>(), 0..3000),
        rows in 0usize..70,
        cols in prop::sample::select(vec![0usize, 1, 32, 64, 192, 256, 512]),
        tile in (0usize..70, prop::sample::select(vec![0usize, 24, 64, 96, 128]), 0usize..70),
    ) {
        for &ty in ForeignType::ALL {
            let need = ty.tensor_bytes(rows as u64, cols as u64).unwrap_or(0) as usize;
            let mut bytes = bytes.clone();
            bytes.resize(need.min(1 << 20), 0x5a);
            let tiles = Tiles { rows: tile.0, cols: tile.1, lane_rows: tile.2 };
            if let Ok(weights) = foreign::open(ty, (rows, cols), &bytes, Some(1.0), None)
                && let Ok((trits, _)) = decode(&*weights)
            {
                prop_assert!(trits.iter().all(|trit| (-1..=1).contains(trit)));
            }
            if let Ok(weights) = TileRows::new(ty, tiles, rows, cols, &bytes, Some(1.0))
                && let Ok((trits, _)) = decode(&weights)
            {
                prop_assert!(trits.iter().all(|trit| (-1..=1).contains(trit)));
            }
        }
    }
}

const TILES: [(ForeignType, usize, Tiles); 2] = [
    (
        ForeignType::Tl1,
        256,
        Tiles {
            rows: 32,
            cols: 128,
            lane_rows: 32,
        },
    ),
    (
        ForeignType::Tl2,
        512,
        Tiles {
            rows: 32,
            cols: 96,
            lane_rows: 32,
        },
    ),
];

#[test]
fn tiles_are_written_as_the_script_writes_them() {
    for (ty, cols, tiles) in TILES {
        let trits = trits(&format!("{ty}.trits"));
        let mut file = Vec::new();
        encode_i2s(I2sDialect::Block128, 64, cols, &trits, 0.3, &mut file).unwrap();
        let source = I2sRows::new(I2sDialect::Block128, 64, cols, &file).unwrap();
        check_tiles(ty, tiles, &source).unwrap();
        // Behind what is there already.
        let mut bytes = vec![7];
        encode_tiles(ty, tiles, &source, &mut bytes).unwrap();
        assert_eq!(bytes.len(), 1 + tile_bytes(ty, tiles, 64, cols).unwrap());
        let (codes, trailer) = bytes[1..].split_at(bytes.len() - 33);
        assert!(codes == read(&format!("{ty}.bytes")), "{ty}");
        assert_eq!(trailer[..4], 0.3f32.to_le_bytes());
        let again = TileRows::new(ty, tiles, 64, cols, &bytes[1..], None).unwrap();
        assert_eq!(again.scale(), ScaleLayout::PerTensor(0.3));
        assert!(decode(&again).unwrap().0 == trits);
    }
}

#[test]
fn what_tiles_cannot_hold_is_refused() {
    let values: Vec<f32> = (0..64 * 512).map(|i| [0.5, 2.0][i / 256 % 2]).collect();
    let mut blocks = Vec::new();
    quantize(TensorType::Tq2_0, &values, &mut blocks).unwrap();
    for (ty, cols, tiles) in TILES {
        let bytes = &blocks[..64 * cols / 256 * 66];
        let several = BlockTernaryRows::new(TensorType::Tq2_0, 64, cols, bytes).unwrap();
        let mut out = Vec::new();
        for error in [
            check_tiles(ty, tiles, &several).unwrap_err(),
            encode_tiles(ty, tiles, &several, &mut out).unwrap_err(),
        ] {
            assert!(matches!(error, QuantError::ScaleLost { .. }), "{error}");
        }
        let wide = Tiles { rows: 48, ..tiles };
        assert!(tile_bytes(ty, wide, 64, cols).is_err());
        assert!(tile_bytes(ty, tiles, 64, cols + 2).is_err());
        assert!(tile_bytes(ForeignType::Stq1_0, tiles, 64, cols).is_err());
    }
}

proptest! {
    #[test]
    fn tiles_return_the_trits_they_were_made_of(seed in any::<u64>(), which in 0usize..2) {
        let (ty, cols, tiles) = TILES[which];
        let mut state = seed;
        let trits: Vec<i8> = (0..64 * cols).map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 33) % 3) as i8 - 1
        }).collect();
        let mut file = Vec::new();
        encode_i2s(I2sDialect::Block128, 64, cols, &trits, 0.5, &mut file).unwrap();
        let source = I2sRows::new(I2sDialect::Block128, 64, cols, &file).unwrap();
        let mut bytes = Vec::new();
        encode_tiles(ty, tiles, &source, &mut bytes).unwrap();
        let again = TileRows::new(ty, tiles, 64, cols, &bytes, None).unwrap();
        prop_assert!(decode(&again).unwrap().0 == trits);
    }
}
