//! The suites: each lists its checks; nothing runs before [`crate::run_on`] says so.

mod collectives;
mod device;
mod lower;
mod ops;
mod program;
mod rows;
mod weights;

use std::sync::Arc;

use hal::layer::{Fresh, Validate};
use hal::op::Op;
use hal::{DType, Device};
use kernels::case::Case;

use crate::bed::Bed;
use crate::report::{Check, Trouble};
use crate::{Settings, Suite};

/// One check of a suite.
pub(crate) struct Item<'a> {
    /// Id within the suite.
    pub(crate) id: String,
    /// Does it.
    pub(crate) run: Box<dyn Fn() -> Check + 'a>,
    /// What it covers.
    pub(crate) covers: Option<(&'static str, DType)>,
    /// True if the device runs the op itself.
    pub(crate) native: bool,
}

impl<'a> Item<'a> {
    fn new(id: impl Into<String>, run: impl Fn() -> Check + 'a) -> Item<'a> {
        Item { id: id.into(), run: Box::new(run), covers: None, native: false }
    }
}

/// The checks of a suite. Suites that compute run behind [`Validate`], which poisons scratch.
pub(crate) fn checks<'a>(
    suite: Suite,
    device: &'a Arc<dyn Device>,
    settings: &'a Settings<'a>,
) -> Vec<Item<'a>> {
    if suite == Suite::Device {
        return device::checks(device, settings);
    }
    let device = Validate::wrap(Arc::clone(device), Fresh::Zeroed);
    let bed = match Bed::new(&device) {
        Ok(bed) => Arc::new(bed),
        Err(error) => {
            let text = format!("{error:?}");
            return vec![Item::new("queue", move || Err(Trouble::Failed(text.clone())))];
        }
    };
    match suite {
        Suite::Device => unreachable!("done above"),
        Suite::Ops => ops::checks(&bed),
        Suite::Rows => rows::checks(&bed),
        Suite::Lower => lower::checks(&bed),
        Suite::Program => program::checks(&bed),
        Suite::Weights => weights::checks(&bed),
        Suite::Collectives => collectives::checks(&bed, settings),
    }
}

/// One check per case.
fn per_case<'a>(
    bed: &Arc<Bed>,
    cases: impl Iterator<Item = Case>,
    check: fn(&Bed, &Case) -> Check,
) -> Vec<Item<'a>> {
    let item = |case: Case| {
        let bed = Arc::clone(bed);
        let covers = Some((case.op, case.dtype()));
        let native = is_native(&bed, &case);
        let id = case.id();
        Item { id, run: Box::new(move || check(&bed, &case)), covers, native }
    };
    cases.map(item).collect()
}

/// True if the device runs the case's op itself. Asked with the op's real operands, on the device.
fn is_native(bed: &Bed, case: &Case) -> bool {
    let ask = || -> hal::Result<bool> {
        let (tensors, weights) = (bed.tensors(&case.arrays)?, bed.weights(&case.weights)?);
        let op: Op = (case.build)(&tensors, &weights);
        Ok(bed.device.supports(&op))
    };
    ask().unwrap_or(false)
}
