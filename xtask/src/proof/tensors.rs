//! Reading the f32 tensors of a safetensors file: what both engines and the recorder of transformers write.
//!
//! Source: the format's description in the repository huggingface/safetensors.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// A file in memory.
pub struct TensorFile {
    header: Value,
    bytes: Vec<u8>,
    /// Where the data begin.
    start: usize,
}

/// A matrix, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows {
    /// Length of a row.
    pub width: usize,
    /// `[n, width]`.
    pub values: Vec<f32>,
}

impl Rows {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.values.len() / self.width
    }

    /// One row, `[width]`.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.width..][..self.width]
    }
}

impl TensorFile {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read or has no header.
    pub fn read(path: &Path) -> Result<TensorFile> {
        let bytes = fs::read(path).with_context(|| format!("could not read {}", path.display()))?;
        TensorFile::of_bytes(bytes)
            .with_context(|| format!("{} is not a safetensors file", path.display()))
    }

    pub(super) fn of_bytes(bytes: Vec<u8>) -> Result<TensorFile> {
        let length = bytes.first_chunk::<8>().context("it has no header")?;
        let length = usize::try_from(u64::from_le_bytes(*length))?;
        let start = length.checked_add(8).context("the header has no length")?;
        let header = bytes.get(8..start).context("the header is cut off")?;
        Ok(TensorFile {
            header: serde_json::from_slice(header)?,
            bytes,
            start,
        })
    }

    /// Whether there is a tensor called `name`.
    pub fn has(&self, name: &str) -> bool {
        self.header.get(name).is_some()
    }

    /// A tensor of two dimensions.
    ///
    /// # Errors
    /// When there is none of the name, or it is no f32 matrix of finite numbers.
    pub fn rows(&self, name: &str) -> Result<Rows> {
        self.read_rows(name)
            .with_context(|| format!("tensor {name}"))
    }

    fn read_rows(&self, name: &str) -> Result<Rows> {
        let entry = self.header.get(name).context("it is not in the file")?;
        ensure!(entry["dtype"] == "F32", "it is {}, not F32", entry["dtype"]);
        let number = |value: &Value| -> Result<usize> {
            let number = value.as_u64().context("a number is missing")?;
            Ok(usize::try_from(number)?)
        };
        let width = number(&entry["shape"][1])?;
        let [from, to] = [0, 1].map(|end| number(&entry["data_offsets"][end]));
        let (from, to) = (from?, to?);
        let bytes = self
            .bytes
            .get(self.start..)
            .and_then(|data| data.get(from..to))
            .context("its data are not in the file")?;
        ensure!(
            width > 0 && bytes.len() == 4 * width * number(&entry["shape"][0])?,
            "its shape {} does not fit its {} bytes",
            entry["shape"],
            bytes.len()
        );
        let values: Vec<f32> = bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        let odd = values.iter().position(|value| !value.is_finite());
        ensure!(
            odd.is_none(),
            "value {} is not a finite number",
            odd.unwrap_or(0)
        );
        Ok(Rows { width, values })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[f32]) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(data.iter().flat_map(|value| value.to_le_bytes()));
        bytes
    }

    #[test]
    fn matrices_are_read_row_by_row() {
        let header = r#"{"x":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}"#;
        let data = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let file = TensorFile::of_bytes(file(header, &data)).unwrap();
        let rows = file.rows("x").unwrap();
        assert_eq!((rows.len(), rows.row(1)), (2, &[4.0, 5.0, 6.0][..]));
        assert!(file.has("x") && !file.has("y"));
    }

    #[test]
    fn what_is_no_matrix_is_refused() {
        let shape = |shape: &str, dtype: &str| {
            format!(r#"{{"x":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,8]}}}}"#)
        };
        for (header, data, what) in [
            (shape("[1,2]", "F16"), [0.0, 0.0], "not F32"),
            (shape("[2]", "F32"), [0.0, 0.0], "missing"),
            (shape("[2,2]", "F32"), [0.0, 0.0], "does not fit"),
            (shape("[1,2]", "F32"), [0.0, f32::NAN], "not a finite"),
        ] {
            let file = TensorFile::of_bytes(file(&header, &data)).unwrap();
            let error = format!("{:#}", file.rows("x").unwrap_err());
            assert!(error.contains(what), "{error}");
        }
        assert!(TensorFile::of_bytes(vec![1, 2, 3]).is_err());
        assert!(TensorFile::of_bytes(file("{}", &[])[..9].to_vec()).is_err());
        assert!(TensorFile::of_bytes(vec![0xFF; 16]).is_err());
    }
}
