//! Seeded cases of the collectives: 1, 2 and 4 ranks, every dtype, odd widths, one row.

use hal::{DType, RowCodec};

use super::{Kind, oracle};
use crate::case::{Random, decode, encode};

/// One collective to try.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Which.
    pub kind: Kind,
    /// Ranks.
    pub ranks: usize,
    /// Dtype of `x` and `out`.
    pub dtype: DType,
    /// Rows of each rank's `x`.
    pub rows: usize,
    /// Columns.
    pub width: usize,
}

impl Case {
    /// Unique name.
    pub fn id(&self) -> String {
        let Case { kind, ranks, dtype, rows, width } = self;
        format!("{}/{ranks} ranks {dtype:?} {rows}x{width}", kind.name())
    }

    /// Bytes of each rank's `x`.
    pub fn data(&self) -> Vec<Vec<u8>> {
        let mut random = Random::new((self.ranks * 1000 + self.rows * 10 + self.width) as u64);
        let mut x = || {
            let values: Vec<f64> = (0..self.rows * self.width).map(|_| random.gauss()).collect();
            encode(self.dtype, RowCodec::Plain, self.width, &values)
        };
        (0..self.ranks).map(|_| x()).collect()
    }

    /// Rows of each rank's output.
    pub fn out_rows(&self) -> usize {
        self.kind.out_rows(self.rows, self.ranks).expect("cases divide")
    }

    /// What the definition says of rank `k`: values, and by how much each may be missed.
    pub fn expect(&self, data: &[Vec<u8>], k: usize) -> Vec<(f64, f64)> {
        let numbers = |bytes: &Vec<u8>| decode(self.dtype, RowCodec::Plain, self.width, bytes);
        let x: Vec<Vec<f64>> = data.iter().map(numbers).collect();
        let sizes: Vec<Vec<f64>> =
            x.iter().map(|x| x.iter().map(|value| value.abs()).collect()).collect();
        let rounding = match self.dtype {
            DType::Bf16 => 2f64.powi(-8),
            DType::F16 => 2f64.powi(-11),
            _ => 0.0,
        };
        let of = |x: &[Vec<f64>]| match self.kind {
            Kind::AllReduce => oracle::all_reduce(x),
            Kind::AllGather => oracle::all_gather(x),
            Kind::ReduceScatter => oracle::reduce_scatter(x, k),
            Kind::AllToAll => oracle::all_to_all(x, k),
        };
        let sums = matches!(self.kind, Kind::AllReduce | Kind::ReduceScatter);
        let may = |(want, size): (f64, f64)| {
            let sum = self.ranks as f64 * 2f64.powi(-24) * size;
            // The smallest step of f16, for sums that end there.
            let step = if self.dtype == DType::F16 { 2f64.powi(-25) } else { 0.0 };
            (want, if sums { sum + rounding * (want.abs() + sum) + step } else { 0.0 })
        };
        of(&x).into_iter().zip(of(&sizes)).map(may).collect()
    }
}

/// The table.
pub fn cases() -> Vec<Case> {
    let mut out = Vec::new();
    for kind in Kind::ALL {
        for ranks in [1, 2, 4] {
            for dtype in [DType::F32, DType::Bf16, DType::F16] {
                out.extend([(4, 64), (12, 33), (4, 1)].map(|(rows, width)| Case {
                    kind,
                    ranks,
                    dtype,
                    rows,
                    width,
                }));
            }
            if matches!(kind, Kind::AllReduce | Kind::AllGather) {
                out.push(Case { kind, ranks, dtype: DType::F32, rows: 1, width: 1030 });
            }
        }
    }
    out
}
