//! Every shader that any case of the kit needs, parsed and validated by naga; no adapter is asked.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use hal::op::{HcPre, HcSite};
use hal::{
    Buffer, Builder, DType, Encoding, Op, RawBuffer, RawWeight, RowCodec, Shape, Tensor, Weight,
    WeightSpec,
};
use kernels::case::{Case, all};
use naga::AddressSpace;
use naga::valid::{Capabilities, ValidationFlags, Validator};

use crate::fit::{Bounds, fit};
use crate::launch::{LANES, Launch, Operand};
use crate::record::gemm::variant;
use crate::record::stream::variant as variant_of_site;
use crate::weight::Coding;
use crate::{shader, table};

/// Memory and weights that are only named.
#[derive(Debug)]
struct Nowhere;

impl RawBuffer for Nowhere {
    fn size_bytes(&self) -> u64 {
        u64::MAX
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl RawWeight for Nowhere {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn tensor(dims: &[u32], dtype: DType, codec: RowCodec) -> Tensor {
    let buffer = Buffer::Real(Arc::new(Nowhere));
    Tensor::new(buffer, 0, Shape::new(dims), dtype, codec).expect("any offset fits")
}

/// Launches of a case, but for its products: those have a weight on a device.
fn launches(case: &Case) -> Vec<Launch> {
    let tensors: Vec<Tensor> =
        case.arrays.iter().map(|array| tensor(&array.dims, array.dtype, array.codec)).collect();
    let weight =
        |spec: &hal::WeightSpec| Weight::new(Arc::new(Nowhere), spec.clone(), spec.encoding);
    let weights: Vec<Weight> = case.weights.iter().map(|data| weight(&data.spec)).collect();
    let mut builder = Builder::new();
    builder.push((case.build)(&tensors, &weights)).expect("a case is a valid op");
    let program = builder.finish().expect("a case is a valid program");
    let lowered = program.lower(&Op::is_primitive).expect("every op lowers");
    let products = |op: &Op| matches!(op, Op::Matmul(_));
    let ops = lowered.program().nodes().iter().map(|node| &node.op).filter(|op| !products(op));
    let entry =
        |op: &Op| table::entry(op).unwrap_or_else(|| panic!("{}: no kernel for {op:?}", case.id()));
    ops.flat_map(|op| (entry(op).record)(op)).collect()
}

/// Starts of sites, whose functions are weights on a device too.
fn sites() -> Vec<Launch> {
    let mut all = Vec::new();
    for (dtype, encoding) in [
        (DType::F32, Encoding::Plain(DType::F32)),
        (DType::Bf16, Encoding::Plain(DType::Bf16)),
        (DType::F16, Encoding::Plain(DType::F16)),
    ] {
        for (streams, mix) in [(4, 24), (4, 4), (1, 3)] {
            let spec = WeightSpec {
                name: "function".into(),
                groups: 1,
                rows: mix,
                cols: 9 * streams,
                segment_rows: mix,
                encoding,
            };
            let vector = |width| tensor(&[width], DType::F32, RowCodec::Plain);
            let op = HcPre {
                out: tensor(&[2, 9], dtype, RowCodec::Plain),
                mix: tensor(&[2, mix], DType::F32, RowCodec::Plain),
                streams: tensor(&[2, 9 * streams], dtype, RowCodec::Plain),
                site: HcSite {
                    function: Weight::new(Arc::new(Nowhere), spec, encoding),
                    base: vector(mix),
                    scale: vector(3),
                    gain: vector(9),
                    streams,
                    rounds: 20,
                    epsilon: 1e-6,
                    norm_epsilon: 1e-6,
                },
            };
            let launch = variant_of_site(&op.into(), Coding::of(encoding).expect("it is plain"));
            all.push(launch.raw_rows("codes", &tensor(&[9], DType::I32, RowCodec::Plain)));
        }
    }
    all
}

/// Every variant of the products.
fn products() -> Vec<Launch> {
    let mut all = Vec::new();
    let encodings = [
        Encoding::Plain(DType::F32),
        Encoding::Plain(DType::Bf16),
        Encoding::Plain(DType::F16),
        Encoding::Fp8Block { rows: 128, cols: 128 },
        Encoding::Fp4Block { cols: 32 },
        Encoding::Int8Row,
    ];
    for encoding in encodings {
        let coding = Coding::of(encoding).expect("a shader reads it");
        for (dtype, width, kernel, tile, split) in [
            (DType::F32, 8, "matmul", 1, true),
            (DType::Bf16, 8, "matmul", 4, false),
            (DType::F16, 7, "matmul_sorted", 4, true),
            (DType::Bf16, 8, "matmul_sorted", 1, false),
        ] {
            let (rows, words) = (
                tensor(&[4, width], dtype, RowCodec::Plain),
                tensor(&[9], DType::I32, RowCodec::Plain),
            );
            let mut launch = variant(kernel, coding, tile)
                .flag("WHOLE", !split)
                .flag("SPLIT", split)
                .write_pairs("out", &rows, !split)
                .read("x", &rows)
                .raw_rows("codes", &words)
                .raw_rows("scales", &words)
                .flat("offsets", &words);
            for name in
                ["block_rows", "segment_rows", "segment_blocks", "first", "count", "words", "cols"]
            {
                launch = launch.number(name, 1);
            }
            for name in
                ["blocks", "block_words", "groups", "pairs", "group_rows", "matrix", "matrices"]
            {
                launch = launch.number(name, 1);
            }
            all.push(launch.number("rows", 1).threads(1));
        }
    }
    all
}

/// Parses, validates, and holds to the limits that every adapter has.
fn check(text: &str, launch: &Launch) -> Result<(), String> {
    let module = naga::front::wgsl::parse_str(text).map_err(|error| error.emit_to_string(text))?;
    Validator::new(ValidationFlags::all(), Capabilities::empty())
        .validate(&module)
        .map_err(|error| error.emit_to_string(text))?;
    let entries: Vec<_> = module.entry_points.iter().map(|entry| &entry.name[..]).collect();
    if entries != [launch.kernel] {
        return Err(format!("entry points {entries:?}"));
    }
    if module.entry_points[0].workgroup_size != [LANES, 1, 1] {
        return Err("another workgroup size".into());
    }
    let size = |space| {
        let of = module.global_variables.iter().filter(|(_, one)| one.space == space);
        of.map(|(_, one)| module.types[one.ty].inner.size(module.to_ctx())).sum::<u32>()
    };
    if size(AddressSpace::WorkGroup) > 16_384 {
        return Err("too much workgroup memory".into());
    }
    if launch.bindings() > 8 {
        return Err(format!("{} storage buffers", launch.bindings()));
    }
    Ok(())
}

#[test]
fn every_shader_of_every_case_is_valid_within_the_narrowest_limits() {
    // 1 as adapters that bind enough have it
    let mut texts = BTreeMap::new();
    let bounds = Bounds { binding_bytes_max: 1 << 27, window_bytes_max: 256, bindings_max: 8 };
    let mut windowed = BTreeMap::new();
    for launch in all().iter().flat_map(launches).chain(products()).chain(sites()) {
        let mut cut = launch.clone();
        fit(&mut cut, &bounds).expect("the suites' tensors are small");
        if cut.bindings() > cut.operands.len() {
            windowed.entry(cut.key()).or_insert(cut);
        }
        texts.entry(launch.key()).or_insert(launch);
    }
    println!("{} shaders", texts.len());
    assert!(texts.len() > 100, "only {} shaders were found", texts.len());
    let kernels: Vec<&str> = texts.values().map(|launch| launch.kernel).collect();
    for entry in table::TABLE {
        assert!(kernels.contains(&entry.kernel), "no case needs {}", entry.kernel);
    }
    for (key, launch) in &texts {
        check(&shader::text(launch), launch).unwrap_or_else(|error| panic!("{key}: {error}"));
    }
    // 2 with tables and caches in windows, as far as there are bindings
    println!("{} shaders with windows", windowed.len());
    for kernel in ["gather_rows", "scatter_rows", "encode_rows", "attend", "index_score"] {
        assert!(windowed.values().any(|launch| launch.kernel == kernel), "no {kernel} in windows");
    }
    assert!(windowed.values().any(|launch| launch.operands.iter().any(Operand::shared)));
    for (key, launch) in &windowed {
        check(&shader::text(launch), launch).unwrap_or_else(|error| panic!("{key}: {error}"));
    }
}

#[test]
fn a_shader_that_is_no_wgsl_is_caught() {
    let launch = products().remove(0);
    let text = shader::text(&launch).replace("fma(", "fms(");
    assert!(check(&text, &launch).is_err());
}
