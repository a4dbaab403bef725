//! What the last block of a product goes on with, in place of a launch behind it: `Then` of `kernels/gemm/gemm.cu`.
//!
//! Whether launches are joined is decided here, once, when a program is recorded: from shapes alone, so it is fixed for
//! a plan. It shows in no bits: the same functions get the same values, and what lies between is written all the same.
//! Refused where one block would do in turn what blocks of a launch of its own do side by side.

use hal::RowCodec;

use super::{Args, Place};
use crate::driver::Address;

/// Counters of a launch; a plan's lie in front of its workspace.
pub(crate) const COUNTERS: u32 = 4096;
/// `Then` behind its counters: six numbers, and the largest of what may follow.
const BYTES: usize = 24 + 248;
/// Rows that one block takes in turn where each is worth a block of its own.
const TURNS_MAX: u32 = 2;

/// What is done; numbers as in `gemm.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Finish = 1,
    Rope = 2,
    Convert = 3,
    Swiglu = 4,
    Combine = 5,
    Route = 6,
    Scatter = 7,
    Enter = 8,
}

impl Next {
    /// Rows of one part that one block may do in turn.
    fn turns_max(self) -> u32 {
        match self {
            Next::Finish | Next::Rope | Next::Route | Next::Enter => TURNS_MAX,
            // A few columns of a row, or a few bytes.
            Next::Convert | Next::Swiglu | Next::Combine | Next::Scatter => 8,
        }
    }
}

/// One such thing.
pub(crate) struct Then {
    pub(crate) next: Next,
    /// Outputs after which parts begin again, and outputs of a part.
    pub(crate) span: u32,
    pub(crate) unit: u32,
    /// Rows that are done once all of the product is there; none: each tile of rows by itself.
    pub(crate) whole: Option<u32>,
    pub(crate) shared_bytes: u32,
    /// The kernel's own argument.
    pub(crate) args: Args,
}

/// What a product's blocks are.
#[derive(Clone, Copy)]
pub(crate) struct Blocks {
    /// Outputs of the product, and of a block.
    pub(crate) outputs: u32,
    pub(crate) each: u32,
    /// Lines and tiles of the grid.
    pub(crate) lines: u32,
    /// Rows of a tile, at most.
    pub(crate) rows: u32,
}

impl Then {
    /// The widest part of `span` columns that whole blocks of codes and of `each` outputs make, or all of them.
    pub(crate) fn unit_of(span: u32, round: Option<RowCodec>) -> u32 {
        let block = match round {
            Some(RowCodec::Fp8 { block, tail: 0 } | RowCodec::Fp4 { block }) => u32::from(block),
            None => 128,
            _ => span,
        };
        if block.is_multiple_of(16) && span.is_multiple_of(block) { block } else { span }
    }

    /// True if blocks of such a product may do it: parts are made of whole blocks, there is a counter for each.
    pub(crate) fn fits(&self, blocks: &Blocks) -> bool {
        let Blocks { outputs, each, lines, rows } = *blocks;
        let parts = self.span.div_ceil(self.unit.max(1));
        let whole_blocks = (self.span == outputs || self.span.is_multiple_of(each))
            && (parts == 1 || self.unit.is_multiple_of(each));
        let counters = u64::from(parts) * if self.whole.is_some() { 1 } else { u64::from(lines) };
        let turns = self.whole.unwrap_or(rows);
        whole_blocks
            && outputs > 0
            && lines > 0
            && self.unit > 0
            && outputs.is_multiple_of(self.span)
            && counters <= COUNTERS.into()
            && turns <= self.next.turns_max()
    }
}

impl Args {
    /// A `Then`, or none.
    pub(crate) fn then(self, then: Option<&Then>, counters: Address) -> Args {
        let Some(then) = then else { return self.address(0).zeros(BYTES) };
        let Then { next, span, unit, whole, args, .. } = then;
        let rest = (BYTES - 24).checked_sub(args.bytes.len()).expect("as large as the union");
        self.address(counters)
            .int(*next as u32)
            .int(*span)
            .int(*unit)
            .int(whole.is_some().into())
            .int(whole.unwrap_or(0))
            .int(0)
            .fields(args)
            .zeros(rest)
    }
}

/// A round trip of some rows, part by part.
pub(crate) fn convert(out: &Place, x: &Place, codec: RowCodec) -> Then {
    let span = out.width;
    let args = Args::new().place(out).place(x).round(Some(codec));
    let unit = Then::unit_of(span, Some(codec));
    Then { next: Next::Convert, span, unit, whole: None, shared_bytes: 0, args }
}
