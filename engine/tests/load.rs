//! Checkpoints: good ones inspect clean in every spelling, bad ones are refused by name before a
//! weight is read.

mod common;

use std::sync::Arc;

use common::{
    Folder, Model, Tensor, check_refusal, repository, safetensors, tiny_model, with_header,
};
use engine::config::Leaf;
use engine::load::{Block, Checkpoint, Role, StaticBytes, inspect, parse_header, parse_index};
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
fn wrong_tensors_are_refused_by_name() {
    type Break = fn(&mut Model);
    let table: &[(&str, Break, &str)] = &[
        (
            "missing",
            |m| drop(m.remove("layers.1.attn.wq_a.weight")),
            "tensor layers.1.attn.wq_a.weight is missing",
        ),
        (
            "missing scale",
            |m| drop(m.remove("layers.1.attn.wq_a.scale")),
            "tensor layers.1.attn.wq_a.scale is missing",
        ),
        (
            "missing expert",
            |m| drop(m.remove("layers.2.ffn.experts.3.w3.weight")),
            "experts.3.w3.weight is missing",
        ),
        (
            "two missing",
            |m| {
                m.remove("norm.weight");
                m.remove("layers.0.attn_norm.weight");
            },
            "tensor norm.weight is missing (and 1 others)",
        ),
        (
            "stranger",
            |m| m.push("vision.tower.weight", "BF16", &[2, 2]),
            "vision.tower.weight in model.safetensors belongs to no known model",
        ),
        ("stranger with a line break", |m| m.push("a\nb", "BF16", &[2]), "tensor a\\nb in"),
        (
            "extra layer",
            |m| m.push("layers.3.attn_norm.weight", "F32", &[64]),
            "layers.3.attn_norm.weight is unexpected: config.json has 3 layers",
        ),
        (
            "extra expert",
            |m| m.push("layers.0.ffn.experts.4.w1.weight", "I8", &[32, 32]),
            "experts.4.w1.weight is unexpected: config.json has 4 experts",
        ),
        (
            "compressor in SWA",
            |m| m.push("layers.0.attn.compressor.norm.weight", "F32", &[128]),
            "layer 0 is SWA",
        ),
        (
            "indexer in HCA",
            |m| m.push("layers.2.attn.indexer.wq_b.weight", "BF16", &[128, 32]),
            "layer 2 is HCA and routed by score",
        ),
        (
            "bias in a hash layer",
            |m| m.push("layers.0.ffn.gate.bias", "F32", &[4]),
            "routed by token id",
        ),
        (
            "leaf outside its layer",
            |m| m.push("attn.attn_sink", "F32", &[4]),
            "belongs inside a layer",
        ),
        (
            "scale of a plain weight",
            |m| m.push("head.scale", "F8_E8M0", &[1, 1]),
            "head.scale is unexpected: its weight is not quantised",
        ),
        (
            "wrong shape",
            |m| m.tensor("embed.weight").shape = vec![64, 40],
            "embed.weight is BF16 [64, 40] but config.json asks for [40, 64]",
        ),
        (
            "wrong rank",
            |m| m.tensor("norm.weight").shape = vec![1, 64],
            "norm.weight is F32 [1, 64] but config.json asks for [64]",
        ),
        (
            "wrong scale shape",
            |m| m.tensor("layers.0.attn.wo_a.scale").shape = vec![2, 1],
            "layers.0.attn.wo_a.scale is F8_E8M0 [2, 1] but the scales of its weight are F8_E8M0 [1, 2]",
        ),
        (
            "scales as bytes",
            |m| m.tensor("layers.0.attn.wo_a.scale").dtype = "U8",
            "layers.0.attn.wo_a.scale is U8",
        ),
        (
            "FP4 as U8",
            |m| m.tensor("layers.1.ffn.experts.0.w2.weight").dtype = "U8",
            "is U8 but config.json asks for I8 (FP4)",
        ),
        (
            "FP8 under FP4",
            |m| m.tensor("layers.1.ffn.experts.0.w2.weight").dtype = "F8_E4M3",
            "is F8_E4M3 but config.json asks for I8",
        ),
        (
            "other FP8",
            |m| m.tensor("layers.1.attn.wkv.weight").dtype = "F8_E5M2",
            "is F8_E5M2 but config.json asks for F8_E4M3",
        ),
        (
            "integer gain",
            |m| m.tensor("norm.weight").dtype = "I32",
            "norm.weight is I32 but config.json asks for BF16, F16 or F32",
        ),
        (
            "float table",
            |m| m.tensor("layers.0.ffn.gate.tid2eid").dtype = "F64",
            "is F64 but config.json asks for I64 or I32",
        ),
        (
            "FP8 gate",
            |m| {
                m.tensor("layers.1.ffn.gate.weight").dtype = "F8_E4M3";
                m.tensor("layers.1.ffn.gate.weight").bytes.truncate(256);
            },
            "ffn.gate.weight is F8_E4M3",
        ),
        (
            "two spellings",
            |m| m.push("lm_head.weight", "BF16", &[40, 64]),
            "tensors head.weight and lm_head.weight are two spellings of one weight",
        ),
        (
            "unequal stack",
            |m| {
                m.remove("layers.1.attn.compressor.wgate.weight");
                m.push("layers.1.attn.compressor.wgate.weight", "F32", &[256, 64]);
            },
            "wkv.weight is BF16 but layers.1.attn.compressor.wgate.weight is F32; store both alike",
        ),
        (
            "unequal experts",
            |m| {
                m.remove("layers.1.ffn.experts.2.w1.scale");
                m.remove("layers.1.ffn.experts.2.w1.weight");
                m.push("layers.1.ffn.experts.2.w1.weight", "BF16", &[32, 64]);
            },
            "tensor layers.1.ffn.experts.2.w1.weight is stored as Bf16, others of its layer as fp4 1x32",
        ),
        (
            "FP8 without a quantisation section",
            |m| {
                m.config.as_object_mut().expect("an object").remove("quantization_config");
            },
            "layers.0.attn.wq_a.weight is F8_E4M3 but config.json asks for BF16, F16 or F32",
        ),
    ];
    tiny_model().open().expect("the tiny model is good before it is broken");
    for (what, damage, says) in table {
        let mut model = tiny_model();
        damage(&mut model);
        let refusal = model.open().expect_err(what);
        check_refusal(what, &refusal, RefusalKind::Tensor, says);
    }
}

#[test]
fn damaged_numbers_are_refused_by_name() {
    let mut model = tiny_model();
    model.tensor("layers.1.attn.wq_b.scale").bytes[3] = 255;
    *model.tensor("layers.2.ffn.experts.1.w2.scale").bytes.last_mut().expect("not empty") = 255;
    model.tensor("layers.1.attn.attn_sink").bytes[8..12].copy_from_slice(&f32::NAN.to_le_bytes());
    model.tensor("norm.weight").bytes[..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    model.tensor("layers.0.ffn.gate.tid2eid").bytes[8 * 7..8 * 8]
        .copy_from_slice(&4i64.to_le_bytes());
    let checkpoint = model.open().expect("headers are good");
    let main = Block::Main;
    for (what, refusal, says) in [
        (
            "NaN scale",
            checkpoint.weight(main(1), Role::One(Leaf::QueryUp)).err(),
            "layers.1.attn.wq_b.scale holds a NaN scale at place 3",
        ),
        (
            "NaN expert scale",
            checkpoint.weight(main(2), Role::ExpertsDown).err(),
            "layers.2.ffn.experts.1.w2.scale holds a NaN scale at place 63",
        ),
        (
            "NaN sink",
            checkpoint.vector(main(1), Leaf::Sink).err(),
            "layers.1.attn.attn_sink holds NaN at place 2",
        ),
        ("infinite gain", checkpoint.vector(Block::Top, Leaf::Norm).err(), "norm.weight holds inf"),
        (
            "expert out of range",
            checkpoint.expert_table(0).err(),
            "sends token 3 to expert 4; there are 4",
        ),
    ] {
        check_refusal(what, &refusal.expect(what), RefusalKind::Value, says);
    }
    for (what, refusal) in [
        ("no compressor in SWA", checkpoint.weight(main(0), Role::Compress).err()),
        ("no layer 9", checkpoint.weight(main(9), Role::OutDown).err()),
        ("no table in a score layer", checkpoint.expert_table(1).err()),
    ] {
        check_refusal(what, &refusal.expect(what), RefusalKind::Tensor, "this model has no tensor");
    }
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
fn damaged_headers_are_refused_with_their_numbers() {
    let one = |entry: &str| with_header(&format!("{{\"a\":{entry}}}"), &[0; 8]);
    let f32s = |begin: u64, end: u64| {
        format!(r#"{{"dtype":"F32","shape":[1],"data_offsets":[{begin},{end}]}}"#)
    };
    let two = |first: String, second: String, data: usize| {
        with_header(&format!("{{\"a\":{first},\"b\":{second}}}"), &vec![0; data])
    };
    let mut huge = vec![0u8; 16];
    huge[..8].copy_from_slice(&(1u64 << 63).to_le_bytes());
    let mut large = huge.clone();
    large[..8].copy_from_slice(&100_000_001u64.to_le_bytes());
    let mut cut = huge.clone();
    cut[..8].copy_from_slice(&9u64.to_le_bytes());
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n".to_vec();
    let eight = r#"{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;
    let table: &[(&str, Vec<u8>, &str)] = &[
        ("empty", vec![], "only 0 bytes long"),
        ("seven bytes", vec![0; 7], "only 7 bytes long"),
        ("2^63", huge, "claims a header of 9223372036854775808 bytes, the format allows 100000000"),
        ("over 100 MB", large, "claims a header of 100000001 bytes"),
        ("cut header", cut, "claims a header of 9 bytes but ends after 8"),
        ("no header", vec![0; 8], "does not begin with '{'"),
        ("not JSON", with_header("{\"a\"", &[]), "the header is not what safetensors asks for"),
        ("a list", with_header("[]", &[]), "does not begin with '{'"),
        ("not UTF-8", [&4u64.to_le_bytes()[..], b"{\"\xff\""].concat(), "not UTF-8"),
        ("a pointer", pointer, "Git LFS pointer"),
        (
            "twice",
            with_header(&format!(r#"{{"a":{},"a":{}}}"#, f32s(0, 4), f32s(4, 8)), &[0; 8]),
            "tensor a is there twice",
        ),
        (
            "overlap",
            two(f32s(0, 4), r#"{"dtype":"U8","shape":[6],"data_offsets":[2,8]}"#.into(), 8),
            "tensors a and b overlap",
        ),
        ("same bytes", two(f32s(0, 4), f32s(0, 4), 4), "tensors a and b overlap"),
        ("hole", two(f32s(0, 4), f32s(8, 12), 12), "4 bytes in front of tensor b belong to none"),
        ("hole in front", one(&f32s(4, 8)), "4 bytes in front of tensor a"),
        ("oversized file", one(&f32s(0, 4)), "4 bytes after the last tensor belong to none"),
        (
            "truncated file",
            with_header(&format!("{{\"a\":{eight}}}"), &[0; 7]),
            "tensor a ends at byte 8 of the data but only 7 are there",
        ),
        (
            "offsets and shape",
            one(r#"{"dtype":"F32","shape":[3],"data_offsets":[0,8]}"#),
            "tensor a is F32 [3], 12 bytes, but its offsets are 0 to 8",
        ),
        (
            "backwards",
            one(r#"{"dtype":"F32","shape":[2],"data_offsets":[8,0]}"#),
            "its offsets are 8 to 0",
        ),
        (
            "overflow",
            one(r#"{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}"#),
            "a shape too large for any file",
        ),
        (
            "negative",
            one(r#"{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}"#),
            "not what safetensors asks for",
        ),
        (
            "rank",
            one(r#"{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,8],"data_offsets":[0,8]}"#),
            "has 9 dimensions",
        ),
        (
            "dtype",
            one(r#"{"dtype":"F8_E3M4","shape":[8],"data_offsets":[0,8]}"#),
            "tensor a has dtype F8_E3M4, which this build cannot read",
        ),
        ("missing field", one(r#"{"dtype":"F32","shape":[2]}"#), "missing field `data_offsets`"),
        (
            "strange field",
            one(r#"{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1}"#),
            "unknown field `x`",
        ),
        ("no object", one("7"), "not what safetensors asks for"),
    ];
    for (what, file, says) in table {
        let refusal = parse_header(file).expect_err(what);
        check_refusal(what, &refusal, RefusalKind::Header, says);
    }
    assert_eq!(parse_header(&one(eight)).expect("a good file").tensors[0].shape, [2]);
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
fn damaged_indexes_are_refused() {
    for (what, text, says) in [
        ("not JSON", "weight_map", "is not a shard index"),
        ("no map", "{}", "missing field `weight_map`"),
        ("empty map", r#"{"weight_map":{}}"#, "names no tensors"),
        ("twice", r#"{"weight_map":{"a":"x","a":"x"}}"#, "names tensor a twice"),
        (
            "outside",
            r#"{"weight_map":{"a":"../x"}}"#,
            "names the shard \"../x\", not a plain file name",
        ),
        ("absolute", r#"{"weight_map":{"a":"/etc/passwd"}}"#, "not a plain file name"),
        ("numbers", r#"{"weight_map":{"a":1}}"#, "is not a shard index"),
    ] {
        let refusal = parse_index(text.as_bytes()).expect_err(what);
        check_refusal(what, &refusal, RefusalKind::Index, says);
    }
}

#[test]
fn folders_that_are_no_models_are_refused() {
    let folder = Folder::new("folders");
    let refused = |what: &str, kind, says: &str| {
        let refusal = inspect(&folder.0).expect_err(what);
        check_refusal(what, &refusal, kind, says);
    };
    refused("empty folder", RefusalKind::File, "config.json is missing; is this a model folder?");
    folder.write("config.json", "{}");
    refused("no weights", RefusalKind::File, "holds neither model.safetensors nor");
    folder.write("model.safetensors", "");
    refused("empty weights", RefusalKind::Header, "model.safetensors: only 0 bytes long");
    folder.write("model.safetensors", safetensors(&[]));
    refused("empty configuration", RefusalKind::Config, "config.json: model_type is missing");
    folder.write("config.json", tiny_model().config_bytes());
    refused("no tensors", RefusalKind::Tensor, "tensor embed.weight is missing (and");
    let file = inspect(&folder.0.join("config.json")).expect_err("a file");
    check_refusal("a file", &file, RefusalKind::File, "is a file; give its folder");
    let nowhere = inspect(&folder.0.join("nowhere")).expect_err("nothing");
    check_refusal("nothing", &nowhere, RefusalKind::File, "does not exist");
}

#[test]
fn a_tensor_in_two_files_is_refused() {
    let model = tiny_model();
    let owner = |tensors: &[Tensor]| -> Arc<dyn hal::ByteOwner> { Arc::new(safetensors(tensors)) };
    let files = vec![
        ("one".to_owned(), owner(&model.tensors)),
        ("two".to_owned(), owner(&model.tensors[..1])),
    ];
    let refusal = Checkpoint::from_memory(&model.config_bytes(), files).expect_err("twice");
    check_refusal(
        "twice",
        &refusal,
        RefusalKind::Tensor,
        "tensor embed.weight is in one and in two",
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
