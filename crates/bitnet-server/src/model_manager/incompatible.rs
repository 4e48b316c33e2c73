//! Why a file is no model for this server, in numbers: which tensor, at which byte, what was expected and what found.

use std::io::ErrorKind;
use std::path::Path;

use bitnet_inference::{Error, ModelError, Place};
use serde_json::{Value, json};

use super::policy::OriginSource;
use crate::error::{ApiError, ErrorCode};

/// What a client is told when `source` cannot be loaded. Folders of the server are nobody's business.
pub fn load_error(source: &OriginSource, error: &Error) -> ApiError {
    if has_gone(error) {
        let message = without_folder(source, &error.to_string());
        return ApiError::new(ErrorCode::ModelIncompatible, message).with_hint(
            "the file is not where it is configured, or where it was when it was loaded: put it back, or pull it again",
        );
    }
    let details = match error {
        Error::Model(error) => Some(Box::new(details(error))),
        _ => None,
    };
    let code = match error {
        Error::Kernel(_) => ErrorCode::InternalError,
        _ => ErrorCode::ModelIncompatible,
    };
    let told = ApiError {
        details,
        ..ApiError::new(code, without_folder(source, &error.to_string()))
    };
    match error.hint() {
        Some(hint) => told.with_hint(without_folder(source, &hint)),
        None => told,
    }
}

/// Whether a file that is meant is not there: nobody has anything to check then.
fn has_gone(error: &Error) -> bool {
    let Error::Model(error) = error else {
        return false;
    };
    matches!(&**error, ModelError::Io { source, .. } if source.kind() == ErrorKind::NotFound)
}

/// The same text without the folder that the model is in.
pub fn without_folder(source: &OriginSource, text: &str) -> String {
    let folder = match source {
        OriginSource::Path(path) => path.parent().unwrap_or(Path::new("")),
        OriginSource::Bytes { .. } => Path::new(""),
    };
    let folder = format!("{}/", folder.display());
    if folder.len() > 1 {
        text.replace(&folder, "")
    } else {
        text.to_owned()
    }
}

/// A model that is well made and another one than it has to be.
pub fn other_model(what: &str, expected: impl ToString, found: impl ToString) -> ApiError {
    let (expected, found) = (expected.to_string(), found.to_string());
    ApiError {
        details: Some(Box::new(json!({ "expected": expected, "found": found }))),
        ..ApiError::new(
            ErrorCode::ModelIncompatible,
            format!(
                "the {what} is {found}, expected {expected}: clients would get another model than they ask for"
            ),
        )
    }
    .with_hint("load it under an id of its own, or name another file")
}

/// The tensor that a part of a file is, if it is one.
fn tensor_of(place: &Place) -> Option<String> {
    match place {
        Place::Tensor(name) => Some(name.clone()),
        Place::Part(_) | Place::Field(_) => None,
    }
}

/// The figures of an error, `null` where it has none.
fn details(error: &ModelError) -> Value {
    let (mut tensor, mut offset) = (None, None);
    let (mut expected, mut found) = (None, None);
    match error {
        ModelError::NotAModel { found: there, .. } => {
            offset = Some(0);
            expected = Some("a model".into());
            found = Some(there.to_string());
        }
        ModelError::IncompleteDirectory { missing, .. } => {
            expected = Some((*missing).to_owned());
        }
        ModelError::GgufVersion { found: there, .. } => {
            offset = Some(4);
            expected = Some("version 2 or 3, little-endian".into());
            found = Some(there.to_string());
        }
        ModelError::Truncated {
            place,
            offset: at,
            needed,
            available,
            ..
        } => {
            tensor = tensor_of(place);
            offset = Some(*at);
            expected = Some(format!("{needed} bytes"));
            found = Some(format!("{available} bytes"));
        }
        ModelError::Malformed {
            place,
            offset: at,
            expected: wanted,
            found: there,
            ..
        } => {
            tensor = tensor_of(place);
            offset = *at;
            (expected, found) = (Some(wanted.clone()), Some(there.clone()));
        }
        ModelError::Limit {
            place,
            offset: at,
            limit,
            unit,
            found: there,
            ..
        } => {
            tensor = tensor_of(place);
            offset = *at;
            expected = Some(format!("at most {limit} {unit}"));
            found = Some(there.to_string());
        }
        ModelError::Architecture {
            found: there,
            supported,
            ..
        } => (expected, found) = (Some(supported.clone()), Some(there.clone())),
        ModelError::MissingField {
            expected: wanted, ..
        } => expected = Some(wanted.clone()),
        ModelError::Field {
            expected: wanted,
            found: there,
            ..
        } => (expected, found) = (Some(wanted.clone()), Some(there.clone())),
        ModelError::MissingTensor {
            tensor: name,
            expected: wanted,
            ..
        } => (tensor, expected) = (Some(name.clone()), Some(wanted.clone())),
        ModelError::TensorShape {
            tensor: name,
            expected: wanted,
            found: there,
            ..
        }
        | ModelError::TensorType {
            tensor: name,
            expected: wanted,
            found: there,
            ..
        } => {
            tensor = Some(name.clone());
            (expected, found) = (Some(wanted.clone()), Some(there.clone()));
        }
        ModelError::NotTernary {
            tensor: name,
            found: there,
            ..
        } => {
            tensor = Some(name.clone());
            (expected, found) = (Some("ternary weights".into()), Some(there.clone()));
        }
        ModelError::Scale {
            tensor: name,
            found: there,
            ..
        } => {
            tensor = Some(name.clone());
            expected = Some("a finite scale above 0".into());
            found = Some(there.to_string());
        }
        ModelError::TensorData {
            tensor: name,
            source,
            ..
        } => (tensor, found) = (Some(name.clone()), Some(source.to_string())),
        ModelError::ForeignTensor { tensor: name, .. } => tensor = Some(name.clone()),
        ModelError::Dialect {
            tensor: name,
            number,
            ..
        } => (tensor, found) = (Some(name.clone()), Some(format!("type number {number}"))),
        ModelError::VectorValue {
            tensor: name,
            expected: wanted,
            found: there,
            ..
        } => {
            tensor = Some(name.clone());
            (expected, found) = (Some((*wanted).to_owned()), Some(there.to_string()));
        }
        _ => {}
    }
    json!({
        "kind": error.code(),
        "tensor": tensor,
        "offset": offset,
        "expected": expected,
        "found": found,
    })
}
