//! What the writer writes, the reader reads: keys, values, tensors, alignment; and what a reader would refuse, the
//! writer does not write.

use bitnet_models::gguf::{Array, Gguf, GgufWriter, Value, ValueType, WriteError};
use bitnet_quantization::TensorType;
use proptest::prelude::*;

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        (-1e30f32..1e30).prop_map(Value::F32),
        any::<bool>().prop_map(Value::Bool),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        (-1e300f64..1e300).prop_map(Value::F64),
        ".{0,40}".prop_map(|text| Value::string(&text)),
        prop::collection::vec(".{0,10}", 0..20)
            .prop_map(|list| Value::Array(Array::of_strings(list))),
        prop::collection::vec(-1e30f32..1e30, 0..20)
            .prop_map(|list| Value::Array(Array::of_f32(&list))),
        prop::collection::vec(any::<i32>(), 0..20)
            .prop_map(|list| Value::Array(Array::of_i32(&list))),
    ]
}

fn tensor() -> impl Strategy<Value = (TensorType, Vec<u64>)> {
    let dims = prop::collection::vec(1u64..4, 0..3);
    (prop::sample::select(TensorType::ALL), 1u64..4, dims).prop_map(|(ty, blocks, rest)| {
        let row = blocks * ty.block_len() as u64;
        (ty, [vec![row], rest].concat())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn everything_written_is_read_back(
        values in prop::collection::btree_map("[a-z][a-z._]{0,20}", value(), 0..10),
        tensors in prop::collection::vec(tensor(), 0..8),
        alignment in prop::sample::select(vec![8u32, 32, 64, 4096]),
        piece in 1usize..100,
    ) {
        let mut writer = GgufWriter::new();
        writer.alignment(alignment).unwrap();
        for (key, value) in &values {
            writer.metadata(key, value.clone()).unwrap();
        }
        let mut contents = Vec::new();
        for (index, (ty, dims)) in tensors.iter().enumerate() {
            let bytes = writer.tensor(&format!("t{index}"), *ty, dims).unwrap();
            contents.push((0..bytes).map(|at| (at * 7 + index as u64) as u8).collect::<Vec<u8>>());
        }
        let mut data = writer.start(Vec::new()).unwrap();
        for content in &contents {
            content.chunks(piece).try_for_each(|piece| data.write(piece)).unwrap();
        }
        // Of so few blocks the size does not tell which of the formats of its number Q2_0 is.
        let dialects = "q2_0".parse().unwrap();
        let bytes = data.finish().unwrap().into();
        let gguf = Gguf::from_bytes_with("written", bytes, dialects).unwrap();

        prop_assert_eq!((gguf.version(), gguf.alignment()), (3, alignment));
        for (key, value) in &values {
            prop_assert_eq!(gguf.metadata().get(key), Some(value));
        }
        prop_assert_eq!(gguf.tensors().len(), tensors.len());
        for (index, (ty, dims)) in tensors.iter().enumerate() {
            let tensor = gguf.tensor(&format!("t{index}")).unwrap();
            prop_assert_eq!((tensor.tensor_type(), tensor.dims()), (Some(*ty), &dims[..]));
            prop_assert_eq!(tensor.offset() % u64::from(alignment), 0);
            prop_assert_eq!(&gguf.data(tensor).unwrap()[..], &contents[index][..]);
        }
    }
}

#[test]
fn arrays_give_their_elements_in_order() {
    let strings = Array::of_strings(["", "a", "ü"]);
    assert_eq!(
        (strings.len(), strings.element_type()),
        (3, ValueType::String)
    );
    assert_eq!(
        strings
            .iter()
            .filter_map(|v| v.as_str().map(str::to_owned))
            .collect::<Vec<_>>(),
        ["", "a", "ü"]
    );
    let numbers = Array::of_i32(&[-1, 0, i32::MAX]);
    assert_eq!(
        numbers
            .iter()
            .filter_map(|v| v.as_integer())
            .collect::<Vec<_>>(),
        [-1, 0, i128::from(i32::MAX)]
    );
}

#[test]
fn the_writer_refuses_what_the_reader_would() {
    let mut writer = GgufWriter::new();
    assert!(matches!(
        writer.metadata("", Value::U8(0)),
        Err(WriteError::Invalid { .. })
    ));
    assert!(matches!(
        writer.metadata("general.alignment", Value::U32(32)),
        Err(WriteError::Invalid { .. })
    ));
    writer.metadata("k", Value::U8(0)).unwrap();
    assert!(matches!(
        writer.metadata("k", Value::U8(0)),
        Err(WriteError::Invalid { .. })
    ));
    for alignment in [0, 1, 3, 1 << 21] {
        assert!(writer.alignment(alignment).is_err(), "{alignment}");
    }
    for dims in [&[][..], &[1; 5], &[0], &[1 << 41], &[1 << 40, 1 << 40]] {
        assert!(
            writer.tensor("t", TensorType::F32, dims).is_err(),
            "{dims:?}"
        );
    }
    assert!(writer.tensor("t", TensorType::Q8_0, &[31]).is_err());
    assert!(
        writer
            .tensor(&"t".repeat(300), TensorType::F32, &[1])
            .is_err()
    );
    writer.tensor("t", TensorType::F32, &[1]).unwrap();
    writer.tensor("t", TensorType::F32, &[1]).unwrap();
    assert!(matches!(
        writer.start(Vec::new()),
        Err(WriteError::Invalid { .. })
    ));
}

#[test]
fn bytes_that_were_not_declared_are_refused() {
    let start = || {
        let mut writer = GgufWriter::new();
        writer.tensor("a", TensorType::F32, &[2]).unwrap();
        writer.tensor("b", TensorType::F32, &[2]).unwrap();
        writer.start(Vec::new()).unwrap()
    };
    assert!(matches!(
        start().finish(),
        Err(WriteError::Count {
            expected: 2,
            found: 0
        })
    ));
    let mut data = start();
    assert!(matches!(
        data.write(&[0; 9]),
        Err(WriteError::Length {
            expected: 8,
            found: 9,
            ..
        })
    ));
    data.write(&[0; 5]).unwrap();
    assert_eq!(data.current_tensor(), Some("a"));
    assert!(matches!(
        data.finish(),
        Err(WriteError::Length {
            expected: 8,
            found: 5,
            ..
        })
    ));
    let mut data = start();
    data.write(&[0; 8]).unwrap();
    data.write(&[0; 8]).unwrap();
    assert!(matches!(
        data.write(&[0]),
        Err(WriteError::Count {
            expected: 2,
            found: 3
        })
    ));
}
