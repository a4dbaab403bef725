//! Every kernel compiles for every architecture, and takes no more registers, stack and spills than
//! `resources.txt` allows. Needs NVRTC but no GPU; `scripts/cuda-compile` fetches one and runs this.
//!
//! With `HADAL_NVDISASM` (NVIDIA's disassembler) the machine code is looked at, too: `sass.txt`.
//!
//! Without `HADAL_NVRTC` (the library's file) it says that it is skipped.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use backend_cuda::compile_ahead;
use backend_cuda::nvrtc::Nvrtc;
use backend_cuda::source::UNITS;

/// Ampere, Ada, Hopper and both Blackwells.
const ARCHES: [&str; 5] = ["sm_80", "sm_89", "sm_90a", "sm_100", "sm_120"];

/// What every kernel has from Hopper on, so that launches may overlap: the next one may start, this one waits.
const OVERLAP: &str = " PREEXIT ACQBULK";

/// The kernel whose products are those of a warp group, and where.
const WIDE: (&str, &str) = ("sm_90a", "matmul_wide");

/// The kernels whose weights come by bulk copies, and what they have from Hopper on.
const BULK: [&str; 2] = ["matmul_bulk", "matmul_several_bulk"];
const BULK_WANTS: &str = " UBLKCP SYNCS HMMA.16816.F32.BF16 LDS.128 LDG.E.128 PRMT";

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

/// How often each instruction is in each kernel, from a disassembly.
fn read_sass(text: &str) -> BTreeMap<String, BTreeMap<String, u32>> {
    let mut all: BTreeMap<String, BTreeMap<String, u32>> = BTreeMap::new();
    let mut name = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix(".text.") {
            name = rest.trim_end_matches(':').to_owned();
        }
        // "        /*0090*/               @!P0 LDG.E.128 R4, [R2] ;"
        let Some((_, code)) = line.trim_start().strip_prefix("/*").and_then(|l| l.split_once("*/"))
        else {
            continue;
        };
        let mut words = code.split_whitespace().skip_while(|word| word.starts_with('@'));
        let Some(word) = words.next().filter(|word| word.starts_with(char::is_alphabetic)) else {
            continue;
        };
        *all.entry(name.clone()).or_default().entry(word.to_owned()).or_default() += 1;
    }
    all
}

/// What is wrong with the instructions of a kernel.
fn complaints(has: &BTreeMap<String, u32>, wants: &str, ceiling: Resources) -> Vec<String> {
    let any = |begins: &str| has.keys().any(|name| name.starts_with(begins));
    let missing = wants.split_whitespace().filter(|want| !want.split('|').any(any));
    let mut all: Vec<String> = missing.map(|want| format!("no {want}")).collect();
    let double = ["DADD", "DMUL", "DFMA", "MUFU.RCP64H"];
    all.extend(double.iter().filter(|name| any(name)).map(|name| name.to_string()));
    if ceiling.stack_bytes == 0 {
        all.extend(["LDL", "STL"].iter().filter(|name| any(name)).map(|name| name.to_string()));
    }
    all
}

/// The instructions that kernels must have: a line a kernel.
fn wanted() -> BTreeMap<&'static str, &'static str> {
    let lines = include_str!("sass.txt").lines();
    let lines = lines.filter(|line| !line.starts_with('#') && !line.is_empty());
    lines.map(|line| line.split_once(' ').expect("a kernel and instructions")).collect()
}

fn disassemble(nvdisasm: &OsStr, unit: &str, image: &[u8]) -> String {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{unit}.cubin"));
    std::fs::write(&file, image).expect("the folder is cargo's own");
    let done = Command::new(nvdisasm).arg("-c").arg(&file).output();
    let done = done.expect("HADAL_NVDISASM names NVIDIA's disassembler");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).expect("a disassembly is text")
}

#[test]
fn a_disassembly_is_read_and_judged() {
    let sass = "\t.headerflags\n.text.few:\n\
                        /*0000*/                   MOV R1, c[0x0][0x28] ;\n\
                        /*0010*/              @!P0 LDG.E.128 R4, [R2] ;\n\
                        /*0020*/                   HMMA.16816.F32.BF16 R4, R8, R2, R4 ;\n\
                .text.other:\n\
                        /*0000*/                   LDL R4, [R1] ;\n\
                        /*0010*/                   DFMA R4, R4, R4, R6 ;";
    let all = read_sass(sass);
    assert_eq!(all["few"]["LDG.E.128"], 1);
    let judge = |kernel: &str, wants, stack_bytes| {
        let ceiling = Resources { stack_bytes, ..Resources::default() };
        complaints(&all[kernel], wants, ceiling).join(", ")
    };
    assert_eq!(judge("few", "HMMA LDG.E.128", 0), "");
    assert_eq!(judge("few", "HMMA LDG.E.64|LDG.E.128 PRMT", 0), "no PRMT");
    assert_eq!(judge("other", "", 0), "DFMA, LDL");
    assert_eq!(judge("other", "", 8), "DFMA");
}

#[test]
fn only_kernels_there_are_have_wanted_instructions() {
    let ceilings = ceilings();
    assert!(wanted().keys().all(|kernel| ceilings.contains_key(*kernel)));
}

/// The compiler, unless this machine has none.
fn nvrtc() -> Option<Nvrtc> {
    let Some(place) = std::env::var_os("HADAL_NVRTC") else {
        println!("skipped: HADAL_NVRTC names no NVRTC; scripts/cuda-compile fetches one");
        return None;
    };
    let nvrtc = Nvrtc::open(Some(Path::new(&place)), u32::MAX);
    Some(nvrtc.expect("HADAL_NVRTC names NVRTC's library"))
}

#[test]
fn every_unit_is_compiled_ahead_into_a_file() {
    let Some(nvrtc) = nvrtc() else { return };
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ahead");
    let files = compile_ahead(&nvrtc, &["compute_80"], &folder).expect("the folder is cargo's own");
    assert_eq!(files.len(), UNITS.len());
    for file in files {
        let bytes = std::fs::read(&file).expect("it was just written");
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains(".target sm_80"), "{}: no code for sm_80", file.display());
    }
}

#[test]
fn a_compiler_newer_than_the_driver_is_refused_by_name() {
    let Some(nvrtc) = nvrtc() else { return };
    let major = nvrtc.version().0 - 1;
    let error = Nvrtc::open(Some(nvrtc.place()), major).expect_err("it is newer").to_string();
    assert!(error.contains(&format!("up to version {major}")), "{error}");
    assert!(error.contains(&format!(" is {}.", nvrtc.version().0)), "{error}");
}

#[test]
fn every_kernel_compiles_for_every_architecture() {
    let Some(nvrtc) = nvrtc() else { return };
    let nvdisasm = std::env::var_os("HADAL_NVDISASM");
    let (ceilings, wanted) = (ceilings(), wanted());
    let (mut checked, mut judged, mut over) = (0, 0, Vec::new());
    for unit in &UNITS {
        for arch in ARCHES {
            let compiled = nvrtc.compile(unit, arch, &["--ptxas-options=-v"]);
            let compiled = compiled.unwrap_or_else(|error| panic!("{error}"));
            assert!(compiled.image.starts_with(b"\x7fELF"), "{} {arch}: no cubin", unit.name);
            // The assembler says so where it has to wait between products of a warp group.
            assert!(!compiled.log.contains("wgmma"), "{} {arch}: {}", unit.name, compiled.log);
            let found = read_log(&compiled.log);
            let sass = nvdisasm
                .as_ref()
                .map(|nvdisasm| read_sass(&disassemble(nvdisasm, unit.name, &compiled.image)));
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
                let Some(sass) = &sass else { continue };
                let mut wants = wanted.get(name).copied().unwrap_or_default().to_owned();
                if !["sm_80", "sm_89"].contains(&arch) {
                    wants.push_str(OVERLAP);
                    wants.push_str(if BULK.contains(&name) { BULK_WANTS } else { "" });
                }
                if (arch, name) == WIDE {
                    wants.push_str(" HGMMA.64x64x16.F32.BF16");
                }
                let wrong = complaints(&sass[name], &wants, ceiling);
                over.extend(wrong.iter().map(|what| format!("{arch} {name}: {what}")));
                judged += 1;
            }
        }
    }
    let kernels: usize = UNITS.iter().map(|unit| unit.kernels.len()).sum();
    assert_eq!(checked, kernels * ARCHES.len());
    println!("checked {checked} kernels, the machine code of {judged}");
    assert!(over.is_empty(), "{}", over.join("\n"));
}
