//! A device around a device that runs a plan op by op and keeps the outputs of chosen ops: how a test
//! looks into a step. Written against the public HAL only, as a third party would.

use std::any::Any;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hal::{
    Access, Buffer, BufferDesc, Builder, CompileOptions, Device, DeviceInfo, HostSlot, Limits,
    MemoryReport, Op, Plan, PlanStats, Point, Program, Queue, QueueKind, Result, SharedBytes, Site,
    Tensor, Weight, WeightSource, WeightSpec, WeightSupport,
};

/// One kept output.
pub struct Kept {
    /// Where the op came from.
    pub site: Site,
    /// Its first output, row-major, as stored.
    pub bytes: Vec<u8>,
}

/// What was kept, in order.
pub type Record = Arc<Mutex<Vec<Kept>>>;

/// Chooses ops whose first output is kept.
pub type Choice = fn(&Op) -> bool;

/// The device.
pub struct Tap {
    inner: Arc<dyn Device>,
    choice: Choice,
    record: Record,
}

impl Tap {
    /// Keeps the outputs of the chosen ops in the returned record.
    pub fn around(inner: Arc<dyn Device>, choice: Choice) -> (Arc<dyn Device>, Record) {
        let record = Record::default();
        let tap = Tap { inner, choice, record: Arc::clone(&record) };
        (Arc::new(tap), record)
    }
}

struct TapPlan {
    ops: Vec<(Site, Arc<dyn Plan>, Option<Tensor>)>,
}

impl Plan for TapPlan {
    fn stats(&self) -> PlanStats {
        PlanStats { launches: self.ops.len() as u32, workspace_bytes: 0 }
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct TapQueue {
    inner: Arc<dyn Queue>,
    device: Arc<dyn Device>,
    record: Record,
}

impl TapQueue {
    fn keep(&self, site: Site, output: &Tensor) -> Result<()> {
        let bytes = u64::from(output.rows()) * output.row_bytes();
        let slot = self.device.host_slot(bytes)?;
        let point = self.inner.download(output, slot, &[])?;
        self.inner.wait(&point, Duration::from_secs(60))?;
        let bytes = self.inner.reclaim(&point)?.bytes().to_vec();
        self.record.lock().unwrap().push(Kept { site, bytes });
        Ok(())
    }
}

impl Queue for TapQueue {
    fn submit(&self, plan: &Arc<dyn Plan>, after: &[Point]) -> Result<Point> {
        let plan = plan.as_any().downcast_ref::<TapPlan>().expect("a plan of this device");
        let mut last = None;
        for (site, plan, output) in &plan.ops {
            last = Some(self.inner.submit(plan, after)?);
            if let Some(output) = output {
                self.keep(*site, output)?;
            }
        }
        Ok(last.expect("a plan has ops"))
    }
    fn upload(&self, target: &Tensor, source: HostSlot, after: &[Point]) -> Result<Point> {
        self.inner.upload(target, source, after)
    }
    fn download(&self, source: &Tensor, target: HostSlot, after: &[Point]) -> Result<Point> {
        self.inner.download(source, target, after)
    }
    fn poll(&self, point: &Point) -> Result<bool> {
        self.inner.poll(point)
    }
    fn wait(&self, point: &Point, timeout: Duration) -> Result<()> {
        self.inner.wait(point, timeout)
    }
    fn reclaim(&self, point: &Point) -> Result<HostSlot> {
        self.inner.reclaim(point)
    }
}

impl Device for Tap {
    fn info(&self) -> &DeviceInfo {
        self.inner.info()
    }
    fn limits(&self) -> &Limits {
        self.inner.limits()
    }
    fn supports(&self, op: &Op) -> bool {
        self.inner.supports(op)
    }
    fn weight_support(&self, spec: &WeightSpec) -> WeightSupport {
        self.inner.weight_support(spec)
    }
    fn alloc(&self, desc: &BufferDesc<'_>) -> Result<Buffer> {
        self.inner.alloc(desc)
    }
    fn constant(&self, label: &str, bytes: SharedBytes) -> Result<Buffer> {
        self.inner.constant(label, bytes)
    }
    fn load_weight(&self, source: &mut dyn WeightSource) -> Result<Weight> {
        self.inner.load_weight(source)
    }
    fn compile(&self, program: &Program, options: &CompileOptions) -> Result<Arc<dyn Plan>> {
        let mut ops = Vec::new();
        for node in program.nodes() {
            let mut builder = Builder::new();
            builder.at(node.site.layer, node.site.name);
            builder.push(node.op.clone())?;
            let plan = self.inner.compile(&builder.finish()?, options)?;
            let mut output = None;
            if (self.choice)(&node.op) {
                node.op.operands(&mut |access, tensor| {
                    if access == Access::Write && output.is_none() {
                        output = Some(tensor.clone());
                    }
                });
            }
            ops.push((node.site, plan, output));
        }
        Ok(Arc::new(TapPlan { ops }))
    }
    fn queue(&self, kind: QueueKind) -> Result<Arc<dyn Queue>> {
        let inner = self.inner.queue(kind)?;
        let (device, record) = (Arc::clone(&self.inner), Arc::clone(&self.record));
        Ok(Arc::new(TapQueue { inner, device, record }))
    }
    fn memory(&self) -> MemoryReport {
        self.inner.memory()
    }
    fn arithmetic(&self) -> String {
        self.inner.arithmetic()
    }
}
