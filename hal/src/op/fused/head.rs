//! The end of a step: logits of the wanted rows, and their best candidates.

use super::{HcPre, HcSite};
use crate::error::Result;
use crate::op::{
    Gather, GatherSource, Matmul, OpData, Order, RowGroups, TopK, dtype_of, ensure, indices,
    matrix_of, operands, plain_real, weight_of, weights,
};
use crate::program::Builder;
use crate::tensor::{DType, Tensor};
use crate::weight::Weight;

/// Collapses the streams of the wanted rows, norms them and projects to the vocabulary.
///
/// Lowers to gather · the head form of [`HcPre`] · matmul.
#[derive(Clone, Debug)]
pub struct Head {
    /// f32 `[l, V]`
    pub out: Tensor,
    /// `[n, s·D]`
    pub streams: Tensor,
    /// i32 `[l]`: rows whose logits are wanted; -1 is padding.
    pub rows: Tensor,
    /// Collapse parameters (mix width s) and the final norm's gain.
    pub site: HcSite,
    /// `[1, V, D]`
    pub vocabulary: Weight,
}

impl OpData for Head {
    operands!(Write out, Read streams, Read rows, Read site);
    fn weights(&self, visit: &mut dyn FnMut(&Weight)) {
        visit(&self.site.function);
        visit(&self.vocabulary);
    }
    fn weights_mut(&mut self, visit: &mut dyn FnMut(&mut Weight)) {
        visit(&mut self.site.function);
        visit(&mut self.vocabulary);
    }
    fn check(&self) -> Result<()> {
        let s = self.site.streams;
        plain_real("streams", &self.streams)?;
        ensure(self.site.mix_width() == s, || {
            format!("the head's site mixes {} columns for {s} streams", self.site.mix_width())
        })?;
        ensure(s >= 1 && self.streams.width().is_multiple_of(s), || {
            format!("{} columns do not divide into {s} streams", self.streams.width())
        })?;
        indices("rows", &self.rows)?;
        dtype_of("out", &self.out, DType::F32)?;
        matrix_of("out", &self.out, self.rows.rows(), self.out.width())?;
        weight_of(
            "vocabulary",
            &self.vocabulary,
            Some(1),
            self.out.width(),
            self.streams.width() / s,
        )
    }
    fn lower(&self, into: &mut Builder) -> Result<bool> {
        let (l, s) = (self.rows.rows(), self.site.streams);
        let dtype = self.streams.dtype();
        let wanted = into.temp(dtype, &[l, self.streams.width()]);
        into.push(Gather {
            out: wanted.clone(),
            source: GatherSource::Rows { source: self.streams.clone(), more: None },
            index: self.rows.clone(),
            per: 1,
        })?;
        let hidden = into.temp(dtype, &[l, self.streams.width() / s]);
        let mix = into.temp(DType::F32, &[l, s]);
        into.push(HcPre { out: hidden.clone(), mix, streams: wanted, site: self.site.clone() })?;
        into.push(Matmul {
            out: self.out.clone(),
            x: hidden,
            weight: self.vocabulary.clone(),
            groups: RowGroups::Cyclic,
        })?;
        Ok(true)
    }
}

/// The k best columns of the logits, best first, ties to the lower id; the host draws among them.
///
/// Lowers to top_k by value.
#[derive(Clone, Debug)]
pub struct Sample {
    /// i32 `[l, k]`
    pub out: Tensor,
    /// f32 `[l, V]`
    pub logits: Tensor,
}

impl Sample {
    fn top_k(&self) -> TopK {
        TopK { out: self.out.clone(), x: self.logits.clone(), count: None, order: Order::Value }
    }
}

impl OpData for Sample {
    operands!(Write out, Read logits);
    weights!();
    fn check(&self) -> Result<()> {
        self.top_k().check()
    }
    fn lower(&self, into: &mut Builder) -> Result<bool> {
        into.push(self.top_k())?;
        Ok(true)
    }
}
