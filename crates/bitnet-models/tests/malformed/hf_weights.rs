//! Damage to the weights of a Hugging Face directory, to their header and their index, with the error that each must
//! give.

use std::path::Path;

use super::hf::{AGAIN, DirCase, Entry, case, config, safetensors, tensors, with_header, write};

const CUT: &str = "download is incomplete";

fn weights(dir: &Path, bytes: &[u8]) {
    write(dir, "model.safetensors", bytes);
}

fn header(dir: &Path, header: &str) {
    weights(dir, &with_header(header, &[0; 8]));
}

/// Changes one tensor of the valid file.
fn tensor(dir: &Path, name: &str, change: impl Fn(&mut Entry)) {
    let mut list = tensors();
    change(
        list.iter_mut()
            .find(|tensor| tensor.name.ends_with(name))
            .unwrap(),
    );
    weights(dir, &safetensors(&list));
}

/// Replaces the weights by two files and an index with this weight map.
fn sharded(dir: &Path, weight_map: &str) {
    std::fs::remove_file(dir.join("model.safetensors")).unwrap();
    let list = tensors();
    let (first, second) = list.split_at(3);
    write(dir, "a.safetensors", &safetensors(first));
    write(dir, "b.safetensors", &safetensors(second));
    write(
        dir,
        "model.safetensors.index.json",
        format!(r#"{{"metadata": {{}}, "weight_map": {weight_map}}}"#).as_bytes(),
    );
}

/// The right index: every tensor in the file that holds it.
pub fn write_sharded(dir: &Path) {
    let list = tensors();
    let entries = list.iter().enumerate().map(|(i, tensor)| {
        format!(
            r#""{}": "{}.safetensors""#,
            tensor.name,
            if i < 3 { "a" } else { "b" }
        )
    });
    sharded(
        dir,
        &format!("{{{}}}", entries.collect::<Vec<_>>().join(", ")),
    );
}

pub fn cases() -> Vec<DirCase> {
    vec![
        case(
            "weights shorter than a length",
            |d| weights(d, b"\x08\0\0"),
            "DIR/model.safetensors: not a model file: it is only 3 bytes long",
            "the download failed",
        ),
        case(
            "weights that are a git-lfs pointer",
            |d| weights(d, b"version https://git-lfs.github.com/spec/v1\n"),
            "DIR/model.safetensors: not a model file: it is a git-lfs pointer",
            "git lfs pull",
        ),
        case(
            "header longer than the file",
            |d| weights(d, b"\0\x10\0\0\0\0\0\0{}"),
            "DIR/model.safetensors: header at byte 8: expected 4096 more bytes, found 2 (the file is cut short)",
            CUT,
        ),
        case(
            "header of 2^64-1 bytes",
            |d| weights(d, b"\xff\xff\xff\xff\xff\xff\xff\xff{}"),
            "DIR/model.safetensors: header length at byte 0: expected at most 100000000 bytes, found 18446744073709551615",
            "made to harm",
        ),
        case(
            "header that is no JSON",
            |d| header(d, "{\"a\":"),
            "DIR/model.safetensors: tensor a at byte 13: expected a safetensors header, found EOF while parsing a value at line 1 column 5",
            AGAIN,
        ),
        case(
            "header that is a list",
            |d| header(d, "[1]"),
            "DIR/model.safetensors: header at byte 8: expected a safetensors header, found invalid type: sequence, expected an object of tensors at line 1 column 0",
            AGAIN,
        ),
        case(
            "tensor without dtype",
            |d| header(d, r#"{"a":{"shape":[8],"data_offsets":[0,8]}}"#),
            "DIR/model.safetensors: tensor a at byte 47: expected a safetensors header, found missing field `dtype` at line 1 column 39",
            AGAIN,
        ),
        case(
            "unknown dtype",
            |d| {
                header(
                    d,
                    r#"{"a":{"dtype":"U9","shape":[8],"data_offsets":[0,8]}}"#,
                )
            },
            "DIR/model.safetensors: tensor a at byte 26: expected a safetensors header, found unknown dtype \"U9\" at line 1 column 18",
            AGAIN,
        ),
        case(
            "unknown field",
            |d| {
                header(
                    d,
                    r#"{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8],"x":1}}"#,
                )
            },
            "DIR/model.safetensors: tensor a at byte 63: expected a safetensors header, found unknown field \"x\" at line 1 column 55",
            AGAIN,
        ),
        case(
            "negative offset",
            |d| {
                header(
                    d,
                    r#"{"a":{"dtype":"U8","shape":[8],"data_offsets":[-1,8]}}"#,
                )
            },
            "DIR/model.safetensors: tensor a at byte 57: expected a safetensors header, found invalid value: integer `-1`, expected u64 at line 1 column 49",
            AGAIN,
        ),
        case(
            "nine dimensions",
            |d| {
                header(
                    d,
                    r#"{"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,8],"data_offsets":[0,8]}}"#,
                )
            },
            "DIR/model.safetensors: tensor a at byte 54: expected a safetensors header, found shape of more than 8 dimensions at line 1 column 46",
            AGAIN,
        ),
        case(
            "element count wraps",
            |d| {
                header(
                    d,
                    r#"{"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,8]}}"#,
                )
            },
            "DIR/model.safetensors: tensor a: expected an element count below 2^64, found shape [4294967296, 4294967296]",
            AGAIN,
        ),
        case(
            "byte count wraps",
            |d| {
                header(
                    d,
                    r#"{"a":{"dtype":"F32","shape":[4611686018427387906],"data_offsets":[0,8]}}"#,
                )
            },
            "DIR/model.safetensors: tensor a: expected less than 2^64 bytes for F32 [4611686018427387906], found data_offsets [0, 8], 8 bytes",
            AGAIN,
        ),
        case(
            "size that is not the shape's",
            |d| {
                header(
                    d,
                    r#"{"a":{"dtype":"F32","shape":[8],"data_offsets":[0,8]}}"#,
                )
            },
            "DIR/model.safetensors: tensor a: expected 32 bytes for F32 [8], found data_offsets [0, 8], 8 bytes",
            AGAIN,
        ),
        case(
            "offsets backwards",
            |d| {
                header(
                    d,
                    r#"{"a":{"dtype":"U8","shape":[8],"data_offsets":[8,0]}}"#,
                )
            },
            "DIR/model.safetensors: tensor a: expected data_offsets in ascending order, found [8, 0]",
            AGAIN,
        ),
        case(
            "overlap",
            |d| {
                header(
                    d,
                    r#"{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}"#,
                )
            },
            "DIR/model.safetensors: tensor b: expected data from offset 8 on, found offset 4, overlapping the tensor before it",
            AGAIN,
        ),
        case(
            "gap",
            |d| {
                header(
                    d,
                    r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}"#,
                )
            },
            "DIR/model.safetensors: tensor b: expected data from offset 2 on, found offset 4, after a gap",
            AGAIN,
        ),
        case(
            "bytes of nobody",
            |d| {
                header(
                    d,
                    r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#,
                )
            },
            "DIR/model.safetensors: end of the last tensor at byte 65: expected the end of the file at byte 69, found 4 bytes that belong to no tensor",
            AGAIN,
        ),
        case(
            "tensor past the end",
            |d| {
                header(
                    d,
                    r#"{"a":{"dtype":"U8","shape":[64],"data_offsets":[0,64]}}"#,
                )
            },
            "DIR/model.safetensors: tensor a at byte 63: expected 64 more bytes, found 8 (the file is cut short)",
            CUT,
        ),
        case(
            "tensor twice",
            |d| {
                header(
                    d,
                    r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}"#,
                )
            },
            "DIR/model.safetensors: tensor a: expected each name once, found it twice",
            AGAIN,
        ),
        case(
            "missing projection",
            |d| tensor(d, "up_proj.weight", |t| t.name.push('x')),
            "DIR/model.safetensors: tensor model.layers.0.mlp.up_proj.weight: expected the up projection of layer 0, [16, 8], found no such tensor",
            "convert it again",
        ),
        case(
            "missing scale",
            |d| tensor(d, "q_proj.weight_scale", |t| t.name.push('x')),
            "DIR/model.safetensors: tensor model.layers.0.self_attn.q_proj.weight_scale: expected the scale of packed trits, [1], found no such tensor",
            "convert it again",
        ),
        case(
            "scale of two values",
            |d| {
                tensor(d, "q_proj.weight_scale", |t| {
                    (t.shape, t.data) = (vec![2], vec![0; 4])
                })
            },
            "DIR/model.safetensors: tensor model.layers.0.self_attn.q_proj.weight_scale: expected shape [1], found [2]",
            "convert it again",
        ),
        case(
            "scale NaN",
            |d| tensor(d, "q_proj.weight_scale", |t| t.data = vec![0xc0, 0x7f]),
            "DIR/model.safetensors: tensor model.layers.0.self_attn.q_proj.weight_scale: expected a finite scale above 0, found NaN",
            "lost the scale",
        ),
        case(
            "projection of another shape",
            |d| tensor(d, "up_proj.weight", |t| t.shape = vec![8, 4]),
            "DIR/model.safetensors: tensor model.layers.0.mlp.up_proj.weight: expected shape [16, 8], found [8, 4]",
            "convert it again",
        ),
        case(
            "projection of integers",
            |d| tensor(d, "up_proj.weight", |t| t.dtype = "I8"),
            "DIR/model.safetensors: tensor model.layers.0.mlp.up_proj.weight: expected shape [16, 8], found [4, 8]",
            "convert it again",
        ),
        case(
            "code 3",
            |d| tensor(d, "up_proj.weight", |t| t.data[5] = 0xff),
            "DIR/model.safetensors: tensor model.layers.0.mlp.up_proj.weight: packed uint8 weights: code 3 at row 0, column 5 is not a trit (0, 1, 2 stand for -1, 0, +1): the data are damaged or written in another layout",
            AGAIN,
        ),
        case(
            "scale 0 that divides",
            |d| {
                config(d, "autobitlinear", "bitlinear");
                tensor(d, "up_proj.weight_scale", |t| t.data = vec![0, 0])
            },
            "DIR/model.safetensors: tensor model.layers.0.mlp.up_proj.weight_scale: expected a finite scale above 0, found 0",
            "lost the scale",
        ),
        case(
            "ordinary weights",
            |d| {
                tensor(d, "k_proj.weight", |t| {
                    (t.dtype, t.shape, t.data) =
                        ("BF16", vec![4, 8], (0..64).map(|i| 0x30 + i % 16).collect())
                })
            },
            "DIR/model.safetensors: tensor model.layers.0.self_attn.k_proj.weight: expected ternary weights, found BF16 weights of several magnitudes (0.000000002561137 and 0.000000041443855 among the first)",
            "ternary release",
        ),
        case(
            "index that leads out",
            |d| sharded(d, r#"{"x": "../../etc/passwd"}"#),
            "DIR/model.safetensors.index.json: field weight_map: expected an object of tensor names and file names, found file name \"../../etc/passwd\": only plain names ending in .safetensors are followed at line 1 column 56",
            AGAIN,
        ),
        case(
            "index with an absolute path",
            |d| sharded(d, r#"{"x": "/tmp/x.safetensors"}"#),
            "DIR/model.safetensors.index.json: field weight_map: expected an object of tensor names and file names, found file name \"/tmp/x.safetensors\": only plain names ending in .safetensors are followed at line 1 column 58",
            AGAIN,
        ),
        case(
            "index of nothing",
            |d| sharded(d, "{}"),
            "DIR/model.safetensors.index.json: field weight_map: expected at least one tensor, found none",
            AGAIN,
        ),
        case(
            "index of a missing file",
            |d| sharded(d, r#"{"x": "c.safetensors"}"#),
            "DIR/c.safetensors: cannot open the file: No such file or directory (os error 2)",
            "check the path",
        ),
        case(
            "index of a missing tensor",
            |d| {
                sharded(
                    d,
                    r#"{"x": "a.safetensors", "model.norm.weight": "a.safetensors"}"#,
                )
            },
            "DIR/model.safetensors.index.json: field weight_map: expected an object of tensor names and file names, found tensor x, which no file holds at line 1 column 52",
            AGAIN,
        ),
        case(
            "index with a tensor in the wrong file",
            |d| {
                sharded(
                    d,
                    r#"{"model.norm.weight": "b.safetensors", "model.embed_tokens.weight": "a.safetensors"}"#,
                )
            },
            "DIR/model.safetensors.index.json: field weight_map: expected an object of tensor names and file names, found tensor model.norm.weight in a.safetensors, not in b.safetensors at line 1 column 68",
            AGAIN,
        ),
    ]
}
