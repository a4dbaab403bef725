//! Cases of the indexer: scores, the choice of the largest, and both together.

use hal::op::{IndexScore, IndexSelect, Order, TopK, Visible};
use hal::{DType, RowCodec, Tensor};

use crate::attend::cases::{page_table, reach};
use crate::case::{Case, Make, reals};

const PER: u32 = 4;
/// Rows of a cache; a sequence has up to half of them.
const ENTRIES: u32 = 24;
const MANY: u32 = 640;

/// The table.
pub fn table() -> Vec<Case> {
    let mut cases = Vec::new();
    let caches = [
        (DType::F32, RowCodec::Plain, 20, "f32"),
        (DType::Bf16, RowCodec::Plain, 20, "bf16"),
        (DType::Bf16, RowCodec::Fp4 { block: 32 }, 64, "bf16 over fp4 rows"),
    ];
    for (dtype, codec, width, name) in caches {
        for (what, n) in [("one row", 1), ("several rows", 6)] {
            let shape = Shape { n, heads: 3, width, entries: ENTRIES };
            cases.push(index_score((dtype, codec), shape, format!("{name} {what}")));
            cases.push(index_select(dtype, codec, [n, width], format!("{name} {what}")));
        }
    }
    for (heads, width, codec, name) in [
        (9, 160, RowCodec::Plain, "bf16"),
        (21, 128, RowCodec::Fp4 { block: 32 }, "bf16 over fp4 rows"),
        (5, 96, RowCodec::Fp8 { block: 32, tail: 0 }, "bf16 over fp8 rows"),
    ] {
        for n in [1, 6] {
            let shape = Shape { n, heads, width, entries: MANY };
            let name = format!("{name} {heads} heads, {n} of many keys");
            cases.push(index_score((DType::Bf16, codec), shape, name));
        }
    }
    for (dtype, name) in reals() {
        for order in [Order::Index, Order::Value] {
            let by = format!("{name} by {order:?}").to_lowercase();
            for (what, n, width, k) in [
                ("one row", 1, 2, 1),
                ("more than there are", 3, 5, 8),
                ("ties", 5, 67, 6),
                ("wide", 4, 515, 32),
            ] {
                cases.push(top_k(dtype, order, [n, width, k], false, format!("{by} {what}")));
            }
            let counted = format!("{by} counted");
            cases.push(top_k(dtype, order, [6, 40, 5], true, counted));
        }
    }
    cases
}

/// Places of the index keys.
#[derive(Clone, Copy)]
struct Keys {
    cache: usize,
    reach: usize,
    pages: usize,
}

impl Keys {
    fn new(
        make: &mut Make,
        (dtype, codec): (DType, RowCodec),
        [n, width, entries]: [u32; 3],
    ) -> Keys {
        Keys {
            cache: make.cache("keys", dtype, codec, &[entries, width]),
            reach: reach(make, n, entries / 2),
            pages: page_table(make, entries / PER),
        }
    }

    fn visible(self, t: &[Tensor]) -> Visible {
        Visible {
            cache: t[self.cache].clone(),
            reach: t[self.reach].clone(),
            pages: t[self.pages].clone(),
            per: PER,
        }
    }
}

/// Queries and keys of a case.
#[derive(Clone, Copy)]
struct Shape {
    n: u32,
    heads: u32,
    width: u32,
    entries: u32,
}

fn index_score(
    (dtype, codec): (DType, RowCodec),
    Shape { n, heads, width, entries }: Shape,
    name: String,
) -> Case {
    let mut make = Make::new(u64::from(n) + 200);
    let q = make.row_reals("q", dtype, &[n, heads, width], 1);
    let weight = make.row_reals("weight", dtype, &[n, heads], 1);
    let keys = Keys::new(&mut make, (dtype, codec), [n, width, entries]);
    let out = make.out(DType::F32, &[n, entries / 2], 1);
    make.case(("index", "index_score"), name, Some(n), keys.cache, move |t, _| {
        IndexScore {
            out: t[out].clone(),
            q: t[q].clone(),
            weight: t[weight].clone(),
            keys: keys.visible(t),
            scale: 0.3,
        }
        .into()
    })
}

fn index_select(dtype: DType, codec: RowCodec, [n, width]: [u32; 2], name: String) -> Case {
    let (heads, k) = (3, 4);
    let mut make = Make::new(u64::from(n) + 210);
    let q = make.row_reals("q", dtype, &[n, heads, width], 1);
    let weight = make.row_reals("weight", dtype, &[n, heads], 1);
    let keys = Keys::new(&mut make, (dtype, codec), [n, width, ENTRIES]);
    let out = make.out(DType::I32, &[n, k], 1);
    make.case(("index", "index_select"), name, Some(n), keys.pages, move |t, _| {
        IndexSelect {
            out: t[out].clone(),
            q: t[q].clone(),
            weight: t[weight].clone(),
            keys: keys.visible(t),
            scale: 0.3,
            tile: 4,
        }
        .into()
    })
}

fn top_k(dtype: DType, order: Order, [n, width, k]: [u32; 3], counted: bool, name: String) -> Case {
    let mut make = Make::new(u64::from(n + width));
    // Few different values, so that ties abound; the last of a row is the largest.
    let x = (0..n * width)
        .map(|place| match place % width == width - 1 {
            true => 20.0,
            false => f64::from(make.random.below(16)) - 8.0,
        })
        .collect();
    let x = make.rows("x", dtype, &[n, width], 1, x, 0.0);
    // All, none, one, more than k, fewer than k.
    let count = [40.0, 0.0, 1.0, 9.0, 3.0, 40.0];
    let count = counted.then(|| make.rows("count", DType::I32, &[n, 1], 1, count.to_vec(), 0.0));
    let out = make.out(DType::I32, &[n, k], 1);
    let build = move |t: &[Tensor], x: Tensor| {
        let count = count.map(|count| t[count].clone());
        TopK { out: t[out].clone(), x, count, order }
    };
    make.case(("index", "top_k"), name, Some(n), x, move |t, _| build(t, t[x].clone()).into())
        // The last column, which holds the largest, is overlooked.
        .guarded_by(move |t, _| build(t, t[x].columns(0, &[width - 1])).into())
}
