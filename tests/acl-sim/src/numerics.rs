//! What operators compute: in f64, from the families' definitions where there is one, rounded once to the
//! type of the result. Values that would be undefined on a device (an index out of range, a list of ends
//! that falls) are failures of the task.

use backend_ascend::sys::acl::aclDataType;
use backend_ascend::sys::operators::Operator;
use kernels::rows::oracle::Expression;
use kernels::{gemm, index, rows};

use crate::executor::Param;
use crate::view::View;

fn scalars(params: &[Param]) -> Vec<f64> {
    let scalar = |param: &Param| match param {
        Param::Scalar(scalar) => Some(scalar.value),
        _ => None,
    };
    params.iter().filter_map(scalar).collect()
}

/// Runs it over operands in the order of the parameters.
pub fn run(operator: Operator, params: &[Param], t: &[View]) -> Result<(), String> {
    let s = scalars(params);
    let each = |f: &dyn Fn(f64) -> f64| {
        let values: Vec<f64> = t[0].read().into_iter().map(f).collect();
        t[1].write(&values);
    };
    let pairs = |f: &dyn Fn(f64, f64) -> f64| {
        let (a, b) = (spread(&t[0], &t[2]), spread(&t[1], &t[2]));
        let values: Vec<f64> = a.into_iter().zip(b).map(|(a, b)| f(a, b)).collect();
        t[2].write(&values);
    };
    let of = |expression: Expression| move |a: f64, b: f64| expression.value(&[a, b]);
    match operator {
        Operator::Abs => each(&f64::abs),
        Operator::Neg => each(&|x| -x),
        Operator::Exp => each(&f64::exp),
        Operator::Sqrt => each(&f64::sqrt),
        Operator::Log1p => each(&f64::ln_1p),
        Operator::Round => each(&f64::round_ties_even),
        Operator::Relu => each(&|x| x.max(0.0)),
        Operator::Sigmoid => each(&|x| 1.0 / (1.0 + (-x).exp())),
        Operator::Adds => each(&|x| x + s[1] * s[0]),
        Operator::Muls => each(&|x| x * s[0]),
        Operator::Clamp => each(&|x| x.max(s[0]).min(s[1])),
        Operator::LtScalar => each(&|x| f64::from(u8::from(x < s[0]))),
        Operator::GeScalar => each(&|x| f64::from(u8::from(x >= s[0]))),
        Operator::BitwiseAndScalar => each(&|x| (x as i64 & s[0] as i64) as f64),
        Operator::FloorDivides => each(&|x| (x / s[0]).floor()),
        Operator::RemainderTensorScalar => each(&|x| x - (x / s[0]).floor() * s[0]),
        Operator::Cast => each(&|x| x),
        Operator::Add => pairs(&|a, b| of(Expression::Add)(a, s[0] * b)),
        Operator::Sub => pairs(&|a, b| a - s[0] * b),
        Operator::Mul => pairs(&|a, b| a * b),
        Operator::Div => pairs(&of(Expression::Divide)),
        Operator::Maximum => pairs(&f64::max),
        Operator::LtTensor => pairs(&|a, b| f64::from(u8::from(a < b))),
        Operator::NeTensor => pairs(&|a, b| f64::from(u8::from(a != b))),
        Operator::InplaceFillScalar => t[0].write(&vec![s[0]; t[0].count()]),
        Operator::InplaceCopy => copy(t),
        Operator::SWhere => choose(t),
        Operator::ReduceSum | Operator::Amax => reduce(operator, params, t),
        Operator::ArgMax => arg_max(params, t),
        Operator::Softmax => softmax(t),
        Operator::RmsNorm => rms_norm(params, t),
        Operator::IndexSelect => return index_select(t),
        Operator::Gather => return gather(t),
        Operator::ScatterNdUpdate => return scatter(t),
        Operator::Sort => sort(params, t),
        Operator::Matmul | Operator::BatchMatMul => product(params, t),
        Operator::GroupedMatmulV5 => return grouped(t),
        Operator::MhcPost => mhc_post(t),
        Operator::MoeGatingTopKV2 => gating(params, t),
    }
    Ok(())
}

/// Elements of `x` spread over the dimensions of `out`.
fn spread_of<T: Clone>(x: &[T], own: &[usize], out: &[usize]) -> Vec<T> {
    if own == out {
        return x.to_vec();
    }
    let count: usize = out.iter().product();
    let mut all = Vec::with_capacity(count);
    let lead = out.len() - own.len();
    let mut strides = vec![0; out.len()];
    let mut stride = 1;
    for at in (0..own.len()).rev() {
        strides[lead + at] = if own[at] == 1 { 0 } else { stride };
        stride *= own[at];
    }
    let mut place = vec![0; out.len()];
    for _ in 0..count {
        let at: usize = place.iter().zip(&strides).map(|(i, stride)| i * stride).sum();
        all.push(x[at].clone());
        for dim in (0..out.len()).rev() {
            place[dim] += 1;
            if place[dim] < out[dim] {
                break;
            }
            place[dim] = 0;
        }
    }
    all
}

fn spread(x: &View, out: &View) -> Vec<f64> {
    spread_of(&x.read(), &x.dims, &out.dims)
}

/// Elements as bytes, spread: for what only moves.
fn spread_raw(x: &View, out: &View) -> Vec<u8> {
    let raw = x.raw();
    if x.dims == out.dims {
        return raw;
    }
    let size = raw.len() / x.count().max(1);
    let cells: Vec<&[u8]> = raw.chunks(size.max(1)).collect();
    spread_of(&cells, &x.dims, &out.dims).concat()
}

fn copy(t: &[View]) {
    match t[0].dtype == t[1].dtype {
        true => t[0].put_raw(&spread_raw(&t[1], &t[0])),
        false => t[0].write(&spread(&t[1], &t[0])),
    }
}

fn choose(t: &[View]) {
    let condition = spread_raw(&t[0], &t[3]);
    let (a, b) = (spread_raw(&t[1], &t[3]), spread_raw(&t[2], &t[3]));
    let size = a.len() / condition.len().max(1);
    let mut out = b;
    for (at, _) in condition.iter().enumerate().filter(|(_, yes)| **yes != 0) {
        out[at * size..(at + 1) * size].copy_from_slice(&a[at * size..(at + 1) * size]);
    }
    t[3].put_raw(&out);
}

fn reduce(operator: Operator, params: &[Param], t: &[View]) {
    let Param::Ints(Some(dims)) = &params[1] else { unreachable!("checked in phase one") };
    let at = dims[0] as usize;
    let (axis, width) = (t[0].dims[at], t[0].dims[at + 1..].iter().product());
    let x = t[0].read();
    let values = match operator {
        Operator::ReduceSum => rows::oracle::sum(&x, axis, width),
        _ => rows::oracle::max(&x, axis, width),
    };
    t[1].write(&values);
}

fn arg_max(params: &[Param], t: &[View]) {
    debug_assert!(matches!(params[1], Param::Int(0)) && t[0].dims.len() == 1);
    let x = t[0].read();
    let first = (0..x.len()).rev().max_by(|&a, &b| x[a].total_cmp(&x[b]));
    t[1].write(&[first.unwrap_or(0) as f64]);
}

fn softmax(t: &[View]) {
    let width = *t[0].dims.last().expect("checked in phase one");
    let mut values = Vec::with_capacity(t[0].count());
    for row in t[0].read().chunks(width.max(1)) {
        let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let powers: Vec<f64> = row.iter().map(|x| (x - top).exp()).collect();
        let total: f64 = powers.iter().sum();
        values.extend(powers.iter().map(|power| power / total));
    }
    t[1].write(&values);
}

fn rms_norm(params: &[Param], t: &[View]) {
    let epsilon = params.iter().find_map(|param| match param {
        Param::Float(value) => Some(*value),
        _ => None,
    });
    let epsilon = epsilon.expect("checked in phase one");
    let (x, gain) = (t[0].read(), t[1].read());
    t[2].write(&rows::oracle::rms_norm(&x, &gain, epsilon));
    let squares = rows::oracle::mean_square(&x, gain.len());
    let rstd: Vec<f64> = squares.iter().map(|square| 1.0 / (square + epsilon).sqrt()).collect();
    t[3].write(&rstd);
}

/// An index that exists.
fn placed(index: f64, count: usize) -> Result<usize, String> {
    match index >= 0.0 && index < count as f64 {
        true => Ok(index as usize),
        false => Err(format!("index {index} of {count} rows")),
    }
}

fn index_select(t: &[View]) -> Result<(), String> {
    let raw = t[0].raw();
    let rows = t[0].dims[0];
    let size = raw.len() / rows.max(1);
    let mut out = Vec::with_capacity(t[2].count() * size);
    for index in t[1].read() {
        let row = placed(index, rows)?;
        out.extend_from_slice(&raw[row * size..(row + 1) * size]);
    }
    t[2].put_raw(&out);
    Ok(())
}

fn gather(t: &[View]) -> Result<(), String> {
    let (raw, width) = (t[0].raw(), t[0].dims[1]);
    let size = raw.len() / t[0].count().max(1);
    let mut out = Vec::new();
    for (at, index) in t[1].read().into_iter().enumerate() {
        let column = placed(index, width)?;
        let cell = (at / t[1].dims[1] * width + column) * size;
        out.extend_from_slice(&raw[cell..cell + size]);
    }
    t[2].put_raw(&out);
    Ok(())
}

/// Two rows for one place must be equal: which one stays is not defined.
fn scatter(t: &[View]) -> Result<(), String> {
    let (mut target, source) = (t[0].raw(), t[2].raw());
    let rows = t[0].dims[0];
    let size = target.len() / rows.max(1);
    let mut written: Vec<Option<usize>> = vec![None; rows];
    for (from, index) in t[1].read().into_iter().enumerate() {
        let row = placed(index, rows)?;
        let bytes = &source[from * size..(from + 1) * size];
        if let Some(before) = written[row].replace(from)
            && source[before * size..(before + 1) * size] != *bytes
        {
            return Err(format!("different rows go to place {row}"));
        }
        target[row * size..(row + 1) * size].copy_from_slice(bytes);
    }
    t[0].put_raw(&target);
    Ok(())
}

fn sort(params: &[Param], t: &[View]) {
    let flags: Vec<bool> = params
        .iter()
        .filter_map(|param| if let Param::Bool(flag) = param { Some(*flag) } else { None })
        .collect();
    let (stable, descending) = (flags[0], flags[1]);
    let width = *t[0].dims.last().expect("checked in phase one");
    let (mut values, mut places) = (Vec::new(), Vec::new());
    for row in t[0].read().chunks(width.max(1)) {
        let signed: Vec<f32> =
            row.iter().map(|&x| if descending { x } else { -x } as f32).collect();
        let mut order = index::oracle::top_k(&signed, width);
        if !stable {
            // Equal values come in no order at all: the worst is chosen.
            order.reverse();
            order.sort_by(|&a, &b| signed[b as usize].total_cmp(&signed[a as usize]));
        }
        values.extend(order.iter().map(|&place| row[place as usize]));
        places.extend(order.iter().map(|&place| f64::from(place)));
    }
    t[1].write(&values);
    t[2].write(&places);
}

/// f32 with the mantissa that down-conversion leaves.
fn lowered(values: Vec<f64>, dtype: aclDataType, kind: i64) -> Vec<f64> {
    if dtype != aclDataType::ACL_FLOAT || kind == 0 || kind == 4 {
        return values;
    }
    let low = |x: f64| f64::from(f32::from_bits((x as f32).to_bits() & 0xffff_e000));
    values.into_iter().map(low).collect()
}

fn product(params: &[Param], t: &[View]) {
    let kind = params.iter().find_map(|param| match param {
        Param::Int(value) => Some(*value),
        _ => None,
    });
    let kind = kind.unwrap_or(0);
    let rank = t[0].dims.len();
    let (m, k, n) = (t[0].dims[rank - 2], t[0].dims[rank - 1], t[1].dims[rank - 1]);
    let a = lowered(t[0].read(), t[0].dtype, kind);
    let b = lowered(t[1].read(), t[1].dtype, kind);
    let group_of = vec![0; m];
    let mut out = Vec::with_capacity(t[2].count());
    for (a, b) in a.chunks((m * k).max(1)).zip(b.chunks((k * n).max(1))) {
        out.extend(gemm::oracle::matmul(a, k, &[transposed(b, k, n)], &group_of));
    }
    t[2].write(&out);
}

/// `[k, n]` as `[n, k]`.
fn transposed(b: &[f64], k: usize, n: usize) -> Vec<f64> {
    let mut out = Vec::with_capacity(b.len());
    for column in 0..n {
        out.extend((0..k).map(|row| b[row * n + column]));
    }
    out
}

/// Rows behind the last end hold anything: here no number.
fn grouped(t: &[View]) -> Result<(), String> {
    let [x, weight, ends, out] = t else { return Err("other operands than the rules saw".into()) };
    let (groups, k, n) = (weight.dims[0], weight.dims[1], weight.dims[2]);
    let ends = ends.read();
    let mut offsets = vec![0];
    for end in &ends {
        let before = *offsets.last().expect("begins with 0");
        if *end < f64::from(before) || *end > x.dims[0] as f64 {
            return Err(format!("ends {ends:?} of {} rows", x.dims[0]));
        }
        offsets.push(*end as i32);
    }
    let numbers = weight.read();
    let matrices: Vec<Vec<f64>> =
        numbers.chunks((k * n).max(1)).map(|b| transposed(b, k, n)).collect();
    let group_of = gemm::oracle::group_of(x.dims[0], groups, Some(&offsets));
    let values = gemm::oracle::matmul(&x.read(), k, &matrices, &group_of);
    let total = *offsets.last().expect("begins with 0") as usize;
    let mut all = vec![f64::NAN; out.count()];
    all[..total * n].copy_from_slice(&values[..total * n]);
    out.write(&all);
    Ok(())
}

/// Streams mixed by the residual's matrix, and the block's output spread over them.
fn mhc_post(t: &[View]) {
    let (streams, width) = (t[0].dims[1], t[0].dims[2]);
    let beside = |rows: &View, last: &View, size: usize| -> Vec<f64> {
        let (rows, last) = (rows.read(), last.read());
        let each = rows.len() / (last.len() / size).max(1);
        rows.chunks(each.max(1)).zip(last.chunks(size)).flat_map(|(a, b)| [a, b].concat()).collect()
    };
    let x = beside(&t[0], &t[2], width);
    let mixer = beside(&t[1], &t[3], streams);
    t[4].write(&rows::oracle::mix(&x, &mixer, streams + 1, width, streams));
}

/// Scores, the largest of score and bias, and their shares. Equal scores come in the order of experts.
fn gating(params: &[Param], t: &[View]) {
    let numbers: Vec<f64> = params
        .iter()
        .filter_map(|param| if let Param::Float(value) = param { Some(*value) } else { None })
        .collect();
    let (factor, epsilon) = (numbers[0], numbers[1]);
    let (count, k) = (t[0].dims[1], t[2].dims[1]);
    let score = |&x: &f64| f64::from(Expression::SqrtSoftplus.value(&[x]) as f32);
    let scores: Vec<f64> = t[0].read().iter().map(score).collect();
    let bias = t[1].read();
    let (mut shares, mut experts) = (Vec::new(), Vec::new());
    for row in scores.chunks(count) {
        let keys: Vec<f32> = row.iter().zip(&bias).map(|(s, b)| *s as f32 + *b as f32).collect();
        let chosen = index::oracle::top_k(&keys, k);
        let total: f64 = chosen.iter().map(|&expert| row[expert as usize]).sum();
        let share = |&expert: &i32| row[expert as usize] / (total + epsilon) * factor;
        shares.extend(chosen.iter().map(share));
        experts.extend(chosen.iter().map(|&expert| f64::from(expert)));
    }
    t[2].write(&shares);
    t[3].write(&experts);
    t[4].write(&scores);
}
