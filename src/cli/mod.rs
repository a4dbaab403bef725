//! The `hadal` command: one module per subcommand, and what they share.
//!
//! A command gets its parsed arguments and returns [`failure::Result`]; nothing below here exits or
//! prints an error by itself.

pub mod args;
mod bench;
mod chat;
mod devices;
mod doctor;
mod eval;
pub mod failure;
mod hub;
mod inspect;
mod interrupt;
#[cfg(feature = "cuda")]
mod kernels;
mod logits;
mod model;
#[cfg(feature = "selftest")]
mod parity;
mod plan;
mod profile;
#[cfg(feature = "pull")]
mod pull;
mod run;
#[cfg(feature = "selftest")]
mod selftest;
#[cfg(feature = "serve")]
mod serve;
mod talk;
mod term;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use args::{Cli, Command};
use failure::{Failure, Result, one_line};

/// Runs the command line and reports how it ended.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    match parse(words).and_then(|cli| cli.map_or(Ok(()), dispatch)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Nothing comes back where help or the version was asked for and printed.
fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Option<Cli>> {
    let error = match Cli::try_parse_from(words) {
        Ok(cli) => return Ok(Some(cli)),
        Err(error) => error,
    };
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            error.print()?;
            Ok(None)
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            Err(Failure::usage("no command given; `hadal --help` lists them"))
        }
        _ => {
            let text = error.render().to_string();
            let text = text.strip_prefix("error: ").unwrap_or(&text);
            let end = text.find("\n\nUsage:").or_else(|| text.find("\n\nFor more"));
            let message = one_line(&text[..end.unwrap_or(text.len())]);
            Err(Failure::usage(format!("{message}; see `hadal --help`")))
        }
    }
}

fn dispatch(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Inspect(args) => inspect::inspect(&args),
        Command::Devices(args) => devices::devices(&args),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Plan(args) => plan::plan(&args),
        Command::Run(args) => run::run(&args),
        Command::Chat(args) => chat::chat(&args),
        #[cfg(feature = "serve")]
        Command::Serve(options) => serve::serve(options),
        Command::Logits(args) => logits::logits(&args),
        Command::Eval(args) => eval::eval(&args),
        Command::Bench(args) => bench::bench(&args),
        #[cfg(feature = "cuda")]
        Command::Kernels(args) => kernels::kernels(&args),
        #[cfg(feature = "selftest")]
        Command::Selftest(args) => selftest::selftest(&args),
        #[cfg(feature = "pull")]
        Command::Pull(args) => pull::pull(&args),
        #[cfg(not(feature = "pull"))]
        Command::Pull(_) => Err(Failure::new(
            "this hadal was built without the feature `pull`; build it with `--features pull`",
        )),
    }
}
