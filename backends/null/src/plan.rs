//! Plans: a program, checked against the table, holding on to everything it names.

use std::any::Any;

use hal::{Error, Plan, PlanStats, Program, Result};

use crate::memory::buffer_of;
use crate::table::{self, Launch};
use crate::weight::raw_of;

/// A compiled program.
pub(crate) struct NullPlan {
    /// Keeps buffers and weights alive (law 4): the caller may drop its handles.
    _program: Program,
    launches: Vec<Launch>,
}

impl NullPlan {
    /// Resolves every op to its launch.
    ///
    /// # Errors
    /// `InvalidProgram` for operands of another device, `Unsupported` for an op without an entry.
    pub(crate) fn compile(program: &Program) -> Result<NullPlan> {
        let mut launches = Vec::with_capacity(program.nodes().len());
        for node in program.nodes() {
            let at = || format!("{} {}", node.site, node.op.name());
            let mut fault = Ok(());
            node.op.operands(&mut |_, tensor| {
                if fault.is_ok() {
                    fault = buffer_of(tensor).map(|_| ());
                }
            });
            node.op.weights(&mut |weight| {
                if fault.is_ok() {
                    fault = raw_of(weight).map(|_| ());
                }
            });
            fault.map_err(|error| error.context(at()))?;
            let entry = table::entry(&node.op);
            let entry = entry.ok_or_else(|| Error::unsupported(format!("{}: no kernel", at())))?;
            launches.push((entry.record)(&node.op));
        }
        Ok(NullPlan { _program: program.clone(), launches })
    }

    /// Goes through the launches, as an eager device would.
    pub(crate) fn run(&self) {
        self.launches.iter().for_each(Launch::run);
    }
}

impl Plan for NullPlan {
    fn stats(&self) -> PlanStats {
        PlanStats { launches: self.launches.len() as u32, workspace_bytes: 0 }
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}
