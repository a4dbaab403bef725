//! Every kernel compiles for every architecture, and takes no more registers, stack and spills than
//! `resources.txt` allows. Needs NVRTC but no GPU; `scripts/cuda-compile` fetches one and runs this.
//!
//! Without `HADAL_NVRTC` (the library's file) it says that it is skipped.

use std::collections::BTreeMap;
use std::path::Path;

use backend_cuda::nvrtc::Nvrtc;
use backend_cuda::source::UNITS;

/// Ampere, Ada, Hopper and both Blackwells.
const ARCHES: [&str; 5] = ["sm_80", "sm_89", "sm_90a", "sm_100", "sm_120"];

/// What a kernel takes of a multiprocessor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Resources {
    registers: u32,
    stack_bytes: u32,
    spill_bytes: u32,
}

/// Resources by kernel, from a log of the assembler.
fn read_log(log: &str) -> BTreeMap<String, Resources> {
    let mut all = BTreeMap::new();
    let mut name = String::new();
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            name = rest.split('\'').next().unwrap_or_default().to_owned();
        }
        // "N bytes stack frame, N bytes spill stores, N bytes spill loads", "Used N registers, …"
        let words: Vec<&str> = line.split_whitespace().collect();
        let before = |what: &str| {
            let at = words.windows(2).position(|pair| pair.join(" ").starts_with(what))?;
            words[at.checked_sub(2)?].parse::<u32>().ok()
        };
        let entry = all.entry(name.clone()).or_insert_with(Resources::default);
        if let Some(bytes) = before("stack frame") {
            entry.stack_bytes = bytes;
        }
        if let Some(bytes) = before("spill stores") {
            entry.spill_bytes = bytes;
        }
        if let Some(at) = words.iter().position(|&word| word == "Used") {
            entry.registers = words[at + 1].parse().expect("a number of registers");
        }
    }
    all.remove("");
    all
}

/// The ceilings: a line a kernel, `name registers stack spills`.
fn ceilings() -> BTreeMap<String, Resources> {
    let text = include_str!("resources.txt");
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let entry = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |place: usize| words[place].parse().expect("a number");
        let ceiling =
            Resources { registers: number(1), stack_bytes: number(2), spill_bytes: number(3) };
        (words[0].to_owned(), ceiling)
    };
    lines.map(entry).collect()
}

#[test]
fn a_log_is_read() {
    let log = "ptxas info    : Compiling entry function 'attend' for 'sm_80'\n\
               ptxas info    : Function properties for attend\n\
               16 bytes stack frame, 36 bytes spill stores, 40 bytes spill loads\n\
               ptxas info    : Used 40 registers, used 1 barriers, 32 bytes smem";
    let want = Resources { registers: 40, stack_bytes: 16, spill_bytes: 36 };
    assert_eq!(read_log(log), BTreeMap::from([("attend".to_owned(), want)]));
}

#[test]
fn every_kernel_has_a_ceiling_and_every_ceiling_a_kernel() {
    let mut kernels: Vec<&str> = UNITS.iter().flat_map(|unit| unit.kernels).copied().collect();
    kernels.sort_unstable();
    let ceilings = ceilings();
    assert_eq!(kernels, ceilings.keys().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn every_kernel_compiles_for_every_architecture() {
    let Some(place) = std::env::var_os("HADAL_NVRTC") else {
        println!("skipped: HADAL_NVRTC names no NVRTC; scripts/cuda-compile fetches one");
        return;
    };
    let nvrtc = Nvrtc::open(Some(Path::new(&place))).expect("HADAL_NVRTC names NVRTC's library");
    let ceilings = ceilings();
    let (mut checked, mut over) = (0, Vec::new());
    for unit in &UNITS {
        for arch in ARCHES {
            let compiled = nvrtc.compile(unit, arch, &["--ptxas-options=-v"]);
            let compiled = compiled.unwrap_or_else(|error| panic!("{error}"));
            assert!(compiled.image.starts_with(b"\x7fELF"), "{} {arch}: no cubin", unit.name);
            let found = read_log(&compiled.log);
            for &name in unit.kernels {
                let used =
                    found.get(name).unwrap_or_else(|| panic!("{arch}: no {name} in the log"));
                println!("{arch:8} {name:20} {used:?}");
                let ceiling = ceilings[name];
                let fits = used.registers <= ceiling.registers
                    && used.stack_bytes <= ceiling.stack_bytes
                    && used.spill_bytes <= ceiling.spill_bytes;
                if !fits {
                    over.push(format!("{arch} {name}: {used:?}, allowed are {ceiling:?}"));
                }
                checked += 1;
            }
        }
    }
    let kernels: usize = UNITS.iter().map(|unit| unit.kernels.len()).sum();
    assert_eq!(checked, kernels * ARCHES.len());
    println!("checked {checked} kernels");
    assert!(over.is_empty(), "{}", over.join("\n"));
}
