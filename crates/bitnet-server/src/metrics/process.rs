//! What the system says of this process. What it does not say is `None`, and then absent from the metrics.

use std::time::{Duration, Instant};

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ProcessSample {
    /// Memory in RAM, in bytes.
    pub resident_bytes: Option<u64>,
    /// Processor time since the start, in seconds.
    pub cpu_seconds: Option<f64>,
    /// Open files.
    pub open_files: Option<usize>,
}

/// Processor time between measurements.
#[derive(Debug, Default)]
pub struct CpuMeter {
    last: Option<(Instant, f64)>,
}

impl ProcessSample {
    /// Measures now. Linux tells by `/proc`; elsewhere nothing is measured.
    pub fn take() -> ProcessSample {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).ok();
        ProcessSample {
            resident_bytes: read("status").as_deref().and_then(resident_bytes),
            cpu_seconds: read("stat").as_deref().and_then(cpu_seconds),
            open_files: std::fs::read_dir("/proc/self/fd").ok().map(Iterator::count),
        }
    }
}

impl CpuMeter {
    /// Share of `cores` that was used since the last call; `None` at the first, and when no time has passed.
    pub fn share(&mut self, now: Instant, cpu_seconds: f64, cores: usize) -> Option<f64> {
        let (then, before) = self.last.replace((now, cpu_seconds))?;
        let passed = now.saturating_duration_since(then);
        (passed > Duration::ZERO).then(|| {
            let share = (cpu_seconds - before) / (passed.as_secs_f64() * cores.max(1) as f64);
            share.clamp(0.0, 1.0)
        })
    }
}

/// `VmRSS` of `/proc/self/status`, proc(5).
fn resident_bytes(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// Memory that only this process has and that cannot be read from a file again: `Private_Dirty` of
/// `/proc/self/smaps_rollup`, or `Anonymous` where that is more, in bytes. `None` where the system does not tell.
pub fn private_bytes() -> Option<u64> {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").ok()?;
    let field = |name: &str| -> Option<u64> {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    let kibibytes = field("Private_Dirty:")?.max(field("Anonymous:")?);
    kibibytes.checked_mul(1024)
}

/// `utime` and `stime` of `/proc/self/stat`, proc(5). The name before them may hold spaces, but ends at the last `)`.
fn cpu_seconds(stat: &str) -> Option<f64> {
    /// USER_HZ: 100 on every architecture that Linux runs Rust's standard library on.
    const TICKS_PER_SECOND: f64 = 100.0;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_proc_are_read() {
        assert_eq!(
            resident_bytes("Name:\tx\nVmRSS:\t  2048 kB\nVmData: 1 kB\n"),
            Some(2 << 20)
        );
        assert_eq!(resident_bytes("Name:\tx\n"), None);
        let stat = "1 (a ) b) S 1 1 1 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 1 0";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(cpu_seconds("nonsense"), None);
    }

    #[test]
    fn the_share_is_of_all_cores_and_needs_two_measurements() {
        let mut meter = CpuMeter::default();
        let start = Instant::now();
        assert_eq!(meter.share(start, 10.0, 2), None);
        assert_eq!(
            meter.share(start + Duration::from_secs(2), 12.0, 2),
            Some(0.5)
        );
        assert_eq!(meter.share(start + Duration::from_secs(2), 12.0, 2), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_memory_time_and_files() {
        let sample = ProcessSample::take();
        assert!(sample.resident_bytes.unwrap() > 100_000);
        assert!(sample.cpu_seconds.is_some());
        assert!(sample.open_files.unwrap() >= 3);
    }
}
