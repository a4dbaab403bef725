//! Row ops against their oracles, and law 7 bit by bit.

mod convert;

use super::cpu::{self, Strided, StridedMut, Values, ValuesMut};
use super::oracle;
use crate::common::isa::Isa;
use crate::common::pool::Pool;
use crate::common::rows::{Real, RealRows};
use crate::common::testing::{Matrix, Random, part, rows, rows_are_exact, rows_mut};

const KINDS: [Real; 3] = [Real::F32, Real::Bf16, Real::F16];

/// Rows, width: one row, odd widths, several pieces, a piece and one, enough for the pool.
const SHAPES: [(usize, usize); 6] = [(1, 1), (3, 7), (1, 1024), (2, 2049), (5, 1025), (40, 513)];

fn random(kind: Real, n: usize, width: usize, seed: u64) -> Matrix {
    Matrix::new(kind, n, width, &Random(seed).floats(n * width, 3.0))
}

#[test]
fn rms_norm_agrees_and_rows_are_exact() {
    for (out_kind, x_kind) in KINDS.into_iter().flat_map(|a| KINDS.map(|b| (a, b))) {
        for (n, width) in SHAPES {
            let x = random(x_kind, n, width, 1);
            let gain = Random(2).floats(width, 2.0);
            let gain64: Vec<f64> = gain.iter().map(|&g| f64::from(g)).collect();
            let gain = rows(&gain, width);
            let what = format!("rms_norm {out_kind:?} of {x_kind:?} {n}x{width}");
            let mut all = Matrix::empty(out_kind, n, width);
            let pool = Pool::new(2);
            cpu::rms_norm(Isa::best(), &pool, all.view_mut(), x.view(), Some(gain), 1e-6);
            all.check(&oracle::rms_norm(&x.values(), &gain64, 1e-6), 8.0, 1e-3, &what);
            rows_are_exact(n, &what, |isa, pool, range| {
                let mut out = Matrix::empty(out_kind, range.len(), width);
                let x = part(x.view(), range);
                cpu::rms_norm(isa, pool, out.view_mut(), x, Some(gain), 1e-6);
                out.floats()
            });
        }
    }
}

#[test]
fn rms_norm_without_gain_has_gain_one() {
    let x = random(Real::F32, 3, 70, 3);
    let mut out = Matrix::empty(Real::F32, 3, 70);
    cpu::rms_norm(Isa::best(), &Pool::new(1), out.view_mut(), x.view(), None, 1e-5);
    out.check(&oracle::rms_norm(&x.values(), &[1.0; 70], 1e-5), 8.0, 0.0, "no gain");
}

#[test]
fn rope_agrees_turns_back_and_rows_are_exact() {
    for (n, heads, width, turned) in
        [(1, 1, 2, 2), (3, 4, 64, 16), (2, 1, 1101, 1100), (1, 8, 512, 64), (3, 1, 9, 0)]
    {
        let x = random(Real::F32, n * heads, width, 4);
        let angles: Vec<f32> = Random(5).floats(n * turned, 1.0);
        let angles64: Vec<f64> = angles.iter().map(|&a| f64::from(a)).collect();
        // SAFETY: the rows lie in `angles`, which may be empty.
        let angle =
            unsafe { crate::common::rows::Rows::from_raw(angles.as_ptr(), turned, n, turned) };
        for inverse in [false, true] {
            let what = format!("rope {n}x{heads}x{width}, {turned} turned, inverse {inverse}");
            let want = oracle::rope(&x.values(), width, &angles64, turned, heads, inverse);
            for kind in KINDS {
                let mut out = Matrix::empty(kind, n * heads, width);
                let pool = Pool::new(2);
                cpu::rope(Isa::best(), &pool, out.view_mut(), x.view(), angle, heads, inverse);
                out.check(&want, 4.0, 4.0, &what);
            }
            rows_are_exact(n, &what, |isa, pool, range| {
                let mut out = Matrix::empty(Real::F32, range.len() * heads, width);
                let angle = angle.slice(range.clone());
                let x = part(x.view(), range.start * heads..range.end * heads);
                cpu::rope(isa, pool, out.view_mut(), x, angle, heads, inverse);
                out.floats()
            });
        }
    }
}

/// Runs a reduction over `[n, axis, width]` on every dtype against `want(x, y)`.
fn check_reduce(
    name: &str,
    outputs: usize,
    run: impl Fn(Isa, &Pool, &mut Matrix, RealRows, RealRows, usize),
    want: impl Fn(&[f64], &[f64], usize, usize) -> Vec<f64>,
) {
    for (n, axis, width) in [(1, 1, 1), (3, 6, 1), (2, 5, 700), (17, 4, 1025), (4, 128, 33)] {
        for kind in KINDS {
            let x = random(kind, n, axis * width, 6);
            let y_width = if outputs > 0 { axis * outputs } else { axis * width };
            let y = random(if outputs > 0 { Real::F32 } else { kind }, n, y_width, 7);
            let out_width = width * outputs.max(1);
            let what = format!("{name} {kind:?} {n}x{axis}x{width}");
            let mut all = Matrix::empty(kind, n, out_width);
            run(Isa::best(), &Pool::new(2), &mut all, x.view(), y.view(), axis);
            all.check(&want(&x.values(), &y.values(), axis, width), 256.0, 9.0, &what);
            rows_are_exact(n, &what, |isa, pool, range| {
                let mut out = Matrix::empty(kind, range.len(), out_width);
                let (x, y) = (part(x.view(), range.clone()), part(y.view(), range));
                run(isa, pool, &mut out, x, y, axis);
                out.floats()
            });
        }
    }
}

#[test]
fn reductions_agree_and_rows_are_exact() {
    check_reduce(
        "sum",
        0,
        |isa, pool, out, x, _, axis| cpu::sum(isa, pool, out.view_mut(), x, axis),
        |x, _, axis, width| oracle::sum(x, axis, width),
    );
    check_reduce(
        "max",
        0,
        |isa, pool, out, x, _, axis| cpu::max(isa, pool, out.view_mut(), x, axis),
        |x, _, axis, width| oracle::max(x, axis, width),
    );
    check_reduce(
        "dot",
        0,
        |isa, pool, out, x, y, axis| cpu::dot(isa, pool, out.view_mut(), x, y, axis),
        oracle::dot,
    );
    check_reduce(
        "mix",
        3,
        |isa, pool, out, x, y, axis| cpu::mix(isa, pool, out.view_mut(), x, y, axis),
        |x, y, axis, width| oracle::mix(x, y, axis, width, 3),
    );
}

#[test]
fn mean_square_agrees_and_rows_are_exact() {
    for (n, width) in SHAPES {
        for kind in KINDS {
            let x = random(kind, n, width, 8);
            let mut out = Matrix::empty(Real::F32, n, 1);
            cpu::mean_square(Isa::best(), &Pool::new(2), out.view_mut(), x.view());
            out.check(&oracle::mean_square(&x.values(), width), 16.0, 0.0, "mean_square");
            rows_are_exact(n, "mean_square", |isa, pool, range| {
                let mut out = Matrix::empty(Real::F32, range.len(), 1);
                cpu::mean_square(isa, pool, out.view_mut(), part(x.view(), range));
                out.floats()
            });
        }
    }
}

#[test]
fn max_keeps_a_nan() {
    let x = Matrix::new(Real::F32, 1, 4, &[1.0, f32::NAN, f32::NAN, 2.0]);
    let mut out = Matrix::empty(Real::F32, 1, 2);
    cpu::max(Isa::best(), &Pool::new(1), out.view_mut(), x.view(), 2);
    assert!(out.floats().iter().all(|x| x.is_nan()));
}

// ---- map

/// A contiguous f32 input of these dimensions, `offset` lines of its own stride.
fn grid(data: &[f32], own: [usize; 3]) -> Values {
    let strides = [own[1] * own[2], own[2], 1];
    let repeat = |i: usize| if own[i] == 1 { 0 } else { strides[i] };
    // SAFETY: the strides stay inside `data` for every output the tests use it with.
    Values::F32(unsafe { Strided::from_raw(data.as_ptr(), [repeat(0), repeat(1), repeat(2)]) })
}

fn grid_mut(data: &mut [f32], dims: [usize; 3]) -> ValuesMut {
    // SAFETY: `data` holds all elements and is used by nobody else.
    ValuesMut::F32(unsafe {
        StridedMut::from_raw(data.as_mut_ptr(), [dims[1] * dims[2], dims[2], 1], dims)
    })
}

/// Inputs of one expression: x, y, weight and an index grid, each with its own dimensions.
struct Inputs<'a> {
    x: Values,
    y: Values,
    z: Values,
    index: Strided<i32>,
    values: Vec<(&'a [f64], &'a [usize])>,
}

fn expressions(inputs: &Inputs<'_>) -> Vec<(cpu::Expression, oracle::Expression, Vec<usize>)> {
    use cpu::Expression as Cpu;
    use oracle::Expression as Oracle;
    let Inputs { x, y, z, index, .. } = *inputs;
    vec![
        (Cpu::Copy(x), Oracle::Copy, vec![0]),
        (Cpu::Add(x, y), Oracle::Add, vec![0, 1]),
        (Cpu::Divide(x, y), Oracle::Divide, vec![0, 1]),
        (Cpu::ExpMinus(x, y), Oracle::ExpMinus, vec![0, 1]),
        (Cpu::SqrtSoftplus(x), Oracle::SqrtSoftplus, vec![0]),
        (Cpu::MaskedAdd(x, y, index), Oracle::MaskedAdd, vec![0, 1, 3]),
        (Cpu::Share(x, y, 2.5), Oracle::Share { scale: 2.5 }, vec![0, 1]),
        (Cpu::Swiglu(x, y, Some(z), 1.5), Oracle::Swiglu { clamp: 1.5 }, vec![0, 1, 2]),
        (
            Cpu::Swiglu(x, y, None, f32::INFINITY),
            Oracle::Swiglu { clamp: f64::INFINITY },
            vec![0, 1],
        ),
    ]
}

#[test]
fn expressions_agree_and_lines_are_exact() {
    let one = [1, 1, 1];
    for (dims, y_dims, z_dims) in [
        ([1, 1, 1], one, one),
        ([2, 3, 5], [2, 1, 5], [1, 3, 1]),
        ([3, 4, 1100], [1, 4, 1100], [3, 4, 1]),
        ([1, 33, 257], [1, 33, 1], [1, 33, 257]),
    ] {
        let count = |dims: [usize; 3]| dims.iter().product::<usize>();
        let mut random = Random(11);
        let x = random.floats(count(dims), 20.0);
        let y: Vec<f32> = random.floats(count(y_dims), 9.0).iter().map(|y| y.abs() + 0.5).collect();
        let z = random.floats(count(z_dims), 2.0);
        let index: Vec<i32> = (0..count(y_dims)).map(|_| random.below(3) as i32 - 1).collect();
        let wide = |data: &[f32]| data.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
        let (x64, y64, z64) = (wide(&x), wide(&y), wide(&z));
        let index64: Vec<f64> = index.iter().map(|&i| f64::from(i)).collect();
        let Values::F32(like_y) = grid(&y, y_dims) else { unreachable!("grids are f32") };
        let inputs = Inputs {
            x: grid(&x, dims),
            y: grid(&y, y_dims),
            z: grid(&z, z_dims),
            index: like_y.with_base(index.as_ptr()),
            values: vec![(&x64, &dims), (&y64, &y_dims), (&z64, &z_dims), (&index64, &y_dims)],
        };
        for (f, want, used) in expressions(&inputs) {
            let of: Vec<_> = used.iter().map(|&i| inputs.values[i]).collect();
            let want = oracle::map(want, &dims, &of);
            let run = |isa: Isa, pool: &Pool| {
                let mut out = vec![f32::NAN; count(dims)];
                cpu::map(isa, pool, grid_mut(&mut out, dims), &f);
                out
            };
            let first = run(Isa::SCALAR, &Pool::new(1));
            Matrix::new(Real::F32, 1, first.len(), &first).check(
                &want,
                40.0,
                1e-6,
                &format!("{f:?}"),
            );
            for isa in Isa::all() {
                for threads in [1, 3] {
                    let got = run(isa, &Pool::new(threads));
                    let same = got.iter().zip(&first).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "{f:?} on {isa}, {threads} threads");
                }
            }
        }
    }
}

#[test]
fn swiglu_keeps_a_nan() {
    let (nan, one) = ([f32::NAN], [1.0f32]);
    for (gate, up) in [(&nan, &one), (&one, &nan)] {
        let mut out = [0.0];
        let f = cpu::Expression::Swiglu(grid(gate, [1; 3]), grid(up, [1; 3]), None, 7.0);
        cpu::map(Isa::best(), &Pool::new(1), grid_mut(&mut out, [1; 3]), &f);
        assert!(out[0].is_nan());
    }
}

#[test]
fn page_rows_agree() {
    let entry = [-1, 0, 5, 63, 64, 200];
    let page = [3, -1, 2, 0, 7, 1];
    let mut out = [9i32; 6];
    let strides = [0, 0, 1];
    // SAFETY: all three lie in arrays of six.
    unsafe {
        let target = StridedMut::from_raw(out.as_mut_ptr(), strides, [1, 1, 6]);
        let (e, p) =
            (Strided::from_raw(entry.as_ptr(), strides), Strided::from_raw(page.as_ptr(), strides));
        cpu::page_row(target, e, p, 64);
    }
    let wide = |list: [i32; 6]| list.map(f64::from);
    let inputs: [(&[f64], &[usize]); 2] = [(&wide(entry), &[6]), (&wide(page), &[6])];
    let want = oracle::map(oracle::Expression::PageRow { per: 64.0 }, &[6], &inputs);
    assert_eq!(out.map(f64::from).to_vec(), want);
}

// ---- gather, scatter

#[test]
fn gather_rows_agrees_with_absent_rows_and_a_second_table() {
    let width = 5;
    let source: Vec<f32> = (0..4 * width).map(|i| i as f32).collect();
    let more: Vec<f32> = (0..3 * width).map(|i| 100.0 + i as f32).collect();
    let wide = |data: &[f32]| data.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
    for (index, per) in [
        (vec![0, 3, -1, 4, 6, 3], 1),
        (vec![-1, -1], 1),
        (vec![13, 0, 1, 2, 8, -1], 2),
        ((0..4000).map(|i| i % 7).collect(), 1),
    ] {
        let mut out = vec![f32::NAN; index.len() * width];
        let as_bytes = |data: &[f32]| {
            // SAFETY: floats as bytes, inside their vector.
            unsafe {
                crate::common::rows::Rows::from_raw(
                    data.as_ptr().cast::<u8>(),
                    width * 4,
                    data.len() / width,
                    width * 4,
                )
            }
        };
        // SAFETY: as above; `out` is used by nobody else.
        let target = unsafe {
            crate::common::rows::RowsMut::from_raw(
                out.as_mut_ptr().cast::<u8>(),
                width * 4,
                index.len(),
                width * 4,
            )
        };
        let (source_rows, more_rows) = (as_bytes(&source), as_bytes(&more));
        let list = rows(&index, index.len());
        cpu::gather_rows(&Pool::new(3), target, source_rows, Some(more_rows), list, per, 0);
        let want = oracle::gather_rows(&wide(&source), &wide(&more), width, &index, per, 0.0);
        assert_eq!(wide(&out), want);
    }
}

#[test]
fn gather_elements_agrees() {
    let source: Vec<i32> = (0..30).map(|i| i * i).collect();
    let source64: Vec<f64> = source.iter().map(|&x| f64::from(x)).collect();
    let index = [0, 9, -1, 5, 3, 3, 2, -1, 1];
    for (picked, per) in [(None, 1), (Some([2, -1, 0]), 1), (Some([0, 1, 1]), 3)] {
        let mut out = [7i32; 9];
        let list = picked.as_ref().map(|list| rows(&list[..], 1));
        cpu::gather_elements(
            &Pool::new(2),
            rows_mut(&mut out, 3),
            rows(&source, 10),
            list,
            rows(&index, 3),
            per,
            -1,
        );
        let picked = picked.as_ref().map(|list| &list[..]);
        let want = oracle::gather_elements(&source64, 10, picked, &index, 3, per, -1.0);
        assert_eq!(out.map(f64::from).to_vec(), want);
    }
}

#[test]
#[should_panic(expected = "row 7 of 3")]
fn gather_past_the_tables_panics() {
    let (source, index) = ([1u8; 12], [7i32]);
    let mut out = [0u8; 4];
    let (out, source, index) = (rows_mut(&mut out, 4), rows(&source, 4), rows(&index, 1));
    cpu::gather_rows(&Pool::new(1), out, source, None, index, 1, 0);
}

#[test]
fn scatter_agrees_and_leaves_other_rows() {
    let source: Vec<u8> = (0..12).collect();
    let mut target = vec![200u8; 20];
    let index = [3, -1, 0];
    let wide = |data: &[u8]| data.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
    let mut want = wide(&target);
    oracle::scatter(&mut want, &wide(&source), 4, &index);
    cpu::scatter_rows(rows_mut(&mut target, 4), rows(&source, 4), rows(&index, 1));
    assert_eq!(wide(&target), want);
}
