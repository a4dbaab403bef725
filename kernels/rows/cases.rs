//! Cases of the row ops: every dtype, one row, odd widths, absent indices, extremes.

use hal::op::{
    Convert, ConvertForm, Gather, GatherSource, Map, MapFn, NormQuant, QkFinish, Reduce, ReduceFn,
    RmsNorm, Rope, Scatter,
};
use hal::{DType, RowCodec, Tensor};

use crate::case::{Case, Make, reals};

const FP8: RowCodec = RowCodec::Fp8 { block: 64, tail: 8 };
const FP4: RowCodec = RowCodec::Fp4 { block: 32 };

/// The table.
pub fn table() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(gathers());
    cases.extend(scatters());
    cases.extend(maps());
    cases.extend(reduces());
    cases.extend(norms());
    cases.extend(ropes());
    cases.extend(finishes());
    cases
}

fn gathers() -> Vec<Case> {
    let mut cases = Vec::new();
    for (dtype, name) in reals().into_iter().chain([(DType::I32, "i32")]) {
        for (what, n, source, width, per) in
            [("one row", 1, 3, 2, 1), ("odd width", 7, 11, 37, 1), ("divided", 6, 5, 16, 3)]
        {
            cases.push(gather_rows(dtype, RowCodec::Plain, [n, source, 0, width], per, name, what));
        }
        cases.push(gather_rows(dtype, RowCodec::Plain, [9, 4, 5, 12], 1, name, "goes on in more"));
        cases.push(gather_elements(dtype, name, false));
        cases.push(gather_elements(dtype, name, true));
    }
    cases.push(gather_rows(DType::Bf16, FP8, [6, 9, 0, 136], 1, "fp8 rows", "decoded"));
    cases.push(gather_rows(DType::Bf16, FP4, [6, 9, 0, 64], 1, "fp4 rows", "decoded"));
    cases
}

fn gather_rows(
    dtype: DType,
    codec: RowCodec,
    [n, rows, more, width]: [u32; 4],
    per: u32,
    name: &str,
    what: &str,
) -> Case {
    let mut make = Make::new(u64::from(n * 100 + width));
    let dims = [rows, width];
    let source = match dtype {
        DType::I32 => {
            let values = (0..rows * width).map(|i| f64::from(i) - 3.0).collect();
            make.shared("source", dtype, &dims, values)
        }
        _ => make.cache("source", dtype, codec, &dims),
    };
    let second = (more > 0).then(|| match dtype {
        DType::I32 => {
            let values = (0..more * width).map(|i| f64::from(i) + 1000.0).collect();
            make.shared("more", dtype, &[more, width], values)
        }
        _ => make.shared_reals("more", dtype, &[more, width]),
    });
    let index = make.row_indices("index", &[n, 1], (rows + more) * per, if n == 1 { 0 } else { 3 });
    let out = make.out(dtype, &[n, width], 1);
    let name = format!("{name} {what}");
    make.case(("rows", "gather"), name, Some(n), source, move |t, _| {
        Gather {
            out: t[out].clone(),
            source: GatherSource::Rows {
                source: t[source].clone(),
                more: second.map(|second| t[second].clone()),
            },
            index: t[index].clone(),
            per,
        }
        .into()
    })
}

fn gather_elements(dtype: DType, name: &str, by_row: bool) -> Case {
    let (n, r, width, k) = (5, if by_row { 3 } else { 5 }, 9, 4);
    let mut make = Make::new(7 + u64::from(by_row));
    let values = (0..r * width).map(|i| f64::from(i) * 0.25 - 3.0).map(f64::round).collect();
    let source = match by_row {
        true => make.shared("source", dtype, &[r, width], values),
        false => make.rows("source", dtype, &[r, width], 1, values, 0.0),
    };
    let rows = by_row.then(|| make.row_indices("rows", &[n, 1], r, 4));
    let index = make.row_indices("index", &[n, k], width * 2, 4);
    let out = make.out(dtype, &[n, k], 1);
    let what = if by_row { "elements of named rows" } else { "elements along the row" };
    make.case(("rows", "gather"), format!("{name} {what}"), Some(n), index, move |t, _| {
        Gather {
            out: t[out].clone(),
            source: GatherSource::Elements {
                source: t[source].clone(),
                rows: rows.map(|rows| t[rows].clone()),
            },
            index: t[index].clone(),
            per: 2,
        }
        .into()
    })
}

fn scatters() -> Vec<Case> {
    let mut cases = Vec::new();
    for (dtype, name) in reals() {
        cases.push(scatter(dtype, RowCodec::Plain, [1, 1, 1], format!("{name} one row")));
        cases.push(scatter(dtype, RowCodec::Plain, [6, 9, 37], format!("{name} odd width")));
    }
    for (codec, width, name) in [(FP8, 136, "fp8 rows"), (FP4, 64, "fp4 rows")] {
        cases.push(scatter(DType::Bf16, codec, [6, 9, width], name.into()));
    }
    cases
}

fn scatter(dtype: DType, codec: RowCodec, [n, rows, width]: [u32; 3], name: String) -> Case {
    let mut make = Make::new(u64::from(n * 31 + width));
    let target = make.updated("target", dtype, codec, &[rows, width]);
    // Values the codec holds exactly: those of such a cache.
    let source = make.cache("source", dtype, codec, &[n, width]);
    make.plain_again(source);
    let places = make.random.distinct(n as usize, rows);
    let absent = |(row, place)| if n > 1 && row % 3 == 2 { -1.0 } else { f64::from(place) };
    let index = places.into_iter().enumerate().map(absent).collect();
    let index = make.shared("index", DType::I32, &[n, 1], index);
    make.case(("rows", "scatter"), name, None, source, move |t, _| {
        let (target, source) = (t[target].clone(), t[source].clone());
        Scatter { target, source, index: t[index].clone() }.into()
    })
    // The wrong variant writes nothing.
    .guarded_by(move |t, _| {
        let (target, source) = (t[target].clone(), t[source].row_range(0, 0));
        Scatter { target, source, index: t[index].row_range(0, 0) }.into()
    })
}

fn maps() -> Vec<Case> {
    let mut cases = Vec::new();
    for (dtype, name) in reals() {
        for (what, n, width) in [("one row", 1, 3), ("odd width", 5, 37)] {
            let name = format!("{name} {what}");
            cases.push(two_inputs("add", dtype, [n, width], &name, MapFn::Add));
            cases.push(two_inputs("divide", dtype, [n, width], &name, MapFn::Divide));
            cases.push(two_inputs("exp_minus", dtype, [n, width], &name, MapFn::ExpMinus));
            cases.push(one_input("copy", dtype, [n, width], &name, MapFn::Copy));
            cases.push(one_input("sqrt_softplus", dtype, [n, width], &name, MapFn::SqrtSoftplus));
            cases.push(share(dtype, [n, width], &name));
            cases.push(swiglu(dtype, [n, width], &name, true));
            cases.push(swiglu(dtype, [n, width], &name, false));
            cases.push(masked_add(dtype, [n, width], &name));
        }
    }
    cases.push(page_row());
    cases.push(copy_to_streams());
    cases.push(extreme_softplus());
    cases
}

fn two_inputs(
    what: &str,
    dtype: DType,
    [n, width]: [u32; 2],
    name: &str,
    f: fn(Tensor, Tensor) -> MapFn,
) -> Case {
    let mut make = Make::new(u64::from(n) * 17);
    let x = make.row_reals("x", dtype, &[n, width], 1);
    // One row for all, away from 0.
    let y = (0..width).map(|i| 1.0 + f64::from(i % 5)).collect();
    let y = make.shared("y", DType::F32, &[1, width], y);
    let out = make.out(dtype, &[n, width], 1);
    make.case(("rows", "map"), format!("{what} {name}"), Some(n), x, move |t, _| {
        Map { out: t[out].clone(), f: f(t[x].clone(), t[y].clone()) }.into()
    })
}

fn one_input(
    what: &str,
    dtype: DType,
    [n, width]: [u32; 2],
    name: &str,
    f: fn(Tensor) -> MapFn,
) -> Case {
    let mut make = Make::new(u64::from(n) * 19);
    let x = make.row_reals("x", DType::F32, &[n, width], 1);
    let out = make.out(dtype, &[n, width], 1);
    make.case(("rows", "map"), format!("{what} {name}"), Some(n), x, move |t, _| {
        Map { out: t[out].clone(), f: f(t[x].clone()) }.into()
    })
}

fn share(dtype: DType, [n, width]: [u32; 2], name: &str) -> Case {
    let mut make = Make::new(u64::from(n) * 23);
    let x = make.row_reals("x", dtype, &[n, width], 1);
    let total = (0..n).map(|row| 0.5 + f64::from(row)).collect();
    let total = make.rows("total", DType::F32, &[n, 1], 1, total, 0.0);
    let out = make.out(dtype, &[n, width], 1);
    make.case(("rows", "map"), format!("share {name}"), Some(n), x, move |t, _| {
        let (x, total) = (t[x].clone(), t[total].clone());
        Map { out: t[out].clone(), f: MapFn::Share { x, total, scale: 2.5 } }.into()
    })
}

fn swiglu(dtype: DType, [n, width]: [u32; 2], name: &str, weighted: bool) -> Case {
    let mut make = Make::new(u64::from(n) * 29);
    // Gate and up halves of one product; some beyond the clamp.
    let both = (0..n * 2 * width).map(|_| make.random.gauss() * 6.0).collect();
    let both = make.rows("both", dtype, &[n, 2 * width], 1, both, 0.0);
    let weight = weighted.then(|| make.row_reals("weight", DType::F32, &[n, 1], 1));
    let out = make.out(dtype, &[n, width], 1);
    let kind = if weighted { "swiglu weighted" } else { "swiglu" };
    make.case(("rows", "map"), format!("{kind} {name}"), Some(n), both, move |t, _| {
        let f = MapFn::Swiglu {
            gate: t[both].columns(0, &[width]),
            up: t[both].columns(width, &[width]),
            weight: weight.map(|weight| t[weight].clone()),
            clamp: 7.0,
        };
        Map { out: t[out].clone(), f }.into()
    })
}

fn masked_add(dtype: DType, [n, width]: [u32; 2], name: &str) -> Case {
    let slots = 4;
    let mut make = Make::new(u64::from(n) * 31);
    let x = make.row_reals("x", DType::F32, &[n, slots, width], 1);
    let y = make.shared_reals("y", DType::F32, &[slots, width]);
    let index = make.row_indices("index", &[n, slots, 1], 9, 3);
    // -1e30 has no f16.
    let out_dtype = if dtype == DType::F16 { DType::F32 } else { dtype };
    let out = make.out(out_dtype, &[n, slots, width], 1);
    make.case(("rows", "map"), format!("masked_add {name}"), Some(n), x, move |t, _| {
        let (x, y, index) = (t[x].clone(), t[y].clone(), t[index].clone());
        Map { out: t[out].clone(), f: MapFn::MaskedAdd { x, y, index } }.into()
    })
}

fn page_row() -> Case {
    let (n, k, per) = (5, 7, 4);
    let mut make = Make::new(37);
    let entry = make.row_indices("entry", &[n, k], 40, 4);
    let page = make.row_indices("page", &[n, k], 9, 4);
    let out = make.out(DType::I32, &[n, k], 1);
    make.case(("rows", "map"), "page_row", Some(n), entry, move |t, _| {
        let (entry, page) = (t[entry].clone(), t[page].clone());
        Map { out: t[out].clone(), f: MapFn::PageRow { entry, page, per } }.into()
    })
}

fn copy_to_streams() -> Case {
    let (n, streams, width) = (3, 4, 10);
    let mut make = Make::new(41);
    let x = make.row_reals("x", DType::Bf16, &[n, 1, width], 1);
    let out = make.out(DType::Bf16, &[n, streams, width], 1);
    make.case(("rows", "map"), "copy to streams", Some(n), x, move |t, _| {
        Map { out: t[out].clone(), f: MapFn::Copy(t[x].clone()) }.into()
    })
}

fn extreme_softplus() -> Case {
    let values = vec![-200.0, -88.0, -20.0, -1e-30, 0.0, 1e-30, 20.0, 88.0, 200.0, 1e30];
    let mut make = Make::new(43);
    let x = make.rows("x", DType::F32, &[1, 10], 1, values, 0.0);
    let out = make.out(DType::F32, &[1, 10], 1);
    make.case(("rows", "map"), "sqrt_softplus f32 extremes", Some(1), x, move |t, _| {
        Map { out: t[out].clone(), f: MapFn::SqrtSoftplus(t[x].clone()) }.into()
    })
}

fn reduces() -> Vec<Case> {
    let mut cases = Vec::new();
    for (dtype, name) in reals() {
        for (what, n, axis, width) in
            [("one row", 1, 3, 5), ("axis of one", 3, 1, 8), ("odd", 5, 9, 37)]
        {
            let name = format!("{name} {what}");
            let dims = [n, axis, width];
            cases.push(reduce("sum", dtype, dims, &name, None, |_| ReduceFn::Sum));
            cases.push(reduce("max", dtype, dims, &name, None, |_| ReduceFn::Max));
            let y = Some((dtype, width));
            cases.push(reduce("dot", dtype, dims, &name, y, |y| ReduceFn::Dot(y.unwrap())));
            let y = Some((DType::F32, 3));
            cases.push(reduce("mix", dtype, dims, &name, y, |y| ReduceFn::Mix(y.unwrap())));
        }
        cases.push(mean_square(dtype, 1, 1, format!("{name} one element")));
        cases.push(mean_square(dtype, 5, 131, format!("{name} odd")));
    }
    cases
}

fn reduce(
    what: &str,
    dtype: DType,
    [n, axis, width]: [u32; 3],
    name: &str,
    y: Option<(DType, u32)>,
    f: fn(Option<Tensor>) -> ReduceFn,
) -> Case {
    let mut make = Make::new(u64::from(n * 7 + axis));
    let x = make.row_reals("x", dtype, &[n, axis, width], 1);
    let outputs = y.map_or(1, |(_, k)| if what == "mix" { k } else { 1 });
    let y = y.map(|(dtype, k)| make.row_reals("y", dtype, &[n, axis, k], 1));
    let out_dtype = if what == "dot" { DType::F32 } else { dtype };
    let out = make.out(out_dtype, &[n, outputs * width], 1);
    make.case(("rows", "reduce"), format!("{what} {name}"), Some(n), x, move |t, _| {
        let f = f(y.map(|y| t[y].clone()));
        Reduce { out: t[out].clone(), x: t[x].clone(), f }.into()
    })
}

fn mean_square(dtype: DType, n: u32, width: u32, name: String) -> Case {
    let mut make = Make::new(u64::from(width));
    let x = make.row_reals("x", dtype, &[n, width], 1);
    let out = make.out(DType::F32, &[n, 1], 1);
    let form = move |f: ReduceFn, t: &[Tensor]| Reduce { out: t[out].clone(), x: t[x].clone(), f };
    make.case(("rows", "reduce"), format!("mean_square {name}"), Some(n), x, move |t, _| {
        form(ReduceFn::MeanSquare, t).into()
    })
    // The sum in place of the mean square.
    .guarded_by(move |t, _| form(ReduceFn::Sum, t).into())
}

fn norms() -> Vec<Case> {
    let mut cases = Vec::new();
    for (dtype, name) in reals() {
        for (what, n, width, gain, size) in [
            ("one row", 1, 128, true, 1.0),
            ("one column", 3, 1, true, 1.0),
            ("odd width", 5, 131, true, 1.0),
            ("without gain", 4, 64, false, 1.0),
            ("small values", 3, 40, true, 1e-4),
            ("large values", 3, 40, true, 1e4),
        ] {
            cases.push(rms_norm(dtype, [n, width], gain, size, format!("{name} {what}")));
        }
    }
    cases.push(rms_norm(DType::F32, [2, 24], true, 1e-12, "f32 below epsilon".into()));
    cases
}

fn rms_norm(dtype: DType, [n, width]: [u32; 2], gain: bool, size: f64, name: String) -> Case {
    let mut make = Make::new(u64::from(n * 1000 + width));
    let x = (0..n * width).map(|_| make.random.gauss() * size).collect();
    let x = make.rows("x", dtype, &[n, width], 1, x, 0.0);
    let gain = gain.then(|| make.shared_reals("gain", DType::F32, &[width]));
    let out = make.out(dtype, &[n, width], 1);
    let build = move |t: &[Tensor], epsilon| RmsNorm {
        out: t[out].clone(),
        x: t[x].clone(),
        gain: gain.map(|gain| t[gain].clone()),
        epsilon,
    };
    make.case(("rows", "rms_norm"), name, Some(n), x, move |t, _| build(t, 1e-6).into())
        // Another epsilon shows in every case, whatever the size of the values.
        .guarded_by(move |t, _| build(t, (0.1 * size * size) as f32 + 2e-6).into())
}

fn ropes() -> Vec<Case> {
    let mut cases = Vec::new();
    for (dtype, name) in reals() {
        for (what, n, heads, width, turned, inverse) in [
            ("one row", 1, 1, 64, 64, false),
            ("tail of a row", 5, 1, 40, 6, false),
            ("inverse over heads", 3, 4, 24, 8, true),
        ] {
            let dims = [n, heads, width, turned];
            cases.push(rope(dtype, dims, inverse, format!("{name} {what}")));
        }
    }
    cases
}

/// Cosines, then sines, of one angle per pair and row.
fn angles(make: &mut Make, n: u32, turned: u32) -> usize {
    let mut values = Vec::new();
    for _ in 0..n {
        let turns: Vec<f64> = (0..turned / 2).map(|_| make.random.gauss() * 3.0).collect();
        values.extend(turns.iter().map(|turn| turn.cos()));
        values.extend(turns.iter().map(|turn| turn.sin()));
    }
    make.rows("angle", DType::F32, &[n, turned], 1, values, 0.0)
}

fn rope(dtype: DType, [n, heads, width, turned]: [u32; 4], inverse: bool, name: String) -> Case {
    let mut make = Make::new(u64::from(n + heads));
    let x = make.row_reals("x", dtype, &[n * heads, width], heads);
    let angle = angles(&mut make, n, turned);
    let out = make.out(dtype, &[n * heads, width], heads);
    let build = move |t: &[Tensor], inverse| Rope {
        out: t[out].clone(),
        x: t[x].clone(),
        angle: t[angle].clone(),
        heads,
        inverse,
    };
    make.case(("rows", "rope"), name, Some(n), angle, move |t, _| build(t, inverse).into())
        .guarded_by(move |t, _| build(t, !inverse).into())
}

fn finishes() -> Vec<Case> {
    let mut cases = Vec::new();
    for (dtype, name) in [(DType::F32, "f32"), (DType::Bf16, "bf16")] {
        cases.push(norm_quant(dtype, RowCodec::Fp8 { block: 32, tail: 0 }, name));
        cases.push(qk_finish(dtype, 3, None, name));
        cases.push(qk_finish(dtype, 1, Some(RowCodec::Fp8 { block: 16, tail: 8 }), name));
    }
    cases
}

fn norm_quant(dtype: DType, round: RowCodec, name: &str) -> Case {
    let (n, width) = (4, 96);
    let mut make = Make::new(51);
    let x = make.row_reals("x", dtype, &[n, width], 1);
    let gain = make.shared_reals("gain", DType::F32, &[width]);
    let out = make.out(dtype, &[n, width], 1);
    make.case(("rows", "norm_quant"), name, Some(n), x, move |t, _| {
        let (out, x, gain) = (t[out].clone(), t[x].clone(), Some(t[gain].clone()));
        NormQuant { out, x, gain, epsilon: 1e-6, round }.into()
    })
    .rounding(true)
}

fn qk_finish(dtype: DType, heads: u32, round: Option<RowCodec>, name: &str) -> Case {
    let (n, width, turned) = (4, 40, 8);
    let mut make = Make::new(53);
    let x = make.row_reals("x", dtype, &[n * heads, width], heads);
    let gain = round.map(|_| make.shared_reals("gain", DType::F32, &[width]));
    let angle = angles(&mut make, n, turned);
    let out = make.out(dtype, &[n * heads, width], heads);
    let name = format!("{name} {}", if round.is_some() { "key" } else { "queries" });
    make.case(("rows", "qk_finish"), name, Some(n), x, move |t, _| {
        QkFinish {
            out: t[out].clone(),
            x: t[x].clone(),
            gain: gain.map(|gain| t[gain].clone()),
            angle: t[angle].clone(),
            heads,
            epsilon: 1e-6,
            round,
        }
        .into()
    })
    .rounding(round.is_some())
}

/// A cast between two dtypes.
pub(crate) fn cast(from: DType, to: DType, name: String) -> Case {
    let (n, width) = (3, 41);
    let mut make = Make::new(59);
    let x = make.row_reals("x", from, &[n, width], 1);
    let out = make.out(to, &[n, width], 1);
    make.case(("quant", "convert"), name, Some(n), x, move |t, _| {
        let (out, x) = (t[out].clone(), t[x].clone());
        Convert { out, x, scales: None, form: ConvertForm::Cast }.into()
    })
}
