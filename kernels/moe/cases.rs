//! Cases of the mixture of experts: sorting keys, both routers, routed and shared experts.

use hal::op::{Bucket, Map, MapFn, MoeExperts, Route, RouteTable, SwigluMlp};
use hal::{DType, Encoding, RowCodec, Tensor};

use crate::case::{Case, Make};

/// The encodings experts and gates come in, with what may be rounded in front of them.
const EXPERTS: [(Encoding, Option<RowCodec>, &str); 4] = [
    (Encoding::Plain(DType::Bf16), None, "bf16"),
    (Encoding::Fp8Block { rows: 128, cols: 128 }, None, "fp8"),
    (Encoding::Fp4Block { cols: 32 }, None, "fp4"),
    (Encoding::Fp4Block { cols: 32 }, Some(RowCodec::Fp8 { block: 32, tail: 0 }), "fp4 served"),
];

/// The table.
pub fn table() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, n, k, groups, absent) in [
        ("one key", 1, 1, 1, 0),
        ("ties and empty groups", 9, 3, 11, 0),
        ("dropped keys", 6, 4, 5, 3),
        ("all dropped", 3, 2, 4, 1),
    ] {
        cases.push(bucket(name, [n, k, groups], absent));
    }
    for (name, n) in [("one row", 1), ("several rows", 6)] {
        cases.push(route(name, n));
        cases.push(route_table(name, n));
        for (encoding, round, kind) in EXPERTS {
            cases.push(experts(encoding, round, n, false, format!("{kind} {name}")));
            cases.push(shared_expert(encoding, round, n, false, format!("{kind} {name}")));
        }
        let fp8 = Encoding::Fp8Block { rows: 128, cols: 128 };
        for (op, what) in [(experts as Expert, "an expert"), (shared_expert, "the expert")] {
            cases.push(op(fp8, None, n, true, format!("fp8 NaN codes of {what}, {name}")));
        }
    }
    cases
}

fn bucket(name: &str, [n, k, groups]: [u32; 3], absent: u32) -> Case {
    let mut make = Make::new(u64::from(n + k));
    // Few of the groups are used, so that keys meet; 1 in `absent` is dropped (1: all of them).
    let used = groups.min(4);
    let keys = (0..n * k)
        .map(|_| match absent > 0 && make.random.below(absent) == 0 {
            true => -1.0,
            false => f64::from(make.random.below(used) * (groups / used)),
        })
        .collect();
    let keys = make.shared("keys", DType::I32, &[n, k], keys);
    let ints = |make: &mut Make, count| make.out_coded(DType::I32, RowCodec::Plain, &[count], None);
    let offsets = ints(&mut make, groups + 1);
    let (order, inverse) = (ints(&mut make, n * k), ints(&mut make, n * k));
    let build = move |t: &[Tensor], swapped: bool| {
        let (order, inverse) = if swapped { (inverse, order) } else { (order, inverse) };
        Bucket {
            offsets: t[offsets].clone(),
            order: t[order].clone(),
            inverse: t[inverse].clone(),
            keys: t[keys].clone(),
        }
    };
    let case = make.case(("moe", "bucket"), name, None, keys, move |t, _| build(t, false).into());
    if n > 1 && absent != 1 {
        return case.guarded_by(move |t, _| build(t, true).into());
    }
    // One key, or none: the wrong variant writes the key in place of the offsets.
    case.guarded_by(move |t, _| {
        let key = t[keys].reshape(&[n * k]).row_range(0, 1);
        Map { out: t[offsets].clone(), f: MapFn::Copy(key) }.into()
    })
}

fn route(name: &str, n: u32) -> Case {
    let (width, experts, k) = (48, 16, 3);
    let mut make = Make::new(u64::from(n) + 60);
    let x = make.row_reals("x", DType::Bf16, &[n, width], 1);
    let gate = make.weight(1, experts, width, Encoding::Plain(DType::Bf16));
    let bias = make.shared_reals("bias", DType::F32, &[experts]);
    let count = vec![f64::from(experts); n as usize];
    let count = make.rows("count", DType::I32, &[n, 1], 1, count, 0.0);
    let ids = make.out(DType::I32, &[n, k], 1);
    let shares = make.out(DType::F32, &[n, k], 1);
    make.case(("moe", "route"), name, Some(n), x, move |t, w| {
        Route {
            ids: t[ids].clone(),
            shares: t[shares].clone(),
            x: t[x].clone(),
            gate: w[gate].clone(),
            bias: t[bias].clone(),
            count: t[count].clone(),
            scale: 1.5,
        }
        .into()
    })
}

fn route_table(name: &str, n: u32) -> Case {
    let (width, experts, k, vocabulary) = (48, 16, 3, 20);
    let mut make = Make::new(u64::from(n) + 70);
    let x = make.row_reals("x", DType::Bf16, &[n, width], 1);
    let gate = make.weight(1, experts, width, Encoding::Plain(DType::Bf16));
    let chosen = (0..vocabulary).flat_map(|_| make.random.distinct(k as usize, experts));
    let chosen: Vec<f64> = chosen.map(f64::from).collect();
    let table = make.shared("table", DType::I32, &[vocabulary, k], chosen);
    let token = make.row_indices("token", &[n, 1], vocabulary, 0);
    let ids = make.out(DType::I32, &[n, k], 1);
    let shares = make.out(DType::F32, &[n, k], 1);
    make.case(("moe", "route_table"), name, Some(n), table, move |t, w| {
        RouteTable {
            ids: t[ids].clone(),
            shares: t[shares].clone(),
            x: t[x].clone(),
            gate: w[gate].clone(),
            table: t[table].clone(),
            token: t[token].clone(),
            scale: 1.5,
        }
        .into()
    })
}

/// A case of routed or shared experts: how weights are stored, what is rounded, rows, whether there are NaN codes.
type Expert = fn(Encoding, Option<RowCodec>, u32, bool, String) -> Case;

/// With `spoilt`, a NaN code in the last matrix of the first expert that is chosen: it shows in one column of the rows
/// that choose it. Another in the first matrix of an expert that is not chosen by any: it shows nowhere.
fn experts(
    encoding: Encoding,
    round: Option<RowCodec>,
    n: u32,
    spoilt: bool,
    name: String,
) -> Case {
    let (width, hidden, experts, k) = (64, 32, 7, 3);
    let mut make = Make::new(u64::from(n) + 80);
    let x = make.row_reals("x", DType::Bf16, &[n, width], 1);
    let ids: Vec<f64> = (0..n)
        .flat_map(|row| {
            // One row in four is padding-like: no expert at all.
            let ids = make.random.distinct(k as usize, experts);
            ids.into_iter().map(move |id| if row % 4 == 3 { -1.0 } else { f64::from(id) })
        })
        .collect();
    let chosen = ids[0] as u32;
    // Six rows choose all but the last expert.
    let idle = (0..experts).rfind(|id| !ids.contains(&f64::from(*id)));
    let ids = make.row_index("ids", &[n, k], ids);
    let shares = (0..n * k).map(|i| 0.25 + f64::from(i % 5) / 8.0).collect();
    let shares = make.rows("shares", DType::F32, &[n, k], 1, shares, 0.0);
    let gate_up = make.segmented(experts, 2 * hidden, width, hidden, encoding);
    let down = make.weight(experts, width, hidden, encoding);
    if spoilt {
        make.spoil(down, chosen * width + 41, 19, 0xff);
        let idle = idle.expect("there are more experts than are chosen");
        make.spoil(gate_up, idle * 2 * hidden, 3, 0x7f);
    }
    let out = make.out(DType::F32, &[n, width], 1);
    make.case(("moe", "moe_experts"), name, Some(n), x, move |t, w| {
        MoeExperts {
            out: t[out].clone(),
            x: t[x].clone(),
            ids: t[ids].clone(),
            shares: t[shares].clone(),
            gate_up: w[gate_up].clone(),
            down: w[down].clone(),
            clamp: 7.0,
            round,
        }
        .into()
    })
    .rounding(round.is_some())
}

fn shared_expert(
    encoding: Encoding,
    round: Option<RowCodec>,
    n: u32,
    spoilt: bool,
    name: String,
) -> Case {
    let (width, hidden) = (64, 32);
    let mut make = Make::new(u64::from(n) + 90);
    let x = make.row_reals("x", DType::Bf16, &[n, width], 1);
    let add = make.row_reals("add", DType::F32, &[n, width], 1);
    let gate_up = make.segmented(1, 2 * hidden, width, hidden, encoding);
    let down = make.weight(1, width, hidden, encoding);
    if spoilt {
        make.spoil(down, 41, 19, 0x7f);
    }
    let out = make.out(DType::Bf16, &[n, width], 1);
    make.case(("moe", "swiglu_mlp"), name, Some(n), add, move |t, w| {
        SwigluMlp {
            out: t[out].clone(),
            x: t[x].clone(),
            gate_up: w[gate_up].clone(),
            down: w[down].clone(),
            add: t[add].clone(),
            clamp: 7.0,
            round,
        }
        .into()
    })
    .rounding(round.is_some())
}
