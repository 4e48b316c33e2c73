//! A chat template comes with a model file: whatever it tries, it ends in an error, in bounded memory and on a small
//! stack.
//!
//! The tests of this binary run one at a time, because the allocator counts for the whole process.

use std::alloc::System;
use std::sync::Mutex;

use bitnet_tokenizers::{ChatTemplate, Message, TokenizerError};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

static ALONE: Mutex<()> = Mutex::new(());

/// What a template may make for an empty conversation.
const LIMIT: usize = 32 << 20;

/// What all allocations of a rendering may add up to: a text grows by doubling and is copied once when it is done.
const ALLOWANCE: usize = 5 * LIMIT;

/// The stack of the threads that servers render in.
const STACK: usize = 2 << 20;

/// Parses and renders on a small stack; also what was allocated on the way, all in all.
fn render(source: &str, messages: &[Message]) -> (Result<String, TokenizerError>, usize) {
    let (source, messages) = (source.to_owned(), messages.to_vec());
    let thread = std::thread::Builder::new()
        .stack_size(STACK)
        .spawn(move || {
            let region = Region::new(ALLOCATOR);
            let result =
                ChatTemplate::new(&source, "<s>", "</s>").and_then(|it| it.render(&messages, true));
            (result, region.change().bytes_allocated)
        });
    thread.unwrap().join().unwrap()
}

/// `body` a thousand times with a namespace `ns` whose `x` is `start`.
fn looped(start: &str, body: &str) -> String {
    format!(
        "{{% set ns = namespace(x={start}) %}}{{% for i in range(1000) %}}{body}{{% endfor %}}{{{{ ns.x|length }}}}"
    )
}

#[test]
fn no_way_of_growing_gets_beyond_the_budget() {
    let _alone = ALONE
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let set = |value: &str| looped("'xxxxxxxxxxxxxxxx'", &format!("{{% set ns.x = {value} %}}"));
    let list = |value: &str| looped("[1, 2, 3, 4]", &format!("{{% set ns.x = {value} %}}"));
    let templates = [
        set("ns.x ~ ns.x"),
        set("ns.x + ns.x"),
        set("ns.x * 1000"),
        set("1000 * ns.x"),
        set("ns.x | replace('x', 'xxxx')"),
        set("ns.x.replace('', 'xxxx')"),
        set("[ns.x, ns.x] | join(ns.x)"),
        set("ns.x.join([ns.x, ns.x, ns.x])"),
        set("'%s%s' | format(ns.x, ns.x)"),
        set("'%s%s' % (ns.x, ns.x)"),
        set("'{}{}'.format(ns.x, ns.x)"),
        set("[ns.x, ns.x] | string"),
        set("[ns.x, ns.x] | tojson"),
        set("((ns.x ~ '\n') * 2) | indent(500)"),
        set("ns.x | e ~ ns.x | upper ~ ns.x | title"),
        set("(ns.x ~ '<') | e | e | e | e"),
        set("(ns.x * 2)[::-1] * 2"),
        set("(ns.x ~ ',').split('x') | join('xyz')"),
        looped("'x' * 1000", "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}"),
        looped("'x' * 1000", "{% macro m() %}{{ ns.x }}{{ ns.x }}{% endmacro %}{% set ns.x = m() %}"),
        looped(
            "'x' * 1000",
            "{% macro m() %}{{ caller() }}{{ caller() }}{% endmacro %}\
             {% set y %}{% call m() %}{{ ns.x }}{% endcall %}{% endset %}{% set ns.x = y %}",
        ),
        looped("'x' * 1000", "{% set y %}{% filter replace('x', 'xx') %}{{ ns.x }}{% endfilter %}{% endset %}{% set ns.x = y %}"),
        list("ns.x + ns.x"),
        list("ns.x * 1000"),
        list("(ns.x, ns.x) | sum(start=[])"),
        list("[ns.x, ns.x] | sum(start=ns.x)"),
        // Kept apart instead of grown.
        looped("[]", "{% set ns.x = ns.x + ['x' * 100000] %}"),
        looped("[]", "{% set ns.x = ns.x + [messages | tojson * 10000] %}"),
        looped("[]", "{% set ns.x = ns.x + [range(100000)] %}"),
        "{% for i in range(100) %}{% for j in range(100) %}{% set n = range(10000) %}{% endfor %}{% endfor %}".to_owned(),
        // Constants, which a compiler could compute before it counts anything.
        format!("{{{{ ({}) | length }}}}", vec!["'a' * 100000000"; 30].join(" ~ ")),
        "{{ ([1] * 100000000) | length }}".to_owned(),
        "{{ (((('a' * 100000) * 100000) * 100000) * 100000) | length }}".to_owned(),
        "{{ '%1000s' % 1 * 100000 }}".to_owned(),
    ];
    // Whatever takes a step for each item runs out of steps before.
    let stepped = [
        set("ns.x | list | tojson(indent=16)"),
        set("(ns.x | list + ns.x | list) | join"),
        list("ns.x | map('string') | list + ns.x"),
        list("(ns.x + ns.x) | sort + ns.x | reverse"),
        // Each element twice, forty levels high: small as a list, endless as a text.
        looped(
            "[1]",
            "{% if i < 40 %}{% set ns.x = [ns.x, ns.x] %}{% endif %}",
        ) + "{{ ns.x ~ '' }}",
        looped(
            "[1]",
            "{% if i < 40 %}{% set ns.x = {'a': ns.x, 'b': ns.x} %}{% endif %}",
        ) + "{{ ns.x | tojson }}",
    ];
    let mut faults = Vec::new();
    for (source, is_stepped) in
        (templates.iter().map(|it| (it, false))).chain(stepped.iter().map(|it| (it, true)))
    {
        let (result, allocated) = render(source, &[Message::new("user", "x")]);
        match result {
            _ if allocated >= ALLOWANCE => faults.push(format!("{source}: {allocated} bytes")),
            // What the conversation adds is less than one.
            Err(TokenizerError::TemplateMemory { limit_mib, .. }) if !is_stepped => {
                assert_eq!(limit_mib, LIMIT >> 20)
            }
            Err(TokenizerError::Template { message, .. })
                if is_stepped && message.contains("more steps") => {}
            other => faults.push(format!("{source}: {:?}", other.map(|text| text.len()))),
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_error_says_what_was_wanted_and_where() {
    let _alone = ALONE
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let (result, _) = render("a\n{{ 'x' * 999999999 }}", &[]);
    assert_eq!(
        result.unwrap_err().to_string(),
        "chat template, line 2: wants more than 32 MiB of memory for this conversation: use another template"
    );
}

#[test]
fn nothing_deep_or_endless_ends_the_process() {
    let _alone = ALONE
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let many = |piece: &str| piece.repeat(20_000);
    let blocks = |open: &str, close: &str| format!("{}x{}", open.repeat(8000), close.repeat(8000));
    let around = |open: &str, close: &str| format!("{{{{ {}1{} }}}}", many(open), many(close));
    let templates = [
        // Values: in themselves, in each other.
        ("{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns }}".to_owned(), "cannot be kept"),
        ("{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}".to_owned(), "cannot be kept"),
        ("{% set a = namespace() %}{% set b = namespace(x=a) %}".to_owned(), "cannot be kept"),
        ("{% for x in [1, 2] %}{% set y = [loop] %}{% endfor %}".to_owned(), "cannot be kept"),
        ("{% macro m() %}{% endmacro %}{{ {'m': m} }}".to_owned(), "cannot be kept"),
        (looped("[]", "{% set ns.x = [ns.x] %}"), "nested deeper"),
        (looped("[]", "{% set ns.x = (ns.x,) %}"), "nested deeper"),
        (looped("{}", "{% set ns.x = {'a': ns.x} %}"), "nested deeper"),
        (looped("{}", "{% set ns.x = dict(a=ns.x) %}"), "nested deeper"),
        (looped("{'a': 1}", "{% set ns.x = {'a': ns.x.items()} %}"), "nested deeper"),
        // Calls.
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".to_owned(), "recursion"),
        ("{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}".to_owned(), "recursion"),
        ("{% for m in [messages] recursive %}{{ loop([m]) }}{% endfor %}".to_owned(), "recursion"),
        (
            format!("{{{{ ['a'] | map({}'upper') | list }}}}", "'map', ".repeat(9000)),
            "recursion",
        ),
        // The source.
        (around("(", ")"), "recursion"),
        (around("[", "]"), "recursion"),
        (around("{1: ", "}"), "recursion"),
        (around("-", ""), "recursion"),
        (around("not ", ""), "recursion"),
        (around("1 if 1 else ", ""), "recursion"),
        (around("1 + ", ""), "recursion"),
        (around("1 ~ ", ""), "recursion"),
        (around("1 and ", ""), "recursion"),
        (around("1 ** ", ""), "recursion"),
        (around("", ".a"), "recursion"),
        (around("", "[0]"), "recursion"),
        (around("", "()"), "recursion"),
        (around("", " | upper"), "recursion"),
        (around("", " is string"), "recursion"),
        (around("", " if 1"), "recursion"),
        (blocks("{% if 1 %}", "{% endif %}"), "recursion"),
        (blocks("{% for x in y %}", "{% endfor %}"), "recursion"),
        (blocks("{% macro m() %}", "{% endmacro %}"), "recursion"),
        (format!("{{% for {}x{} in y %}}{{% endfor %}}", many("("), many(")")), "recursion"),
        // Time.
        (
            "{% for a in range(9999) %}{% for b in range(9999) %}{% set c = b %}{% endfor %}{% endfor %}".to_owned(),
            "more steps",
        ),
        (
            "{% set x = 'a' * 1000000 %}{% for i in range(100) %}{% for j in range(99) %}{{ x == x ~ '' }}{{ 'b' in x }}\
             {% endfor %}{% endfor %}"
                .to_owned(),
            "",
        ),
    ];
    for (source, reason) in &templates {
        let (result, allocated) = render(source, &[Message::new("user", "x")]);
        let start: String = source.chars().take(80).collect();
        let error = result.expect_err(&start).to_string();
        assert!(error.contains(reason), "{start}: {error}");
        assert!(allocated < ALLOWANCE, "{start}: {allocated}");
    }
}

#[test]
fn long_chains_of_branches_need_no_stack() {
    let _alone = ALONE
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let source = format!(
        "{{% if 0 %}}{}{{% else %}}last{{% endif %}}",
        "{% elif 0 %}".repeat(10_000)
    );
    assert_eq!(render(&source, &[]).0.unwrap(), "last");
}

#[test]
fn a_long_conversation_may_be_copied_some_times() {
    let _alone = ALONE
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let said = 4 << 20;
    let source = "{% for m in messages %}{% set c = m.content | trim %}{% set c = c ~ '' %}\
                  {% if '</think>' in c %}{% set c = c.split('</think>')[-1].lstrip('\\n') %}{% endif %}\
                  {{ '<' + m.role + '>' + c + '\\n' }}{% endfor %}";
    let (result, allocated) = render(source, &[Message::new("user", "x".repeat(said))]);
    assert_eq!(result.unwrap().len(), said + "<user>\n".len());
    assert!(allocated < 32 * said, "{allocated}");
}
