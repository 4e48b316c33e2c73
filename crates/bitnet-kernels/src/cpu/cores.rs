//! How many threads compute unless somebody says otherwise: one for each core.
//!
//! The hyperthreads of a core share its vector units and its way to memory, which are what a forward pass is bound by; two
//! that spin for each other at every op only take turns.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// CPUs that this process may use: those in its affinity mask, within its cgroup's quota. On Linux the standard library asks
/// `sched_getaffinity` and reads the quota of cgroups v1 and v2, rounded down to whole CPUs.
pub fn available_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Cores that have a CPU which this process may use, within its cgroup's quota. Where the system does not tell which CPUs
/// are of one core, every CPU counts.
pub fn available_cores() -> usize {
    let cpus = available_cpus();
    allowed_cores(Path::new("/")).map_or(cpus, |cores| cores.min(cpus))
}

/// Cores that have a CPU which the calling thread may run on, by the files below `root`.
fn allowed_cores(root: &Path) -> Option<usize> {
    let status = fs::read_to_string(root.join("proc/thread-self/status")).ok()?;
    let list = (status.lines()).find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    // A mask may hold CPUs that are switched off, or could be plugged in: those have no topology.
    let siblings = |cpu: usize| {
        let file = format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
        fs::read_to_string(root.join(file)).ok()
    };
    let cpus = cpus_of(list.trim())?;
    let cores: BTreeSet<String> = cpus.into_iter().filter_map(siblings).collect();
    (!cores.is_empty()).then_some(cores.len())
}

/// More CPUs than a machine has.
const MAX_CPUS: usize = 1 << 16;

/// The CPUs of a list as the kernel writes it: `0-3,8`.
fn cpus_of(list: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if last >= MAX_CPUS {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The files of a machine whose cores have these CPUs, for a process that may use `allowed`.
    fn machine(allowed: &str, cores: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let write = |path: String, text: String| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(
            "proc/thread-self/status".into(),
            format!("Name:\tx\nCpus_allowed_list:\t{allowed}\n"),
        );
        for core in cores {
            for cpu in cpus_of(core).unwrap() {
                let file = format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
                write(file, format!("{core}\n"));
            }
        }
        root
    }

    #[test]
    fn hyperthreads_of_a_core_count_once() {
        for (allowed, cores, expected) in [
            ("0-7", ["0,4", "1,5", "2,6", "3,7"], Some(4)),
            ("0-3", ["0,4", "1,5", "2,6", "3,7"], Some(4)),
            ("0,4", ["0,4", "1,5", "2,6", "3,7"], Some(1)),
            ("1,4-5", ["0,4", "1,5", "2,6", "3,7"], Some(2)),
            ("0-3", ["0", "1", "2", "3"], Some(4)),
            ("0-1,4", ["0-1", "2-3", "4-5", "6-7"], Some(2)),
            // CPUs that are not there.
            ("0-127", ["0,4", "1,5", "2,6", "3,7"], Some(4)),
            ("8-15", ["0,4", "1,5", "2,6", "3,7"], None),
            // A list that is none.
            ("", ["0", "1", "2", "3"], None),
            ("0-99999999999", ["0", "1", "2", "3"], None),
        ] {
            let root = machine(allowed, &cores);
            assert_eq!(allowed_cores(root.path()), expected, "{allowed} {cores:?}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_thread_that_is_bound_to_one_cpu_finds_one() {
        let found = std::thread::spawn(|| {
            // SAFETY: a set of CPUs is plain bits, and the calls get its size; they bind this thread alone, to the first
            // CPU of those that it may use.
            unsafe {
                let mut set: libc::cpu_set_t = std::mem::zeroed();
                let size = size_of::<libc::cpu_set_t>();
                assert_eq!(libc::sched_getaffinity(0, size, &mut set), 0);
                let cpus = 0..libc::CPU_SETSIZE as usize;
                let first = cpus.into_iter().find(|&cpu| libc::CPU_ISSET(cpu, &set));
                libc::CPU_ZERO(&mut set);
                libc::CPU_SET(first.unwrap(), &mut set);
                assert_eq!(libc::sched_setaffinity(0, size, &set), 0);
            }
            available_cores()
        });
        assert_eq!(found.join().unwrap(), 1);
    }

    #[test]
    fn a_system_that_does_not_tell_is_asked_for_its_cpus_alone() {
        let nothing = tempfile::tempdir().unwrap();
        assert_eq!(allowed_cores(nothing.path()), None);
        assert!(available_cores() >= 1);
    }
}
