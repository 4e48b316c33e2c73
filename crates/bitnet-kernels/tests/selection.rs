//! Which kernel runs: the fastest, or the one that was asked for; never a silent replacement.

mod support;

use bitnet_kernels::{Backend, CpuBackend, CpuOptions, available_kernels, cpu_features};

fn choose(kernel: &str) -> Result<CpuBackend, String> {
    let options = CpuOptions {
        threads: Some(1),
        kernel: Some(kernel.to_owned()),
        ..CpuOptions::default()
    };
    CpuBackend::new(options).map_err(|error| error.to_string())
}

#[test]
fn every_available_kernel_passes_its_self_test_and_runs_under_its_name() {
    for name in available_kernels() {
        assert_eq!(choose(name).unwrap().kernel_name(), name);
    }
}

#[test]
fn the_first_available_kernel_is_the_default() {
    let backend = CpuBackend::new(CpuOptions::default()).unwrap();
    assert_eq!(backend.kernel_name(), available_kernels()[0]);
    assert_eq!(backend.threads(), cpu_features().cores);
    assert_eq!(
        backend.warnings().len(),
        usize::from(available_kernels()[0].starts_with("scalar"))
    );
}

#[test]
fn small_models_keep_two_bits_and_large_ones_take_the_winner_of_the_race() {
    let mut backend = CpuBackend::new(CpuOptions::default()).unwrap();
    backend.choose_layout(1 << 20).unwrap();
    assert_eq!(
        (backend.kernel_name(), backend.probe()),
        (available_kernels()[0], None)
    );
    backend.choose_layout(1 << 30).unwrap();
    let Some(probe) = backend.probe() else {
        assert_eq!(backend.kernel_name(), available_kernels()[0]);
        return;
    };
    assert!(probe.i2s > 0.0 && probe.t5 > 0.0, "{probe:?}");
    let layout = backend.kernel_name().split('-').nth(1);
    assert_eq!(layout, Some(probe.fastest().name()));
}

#[test]
fn a_kernel_that_is_asked_for_gives_no_warning() {
    for kernel in ["scalar-i2s", "scalar-t5"] {
        assert!(choose(kernel).unwrap().warnings().is_empty());
    }
}

#[test]
fn kernels_that_are_not_here_are_refused_with_those_that_are() {
    let foreign = if cfg!(target_arch = "aarch64") {
        "x86-i2s-avx2"
    } else {
        "arm-i2s-neon"
    };
    for (name, problem) in [
        (foreign, "not supported by this CPU"),
        ("x86-i2s-mmx", "unknown"),
        ("", "unknown"),
    ] {
        let available = available_kernels().join(", ");
        let expected = format!("kernel {name:?} is {problem}; available here: {available}");
        assert_eq!(choose(name).unwrap_err(), expected);
    }
}
