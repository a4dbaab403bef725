//! The one list of what this device can do: Tier 0 as compositions of ordinary operators, the
//! collectives, and what the vendor's fused operators do.
//!
//! `supports` and `compile` both take the first entry that fits. `fits` looks at dtypes, widths, codecs
//! and what the opened device has, never at the number of rows.

use hal::{Op, Result, RowCodec, Tensor};

use crate::communicator;
use crate::record::{attend, codec, matmul, mix, route, rows, select};
use crate::runtime::Runtime;
use crate::tape::Tape;

/// One way to run an op.
pub(crate) struct Entry {
    /// The op, as in `Op::name`.
    op: &'static str,
    /// Dtypes, codecs and widths it takes.
    fits: fn(&Op, &Runtime) -> bool,
    /// Writes the composition onto the tape.
    pub(crate) record: fn(&mut Tape, &Op) -> Result<()>,
}

const fn entry_of(op: &'static str, record: fn(&mut Tape, &Op) -> Result<()>) -> Entry {
    Entry { op, fits: |op, _| codecs_fit(op), record }
}

const fn exchange(op: &'static str) -> Entry {
    Entry { op, fits: |op, _| communicator::fits(op), record: communicator::record }
}

/// What there is, by op. Every composition serves all generations; where they differ is the form weights
/// are kept in.
static TABLE: &[Entry] = &[
    entry_of("gather", rows::gather),
    entry_of("scatter", rows::scatter),
    entry_of("map", rows::map),
    entry_of("reduce", rows::reduce),
    entry_of("convert", codec::convert),
    entry_of("rms_norm", rows::rms_norm),
    entry_of("rope", rows::rope),
    entry_of("matmul", matmul::matmul),
    entry_of("top_k", select::top_k),
    entry_of("bucket", select::bucket),
    entry_of("attend", attend::attend),
    entry_of("index_score", attend::index_score),
    entry_of("hc_mix", mix::hc_mix),
    exchange("all_reduce"),
    exchange("all_gather"),
    exchange("reduce_scatter"),
    exchange("all_to_all"),
    Entry { op: "route", fits: route::fits, record: route::route },
];

/// A coded row whose bf16 tail begins at an odd byte has no composition.
fn codecs_fit(op: &Op) -> bool {
    let mut fits = true;
    op.operands(&mut |_, tensor: &Tensor| {
        if let RowCodec::Fp8 { tail, .. } = tensor.codec() {
            fits &= tail == 0 || (tensor.width() - u32::from(tail)).is_multiple_of(2);
        }
    });
    fits
}

/// The entry that runs `op`, if any.
pub(crate) fn entry(op: &Op, runtime: &Runtime) -> Option<&'static Entry> {
    TABLE.iter().find(|entry| entry.op == op.name() && (entry.fits)(op, runtime))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_primitive_has_an_entry() {
        let names: Vec<&str> = TABLE.iter().map(|entry| entry.op).collect();
        assert_eq!(names[..Op::PRIMITIVES], Op::NAMES[..Op::PRIMITIVES]);
    }
}
