//! The one list of what this device can do.
//!
//! `supports` and `compile` both take the first entry that fits. A real backend has one line per
//! kernel and several per op (a fast one for some widths, a plain one for the rest), fused ops among
//! them; `fits` looks at dtypes, widths and encodings, never at the number of rows.

use hal::Op;

/// One way to run an op.
pub(crate) struct Entry {
    /// The op, as in `Op::name`.
    op: &'static str,
    /// Dtypes, codecs, widths and encodings it takes.
    fits: fn(&Op) -> bool,
    /// Resolves the op to a launch.
    pub(crate) record: fn(&Op) -> Launch,
}

/// A resolved op: here, nothing to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Launch;

impl Launch {
    /// Where a real device would launch the kernel.
    pub(crate) fn run(&self) {}
}

const fn nothing(op: &'static str) -> Entry {
    Entry { op, fits: |_| true, record: |_| Launch }
}

/// What there is, by op: Tier 0, so that a program costs the host what it would cost a plain device.
static TABLE: &[Entry] = &[
    nothing("gather"),
    nothing("scatter"),
    nothing("map"),
    nothing("reduce"),
    nothing("convert"),
    nothing("rms_norm"),
    nothing("rope"),
    nothing("matmul"),
    nothing("top_k"),
    nothing("bucket"),
    nothing("attend"),
    nothing("index_score"),
    nothing("hc_mix"),
];

/// The entry that runs `op`, if any.
pub(crate) fn entry(op: &Op) -> Option<&'static Entry> {
    TABLE.iter().find(|entry| entry.op == op.name() && (entry.fits)(op))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_primitive_has_an_entry() {
        let names: Vec<&str> = TABLE.iter().map(|entry| entry.op).collect();
        assert_eq!(names, Op::NAMES[..Op::PRIMITIVES]);
    }
}
