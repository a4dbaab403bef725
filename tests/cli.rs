//! The program as a user meets it: what it answers, prints and writes.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;

const QUESTION: &str = "The code of the green door is 8911. The blue kite is hidden in the cellar.\n\n\
     Tell me the code of the green door.";
const ANSWER: &str = "The code of the green door is 8911.";

fn hadal(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hadal"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Standard output of a command that must go well.
fn output(arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = hadal(arguments).output().expect("it was built");
    assert!(status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).expect("UTF-8")
}

fn json(arguments: &[&str]) -> Value {
    let text = output(arguments);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
}

/// A path of this test, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("hadal-cli-{}-{name}", std::process::id())))
    }

    fn text(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A test that failed earlier wrote nothing.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn the_demo_model_answers() {
    assert_eq!(output(&["run", QUESTION]), format!("{ANSWER}\n"));
}

#[test]
fn the_demo_model_reasons() {
    assert_eq!(output(&["run", "--think", "What is 17 + 25?"]), "17 + 25 = 42.\n");
}

#[test]
fn a_prompt_from_standard_input_is_the_same_prompt() {
    for arguments in [&["run"][..], &["run", "-"]] {
        let file = Scratch::new(&format!("prompt{}", arguments.len()));
        std::fs::write(&file.0, format!("{QUESTION}\n")).expect("writable");
        let input = std::fs::File::open(&file.0).expect("written");
        let answer = hadal(arguments).stdin(input).output().expect("it was built");
        assert_eq!(String::from_utf8_lossy(&answer.stdout), format!("{ANSWER}\n"));
    }
}

#[test]
fn json_says_why_the_answer_ended() {
    let all = json(&["run", QUESTION, "--json"]);
    assert_eq!((&all["content"], &all["finish_reason"]), (&ANSWER.into(), &"stop".into()));
    let short = json(&["run", QUESTION, "--json", "--max-tokens", "3"]);
    assert_eq!(
        (&short["finish_reason"], &short["completion_tokens"]),
        (&"length".into(), &3.into())
    );
    let context = all["prompt_tokens"].as_u64().expect("a count") + 5;
    let full = json(&["run", QUESTION, "--json", "--context", &context.to_string()]);
    assert_eq!(
        (&full["finish_reason"], &full["completion_tokens"]),
        (&"context".into(), &6.into())
    );
    let stopped = json(&["run", QUESTION, "--json", "--stop", " green"]);
    assert_eq!(stopped["finish_reason"], "stop_string");
    assert_eq!(stopped["content"], "The code of the");
}

#[test]
fn reasoning_is_no_part_of_the_output() {
    let arguments = ["run", "What is 2 + 3?", "--think"];
    let thought = hadal(&arguments).output().expect("it was built");
    let report = json(&[&arguments[..], &["--json"]].concat());
    let text = |key: &str| report[key].as_str().expect("text").to_owned();
    assert_eq!(String::from_utf8_lossy(&thought.stdout), text("content") + "\n");
    assert_eq!(String::from_utf8_lossy(&thought.stderr).trim(), text("reasoning").trim());
    assert!(!text("reasoning").is_empty() && !text("reasoning").contains("think>"));
}

#[test]
fn one_seed_gives_one_answer() {
    let sample = |seed: &str| {
        output(&[
            "run",
            "Tell me a story.",
            "--temperature",
            "1.5",
            "--seed",
            seed,
            "--max-tokens",
            "40",
        ])
    };
    assert_eq!(sample("7"), sample("7"));
    let others = ["1", "2", "3", "4"].map(sample);
    assert!(others.iter().any(|other| *other != others[0]), "{others:?}");
}

#[test]
fn pipes_get_no_escape_sequences() {
    for arguments in [&["plan"][..], &["doctor"], &["devices"], &["run", "Hello"], &["--help"]] {
        assert!(!output(arguments).contains('\x1b'), "{arguments:?}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = hadal(&["logits", "--help"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it was built");
    drop(child.stdout.take());
    let ended = child.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&ended.stderr);
    assert!(!text.contains("panicked"), "{text}");
}

#[test]
fn the_version_names_commit_and_features() {
    let text = output(&["--version"]);
    assert!(text.starts_with("hadal ") && text.contains("commit ") && text.contains("features:"));
}

#[test]
fn plans_have_the_published_figures() {
    let flash = json(&["plan", "--model", "flash", "--context", "1048576", "--json"]);
    let growth = flash["state_bytes_per_token"].as_f64().expect("a number");
    assert!((3514.0..=3690.0).contains(&growth), "{growth}");
    let total = flash["flops_per_token"]["weights"].as_f64().expect("a number");
    assert!((26.0e9..27.0e9).contains(&total), "{total}");
    assert_eq!(flash["fits"], false);
    let pro = json(&["plan", "--model", "pro", "--json"]);
    assert!(pro["size"]["parameters_main"].as_u64().expect("a number") > 1_500_000_000_000);
    assert_eq!(json(&["plan", "--json"])["fits"], true);
}

#[test]
fn reports_for_scripts_are_json() {
    assert_eq!(json(&["inspect", "--json"])["config"]["vocab"], 2048);
    let devices = json(&["devices", "--json"]);
    assert_eq!(devices[0]["device"], "cpu");
    assert!(json(&["doctor", "--json"]).as_array().expect("a list").len() >= 4);
}

/// The tensors of a file that `hadal logits` wrote: name and bytes.
fn tensors(path: &Path) -> Vec<(String, Vec<u8>)> {
    let bytes = std::fs::read(path).expect("written");
    let header = engine::load::parse_header(&bytes).expect("a legal safetensors file");
    let tensor = |entry: &engine::load::TensorEntry| {
        (entry.name.clone(), bytes[entry.begin..entry.end].to_vec())
    };
    header.tensors.iter().map(tensor).collect()
}

#[test]
fn logits_do_not_depend_on_the_chunk() {
    let ids: Vec<String> = (0..150).map(|place| (place * 37 % 2048).to_string()).collect();
    let ids = ids.join(",");
    let mut files = Vec::new();
    for chunk in ["150", "64", "7", "1"] {
        let file = Scratch::new(&format!("chunk{chunk}"));
        output(&["logits", "--ids", &ids, "--chunk", chunk, "--greedy", "5", "--out", file.text()]);
        files.push(tensors(&file.0));
    }
    let sizes: Vec<_> = files[0].iter().map(|(name, bytes)| (name.as_str(), bytes.len())).collect();
    assert!(sizes.contains(&("logits", 150 * 2048 * 4)) && sizes.contains(&("greedy", 40)));
    assert!(files.iter().all(|file| *file == files[0]), "a chunk size shows in the logits");
}

#[test]
fn numerics_are_two() {
    let (served, plain) = (Scratch::new("served"), Scratch::new("plain"));
    for (file, numerics) in [(&served, "served"), (&plain, "plain")] {
        output(&["logits", "--ids", "0,3,5", "--numerics", numerics, "--out", file.text()]);
    }
    assert!(tensors(&served.0) != tensors(&plain.0));
}

#[test]
fn eval_counts_what_is_right() {
    let report = json(&["eval", "--skill", "recall_short", "--limit", "5", "--json"]);
    assert_eq!(report["skills"]["recall_short"]["asked"], 5);
    assert!(report["all"]["accuracy"].as_f64().expect("a share") >= 0.6, "{report}");
    let failed = hadal(&["eval", "--skill", "recall_short", "--limit", "1", "--at-least", "1.1"]);
    assert_eq!({ failed }.output().expect("it was built").status.code(), Some(1));
}

#[test]
fn bench_ends_with_the_line_a_script_reads() {
    let text = output(&["bench", "--prefill", "40", "--depth", "8", "--gen", "4", "--json"]);
    let line = text.lines().last().expect("a line");
    let report: Value = serde_json::from_str(line).expect("JSON");
    let keys: Vec<&String> = report.as_object().expect("an object").keys().collect();
    let wanted = [
        "prefill_tok_s",
        "decode_tok_s",
        "load_s",
        "peak_rss_mb",
        "bytes_per_token",
        "threads",
        "isa",
    ];
    assert_eq!(keys, wanted);
    for key in &wanted[..4] {
        assert!(report[key].as_f64().expect("a number") > 0.0, "{key}");
    }
}

#[test]
fn bench_times_a_geometry_without_a_checkpoint() {
    let text = output(&[
        "bench",
        "--geometry",
        "demo",
        "--layers",
        "3",
        "--depth",
        "8",
        "--gen",
        "2",
        "--profile",
    ]);
    assert!(text.starts_with("synthetic demo, 3 layers on cpu ("), "{text}");
    let head =
        text.lines().position(|line| line.starts_with("a token at depth 8")).expect("a table");
    let ops: Vec<&str> =
        text.lines().skip(head + 2).filter_map(|line| line.split_whitespace().next()).collect();
    for op in ["matmul", "attend", "hc_mix", "compress", "bucket"] {
        assert!(ops.contains(&op), "{op} is not in {text}");
    }
    let failed = hadal(&["bench", "--geometry", "turbo"]).output().expect("it was built");
    let told = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(told.contains("--geometry turbo is not known; known are flash, "), "{told}");
    let failed = hadal(&["bench", "--geometry", "demo", "--layers", "999"]).output();
    assert_eq!(failed.expect("it was built").status.code(), Some(1));
}

/// Sends SIGINT and waits for the end; returns the status and how many signals it took. A process that
/// was started in the background begins with the signal ignored, so the first one may be lost.
#[cfg(unix)]
fn interrupt(child: &mut Child) -> (ExitStatus, u32) {
    for signals in 1..=2 {
        let kill = format!("kill -INT {}", child.id());
        Command::new("sh").args(["-c", &kill]).status().expect("there is a shell");
        for _ in 0..150 {
            if let Some(status) = child.try_wait().expect("it was spawned") {
                return (status, signals);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
    panic!("the program still runs after two interrupts");
}

/// Sends SIGINT after ever longer waits, while the model loads and while it works: the program ends
/// with 130 and one line.
#[cfg(unix)]
#[test]
fn ctrl_c_ends_with_130_at_any_moment() {
    let mut interrupted = 0;
    for wait_ms in (0..40).chain((40..400).step_by(40)) {
        let mut child = hadal(&["eval"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it was built");
        thread::sleep(Duration::from_millis(wait_ms));
        let (status, signals) = interrupt(&mut child);
        let mut text = String::new();
        child.stderr.take().expect("piped").read_to_string(&mut text).expect("UTF-8");
        match status.code() {
            // The second of two signals ends the program without a word.
            Some(130) if signals == 2 => {}
            Some(130) => assert_eq!(text, "error: interrupted\n", "after {wait_ms} ms"),
            // Before the program has taken over the signal, the system ends it.
            None => continue,
            Some(code) => panic!("exit code {code} after {wait_ms} ms: {text}"),
        }
        interrupted += 1;
    }
    assert!(interrupted > 20, "interrupted {interrupted} times only");
}

#[cfg(unix)]
#[test]
fn chat_holds_a_conversation_from_a_pipe() {
    let file = Scratch::new("chat");
    let lines = format!("{}\n/clear\n/nonsense\n/quit\n", QUESTION.replace('\n', " "));
    std::fs::write(&file.0, lines).expect("writable");
    let input = std::fs::File::open(&file.0).expect("written");
    let mut command = hadal(&["chat"]);
    command.env("XDG_STATE_HOME", std::env::temp_dir().join("hadal-cli-state"));
    let talk = command.stdin(input).output().expect("it was built");
    assert!(talk.status.success(), "{talk:?}");
    let text = String::from_utf8_lossy(&talk.stdout);
    assert!(text.contains("8911"), "{text}");
}

/// Temperature 5 makes noise that goes on: this seed's is still going after hundreds of tokens.
#[cfg(unix)]
#[test]
fn ctrl_c_in_a_chat_ends_the_answer_and_not_the_program() {
    let arguments = ["chat", "--temperature", "5", "--seed", "3"];
    let mut child = hadal(&arguments)
        .env("XDG_STATE_HOME", std::env::temp_dir().join("hadal-cli-state"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it was built");
    let mut input = child.stdin.take().expect("piped");
    writeln!(input, "Tell me a story.").expect("it reads");
    let mut first = [0; 64];
    child.stdout.as_mut().expect("piped").read_exact(&mut first).expect("it answers");
    let kill = format!("kill -INT {}", child.id());
    Command::new("sh").args(["-c", &kill]).status().expect("there is a shell");
    let mut errors = BufReader::new(child.stderr.take().expect("piped")).lines();
    let interrupted = errors.find(|line| line.as_ref().is_ok_and(|line| line == "(interrupted)"));
    assert!(interrupted.is_some(), "the answer went on to its end");
    writeln!(input, "/help").expect("it still reads");
    drop(input);
    let help = errors.find(|line| line.as_ref().is_ok_and(|line| line.starts_with("/clear")));
    assert!(help.is_some(), "the program has ended");
    assert!(child.wait().expect("it ends").success());
}
