//! What the machine is: processor, memory, and how much of both this process may use.

use std::fs;
use std::path::{Path, PathBuf};

use kernels::common::isa::Isa;

use crate::huge;

/// Name of the processor, as the system reports it.
pub(crate) fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    field("model name")
        .or_else(|| field("Model"))
        .or_else(|| field("CPU part"))
        .unwrap_or_else(|| format!("{} processor", std::env::consts::ARCH))
}

/// Threads the process may use at once (affinity and control group respected).
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Bytes of memory the process may use: that of the machine, or less where a control group says so.
/// 0 if unknown.
pub(crate) fn memory_bytes() -> u64 {
    let total = meminfo("MemTotal:").unwrap_or(0);
    match control_group_limit() {
        Some(limit) if total == 0 || limit < total => limit,
        _ => total,
    }
}

/// Bytes of weights that may be moved to huge pages: half of the memory, three quarters of what is free; none
/// where the system has no such pages or, unless `spread`, memory of more than one node.
pub(crate) fn huge_bytes(spread: bool) -> u64 {
    let free = meminfo("MemAvailable:").unwrap_or(0);
    let wanted = huge::available() && (spread || !has_nodes());
    if wanted { (memory_bytes() / 2).min(free / 4 * 3) } else { 0 }
}

/// Whether memory is of several nodes, each nearer to some processors than to others.
fn has_nodes() -> bool {
    let online = fs::read_to_string("/sys/devices/system/node/online").unwrap_or_default();
    online.contains(['-', ','])
}

/// Findings for `hadal doctor`.
pub(crate) fn findings() -> Vec<String> {
    let sets: Vec<&str> = Isa::all().map(Isa::name).collect();
    let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
    let mut lines = vec![
        format!("{}: instruction sets {}, uses {}", processor(), sets.join(" "), Isa::best()),
        format!("{} threads, {:.1} GiB of memory", threads(), gib(memory_bytes())),
    ];
    lines.push(match (huge_bytes(false), huge::available()) {
        (0, true) => "huge pages are left out, memory is of several nodes: HADAL_CPU_HUGE_PAGES=on uses them".into(),
        (0, false) => "no huge pages: /sys/kernel/mm/transparent_hugepage/enabled rules them out".into(),
        (bytes, _) => format!(
            "mapped weights move to huge pages, up to {:.1} GiB (HADAL_CPU_HUGE_PAGES=off: they stay)",
            gib(bytes)
        ),
    });
    if let Some(limit) = control_group_limit() {
        lines.push(format!("memory is limited to {:.1} GiB by a control group", gib(limit)));
    }
    if Isa::best() == Isa::SCALAR && cfg!(target_arch = "x86_64") {
        lines.push("no AVX2: products run several times slower than on a processor with it".into());
    }
    lines
}

/// A field of /proc/meminfo, in bytes.
fn meminfo(field: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The least limit among this process's control group and those above it.
fn control_group_limit() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut limits = Vec::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            list if list.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        limits.extend(group_limits(Path::new(root), path, file));
    }
    limits.into_iter().min()
}

/// Limits of the group `path` below `root` and of all groups around it.
fn group_limits(root: &Path, path: &str, file: &str) -> Vec<u64> {
    let mut group: PathBuf = root.join(path.trim_start_matches('/'));
    let mut limits = Vec::new();
    while group.starts_with(root) {
        let limit = fs::read_to_string(group.join(file)).ok();
        // "max", or in the older hierarchy a number near 2^63, is no limit.
        let limit = limit.and_then(|text| text.trim().parse::<u64>().ok());
        limits.extend(limit.filter(|&bytes| bytes < 1 << 60));
        if !group.pop() {
            break;
        }
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_limit_on_the_way_up_counts() {
        let root = std::env::temp_dir().join(format!("hadal-groups-{}", std::process::id()));
        let deep = root.join("a/b");
        fs::create_dir_all(&deep).unwrap();
        fs::write(root.join("memory.max"), "max\n").unwrap();
        fs::write(root.join("a/memory.max"), "4096\n").unwrap();
        fs::write(deep.join("memory.max"), "8192\n").unwrap();
        let mut limits = group_limits(&root, "/a/b", "memory.max");
        limits.sort_unstable();
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(limits, [4096, 8192]);
    }

    #[test]
    fn the_machine_has_a_name_and_threads() {
        assert!(!processor().is_empty());
        assert!(threads() >= 1);
        assert!(findings().len() >= 2);
    }
}
