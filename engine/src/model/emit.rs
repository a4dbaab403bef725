//! One step of the model as an op program (docs/program.md, "The program"): embedding, layers, streams.
//!
//! Topology, shapes and fields follow from the configuration and the step shape alone; what varies
//! from step to step lies in the step block. The vocabulary projection is a program of its own
//! ([`head`]) over the streams a step leaves behind, so that rows whose logits nobody wants never
//! reach it. Refuses to know what a device can do: it emits the largest ops, `hal` lowers them.

use hal::op::{
    AttendProject, Compress, Convert, ConvertForm, Far, Gather, GatherSource, HcPre, HcSite,
    HcTurn, Head, IndexSelect, Listed, Map, MapFn, Matmul, MoeExperts, NormQuant, QkFinish, Reduce,
    ReduceFn, RmsNorm, Rope, Route, RouteTable, RowGroups, Scatter, SwigluMlp, Visible,
};
use hal::{Buffer, Builder, DType, Program, Result, RowCodec, Shape, Site, Tensor, Weight};

use super::Numerics;
use super::params::{CompressorParams, IndexerParams, LayerParams, Params, Router};
use crate::config::{LayerSpec, ModelConfig};
use crate::state::block::{RatioFields, StepLayout};
use crate::state::geometry::{Capacity, Part, PartSpec, Pooled, entries_per_page, window_ring};

/// Rows whose index scores exist at a time where selection is lowered: bounds scratch at long
/// contexts (v4-program section 6), not the result.
const INDEX_TILE: u32 = 128;

/// A buffer of the state on a device.
#[derive(Clone, Debug)]
pub struct StatePart {
    /// What it is.
    pub spec: PartSpec,
    /// Its rows.
    pub tensor: Tensor,
}

/// Everything a program is emitted from.
#[derive(Clone, Copy, Debug)]
pub struct Emission<'a> {
    /// Geometry and schedule.
    pub config: &'a ModelConfig,
    /// Which numbers.
    pub numerics: Numerics,
    /// Size of the state.
    pub capacity: &'a Capacity,
    /// Parameters.
    pub params: &'a Params,
    /// State buffers.
    pub state: &'a [StatePart],
    /// Device buffer of the step block.
    pub block: &'a Buffer,
    /// `[rows, s·D]`: where the streams of a step are left.
    pub streams: &'a Tensor,
    /// i32 `[at least layers · rows of the step, k]`: where a step leaves the experts its rows chose, layer
    /// after layer, if anyone wants to know.
    pub picks: Option<&'a Tensor>,
}

/// The program of one step shape.
///
/// # Errors
/// `InvalidProgram` if parameters do not have the configuration's shapes.
pub fn step(emission: &Emission<'_>, layout: &StepLayout) -> Result<Program> {
    let mut step = Step { e: *emission, layout, b: Builder::new() };
    step.emit()?;
    step.b.finish()
}

/// The program that projects rows of the last step's streams to logits.
///
/// `rows` i32 `[l, 1]` picks them, `logits` f32 `[l, V]` receives them.
///
/// # Errors
/// As [`step`].
pub fn head(emission: &Emission<'_>, rows: &Tensor, logits: &Tensor) -> Result<Program> {
    let mut b = Builder::new();
    b.at(Site::EDGE, "head");
    b.push(Head {
        out: logits.clone(),
        streams: emission.streams.clone(),
        rows: rows.clone(),
        site: emission.site(&emission.params.head),
        vocabulary: emission.params.vocabulary.clone(),
    })?;
    b.finish()
}

impl Emission<'_> {
    fn site(&self, site: &super::params::SiteParams) -> HcSite {
        HcSite {
            function: site.function.clone(),
            base: site.base.clone(),
            scale: site.scale.clone(),
            gain: site.gain.clone(),
            streams: self.config.streams,
            rounds: self.config.sinkhorn_rounds,
            epsilon: self.config.hc_epsilon as f32,
            norm_epsilon: self.norm_epsilon(),
        }
    }

    fn norm_epsilon(&self) -> f32 {
        self.config.norm_epsilon as f32
    }

    fn part(&self, layer: usize, part: Part) -> &Tensor {
        let found = self.state.iter().find(|p| p.spec.layer == layer && p.spec.part == part);
        &found.expect("the state was allocated from the same schedule").tensor
    }

    /// Round trip in front of a quantised product, in served numerics.
    fn fp8(&self) -> Option<RowCodec> {
        match self.numerics {
            Numerics::Served => Some(RowCodec::Fp8 { block: ACTIVATION_BLOCK, tail: 0 }),
            Numerics::Plain => None,
        }
    }

    /// Round trip of a row that is cached with `codec`.
    fn cached(&self, codec: RowCodec) -> Option<RowCodec> {
        (codec != RowCodec::Plain).then_some(codec)
    }
}

/// Columns of an activation that share a scale (spec section 13).
const ACTIVATION_BLOCK: u16 = 128;

struct Step<'a> {
    e: Emission<'a>,
    layout: &'a StepLayout,
    b: Builder,
}

impl Step<'_> {
    fn rows(&self) -> u32 {
        self.layout.shape.rows
    }

    /// A new activation of this step.
    fn temp(&mut self, dims: &[u32]) -> Tensor {
        self.b.temp(self.e.numerics.activation(), dims)
    }

    fn field(&self, field: &crate::state::block::Field) -> Result<Tensor> {
        field.tensor(self.e.block)
    }

    fn matmul(&mut self, x: &Tensor, weight: &Weight) -> Result<Tensor> {
        let out = self.temp(&[x.rows(), weight.spec().rows]);
        self.matmul_into(&out, x, weight)?;
        Ok(out)
    }

    fn matmul_into(&mut self, out: &Tensor, x: &Tensor, weight: &Weight) -> Result<()> {
        self.b.push(Matmul {
            out: out.clone(),
            x: x.clone(),
            weight: weight.clone(),
            groups: RowGroups::Cyclic,
        })
    }

    fn rounded(&mut self, x: Tensor, codec: Option<RowCodec>) -> Result<Tensor> {
        let Some(codec) = codec else { return Ok(x) };
        let out = self.temp(x.dims());
        self.b.push(Convert {
            out: out.clone(),
            x,
            scales: None,
            form: ConvertForm::RoundTrip(codec),
        })?;
        Ok(out)
    }

    fn emit(&mut self) -> Result<()> {
        let (n, s, d) = (self.rows(), self.e.config.streams, self.e.config.hidden);
        // Streams and, behind them, the block's output y; two buffers alternate.
        let mut xy = self.temp(&[n, (s + 1) * d]);
        let mut other = self.temp(&[n, (s + 1) * d]);
        self.embed(&xy)?;
        let x = self.temp(&[n, d]);
        let mut mix = self.b.temp(DType::F32, &[n, self.e.config.mix_width()]);
        for (layer, params) in self.e.params.layers.iter().enumerate() {
            for ffn in [false, true] {
                let name = if ffn { "ffn" } else { "attn" };
                self.b.at(layer as u16, name);
                let site = self.e.site(if ffn { &params.ffn_site } else { &params.attn_site });
                let streams = |t: &Tensor| t.columns(0, &[s * d]);
                if layer == 0 && !ffn {
                    self.b.push(HcPre {
                        out: x.clone(),
                        mix: mix.clone(),
                        streams: streams(&xy),
                        site,
                    })?;
                } else {
                    let next = self.b.temp(DType::F32, mix.dims());
                    self.b.push(HcTurn {
                        out: x.clone(),
                        mix: next.clone(),
                        streams: streams(&other),
                        old: xy.clone(),
                        old_mix: mix,
                        site,
                    })?;
                    mix = next;
                    std::mem::swap(&mut xy, &mut other);
                }
                let y = xy.columns(s * d, &[d]);
                match ffn {
                    false => self.attention(layer, params, &x, &y)?,
                    true => self.experts(layer, params, &x, &y)?,
                }
            }
        }
        self.b.at(Site::EDGE, "streams");
        self.b.push(Reduce {
            out: self.e.streams.row_range(0, n).columns(0, &[s, d]),
            x: xy.columns(0, &[s + 1, d]),
            f: ReduceFn::Mix(mix.columns(s, &[s + 1, s])),
        })
    }

    fn embed(&mut self, xy: &Tensor) -> Result<()> {
        let (n, s, d) = (self.rows(), self.e.config.streams, self.e.config.hidden);
        self.b.at(Site::EDGE, "embed");
        let table = self.e.params.embedding.clone();
        let rows = self.b.temp(table.dtype(), &[n, d]);
        self.b.push(Gather {
            out: rows.clone(),
            source: GatherSource::Rows { source: table, more: None },
            index: self.field(&self.layout.token)?,
            per: 1,
        })?;
        self.b.push(Map { out: xy.columns(0, &[s, d]), f: MapFn::Copy(rows.reshape(&[n, 1, d])) })
    }

    fn attention(
        &mut self,
        layer: usize,
        params: &LayerParams,
        x: &Tensor,
        y: &Tensor,
    ) -> Result<()> {
        let (n, config) = (self.rows(), self.e.config);
        let (heads, c) = (config.heads, config.head_dim);
        let spec = config.layers[layer];
        let compressed = spec.compressed();
        let angle = self.field(match compressed {
            true => &self.layout.angle_compress,
            false => &self.layout.angle_main,
        })?;
        let near = self.e.part(layer, Part::Near).clone();
        let rings = self.e.capacity.slots * window_ring(config);
        let landing = near.row_range(rings, n);

        let x8 = self.rounded(x.clone(), self.e.fp8())?;
        let latent = self.query_latent(params, &x8)?;
        let q = self.matmul(&latent, &params.wq_b)?.reshape(&[n * heads, c]);
        let q = self.finish(&q, None, &angle, heads)?.reshape(&[n, heads, c]);
        let kv = self.matmul(&x8, &params.wkv)?;
        self.b.push(QkFinish {
            out: landing.clone(),
            x: kv,
            gain: Some(params.kv_norm.clone()),
            angle: angle.clone(),
            heads: 1,
            epsilon: self.e.norm_epsilon(),
            round: self.e.cached(near.codec()),
        })?;
        let far = match (&params.compressor, compressed) {
            (Some(compressor), true) => Some(self.far(layer, spec, compressor, x, &latent)?),
            _ => None,
        };
        self.b.push(AttendProject {
            out: y.clone(),
            q,
            sink: params.sink.clone(),
            near: Listed { cache: near.clone(), index: self.field(&self.layout.near)? },
            far,
            angle,
            wo_a: params.wo_a.clone(),
            wo_b: params.wo_b.clone(),
            scale: (f64::from(c)).powf(-0.5) as f32,
            round: self.e.fp8(),
        })?;
        self.b.push(Scatter {
            target: near.row_range(0, rings),
            source: landing,
            index: self.field(&self.layout.near_keep)?,
        })
    }

    /// The normed query latent, rounded for the products that read it.
    fn query_latent(&mut self, params: &LayerParams, x8: &Tensor) -> Result<Tensor> {
        let raw = self.matmul(x8, &params.wq_a)?;
        let out = self.temp(raw.dims());
        let (gain, epsilon) = (Some(params.q_norm.clone()), self.e.norm_epsilon());
        match self.e.fp8() {
            Some(round) => {
                self.b.push(NormQuant { out: out.clone(), x: raw, gain, epsilon, round })?;
            }
            None => self.b.push(RmsNorm { out: out.clone(), x: raw, gain, epsilon })?,
        }
        Ok(out)
    }

    /// Norm per head and rope of queries.
    fn finish(
        &mut self,
        x: &Tensor,
        gain: Option<Tensor>,
        angle: &Tensor,
        heads: u32,
    ) -> Result<Tensor> {
        let out = self.temp(x.dims());
        self.b.push(QkFinish {
            out: out.clone(),
            x: x.clone(),
            gain,
            angle: angle.clone(),
            heads,
            epsilon: self.e.norm_epsilon(),
            round: None,
        })?;
        Ok(out)
    }

    /// Makes this step's entries and says which of them each query sees.
    fn far(
        &mut self,
        layer: usize,
        spec: LayerSpec,
        compressor: &CompressorParams,
        x: &Tensor,
        latent: &Tensor,
    ) -> Result<Far> {
        let fields = *self.layout.ratio(spec.ratio).expect("the layout has every ratio");
        let cache = self.compress(layer, spec, &fields, Pooled::Main, compressor, x)?;
        match &compressor.indexer {
            None => Ok(Far::Visible(self.visible(cache, spec.ratio, &fields)?)),
            Some(indexer) => {
                let keys = self.compress(layer, spec, &fields, Pooled::Index, &indexer.pool, x)?;
                let keys = self.visible(keys, spec.ratio, &fields)?;
                let index = self.select(indexer, keys, x, latent)?;
                Ok(Far::Listed(Listed { cache, index }))
            }
        }
    }

    fn visible(&self, cache: Tensor, ratio: u32, fields: &RatioFields) -> Result<Visible> {
        Ok(Visible {
            cache,
            reach: self.field(&fields.reach)?,
            pages: self.field(&self.layout.pages)?,
            per: entries_per_page(ratio),
        })
    }

    /// One compressor over this step's completed windows; returns the cache of its entries.
    fn compress(
        &mut self,
        layer: usize,
        spec: LayerSpec,
        fields: &RatioFields,
        pooled: Pooled,
        params: &CompressorParams,
        x: &Tensor,
    ) -> Result<Tensor> {
        let span = spec.halves * pooled.width(self.e.config);
        let entries = self.e.part(layer, Part::Entries(pooled)).clone();
        let tail = self.e.part(layer, Part::Tail(pooled)).clone();
        // A landing row holds values, then gates; all of a compressor is f32 (spec section 7).
        let landing = self.b.temp(DType::F32, &[self.rows(), 2 * span]);
        self.matmul_into(&landing, x, &params.project)?;
        let rotation = match (pooled, self.e.numerics) {
            (Pooled::Index, Numerics::Served) => self.e.params.rotation.clone(),
            _ => None,
        };
        self.b.push(Compress {
            entries: entries.clone(),
            tail,
            landing,
            bias: params.bias.clone(),
            gain: params.norm.clone(),
            pool: self.field(&fields.pool)?,
            entry_angle: self.field(&fields.entry_angle)?,
            entry_row: self.field(&fields.entry_row)?,
            tail_keep: self.field(&fields.tail_keep)?,
            epsilon: self.e.norm_epsilon(),
            activation: self.e.numerics.activation(),
            rotation,
            round: self.e.cached(entries.codec()),
        })?;
        Ok(entries)
    }

    /// Cache rows of the entries each query attends to (spec section 8).
    fn select(
        &mut self,
        indexer: &IndexerParams,
        keys: Visible,
        x: &Tensor,
        latent: &Tensor,
    ) -> Result<Tensor> {
        let (n, config) = (self.rows(), self.e.config);
        let (heads, c) = (config.index_heads, config.index_head_dim);
        let q = self.matmul(latent, &indexer.wq_b)?.reshape(&[n * heads, c]);
        let mut turned = self.temp(q.dims());
        self.b.push(Rope {
            out: turned.clone(),
            x: q,
            angle: self.field(&self.layout.angle_compress)?,
            heads,
            inverse: false,
        })?;
        if let (Numerics::Served, Some(rotation)) = (self.e.numerics, &self.e.params.rotation) {
            turned = self.matmul(&turned, rotation)?;
            turned = self.rounded(turned, self.e.cached(keys.cache.codec()))?;
        }
        let weight = self.matmul(x, &indexer.weights)?;
        let out = self.b.temp(DType::I32, &[n, config.index_top]);
        self.b.push(IndexSelect {
            out: out.clone(),
            q: turned.reshape(&[n, heads, c]),
            weight,
            keys,
            scale: (f64::from(c).powf(-0.5) * f64::from(heads).powf(-0.5)) as f32,
            tile: INDEX_TILE,
        })?;
        Ok(out)
    }

    fn experts(
        &mut self,
        layer: usize,
        params: &LayerParams,
        x: &Tensor,
        y: &Tensor,
    ) -> Result<()> {
        let (n, config) = (self.rows(), self.e.config);
        let k = config.experts_per_token;
        let ids = match self.e.picks {
            Some(picks) => picks.row_range(layer as u32 * n, n),
            None => self.b.temp(DType::I32, &[n, k]),
        };
        let shares = self.b.temp(DType::F32, &[n, k]);
        let scale = config.routed_scaling as f32;
        let (gate, x_in) = (params.gate.clone(), x.clone());
        match &params.router {
            Router::Score { bias } => self.b.push(Route {
                ids: ids.clone(),
                shares: shares.clone(),
                x: x_in,
                gate,
                bias: bias.clone(),
                count: self.field(&self.layout.experts)?,
                scale,
            })?,
            Router::Table { table } => self.b.push(RouteTable {
                ids: ids.clone(),
                shares: shares.clone(),
                x: x_in,
                gate,
                table: table.clone(),
                token: self.field(&self.layout.token)?,
                scale,
            })?,
        }
        let routed = self.b.temp(DType::F32, &[n, config.hidden]);
        let (clamp, round) = (config.swiglu_limit as f32, self.e.fp8());
        self.b.push(MoeExperts {
            out: routed.clone(),
            x: x.clone(),
            ids,
            shares,
            gate_up: params.experts_gate_up.clone(),
            down: params.experts_down.clone(),
            clamp,
            round,
        })?;
        self.b.push(SwigluMlp {
            out: y.clone(),
            x: x.clone(),
            gate_up: params.shared_gate_up.clone(),
            down: params.shared_down.clone(),
            add: routed,
            clamp,
            round,
        })
    }
}

/// A tensor over all rows of a state buffer.
///
/// # Errors
/// `InvalidProgram` if the buffer is smaller than the part.
pub fn part_tensor(buffer: Buffer, spec: &PartSpec) -> Result<Tensor> {
    let shape = Shape::new(&[spec.rows as u32, spec.width]);
    Tensor::new(buffer, 0, shape, spec.dtype, spec.codec)
}
