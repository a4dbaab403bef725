//! Bad input at the command line: each ends with one line that says what, where and what to do, and an
//! exit code that is not 0; none panics. (The library's own tables of damaged files are in
//! `engine/tests/refuse.rs`; here it is the whole program that is looked at.)

#[path = "../engine/tests/common/mod.rs"]
mod common;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::{Folder, Model, safetensors, tiny_model, with_header};
use engine::config::{Class, Demand, ModelConfig, layer_demands, parse_config, top_demands};
use serde_json::json;

fn hadal() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hadal"));
    command.stdin(Stdio::null());
    command
}

/// Runs a command that must fail, and gives its one line.
fn refused(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("the binary was built");
    let text = String::from_utf8_lossy(&stderr).into_owned();
    assert!(matches!(status.code(), Some(1 | 2)), "{command:?}: {status}, {text}");
    assert!(stdout.is_empty(), "{command:?}: {}", String::from_utf8_lossy(&stdout));
    assert_eq!(text.lines().count(), 1, "{command:?}: {text}");
    assert!(text.starts_with("error: ") && !text.contains("panicked"), "{command:?}: {text}");
    text
}

fn refused_with(command: &mut Command, says: &str) {
    let text = refused(command);
    assert!(text.contains(says), "\"{}\" does not say \"{says}\"", text.trim());
}

fn inspect(folder: &Path) -> Command {
    let mut command = hadal();
    command.arg("inspect").arg(folder);
    command
}

fn run(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = hadal();
    command.args(["run", "Hello", "--model"]).arg(folder).args(arguments);
    command
}

/// Writes `model` to a folder, after `change`.
fn written(name: &str, change: impl Fn(&mut Model)) -> Folder {
    let folder = Folder::new(name);
    let mut model = tiny_model();
    change(&mut model);
    folder.write("config.json", model.config_bytes());
    folder.write("model.safetensors", safetensors(&model.tensors));
    folder
}

/// The demo model in a folder of its own.
fn demo(name: &str) -> Folder {
    let folder = Folder::new(name);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo");
    for file in ["config.json", "generation_config.json", "tokenizer.json", "model.safetensors"] {
        fs::copy(source.join(file), folder.0.join(file)).expect("the demo is there");
    }
    folder
}

#[test]
fn models_that_are_not_there_are_refused() {
    refused_with(&mut inspect(Path::new("no/such/folder")), "does not exist");
    refused_with(&mut run(Path::new("no-such/model"), &[]), "hadal pull no-such/model");
    let folder = Folder::new("bad-empty");
    refused_with(&mut inspect(&folder.0), "config.json is missing");
    folder.write("config.json", tiny_model().config_bytes());
    refused_with(&mut inspect(&folder.0), "holds neither model.safetensors nor");
}

#[test]
fn damaged_weights_are_refused() {
    let folder = written("bad-weights", |_| {});
    let whole = fs::read(folder.0.join("model.safetensors")).expect("written");
    let overlap = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},
                      "b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#;
    let huge = [&(1u64 << 63).to_le_bytes()[..], b"{}"].concat();
    for (bytes, says) in [
        (whole[..whole.len() - 1].to_vec(), "only"),
        ([&whole[..], b"x"].concat(), "after the last tensor"),
        (with_header(overlap, &[0; 6]), "overlap"),
        (huge, "9223372036854775808"),
        (Vec::new(), "0 bytes"),
    ] {
        folder.write("model.safetensors", bytes);
        refused_with(&mut inspect(&folder.0), says);
        refused_with(&mut run(&folder.0, &[]), says);
    }
}

#[test]
fn wrong_tensors_are_refused_by_name() {
    for (name, change, says) in [
        (
            "bad-dtype",
            (|m| m.tensor("norm.weight").dtype = "I32") as fn(&mut Model),
            "norm.weight is I32",
        ),
        (
            "bad-shape",
            |m| m.tensor("norm.weight").shape = vec![32, 2],
            "norm.weight is F32 [32, 2]",
        ),
        ("bad-absent", |m| drop(m.remove("norm.weight")), "norm.weight is missing"),
        ("bad-extra", |m| m.push("vision.weight", "BF16", &[2]), "vision.weight"),
    ] {
        let folder = written(name, change);
        refused_with(&mut inspect(&folder.0), says);
    }
}

#[test]
fn missing_shards_are_refused_by_name() {
    let folder = written("bad-shard", |_| {});
    fs::rename(folder.0.join("model.safetensors"), folder.0.join("a.safetensors")).expect("ours");
    let map =
        json!({"weight_map": {"norm.weight": "a.safetensors", "embed.weight": "b.safetensors"}});
    folder.write("model.safetensors.index.json", map.to_string());
    refused_with(&mut inspect(&folder.0), "b.safetensors, which is not in");
}

#[test]
fn configurations_that_cannot_be_are_refused() {
    for (name, key, value, says) in [
        ("bad-type", "model_type", json!("llama"), "model_type is \"llama\""),
        ("bad-arch", "architectures", json!(["GPT2"]), "GPT2"),
        ("bad-heads", "o_groups", json!(3), "o_groups"),
        ("bad-act", "hidden_act", json!("gelu"), "gelu"),
    ] {
        let folder = written(name, |model| model.config[key] = value.clone());
        refused_with(&mut inspect(&folder.0), says);
    }
    let folder = written("bad-contradiction", |model| model.config["dim"] = json!(128));
    let text = refused(&mut inspect(&folder.0));
    assert!(text.contains("dim") && text.contains("hidden_size"), "{text}");
    folder.write("config.json", "{\"model_type\": ");
    refused_with(&mut inspect(&folder.0), "config.json");
}

#[test]
fn scales_that_are_not_numbers_are_refused() {
    let folder = written("bad-scales", |model| {
        model.tensor("layers.1.attn.wq_a.scale").bytes.fill(0xff);
    });
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo/tokenizer.json");
    fs::copy(demo, folder.0.join("tokenizer.json")).expect("the demo is there");
    let mut logits = hadal();
    logits.arg("logits").arg(&folder.0).args(["--ids", "1,2", "--out"]);
    let out = folder.0.join("out.safetensors");
    refused_with(logits.arg(&out), "layers.1.attn.wq_a");
    assert!(!out.exists());
}

#[test]
fn tokenizers_that_do_not_fit_are_refused() {
    let folder = demo("bad-tokenizer");
    fs::remove_file(folder.0.join("tokenizer.json")).expect("ours");
    refused_with(&mut run(&folder.0, &[]), "tokenizer.json");
    folder.write("tokenizer.json", "{}");
    refused_with(&mut run(&folder.0, &[]), "tokenizer.json");
    let folder = written("bad-vocabulary", |_| {});
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo/tokenizer.json");
    fs::copy(demo, folder.0.join("tokenizer.json")).expect("the demo is there");
    refused_with(&mut run(&folder.0, &[]), "vocab_size 40");
}

#[test]
fn prompts_that_cannot_be_answered_are_refused() {
    refused_with(hadal().args(["run", ""]), "the prompt is empty");
    refused_with(hadal().args(["run", "-"]), "the prompt is empty");
    refused_with(hadal().arg("run"), "the prompt is empty");
    let long = "one two three four ".repeat(20);
    refused_with(hadal().args(["run", &long, "--context", "64"]), "--context");
    refused_with(hadal().args(["run", "Hello", "--context", "100000000"]), "context");
    let mut child = hadal()
        .args(["run", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary was built");
    let mut input = child.stdin.take().expect("piped");
    input.write_all(b"\xff\xfe").expect("the program reads");
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("error: standard input: "));
}

#[test]
fn token_ids_beyond_the_vocabulary_are_refused() {
    let out = std::env::temp_dir().join(format!("hadal-bad-ids-{}", std::process::id()));
    let mut logits = hadal();
    logits.args(["logits", "--ids", "1,999999", "--out"]).arg(&out);
    refused_with(&mut logits, "999999");
    assert!(!out.exists());
}

#[test]
fn devices_that_are_not_there_are_refused() {
    refused_with(hadal().args(["run", "Hello", "--device", "quantum:7"]), "quantum");
    refused_with(hadal().args(["run", "Hello", "--device", "cpu:9"]), "cpu:9");
    refused_with(hadal().args(["plan", "--device", "quantum"]), "quantum");
    refused_with(hadal().args(["bench", "--device", ""]), "device");
}

/// Name, dtype and shape of every tensor of a geometry in the released layout.
fn listed(config: &ModelConfig) -> Vec<(String, &'static str, Vec<u64>)> {
    let mut demands: Vec<(String, Demand)> = Vec::new();
    demands.extend(top_demands(config).into_iter().map(|demand| (String::new(), demand)));
    for (index, layer) in config.layers.iter().enumerate() {
        let of_layer = layer_demands(config, layer).into_iter();
        demands.extend(of_layer.map(|demand| (format!("layers.{index}."), demand)));
    }
    let mut tensors = Vec::new();
    for (prefix, demand) in demands {
        let (rows, cols) = (u64::from(demand.rows), u64::from(demand.cols));
        for expert in 0..demand.copies {
            let name =
                format!("{prefix}{}", demand.leaf.name()).replace("{e}", &expert.to_string());
            match demand.class {
                Class::Table => tensors.push((name, "I64", vec![rows, cols])),
                Class::Vector if cols == 0 => tensors.push((name, "F32", vec![rows])),
                _ => tensors.push((name, "BF16", vec![rows, cols])),
            }
        }
    }
    tensors
}

/// A sparse file: a terabyte of weights that takes no room on disk.
#[test]
fn models_larger_than_memory_are_refused_before_loading() {
    let folder = Folder::new("bad-memory");
    let mut model = tiny_model();
    model.config["vocab_size"] = json!(1 << 22);
    model.config["hidden_size"] = json!(1 << 16);
    let config = parse_config(&model.config_bytes()).expect("a legal geometry");
    let (mut header, mut end) = (serde_json::Map::new(), 0u64);
    for (name, dtype, shape) in listed(&config) {
        let size = match dtype {
            "I64" => 8,
            "F32" => 4,
            _ => 2,
        };
        let next = end + shape.iter().product::<u64>() * size;
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [end, next]});
        header.insert(name, entry);
        end = next;
    }
    assert!(end > 1 << 40, "{end} bytes would fit");
    let head = with_header(&serde_json::Value::Object(header).to_string(), &[]);
    folder.write("config.json", model.config_bytes());
    folder.write("model.safetensors", &head);
    let file = fs::OpenOptions::new().write(true).open(folder.0.join("model.safetensors"));
    let length = head.len() as u64 + end;
    file.expect("ours").set_len(length).expect("a file system with sparse files");
    let mut logits = hadal();
    logits.arg("logits").arg(&folder.0).args(["--ids", "1", "--out", "nowhere.safetensors"]);
    refused_with(&mut logits, "the weights alone do not fit");
    let plan = hadal().args(["plan", "--model"]).arg(&folder.0).output().expect("built");
    assert!(String::from_utf8_lossy(&plan.stdout).contains("does not fit"), "{plan:?}");
}

#[test]
fn sampling_out_of_range_is_refused() {
    for (flag, value) in
        [("--temperature", "-1"), ("--top-p", "2"), ("--min-p", "nan"), ("--stop", "")]
    {
        refused(hadal().args(["run", "Hello", &format!("{flag}={value}")]));
    }
    refused_with(hadal().args(["run", "Hello", "--effort", "heroic"]), "heroic");
}

#[test]
fn command_lines_that_make_no_sense_are_one_line() {
    for line in [
        "",
        "frobnicate",
        "run --frobnicate",
        "run Hello --max-tokens 0",
        "run Hello --context many",
        "run Hello --no-think --effort max",
        "plan --model gpt",
        "logits",
        "pull",
        "pull not-a-name",
        "pull a/b --revision ../..",
        "eval --skill juggling",
        "bench --gen 0",
        "inspect a b",
    ] {
        refused(hadal().args(line.split_whitespace()));
    }
}
