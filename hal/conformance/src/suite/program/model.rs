//! The small model: a window layer routed by table, a layer with chosen entries and one with all
//! visible ones routed by score, and a head. Fused ops wherever there are any.

use hal::op::*;
use hal::{Builder, DType, Encoding, Program, Result, RowCodec, Tensor, Weight};
use kernels::case::{Array, Make, WeightData};

use super::block::{self, PAGE, PAGES, RING, Ratio, Run, SEQUENCES, TURNED, WINDOW};

const WIDTH: u32 = 64;
const STREAMS: u32 = 4;
const MIX: u32 = 2 * STREAMS + STREAMS * STREAMS;
const LATENT: u32 = 32;
const HEADS: u32 = 4;
const KEY: u32 = 40;
const GROUPS: u32 = 2;
const INDEX_HEADS: u32 = 2;
const INDEX_KEY: u32 = 32;
const CHOSEN: u32 = 2;
const EXPERTS: u32 = 6;
const PICKED: u32 = 2;
const HIDDEN: u32 = 32;
const VOCABULARY: u32 = 40;

const OVERLAPPING: Ratio = Ratio { tokens: 4, halves: 2 };
const APART: Ratio = Ratio { tokens: 8, halves: 1 };
const BASES: [f64; 2] = [100.0, 1000.0];

/// How values are stored and rounded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Numerics {
    /// f32 everywhere, nothing rounded on purpose.
    Plain,
    /// bf16, FP8 keys and activations, FP4 index keys and experts.
    Served,
}

impl Numerics {
    fn activation(self) -> DType {
        if self == Numerics::Served { DType::Bf16 } else { DType::F32 }
    }
    fn served(self, codec: RowCodec) -> Option<RowCodec> {
        (self == Numerics::Served).then_some(codec)
    }
    fn round(self) -> Option<RowCodec> {
        self.served(RowCodec::Fp8 { block: 32, tail: 0 })
    }
    fn key(self) -> Option<RowCodec> {
        self.served(RowCodec::Fp8 { block: 32, tail: TURNED as u16 })
    }
    fn index_key(self) -> Option<RowCodec> {
        self.served(RowCodec::Fp4 { block: 32 })
    }
    fn dense(self) -> Encoding {
        match self {
            Numerics::Plain => Encoding::Plain(DType::F32),
            Numerics::Served => Encoding::Fp8Block { rows: 128, cols: 128 },
        }
    }
    fn expert(self) -> Encoding {
        match self {
            Numerics::Plain => Encoding::Plain(DType::F32),
            Numerics::Served => Encoding::Fp4Block { cols: 32 },
        }
    }
}

/// Places of a site's parameters.
#[derive(Clone, Copy)]
struct Site {
    function: usize,
    base: usize,
    scale: usize,
    gain: usize,
}

/// Places of a compressor's parameters and state.
#[derive(Clone, Copy)]
struct Compressor {
    values: usize,
    gates: usize,
    bias: usize,
    gain: usize,
    entries: usize,
    tail: usize,
    width: u32,
}

/// Places of an indexer.
#[derive(Clone, Copy)]
struct Indexer {
    compressor: Compressor,
    queries: usize,
    weights: usize,
    rotation: usize,
}

/// Places of one layer.
#[derive(Clone)]
struct Layer {
    ratio: Option<Ratio>,
    sites: [Site; 2],
    wq_a: usize,
    q_gain: usize,
    wq_b: usize,
    wkv: usize,
    kv_gain: usize,
    sink: usize,
    wo_a: usize,
    wo_b: usize,
    near: usize,
    compressor: Option<Compressor>,
    indexer: Option<Indexer>,
    gate: usize,
    bias: Option<usize>,
    gate_up: usize,
    down: usize,
    shared_gate_up: usize,
    shared_down: usize,
}

/// Places of a ratio's fields.
#[derive(Clone, Copy)]
struct RatioFields {
    reach: usize,
    pool: usize,
    entry_row: usize,
    entry_angle: usize,
    tail_keep: usize,
}

/// Places of the step block.
#[derive(Clone, Copy)]
struct Fields {
    token: usize,
    experts: usize,
    angles: [usize; 2],
    near: usize,
    near_keep: usize,
    ratios: [RatioFields; 2],
    logit_rows: usize,
}

/// The model for steps of some number of rows, and everything it reads and writes.
pub(super) struct Model {
    numerics: Numerics,
    rows: u32,
    pub(super) arrays: Vec<Array>,
    pub(super) weights: Vec<WeightData>,
    pub(super) logits: usize,
    embedding: usize,
    table: usize,
    pages: usize,
    layers: Vec<Layer>,
    fields: Fields,
    head: Site,
    vocabulary: usize,
}

const RATIOS: [Ratio; 2] = [OVERLAPPING, APART];

impl Model {
    /// Parameters depend on the numerics only, so that models of different rows agree.
    pub(super) fn new(numerics: Numerics, rows: u32) -> Model {
        let mut make = Make::new(2026);
        let activation = numerics.activation();
        let embedding = make.shared_reals("embedding", activation, &[VOCABULARY, WIDTH]);
        let picks = (0..VOCABULARY).flat_map(|_| make.random.distinct(PICKED as usize, EXPERTS));
        let picks = picks.collect::<Vec<_>>().into_iter().map(f64::from).collect();
        let table = make.shared("table", DType::I32, &[VOCABULARY, PICKED], picks);
        let pages = PAGES.iter().flatten().map(|&page| f64::from(page)).collect();
        let pages = make.shared("pages", DType::I32, &[SEQUENCES, PAGES[0].len() as u32], pages);
        let ratios = [None, Some(OVERLAPPING), Some(APART)];
        let layers = ratios.map(|ratio| layer(&mut make, numerics, ratio)).to_vec();
        let head = site(&mut make, STREAMS);
        let vocabulary = make.weight(1, VOCABULARY, WIDTH, Encoding::Plain(activation));
        // From here on sizes depend on the rows: nothing random may follow but what nobody reads.
        let mut model = Model {
            numerics,
            rows,
            arrays: Vec::new(),
            weights: Vec::new(),
            logits: 0,
            embedding,
            table,
            pages,
            layers,
            fields: fields(&mut make, rows),
            head,
            vocabulary,
        };
        for layer in &mut model.layers {
            let codec = numerics.key().unwrap_or(RowCodec::Plain);
            layer.near = make.updated("near", activation, codec, &[SEQUENCES * RING + rows, KEY]);
        }
        model.logits = make.out(DType::F32, &[rows, VOCABULARY], 1);
        (model.arrays, model.weights) = make.into_parts();
        model
    }

    /// The step block of a batch: place and values of each field.
    pub(super) fn fields(&self, batch: &[Run]) -> Vec<(usize, Vec<f64>)> {
        let (rows, fields) = (self.rows, &self.fields);
        let mut all = vec![
            (fields.token, block::tokens(batch, rows, VOCABULARY)),
            (fields.experts, block::experts(batch, rows, EXPERTS)),
            (fields.angles[0], block::angles(batch, rows, BASES[0])),
            (fields.angles[1], block::angles(batch, rows, BASES[1])),
            (fields.near, block::near(batch, rows)),
            (fields.near_keep, block::keep(batch, rows, RING)),
        ];
        for (places, ratio) in fields.ratios.iter().zip(RATIOS) {
            let pooling = block::pooling(batch, rows, ratio, BASES[1]);
            all.push((places.reach, block::reach(batch, rows, ratio)));
            all.push((places.pool, pooling.pool));
            all.push((places.entry_row, pooling.entry_row));
            all.push((places.entry_angle, pooling.entry_angle));
            all.push((places.tail_keep, block::keep(batch, rows, ratio.ring())));
        }
        let live: u32 = batch.iter().map(|run| run.count).sum();
        let wanted = |row| if row < live { f64::from(row) } else { -1.0 };
        all.push((fields.logit_rows, (0..rows).map(wanted).collect()));
        all
    }

    /// The whole step.
    pub(super) fn program(&self, t: &[Tensor], w: &[Weight]) -> Result<Program> {
        let mut emit =
            Emit { model: self, t, w, b: Builder::new(), activation: self.numerics.activation() };
        let (n, d) = (self.rows, WIDTH);
        // Streams and, behind them, the block's output; two buffers alternate.
        let mut streams = emit.temp(&[n, (STREAMS + 1) * d]);
        let mut other = emit.temp(&[n, (STREAMS + 1) * d]);
        emit.embed(&streams)?;
        for (number, layer) in self.layers.iter().enumerate() {
            for (part, site) in layer.sites.iter().enumerate() {
                let name = ["attention", "experts"][part];
                emit.b.at(number as u16, name);
                let (x, mix) = emit.begin(site, &streams)?;
                let y = streams.columns(STREAMS * d, &[d]);
                match part {
                    0 => emit.attention(layer, &x, &y)?,
                    _ => emit.experts(layer, &x, &y)?,
                }
                emit.end(&mix, &streams, &other)?;
                std::mem::swap(&mut streams, &mut other);
            }
        }
        emit.head(&streams)?;
        emit.b.finish()
    }
}

fn site(make: &mut Make, mix: u32) -> Site {
    let scales = if mix == STREAMS { 1 } else { 3 };
    Site {
        function: make.weight(1, mix, STREAMS * WIDTH, Encoding::Plain(DType::F32)),
        base: make.shared_reals("base", DType::F32, &[mix]),
        scale: make.shared("scale", DType::F32, &[scales], vec![0.8; scales as usize]),
        gain: gain(make, WIDTH),
    }
}

fn gain(make: &mut Make, width: u32) -> usize {
    let values = (0..width).map(|_| 1.0 + 0.1 * make.random.gauss()).collect();
    make.shared("gain", DType::F32, &[width], values)
}

fn compressor(
    make: &mut Make,
    numerics: Numerics,
    (ratio, width): (Ratio, u32),
    codec: Option<RowCodec>,
) -> Compressor {
    let pieces = ratio.halves * width;
    let dense = Encoding::Plain(numerics.activation());
    let (activation, codec) = (numerics.activation(), codec.unwrap_or(RowCodec::Plain));
    let entries = PAGES.as_flattened().len() as u32 * (PAGE / ratio.tokens);
    Compressor {
        values: make.weight(1, pieces, WIDTH, dense),
        gates: make.weight(1, pieces, WIDTH, dense),
        bias: make.shared_reals("bias", DType::F32, &[ratio.slots(), width]),
        gain: gain(make, width),
        entries: make.updated("entries", activation, codec, &[entries, width]),
        tail: make.updated(
            "tail",
            DType::F32,
            RowCodec::Plain,
            &[SEQUENCES * ratio.ring(), 2 * pieces],
        ),
        width,
    }
}

fn layer(make: &mut Make, numerics: Numerics, ratio: Option<Ratio>) -> Layer {
    let (dense, expert) = (numerics.dense(), numerics.expert());
    let plain = Encoding::Plain(numerics.activation());
    let chosen = ratio.filter(|ratio| ratio.halves == 2);
    let rank = 16;
    Layer {
        ratio,
        sites: [site(make, MIX), site(make, MIX)],
        wq_a: make.weight(1, LATENT, WIDTH, dense),
        q_gain: gain(make, LATENT),
        wq_b: make.weight(1, HEADS * KEY, LATENT, dense),
        wkv: make.weight(1, KEY, WIDTH, dense),
        kv_gain: gain(make, KEY),
        sink: make.shared_reals("sink", DType::F32, &[HEADS]),
        wo_a: make.segmented(GROUPS, rank, HEADS / GROUPS * KEY, GROUPS * rank, plain),
        wo_b: make.weight(1, WIDTH, GROUPS * rank, dense),
        near: 0,
        compressor: ratio.map(|ratio| compressor(make, numerics, (ratio, KEY), numerics.key())),
        indexer: chosen.map(|ratio| Indexer {
            compressor: compressor(make, numerics, (ratio, INDEX_KEY), numerics.index_key()),
            queries: make.weight(1, INDEX_HEADS * INDEX_KEY, LATENT, dense),
            weights: make.weight(1, INDEX_HEADS, WIDTH, plain),
            rotation: make.weight(1, INDEX_KEY, INDEX_KEY, plain),
        }),
        gate: make.weight(1, EXPERTS, WIDTH, plain),
        bias: ratio.map(|_| make.shared_reals("bias", DType::F32, &[EXPERTS])),
        gate_up: make.segmented(EXPERTS, 2 * HIDDEN, WIDTH, HIDDEN, expert),
        down: make.weight(EXPERTS, WIDTH, HIDDEN, expert),
        shared_gate_up: make.segmented(1, 2 * HIDDEN, WIDTH, HIDDEN, dense),
        shared_down: make.weight(1, WIDTH, HIDDEN, dense),
    }
}

fn fields(make: &mut Make, rows: u32) -> Fields {
    let mut ints = |name, dims: &[u32]| {
        let count = dims.iter().product::<u32>() as usize;
        make.rows(name, DType::I32, dims, 1, vec![-1.0; count], -1.0)
    };
    let (token, experts) = (ints("token", &[rows, 1]), ints("experts", &[rows, 1]));
    let (near, near_keep) = (ints("near", &[rows, WINDOW]), ints("near_keep", &[rows, 1]));
    let logit_rows = ints("logit_rows", &[rows, 1]);
    let mut ratio = |ratio: Ratio| {
        let windows = ratio.windows(rows);
        (
            ints("reach", &[rows, 2]),
            ints("pool", &[2 * windows, ratio.slots()]),
            ints("entry_row", &[windows, 1]),
            ints("tail_keep", &[rows, 1]),
        )
    };
    let lists = RATIOS.map(&mut ratio);
    let mut angle = |name, count: u32| {
        let zeros = vec![0.0; (count * TURNED) as usize];
        make.rows(name, DType::F32, &[count, TURNED], 1, zeros, 0.0)
    };
    let angles = [angle("rope_main", rows), angle("rope_compress", rows)];
    let entry_angles = RATIOS.map(|ratio| angle("entry_rope", ratio.windows(rows)));
    let mut place = 0;
    let ratios = lists.map(|(reach, pool, entry_row, tail_keep)| {
        let entry_angle = entry_angles[place];
        place += 1;
        RatioFields { reach, pool, entry_row, entry_angle, tail_keep }
    });
    Fields { token, experts, angles, near, near_keep, ratios, logit_rows }
}

/// Emits one step.
struct Emit<'a> {
    model: &'a Model,
    t: &'a [Tensor],
    w: &'a [Weight],
    b: Builder,
    activation: DType,
}

impl Emit<'_> {
    fn temp(&mut self, dims: &[u32]) -> Tensor {
        self.b.temp(self.activation, dims)
    }

    fn at(&self, place: usize) -> Tensor {
        self.t[place].clone()
    }

    fn product(&mut self, out: &Tensor, x: &Tensor, weight: usize) -> Result<()> {
        let (out, x, weight) = (out.clone(), x.clone(), self.w[weight].clone());
        self.b.push(Matmul { out, x, weight, groups: RowGroups::Cyclic })
    }

    /// `x` after the round trip, if there is one.
    fn rounded(&mut self, x: &Tensor, codec: Option<RowCodec>) -> Result<Tensor> {
        let Some(codec) = codec else { return Ok(x.clone()) };
        let out = self.temp(x.dims());
        let form = ConvertForm::RoundTrip(codec);
        self.b.push(Convert { out: out.clone(), x: x.clone(), scales: None, form })?;
        Ok(out)
    }

    fn embed(&mut self, streams: &Tensor) -> Result<()> {
        let (n, model) = (self.model.rows, self.model);
        self.b.at(hal::Site::EDGE, "embed");
        let x = self.temp(&[n, WIDTH]);
        let source = GatherSource::Rows { source: self.at(model.embedding), more: None };
        let index = self.at(model.fields.token);
        self.b.push(Gather { out: x.clone(), source, index, per: 1 })?;
        let f = MapFn::Copy(x.reshape(&[n, 1, WIDTH]));
        self.b.push(Map { out: streams.columns(0, &[STREAMS, WIDTH]), f })
    }

    fn site(&self, site: &Site) -> HcSite {
        HcSite {
            function: self.w[site.function].clone(),
            base: self.at(site.base),
            scale: self.at(site.scale),
            gain: self.at(site.gain),
            streams: STREAMS,
            rounds: 3,
            epsilon: 1e-6,
            norm_epsilon: 1e-6,
        }
    }

    fn begin(&mut self, site: &Site, streams: &Tensor) -> Result<(Tensor, Tensor)> {
        let n = self.model.rows;
        let (out, mix) = (self.temp(&[n, WIDTH]), self.b.temp(DType::F32, &[n, MIX]));
        let streams = streams.columns(0, &[STREAMS * WIDTH]);
        let site = self.site(site);
        self.b.push(HcPre { out: out.clone(), mix: mix.clone(), streams, site })?;
        Ok((out, mix))
    }

    fn end(&mut self, mix: &Tensor, streams: &Tensor, other: &Tensor) -> Result<()> {
        self.b.push(Reduce {
            out: other.columns(0, &[STREAMS, WIDTH]),
            x: streams.columns(0, &[STREAMS + 1, WIDTH]),
            f: ReduceFn::Mix(mix.columns(STREAMS, &[STREAMS + 1, STREAMS])),
        })
    }

    /// Angles: windows alone turn by the first base, compressed layers by the second.
    fn angle(&self, layer: &Layer) -> Tensor {
        self.at(self.model.fields.angles[usize::from(layer.ratio.is_some())])
    }

    fn attention(&mut self, layer: &Layer, x: &Tensor, y: &Tensor) -> Result<()> {
        let (n, numerics) = (self.model.rows, self.model.numerics);
        let angle = self.angle(layer);
        let xq = self.rounded(x, numerics.round())?;
        let (latent, normed) = (self.temp(&[n, LATENT]), self.temp(&[n, LATENT]));
        self.product(&latent, &xq, layer.wq_a)?;
        let gain = Some(self.at(layer.q_gain));
        let norm = RmsNorm { out: normed.clone(), x: latent, gain, epsilon: 1e-6 };
        self.b.push(norm)?;
        let latent = self.rounded(&normed, numerics.round())?;
        let (raw, q) = (self.temp(&[n, HEADS * KEY]), self.temp(&[n * HEADS, KEY]));
        self.product(&raw, &latent, layer.wq_b)?;
        let raw = raw.reshape(&[n * HEADS, KEY]);
        self.finish(&q, &raw, None, &angle, HEADS, None)?;
        let kv = self.temp(&[n, KEY]);
        self.product(&kv, &xq, layer.wkv)?;
        let near = self.at(layer.near);
        let landing = near.row_range(SEQUENCES * RING, n);
        self.finish(&landing, &kv, Some(layer.kv_gain), &angle, 1, numerics.key())?;
        let far = self.far(layer, x, &latent, &angle)?;
        self.b.push(AttendProject {
            out: y.clone(),
            q: q.reshape(&[n, HEADS, KEY]),
            sink: self.at(layer.sink),
            near: Listed { cache: near.clone(), index: self.at(self.model.fields.near) },
            far,
            angle,
            wo_a: self.w[layer.wo_a].clone(),
            wo_b: self.w[layer.wo_b].clone(),
            scale: 1.0 / (KEY as f32).sqrt(),
            round: numerics.round(),
        })?;
        self.b.push(Scatter {
            target: near.row_range(0, SEQUENCES * RING),
            source: landing,
            index: self.at(self.model.fields.near_keep),
        })
    }

    fn finish(
        &mut self,
        out: &Tensor,
        x: &Tensor,
        gain: Option<usize>,
        angle: &Tensor,
        heads: u32,
        round: Option<RowCodec>,
    ) -> Result<()> {
        let gain = gain.map(|gain| self.at(gain));
        let (out, x, angle) = (out.clone(), x.clone(), angle.clone());
        self.b.push(QkFinish { out, x, gain, angle, heads, epsilon: 1e-6, round })
    }

    /// The far cache of a compressed layer, with this step's entries in it.
    fn far(
        &mut self,
        layer: &Layer,
        x: &Tensor,
        latent: &Tensor,
        angle: &Tensor,
    ) -> Result<Option<Far>> {
        let (Some(ratio), Some(compressor)) = (layer.ratio, layer.compressor) else {
            return Ok(None);
        };
        let numerics = self.model.numerics;
        let fields = self.model.fields.ratios[usize::from(ratio.halves == 1)];
        self.compress(&compressor, &fields, ratio, x, None, numerics.key())?;
        let visible = |emit: &Self, compressor: &Compressor| Visible {
            cache: emit.at(compressor.entries),
            reach: emit.at(fields.reach),
            pages: emit.at(emit.model.pages),
            per: ratio.per(),
        };
        let Some(indexer) = layer.indexer else {
            return Ok(Some(Far::Visible(visible(self, &compressor))));
        };
        let rotation = Some(indexer.rotation);
        let round = numerics.index_key();
        self.compress(&indexer.compressor, &fields, ratio, x, rotation, round)?;
        let (q, weight) = self.index_queries(&indexer, x, latent, angle)?;
        let index = self.b.temp(DType::I32, &[self.model.rows, CHOSEN]);
        let keys = visible(self, &indexer.compressor);
        self.b.push(IndexSelect { out: index.clone(), q, weight, keys, scale: 0.3, tile: 5 })?;
        Ok(Some(Far::Listed(Listed { cache: self.at(compressor.entries), index })))
    }

    fn compress(
        &mut self,
        compressor: &Compressor,
        fields: &RatioFields,
        ratio: Ratio,
        x: &Tensor,
        rotation: Option<usize>,
        round: Option<RowCodec>,
    ) -> Result<()> {
        let pieces = ratio.halves * compressor.width;
        let landing = self.b.temp(DType::F32, &[self.model.rows, 2 * pieces]);
        self.product(&landing.columns(0, &[pieces]), x, compressor.values)?;
        self.product(&landing.columns(pieces, &[pieces]), x, compressor.gates)?;
        self.b.push(Compress {
            entries: self.at(compressor.entries),
            tail: self.at(compressor.tail),
            landing,
            bias: self.at(compressor.bias),
            gain: self.at(compressor.gain),
            pool: self.at(fields.pool),
            entry_angle: self.at(fields.entry_angle),
            entry_row: self.at(fields.entry_row),
            tail_keep: self.at(fields.tail_keep),
            epsilon: 1e-6,
            activation: self.activation,
            rotation: rotation.map(|rotation| self.w[rotation].clone()),
            round,
        })
    }

    /// Queries of the indexer, `[n, heads, key]`, and their weights.
    fn index_queries(
        &mut self,
        indexer: &Indexer,
        x: &Tensor,
        latent: &Tensor,
        angle: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let n = self.model.rows;
        let rows = [n * INDEX_HEADS, INDEX_KEY];
        let raw = self.temp(&[n, INDEX_HEADS * INDEX_KEY]);
        self.product(&raw, latent, indexer.queries)?;
        let (turned, rotated) = (self.temp(&rows), self.temp(&rows));
        self.b.push(Rope {
            out: turned.clone(),
            x: raw.reshape(&rows),
            angle: angle.clone(),
            heads: INDEX_HEADS,
            inverse: false,
        })?;
        self.product(&rotated, &turned, indexer.rotation)?;
        let q = self.rounded(&rotated, self.model.numerics.index_key())?;
        let weight = self.temp(&[n, INDEX_HEADS]);
        self.product(&weight, x, indexer.weights)?;
        Ok((q.reshape(&[n, INDEX_HEADS, INDEX_KEY]), weight))
    }

    fn experts(&mut self, layer: &Layer, x: &Tensor, y: &Tensor) -> Result<()> {
        let (n, round) = (self.model.rows, self.model.numerics.round());
        let ids = self.b.temp(DType::I32, &[n, PICKED]);
        let shares = self.b.temp(DType::F32, &[n, PICKED]);
        let gate = self.w[layer.gate].clone();
        let (out_ids, out_shares, x) = (ids.clone(), shares.clone(), x.clone());
        match layer.bias {
            Some(bias) => self.b.push(Route {
                ids: out_ids,
                shares: out_shares,
                x: x.clone(),
                gate,
                bias: self.at(bias),
                count: self.at(self.model.fields.experts),
                scale: 1.5,
            })?,
            None => self.b.push(RouteTable {
                ids: out_ids,
                shares: out_shares,
                x: x.clone(),
                gate,
                table: self.at(self.model.table),
                token: self.at(self.model.fields.token),
                scale: 1.5,
            })?,
        }
        let routed = self.b.temp(DType::F32, &[n, WIDTH]);
        self.b.push(MoeExperts {
            out: routed.clone(),
            x: x.clone(),
            ids,
            shares,
            gate_up: self.w[layer.gate_up].clone(),
            down: self.w[layer.down].clone(),
            clamp: 7.0,
            round,
        })?;
        self.b.push(SwigluMlp {
            out: y.clone(),
            x,
            gate_up: self.w[layer.shared_gate_up].clone(),
            down: self.w[layer.shared_down].clone(),
            add: routed,
            clamp: 7.0,
            round,
        })
    }

    fn head(&mut self, streams: &Tensor) -> Result<()> {
        self.b.at(hal::Site::EDGE, "head");
        let model = self.model;
        self.b.push(Head {
            out: self.at(model.logits),
            streams: streams.columns(0, &[STREAMS * WIDTH]),
            rows: self.at(model.fields.logit_rows),
            site: self.site(&model.head),
            vocabulary: self.w[model.vocabulary].clone(),
        })
    }
}
