//! Ops on rows: gather, scatter, map, reduce, convert, rms_norm, rope.

use super::{
    OpData, Operand, dims_of, ensure, indices, matrix_of, operands, parameters, plain, plain_real,
    real, weights,
};
use crate::error::Result;
use crate::op::Access;
use crate::tensor::{DType, RowCodec, Tensor};

/// Reads rows by an index list, or elements along a row.
///
/// Rows: `out[i] = source[index[i] / per]`, `index` `[n]` (any shape with n elements, contiguous).
/// Elements: `out[i, j] = source[rows[i], index[i, j] / per]`. Division is integer; -1 is absent.
/// Coded rows are decoded. `out` has the dtype of `source`.
#[derive(Clone, Debug)]
pub struct Gather {
    /// `[n, w…]`, or `[n, k]` for elements; dtype of the source.
    pub out: Tensor,
    /// What is read.
    pub source: GatherSource,
    /// i32 `[n]` for rows, `[n, k]` for elements.
    pub index: Tensor,
    /// Indices are divided by this first; at least 1.
    pub per: u32,
}

/// What a [`Gather`] reads.
#[derive(Clone, Debug)]
pub enum GatherSource {
    /// Whole rows. An index at or past the end of `source` goes on in `more`.
    Rows {
        /// `[r, w…]`
        source: Tensor,
        /// `[r', w…]`, same dtype.
        more: Option<Tensor>,
    },
    /// Elements of row `rows[i]`; without `rows`, of row i.
    Elements {
        /// `[r, w]`
        source: Tensor,
        /// i32 `[n]` or `[n, 1]`.
        rows: Option<Tensor>,
    },
}

impl Operand for GatherSource {
    fn walk(&self, access: Access, visit: &mut dyn FnMut(Access, &Tensor)) {
        let (GatherSource::Rows { source, more: second }
        | GatherSource::Elements { source, rows: second }) = self;
        source.walk(access, visit);
        second.walk(access, visit);
    }
    fn walk_mut(&mut self, access: Access, visit: &mut dyn FnMut(Access, &mut Tensor)) {
        let (GatherSource::Rows { source, more: second }
        | GatherSource::Elements { source, rows: second }) = self;
        source.walk_mut(access, visit);
        second.walk_mut(access, visit);
    }
}

impl OpData for Gather {
    operands!(Write out, Read source, Read index);
    weights!();
    fn check(&self) -> Result<()> {
        indices("index", &self.index)?;
        plain("out", &self.out)?;
        ensure(self.per >= 1, || "per must be at least 1".into())?;
        match &self.source {
            GatherSource::Rows { source, more } => {
                ensure(self.index.is_contiguous(), || "index must be contiguous".into())?;
                let count = self.index.shape().elements();
                ensure(u64::from(self.out.rows()) == count, || {
                    format!("out has {} rows for {count} indices", self.out.rows())
                })?;
                same_dtype("source", source, &self.out)?;
                matrix_of("out", &self.out, self.out.rows(), source.width())?;
                if let Some(more) = more {
                    same_dtype("more", more, &self.out)?;
                    matrix_of("more", more, more.rows(), source.width())?;
                }
            }
            GatherSource::Elements { source, rows } => {
                plain("source", source)?;
                same_dtype("source", source, &self.out)?;
                matrix_of("out", &self.out, self.index.rows(), self.index.width())?;
                if let Some(rows) = rows {
                    indices("rows", rows)?;
                    matrix_of("rows", rows, self.index.rows(), 1)?;
                }
            }
        }
        Ok(())
    }
}

fn same_dtype(name: &str, tensor: &Tensor, out: &Tensor) -> Result<()> {
    ensure(tensor.dtype() == out.dtype(), || {
        format!("{name} is {:?} but out is {:?}", tensor.dtype(), out.dtype())
    })
}

/// `target[index[i]] = source[i]`; -1 drops the row. Two rows for one place are forbidden.
///
/// Rows are converted to the target's dtype and codec. `source` and `target` may be row ranges of
/// one buffer as long as they do not overlap.
#[derive(Clone, Debug)]
pub struct Scatter {
    /// `[r, w]`; rows that are not named keep their values.
    pub target: Tensor,
    /// `[n, w]`
    pub source: Tensor,
    /// i32 `[n]`
    pub index: Tensor,
}

impl OpData for Scatter {
    operands!(ReadWrite target, Read source, Read index);
    weights!();
    fn check(&self) -> Result<()> {
        indices("index", &self.index)?;
        matrix_of("index", &self.index, self.source.rows(), 1)?;
        matrix_of("source", &self.source, self.source.rows(), self.target.width())?;
        same_dtype("source", &self.source, &self.target)
    }
}

/// One expression per element; inputs broadcast against `out` (dimensions of 1, missing leading
/// dimensions). Real inputs are widened to f32, the result is rounded to `out`'s dtype.
#[derive(Clone, Debug)]
pub struct Map {
    /// Any shape up to rank 3.
    pub out: Tensor,
    /// The expression.
    pub f: MapFn,
}

/// The closed list of expressions.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum MapFn {
    /// `x`
    Copy(Tensor),
    /// `x + y`
    Add(Tensor, Tensor),
    /// `x / y`
    Divide(Tensor, Tensor),
    /// `exp(x - y)`
    ExpMinus(Tensor, Tensor),
    /// `sqrt(ln(1 + e^x))`
    SqrtSoftplus(Tensor),
    /// `index < 0 ? -1e30 : x + y`. Not -∞: an all-masked row then pools to 0 instead of NaN.
    MaskedAdd {
        /// First summand.
        x: Tensor,
        /// Second summand.
        y: Tensor,
        /// i32; negative masks.
        index: Tensor,
    },
    /// `x / (total + 1e-20) * scale`
    Share {
        /// Part.
        x: Tensor,
        /// Whole.
        total: Tensor,
        /// Static factor.
        scale: f32,
    },
    /// `[weight ·] silu(min(gate, clamp)) · clamp(up, ±clamp)`
    Swiglu {
        /// Gate projection.
        gate: Tensor,
        /// Up projection.
        up: Tensor,
        /// Routing weight, multiplied in f32 before the one rounding.
        weight: Option<Tensor>,
        /// Limit.
        clamp: f32,
    },
    /// Cache row of entry `entry` on page `page`: `page * per + entry % per`, or -1 if either is
    /// negative. Integers.
    PageRow {
        /// i32 entry numbers.
        entry: Tensor,
        /// i32 page numbers.
        page: Tensor,
        /// Entries per page.
        per: u32,
    },
}

impl MapFn {
    /// Name in traces.
    pub fn name(&self) -> &'static str {
        match self {
            MapFn::Copy(..) => "copy",
            MapFn::Add(..) => "add",
            MapFn::Divide(..) => "divide",
            MapFn::ExpMinus(..) => "exp_minus",
            MapFn::SqrtSoftplus(..) => "sqrt_softplus",
            MapFn::MaskedAdd { .. } => "masked_add",
            MapFn::Share { .. } => "share",
            MapFn::Swiglu { .. } => "swiglu",
            MapFn::PageRow { .. } => "page_row",
        }
    }

    /// The inputs, in the order of the expression.
    pub fn inputs(&self) -> Vec<&Tensor> {
        match self {
            MapFn::Copy(x) | MapFn::SqrtSoftplus(x) => vec![x],
            MapFn::Add(x, y) | MapFn::Divide(x, y) | MapFn::ExpMinus(x, y) => vec![x, y],
            MapFn::MaskedAdd { x, y, index } => vec![x, y, index],
            MapFn::Share { x, total, .. } => vec![x, total],
            MapFn::Swiglu { gate, up, weight, .. } => {
                [Some(gate), Some(up), weight.as_ref()].into_iter().flatten().collect()
            }
            MapFn::PageRow { entry, page, .. } => vec![entry, page],
        }
    }

    fn inputs_mut(&mut self) -> Vec<&mut Tensor> {
        match self {
            MapFn::Copy(x) | MapFn::SqrtSoftplus(x) => vec![x],
            MapFn::Add(x, y) | MapFn::Divide(x, y) | MapFn::ExpMinus(x, y) => vec![x, y],
            MapFn::MaskedAdd { x, y, index } => vec![x, y, index],
            MapFn::Share { x, total, .. } => vec![x, total],
            MapFn::Swiglu { gate, up, weight, .. } => {
                [Some(gate), Some(up), weight.as_mut()].into_iter().flatten().collect()
            }
            MapFn::PageRow { entry, page, .. } => vec![entry, page],
        }
    }
}

impl Operand for MapFn {
    fn walk(&self, access: Access, visit: &mut dyn FnMut(Access, &Tensor)) {
        for input in self.inputs() {
            visit(access, input);
        }
    }
    fn walk_mut(&mut self, access: Access, visit: &mut dyn FnMut(Access, &mut Tensor)) {
        for input in self.inputs_mut() {
            visit(access, input);
        }
    }
}

impl OpData for Map {
    operands!(Write out, Read f);
    weights!();
    fn check(&self) -> Result<()> {
        let name = self.f.name();
        plain("out", &self.out)?;
        ensure(self.out.dims().len() <= 3, || {
            format!("{name}: out {} has rank 4", self.out.shape())
        })?;
        for input in self.f.inputs() {
            plain(name, input)?;
            ensure(broadcasts(input.dims(), self.out.dims()), || {
                format!("{name}: {} does not broadcast to {}", input.shape(), self.out.shape())
            })?;
        }
        match &self.f {
            MapFn::PageRow { entry, page, per } => {
                indices("entry", entry)?;
                indices("page", page)?;
                indices("out", &self.out)?;
                ensure(*per >= 1, || "page_row: per must be at least 1".into())
            }
            MapFn::Copy(x) if x.dtype() == DType::I32 => indices("out", &self.out),
            MapFn::MaskedAdd { x, y, index } => {
                indices("index", index)?;
                real("x", x)?;
                real("y", y)?;
                real("out", &self.out)
            }
            _ => {
                real("out", &self.out)?;
                self.f.inputs().into_iter().try_for_each(|input| real(name, input))
            }
        }
    }
}

/// True if `dims` broadcasts to `out`: aligned at the last dimension, each equal or 1.
fn broadcasts(dims: &[u32], out: &[u32]) -> bool {
    dims.len() <= out.len()
        && dims.iter().rev().zip(out.iter().rev()).all(|(&from, &to)| from == to || from == 1)
}

/// Reduces over an axis, always in the order 0, 1, …, in f32.
#[derive(Clone, Debug)]
pub struct Reduce {
    /// Shape by `f`.
    pub out: Tensor,
    /// `[n, J, D]`, or `[n, D]` for `MeanSquare`. `Sum` also takes `[n, J]` as `[n, J, 1]`.
    pub x: Tensor,
    /// What is done.
    pub f: ReduceFn,
}

/// The reductions.
#[derive(Clone, Debug)]
pub enum ReduceFn {
    /// `out[n, d] = Σ_j x[n, j, d]`
    Sum,
    /// `out[n, d] = max_j x[n, j, d]`
    Max,
    /// `out[n, 0] = mean_d x[n, d]²`
    MeanSquare,
    /// `out[n, d] = Σ_j x[n, j, d] · y[n, j, d]`
    Dot(Tensor),
    /// `out[n, k, d] = Σ_j y[n, j, k] · x[n, j, d]`, y f32 `[n, J, K]`: a small matrix per row.
    Mix(Tensor),
}

impl ReduceFn {
    /// Name in traces.
    pub fn name(&self) -> &'static str {
        match self {
            ReduceFn::Sum => "sum",
            ReduceFn::Max => "max",
            ReduceFn::MeanSquare => "mean_square",
            ReduceFn::Dot(_) => "dot",
            ReduceFn::Mix(_) => "mix",
        }
    }
}

impl Operand for ReduceFn {
    fn walk(&self, access: Access, visit: &mut dyn FnMut(Access, &Tensor)) {
        if let ReduceFn::Dot(y) | ReduceFn::Mix(y) = self {
            visit(access, y);
        }
    }
    fn walk_mut(&mut self, access: Access, visit: &mut dyn FnMut(Access, &mut Tensor)) {
        if let ReduceFn::Dot(y) | ReduceFn::Mix(y) = self {
            visit(access, y);
        }
    }
}

impl OpData for Reduce {
    operands!(Write out, Read x, Read f);
    weights!();
    fn check(&self) -> Result<()> {
        let name = self.f.name();
        plain_real("out", &self.out)?;
        plain_real("x", &self.x)?;
        let n = self.x.rows();
        if let ReduceFn::MeanSquare = self.f {
            return matrix_of("out", &self.out, n, 1);
        }
        let (j, d) = match *self.x.dims() {
            [_, j, d] => (j, d),
            [_, j] => (j, 1),
            _ => {
                return ensure(false, || {
                    format!("{name}: x {} has no middle axis", self.x.shape())
                });
            }
        };
        ensure(j >= 1, || format!("{name}: the axis is empty"))?;
        match &self.f {
            ReduceFn::Dot(y) => {
                plain_real("y", y)?;
                dims_of("y", y, self.x.dims())?;
                matrix_of("out", &self.out, n, d)
            }
            ReduceFn::Mix(y) => {
                plain_real("y", y)?;
                let k = *y.dims().last().expect("a tensor has dimensions");
                dims_of("y", y, &[n, j, k])?;
                matrix_of("out", &self.out, n, k * d)
            }
            _ => matrix_of("out", &self.out, n, d),
        }
    }
}

/// Dtype change, block quantisation, and the round trip through it.
///
/// The round trip keeps values in `out`'s dtype (every result is exact in bf16) and is idempotent.
#[derive(Clone, Debug)]
pub struct Convert {
    /// Like `x`; codes for `Quantise`, values otherwise.
    pub out: Tensor,
    /// `[n, w]`
    pub x: Tensor,
    /// E8M0 scales U8 `[n, blocks]`: written by `Quantise`, read by `Dequantise`, else `None`.
    pub scales: Option<Tensor>,
    /// What is done.
    pub form: ConvertForm,
}

/// The conversions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConvertForm {
    /// Between dtypes and codecs; a coded target must receive values its codec holds exactly.
    Cast,
    /// Quantise and dequantise again: the model's own simulation.
    RoundTrip(RowCodec),
    /// To codes (F8E4M3 for `Fp8`, packed U8 for `Fp4`) and scales. `tail` must be 0.
    Quantise(RowCodec),
    /// From codes and scales. `tail` must be 0.
    Dequantise(RowCodec),
}

impl OpData for Convert {
    fn visit(&self, visit: &mut dyn FnMut(Access, &Tensor)) {
        visit(Access::Write, &self.out);
        visit(Access::Read, &self.x);
        if let Some(scales) = &self.scales {
            visit(self.scales_access(), scales);
        }
    }
    fn visit_mut(&mut self, visit: &mut dyn FnMut(Access, &mut Tensor)) {
        let access = self.scales_access();
        visit(Access::Write, &mut self.out);
        visit(Access::Read, &mut self.x);
        if let Some(scales) = &mut self.scales {
            visit(access, scales);
        }
    }
    weights!();
    fn check(&self) -> Result<()> {
        ensure(self.out.rows() == self.x.rows(), || {
            format!("out has {} rows, x {}", self.out.rows(), self.x.rows())
        })?;
        match self.form {
            ConvertForm::Cast => {
                real("x", &self.x)?;
                real("out", &self.out)?;
                matrix_of("out", &self.out, self.x.rows(), self.x.width())
            }
            ConvertForm::RoundTrip(codec) => {
                plain_real("x", &self.x)?;
                real("out", &self.out)?;
                matrix_of("out", &self.out, self.x.rows(), self.x.width())?;
                block_codec(codec)?;
                ensure(self.scales.is_none(), || "a round trip has no scales".into())
            }
            ConvertForm::Quantise(codec) => self.check_codes(codec, &self.x, &self.out),
            ConvertForm::Dequantise(codec) => self.check_codes(codec, &self.out, &self.x),
        }
    }
}

impl Convert {
    fn scales_access(&self) -> Access {
        match self.form {
            ConvertForm::Quantise(_) => Access::Write,
            _ => Access::Read,
        }
    }

    fn check_codes(&self, codec: RowCodec, values: &Tensor, codes: &Tensor) -> Result<()> {
        plain_real("values", values)?;
        plain("codes", codes)?;
        block_codec(codec)?;
        let (block, dtype, per_byte) = match codec {
            RowCodec::Fp8 { block, tail: 0 } => (block, DType::F8E4M3, 1),
            RowCodec::Fp4 { block } => (block, DType::U8, 2),
            _ => return ensure(false, || format!("{codec:?} has no separate codes")),
        };
        super::dtype_of("codes", codes, dtype)?;
        let width = values.width();
        matrix_of("codes", codes, values.rows(), width.div_ceil(per_byte))?;
        let Some(scales) = &self.scales else {
            return ensure(false, || "codes need scales".into());
        };
        super::dtype_of("scales", scales, DType::U8)?;
        matrix_of("scales", scales, values.rows(), width.div_ceil(u32::from(block)))
    }
}

fn block_codec(codec: RowCodec) -> Result<()> {
    let block = match codec {
        RowCodec::Plain => 0,
        RowCodec::Fp8 { block, .. } | RowCodec::Fp4 { block } => block,
    };
    ensure(block >= 1, || format!("{codec:?} names no block"))
}

/// `out[r] = x[r] / sqrt(mean(x[r]²) + epsilon) · gain`, statistics in f32.
#[derive(Clone, Debug)]
pub struct RmsNorm {
    /// `[n, d]`
    pub out: Tensor,
    /// `[n, d]`
    pub x: Tensor,
    /// f32 `[d]`
    pub gain: Option<Tensor>,
    /// Added to the mean square.
    pub epsilon: f32,
}

impl OpData for RmsNorm {
    operands!(Write out, Read x, Read gain);
    weights!();
    fn check(&self) -> Result<()> {
        plain_real("x", &self.x)?;
        plain_real("out", &self.out)?;
        matrix_of("out", &self.out, self.x.rows(), self.x.width())?;
        match &self.gain {
            Some(gain) => parameters("gain", gain, self.x.width()),
            None => Ok(()),
        }
    }
}

/// Rotates the last R columns in interleaved pairs: `(a, b) → (a·cos - b·sin, a·sin + b·cos)`.
///
/// Row i of `x` turns by row `i / heads` of `angle` (R/2 cosines, then R/2 sines); the other columns
/// are copied. `inverse` negates the sine.
#[derive(Clone, Debug)]
pub struct Rope {
    /// `[n · heads, c]`
    pub out: Tensor,
    /// `[n · heads, c]`
    pub x: Tensor,
    /// f32 `[n, R]`
    pub angle: Tensor,
    /// Rows of `x` per row of `angle`.
    pub heads: u32,
    /// Turn back.
    pub inverse: bool,
}

impl OpData for Rope {
    operands!(Write out, Read x, Read angle);
    weights!();
    fn check(&self) -> Result<()> {
        plain_real("x", &self.x)?;
        real("out", &self.out)?;
        matrix_of("out", &self.out, self.x.rows(), self.x.width())?;
        check_angle(&self.angle, self.x.rows(), self.x.width(), self.heads)
    }
}

/// `angle` is f32 `[rows / heads, R]` with R even and at most `width`.
pub(super) fn check_angle(angle: &Tensor, rows: u32, width: u32, heads: u32) -> Result<()> {
    plain("angle", angle)?;
    super::dtype_of("angle", angle, DType::F32)?;
    let turned = angle.width();
    ensure(turned.is_multiple_of(2) && turned <= width, || {
        format!("angle turns {turned} of {width} columns; it must be even and fit")
    })?;
    ensure(heads >= 1 && u64::from(angle.rows()) * u64::from(heads) == u64::from(rows), || {
        format!("angle has {} rows for {rows} rows of {heads} heads", angle.rows())
    })
}
