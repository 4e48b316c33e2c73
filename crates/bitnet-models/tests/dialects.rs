//! Type numbers that several projects use: the size of their tensors decides, and what is imported comes out exactly.

use std::path::Path;

use bitnet_models::export::{ExportError, TERNARY_TYPES, TILE_TYPES, TernaryTarget};
use bitnet_models::gguf::Gguf;
use bitnet_models::{Export, ModelError, Targets};
use bitnet_quantization::{
    BlockTernaryRows, ForeignType, I2sDialect, I2sRows, ScaleLayout, TensorType, TernaryRows,
    TilePreset, TypeId, encode_i2s,
};

/// A tensor as a file of another project has it.
struct Raw {
    name: &'static str,
    ty: u32,
    rows: u64,
    cols: u64,
    data: Vec<u8>,
}

fn raw(ty: u32, rows: u64, cols: u64, data: Vec<u8>) -> Raw {
    Raw {
        name: "blk.0.attn_q.weight",
        ty,
        rows,
        cols,
        data,
    }
}

/// A GGUF file of the tensors and one key.
fn file(tensors: &[Raw]) -> Vec<u8> {
    fn string(out: &mut Vec<u8>, text: &str) {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    }
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend(1u64.to_le_bytes());
    string(&mut bytes, "general.name");
    bytes.extend(8u32.to_le_bytes());
    string(&mut bytes, "dialect");
    let mut offset = 0u64;
    for tensor in tensors {
        string(&mut bytes, tensor.name);
        let n_dims = if tensor.rows == 0 { 1u32 } else { 2 };
        bytes.extend(n_dims.to_le_bytes());
        bytes.extend(tensor.cols.to_le_bytes());
        if tensor.rows > 0 {
            bytes.extend(tensor.rows.to_le_bytes());
        }
        bytes.extend(tensor.ty.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        offset += (tensor.data.len() as u64).next_multiple_of(32);
    }
    for tensor in tensors {
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(&tensor.data);
    }
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    bytes
}

fn open(tensors: &[Raw]) -> Gguf {
    Gguf::from_bytes("dialect.gguf", file(tensors).into()).unwrap()
}

fn golden(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../bitnet-quantization/tests/data")
        .join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn targets(ternary: TernaryTarget, tiles: Option<TilePreset>) -> Targets {
    Targets {
        ternary,
        embedding: None,
        head: None,
        i2s_dialect: I2sDialect::default(),
        tiles,
        ternarize: false,
    }
}

fn export(
    gguf: &Gguf,
    ternary: impl Into<TernaryTarget>,
    tiles: Option<TilePreset>,
) -> Result<Gguf, ExportError> {
    let export = Export::of_gguf(gguf, &targets(ternary.into(), tiles), &mut |_| true)?;
    let size = export.file_bytes();
    let (bytes, _) = export.write(Vec::new(), &mut |_| true)?;
    assert_eq!(bytes.len() as u64, size);
    Ok(Gguf::from_bytes("out.gguf", bytes.into()).unwrap())
}

/// The trits and scales of the first tensor of a written file.
fn weights(gguf: &Gguf) -> (Vec<i8>, Vec<f32>) {
    let tensor = &gguf.tensors()[0];
    let (rows, cols) = tensor.shape();
    let (rows, cols) = (rows as usize, cols as usize);
    let bytes = gguf.slice(tensor).unwrap();
    let source: Box<dyn TernaryRows> = match tensor.tensor_type().unwrap() {
        TensorType::I2S => Box::new(I2sRows::new(I2sDialect::Block128, rows, cols, bytes).unwrap()),
        ty => Box::new(BlockTernaryRows::new(ty, rows, cols, bytes).unwrap()),
    };
    let n = source.scale().scales_per_row(cols);
    let (mut trits, mut scales) = (vec![0; rows * cols], vec![0.0; rows * n]);
    for row in 0..rows {
        let trits = &mut trits[row * cols..][..cols];
        source
            .read_row(row, trits, &mut scales[row * n..][..n])
            .unwrap();
    }
    if let ScaleLayout::PerTensor(scale) = source.scale() {
        scales.push(scale);
    }
    (trits, scales)
}

#[test]
fn number_42_is_what_its_size_says() {
    let q2_0 = golden("encode/Q2_0.blocks");
    let pq2_0 = golden("encode/PQ2_0.blocks");
    let stq1_0 = golden("foreign/STQ1_0.bytes");
    for (data, rows, cols, expected) in [
        (q2_0, 2, 768, TypeId::Supported(TensorType::Q2_0)),
        (pq2_0, 2, 768, TypeId::Supported(TensorType::Pq2_0)),
        (stq1_0, 3, 512, TypeId::Foreign(ForeignType::Stq1_0)),
    ] {
        let bytes = data.len() as u64;
        let gguf = open(&[raw(42, rows, cols, data)]);
        assert_eq!(gguf.tensors()[0].type_id(), expected);
        assert_eq!(gguf.tensors()[0].bytes(), Some(bytes));
    }
}

#[test]
fn tensors_of_a_number_that_do_not_agree_are_refused() {
    let mut second = raw(42, 2, 768, golden("encode/Q2_0.blocks"));
    second.name = "blk.0.attn_k.weight";
    let file = file(&[raw(42, 2, 768, golden("encode/PQ2_0.blocks")), second]);
    let error = Gguf::from_bytes("mixed.gguf", file.into()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("blk.0.attn_q.weight"), "{text}");
}

#[test]
fn numbers_whose_sizes_fit_nothing_stay_unread() {
    for ty in [22, 38, 39, 43, 134, 135] {
        let gguf = open(&[raw(ty, 2, 768, vec![0; 96])]);
        let tensor = &gguf.tensors()[0];
        assert!(
            matches!(tensor.type_id(), TypeId::Unsupported { .. }),
            "{ty}"
        );
        let error = export(&gguf, TensorType::I2S, None).unwrap_err();
        assert!(matches!(error, ExportError::Refused(_)), "{error}");
    }
    // MXFP4's own size: 17 bytes for 32.
    let gguf = open(&[raw(39, 2, 768, vec![0; 816])]);
    let meaning = gguf.tensors()[0].type_id().to_string();
    assert!(meaning.starts_with("MXFP4"), "{meaning}");
}

fn open_as(tensors: &[Raw], dialects: &str) -> Result<Gguf, ModelError> {
    let dialects = dialects.parse().unwrap();
    Gguf::from_bytes_with("dialect.gguf", file(tensors).into(), dialects)
}

#[test]
fn a_named_format_goes_before_the_size_test() {
    // A gap behind the tensor: no size fits, and the number would be held to Q2_0.
    let gap = || {
        let mut data = golden("foreign/STQ1_0.bytes");
        data.extend([0; 96]);
        raw(42, 3, 512, data)
    };
    assert!(Gguf::from_bytes("gap.gguf", file(&[gap()]).into()).is_err());
    let gguf = open_as(&[gap()], "stq1_0").unwrap();
    let tensor = &gguf.tensors()[0];
    assert_eq!(tensor.type_id(), TypeId::Foreign(ForeignType::Stq1_0));
    assert_eq!(tensor.overruled(), None);
    assert_eq!(gguf.slice(tensor).unwrap(), golden("foreign/STQ1_0.bytes"));
    let (trits, _) = weights(&export(&gguf, TensorType::Tq2_0, None).unwrap());
    assert!(
        trits
            .iter()
            .map(|&trit| trit as u8)
            .eq(golden("foreign/STQ1_0.trits"))
    );

    // Blocks of 66 bytes taken for blocks of 42: what the sizes say is kept for the report.
    let q2_0 = || raw(42, 2, 768, golden("encode/Q2_0.blocks"));
    let other = open_as(&[q2_0()], "pq2_0").unwrap();
    let tensor = &other.tensors()[0];
    assert_eq!(tensor.type_id(), TypeId::Supported(TensorType::Pq2_0));
    let by_size = TypeId::Supported(TensorType::Q2_0);
    assert_eq!(tensor.overruled(), Some(by_size));
    // Names of other numbers change nothing.
    let same = open_as(&[q2_0()], "tl1,i2s-64").unwrap();
    assert_eq!(same.tensors()[0].type_id(), by_size);
}

#[test]
fn a_named_format_that_has_no_room_is_refused() {
    let stq1_0 = || raw(42, 3, 512, golden("foreign/STQ1_0.bytes"));
    let error = open_as(&[stq1_0()], "q2_0").unwrap_err();
    let text = error.to_string();
    assert!(text.contains("number 42 cannot be Q2_0"), "{text}");
    assert!(error.hint().contains("--dialect"), "{}", error.hint());
    // Rows of 64 are no whole blocks of 128.
    let narrow = raw(42, 2, 64, vec![0; 64]);
    assert!(open_as(&[narrow], "pq2_0").is_err());
}

#[test]
fn tensors_too_small_for_the_size_test_are_refused_until_a_format_is_named() {
    // 72 and 68 bytes, both padded to 96.
    let tiny = || {
        let mut second = raw(42, 1, 256, golden("encode/PQ2_0.blocks")[..68].to_vec());
        second.name = "blk.0.attn_k.weight";
        [
            raw(42, 1, 256, golden("encode/PQ2_0.blocks")[..68].to_vec()),
            second,
        ]
    };
    let error = Gguf::from_bytes("tiny.gguf", file(&tiny()).into()).unwrap_err();
    assert!(error.to_string().contains("both Q2_0 and PQ2_0"), "{error}");
    assert!(
        error.hint().contains("--dialect q2_0 or --dialect pq2_0"),
        "{}",
        error.hint()
    );
    let gguf = open_as(&tiny(), "pq2_0").unwrap();
    let found: Vec<&[u8]> = gguf
        .tensors()
        .iter()
        .map(|t| gguf.slice(t).unwrap())
        .collect();
    assert_eq!(found, [&golden("encode/PQ2_0.blocks")[..68]; 2]);
    assert_eq!(gguf.tensors()[0].overruled(), None);
}

#[test]
fn iq2_s_comes_out_where_it_is_ternary() {
    // The first three rows: a scale for each row, blocks without any.
    let bytes = golden("foreign/IQ2_S.bytes");
    let gguf = open(&[raw(22, 3, 512, bytes[..3 * 164].to_vec())]);
    assert_eq!(
        gguf.tensors()[0].type_id(),
        TypeId::Foreign(ForeignType::Iq2S)
    );
    let (trits, scales) = weights(&export(&gguf, TensorType::Tq2_0, None).unwrap());
    assert_eq!(scales, [3.5, 1.34375, 120.9375]);
    let floats = golden("foreign/IQ2_S.f32");
    let signs = floats.as_chunks().0.iter().map(|bytes| {
        let value = f32::from_le_bytes(*bytes);
        i8::from(value > 0.0) - i8::from(value < 0.0)
    });
    assert!(signs.take(trits.len()).eq(trits.iter().copied()));

    // What llama.cpp makes of an ordinary model, and of a ternary one: no zero is left.
    let dense = golden("foreign/IQ2_S.blocks");
    let gguf = open(&[raw(22, 1, 512, dense[10 * 82..][..164].to_vec())]);
    let error = export(&gguf, TensorType::Tq2_0, None).unwrap_err();
    assert!(error.to_string().contains("lost its zeros"), "{error}");
}

#[test]
fn every_imported_format_comes_out_with_its_trits_and_scales() {
    for (ty, name, rows, cols, to) in [
        (42, "STQ1_0", 3, 512, TensorType::Tq2_0),
        (43, "STQ1_0", 3, 512, TensorType::Tq1_0),
        (134, "IQ1_BN", 4, 192, TensorType::Q2_0),
        (135, "IQ2_BN", 4, 192, TensorType::Q2_0),
    ] {
        let gguf = open(&[raw(
            ty,
            rows,
            cols,
            golden(&format!("foreign/{name}.bytes")),
        )]);
        let written = export(&gguf, to, None).unwrap();
        let (trits, scales) = weights(&written);
        let expected: Vec<i8> = golden(&format!("foreign/{name}.trits"))
            .into_iter()
            .map(|byte| byte as i8)
            .collect();
        assert!(trits == expected, "{name}");
        let expected: &[f32] = match name {
            "STQ1_0" => &[0.5, 0.25, 1.5, 0.0625, 2.0, 0.75],
            _ => &[0.5, 0.25, -1.5, 0.75],
        };
        let repeat = scales.len() / expected.len();
        let expected: Vec<f32> = expected
            .iter()
            .flat_map(|&scale| std::iter::repeat_n(scale, repeat))
            .collect();
        assert_eq!(scales, expected, "{name}");
    }
    // The old number of PQ2_0 and its own lead to the same file.
    let old = open(&[raw(42, 2, 768, golden("encode/PQ2_0.blocks"))]);
    let new = open(&[raw(142, 2, 768, golden("encode/PQ2_0.blocks"))]);
    let written = [old, new].map(|gguf| export(&gguf, TensorType::Pq2_0, None).unwrap());
    assert_eq!(
        written[0].slice(&written[0].tensors()[0]).unwrap(),
        written[1].slice(&written[1].tensors()[0]).unwrap()
    );
    assert_eq!(
        written[0].tensors()[0].type_id(),
        TypeId::Supported(TensorType::Pq2_0)
    );
}

#[test]
fn scales_of_tiles_are_beside_them_or_behind() {
    // Pairs of (+1, +1), in any place.
    let codes = vec![0x88; 1536 * 1536 / 4];
    let scale = || Raw {
        name: "blk.0.attn_q.weight_scale",
        ty: 0,
        rows: 0,
        cols: 1,
        data: 0.3f32.to_le_bytes().to_vec(),
    };
    let beside = open(&[raw(38, 1536, 1536, codes.clone()), scale()]);
    let written = export(&beside, TensorType::I2S, None).unwrap();
    // The scale is in the tensor now.
    assert_eq!(written.tensors().len(), 1);
    let (trits, scales) = weights(&written);
    assert!(trits.iter().all(|&trit| trit == 1));
    assert_eq!(scales, [0.3]);

    let mut longer = codes.clone();
    longer.extend(0.7f32.to_le_bytes());
    longer.extend([0; 28]);
    let behind = open(&[raw(38, 1536, 1536, longer)]);
    let (_, scales) = weights(&export(&behind, TensorType::I2S, None).unwrap());
    assert_eq!(scales, [0.7]);

    let none = open(&[raw(38, 1536, 1536, codes)]);
    let error = export(&none, TensorType::I2S, None)
        .unwrap_err()
        .to_string();
    assert!(error.contains("no scale"), "{error}");
}

#[test]
fn tile_sizes_that_nobody_tells_are_asked_for() {
    let codes = vec![0x44; 1024 * 4096 / 4 + 32];
    let gguf = open(&[raw(38, 1024, 4096, codes)]);
    let error = export(&gguf, TensorType::I2S, None)
        .unwrap_err()
        .to_string();
    assert!(error.contains("several tile sizes"), "{error}");
    assert!(export(&gguf, TensorType::I2S, Some(TilePreset::Llama3)).is_ok());
    let error = export(&gguf, TensorType::I2S, Some(TilePreset::Large)).unwrap_err();
    assert!(error.to_string().contains("no known build"), "{error}");
}

/// One scale that an f16 holds, in the shape of a model that every build has tiles for.
#[test]
fn tiles_and_every_other_type_become_each_other_and_come_back() {
    let trits: Vec<i8> = (0..1536 * 1536u64)
        .map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60) as i8 % 3 - 1)
        .collect();
    let mut i2s = Vec::new();
    encode_i2s(I2sDialect::Block128, 1536, 1536, &trits, 0.375, &mut i2s).unwrap();
    let original = open(&[raw(36, 1536, 1536, i2s.clone())]);
    let tiles = TILE_TYPES.map(|ty| {
        let written = export(&original, TernaryTarget::Tiles(ty), None).unwrap();
        assert_eq!(written.tensors().len(), 1);
        assert_eq!(written.tensors()[0].type_id(), TypeId::Foreign(ty));
        written
    });
    let bytes = |gguf: &Gguf| gguf.slice(&gguf.tensors()[0]).unwrap().to_vec();
    for (from, other) in [(0, 1), (1, 0)] {
        // The other kind of tiles, and itself again.
        for to in [from, other] {
            let target = TernaryTarget::Tiles(TILE_TYPES[to]);
            let again = export(&tiles[from], target, None).unwrap();
            assert!(bytes(&again) == bytes(&tiles[to]), "{target}");
        }
        for ty in TERNARY_TYPES {
            let there = export(&tiles[from], ty, None).unwrap();
            let target = TernaryTarget::Tiles(TILE_TYPES[from]);
            let back = export(&there, target, None).unwrap();
            assert!(bytes(&back) == bytes(&tiles[from]), "{ty} {target}");
        }
        let i2s_again = export(&tiles[from], TensorType::I2S, None).unwrap();
        assert!(bytes(&i2s_again) == i2s, "{from}");
    }
}

#[test]
fn tiles_are_written_for_shapes_that_builds_have_only() {
    let mut i2s = Vec::new();
    encode_i2s(I2sDialect::Block128, 64, 256, &[1; 64 * 256], 0.5, &mut i2s).unwrap();
    let gguf = open(&[raw(36, 64, 256, i2s)]);
    for ty in TILE_TYPES {
        let error = export(&gguf, TernaryTarget::Tiles(ty), None).unwrap_err();
        assert!(error.to_string().contains("no known build"), "{error}");
    }
    let stq = TernaryTarget::Tiles(ForeignType::Stq1_0);
    let error = export(&gguf, stq, None).unwrap_err().to_string();
    assert!(error.contains("STQ1_0") && error.contains("TL2"), "{error}");
}
