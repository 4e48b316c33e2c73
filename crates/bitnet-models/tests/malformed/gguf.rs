//! Malformed GGUF files with the error that each must give. `attack` names the published attack whose shape it is.

use crate::Case;
use crate::bytes::*;

/// What a damaged header costs its owner, in the words of the hint.
const AGAIN: &str = "download it again";
const HARM: &str = "made to harm";
const CONVERTER: &str = "faulty converter";

pub(super) fn cases() -> Vec<Case> {
    [
        not_gguf(),
        versions(),
        counts(),
        metadata(),
        directory(),
        places(),
        shapes(),
        contents(),
    ]
    .concat()
}

fn raw(name: &'static str, bytes: &[u8], error: &'static str, hint: &'static str) -> Case {
    Case {
        name,
        attack: None,
        bytes: bytes.into(),
        error,
        hint,
    }
}

/// The valid model with one change.
fn changed(
    name: &'static str,
    change: impl Fn(&mut File),
    error: &'static str,
    hint: &'static str,
) -> Case {
    let mut file = File::model();
    change(&mut file);
    raw(name, &file.bytes(), error, hint)
}

/// A change whose shape was used against another reader.
fn attack(
    attack: &'static str,
    name: &'static str,
    change: impl Fn(&mut File),
    error: &'static str,
    hint: &'static str,
) -> Case {
    Case {
        attack: Some(attack),
        ..changed(name, change, error, hint)
    }
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
            "convert the model to safetensors",
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
            "Q2_0 in groups of 128",
            |f| {
                for tensor in f.tensors.iter_mut().filter(|tensor| tensor.ty == T_I2S) {
                    let n = tensor.dims.iter().product::<u64>() as usize;
                    (tensor.ty, tensor.data) = (T_Q2_0, vec![0; n / 128 * 34]);
                }
            },
            ": tensor blk.0.attn_q.weight: expected Q2_0 (type 42), found data of the size of Q2_0 in groups of 128 (PrismML, before it became PQ2_0)",
            "convert the model again",
        ),
    ]
}

fn shapes() -> Vec<Case> {
    let set = |key: &'static str, value: u32| {
        move |f: &mut File| _ = f.set_arch(key, U32, value.to_le_bytes().into())
    };
    let eps = |value: f32| {
        move |f: &mut File| _ = f.set_arch("attention.layer_norm_rms_epsilon", F32, f32s(&[value]))
    };
    vec![
        changed(
            "no architecture",
            |f| _ = f.remove("general.architecture"),
            ": field general.architecture: expected a string, found no such field",
            CONVERTER,
        ),
        changed(
            "architecture that is a number",
            |f| _ = f.set("general.architecture", U32, vec![0; 4]),
            ": field general.architecture: expected a UTF-8 string, found 0",
            CONVERTER,
        ),
        changed(
            "unsupported architecture",
            |f| _ = f.set("general.architecture", STRING, string("mamba\x1b[2J")),
            ": field general.architecture: expected one of bitnet-b1.58, bitnet-25, bitnet, llama, qwen3, found mamba\\u{1b}[2J",
            "bitnet-b1.58",
        ),
        changed(
            "no hidden size",
            |f| _ = f.remove("bitnet-b1.58.embedding_length"),
            ": field bitnet-b1.58.embedding_length: expected an integer, found no such field",
            CONVERTER,
        ),
        changed(
            "hidden size that is a string",
            |f| _ = f.set_arch("embedding_length", STRING, string("128")),
            ": field bitnet-b1.58.embedding_length: expected one non-negative integer, the same for every layer, found \"128\"",
            CONVERTER,
        ),
        changed(
            "negative layer count",
            |f| _ = f.set_arch("block_count", I32, vec![0xff; 4]),
            ": field bitnet-b1.58.block_count: expected one non-negative integer, the same for every layer, found -1",
            CONVERTER,
        ),
        changed(
            "no layers",
            set("block_count", 0),
            ": field bitnet-b1.58.block_count: expected 1 to 512, found 0",
            CONVERTER,
        ),
        attack(
            "UP#25821",
            "513 layers",
            set("block_count", 513),
            ": field bitnet-b1.58.block_count: expected 1 to 512, found 513",
            CONVERTER,
        ),
        changed(
            "2^32-1 layers",
            set("block_count", u32::MAX),
            ": field bitnet-b1.58.block_count: expected 1 to 512, found 4294967295",
            CONVERTER,
        ),
        changed(
            "no heads",
            set("attention.head_count", 0),
            ": field bitnet-b1.58.attention.head_count: expected 1 to 4096, found 0",
            CONVERTER,
        ),
        changed(
            "no KV heads",
            set("attention.head_count_kv", 0),
            ": field bitnet-b1.58.attention.head_count_kv: expected 1 to 4096, found 0",
            CONVERTER,
        ),
        changed(
            "KV heads that do not divide",
            |f| {
                set("attention.head_count", 4)(f);
                set("attention.head_count_kv", 3)(f)
            },
            ": field bitnet-b1.58.attention.head_count_kv: expected a divisor of the 4 query heads, found 3",
            CONVERTER,
        ),
        changed(
            "layers of different width",
            |f| {
                _ = f.set_arch(
                    "feed_forward_length",
                    ARRAY,
                    array(U32, 2, &[0, 1, 0, 0, 0, 2, 0, 0]),
                )
            },
            ": field bitnet-b1.58.feed_forward_length: expected one non-negative integer, the same for every layer, found an array of 2 u32",
            CONVERTER,
        ),
        changed(
            "epsilon 0",
            eps(0.0),
            ": field bitnet-b1.58.attention.layer_norm_rms_epsilon: expected a finite number above 0, found 0",
            CONVERTER,
        ),
        changed(
            "epsilon NaN",
            eps(f32::NAN),
            ": field bitnet-b1.58.attention.layer_norm_rms_epsilon: expected a finite number above 0, found NaN",
            CONVERTER,
        ),
        changed(
            "odd rotary dimension",
            set("rope.dimension_count", 63),
            ": field bitnet-b1.58.rope.dimension_count: expected an even number, found 63",
            CONVERTER,
        ),
        changed(
            "rotary dimension above the head's",
            set("rope.dimension_count", 128),
            ": field bitnet-b1.58.rope.dimension_count: expected 1 to 64, found 128",
            CONVERTER,
        ),
        changed(
            "vocabulary of 2^32-1",
            set("vocab_size", u32::MAX),
            ": field bitnet-b1.58.vocab_size: expected 1 to 4194304, found 4294967295",
            CONVERTER,
        ),
        changed(
            "vocabulary that is not the embedding's",
            set("vocab_size", 9),
            ": tensor token_embd.weight: expected shape [9, 128], found [8, 128]",
            "convert it again",
        ),
        changed(
            "missing projection",
            |f| f.tensors.retain(|t| t.name != b"blk.0.ffn_up.weight"),
            ": tensor blk.0.ffn_up.weight: expected the up projection of layer 0, [256, 128], found no such tensor",
            "convert it again",
        ),
        changed(
            "transposed projection",
            |f| f.tensor("blk.0.ffn_down.weight").dims.reverse(),
            ": tensor blk.0.ffn_down.weight: expected shape [128, 256], found [256, 128]",
            "convert it again",
        ),
        changed(
            "norm that is a matrix",
            |f| f.tensor("output_norm.weight").dims = vec![64, 2],
            ": tensor output_norm.weight: expected shape [128], found [2, 64]",
            "convert it again",
        ),
    ]
}

fn contents() -> Vec<Case> {
    let query = "blk.0.attn_q.weight";
    let scale =
        |scale: f32| move |f: &mut File| f.tensor(query).data = i2s(128 * 128, TRITS, scale);
    let typed = |ty: u32| move |f: &mut File| f.tensor(query).ty = ty;
    vec![
        changed(
            "removed type",
            typed(4),
            ": tensor blk.0.attn_q.weight: expected a ternary type (I2_S, TQ1_0, TQ2_0, Q2_0), found Q4_2, which ggml has removed: convert the model again",
            "convert the model again",
        ),
        changed(
            "type that is not read",
            typed(10),
            ": tensor blk.0.attn_q.weight: expected a ternary type (I2_S, TQ1_0, TQ2_0, Q2_0), found Q2_K, which this build does not read: this build reads Q4_K, Q5_K and Q6_K of the K types; requantise the tensor to one of them",
            "convert the model again",
        ),
        changed(
            "type that is unknown",
            typed(999),
            ": tensor blk.0.attn_q.weight: expected a ternary type (I2_S, TQ1_0, TQ2_0, Q2_0), found the unknown type number 999: the file is newer than this build, or damaged",
            "convert the model again",
        ),
        changed(
            "embedding in I2_S",
            |f| (f.tensors[0].ty, f.tensors[0].data) = (T_I2S, i2s(128 * 8, TRITS, 1.0)),
            ": tensor token_embd.weight: expected a type of embeddings and heads (F16, Q6_K, ...), found I2_S",
            "convert the model again",
        ),
        changed(
            "norm in Q8_0",
            |f| {
                let t = f.tensor("output_norm.weight");
                (t.ty, t.data) = (T_Q8_0, vec![0; 136])
            },
            ": tensor output_norm.weight: expected F32, F16 or BF16, found Q8_0",
            "convert the model again",
        ),
        changed(
            "scale NaN",
            scale(f32::NAN),
            ": tensor blk.0.attn_q.weight: expected a finite scale above 0, found NaN",
            "lost the scale",
        ),
        changed(
            "scale infinite",
            scale(f32::INFINITY),
            ": tensor blk.0.attn_q.weight: expected a finite scale above 0, found inf",
            "lost the scale",
        ),
        changed(
            "scale 0",
            scale(0.0),
            ": tensor blk.0.attn_q.weight: expected a finite scale above 0, found 0",
            "lost the scale",
        ),
        changed(
            "code 3",
            |f| f.tensor(query).data[40] = 0b01_11_01_01,
            ": tensor blk.0.attn_q.weight: I2_S weights: code 3 at row 1, column 40 is not a trit (0, 1, 2 stand for -1, 0, +1): the data are damaged or written in another layout",
            "--dialect",
        ),
        changed(
            "projection in Q8_0",
            |f| {
                let t = f.tensor(query);
                (t.ty, t.data) = (T_Q8_0, vec![0; 128 * 128 / 32 * 34])
            },
            ": tensor blk.0.attn_q.weight: expected ternary weights, found Q8_0, a type for ordinary weights",
            "ternary release",
        ),
        changed(
            "projection of ordinary floats",
            |f| {
                let t = f.tensor(query);
                (t.ty, t.data) = (
                    T_F32,
                    f32s(&(0..128 * 128).map(|i| i as f32).collect::<Vec<_>>()),
                )
            },
            ": tensor blk.0.attn_q.weight: expected ternary weights, found F32 weights of several magnitudes (1 and 2 among the first)",
            "ternary release",
        ),
        changed(
            "norm with a NaN",
            |f| {
                f.tensor("blk.0.attn_norm.weight").data[8..12]
                    .copy_from_slice(&f32::NAN.to_le_bytes())
            },
            ": tensor blk.0.attn_norm.weight, element 2: expected a finite number, found NaN",
            AGAIN,
        ),
        changed(
            "rotary factor 0",
            |f| _ = f.add("rope_freqs.weight", T_F32, &[32], f32s(&[0.0; 32])),
            ": tensor rope_freqs.weight, element 0: expected a finite number above 0, found 0",
            AGAIN,
        ),
        changed(
            "multiplier 0",
            |f| _ = f.add("blk.0.attn_q.scale", T_F32, &[1], f32s(&[0.0])),
            ": tensor blk.0.attn_q.scale: expected a finite scale above 0, found 0",
            "lost the scale",
        ),
        changed(
            "multiplier of two values",
            |f| _ = f.add("blk.0.attn_q.scale", T_F32, &[2], f32s(&[1.0; 2])),
            ": tensor blk.0.attn_q.scale: expected shape [1], found [2]",
            "convert it again",
        ),
        changed(
            "bias",
            |f| _ = f.add("blk.0.attn_q.bias", T_F32, &[128], f32s(&[0.0; 128])),
            ": tensor blk.0.attn_q.bias: expected no such tensor in a model of family bitnet-b1.58, found it",
            "another kind of model",
        ),
        changed(
            "norm of another family",
            |f| _ = f.add("blk.0.attn_q_norm.weight", T_F32, &[64], f32s(&[1.0; 64])),
            ": tensor blk.0.attn_q_norm.weight: expected no such tensor in a model of family bitnet-b1.58, found it",
            "another kind of model",
        ),
    ]
}
