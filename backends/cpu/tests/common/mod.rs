//! What the tests share: the one place that touches the HAL's calls.

#![allow(dead_code, reason = "every test binary uses its own part")]

use std::sync::Arc;
use std::time::Duration;

use backend_cpu::CpuBackend;
use hal::{
    Backend, Buffer, BufferDesc, Builder, CompileOptions, DType, Device, Encoding, HostSlot,
    MemoryKind, Mode, OpenOptions, Plan, Profile, Queue, QueueKind, Result, RowCodec, Shape,
    SharedBytes, Tensor, Weight, WeightPart, WeightSegment, WeightSource, WeightSpec,
};

pub const LONG: Duration = Duration::from_secs(60);

pub fn open(settings: &[(&str, &str)]) -> Result<Arc<dyn Device>> {
    let settings = settings.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    CpuBackend.open(0, &OpenOptions { sink: None, settings })
}

pub struct Bench {
    pub device: Arc<dyn Device>,
    pub queue: Arc<dyn Queue>,
}

impl Bench {
    pub fn new(settings: &[(&str, &str)]) -> Bench {
        Bench::on(open(settings).expect("the settings are good"))
    }

    pub fn on(device: Arc<dyn Device>) -> Bench {
        let queue = device.queue(QueueKind::Compute).expect("a queue");
        Bench { device, queue }
    }

    pub fn alloc(&self, bytes: u64) -> Buffer {
        let desc = BufferDesc { label: "test", size_bytes: bytes, kind: MemoryKind::Device };
        self.device.alloc(&desc).expect("small")
    }

    pub fn tensor(&self, dims: &[u32], dtype: DType, codec: RowCodec) -> Tensor {
        let shape = Shape::new(dims);
        let bytes = codec.row_bytes(dtype, shape.width()) * u64::from(shape.rows());
        Tensor::new(self.alloc(bytes), 0, shape, dtype, codec).expect("it fits")
    }

    pub fn upload(&self, target: &Tensor, bytes: &[u8]) {
        let slot = HostSlot::new(Box::new(bytes.to_vec()));
        let point = self.queue.upload(target, slot, &[]).expect("sizes agree");
        self.queue.wait(&point, LONG).expect("an upload");
        self.queue.reclaim(&point).expect("the slot comes back");
    }

    pub fn download(&self, source: &Tensor) -> Vec<u8> {
        let bytes = (source.row_bytes() * u64::from(source.rows())) as usize;
        let slot = HostSlot::new(Box::new(vec![0u8; bytes]));
        let point = self.queue.download(source, slot, &[]).expect("sizes agree");
        self.queue.wait(&point, LONG).expect("a download");
        self.queue.reclaim(&point).expect("the slot comes back").bytes().to_vec()
    }

    pub fn floats(&self, dims: &[u32], values: &[f32]) -> Tensor {
        let tensor = self.tensor(dims, DType::F32, RowCodec::Plain);
        self.upload(&tensor, &bytes_of(values));
        tensor
    }

    pub fn ints(&self, dims: &[u32], values: &[i32]) -> Tensor {
        let tensor = self.tensor(dims, DType::I32, RowCodec::Plain);
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.upload(&tensor, &bytes);
        tensor
    }

    pub fn read(&self, tensor: &Tensor) -> Vec<f32> {
        floats_of(&self.download(tensor))
    }

    pub fn plan(&self, builder: Builder, mode: Mode) -> Result<Arc<dyn Plan>> {
        let options = CompileOptions { label: "test".into(), mode, profile: Profile::Off };
        hal::compile(&*self.device, &builder.finish()?, None, &options)
    }

    pub fn run(&self, plan: &Arc<dyn Plan>) -> Result<()> {
        let point = self.queue.submit(plan, &[])?;
        self.queue.wait(&point, LONG)
    }

    pub fn weight(&self, spec: WeightSpec, seed: u64, lend: bool) -> Result<Weight> {
        self.device.load_weight(&mut RandomWeight::new(spec, seed, lend))
    }
}

pub fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

pub fn floats_of(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

pub fn spec(groups: u32, rows: u32, cols: u32, encoding: Encoding) -> WeightSpec {
    let segment_rows = rows;
    WeightSpec { name: "w".into(), groups, rows, cols, segment_rows, encoding }
}

/// Seeded numbers in -1..1.
pub fn random(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 40) & 0xffff) as f32 / 32768.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// A weight of seeded numbers, lent in place or read piece by piece.
pub struct RandomWeight {
    spec: WeightSpec,
    segments: Vec<WeightSegment>,
    lend: bool,
}

impl RandomWeight {
    pub fn new(spec: WeightSpec, seed: u64, lend: bool) -> RandomWeight {
        let segment = |index: u64| {
            let values = random(spec.segment_code_bytes() as usize, seed + index);
            let codes = match spec.encoding {
                Encoding::Plain(DType::F32) => {
                    bytes_of(&values[..spec.segment_code_bytes() as usize / 4])
                }
                // Codes without a NaN, either sign.
                Encoding::Plain(_) => {
                    let bf16 = |v: f32| ((v.to_bits() >> 16) as u16).to_le_bytes();
                    values[..values.len() / 2].iter().flat_map(|&v| bf16(v)).collect()
                }
                _ => values.iter().map(|v| (v * 110.0) as i8 as u8 & 0xf7).collect(),
            };
            let scales = random(spec.segment_scale_bytes() as usize, seed + 1000 + index);
            let scales: Vec<u8> = scales.iter().map(|v| (120.0 + 3.0 * v) as u8).collect();
            let some = !scales.is_empty();
            WeightSegment {
                codes: SharedBytes::from_vec(codes),
                scales: some.then(|| SharedBytes::from_vec(scales)),
            }
        };
        let segments = (0..u64::from(spec.segments())).map(segment).collect();
        RandomWeight { spec, segments, lend }
    }
}

impl WeightSource for RandomWeight {
    fn spec(&self) -> &WeightSpec {
        &self.spec
    }
    fn read(&mut self, segment: u32, part: WeightPart, out: &mut [u8]) -> Result<()> {
        let segment = &self.segments[segment as usize];
        out.copy_from_slice(match part {
            WeightPart::Codes => segment.codes.bytes(),
            WeightPart::Scales => segment.scales.as_ref().expect("coded").bytes(),
        });
        Ok(())
    }
    fn lend(&self) -> Option<Vec<WeightSegment>> {
        self.lend.then(|| self.segments.clone())
    }
}
