//! Every Tier-1 op lowers to Tier-0 ops only, to as many as the program specification counts
//! (docs/program.md, sections 6 and 8), and the layers built of them have the listed sizes.

use std::any::Any;
use std::sync::Arc;

use hal::op::*;
use hal::{
    Buffer, Builder, DType, Encoding, ErrorKind, Op, RawBuffer, RawWeight, Result, RowCodec, Shape,
    Tensor, Weight, WeightSpec,
};

#[derive(Debug)]
struct Nowhere(u64);

impl RawBuffer for Nowhere {
    fn size_bytes(&self) -> u64 {
        self.0
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl RawWeight for Nowhere {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A tensor in a buffer of its own.
fn tensor(dtype: DType, dims: &[u32]) -> Tensor {
    let shape = Shape::new(dims);
    let buffer = Buffer::Real(Arc::new(Nowhere(shape.elements() * dtype.size_bytes())));
    Tensor::new(buffer, 0, shape, dtype, RowCodec::Plain).unwrap()
}

fn f32s(dims: &[u32]) -> Tensor {
    tensor(DType::F32, dims)
}

fn half(dims: &[u32]) -> Tensor {
    tensor(DType::Bf16, dims)
}

fn ints(dims: &[u32]) -> Tensor {
    tensor(DType::I32, dims)
}

fn weight(groups: u32, rows: u32, cols: u32) -> Weight {
    let spec = WeightSpec {
        name: "w".into(),
        groups,
        rows,
        cols,
        segment_rows: rows,
        encoding: Encoding::Plain(DType::Bf16),
    };
    Weight::new(Arc::new(Nowhere(0)), spec, Encoding::Plain(DType::Bf16))
}

/// Rows, streams, width, heads, head width, rope columns, experts, chosen, hidden width.
const N: u32 = 5;
const S: u32 = 4;
const D: u32 = 16;
const H: u32 = 4;
const C: u32 = 8;
const R: u32 = 4;
const E: u32 = 6;
const K: u32 = 2;
const I: u32 = 8;

/// The model's own roundings: absent (exact numerics) or present (served).
#[derive(Clone, Copy, Debug, PartialEq)]
enum Numerics {
    Exact,
    Served,
}
use Numerics::{Exact, Served};

impl Numerics {
    fn fp8(self) -> Option<RowCodec> {
        (self == Served).then_some(RowCodec::Fp8 { block: 4, tail: 0 })
    }
    fn key(self) -> Option<RowCodec> {
        (self == Served).then_some(RowCodec::Fp8 { block: 4, tail: R as u16 })
    }
    fn fp4(self) -> Option<RowCodec> {
        (self == Served).then_some(RowCodec::Fp4 { block: 8 })
    }
}

fn site(mix: u32) -> HcSite {
    HcSite {
        function: weight(1, mix, S * D),
        base: f32s(&[mix]),
        scale: f32s(&[if mix == S { 1 } else { 3 }]),
        gain: f32s(&[D]),
        streams: S,
        rounds: 3,
        epsilon: 1e-6,
        norm_epsilon: 1e-6,
    }
}

const MIX: u32 = 2 * S + S * S;

fn hc_pre() -> Op {
    let (out, mix, streams) = (half(&[N, D]), f32s(&[N, MIX]), half(&[N, S * D]));
    HcPre { out, mix, streams, site: site(MIX) }.into()
}

fn hc_turn() -> Op {
    HcTurn {
        out: half(&[N, D]),
        mix: f32s(&[N, MIX]),
        streams: half(&[N, S * D]),
        old: half(&[N, (S + 1) * D]),
        old_mix: f32s(&[N, MIX]),
        site: site(MIX),
    }
    .into()
}

fn norm_quant() -> Op {
    let round = RowCodec::Fp8 { block: 4, tail: 0 };
    NormQuant { out: half(&[N, D]), x: half(&[N, D]), gain: None, epsilon: 1e-6, round }.into()
}

fn qk_finish(heads: u32, round: Option<RowCodec>) -> Op {
    QkFinish {
        out: half(&[N * heads, C]),
        x: half(&[N * heads, C]),
        gain: None,
        angle: f32s(&[N, R]),
        heads,
        epsilon: 1e-6,
        round,
    }
    .into()
}

fn compress(rotated: bool, round: Option<RowCodec>) -> Op {
    let (windows, slots, halves) = (2, 8, 2);
    Compress {
        entries: half(&[12, C]),
        tail: f32s(&[15, 2 * halves * C]),
        landing: f32s(&[N, 2 * halves * C]),
        bias: f32s(&[slots, C]),
        gain: f32s(&[C]),
        pool: ints(&[2 * windows, slots]),
        entry_angle: f32s(&[windows, R]),
        entry_row: ints(&[windows]),
        tail_keep: ints(&[N]),
        epsilon: 1e-6,
        activation: DType::Bf16,
        rotation: rotated.then(|| weight(1, C, C)),
        round,
    }
    .into()
}

fn visible() -> Visible {
    Visible { cache: half(&[12, C]), reach: ints(&[N, 2]), pages: ints(&[2, 3]), per: 4 }
}

fn index_select(tile: u32) -> Op {
    IndexSelect {
        out: ints(&[N, K]),
        q: half(&[N, H, C]),
        weight: half(&[N, H]),
        keys: visible(),
        scale: 0.5,
        tile,
    }
    .into()
}

fn attend_project(round: Option<RowCodec>) -> Op {
    AttendProject {
        out: half(&[N, D]),
        q: half(&[N, H, C]),
        sink: f32s(&[H]),
        near: Listed { cache: half(&[9, C]), index: ints(&[N, 3]) },
        far: Some(Far::Visible(visible())),
        angle: f32s(&[N, R]),
        wo_a: weight(2, 6, H / 2 * C),
        wo_b: weight(1, D, 12),
        scale: 0.3,
        round,
    }
    .into()
}

fn route() -> Op {
    Route {
        ids: ints(&[N, K]),
        shares: f32s(&[N, K]),
        x: half(&[N, D]),
        gate: weight(1, E, D),
        bias: f32s(&[E]),
        count: ints(&[N, 1]),
        scale: 1.5,
    }
    .into()
}

fn route_table() -> Op {
    RouteTable {
        ids: ints(&[N, K]),
        shares: f32s(&[N, K]),
        x: half(&[N, D]),
        gate: weight(1, E, D),
        table: ints(&[30, K]),
        token: ints(&[N]),
        scale: 1.5,
    }
    .into()
}

fn moe_experts(round: Option<RowCodec>) -> Op {
    MoeExperts {
        out: f32s(&[N, D]),
        x: half(&[N, D]),
        ids: ints(&[N, K]),
        shares: f32s(&[N, K]),
        gate_up: weight(E, 2 * I, D),
        down: weight(E, D, I),
        clamp: 10.0,
        round,
    }
    .into()
}

fn swiglu_mlp(round: Option<RowCodec>) -> Op {
    SwigluMlp {
        out: half(&[N, D]),
        x: half(&[N, D]),
        gate_up: weight(1, 2 * I, D),
        down: weight(1, D, I),
        add: f32s(&[N, D]),
        clamp: 10.0,
        round,
    }
    .into()
}

fn head() -> Op {
    Head {
        out: f32s(&[2, 30]),
        streams: half(&[N, S * D]),
        rows: ints(&[2]),
        site: site(S),
        vocabulary: weight(1, 30, D),
    }
    .into()
}

fn alone(name: &str) -> Op {
    let (out, x, communicator) = (half(&[N, D]), half(&[N, D]), Arc::new(SoloCommunicator));
    match name {
        "all_reduce" => AllReduce { out, x, communicator }.into(),
        "all_gather" => AllGather { out, x, communicator }.into(),
        "reduce_scatter" => ReduceScatter { out, x, communicator }.into(),
        _ => AllToAll { out, x, communicator }.into(),
    }
}

/// The names of the Tier-0 ops an op becomes on a device that has only those.
fn lowered(op: Op) -> Result<Vec<&'static str>> {
    let mut builder = Builder::new();
    builder.at(0, "test");
    builder.push(op)?;
    let lowered = builder.finish()?.lower(&Op::is_primitive)?;
    Ok(lowered.program().nodes().iter().map(|node| node.op.name()).collect())
}

/// Every span of section 8: the fused op, and how many ops it replaces.
fn spans() -> Vec<(Op, usize)> {
    let (fp8, key, fp4) = (Served.fp8(), Served.key(), Served.fp4());
    vec![
        (hc_pre(), 5),
        (hc_turn(), 6),
        (norm_quant(), 2),
        (qk_finish(H, None), 2),
        (qk_finish(1, key), 3),
        (compress(false, None), 11),
        (compress(false, key), 12),
        (compress(true, fp4), 13),
        (index_select(N), 4),
        (attend_project(None), 4),
        (attend_project(fp8), 5),
        (route(), 7),
        (route_table(), 6),
        (moe_experts(None), 8),
        (moe_experts(fp8), 10),
        (swiglu_mlp(None), 4),
        (swiglu_mlp(fp8), 6),
        (head(), 7),
        (Sample { out: ints(&[N, 2]), logits: f32s(&[N, 30]) }.into(), 1),
        (alone("all_reduce"), 1),
        (alone("all_gather"), 1),
        (alone("reduce_scatter"), 1),
        (alone("all_to_all"), 1),
    ]
}

#[test]
fn every_fused_op_lowers_to_as_many_primitives_as_the_table_counts() {
    for (op, count) in spans() {
        let name = op.name();
        let ops = lowered(op).unwrap();
        assert_eq!(ops.len(), count, "{name}: {ops:?}");
        for op in ops {
            assert!(Op::NAMES[..Op::PRIMITIVES].contains(&op), "{name} leaves {op}");
        }
    }
}

#[test]
fn every_fused_op_of_the_vocabulary_is_in_the_table() {
    let spans = spans();
    for name in &Op::NAMES[Op::PRIMITIVES..] {
        assert!(spans.iter().any(|(op, _)| op.name() == *name), "{name} has no span");
    }
}

#[test]
fn a_tiled_selection_scores_tile_by_tile() {
    let ops = lowered(index_select(2)).unwrap();
    let want = "index_score top_k index_score top_k index_score top_k gather map";
    assert_eq!(ops.join(" "), want);
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Attention {
    Window,
    Counted,
    Chosen,
}

fn matmul() -> Op {
    let groups = RowGroups::Cyclic;
    Matmul { out: half(&[N, D]), x: half(&[N, D]), weight: weight(1, D, D), groups }.into()
}

fn rms_norm() -> Op {
    RmsNorm { out: half(&[N, D]), x: half(&[N, D]), gain: None, epsilon: 1e-6 }.into()
}

fn quantise() -> Op {
    let form = ConvertForm::RoundTrip(RowCodec::Fp8 { block: 4, tail: 0 });
    Convert { out: half(&[N, D]), x: half(&[N, D]), scales: None, form }.into()
}

fn scatter() -> Op {
    Scatter { target: half(&[9, D]), source: half(&[N, D]), index: ints(&[N]) }.into()
}

fn hc_post() -> Op {
    let x = half(&[N, S + 1, D]);
    let f = ReduceFn::Mix(f32s(&[N, S + 1, S]));
    Reduce { out: half(&[N, S * D]), x, f }.into()
}

/// One layer as section 6 lists it, fused where a fused op exists.
fn layer(attention: Attention, hash_routed: bool, numerics: Numerics) -> Vec<Op> {
    let (fp8, key, fp4) = (numerics.fp8(), numerics.key(), numerics.fp4());
    let quantise = || fp8.iter().map(|_| quantise()).collect::<Vec<_>>();
    let mut ops = vec![hc_pre()];
    ops.extend(quantise());
    ops.extend([matmul(), rms_norm()]);
    ops.extend(quantise());
    ops.extend([matmul(), qk_finish(H, None), matmul(), qk_finish(1, key)]);
    if attention != Attention::Window {
        ops.extend([matmul(), matmul(), compress(false, key)]);
    }
    if attention == Attention::Chosen {
        ops.extend([matmul(), matmul(), compress(numerics == Served, fp4)]);
        // Index queries: product, rope [, rotation, rounding], and their weights.
        ops.extend([matmul(), rope()]);
        if let Some(codec) = fp4 {
            ops.extend([matmul(), rounded(codec)]);
        }
        ops.extend([matmul(), index_select(N)]);
    }
    ops.extend([attend_project(fp8), scatter(), hc_post(), hc_pre()]);
    ops.push(if hash_routed { route_table() } else { route() });
    ops.extend([moe_experts(fp8), swiglu_mlp(fp8), hc_post()]);
    ops
}

fn rope() -> Op {
    let (out, x, angle) = (half(&[N * H, C]), half(&[N * H, C]), f32s(&[N, R]));
    Rope { out, x, angle, heads: H, inverse: false }.into()
}

fn rounded(codec: RowCodec) -> Op {
    let form = ConvertForm::RoundTrip(codec);
    Convert { out: half(&[N * H, C]), x: half(&[N * H, C]), scales: None, form }.into()
}

#[test]
fn layers_have_the_sizes_of_the_program_specification() {
    for (attention, score, hash) in [
        (Attention::Window, [44, 52], [43, 51]),
        (Attention::Counted, [57, 66], [56, 65]),
        (Attention::Chosen, [77, 90], [76, 89]),
    ] {
        for (hash_routed, counts) in [(false, score), (true, hash)] {
            for (numerics, want) in [Exact, Served].into_iter().zip(counts) {
                let ops = layer(attention, hash_routed, numerics);
                let got: usize = ops.into_iter().map(|op| lowered(op).unwrap().len()).sum();
                assert_eq!(got, want, "{attention:?} {numerics:?}, hash {hash_routed}");
            }
        }
    }
}

#[test]
fn a_missing_primitive_is_refused_by_name_dtypes_and_site() {
    let mut builder = Builder::new();
    builder.at(3, "experts");
    builder.push(moe_experts(None)).unwrap();
    let program = builder.finish().unwrap();
    let error = program.lower(&|op| op.is_primitive() && op.name() != "bucket").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let message = error.to_string();
    assert!(message.contains("3.experts bucket(→I32[7]"), "{message}");
}

#[test]
fn a_collective_of_many_ranks_is_not_lowered_to_a_copy() {
    #[derive(Debug)]
    struct Two;
    impl Communicator for Two {
        fn rank(&self) -> u32 {
            0
        }
        fn size(&self) -> u32 {
            2
        }
        fn as_any(&self) -> &dyn std::any::Any {
            self
        }
    }
    let (out, x) = (half(&[N, D]), half(&[N, D]));
    let error = lowered(AllReduce { out, x, communicator: Arc::new(Two) }.into()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("2 ranks"), "{error}");
}
