//! The commands that the documents show, checked: whoever copies a line must not be told that it is wrong.

use crate::process::cargo;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// Looks into the `sh` and `console` blocks of the root's and `docs/`'s documents: `bitnet ...` must parse, and
/// `cargo ... -p NAME` must name one of `crates`.
///
/// # Errors
/// When a document cannot be read or cargo cannot be started.
pub fn check(
    root: &Path,
    files: &[String],
    crates: &[&str],
    breaches: &mut Vec<String>,
) -> Result<()> {
    let is_document = |file: &&String| {
        file.ends_with(".md") && (!file.contains('/') || file.starts_with("docs/"))
    };
    for file in files.iter().filter(is_document) {
        let text = fs::read_to_string(root.join(file))?;
        let mut in_block = false;
        for (n, line) in text.lines().enumerate() {
            if let Some(language) = line.trim_start().strip_prefix("```") {
                in_block = !in_block && ["sh", "console", "bash"].contains(&language.trim());
            } else if in_block {
                for words in shell_commands(line) {
                    if let Some(why) = refusal(root, crates, &words)? {
                        breaches.push(format!(
                            "{file}:{}: `{}` does not parse: {why}",
                            n + 1,
                            words.join(" ")
                        ));
                    }
                }
            }
        }
    }
    Ok(())
}

/// Why a documented command would be refused; `None` when it would not.
fn refusal(root: &Path, crates: &[&str], words: &[String]) -> Result<Option<String>> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["bitnet", args @ ..] => bitnet_refusal(root, args),
        ["cargo", "run", rest @ ..] if rest.contains(&"bitnet-cli") => {
            let args = rest.iter().skip_while(|word| **word != "--").skip(1);
            bitnet_refusal(root, &args.copied().collect::<Vec<_>>())
        }
        ["cargo", rest @ ..] => {
            let named = rest
                .windows(2)
                .filter(|pair| pair[0] == "-p")
                .map(|pair| pair[1]);
            Ok(named
                .filter(|name| !crates.contains(name))
                .map(|name| format!("no crate {name}"))
                .next())
        }
        _ => Ok(None),
    }
}

/// The first error line of `bitnet ARGS --help`: clap reads arguments in order, so a wrong one fails before the help.
fn bitnet_refusal(root: &Path, args: &[&str]) -> Result<Option<String>> {
    let mut command = cargo();
    command
        .current_dir(root)
        .args(["run", "--quiet", "-p", "bitnet-cli", "--"]);
    let done = command
        .args(args)
        .arg("--help")
        .output()
        .context("could not start cargo")?;
    let complaint = String::from_utf8_lossy(&done.stderr);
    let first = complaint.lines().next().unwrap_or("no message").to_owned();
    Ok((!done.status.success()).then_some(first))
}

/// The commands of one shell line: a leading `$ ` and variables dropped, quotes resolved, redirections and comments
/// cut.
fn shell_commands(line: &str) -> Vec<Vec<String>> {
    let (mut commands, mut words, mut word, mut quote) =
        (Vec::new(), Vec::new(), None::<String>, None);
    let mut redirected = false;
    for c in line.trim().trim_start_matches("$ ").chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, '>' | '<') => redirected = true,
            (None, '|' | '&' | ';') => {
                words.extend(word.take());
                commands.push(std::mem::take(&mut words));
                redirected = false;
            }
            (None, _) if c.is_whitespace() => words.extend(word.take()),
            _ if redirected => {}
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    commands.push(words);
    for words in &mut commands {
        let n_variables = words.iter().take_while(|word| word.contains('=')).count();
        words.drain(..n_variables);
    }
    commands.retain(|words: &Vec<String>| !words.is_empty());
    commands
}

#[cfg(test)]
mod tests {
    use super::shell_commands;

    #[test]
    fn shell_lines_split_into_commands() {
        let split = |line: &str| {
            shell_commands(line)
                .iter()
                .map(|words| words.join("|"))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            split(r#"$ bitnet run --prompt "Once upon" # a story"#),
            ["bitnet|run|--prompt|Once upon"]
        );
        assert_eq!(
            split("A=1 bitnet run --stop '<|x|>' > out.txt"),
            ["bitnet|run|--stop|<|x|>"]
        );
        assert_eq!(
            split("echo hi | bitnet run && cargo test"),
            ["echo|hi", "bitnet|run", "cargo|test"]
        );
        assert_eq!(split("   # only a comment"), Vec::<String>::new());
    }
}
