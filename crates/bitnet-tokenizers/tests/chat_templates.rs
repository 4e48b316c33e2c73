//! Templates of the known formats render as documented; templates that misbehave are stopped with line and reason.
//!
//! The templates are written for these tests, after the documented formats; they use the features that the published
//! ones use.

use bitnet_tokenizers::{ChatTemplate, Message, TokenizerError};

const LLAMA3: &str = "\
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set system = none %}
    {%- set turns = messages %}
{%- endif %}
{{- bos_token }}
{%- if system is not none %}
    {{- '<|start_header_id|>system<|end_header_id|>\\n\\n' + system + '<|eot_id|>' }}
{%- endif %}
{%- for message in turns %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
";

/// ChatML with Qwen3's rule: thoughts of earlier turns are dropped.
const QWEN3: &str = r#"
{%- if tools %}
    {{- '<|im_start|>system\n' ~ (tools | tojson) ~ '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(searching=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == "user" and message.content is string %}
        {%- set ns.searching = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == "assistant" %}
        {%- set thoughts = '' %}
        {%- if message.reasoning_content is defined %}
            {%- set thoughts = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thoughts = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and thoughts %}
            {{- '<|im_start|>' + message.role + '\n<think>\n' + thoughts.strip('\n') + '\n</think>\n\n' + content }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}"#;

const FALCON3: &str = "\
{% for message in messages %}
{% if message['role'] not in ['system', 'user', 'assistant'] %}
{% continue %}
{% endif %}
{{ '<|' + message['role'] + '|>\\n' + message['content'] }}
{%- if message['role'] == 'assistant' %}
{{- eos_token }}
{%- endif %}

{% endfor %}
{% if add_generation_prompt %}
{{ '<|assistant|>\\n' }}
{%- endif %}";

fn conversation(turns: &[(&str, &str)]) -> Vec<Message> {
    turns
        .iter()
        .map(|&(role, content)| Message::new(role, content))
        .collect()
}

fn render(source: &str, turns: &[(&str, &str)]) -> Result<String, TokenizerError> {
    ChatTemplate::new(source, "<bos>", "<eos>")?.render(&conversation(turns), true)
}

#[test]
fn llama3_conversations_have_headers_and_ends_of_turn() {
    let text = render(
        LLAMA3,
        &[
            ("system", " Be brief. "),
            ("user", "Hi"),
            ("assistant", "Hello!\n"),
            ("user", "2+2?"),
        ],
    );
    assert_eq!(
        text.unwrap(),
        "<bos><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>\
         <|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>\
         <|start_header_id|>assistant<|end_header_id|>\n\nHello!<|eot_id|>\
         <|start_header_id|>user<|end_header_id|>\n\n2+2?<|eot_id|>\
         <|start_header_id|>assistant<|end_header_id|>\n\n"
    );
}

#[test]
fn qwen3_conversations_drop_the_thoughts_of_earlier_turns() {
    let text = render(
        QWEN3,
        &[
            ("system", "S"),
            ("user", "U"),
            ("assistant", "<think>\nhm\n</think>\n\nA"),
            ("user", "V"),
        ],
    );
    assert_eq!(
        text.unwrap(),
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n\
         <|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\n"
    );
    let text = render(
        QWEN3,
        &[("user", "U"), ("assistant", "<think>\nhm\n</think>\n\nA")],
    );
    assert!(
        text.unwrap()
            .contains("<|im_start|>assistant\n<think>\nhm\n</think>\n\nA<|im_end|>\n")
    );
}

#[test]
fn falcon3_conversations_have_a_line_for_each_role() {
    let text = render(
        FALCON3,
        &[
            ("system", "S"),
            ("tool", "T"),
            ("user", "U"),
            ("assistant", "A"),
            ("user", "V"),
        ],
    );
    assert_eq!(
        text.unwrap(),
        "<|system|>\nS\n<|user|>\nU\n<|assistant|>\nA<eos>\n<|user|>\nV\n<|assistant|>\n"
    );
}

#[test]
fn the_generation_prompt_is_only_there_on_request() {
    let template = ChatTemplate::new(LLAMA3, "", "").unwrap();
    let turns = conversation(&[("user", "Hi")]);
    let without = template.render(&turns, false).unwrap();
    assert!(without.ends_with("Hi<|eot_id|>"));
    let with = template.render(&turns, true).unwrap();
    assert_eq!(
        with.strip_prefix(&without),
        Some("<|start_header_id|>assistant<|end_header_id|>\n\n")
    );
}

#[test]
fn what_hugging_face_offers_to_templates_is_there() {
    for (source, expected) in [
        (
            "{{ messages[0] | tojson }}",
            r#"{"role": "user", "content": "<é'\"&>"}"#,
        ),
        (
            "{{ [1, 2.5, none, true] | tojson(indent=2) }}",
            "[\n  1,\n  2.5,\n  null,\n  true\n]",
        ),
        ("{{ messages[0].content }}", "<é'\"&>"),
        ("  {% if true %}\n  x\n  {% endif %}\ny", "  x\ny"),
        (
            "{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}",
            "01",
        ),
        ("{% macro m(x) %}[{{ x }}]{% endmacro %}{{ m('a') }}", "[a]"),
        ("{{ strftime_now('%Y') | int > 2023 }}", "True"),
        (
            "{{ 'a,b'.split(',') | join('+') }}{{ 'x'.upper() }}{{ {'a': 1}.get('b', 2) }}",
            "a+bX2",
        ),
        ("{{ missing }}{{ messages[0].missing }}", ""),
        ("{{ messages[0]['content'][1:2] }}", "é"),
    ] {
        let text = render(source, &[("user", "<é'\"&>")])
            .unwrap_or_else(|error| panic!("{source}: {error}"));
        assert_eq!(text, expected, "{source}");
    }
}

#[test]
fn failures_name_the_line_and_the_reason() {
    let user = [("user", "x")];
    for (source, line, reason) in [
        ("a\n{{ raise_exception('only users') }}", 2, "only users"),
        ("a\nb\n{{ missing.field.deeper }}", 3, "undefined"),
        ("a\n{% if %}", 2, "unexpected"),
        ("{% for x in messages %}", 1, "end of input"),
        ("\n\n\n{{ 'x' | nofilter }}", 4, "nofilter"),
        ("\n{{ nofunction() }}", 2, "nofunction"),
        ("\n{{ strftime_now('%Q') }}", 2, "`%Q` is not supported"),
        ("\n{{ messages | tojson(indent=999) }}", 2, "indent 999"),
    ] {
        match render(source, &user).unwrap_err() {
            TokenizerError::Template {
                line: found,
                message,
            } => {
                assert_eq!(found, line, "{source}: {message}");
                assert!(message.contains(reason), "{source}: {message}");
            }
            other => panic!("{source}: {other}"),
        }
    }
}

#[test]
fn templates_reach_no_other_files() {
    for source in [
        "{% include '/etc/passwd' %}",
        "{% include 'chat_template' %}",
        "{% import 'chat_template' as x %}{{ x }}",
        "{% extends 'chat_template' %}",
        "{% from 'x' import y %}{{ y }}",
        "{{ messages.__class__.__mro__ }}{{ ''.__class__.mro() }}",
        "{{ open('/etc/passwd') }}",
    ] {
        assert!(render(source, &[("user", "x")]).is_err(), "{source}");
    }
}

#[test]
fn endless_templates_are_stopped() {
    for (source, reason) in [
        (
            "{% for a in range(9999) %}{% for b in range(9999) %}{% set c = b %}{% endfor %}{% endfor %}",
            "more steps",
        ),
        (
            "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
            "recursion",
        ),
        (
            "{% for m in [messages] recursive %}{{ loop([m]) }}{% endfor %}",
            "recursion",
        ),
        ("{{ range(999999999) | list }}", "range"),
        ("{{ 'x' * 999999999 }}", "more than 32 MiB"),
        (
            "{% for a in range(5000) %}{{ 'xxxxxxxxxx' * 100 }}{% endfor %}",
            "longer than a conversation",
        ),
    ] {
        let error = render(source, &[("user", "x")]).unwrap_err().to_string();
        assert!(error.contains(reason), "{source}: {error}");
    }
    let deep = format!(
        "{}x{}",
        "{% if true %}".repeat(5000),
        "{% endif %}".repeat(5000)
    );
    assert!(ChatTemplate::new(&deep, "", "").is_err());
    let parens = format!("{{{{ {}1{} }}}}", "(".repeat(50_000), ")".repeat(50_000));
    assert!(ChatTemplate::new(&parens, "", "").is_err());
    assert!(
        ChatTemplate::new(&"x".repeat(300 << 10), "", "")
            .unwrap_err()
            .to_string()
            .contains("limit of 262144")
    );
}

#[test]
fn long_conversations_are_rendered() {
    let turns: Vec<_> = (0..3000)
        .map(|n| {
            Message::new(
                if n % 2 == 0 { "user" } else { "assistant" },
                "x".repeat(3000),
            )
        })
        .collect();
    for source in [LLAMA3, QWEN3, FALCON3] {
        let text = ChatTemplate::new(source, "", "")
            .unwrap()
            .render(&turns, true)
            .unwrap();
        assert!(text.len() > 3000 * 3000);
    }
}
