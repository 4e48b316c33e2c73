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
    assert_eq!(
        sorted(keys(&report)),
        ["kernels", "machine", "model", "results"]
    );
    assert_eq!(
        sorted(keys(&report["machine"])),
        ["cpu", "int8_gops", "limits", "read_gb_s"]
    );
    assert!(report["machine"]["read_gb_s"].as_f64().unwrap() > 0.1);
    assert!(report["machine"]["int8_gops"].as_f64().unwrap() > 0.1);
    let limits = report["machine"]["limits"].as_array().unwrap();
    assert_eq!(limits[0]["threads"], 1);
    assert_eq!(limits[0]["read_gb_s"], report["machine"]["read_gb_s"]);
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

#[test]
fn bench_profiles_plots_and_compares() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (svg, json) = (path("shares.svg"), path("report.json"));
    let args = [
        "bench",
        "-p",
        "0",
        "-n",
        "4",
        "-b",
        "1,2",
        "-d",
        "5",
        "-t",
        "1",
        "--repetitions",
        "1",
        "--profile",
        "--plot",
        &svg,
        "--format",
        "json",
    ];
    let output = run(&args);
    let report = output.json();
    let results = report["results"].as_array().unwrap();
    assert_eq!(results.len(), 2);
    for r in results {
        assert_eq!(r["prompt"], 5);
        let parts = r["profile"].as_array().unwrap();
        let share: f64 = parts.iter().map(|p| p["share"].as_f64().unwrap()).sum();
        assert!((share - 1.0).abs() < 0.01, "{share}");
        let named = |name: &str| parts.iter().find(|p| p["operation"] == name).unwrap();
        assert!(named("gate up")["gb_s"].as_f64().unwrap() > 0.0);
        assert!(named("attention")["gops"].as_f64().unwrap() > 0.0);
        assert_eq!(named("head")["calls"], 3);
    }
    let drawn = std::fs::read_to_string(&svg).unwrap();
    assert!(drawn.starts_with("<svg") && drawn.ends_with("</svg>\n"));
    for r in results {
        let share = r["bandwidth_share"].as_f64().unwrap() * 100.0;
        let tokens = match r["batch"].as_u64().unwrap() {
            1 => "1 token".into(),
            n => format!("{n} tokens"),
        };
        let words = format!("{tokens}: {share:.0} % of the read bandwidth");
        assert!(drawn.contains(&words), "{words}\n{drawn}");
    }
    let kernel = report["kernels"][0]["kernel"].as_str().unwrap();
    let model = report["model"].as_str().unwrap();
    for words in [kernel, model, "layers of", "share of the limit"] {
        assert!(drawn.contains(words), "{words}\n{drawn}");
    }

    std::fs::write(&json, report.to_string()).unwrap();
    let compared = run(&["bench", "--compare", &json, &json, "--format", "json"]).json();
    let ratios: Vec<f64> = compared
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["ratio"].as_f64().unwrap())
        .collect();
    assert_eq!(ratios, [1.0, 1.0]);
}

#[test]
fn bench_refuses_what_cannot_be_measured() {
    for (args, hint) in [
        (&["bench", "-n", "1"][..], "at least 2"),
        (&["bench", "-n", "0", "-p", "0"], "nothing to measure"),
        (
            &["bench", "--compare", "/no/such.json", "/no/other.json"],
            "cannot read",
        ),
        (
            &["bench", "-b", "4", "-p", "0", "--plot", "/no/such.svg"],
            "two sizes",
        ),
        (
            &["bench", "--plot", "/no/my shares.png"],
            "the name /no/my shares.png does not end in .svg\nhint: --plot '/no/my shares.svg'\n",
        ),
        (&["bench", "--plot", "shares"], "does not end in .svg"),
    ] {
        let output = run(args);
        assert_ne!(output.code, Some(0), "{args:?}");
        assert!(output.stderr.contains(hint), "{args:?}: {}", output.stderr);
    }
}
