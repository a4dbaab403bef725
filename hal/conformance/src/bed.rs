//! What suites run on: a device with one queue, and the few calls they need, waiting for everything.

use std::sync::Arc;
use std::time::Duration;

use hal::op::Op;
use hal::{
    Buffer, BufferDesc, Builder, CompileOptions, Device, HostSlot, MemoryKind, Mode, Plan, Profile,
    Program, Queue, QueueKind, Result, Shape, SharedBytes, Tensor, Weight,
};
use kernels::case::{Array, Build, Emission, Role, WeightData, decode};

/// How long a check waits before it calls a device hung.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A device under test with a queue of its own.
pub struct Bed {
    /// The device.
    pub device: Arc<dyn Device>,
    /// A compute queue of it.
    pub queue: Arc<dyn Queue>,
}

/// How a program is compiled.
pub(crate) fn options(label: &str, mode: Mode) -> CompileOptions {
    CompileOptions { label: label.into(), mode, profile: Profile::Off }
}

/// A slot with these bytes.
pub(crate) fn filled(device: &dyn Device, bytes: &[u8]) -> Result<HostSlot> {
    let mut slot = device.host_slot(bytes.len() as u64)?;
    slot.bytes_mut().copy_from_slice(bytes);
    Ok(slot)
}

/// A program of one op.
pub(crate) fn single(op: Op) -> Result<Program> {
    let mut builder = Builder::new();
    builder.at(0, "conformance");
    builder.push(op)?;
    builder.finish()
}

impl Bed {
    /// A bed on `device`.
    ///
    /// # Errors
    /// If it gives no queue.
    pub fn new(device: &Arc<dyn Device>) -> Result<Bed> {
        let queue = device.queue(QueueKind::Compute)?;
        Ok(Bed { device: Arc::clone(device), queue })
    }

    /// Zeroed memory.
    ///
    /// # Errors
    /// As `Device::alloc`.
    pub fn alloc(&self, size_bytes: u64) -> Result<Buffer> {
        self.device.alloc(&BufferDesc {
            label: "conformance",
            size_bytes,
            kind: MemoryKind::Device,
        })
    }

    /// Uploads and waits.
    ///
    /// # Errors
    /// As `Queue::upload` and `Queue::wait`.
    pub fn upload(&self, target: &Tensor, bytes: &[u8]) -> Result<()> {
        let point = self.queue.upload(target, filled(&*self.device, bytes)?, &[])?;
        self.queue.wait(&point, PATIENCE)?;
        self.queue.reclaim(&point).map(|_| ())
    }

    /// Downloads and waits.
    ///
    /// # Errors
    /// As `Queue::download` and `Queue::wait`.
    pub fn download(&self, source: &Tensor) -> Result<Vec<u8>> {
        let bytes = u64::from(source.rows()) * source.row_bytes();
        let point = self.queue.download(source, self.device.host_slot(bytes)?, &[])?;
        self.queue.wait(&point, PATIENCE)?;
        Ok(self.queue.reclaim(&point)?.bytes().to_vec())
    }

    /// Submits and waits.
    ///
    /// # Errors
    /// As `Queue::submit` and `Queue::wait`.
    pub fn submit(&self, plan: &Arc<dyn Plan>) -> Result<()> {
        let point = self.queue.submit(plan, &[])?;
        self.queue.wait(&point, PATIENCE)
    }

    /// The arrays on the device: shared ones as constants, written ones full of 0xff (NaN, -1).
    ///
    /// # Errors
    /// As `Device::alloc`, `Device::constant` and `Queue::upload`.
    pub fn tensors(&self, arrays: &[Array]) -> Result<Vec<Tensor>> {
        arrays.iter().map(|array| self.tensor(array)).collect()
    }

    fn tensor(&self, array: &Array) -> Result<Tensor> {
        let mut bytes = array.bytes();
        let view =
            |buffer| Tensor::new(buffer, 0, Shape::new(&array.dims), array.dtype, array.codec);
        if array.role == Role::Shared {
            return view(self.device.constant(array.name, SharedBytes::from_vec(bytes))?);
        }
        if let Role::Out { .. } = array.role {
            bytes.fill(0xff);
        }
        let tensor = view(self.alloc(bytes.len().max(1) as u64)?)?;
        if !bytes.is_empty() {
            self.upload(&tensor, &bytes)?;
        }
        Ok(tensor)
    }

    /// The weights on the device.
    ///
    /// # Errors
    /// As `Device::load_weight`.
    pub fn weights(&self, weights: &[WeightData]) -> Result<Vec<Weight>> {
        weights.iter().map(|data| self.device.load_weight(&mut data.clone())).collect()
    }

    /// Runs `program` over the arrays and gives the bytes of the written ones by place.
    ///
    /// # Errors
    /// Any of the calls.
    pub(crate) fn run(
        &self,
        arrays: &[Array],
        weights: &[Weight],
        mode: Mode,
        program: &Emission<'_>,
    ) -> Result<Vec<(usize, Vec<u8>)>> {
        let tensors = self.tensors(arrays)?;
        let program = program(&tensors, weights)?;
        let plan = hal::compile(&*self.device, &program, None, &options("conformance", mode))?;
        self.submit(&plan)?;
        let written = arrays.iter().enumerate().filter(|(_, array)| array.is_written());
        written.map(|(place, _)| Ok((place, self.download(&tensors[place])?))).collect()
    }

    /// Runs one op.
    ///
    /// # Errors
    /// Any of the calls.
    pub(crate) fn run_op(
        &self,
        arrays: &[Array],
        weights: &[Weight],
        mode: Mode,
        build: &Build,
    ) -> Result<Vec<(usize, Vec<u8>)>> {
        self.run(arrays, weights, mode, &|tensors, weights| single(build(tensors, weights)))
    }
}

/// The numbers in an array's bytes.
pub(crate) fn values(array: &Array, bytes: &[u8]) -> Vec<f64> {
    decode(array.dtype, array.codec, array.width(), bytes)
}
