//! Malformed GGUF containers with the error that each must give. `attack` names the published attack whose shape it is.

use crate::bytes::*;
use crate::case::{AGAIN, CONVERTER, Case, HARM, attack, changed, raw};

pub(super) fn cases() -> Vec<Case> {
    [
        not_gguf(),
        versions(),
        counts(),
        metadata(),
        directory(),
        places(),
    ]
    .concat()
}

fn not_gguf() -> Vec<Case> {
    vec![
        raw(
            "empty",
            b"",
            ": not a model file: it is empty",
            "the download failed",
        ),
        raw(
            "two bytes",
            b"\0\x01",
            ": not a model file: it is only 2 bytes long",
            "the download failed",
        ),
        raw(
            "text",
            b"This is a model, honestly.\n",
            ": not a model file: it is a text file",
            "name the .gguf file",
        ),
        raw(
            "web page",
            b"<!DOCTYPE html><html><body>Sign in</body></html>",
            ": not a model file: it is a web page",
            "/resolve/main/",
        ),
        raw(
            "git-lfs pointer",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
            ": not a model file: it is a git-lfs pointer",
            "git lfs pull",
        ),
        raw(
            "zip pickle",
            b"PK\x03\x04\x14\0\0\0\0\0archive/data.pkl",
            ": not a model file: it is a Python pickle or zip archive",
            "take the model's safetensors files",
        ),
        raw(
            "bare pickle",
            b"\x80\x02}q\0(X\x06\0\0\0weightq\x01",
            ": not a model file: it is a Python pickle or zip archive",
            "can run code",
        ),
        raw(
            "ggml of 2023",
            b"lmgg\x01\0\0\0",
            ": not a model file: it is a ggml file from before GGUF",
            "from before GGUF",
        ),
        raw(
            "gzip",
            b"\x1f\x8b\x08\0\0\0\0\0\0\x03",
            ": not a model file: it is a compressed archive",
            "unpack the file",
        ),
        raw(
            "safetensors",
            b"\x02\0\0\0\0\0\0\0{}",
            ": not a model file: it is a single safetensors file without its directory",
            "name the directory",
        ),
        raw(
            "config.json",
            b"{\"model_type\": \"bitnet\"}",
            ": not a model file: it is a JSON document",
            "name the .gguf file, or the directory",
        ),
        raw(
            "noise",
            b"\x01\x02\x03\x04\x05\x06\x07\x08",
            ": not a model file: it is of an unknown kind (first bytes [01, 02, 03, 04])",
            "starts with the bytes GGUF",
        ),
    ]
}

fn versions() -> Vec<Case> {
    vec![
        changed(
            "version 1",
            |f| f.version = [1, 0, 0, 0],
            ": GGUF header at byte 4: expected version 2 or 3, little-endian; found version 1",
            "convert the original model again",
        ),
        changed(
            "big-endian",
            |f| f.version = [0, 0, 0, 3],
            ": GGUF header at byte 4: expected version 2 or 3, little-endian; found a big-endian file of version 3",
            "little-endian",
        ),
        raw(
            "big-endian magic",
            b"FUGG\0\0\0\x02",
            ": GGUF header at byte 4: expected version 2 or 3, little-endian; found a big-endian file of version 2",
            "little-endian",
        ),
        changed(
            "version 0",
            |f| f.version = [0; 4],
            ": GGUF header at byte 4: expected version 2 or 3, little-endian; found version 0",
            "update bitnet",
        ),
        changed(
            "version 4",
            |f| f.version = [4, 0, 0, 0],
            ": GGUF header at byte 4: expected version 2 or 3, little-endian; found version 4",
            "update bitnet",
        ),
        raw(
            "cut after the version",
            b"GGUF\x03\0\0\0",
            ": tensor count at byte 8: expected 8 more bytes, found 0 (the file is cut short)",
            "download is incomplete",
        ),
    ]
}

fn counts() -> Vec<Case> {
    vec![
        attack(
            "CVE-2024-23605",
            "tensor count 2^64-1",
            |f| f.n_tensors = Some(u64::MAX),
            ": tensor count at byte 8: expected at most 1048576 tensors, found 18446744073709551615",
            HARM,
        ),
        attack(
            "CVE-2024-21836",
            "tensor count times entry size wraps",
            |f| f.n_tensors = Some(1 << 59),
            ": tensor count at byte 8: expected at most 1048576 tensors, found 576460752303423488",
            HARM,
        ),
        changed(
            "more tensors than bytes",
            |f| f.n_tensors = Some(100_000),
            ": tensor count at byte 8: expected at most 1322, which is what the file has room for, found 100000",
            AGAIN,
        ),
        attack(
            "CVE-2024-21825",
            "metadata count 2^63",
            |f| f.n_pairs = Some(1 << 63),
            ": metadata count at byte 16: expected at most 65536 pairs, found 9223372036854775808",
            HARM,
        ),
        changed(
            "metadata runs into the tensors",
            |f| f.n_pairs = Some(f.pairs.len() as u64 + 1),
            ": tensor name at byte 737: expected at most 256 bytes, found 2251799813685248",
            HARM,
        ),
        changed(
            "one tensor too many",
            |f| f.n_tensors = Some(f.tensors.len() as u64 + 1),
            ": tensor name at byte 1457: expected a name, found an empty string",
            AGAIN,
        ),
    ]
}

fn metadata() -> Vec<Case> {
    let lying_key = |len: u64| {
        let head = [
            &b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0"[..],
            &len.to_le_bytes(),
            b"key",
        ]
        .concat();
        move || head.clone()
    };
    vec![
        Case {
            attack: Some("CVE-2024-23496"),
            ..raw(
                "key length 2^64-1",
                &lying_key(u64::MAX)(),
                ": metadata key at byte 24: expected at most 65535 bytes, found 18446744073709551615",
                HARM,
            )
        },
        raw(
            "key longer than the file",
            &lying_key(1000)(),
            ": metadata key at byte 32: expected 1000 more bytes, found 3 (the file is cut short)",
            "download is incomplete",
        ),
        changed(
            "empty key",
            |f| f.pairs.push(Pair(Vec::new(), U32, vec![0; 4])),
            ": metadata key at byte 706: expected a name, found an empty string",
            AGAIN,
        ),
        changed(
            "key that is not UTF-8",
            |f| f.pairs.push(Pair(b"a\xff\x1b[2J".into(), U32, vec![0; 4])),
            ": metadata key at byte 706: expected UTF-8, found a�\\u{1b}[2J",
            AGAIN,
        ),
        changed(
            "key twice",
            |f| {
                f.pairs
                    .push(Pair(b"general.architecture".into(), U32, vec![0; 4]))
            },
            ": field general.architecture: expected each key once, found it twice",
            AGAIN,
        ),
        changed(
            "value type 13",
            |f| f.pairs.push(Pair(b"x".into(), 13, vec![0; 8])),
            ": field x at byte 715: expected a value type from 0 to 12, found 13",
            AGAIN,
        ),
        attack(
            "CVE-2024-21802",
            "string of 2^63 bytes",
            |f| _ = f.set("general.name", STRING, prefixed(1 << 63, b"m")),
            ": field general.name at byte 730: expected at most 67108864 bytes, found 9223372036854775808",
            HARM,
        ),
        changed(
            "string longer than the file",
            |f| _ = f.set("general.name", STRING, prefixed(1 << 20, b"m")),
            ": field general.name at byte 738: expected 1048576 more bytes, found 42974 (the file is cut short)",
            "download is incomplete",
        ),
        attack(
            "UP#27188",
            "array of 2^63",
            |f| _ = f.set("x", ARRAY, array(U64, 1 << 63, b"")),
            ": field x at byte 723: expected at most 1073741824 elements, found 9223372036854775808",
            HARM,
        ),
        attack(
            "CVE-2024-21802",
            "array count times size wraps",
            |f| _ = f.set("x", ARRAY, array(U64, 1 << 61, b"")),
            ": field x at byte 723: expected at most 1073741824 elements, found 2305843009213693952",
            HARM,
        ),
        changed(
            "array longer than the file",
            |f| _ = f.set("x", ARRAY, array(U64, 1 << 30, b"")),
            ": field x at byte 731: expected 8589934592 more bytes, found 42981 (the file is cut short)",
            "download is incomplete",
        ),
        changed(
            "strings longer than the file",
            |f| _ = f.set("x", ARRAY, array(STRING, 1 << 29, b"")),
            ": field x at byte 731: expected 4294967296 more bytes, found 42981 (the file is cut short)",
            "download is incomplete",
        ),
        attack(
            "CVE-2025-49847",
            "token of 2^31 bytes",
            |f| {
                _ = f.set(
                    "tokenizer.ggml.tokens",
                    ARRAY,
                    array(STRING, 1, &prefixed(1 << 31, b"a")),
                )
            },
            ": field tokenizer.ggml.tokens at byte 591: expected at most 67108864 bytes, found 2147483648",
            HARM,
        ),
        changed(
            "array of arrays",
            |f| _ = f.set("x", ARRAY, array(ARRAY, 1, &array(U32, 0, b""))),
            ": field x at byte 719: expected an array of scalars or strings, found an array of arrays",
            AGAIN,
        ),
        changed(
            "bool of 2",
            |f| _ = f.set("x", BOOL, vec![2]),
            ": field x at byte 719: expected a bool of 0 or 1, found 2",
            AGAIN,
        ),
        changed(
            "array with a bool of 7",
            |f| _ = f.set("x", ARRAY, array(BOOL, 3, &[0, 1, 7])),
            ": field x at byte 733: expected bools of 0 or 1, found 7",
            AGAIN,
        ),
        changed(
            "alignment 0",
            |f| _ = f.set("general.alignment", U32, vec![0; 4]),
            ": field general.alignment: expected a u32 that is a power of two up to 1048576, found 0 of type u32",
            CONVERTER,
        ),
        changed(
            "alignment 3",
            |f| _ = f.set("general.alignment", U32, vec![3, 0, 0, 0]),
            ": field general.alignment: expected a u32 that is a power of two up to 1048576, found 3 of type u32",
            CONVERTER,
        ),
        attack(
            "UP#24997",
            "alignment 2^31",
            |f| _ = f.set("general.alignment", U32, vec![0, 0, 0, 0x80]),
            ": field general.alignment: expected a u32 that is a power of two up to 1048576, found 2147483648 of type u32",
            CONVERTER,
        ),
        attack(
            "UP#26318",
            "alignment as i32",
            |f| _ = f.set("general.alignment", I32, vec![32, 0, 0, 0]),
            ": field general.alignment: expected a u32 that is a power of two up to 1048576, found 32 of type i32",
            CONVERTER,
        ),
    ]
}

fn directory() -> Vec<Case> {
    let first = |f: &mut File, change: &dyn Fn(&mut Tensor)| change(&mut f.tensors[0]);
    vec![
        changed(
            "empty tensor name",
            |f| first(f, &|t| t.name.clear()),
            ": tensor name at byte 706: expected a name, found an empty string",
            AGAIN,
        ),
        changed(
            "tensor name of 300 bytes",
            |f| first(f, &|t| t.name = vec![b'a'; 300]),
            ": tensor name at byte 706: expected at most 256 bytes, found 300",
            HARM,
        ),
        changed(
            "tensor name that is not UTF-8",
            |f| first(f, &|t| t.name = b"\xff\xfe".into()),
            ": tensor name at byte 706: expected UTF-8, found ��",
            AGAIN,
        ),
        changed(
            "tensor twice",
            |f| f.tensors[1].name = f.tensors[0].name.clone(),
            ": tensor token_embd.weight: expected each name once, found it twice",
            AGAIN,
        ),
        changed(
            "no dimensions",
            |f| first(f, &|t| t.dims.clear()),
            ": tensor token_embd.weight at byte 731: expected 1 to 4 dimensions, found 0",
            AGAIN,
        ),
        changed(
            "five dimensions",
            |f| first(f, &|t| t.dims = vec![1; 5]),
            ": tensor token_embd.weight at byte 731: expected 1 to 4 dimensions, found 5",
            AGAIN,
        ),
        changed(
            "dimension 0",
            |f| first(f, &|t| t.dims[1] = 0),
            ": tensor token_embd.weight at byte 743: expected dimensions of at least 1, found 0",
            AGAIN,
        ),
        attack(
            "UP#27203",
            "dimensions 2^63-1 and 2",
            |f| first(f, &|t| t.dims = vec![i64::MAX as u64, 2]),
            ": tensor token_embd.weight at byte 735: expected at most 1099511627776 values in a dimension, found 9223372036854775807",
            HARM,
        ),
        attack(
            "CVE-2026-33298",
            "element count wraps",
            |f| first(f, &|t| t.dims = vec![1 << 40, 1 << 40]),
            ": tensor token_embd.weight at byte 731: expected an element count below 2^63, found dimensions [1099511627776, 1099511627776, 1, 1]",
            AGAIN,
        ),
        attack(
            "CVE-2026-33298",
            "byte count wraps",
            |f| first(f, &|t| (t.dims, t.ty) = (vec![1 << 40, 1 << 22], T_F32)),
            ": tensor token_embd.weight at byte 731: expected a byte count below 2^64, found 4611686018427387904 values of F32",
            AGAIN,
        ),
        changed(
            "row that is no whole block",
            |f| first(f, &|t| (t.dims, t.ty) = (vec![127, 8], T_Q8_0)),
            ": tensor token_embd.weight at byte 731: expected rows of a multiple of 32 values (Q8_0), found 127",
            AGAIN,
        ),
    ]
}

fn places() -> Vec<Case> {
    vec![
        changed(
            "offset between alignments",
            |f| f.tensors[1].offset = Some(33),
            ": tensor output_norm.weight: expected an offset that is a multiple of 32, found offset 33",
            AGAIN,
        ),
        changed(
            "offset past the end",
            |f| f.tensors[1].offset = Some(1 << 40),
            ": tensor output_norm.weight: expected an offset within the 42208 bytes of data, found offset 1099511627776",
            AGAIN,
        ),
        attack(
            "CVE-2025-53630",
            "offset plus size wraps",
            |f| f.tensors[1].offset = Some(u64::MAX - 31),
            ": tensor output_norm.weight: expected an offset within the 42208 bytes of data, found offset 18446744073709551584",
            AGAIN,
        ),
        attack(
            "CVE-2026-27940",
            "padded size wraps",
            |f| (f.tensors[1].dims, f.tensors[1].ty) = (vec![1 << 40, (1 << 23) - 1], T_F16),
            ": tensor output_norm.weight at byte 3520: expected 18446741874686296064 more bytes, found 40160 (the file is cut short)",
            "download is incomplete",
        ),
        changed(
            "two tensors in one place",
            |f| f.tensors[1].offset = Some(0),
            ": tensor token_embd.weight at byte 1472: expected 2048 bytes of its own, found tensor output_norm.weight 0 bytes further on",
            AGAIN,
        ),
        changed(
            "tensors that overlap",
            |f| f.tensors[1].offset = Some(1024),
            ": tensor token_embd.weight at byte 1472: expected 2048 bytes of its own, found tensor output_norm.weight 1024 bytes further on",
            AGAIN,
        ),
        Case {
            bytes: {
                let b = File::model().bytes();
                b[..b.len() - 100].into()
            },
            ..raw(
                "cut in the last tensor",
                b"",
                ": tensor blk.0.ffn_down.weight at byte 35456: expected 8224 more bytes, found 8124 (the file is cut short)",
                "download is incomplete",
            )
        },
        Case {
            bytes: {
                let b = File::model().bytes();
                b[..900].into()
            },
            ..raw(
                "cut in the tensor directory",
                b"",
                ": tensor count at byte 8: expected at most 5, which is what the file has room for, found 13",
                AGAIN,
            )
        },
        changed(
            "I2_S of the size of a removed type",
            |f| {
                for tensor in f.tensors.iter_mut().filter(|tensor| tensor.ty == T_I2S) {
                    let n = tensor.dims.iter().product::<u64>() as usize;
                    tensor.data = vec![0; n / 32 * 18];
                }
            },
            ": tensor blk.0.attn_q.weight: expected I2_S (type 36), found data of the size of IQ4_NL_4_4 (removed from ggml)",
            "convert the model again",
        ),
    ]
}
