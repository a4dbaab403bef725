//! `hadal inspect`: what a model folder holds, from its configuration and headers alone.

use std::io::{self, Write};

use super::args::InspectArgs;
use super::failure::{Failure, Result};
use super::model::Source;

/// Prints the report, or fails with the first thing that is wrong.
pub fn inspect(args: &InspectArgs) -> Result<()> {
    let checkpoint = Source::new(args.model.as_deref())?.checkpoint()?;
    let report = checkpoint.inspection();
    let mut out = io::stdout().lock();
    if args.json {
        let text = serde_json::to_string_pretty(report).map_err(Failure::new)?;
        writeln!(out, "{text}")?;
    } else {
        write!(out, "{report}")?;
    }
    Ok(())
}
