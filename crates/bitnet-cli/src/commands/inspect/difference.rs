//! `bitnet inspect A B`: in what two model files differ: keys of the header, tensors, types, shapes, and bytes.
//!
//! Both are read as containers; neither has to be a model that runs. Two files with the same tensors in another order,
//! or split otherwise, do not differ.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bitnet_models::gguf::{Gguf, describe};
use bitnet_models::tensor_files::TensorFiles;
use bitnet_models::{Checkpoint, CheckpointOptions};
use serde::Serialize;

use crate::exit::{CliError, Exit};
use crate::output::{Format, Out};
use crate::sanitize;
use crate::table::{Align, Table};

/// Everything that differs; the JSON document of `--format json`.
#[derive(Debug, Serialize)]
struct Difference {
    files: [String; 2],
    same: bool,
    metadata: Vec<Change>,
    tensors: Vec<Change>,
    /// Tensors of one name, type and shape whose bytes are not the same.
    contents: Vec<String>,
    /// Tensors that are the same in both.
    same_tensors: usize,
}

/// A key or a tensor, as each file has it; `None`: not at all.
#[derive(Debug, Serialize)]
struct Change {
    name: String,
    a: Option<String>,
    b: Option<String>,
}

/// Compares two files or directories.
///
/// # Errors
/// One that cannot be read as a container.
pub fn run(
    a: &Path,
    b: &Path,
    options: &CheckpointOptions,
    format: Format,
) -> Result<Exit, CliError> {
    let (first, second) = (Container::open(a, options)?, Container::open(b, options)?);
    let difference = compare(&first, &second);
    let difference = Difference {
        files: [a.display().to_string(), b.display().to_string()],
        ..difference
    };
    let mut out = Out::stdout();
    match format {
        Format::Json => out.json(&difference)?,
        Format::Text => out.text(&text(&difference))?,
    }
    out.flush()?;
    Ok(if difference.same {
        Exit::Ok
    } else {
        Exit::Disagrees
    })
}

/// An open container: header and tensors by name.
struct Container {
    /// Key: what is compared, and what is shown of it.
    metadata: BTreeMap<String, (String, String)>,
    /// Name: type and shape.
    tensors: BTreeMap<String, String>,
    source: Source,
}

enum Source {
    Gguf(Box<Gguf>),
    Hf(Box<TensorFiles>),
}

impl Container {
    fn open(path: &Path, options: &CheckpointOptions) -> Result<Self, CliError> {
        let shape = |dims: &[u64]| {
            let dims: Vec<String> = dims.iter().map(u64::to_string).collect();
            dims.join(" x ")
        };
        if path.is_dir() {
            // config.json is the header of a directory; its values are shown whole.
            let metadata = Checkpoint::open(path, options)?.describe().metadata;
            let weights = TensorFiles::open_dir(path, options.access, options.allow_pickle)?;
            let tensors = weights.tensors().iter().map(|tensor| {
                let what = format!("{} {}", tensor.stored_type(), shape(tensor.shape()));
                (tensor.name().to_owned(), what)
            });
            return Ok(Self {
                metadata: metadata
                    .into_iter()
                    .map(|(key, _, value)| (key, (value.clone(), value)))
                    .collect(),
                tensors: tensors.collect(),
                source: Source::Hf(Box::new(weights)),
            });
        }
        let gguf = Gguf::open(path)?;
        let metadata = gguf.metadata().iter().map(|(key, value)| {
            let shown = format!("{} ({})", describe(value), value.value_type().name());
            (key.to_owned(), (format!("{value:?}"), shown))
        });
        let tensors = gguf.tensors().iter().map(|tensor| {
            let ty = tensor.tensor_type();
            let ty = ty.map_or_else(|| tensor.type_id().to_string(), |ty| ty.name().to_owned());
            let what = format!("{ty} {}", shape(tensor.dims()));
            (tensor.name().to_owned(), what)
        });
        Ok(Self {
            metadata: metadata.collect(),
            tensors: tensors.collect(),
            source: Source::Gguf(Box::new(gguf)),
        })
    }

    /// A tensor's bytes; `None` for a type whose size nobody knows.
    fn bytes(&self, name: &str) -> Option<&[u8]> {
        match &self.source {
            Source::Gguf(gguf) => gguf.slice(gguf.tensor(name)?).ok(),
            Source::Hf(weights) => Some(weights.slice(weights.tensor(name)?)),
        }
    }
}

fn compare(a: &Container, b: &Container) -> Difference {
    let names = |a: &BTreeMap<String, String>, b: &BTreeMap<String, String>| {
        let all: BTreeSet<String> = a.keys().chain(b.keys()).cloned().collect();
        all
    };
    let keys: BTreeSet<&String> = a.metadata.keys().chain(b.metadata.keys()).collect();
    let metadata = keys.into_iter().filter_map(|key| {
        let (a, b) = (a.metadata.get(key), b.metadata.get(key));
        let whole = |value: Option<&(String, String)>| value.map(|value| value.0.clone());
        (whole(a) != whole(b)).then(|| Change {
            name: key.clone(),
            a: a.map(|value| value.1.clone()),
            b: b.map(|value| value.1.clone()),
        })
    });
    let (mut tensors, mut contents, mut same_tensors) = (Vec::new(), Vec::new(), 0);
    for name in names(&a.tensors, &b.tensors) {
        let (first, second) = (a.tensors.get(&name), b.tensors.get(&name));
        if first != second {
            tensors.push(Change {
                a: first.cloned(),
                b: second.cloned(),
                name,
            });
        } else if a.bytes(&name) != b.bytes(&name) {
            contents.push(name);
        } else {
            same_tensors += 1;
        }
    }
    let metadata: Vec<Change> = metadata.collect();
    Difference {
        files: Default::default(),
        same: metadata.is_empty() && tensors.is_empty() && contents.is_empty(),
        metadata,
        tensors,
        contents,
        same_tensors,
    }
}

fn text(difference: &Difference) -> String {
    let [a, b] = difference
        .files
        .each_ref()
        .map(|file| sanitize::one_line(file));
    let mut text = format!("A  {a}\nB  {b}\n");
    if difference.same {
        text.push_str(&format!(
            "\nThe same {} tensors and the same metadata\n",
            difference.same_tensors
        ));
        return text;
    }
    for (title, changes) in [
        ("Metadata", &difference.metadata),
        ("Tensors", &difference.tensors),
    ] {
        if changes.is_empty() {
            continue;
        }
        let mut table = Table::new(&[("", Align::Left), ("A", Align::Left), ("B", Align::Left)]);
        for Change { name, a, b } in changes {
            let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
            table.row(vec![name.clone(), shown(a), shown(b)]);
        }
        text.push_str(&format!("\n{title} ({})\n{}", changes.len(), table.text()));
    }
    if !difference.contents.is_empty() {
        text.push_str(&format!("\nOther bytes ({})\n", difference.contents.len()));
        for name in &difference.contents {
            text.push_str(&format!("{}\n", sanitize::one_line(name)));
        }
    }
    text.push_str(&format!(
        "\n{} tensors are the same\n",
        difference.same_tensors
    ));
    text
}
