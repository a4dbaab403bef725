//! The conformance kit on the simulator, for every simulated generation. What is proved is that the backend
//! uses the vendor's interface as documented and that the compositions compute the ops; nothing about
//! hardware.

mod common;

use std::cell::RefCell;
use std::sync::Arc;

use backend_ascend::AscendCommunicator;
use conformance::{Expectations, Settings, Suite, run_on};
use hal::op::Communicator;
use hal::{Backend, Device, OpenOptions, Queue, QueueKind};

use common::{SOCS, Sim};

/// A device whose next call after opening fails as hardware does.
fn lose(sim: &Sim) -> hal::Result<(Arc<dyn Device>, Arc<dyn Queue>)> {
    let device = sim.device(&[]);
    let queue = device.queue(QueueKind::Compute)?;
    sim.fail_in(0);
    assert!(device.host_slot(64).is_err(), "the device did not fail");
    Ok((device, queue))
}

/// A device and its end of a group.
type Member = (Arc<dyn Device>, Arc<dyn Communicator>);

/// The devices of a machine as a group.
fn group(sim: &Sim, count: u32) -> hal::Result<Vec<Member>> {
    let backend = sim.backend();
    let ordinals: Vec<u32> = (0..count).collect();
    let ends = backend.communicators(&ordinals)?;
    let pair = |(ordinal, end): (u32, Arc<AscendCommunicator>)| {
        let device = backend.open(ordinal, &OpenOptions::default())?;
        Ok((device, end as Arc<dyn Communicator>))
    };
    ordinals.into_iter().zip(ends).map(pair).collect()
}

fn conforms(soc: u32, suites: &[Suite], settings: &[(&str, &str)]) {
    let sim = Sim::new(soc, 1);
    let device = sim.device(settings);
    let doomed = Sim::new(soc, 1);
    let lost = || lose(&doomed);
    // Machines of groups live as long as their devices.
    let machines = RefCell::new(Vec::new());
    let ranks = |count: u32| {
        let sim = Sim::new(soc, count);
        let found = group(&sim, count);
        machines.borrow_mut().push(sim);
        found
    };
    let wanted = Settings {
        suites: suites.to_vec(),
        lost: Some(&lost),
        ranks: Some(&ranks),
        ..Settings::default()
    };
    let report = run_on(&device, &wanted, &Expectations::none());
    println!("{report}");
    drop(device);
    let mut violations = sim.violations();
    violations.extend(machines.borrow().iter().flat_map(Sim::violations));
    report.assert_green();
    assert!(violations.is_empty(), "{} violations: {violations:#?}", violations.len());
}

#[test]
fn the_device_contract_holds_on_every_generation() {
    for (_, soc) in SOCS {
        conforms(soc, &[Suite::Device], &[]);
    }
}

#[test]
fn ops_rows_and_lowerings_hold_on_910b() {
    conforms(0, &[Suite::Ops, Suite::Rows, Suite::Lower], &[]);
}

#[test]
fn ops_rows_and_lowerings_hold_on_910c() {
    conforms(1, &[Suite::Ops, Suite::Rows, Suite::Lower], &[]);
}

#[test]
fn ops_rows_and_lowerings_hold_on_950() {
    conforms(2, &[Suite::Ops, Suite::Rows, Suite::Lower], &[]);
}

#[test]
fn weights_hold_on_every_generation() {
    for (_, soc) in SOCS {
        conforms(soc, &[Suite::Weights], &[]);
    }
}

#[test]
fn collectives_hold_on_every_generation() {
    for (_, soc) in SOCS {
        conforms(soc, &[Suite::Collectives], &[]);
    }
}

#[test]
fn compositions_hold_where_fused_operators_are_not_wanted() {
    conforms(2, &[Suite::Lower, Suite::Program], &[("operators", "composed")]);
}

#[test]
fn a_whole_small_step_holds_on_every_generation() {
    for (_, soc) in SOCS {
        conforms(soc, &[Suite::Program], &[]);
    }
}
