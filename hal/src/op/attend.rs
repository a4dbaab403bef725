//! Attention over cached rows, and the indexer's scores.

use super::{
    OpData, Operand, dims_of, dtype_of, ensure, indices, matrix_of, operands, parameters, plain,
    plain_real, real, weights,
};
use crate::error::Result;
use crate::op::Access;
use crate::tensor::{DType, Tensor};

/// One softmax per query head over listed rows of a near cache and rows of a far cache (spec
/// section 6). K and V are the same row. The sink adds `exp(sink)` to the denominator and has no
/// value; a query with no key at all gives zeros.
#[derive(Clone, Debug)]
pub struct Attend {
    /// `[n, H, c]`
    pub out: Tensor,
    /// `[n, H, c]`
    pub q: Tensor,
    /// f32 `[H]`
    pub sink: Tensor,
    /// The window.
    pub near: Listed,
    /// Compressed entries.
    pub far: Option<Far>,
    /// Factor of the scores.
    pub scale: f32,
}

/// Rows of a cache by an index list per query.
#[derive(Clone, Debug)]
pub struct Listed {
    /// `[r, c]`, any codec.
    pub cache: Tensor,
    /// i32 `[n, w]`; -1 is absent.
    pub index: Tensor,
}

/// The far cache of an attention.
#[derive(Clone, Debug)]
pub enum Far {
    /// Chosen rows.
    Listed(Listed),
    /// All visible entries.
    Visible(Visible),
}

/// Entries `0..visible` of a paged cache: `reach[i] = (row of pages, visible)`; entry e of a sequence
/// is cache row `pages[sequence][e / per] · per + e % per`.
#[derive(Clone, Debug)]
pub struct Visible {
    /// `[r, c]`, any codec.
    pub cache: Tensor,
    /// i32 `[n, 2]`
    pub reach: Tensor,
    /// i32 `[S, P]`
    pub pages: Tensor,
    /// Entries per page.
    pub per: u32,
}

impl Operand for Listed {
    fn walk(&self, access: Access, visit: &mut dyn FnMut(Access, &Tensor)) {
        visit(access, &self.cache);
        visit(access, &self.index);
    }
    fn walk_mut(&mut self, access: Access, visit: &mut dyn FnMut(Access, &mut Tensor)) {
        visit(access, &mut self.cache);
        visit(access, &mut self.index);
    }
}

impl Operand for Visible {
    fn walk(&self, access: Access, visit: &mut dyn FnMut(Access, &Tensor)) {
        visit(access, &self.cache);
        visit(access, &self.reach);
        visit(access, &self.pages);
    }
    fn walk_mut(&mut self, access: Access, visit: &mut dyn FnMut(Access, &mut Tensor)) {
        visit(access, &mut self.cache);
        visit(access, &mut self.reach);
        visit(access, &mut self.pages);
    }
}

impl Operand for Far {
    fn walk(&self, access: Access, visit: &mut dyn FnMut(Access, &Tensor)) {
        match self {
            Far::Listed(listed) => listed.walk(access, visit),
            Far::Visible(visible) => visible.walk(access, visit),
        }
    }
    fn walk_mut(&mut self, access: Access, visit: &mut dyn FnMut(Access, &mut Tensor)) {
        match self {
            Far::Listed(listed) => listed.walk_mut(access, visit),
            Far::Visible(visible) => visible.walk_mut(access, visit),
        }
    }
}

impl Listed {
    pub(super) fn check(&self, rows: u32, width: u32) -> Result<()> {
        real("cache", &self.cache)?;
        matrix_of("cache", &self.cache, self.cache.rows(), width)?;
        indices("index", &self.index)?;
        matrix_of("index", &self.index, rows, self.index.width())
    }
}

impl Visible {
    pub(super) fn check(&self, rows: u32, width: u32) -> Result<()> {
        real("cache", &self.cache)?;
        matrix_of("cache", &self.cache, self.cache.rows(), width)?;
        indices("reach", &self.reach)?;
        matrix_of("reach", &self.reach, rows, 2)?;
        indices("pages", &self.pages)?;
        ensure(self.per >= 1, || "per must be at least 1".into())
    }
}

/// `(n, H, c)` of a query tensor.
pub(super) fn heads_of(name: &str, q: &Tensor) -> Result<(u32, u32, u32)> {
    plain_real(name, q)?;
    match *q.dims() {
        [n, h, c] => Ok((n, h, c)),
        _ => Err(crate::error::Error::invalid(format!(
            "{name} is {} but must be [n, heads, c]",
            q.shape()
        ))),
    }
}

impl OpData for Attend {
    operands!(Write out, Read q, Read sink, Read near, Read far);
    weights!();
    fn check(&self) -> Result<()> {
        let (n, h, c) = heads_of("q", &self.q)?;
        plain_real("out", &self.out)?;
        dims_of("out", &self.out, &[n, h, c])?;
        parameters("sink", &self.sink, h)?;
        check_caches(&self.near, self.far.as_ref(), n, c)
    }
}

pub(super) fn check_caches(near: &Listed, far: Option<&Far>, n: u32, c: u32) -> Result<()> {
    near.check(n, c)?;
    match far {
        Some(Far::Listed(listed)) => listed.check(n, c),
        Some(Far::Visible(visible)) => visible.check(n, c),
        None => Ok(()),
    }
}

/// `out[i, e] = scale · Σ_h weight[i, h] · relu(q[i, h] · key_e)` for visible e; other columns are not
/// written (spec section 8).
#[derive(Clone, Debug)]
pub struct IndexScore {
    /// f32 `[n, width]`, width at least the most visible entries.
    pub out: Tensor,
    /// `[n, h, c]`
    pub q: Tensor,
    /// `[n, h]`
    pub weight: Tensor,
    /// The index keys.
    pub keys: Visible,
    /// Factor of the scores.
    pub scale: f32,
}

impl OpData for IndexScore {
    operands!(Write out, Read q, Read weight, Read keys);
    weights!();
    fn check(&self) -> Result<()> {
        let (n, h, c) = heads_of("q", &self.q)?;
        plain_real("weight", &self.weight)?;
        matrix_of("weight", &self.weight, n, h)?;
        self.keys.check(n, c)?;
        plain("out", &self.out)?;
        dtype_of("out", &self.out, DType::F32)?;
        ensure(self.out.rows() == n, || format!("out is {} for {n} queries", self.out.shape()))
    }
}
