//! What a host must have beside the libraries, for `doctor`: driver, firmware, toolkit, variables, device
//! files, container mounts, limits of host memory.
//!
//! It reads small files and follows no advice of its own; where nothing of the vendor's is on the host it
//! says nothing. What it knows comes from the vendor's documents and from reports of others, not from
//! hardware of ours.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Most bytes that are read of a file.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// Device files that every process needs beside its NPU's own.
const SHARED_FILES: [&str; 3] = ["davinci_manager", "devmm_svm", "hisi_hdc"];
/// What `set_env.sh` sets and the operators need.
const NEEDED: [&str; 3] = ["ASCEND_TOOLKIT_HOME", "ASCEND_OPP_PATH", "LD_LIBRARY_PATH"];
/// Where the driver's files lie.
const DRIVER: &str = "usr/local/Ascend/driver";

/// A line per fact about the host whose files begin at `root`. `environment` holds the vendor's variables
/// that are set.
pub(crate) fn notes(
    root: &Path,
    toolkit: Option<&Path>,
    environment: &[(String, String)],
) -> Vec<String> {
    let nodes = nodes(root);
    let driver = root.join(DRIVER);
    if nodes.is_empty() && !driver.exists() && toolkit.is_none() {
        return Vec::new();
    }
    let mut notes = vec![
        versioned("driver", &[driver.join("version.info")]),
        versioned("firmware", &[root.join("usr/local/Ascend/firmware/version.info")]),
    ];
    if let Some(home) = toolkit {
        let arch = std::env::consts::ARCH;
        let install = home.join(format!("{arch}-linux/ascend_toolkit_install.info"));
        notes.push(versioned("toolkit", &[install, home.join("version.cfg")]));
    }
    notes.extend(variables(environment));
    notes.push(devices(root, &nodes));
    if [".dockerenv", "run/.containerenv"].iter().any(|file| root.join(file).exists()) {
        notes.extend(container(root));
    }
    notes.extend(host_memory(root));
    notes
}

fn text(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The first line of the first of `files` that names a version.
fn versioned(what: &str, files: &[PathBuf]) -> String {
    let shown = files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>();
    let Some(text) = files.iter().find_map(|file| text(file)) else {
        let hint =
            if what == "driver" { "; `npu-smi info` answers once it is installed" } else { "" };
        return format!("{what}: {} is not there{hint}", shown.join(" or "));
    };
    let version = text.lines().find(|line| line.to_ascii_lowercase().starts_with("version"));
    format!("{what}: {}", version.unwrap_or("its file names no version").trim())
}

/// Which of the vendor's variables are set, and which should be.
fn variables(environment: &[(String, String)]) -> Vec<String> {
    let mut lines = Vec::new();
    let is_set = |name: &&str| environment.iter().any(|(other, _)| other == name);
    let unset: Vec<&str> = NEEDED.into_iter().filter(|name| !is_set(name)).collect();
    if !unset.is_empty() {
        lines.push(format!("not set: {}; `source .../set_env.sh` sets them", unset.join(", ")));
    }
    lines.extend(environment.iter().map(|(name, value)| format!("{name}={value}")));
    if is_set(&"ASCEND_CUSTOM_OPP_PATH") {
        lines.push(
            "custom operator packages are not used: they export built-in names with other \
             signatures"
                .into(),
        );
    }
    if is_set(&"ASCEND_RT_VISIBLE_DEVICES") {
        lines.push("ASCEND_RT_VISIBLE_DEVICES renumbers: ascend:0 is the first it names".into());
    }
    lines
}

/// Numbers of the NPUs that have a device file.
fn nodes(root: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(root.join("dev")) else { return Vec::new() };
    let number = |name: &str| name.strip_prefix("davinci")?.parse().ok();
    let mut numbers: Vec<u32> =
        entries.flatten().filter_map(|entry| number(entry.file_name().to_str()?)).collect();
    numbers.sort_unstable();
    numbers
}

fn devices(root: &Path, nodes: &[u32]) -> String {
    let absent = SHARED_FILES.iter().filter(|file| !root.join("dev").join(file).exists());
    let absent: Vec<String> = absent.map(|file| format!("/dev/{file}")).collect();
    match (nodes, absent.as_slice()) {
        ([], _) => "no /dev/davinci* device file: no NPU can be seen from here".into(),
        (nodes, []) => {
            format!("device files of {} NPUs; `npu-smi info` shows their state", nodes.len())
        }
        (nodes, absent) => {
            format!("device files of {} NPUs, but none of {}", nodes.len(), absent.join(", "))
        }
    }
}

/// What a container must be given.
fn container(root: &Path) -> Vec<String> {
    let mounts = [DRIVER, "usr/local/dcmi", "usr/local/bin/npu-smi", "etc/ascend_install.info"];
    let absent = mounts.iter().filter(|path| !root.join(path).exists());
    let absent: Vec<String> = absent.map(|path| format!("-v /{path}:/{path}")).collect();
    let mut lines = vec![
        "in a container: start it with --device /dev/davinci0 (one each), /dev/davinci_manager, \
         /dev/devmm_svm, /dev/hisi_hdc"
            .into(),
    ];
    if !absent.is_empty() {
        lines.push(format!("in a container, not mounted: {}", absent.join(" ")));
    }
    lines
}

/// Limits of pinned and registered host memory. We pin buffers of our own and register no file.
fn host_memory(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let limits = text(&root.join("proc/self/limits")).unwrap_or_default();
    let locked = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"));
    if let Some(soft) = locked.and_then(|line| line.split_whitespace().next())
        && soft != "unlimited"
    {
        lines.push(format!(
            "locked memory is limited to {soft} bytes (`ulimit -l`); pinned buffers count"
        ));
    }
    for number in nodes(root) {
        let path = root.join(format!("proc/svm/dev{number}/feature/host_mem_pool"));
        if text(&path).is_some_and(|value| value.trim() == "0") {
            lines.push(format!(
                "NPU {number} has no host_mem_pool: others saw registering large host memory fail \
                 there (207001); hadal registers none and copies weights in pieces"
            ));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root with these files, removed at the end.
    struct Root(PathBuf);

    impl Root {
        fn new(name: &str, files: &[(&str, &str)]) -> Root {
            let root = std::env::temp_dir().join(format!("ascend-{}-{name}", std::process::id()));
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Root(root)
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn says(notes: &[String], part: &str) -> bool {
        notes.iter().any(|note| note.contains(part))
    }

    #[test]
    fn a_host_without_anything_of_the_vendors_is_left_alone() {
        let root = Root::new("bare", &[("proc/self/limits", "Max locked memory 1 1 bytes\n")]);
        assert_eq!(notes(&root.0, None, &[]), Vec::<String>::new());
    }

    #[test]
    fn a_complete_host_is_described() {
        let root = Root::new(
            "whole",
            &[
                ("dev/davinci0", ""),
                ("dev/davinci1", ""),
                ("dev/davinci_manager", ""),
                ("dev/devmm_svm", ""),
                ("dev/hisi_hdc", ""),
                ("usr/local/Ascend/driver/version.info", "package=x\nVersion=25.5.0\n"),
                ("usr/local/Ascend/firmware/version.info", "Version=7.8.0\n"),
                ("cann/version.cfg", "version=9.1.0\n"),
                ("proc/svm/dev1/feature/host_mem_pool", "0\n"),
                ("proc/self/limits", "Max locked memory  65536 65536 bytes\n"),
            ],
        );
        let environment = [("ASCEND_OPP_PATH".to_owned(), "/opp".to_owned())];
        let notes = notes(&root.0, Some(&root.0.join("cann")), &environment);
        for part in [
            "driver: Version=25.5.0",
            "firmware: Version=7.8.0",
            "toolkit: version=9.1.0",
            "ASCEND_OPP_PATH=/opp",
            "not set: ASCEND_TOOLKIT_HOME, LD_LIBRARY_PATH",
            "device files of 2 NPUs; `npu-smi info`",
            "NPU 1 has no host_mem_pool",
            "limited to 65536 bytes",
        ] {
            assert!(says(&notes, part), "{part}: {notes:#?}");
        }
        assert!(!says(&notes, "container"), "{notes:#?}");
    }

    #[test]
    fn a_container_is_told_what_it_was_not_given() {
        let root = Root::new("box", &[(".dockerenv", ""), ("dev/davinci3", "")]);
        let notes = notes(&root.0, None, &[]);
        for part in [
            "driver: ",
            "is not there; `npu-smi info` answers once",
            "but none of /dev/davinci_manager, /dev/devmm_svm, /dev/hisi_hdc",
            "--device /dev/davinci0",
            "not mounted: -v /usr/local/Ascend/driver:/usr/local/Ascend/driver",
        ] {
            assert!(says(&notes, part), "{part}: {notes:#?}");
        }
    }
}
