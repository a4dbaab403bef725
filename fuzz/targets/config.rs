//! Any bytes as a configuration: it is refused with one line, or what it costs can be computed.
#![no_main]

use engine::budget::{Demanded, PlanReport, released_ledger};
use engine::config::parse_config;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    match parse_config(data) {
        Err(refusal) => assert!(!refusal.to_string().contains('\n')),
        Ok(config) => {
            let demanded = Demanded { context: config.context.into(), ..Demanded::default() };
            let size = released_ledger(&config);
            PlanReport::new(&config, size, demanded, None).expect("a legal context");
        }
    }
});
