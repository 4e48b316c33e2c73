//! One malformed file and the short ways of making it from the valid one.

use crate::bytes::File;

/// Parts of the hints that many cases share.
pub const AGAIN: &str = "download it again";
pub const HARM: &str = "made to harm";
pub const CONVERTER: &str = "faulty converter";

/// A malformed file: its bytes, its whole message after the file's name, and a part of its hint.
#[derive(Clone)]
pub struct Case {
    pub name: &'static str,
    pub attack: Option<&'static str>,
    pub bytes: Vec<u8>,
    pub error: &'static str,
    pub hint: &'static str,
}

pub fn raw(name: &'static str, bytes: &[u8], error: &'static str, hint: &'static str) -> Case {
    Case {
        name,
        attack: None,
        bytes: bytes.into(),
        error,
        hint,
    }
}

/// The valid model with one change.
pub fn changed(
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
pub fn attack(
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
