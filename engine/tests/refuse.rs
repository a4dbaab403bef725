//! Bad checkpoints: each is refused with one clear line that names the file or the tensor, before a
//! weight is read.

mod common;

use std::sync::Arc;

use common::{Folder, Model, Tensor, check_refusal, safetensors, tiny_model, with_header};
use engine::config::Leaf;
use engine::load::{Block, Checkpoint, Role, inspect, parse_header, parse_index};
use engine::refusal::RefusalKind;

/// One change to a good model.
type Break = fn(&mut Model);
/// What is broken, how, and what the refusal says.
const BROKEN: &[(&str, Break, &str)] = &[
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
        "tensor norm.weight is missing (and 1 more)",
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
    ("leaf outside its layer", |m| m.push("attn.attn_sink", "F32", &[4]), "belongs inside a layer"),
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

#[test]
fn wrong_tensors_are_refused_by_name() {
    tiny_model().open().expect("the tiny model is good before it is broken");
    for (what, damage, says) in BROKEN {
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
/// Headers that are JSON of some kind: what is wrong, the text, bytes of data behind it, the refusal.
const HEADERS: &[(&str, &str, usize, &str)] = &[
    ("not JSON", r#"{"a""#, 0, "the header is not what safetensors asks for"),
    ("a list", "[]", 0, "does not begin with '{'"),
    ("no object", r#"{"a":7}"#, 0, "not what safetensors asks for"),
    (
        "twice",
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
        8,
        "tensor a is there twice",
    ),
    (
        "overlap",
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[6],"data_offsets":[2,8]}}"#,
        8,
        "tensors a and b overlap",
    ),
    (
        "same bytes",
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
        4,
        "tensors a and b overlap",
    ),
    (
        "hole",
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}}"#,
        12,
        "4 bytes in front of tensor b belong to none",
    ),
    (
        "hole in front",
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
        8,
        "4 bytes in front of tensor a",
    ),
    (
        "oversized file",
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
        8,
        "4 bytes after the last tensor belong to none",
    ),
    (
        "truncated file",
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#,
        7,
        "tensor a ends at byte 8 of the data but only 7 are there",
    ),
    (
        "offsets and shape",
        r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#,
        8,
        "tensor a is F32 [3], 12 bytes, but its offsets are 0 to 8",
    ),
    (
        "backwards",
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#,
        8,
        "its offsets are 8 to 0",
    ),
    (
        "overflow",
        r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}}"#,
        8,
        "a shape too large for any file",
    ),
    (
        "negative",
        r#"{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}"#,
        8,
        "not what safetensors asks for",
    ),
    (
        "rank",
        r#"{"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,8],"data_offsets":[0,8]}}"#,
        8,
        "tensor a has more than 8 dimensions",
    ),
    (
        "dtype",
        r#"{"a":{"dtype":"F8_E3M4","shape":[8],"data_offsets":[0,8]}}"#,
        8,
        "tensor a has dtype F8_E3M4, which this build cannot read",
    ),
    ("missing field", r#"{"a":{"dtype":"F32","shape":[2]}}"#, 8, "missing field `data_offsets`"),
    (
        "strange field",
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1}}"#,
        8,
        "unknown field `x`",
    ),
];

#[test]
fn damaged_headers_are_refused_with_their_numbers() {
    for (what, json, data, says) in HEADERS {
        let refusal = parse_header(&with_header(json, &vec![0; *data])).expect_err(what);
        check_refusal(what, &refusal, RefusalKind::Header, says);
    }
    let good = with_header(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, &[0; 8]);
    assert_eq!(parse_header(&good).expect("a good file").tensors[0].shape, [2]);
}

#[test]
fn impossible_header_lengths_are_refused_before_anything_is_read() {
    let claims = |length: u64| [&length.to_le_bytes()[..], &[0; 8]].concat();
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n".to_vec();
    for (what, file, says) in [
        ("empty", vec![], "only 0 bytes long"),
        ("seven bytes", vec![0; 7], "only 7 bytes long"),
        (
            "2^63",
            claims(1 << 63),
            "claims a header of 9223372036854775808 bytes, the format allows",
        ),
        ("2^64 - 1", claims(u64::MAX), "claims a header of 18446744073709551615 bytes"),
        ("over 100 MB", claims(100_000_001), "claims a header of 100000001 bytes"),
        ("cut header", claims(9), "claims a header of 9 bytes but ends after 8"),
        ("no header", claims(0), "does not begin with '{'"),
        ("not UTF-8", [&4u64.to_le_bytes()[..], b"{\"\xff\""].concat(), "not UTF-8"),
        ("a pointer", pointer, "Git LFS pointer"),
    ] {
        let refusal = parse_header(&file).expect_err(what);
        check_refusal(what, &refusal, RefusalKind::Header, says);
    }
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
