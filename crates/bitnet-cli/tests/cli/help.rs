//! `--help`, `--version` and `completions`.

use crate::bitnet::run;

#[test]
fn every_command_explains_itself_with_examples() {
    let commands = [
        "run",
        "chat",
        "score",
        "logits",
        "tokenize",
        "detokenize",
        "inspect",
        "compat-check",
        "bench",
        "synth",
        "pull",
        "list",
        "rm",
        "completions",
        "keys",
        "ps",
        "load",
        "swap",
        "rollback",
        "unload",
    ];
    let help = run(&["--help"]).ok().to_string();
    for command in commands {
        assert!(help.contains(command), "{command}");
        let own = run(&[command, "--help"]);
        assert!(
            own.ok().contains("Examples:") && own.stdout.contains(&format!("bitnet {command}")),
            "{command}"
        );
    }
    assert!(help.contains("BITNET_GGUF") && help.contains("Exit codes"));
    for shell in ["bash", "zsh", "fish", "powershell"] {
        assert!(
            run(&["completions", shell]).ok().contains("compat-check"),
            "{shell}"
        );
    }
    let version = run(&["--version"]);
    assert!(
        version
            .ok()
            .starts_with(concat!("bitnet ", env!("CARGO_PKG_VERSION"), "\n")),
        "{version:?}"
    );
    assert!(
        version.stdout.contains("scalar-i2s") && version.stdout.contains("features:"),
        "{version:?}"
    );
    for line in ["\ncommit:   ", "\ntarget:   ", "\ncompiler: rustc 1."] {
        assert!(version.stdout.contains(line), "{line}: {version:?}");
    }
}
