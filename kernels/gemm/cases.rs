//! Seeded matmul cases: odd sizes, tails, several segments, groups, extremes of every encoding.

use hal::op::{Matmul, RowGroups};

use super::oracle;
use super::weight::{Encoding, Segment};
use crate::case;

/// One matmul to try.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is special about it.
    pub name: &'static str,
    /// Start of the random numbers.
    pub seed: u64,
    /// Rows of `x`.
    pub rows: usize,
    /// Columns of `x` and of the weight.
    pub cols: usize,
    /// Matrices of the weight.
    pub groups: usize,
    /// Rows of the segments of each matrix.
    pub parts: Vec<usize>,
    /// Encoding of all segments.
    pub encoding: Encoding,
    /// Row offsets of the groups; `None`: cyclic.
    pub offsets: Option<Vec<i32>>,
    /// How codes and scales are drawn.
    pub fill: Fill,
}

/// How codes and scales are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Codes spread over the format, scales around 2^-8.
    Plain,
    /// Every code but NaN, scales from 2^-40 to 2^40.
    Wide,
    /// The smallest nonzero and subnormal codes only.
    Tiny,
}

/// One segment that owns its bytes.
#[derive(Clone, Debug)]
pub struct OwnedSegment {
    /// Output rows.
    pub rows: usize,
    /// As in [`Segment`].
    pub codes: Vec<u8>,
    /// As in [`Segment`].
    pub scales: Vec<u8>,
    /// As in [`Segment`].
    pub encoding: Encoding,
}

impl OwnedSegment {
    /// The view that a matmul takes.
    pub fn view(&self) -> Segment<'_> {
        let OwnedSegment { rows, ref codes, ref scales, encoding } = *self;
        Segment { rows, codes, scales, encoding }
    }
}

/// What a case's seed stands for.
#[derive(Clone, Debug)]
pub struct Data {
    /// `[rows, cols]`; every value is exact in bf16.
    pub x: Vec<f32>,
    /// Segments of all groups, in order.
    pub segments: Vec<OwnedSegment>,
}

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.bits() % limit
    }

    /// About normal: mean 0, variance 1, within ±3.5.
    pub fn gauss(&mut self) -> f32 {
        let sum: u64 = (0..4).map(|_| self.bits() >> 40).sum();
        ((sum as f64 / (1u64 << 24) as f64 - 2.0) * 3f64.sqrt()) as f32
    }
}

impl Case {
    /// Output columns.
    pub fn outputs(&self) -> usize {
        self.parts.iter().sum()
    }

    /// Draws `x` and the weight.
    pub fn data(&self) -> Data {
        let mut random = Random::new(self.seed);
        let x = (0..self.rows * self.cols).map(|_| bf16(random.gauss())).collect();
        let parts = self.parts.repeat(self.groups);
        let segments = parts.iter().map(|&rows| self.segment(&mut random, rows)).collect();
        Data { x, segments }
    }

    fn segment(&self, random: &mut Random, rows: usize) -> OwnedSegment {
        let bytes = rows * self.encoding.row_bytes(self.cols);
        let mut codes: Vec<u8> = match self.encoding {
            Encoding::F32 => {
                (0..bytes / 4).flat_map(|_| (random.gauss() / 16.0).to_le_bytes()).collect()
            }
            Encoding::Bf16 => (0..bytes / 2)
                .flat_map(|_| half::bf16::from_f32(random.gauss() / 16.0).to_le_bytes())
                .collect(),
            Encoding::F16 => (0..bytes / 2)
                .flat_map(|_| half::f16::from_f32(random.gauss() / 16.0).to_le_bytes())
                .collect(),
            Encoding::Fp8 { .. } | Encoding::Fp4 | Encoding::Int8 => {
                (0..bytes).map(|_| random.bits() as u8).collect()
            }
        };
        if let Encoding::Fp8 { .. } = self.encoding {
            for code in &mut codes {
                match self.fill {
                    Fill::Tiny => *code &= 0x87,
                    _ if *code & 0x7f == 0x7f => *code ^= 1,
                    _ => {}
                }
            }
        }
        if (self.encoding, self.fill) == (Encoding::Fp4, Fill::Tiny) {
            codes.iter_mut().for_each(|code| *code &= 0x99);
        }
        if (self.encoding, self.fill) == (Encoding::Int8, Fill::Tiny) {
            codes.iter_mut().for_each(|code| *code = (*code & 1).wrapping_neg() | *code & 2);
        }
        let scale = |random: &mut Random| match self.fill {
            Fill::Wide => 87 + random.below(81) as u8,
            _ => 118 + random.below(3) as u8,
        };
        let count = self.encoding.scale_bytes(rows, self.cols);
        let scales = match self.encoding {
            Encoding::Int8 => {
                (0..rows).flat_map(|_| self.row_scale(random).to_le_bytes()).collect()
            }
            _ => (0..count).map(|_| scale(random)).collect(),
        };
        OwnedSegment { rows, codes, scales, encoding: self.encoding }
    }

    /// A scale of INT8 codes, of any mantissa.
    fn row_scale(&self, random: &mut Random) -> f32 {
        let power = match self.fill {
            Fill::Wide => random.below(81) as i32 - 40,
            _ => -8 - random.below(3) as i32,
        };
        (1.0 + random.below(1 << 20) as f32 / (1 << 20) as f32) * 2f32.powi(power)
    }

    /// What the oracle says, `[rows, outputs]`, and the sum of the products' magnitudes, by which
    /// an error is measured.
    pub fn expect(&self, data: &Data) -> (Vec<f64>, Vec<f64>) {
        let decoded: Vec<Vec<f64>> =
            data.segments.iter().map(|part| oracle::decode(&part.view(), self.cols)).collect();
        let groups: Vec<Vec<f64>> =
            decoded.chunks(self.parts.len()).map(|parts| parts.concat()).collect();
        let group_of = oracle::group_of(self.rows, self.groups, self.offsets.as_deref());
        let x: Vec<f64> = data.x.iter().map(|&value| f64::from(value)).collect();
        let out = oracle::matmul(&x, self.cols, &groups, &group_of);
        let magnitude = |values: &[f64]| values.iter().map(|value| value.abs()).collect::<Vec<_>>();
        let sizes: Vec<Vec<f64>> = groups.iter().map(|group| magnitude(group)).collect();
        (out, oracle::matmul(&magnitude(&x), self.cols, &sizes, &group_of))
    }

    /// Largest error of an f32 accumulation in any order, per unit of summed magnitudes.
    ///
    /// The worst case of a serial chain is cols · 2^-24. Lanes and trees shorten the chain to at most
    /// an eighth; the 8 more are the tree and the final rounding.
    pub fn tolerance(&self) -> f64 {
        (self.cols as f64 / 8.0 + 8.0) * 2f64.powi(-24)
    }
}

/// Rounds to bf16 by cutting: any exact bf16 value will do.
fn bf16(value: f32) -> f32 {
    f32::from_bits(value.to_bits() & 0xffff_0000)
}

/// All encodings a weight may have, with the usual and an unusual FP8 block.
pub const ENCODINGS: [Encoding; 7] = [
    Encoding::F32,
    Encoding::Bf16,
    Encoding::F16,
    Encoding::Fp8 { rows: 128, cols: 128 },
    Encoding::Fp8 { rows: 32, cols: 32 },
    Encoding::Fp4,
    Encoding::Int8,
];

/// The table.
pub fn cases() -> Vec<Case> {
    let mut out = Vec::new();
    for (index, encoding) in ENCODINGS.into_iter().enumerate() {
        let case = |name, rows, cols, parts: &[usize]| Case {
            name,
            seed: 1000 * index as u64 + rows as u64 + cols as u64,
            rows,
            cols,
            groups: 1,
            parts: parts.to_vec(),
            encoding,
            offsets: None,
            fill: Fill::Plain,
        };
        out.extend([
            case("one row", 1, 256, &[130]),
            case("one output", 3, 128, &[1]),
            case("narrowest", 2, 2, &[3]),
            case("odd widths", 5, 330, &[37]),
            case("tail of a chunk", 11, 1090, &[29]),
            case("two segments", 7, 192, &[136, 61]),
            case("many rows", 131, 160, &[45]),
            case("long chunks", 14, 1536, &[20]),
            case("many outputs", 3, 64, &[1100, 300]),
        ]);
        let extreme = [Fill::Wide, Fill::Tiny];
        out.extend(extreme.map(|fill| Case { fill, ..case("extremes", 10, 256, &[140]) }));
        out.push(Case { groups: 3, ..case("cyclic groups", 20, 96, &[17, 16]) });
        let offsets = Some(vec![0, 0, 1, 13, 13, 33]);
        out.push(Case { groups: 5, offsets, ..case("sorted groups", 36, 96, &[40, 3]) });
        // Few rows on average, many in one group.
        let offsets = Some(vec![0, 1, 1, 21, 22, 24, 24]);
        out.push(Case { groups: 6, offsets, ..case("uneven groups", 24, 64, &[1100, 70]) });
    }
    out
}

/// Encodings of the HAL a weight of a checkpoint may have, by name.
pub fn encodings() -> [(hal::Encoding, &'static str); 6] {
    use hal::{DType, Encoding};
    [
        (Encoding::Plain(DType::F32), "f32 weight"),
        (Encoding::Plain(DType::Bf16), "bf16 weight"),
        (Encoding::Plain(DType::F16), "f16 weight"),
        (Encoding::Fp8Block { rows: 128, cols: 128 }, "fp8 128x128"),
        (Encoding::Fp8Block { rows: 32, cols: 32 }, "fp8 32x32"),
        (Encoding::Fp4Block { cols: 32 }, "fp4 1x32"),
    ]
}

/// NaN codes in weights of 2 groups of 37 rows: row, counted through both, which column, which of the two codes. First
/// and last columns, several of a row, both codes; neighbours of such rows have none.
const NAN_CODES: [(u32, Column, u8); 5] = [
    (5, Column::First, 0x7f),
    (17, Column::Last, 0xff),
    (36, Column::Middle, 0xff),
    (37 + 16, Column::Last, 0x7f),
    (37 + 16, Column::First, 0xff),
];

#[derive(Clone, Copy)]
enum Column {
    First,
    Middle,
    Last,
}

/// Cases of `matmul` as an op: every encoding, dtype, grouping; odd sizes and segments; NaN codes.
pub fn table() -> Vec<case::Case> {
    let mut out = Vec::new();
    for (encoding, name) in encodings() {
        if let hal::Encoding::Fp8Block { .. } = encoding {
            for (dtype, kind) in case::reals() {
                // A whole number of every kernel's steps, and not.
                for cols in [256, 330] {
                    let name = format!("{kind} {name} NaN codes in {cols} columns");
                    out.push(spoilt(dtype, encoding, cols, name));
                }
            }
            out.push(spoilt_group(encoding, format!("bf16 {name} NaN codes of one group")));
        }
    }
    for (encoding, name) in encodings() {
        for (what, n, rows, cols) in
            [("one row", 1, 33, 64), ("one output", 3, 1, 96), ("odd", 5, 37, 330)]
        {
            let name = format!("bf16 {name} {what}");
            out.push(product(hal::DType::Bf16, encoding, [n, 1, rows, cols], rows, name));
        }
        let segments = format!("bf16 {name} three segments a group");
        out.push(product(hal::DType::Bf16, encoding, [8, 2, 60, 96], 20, segments));
        let one = format!("bf16 {name} one segment for two groups");
        out.push(product(hal::DType::Bf16, encoding, [8, 2, 30, 96], 60, one));
        out.push(sorted(encoding, format!("bf16 {name} sorted groups, some empty")));
    }
    for (dtype, name) in case::reals() {
        let encoding = hal::Encoding::Plain(hal::DType::Bf16);
        out.push(product(dtype, encoding, [6, 3, 16, 40], 16, format!("{name} cyclic groups")));
    }
    out
}

/// A NaN code makes the elements of its weight row NaN, whatever x holds, and no others.
fn spoilt(dtype: hal::DType, encoding: hal::Encoding, cols: u32, name: String) -> case::Case {
    let (n, groups, rows) = (6, 2, 37);
    let mut make = case::Make::new(u64::from(cols));
    let x = make.row_reals("x", dtype, &[n, cols], groups);
    let weight = make.segmented(groups, rows, cols, rows, encoding);
    for (row, column, code) in NAN_CODES {
        let column = match column {
            Column::First => 0,
            Column::Middle => cols / 2 + 1,
            Column::Last => cols - 1,
        };
        make.spoil(weight, row, column, code);
    }
    let out = make.out(dtype, &[n, rows], groups);
    make.case(("gemm", "matmul"), name, Some(n / groups), x, move |t, w| {
        let (out, x, weight) = (t[out].clone(), t[x].clone(), w[weight].clone());
        Matmul { out, x, weight, groups: RowGroups::Cyclic }.into()
    })
}

fn product(
    dtype: hal::DType,
    encoding: hal::Encoding,
    [n, groups, rows, cols]: [u32; 4],
    segment_rows: u32,
    name: String,
) -> case::Case {
    let mut make = case::Make::new(u64::from(n + rows + cols));
    // A row of the case is one row per group.
    let x = make.row_reals("x", dtype, &[n / groups * groups, cols], groups);
    let weight = make.segmented(groups, rows, cols, segment_rows, encoding);
    let out = make.out(dtype, &[n, rows], groups);
    make.case(("gemm", "matmul"), name, Some(n / groups), x, move |t, w| {
        let (out, x, weight) = (t[out].clone(), t[x].clone(), w[weight].clone());
        Matmul { out, x, weight, groups: RowGroups::Cyclic }.into()
    })
}

fn sorted(encoding: hal::Encoding, name: String) -> case::Case {
    sorted_of(encoding, name, |_, _| {})
}

/// The same with NaN codes: in a group with rows, and in one without, whose codes show nowhere.
fn spoilt_group(encoding: hal::Encoding, name: String) -> case::Case {
    sorted_of(encoding, name, |make, weight| {
        for (group, column, code) in [(2, 63, 0x7f), (3, 9, 0xff)] {
            make.spoil(weight, 24 * group + 7, column, code);
        }
    })
}

fn sorted_of(
    encoding: hal::Encoding,
    name: String,
    change: impl Fn(&mut case::Make, usize),
) -> case::Case {
    let (n, groups, rows, cols) = (15, 5, 24, 64);
    let mut make = case::Make::new(15);
    let x = make.shared_reals("x", hal::DType::Bf16, &[n, cols]);
    // Groups 0 and 3 are empty, rows 13 and 14 lie behind the last offset.
    let offsets = vec![0.0, 0.0, 1.0, 9.0, 9.0, 13.0];
    let offsets = make.shared("offsets", hal::DType::I32, &[groups + 1], offsets);
    let weight = make.weight(groups, rows, cols, encoding);
    change(&mut make, weight);
    let out = make.out_coded(hal::DType::Bf16, hal::RowCodec::Plain, &[n, rows], None);
    make.case(("gemm", "matmul"), name, None, x, move |t, w| {
        let (out, x, weight) = (t[out].clone(), t[x].clone(), w[weight].clone());
        Matmul { out, x, weight, groups: RowGroups::Sorted { offsets: t[offsets].clone() } }.into()
    })
}
