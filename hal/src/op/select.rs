//! The selection op: the largest columns of a row.

use super::{OpData, ensure, indices, matrix_of, operands, plain_real, weights};
use crate::error::Result;
use crate::tensor::Tensor;

/// Column indices of the k largest among the first `count` columns; ties go to the lower column;
/// short rows are padded with -1. Columns at or past `count` are never read.
#[derive(Clone, Debug)]
pub struct TopK {
    /// i32 `[n, k]`
    pub out: Tensor,
    /// `[n, w]`
    pub x: Tensor,
    /// i32 `[n]` or `[n, 1]`; absent: all columns count.
    pub count: Option<Tensor>,
    /// Order of the picks.
    pub order: Order,
}

/// Order in which [`TopK`] lists its picks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// Ascending column: the picks are a set, and later sums are a function of the set.
    Index,
    /// Largest first.
    Value,
}

impl OpData for TopK {
    operands!(Write out, Read x, Read count);
    weights!();
    fn check(&self) -> Result<()> {
        plain_real("x", &self.x)?;
        indices("out", &self.out)?;
        matrix_of("out", &self.out, self.x.rows(), self.out.width())?;
        ensure(self.out.width() >= 1, || "top_k of nothing".into())?;
        match &self.count {
            Some(count) => {
                indices("count", count)?;
                matrix_of("count", count, self.x.rows(), 1)
            }
            None => Ok(()),
        }
    }
}
