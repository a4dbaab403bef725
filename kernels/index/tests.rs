//! The indexer against its oracle, the laws of its rows, and the fused form against its parts.

use super::*;
use crate::attend::tests::{Cache, Codec, halves, nmse, poison, queries, rows_mut, rows_of};
use crate::attend::{KeyRows, Visible};
use crate::common::isa::Isa;
use crate::common::pool::Pool;
use crate::common::rows::{RealRows, Rows};
use crate::common::testing::Random;
use hal::op::Order;
use half::bf16;

/// Everything one call needs, owned.
struct Case {
    heads: usize,
    q: Vec<bf16>,
    weight: Vec<f32>,
    keys: Cache,
    reach: Vec<i32>,
    pages: Vec<i32>,
    per: usize,
}

impl Case {
    /// Two sequences of `pages` pages; visible counts from none to all.
    fn new(
        seed: u64,
        (rows, heads, width): (usize, usize, usize),
        (pages, per): (usize, usize),
        codec: Codec,
    ) -> Case {
        let mut seed = Random(seed);
        let keys = Cache::new(&mut seed, codec, (2 * pages + 1) * per, width);
        let mut reach = Vec::new();
        for row in 0..rows {
            let count = match row {
                0 => pages * per,
                1 => 0,
                2 => per.min(pages * per),
                3 => 1,
                _ => seed.below(pages * per + 1),
            };
            reach.extend([(row / 3 % 2) as i32, count as i32]);
        }
        // Every page once, in some order.
        let mut table: Vec<i32> = (0..2 * pages as i32).collect();
        for place in (1..table.len()).rev() {
            table.swap(place, seed.below(place + 1));
        }
        Case {
            heads,
            q: halves(&mut seed, rows * heads * width),
            weight: seed.floats(rows * heads, 1.0),
            keys,
            reach,
            pages: table,
            per,
        }
    }

    fn rows(&self) -> usize {
        self.reach.len() / 2
    }

    fn capacity(&self) -> usize {
        self.pages.len() / 2 * self.per
    }

    fn count(&self, row: usize) -> usize {
        self.reach[2 * row + 1] as usize
    }

    fn visible(&self, cache: KeyRows) -> Visible {
        Visible {
            cache,
            reach: rows_of(&self.reach, 2),
            pages: rows_of(&self.pages, self.pages.len() / 2),
            per: self.per,
        }
    }

    /// Scores, with a mark where nothing is written.
    fn scores_of(&self, isa: Isa, threads: usize, cache: KeyRows) -> Vec<f32> {
        let mut out = vec![-7e7; self.rows() * self.capacity()];
        let mut room = vec![];
        let op = IndexScore {
            out: rows_mut(&mut out, self.capacity()),
            q: queries(isa, &self.q, &mut room, self.heads * self.keys.width),
            weight: RealRows::F32(rows_of(&self.weight, self.heads)),
            keys: self.visible(cache),
            scale: 0.17,
        };
        poison();
        index_score(isa, &Pool::new(threads), &op);
        out
    }

    fn scores(&self, isa: Isa, threads: usize) -> Vec<f32> {
        self.scores_of(isa, threads, self.keys.view())
    }

    fn select(&self, isa: Isa, threads: usize, k: usize) -> Vec<i32> {
        let mut out = vec![-9; self.rows() * k];
        let mut room = vec![];
        let op = IndexSelect {
            out: rows_mut(&mut out, k),
            q: queries(isa, &self.q, &mut room, self.heads * self.keys.width),
            weight: RealRows::F32(rows_of(&self.weight, self.heads)),
            keys: self.visible(self.keys.view()),
            scale: 0.17,
        };
        let mut workspace = vec![f32::NAN; op.workspace_floats()];
        poison();
        index_select(isa, &Pool::new(threads), &op, &mut workspace);
        out
    }

    /// Only query `row`.
    fn alone(&self, row: usize) -> Case {
        let width = self.heads * self.keys.width;
        Case {
            heads: self.heads,
            q: self.q[row * width..][..width].to_vec(),
            weight: self.weight[row * self.heads..][..self.heads].to_vec(),
            keys: self.keys.copy(),
            reach: self.reach[2 * row..][..2].to_vec(),
            pages: self.pages.clone(),
            per: self.per,
        }
    }

    fn want(&self) -> Vec<Vec<f64>> {
        let wide = |x: &[f32]| -> Vec<f64> { x.iter().map(|&x| f64::from(x)).collect() };
        let mut keys = Vec::new();
        for row in 0..self.rows() {
            let sequence = self.reach[2 * row] as usize;
            let key = |entry: usize| match self.pages
                [sequence * self.pages.len() / 2 + entry / self.per]
            {
                page if page < 0 => vec![0.0; self.keys.width],
                page => self.keys.key(page as usize * self.per + entry % self.per),
            };
            keys.push((0..self.count(row)).map(key).collect::<Vec<_>>());
        }
        let (q, weight) =
            (self.q.iter().map(|value| value.to_f64()).collect::<Vec<_>>(), wide(&self.weight));
        oracle::index_score(&q, &weight, &keys, self.keys.width, f64::from(0.17f32))
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn cases() -> Vec<Case> {
    [
        ((1, 64, 128), (5, 64), Codec::Fp4),
        ((9, 64, 128), (20, 64), Codec::Fp4),
        ((18, 3, 32), (40, 2), Codec::Bf16),
        ((5, 17, 40), (7, 3), Codec::F32),
        ((4, 1, 16), (1, 1), Codec::F32),
        ((6, 33, 96), (30, 100), Codec::Fp8),
    ]
    .into_iter()
    .enumerate()
    .map(|(seed, (shape, pages, codec))| Case::new(seed as u64, shape, pages, codec))
    .collect()
}

#[test]
fn index_score_is_its_oracle_and_writes_only_what_is_visible() {
    for (index, case) in cases().iter().enumerate() {
        let want = case.want();
        for isa in Isa::all() {
            let got = case.scores(isa, 2);
            for (row, got) in got.chunks(case.capacity()).enumerate() {
                let (got, rest) = got.split_at(case.count(row));
                let error = nmse(got, &want[row]);
                assert!(error < 1e-11, "case {index} row {row} {isa}: {error:e}");
                assert!(rest.iter().all(|&x| x == -7e7), "case {index} row {row} {isa}");
            }
        }
    }
}

#[test]
fn scores_have_the_same_bits_alone_among_others_and_on_any_number_of_threads() {
    for (index, case) in cases().iter().enumerate() {
        for isa in Isa::all() {
            let want = bits(&case.scores(isa, 1));
            for threads in [2, 3] {
                assert_eq!(bits(&case.scores(isa, threads)), want, "case {index} {isa} {threads}");
            }
            for (row, want) in want.chunks(case.capacity()).enumerate() {
                assert_eq!(bits(&case.alone(row).scores(isa, 2)), want, "case {index} {isa} {row}");
            }
        }
    }
}

#[test]
fn coded_keys_give_the_bits_of_plain_keys() {
    for (index, case) in cases().iter().enumerate() {
        for isa in Isa::all() {
            let plain = case.scores_of(isa, 2, case.keys.plain(isa));
            assert_eq!(bits(&case.scores(isa, 2)), bits(&plain), "case {index} {isa}");
        }
    }
}

#[test]
fn keys_on_absent_pages_are_zeros() {
    let mut case = Case::new(4, (6, 9, 32), (5, 16), Codec::F32);
    case.pages[1] = -1;
    let got = case.scores(Isa::best(), 2);
    for (row, want) in case.want().iter().enumerate() {
        let got = &got[row * case.capacity()..][..want.len()];
        assert!(nmse(got, want) < 1e-11, "row {row}");
    }
}

/// Rows with many ties, both zeros, infinities and NaNs among them.
fn rows_to_pick_from() -> Vec<Vec<f32>> {
    let mut seed = Random(3);
    let mut rows = vec![
        vec![],
        vec![0.0],
        vec![0.0; 100],
        (0..100).map(|i| if i % 2 == 0 { 0.0 } else { -0.0 }).collect(),
        vec![f32::NAN; 40],
        vec![f32::NEG_INFINITY, f32::NAN, f32::INFINITY, -1.0, f32::MAX, f32::MIN, 1e-45, -1e-45],
    ];
    for count in [5, 17, 64, 1000, 5000] {
        rows.push(seed.floats(count, 1.0));
        rows.push((0..count).map(|_| seed.below(7) as f32 - 3.0).collect());
        rows.push((0..count).map(|_| f32::from_bits(seed.next() as u32)).collect());
        rows.push((0..count).map(|i| i as f32).collect());
        rows.push((0..count).map(|i| -(i as f32)).collect());
    }
    rows
}

#[test]
fn top_k_is_the_sorted_oracle() {
    for (index, x) in rows_to_pick_from().iter().enumerate() {
        for k in [1, 2, 6, 16, 17, 64, 512, 6000] {
            let by_value = oracle::top_k(x, k);
            let mut by_index = by_value.clone();
            // Padding stays behind.
            by_index.sort_by_key(|&column| column as u32);
            for (order, want) in [(Order::Value, by_value), (Order::Index, by_index)] {
                let mut got = vec![-5; k];
                select::pick(x, order, &mut got);
                assert_eq!(got, want, "row {index} k {k} {order:?}");
            }
        }
    }
}

#[test]
fn columns_past_the_count_are_never_picked() {
    let x: Vec<bf16> = (0..3 * 70).map(|i| bf16::from_f32((i % 70) as f32)).collect();
    let count = [70, 33, -1];
    let mut out = vec![0; 3 * 20];
    let op = TopK {
        out: rows_mut(&mut out, 20),
        x: RealRows::Bf16(rows_of(&x, 70)),
        count: Some(rows_of(&count, 1)),
        order: Order::Index,
    };
    top_k(Isa::best(), &Pool::new(2), &op);
    let want: Vec<i32> = (50..70).chain(13..33).chain([-1; 20]).collect();
    assert_eq!(out, want);
}

#[test]
fn fused_selection_is_scores_then_picks_then_pages() {
    for (index, case) in cases().iter_mut().enumerate() {
        if index == 2 {
            case.pages[1] = -1;
        }
        for isa in Isa::all() {
            let scores = case.scores(isa, 1);
            for k in [1, 6, 40, 512] {
                let mut want = vec![0; case.rows() * k];
                let counts: Rows<i32> = rows_of(&case.reach, 2).columns(1..2);
                let op = TopK {
                    out: rows_mut(&mut want, k),
                    x: RealRows::F32(rows_of(&scores, case.capacity())),
                    count: Some(counts),
                    order: Order::Index,
                };
                top_k(isa, &Pool::new(1), &op);
                for (row, picks) in want.chunks_mut(k).enumerate() {
                    let sequence = case.reach[2 * row] as usize;
                    for pick in picks.iter_mut().filter(|pick| **pick >= 0) {
                        let (entry, per) = (*pick as usize, case.per);
                        let page = case.pages[sequence * case.pages.len() / 2 + entry / per];
                        *pick =
                            if page < 0 { -1 } else { page * per as i32 + (entry % per) as i32 };
                    }
                }
                for threads in [1, 2] {
                    assert_eq!(case.select(isa, threads, k), want, "case {index} k {k} {isa}");
                }
            }
        }
    }
}

#[test]
fn the_share_of_a_tile_does_not_show() {
    let case = Case::new(11, (37, 8, 32), (6, 50), Codec::Bf16);
    let all = case.select(Isa::best(), 2, 24);
    for (row, want) in all.chunks(24).enumerate() {
        assert_eq!(case.alone(row).select(Isa::best(), 2, 24), want, "row {row}");
    }
}

#[test]
fn the_largest_queries_that_fit_do_run() {
    for (heads, width, fits) in [
        (2048, 32, true),
        (2048, 33, false),
        (2049, 1, false),
        (64, 1024, true),
        (1, 1024, true),
        (1, 1025, false),
        (65, 1024, false),
    ] {
        assert_eq!(query_fits(heads, width), fits, "{heads} heads of {width}");
        if fits {
            let case = Case::new(1, (2, heads, width), (2, 3), Codec::Bf16);
            let got = case.scores(Isa::best(), 1);
            assert!(nmse(&got[..6], &case.want()[0]) < 1e-11, "{heads} heads of {width}");
        }
    }
}
