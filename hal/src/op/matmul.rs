//! Products with a weight, the bucket sort that groups rows by expert, and the stream mixer.

use super::{
    OpData, Operand, dtype_of, ensure, indices, matrix_of, operands, parameters, plain, plain_real,
    weights,
};
use crate::error::Result;
use crate::op::Access;
use crate::tensor::{DType, Tensor};
use crate::weight::Weight;

/// `out[i] = x[i] · W[group(i)]ᵀ`, f32 accumulation in an order fixed per row.
#[derive(Clone, Debug)]
pub struct Matmul {
    /// `[n, o]`
    pub out: Tensor,
    /// `[n, i]`
    pub x: Tensor,
    /// `[groups, o, i]`
    pub weight: Weight,
    /// Which group a row uses.
    pub groups: RowGroups,
}

/// Which group of the weight a row uses.
#[derive(Clone, Debug)]
pub enum RowGroups {
    /// Row i uses group `i % groups`: 1 group is dense, more is block-diagonal.
    Cyclic,
    /// Group g owns rows `offsets[g]..offsets[g + 1]`. Rows behind the last offset are not computed
    /// and nothing may read them.
    Sorted {
        /// i32 `[groups + 1]`
        offsets: Tensor,
    },
}

impl Operand for RowGroups {
    fn walk(&self, access: Access, visit: &mut dyn FnMut(Access, &Tensor)) {
        if let RowGroups::Sorted { offsets } = self {
            visit(access, offsets);
        }
    }
    fn walk_mut(&mut self, access: Access, visit: &mut dyn FnMut(Access, &mut Tensor)) {
        if let RowGroups::Sorted { offsets } = self {
            visit(access, offsets);
        }
    }
}

impl OpData for Matmul {
    operands!(Write out, Read x, Read groups);
    weights!(weight);
    fn check(&self) -> Result<()> {
        let spec = self.weight.spec();
        plain_real("x", &self.x)?;
        plain_real("out", &self.out)?;
        ensure(self.x.width() == spec.cols, || {
            format!(
                "x is {} wide but weight {} takes {}; was the shard split by columns?",
                self.x.width(),
                spec.name,
                spec.cols
            )
        })?;
        matrix_of("out", &self.out, self.x.rows(), spec.rows)?;
        match &self.groups {
            RowGroups::Cyclic => ensure(self.x.rows().is_multiple_of(spec.groups), || {
                format!("{} rows do not divide over {} groups", self.x.rows(), spec.groups)
            }),
            RowGroups::Sorted { offsets } => {
                indices("offsets", offsets)?;
                super::vector_of("offsets", offsets, spec.groups + 1)
            }
        }
    }
}

/// Stable counting sort of flat keys `0..groups`; keys of -1 are dropped.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// i32 `[groups + 1]`: first sorted place of each group.
    pub offsets: Tensor,
    /// i32 `[n · k]`: flat key at each sorted place, -1 behind the last.
    pub order: Tensor,
    /// i32 `[n · k]`: sorted place of each key, -1 if dropped.
    pub inverse: Tensor,
    /// i32 `[n, k]`, contiguous.
    pub keys: Tensor,
}

impl OpData for Bucket {
    operands!(Write offsets, Write order, Write inverse, Read keys);
    weights!();
    fn check(&self) -> Result<()> {
        let count = self.keys.shape().elements();
        for (name, tensor) in [
            ("offsets", &self.offsets),
            ("order", &self.order),
            ("inverse", &self.inverse),
            ("keys", &self.keys),
        ] {
            indices(name, tensor)?;
            ensure(tensor.is_contiguous(), || format!("{name} must be contiguous"))?;
        }
        for (name, tensor) in [("order", &self.order), ("inverse", &self.inverse)] {
            ensure(tensor.shape().elements() == count, || {
                format!("{name} is {} for {count} keys", tensor.shape())
            })?;
        }
        ensure(self.offsets.shape().elements() >= 2, || "offsets name no group".into())
    }
}

/// Gates and mixer of a hyper-connection site (spec section 4), f32 throughout.
///
/// `u` arrives in checkpoint order (pre | post | comb), not yet normalised; `out` leaves as
/// pre `[s]` · comb `[s, s]` (after Sinkhorn) · post `[s]`, so that comb and post read as one
/// `[s + 1, s]` matrix. With width `s` there is pre alone (the head's form).
#[derive(Clone, Debug)]
pub struct HcMix {
    /// f32 `[n, s]` or `[n, 2s + s²]`
    pub out: Tensor,
    /// f32, like `out`.
    pub u: Tensor,
    /// f32 `[n, 1]`: mean square of the flattened streams.
    pub mean_square: Tensor,
    /// f32, one per column of `u`.
    pub base: Tensor,
    /// f32 `[3]` (pre, post, comb), or `[1]` in the head's form.
    pub scale: Tensor,
    /// Number of streams s.
    pub streams: u32,
    /// Sinkhorn rounds, the first included.
    pub rounds: u32,
    /// Added to gates and sums.
    pub epsilon: f32,
    /// Added to the mean square.
    pub norm_epsilon: f32,
}

impl OpData for HcMix {
    operands!(Write out, Read u, Read mean_square, Read base, Read scale);
    weights!();
    fn check(&self) -> Result<()> {
        let s = self.streams;
        let width = self.u.width();
        let full = width == 2 * s + s * s;
        ensure(s >= 1 && (full || width == s), || {
            format!("u is {width} wide for {s} streams; {s} or {} are possible", 2 * s + s * s)
        })?;
        for (name, tensor) in
            [("out", &self.out), ("u", &self.u), ("mean_square", &self.mean_square)]
        {
            plain(name, tensor)?;
            dtype_of(name, tensor, DType::F32)?;
        }
        matrix_of("out", &self.out, self.u.rows(), width)?;
        matrix_of("mean_square", &self.mean_square, self.u.rows(), 1)?;
        parameters("base", &self.base, width)?;
        parameters("scale", &self.scale, if full { 3 } else { 1 })?;
        ensure(self.rounds >= 1 || !full, || "a mixer needs a Sinkhorn round".into())
    }
}
