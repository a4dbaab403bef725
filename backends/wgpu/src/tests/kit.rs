//! The conformance kit, as the adapter is, within WebGPU's default limits, and with weights in parts.

use std::sync::Arc;

use conformance::{Expectations, Settings, Suite, run_on};
use hal::{Device, Queue, Result};

use super::adapter;
use crate::device::WgpuDevice;
use crate::queue::WgpuQueue;

/// A device that has just been given up.
fn lost() -> Result<(Arc<dyn Device>, Arc<dyn Queue>)> {
    let shared = adapter(&[]).expect("the kit runs on an adapter");
    let queue = Arc::new(WgpuQueue::new(&shared)?);
    shared.lose();
    Ok((Arc::new(WgpuDevice { shared }), queue))
}

/// Runs suites on the first adapter.
fn conforms(settings: &[(&str, &str)], suites: &[Suite], filter: &str) {
    let Some(shared) = adapter(settings) else { return };
    let device: Arc<dyn Device> = Arc::new(WgpuDevice { shared });
    let settings = Settings {
        suites: suites.to_vec(),
        filter: filter.into(),
        lost: Some(&lost),
        ..Settings::default()
    };
    let report = run_on(&device, &settings, &Expectations::none());
    println!("{}\n{report}", report.coverage());
    report.assert_green();
}

#[test]
fn the_first_adapter_keeps_the_device_contract() {
    conforms(&[], &[Suite::Device], "");
}

#[test]
fn the_first_adapter_computes_every_op_as_defined() {
    conforms(&[], &[Suite::Ops, Suite::Weights], "");
}

#[test]
fn rows_do_not_depend_on_their_neighbours() {
    conforms(&[], &[Suite::Rows], "");
}

#[test]
fn whole_steps_and_lowerings_agree() {
    conforms(&[], &[Suite::Lower, Suite::Program], "");
}

#[test]
fn webgpus_default_limits_are_enough() {
    let suites = Suite::ALL.into_iter().filter(|suite| *suite != Suite::Collectives);
    conforms(&[("limits", "strict")], &suites.collect::<Vec<_>>(), "");
}

#[test]
fn tables_and_caches_in_windows_are_whole() {
    // Windows as small as they can be: most tables and caches of the suites lie in several.
    let windows = [("window_bytes", "256")];
    conforms(&windows, &[Suite::Ops], "/scatter/");
    for op in ["/gather/", "/attend/", "/index_score/"] {
        conforms(&windows, &[Suite::Ops, Suite::Rows], op);
    }
    conforms(&windows, &[Suite::Program], "");
}

#[test]
fn weights_cut_into_parts_are_whole() {
    // The least that 32 rows, or a block of 128, of the suite's widest weights take.
    conforms(&[("weight_bytes", "18432")], &[Suite::Weights], "");
    conforms(&[("weight_bytes", "43008")], &[Suite::Ops, Suite::Rows], "/matmul/");
}
