//! Fused pieces of a mixture of experts: routers, routed experts, the shared expert.

use super::rounded;
use crate::error::Result;
use crate::op::{
    Bucket, Gather, GatherSource, Map, MapFn, Matmul, OpData, Order, Reduce, ReduceFn, RowGroups,
    TopK, dtype_of, ensure, indices, matrix_of, operands, parameters, plain_real, weight_of,
    weights,
};
use crate::program::Builder;
use crate::tensor::{DType, RowCodec, Tensor};
use crate::weight::Weight;

/// Router by score: `s = sqrt(softplus(x · gateᵀ))`, the k largest of `s + bias`, their shares of the
/// unbiased s times `scale` (spec section 10).
///
/// Lowers to matmul · sqrt_softplus · add · top_k · gather · sum · share.
#[derive(Clone, Debug)]
pub struct Route {
    /// i32 `[n, k]`: experts in ascending order, -1 in padding rows.
    pub ids: Tensor,
    /// f32 `[n, k]`
    pub shares: Tensor,
    /// `[n, D]`
    pub x: Tensor,
    /// `[1, E, D]`
    pub gate: Weight,
    /// f32 `[E]`, for the choice only.
    pub bias: Tensor,
    /// i32 `[n, 1]`: E in live rows, 0 in padding.
    pub count: Tensor,
    /// Factor of the shares.
    pub scale: f32,
}

/// Router by a table from token to experts; shares as in [`Route`].
///
/// Lowers to matmul · sqrt_softplus · gather ids · gather · sum · share.
#[derive(Clone, Debug)]
pub struct RouteTable {
    /// i32 `[n, k]`: experts, -1 in padding rows.
    pub ids: Tensor,
    /// f32 `[n, k]`
    pub shares: Tensor,
    /// `[n, D]`
    pub x: Tensor,
    /// `[1, E, D]`
    pub gate: Weight,
    /// i32 `[vocabulary, k]`
    pub table: Tensor,
    /// i32 `[n]`: token of each row, -1 in padding.
    pub token: Tensor,
    /// Factor of the shares.
    pub scale: f32,
}

fn check_route(ids: &Tensor, shares: &Tensor, x: &Tensor, gate: &Weight) -> Result<()> {
    plain_real("x", x)?;
    indices("ids", ids)?;
    matrix_of("ids", ids, x.rows(), ids.width())?;
    dtype_of("shares", shares, DType::F32)?;
    matrix_of("shares", shares, x.rows(), ids.width())?;
    weight_of("gate", gate, Some(1), gate.spec().rows, x.width())?;
    ensure(ids.width() <= gate.spec().rows, || {
        format!("{} experts chosen of {}", ids.width(), gate.spec().rows)
    })
}

fn lower_scores(x: &Tensor, gate: &Weight, into: &mut Builder) -> Result<Tensor> {
    let raw = into.temp(DType::F32, &[x.rows(), gate.spec().rows]);
    into.push(Matmul {
        out: raw.clone(),
        x: x.clone(),
        weight: gate.clone(),
        groups: RowGroups::Cyclic,
    })?;
    let scores = into.temp(DType::F32, raw.dims());
    into.push(Map { out: scores.clone(), f: MapFn::SqrtSoftplus(raw) })?;
    Ok(scores)
}

fn lower_shares(
    shares: &Tensor,
    scores: Tensor,
    ids: &Tensor,
    scale: f32,
    into: &mut Builder,
) -> Result<()> {
    let chosen = into.temp(DType::F32, ids.dims());
    into.push(Gather {
        out: chosen.clone(),
        source: GatherSource::Elements { source: scores, rows: None },
        index: ids.clone(),
        per: 1,
    })?;
    let total = into.temp(DType::F32, &[ids.rows(), 1]);
    into.push(Reduce {
        out: total.clone(),
        x: chosen.columns(0, &[ids.width(), 1]),
        f: ReduceFn::Sum,
    })?;
    into.push(Map { out: shares.clone(), f: MapFn::Share { x: chosen, total, scale } })
}

impl OpData for Route {
    operands!(Write ids, Write shares, Read x, Read bias, Read count);
    weights!(gate);
    fn check(&self) -> Result<()> {
        check_route(&self.ids, &self.shares, &self.x, &self.gate)?;
        parameters("bias", &self.bias, self.gate.spec().rows)?;
        indices("count", &self.count)?;
        matrix_of("count", &self.count, self.x.rows(), 1)
    }
    fn lower(&self, into: &mut Builder) -> Result<bool> {
        let scores = lower_scores(&self.x, &self.gate, into)?;
        let keys = into.temp(DType::F32, scores.dims());
        into.push(Map { out: keys.clone(), f: MapFn::Add(scores.clone(), self.bias.clone()) })?;
        into.push(TopK {
            out: self.ids.clone(),
            x: keys,
            count: Some(self.count.clone()),
            order: Order::Index,
        })?;
        lower_shares(&self.shares, scores, &self.ids, self.scale, into)?;
        Ok(true)
    }
}

impl OpData for RouteTable {
    operands!(Write ids, Write shares, Read x, Read table, Read token);
    weights!(gate);
    fn check(&self) -> Result<()> {
        check_route(&self.ids, &self.shares, &self.x, &self.gate)?;
        indices("table", &self.table)?;
        matrix_of("table", &self.table, self.table.rows(), self.ids.width())?;
        indices("token", &self.token)?;
        matrix_of("token", &self.token, self.x.rows(), 1)
    }
    fn lower(&self, into: &mut Builder) -> Result<bool> {
        let scores = lower_scores(&self.x, &self.gate, into)?;
        into.push(Gather {
            out: self.ids.clone(),
            source: GatherSource::Rows { source: self.table.clone(), more: None },
            index: self.token.clone(),
            per: 1,
        })?;
        lower_shares(&self.shares, scores, &self.ids, self.scale, into)?;
        Ok(true)
    }
}

/// Routed experts: `out = Σ_k down_e(share · swiglu(gate_up_e(x)))` over the k experts of a row, summed
/// in the order of `ids`. A row whose ids are all -1 gives zeros and reads no expert.
///
/// Lowers to bucket · gather x · gather shares \[· convert\] · matmul · swiglu \[· convert\] · matmul ·
/// gather · sum.
#[derive(Clone, Debug)]
pub struct MoeExperts {
    /// f32 `[n, D]`
    pub out: Tensor,
    /// `[n, D]`
    pub x: Tensor,
    /// i32 `[n, k]`
    pub ids: Tensor,
    /// f32 `[n, k]`
    pub shares: Tensor,
    /// `[E, 2I, D]`: gate rows, then up rows.
    pub gate_up: Weight,
    /// `[E, D, I]`
    pub down: Weight,
    /// Limit of the activation.
    pub clamp: f32,
    /// Round trip in front of both products.
    pub round: Option<RowCodec>,
}

impl OpData for MoeExperts {
    operands!(Write out, Read x, Read ids, Read shares);
    weights!(gate_up, down);
    fn check(&self) -> Result<()> {
        let (n, d) = (self.x.rows(), self.x.width());
        plain_real("x", &self.x)?;
        indices("ids", &self.ids)?;
        matrix_of("ids", &self.ids, n, self.ids.width())?;
        ensure(self.ids.is_contiguous(), || "ids must be contiguous".into())?;
        dtype_of("shares", &self.shares, DType::F32)?;
        matrix_of("shares", &self.shares, n, self.ids.width())?;
        ensure(self.shares.is_contiguous(), || "shares must be contiguous".into())?;
        dtype_of("out", &self.out, DType::F32)?;
        matrix_of("out", &self.out, n, d)?;
        let (groups, width) = (self.gate_up.spec().groups, self.gate_up.spec().rows / 2);
        weight_of("gate_up", &self.gate_up, Some(groups), 2 * width, d)?;
        weight_of("down", &self.down, Some(groups), d, width)
    }
    fn lower(&self, into: &mut Builder) -> Result<bool> {
        let (n, d, k) = (self.x.rows(), self.x.width(), self.ids.width());
        let (groups, width) = (self.gate_up.spec().groups, self.gate_up.spec().rows / 2);
        let list = |into: &mut Builder, count| into.temp(DType::I32, &[count]);
        let offsets = list(into, groups + 1);
        let (order, inverse) = (list(into, n * k), list(into, n * k));
        into.push(Bucket {
            offsets: offsets.clone(),
            order: order.clone(),
            inverse: inverse.clone(),
            keys: self.ids.clone(),
        })?;
        let rows = |source, more| GatherSource::Rows { source, more };
        let xs = into.temp(self.x.dtype(), &[n * k, d]);
        into.push(Gather {
            out: xs.clone(),
            source: rows(self.x.clone(), None),
            index: order.clone(),
            per: k,
        })?;
        let shares = into.temp(DType::F32, &[n * k, 1]);
        into.push(Gather {
            out: shares.clone(),
            source: rows(self.shares.reshape(&[n * k, 1]), None),
            index: order,
            per: 1,
        })?;
        let sorted = || RowGroups::Sorted { offsets: offsets.clone() };
        let xs = rounded(into, &xs, self.round)?;
        let both = into.temp(self.x.dtype(), &[n * k, 2 * width]);
        into.push(Matmul {
            out: both.clone(),
            x: xs,
            weight: self.gate_up.clone(),
            groups: sorted(),
        })?;
        let hidden = into.temp(self.x.dtype(), &[n * k, width]);
        into.push(Map {
            out: hidden.clone(),
            f: MapFn::Swiglu {
                gate: both.columns(0, &[width]),
                up: both.columns(width, &[width]),
                weight: Some(shares),
                clamp: self.clamp,
            },
        })?;
        let hidden = rounded(into, &hidden, self.round)?;
        let y = into.temp(self.x.dtype(), &[n * k, d]);
        into.push(Matmul {
            out: y.clone(),
            x: hidden,
            weight: self.down.clone(),
            groups: sorted(),
        })?;
        let back = into.temp(self.x.dtype(), &[n * k, d]);
        into.push(Gather { out: back.clone(), source: rows(y, None), index: inverse, per: 1 })?;
        into.push(Reduce { out: self.out.clone(), x: back.reshape(&[n, k, d]), f: ReduceFn::Sum })?;
        Ok(true)
    }
}

/// Shared expert, plus what the routed experts gave.
///
/// Lowers to \[convert ·\] matmul · swiglu \[· convert\] · matmul · add.
#[derive(Clone, Debug)]
pub struct SwigluMlp {
    /// `[n, D]`
    pub out: Tensor,
    /// `[n, D]`
    pub x: Tensor,
    /// `[1, 2I, D]`: gate rows, then up rows.
    pub gate_up: Weight,
    /// `[1, D, I]`
    pub down: Weight,
    /// f32 `[n, D]`, added in f32 to the rounded product.
    pub add: Tensor,
    /// Limit of the activation.
    pub clamp: f32,
    /// Round trip in front of both products.
    pub round: Option<RowCodec>,
}

impl OpData for SwigluMlp {
    operands!(Write out, Read x, Read add);
    weights!(gate_up, down);
    fn check(&self) -> Result<()> {
        let (n, d, width) = (self.x.rows(), self.x.width(), self.gate_up.spec().rows / 2);
        plain_real("x", &self.x)?;
        plain_real("out", &self.out)?;
        plain_real("add", &self.add)?;
        matrix_of("out", &self.out, n, d)?;
        matrix_of("add", &self.add, n, d)?;
        weight_of("gate_up", &self.gate_up, Some(1), 2 * width, d)?;
        weight_of("down", &self.down, Some(1), d, width)
    }
    fn lower(&self, into: &mut Builder) -> Result<bool> {
        let (n, d, width) = (self.x.rows(), self.x.width(), self.gate_up.spec().rows / 2);
        let x = rounded(into, &self.x, self.round)?;
        let both = into.temp(self.x.dtype(), &[n, 2 * width]);
        into.push(Matmul {
            out: both.clone(),
            x,
            weight: self.gate_up.clone(),
            groups: RowGroups::Cyclic,
        })?;
        let hidden = into.temp(self.x.dtype(), &[n, width]);
        into.push(Map {
            out: hidden.clone(),
            f: MapFn::Swiglu {
                gate: both.columns(0, &[width]),
                up: both.columns(width, &[width]),
                weight: None,
                clamp: self.clamp,
            },
        })?;
        let hidden = rounded(into, &hidden, self.round)?;
        let y = into.temp(self.x.dtype(), &[n, d]);
        into.push(Matmul {
            out: y.clone(),
            x: hidden,
            weight: self.down.clone(),
            groups: RowGroups::Cyclic,
        })?;
        into.push(Map { out: self.out.clone(), f: MapFn::Add(y, self.add.clone()) })?;
        Ok(true)
    }
}
