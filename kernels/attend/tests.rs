//! `attend` against its oracle, and the laws of its rows.

use super::*;
use crate::common::isa::Isa;
use crate::common::pool::Pool;
use crate::common::rows::{RealRows, RealRowsMut, Rows, RowsMut};
use crate::common::scratch;
use crate::common::testing::Random;
use hal::tensor::RowCodec;
use half::bf16;

pub(crate) fn rows_of<T: crate::common::rows::Element>(data: &[T], width: usize) -> Rows<T> {
    // SAFETY: the tests keep `data` alive and unwritten while they use the view.
    unsafe { Rows::from_raw(data.as_ptr(), width, data.len() / width.max(1), width) }
}

pub(crate) fn rows_mut<T: crate::common::rows::Element>(
    data: &mut [T],
    width: usize,
) -> RowsMut<T> {
    // SAFETY: the tests use `data` through one view at a time.
    unsafe { RowsMut::from_raw(data.as_mut_ptr(), width, data.len() / width, width) }
}

/// Numbers that are exact in bf16, as queries are.
pub(crate) fn halves(seed: &mut Random, count: usize) -> Vec<bf16> {
    seed.floats(count, 1.0).into_iter().map(bf16::from_f32).collect()
}

/// Rows of them: as they are where there are tiles, which take no others, else as f32.
pub(crate) fn queries<'a>(
    isa: Isa,
    halves: &'a [bf16],
    room: &'a mut Vec<f32>,
    width: usize,
) -> RealRows {
    room.extend(halves.iter().map(|value| value.to_f32()));
    match isa.has_tiles() {
        true => RealRows::Bf16(rows_of(halves, width)),
        false => RealRows::F32(rows_of(room, width)),
    }
}

/// Leaves NaN where this thread's kernels may only look after they wrote.
pub(crate) fn poison() {
    scratch::with(|block| block.fill(f32::NAN));
}

/// A cache in one of the codecs: its bytes, and the values that they stand for.
pub(crate) struct Cache {
    pub codec: Codec,
    pub width: usize,
    bytes: Vec<u8>,
    halves: Vec<bf16>,
    pub values: Vec<f32>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Codec {
    F32,
    Bf16,
    Fp8,
    Fp4,
}

impl Codec {
    pub fn row_codec(self, width: usize) -> RowCodec {
        match self {
            Codec::Fp8 => RowCodec::Fp8 { block: 64, tail: (width / 8) as u16 },
            Codec::Fp4 => RowCodec::Fp4 { block: 32 },
            _ => RowCodec::Plain,
        }
    }
}

/// E4M3 by definition (OCP OFP8).
fn e4m3(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let value = match exponent {
        0 => mantissa / 8.0 * 2f32.powi(-6),
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    };
    if code & 0x80 == 0 { value } else { -value }
}

impl Cache {
    pub fn new(seed: &mut Random, codec: Codec, rows: usize, width: usize) -> Cache {
        let row_bytes = codec.row_codec(width).row_bytes(hal::tensor::DType::Bf16, width as u32);
        let mut cache = Cache {
            codec,
            width,
            bytes: vec![],
            halves: vec![],
            values: Vec::with_capacity(rows * width),
        };
        for _ in 0..rows {
            let mut row = vec![0u8; row_bytes as usize];
            match codec {
                Codec::F32 => cache.values.extend(seed.floats(width, 1.0)),
                Codec::Bf16 => cache
                    .values
                    .extend(seed.floats(width, 1.0).iter().map(|&x| bf16::from_f32(x).to_f32())),
                Codec::Fp8 => cache.fp8_row(seed, &mut row),
                Codec::Fp4 => cache.fp4_row(seed, &mut row),
            }
            cache.bytes.extend(row);
        }
        cache.halves = cache.values.iter().map(|&x| bf16::from_f32(x)).collect();
        cache
    }

    fn fp8_row(&mut self, seed: &mut Random, row: &mut [u8]) {
        let tail = self.width / 8;
        let coded = self.width - tail;
        let first = self.values.len();
        for column in 0..coded {
            let scale = &mut row[coded + 2 * tail + column / 64];
            *scale = 118 + (first as u8 + (column / 64) as u8) % 4;
            let factor = 2f32.powi(i32::from(*scale) - 127);
            // Any finite code.
            let code = seed.below(127) as u8 | (seed.next() as u8 & 0x80);
            row[column] = code;
            self.values.push(e4m3(code) * factor);
        }
        for column in 0..tail {
            let value = bf16::from_f32(seed.unit());
            row[coded + 2 * column..][..2].copy_from_slice(&value.to_le_bytes());
            self.values.push(value.to_f32());
        }
    }

    fn fp4_row(&mut self, seed: &mut Random, row: &mut [u8]) {
        const E2M1: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
        let codes = self.width.div_ceil(2);
        let first = self.values.len();
        for column in 0..self.width {
            let scale = &mut row[codes + column / 32];
            *scale = 124 + (first as u8 + (column / 32) as u8) % 4;
            let factor = 2f32.powi(i32::from(*scale) - 127);
            let code = seed.below(16) as u8;
            row[column / 2] |= code << (column % 2 * 4);
            let value = E2M1[usize::from(code & 7)] * factor;
            self.values.push(if code & 8 == 0 { value } else { -value });
        }
    }

    pub fn rows(&self) -> usize {
        self.values.len() / self.width
    }

    pub fn view(&self) -> KeyRows {
        match self.codec {
            Codec::F32 => KeyRows::Real(RealRows::F32(rows_of(&self.values, self.width))),
            Codec::Bf16 => KeyRows::Real(RealRows::Bf16(rows_of(&self.halves, self.width))),
            codec => KeyRows::Coded {
                bytes: rows_of(&self.bytes, self.bytes.len() / self.rows()),
                width: self.width,
                codec: codec.row_codec(self.width),
            },
        }
    }

    /// The same values as plain rows: of bf16 where they are exact in it and there are tiles, which take no f32.
    pub fn plain(&self, isa: Isa) -> KeyRows {
        KeyRows::Real(match self.codec {
            Codec::Bf16 | Codec::Fp8 | Codec::Fp4 if isa.has_tiles() => {
                RealRows::Bf16(rows_of(&self.halves, self.width))
            }
            _ => RealRows::F32(rows_of(&self.values, self.width)),
        })
    }

    /// The rows as they are stored, to write to.
    pub fn target(&mut self) -> crate::rows::cpu::Target {
        use crate::rows::cpu::Target;
        let width = self.width;
        let count = self.rows();
        match self.codec {
            Codec::F32 => Target::Real(RealRowsMut::F32(rows_mut(&mut self.values, width))),
            Codec::Bf16 => Target::Real(RealRowsMut::Bf16(rows_mut(&mut self.halves, width))),
            codec => {
                let row_bytes = self.bytes.len() / count;
                let bytes = rows_mut(&mut self.bytes, row_bytes);
                Target::Coded { bytes, width, codec: codec.row_codec(width) }
            }
        }
    }

    /// Values of a row as it is stored now.
    pub fn stored(&self, isa: Isa, row: usize) -> Vec<f32> {
        let mut values = vec![0.0; self.width];
        self.view().load(isa, row, &mut values);
        values
    }

    pub fn key(&self, row: usize) -> Vec<f64> {
        self.values[row * self.width..][..self.width].iter().map(|&x| f64::from(x)).collect()
    }
}

/// What the far cache of a case is.
#[derive(Clone, Copy, Debug)]
enum Reach {
    Nothing,
    /// A list of this width.
    Listed(usize),
    /// Pages and entries per page.
    Visible(usize, usize),
}

/// Everything one call needs, owned.
struct Case {
    rows: usize,
    width: usize,
    q: Vec<bf16>,
    sink: Vec<f32>,
    near: Cache,
    near_index: Vec<i32>,
    far: Cache,
    reach: Reach,
    far_index: Vec<i32>,
    reaches: Vec<i32>,
    pages: Vec<i32>,
}

impl Case {
    fn new(
        seed: u64,
        (rows, heads, width): (usize, usize, usize),
        window: usize,
        reach: Reach,
        codec: Codec,
    ) -> Case {
        let mut seed = Random(seed);
        let near = Cache::new(&mut seed, codec, window + 9, width);
        let far_rows = match reach {
            Reach::Nothing => 1,
            Reach::Listed(list) => list + 5,
            Reach::Visible(pages, per) => (pages + 3) * per,
        };
        let far = Cache::new(&mut seed, codec, far_rows, width);
        let mut list = |count: usize, rows: usize| -> Vec<i32> {
            // One in four is absent.
            let pick = |seed: &mut Random| match seed.below(4) {
                0 => -1,
                _ => seed.below(rows) as i32,
            };
            (0..count).map(|_| pick(&mut seed)).collect()
        };
        let near_index = list(rows * window, near.rows());
        let far_index = match reach {
            Reach::Listed(width) => list(rows * width, far_rows),
            _ => vec![],
        };
        let (pages, reaches) = match reach {
            Reach::Visible(pages, per) => {
                let table = (0..2 * pages).map(|_| seed.below(pages + 3) as i32).collect();
                let count = |row: usize| match row {
                    0 => pages * per,
                    1 => 0,
                    2 => per,
                    3 => 1,
                    _ => seed.below(pages * per + 1),
                };
                let reaches =
                    (0..rows).map(count).flat_map(|count| [(count % 2) as i32, count as i32]);
                (table, reaches.collect())
            }
            _ => (vec![], vec![]),
        };
        Case {
            rows,
            width,
            q: halves(&mut seed, rows * heads * width),
            sink: seed.floats(heads, 1.0),
            near,
            near_index,
            far,
            reach,
            far_index,
            reaches,
            pages,
        }
    }

    fn far(&self, view: KeyRows) -> Option<Far> {
        match self.reach {
            Reach::Nothing => None,
            Reach::Listed(width) => {
                Some(Far::Listed(Listed { cache: view, index: rows_of(&self.far_index, width) }))
            }
            Reach::Visible(pages, per) => Some(Far::Visible(Visible {
                cache: view,
                reach: rows_of(&self.reaches, 2),
                pages: rows_of(&self.pages, pages),
                per,
            })),
        }
    }

    fn op<'a>(&'a self, out: &mut [f32], q: RealRows, near: KeyRows, far: KeyRows) -> Attend<'a> {
        let width = self.sink.len() * self.width;
        // SAFETY: `out` outlives the one call the tests make with this op.
        let out = unsafe { RowsMut::from_raw(out.as_mut_ptr(), width, self.rows, width) };
        Attend {
            out: RealRowsMut::F32(out),
            q,
            sink: &self.sink,
            near: Listed {
                cache: near,
                index: rows_of(&self.near_index, self.near_index.len() / self.rows),
            },
            far: self.far(far),
            scale: 0.11,
        }
    }

    fn run_on(&self, isa: Isa, threads: usize, near: KeyRows, far: KeyRows) -> Vec<f32> {
        let mut out = vec![f32::NAN; self.q.len()];
        let mut room = vec![];
        let q = queries(isa, &self.q, &mut room, self.sink.len() * self.width);
        let op = self.op(&mut out, q, near, far);
        let mut workspace = vec![f32::NAN; op.workspace_floats(threads)];
        poison();
        attend(isa, &Pool::new(threads), &op, &mut workspace);
        out
    }

    fn run(&self, isa: Isa, threads: usize) -> Vec<f32> {
        self.run_on(isa, threads, self.near.view(), self.far.view())
    }

    /// Only query `row`.
    fn alone(&self, row: usize) -> Case {
        let part = |data: &[i32]| {
            let width = data.len() / self.rows;
            data[row * width..][..width].to_vec()
        };
        let width = self.sink.len() * self.width;
        Case {
            rows: 1,
            width: self.width,
            q: self.q[row * width..][..width].to_vec(),
            sink: self.sink.clone(),
            near: self.near.copy(),
            near_index: part(&self.near_index),
            far: self.far.copy(),
            reach: self.reach,
            far_index: part(&self.far_index),
            reaches: part(&self.reaches),
            pages: self.pages.clone(),
        }
    }

    fn keys(&self, row: usize) -> oracle::Keys {
        let listed = |index: &[i32], cache: &Cache| -> Vec<Vec<f64>> {
            let width = index.len() / self.rows;
            let index = &index[row * width..][..width];
            index.iter().filter(|&&at| at >= 0).map(|&at| cache.key(at as usize)).collect()
        };
        let mut keys = listed(&self.near_index, &self.near);
        match self.reach {
            Reach::Nothing => {}
            Reach::Listed(_) => keys.extend(listed(&self.far_index, &self.far)),
            Reach::Visible(pages, per) => {
                let (sequence, visible) = (self.reaches[2 * row], self.reaches[2 * row + 1]);
                for entry in 0..visible as usize {
                    let page = self.pages[sequence as usize * pages + entry / per];
                    if page >= 0 {
                        keys.push(self.far.key(page as usize * per + entry % per));
                    }
                }
            }
        }
        keys
    }

    fn want(&self) -> Vec<f64> {
        let keys: Vec<oracle::Keys> = (0..self.rows).map(|row| self.keys(row)).collect();
        let wide = |x: &[f32]| -> Vec<f64> { x.iter().map(|&x| f64::from(x)).collect() };
        let q: Vec<f64> = self.q.iter().map(|value| value.to_f64()).collect();
        oracle::attend(&q, &wide(&self.sink), &keys, self.width, f64::from(0.11f32))
    }
}

impl Cache {
    pub fn copy(&self) -> Cache {
        Cache {
            codec: self.codec,
            width: self.width,
            bytes: self.bytes.clone(),
            halves: self.halves.clone(),
            values: self.values.clone(),
        }
    }
}

/// Σ (got - want)² / Σ want²
pub(crate) fn nmse(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let error: f64 = got.iter().zip(want).map(|(&g, w)| (f64::from(g) - w).powi(2)).sum();
    let size: f64 = want.iter().map(|w| w * w).sum();
    if size == 0.0 { error } else { error / size }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Shapes with every remainder: of vectors, tiles, blocks, splits and groups.
fn cases() -> Vec<Case> {
    use Reach::{Listed, Nothing, Visible};
    [
        ((1, 1, 16), 1, Nothing, Codec::F32),
        ((3, 8, 64), 128, Nothing, Codec::Bf16),
        ((5, 5, 72), 40, Listed(90), Codec::F32),
        ((2, 64, 128), 128, Listed(512), Codec::Fp8),
        ((9, 20, 128), 128, Visible(9, 64), Codec::Fp8),
        ((6, 17, 96), 16, Visible(300, 2), Codec::Bf16),
        ((40, 65, 40), 8, Visible(3, 7), Codec::F32),
        ((4, 3, 33), 130, Visible(130, 16), Codec::Fp4),
        ((1, 64, 512), 128, Listed(512), Codec::Fp8),
    ]
    .into_iter()
    .enumerate()
    .map(|(seed, (shape, window, reach, codec))| {
        Case::new(seed as u64, shape, window, reach, codec)
    })
    .collect()
}

#[test]
fn attend_is_its_oracle() {
    for (index, case) in cases().iter().enumerate() {
        let want = case.want();
        for isa in Isa::all() {
            let got = case.run(isa, 2);
            let error = nmse(&got, &want);
            assert!(error < 1e-11, "case {index} {isa}: {error:e}");
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone_among_others_and_on_any_number_of_threads() {
    for (index, case) in cases().iter().enumerate() {
        for isa in Isa::all() {
            let want = case.run(isa, 1);
            for threads in [2, 3, 8] {
                assert_eq!(
                    bits(&case.run(isa, threads)),
                    bits(&want),
                    "case {index} {isa} {threads}"
                );
            }
            let width = want.len() / case.rows;
            for row in 0..case.rows {
                let want = bits(&want[row * width..][..width]);
                for threads in [1, 4] {
                    let got = bits(&case.alone(row).run(isa, threads));
                    assert_eq!(got, want, "case {index} row {row} {isa} {threads}");
                }
            }
        }
    }
}

#[test]
fn coded_rows_give_the_bits_of_plain_rows() {
    for (index, case) in cases().iter().enumerate() {
        for isa in Isa::all() {
            let plain = case.run_on(isa, 2, case.near.plain(isa), case.far.plain(isa));
            assert_eq!(bits(&case.run(isa, 2)), bits(&plain), "case {index} {isa}");
        }
    }
}

#[test]
fn absent_keys_are_as_if_the_list_were_shorter() {
    let mut case = Case::new(5, (3, 6, 48), 90, Reach::Listed(600), Codec::F32);
    let got = case.run(Isa::best(), 2);
    for list in [&mut case.near_index, &mut case.far_index] {
        let width = list.len() / 3;
        for row in list.chunks_mut(width) {
            let present: Vec<i32> = row.iter().copied().filter(|&at| at >= 0).collect();
            row.fill(-1);
            row[..present.len()].copy_from_slice(&present);
        }
    }
    assert_eq!(bits(&case.run(Isa::best(), 2)), bits(&got));
}

#[test]
fn a_query_without_keys_gives_zeros() {
    for reach in [Reach::Nothing, Reach::Listed(700), Reach::Visible(4, 300)] {
        let mut case = Case::new(7, (3, 4, 32), 8, reach, Codec::Bf16);
        case.near_index.fill(-1);
        case.far_index.fill(-1);
        for reach in case.reaches.chunks_mut(2) {
            reach.copy_from_slice(&[-1, 0]);
        }
        // Without a key a share of the sink alone would be 0 / 0.
        case.sink[1] = f32::NEG_INFINITY;
        for threads in [1, 2] {
            let got = bits(&case.run(Isa::best(), threads));
            assert_eq!(got, vec![0; case.q.len()], "{reach:?}");
        }
    }
}

#[test]
fn entries_on_absent_pages_are_skipped() {
    let mut case = Case::new(8, (4, 4, 32), 8, Reach::Visible(6, 100), Codec::F32);
    case.pages[2] = -1;
    case.pages[6] = -1;
    for isa in Isa::all() {
        let error = nmse(&case.run(isa, 2), &case.want());
        assert!(error < 1e-11, "{isa}: {error:e}");
    }
}

#[test]
fn extreme_sinks_and_scores_stay_finite() {
    for sink in [-1e30, -200.0, 0.0, 200.0, 1e30] {
        for loud in [1.0, 300.0] {
            let mut case = Case::new(9, (2, 4, 64), 100, Reach::Listed(500), Codec::F32);
            case.sink.fill(sink);
            case.q.iter_mut().for_each(|q| *q = bf16::from_f32(q.to_f32() * loud));
            let want = case.want();
            for isa in Isa::all() {
                for (got, want) in case.run(isa, 2).iter().zip(&want) {
                    let error = (f64::from(*got) - want).abs();
                    // A score of hundreds has an error of 1e-4 of its own in f32.
                    let bound = if loud > 1.0 { 1e-3 } else { 1e-5 };
                    assert!(error < bound, "sink {sink} loud {loud} {isa}: {error:e}");
                }
            }
        }
    }
}

#[test]
fn a_sink_beyond_the_range_of_exp_leaves_its_small_share() {
    let mut case = Case::new(12, (1, 4, 64), 50, Reach::Nothing, Codec::F32);
    case.sink.fill(95.0);
    // Shares of e^-95 are subnormal; keys this large make them visible.
    case.near.values.iter_mut().for_each(|value| *value *= 1e20);
    case.q.iter_mut().for_each(|q| *q = bf16::from_f32(q.to_f32() * 1e-20));
    for isa in Isa::all() {
        let error = nmse(&case.run(isa, 2), &case.want());
        assert!(error < 1e-5, "{isa}: {error:e}");
    }
}

#[test]
fn the_widest_keys_do_run() {
    for (heads, width) in [(17, WIDTH_MAX), (70, 1024), (70, 1025)] {
        let case = Case::new(13, (1, heads, width), 20, Reach::Listed(520), Codec::Bf16);
        for threads in [1, 2] {
            let error = nmse(&case.run(Isa::best(), threads), &case.want());
            // A score is one chain of `width` additions.
            assert!(error < 1e-10, "{heads} heads of {width}: {error:e}");
        }
    }
}

#[test]
fn one_key_and_no_sink_is_the_key() {
    let mut case = Case::new(10, (1, 3, 64), 1, Reach::Nothing, Codec::Fp8);
    case.near_index[0] = 4;
    case.sink.fill(f32::NEG_INFINITY);
    let key = &case.near.values[4 * 64..5 * 64];
    for isa in Isa::all() {
        for head in case.run(isa, 2).chunks(64) {
            assert_eq!(head, key, "{isa}");
        }
    }
}

#[test]
fn bf16_output_is_the_rounded_f32_output() {
    let case = Case::new(11, (3, 4, 64), 100, Reach::Listed(500), Codec::Fp8);
    let width = case.q.len() / 3;
    let mut out = vec![bf16::ZERO; case.q.len()];
    let mut room = vec![];
    let q = queries(Isa::best(), &case.q, &mut room, width);
    let mut op = case.op(&mut [], q, case.near.view(), case.far.view());
    // SAFETY: `out` is used only here.
    let rows = unsafe { RowsMut::from_raw(out.as_mut_ptr(), width, 3, width) };
    op.out = RealRowsMut::Bf16(rows);
    let mut workspace = vec![0.0; op.workspace_floats(2)];
    attend(Isa::best(), &Pool::new(2), &op, &mut workspace);
    let want: Vec<bf16> = case.run(Isa::best(), 2).iter().map(|&x| bf16::from_f32(x)).collect();
    assert_eq!(out, want);
}
