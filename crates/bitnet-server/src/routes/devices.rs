//! `GET /v1/devices`: what models can run on here, and what they do run on.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use bitnet_inference::cpu_features;
use serde::Serialize;

use crate::app::App;
use crate::machine::HostMachine;

/// The answer.
#[derive(Debug, Serialize)]
pub struct DeviceList {
    cpu: CpuDevice,
    /// Graphics processors that models can run on. This engine has kernels for CPUs alone, so there is none, whatever
    /// the machine has.
    gpus: [(); 0],
    models: Vec<ModelDevice>,
}

/// The processor.
#[derive(Debug, Serialize)]
struct CpuDevice {
    architecture: &'static str,
    /// `null` where the system does not tell.
    model: Option<String>,
    /// Those that kernels could use.
    instruction_sets: Vec<&'static str>,
    /// Fastest first; which one a model takes is decided when it is loaded.
    kernels_available: Vec<&'static str>,
    /// CPUs that this process may use: affinity and quota, rounded down.
    usable_cpus: usize,
    #[serde(flatten)]
    machine: HostMachine,
}

/// Where a model runs.
#[derive(Debug, Serialize)]
struct ModelDevice {
    id: String,
    device: &'static str,
    kernel: String,
    threads: usize,
}

/// Lists them.
pub async fn list(State(app): State<Arc<App>>) -> Json<DeviceList> {
    let features = cpu_features();
    let models = app.models.all();
    Json(DeviceList {
        cpu: CpuDevice {
            architecture: features.arch,
            model: features.model,
            instruction_sets: features.instruction_sets,
            kernels_available: features.kernels,
            usable_cpus: features.cpus,
            machine: HostMachine::detect(),
        },
        gpus: [],
        models: models
            .iter()
            .map(|model| ModelDevice {
                id: model.id.clone(),
                device: model.device(),
                kernel: model.engine.info().kernel.clone(),
                threads: model.engine.info().threads,
            })
            .collect(),
    })
}
