//! Fused pieces of an attention block: norms with rounding, the compressor, selection, projection.

use super::rounded;
use crate::error::Result;
use crate::op::attend::{check_caches, heads_of};
use crate::op::rows::check_angle;
use crate::op::{
    Attend, Convert, ConvertForm, Far, Gather, GatherSource, IndexScore, Listed, Map, MapFn,
    Matmul, OpData, Order, Reduce, ReduceFn, RmsNorm, Rope, RowGroups, Scatter, TopK, Visible,
    dtype_of, ensure, indices, matrix_of, operands, parameters, plain_real, real, weight_of,
    weights,
};
use crate::program::Builder;
use crate::tensor::{DType, RowCodec, Tensor};
use crate::weight::Weight;

/// `rms_norm`, then the quantisation round trip.
#[derive(Clone, Debug)]
pub struct NormQuant {
    /// `[n, d]`
    pub out: Tensor,
    /// `[n, d]`
    pub x: Tensor,
    /// f32 `[d]`
    pub gain: Option<Tensor>,
    /// Added to the mean square.
    pub epsilon: f32,
    /// Codec of the round trip.
    pub round: RowCodec,
}

impl NormQuant {
    fn norm(&self, out: Tensor) -> RmsNorm {
        RmsNorm { out, x: self.x.clone(), gain: self.gain.clone(), epsilon: self.epsilon }
    }
}

impl OpData for NormQuant {
    operands!(Write out, Read x, Read gain);
    weights!();
    fn check(&self) -> Result<()> {
        self.norm(self.out.clone()).check()
    }
    fn lower(&self, into: &mut Builder) -> Result<bool> {
        let normed = into.temp(self.out.dtype(), self.out.dims());
        into.push(self.norm(normed.clone()))?;
        into.push(Convert {
            out: self.out.clone(),
            x: normed,
            scales: None,
            form: ConvertForm::RoundTrip(self.round),
        })?;
        Ok(true)
    }
}

/// Norm and rope of queries (no gain, no rounding) or of a key (gain, rounding to its cache codec).
///
/// Lowers to rms_norm · rope \[· convert\].
#[derive(Clone, Debug)]
pub struct QkFinish {
    /// `[n · heads, c]`, any codec.
    pub out: Tensor,
    /// `[n · heads, c]`
    pub x: Tensor,
    /// f32 `[c]`
    pub gain: Option<Tensor>,
    /// f32 `[n, R]`
    pub angle: Tensor,
    /// Rows of `x` per row of `angle`.
    pub heads: u32,
    /// Added to the mean square.
    pub epsilon: f32,
    /// Round trip behind the rope.
    pub round: Option<RowCodec>,
}

impl OpData for QkFinish {
    operands!(Write out, Read x, Read gain, Read angle);
    weights!();
    fn check(&self) -> Result<()> {
        plain_real("x", &self.x)?;
        real("out", &self.out)?;
        matrix_of("out", &self.out, self.x.rows(), self.x.width())?;
        if let Some(gain) = &self.gain {
            parameters("gain", gain, self.x.width())?;
        }
        check_angle(&self.angle, self.x.rows(), self.x.width(), self.heads)
    }
    fn lower(&self, into: &mut Builder) -> Result<bool> {
        let normed = into.temp(self.out.dtype(), &[self.x.rows(), self.x.width()]);
        into.push(RmsNorm {
            out: normed.clone(),
            x: self.x.clone(),
            gain: self.gain.clone(),
            epsilon: self.epsilon,
        })?;
        let turned = match self.round {
            None => self.out.clone(),
            Some(_) => into.temp(self.out.dtype(), &[self.x.rows(), self.x.width()]),
        };
        into.push(Rope {
            out: turned.clone(),
            x: normed,
            angle: self.angle.clone(),
            heads: self.heads,
            inverse: false,
        })?;
        if let Some(codec) = self.round {
            into.push(Convert {
                out: self.out.clone(),
                x: turned,
                scales: None,
                form: ConvertForm::RoundTrip(codec),
            })?;
        }
        Ok(true)
    }
}

/// Pools the windows this step completes into cache entries and keeps the newest rows (spec
/// section 7; program section 6 "compress").
///
/// One landing or tail row holds values then gates, each `halves` pieces of width w. Lowers to
/// gather · masked_add · max · exp_minus · dot · sum · divide · rms_norm · rope \[· Hadamard matmul\]
/// \[· convert\] · scatter entries · scatter tail.
#[derive(Clone, Debug)]
pub struct Compress {
    /// `[r, w]`, any codec: cache of all entries.
    pub entries: Tensor,
    /// f32 `[t, 2 · halves · w]`: rings of past rows.
    pub tail: Tensor,
    /// f32 `[n, 2 · halves · w]`: this step's rows.
    pub landing: Tensor,
    /// f32 `[slots, w]`: position bias of the gates, slots = halves · m.
    pub bias: Tensor,
    /// f32 `[w]`
    pub gain: Tensor,
    /// i32 `[2E, slots]`: half rows to pool, values of E windows and then their gates.
    pub pool: Tensor,
    /// f32 `[E, R]`
    pub entry_angle: Tensor,
    /// i32 `[E]`: row of `entries`.
    pub entry_row: Tensor,
    /// i32 `[n]`: row of `tail` a landing row is kept in.
    pub tail_keep: Tensor,
    /// Epsilon of the entry's norm.
    pub epsilon: f32,
    /// Dtype values are rounded to where the op computes in f32 and rounds.
    pub activation: DType,
    /// `[1, w, w]`: orthonormal rotation in front of the rounding (index keys).
    pub rotation: Option<Weight>,
    /// Round trip of the finished entry.
    pub round: Option<RowCodec>,
}

impl OpData for Compress {
    operands!(
        ReadWrite entries, ReadWrite tail, Read landing, Read bias, Read gain, Read pool,
        Read entry_angle, Read entry_row, Read tail_keep
    );
    fn weights(&self, visit: &mut dyn FnMut(&Weight)) {
        if let Some(rotation) = &self.rotation {
            visit(rotation);
        }
    }
    fn weights_mut(&mut self, visit: &mut dyn FnMut(&mut Weight)) {
        if let Some(rotation) = &mut self.rotation {
            visit(rotation);
        }
    }
    fn check(&self) -> Result<()> {
        let (w, slots) = (self.entries.width(), self.pool.width());
        real("entries", &self.entries)?;
        for (name, tensor) in [("tail", &self.tail), ("landing", &self.landing)] {
            plain_real(name, tensor)?;
            dtype_of(name, tensor, DType::F32)?;
            ensure(tensor.is_contiguous(), || format!("{name} must be contiguous"))?;
            matrix_of(name, tensor, tensor.rows(), self.landing.width())?;
        }
        ensure(self.landing.width().is_multiple_of(2 * w), || {
            format!("landing rows of {} are not values and gates of {w}", self.landing.width())
        })?;
        dtype_of("bias", &self.bias, DType::F32)?;
        matrix_of("bias", &self.bias, slots, w)?;
        parameters("gain", &self.gain, w)?;
        for (name, tensor, rows) in [
            ("pool", &self.pool, 2 * self.entry_row.rows()),
            ("entry_row", &self.entry_row, self.entry_row.rows()),
            ("tail_keep", &self.tail_keep, self.landing.rows()),
        ] {
            indices(name, tensor)?;
            matrix_of(name, tensor, rows, tensor.width())?;
        }
        if let Some(rotation) = &self.rotation {
            weight_of("rotation", rotation, Some(1), w, w)?;
        }
        check_angle(&self.entry_angle, self.entry_row.rows(), w, 1)
    }
    fn lower(&self, into: &mut Builder) -> Result<bool> {
        let pooled = self.lower_pool(into)?;
        self.lower_entry(pooled, into)?;
        into.push(Scatter {
            target: self.tail.clone(),
            source: self.landing.clone(),
            index: self.tail_keep.clone(),
        })?;
        Ok(true)
    }
}

impl Compress {
    /// Softmax-weighted sum over the slots of each completed window: `[E, w]`.
    fn lower_pool(&self, into: &mut Builder) -> Result<Tensor> {
        let (w, slots, e) = (self.entries.width(), self.pool.width(), self.entry_row.rows());
        let halves = |t: &Tensor| t.reshape(&[t.rows() * (t.width() / w), w]);
        let cube = into.temp(DType::F32, &[2 * e * slots, w]);
        into.push(Gather {
            out: cube.clone(),
            source: GatherSource::Rows {
                source: halves(&self.tail),
                more: Some(halves(&self.landing)),
            },
            index: self.pool.reshape(&[2 * e * slots]),
            per: 1,
        })?;
        let cube = cube.reshape(&[2 * e, slots, w]);
        let (values, gates) = (cube.row_range(0, e), cube.row_range(e, e));
        let scores = into.temp(DType::F32, &[e, slots, w]);
        into.push(Map {
            out: scores.clone(),
            f: MapFn::MaskedAdd {
                x: gates,
                y: self.bias.clone(),
                index: self.pool.row_range(e, e).columns(0, &[slots, 1]),
            },
        })?;
        let top = into.temp(DType::F32, &[e, w]);
        into.push(Reduce { out: top.clone(), x: scores.clone(), f: ReduceFn::Max })?;
        let share = into.temp(DType::F32, &[e, slots, w]);
        into.push(Map { out: share.clone(), f: MapFn::ExpMinus(scores, top.reshape(&[e, 1, w])) })?;
        let (sum, total) = (into.temp(DType::F32, &[e, w]), into.temp(DType::F32, &[e, w]));
        into.push(Reduce { out: sum.clone(), x: share.clone(), f: ReduceFn::Dot(values) })?;
        into.push(Reduce { out: total.clone(), x: share, f: ReduceFn::Sum })?;
        let pooled = into.temp(self.activation, &[e, w]);
        into.push(Map { out: pooled.clone(), f: MapFn::Divide(sum, total) })?;
        Ok(pooled)
    }

    /// Norm, rope, rotation, rounding, and the scatter into the cache.
    fn lower_entry(&self, pooled: Tensor, into: &mut Builder) -> Result<()> {
        let dims = [pooled.rows(), pooled.width()];
        let temp = |into: &mut Builder| into.temp(self.activation, &dims);
        let normed = temp(into);
        into.push(RmsNorm {
            out: normed.clone(),
            x: pooled,
            gain: Some(self.gain.clone()),
            epsilon: self.epsilon,
        })?;
        let mut entry = temp(into);
        into.push(Rope {
            out: entry.clone(),
            x: normed,
            angle: self.entry_angle.clone(),
            heads: 1,
            inverse: false,
        })?;
        if let Some(rotation) = &self.rotation {
            let turned = temp(into);
            into.push(Matmul {
                out: turned.clone(),
                x: entry,
                weight: rotation.clone(),
                groups: RowGroups::Cyclic,
            })?;
            entry = turned;
        }
        let entry = rounded(into, &entry, self.round)?;
        into.push(Scatter {
            target: self.entries.clone(),
            source: entry,
            index: self.entry_row.clone(),
        })
    }
}

/// Cache rows of the best-scoring entries of each query, in ascending entry order.
///
/// Lowers, per tile of `tile` rows, to index_score · top_k, and then to gather · page_row.
#[derive(Clone, Debug)]
pub struct IndexSelect {
    /// i32 `[n, k]`: rows of the entry cache, -1 where there are fewer.
    pub out: Tensor,
    /// `[n, h, c]`
    pub q: Tensor,
    /// `[n, h]`
    pub weight: Tensor,
    /// The index keys.
    pub keys: Visible,
    /// Factor of the scores.
    pub scale: f32,
    /// Rows whose scores exist at a time when lowered; bounds scratch, not the result.
    pub tile: u32,
}

impl OpData for IndexSelect {
    operands!(Write out, Read q, Read weight, Read keys);
    weights!();
    fn check(&self) -> Result<()> {
        let (n, h, c) = heads_of("q", &self.q)?;
        plain_real("weight", &self.weight)?;
        matrix_of("weight", &self.weight, n, h)?;
        self.keys.check(n, c)?;
        indices("out", &self.out)?;
        matrix_of("out", &self.out, n, self.out.width())?;
        ensure(self.tile >= 1, || "tile must be at least 1".into())
    }
    fn lower(&self, into: &mut Builder) -> Result<bool> {
        let (n, k) = (self.out.rows(), self.out.width());
        let Visible { cache, reach, pages, per } = &self.keys;
        let picks = into.temp(DType::I32, &[n, k]);
        let width = pages.width() * per;
        for first in (0..n).step_by(self.tile as usize) {
            let count = self.tile.min(n - first);
            let tile = |t: &Tensor| t.row_range(first, count);
            let scores = into.temp(DType::F32, &[count, width]);
            into.push(IndexScore {
                out: scores.clone(),
                q: tile(&self.q),
                weight: tile(&self.weight),
                keys: Visible {
                    cache: cache.clone(),
                    reach: tile(reach),
                    pages: pages.clone(),
                    per: *per,
                },
                scale: self.scale,
            })?;
            into.push(TopK {
                out: tile(&picks),
                x: scores,
                count: Some(tile(reach).columns(1, &[1])),
                order: Order::Index,
            })?;
        }
        let page = into.temp(DType::I32, &[n, k]);
        into.push(Gather {
            out: page.clone(),
            source: GatherSource::Elements {
                source: pages.clone(),
                rows: Some(reach.columns(0, &[1])),
            },
            index: picks.clone(),
            per: *per,
        })?;
        into.push(Map {
            out: self.out.clone(),
            f: MapFn::PageRow { entry: picks, page, per: *per },
        })?;
        Ok(true)
    }
}

/// Attention and its grouped output projection.
///
/// Lowers to attend · rope inverse · matmul `wo_a` (cyclic) \[· convert\] · matmul `wo_b`.
#[derive(Clone, Debug)]
pub struct AttendProject {
    /// `[n, D]`
    pub out: Tensor,
    /// `[n, H, c]`
    pub q: Tensor,
    /// f32 `[H]`
    pub sink: Tensor,
    /// The window.
    pub near: Listed,
    /// Compressed entries.
    pub far: Option<Far>,
    /// f32 `[n, R]`: angles of the queries.
    pub angle: Tensor,
    /// `[g, o, H/g · c]`
    pub wo_a: Weight,
    /// `[1, D, g · o]`
    pub wo_b: Weight,
    /// Factor of the scores.
    pub scale: f32,
    /// Round trip in front of `wo_b`.
    pub round: Option<RowCodec>,
}

impl OpData for AttendProject {
    operands!(Write out, Read q, Read sink, Read near, Read far, Read angle);
    weights!(wo_a, wo_b);
    fn check(&self) -> Result<()> {
        let (n, h, c) = heads_of("q", &self.q)?;
        parameters("sink", &self.sink, h)?;
        check_caches(&self.near, self.far.as_ref(), n, c)?;
        check_angle(&self.angle, n * h, c, h)?;
        plain_real("out", &self.out)?;
        let spec = self.wo_a.spec();
        ensure(h.is_multiple_of(spec.groups), || {
            format!("{h} heads do not divide over {} output groups", spec.groups)
        })?;
        weight_of("wo_a", &self.wo_a, None, spec.rows, h / spec.groups * c)?;
        matrix_of("out", &self.out, n, self.out.width())?;
        weight_of("wo_b", &self.wo_b, Some(1), self.out.width(), spec.groups * spec.rows)
    }
    fn lower(&self, into: &mut Builder) -> Result<bool> {
        let (n, h, c) = heads_of("q", &self.q)?;
        let (g, o_rank) = (self.wo_a.spec().groups, self.wo_a.spec().rows);
        let dtype = self.q.dtype();
        let o = into.temp(dtype, &[n, h, c]);
        into.push(Attend {
            out: o.clone(),
            q: self.q.clone(),
            sink: self.sink.clone(),
            near: self.near.clone(),
            far: self.far.clone(),
            scale: self.scale,
        })?;
        let back = into.temp(dtype, &[n * h, c]);
        into.push(Rope {
            out: back.clone(),
            x: o.reshape(&[n * h, c]),
            angle: self.angle.clone(),
            heads: h,
            inverse: true,
        })?;
        let z = into.temp(dtype, &[n * g, o_rank]);
        into.push(Matmul {
            out: z.clone(),
            x: back.reshape(&[n * g, h / g * c]),
            weight: self.wo_a.clone(),
            groups: RowGroups::Cyclic,
        })?;
        let z = rounded(into, &z.reshape(&[n, g * o_rank]), self.round)?;
        into.push(Matmul {
            out: self.out.clone(),
            x: z,
            weight: self.wo_b.clone(),
            groups: RowGroups::Cyclic,
        })?;
        Ok(true)
    }
}
