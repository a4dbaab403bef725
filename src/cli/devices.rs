//! `hadal devices`: what there is to run on.

use std::io::{self, Write};

use hadal::registry;
use hal::DeviceInfo;
use serde_json::json;

use super::args::DevicesArgs;
use super::failure::Result;
use super::term::{bytes, columns};

/// Prints every device of every backend in this binary. A driver that fails hides no other; it is
/// `hadal doctor` that says why.
pub fn devices(args: &DevicesArgs) -> Result<()> {
    let mut devices = Vec::new();
    for (name, found) in registry::registry().list() {
        match found {
            Ok(found) => devices.extend(found),
            Err(error) => eprintln!("{name}: {error}"),
        }
    }
    let mut out = io::stdout().lock();
    if args.json {
        let list: Vec<_> = devices.iter().map(entry).collect();
        writeln!(out, "{:#}", json!(list))?;
        return Ok(());
    }
    let row = |device: &DeviceInfo| {
        let memory = if device.memory_bytes == 0 { "?".into() } else { bytes(device.memory_bytes) };
        vec![registry::name_of(device), memory, device.name.clone()]
    };
    let rows: Vec<_> = devices.iter().map(row).collect();
    out.write_all(columns(&rows, &[1]).as_bytes())?;
    Ok(())
}

fn entry(device: &DeviceInfo) -> serde_json::Value {
    json!({
        "device": registry::name_of(device),
        "backend": device.backend,
        "ordinal": device.ordinal,
        "name": device.name,
        "memory_bytes": device.memory_bytes,
    })
}
