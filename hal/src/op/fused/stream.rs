//! Hyper-connection sites: their start, and the end of one fused with the start of the next.

use crate::error::Result;
use crate::op::{
    Access, HcMix, Matmul, OpData, Operand, Reduce, ReduceFn, RmsNorm, RowGroups, dtype_of, ensure,
    matrix_of, operands, parameters, plain_real, weight_of,
};
use crate::program::Builder;
use crate::tensor::{DType, Tensor};
use crate::weight::Weight;

/// Parameters of one hyper-connection site and the norm behind it.
#[derive(Clone, Debug)]
pub struct HcSite {
    /// `[1, m, s·D]` with m = 2s + s², or s in the head's form.
    pub function: Weight,
    /// f32 `[m]`
    pub base: Tensor,
    /// f32 `[3]`, or `[1]` in the head's form.
    pub scale: Tensor,
    /// f32 `[D]`: gain of the block's norm.
    pub gain: Tensor,
    /// Number of streams s.
    pub streams: u32,
    /// Sinkhorn rounds.
    pub rounds: u32,
    /// Epsilon of gates and Sinkhorn.
    pub epsilon: f32,
    /// Epsilon of both norms.
    pub norm_epsilon: f32,
}

impl Operand for HcSite {
    fn walk(&self, access: Access, visit: &mut dyn FnMut(Access, &Tensor)) {
        for tensor in [&self.base, &self.scale, &self.gain] {
            visit(access, tensor);
        }
    }
    fn walk_mut(&mut self, access: Access, visit: &mut dyn FnMut(Access, &mut Tensor)) {
        for tensor in [&mut self.base, &mut self.scale, &mut self.gain] {
            visit(access, tensor);
        }
    }
}

impl HcSite {
    /// Columns of the mix: 2s + s², or s in the head's form.
    pub fn mix_width(&self) -> u32 {
        self.function.spec().rows
    }

    fn check(&self, streams: &Tensor, mix: &Tensor, out: &Tensor) -> Result<()> {
        let (n, s) = (streams.rows(), self.streams);
        plain_real("streams", streams)?;
        plain_real("out", out)?;
        dtype_of("mix", mix, DType::F32)?;
        ensure(s >= 1 && streams.width() == s * out.width(), || {
            format!("streams are {} wide for {s} streams of {}", streams.width(), out.width())
        })?;
        weight_of("function", &self.function, Some(1), self.mix_width(), streams.width())?;
        matrix_of("mix", mix, n, self.mix_width())?;
        matrix_of("out", out, n, out.width())?;
        parameters("gain", &self.gain, out.width())?;
        parameters("base", &self.base, self.mix_width())
    }

    fn lower(
        &self,
        streams: &Tensor,
        mix: &Tensor,
        out: &Tensor,
        into: &mut Builder,
    ) -> Result<()> {
        let (n, s, d) = (streams.rows(), self.streams, out.width());
        let u = into.temp(DType::F32, &[n, self.mix_width()]);
        into.push(Matmul {
            out: u.clone(),
            x: streams.clone(),
            weight: self.function.clone(),
            groups: RowGroups::Cyclic,
        })?;
        let mean_square = into.temp(DType::F32, &[n, 1]);
        into.push(Reduce {
            out: mean_square.clone(),
            x: streams.clone(),
            f: ReduceFn::MeanSquare,
        })?;
        into.push(HcMix {
            out: mix.clone(),
            u,
            mean_square,
            base: self.base.clone(),
            scale: self.scale.clone(),
            streams: s,
            rounds: self.rounds,
            epsilon: self.epsilon,
            norm_epsilon: self.norm_epsilon,
        })?;
        let mixed = into.temp(out.dtype(), &[n, d]);
        into.push(Reduce {
            out: mixed.columns(0, &[1, d]),
            x: streams.columns(0, &[s, d]),
            f: ReduceFn::Mix(mix.columns(0, &[s, 1])),
        })?;
        into.push(RmsNorm {
            out: out.clone(),
            x: mixed,
            gain: Some(self.gain.clone()),
            epsilon: self.norm_epsilon,
        })
    }
}

/// Start of a site: mix from the streams, `out = rms_norm(Σ_s pre[s] · stream_s)`.
///
/// Lowers to matmul · reduce mean_square · hc_mix · reduce mix · rms_norm.
#[derive(Clone, Debug)]
pub struct HcPre {
    /// `[n, D]`: the block's input.
    pub out: Tensor,
    /// f32 `[n, m]`: pre · comb · post, read by the site's end.
    pub mix: Tensor,
    /// `[n, s·D]`
    pub streams: Tensor,
    /// Parameters.
    pub site: HcSite,
}

impl OpData for HcPre {
    operands!(Write out, Write mix, Read streams, Read site);
    fn weights(&self, visit: &mut dyn FnMut(&Weight)) {
        visit(&self.site.function);
    }
    fn weights_mut(&mut self, visit: &mut dyn FnMut(&mut Weight)) {
        visit(&mut self.site.function);
    }
    fn check(&self) -> Result<()> {
        self.site.check(&self.streams, &self.mix, &self.out)
    }
    fn lower(&self, into: &mut Builder) -> Result<bool> {
        self.site.lower(&self.streams, &self.mix, &self.out, into)?;
        Ok(true)
    }
}

/// End of a site and start of the next: `streams'[k] = Σ_j comb[j, k] · streams[j] + post[k] · y`, then
/// as [`HcPre`] on the new streams.
///
/// Lowers to reduce mix and the ops of [`HcPre`].
#[derive(Clone, Debug)]
pub struct HcTurn {
    /// `[n, D]`: the next block's input.
    pub out: Tensor,
    /// f32 `[n, m]`: the next site's mix.
    pub mix: Tensor,
    /// `[n, s·D]`: the new streams.
    pub streams: Tensor,
    /// `[n, (s + 1)·D]`: the old streams and, behind them, the block's output y.
    pub old: Tensor,
    /// f32 `[n, m]`: the ending site's mix.
    pub old_mix: Tensor,
    /// Parameters of the next site.
    pub site: HcSite,
}

impl OpData for HcTurn {
    operands!(Write out, Write mix, Write streams, Read old, Read old_mix, Read site);
    fn weights(&self, visit: &mut dyn FnMut(&Weight)) {
        visit(&self.site.function);
    }
    fn weights_mut(&mut self, visit: &mut dyn FnMut(&mut Weight)) {
        visit(&mut self.site.function);
    }
    fn check(&self) -> Result<()> {
        let (n, s, d) = (self.streams.rows(), self.site.streams, self.out.width());
        self.site.check(&self.streams, &self.mix, &self.out)?;
        plain_real("old", &self.old)?;
        matrix_of("old", &self.old, n, (s + 1) * d)?;
        dtype_of("old_mix", &self.old_mix, DType::F32)?;
        matrix_of("old_mix", &self.old_mix, n, 2 * s + s * s)
    }
    fn lower(&self, into: &mut Builder) -> Result<bool> {
        let (s, d) = (self.site.streams, self.out.width());
        into.push(Reduce {
            out: self.streams.columns(0, &[s, d]),
            x: self.old.columns(0, &[s + 1, d]),
            f: ReduceFn::Mix(self.old_mix.columns(s, &[s + 1, s])),
        })?;
        self.site.lower(&self.streams, &self.mix, &self.out, into)?;
        Ok(true)
    }
}
