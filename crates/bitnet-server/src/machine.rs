//! What Linux says of this machine: processors, quota, caches, NUMA nodes, memory. What it does not say is `None`, and
//! so is everything elsewhere.
//!
//! Sources: proc(5), the kernel's `Documentation/ABI/testing/sysfs-devices-system-cpu`, `cgroup-v1/` and
//! `cgroup-v2.rst`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// This machine.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct HostMachine {
    /// CPUs that are switched on; two of one core count twice.
    pub logical_cpus: Option<usize>,
    /// Cores.
    pub physical_cores: Option<usize>,
    /// CPUs that this process may run on, as the kernel lists them: `0-3,8`.
    pub allowed_cpus: Option<String>,
    /// CPUs that the container's quota is worth; `null` without a quota.
    pub cgroup_quota_cpus: Option<f64>,
    /// Memory of the machine.
    pub memory_bytes: Option<u64>,
    /// Memory that could be taken now, of the machine and within the container's limit.
    pub memory_available_bytes: Option<u64>,
    /// The container's limit of memory; `null` without one.
    pub cgroup_memory_limit_bytes: Option<u64>,
    /// Caches of the first CPU, nearest first.
    pub caches: Vec<CpuCache>,
    /// NUMA nodes.
    pub numa_nodes: Vec<NumaNode>,
}

/// A cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CpuCache {
    /// 1 is nearest.
    pub level: u32,
    /// `data`, `instruction` or `unified`.
    pub kind: String,
    /// Its size.
    pub bytes: u64,
    /// CPUs that share it.
    pub shared_by: Option<usize>,
}

/// Memory and the CPUs near it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NumaNode {
    /// Its number.
    pub node: usize,
    /// Its CPUs, as the kernel lists them.
    pub cpus: String,
    /// Its memory.
    pub memory_bytes: Option<u64>,
}

impl HostMachine {
    /// Asks now.
    pub fn detect() -> HostMachine {
        HostMachine::under(Path::new("/"))
    }

    /// The same of a tree that holds `proc` and `sys`.
    fn under(root: &Path) -> HostMachine {
        let read = |path: &str| fs::read_to_string(root.join(path)).ok();
        let meminfo = read("proc/meminfo").unwrap_or_default();
        let status = read("proc/self/status").unwrap_or_default();
        let cpus = root.join("sys/devices/system/cpu");
        let group = cgroup_memory(root);
        HostMachine {
            logical_cpus: read("sys/devices/system/cpu/online").and_then(|list| count(&list)),
            physical_cores: physical_cores(&cpus),
            allowed_cpus: field(&status, "Cpus_allowed_list:").map(str::to_owned),
            cgroup_quota_cpus: cgroup_quota(root),
            memory_bytes: kibibytes(&meminfo, "MemTotal:"),
            memory_available_bytes: [
                kibibytes(&meminfo, "MemAvailable:"),
                group.map(|group| group.available),
            ]
            .into_iter()
            .flatten()
            .min(),
            cgroup_memory_limit_bytes: group.map(|group| group.limit),
            caches: caches(&cpus.join("cpu0/cache")),
            numa_nodes: numa_nodes(&root.join("sys/devices/system/node")),
        }
    }
}

/// Bytes of memory that could be taken now, of the machine and within the container's limit; `None` where the system
/// does not tell.
pub fn available_memory() -> Option<u64> {
    HostMachine::detect().memory_available_bytes
}

/// Bytes of memory that there are, of the machine and within the container's limit, whoever has them now; `None` where
/// the system does not tell.
pub fn total_memory() -> Option<u64> {
    let machine = HostMachine::detect();
    let limits = [machine.memory_bytes, machine.cgroup_memory_limit_bytes];
    limits.into_iter().flatten().min()
}

/// CPUs in a list such as `0-3,8`.
fn count(list: &str) -> Option<usize> {
    list.trim().split(',').try_fold(0_usize, |sum, part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim())
}

fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let number = field(text, name)?.strip_suffix("kB")?.trim();
    number.parse::<u64>().ok()?.checked_mul(1024)
}

/// Folders in `folder` that are called `prefix` and a number, by number.
fn numbered(folder: &Path, prefix: &str) -> Vec<(usize, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<(usize, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let number = name.to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((number, entry.path()))
        })
        .collect();
    found.sort();
    found
}

fn physical_cores(cpus: &Path) -> Option<usize> {
    let cores: BTreeSet<(String, String)> = numbered(cpus, "cpu")
        .into_iter()
        .filter_map(|(_, cpu)| {
            let read = |name: &str| fs::read_to_string(cpu.join("topology").join(name)).ok();
            Some((read("physical_package_id")?, read("core_id")?))
        })
        .collect();
    (!cores.is_empty()).then_some(cores.len())
}

fn caches(folder: &Path) -> Vec<CpuCache> {
    let mut caches: Vec<CpuCache> = numbered(folder, "index")
        .into_iter()
        .filter_map(|(_, cache)| {
            let read = |name: &str| fs::read_to_string(cache.join(name)).ok();
            let size = read("size")?;
            let (number, unit) = size.trim().split_at(size.trim().len().checked_sub(1)?);
            let scale = match unit {
                "K" => 1 << 10,
                "M" => 1 << 20,
                _ => return None,
            };
            Some(CpuCache {
                level: read("level")?.trim().parse().ok()?,
                kind: read("type")?.trim().to_lowercase(),
                bytes: number.parse::<u64>().ok()?.checked_mul(scale)?,
                shared_by: read("shared_cpu_list").and_then(|list| count(&list)),
            })
        })
        .collect();
    caches.sort_by_key(|cache| cache.level);
    caches
}

fn numa_nodes(folder: &Path) -> Vec<NumaNode> {
    numbered(folder, "node")
        .into_iter()
        .filter_map(|(node, path)| {
            let meminfo = fs::read_to_string(path.join("meminfo")).unwrap_or_default();
            // `Node 0 MemTotal: 123 kB`
            let total = meminfo.lines().find_map(|line| {
                let (_, rest) = line.split_once("MemTotal:")?;
                rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
            });
            Some(NumaNode {
                node,
                cpus: fs::read_to_string(path.join("cpulist"))
                    .ok()?
                    .trim()
                    .to_owned(),
                memory_bytes: total.and_then(|kib| kib.checked_mul(1024)),
            })
        })
        .collect()
}

/// The smallest quota of this process's control group and those above it.
fn cgroup_quota(root: &Path) -> Option<f64> {
    let quotas = control_groups(root, "cpu").into_iter().filter_map(|group| {
        let read = |name: &str| fs::read_to_string(group.folder.join(name)).ok();
        match group.is_unified {
            true => {
                let text = read("cpu.max")?;
                let (quota, period) = text.trim().split_once(' ')?;
                ratio(quota, period)
            }
            false => ratio(&read("cpu.cfs_quota_us")?, &read("cpu.cfs_period_us")?),
        }
    });
    quotas.min_by(f64::total_cmp)
}

/// What a control group lets its processes have, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct GroupMemory {
    limit: u64,
    /// What is left of it, with what the kernel would give back first: pages of files that nobody uses.
    available: u64,
}

/// The memory of the tightest of this process's control group and those above it.
fn cgroup_memory(root: &Path) -> Option<GroupMemory> {
    let groups = control_groups(root, "memory")
        .into_iter()
        .filter_map(|group| {
            let read = |name: &str| fs::read_to_string(group.folder.join(name)).ok();
            let (limit, used, inactive) = match group.is_unified {
                true => ("memory.max", "memory.current", "inactive_file "),
                false => (
                    "memory.limit_in_bytes",
                    "memory.usage_in_bytes",
                    "total_inactive_file ",
                ),
            };
            // `max`, and near the largest number of all in the older groups, is no limit.
            let limit: u64 = read(limit)?.trim().parse().ok()?;
            let used: u64 = read(used)?.trim().parse().ok()?;
            let stat = read("memory.stat").unwrap_or_default();
            let inactive = field(&stat, inactive).and_then(|bytes| bytes.parse::<u64>().ok());
            (limit < u64::MAX >> 2).then(|| GroupMemory {
                limit,
                available: limit.saturating_sub(used.saturating_sub(inactive.unwrap_or(0))),
            })
        });
    groups.min_by_key(|group| group.available)
}

/// A folder of a control group.
struct ControlGroup {
    folder: PathBuf,
    is_unified: bool, // version 2
}

/// This process's control group of `controller` and those above it; inside a container only the topmost may be there.
fn control_groups(root: &Path, controller: &str) -> Vec<ControlGroup> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let lines = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let is_unified = controllers.is_empty();
        let is_meant = is_unified || controllers.split(',').any(|name| name == controller);
        let mounted = root.join("sys/fs/cgroup").join(controllers);
        is_meant.then(|| (mounted, path.trim_start_matches('/').to_owned(), is_unified))
    });
    let folders = lines.flat_map(|(mounted, path, is_unified)| {
        let above: Vec<PathBuf> = Path::new(&path)
            .ancestors()
            .map(|at| mounted.join(at))
            .collect();
        above
            .into_iter()
            .map(move |folder| ControlGroup { folder, is_unified })
    });
    folders.collect()
}

/// `max` and negative quotas are none.
fn ratio(quota: &str, period: &str) -> Option<f64> {
    let quota: f64 = quota.trim().parse().ok()?;
    let period: f64 = period.trim().parse().ok()?;
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn a_machine_is_read_from_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        write(
            root,
            "proc/meminfo",
            "MemTotal: 8 kB\nMemAvailable:   4 kB\n",
        );
        write(root, "proc/self/status", "Cpus_allowed_list:\t0-2\n");
        write(root, "proc/self/cgroup", "0::/pod/box\n");
        write(root, "sys/fs/cgroup/pod/cpu.max", "150000 100000\n");
        write(root, "sys/fs/cgroup/pod/box/cpu.max", "max 100000\n");
        write(root, "sys/fs/cgroup/pod/box/memory.max", "max\n");
        write(root, "sys/fs/cgroup/pod/box/memory.current", "5000\n");
        write(root, "sys/fs/cgroup/pod/memory.max", "9000\n");
        write(root, "sys/fs/cgroup/pod/memory.current", "7000\n");
        let stat = "anon 6000\ninactive_file 500\n";
        write(root, "sys/fs/cgroup/pod/memory.stat", stat);
        write(root, "sys/devices/system/cpu/online", "0-3\n");
        for cpu in 0..4 {
            let topology = format!("sys/devices/system/cpu/cpu{cpu}/topology");
            write(root, &format!("{topology}/physical_package_id"), "0\n");
            write(
                root,
                &format!("{topology}/core_id"),
                &format!("{}\n", cpu / 2),
            );
        }
        for (index, level, size) in [(0, "2", "1M"), (1, "1", "32K")] {
            let cache = format!("sys/devices/system/cpu/cpu0/cache/index{index}");
            write(root, &format!("{cache}/level"), level);
            write(root, &format!("{cache}/type"), "Data\n");
            write(root, &format!("{cache}/size"), size);
            write(root, &format!("{cache}/shared_cpu_list"), "0-1\n");
        }
        let node = "sys/devices/system/node/node0";
        write(root, &format!("{node}/cpulist"), "0-3\n");
        write(
            root,
            &format!("{node}/meminfo"),
            "Node 0 MemTotal:     8 kB\n",
        );
        let cache = |level, bytes| CpuCache {
            level,
            kind: "data".into(),
            bytes,
            shared_by: Some(2),
        };
        let expected = HostMachine {
            logical_cpus: Some(4),
            physical_cores: Some(2),
            allowed_cpus: Some("0-2".into()),
            cgroup_quota_cpus: Some(1.5),
            memory_bytes: Some(8192),
            memory_available_bytes: Some(2500),
            cgroup_memory_limit_bytes: Some(9000),
            caches: vec![cache(1, 32 << 10), cache(2, 1 << 20)],
            numa_nodes: vec![NumaNode {
                node: 0,
                cpus: "0-3".into(),
                memory_bytes: Some(8192),
            }],
        };
        assert_eq!(HostMachine::under(root), expected);
    }

    #[test]
    fn the_older_control_groups_are_read_too() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        write(
            root,
            "proc/self/cgroup",
            "3:cpu,cpuacct:/a\n2:memory:/a\n0::/\n",
        );
        let group = "sys/fs/cgroup/cpu,cpuacct";
        write(root, &format!("{group}/a/cpu.cfs_period_us"), "100000\n");
        write(root, &format!("{group}/a/cpu.cfs_quota_us"), "-1\n");
        assert_eq!(HostMachine::under(root).cgroup_quota_cpus, None);
        write(root, &format!("{group}/a/cpu.cfs_quota_us"), "50000\n");
        assert_eq!(HostMachine::under(root).cgroup_quota_cpus, Some(0.5));
        let group = "sys/fs/cgroup/memory";
        let unlimited = "9223372036854771712\n";
        write(root, &format!("{group}/memory.limit_in_bytes"), unlimited);
        write(root, &format!("{group}/memory.usage_in_bytes"), "70\n");
        assert_eq!(HostMachine::under(root).cgroup_memory_limit_bytes, None);
        write(root, &format!("{group}/a/memory.limit_in_bytes"), "100\n");
        write(root, &format!("{group}/a/memory.usage_in_bytes"), "60\n");
        let machine = HostMachine::under(root);
        assert_eq!(machine.cgroup_memory_limit_bytes, Some(100));
        assert_eq!(machine.memory_available_bytes, Some(40));
    }

    #[test]
    fn what_is_missing_or_nonsense_is_not_told() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(HostMachine::under(folder.path()), HostMachine::default());
        for list in ["", "x", "3-1", "0-99999999999999999999"] {
            assert_eq!(count(list), None, "{list}");
        }
        assert_eq!(count("0-3,8\n"), Some(5));
    }
}
