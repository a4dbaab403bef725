//! Every encoding on every instruction set against the oracle, and law 7 bit by bit.

use super::cases::{Case, Data, ENCODINGS, Fill, OwnedSegment, cases};
use super::{Encoding, FiniteNotes, RowGroups, Segment, WeightView, matmul};
use crate::common::isa::Isa;
use crate::common::pool::Pool;
use crate::common::rows::{RealRows, RealRowsMut, Rows, RowsMut};
use half::bf16;

/// Runs a case: f32 rows in (bf16 where there are tiles, which take no others) and
/// out, NaN where nothing was written.
fn run(isa: Isa, pool: &Pool, case: &Case, data: &Data) -> Vec<f32> {
    let views: Vec<Segment<'_>> = data.segments.iter().map(OwnedSegment::view).collect();
    let mut weight =
        WeightView::new(case.cols, case.groups, &views).expect("cases are well formed");
    // Every other case takes notes, so that both FP8 decoders run.
    let notes = FiniteNotes::new(case.groups, case.outputs());
    if case.seed.is_multiple_of(2) {
        weight = weight.noting(&notes);
    }
    let mut out = vec![f32::NAN; case.rows * case.outputs()];
    let halves: Vec<bf16> = data.x.iter().map(|&value| bf16::from_f32(value)).collect();
    // SAFETY: the views lie in vectors that nobody else uses during the call.
    let (x, halves, target) = unsafe {
        (
            Rows::from_raw(data.x.as_ptr(), case.cols, case.rows, case.cols),
            Rows::from_raw(halves.as_ptr(), case.cols, case.rows, case.cols),
            RowsMut::from_raw(out.as_mut_ptr(), case.outputs(), case.rows, case.outputs()),
        )
    };
    let x = if isa.has_tiles() { RealRows::Bf16(halves) } else { RealRows::F32(x) };
    multiply(isa, pool, case, x, &weight, target);
    out
}

fn multiply(
    isa: Isa,
    pool: &Pool,
    case: &Case,
    x: RealRows,
    weight: &WeightView<'_>,
    target: RowsMut<f32>,
) {
    let groups = case.offsets.as_deref().map_or(RowGroups::Cyclic, RowGroups::Sorted);
    matmul(isa, pool, x, weight, groups, RealRowsMut::F32(target));
}

/// Worst error in units of the tolerance.
fn excess(case: &Case, data: &Data, out: &[f32]) -> f64 {
    let (want, size) = case.expect(data);
    let mut worst: f64 = 0.0;
    for ((got, want), size) in out.iter().zip(want).zip(size) {
        assert_eq!(got.is_nan(), want.is_nan(), "{case:?}");
        if !want.is_nan() {
            let error = (f64::from(*got) - want).abs();
            worst = worst.max(error / (size * case.tolerance()).max(f64::MIN_POSITIVE));
        }
    }
    worst
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn dense(encoding: Encoding, rows: usize, cols: usize, outputs: usize) -> Case {
    Case {
        name: "dense",
        seed: (rows * cols) as u64,
        rows,
        cols,
        groups: 1,
        parts: vec![outputs],
        encoding,
        offsets: None,
        fill: Fill::Plain,
    }
}

#[test]
fn every_case_agrees_with_the_oracle() {
    let pool = Pool::new(2);
    for isa in Isa::all() {
        for case in cases() {
            let data = case.data();
            let worst = excess(&case, &data, &run(isa, &pool, &case, &data));
            assert!(worst <= 1.0, "{isa} {case:?}: {worst}");
        }
    }
}

#[test]
fn wrong_variants_exceed_the_tolerance() {
    let pool = Pool::new(1);
    // With wildly different scales a small block drowns in the tolerance of a large one.
    for case in cases().into_iter().filter(|case| case.cols > 64 && case.fill != Fill::Wide) {
        let data = case.data();
        let mut wrong = Vec::new();
        // One column forgotten in one row.
        let mut variant = data.clone();
        variant.x[case.cols - 1] = 0.0;
        wrong.push(("last column", variant));
        // One scale off by one, or one number's exponent.
        let mut variant = data.clone();
        let first = &mut variant.segments[0];
        if case.encoding == Encoding::Int8 {
            first.scales[2] ^= 0x40;
        } else if first.scales.is_empty() {
            first.codes[case.encoding.row_bytes(1) - 1] ^= 0x04;
        } else {
            first.scales[0] += 1;
        }
        if case.offsets.is_none() {
            wrong.push(("scale", variant));
        }
        for (name, variant) in wrong {
            let out = run(Isa::best(), &pool, &case, &variant);
            assert!(excess(&case, &data, &out) > 1.0, "{name} in {case:?}");
        }
    }
}

#[test]
fn rows_are_exact_for_every_count() {
    let pool = Pool::new(2);
    for isa in Isa::all() {
        for encoding in ENCODINGS {
            for cols in [1090, 256] {
                let whole = dense(encoding, 70, cols, 43);
                let data = whole.data();
                let reference = bits(&run(isa, &pool, &whole, &data));
                for rows in 1..70 {
                    let case = Case { rows, ..whole.clone() };
                    for start in [0, 70 - rows] {
                        let x = data.x[start * cols..(start + rows) * cols].to_vec();
                        let part = Data { x, segments: data.segments.clone() };
                        let got = bits(&run(isa, &pool, &case, &part));
                        let want = &reference[start * 43..(start + rows) * 43];
                        assert_eq!(got, want, "{isa} {encoding:?} {rows} rows from {start}");
                    }
                }
            }
        }
    }
}

/// Wider than what is decoded whole, than what a tile's way takes, and up to what it takes.
#[test]
fn wide_rows_are_exact_and_agree_with_the_oracle() {
    let pool = Pool::new(2);
    for isa in Isa::all() {
        for encoding in [Encoding::Bf16, Encoding::Fp8 { rows: 128, cols: 128 }, Encoding::Fp4] {
            for cols in [6208, 16_384, 16_416] {
                let whole = dense(encoding, 37, cols, 21);
                let data = whole.data();
                let out = run(isa, &pool, &whole, &data);
                let worst = excess(&whole, &data, &out);
                assert!(worst <= 1.0, "{isa} {encoding:?} {cols}: {worst}");
                let alone = Case { rows: 1, ..whole.clone() };
                for row in [0, 20, 36] {
                    let x = data.x[row * cols..][..cols].to_vec();
                    let one = Data { x, segments: data.segments.clone() };
                    let want = bits(&run(isa, &pool, &alone, &one));
                    assert_eq!(bits(&out)[row * 21..][..21], want, "{isa} {encoding:?} {cols}");
                }
            }
        }
    }
}

/// Panels and dot products take factors apart differently: both must lose the same next to 0 and to
/// infinity. All products of a sum are equal, so that nothing larger hides what is lost.
#[test]
fn rows_are_exact_where_products_leave_f32() {
    let (pool, fp8) = (Pool::new(1), Encoding::Fp8 { rows: 1, cols: 64 });
    let whole = dense(fp8, 9, 64, 16);
    let alone = Case { rows: 1, ..whole.clone() };
    let mut data = whole.data();
    let codes = [0x01, 0x81, 0x08, 0x85, 0x38, 0xb9, 0x7e, 0xfe];
    for (row, code) in data.segments[0].codes.chunks_mut(64).zip(codes.into_iter().cycle()) {
        row.fill(code);
    }
    for (power, scale) in
        (-149..=127).flat_map(|power| [0, 20, 67, 127, 187, 254].map(|scale| (power, scale)))
    {
        data.x.fill(2f64.powi(power) as f32);
        data.segments[0].scales.fill(scale);
        let one = Data { x: data.x[..64].to_vec(), segments: data.segments.clone() };
        for isa in Isa::all() {
            let many = bits(&run(isa, &pool, &whole, &data));
            let want = bits(&run(isa, &pool, &alone, &one)).repeat(9);
            assert_eq!(many, want, "{isa}: x 2^{power}, scale {scale}");
        }
    }
}

#[test]
fn threads_and_cutting_do_not_change_bits() {
    let pools = [1, 2, 3, 16].map(Pool::new);
    for isa in Isa::all() {
        for case in cases() {
            let data = case.data();
            let [first, rest @ ..] =
                pools.each_ref().map(|pool| bits(&run(isa, pool, &case, &data)));
            rest.iter().for_each(|other| assert_eq!(&first, other, "{isa} {case:?}"));
        }
    }
}

#[test]
fn grouped_rows_have_the_bits_of_dense_ones() {
    let pool = Pool::new(2);
    for isa in Isa::all() {
        for case in cases().into_iter().filter(|case| case.groups > 1) {
            let data = case.data();
            let out = run(isa, &pool, &case, &data);
            let group_of = super::oracle::group_of(case.rows, case.groups, case.offsets.as_deref());
            for (row, &group) in group_of.iter().enumerate().filter(|(_, group)| **group >= 0) {
                let parts = case.parts.len();
                let alone = Case { rows: 1, groups: 1, offsets: None, ..case.clone() };
                let part = Data {
                    x: data.x[row * case.cols..(row + 1) * case.cols].to_vec(),
                    segments: data.segments[group as usize * parts..][..parts].to_vec(),
                };
                let want = bits(&run(isa, &pool, &alone, &part));
                assert_eq!(bits(&out)[row * want.len()..][..want.len()], want, "{isa} {case:?}");
            }
        }
    }
}

#[test]
fn nan_weights_and_scales_give_one_nan_in_their_rows_only() {
    let pool = Pool::new(2);
    for isa in Isa::all() {
        for encoding in ENCODINGS {
            for (rows, seed) in [(1, 0), (1, 1), (2, 2), (4, 3), (9, 4), (40, 5), (40, 6)] {
                for (bad_code, column) in [(0x7f, 0), (0xff, 77), (0x7f, 129)] {
                    let case = Case { seed, ..dense(encoding, rows, 130, 21) };
                    let mut data = case.data();
                    spoil(&mut data.segments[0], 5, column, bad_code);
                    let out = run(isa, &pool, &case, &data);
                    for (at, value) in out.iter().enumerate() {
                        let want_nan = at % 21 == 5;
                        assert_eq!(value.is_nan(), want_nan, "{isa} {encoding:?} {at}");
                        assert!(!want_nan || value.to_bits() == f32::NAN.to_bits());
                    }
                }
            }
        }
    }
}

/// Puts a NaN into a row of a segment of 130 columns: into `column`, or into a scale.
fn spoil(segment: &mut OwnedSegment, row: usize, column: usize, bad_code: u8) {
    let at = row * segment.encoding.row_bytes(130);
    match segment.encoding {
        Encoding::F32 => segment.codes[at + 4 * column..][..4].fill(0xff),
        Encoding::Bf16 | Encoding::F16 => segment.codes[at + 2 * column..][..2].fill(0xff),
        Encoding::Fp8 { .. } => segment.codes[at + column] = bad_code,
        Encoding::Fp4 => segment.scales[row * 5 + column / 32] = 255,
        Encoding::Int8 => segment.scales[4 * row..][..4].fill(0xff),
    }
}

#[test]
fn extreme_scales_are_exact() {
    // One product per output, so the result is the decoded weight itself. Beyond these scales a
    // weight overflows f32 (FP4) or x·scale leaves the range that FP8 promises.
    let fp8 = Encoding::Fp8 { rows: 1, cols: 32 };
    let pool = Pool::new(1);
    for isa in Isa::all() {
        for (encoding, scales) in [(fp8, 67..=187), (Encoding::Fp4, 0..=252)] {
            for rows in [1, 9] {
                let case = dense(encoding, rows, 32, scales.clone().count());
                let mut data = case.data();
                data.x = vec![0.0; rows * 32];
                data.x.chunks_mut(32).for_each(|row| row[6] = 1.0);
                data.segments[0].scales = scales.clone().collect();
                let out = run(isa, &pool, &case, &data);
                let (want, _) = case.expect(&data);
                for (at, (got, want)) in out.iter().zip(want).enumerate() {
                    // Tiles know no subnormals.
                    let lost = isa.has_tiles() && (want as f32).is_subnormal();
                    let want = if lost { 0.0 } else { want as f32 };
                    assert_eq!(*got, want, "{isa} {encoding:?} {at}");
                }
            }
        }
    }
}

/// Both keep columns in natural order and round once per step.
#[cfg(target_arch = "aarch64")]
#[test]
fn neon_gives_the_bits_of_portable_code() {
    use crate::common::isa::Level;
    let pool = Pool::new(2);
    let neon = Isa::force(Level::Neon).expect("every target with std has NEON");
    for case in cases() {
        let data = case.data();
        let [got, want] = [neon, Isa::SCALAR].map(|isa| bits(&run(isa, &pool, &case, &data)));
        assert_eq!(got, want, "{case:?}");
    }
}

#[test]
fn notes_change_no_bits() {
    let pool = Pool::new(2);
    for isa in Isa::all() {
        for rows in [1, 3, 30] {
            let even = dense(Encoding::Fp8 { rows: 128, cols: 128 }, rows, 300, 50);
            let data = even.data();
            assert!(even.seed.is_multiple_of(2));
            let odd = Case { seed: even.seed + 1, ..even.clone() };
            let results = [even, odd].map(|case| bits(&run(isa, &pool, &case, &data)));
            assert_eq!(results[0], results[1], "{isa} {rows}");
        }
    }
}

#[test]
fn bf16_rows_round_once() {
    let pool = Pool::new(2);
    for isa in Isa::all() {
        for rows in [1, 12] {
            let case = dense(Encoding::Bf16, rows, 200, 33);
            let data = case.data();
            let wide = run(isa, &pool, &case, &data);
            let want: Vec<bf16> = wide.iter().map(|&value| bf16::from_f32(value)).collect();
            let x: Vec<bf16> = data.x.iter().map(|&value| bf16::from_f32(value)).collect();
            let mut out = vec![bf16::ZERO; want.len()];
            let views: Vec<Segment<'_>> = data.segments.iter().map(|part| part.view()).collect();
            let weight = WeightView::new(200, 1, &views).expect("well formed");
            // SAFETY: both views lie in vectors that nobody else uses during the call.
            let (x, target) = unsafe {
                (
                    Rows::from_raw(x.as_ptr(), 200, rows, 200),
                    RowsMut::from_raw(out.as_mut_ptr(), 33, rows, 33),
                )
            };
            let target = RealRowsMut::Bf16(target);
            matmul(isa, &pool, RealRows::Bf16(x), &weight, RowGroups::Cyclic, target);
            assert_eq!(out, want);
        }
    }
}

/// The instruction set with tiles, said to be left out where there is none.
fn with_tiles() -> Option<Isa> {
    let isa = Isa::all().find(|isa| isa.has_tiles());
    if isa.is_none() {
        println!("skipped: this processor has no tiles");
    }
    isa
}

/// What Intel's manual says of `tdpbf16ps`, in portable code: of every 32 columns the even and the odd ones are
/// summed apart.
#[test]
fn tiles_add_in_the_order_of_the_manual() {
    let pool = Pool::new(2);
    if let Some(isa) = with_tiles() {
        for rows in [1, 2, 17, 40] {
            let case = dense(Encoding::Bf16, rows, 200, 37);
            let data = case.data();
            let weight: Vec<f32> = data.segments[0]
                .codes
                .as_chunks()
                .0
                .iter()
                .map(|&code| bf16::from_le_bytes(code).to_f32())
                .collect();
            let mut want = Vec::new();
            for x in data.x.chunks(200) {
                want.extend(weight.chunks(200).map(|w| sum_by_tiles(x, w)));
            }
            assert_eq!(bits(&run(isa, &pool, &case, &data)), bits(&want), "{rows} rows");
        }
    }
}

fn sum_by_tiles(x: &[f32], weight: &[f32]) -> f32 {
    let plane = |(x, weight): (&[f32], &[f32])| {
        let mut sums = [0f32; 2];
        for (column, (x, weight)) in x.iter().zip(weight).enumerate() {
            sums[column % 2] = x.mul_add(*weight, sums[column % 2]);
        }
        sums[0] + sums[1]
    };
    x.chunks(32).zip(weight.chunks(32)).map(plane).fold(0.0, |sum, plane| sum + plane)
}

#[test]
fn what_tiles_do_not_take_has_the_bits_of_the_vectors() {
    let pool = Pool::new(2);
    if let Some(tiles) = with_tiles() {
        let vectors = Isa::force(tiles.level()).expect("tiles have vectors beside them");
        for case in cases().into_iter().filter(|case| case.groups == 1) {
            let data = case.data();
            let views: Vec<Segment<'_>> = data.segments.iter().map(OwnedSegment::view).collect();
            let weight = WeightView::new(case.cols, 1, &views).expect("cases are well formed");
            let of = |isa| {
                let mut out = vec![f32::NAN; case.rows * case.outputs()];
                // SAFETY: both views lie in vectors that nobody else uses during the call.
                let (x, target) = unsafe {
                    (
                        Rows::from_raw(data.x.as_ptr(), case.cols, case.rows, case.cols),
                        RowsMut::from_raw(
                            out.as_mut_ptr(),
                            case.outputs(),
                            case.rows,
                            case.outputs(),
                        ),
                    )
                };
                multiply(isa, &pool, &case, RealRows::F32(x), &weight, target);
                bits(&out)
            };
            assert_eq!(of(tiles), of(vectors), "{case:?}");
        }
    }
}
