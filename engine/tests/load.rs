//! Checkpoints: good ones inspect clean in every spelling, and give the matrices they hold.

mod common;

use std::sync::Arc;

use common::{Folder, Model, Tensor, check_refusal, repository, safetensors, tiny_model};
use engine::config::Leaf;
use engine::load::{Block, Checkpoint, Role, StaticBytes, inspect, parse_header};
use engine::refusal::RefusalKind;
use hal::{DType, Encoding, WeightPart, WeightSource};
use serde_json::{Value, json};

#[test]
fn every_model_of_the_repository_inspects_clean() {
    for (folder, mtp, notes) in [
        ("tests/checkpoints/flash-tiny", 0, 1),
        ("tests/checkpoints/pro-tiny", 0, 1),
        ("tests/checkpoints/hca8-tiny", 0, 1),
        ("tests/checkpoints/csa-tiny", 0, 1),
        ("tests/checkpoints/flash-tiny-orig", 1, 0),
        ("models/demo", 0, 0),
    ] {
        let report =
            inspect(&repository(folder)).unwrap_or_else(|refusal| panic!("{folder}: {refusal}"));
        assert_eq!((report.mtp_blocks, report.notes.len()), (mtp, notes), "{folder}: {report}");
        let stored: u64 = report.dtypes.values().map(|dtype| dtype.bytes).sum();
        let counted = report.size.bytes_main + report.size.bytes_mtp;
        assert_eq!(counted, stored, "{folder}: every byte of the files is some demand's");
        serde_json::to_string(&report).expect("the report is JSON");
    }
}

#[test]
fn every_matrix_and_vector_of_a_model_can_be_had() {
    for folder in
        ["tests/checkpoints/flash-tiny", "tests/checkpoints/flash-tiny-orig", "models/demo"]
    {
        let checkpoint = Checkpoint::open(&repository(folder)).expect(folder);
        let layers = checkpoint.config().layers.clone();
        let main = |index: usize| Block::Main(index as u32);
        for role in [Role::One(Leaf::Embed), Role::One(Leaf::Head), Role::One(Leaf::HcHeadFn)] {
            check_source(&checkpoint, Block::Top, role);
        }
        for (index, layer) in layers.iter().enumerate() {
            for role in [
                Role::One(Leaf::QueryDown),
                Role::One(Leaf::QueryUp),
                Role::One(Leaf::KeyValue),
                Role::OutDown,
                Role::One(Leaf::OutUp),
                Role::One(Leaf::HcAttnFn),
                Role::One(Leaf::HcFfnFn),
                Role::One(Leaf::Router),
                Role::SharedGateUp,
                Role::One(Leaf::SharedDown),
                Role::ExpertsGateUp,
                Role::ExpertsDown,
            ] {
                check_source(&checkpoint, main(index), role);
            }
            let compress = [Role::Compress, Role::One(Leaf::CompressValue)];
            let index_roles =
                [Role::IndexCompress, Role::One(Leaf::IndexQuery), Role::One(Leaf::IndexWeights)];
            for role in compress.into_iter().filter(|_| layer.compressed()) {
                check_source(&checkpoint, main(index), role);
            }
            for role in index_roles.into_iter().filter(|_| layer.indexed) {
                check_source(&checkpoint, main(index), role);
            }
            for leaf in [Leaf::AttnNorm, Leaf::Sink, Leaf::HcAttnBase, Leaf::HcFfnScale] {
                assert!(!checkpoint.vector(main(index), leaf).expect(folder).is_empty());
            }
            assert_eq!(
                checkpoint.expert_table(index as u32).is_ok(),
                layer.hashed,
                "{folder} {index}"
            );
            assert_eq!(checkpoint.vector(main(index), Leaf::RouterBias).is_ok(), !layer.hashed);
        }
    }
}

/// What a source lends and what it copies are the same bytes, of the sizes its specification says.
fn check_source(checkpoint: &Checkpoint, block: Block, role: Role) {
    let mut weight = checkpoint.weight(block, role).unwrap_or_else(|refusal| panic!("{refusal}"));
    let spec = weight.spec().clone();
    assert_eq!(spec.groups * spec.rows % spec.segment_rows, 0, "{}", spec.name);
    let lent = weight.lend().expect("mapped files can be lent");
    assert_eq!(lent.len(), spec.segments() as usize, "{}", spec.name);
    for (index, segment) in lent.iter().enumerate() {
        let scales = segment.scales.as_ref().map_or(&[][..], |scales| scales.bytes());
        for (part, size, bytes) in [
            (WeightPart::Codes, spec.segment_code_bytes(), segment.codes.bytes()),
            (WeightPart::Scales, spec.segment_scale_bytes(), scales),
        ] {
            let mut copy = vec![0; size as usize];
            weight.read(index as u32, part, &mut copy).expect("mapped bytes can be read");
            assert_eq!(copy, bytes, "{} segment {index} {part:?}", spec.name);
        }
    }
}

#[test]
fn stacked_rows_are_gate_then_up_expert_by_expert() {
    let model = tiny_model();
    let checkpoint = model.open().expect("the tiny model is good");
    let bytes =
        |name: &str| model.tensors.iter().find(|t| t.name == name).expect(name).bytes.clone();
    let experts = checkpoint.weight(Block::Main(1), Role::ExpertsGateUp).expect("experts");
    let spec = experts.spec();
    assert_eq!((spec.groups, spec.rows, spec.cols, spec.segment_rows), (4, 64, 64, 32));
    assert_eq!(spec.encoding, Encoding::Fp4Block { cols: 32 });
    for expert in 0..4 {
        for (half, name) in ["w1", "w3"].into_iter().enumerate() {
            let segment = &experts.segments()[2 * expert + half];
            let stem = format!("layers.1.ffn.experts.{expert}.{name}");
            assert_eq!(segment.codes.bytes(), bytes(&format!("{stem}.weight")));
            let scales = segment.scales.as_ref().expect("FP4 has scales");
            assert_eq!(scales.bytes(), bytes(&format!("{stem}.scale")));
        }
    }
    let out = checkpoint.weight(Block::Main(0), Role::OutDown).expect("wo_a");
    let spec = out.spec();
    assert_eq!((spec.groups, spec.rows, spec.cols, spec.segment_rows), (2, 32, 256, 64));
    assert_eq!(&*spec.name, "layers.0.attn.wo_a");
    let compress = checkpoint.weight(Block::Main(1), Role::Compress).expect("a compressor");
    assert_eq!((compress.spec().rows, compress.spec().segment_rows), (512, 256));
    assert_eq!(
        compress.segments()[1].codes.bytes(),
        bytes("layers.1.attn.compressor.wgate.weight")
    );
    let table = checkpoint.expert_table(0).expect("layer 0 routes by token id");
    assert_eq!((table.len(), table.iter().max()), (80, Some(&3)));
    let bias = checkpoint.vector(Block::Main(1), Leaf::CompressBias).expect("a position bias");
    assert_eq!(bias.len(), 4 * 256);
}

/// The tiny transformers checkpoint's tensors.
fn flash_tiny() -> Model {
    let folder = repository("tests/checkpoints/flash-tiny");
    let read =
        |name: &str| std::fs::read(folder.join(name)).expect("a checkpoint of the repository");
    let (config, file) = (read("config.json"), read("model.safetensors"));
    let header = parse_header(&file).expect("good");
    let tensors = header.tensors.into_iter().map(|entry| Tensor {
        bytes: file[entry.begin..entry.end].to_vec(),
        name: entry.name,
        dtype: entry.dtype.name(),
        shape: entry.shape,
    });
    let config = serde_json::from_slice(&config).expect("good");
    Model { config, tensors: tensors.collect() }
}

/// The same model as transformers' saver writes it by default: released names under `model.`, experts
/// split. `top` says whether the names outside the layers change too, to the released spelling.
fn respelled(mut model: Model, top: bool) -> Model {
    let mut tensors = Vec::new();
    for tensor in model.tensors {
        let key = engine::load::parse_name(&tensor.name).expect("a known name");
        match (key.leaf, key.block) {
            (Leaf::FusedGateUp | Leaf::FusedDown, _) => tensors.extend(split(&tensor)),
            (_, Block::Top) if !top => tensors.push(tensor),
            (_, Block::Top) => tensors.push(Tensor { name: key.to_string(), ..tensor }),
            _ if top => tensors.push(Tensor { name: key.to_string(), ..tensor }),
            _ => tensors.push(Tensor { name: format!("model.{key}"), ..tensor }),
        }
    }
    model.tensors = tensors;
    model
}

/// A fused expert tensor as one tensor per expert and matrix.
fn split(fused: &Tensor) -> Vec<Tensor> {
    let [experts, rows, cols] = fused.shape[..] else {
        panic!("fused experts have three dimensions")
    };
    let block = fused.name.split(".mlp.").next().expect("a layer's name");
    let names: &[&str] = if fused.name.ends_with("down_proj") { &["w2"] } else { &["w1", "w3"] };
    let part = fused.bytes.len() / (experts as usize * names.len());
    let pieces = fused.bytes.chunks(part).enumerate();
    let shape = vec![rows / names.len() as u64, cols];
    pieces
        .map(|(index, bytes)| {
            let (expert, name) = (index / names.len(), names[index % names.len()]);
            let name = format!("{block}.ffn.experts.{expert}.{name}.weight");
            Tensor { name, dtype: fused.dtype, shape: shape.clone(), bytes: bytes.to_vec() }
        })
        .collect()
}

#[test]
fn all_spellings_give_the_same_matrices() {
    let bytes = |checkpoint: &Checkpoint, layer: u32, role: Role| {
        let weight = checkpoint.weight(Block::Main(layer), role).expect("a weight");
        let spec = weight.spec().clone();
        let codes = weight.segments().iter().flat_map(|segment| segment.codes.bytes().to_vec());
        ((spec.groups, spec.rows, spec.cols, spec.encoding), codes.collect::<Vec<u8>>())
    };
    let original = flash_tiny().open().expect("transformers' spelling");
    for top in [false, true] {
        let other =
            respelled(flash_tiny(), top).open().unwrap_or_else(|refusal| panic!("{refusal}"));
        for role in [
            Role::ExpertsGateUp,
            Role::ExpertsDown,
            Role::SharedGateUp,
            Role::OutDown,
            Role::Compress,
            Role::IndexCompress,
            Role::One(Leaf::HcAttnFn),
        ] {
            assert!(bytes(&original, 4, role) == bytes(&other, 4, role), "{role:?}, top {top}");
        }
        let (one, two) = (original.inspection(), other.inspection());
        assert_eq!((&one.size, &one.config), (&two.size, &two.config));
    }
    let (spec, _) = bytes(&original, 4, Role::ExpertsGateUp);
    assert_eq!(spec, (8, 64, 64, Encoding::Plain(DType::F32)));
}

#[test]
fn half_precision_and_fp8_experts_are_read() {
    let mut model = flash_tiny();
    for tensor in &mut model.tensors {
        if tensor.dtype == "F32" {
            let values =
                tensor.bytes.chunks(4).map(|four| f32::from_le_bytes(four.try_into().expect("4")));
            tensor.bytes =
                values.flat_map(|value| half::f16::from_f32(value).to_le_bytes()).collect();
            tensor.dtype = "F16";
        }
    }
    let checkpoint = model.open().expect("F16");
    let gain = checkpoint.vector(Block::Top, Leaf::Norm).expect("a gain");
    let exact = flash_tiny().open().expect("F32").vector(Block::Top, Leaf::Norm).expect("a gain");
    assert!(gain.iter().zip(&exact).all(|(one, two)| (one - two).abs() < 2e-3));

    let mut base = tiny_model();
    base.config.as_object_mut().expect("an object").remove("expert_dtype");
    let mut tensors = Vec::new();
    for tensor in base.tensors.drain(..) {
        let mut rest = Model { config: Value::Null, tensors: vec![] };
        match (tensor.name.contains(".experts."), tensor.dtype) {
            (true, "I8") => {
                rest.push(&tensor.name, "F8_E4M3", &[tensor.shape[0], 2 * tensor.shape[1]])
            }
            (true, _) => rest.push(&tensor.name, "F8_E8M0", &[1, 1]),
            (false, _) => rest.tensors.push(tensor),
        }
        tensors.extend(rest.tensors);
    }
    base.tensors = tensors;
    let checkpoint = base.open().expect("FP8 experts, as the -Base checkpoints have them");
    let experts = checkpoint.weight(Block::Main(2), Role::ExpertsDown).expect("experts");
    assert_eq!(experts.spec().encoding, Encoding::Fp8Block { rows: 128, cols: 128 });
}

#[test]
fn draft_heads_that_are_not_v4s_are_absent_and_noted() {
    type Change = fn(&mut Model);
    let table: &[(&str, Change, u32, &str)] = &[
        ("whole", |_| (), 1, ""),
        (
            "none",
            |m| m.tensors.retain(|t| !t.name.starts_with("mtp.")),
            0,
            "promises 1 MTP block(s); the files hold none",
        ),
        (
            "other head",
            |m| m.push("mtp.0.markov_head.weight", "BF16", &[2, 2]),
            0,
            "tensor mtp.0.markov_head.weight is not an MTP block's",
        ),
        (
            "more stages",
            |m| m.push("mtp.1.enorm.weight", "F32", &[64]),
            0,
            "mtp.1.enorm.weight is not part of 1 MTP block(s)",
        ),
        (
            "torn",
            |m| drop(m.remove("mtp.0.e_proj.weight")),
            0,
            "tensor mtp.0.e_proj.weight is missing",
        ),
        (
            "other shape",
            |m| m.tensor("mtp.0.hnorm.weight").shape = vec![1, 64],
            0,
            "mtp.0.hnorm.weight is F32 [1, 64]",
        ),
        (
            "unannounced",
            |m| {
                m.config["num_nextn_predict_layers"] = json!(0);
                m.config["compress_ratios"] = json!([0, 4, 16]);
            },
            0,
            "treated as absent",
        ),
        (
            "copies",
            |m| m.push("mtp.0.embed.weight", "BF16", &[40, 64]),
            1,
            "1 copies of embed and head under mtp. are ignored",
        ),
    ];
    for (what, change, blocks, note) in table {
        let mut model = tiny_model();
        change(&mut model);
        let checkpoint = model.open().unwrap_or_else(|refusal| panic!("{what}: {refusal}"));
        let report = checkpoint.inspection();
        assert_eq!(report.mtp_blocks, *blocks, "{what}: {:?}", report.notes);
        assert_eq!(report.size.bytes_mtp > 0, *blocks > 0, "{what}");
        let projection = Role::One(Leaf::MtpStreamProjection);
        assert_eq!(checkpoint.weight(Block::Mtp(0), projection).is_ok(), *blocks > 0, "{what}");
        match note.is_empty() {
            true => assert!(report.notes.is_empty(), "{what}: {:?}", report.notes),
            false => assert!(report.notes[0].contains(note), "{what}: {:?}", report.notes),
        }
    }
}

#[test]
fn shards_are_joined_by_their_index() {
    let model = tiny_model();
    let folder = Folder::new("shards");
    let (first, second) = model.tensors.split_at(model.tensors.len() / 2);
    let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    folder.write("config.json", model.config_bytes());
    folder.write(names[0], safetensors(first));
    folder.write(names[1], safetensors(second));
    let map = |tensors: &[Tensor], shard: &str| -> Vec<(String, Value)> {
        tensors.iter().map(|tensor| (tensor.name.clone(), json!(shard))).collect()
    };
    let mut pairs: serde_json::Map<String, Value> = map(first, names[0]).into_iter().collect();
    pairs.extend(map(second, names[1]));
    let index = |pairs: &serde_json::Map<String, Value>| {
        json!({"metadata": {"total_size": 1}, "weight_map": pairs}).to_string()
    };
    const INDEX: &str = "model.safetensors.index.json";
    let refused = |what: &str, kind, says: &str| {
        let refusal = inspect(&folder.0).expect_err(what);
        check_refusal(what, &refusal, kind, says);
    };
    refused(
        "no index",
        RefusalKind::Index,
        "holds 2 safetensors files but no model.safetensors.index.json",
    );
    folder.write(INDEX, index(&pairs));
    let report = inspect(&folder.0).expect("two good shards");
    assert_eq!(report.files.len(), 2);
    assert_eq!(report.size, model.open().expect("one file").inspection().size);

    let mut wrong = pairs.clone();
    wrong.insert(first[0].name.clone(), json!(names[1]));
    folder.write(INDEX, index(&wrong));
    refused(
        "wrong shard",
        RefusalKind::Index,
        "embed.weight is said to be in model-00002-of-00002",
    );
    wrong.remove(&first[0].name);
    folder.write(INDEX, index(&wrong));
    refused("unlisted", RefusalKind::Index, "does not list tensor embed.weight");
    let mut more = pairs.clone();
    more.insert("layers.0.attn.extra".into(), json!(names[0]));
    folder.write(INDEX, index(&more));
    refused(
        "listed, not there",
        RefusalKind::Index,
        "lists tensor layers.0.attn.extra in model-00001",
    );
    folder.write(INDEX, index(&pairs));
    folder.write(names[1], safetensors(&[second, &first[..1]].concat()));
    refused("in two shards", RefusalKind::Index, "embed.weight is said to be in model-00001");
    std::fs::remove_file(folder.0.join(names[1])).expect("we wrote it");
    refused(
        "missing shard",
        RefusalKind::Index,
        "names model-00002-of-00002.safetensors, which is not in",
    );
}

#[test]
fn a_model_compiled_into_the_program_opens_like_a_folder() {
    static WEIGHTS: &[u8] = include_bytes!("../../models/demo/model.safetensors");
    let config = include_bytes!("../../models/demo/config.json");
    let file: Arc<dyn hal::ByteOwner> = Arc::new(StaticBytes(WEIGHTS));
    let embedded = Checkpoint::from_memory(config, vec![("model.safetensors".into(), file)]);
    let folder = inspect(&repository("models/demo")).expect("the demo model");
    assert_eq!(*embedded.expect("the demo model").inspection(), folder);
}
