//! Cases of attention: near lists alone, with chosen and with visible far rows, every codec.

use hal::op::{Attend, AttendProject, Far, Listed, Visible};
use hal::{DType, Encoding, RowCodec, Tensor};

use crate::case::{Case, Make};

const FP8: RowCodec = RowCodec::Fp8 { block: 64, tail: 8 };
/// Blocks and tail are multiples of 16 columns, which devices with matrix units want.
const FP8_EVEN: RowCodec = RowCodec::Fp8 { block: 64, tail: 64 };

/// The far cache of a case.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Distance {
    Near,
    Listed,
    Visible,
}

/// The table.
pub fn table() -> Vec<Case> {
    let mut cases = Vec::new();
    let caches = [
        (DType::F32, RowCodec::Plain, "f32"),
        (DType::Bf16, RowCodec::Plain, "bf16"),
        (DType::F16, RowCodec::Plain, "f16"),
        (DType::Bf16, FP8, "bf16 over fp8 rows"),
    ];
    for (dtype, codec, name) in caches {
        for (distance, far) in [
            (Distance::Near, "window"),
            (Distance::Listed, "window and list"),
            (Distance::Visible, "window and visible"),
        ] {
            for (what, n) in [("one row", 1), ("several rows", 6)] {
                let name = format!("{name} {far} {what}");
                let width = if codec == RowCodec::Plain { 20 } else { 136 };
                let shape = Shape { n, heads: 3, width, size: 1.0 };
                cases.push(attend((dtype, codec), distance, SHORT, shape, name));
            }
        }
    }
    for (heads, width, codec) in
        [(3, 48, RowCodec::Plain), (11, 192, FP8_EVEN), (24, 192, FP8_EVEN), (40, 192, FP8_EVEN)]
    {
        for (distance, n) in [(Distance::Listed, 1), (Distance::Listed, 6), (Distance::Visible, 6)]
        {
            let rows = if codec == RowCodec::Plain { "" } else { " over fp8 rows" };
            let name = format!("bf16{rows} {heads} heads, {distance:?}, {n} of many keys");
            let shape = Shape { n, heads, width, size: 3.0 };
            cases.push(attend((DType::Bf16, codec), distance, LONG, shape, name.to_lowercase()));
        }
    }
    let shape = Shape { n: 4, heads: 3, width: 20, size: 12.0 };
    let large = "f32 large scores".into();
    cases.push(attend((DType::F32, RowCodec::Plain), Distance::Listed, SHORT, shape, large));
    for distance in [Distance::Listed, Distance::Visible] {
        for round in [None, Some(RowCodec::Fp8 { block: 8, tail: 0 })] {
            cases.push(attend_project(distance, round));
        }
    }
    cases
}

/// Places of a case's caches and lists.
#[derive(Clone, Copy)]
struct Places {
    near: usize,
    near_index: usize,
    far: Option<(usize, usize)>,
    pages: Option<usize>,
}

const PER: u32 = 4;

/// How many keys there are.
#[derive(Clone, Copy)]
struct Keys {
    /// Rows of the near cache.
    rows: u32,
    /// Entries of the near list.
    window: u32,
    /// Entries of the far list.
    picks: u32,
    /// Rows of the far cache; a sequence has up to half of them.
    entries: u32,
}

const SHORT: Keys = Keys { rows: 19, window: 7, picks: 5, entries: 24 };
/// More keys than any kernel takes at a time.
const LONG: Keys = Keys { rows: 150, window: 60, picks: 110, entries: 320 };

/// Queries of a case.
#[derive(Clone, Copy)]
struct Shape {
    n: u32,
    heads: u32,
    width: u32,
    /// Of the scores.
    size: f64,
}

fn caches(
    make: &mut Make,
    (dtype, codec): (DType, RowCodec),
    distance: Distance,
    Keys { rows, window, picks, entries }: Keys,
    [n, width]: [u32; 2],
) -> Places {
    let near = make.cache("near", dtype, codec, &[rows, width]);
    // In the third row no key at all, in the others some absent.
    let mut index: Vec<f64> = (0..n * window)
        .map(|_| match make.random.below(4) {
            0 => -1.0,
            _ => f64::from(make.random.below(rows)),
        })
        .collect();
    if n > 2 {
        index[2 * window as usize..3 * window as usize].fill(-1.0);
    }
    let near_index = make.row_index("near_index", &[n, window], index);
    let (mut far, mut pages) = (None, None);
    match distance {
        Distance::Near => {}
        Distance::Listed => {
            let cache = make.cache("far", dtype, codec, &[entries, width]);
            far = Some((cache, make.row_indices("far_index", &[n, picks], entries, 3)));
        }
        Distance::Visible => {
            let cache = make.cache("far", dtype, codec, &[entries, width]);
            let reach = reach(make, n, entries / 2);
            far = Some((cache, reach));
            pages = Some(page_table(make, entries / PER));
        }
    }
    Places { near, near_index, far, pages }
}

/// (sequence, visible) of each row: none, one, part of a page, all.
pub(crate) fn reach(make: &mut Make, n: u32, most: u32) -> usize {
    let visible = [5, most, 0, 1, most - 1, 4];
    let pairs = (0..n)
        .flat_map(|row| [f64::from(row % 2), f64::from(visible[row as usize % visible.len()])]);
    let place = make.rows("reach", DType::I32, &[n, 2], 1, pairs.collect(), 0.0);
    make.padded_with(&[0.0, 0.0]);
    place
}

/// Pages of two sequences, no page twice, in no order.
pub(crate) fn page_table(make: &mut Make, pages: u32) -> usize {
    let order = make.random.distinct(pages as usize, pages);
    let pages_each = pages / 2;
    let values = order.into_iter().take(2 * pages_each as usize).map(f64::from).collect();
    make.shared("pages", DType::I32, &[2, pages_each], values)
}

impl Places {
    fn near(self, t: &[Tensor]) -> Listed {
        Listed { cache: t[self.near].clone(), index: t[self.near_index].clone() }
    }

    fn far(self, t: &[Tensor]) -> Option<Far> {
        let (cache, list) = self.far?;
        let (cache, list) = (t[cache].clone(), t[list].clone());
        Some(match self.pages {
            None => Far::Listed(Listed { cache, index: list }),
            Some(pages) => {
                Far::Visible(Visible { cache, reach: list, pages: t[pages].clone(), per: PER })
            }
        })
    }
}

fn attend(
    (dtype, codec): (DType, RowCodec),
    distance: Distance,
    keys: Keys,
    Shape { n, heads, width, size }: Shape,
    name: String,
) -> Case {
    let mut make = Make::new(u64::from(n) + 100);
    let q = (0..n * heads * width).map(|_| make.random.gauss() * size).collect();
    let q = make.rows("q", dtype, &[n, heads, width], 1, q, 0.0);
    let sink = make.shared_reals("sink", DType::F32, &[heads]);
    let places = caches(&mut make, (dtype, codec), distance, keys, [n, width]);
    let out = make.out(dtype, &[n, heads, width], 1);
    make.case(("attend", "attend"), name, Some(n), places.near, move |t, _| {
        Attend {
            out: t[out].clone(),
            q: t[q].clone(),
            sink: t[sink].clone(),
            near: places.near(t),
            far: places.far(t),
            scale: 1.0 / (width as f32).sqrt(),
        }
        .into()
    })
}

fn attend_project(distance: Distance, round: Option<RowCodec>) -> Case {
    let (n, heads, width, groups, rank, turned) = (4, 4, 16, 2, 12, 8);
    let dtype = DType::Bf16;
    let mut make = Make::new(120);
    let q = make.row_reals("q", dtype, &[n, heads, width], 1);
    let sink = make.shared_reals("sink", DType::F32, &[heads]);
    let places = caches(&mut make, (dtype, RowCodec::Plain), distance, SHORT, [n, width]);
    let angle = make.row_reals("angle", DType::F32, &[n, turned], 1);
    let encoding = Encoding::Plain(DType::Bf16);
    let wo_a = make.segmented(groups, rank, heads / groups * width, groups * rank, encoding);
    let wo_b = make.weight(1, 40, groups * rank, encoding);
    let out = make.out(dtype, &[n, 40], 1);
    let served = if round.is_some() { " served" } else { "" };
    let name = format!("bf16 {distance:?}{served}").to_lowercase();
    make.case(("attend", "attend_project"), name, Some(n), places.near, move |t, w| {
        AttendProject {
            out: t[out].clone(),
            q: t[q].clone(),
            sink: t[sink].clone(),
            near: places.near(t),
            far: places.far(t),
            angle: t[angle].clone(),
            wo_a: w[wo_a].clone(),
            wo_b: w[wo_b].clone(),
            scale: 0.25,
            round,
        }
        .into()
    })
    .rounding(round.is_some())
}
