//! `chat`: history, commands, templates.

use crate::bitnet::{data_arg, run_with_input};

#[test]
fn chat_answers_each_line_and_keeps_the_history() {
    let dir = tempfile::tempdir().unwrap();
    let saved = dir.path().join("chat.json");
    let script = format!(
        "Once upon a time\n/help\nThen a girl came.\n/save {}\n/reset\n/nonsense\n",
        saved.display()
    );
    let ended = run_with_input(&["chat", "--greedy", "-n", "8"], script.as_bytes());
    assert!(ended.ok().lines().count() >= 2, "{ended:?}");
    assert!(
        ended
            .stdout
            .starts_with(" there was a boy called Ben who lived\n"),
        "{ended:?}"
    );
    for notice in [
        "no chat template",
        "/reset",
        "saved to",
        "forgotten",
        "there is no /nonsense",
    ] {
        assert!(ended.stderr.contains(notice), "{notice}: {ended:?}");
    }
    let conversation: serde_json::Value =
        serde_json::from_slice(&std::fs::read(saved).unwrap()).unwrap();
    let roles: Vec<&str> = conversation
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["role"].as_str().unwrap())
        .collect();
    assert_eq!(roles, ["user", "assistant", "user", "assistant"]);
    assert_eq!(conversation[0]["content"], "Once upon a time");
    assert_eq!(
        conversation[1]["content"],
        " there was a boy called Ben who lived"
    );
}

#[test]
fn chat_uses_the_models_template_and_survives_a_full_context() {
    let model = data_arg("reference/tiny-bitnet");
    let args = ["chat", "--model", &model, "--greedy", "-n", "4"];
    let ended = run_with_input(&args, b"Hello\nAnd you?\n");
    assert!(!ended.ok().is_empty(), "{ended:?}");
    let named = run_with_input(
        &["chat", &model, "--greedy", "-n", "4"],
        b"Hello\nAnd you?\n",
    );
    assert_eq!(named.ok(), ended.stdout);
    assert!(!ended.stderr.contains("no chat template"), "{ended:?}");
    let small = run_with_input(
        &[&args[..], &["--ctx", "24"]].concat(),
        b"Hello\nA much longer message than fits\n/exit\n",
    );
    assert_eq!(small.code, Some(2), "the second answer failed: {small:?}");
    assert!(
        small.stderr.contains("the context holds 24") && small.stderr.contains("hint: "),
        "{small:?}"
    );
}
