//! What a server costs and how it is, looked at from outside: `/proc` and its health route, on a thread of its own so
//! that a busy client does not slow the looking. Other threads only sleep, one on each processor, and tell when the
//! machine let them wait.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::gaps::Stall;
use super::latency::LatencyHistogram;

/// Time between two looks.
const INTERVAL: Duration = Duration::from_millis(100);

/// Sleep of a thread that does nothing else.
const NAP: Duration = Duration::from_millis(2);

/// How late it is woken when the machine is held up. The kernel's time slices are of some 3 ms, so where it has to wait
/// for every thread of the server and the client on its processor, one after the other, it is run before.
const STALL: Duration = Duration::from_millis(15);

/// Longest wait for the health route: one that is later counts as a failure.
const PATIENCE: Duration = Duration::from_secs(5);

/// Ticks a second of the times in `/proc/PID/stat`: the same on every Linux.
const TICKS: f64 = 100.0;

/// What was seen.
#[derive(Debug, Clone, Default)]
pub struct Watched {
    /// Seconds since the watch began, and the resident megabytes at that time.
    pub memory: Vec<(f64, f64)>,
    /// How long the health route took.
    pub health: LatencyHistogram,
    /// How often it did not answer, or not with 200 or 503.
    pub health_failures: usize,
    /// How late threads that only sleep were woken: the delay that the machine gives everybody, whatever the server
    /// does.
    pub late: LatencyHistogram,
    /// When one of them was very late, as they ended.
    pub stalls: Vec<Stall>,
}

/// Looks until it is dropped.
pub struct Watch {
    seen: Arc<Mutex<Watched>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    /// Looks at the server at `address`, and at the memory of process `pid` if it is known.
    pub fn start(address: SocketAddr, pid: Option<u32>) -> Watch {
        let seen = Arc::new(Mutex::new(Watched::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let looks = std::thread::spawn({
            let (seen, stop) = (seen.clone(), stop.clone());
            move || look(address, pid, &seen, &stop)
        });
        let sleeps = processors().into_iter().map(|processor| {
            let (seen, stop) = (seen.clone(), stop.clone());
            std::thread::spawn(move || sleep(processor, &seen, &stop))
        });
        let threads = std::iter::once(looks).chain(sleeps).collect();
        Watch {
            seen,
            stop,
            threads,
        }
    }

    /// What was seen since the start or the last call.
    pub fn take(&self) -> Watched {
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It only reads and counts.
            let _ = thread.join();
        }
    }
}

fn look(address: SocketAddr, pid: Option<u32>, seen: &Mutex<Watched>, stop: &AtomicBool) {
    let started = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let looked = Instant::now();
        let answered = ask(address);
        let took = looked.elapsed();
        let memory = pid.and_then(resident_megabytes);
        {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            match answered {
                Ok(()) => seen.health.add(took),
                Err(_) => seen.health_failures += 1,
            }
            let at = started.elapsed().as_secs_f64();
            seen.memory.extend(memory.map(|megabytes| (at, megabytes)));
        }
        std::thread::sleep(INTERVAL.saturating_sub(looked.elapsed()));
    }
}

/// The processors that this process may use; `None` is any of them, where the system does not tell.
#[cfg(target_os = "linux")]
fn processors() -> Vec<Option<usize>> {
    let Ok(set) = rustix::thread::sched_getaffinity(None) else {
        return vec![None];
    };
    let all = 0..rustix::thread::CpuSet::MAX_CPU;
    all.filter(|&cpu| set.is_set(cpu)).map(Some).collect()
}

#[cfg(not(target_os = "linux"))]
fn processors() -> Vec<Option<usize>> {
    vec![None]
}

/// Binds the calling thread to a processor. Where that is refused it sleeps on any of them, which tells less.
fn stay_on(processor: Option<usize>) {
    #[cfg(target_os = "linux")]
    if let Some(cpu) = processor {
        let mut set = rustix::thread::CpuSet::new();
        set.set(cpu);
        let _ = rustix::thread::sched_setaffinity(None, &set);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = processor;
}

fn sleep(processor: Option<usize>, seen: &Mutex<Watched>, stop: &AtomicBool) {
    stay_on(processor);
    while !stop.load(Ordering::Relaxed) {
        let from = Instant::now() + NAP;
        std::thread::sleep(NAP);
        let to = Instant::now();
        let late = to.saturating_duration_since(from);
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.late.add(late);
        if late >= STALL {
            seen.stalls.push(Stall { from, to });
        }
    }
}

/// One question on a connection of its own, as probes do it.
fn ask(address: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream
        .write_all(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    if answer.starts_with(b"HTTP/1.1 200") {
        return Ok(());
    }
    Err(std::io::ErrorKind::InvalidData.into())
}

/// Resident memory of a process; `None` where `/proc` does not tell.
pub fn resident_megabytes(pid: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes / 1024.0)
}

/// Processor seconds that a process took so far, its own and the system's for it.
pub fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / TICKS)
}

/// The slope of the line through `points` that leaves the least squares; `None` of fewer than two places.
pub fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let n = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / n;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let spread: f64 = points.iter().map(|p| (p.0 - x).powi(2)).sum();
    let along: f64 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
    (spread > 0.0).then(|| along / spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_of_a_line_is_its_own() {
        assert_eq!(slope(&[]), None);
        assert_eq!(slope(&[(1.0, 5.0), (1.0, 6.0)]), None);
        assert_eq!(slope(&[(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)]), Some(2.0));
        // One outlier in the middle tilts nothing.
        assert_eq!(slope(&[(0.0, 1.0), (1.0, 9.0), (2.0, 1.0)]), Some(0.0));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_memory_and_has_worked() {
        let pid = std::process::id();
        assert!(resident_megabytes(pid).unwrap() > 0.1);
        assert!(cpu_seconds(pid).is_some());
        assert_eq!(resident_megabytes(u32::MAX), None);
    }
}
