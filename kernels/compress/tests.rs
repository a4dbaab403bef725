//! `compress` against its oracle, against its lowering bit for bit, and the laws of its windows.

use super::oracle::Slot;
use super::*;
use crate::attend::KeyRows;
use crate::attend::tests::{Cache, Codec, nmse, poison, rows_mut, rows_of};
use crate::common::isa::Isa;
use crate::common::math::exp;
use crate::common::pool::Pool;
use crate::common::real::round_bf16;
use crate::common::rows::{Real, RealRows, RealRowsMut};
use crate::common::testing::Random;
use crate::gemm::{Encoding, RowGroups, Segment, WeightView, matmul};
use crate::rows::cpu::{Target, convert, rms_norm, rope};
use hal::tensor::RowCodec;

/// Everything one call needs, owned.
struct Case {
    width: usize,
    /// Half rows in a row of tail or landing.
    halves: usize,
    tail: Vec<f32>,
    landing: Vec<f32>,
    bias: Vec<f32>,
    gain: Vec<f32>,
    pool: Vec<i32>,
    angle: Vec<f32>,
    entry_row: Vec<i32>,
    tail_keep: Vec<i32>,
    rotation: Option<Vec<u8>>,
    round: Option<RowCodec>,
    activation: Real,
    codec: Codec,
    entries: usize,
}

const TURNED: usize = 8;

impl Case {
    /// `windows` windows of `slots` slots, some without a place, some slots absent.
    fn new(seed: u64, (windows, slots, width): (usize, usize, usize), codec: Codec) -> Case {
        let mut seed = Random(seed);
        let (halves, tail_rows, landing_rows) = (4, 5, 3 + windows);
        let places = (tail_rows + landing_rows) * halves;
        let (mut values, mut gates) = (vec![], vec![]);
        for window in 0..windows {
            for _ in 0..slots {
                let absent = window == 1 || seed.below(5) == 0;
                let place = |seed: &mut Random| if absent { -1 } else { seed.below(places) as i32 };
                values.push(place(&mut seed));
                gates.push(place(&mut seed));
            }
        }
        values.extend(gates);
        let mut entry_row: Vec<i32> = (0..windows as i32).map(|window| 2 * window + 1).collect();
        entry_row.reverse();
        if windows > 3 {
            entry_row[3] = -1;
        }
        let mut tail_keep = vec![-1; landing_rows];
        tail_keep[0] = 4;
        tail_keep[landing_rows - 1] = 0;
        let rotation: Vec<u8> =
            seed.floats(width * width, 1.0).iter().flat_map(|x| x.to_le_bytes()).collect();
        let round = match codec {
            Codec::Fp8 | Codec::Fp4 => Some(codec.row_codec(width)),
            _ => None,
        };
        Case {
            width,
            halves,
            tail: seed.floats(tail_rows * halves * width, 1.0),
            landing: seed.floats(landing_rows * halves * width, 1.0),
            bias: seed.floats(slots * width, 1.0),
            gain: seed.floats(width, 1.0),
            pool: values,
            angle: seed.floats(windows * TURNED, 1.0),
            entry_row,
            tail_keep,
            rotation: (codec == Codec::Fp4).then_some(rotation),
            round,
            activation: if codec == Codec::F32 { Real::F32 } else { Real::Bf16 },
            codec,
            entries: 2 * windows + 2,
        }
    }

    fn windows(&self) -> usize {
        self.entry_row.len()
    }

    fn slots(&self) -> usize {
        self.bias.len() / self.width
    }

    fn half_row(&self, index: i32) -> &[f32] {
        let first = index as usize * self.width;
        match first.checked_sub(self.tail.len()) {
            Some(first) => &self.landing[first..first + self.width],
            None => &self.tail[first..first + self.width],
        }
    }

    fn segments(&self) -> Option<[Segment<'_>; 1]> {
        let codes = self.rotation.as_deref()?;
        Some([Segment { rows: self.width, codes, scales: &[], encoding: Encoding::F32 }])
    }

    /// Values of the entries, `None` where nothing was written, and the tail.
    fn run(&self, isa: Isa, threads: usize) -> (Vec<Option<Vec<f32>>>, Vec<f32>) {
        let mut cache = Cache::new(&mut Random(99), self.codec, self.entries, self.width);
        let before: Vec<Vec<f32>> = (0..self.entries).map(|row| cache.stored(isa, row)).collect();
        let mut tail = self.tail.clone();
        let segments = self.segments();
        let weight =
            segments.as_ref().map(|part| WeightView::new(self.width, 1, part).expect("one part"));
        let wide = self.halves * self.width;
        let op = Compress {
            entries: cache.target(),
            tail: rows_mut(&mut tail, wide),
            landing: rows_of(&self.landing, wide),
            bias: rows_of(&self.bias, self.width),
            gain: rows_of(&self.gain, self.width),
            pool: rows_of(&self.pool, self.slots()),
            entry_angle: rows_of(&self.angle, TURNED),
            entry_row: rows_of(&self.entry_row, 1),
            tail_keep: rows_of(&self.tail_keep, 1),
            epsilon: 1e-6,
            activation: self.activation,
            rotation: weight.as_ref(),
            round: self.round,
        };
        let mut workspace = vec![f32::NAN; op.workspace_floats()];
        poison();
        compress(isa, &Pool::new(threads), &op, &mut workspace);
        let entries = (0..self.entries)
            .map(|row| cache.stored(isa, row))
            .zip(before)
            .map(|(now, before)| (bits(&now) != bits(&before)).then_some(now))
            .collect();
        (entries, tail)
    }

    /// Pooled window by the letter of the lowering: absent slots are zeros with a gate of -1e30.
    fn lowered_pool(&self, window: usize) -> Vec<f32> {
        let (slots, width) = (self.slots(), self.width);
        let values = &self.pool[window * slots..][..slots];
        let gates = &self.pool[(self.windows() + window) * slots..][..slots];
        let value = |slot: usize, column: usize| match values[slot] {
            -1 => 0.0,
            index => self.half_row(index)[column],
        };
        let score = |slot: usize, column: usize| match gates[slot] {
            -1 => -1e30,
            index => self.half_row(index)[column] + self.bias[slot * width + column],
        };
        let pool = |column: usize| {
            let top = (0..slots).map(|slot| score(slot, column)).fold(f32::MIN, f32::max);
            let share = |slot: usize| exp(score(slot, column) - top);
            let (mut sum, mut total) = (share(0) * value(0, column), share(0));
            for slot in 1..slots {
                sum += share(slot) * value(slot, column);
                total += share(slot);
            }
            sum / total
        };
        (0..width).map(pool).collect()
    }

    /// Values of an entry by the row kernels, one window at a time.
    fn lowered(&self, isa: Isa, window: usize) -> Vec<f32> {
        let (pool, width) = (Pool::new(1), self.width);
        let round = |x: Vec<f32>| match self.activation {
            Real::F32 => x,
            _ => x.into_iter().map(round_bf16).collect(),
        };
        let mut x = round(self.lowered_pool(window));
        let mut step = |f: &mut dyn FnMut(RealRowsMut, RealRows)| {
            let mut out = vec![0.0; width];
            f(RealRowsMut::F32(rows_mut(&mut out, width)), RealRows::F32(rows_of(&x, width)));
            x = round(out);
        };
        let gain = rows_of(&self.gain, width);
        step(&mut |out, x| rms_norm(isa, &pool, out, x, Some(gain), 1e-6));
        let angle = rows_of(&self.angle, TURNED).slice(window..window + 1);
        step(&mut |out, x| rope(isa, &pool, out, x, angle, 1, false));
        if let Some(part) = &self.segments() {
            let weight = WeightView::new(width, 1, part).expect("one part");
            step(&mut |out, x| matmul(isa, &pool, x, &weight, RowGroups::Cyclic, out));
        }
        if self.round.is_some() {
            step(&mut |out, x| {
                convert(isa, &pool, Target::Real(out), KeyRows::Real(x), self.round);
            });
        }
        x
    }

    fn want(&self, window: usize) -> Vec<f64> {
        let wide = |x: &[f32]| -> Vec<f64> { x.iter().map(|&x| f64::from(x)).collect() };
        let slots = self.slots();
        let slot = |number: usize| {
            let value = self.pool[window * slots + number];
            let gate = self.pool[(self.windows() + window) * slots + number];
            let row = |index: i32| wide(self.half_row(index));
            (gate >= 0).then(|| Slot { value: row(value), gate: row(gate), number })
        };
        let present: Vec<Slot> = (0..slots).filter_map(slot).collect();
        let x = oracle::pooled(&present, &wide(&self.bias), self.width);
        let angle = wide(&self.angle[window * TURNED..][..TURNED]);
        let x = oracle::finished(&x, &wide(&self.gain), &angle, 1e-6);
        match &self.rotation {
            None => x,
            Some(bytes) => {
                let (numbers, _) = bytes.as_chunks::<4>();
                let matrix: Vec<f32> = numbers.iter().map(|&b| f32::from_le_bytes(b)).collect();
                oracle::rotated(&x, &wide(&matrix))
            }
        }
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn cases() -> Vec<Case> {
    [
        ((1, 8, 64), Codec::F32),
        ((6, 8, 512), Codec::Fp8),
        ((5, 8, 128), Codec::Fp4),
        ((3, 128, 200), Codec::Bf16),
        ((9, 1, 40), Codec::F32),
    ]
    .into_iter()
    .enumerate()
    .map(|(seed, (shape, codec))| Case::new(seed as u64, shape, codec))
    .collect()
}

#[test]
fn compress_is_its_oracle() {
    for (index, case) in cases().iter().enumerate() {
        // What the roundings on purpose leave of the agreement.
        let bound = match case.codec {
            Codec::F32 => 1e-11,
            Codec::Bf16 => 1e-4,
            Codec::Fp8 => 2e-3,
            Codec::Fp4 => 3e-2,
        };
        for isa in Isa::all() {
            let (entries, _) = case.run(isa, 2);
            for window in (0..case.windows()).filter(|&window| case.entry_row[window] >= 0) {
                let got = entries[case.entry_row[window] as usize].as_ref().expect("was written");
                let error = nmse(got, &case.want(window));
                assert!(error < bound, "case {index} window {window} {isa}: {error:e}");
            }
        }
    }
}

#[test]
fn fused_is_lowered_bit_for_bit() {
    for (index, case) in cases().iter().enumerate() {
        for isa in Isa::all() {
            for threads in [1, 2] {
                let (entries, _) = case.run(isa, threads);
                for window in (0..case.windows()).filter(|&window| case.entry_row[window] >= 0) {
                    let place = case.entry_row[window] as usize;
                    let got = entries[place].as_ref().expect("was written");
                    let want = case.lowered(isa, window);
                    assert_eq!(bits(got), bits(&want), "case {index} window {window} {isa}");
                }
            }
        }
    }
}

#[test]
fn only_named_places_are_written() {
    for (index, case) in cases().iter().enumerate() {
        let (entries, tail) = case.run(Isa::best(), 2);
        for (place, entry) in entries.iter().enumerate() {
            let named = case.entry_row.contains(&(place as i32));
            assert_eq!(entry.is_some(), named, "case {index} place {place}");
        }
        let wide = case.halves * case.width;
        for (row, got) in tail.chunks(wide).enumerate() {
            let source = case.tail_keep.iter().position(|&keep| keep == row as i32);
            let want = match source {
                Some(source) => &case.landing[source * wide..][..wide],
                None => &case.tail[row * wide..][..wide],
            };
            assert_eq!(got, want, "case {index} row {row}");
        }
    }
}

#[test]
fn a_window_without_slots_is_zeros() {
    let case = Case::new(1, (2, 8, 64), Codec::F32);
    let (entries, _) = case.run(Isa::best(), 1);
    assert_eq!(entries[case.entry_row[1] as usize], Some(vec![0.0; 64]));
}

#[test]
fn zeros_of_absent_slots_keep_their_sign() {
    let mut case = Case::new(2, (1, 4, 32), Codec::F32);
    case.pool = vec![0, 1, -1, 2, 3, 3, -1, 3];
    case.tail[..3 * 32].fill(-0.0);
    let (entries, _) = case.run(Isa::best(), 1);
    assert_eq!(
        bits(entries[1].as_ref().expect("was written")),
        bits(&case.lowered(Isa::best(), 0))
    );
}

#[test]
fn a_loud_gate_takes_its_slot_alone() {
    let mut case = Case::new(3, (1, 4, 32), Codec::F32);
    case.pool = vec![0, 1, 2, 3, 4, 5, 6, 7];
    for column in 0..32 {
        case.tail[6 * 32 + column] = 1e20;
    }
    let pooled: Vec<f64> = case.tail[2 * 32..3 * 32].iter().map(|&x| f64::from(x)).collect();
    let wide = |x: &[f32]| -> Vec<f64> { x.iter().map(|&x| f64::from(x)).collect() };
    let want = oracle::finished(&pooled, &wide(&case.gain), &wide(&case.angle), 1e-6);
    let (entries, _) = case.run(Isa::best(), 1);
    assert!(nmse(entries[1].as_ref().expect("was written"), &want) < 1e-11);
}
