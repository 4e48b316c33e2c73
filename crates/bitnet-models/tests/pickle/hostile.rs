//! Pickles that would run something, or that grow: each is refused in its own words, at its own byte.

use bitnet_models::tensor_files::{TensorContainer, TensorFiles};

use crate::archive::{dict, int, sizes, state_dict, storage, tensor, text, zip};

pub fn open(bytes: Vec<u8>) -> Result<TensorFiles, String> {
    TensorFiles::from_bytes(TensorContainer::Pickle, "FILE", bytes.into())
        .map_err(|error| error.to_string())
}

/// Eight floats.
pub const NUMBERS: [u8; 32] = [0; 32];

pub fn archive_of(pickle: &[u8]) -> Vec<u8> {
    zip(&[("m/data.pkl", pickle), ("m/data/0", &NUMBERS)])
}

/// Where the pickle starts in such an archive.
const PICKLE_AT: usize = 30 + "m/data.pkl".len();

/// Asserts that `pickle` is refused where its last byte before `rest` is, with these words.
fn assert_refused_at(pickle: &[u8], at: usize, words: &str) {
    let error = open(archive_of(pickle)).unwrap_err();
    let expected = format!(
        "FILE: data.pkl at byte {}: expected {words}",
        PICKLE_AT + at
    );
    assert_eq!(error, expected);
}

fn one(value: &[u8]) -> Vec<u8> {
    dict(&[("w", value.to_vec())])
}

/// Where the value starts in [`one`].
const VALUE_AT: usize = 4 + 6;

#[test]
fn a_plain_state_dict_is_read() {
    let files = open(archive_of(&state_dict(&[("a", &[2, 4]), ("b", &[8])]))).unwrap();
    let names: Vec<_> = files.tensors().iter().map(|tensor| tensor.name()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(files.tensors()[0].shape(), [2, 4]);
}

#[test]
fn no_global_but_those_of_a_state_dict_is_known() {
    for (module, name) in [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("builtins", "exec"),
        ("builtins", "getattr"),
        ("__builtin__", "apply"),
        ("subprocess", "Popen"),
        ("torch", "load"),
        ("torch.hub", "load"),
        ("torch", "FloatStorage.__init__"),
        ("torch._utils", "_rebuild_qtensor"),
        ("torch._utils", "_rebuild_sparse_tensor"),
        ("collections", "OrderedDict.__class__"),
        ("numpy.core.multiarray", "_reconstruct"),
    ] {
        let words = format!("a global of a state dict, found the global {module}.{name}");
        let line = format!("c{module}\n{name}\n(X\x02\0\0\0idtR");
        assert_refused_at(&one(line.as_bytes()), VALUE_AT, &words);
        let stacked = [text(module), text(name), b"\x93".to_vec()].concat();
        assert_refused_at(&one(&stacked), VALUE_AT + stacked.len() - 1, &words);
    }
    let line = "a global of a state dict, found the global os\\u{1b}[2J.system";
    assert_refused_at(&one(b"cos\x1b[2J\nsystem\n)R"), VALUE_AT, line);
    let long = [b"c".to_vec(), vec![b'a'; 5000]].concat();
    assert_refused_at(
        &one(&long),
        VALUE_AT,
        "the name of a global, found no line of text",
    );
}

#[test]
fn every_opcode_that_no_state_dict_needs_is_refused_by_its_name() {
    for (code, name) in [
        (b'i', "INST"),
        (b'o', "OBJ"),
        (0x81, "NEWOBJ"),
        (0x92, "NEWOBJ_EX"),
        (0x82, "EXT1"),
        (0x83, "EXT2"),
        (0x84, "EXT4"),
        (b'P', "PERSID"),
        (b'0', "POP"),
        (b'2', "DUP"),
        (b'I', "INT"),
        (b'S', "STRING"),
        (b'd', "DICT"),
        (0x8f, "EMPTY_SET"),
        (0x96, "BYTEARRAY8"),
        (0x97, "NEXT_BUFFER"),
    ] {
        let words = format!("an opcode of a state dict, found the opcode {name} (0x{code:02x})");
        assert_refused_at(&one(&[code]), VALUE_AT, &words);
    }
    let words = "an opcode of a state dict, found the unknown opcode 0xff";
    assert_refused_at(&one(&[0xff]), VALUE_AT, words);
}

#[test]
fn known_names_do_nothing_but_build_tensors_and_empty_dicts() {
    let float = b"ctorch\nFloatStorage\n".to_vec();
    let rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n".to_vec();
    let ordered = b"ccollections\nOrderedDict\n".to_vec();
    let call = "a call that builds a tensor or a dict, found ";
    for (value, words) in [
        ([float.clone(), b")R".to_vec()].concat(), format!("{call}a class of storages of 0 arguments")),
        (
            [ordered.clone(), b"(K\x01tR".to_vec()].concat(),
            format!("{call}the class OrderedDict of 1 arguments"),
        ),
        (
            [rebuild.clone(), b")R".to_vec()].concat(),
            "storage, offset, size, stride, requires_grad and hooks of a tensor, found other arguments".into(),
        ),
        (
            b"K\x01)R".to_vec(),
            "a known function with a tuple, found an integer with a tuple".into(),
        ),
        (
            [ordered.clone(), b"}R".to_vec()].concat(),
            "a known function with a tuple, found the class OrderedDict with a dict".into(),
        ),
        (
            [ordered.clone(), b"}b".to_vec()].concat(),
            "attributes of a dict in a dict, found attributes of the class OrderedDict in a dict".into(),
        ),
        (
            b"}K\x01b".to_vec(),
            "attributes of a dict in a dict, found attributes of a dict in an integer".into(),
        ),
        (
            [text("x"), b"Q".to_vec()].concat(),
            "the description of a storage, found a string of 0 values".into(),
        ),
    ] {
        assert_refused_at(&one(&value), VALUE_AT + value.len() - 1, &words);
    }
    // Attributes of the state dict itself are passed over, and are no tensors.
    let attributes = [
        b"\x80\x02".to_vec(),
        ordered,
        b")R}".to_vec(),
        text("__class__"),
        b"}sb.".to_vec(),
    ];
    assert!(
        open(archive_of(&attributes.concat()))
            .unwrap()
            .tensors()
            .is_empty()
    );
}

#[test]
fn hooks_are_no_place_for_anything() {
    let hooks = [b"}".to_vec(), text("f"), b"K\x01s".to_vec()].concat();
    let value = [
        b"ctorch._utils\n_rebuild_tensor_v2\n(".to_vec(),
        storage("0", 8),
        int(0),
        sizes(&[8]),
        sizes(&[1]),
        b"\x89".to_vec(),
        hooks,
        b"tR".to_vec(),
    ]
    .concat();
    let words = "an empty dict of hooks, found a dict";
    assert_refused_at(&one(&value), VALUE_AT + value.len() - 1, words);
}

#[test]
fn a_tensor_lies_in_its_storage_and_its_elements_in_order() {
    let all = "a part of a storage of 32 bytes, found F32 ";
    for (offset, shape, stride, words) in [
        (0, vec![9], vec![1], format!("{all}[9] from element 0 on")),
        (1, vec![8], vec![1], format!("{all}[8] from element 1 on")),
        (0x7FFF_FFFF, vec![1], vec![1], format!("{all}[1] from element 2147483647 on")),
        (0xFFFF_FFFF, vec![1], vec![1], format!("{all}[1] from element -1 on")),
        (
            0,
            vec![0x7FFF_FFFF; 4],
            vec![1; 4],
            format!("{all}{:?} from element 0 on", vec![0x7FFF_FFFF; 4]),
        ),
        (
            0,
            vec![2, 4],
            vec![1, 2],
            "the elements of [2, 4] in order, found strides [1, 2]: save the tensor's .contiguous() copy".into(),
        ),
        (
            0,
            vec![8],
            vec![0],
            "the elements of [8] in order, found strides [0]: save the tensor's .contiguous() copy".into(),
        ),
        (
            0,
            vec![2, 4],
            vec![1],
            "the elements of [2, 4] in order, found strides [1]: save the tensor's .contiguous() copy".into(),
        ),
        (
            0,
            vec![0xFFFF_FFFF],
            vec![1],
            "at most 8 sizes and strides, none negative, found other arguments".into(),
        ),
        (
            0,
            vec![1; 9],
            vec![1; 9],
            "at most 8 sizes and strides, none negative, found other arguments".into(),
        ),
    ] {
        let value = tensor(&storage("0", 8), offset, &shape, &stride);
        assert_refused_at(&one(&value), VALUE_AT + value.len() - 1, &words);
    }
}

#[test]
fn a_storage_is_an_entry_of_its_length() {
    for (key, len, words) in [
        (
            "0",
            7,
            "the length of an entry of 32 bytes, found 7 values of 4 bytes",
        ),
        (
            "0",
            0xFFFF_FFFF,
            "the length of an entry of 32 bytes, found -1 values of 4 bytes",
        ),
        ("1", 8, "the key of an entry in data/, found the key \"1\""),
        ("", 8, "the key of an entry in data/, found the key \"\""),
        (
            "../data.pkl",
            8,
            "the key of an entry in data/, found the key \"../data.pkl\"",
        ),
        (
            "0/0",
            8,
            "the key of an entry in data/, found the key \"0/0\"",
        ),
    ] {
        let value = storage(key, len);
        assert_refused_at(&one(&value), VALUE_AT + value.len() - 1, words);
    }
}

#[test]
fn the_stack_the_memo_and_the_marks_hold_what_was_put_there() {
    for (value, at, words) in [
        (&b"h\x00"[..], 0, "a memo index below 0, found 0"),
        (
            b"j\xff\xff\xff\xff",
            0,
            "a memo index below 0, found 4294967295",
        ),
        (
            b"Nr\xff\xff\xff\xff",
            1,
            "a memo index up to 0, found 4294967295",
        ),
        (b"(\x94", 1, "a value to remember, found an empty stack"),
        (b"(\x86", 1, "2 values on the stack, found 0"),
        (b"tt", 1, "a mark on the stack, found none"),
        (b"Nue", 2, "a mark on the stack, found none"),
        (
            b"\x8a\x09123456789",
            0,
            "an integer of 64 bits, found one of 9 bytes",
        ),
        (
            b"X\x01\0\0\0\xff",
            0,
            "a string in UTF-8, found other bytes",
        ),
        (b"K\x01a", 2, "a list to fill, found another value"),
        (b"Ns.", 1, "a dict to fill, found another value"),
        (b"\x80\x01", 0, "protocol 2 to 5, found 1"),
    ] {
        assert_refused_at(&one(value), VALUE_AT + at, words);
    }
    for (pickle, at, words) in [
        (
            &b"\x80\x02N}R"[..],
            4,
            "a known function with a tuple, found None with a dict",
        ),
        (b"\x80\x02}N.", 4, "a dict of tensors, found 2 values"),
        (b"\x80\x02K\x01.", 4, "a dict of tensors, found an integer"),
        (b"\x80\x02.", 2, "a dict of tensors, found 0 values"),
        (b"\x80\x02}..", 4, "the end, found 1 more bytes"),
        (
            b"\x80\x02}(K\x01Nu.",
            7,
            "pairs of a string and a value, found an integer",
        ),
        (
            b"\x80\x02}(X\0\0\0\0u.",
            9,
            "pairs of a string and a value, found a string",
        ),
    ] {
        assert_refused_at(pickle, at, words);
    }
}

#[test]
fn nothing_grows_beyond_its_limit() {
    let deep = [b"\x80\x02".to_vec(), vec![b'N'; 1 << 17]].concat();
    let error = open(archive_of(&deep)).unwrap_err();
    assert!(
        error.contains("stack of data.pkl") && error.contains("at most 65536 values"),
        "{error}"
    );
    let nested = [b"\x80\x02)".to_vec(), vec![0x85; 1 << 20], b".".to_vec()].concat();
    let error = open(archive_of(&nested)).unwrap_err();
    assert!(
        error.ends_with("expected a dict of tensors, found a tuple"),
        "{error}"
    );
    let marks = [b"\x80\x02".to_vec(), vec![b'('; 1 << 17], b"N".to_vec()].concat();
    let error = open(archive_of(&marks)).unwrap_err();
    assert!(error.contains("at most 65536 values"), "{error}");
    // A dict that holds itself: its own key leads to no tensor, and nobody follows it.
    let loops = [b"\x80\x02}q\x00".to_vec(), text("w"), b"h\x00s.".to_vec()].concat();
    let error = open(archive_of(&loops)).unwrap_err();
    assert!(
        error.starts_with("FILE: tensor w: expected a tensor"),
        "{error}"
    );
    let steps = [b"\x80\x02}".to_vec(), b"q\x00".repeat((1 << 22) + 1)].concat();
    let error = open(archive_of(&steps)).unwrap_err();
    assert!(error.contains("at most 4194304 steps"), "{error}");
    let error = open(archive_of(&vec![0; (16 << 20) + 1])).unwrap_err();
    assert!(
        error.contains("data.pkl") && error.contains("at most 16777216 bytes"),
        "{error}"
    );
}

#[test]
fn a_long_name_that_a_memo_hands_out_is_refused_where_it_is_first_used() {
    let name = text(&"n".repeat(100_000));
    let value = tensor(&storage("0", 8), 0, &[8], &[1]);
    let remembered = [&name[..], b"q\x00", &value, b"q\x01"].concat();
    // As the first thing in a dict, by one item and by many: what comes after it is not looked at.
    for (pairs, end) in [(&b"h\x00h\x01s"[..], 5), (b"(h\x00h\x01h\x00h\x01u", 10)] {
        let head = [b"\x80\x02(", &remembered[..], b"t}"].concat();
        let pickle = [&head, &pairs.repeat(1000)[..], b"."].concat();
        let at = head.len() + end - 1;
        assert_refused_at(
            &pickle,
            at,
            "a name of at most 256 bytes, found one of 100000",
        );
    }
    // The names of storages and of the archive's folder likewise.
    let key = "k".repeat(60_000);
    let entry = format!("m/data/{key}");
    let pickle = one(&storage(&key, 8));
    let bytes = zip(&[("m/data.pkl", &pickle[..]), (&entry, &NUMBERS)]);
    let error = open(bytes).unwrap_err();
    let cut = format!("found the key \"{}…\"", &key[..64]);
    assert!(error.ends_with(&cut), "{error}");
    let folder = "f".repeat(60_000);
    let bytes = zip(&[(&format!("{folder}/data.pkl"), &state_dict(&[("a", &[8])]))]);
    let error = open(bytes).unwrap_err();
    assert!(error.ends_with("whose name has 60001 bytes"), "{error}");
}

#[test]
fn a_name_comes_once_and_is_short() {
    let value = tensor(&storage("0", 8), 0, &[8], &[1]);
    let twice = dict(&[("w", value.clone()), ("w", value.clone())]);
    let error = open(archive_of(&twice)).unwrap_err();
    assert_eq!(
        error,
        "FILE: tensor w: expected each name once, found it twice"
    );
    let error = open(archive_of(&dict(&[(&"n".repeat(300), value)]))).unwrap_err();
    assert!(
        error.ends_with("expected a name of at most 256 bytes, found one of 300"),
        "{error}"
    );
}

#[test]
fn a_pickle_that_is_cut_short_says_where() {
    let pickle = state_dict(&[("a", &[8])]);
    for len in 0..pickle.len() {
        let error = open(archive_of(&pickle[..len])).unwrap_err();
        assert!(
            error.starts_with("FILE: data.pkl at byte "),
            "{len}: {error}"
        );
    }
}
