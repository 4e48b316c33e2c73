//! `bitnet synth`: a random ternary model of a real shape.

use std::path::PathBuf;
use std::time::Instant;

use bitnet_quantization::TensorType;
use clap::Args;

use crate::exit::{CliError, Exit};
use crate::interrupt::Cooperative;
use crate::output::Out;
use crate::progress::Progress;
use crate::synth::gguf::{self, Types};
use crate::synth::hf;
use crate::synth::shape::{Arch, Shape, ShapeName};
use crate::units;

/// Options of `bitnet synth`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    bitnet synth --shape 2b-4t x.gguf\n  \
    bitnet synth --shape 2b-4t --type tq2_0 --head-type q6_k --arch bitnet x.gguf\n  \
    bitnet synth --shape falcon-e-1b --hf ./falcon-e-synth\n  \
    bitnet synth --shape 125m --layers 2 --vocab 1000 tiny.gguf\n\n\
    The same seed and shape give the same model in every type and as a directory (types that round the\n\
    embedding aside). The file takes its name only when it is complete.")]
pub struct SynthArgs {
    /// The file to write; with --hf the directory
    #[arg(value_name = "OUT")]
    pub out: PathBuf,

    /// The model whose shape to take
    #[arg(long, value_enum)]
    pub shape: ShapeName,

    /// Architecture to write instead of the shape's own
    #[arg(long, value_enum)]
    pub arch: Option<Arch>,

    /// Type of the ternary tensors: i2_s, tq1_0, tq2_0, q2_0, f16, bf16, f32 [default: i2_s; q2_0 for bonsai-1.7b]
    #[arg(long = "type", value_name = "TYPE", value_parser = parse_ternary_type, conflicts_with = "hf")]
    pub ternary: Option<TensorType>,

    /// Type of embedding and head: f32, f16, bf16, q8_0, q6_k, q5_0, q4_1, q4_0 [default: f16; q2_0 for bonsai-1.7b,
    /// whose embedding is ternary]
    #[arg(long, value_name = "TYPE", value_parser = parse_head_type, conflicts_with = "hf")]
    pub head_type: Option<TensorType>,

    /// Write a Hugging Face directory (packed, bf16) instead of a GGUF file
    #[arg(long)]
    pub hf: bool,

    /// With --hf: bf16 master weights, as training leaves them, instead of packed trits
    #[arg(long, requires = "hf")]
    pub masters: bool,

    /// Seed of the random weights
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,

    /// Number of layers instead of the shape's own, for quick tests
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=512))]
    pub layers: Option<u32>,

    /// Size of the vocabulary instead of the shape's own
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub vocab: Option<u32>,
}

/// Writes the model.
///
/// # Errors
/// Impossible combinations, a path that cannot be written, a full disk, Ctrl-C.
pub fn run(args: &SynthArgs) -> Result<Exit, CliError> {
    let shape = shape(args);
    let types = types(args);
    let total = if args.hf {
        hf::data_bytes(&shape, args.masters)
    } else {
        gguf::data_bytes(&shape, types)
    };
    let cooperative = Cooperative::begin();
    let started = Instant::now();
    {
        let progress = Progress::bytes("writing", total);
        let mut advance = |n: u64| {
            progress.add(n);
            if cooperative.requested() {
                Err(cooperative.error("nothing was written"))
            } else {
                Ok(())
            }
        };
        if args.hf {
            hf::write(&shape, args.masters, args.seed, &args.out, &mut advance)?;
        } else {
            gguf::write(&shape, types, args.seed, &args.out, &mut advance)?;
        }
    }
    let mut out = Out::stdout();
    out.line(&format!(
        "{}: {}, {} of {} ternary weights, {} in {}",
        args.out.display(),
        shape.name,
        shape.arch,
        units::count(shape.n_ternary()),
        units::bytes(total),
        units::duration(started.elapsed()),
    ))?;
    out.flush()?;
    Ok(Exit::Ok)
}

fn shape(args: &SynthArgs) -> Shape {
    let mut shape = args.shape.shape();
    if let Some(arch) = args.arch {
        shape.arch = arch;
    }
    // The BitNet families have no head of their own.
    shape.tied |= shape.arch.sub_norms();
    if let Some(layers) = args.layers {
        shape.n_layers = layers as usize;
    }
    if let Some(vocab) = args.vocab {
        shape.vocab_size = vocab as usize;
    }
    shape
}

fn types(args: &SynthArgs) -> Types {
    let (ternary, dense) = match args.shape {
        ShapeName::Bonsai17b => (TensorType::Q2_0, TensorType::Q2_0),
        _ => (TensorType::I2S, TensorType::F16),
    };
    Types {
        ternary: args.ternary.unwrap_or(ternary),
        dense: args.head_type.unwrap_or(dense),
    }
}

fn parse_ternary_type(value: &str) -> Result<TensorType, String> {
    match TensorType::from_name(value) {
        Some(ty) if ty.is_ternary() || ty.is_float() => Ok(ty),
        _ => Err("expected i2_s, tq1_0, tq2_0, q2_0, f16, bf16 or f32".into()),
    }
}

fn parse_head_type(value: &str) -> Result<TensorType, String> {
    use TensorType::{BF16, F16, F32, Q2_0, Q4_0, Q4_1, Q5_0, Q6K, Q8_0};
    match TensorType::from_name(value) {
        Some(ty @ (F32 | F16 | BF16 | Q8_0 | Q6K | Q5_0 | Q4_1 | Q4_0 | Q2_0)) => Ok(ty),
        _ => Err("expected f32, f16, bf16, q8_0, q6_k, q5_0, q4_1, q4_0 or q2_0".into()),
    }
}
