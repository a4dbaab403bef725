//! The conformance kit on the first adapter, every shader without one, and edges of both.
//!
//! Where there is no adapter, tests that need one say "skipped: no adapter" and pass; CI installs a
//! software adapter and sets HADAL_NEEDS_ADAPTER: there they fail.

mod kit;
mod laws;
mod shaders;

use std::sync::Arc;

use hal::{ErrorKind, OpenOptions};

use crate::device::open;
use crate::shared::Shared;

/// The first adapter, opened with these settings; `None`, with a line that says so, where there is none.
fn adapter(settings: &[(&str, &str)]) -> Option<Arc<Shared>> {
    let settings = settings.iter().map(|&(name, value)| (name.into(), value.into())).collect();
    match open(0, &OpenOptions { settings, ..OpenOptions::default() }) {
        Ok(shared) => {
            println!("ran on: {}", shared.info.name);
            Some(shared)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            assert!(std::env::var_os("HADAL_NEEDS_ADAPTER").is_none(), "no adapter: {error}");
            println!("skipped: no adapter");
            None
        }
        Err(error) => panic!("{error:?}"),
    }
}
