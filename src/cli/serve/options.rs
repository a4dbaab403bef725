//! Options of `hadal serve`: one struct, filled from a file, the environment and the command line, the
//! later winning.
//!
//! A file is TOML with the names of the options, `_` for `-`; a name it does not know is refused.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;

use crate::cli::args::{ModelArgs, Numerics};
use crate::cli::failure::{Failure, Result};

/// Longest file of options, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Everything that can be said; what is not has a default in `serve`.
#[derive(Clone, Debug, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServeOptions {
    /// TOML file of these options; flags and the environment win over it
    #[arg(long, value_name = "FILE", env = "HADAL_CONFIG")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Address to listen on [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS", env = "HADAL_HOST")]
    pub host: Option<String>,
    /// Port to listen on; 0 takes a free one [default: 8080]
    #[arg(long, value_name = "PORT", env = "HADAL_PORT")]
    pub port: Option<u16>,
    /// Folder of a model, or ORG/NAME of one that `hadal pull` fetched [default: the embedded demo]
    #[arg(long, short, value_name = "DIR", env = "HADAL_MODEL")]
    pub model: Option<PathBuf>,
    /// Name clients ask for [default: deepseek-v4-flash, or deepseek-v4-pro for a model of that size]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Further name of the model; may be given several times
    #[arg(long, value_name = "NAME")]
    pub alias: Vec<String>,
    /// Refuse names that the hosted API has dropped (deepseek-chat, deepseek-reasoner)
    #[arg(long)]
    pub no_legacy_names: bool,
    /// Device to run on, as `hadal devices` names it [default: cpu]
    #[arg(long, short, env = "HADAL_DEVICE")]
    pub device: Option<String>,
    /// Most tokens of prompt and answer together [default: the model's, up to 65536]
    #[arg(long, short, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    pub context: Option<u32>,
    /// Answers in the making at once [default: 16]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub sequences: Option<u32>,
    /// Tokens that all of them may hold together [default: twice the context]
    #[arg(long, value_name = "TOKENS")]
    pub tokens: Option<u64>,
    /// Tokens of a prompt that are computed in one step [default: 512]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=2048))]
    pub step_rows: Option<u32>,
    /// Requests that may wait; one more is answered 429 [default: 256]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub queue: Option<u32>,
    /// Main memory for states of prompts that may come again, in MiB; 0 for none [default: 1024]
    #[arg(long, value_name = "MIB")]
    pub cache_mib: Option<u32>,
    /// Folder in which such states survive restarts [default: none]
    #[arg(long, value_name = "DIR", env = "HADAL_CACHE_DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Most of that folder, in MiB [default: 16384]
    #[arg(long, value_name = "MIB")]
    pub cache_dir_mib: Option<u32>,
    /// Arithmetic of the model [default: served]
    #[arg(long, value_enum)]
    pub numerics: Option<Numerics>,
    /// Threads of the CPU backend [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// Instruction set of the CPU backend: scalar, avx2, avx512, amx [default: the best there is]
    #[arg(long, value_name = "ISA")]
    pub isa: Option<String>,
    /// What FP8 and FP4 weights become on an NPU without such numbers: bf16, int8 [default: the more
    /// accurate that fits]
    #[arg(long, value_name = "FORM")]
    pub weights: Option<String>,
    /// File with a key on each line; the variable HADAL_API_KEY adds one
    #[arg(long, value_name = "FILE", env = "HADAL_API_KEY_FILE")]
    pub api_key_file: Option<PathBuf>,
    /// Listen beyond this machine without a key
    #[arg(long)]
    pub insecure_no_key: bool,
    /// Origin of web pages elsewhere that may ask, or `*` [default: none]
    #[arg(long, value_name = "ORIGIN")]
    pub cors: Option<String>,
    /// Names of reasoning efforts: preview (V4 of April 2026) or 0731 [default: preview]
    #[arg(long, value_name = "RELEASE")]
    pub efforts: Option<String>,
    /// Temperature of answers that think; requests cannot change it [default: the model's own]
    #[arg(long, value_name = "T")]
    pub thinking_temperature: Option<f32>,
    /// Refuse histories that lost their reasoning, as the hosted API does
    #[arg(long)]
    pub strict_reasoning: bool,
    /// Largest request body, in bytes [default: 33554432]
    #[arg(long, value_name = "BYTES")]
    pub body_bytes: Option<u32>,
    /// Seconds that answers in the making may take when the server is asked to stop [default: 30]
    #[arg(long, value_name = "SECONDS")]
    pub grace: Option<u64>,
    /// What is logged: error, warn, info, debug; never prompts or answers [default: info]
    #[arg(long, value_name = "LEVEL", env = "HADAL_LOG")]
    pub log: Option<String>,
    /// Log JSON, a line each
    #[arg(long)]
    pub log_json: bool,
}

impl ServeOptions {
    /// These options over those of the file they name.
    pub fn with_file(self) -> Result<Self> {
        let Some(path) = self.config.clone() else { return Ok(self) };
        Ok(self.over(read(&path)?))
    }

    /// These options, and `lower` where they say nothing.
    fn over(self, lower: Self) -> Self {
        ServeOptions {
            config: self.config,
            host: self.host.or(lower.host),
            port: self.port.or(lower.port),
            model: self.model.or(lower.model),
            name: self.name.or(lower.name),
            alias: if self.alias.is_empty() { lower.alias } else { self.alias },
            no_legacy_names: self.no_legacy_names || lower.no_legacy_names,
            device: self.device.or(lower.device),
            context: self.context.or(lower.context),
            sequences: self.sequences.or(lower.sequences),
            tokens: self.tokens.or(lower.tokens),
            step_rows: self.step_rows.or(lower.step_rows),
            queue: self.queue.or(lower.queue),
            cache_mib: self.cache_mib.or(lower.cache_mib),
            cache_dir: self.cache_dir.or(lower.cache_dir),
            cache_dir_mib: self.cache_dir_mib.or(lower.cache_dir_mib),
            numerics: self.numerics.or(lower.numerics),
            threads: self.threads.or(lower.threads),
            isa: self.isa.or(lower.isa),
            weights: self.weights.or(lower.weights),
            api_key_file: self.api_key_file.or(lower.api_key_file),
            insecure_no_key: self.insecure_no_key || lower.insecure_no_key,
            cors: self.cors.or(lower.cors),
            efforts: self.efforts.or(lower.efforts),
            thinking_temperature: self.thinking_temperature.or(lower.thinking_temperature),
            strict_reasoning: self.strict_reasoning || lower.strict_reasoning,
            body_bytes: self.body_bytes.or(lower.body_bytes),
            grace: self.grace.or(lower.grace),
            log: self.log.or(lower.log),
            log_json: self.log_json || lower.log_json,
        }
    }

    /// What other commands call their model's arguments.
    pub fn model_args(&self) -> ModelArgs {
        ModelArgs {
            model: self.model.clone(),
            device: self.device.clone().unwrap_or_else(|| "cpu".to_owned()),
            context: self.context,
            numerics: self.numerics.unwrap_or(Numerics::Served),
            threads: self.threads,
            isa: self.isa.clone(),
            weights: self.weights.clone(),
        }
    }
}

fn read(path: &Path) -> Result<ServeOptions> {
    let place = path.display();
    let failure = |error: &dyn std::fmt::Display| Failure::new(error).at(&place);
    let length = fs::metadata(path).map_err(|error| failure(&error))?.len();
    if length > FILE_BYTES_MAX {
        return Err(failure(&format!("{length} bytes, more than the {FILE_BYTES_MAX} read")));
    }
    let text = fs::read_to_string(path).map_err(|error| failure(&error))?;
    let options: ServeOptions = toml::from_str(&text).map_err(|error| failure(&error))?;
    options.check().map_err(|message| failure(&message))?;
    Ok(options)
}

impl ServeOptions {
    /// Ranges that the command line checks by itself and a file does not.
    fn check(&self) -> std::result::Result<(), String> {
        for (name, value, most) in [
            ("context", self.context, u32::MAX),
            ("sequences", self.sequences, 256),
            ("step_rows", self.step_rows, 2048),
            ("queue", self.queue, u32::MAX),
            ("threads", self.threads, 1024),
        ] {
            if value.is_some_and(|value| !(1..=most).contains(&value)) {
                return Err(format!("{name} must be from 1 to {most}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Command};
    use clap::Parser;

    fn given(line: &str) -> ServeOptions {
        let words = ["hadal", "serve"].into_iter().chain(line.split_whitespace());
        let Command::Serve(options) = Cli::try_parse_from(words).expect("a legal line").command
        else {
            panic!("serve was asked for")
        };
        options
    }

    #[test]
    fn the_example_file_and_what_it_leaves_out_are_understood() {
        let text = include_str!("../../../packaging/serve.toml");
        let whole: String = text
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(option) if option.contains(" = ") => format!("{option}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        for (text, cache) in [(text, false), (&whole, true)] {
            let options: ServeOptions = toml::from_str(text).expect("a legal file");
            options.check().expect("numbers in their ranges");
            assert_eq!((options.port, options.cache_dir.is_some()), (Some(8080), cache));
            assert_eq!(options.model.is_some(), cache);
        }
    }

    #[test]
    fn flags_win_over_the_file() {
        let path = std::env::temp_dir().join(format!("hadal-serve-{}.toml", std::process::id()));
        fs::write(&path, "port = 1\nhost = \"::1\"\nalias = [\"a\"]\nstrict_reasoning = true\n")
            .expect("a temporary file");
        let line = format!("--config {} --port 2", path.display());
        let options = given(&line).with_file().expect("a legal file");
        assert_eq!((options.port, options.host.as_deref()), (Some(2), Some("::1")));
        assert_eq!(options.alias, ["a"]);
        assert!(options.strict_reasoning);
        for (text, want) in [
            ("prot = 1", "prot"),
            ("port = 70000", "port"),
            ("sequences = 0", "sequences"),
            ("port = ", "port.toml"),
        ] {
            fs::write(&path, text).expect("a temporary file");
            let error = read(&path).expect_err(text).to_string();
            let named = error.contains(want) || error.contains("hadal-serve");
            assert!(named && !error.contains('\n'), "{text}: {error}");
        }
        fs::remove_file(&path).expect("it was there");
    }
}
