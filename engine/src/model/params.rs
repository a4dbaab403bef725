//! The parameters of a model on a device: weights in the device's own layout, small tensors as
//! constants. Loading reads the checkpoint once, in the order of the layers, and reports progress.

use hal::{
    Buffer, DType, Device, Encoding, RowCodec, Shape, SharedBytes, Tensor, Weight, WeightPart,
    WeightSource, WeightSpec, WeightSupport,
};

use super::Numerics;
use crate::config::{Leaf, ModelConfig};
use crate::error::{Error, Result};
use crate::load::{Block, Checkpoint, Role};

/// Parameters of a hyper-connection site and the norm behind it.
#[derive(Clone, Debug)]
pub struct SiteParams {
    /// `[1, m, s·D]`
    pub function: Weight,
    /// f32 `[m]`
    pub base: Tensor,
    /// f32 `[3]` or `[1]`
    pub scale: Tensor,
    /// f32 `[D]`
    pub gain: Tensor,
}

/// Parameters of a compressor.
#[derive(Clone, Debug)]
pub struct CompressorParams {
    /// `[1, 2·halves·w, D]`: values, then gates.
    pub project: Weight,
    /// f32 `[slots, w]`
    pub bias: Tensor,
    /// f32 `[w]`
    pub norm: Tensor,
    /// Where entries are picked.
    pub indexer: Option<Box<IndexerParams>>,
}

/// Parameters of an indexer.
#[derive(Clone, Debug)]
pub struct IndexerParams {
    /// `[1, h·c, q_rank]`
    pub wq_b: Weight,
    /// `[1, h, D]`
    pub weights: Weight,
    /// The compressor of its keys.
    pub pool: CompressorParams,
}

/// How a layer chooses experts.
#[derive(Clone, Debug)]
pub enum Router {
    /// By score.
    Score {
        /// f32 `[E]`
        bias: Tensor,
    },
    /// By token.
    Table {
        /// i32 `[V, k]`
        table: Tensor,
    },
}

/// Parameters of one layer (spec section 12).
#[derive(Clone, Debug)]
pub struct LayerParams {
    /// Site of the attention.
    pub attn_site: SiteParams,
    /// Site of the experts.
    pub ffn_site: SiteParams,
    /// `[1, q_rank, D]`
    pub wq_a: Weight,
    /// f32 `[q_rank]`
    pub q_norm: Tensor,
    /// `[1, H·c, q_rank]`
    pub wq_b: Weight,
    /// `[1, c, D]`
    pub wkv: Weight,
    /// f32 `[c]`
    pub kv_norm: Tensor,
    /// f32 `[H]`
    pub sink: Tensor,
    /// `[groups, o_rank, H/groups·c]`
    pub wo_a: Weight,
    /// `[1, D, groups·o_rank]`
    pub wo_b: Weight,
    /// In compressed layers.
    pub compressor: Option<CompressorParams>,
    /// `[1, E, D]`
    pub gate: Weight,
    /// Choice of experts.
    pub router: Router,
    /// `[E, 2I, D]`
    pub experts_gate_up: Weight,
    /// `[E, D, I]`
    pub experts_down: Weight,
    /// `[1, 2I, D]`
    pub shared_gate_up: Weight,
    /// `[1, D, I]`
    pub shared_down: Weight,
}

/// All parameters.
#[derive(Clone, Debug)]
pub struct Params {
    /// `[V, D]`, as stored.
    pub embedding: Tensor,
    /// Main layers.
    pub layers: Vec<LayerParams>,
    /// Collapse and norm in front of the vocabulary.
    pub head: SiteParams,
    /// `[1, V, D]`
    pub vocabulary: Weight,
    /// Orthonormal Hadamard matrix of the index width, where served numerics need it.
    pub rotation: Option<Weight>,
    /// Weights the device keeps in another encoding, and what it made of them.
    pub transcoded: Vec<String>,
    /// Identity of the model: a hash of its geometry and of every small tensor.
    pub fingerprint: u64,
}

/// Loads everything; `progress` is called with (layers done, layers) and may stop the load by
/// returning false.
///
/// # Errors
/// What the checkpoint refuses; `Unsupported` naming a weight the device cannot take; `Stopped`.
pub fn load(
    device: &dyn Device,
    checkpoint: &Checkpoint,
    numerics: Numerics,
    progress: &mut dyn FnMut(u32, u32) -> bool,
) -> Result<Params> {
    let mut loader = Loader {
        device,
        checkpoint,
        config: checkpoint.config(),
        transcoded: Vec::new(),
        hash: Fnv::default(),
    };
    loader.load(numerics, progress)
}

struct Loader<'a> {
    device: &'a dyn Device,
    checkpoint: &'a Checkpoint,
    config: &'a ModelConfig,
    transcoded: Vec<String>,
    hash: Fnv,
}

/// 64-bit FNV-1a: names a model among a user's models; no defence against forgery.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

impl Loader<'_> {
    fn load(
        &mut self,
        numerics: Numerics,
        progress: &mut dyn FnMut(u32, u32) -> bool,
    ) -> Result<Params> {
        let count = self.config.layers.len() as u32;
        let geometry = serde_json::to_vec(self.config).expect("a configuration is plain data");
        self.hash.add(&geometry);
        let mut layers = Vec::with_capacity(count as usize);
        for layer in 0..count {
            if !progress(layer, count) {
                return Err(Error::Stopped);
            }
            layers.push(self.layer(layer)?);
        }
        let embedding = self.embedding()?;
        let head = self
            .site(Block::Top, [Leaf::HcHeadFn, Leaf::HcHeadBase, Leaf::HcHeadScale, Leaf::Norm])?;
        let vocabulary = self.weight(Block::Top, Role::One(Leaf::Head))?;
        let selects = self.config.layers.iter().any(|layer| layer.indexed);
        let rotation = match (numerics, selects) {
            (Numerics::Served, true) => Some(self.hadamard(self.config.index_head_dim)?),
            _ => None,
        };
        if !progress(count, count) {
            return Err(Error::Stopped);
        }
        Ok(Params {
            embedding,
            layers,
            head,
            vocabulary,
            rotation,
            transcoded: std::mem::take(&mut self.transcoded),
            fingerprint: self.hash.0,
        })
    }

    fn layer(&mut self, layer: u32) -> Result<LayerParams> {
        let block = Block::Main(layer);
        let spec = self.config.layers[layer as usize];
        let router = match spec.hashed {
            true => Router::Table { table: self.table(layer)? },
            false => Router::Score { bias: self.vector(block, Leaf::RouterBias)? },
        };
        let compressor = match spec.compressed() {
            true => Some(self.compressor(block, spec.halves * spec.ratio, spec.indexed)?),
            false => None,
        };
        let one = Role::One;
        Ok(LayerParams {
            attn_site: self.site(
                block,
                [Leaf::HcAttnFn, Leaf::HcAttnBase, Leaf::HcAttnScale, Leaf::AttnNorm],
            )?,
            ffn_site: self
                .site(block, [Leaf::HcFfnFn, Leaf::HcFfnBase, Leaf::HcFfnScale, Leaf::FfnNorm])?,
            wq_a: self.weight(block, one(Leaf::QueryDown))?,
            q_norm: self.vector(block, Leaf::QueryNorm)?,
            wq_b: self.weight(block, one(Leaf::QueryUp))?,
            wkv: self.weight(block, one(Leaf::KeyValue))?,
            kv_norm: self.vector(block, Leaf::KeyValueNorm)?,
            sink: self.vector(block, Leaf::Sink)?,
            wo_a: self.weight(block, Role::OutDown)?,
            wo_b: self.weight(block, one(Leaf::OutUp))?,
            compressor,
            gate: self.weight(block, one(Leaf::Router))?,
            router,
            experts_gate_up: self.weight(block, Role::ExpertsGateUp)?,
            experts_down: self.weight(block, Role::ExpertsDown)?,
            shared_gate_up: self.weight(block, Role::SharedGateUp)?,
            shared_down: self.weight(block, one(Leaf::SharedDown))?,
        })
    }

    fn compressor(&mut self, block: Block, slots: u32, indexed: bool) -> Result<CompressorParams> {
        let indexer = match indexed {
            false => None,
            true => Some(Box::new(IndexerParams {
                wq_b: self.weight(block, Role::One(Leaf::IndexQuery))?,
                weights: self.weight(block, Role::One(Leaf::IndexWeights))?,
                pool: CompressorParams {
                    project: self.weight(block, Role::IndexCompress)?,
                    bias: self.rows(block, Leaf::IndexBias, slots)?,
                    norm: self.vector(block, Leaf::IndexNorm)?,
                    indexer: None,
                },
            })),
        };
        Ok(CompressorParams {
            project: self.weight(block, Role::Compress)?,
            bias: self.rows(block, Leaf::CompressBias, slots)?,
            norm: self.vector(block, Leaf::CompressNorm)?,
            indexer,
        })
    }

    fn site(&mut self, block: Block, leaves: [Leaf; 4]) -> Result<SiteParams> {
        let [function, base, scale, gain] = leaves;
        Ok(SiteParams {
            function: self.weight(block, Role::One(function))?,
            base: self.vector(block, base)?,
            scale: self.vector(block, scale)?,
            gain: self.vector(block, gain)?,
        })
    }

    fn weight(&mut self, block: Block, role: Role) -> Result<Weight> {
        let mut source = self.checkpoint.any_weight(block, role)?;
        self.load_weight(&mut source)
    }

    fn load_weight(&mut self, source: &mut dyn WeightSource) -> Result<Weight> {
        let spec = source.spec().clone();
        match self.device.weight_support(&spec) {
            WeightSupport::Native => {}
            WeightSupport::Transcoded(encoding) => {
                self.transcoded.push(format!("{}: {} as {encoding}", spec.name, spec.encoding));
            }
            WeightSupport::Absent(why) => {
                let text = format!("weight {} in {}: {why}", spec.name, spec.encoding);
                return Err(hal::Error::unsupported(text).into());
            }
        }
        let loaded = self.device.load_weight(source);
        Ok(loaded.map_err(|error| error.context(format!("loading {}", spec.name)))?)
    }

    /// An f32 vector.
    fn vector(&mut self, block: Block, leaf: Leaf) -> Result<Tensor> {
        let values = self.checkpoint.vector(block, leaf)?;
        let dims = [values.len() as u32];
        self.constant(leaf.name(), values.iter().flat_map(|v| v.to_le_bytes()), &dims, DType::F32)
    }

    /// An f32 matrix cut into `rows` rows.
    fn rows(&mut self, block: Block, leaf: Leaf, rows: u32) -> Result<Tensor> {
        let vector = self.vector(block, leaf)?;
        Ok(vector.reshape(&[rows, vector.shape().elements() as u32 / rows]))
    }

    fn table(&mut self, layer: u32) -> Result<Tensor> {
        let ids = self.checkpoint.expert_table(layer)?;
        let k = self.config.experts_per_token;
        let dims = [ids.len() as u32 / k, k];
        self.constant("expert table", ids.iter().flat_map(|id| id.to_le_bytes()), &dims, DType::I32)
    }

    fn constant(
        &mut self,
        label: &str,
        bytes: impl Iterator<Item = u8>,
        dims: &[u32],
        dtype: DType,
    ) -> Result<Tensor> {
        let bytes: Vec<u8> = bytes.collect();
        self.hash.add(&bytes);
        let buffer = self.device.constant(label, SharedBytes::from_vec(bytes))?;
        Ok(whole(buffer, dims, dtype)?)
    }

    /// The embedding table, its rows as stored.
    fn embedding(&mut self) -> Result<Tensor> {
        let mut source = self.checkpoint.any_weight(Block::Top, Role::One(Leaf::Embed))?;
        let spec = source.spec().clone();
        let Encoding::Plain(dtype) = spec.encoding else {
            let text = format!("embedding in {}; it must be BF16, F16 or F32", spec.encoding);
            return Err(hal::Error::unsupported(text).into());
        };
        let bytes = match source.lend() {
            Some(segments) => segments[0].codes.clone(),
            None => {
                let mut bytes = vec![0; spec.segment_code_bytes() as usize];
                source.read(0, WeightPart::Codes, &mut bytes)?;
                SharedBytes::from_vec(bytes)
            }
        };
        let buffer = self.device.constant("embedding", bytes)?;
        Ok(whole(buffer, &[spec.rows, spec.cols], dtype)?)
    }

    /// The Walsh-Hadamard matrix in Sylvester's order times `width^-0.5` (spec section 8).
    fn hadamard(&mut self, width: u32) -> Result<Weight> {
        let unit = (f64::from(width)).powf(-0.5) as f32;
        let entry = |row: u32, column: u32| {
            let value = if (row & column).count_ones().is_multiple_of(2) { unit } else { -unit };
            value.to_le_bytes()
        };
        let cells = (0..width).flat_map(|row| (0..width).map(move |column| (row, column)));
        let bytes = cells.flat_map(|(row, column)| entry(row, column)).collect();
        let spec = WeightSpec {
            name: "hadamard".into(),
            groups: 1,
            rows: width,
            cols: width,
            segment_rows: width,
            encoding: Encoding::Plain(DType::F32),
        };
        self.load_weight(&mut Computed { spec, bytes })
    }
}

fn whole(buffer: Buffer, dims: &[u32], dtype: DType) -> hal::Result<Tensor> {
    Tensor::new(buffer, 0, Shape::new(dims), dtype, RowCodec::Plain)
}

/// A plain weight of one segment that no file holds.
struct Computed {
    spec: WeightSpec,
    bytes: Vec<u8>,
}

impl WeightSource for Computed {
    fn spec(&self) -> &WeightSpec {
        &self.spec
    }

    fn read(&mut self, _segment: u32, part: WeightPart, out: &mut [u8]) -> hal::Result<()> {
        match part {
            WeightPart::Codes => out.copy_from_slice(&self.bytes),
            WeightPart::Scales => assert!(out.is_empty(), "a plain weight has no scales"),
        }
        Ok(())
    }
}
