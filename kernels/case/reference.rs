//! Runs programs by definition: every Tier-0 op in f64 from the families' oracles, rounded once to
//! its output's dtype and codec. Fused ops run as what they lower to.
//!
//! It is slow, single-threaded and shares nothing with any backend's kernels but the byte formats.
//! Beside the rounded bytes it keeps the unrounded value of everything written, and a size that
//! rounding errors grow with; comparisons are made against those.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use hal::op::*;
use hal::{
    Buffer, Builder, DType, Error, Program, RawBuffer, RawWeight, Result, RowCodec, Shape, Tensor,
    Weight,
};

use super::{Array, Build, Role, WeightData, bound, decode, encode};
use crate::{attend, gemm, index, moe, quant, rows, stream};

/// What the definition says about one element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expected {
    /// The value, not yet rounded (rounded where an op must be exact).
    pub value: f64,
    /// What errors of computing it grow with.
    pub size: f64,
}

/// Expected elements of each written array, by its place; `None` where nothing is written.
pub type Outputs = Vec<(usize, Vec<Option<Expected>>)>;

/// Emits a program over a case's tensors and weights.
pub type Emission<'a> = dyn Fn(&[Tensor], &[Weight]) -> Result<Program> + 'a;

/// Host memory with the unrounded values of what was written to it, by first byte and column.
struct HostBuffer {
    bytes: Mutex<Vec<u8>>,
    wide: Mutex<HashMap<(u64, u32), Expected>>,
}

impl HostBuffer {
    fn new(bytes: Vec<u8>) -> Arc<HostBuffer> {
        Arc::new(HostBuffer { bytes: Mutex::new(bytes), wide: Mutex::default() })
    }
}

impl fmt::Debug for HostBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostBuffer({} bytes)", self.size_bytes())
    }
}

impl RawBuffer for HostBuffer {
    fn size_bytes(&self) -> u64 {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner).len() as u64
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[derive(Debug)]
struct HostWeight(Vec<f64>);

impl RawWeight for HostWeight {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// What `build` over these arrays and weights must give.
///
/// # Errors
/// `InvalidProgram` if the op does not fit its arrays.
pub fn expected(arrays: &[Array], weights: &[WeightData], build: &Build) -> Result<Outputs> {
    let tensors = tensors(arrays)?;
    let mut builder = Builder::new();
    let op = build(&tensors, &host_weights(weights));
    let (name, primitive) = (op.name(), op.is_primitive());
    builder.push(op)?;
    run_lowered(&builder.finish()?)?;
    let exact = bound(name, DType::Bf16, false).relative == 0.0;
    let mut outputs = Vec::new();
    for (place, (array, tensor)) in arrays.iter().zip(&tensors).enumerate() {
        if array.is_written() {
            let mut elements = elements(array, tensor, exact);
            if !primitive {
                widen(&mut elements, array.width());
            }
            outputs.push((place, elements));
        }
    }
    Ok(outputs)
}

/// Runs any program the same way: `program` builds over the arrays' tensors, and the arrays come
/// back with what it wrote, rounded.
///
/// # Errors
/// `InvalidProgram` if an op does not fit its arrays.
pub fn run_program(
    arrays: &[Array],
    weights: &[WeightData],
    program: &Emission<'_>,
) -> Result<Vec<Array>> {
    let tensors = tensors(arrays)?;
    run_lowered(&program(&tensors, &host_weights(weights))?)?;
    let read = |(array, tensor): (&Array, &Tensor)| Array { values: read(tensor), ..array.clone() };
    Ok(arrays.iter().zip(&tensors).map(read).collect())
}

fn tensors(arrays: &[Array]) -> Result<Vec<Tensor>> {
    let tensor = |array: &Array| {
        let buffer = Buffer::Real(HostBuffer::new(array.bytes()));
        Tensor::new(buffer, 0, Shape::new(&array.dims), array.dtype, array.codec)
    };
    arrays.iter().map(tensor).collect()
}

fn host_weights(weights: &[WeightData]) -> Vec<Weight> {
    let load = |data: &WeightData| {
        let (spec, stored) = (data.spec.clone(), data.spec.encoding);
        Weight::new(Arc::new(HostWeight(data.numbers())), spec, stored)
    };
    weights.iter().map(load).collect()
}

fn run_lowered(program: &Program) -> Result<()> {
    let lowered = program.lower(&Op::is_primitive)?;
    // Scratch is NaN (and -1) until it is written, so that an unwritten read shows.
    let arena = Buffer::Real(HostBuffer::new(vec![0xff; lowered.arena_bytes() as usize]));
    lowered.bind(&arena)?.nodes().iter().try_for_each(|node| run(&node.op))
}

/// Elements of a written array.
fn elements(array: &Array, tensor: &Tensor, exact: bool) -> Vec<Option<Expected>> {
    let wide = host(tensor).wide.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let rounded = read(tensor);
    let width = array.width();
    let mut out = Vec::new();
    for (place, &value) in rounded.iter().enumerate() {
        let key = key(tensor, (place / width) as u32, (place % width) as u32);
        out.push(match wide.get(&key) {
            Some(_) if exact => Some(Expected { value, size: 0.0 }),
            Some(&expected) => Some(expected),
            // What an updated array keeps must be kept to the bit.
            None => (array.role == Role::Updated).then_some(Expected { value, size: 0.0 }),
        });
    }
    out
}

/// The sizes of a fused op's output: its largest value per row, because its temporaries were rounded.
fn widen(elements: &mut [Option<Expected>], width: usize) {
    for row in elements.chunks_mut(width.max(1)) {
        let most = row.iter().flatten().fold(0f64, |most, one| most.max(one.value.abs()));
        row.iter_mut().flatten().for_each(|one| one.size = one.size.max(most));
    }
}

// ---- memory

fn host(tensor: &Tensor) -> &HostBuffer {
    let Buffer::Real(raw) = tensor.buffer() else { unreachable!("bind placed every temporary") };
    raw.as_any().downcast_ref().expect("all buffers are ours")
}

/// Where the unrounded value of an element is kept: by its byte, or by row and column if coded.
fn key(tensor: &Tensor, row: u32, column: u32) -> (u64, u32) {
    let begin = tensor.offset_bytes() + u64::from(row) * tensor.row_stride_bytes();
    match tensor.codec() {
        RowCodec::Plain => (begin + u64::from(column) * tensor.dtype().size_bytes(), 0),
        _ => (begin, column),
    }
}

fn row_bytes(tensor: &Tensor, row: u32) -> std::ops::Range<usize> {
    let begin = (tensor.offset_bytes() + u64::from(row) * tensor.row_stride_bytes()) as usize;
    begin..begin + tensor.row_bytes() as usize
}

fn read(tensor: &Tensor) -> Vec<f64> {
    let bytes = host(tensor).bytes.lock().unwrap_or_else(PoisonError::into_inner);
    let width = tensor.width() as usize;
    let row = |row| decode(tensor.dtype(), tensor.codec(), width, &bytes[row_bytes(tensor, row)]);
    (0..tensor.rows()).flat_map(row).collect()
}

fn read_i32(tensor: &Tensor) -> Vec<i32> {
    read(tensor).into_iter().map(|value| value as i32).collect()
}

/// Writes values and their sizes; an element that is `None` is left alone.
fn write_some(tensor: &Tensor, values: &[Option<Expected>]) {
    let width = tensor.width() as usize;
    let mut all = read(tensor);
    for (place, one) in values.iter().enumerate() {
        if let Some(one) = one {
            all[place] = one.value;
        }
    }
    let buffer = host(tensor);
    let mut bytes = buffer.bytes.lock().unwrap_or_else(PoisonError::into_inner);
    let mut wide = buffer.wide.lock().unwrap_or_else(PoisonError::into_inner);
    for row in 0..tensor.rows() {
        let range = row as usize * width..(row as usize + 1) * width;
        let (row_values, marks) = (&all[range.clone()], &values[range]);
        if marks.iter().all(Option::is_none) {
            continue;
        }
        let line = encode(tensor.dtype(), tensor.codec(), width, row_values);
        bytes[row_bytes(tensor, row)].copy_from_slice(&line);
        for (column, one) in marks.iter().enumerate() {
            if let Some(one) = one {
                wide.insert(key(tensor, row, column as u32), *one);
            }
        }
    }
}

fn write(tensor: &Tensor, values: &[f64], sizes: &[f64]) {
    assert_eq!(values.len() as u64, tensor.shape().elements());
    let pair = |(&value, &size): (&f64, &f64)| Some(Expected { value, size });
    write_some(tensor, &values.iter().zip(sizes).map(pair).collect::<Vec<_>>());
}

/// Writes values whose errors are relative to themselves.
fn write_own(tensor: &Tensor, values: &[f64]) {
    write(tensor, values, &magnitudes(values));
}

fn write_ints(tensor: &Tensor, values: &[i32]) {
    write_own(tensor, &values.iter().map(|&value| f64::from(value)).collect::<Vec<_>>());
}

fn magnitudes(values: &[f64]) -> Vec<f64> {
    values.iter().map(|value| value.abs()).collect()
}

fn sizes_of(dims: &[u32]) -> Vec<usize> {
    dims.iter().map(|&dim| dim as usize).collect()
}

// ---- ops

fn run(op: &Op) -> Result<()> {
    match op {
        Op::Gather(op) => run_gather(op),
        Op::Scatter(op) => run_scatter(op),
        Op::Map(op) => run_map(op),
        Op::Reduce(op) => run_reduce(op),
        Op::Convert(op) => return run_convert(op),
        Op::RmsNorm(op) => run_rms_norm(op),
        Op::Rope(op) => run_rope(op),
        Op::Matmul(op) => run_matmul(op),
        Op::TopK(op) => run_top_k(op),
        Op::Bucket(op) => run_bucket(op),
        Op::Attend(op) => run_attend(op),
        Op::IndexScore(op) => run_index_score(op),
        Op::HcMix(op) => run_hc_mix(op),
        other => return Err(Error::invalid(format!("{} is no primitive", other.name()))),
    }
    Ok(())
}

fn run_gather(op: &Gather) {
    let absent = if op.out.dtype() == DType::I32 { -1.0 } else { 0.0 };
    let index = read_i32(&op.index);
    let values = match &op.source {
        GatherSource::Rows { source, more } => {
            let more = more.as_ref().map(read).unwrap_or_default();
            let width = source.width() as usize;
            rows::oracle::gather_rows(&read(source), &more, width, &index, op.per, absent)
        }
        GatherSource::Elements { source, rows } => {
            let rows = rows.as_ref().map(read_i32);
            let (width, k) = (source.width() as usize, op.index.width() as usize);
            let source = read(source);
            rows::oracle::gather_elements(
                &source,
                width,
                rows.as_deref(),
                &index,
                k,
                op.per,
                absent,
            )
        }
    };
    write_own(&op.out, &values);
}

fn run_scatter(op: &Scatter) {
    let width = op.source.width() as usize;
    let (source, index) = (read(&op.source), read_i32(&op.index));
    let mut target = read(&op.target);
    rows::oracle::scatter(&mut target, &source, width, &index);
    let mut named = vec![None; target.len()];
    for index in index.into_iter().filter(|&index| index >= 0) {
        for at in index as usize * width..(index as usize + 1) * width {
            named[at] = Some(Expected { value: target[at], size: target[at].abs() });
        }
    }
    write_some(&op.target, &named);
}

fn run_map(op: &Map) {
    use rows::oracle::{Expression, map};
    let f = match &op.f {
        MapFn::Copy(_) => Expression::Copy,
        MapFn::Add(..) => Expression::Add,
        MapFn::Divide(..) => Expression::Divide,
        MapFn::ExpMinus(..) => Expression::ExpMinus,
        MapFn::SqrtSoftplus(_) => Expression::SqrtSoftplus,
        MapFn::MaskedAdd { .. } => Expression::MaskedAdd,
        MapFn::Share { scale, .. } => Expression::Share { scale: f64::from(*scale) },
        MapFn::Swiglu { clamp, .. } => Expression::Swiglu { clamp: f64::from(*clamp) },
        MapFn::PageRow { per, .. } => Expression::PageRow { per: f64::from(*per) },
        other => unreachable!("{} has no definition", other.name()),
    };
    let inputs: Vec<_> = op.f.inputs().iter().map(|x| (read(x), sizes_of(x.dims()))).collect();
    let dims = sizes_of(op.out.dims());
    let run = |f, inputs: &[(Vec<f64>, Vec<usize>)]| {
        let inputs: Vec<_> = inputs.iter().map(|(x, dims)| (&x[..], &dims[..])).collect();
        map(f, &dims, &inputs)
    };
    let values = run(f, &inputs);
    // A difference loses what its operands were rounded to; e^d makes that relative.
    let summed = |inputs: &[(Vec<f64>, Vec<usize>)]| {
        let absolute: Vec<_> =
            inputs[..2].iter().map(|(x, dims)| (magnitudes(x), dims.clone())).collect();
        run(Expression::Add, &absolute)
    };
    let sizes = match f {
        Expression::Add | Expression::MaskedAdd => summed(&inputs),
        Expression::ExpMinus => {
            let sums = summed(&inputs);
            values.iter().zip(sums).map(|(value, sum)| value.abs() * (1.0 + sum)).collect()
        }
        _ => magnitudes(&values),
    };
    write(&op.out, &values, &sizes);
}

fn run_reduce(op: &Reduce) {
    let x = read(&op.x);
    if let ReduceFn::MeanSquare = op.f {
        return write_own(&op.out, &rows::oracle::mean_square(&x, op.x.width() as usize));
    }
    let (axis, width) = match *op.x.dims() {
        [_, axis, width] => (axis as usize, width as usize),
        _ => (op.x.width() as usize, 1),
    };
    let run = |x: &[f64], y: Option<&[f64]>| match (&op.f, y) {
        (ReduceFn::Max, _) => rows::oracle::max(x, axis, width),
        (ReduceFn::Dot(_), Some(y)) => rows::oracle::dot(x, y, axis, width),
        (ReduceFn::Mix(tensor), Some(y)) => {
            let outputs = *tensor.dims().last().expect("a tensor has dimensions") as usize;
            rows::oracle::mix(x, y, axis, width, outputs)
        }
        _ => rows::oracle::sum(x, axis, width),
    };
    let y = match &op.f {
        ReduceFn::Dot(y) | ReduceFn::Mix(y) => Some(read(y)),
        _ => None,
    };
    let sizes = run(&magnitudes(&x), y.as_deref().map(magnitudes).as_deref());
    write(&op.out, &run(&x, y.as_deref()), &sizes);
}

fn run_convert(op: &Convert) -> Result<()> {
    match op.form {
        ConvertForm::Cast => write_own(&op.out, &read(&op.x)),
        ConvertForm::RoundTrip(codec) => write_own(&op.out, &rounded(codec, &op.x)),
        ConvertForm::Quantise(codec) => {
            let scales = op.scales.as_ref().expect("checked: codes need scales");
            let (codes, exponents) = quantised(codec, &op.x);
            write_own(&op.out, &codes);
            write_own(scales, &exponents);
        }
        ConvertForm::Dequantise(codec) => {
            let scales = op.scales.as_ref().expect("checked: codes need scales");
            write_own(&op.out, &dequantised(codec, &op.x, &read(scales), op.out.width() as usize));
        }
    }
    Ok(())
}

/// Format, block and columns that stay as they are.
fn format(codec: RowCodec) -> (quant::oracle::Format, usize, usize) {
    match codec {
        RowCodec::Fp8 { block, tail } => (quant::oracle::E4M3, block.into(), tail.into()),
        RowCodec::Fp4 { block } => (quant::oracle::E2M1, block.into(), 0),
        other => unreachable!("{other:?} has no blocks"),
    }
}

fn rounded(codec: RowCodec, x: &Tensor) -> Vec<f64> {
    let (format, block, tail) = format(codec);
    let width = x.width() as usize;
    let mut out = Vec::new();
    for row in read(x).chunks(width) {
        let (coded, kept) = row.split_at(width - tail);
        out.extend(quant::oracle::round_trip(format, block, coded));
        out.extend(kept);
    }
    out
}

/// Codes as the numbers stored (E4M3 values, packed E2M1 bytes) and the scale bytes.
fn quantised(codec: RowCodec, x: &Tensor) -> (Vec<f64>, Vec<f64>) {
    let (format, block, _) = format(codec);
    let (mut codes, mut scales) = (Vec::new(), Vec::new());
    for row in read(x).chunks(x.width() as usize) {
        let mut values = Vec::new();
        for block in row.chunks(block) {
            let exponent = quant::oracle::scale_exponent(format, block);
            scales.push(f64::from(exponent + 127));
            let unit = 2f64.powi(exponent);
            values.extend(block.iter().map(|x| quant::oracle::nearest(format, x / unit)));
        }
        match codec {
            RowCodec::Fp4 { .. } => codes.extend(values.chunks(2).map(packed)),
            _ => codes.extend(values),
        }
    }
    (codes, scales)
}

/// The byte of an even column and the odd one behind it.
fn packed(pair: &[f64]) -> f64 {
    let nibble = |value: f64| u8::from(value.is_sign_negative()) << 3 | magnitude_code(value);
    let high = pair.get(1).map_or(0, |&value| nibble(value));
    f64::from(nibble(pair[0]) | high << 4)
}

fn magnitude_code(value: f64) -> u8 {
    let code = quant::formats::E2M1[..8].iter().position(|&one| f64::from(one) == value.abs());
    code.expect("nearest gives a value of the format") as u8
}

fn dequantised(codec: RowCodec, x: &Tensor, scales: &[f64], width: usize) -> Vec<f64> {
    let (_, block, _) = format(codec);
    let blocks = width.div_ceil(block);
    let mut out = Vec::new();
    for (row, codes) in read(x).chunks(x.width() as usize).enumerate() {
        for column in 0..width {
            let code = match codec {
                RowCodec::Fp4 { .. } => {
                    let byte = codes[column / 2] as u8;
                    let nibble = if column.is_multiple_of(2) { byte & 15 } else { byte >> 4 };
                    f64::from(quant::formats::E2M1[usize::from(nibble)])
                }
                _ => codes[column],
            };
            out.push(code * 2f64.powi(scales[row * blocks + column / block] as i32 - 127));
        }
    }
    out
}

fn run_rms_norm(op: &RmsNorm) {
    let gain = op.gain.as_ref().map_or_else(|| vec![1.0; op.x.width() as usize], read);
    write_own(&op.out, &rows::oracle::rms_norm(&read(&op.x), &gain, f64::from(op.epsilon)));
}

fn run_rope(op: &Rope) {
    let (x, angle) = (read(&op.x), read(&op.angle));
    let (width, turned) = (op.x.width() as usize, op.angle.width() as usize);
    let heads = op.heads as usize;
    let values = rows::oracle::rope(&x, width, &angle, turned, heads, op.inverse);
    let mut sizes = magnitudes(&x);
    for row in sizes.chunks_mut(width) {
        for pair in row[width - turned..].chunks_mut(2) {
            pair.fill(pair[0] + pair[1]);
        }
    }
    write(&op.out, &values, &sizes);
}

fn run_matmul(op: &Matmul) {
    let spec = op.weight.spec();
    let numbers: &HostWeight = op.weight.raw().as_any().downcast_ref().expect("our own weight");
    let size = (spec.rows * spec.cols) as usize;
    let groups: Vec<Vec<f64>> = numbers.0.chunks(size).map(<[f64]>::to_vec).collect();
    let offsets = match &op.groups {
        RowGroups::Cyclic => None,
        RowGroups::Sorted { offsets } => Some(read_i32(offsets)),
    };
    let (n, cols) = (op.x.rows() as usize, spec.cols as usize);
    let group_of = gemm::oracle::group_of(n, groups.len(), offsets.as_deref());
    // Rows behind the last offset may hold anything; NaN · 0 must not enter a sum.
    let x = read(&op.x);
    let values = gemm::oracle::matmul(&x, cols, &groups, &group_of);
    let absolute: Vec<Vec<f64>> = groups.iter().map(|group| magnitudes(group)).collect();
    let sizes = gemm::oracle::matmul(&magnitudes(&x), cols, &absolute, &group_of);
    let computed = |place: usize| group_of[place / spec.rows as usize] >= 0;
    let some: Vec<Option<Expected>> = values
        .iter()
        .zip(&sizes)
        .enumerate()
        .map(|(place, (&value, &size))| computed(place).then_some(Expected { value, size }))
        .collect();
    write_some(&op.out, &some);
}

fn run_top_k(op: &TopK) {
    let (width, k) = (op.x.width() as usize, op.out.width() as usize);
    let counts = op.count.as_ref().map(read_i32);
    let mut out = Vec::new();
    for (row, x) in read(&op.x).chunks(width).enumerate() {
        let count = counts.as_ref().map_or(width as i32, |counts| counts[row]);
        let x: Vec<f32> =
            x[..count.clamp(0, width as i32) as usize].iter().map(|&x| x as f32).collect();
        let mut picks = index::oracle::top_k(&x, k);
        if op.order == Order::Index {
            // -1 stays behind: it counts as the largest.
            picks.sort_by_key(|&pick| pick as u32);
        }
        out.extend(picks);
    }
    write_ints(&op.out, &out);
}

fn run_bucket(op: &Bucket) {
    let groups = op.offsets.shape().elements() as usize - 1;
    let buckets = moe::oracle::bucket(&read_i32(&op.keys), groups);
    write_ints(&op.offsets, &buckets.offsets);
    write_ints(&op.order, &buckets.order);
    write_ints(&op.inverse, &buckets.inverse);
}

/// Rows of a cache, as vectors.
fn cache_rows(cache: &Tensor) -> Vec<Vec<f64>> {
    read(cache).chunks(cache.width() as usize).map(<[f64]>::to_vec).collect()
}

/// Listed rows of each query, absent ones left out.
fn listed(list: &Listed) -> Vec<Vec<Vec<f64>>> {
    let (cache, index) = (cache_rows(&list.cache), read_i32(&list.index));
    let present = |index: &[i32]| {
        let rows = index.iter().filter(|&&index| index >= 0);
        rows.map(|&index| cache[index as usize].clone()).collect()
    };
    match list.index.width() as usize {
        0 => vec![Vec::new(); list.index.rows() as usize],
        width => index.chunks(width).map(present).collect(),
    }
}

/// Visible entries of each query, in order.
fn visible(list: &Visible) -> Vec<Vec<Vec<f64>>> {
    let (cache, reach) = (cache_rows(&list.cache), read_i32(&list.reach));
    let (pages, per) = (read_i32(&list.pages), list.per as usize);
    let mut all = Vec::new();
    for pair in reach.chunks(2) {
        let mut rows = Vec::new();
        for entry in 0..pair[1].max(0) as usize {
            let page = pages[pair[0] as usize * list.pages.width() as usize + entry / per];
            rows.push(cache[page as usize * per + entry % per].clone());
        }
        all.push(rows);
    }
    all
}

fn run_attend(op: &Attend) {
    let mut keys = listed(&op.near);
    let far = match &op.far {
        Some(Far::Listed(list)) => listed(list),
        Some(Far::Visible(list)) => visible(list),
        None => vec![Vec::new(); keys.len()],
    };
    for (near, far) in keys.iter_mut().zip(far) {
        near.extend(far);
    }
    let (q, sink, scale) = (read(&op.q), read(&op.sink), f64::from(op.scale));
    let width = *op.q.dims().last().expect("[n, H, c]") as usize;
    let values = attend::oracle::attend(&q, &sink, &keys, width, scale);
    // A share is as uncertain as its score is large; the sum is at most the largest value.
    let mut sizes = Vec::new();
    for (row, keys) in keys.iter().enumerate() {
        let most = keys.iter().flatten().fold(0f64, |most, x| most.max(x.abs()));
        for head in 0..sink.len() {
            let q = &q[(row * sink.len() + head) * width..][..width];
            let score = |key: &Vec<f64>| q.iter().zip(key).map(|(q, k)| (q * k).abs()).sum::<f64>();
            let score = keys.iter().map(score).fold(0f64, f64::max) * scale;
            sizes.extend(vec![most * (1.0 + score); width]);
        }
    }
    write(&op.out, &values, &sizes);
}

fn run_index_score(op: &IndexScore) {
    let keys = visible(&op.keys);
    let (q, weight, scale) = (read(&op.q), read(&op.weight), f64::from(op.scale));
    let width = *op.q.dims().last().expect("[n, h, c]") as usize;
    let values = index::oracle::index_score(&q, &weight, &keys, width, scale);
    let absolute: Vec<Vec<Vec<f64>>> =
        keys.iter().map(|keys| keys.iter().map(|key| magnitudes(key)).collect()).collect();
    let sizes = index::oracle::index_score(
        &magnitudes(&q),
        &magnitudes(&weight),
        &absolute,
        width,
        scale.abs(),
    );
    let mut some = Vec::new();
    for (values, sizes) in values.iter().zip(&sizes) {
        let pair = |(&value, &size): (&f64, &f64)| Some(Expected { value, size });
        let mut row: Vec<Option<Expected>> = values.iter().zip(sizes).map(pair).collect();
        row.resize(op.out.width() as usize, None);
        some.extend(row);
    }
    write_some(&op.out, &some);
}

fn run_hc_mix(op: &HcMix) {
    let u = read(&op.u);
    let values = stream::oracle::hc_mix(
        &u,
        &read(&op.mean_square),
        &read(&op.base),
        &read(&op.scale),
        op.streams as usize,
        op.rounds,
        f64::from(op.epsilon),
        f64::from(op.norm_epsilon),
    );
    // Gates and mixer entries are shares: errors are absolute, of order one.
    write(&op.out, &values, &vec![1.0; values.len()]);
}
