//! Progress of a download: a bar for each file under way and one for all, on terminals; elsewhere lines, for what takes
//! unexpectedly long.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bitnet_hub::{FileName, HubFile, Pause, PullObserver};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::notice;
use crate::sanitize;
use crate::units;

/// Characters of a file's name beside its bar: the end of it tells more than the beginning.
const NAME_WIDTH: usize = 28;

/// What a download tells.
pub struct DownloadBars {
    bars: MultiProgress,
    total: ProgressBar,
    files: Mutex<HashMap<FileName, ProgressBar>>,
}

impl DownloadBars {
    /// Nothing of `n_bytes` has arrived.
    pub fn new(n_bytes: u64) -> DownloadBars {
        let target = match std::io::stderr().is_terminal() {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let bars = MultiProgress::with_draw_target(target);
        let total = bars.add(bar("all", n_bytes));
        DownloadBars {
            bars,
            total,
            files: Mutex::default(),
        }
    }

    /// Tells at any time how many bytes have not arrived.
    pub fn left(&self) -> impl Fn() -> u64 + Send + 'static {
        let total = self.total.clone();
        move || {
            let all = total.length().unwrap_or_default();
            all.saturating_sub(total.position())
        }
    }

    fn files(&self) -> MutexGuard<'_, HashMap<FileName, ProgressBar>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, text: &str) {
        self.bars.suspend(|| notice(text));
    }
}

fn bar(name: &str, n_bytes: u64) -> ProgressBar {
    let name = sanitize::one_line(name);
    let shown = match name.char_indices().rev().nth(NAME_WIDTH - 2) {
        Some((at, _)) if at > 0 => format!("…{}", &name[at..]),
        _ => name,
    };
    let template = "{msg:<28} [{bar:20}] {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta:>6}";
    let style = ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ");
    ProgressBar::new(n_bytes)
        .with_style(style)
        .with_message(shown)
}

impl PullObserver for DownloadBars {
    fn begins(&self, file: &HubFile, there: u64) {
        let bar = self
            .bars
            .insert_before(&self.total, bar(file.name.as_str(), file.size));
        bar.set_position(there);
        bar.reset_eta();
        self.files().insert(file.name.clone(), bar);
        if there > 0 {
            self.tell(&format!(
                "{}: {} are there already",
                file.name,
                units::bytes(there)
            ));
        }
    }

    fn received(&self, file: &HubFile, n_bytes: u64) {
        self.total.inc(n_bytes);
        if let Some(bar) = self.files().get(&file.name) {
            bar.inc(n_bytes);
        }
    }

    fn starts_over(&self, file: &HubFile, why: &str) {
        if let Some(bar) = self.files().get(&file.name) {
            self.total.inc_length(bar.position());
            bar.reset();
        }
        self.tell(&sanitize::one_line(&format!(
            "{why}; it is downloaded anew"
        )));
    }

    fn ends(&self, file: &HubFile) {
        if let Some(bar) = self.files().remove(&file.name) {
            bar.finish_and_clear();
        }
    }

    fn stands_by(&self, file: &HubFile) {
        self.tell(&format!(
            "{}: another process downloads it; waiting for that one",
            file.name
        ));
    }

    fn waits(&self, why: &str, pause: &Pause<'_>) {
        self.tell(&format!(
            "{why}; trying again in {}",
            units::duration(pause.wait)
        ));
        pause.pass();
    }
}

impl Drop for DownloadBars {
    fn drop(&mut self) {
        for (_, bar) in self.files().drain() {
            bar.finish_and_clear();
        }
        self.total.finish_and_clear();
    }
}
