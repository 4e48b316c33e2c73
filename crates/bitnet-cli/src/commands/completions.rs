//! `bitnet completions`: the completion script of a shell, made from the grammar.

use clap::Args;
use clap_complete::Shell;

use crate::cli;
use crate::exit::{CliError, Exit};
use crate::output::Out;

/// Options of `bitnet completions`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    bitnet completions bash > ~/.local/share/bash-completion/completions/bitnet\n  \
    bitnet completions zsh > ~/.zfunc/_bitnet\n  \
    bitnet completions fish > ~/.config/fish/completions/bitnet.fish")]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_parser = clap::value_parser!(Shell))]
    pub shell: Shell,
}

/// Prints the script.
///
/// # Errors
/// When standard output fails.
pub fn run(args: &CompletionsArgs) -> Result<Exit, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut cli::grammar(), "bitnet", &mut script);
    let mut out = Out::stdout();
    out.text(&String::from_utf8_lossy(&script))?;
    out.flush()?;
    Ok(Exit::Ok)
}
