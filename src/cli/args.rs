//! The command line, as types. Options that several commands share are written once.
//!
//! Nothing is opened or computed here; a value that no command could use is refused while parsing.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use hadal::version;

/// DeepSeek-V4 on any accelerator, bitwise exact across chunking, batching, caching and restore.
#[derive(Debug, Parser)]
#[command(name = "hadal", version = version::LONG, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// One subcommand.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Answer one prompt, streaming the answer to standard output
    Run(RunArgs),
    /// Talk with the model
    Chat(ChatArgs),
    /// Serve the model over HTTP with OpenAI's and Anthropic's interfaces
    #[cfg(feature = "serve")]
    Serve(super::serve::ServeOptions),
    /// Report a model folder's geometry, storage and size from its headers alone
    Inspect(InspectArgs),
    /// List the devices there are
    Devices(DevicesArgs),
    /// Report what was found on this machine, what is missing and how to get it
    Doctor(DoctorArgs),
    /// Compute memory and cost per token of a model, and whether it fits
    Plan(PlanArgs),
    /// Write the logits of given token ids, to compare with another implementation
    Logits(LogitsArgs),
    /// Measure exact-match accuracy on questions with known answers
    Eval(EvalArgs),
    /// Measure prefill and decode speed
    Bench(BenchArgs),
    /// Download a model from a hub, resuming and checking what is there already
    Pull(PullArgs),
    /// Compile the CUDA kernels for machines without NVIDIA's run-time compiler
    #[cfg(feature = "cuda")]
    Kernels(KernelsArgs),
    /// Try everything on a device and write a report folder to mail back
    #[cfg(feature = "selftest")]
    Selftest(SelftestArgs),
}

/// Which arithmetic the model is run with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[cfg_attr(feature = "serve", derive(serde::Deserialize), serde(rename_all = "lowercase"))]
pub enum Numerics {
    /// The quantisation simulation and dtypes of DeepSeek's own inference code
    Served,
    /// No simulation: what transformers computes
    Plain,
}

/// Which model, where, how much.
#[derive(Clone, Debug, Args)]
pub struct ModelArgs {
    /// Folder of a model, or ORG/NAME of one that `hadal pull` fetched [default: the embedded demo]
    #[arg(long, short, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Device to run on, as `hadal devices` names it
    #[arg(long, short, default_value = "cpu")]
    pub device: String,
    /// Most tokens of prompt and answer together [default: what fits up to 32768]
    #[arg(long, short, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    pub context: Option<u32>,
    /// Arithmetic of the model
    #[arg(long, value_enum, default_value_t = Numerics::Served)]
    pub numerics: Numerics,
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
}

/// Whether and how much the model reasons.
#[derive(Clone, Debug, Args)]
pub struct ThinkArgs {
    /// Reason before answering; the reasoning is shown dimmed
    #[arg(long, overrides_with = "no_think")]
    pub think: bool,
    /// Answer at once (the default)
    #[arg(long, overrides_with = "think")]
    pub no_think: bool,
    /// How much to reason: none, low, medium, high, max; anything but none implies --think
    #[arg(long, value_name = "LEVEL", conflicts_with = "no_think")]
    pub effort: Option<String>,
}

impl ThinkArgs {
    /// The effort's name, in the words of DeepSeek's API.
    pub fn asked(&self) -> &str {
        let usual = if self.think { "high" } else { "none" };
        self.effort.as_deref().unwrap_or(usual)
    }
}

/// How tokens are chosen.
#[derive(Clone, Debug, Args)]
pub struct SampleArgs {
    /// Most tokens of the answer, reasoning included [default: until the context is full]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: Option<u32>,
    /// 0 takes the likeliest token; 1 samples as trained [default: the model's own]
    #[arg(long, value_name = "T")]
    pub temperature: Option<f32>,
    /// Sample among the K likeliest tokens
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    pub top_k: Option<u32>,
    /// Sample among the likeliest tokens that together have probability P [default: the model's own]
    #[arg(long, value_name = "P")]
    pub top_p: Option<f32>,
    /// Drop tokens less likely than P times the likeliest
    #[arg(long, value_name = "P")]
    pub min_p: Option<f32>,
    /// Seed of the sampler; the same seed gives the same answer [default: a random one]
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
    /// End the answer before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The prompt; without it, or where it is `-`, standard input is read
    pub prompt: Option<String>,
    /// Instructions that stand before the prompt
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Print one JSON object at the end instead of streaming
    #[arg(long)]
    pub json: bool,
    /// Say on standard error how many tokens it took, and how fast
    #[arg(long)]
    pub stats: bool,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub think: ThinkArgs,
    #[command(flatten)]
    pub sample: SampleArgs,
}

/// Arguments of `chat`.
#[derive(Debug, Args)]
pub struct ChatArgs {
    /// Instructions that stand before the conversation
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub think: ThinkArgs,
    #[command(flatten)]
    pub sample: SampleArgs,
}

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// Folder of a model, or ORG/NAME of one that was pulled [default: the embedded demo]
    #[arg(value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `devices`.
#[derive(Debug, Args)]
pub struct DevicesArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// flash, pro, flash-base, pro-base, or the folder of a model [default: the embedded demo]
    #[arg(long, short, value_name = "NAME|DIR")]
    pub model: Option<PathBuf>,
    /// Device whose memory to compare with
    #[arg(long, short, default_value = "cpu")]
    pub device: String,
    /// Tokens of context [default: 32768, or the model's most]
    #[arg(long, short, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    pub context: Option<u32>,
    /// Sequences alive at once, each with the whole context
    #[arg(
        long, value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=65_536)
    )]
    pub sequences: u32,
    /// Arithmetic of the model; decides how cached rows are kept
    #[arg(long, value_enum, default_value_t = Numerics::Served)]
    pub numerics: Numerics,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `logits`.
#[derive(Debug, Args)]
pub struct LogitsArgs {
    /// Folder of a model [default: the embedded demo]
    #[arg(value_name = "DIR")]
    pub folder: Option<PathBuf>,
    /// Token ids, separated by commas
    #[arg(long, value_name = "ID,ID,…", value_delimiter = ',', required = true)]
    pub ids: Vec<u32>,
    /// Tokens per step of the prefill [default: all that fit into one]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub chunk: Option<u32>,
    /// Continue with this many greedy tokens
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub greedy: u32,
    /// File to write: `logits` f32 [tokens, vocab] and `greedy` i64 [N]
    #[arg(long, value_name = "FILE.safetensors")]
    pub out: PathBuf,
    #[command(flatten)]
    pub model: ModelArgs,
}

/// Arguments of `eval`.
#[derive(Debug, Args)]
pub struct EvalArgs {
    /// Folder of *.jsonl with lines {"skill", "prompt", "answer"} [default: the demo's own]
    #[arg(long, value_name = "DIR")]
    pub set: Option<PathBuf>,
    /// Only these skills; may be given several times
    #[arg(long, value_name = "NAME")]
    pub skill: Vec<String>,
    /// Most questions per skill
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,
    /// Fail if the accuracy over all skills is below this
    #[arg(long, value_name = "SHARE")]
    pub at_least: Option<f64>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub model: ModelArgs,
}

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Time a prompt of this many tokens
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub prefill: Option<u32>,
    /// Untimed tokens before the generated ones
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub depth: Option<u32>,
    /// Time this many greedy tokens
    #[arg(
        long = "gen", value_name = "G", value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub generate: Option<u32>,
    /// Sequences that get a token each in a step, where tokens are generated
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub streams: u32,
    /// Time a model of this geometry with synthetic weights: flash, pro, flash-base, pro-base, demo
    #[arg(long, value_name = "NAME", conflicts_with = "model")]
    pub geometry: Option<String>,
    /// Only the first N layers of the geometry
    #[arg(long, value_name = "N", requires = "geometry",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub layers: Option<u32>,
    /// Time every op, and print what it moves and computes; makes a step slower
    #[arg(long)]
    pub profile: bool,
    /// End with one line of JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub model: ModelArgs,
}

/// Arguments of `pull`.
#[derive(Debug, Args)]
pub struct PullArgs {
    /// Model on the hub, such as deepseek-ai/DeepSeek-V4-Flash
    #[arg(value_name = "ORG/NAME")]
    pub name: String,
    /// Branch, tag or commit
    #[arg(long, default_value = "main")]
    pub revision: String,
    /// Print the folder only
    #[arg(long, short)]
    pub quiet: bool,
}

/// Arguments of `kernels`.
#[cfg(feature = "cuda")]
#[derive(Debug, Args)]
pub struct KernelsArgs {
    /// Folder to write to; it is made if it is not there
    pub folder: PathBuf,
    /// Architectures: sm_80, sm_89, sm_90a, ... for one kind of GPU, compute_80, ... for that and all newer ones
    #[arg(long, value_name = "ARCH", value_delimiter = ',', required = true)]
    pub arch: Vec<CudaArch>,
    /// Newest CUDA, as its major version, that the drivers there speak
    #[arg(long, value_name = "VERSION", default_value_t = 13)]
    pub cuda: u32,
    /// The compiler's library [default: HADAL_NVRTC, then the usual places]
    #[arg(long, value_name = "FILE")]
    pub nvrtc: Option<PathBuf>,
}

/// An architecture as NVIDIA writes it.
#[cfg(feature = "cuda")]
#[derive(Clone, Debug)]
pub struct CudaArch(pub String);

#[cfg(feature = "cuda")]
impl std::str::FromStr for CudaArch {
    type Err = String;

    fn from_str(text: &str) -> Result<CudaArch, String> {
        let number = text.strip_prefix("sm_").or_else(|| text.strip_prefix("compute_"));
        // sm_90a: with what that one architecture has beyond others.
        match number.map(|number| number.trim_end_matches('a').parse::<u32>()) {
            Some(Ok(80..)) => Ok(CudaArch(text.to_owned())),
            Some(Ok(_)) => Err("sm_80 (Ampere) is the oldest".into()),
            _ => Err("an architecture is sm_NUMBER or compute_NUMBER".into()),
        }
    }
}

/// Arguments of `selftest`.
#[cfg(feature = "selftest")]
#[derive(Debug, Args)]
pub struct SelftestArgs {
    /// Device to try, as `hadal devices` names it
    #[arg(long, short)]
    pub device: String,
    /// Folder the report goes to
    #[arg(long, value_name = "DIR", default_value = "hadal-selftest")]
    pub out: PathBuf,
    /// Only one part, to standard output
    #[arg(long, value_enum)]
    pub only: Option<SelftestPart>,
}

/// Parts of `selftest` that are no commands of their own.
#[cfg(feature = "selftest")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SelftestPart {
    /// The conformance kit
    Kit,
    /// The demo model's logits beside the CPU's, and its state's exactness
    Parity,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_last_word_on_thinking_wins() {
        for (line, want) in [
            ("", "none"),
            ("--think", "high"),
            ("--no-think", "none"),
            ("--think --no-think", "none"),
            ("--no-think --think", "high"),
            ("--effort max", "max"),
            ("--think --effort low", "low"),
        ] {
            let words = ["hadal", "run", "x"].into_iter().chain(line.split_whitespace());
            let cli = Cli::try_parse_from(words).expect("a legal command line");
            let Command::Run(run) = cli.command else { panic!("run was asked for") };
            assert_eq!(run.think.asked(), want, "{line}");
        }
    }
}
