//! Which way a backend packs weights: chosen by a race, or taken over from a file, and named so that files know theirs.

use std::sync::{Mutex, PoisonError};

use super::isa::Kernel;
use super::layout::Layout;
use super::memory::Arena;
use super::probe::LayoutProbe;
use super::{CpuBackend, probe, self_test};
use crate::error::KernelError;
use crate::packed::PACKING_VERSION;

/// Races that this process has run: kernel, threads, outcome. A machine does not change, but the second race may run
/// beside requests, and takes memory.
static RACES: Mutex<Vec<(&str, usize, LayoutProbe)>> = Mutex::new(Vec::new());

impl CpuBackend {
    /// Chooses how `n_weights` ternary weights with one scale a tensor will be packed: where there are two ways and the
    /// weights do not fit into caches, the faster one in a race of less than a tenth of a second, of which a process has one.
    /// To be called before the first upload, unless the user has named a kernel.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`]; [`KernelError::SelfTest`] if the chosen kernel computes something wrong here.
    pub fn choose_layout(&mut self, n_weights: usize) -> Result<(), KernelError> {
        // Four weights a byte.
        if n_weights / 4 <= probe::PROBE_BYTES {
            return Ok(());
        }
        let Some(other) = self.kernel.with_five_a_byte() else {
            return Ok(());
        };
        let mut races = RACES.lock().unwrap_or_else(PoisonError::into_inner);
        let threads = self.pool.threads();
        let known = races
            .iter()
            .find(|race| (race.0, race.1) == (other.name(), threads));
        let probe = match known {
            Some(&(_, _, probe)) => probe,
            None => {
                let probe = probe::race(other, &self.pool)?;
                races.push((other.name(), threads, probe));
                probe
            }
        };
        drop(races);
        self.probe = Some(probe);
        if probe.fastest() == Layout::T5 {
            self_test::run(other, &self.pool)?;
            self.kernel = other;
        }
        Ok(())
    }

    /// Chooses how ternary weights with one scale a tensor will be packed by the name of the [`packing`](crate::Backend::packing),
    /// as it was chosen before; `false` when kernels of this name do not run here. To be called before the first upload.
    ///
    /// # Errors
    /// [`KernelError::SelfTest`] if the kernel computes something wrong here.
    pub fn take_packing(&mut self, name: &str) -> Result<bool, KernelError> {
        for kernel in [Some(self.kernel), self.kernel.with_five_a_byte()] {
            let Some(kernel) = kernel else { continue };
            if self.packing_of(kernel) != name {
                continue;
            }
            if kernel.name() != self.kernel.name() {
                self_test::run(kernel, &self.pool)?;
                self.kernel = kernel;
            }
            return Ok(true);
        }
        Ok(false)
    }

    /// Names what packed bytes depend on, but for the weights.
    pub(super) fn packing_of(&self, kernel: Kernel) -> String {
        let copies = if self.skips_zeros { "sparse" } else { "dense" };
        format!("cpu-{}-{copies}-{PACKING_VERSION}", kernel.layout().name())
    }

    /// Gives back the memory that packing has kept for the next weight.
    pub fn end_packing(&self) {
        *self.arena.lock().unwrap_or_else(PoisonError::into_inner) = Arena::default();
    }

    /// What [`choose_layout`](CpuBackend::choose_layout) measured, if it had a choice.
    pub fn probe(&self) -> Option<LayoutProbe> {
        self.probe
    }
}
