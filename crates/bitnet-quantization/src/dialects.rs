//! Readings that no file tells, or that it tells wrongly: what people name with `--dialect`.
//!
//! Two kinds of them: the byte layout of I2_S, of which a file says nothing, and the format that a type number stands
//! for where several projects use it. The second is decided by the tensors' sizes; a name here overrides that, for
//! files with gaps between their tensors or sizes that fit more than one format.

use std::fmt;
use std::str::FromStr;

use crate::foreign::ForeignType;
use crate::i2s::I2sDialect;
use crate::qtype::TensorType;
use crate::type_id::{TypeCandidate, candidates};

/// A reading that has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reading {
    name: &'static str,
    /// The format of every number that may stand for it.
    format: TypeCandidate,
    /// The layout, for I2_S.
    layout: Option<I2sDialect>,
}

const fn i2s(layout: I2sDialect) -> Reading {
    Reading {
        name: layout.name(),
        format: TypeCandidate::Tensor(TensorType::I2S),
        layout: Some(layout),
    }
}

const fn format(name: &'static str, format: TypeCandidate) -> Reading {
    Reading {
        name,
        format,
        layout: None,
    }
}

const READINGS: [Reading; 8] = [
    i2s(I2sDialect::Block128),
    i2s(I2sDialect::Block64),
    i2s(I2sDialect::Rows4),
    format("tl1", TypeCandidate::Foreign(ForeignType::Tl1)),
    format("tl2", TypeCandidate::Foreign(ForeignType::Tl2)),
    format("q2_0", TypeCandidate::Tensor(TensorType::Q2_0)),
    format("pq2_0", TypeCandidate::Tensor(TensorType::Pq2_0)),
    format("stq1_0", TypeCandidate::Foreign(ForeignType::Stq1_0)),
];

/// Numbers with several meanings of which this build reads at least one.
const NUMBERS: [u32; 5] = [36, 38, 39, 42, 43];

/// The readings that somebody has chosen; none by default.
///
/// ```
/// use bitnet_quantization::{Dialects, I2sDialect, TensorType, type_id::TypeCandidate};
/// let dialects: Dialects = "i2s-64,pq2_0".parse()?;
/// assert_eq!(dialects.i2s(), I2sDialect::Block64);
/// assert_eq!(dialects.format_of(42), Some(TypeCandidate::Tensor(TensorType::Pq2_0)));
/// assert_eq!(dialects.to_string(), "i2s-64,pq2_0");
/// # Ok::<(), bitnet_quantization::dialects::DialectError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Dialects {
    chosen: [bool; READINGS.len()],
}

impl Dialects {
    /// What [`FromStr`] takes, for messages.
    pub const EXPECTED: &'static str =
        "i2s-128, i2s-64, i2s-4row, tl1, tl2, q2_0, pq2_0, stq1_0, or several with commas";

    /// The layout of I2_S tensors: the chosen one, else that of every published file.
    pub fn i2s(self) -> I2sDialect {
        self.readings()
            .find_map(|reading| reading.layout)
            .unwrap_or_default()
    }

    /// The same with another layout of I2_S tensors.
    pub fn with_i2s(mut self, layout: I2sDialect) -> Self {
        for (chosen, reading) in self.chosen.iter_mut().zip(READINGS) {
            *chosen = match reading.layout {
                None => *chosen,
                Some(other) => other == layout,
            };
        }
        self
    }

    /// The format that the type number stands for, where it was chosen.
    pub fn format_of(self, number: u32) -> Option<TypeCandidate> {
        let several = candidates(number).len() > 1;
        self.readings()
            .filter(|_| several)
            .find(|reading| candidates(number).contains(&reading.format))
            .map(|reading| reading.format)
    }

    /// Whether nothing was chosen.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// The name to give for a format, if it is one that can be chosen.
    pub fn name_of(format: TypeCandidate) -> Option<&'static str> {
        let found = READINGS.iter().find(|reading| reading.format == format);
        found.map(|reading| reading.name)
    }

    fn readings(self) -> impl Iterator<Item = Reading> {
        let all = READINGS.into_iter().zip(self.chosen);
        all.filter_map(|(reading, chosen)| chosen.then_some(reading))
    }

    /// Two chosen readings that one number, or one tensor, cannot have at once.
    fn contradiction(self) -> Option<DialectError> {
        for number in NUMBERS {
            let mut of_number = self
                .readings()
                .filter(|reading| candidates(number).contains(&reading.format));
            if let (Some(first), Some(second)) = (of_number.next(), of_number.next()) {
                return Some(DialectError::Contradiction {
                    first: first.name,
                    second: second.name,
                    number,
                });
            }
        }
        None
    }
}

impl From<I2sDialect> for Dialects {
    fn from(layout: I2sDialect) -> Self {
        Self::default().with_i2s(layout)
    }
}

impl fmt::Display for Dialects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.readings().map(|reading| reading.name).collect();
        f.pad(&names.join(","))
    }
}

/// Names of readings that are none, or that contradict each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DialectError {
    /// No such name.
    #[error("unknown dialect `{0}`: expected {expected}", expected = Dialects::EXPECTED)]
    Unknown(String),
    /// Two readings of the same tensors.
    #[error(
        "{first} and {second} are two readings of the same tensors (type number {number}): name one"
    )]
    Contradiction {
        /// The one.
        first: &'static str,
        /// The other.
        second: &'static str,
        /// The type number that both are of.
        number: u32,
    },
}

impl FromStr for Dialects {
    type Err = DialectError;

    fn from_str(names: &str) -> Result<Self, DialectError> {
        let mut dialects = Self::default();
        for name in names.split(',').map(str::trim) {
            let known = READINGS
                .iter()
                .position(|reading| reading.name.eq_ignore_ascii_case(name));
            let Some(index) = known else {
                return Err(DialectError::Unknown(name.to_owned()));
            };
            dialects.chosen[index] = true;
        }
        match dialects.contradiction() {
            None => Ok(dialects),
            Some(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reading_has_a_name_that_leads_back_to_it() {
        for reading in READINGS {
            let dialects: Dialects = reading.name.parse().unwrap();
            assert_eq!(dialects.to_string(), reading.name);
            assert!(Dialects::EXPECTED.contains(reading.name));
            let numbers = NUMBERS.iter().filter(|&&n| dialects.format_of(n).is_some());
            assert!(numbers.count() > 0, "{}", reading.name);
            assert_eq!(dialects.i2s(), reading.layout.unwrap_or_default());
        }
        assert!(Dialects::default().is_empty());
        assert_eq!(Dialects::default().to_string(), "");
    }

    #[test]
    fn every_number_of_several_readable_meanings_can_be_decided() {
        for number in 0..400 {
            let formats = candidates(number);
            let listed = NUMBERS.contains(&number);
            assert_eq!(formats.len() > 1, listed, "{number}");
            for format in formats.iter().filter(|_| listed) {
                let readable = !matches!(format, TypeCandidate::Other { .. });
                assert_eq!(Dialects::name_of(*format).is_some(), readable, "{number}");
            }
        }
    }

    #[test]
    fn several_names_are_taken_unless_they_contradict_each_other() {
        let several: Dialects = " PQ2_0 , tl2,I2S-4ROW".parse().unwrap();
        assert_eq!(several.to_string(), "i2s-4row,tl2,pq2_0");
        assert_eq!(several.i2s(), I2sDialect::Rows4);
        let other = several.with_i2s(I2sDialect::Block64);
        assert_eq!(other.to_string(), "i2s-64,tl2,pq2_0");
        assert_eq!(several.format_of(43), None);
        assert_eq!(several.format_of(142), None);
        for (names, number) in [
            ("i2s-64,i2s-128", 36),
            ("q2_0,pq2_0", 42),
            ("stq1_0,q2_0", 42),
        ] {
            let error = names.parse::<Dialects>().unwrap_err();
            let text = error.to_string();
            assert!(text.contains(&format!("number {number}")), "{text}");
        }
        for names in ["", ",", "i2s", "mxfp4", "q2_0,"] {
            let error = names.parse::<Dialects>().unwrap_err();
            assert!(matches!(error, DialectError::Unknown(_)), "{names}");
        }
    }
}
