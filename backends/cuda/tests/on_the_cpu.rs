//! The conformance kit on the backend's own device, plan and queue code, its kernels executed by the CPU.

mod emulated;

use std::sync::Arc;
use std::time::Duration;

use backend_cuda::CudaBackend;
use conformance::{Bed, Expectations, Settings, Suite, run_on};
use emulated::Emulated;
use hal::op::{Gather, GatherSource, Matmul, RowGroups};
use hal::{
    Backend, Builder, CompileOptions, DType, Device, Encoding, ErrorKind, Mode, Noise, OpenOptions,
    Profile, Queue, Result, RowCodec, Shape, SharedBytes, Tensor, WeightPart, WeightSegment,
    WeightSource, WeightSpec,
};

fn open() -> Result<Arc<dyn Device>> {
    CudaBackend::on(Arc::new(Emulated::default())).open(0, &OpenOptions::default())
}

/// A device that has just been lost to an index past the end of its table.
fn lost() -> Result<(Arc<dyn Device>, Arc<dyn Queue>)> {
    let device = open()?;
    let bed = Bed::new(&device)?;
    let tensor = |dims: &[u32], dtype| {
        Tensor::new(bed.alloc(64)?, 0, Shape::new(dims), dtype, RowCodec::Plain)
    };
    let (out, source) = (tensor(&[1, 4], DType::F32)?, tensor(&[2, 4], DType::F32)?);
    let index = tensor(&[1], DType::I32)?;
    bed.upload(&index, &9i32.to_le_bytes())?;
    let mut builder = Builder::new();
    let source = GatherSource::Rows { source, more: None };
    builder.push(Gather { out, source, index, per: 1 })?;
    let options =
        CompileOptions { label: "fault".into(), mode: Mode::Eager, profile: Profile::Off };
    let plan = hal::compile(&*device, &builder.finish()?, None, &options)?;
    let point = bed.queue.submit(&plan, &[])?;
    let fault = bed.queue.wait(&point, Duration::from_secs(60)).unwrap_err();
    assert_eq!(fault.kind(), ErrorKind::DeviceLost, "{fault}");
    assert!(fault.to_string().starts_with("fault: gather_rows"), "{fault}");
    Ok((device, bed.queue))
}

#[test]
fn the_kernels_conform_on_the_cpu() {
    let device = open().unwrap();
    let settings = Settings { lost: Some(&lost), ..Settings::default() };
    let report = run_on(&device, &settings, &Expectations::none());
    println!("{}\n{report}", report.coverage());
    report.assert_green();
}

/// Runs what depends on kernels on a machine with some of its own.
fn assert_conforms(machine: Emulated) {
    let device = CudaBackend::on(Arc::new(machine)).open(0, &OpenOptions::default()).unwrap();
    let suites = vec![Suite::Ops, Suite::Rows, Suite::Program];
    let settings = Settings { suites, ..Settings::default() };
    let report = run_on(&device, &settings, &Expectations::none());
    println!("{}\n{report}", report.coverage());
    report.assert_green();
}

#[test]
fn products_of_a_warp_group_conform_on_the_cpu() {
    assert_conforms(Emulated { wide: true, ..Emulated::default() });
}

#[test]
fn bulk_copies_conform_on_the_cpu() {
    for wide in [false, true] {
        assert_conforms(Emulated { bulk: true, wide, ..Emulated::default() });
    }
}

#[test]
fn products_of_a_warp_group_that_give_other_bits_are_refused() {
    let machine = Emulated { wide: true, idle: Some("matmul_wide"), ..Emulated::default() };
    let opened = CudaBackend::on(Arc::new(machine)).open(0, &OpenOptions::default());
    let error = opened.err().expect("the probe finds it").to_string();
    assert!(error.contains("do not give the bits of mma with Bf16 weights"), "{error}");
}

/// Where the bytes of a weight of noise come from.
#[derive(Clone, Copy, PartialEq)]
enum Origin {
    Device,
    Read,
    Lent,
}

/// A weight of noise.
struct Noisy {
    spec: WeightSpec,
    origin: Origin,
}

impl WeightSource for Noisy {
    fn spec(&self) -> &WeightSpec {
        &self.spec
    }
    fn read(&mut self, segment: u32, part: WeightPart, out: &mut [u8]) -> Result<()> {
        recipe(segment, part).fill(out);
        Ok(())
    }
    fn lend(&self) -> Option<Vec<WeightSegment>> {
        let part = |segment, part, bytes| {
            let mut out = vec![0; bytes as usize];
            recipe(segment, part).fill(&mut out);
            let range = 0..out.len();
            SharedBytes::new(Arc::new(out), range)
        };
        let spec = &self.spec;
        let segment = |segment| WeightSegment {
            codes: part(segment, WeightPart::Codes, spec.segment_code_bytes()),
            scales: Some(part(segment, WeightPart::Scales, spec.segment_scale_bytes())),
        };
        (self.origin == Origin::Lent).then(|| (0..spec.segments()).map(segment).collect())
    }
    fn noise(&self, segment: u32, part: WeightPart) -> Option<Noise> {
        (self.origin == Origin::Device).then(|| recipe(segment, part))
    }
}

fn recipe(segment: u32, part: WeightPart) -> Noise {
    match part {
        WeightPart::Codes => Noise { seed: segment, and: 0xbfbf_bfbf, or: 0 },
        WeightPart::Scales => Noise { seed: segment, and: 0x0707_0707, or: 0x7878_7878 },
    }
}

/// A row of numbers times a weight.
fn product(spec: &WeightSpec, origin: Origin) -> Vec<u8> {
    let device = open().unwrap();
    let bed = Bed::new(&device).unwrap();
    let weight = device.load_weight(&mut Noisy { spec: spec.clone(), origin }).unwrap();
    let tensor = |width: u32| {
        let memory = bed.alloc(4 * u64::from(width)).unwrap();
        Tensor::new(memory, 0, Shape::new(&[1, width]), DType::F32, RowCodec::Plain).unwrap()
    };
    let (x, out) = (tensor(spec.cols), tensor(spec.rows));
    let ones: Vec<u8> = (0..spec.cols).flat_map(|i| (1.0 + i as f32).to_le_bytes()).collect();
    bed.upload(&x, &ones).unwrap();
    let mut builder = Builder::new();
    builder.push(Matmul { out: out.clone(), x, weight, groups: RowGroups::Cyclic }).unwrap();
    let options =
        CompileOptions { label: "product".into(), mode: Mode::Eager, profile: Profile::Off };
    let plan = hal::compile(&*device, &builder.finish().unwrap(), None, &options).unwrap();
    let point = bed.queue.submit(&plan, &[]).unwrap();
    bed.queue.wait(&point, Duration::from_secs(60)).unwrap();
    bed.download(&out).unwrap()
}

#[test]
fn noise_made_on_the_device_is_the_noise_that_is_read() {
    // Segments of 5 rows of 33 codes and 6 scales: none begins or ends at a word.
    let spec = WeightSpec {
        name: "noise".into(),
        groups: 1,
        rows: 15,
        cols: 33,
        segment_rows: 5,
        encoding: Encoding::Fp8Block { rows: 4, cols: 12 },
    };
    let made = product(&spec, Origin::Device);
    assert_eq!(made, product(&spec, Origin::Read));
    assert!(made.iter().any(|&byte| byte != 0));
}

#[test]
fn a_weight_larger_than_what_is_sent_at_a_time_arrives_whole() {
    // Segments of 10 MB, of which a lane takes 4 MiB at a time.
    let spec = WeightSpec {
        name: "large".into(),
        groups: 1,
        rows: 2400,
        cols: 8400,
        segment_rows: 1200,
        encoding: Encoding::Fp8Block { rows: 128, cols: 128 },
    };
    let made = product(&spec, Origin::Device);
    assert_eq!(made, product(&spec, Origin::Read));
    assert_eq!(made, product(&spec, Origin::Lent));
}
