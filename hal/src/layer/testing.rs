//! A device for the tests of this crate: bytes behind a mutex, work done in `submit`, just enough
//! ops (copy, add, f32 matmul), and quirks that layers must find.

use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::lock;
use crate::device::{
    Backend, BufferDesc, CompileOptions, Device, DeviceInfo, HostSlot, Limits, MemoryKind,
    MemoryReport, Mode, OpenOptions, Plan, PlanStats, Point, Profile, Queue, QueueKind,
    check_transfer,
};
use crate::error::{Error, ErrorKind, Result};
use crate::op::{Map, MapFn, Matmul, Op, RowGroups};
use crate::program::{Builder, Program};
use crate::tensor::{Buffer, DType, RawBuffer, RowCodec, Shape, Tensor};
use crate::weight::{
    Encoding, RawWeight, SharedBytes, Weight, WeightPart, WeightSource, WeightSpec, WeightSupport,
};

/// What is wrong with the device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Quirk {
    None,
    /// Adds this to every sum.
    AddsTooMuch(f32),
    /// Does not write the last row of a sum.
    ForgetsLastRow,
}

/// The backend, and each of its devices.
pub(crate) struct Memory {
    info: DeviceInfo,
    count: u32,
    quirk: Quirk,
    queues: AtomicU32,
}

impl Memory {
    pub(crate) fn backend(name: &'static str, count: u32) -> Memory {
        let info = DeviceInfo { backend: name, name: "memory".into(), ordinal: 0, memory_bytes: 0 };
        Memory { info, count, quirk: Quirk::None, queues: AtomicU32::new(0) }
    }

    pub(crate) fn device(quirk: Quirk) -> Arc<dyn Device> {
        Arc::new(Memory { quirk, ..Memory::backend("memory", 1) })
    }

    fn info_of(&self, ordinal: u32) -> DeviceInfo {
        DeviceInfo { ordinal, ..self.info.clone() }
    }
}

impl Backend for Memory {
    fn name(&self) -> &'static str {
        self.info.backend
    }
    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        Ok((0..self.count).map(|ordinal| self.info_of(ordinal)).collect())
    }
    fn doctor(&self) -> Vec<String> {
        if self.count == 0 { vec!["no driver".into()] } else { vec![] }
    }
    fn open(&self, ordinal: u32, _options: &OpenOptions) -> Result<Arc<dyn Device>> {
        let info = self.info_of(ordinal);
        Ok(Arc::new(Memory { info, ..Memory::backend(self.info.backend, self.count) }))
    }
}

#[derive(Debug)]
struct Bytes(Mutex<Vec<u8>>);

impl RawBuffer for Bytes {
    fn size_bytes(&self) -> u64 {
        lock(&self.0).len() as u64
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[derive(Debug)]
struct Floats(Vec<f32>);

impl RawWeight for Floats {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

impl Device for Memory {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }
    fn limits(&self) -> &Limits {
        &Limits { binding_bytes_max: 1 << 20, bindings_max: 8, plans_max: 8 }
    }
    fn supports(&self, op: &Op) -> bool {
        matches!(op, Op::Map(_) | Op::Matmul(_))
    }
    fn weight_support(&self, _spec: &WeightSpec) -> WeightSupport {
        WeightSupport::Native
    }
    fn alloc(&self, desc: &BufferDesc<'_>) -> Result<Buffer> {
        Ok(Buffer::Real(Arc::new(Bytes(Mutex::new(vec![0; desc.size_bytes as usize])))))
    }
    fn constant(&self, _label: &str, bytes: SharedBytes) -> Result<Buffer> {
        Ok(Buffer::Real(Arc::new(Bytes(Mutex::new(bytes.bytes().to_vec())))))
    }
    fn load_weight(&self, source: &mut dyn WeightSource) -> Result<Weight> {
        let spec = source.spec().clone();
        let mut bytes = vec![0; spec.size_bytes() as usize];
        source.read(0, WeightPart::Codes, &mut bytes)?;
        let stored = spec.encoding;
        Ok(Weight::new(Arc::new(Floats(floats(&bytes))), spec, stored))
    }
    fn compile(&self, program: &Program, _options: &CompileOptions) -> Result<Arc<dyn Plan>> {
        Ok(Arc::new(Ops { ops: program.clone(), quirk: self.quirk }))
    }
    fn queue(&self, _kind: QueueKind) -> Result<Arc<dyn Queue>> {
        let number = self.queues.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(Line { number, inner: Mutex::default() }))
    }
    fn memory(&self) -> MemoryReport {
        MemoryReport::default()
    }
    fn arithmetic(&self) -> String {
        "memory".into()
    }
}

struct Ops {
    ops: Program,
    quirk: Quirk,
}

impl Plan for Ops {
    fn stats(&self) -> PlanStats {
        PlanStats { launches: self.ops.nodes().len() as u32, workspace_bytes: 0 }
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Ops {
    fn run(&self) {
        for node in self.ops.nodes() {
            match &node.op {
                Op::Map(Map { out, f: MapFn::Copy(x) }) => write(out, out.rows(), &read(x)),
                Op::Map(Map { out, f: MapFn::Add(x, y) }) => {
                    let more = if let Quirk::AddsTooMuch(more) = self.quirk { more } else { 0.0 };
                    let forgets = u32::from(self.quirk == Quirk::ForgetsLastRow);
                    let pairs = read(x).into_iter().zip(read(y));
                    let sums: Vec<f32> = pairs.map(|(x, y)| x + y + more).collect();
                    write(out, out.rows() - forgets, &sums);
                }
                Op::Matmul(Matmul { out, x, weight, groups: RowGroups::Cyclic }) => {
                    let floats: &Floats = weight.raw().as_any().downcast_ref().expect("ours");
                    write(out, out.rows(), &product(&read(x), &floats.0, x.width() as usize));
                }
                other => unreachable!("{} is not supported", other.name()),
            }
        }
    }
}

fn product(x: &[f32], weight: &[f32], cols: usize) -> Vec<f32> {
    let dot = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(x, w)| x * w).sum();
    x.chunks(cols).flat_map(|x| weight.chunks(cols).map(move |w| dot(x, w))).collect()
}

fn bytes_behind(tensor: &Tensor) -> &Mutex<Vec<u8>> {
    let Buffer::Real(raw) = tensor.buffer() else { unreachable!("hal placed it") };
    &raw.as_any().downcast_ref::<Bytes>().expect("our own buffer").0
}

fn row_of(tensor: &Tensor, row: u32) -> std::ops::Range<usize> {
    let begin = (tensor.offset_bytes() + u64::from(row) * tensor.row_stride_bytes()) as usize;
    begin..begin + tensor.row_bytes() as usize
}

fn read(tensor: &Tensor) -> Vec<f32> {
    let bytes = lock(bytes_behind(tensor));
    (0..tensor.rows()).flat_map(|row| floats(&bytes[row_of(tensor, row)])).collect()
}

fn write(tensor: &Tensor, rows: u32, values: &[f32]) {
    let mut bytes = lock(bytes_behind(tensor));
    for (row, values) in (0..rows).zip(values.chunks(tensor.width() as usize)) {
        let line: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        bytes[row_of(tensor, row)].copy_from_slice(&line);
    }
}

struct Line {
    number: u32,
    inner: Mutex<(u64, HashMap<u64, HostSlot>)>,
}

impl Line {
    fn next(&self, slot: Option<HostSlot>) -> Point {
        let mut inner = lock(&self.inner);
        inner.0 += 1;
        let value = inner.0;
        inner.1.extend(slot.map(|slot| (value, slot)));
        Point { queue: self.number, value }
    }
}

impl Queue for Line {
    fn submit(&self, plan: &Arc<dyn Plan>, _after: &[Point]) -> Result<Point> {
        plan.as_any().downcast_ref::<Ops>().expect("our own plan").run();
        Ok(self.next(None))
    }
    fn upload(&self, target: &Tensor, source: HostSlot, _after: &[Point]) -> Result<Point> {
        check_transfer(target, &source)?;
        let range = target.offset_bytes() as usize..target.end_bytes() as usize;
        lock(bytes_behind(target))[range].copy_from_slice(source.bytes());
        Ok(self.next(Some(source)))
    }
    fn download(&self, source: &Tensor, mut target: HostSlot, _after: &[Point]) -> Result<Point> {
        check_transfer(source, &target)?;
        let range = source.offset_bytes() as usize..source.end_bytes() as usize;
        target.bytes_mut().copy_from_slice(&lock(bytes_behind(source))[range]);
        Ok(self.next(Some(target)))
    }
    fn poll(&self, point: &Point) -> Result<bool> {
        Ok(point.value <= lock(&self.inner).0)
    }
    fn wait(&self, point: &Point, _timeout: Duration) -> Result<()> {
        match self.poll(point)? {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Timeout, "never sent")),
        }
    }
    fn reclaim(&self, point: &Point) -> Result<HostSlot> {
        lock(&self.inner).1.remove(&point.value).ok_or_else(|| Error::invalid("no slot"))
    }
}

/// The identity as a weight.
pub(crate) struct Identity(WeightSpec);

pub(crate) fn identity(size: u32) -> Identity {
    Identity(WeightSpec {
        name: "identity".into(),
        groups: 1,
        rows: size,
        cols: size,
        segment_rows: size,
        encoding: Encoding::Plain(DType::F32),
    })
}

impl WeightSource for Identity {
    fn spec(&self) -> &WeightSpec {
        &self.0
    }
    fn read(&mut self, _segment: u32, _part: WeightPart, out: &mut [u8]) -> Result<()> {
        let step = self.0.cols as usize + 1;
        for (place, value) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let one = if place.is_multiple_of(step) { 1f32 } else { 0.0 };
            *value = one.to_le_bytes();
        }
        Ok(())
    }
}

pub(crate) fn tensor_f32(device: &dyn Device, dims: &[u32]) -> Tensor {
    let shape = Shape::new(dims);
    let size_bytes = 4 * shape.elements();
    let desc = BufferDesc { label: "test", size_bytes, kind: MemoryKind::Device };
    Tensor::new(device.alloc(&desc).unwrap(), 0, shape, DType::F32, RowCodec::Plain).unwrap()
}

pub(crate) fn upload_f32(device: &dyn Device, queue: &dyn Queue, tensor: &Tensor, values: &[f32]) {
    let mut slot = device.host_slot(4 * values.len() as u64).unwrap();
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    slot.bytes_mut().copy_from_slice(&bytes);
    let point = queue.upload(tensor, slot, &[]).unwrap();
    queue.wait(&point, super::PATIENCE).unwrap();
    queue.reclaim(&point).unwrap();
}

pub(crate) fn download_f32(device: &dyn Device, queue: &dyn Queue, tensor: &Tensor) -> Vec<f32> {
    let slot = device.host_slot(4 * tensor.shape().elements()).unwrap();
    let point = queue.download(tensor, slot, &[]).unwrap();
    floats(queue.reclaim(&point).unwrap().bytes())
}

/// `out = x + y`.
pub(crate) fn add_program(out: &Tensor, x: &Tensor, y: &Tensor) -> Program {
    let mut builder = Builder::new();
    builder.push(Map { out: out.clone(), f: MapFn::Add(x.clone(), y.clone()) }).unwrap();
    builder.finish().unwrap()
}

pub(crate) fn eager(label: &str) -> CompileOptions {
    CompileOptions { label: label.into(), mode: Mode::Eager, profile: Profile::Off }
}
