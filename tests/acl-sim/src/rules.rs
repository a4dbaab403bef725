//! What the documents say about operands, per operator: types, shapes, relations. Read from the vendor's
//! pages of CANN 9.1; where a page leaves something open the stricter reading is taken.

use backend_ascend::sys::acl::aclDataType;
use backend_ascend::sys::operators::Operator;

use crate::executor::Param;
use crate::machine::{Soc, Tensor};

type Types = &'static [aclDataType];

const F32: aclDataType = aclDataType::ACL_FLOAT;
const F16: aclDataType = aclDataType::ACL_FLOAT16;
const BF16: aclDataType = aclDataType::ACL_BF16;
const I64: aclDataType = aclDataType::ACL_INT64;
const I32: aclDataType = aclDataType::ACL_INT32;
const I8: aclDataType = aclDataType::ACL_INT8;
const U8: aclDataType = aclDataType::ACL_UINT8;
const BOOL: aclDataType = aclDataType::ACL_BOOL;
const F8: aclDataType = aclDataType::ACL_FLOAT8_E4M3FN;
const F4: aclDataType = aclDataType::ACL_FLOAT4_E2M1;

const FLOATS: Types = &[F32, F16, BF16];
const NUMBERS: Types = &[F32, F16, BF16, I64, I32, I8, U8, BOOL];
const INTEGERS: Types = &[I64, I32, I8, U8, BOOL];
const CASTS: Types = &[F32, F16, BF16, I64, I32, I8, U8, BOOL, F8, F4];
const CAST_TARGETS: Types = &[F32, F16, BF16, I64, I32, I8, U8, BOOL, F8];
const SCATTERED: Types = &[F32, F16, BF16, I64, I8, BOOL, F8];
const INDICES: Types = &[I32, I64];

/// Bytes of workspace of operators that need any, beside a share per element.
const WORKSPACE_BASE: u64 = 1024;
/// Most groups of a grouped product.
const GROUPS_MAX: i64 = 1024;
/// Last dimensions of a grouped product stay below this.
const GROUPED_WIDTH_MAX: i64 = 65_536;

pub fn is_dense(tensor: &Tensor) -> bool {
    let mut expected = 1;
    for at in (0..tensor.dims.len()).rev() {
        if tensor.dims[at] > 1 && tensor.strides[at] != expected {
            return false;
        }
        expected *= tensor.dims[at].max(1);
    }
    true
}

fn ensure(ok: bool, text: impl FnOnce() -> String) -> Result<(), String> {
    if ok { Ok(()) } else { Err(text()) }
}

fn typed(name: &str, tensor: &Tensor, types: Types) -> Result<(), String> {
    ensure(types.contains(&tensor.dtype), || format!("{name} has type {}", tensor.dtype.0))
}

fn same_type(a: &Tensor, b: &Tensor) -> Result<(), String> {
    ensure(a.dtype == b.dtype, || format!("types {} and {} differ", a.dtype.0, b.dtype.0))
}

fn shaped(name: &str, tensor: &Tensor, dims: &[i64]) -> Result<(), String> {
    ensure(tensor.dims == dims, || format!("{name} is {:?}, {dims:?} is due", tensor.dims))
}

/// Dimensions of operands spread over each other.
pub fn broadcast(a: &[i64], b: &[i64]) -> Result<Vec<i64>, String> {
    let rank = a.len().max(b.len());
    let at = |dims: &[i64], place: usize| match (place + dims.len()).checked_sub(rank) {
        Some(place) => dims[place],
        None => 1,
    };
    let pair = |place| match (at(a, place), at(b, place)) {
        (x, y) if x == y || y == 1 => Ok(x),
        (1, y) => Ok(y),
        _ => Err(format!("{a:?} and {b:?} do not spread over each other")),
    };
    (0..rank).map(pair).collect()
}

fn tensors(params: &[Param]) -> Vec<&Tensor> {
    let mut found = Vec::new();
    for param in params {
        if let Param::Tensor(tensor, _) = param {
            found.push(tensor);
        }
    }
    found
}

fn ints(params: &[Param]) -> Vec<i64> {
    let int = |param: &Param| if let Param::Int(value) = param { Some(*value) } else { None };
    params.iter().filter_map(int).collect()
}

/// Checks the operands; gives the bytes of workspace.
pub fn check(operator: Operator, params: &[Param], soc: Soc) -> Result<u64, String> {
    let t = tensors(params);
    match operator {
        Operator::Abs | Operator::Neg => unary(&t, NUMBERS, None)?,
        Operator::Relu | Operator::Round | Operator::Exp | Operator::Log1p | Operator::Sqrt => {
            unary(&t, FLOATS, None)?;
        }
        Operator::Sigmoid => unary(&t, FLOATS, None)?,
        Operator::Adds | Operator::Muls | Operator::Clamp => unary(&t, NUMBERS, None)?,
        Operator::BitwiseAndScalar => unary(&t, INTEGERS, None)?,
        Operator::FloorDivides | Operator::RemainderTensorScalar => {
            unary(&t, &[I32, I64, F32], None)?;
        }
        Operator::LtScalar | Operator::GeScalar => unary(&t, NUMBERS, Some(BOOL))?,
        Operator::Add | Operator::Sub | Operator::Mul | Operator::Div | Operator::Maximum => {
            binary(&t, NUMBERS, None)?;
        }
        Operator::LtTensor | Operator::NeTensor => binary(&t, NUMBERS, Some(BOOL))?,
        Operator::SWhere => choose(&t)?,
        Operator::Cast => cast(&t, params)?,
        Operator::InplaceCopy => {
            typed("target", t[0], NUMBERS)?;
            typed("source", t[1], NUMBERS)?;
            shaped("source spread", t[0], &broadcast(&t[0].dims, &t[1].dims)?)?;
        }
        Operator::InplaceFillScalar => typed("target", t[0], NUMBERS)?,
        Operator::ReduceSum | Operator::Amax => reduce(operator, &t, params)?,
        Operator::ArgMax => {
            typed("x", t[0], NUMBERS)?;
            typed("out", t[1], INDICES)?;
        }
        Operator::Softmax => unary(&t, FLOATS, None)?,
        Operator::RmsNorm => rms_norm(&t)?,
        Operator::IndexSelect | Operator::Gather => select(operator, &t, params)?,
        Operator::ScatterNdUpdate => scatter(&t)?,
        Operator::Sort => {
            unary(&t[..2], NUMBERS, None)?;
            typed("indices", t[2], &[I64])?;
            shaped("indices", t[2], &t[0].dims)?;
        }
        Operator::Matmul | Operator::BatchMatMul => product(operator, &t, params)?,
        Operator::GroupedMatmulV5 => grouped(params)?,
        Operator::MhcPost => mhc_post(&t)?,
        Operator::MoeGatingTopKV2 => gating(&t, params, soc)?,
    }
    scalars(params)?;
    Ok(workspace(operator, params, &t))
}

/// Never 0 where a real operator could need some.
fn workspace(operator: Operator, params: &[Param], t: &[&Tensor]) -> u64 {
    let elements: i64 = t.iter().map(|tensor| tensor.dims.iter().product::<i64>()).sum();
    let strided = t.iter().any(|tensor| !is_dense(tensor));
    let listed = params.iter().any(|param| matches!(param, Param::List(..)));
    let heavy = matches!(
        operator,
        Operator::Sort
            | Operator::Matmul
            | Operator::BatchMatMul
            | Operator::ReduceSum
            | Operator::ScatterNdUpdate
            | Operator::Softmax
            | Operator::RmsNorm
            | Operator::MhcPost
            | Operator::MoeGatingTopKV2
    );
    match strided || listed || heavy {
        true => WORKSPACE_BASE + (elements as u64 * 4).next_multiple_of(512),
        false => 0,
    }
}

/// A scalar beside an integer tensor is an integer.
fn scalars(params: &[Param]) -> Result<(), String> {
    let whole = params.iter().all(|param| match param {
        Param::Scalar(scalar) => scalar.dtype == F32 || scalar.value.fract() == 0.0,
        _ => true,
    });
    ensure(whole, || "an integer scalar with a fraction".into())
}

fn unary(t: &[&Tensor], types: Types, out: Option<aclDataType>) -> Result<(), String> {
    typed("x", t[0], types)?;
    shaped("out", t[1], &t[0].dims)?;
    match out {
        Some(dtype) => ensure(t[1].dtype == dtype, || format!("out has type {}", t[1].dtype.0)),
        None => same_type(t[0], t[1]),
    }
}

fn binary(t: &[&Tensor], types: Types, out: Option<aclDataType>) -> Result<(), String> {
    typed("a", t[0], types)?;
    same_type(t[0], t[1])?;
    shaped("out", t[2], &broadcast(&t[0].dims, &t[1].dims)?)?;
    match out {
        Some(dtype) => ensure(t[2].dtype == dtype, || format!("out has type {}", t[2].dtype.0)),
        None => same_type(t[0], t[2]),
    }
}

fn choose(t: &[&Tensor]) -> Result<(), String> {
    typed("condition", t[0], &[BOOL, U8])?;
    typed("a", t[1], NUMBERS)?;
    same_type(t[1], t[2])?;
    same_type(t[1], t[3])?;
    let dims = broadcast(&broadcast(&t[1].dims, &t[2].dims)?, &t[0].dims)?;
    shaped("out", t[3], &dims)
}

fn cast(t: &[&Tensor], params: &[Param]) -> Result<(), String> {
    typed("x", t[0], CASTS)?;
    typed("out", t[1], CAST_TARGETS)?;
    shaped("out", t[1], &t[0].dims)?;
    let named = params.iter().any(|param| matches!(param, Param::Dtype(d) if *d == t[1].dtype));
    ensure(named, || "dtype is not the type of out".into())
}

fn reduce(operator: Operator, t: &[&Tensor], params: &[Param]) -> Result<(), String> {
    typed("x", t[0], NUMBERS)?;
    same_type(t[0], t[1])?;
    let (Param::Ints(Some(dims)), Param::Bool(keep)) = (&params[1], &params[2]) else {
        return Err("no dimensions".into());
    };
    let [at] = dims[..] else { return Err(format!("{operator:?} over {dims:?}")) };
    ensure((at as usize) < t[0].dims.len(), || format!("dimension {at}"))?;
    let mut wanted = t[0].dims.clone();
    match keep {
        true => wanted[at as usize] = 1,
        false => drop(wanted.remove(at as usize)),
    }
    shaped("out", t[1], &wanted)?;
    let dtype = params.iter().find_map(|param| match param {
        Param::Dtype(dtype) => Some(*dtype),
        _ => None,
    });
    ensure(dtype.is_none_or(|dtype| dtype == t[1].dtype), || "dtype is not out's".into())
}

fn rms_norm(t: &[&Tensor]) -> Result<(), String> {
    typed("x", t[0], FLOATS)?;
    typed("gamma", t[1], FLOATS)?;
    ensure(t[1].dtype == t[0].dtype || t[1].dtype == F32, || "gamma's type".into())?;
    same_type(t[0], t[2])?;
    typed("rstd", t[3], &[F32])?;
    let rank = t[0].dims.len() - 1;
    shaped("gamma", t[1], &t[0].dims[rank..])?;
    shaped("y", t[2], &t[0].dims)?;
    let mut wanted = t[0].dims.clone();
    wanted[rank] = 1;
    shaped("rstd", t[3], &wanted)
}

fn select(operator: Operator, t: &[&Tensor], params: &[Param]) -> Result<(), String> {
    typed("x", t[0], NUMBERS)?;
    typed("index", t[1], INDICES)?;
    same_type(t[0], t[2])?;
    let dim = ints(params)[0];
    if operator == Operator::IndexSelect {
        ensure(t[1].dims.len() == 1 && dim == 0, || "index is no vector, or dim is not 0".into())?;
        let mut wanted = t[0].dims.clone();
        wanted[0] = t[1].dims[0];
        return shaped("out", t[2], &wanted);
    }
    ensure(dim == 1 && t[0].dims.len() == 2, || "gather of other than [n, w] along 1".into())?;
    ensure(t[1].dims[0] <= t[0].dims[0], || "index has more rows than x".into())?;
    shaped("out", t[2], &t[1].dims)
}

fn scatter(t: &[&Tensor]) -> Result<(), String> {
    typed("target", t[0], SCATTERED)?;
    typed("index", t[1], INDICES)?;
    same_type(t[0], t[2])?;
    ensure(t[1].dims.len() == 2 && t[1].dims[1] == 1, || format!("index {:?}", t[1].dims))?;
    shaped("updates", t[2], &[t[1].dims[0], t[0].dims[1]])?;
    // The first axis alone may have gaps.
    ensure(t[0].strides[1] == 1 || t[0].dims[1] == 1, || "target's columns have gaps".into())
}

fn product(operator: Operator, t: &[&Tensor], params: &[Param]) -> Result<(), String> {
    let rank = if operator == Operator::Matmul { 2 } else { 3 };
    typed("a", t[0], FLOATS)?;
    same_type(t[0], t[1])?;
    same_type(t[0], t[2])?;
    let ranks = t.iter().all(|tensor| tensor.dims.len() == rank);
    ensure(ranks, || format!("rank {rank} is due"))?;
    let (a, b) = (&t[0].dims, &t[1].dims);
    ensure(a[rank - 1] == b[rank - 2], || format!("{a:?} times {b:?}"))?;
    ensure(a[..rank - 2] == b[..rank - 2], || format!("batches of {a:?} and {b:?}"))?;
    let mut wanted = a.clone();
    wanted[rank - 1] = b[rank - 1];
    shaped("out", t[2], &wanted)?;
    ensure(is_dense(t[2]), || "the result must have no gaps".into())?;
    let kind = ints(params)[0];
    ensure((0..=4).contains(&kind), || format!("cubeMathType {kind}"))
}

/// The form with one x, one weight `[E, K, N]`, one result, cumulative ends on the device.
fn grouped(params: &[Param]) -> Result<(), String> {
    let one = |place: usize| match &params[place] {
        Param::List(Some(list), _) if list.len() == 1 => Ok(&list[0]),
        _ => Err(format!("parameter {place}: one tensor is due")),
    };
    let (x, weight, out) = (one(0)?, one(1)?, one(17)?);
    let absent = [2, 3, 4, 5, 6, 7, 9, 10, 11, 18, 19]
        .into_iter()
        .all(|place: usize| matches!(&params[place], Param::List(None, _)));
    ensure(absent, || "only the unquantised form is simulated".into())?;
    let Param::Tensor(ends, _) = &params[8] else { return Err("no group list".into()) };
    typed("x", x, FLOATS)?;
    same_type(x, weight)?;
    same_type(x, out)?;
    typed("group list", ends, &[I64])?;
    ensure(weight.dims.len() == 3, || "weight must be [E, K, N]".into())?;
    let (e, k, n) = (weight.dims[0], weight.dims[1], weight.dims[2]);
    shaped("group list", ends, &[e])?;
    shaped("x", x, &[x.dims[0], k])?;
    shaped("out", out, &[x.dims[0], n])?;
    ensure(e <= GROUPS_MAX && k.max(n) < GROUPED_WIDTH_MAX, || "too wide".into())?;
    ensure(is_dense(x) && is_dense(out) && is_dense(ends), || "operands with gaps".into())?;
    let form = ints(params);
    ensure(form == [3, 0, 0, 0] || form == [2, 0, 0, 0], || format!("form {form:?}"))
}

/// Streams and widths of the hyper-connection operator: four, multiples of 128.
fn mhc_post(t: &[&Tensor]) -> Result<(), String> {
    let [x, residual, y, post, out] = t else { return Err("five tensors are due".into()) };
    typed("x", x, &[F16, BF16])?;
    same_type(x, y)?;
    same_type(x, out)?;
    typed("residual", residual, &[F32])?;
    typed("post", post, &[F32])?;
    let [n, streams, width] = x.dims[..] else { return Err(format!("x is {:?}", x.dims)) };
    ensure(streams == 4 && width % 128 == 0, || format!("{streams} streams of {width}"))?;
    shaped("residual", residual, &[n, streams, streams])?;
    shaped("y", y, &[n, width])?;
    shaped("post", post, &[n, streams])?;
    shaped("out", out, &[n, streams, width])
}

/// The gating operator without groups and without a table of tokens.
fn gating(t: &[&Tensor], params: &[Param], soc: Soc) -> Result<(), String> {
    let [x, bias, shares, experts, normed] = t else {
        return Err("only the form with a bias and without a table is simulated".into());
    };
    typed("x", x, FLOATS)?;
    typed("bias", bias, FLOATS)?;
    same_type(x, shares)?;
    typed("experts", experts, &[I32])?;
    typed("normed", normed, &[F32])?;
    let [n, count] = x.dims[..] else { return Err(format!("x is {:?}", x.dims)) };
    let form = ints(params);
    let [k, 1, 1, 0 | 1, _, norm] = form[..] else { return Err(format!("form {form:?}")) };
    ensure(norm == 2, || format!("normType {norm} is not simulated"))?;
    ensure(soc == Soc::A5, || "normType 2 is the 950's alone".into())?;
    ensure((1..=count).contains(&k), || format!("{k} of {count} experts"))?;
    ensure((count as u64).next_multiple_of(32) <= 2048, || format!("{count} experts"))?;
    shaped("bias", bias, &[count])?;
    shaped("shares", shares, &[n, k])?;
    shaped("experts", experts, &[n, k])?;
    shaped("normed", normed, &x.dims)
}
