//! One small program per Tier-1 op, in the shapes of a tiny V4 with awkward edges: padding rows, absent
//! lists, an odd number of rows.

use hal::op::{
    AttendProject, Compress, Far, HcPre, HcSite, HcTurn, Head, IndexSelect, Listed, MoeExperts,
    NormQuant, QkFinish, Route, RouteTable, Sample, SwigluMlp, Visible,
};
use hal::{Builder, DType, Encoding, Op, RowCodec, Tensor, Weight};

use crate::common::{Bench, random, spec};

/// Rows of a step, the last being padding.
pub const N: u32 = 5;
const D: u32 = 64;
const STREAMS: u32 = 4;
const HEADS: u32 = 4;
const C: u32 = 128;
const ROTARY: u32 = 64;
const EXPERTS: u32 = 6;
const K: u32 = 2;
const WIDE: u32 = 96;

pub const FP8: RowCodec = RowCodec::Fp8 { block: 64, tail: 0 };
pub const KEY: RowCodec = RowCodec::Fp8 { block: 64, tail: ROTARY as u16 };
pub const INDEX: RowCodec = RowCodec::Fp4 { block: 32 };

/// Numbers of one case: dtype of activations and whether the served rounding happens.
#[derive(Clone, Copy, Debug)]
pub struct Numerics {
    pub dtype: DType,
    pub served: bool,
}

impl Numerics {
    fn round(self, codec: RowCodec) -> Option<RowCodec> {
        self.served.then_some(codec)
    }
}

/// An op and the tensors it writes.
pub struct Case {
    pub op: Op,
    pub outputs: Vec<Tensor>,
}

/// Hands out seeded operands.
pub struct Maker<'a> {
    pub bench: &'a Bench,
    pub numerics: Numerics,
    seed: u64,
}

impl Maker<'_> {
    pub fn new(bench: &Bench, numerics: Numerics) -> Maker<'_> {
        Maker { bench, numerics, seed: 1 }
    }

    fn values(&mut self, count: u32) -> Vec<f32> {
        self.seed += 1;
        random(count as usize, self.seed)
    }

    fn floats(&mut self, dims: &[u32]) -> Tensor {
        let values = self.values(dims.iter().product());
        self.bench.floats(dims, &values)
    }

    /// Seeded rows of the activations' dtype.
    fn rows(&mut self, dims: &[u32]) -> Tensor {
        let wide = self.floats(dims);
        if self.numerics.dtype == DType::F32 {
            return wide;
        }
        self.cast(&wide, self.numerics.dtype, RowCodec::Plain)
    }

    /// `x` in another dtype or codec, by the device itself.
    fn cast(&mut self, x: &Tensor, dtype: DType, codec: RowCodec) -> Tensor {
        let out = self.bench.tensor(x.dims(), dtype, codec);
        let form = match codec {
            RowCodec::Plain => hal::op::ConvertForm::Cast,
            codec => hal::op::ConvertForm::RoundTrip(codec),
        };
        let mut builder = Builder::new();
        let op = hal::op::Convert { out: out.clone(), x: x.clone(), scales: None, form };
        builder.push(op).expect("a good convert");
        let plan = self.bench.plan(builder, hal::Mode::Eager).expect("convert is there");
        self.bench.run(&plan).expect("convert runs");
        out
    }

    /// A cache of seeded rows, coded in served numerics.
    fn cache(&mut self, rows: u32, width: u32, codec: RowCodec) -> Tensor {
        let wide = self.floats(&[rows, width]);
        match (self.numerics.served, self.numerics.dtype) {
            (true, _) => self.cast(&wide, DType::Bf16, codec),
            (false, DType::F32) => wide,
            (false, dtype) => self.cast(&wide, dtype, RowCodec::Plain),
        }
    }

    fn ints(&self, dims: &[u32], values: &[i32]) -> Tensor {
        self.bench.ints(dims, values)
    }

    fn out(&self, dims: &[u32]) -> Tensor {
        self.bench.tensor(dims, self.numerics.dtype, RowCodec::Plain)
    }

    fn out_f32(&self, dims: &[u32]) -> Tensor {
        self.bench.tensor(dims, DType::F32, RowCodec::Plain)
    }

    fn out_i32(&self, dims: &[u32]) -> Tensor {
        self.bench.tensor(dims, DType::I32, RowCodec::Plain)
    }

    fn weight(&mut self, groups: u32, rows: u32, cols: u32, encoding: Encoding) -> Weight {
        self.seed += 1;
        self.bench.weight(spec(groups, rows, cols, encoding), self.seed, true).expect("readable")
    }

    fn site(&mut self, full: bool) -> HcSite {
        let m = if full { 2 * STREAMS + STREAMS * STREAMS } else { STREAMS };
        HcSite {
            function: self.weight(1, m, STREAMS * D, Encoding::Plain(DType::F32)),
            base: self.floats(&[m]),
            scale: self.floats(&[if full { 3 } else { 1 }]),
            gain: self.floats(&[D]),
            streams: STREAMS,
            rounds: 20,
            epsilon: 1e-6,
            norm_epsilon: 1e-6,
        }
    }
}

const MIX: u32 = 2 * STREAMS + STREAMS * STREAMS;
const FP8_WEIGHT: Encoding = Encoding::Fp8Block { rows: 128, cols: 128 };
const FP4_WEIGHT: Encoding = Encoding::Fp4Block { cols: 32 };

/// All Tier-1 ops but the collectives.
pub fn cases(bench: &Bench, numerics: Numerics) -> Vec<Case> {
    let mut make = Maker::new(bench, numerics);
    let make = &mut make;
    let mut cases = vec![hc_pre(make), hc_turn(make), norm_quant(make)];
    cases.extend([qk_query(make), qk_key(make), compress(make, false), compress(make, true)]);
    cases.extend([index_select(make), attend_project(make, false), attend_project(make, true)]);
    cases.extend([route(make), route_table(make), moe_experts(make), swiglu_mlp(make)]);
    cases.extend([head(make), sample(make)]);
    cases
}

fn hc_pre(make: &mut Maker<'_>) -> Case {
    let (out, mix) = (make.out(&[N, D]), make.out_f32(&[N, MIX]));
    let outputs = vec![out.clone(), mix.clone()];
    let op = HcPre { out, mix, streams: make.rows(&[N, STREAMS * D]), site: make.site(true) };
    Case { op: op.into(), outputs }
}

fn hc_turn(make: &mut Maker<'_>) -> Case {
    let (out, mix) = (make.out(&[N, D]), make.out_f32(&[N, MIX]));
    // The new streams have room for the next y behind them, as in the engine.
    let streams = make.out(&[N, (STREAMS + 1) * D]).columns(0, &[STREAMS * D]);
    let outputs = vec![out.clone(), mix.clone()];
    let old = make.rows(&[N, (STREAMS + 1) * D]);
    let old_mix = make.floats(&[N, MIX]);
    let op = HcTurn { out, mix, streams, old, old_mix, site: make.site(true) };
    Case { op: op.into(), outputs }
}

fn norm_quant(make: &mut Maker<'_>) -> Case {
    let (out, gain) = (make.out(&[N, C]), Some(make.floats(&[C])));
    let outputs = vec![out.clone()];
    let op = NormQuant { out, x: make.rows(&[N, C]), gain, epsilon: 1e-6, round: FP8 };
    Case { op: op.into(), outputs }
}

fn qk_query(make: &mut Maker<'_>) -> Case {
    let out = make.out(&[N * HEADS, C]);
    let outputs = vec![out.clone()];
    let (x, angle) = (make.rows(&[N * HEADS, C]), make.floats(&[N, ROTARY]));
    let op = QkFinish { out, x, gain: None, angle, heads: HEADS, epsilon: 1e-6, round: None };
    Case { op: op.into(), outputs }
}

fn qk_key(make: &mut Maker<'_>) -> Case {
    let round = make.numerics.round(KEY);
    let out = match round {
        Some(codec) => make.bench.tensor(&[N, C], DType::Bf16, codec),
        None => make.out(&[N, C]),
    };
    let outputs = vec![out.clone()];
    let (x, gain) = (make.rows(&[N, C]), Some(make.floats(&[C])));
    let op =
        QkFinish { out, x, gain, angle: make.floats(&[N, ROTARY]), heads: 1, epsilon: 1e-6, round };
    Case { op: op.into(), outputs }
}

/// Windows of 4 with overlap: entry 0 is complete, entry 1 lacks its previous window, entry 2 is
/// padding.
fn compress(make: &mut Maker<'_>, rotated: bool) -> Case {
    let (e, slots, halves) = (3u32, 8u32, 2u32);
    let codec = if rotated { INDEX } else { KEY };
    let entries = make.cache(9, C, codec);
    let tail = make.floats(&[6, 2 * halves * C]);
    let outputs = vec![entries.clone(), tail.clone()];
    // Half rows: 4 a row; values of rows 0..8 (6 in the tail, then the landing rows), then gates.
    let values: Vec<i32> = (0..8).map(|slot| slot * 4 + slot % 2).collect();
    let cut: Vec<i32> =
        values.iter().enumerate().map(|(s, &v)| if s % 2 == 0 { -1 } else { v }).collect();
    let none = vec![-1; 8];
    let gates = |list: &[i32]| list.iter().map(|&v| if v < 0 { -1 } else { v + 2 }).collect();
    let lists: Vec<Vec<i32>> =
        vec![values.clone(), cut.clone(), none.clone(), gates(&values), gates(&cut), none];
    let activation = if make.numerics.served { DType::Bf16 } else { make.numerics.dtype };
    let rotation = rotated.then(|| make.weight(1, C, C, Encoding::Plain(make.numerics.dtype)));
    let op = Compress {
        entries,
        tail,
        landing: make.floats(&[N, 2 * halves * C]),
        bias: make.floats(&[slots, C]),
        gain: make.floats(&[C]),
        pool: make.ints(&[2 * e, slots], &lists.concat()),
        entry_angle: make.floats(&[e, ROTARY]),
        entry_row: make.ints(&[e], &[7, 2, -1]),
        tail_keep: make.ints(&[N], &[-1, 0, 5, 3, -1]),
        epsilon: 1e-6,
        activation,
        rotation,
        round: make.numerics.round(codec),
    };
    Case { op: op.into(), outputs }
}

fn visible(make: &mut Maker<'_>, codec: RowCodec) -> Visible {
    // Pages of 4 entries; the last row is padding.
    let reach = [0, 9, 1, 3, 0, 12, 1, 0, 0, 0];
    let pages = [2, 0, 4, 1, -1, -1];
    Visible {
        cache: make.cache(20, C, codec),
        reach: make.ints(&[N, 2], &reach),
        pages: make.ints(&[2, 3], &pages),
        per: 4,
    }
}

fn index_select(make: &mut Maker<'_>) -> Case {
    let out = make.out_i32(&[N, 5]);
    let outputs = vec![out.clone()];
    let (q, weight) = (make.rows(&[N, HEADS, C]), make.rows(&[N, HEADS]));
    let op = IndexSelect { out, q, weight, keys: visible(make, INDEX), scale: 0.3, tile: 2 };
    Case { op: op.into(), outputs }
}

fn attend_project(make: &mut Maker<'_>, listed: bool) -> Case {
    let out = make.out(&[N, D]);
    let outputs = vec![out.clone()];
    let list: Vec<i32> = (0..N as i32 * 3)
        .map(|i| match i {
            3 => -1,
            _ if i >= 12 => -1,
            _ => (i * 7) % 10,
        })
        .collect();
    let far = match listed {
        true => {
            Far::Listed(Listed { cache: make.cache(10, C, KEY), index: make.ints(&[N, 3], &list) })
        }
        false => Far::Visible(visible(make, KEY)),
    };
    let op = AttendProject {
        out,
        q: make.rows(&[N, HEADS, C]),
        sink: make.floats(&[HEADS]),
        near: Listed { cache: make.cache(10, C, KEY), index: make.ints(&[N, 3], &list) },
        far: Some(far),
        angle: make.floats(&[N, ROTARY]),
        wo_a: make.weight(2, 32, HEADS / 2 * C, FP8_WEIGHT),
        wo_b: make.weight(1, D, 64, FP8_WEIGHT),
        scale: 0.1,
        round: make.numerics.round(FP8),
    };
    Case { op: op.into(), outputs }
}

fn route(make: &mut Maker<'_>) -> Case {
    let (ids, shares) = (make.out_i32(&[N, K]), make.out_f32(&[N, K]));
    let outputs = vec![ids.clone(), shares.clone()];
    let e = EXPERTS as i32;
    let op = Route {
        ids,
        shares,
        x: make.rows(&[N, D]),
        gate: make.weight(1, EXPERTS, D, Encoding::Plain(DType::Bf16)),
        bias: make.floats(&[EXPERTS]),
        count: make.ints(&[N, 1], &[e, e, e, e, 0]),
        scale: 1.5,
    };
    Case { op: op.into(), outputs }
}

fn route_table(make: &mut Maker<'_>) -> Case {
    let (ids, shares) = (make.out_i32(&[N, K]), make.out_f32(&[N, K]));
    let outputs = vec![ids.clone(), shares.clone()];
    let op = RouteTable {
        ids,
        shares,
        x: make.rows(&[N, D]),
        gate: make.weight(1, EXPERTS, D, Encoding::Plain(DType::Bf16)),
        table: make.ints(&[3, K], &[5, 0, 1, 3, 2, 4]),
        token: make.ints(&[N], &[2, 0, 1, 2, -1]),
        scale: 1.5,
    };
    Case { op: op.into(), outputs }
}

fn moe_experts(make: &mut Maker<'_>) -> Case {
    let out = make.out_f32(&[N, D]);
    let outputs = vec![out.clone()];
    let op = MoeExperts {
        out,
        x: make.rows(&[N, D]),
        ids: make.ints(&[N, K], &[5, 0, 0, 3, 3, 5, 0, 1, -1, -1]),
        shares: make.floats(&[N, K]),
        gate_up: make.weight(EXPERTS, 2 * WIDE, D, FP4_WEIGHT),
        down: make.weight(EXPERTS, D, WIDE, FP4_WEIGHT),
        clamp: 10.0,
        round: make.numerics.round(RowCodec::Fp8 { block: 32, tail: 0 }),
    };
    Case { op: op.into(), outputs }
}

fn swiglu_mlp(make: &mut Maker<'_>) -> Case {
    let out = make.out(&[N, D]);
    let outputs = vec![out.clone()];
    let op = SwigluMlp {
        out,
        x: make.rows(&[N, D]),
        gate_up: make.weight(1, 2 * WIDE, D, FP8_WEIGHT),
        down: make.weight(1, D, WIDE, FP8_WEIGHT),
        add: make.floats(&[N, D]),
        clamp: 10.0,
        round: make.numerics.round(RowCodec::Fp8 { block: 32, tail: 0 }),
    };
    Case { op: op.into(), outputs }
}

fn head(make: &mut Maker<'_>) -> Case {
    let out = make.out_f32(&[3, 77]);
    let outputs = vec![out.clone()];
    let op = Head {
        out,
        streams: make.rows(&[N, STREAMS * D]),
        rows: make.ints(&[3], &[4, 0, -1]),
        site: make.site(false),
        vocabulary: make.weight(1, 77, D, Encoding::Plain(DType::Bf16)),
    };
    Case { op: op.into(), outputs }
}

fn sample(make: &mut Maker<'_>) -> Case {
    let out = make.out_i32(&[N, 20]);
    let outputs = vec![out.clone()];
    let op = Sample { out, logits: make.floats(&[N, 300]) };
    Case { op: op.into(), outputs }
}
