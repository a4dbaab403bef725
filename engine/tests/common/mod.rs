//! Tiny checkpoints made in memory, so that a test can break one thing of a good one.

#![allow(dead_code)] // Each test binary uses its share.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::config::{Class, Demand, layer_demands, mtp_demands, parse_config, top_demands};
use engine::load::Checkpoint;
use engine::refusal::Refusal;
use serde_json::{Value, json};

/// The repository's folder of this name.
pub fn repository(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder)
}

/// One tensor to write.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub name: String,
    pub dtype: &'static str,
    pub shape: Vec<u64>,
    pub bytes: Vec<u8>,
}

/// A whole model to write.
#[derive(Clone, Debug)]
pub struct Model {
    pub config: Value,
    pub tensors: Vec<Tensor>,
}

/// A released-layout configuration with every kind of layer, small enough for a table of tests.
pub fn tiny_config() -> Value {
    serde_json::from_str(TINY_CONFIG).expect("valid JSON")
}

const TINY_CONFIG: &str = r#"{
    "architectures": ["DeepseekV4ForCausalLM"], "model_type": "deepseek_v4",
    "vocab_size": 40, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 1, "head_dim": 128, "qk_rope_head_dim": 64, "q_lora_rank": 32,
    "o_groups": 2, "o_lora_rank": 32, "sliding_window": 8, "compress_ratios": [0, 4, 16, 0],
    "compress_rope_theta": 160000, "rope_theta": 10000,
    "rope_scaling": {"type": "yarn", "factor": 16, "beta_fast": 32, "beta_slow": 1,
                     "original_max_position_embeddings": 4096},
    "max_position_embeddings": 65536, "index_n_heads": 2, "index_head_dim": 64, "index_topk": 4,
    "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2,
    "moe_intermediate_size": 32, "num_hash_layers": 1, "scoring_func": "sqrtsoftplus",
    "topk_method": "noaux_tc", "norm_topk_prob": true, "routed_scaling_factor": 1.5,
    "swiglu_limit": 10.0, "hc_mult": 4, "hc_sinkhorn_iters": 20, "hc_eps": 1e-6,
    "rms_norm_eps": 1e-6, "hidden_act": "silu", "attention_bias": false,
    "tie_word_embeddings": false, "num_nextn_predict_layers": 1, "bos_token_id": 0,
    "eos_token_id": 1, "expert_dtype": "fp4",
    "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                            "scale_fmt": "ue8m0", "weight_block_size": [128, 128]}
}"#;

/// A good model with FP8 and FP4 matrices, an MTP block included.
pub fn tiny_model() -> Model {
    let value = tiny_config();
    let config =
        parse_config(value.to_string().as_bytes()).expect("the tiny configuration is good");
    let mut model = Model { config: value, tensors: vec![] };
    model.add("", &top_demands(&config));
    for (index, layer) in config.layers.iter().enumerate() {
        model.add(&format!("layers.{index}."), &layer_demands(&config, layer));
    }
    model.add("mtp.0.", &mtp_demands(&config));
    model
}

impl Model {
    fn add(&mut self, prefix: &str, demands: &[Demand]) {
        for demand in demands {
            for expert in 0..demand.copies {
                let name = demand.leaf.name().replace("{e}", &expert.to_string());
                self.add_one(format!("{prefix}{name}"), demand);
            }
        }
    }

    fn add_one(&mut self, name: String, demand: &Demand) {
        let (rows, cols) = (u64::from(demand.rows), u64::from(demand.cols));
        let scale = name.replace(".weight", ".scale");
        match demand.class {
            Class::Dense => {
                self.push(&name, "F8_E4M3", &[rows, cols]);
                self.push(&scale, "F8_E8M0", &[rows.div_ceil(128), cols.div_ceil(128)]);
            }
            Class::Expert => {
                self.push(&name, "I8", &[rows, cols / 2]);
                self.push(&scale, "F8_E8M0", &[rows, cols / 32]);
            }
            Class::Table => self.push(&name, "I64", &[rows, cols]),
            Class::Matrix => self.push(&name, "BF16", &[rows, cols]),
            Class::Vector if cols == 0 => self.push(&name, "F32", &[rows]),
            Class::Vector => self.push(&name, "F32", &[rows, cols]),
        }
    }

    /// Adds a tensor whose bytes follow from its name, all of them legal numbers.
    pub fn push(&mut self, name: &str, dtype: &'static str, shape: &[u64]) {
        let elements: u64 = shape.iter().product();
        let seed = name.bytes().fold(7u64, |hash, byte| hash.wrapping_mul(31) + u64::from(byte));
        let number =
            |place: u64| (seed.wrapping_add(place).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8;
        let bytes = match dtype {
            "F32" => {
                (0..elements).flat_map(|at| (f32::from(number(at)) / 64.0).to_le_bytes()).collect()
            }
            "BF16" => (0..elements).flat_map(|at| [number(at), 0x3f]).collect(),
            "I64" => (0..elements).flat_map(|at| i64::from(number(at) % 4).to_le_bytes()).collect(),
            "F8_E8M0" => (0..elements).map(|at| 100 + number(at) % 50).collect(),
            _ => (0..elements).map(|at| number(at) & 0x77).collect(),
        };
        self.tensors.push(Tensor { name: name.into(), dtype, shape: shape.to_vec(), bytes });
    }

    pub fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors
            .iter_mut()
            .find(|tensor| tensor.name == name)
            .unwrap_or_else(|| panic!("no {name}"))
    }

    pub fn remove(&mut self, name: &str) -> Tensor {
        let place = self.tensors.iter().position(|tensor| tensor.name == name);
        self.tensors.remove(place.unwrap_or_else(|| panic!("no {name}")))
    }

    pub fn config_bytes(&self) -> Vec<u8> {
        self.config.to_string().into_bytes()
    }

    /// Opens the model from memory.
    pub fn open(&self) -> Result<Checkpoint, Refusal> {
        let file: Arc<dyn hal::ByteOwner> = Arc::new(safetensors(&self.tensors));
        Checkpoint::from_memory(&self.config_bytes(), vec![("model.safetensors".into(), file)])
    }
}

/// A safetensors file of these tensors.
pub fn safetensors(tensors: &[Tensor]) -> Vec<u8> {
    let mut at = 0;
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".into(), json!({"format": "pt"}));
    for tensor in tensors {
        let end = at + tensor.bytes.len();
        let entry =
            json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [at, end]});
        assert!(header.insert(tensor.name.clone(), entry).is_none(), "{} twice", tensor.name);
        at = end;
    }
    let mut data = Vec::with_capacity(at);
    tensors.iter().for_each(|tensor| data.extend_from_slice(&tensor.bytes));
    with_header(&Value::Object(header).to_string(), &data)
}

/// A safetensors file with this header text.
pub fn with_header(json: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (json.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(json.as_bytes());
    file.extend_from_slice(data);
    file
}

/// A folder that goes away with its value.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("hadal-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("temporary folder is writable");
        Folder(path)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.0.join(name), bytes).expect("temporary folder is writable");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A folder left behind in the system's temporary space is no reason to fail a test.
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// The one line a refusal must be, with what it must say.
pub fn check_refusal(
    what: &str,
    refusal: &Refusal,
    kind: engine::refusal::RefusalKind,
    says: &str,
) {
    let text = refusal.to_string();
    assert!(text.contains(says), "{what}: \"{text}\" does not say \"{says}\"");
    assert_eq!(refusal.kind(), kind, "{what}: {text}");
    assert!(!text.contains('\n') && text.len() < 500, "{what}: not one clear line: {text}");
}
