//! What everything of one open device shares: wgpu's device and queue, pipelines, loss.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use hal::{DeviceInfo, Error, ErrorKind, Limits, Result, Sink};
use wgpu::{ErrorFilter, ShaderRuntimeChecks};

use crate::device::Settings;
use crate::fit::Bounds;
use crate::launch::{BINDING_ALIGN_BYTES, Launch};
use crate::memory::{Ledger, WgpuBuffer, padded};
use crate::queue::Timeline;
use crate::shader;

/// Most bytes written to a buffer in one go: wgpu takes as much host memory again.
const PIECE_BYTES: usize = 1 << 25;
/// Most bindings of a launch, where an adapter has more: windows of 128 MiB make 3 GiB of them.
const BINDINGS_MAX: u32 = 32;

/// An open device.
pub(crate) struct Shared {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) info: DeviceInfo,
    pub(crate) limits: Limits,
    pub(crate) bounds: Bounds,
    /// Most bytes of a weight in one binding.
    pub(crate) weight_bytes_max: u64,
    /// Largest buffer.
    pub(crate) buffer_bytes_max: u64,
    pub(crate) timestamps: bool,
    pub(crate) arithmetic: String,
    pub(crate) sink: Option<Arc<dyn Sink>>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) timeline: Mutex<Timeline>,
    /// Newest ticket whose work is done.
    pub(crate) done: Arc<AtomicU64>,
    lost: Arc<OnceLock<String>>,
    layouts: Mutex<HashMap<usize, Layout>>,
    pipelines: Mutex<HashMap<String, wgpu::ComputePipeline>>,
}

/// How operands are bound: numbers at 0, operands from 1 on, all of them read and written.
///
/// Read and written even where a kernel only reads: operands of one op are often parts of one buffer,
/// and wgpu allows a buffer in a dispatch to be either read-only or writable.
#[derive(Clone)]
pub(crate) struct Layout {
    pub(crate) group: wgpu::BindGroupLayout,
    pipeline: wgpu::PipelineLayout,
}

/// Our mutexes guard no invariant that a panic could break.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What opening a device gave.
pub(crate) struct Opened {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) info: DeviceInfo,
    pub(crate) arithmetic: String,
    pub(crate) settings: Settings,
    pub(crate) sink: Option<Arc<dyn Sink>>,
}

impl Shared {
    pub(crate) fn new(opened: Opened) -> Shared {
        let Opened { device, queue, info, arithmetic, settings, sink } = opened;
        let lost = Arc::new(OnceLock::new());
        let reason = Arc::clone(&lost);
        device.set_device_lost_callback(move |_, message| {
            // The first reason is the one to report.
            let _ = reason.set(format!("the GPU device is lost: {message}"));
        });
        let reason = Arc::clone(&lost);
        device.on_uncaptured_error(Arc::new(move |error| {
            let _ = reason.set(format!("the GPU refused a call: {error}"));
        }));
        let bounds = bounds(&device.limits(), &settings);
        let buffer_bytes_max = device.limits().max_buffer_size;
        // A table or a cache may be as wide as a buffer.
        let limits =
            Limits { binding_bytes_max: buffer_bytes_max, bindings_max: 8, plans_max: 4096 };
        let weight_bytes_max = settings.weight_bytes_max.unwrap_or(u64::MAX);
        Shared {
            bounds,
            weight_bytes_max: weight_bytes_max.min(bounds.binding_bytes_max),
            buffer_bytes_max,
            timestamps: device.features().contains(wgpu::Features::TIMESTAMP_QUERY),
            device,
            queue,
            info,
            limits,
            arithmetic,
            sink,
            ledger: Arc::default(),
            timeline: Mutex::default(),
            done: Arc::default(),
            lost,
            layouts: Mutex::default(),
            pipelines: Mutex::default(),
        }
    }

    /// # Errors
    /// `DeviceLost`, with what lost it, for good.
    pub(crate) fn alive(&self) -> Result<()> {
        match self.lost.get() {
            Some(reason) => Err(Error::device_lost(reason.clone())),
            None => Ok(()),
        }
    }

    /// Gives the device up, as a driver would that fails.
    #[cfg(test)]
    pub(crate) fn lose(&self) {
        self.device.destroy();
        let _ = self.device.poll(wgpu::PollType::Poll);
    }

    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::Acquire)
    }

    /// Zeroed memory for `size_bytes` bytes.
    ///
    /// # Errors
    /// `OutOfMemory` naming the label and the size.
    pub(crate) fn alloc(&self, label: &str, size_bytes: u64) -> Result<WgpuBuffer> {
        let raw = self.raw_buffer(label, size_bytes, usage())?;
        Ok(WgpuBuffer::new(raw, size_bytes, &self.ledger))
    }

    /// Memory with these bytes, the last word filled up with zeros.
    ///
    /// # Errors
    /// As [`Shared::alloc`].
    pub(crate) fn filled(&self, label: &str, bytes: &[u8]) -> Result<WgpuBuffer> {
        let buffer = self.alloc(label, bytes.len() as u64)?;
        let mut offset = 0;
        for piece in bytes.chunks(PIECE_BYTES) {
            let whole = piece.len() - piece.len() % 4;
            self.queue.write_buffer(buffer.raw(), offset, &piece[..whole]);
            if whole < piece.len() {
                let mut word = [0; 4];
                word[..piece.len() - whole].copy_from_slice(&piece[whole..]);
                self.queue.write_buffer(buffer.raw(), offset + whole as u64, &word);
            }
            offset += piece.len() as u64;
            if bytes.len() > PIECE_BYTES {
                // Lets go of the piece's copy.
                self.queue.submit([]);
                let _ = self.device.poll(wgpu::PollType::wait_indefinitely());
            }
        }
        self.alive()?;
        Ok(buffer)
    }

    /// A buffer of wgpu.
    ///
    /// # Errors
    /// `OutOfMemory` naming the label and the size.
    pub(crate) fn raw_buffer(
        &self,
        label: &str,
        size_bytes: u64,
        usage: wgpu::BufferUsages,
    ) -> Result<wgpu::Buffer> {
        self.alive()?;
        let refused = |why: &str| {
            Error::out_of_memory(format!(
                "{label}: {size_bytes} bytes wanted, {why}; a shorter context or a smaller model \
                 needs less"
            ))
        };
        if size_bytes > self.buffer_bytes_max - self.buffer_bytes_max % 4 {
            let most = self.buffer_bytes_max;
            return Err(refused(&format!("a buffer of this adapter has at most {most}")));
        }
        let scope = self.device.push_error_scope(ErrorFilter::OutOfMemory);
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size: padded(size_bytes),
            usage,
            mapped_at_creation: false,
        });
        match pollster::block_on(scope.pop()) {
            None => self.alive().map(|()| buffer),
            Some(error) => Err(refused(&error.to_string())),
        }
    }

    /// Layout of a launch with `count` bindings of operands.
    pub(crate) fn layout(&self, count: usize) -> Layout {
        let mut layouts = lock(&self.layouts);
        layouts.entry(count).or_insert_with(|| make_layout(&self.device, count)).clone()
    }

    /// The pipeline of a launch, made once per variant.
    ///
    /// # Errors
    /// `Driver` with the compiler's words.
    pub(crate) fn pipeline(&self, launch: &Launch) -> Result<wgpu::ComputePipeline> {
        let key = launch.key();
        if let Some(pipeline) = lock(&self.pipelines).get(&key) {
            return Ok(pipeline.clone());
        }
        let layout = self.layout(launch.bindings());
        let pipeline = self.make_pipeline(launch, &key, &layout)?;
        lock(&self.pipelines).insert(key, pipeline.clone());
        Ok(pipeline)
    }

    fn make_pipeline(
        &self,
        launch: &Launch,
        key: &str,
        layout: &Layout,
    ) -> Result<wgpu::ComputePipeline> {
        let scope = self.device.push_error_scope(ErrorFilter::Validation);
        // Indices come from the step block and stay checked. Loops end: their bounds are numbers of
        // the launch or counts of the step block.
        let mut checks = ShaderRuntimeChecks::checked();
        checks.force_loop_bounding = false;
        checks.int_div_checks = false;
        let module = wgpu::ShaderModuleDescriptor {
            label: Some(launch.kernel),
            source: wgpu::ShaderSource::Wgsl(shader::text(launch).into()),
        };
        // SAFETY: no loop of our shaders is endless, and `hal` has checked every divisor.
        let module = unsafe { self.device.create_shader_module_trusted(module, checks) };
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(launch.kernel),
            layout: Some(&layout.pipeline),
            module: &module,
            entry_point: Some(launch.kernel),
            compilation_options: wgpu::PipelineCompilationOptions {
                // Every kernel writes its workgroup memory before it reads it.
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache: None,
        });
        match pollster::block_on(scope.pop()) {
            None => self.alive().map(|()| pipeline),
            Some(error) => Err(Error::new(ErrorKind::Driver, format!("shader {key}: {error}"))),
        }
    }
}

/// What is bound of an adapter with these limits.
fn bounds(limits: &wgpu::Limits, settings: &Settings) -> Bounds {
    // Words are counted in 32 bits, bytes within a window too.
    let bytes = limits.max_storage_buffer_binding_size.min(1 << 31);
    let bytes = bytes - bytes % BINDING_ALIGN_BYTES;
    Bounds {
        binding_bytes_max: bytes,
        window_bytes_max: settings.window_bytes_max.unwrap_or(bytes).min(bytes),
        bindings_max: limits.max_storage_buffers_per_shader_stage.min(BINDINGS_MAX) as usize,
    }
}

/// What buffers of tensors and weights are for.
fn usage() -> wgpu::BufferUsages {
    wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST
}

fn make_layout(device: &wgpu::Device, count: usize) -> Layout {
    let entry = |binding: usize| wgpu::BindGroupLayoutEntry {
        binding: binding as u32,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty: match binding {
                0 => wgpu::BufferBindingType::Uniform,
                _ => wgpu::BufferBindingType::Storage { read_only: false },
            },
            has_dynamic_offset: false,
            min_binding_size: None,
        },
        count: None,
    };
    let entries: Vec<_> = (0..=count).map(entry).collect();
    let group = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
        label: None,
        entries: &entries,
    });
    let pipeline = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: None,
        bind_group_layouts: &[Some(&group)],
        immediate_size: 0,
    });
    Layout { group, pipeline }
}
