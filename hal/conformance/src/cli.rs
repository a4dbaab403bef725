//! The kit as a command, over any registry: for backends that want one of their own.

use std::process::ExitCode;

use hal::{OpenOptions, Registry};

use crate::{Expectations, Settings, Suite, run_on};

const USAGE: &str = "\
usage: hadal-conformance DEVICE [--suite NAME]... [--filter TEXT] [--coverage]

DEVICE is a device name, such as cpu or cuda:0. Suites: device ops rows lower program weights
collectives.";

struct Arguments {
    device: String,
    suites: Vec<Suite>,
    filter: String,
    coverage: bool,
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut parsed = Arguments {
        device: String::new(),
        suites: Vec::new(),
        filter: String::new(),
        coverage: false,
    };
    while let Some(word) = words.next() {
        match word.as_str() {
            "--suite" => {
                let name = words.next().ok_or("--suite needs a name")?;
                let suite = Suite::from_name(&name).ok_or(format!("there is no suite {name}"))?;
                parsed.suites.push(suite);
            }
            "--filter" => parsed.filter = words.next().ok_or("--filter needs a text")?,
            "--coverage" => parsed.coverage = true,
            _ if word.starts_with('-') => return Err(format!("there is no option {word}")),
            _ if parsed.device.is_empty() => parsed.device = word,
            _ => return Err(format!("one device at a time, not also {word}")),
        }
    }
    if parsed.device.is_empty() {
        return Err("a device is wanted".into());
    }
    if parsed.suites.is_empty() {
        parsed.suites = Suite::ALL.to_vec();
    }
    Ok(parsed)
}

/// Runs the kit as the words of a command line (without the program's name) say.
///
/// `expectations` gives each backend's list by its name.
pub fn main(
    registry: &Registry,
    expectations: fn(&str) -> Expectations,
    words: impl Iterator<Item = String>,
) -> ExitCode {
    let arguments = match parse(words) {
        Ok(arguments) => arguments,
        Err(message) => {
            eprintln!("{message}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let device = match registry.open(&arguments.device, &OpenOptions::default()) {
        Ok(device) => device,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let Arguments { suites, filter, coverage, .. } = arguments;
    let settings = Settings { suites, filter, ..Settings::default() };
    let report = run_on(&device, &settings, &expectations(device.info().backend));
    if coverage {
        println!("{}", report.coverage());
    }
    println!("{report}");
    if report.is_green() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> impl Iterator<Item = String> {
        text.split_whitespace().map(str::to_owned).collect::<Vec<_>>().into_iter()
    }

    #[test]
    fn a_command_line_names_one_device_and_known_suites() {
        let parsed = parse(words("cpu --suite rows --suite ops --filter f16 --coverage")).unwrap();
        assert_eq!((parsed.device.as_str(), parsed.filter.as_str()), ("cpu", "f16"));
        assert_eq!(parsed.suites, [Suite::Rows, Suite::Ops]);
        assert!(parsed.coverage);
        for wrong in ["", "cpu cuda", "cpu --suite", "cpu --suite x", "cpu --fast"] {
            assert!(parse(words(wrong)).is_err(), "{wrong:?}");
        }
    }
}
