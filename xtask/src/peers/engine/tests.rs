use super::super::options::ModelShape;
use super::super::plan::RandomModel;
use super::*;

fn job(engine: Contender, phase: Timed) -> PeerJob {
    PeerJob {
        engine,
        model: RandomModel {
            shape: ModelShape::B2b4t,
            arch: "bitnet",
            ternary: "tq2_0",
            head: "q6_k",
        },
        phase,
        threads: 2,
        kv_type: None,
    }
}

fn decode(generate: usize, batch: usize, depth: usize) -> Timed {
    Timed::Decode {
        generate,
        batch,
        depth,
    }
}

#[test]
fn both_engines_are_asked_for_the_same_phase() {
    for (phase, bitnet, llama) in [
        (Timed::Prefill(512), "-p 512 -n 0", "prefill:512"),
        (decode(128, 1, 0), "-p 0 -n 129 -b 1 -d 1", "decode:128"),
        (decode(32, 16, 0), "-p 0 -n 33 -b 16 -d 1", "decode:32x16"),
        (
            decode(64, 1, 4031),
            "-p 0 -n 65 -b 1 -d 4031",
            "decode:64@4031",
        ),
    ] {
        let ours = bench_args(&job(Contender::Bitnet, phase)).join(" ");
        assert!(ours.ends_with(&format!("-t 2 {bitnet}")), "{ours}");
        let theirs = crossval_args(&job(Contender::LlamaCpp, phase)).join(" ");
        assert_eq!(theirs, format!("--isa native --threads 2 --phases {llama}"));
    }
    let half = PeerJob {
        kv_type: Some("f16"),
        ..job(Contender::Bitnet, Timed::Prefill(8))
    };
    assert!(bench_args(&half).join(" ").ends_with("--kv-type f16"));
    let avx2 = crossval_args(&job(Contender::LlamaCppAvx2, Timed::Prefill(8)));
    assert_eq!(avx2[1], "avx2");
}

#[test]
fn results_of_every_engine_are_read() {
    let ours = r#"{"results": [{"tok_s": 27.5, "bandwidth_share": 0.8, "compute_share": 0.1}]}"#;
    let sample = bench_sample(ours).unwrap();
    assert_eq!((sample.value, sample.bandwidth_share), (27.5, Some(0.8)));

    let llama = "{\"engine\": \"llama.cpp\"}\n{\"phase\": \"decode\", \"tok_s\": 25.0}\n";
    assert_eq!(crossval_sample(llama).unwrap().value, 25.0);

    let bitnet_cpp = "loading model\n[{\"n_gen\": 128, \"avg_ts\": 11.8}]\n";
    assert_eq!(llama_bench_sample(bitnet_cpp).unwrap().value, 11.8);
    let args = llama_bench_args(&job(Contender::BitnetCpp, decode(128, 1, 0))).unwrap();
    assert_eq!(args.join(" "), "-o json -r 1 -t 2 -p 0 -n 128");
}

#[test]
fn nothing_is_read_out_of_failures() {
    assert!(bench_sample(r#"{"results": []}"#).is_err());
    assert!(crossval_sample("").is_err());
    assert!(crossval_sample("{\"tok_s\": 0.0}").is_err());
    assert!(llama_bench_sample("no such file").is_err());
    assert!(llama_bench_args(&job(Contender::BitnetCpp, decode(8, 4, 0))).is_err());
}
