//! `hadal selftest`: everything the first person with some hardware can try in one go, as one folder to
//! mail back: what the machine is, the conformance kit, the demo model's logits and answer beside the
//! CPU's, speed.
//!
//! Each part runs as a process of its own and its words go to a file, so that a device that takes its
//! process down leaves a report all the same. Speed is not judged.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;

use conformance::{Expectations, Settings, run_on};
use hadal::{registry, version};
use hal::OpenOptions;

use super::args::{SelftestArgs, SelftestPart};
use super::failure::{Failure, Result};
use super::parity;

/// What is asked, of the demo model, greedily.
const QUESTION: &str = "What is 17 + 25?";

/// A part: file, words of its command.
type Part<'a> = (&'static str, Vec<&'a str>);

/// Runs all parts, or, as a part itself, one.
pub fn selftest(args: &SelftestArgs) -> Result<()> {
    match args.only {
        Some(SelftestPart::Kit) => return kit(&args.device),
        Some(SelftestPart::Parity) => return parity::parity(&args.device),
        None => {}
    }
    fs::create_dir_all(&args.out).map_err(|error| Failure::new(error).at(args.out.display()))?;
    let mut summary = machine(&args.device);
    let mut answers = Vec::new();
    let mut failed = Vec::new();
    for (file, words) in parts(&args.device) {
        let output = part(&args.out, file, &words)?;
        let line = format!("{:<15} {}", file, output.status);
        println!("{line}");
        summary.push(line);
        if !output.status.success() {
            failed.push(file);
        }
        if file.starts_with("answer") {
            answers.push(output.stdout);
        }
    }
    if answers[0] != answers[1] {
        println!("the answer is not the CPU's");
        summary.push("the answer is not the CPU's".into());
        failed.push("answer.txt");
    }
    save(&args.out.join("summary.txt"), summary.join("\n").as_bytes())?;
    println!("report in {}", args.out.display());
    match failed.as_slice() {
        [] => Ok(()),
        failed => Err(Failure::new(format!("{}: not well: {}", args.device, failed.join(", ")))),
    }
}

/// What is run, in this order.
fn parts(device: &str) -> [Part<'_>; 8] {
    let run = |device| {
        vec!["run", "--device", device, "--context", "1024", "--temperature", "0", QUESTION]
    };
    let only = |part| vec!["selftest", "--only", part, "--device", device];
    let bench = ["bench", "--device", device, "--prefill", "64", "--depth", "64", "--gen", "16"];
    [
        ("version.txt", vec!["--version"]),
        ("doctor.txt", vec!["doctor"]),
        ("devices.txt", vec!["devices"]),
        ("kit.txt", only("kit")),
        ("parity.txt", only("parity")),
        ("answer.txt", run(device)),
        ("answer-cpu.txt", run("cpu")),
        ("bench.txt", bench.to_vec()),
    ]
}

/// The machine, a line each.
fn machine(device: &str) -> Vec<String> {
    let threads = thread::available_parallelism().map_or(1, |count| count.get());
    let kernel = fs::read_to_string("/proc/version").unwrap_or_default();
    vec![
        format!("hadal selftest of {device}"),
        version::LONG.to_owned(),
        format!("{} {}, {threads} threads", env::consts::OS, env::consts::ARCH),
        kernel.trim().to_owned(),
    ]
}

/// Runs this program with `words`; what it said goes to a file.
fn part(folder: &Path, file: &str, words: &[&str]) -> Result<Output> {
    let program = env::current_exe()?;
    let output = Command::new(program).args(words).output()?;
    let mut text = format!("hadal {}\n{}\n\n", words.join(" "), output.status).into_bytes();
    text.extend_from_slice(&output.stdout);
    text.extend_from_slice(b"\n--- standard error\n");
    text.extend_from_slice(&output.stderr);
    save(&folder.join(file), &text)?;
    Ok(output)
}

fn save(path: &Path, text: &[u8]) -> Result<()> {
    fs::write(path, text).map_err(|error| Failure::new(error).at(path.display()))
}

/// The conformance kit.
fn kit(device: &str) -> Result<()> {
    let device = registry::registry().open(device, &OpenOptions::default())?;
    let report = run_on(&device, &Settings::default(), &Expectations::none());
    println!("{}\n{report}", report.coverage());
    match report.is_green() {
        true => Ok(()),
        false => Err(Failure::new(format!("{} checks of the kit failed", report.failed()))),
    }
}
