//! Every case against the oracle; bits that do not depend on who comes first; groups that break.

use super::cases::{Case, cases};
use super::cpu::{Group, PATIENCE};
use super::{Kind, oracle};
use crate::case::decode;
use crate::common::isa::Isa;
use crate::common::pool::Pool;
use crate::common::rows::{RealRows, RealRowsMut};
use crate::common::testing::{rows, rows_mut};
use hal::{DType, RowCodec};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Duration;

fn view(dtype: DType, words: &[u32], width: usize, count: usize) -> RealRows {
    // SAFETY: the words hold `count` rows of the dtype; tests do not write beside a read.
    unsafe {
        use crate::common::rows::Rows;
        match dtype {
            DType::F32 => RealRows::F32(Rows::from_raw(words.as_ptr().cast(), width, count, width)),
            DType::F16 => RealRows::F16(Rows::from_raw(words.as_ptr().cast(), width, count, width)),
            _ => RealRows::Bf16(Rows::from_raw(words.as_ptr().cast(), width, count, width)),
        }
    }
}

fn view_mut(dtype: DType, words: &mut [u32], width: usize, count: usize) -> RealRowsMut {
    let base = words.as_mut_ptr();
    // SAFETY: as above, and nobody else uses them.
    unsafe {
        use crate::common::rows::RowsMut;
        match dtype {
            DType::F32 => RealRowsMut::F32(RowsMut::from_raw(base.cast(), width, count, width)),
            DType::F16 => RealRowsMut::F16(RowsMut::from_raw(base.cast(), width, count, width)),
            _ => RealRowsMut::Bf16(RowsMut::from_raw(base.cast(), width, count, width)),
        }
    }
}

fn words(bytes: &[u8]) -> Vec<u32> {
    let padded = |chunk: &[u8]| [0, 1, 2, 3].map(|at| chunk.get(at).copied().unwrap_or(0));
    bytes.chunks(4).map(|chunk| u32::from_ne_bytes(padded(chunk))).collect()
}

/// Bytes of every rank's output, each computed on its own thread; `late` sleeps before it comes.
fn run(case: &Case, data: &[Vec<u8>], late: usize) -> Vec<Vec<u8>> {
    let group = Group::new(case.ranks, PATIENCE);
    let (width, count) = (case.width, case.out_rows());
    let bytes = count * width * case.dtype.size_bytes() as usize;
    let rank = |rank: usize| {
        if rank == late {
            thread::sleep(Duration::from_millis(2));
        }
        let x = words(&data[rank]);
        let mut out = vec![u32::MAX; bytes.div_ceil(4)];
        let target = view_mut(case.dtype, &mut out, width, count);
        let x = view(case.dtype, &x, width, case.rows);
        // Twice: the second meeting must not see anything of the first.
        for _ in 0..2 {
            group.run(case.kind, rank, Isa::best(), &Pool::new(1), x, target);
        }
        out.iter().flat_map(|word| word.to_ne_bytes()).take(bytes).collect()
    };
    let rank = &rank;
    thread::scope(|scope| {
        let ranks: Vec<_> = (0..case.ranks).map(|k| scope.spawn(move || rank(k))).collect();
        ranks.into_iter().map(|rank| rank.join().expect("no rank fails")).collect()
    })
}

#[test]
fn every_case_agrees_with_the_oracle_and_not_with_its_ranks_reversed() {
    for case in cases() {
        let data = case.data();
        let out = run(&case, &data, case.rows % case.ranks);
        let misses = |data: &[Vec<u8>]| {
            let miss = |(rank, bytes): (usize, &Vec<u8>)| {
                let got = decode(case.dtype, RowCodec::Plain, case.width, bytes);
                let want = case.expect(data, rank);
                assert_eq!(got.len(), want.len());
                got.iter().zip(want).filter(|(got, (want, may))| (*got - want).abs() > *may).count()
            };
            out.iter().enumerate().map(miss).sum::<usize>()
        };
        assert_eq!(misses(&data), 0, "{}", case.id());
        let reversed: Vec<Vec<u8>> = data.iter().rev().cloned().collect();
        let copies = matches!(case.kind, Kind::AllGather | Kind::AllToAll);
        assert_eq!(misses(&reversed) > 0, copies && case.ranks > 1, "{}", case.id());
        let mut changed = data;
        changed[case.ranks - 1].fill(0x3c);
        assert!(misses(&changed) > 0, "{}", case.id());
    }
}

#[test]
fn sums_are_taken_in_the_order_of_ranks_whoever_comes_last() {
    // 2^24 + 1 is lost, 2^24 - 2^24 + 1 is not: any other order gives another number.
    let parts = [16777216.0f32, 1.0, -16777216.0, 0.5];
    let want = ((parts[0] + parts[1]) + parts[2]) + parts[3];
    let other = ((parts[2] + parts[0]) + parts[1]) + parts[3];
    assert_ne!(want, other);
    let data: Vec<Vec<u8>> = parts.iter().map(|part| part.to_le_bytes().to_vec()).collect();
    let case = Case { kind: Kind::AllReduce, ranks: 4, dtype: DType::F32, rows: 1, width: 1 };
    for late in 0..4 {
        for out in run(&case, &data, late) {
            assert_eq!(out, want.to_le_bytes(), "rank {late} comes last");
        }
    }
}

#[test]
fn a_sum_of_one_rank_is_a_copy() {
    let x = vec![vec![1.5, -2.0]];
    assert_eq!(oracle::all_reduce(&x), oracle::all_gather(&x));
    assert_eq!(oracle::reduce_scatter(&x, 0), oracle::all_to_all(&x, 0));
}

/// What each of two ranks panicked with, doing what `ranks` says; `None`: the rank does not come.
fn failures(patience: Duration, ranks: [Option<(Kind, usize)>; 2]) -> [Option<String>; 2] {
    let group = Group::new(2, patience);
    let go = |rank: usize, kind, width: usize| {
        let (x, mut out) = (vec![1.0f32; 2 * width], vec![0.0f32; 4 * width]);
        let count = Kind::out_rows(kind, 2, 2).expect("2 divides 2");
        let x = RealRows::F32(rows(&x, width));
        let out = RealRowsMut::F32(rows_mut(&mut out[..count * width], width));
        let run = || group.run(kind, rank, Isa::SCALAR, &Pool::new(1), x, out);
        let panic = catch_unwind(AssertUnwindSafe(run)).err()?;
        panic.downcast_ref::<String>().cloned()
    };
    let go = &go;
    thread::scope(|scope| {
        let start = |rank: usize| {
            ranks[rank].map(|(kind, width)| scope.spawn(move || go(rank, kind, width)))
        };
        [start(0), start(1)].map(|rank| rank?.join().expect("panics are caught"))
    })
}

#[test]
fn ranks_that_do_not_agree_or_do_not_come_fail_together() {
    let (reduce, gather) = (Some((Kind::AllReduce, 8)), Some((Kind::AllGather, 8)));
    let wider = Some((Kind::AllReduce, 9));
    assert_eq!(failures(PATIENCE, [reduce, reduce]), [None, None]);
    for pair in [[reduce, gather], [wider, reduce]] {
        for failure in failures(PATIENCE, pair) {
            let failure = failure.expect("both fail");
            assert!(failure.contains("different ops or shapes"), "{failure}");
        }
    }
    let [alone, absent] = failures(Duration::from_millis(20), [reduce, None]);
    assert!(alone.is_some_and(|text| text.contains("did not come in time")));
    assert!(absent.is_none());
}
