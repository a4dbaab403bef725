//! `hadal plan`: what a model costs at a context, from its arithmetic, and whether a device holds it.
//!
//! Released models are known by name, without a file; a folder is counted by its headers. Nothing is
//! measured and nothing is loaded.

use std::io::{self, Write};
use std::path::Path;

use engine::budget::{Demanded, KeyStorage, Ledger, PlanReport, released_ledger};
use engine::config::{ModelConfig, PRESETS, preset};
use engine::limits;
use hadal::registry;

use super::args::{Numerics, PlanArgs};
use super::failure::{Failure, Result};
use super::model::Source;
use super::term::Style;

/// Computes and prints.
pub fn plan(args: &PlanArgs) -> Result<()> {
    let (name, config, size) = model(args.model.as_deref())?;
    let device = registry::find(&args.device)?;
    let demanded = Demanded {
        context: args.context.unwrap_or(32_768.min(config.context)).into(),
        sequences: args.sequences,
        storage: match args.numerics {
            Numerics::Served => KeyStorage::Coded,
            Numerics::Plain => KeyStorage::F32,
        },
        rows: limits::ROWS_MAX,
    };
    let memory = (device.memory_bytes > 0).then_some(device.memory_bytes);
    let report = PlanReport::new(&config, size, demanded, memory)
        .map_err(|refusal| Failure::from(refusal).at(&name))?;
    let mut out = io::stdout().lock();
    if args.json {
        let mut value = serde_json::to_value(&report).map_err(Failure::new)?;
        value["model"] = name.into();
        value["device"] = registry::name_of(&device).into();
        value["bytes_total"] = report.need.total().into();
        value["fits"] = report.fits().into();
        writeln!(out, "{value:#}")?;
    } else {
        let Style { bold, reset, .. } = Style::stdout();
        let device = registry::name_of(&device);
        write!(out, "{bold}model{reset}             {name} on {device}\n{report}")?;
    }
    Ok(())
}

/// Geometry and sums of a released model by name, or of a folder.
fn model(asked: Option<&Path>) -> Result<(String, ModelConfig, Ledger)> {
    let name = asked.and_then(Path::to_str).filter(|_| !asked.is_some_and(Path::exists));
    if let Some((name, config)) = name.and_then(|name| Some((name, preset(name)?))) {
        let size = released_ledger(&config);
        return Ok((format!("DeepSeek-V4 {name}"), config, size));
    }
    if let Some(name) = name.filter(|name| !name.contains('/')) {
        let known = PRESETS.join(", ");
        return Err(Failure::new(format!(
            "--model {name} is neither a folder nor a known geometry; known are {known}"
        )));
    }
    let source = Source::new(asked)?;
    let checkpoint = source.checkpoint()?;
    let report = checkpoint.inspection();
    Ok((source.to_string(), report.config.clone(), report.size.clone()))
}
