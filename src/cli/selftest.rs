//! `hadal selftest`: everything the first person with some hardware can try in one go, as one folder to
//! mail back: what the machine is, the conformance kit, an answer beside the CPU's, speed.
//!
//! Each part runs as a process of its own and its words go to a file, so that a device that takes its
//! process down leaves a report all the same. It judges nothing but the kit and the answer.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use conformance::{Expectations, Settings, run_on};
use hadal::registry;
use hal::OpenOptions;

use super::args::SelftestArgs;
use super::failure::{Failure, Result};

/// What is asked, of the demo model, greedily.
const QUESTION: &str = "What is 17 + 25?";

/// A part: file, words of its command.
type Part<'a> = (&'static str, Vec<&'a str>);

/// Runs all parts, or, as a part itself, the kit.
pub fn selftest(args: &SelftestArgs) -> Result<()> {
    if args.kit {
        return kit(&args.device);
    }
    fs::create_dir_all(&args.out).map_err(|error| Failure::new(error).at(args.out.display()))?;
    let device = args.device.as_str();
    let run = |device| vec!["run", "--device", device, "--temperature", "0", QUESTION];
    let bench = ["bench", "--device", device, "--prefill", "64", "--depth", "64", "--gen", "16"];
    let parts: [Part<'_>; 6] = [
        ("version.txt", vec!["--version"]),
        ("doctor.txt", vec!["doctor"]),
        ("kit.txt", vec!["selftest", "--kit", "--device", device]),
        ("answer.txt", run(device)),
        ("answer-cpu.txt", run("cpu")),
        ("bench.txt", bench.to_vec()),
    ];
    let mut answers = Vec::new();
    let mut failed = Vec::new();
    for (file, words) in parts {
        let output = part(&args.out, file, &words)?;
        println!("{:<15} {}", file, output.status);
        if !output.status.success() {
            failed.push(file);
        }
        if file.starts_with("answer") {
            answers.push(output.stdout);
        }
    }
    if answers[0] != answers[1] {
        println!("the answer is not the CPU's");
        failed.push("answer.txt");
    }
    println!("report in {}", args.out.display());
    match failed.as_slice() {
        [] => Ok(()),
        failed => Err(Failure::new(format!("{device}: not well: {}", failed.join(", ")))),
    }
}

/// Runs this program with `words`; what it said goes to a file.
fn part(folder: &Path, file: &str, words: &[&str]) -> Result<Output> {
    let program = env::current_exe()?;
    let output = Command::new(program).args(words).output()?;
    let mut text = format!("hadal {}\n{}\n\n", words.join(" "), output.status).into_bytes();
    text.extend_from_slice(&output.stdout);
    text.extend_from_slice(b"\n--- standard error\n");
    text.extend_from_slice(&output.stderr);
    let path = folder.join(file);
    fs::write(&path, text).map_err(|error| Failure::new(error).at(path.display()))?;
    Ok(output)
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
