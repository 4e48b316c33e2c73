//! `bench`: the JSON document is a contract.

use crate::bitnet::run;

#[test]
fn bench_prints_the_contract() {
    let args = [
        "bench",
        "-p",
        "8,16",
        "-n",
        "4",
        "-b",
        "1,3",
        "-t",
        "1",
        "--repetitions",
        "2",
    ];
    let report = run(&[&args[..], &["--format", "json"]].concat()).json();
    assert_eq!(report["model"], "stories-5m (embedded)");
    let keys = |value: &serde_json::Value| {
        value
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    let sorted = |mut names: Vec<String>| {
        names.sort();
        names
    };
    assert_eq!(sorted(keys(&report)), ["machine", "model", "results"]);
    assert_eq!(
        sorted(keys(&report["machine"])),
        ["cpu", "int8_gops", "read_gb_s"]
    );
    assert!(report["machine"]["read_gb_s"].as_f64().unwrap() > 0.1);
    assert!(report["machine"]["int8_gops"].as_f64().unwrap() > 0.1);
    let results = report["results"].as_array().unwrap();
    let what: Vec<(&str, u64, u64, u64)> = results
        .iter()
        .map(|r| {
            let number = |key: &str| r[key].as_u64().unwrap();
            (
                r["phase"].as_str().unwrap(),
                number("prompt"),
                number("generate"),
                number("batch"),
            )
        })
        .collect();
    assert_eq!(
        what,
        [
            ("prefill", 8, 0, 1),
            ("prefill", 16, 0, 1),
            ("decode", 1, 4, 1),
            ("decode", 1, 4, 3)
        ]
    );
    for r in results {
        assert_eq!(
            sorted(keys(r)),
            [
                "bandwidth_share",
                "batch",
                "bytes_per_token",
                "compute_share",
                "generate",
                "phase",
                "prompt",
                "threads",
                "tok_s",
                "tok_s_max",
                "tok_s_min"
            ]
        );
        let number = |key: &str| r[key].as_f64().unwrap();
        assert!(
            number("tok_s_min") <= number("tok_s") && number("tok_s") <= number("tok_s_max"),
            "{r}"
        );
        assert!(
            number("tok_s_min") > 0.0 && number("bytes_per_token") > 0.0,
            "{r}"
        );
        let share = number("tok_s") * number("bytes_per_token")
            / (report["machine"]["read_gb_s"].as_f64().unwrap() * 1e9);
        let share = share.min(1.0);
        assert!((share - number("bandwidth_share")).abs() < 1e-9, "{r}");
    }
    let markdown = run(&[&args[..], &["--format", "md"]].concat());
    assert_eq!(markdown.ok().lines().count(), 2 + results.len());
}
