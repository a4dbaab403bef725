//! `hadal doctor`: what was found on this machine, what is missing, and how to get it.
//!
//! It opens no model but the one inside the binary, downloads nothing, and always ends well: its
//! findings are the result.

use std::env;
use std::io::{self, Write};

use hadal::{registry, version};
use serde_json::json;

use super::args::DoctorArgs;
use super::failure::Result;
use super::hub;
use super::model::Source;
use super::term::{Style, bytes};

/// One thing looked at.
struct Finding {
    what: String,
    good: bool,
    text: String,
}

/// Looks at everything and prints what it saw.
pub fn doctor(args: &DoctorArgs) -> Result<()> {
    let mut findings = vec![binary(), demo(), downloads()];
    for backend in registry::registry().backends() {
        findings.extend(of_backend(backend.as_ref()));
    }
    let mut out = io::stdout().lock();
    if args.json {
        let entry = |finding: &Finding| json!({"what": finding.what, "good": finding.good, "finding": finding.text});
        let list: Vec<_> = findings.iter().map(entry).collect();
        writeln!(out, "{:#}", json!(list))?;
        return Ok(());
    }
    let Style { bold, reset, .. } = Style::stdout();
    for Finding { what, good, text } in &findings {
        let mark = if *good { "ok     " } else { "missing" };
        writeln!(out, "{mark}  {bold}{what}{reset}: {text}")?;
    }
    Ok(())
}

fn binary() -> Finding {
    Finding { what: "hadal".into(), good: true, text: version::LONG.into() }
}

fn demo() -> Finding {
    let (good, text) = match Source::Demo.checkpoint() {
        Ok(_) => (true, "sound; `hadal run \"…\"` uses it".into()),
        Err(failure) => (false, failure.to_string()),
    };
    Finding { what: "embedded demo model".into(), good, text }
}

fn downloads() -> Finding {
    let endpoint = env::var("HF_ENDPOINT").unwrap_or_else(|_| "the default hub".into());
    let (good, text) = match hub::cache() {
        Err(failure) => (false, failure.to_string()),
        Ok(_) if !cfg!(feature = "pull") => {
            (false, "built without `hadal pull`; build with `--features pull`".into())
        }
        Ok(cache) => (true, format!("from {endpoint} into {}", cache.display())),
    };
    Finding { what: "downloads".into(), good, text }
}

fn of_backend(backend: &dyn hal::Backend) -> Vec<Finding> {
    let what = || format!("backend {}", backend.name());
    let mut findings = Vec::new();
    match backend.devices() {
        Ok(devices) => {
            let good = !devices.is_empty();
            if !good {
                findings.push(Finding { what: what(), good, text: "no device".into() });
            }
            for device in devices {
                let memory = match device.memory_bytes {
                    0 => "unknown memory".into(),
                    known => bytes(known),
                };
                let text = format!("{} = {}, {memory}", registry::name_of(&device), device.name);
                findings.push(Finding { what: what(), good, text });
            }
        }
        Err(error) => {
            findings.push(Finding { what: what(), good: false, text: error.to_string() });
        }
    }
    let good = findings.iter().all(|finding| finding.good);
    findings.extend(backend.doctor().into_iter().map(|text| Finding { what: what(), good, text }));
    findings
}
