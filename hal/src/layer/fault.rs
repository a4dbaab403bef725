//! The layer that fails on purpose: the n-th call of a kind gives a chosen error; afterwards the
//! device goes on, or is lost and gives `DeviceLost` to everything, as a real one would.
//!
//! For testing what stands above the HAL. It refuses nothing and changes no result until it fires.

use std::any::Any;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{lock, own};
use crate::device::{
    BufferDesc, CompileOptions, Device, DeviceInfo, HostSlot, Limits, MemoryReport, Plan,
    PlanStats, Point, Queue, QueueKind,
};
use crate::error::{Error, ErrorKind, Result};
use crate::op::Op;
use crate::program::Program;
use crate::tensor::{Buffer, Tensor};
use crate::weight::{SharedBytes, Weight, WeightSource, WeightSpec, WeightSupport};

/// The calls that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Any of the others.
    Any,
    /// `Device::alloc` and `Device::constant`.
    Alloc,
    /// `Device::load_weight`.
    LoadWeight,
    /// `Device::compile`.
    Compile,
    /// `Device::queue`.
    Queue,
    /// `Device::host_slot`.
    HostSlot,
    /// `Queue::submit`.
    Submit,
    /// `Queue::upload`.
    Upload,
    /// `Queue::download`.
    Download,
    /// `Queue::wait` and `Queue::poll`: where asynchronous faults surface.
    Wait,
    /// `Queue::reclaim`.
    Reclaim,
}

/// What becomes of the device after the failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It goes on; only the one call failed.
    GoesOn,
    /// It is lost.
    Lost,
}

/// A failure to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which calls count.
    pub call: Call,
    /// Which of them fails; the first is 1. 0 never fires.
    pub nth: u64,
    /// Kind of its error.
    pub kind: ErrorKind,
    /// What becomes of the device.
    pub then: Then,
}

#[derive(Debug)]
struct State {
    failures: Vec<(Failure, u64)>,
    lost: bool,
}

/// The layer. See the module's text.
pub struct Fault {
    inner: Arc<dyn Device>,
    state: Arc<Mutex<State>>,
}

impl Fault {
    /// Puts the layer around `inner`.
    pub fn wrap(inner: Arc<dyn Device>, failures: &[Failure]) -> Arc<dyn Device> {
        let failures = failures.iter().map(|&failure| (failure, 0)).collect();
        Arc::new(Fault { inner, state: Arc::new(Mutex::new(State { failures, lost: false })) })
    }
}

/// Counts a call; an error if it is one that fails.
fn count(state: &Mutex<State>, call: Call) -> Result<()> {
    let mut state = lock(state);
    if state.lost {
        return Err(Error::device_lost(format!("fault: the device is lost ({call:?})")));
    }
    let mut fired = None;
    for (failure, seen) in &mut state.failures {
        if failure.call == call || failure.call == Call::Any {
            *seen += 1;
            if *seen == failure.nth {
                fired = Some(*failure);
            }
        }
    }
    let Some(failure) = fired else { return Ok(()) };
    state.lost |= failure.then == Then::Lost;
    Err(Error::new(failure.kind, format!("fault: {call:?} fails, number {}", failure.nth)))
}

impl Device for Fault {
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
        count(&self.state, Call::Alloc)?;
        self.inner.alloc(desc)
    }
    fn constant(&self, label: &str, bytes: SharedBytes) -> Result<Buffer> {
        count(&self.state, Call::Alloc)?;
        self.inner.constant(label, bytes)
    }
    fn load_weight(&self, source: &mut dyn WeightSource) -> Result<Weight> {
        count(&self.state, Call::LoadWeight)?;
        self.inner.load_weight(source)
    }
    fn compile(&self, program: &Program, options: &CompileOptions) -> Result<Arc<dyn Plan>> {
        count(&self.state, Call::Compile)?;
        let inner = self.inner.compile(program, options)?;
        Ok(Arc::new(FaultPlan { inner }))
    }
    fn queue(&self, kind: QueueKind) -> Result<Arc<dyn Queue>> {
        count(&self.state, Call::Queue)?;
        let inner = self.inner.queue(kind)?;
        Ok(Arc::new(FaultQueue { inner, state: Arc::clone(&self.state) }))
    }
    fn host_slot(&self, bytes: u64) -> Result<HostSlot> {
        count(&self.state, Call::HostSlot)?;
        self.inner.host_slot(bytes)
    }
    fn settle(&self) {
        self.inner.settle();
    }
    fn memory(&self) -> MemoryReport {
        self.inner.memory()
    }
    fn arithmetic(&self) -> String {
        self.inner.arithmetic()
    }
}

struct FaultPlan {
    inner: Arc<dyn Plan>,
}

impl Plan for FaultPlan {
    fn stats(&self) -> PlanStats {
        self.inner.stats()
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct FaultQueue {
    inner: Arc<dyn Queue>,
    state: Arc<Mutex<State>>,
}

impl Queue for FaultQueue {
    fn submit(&self, plan: &Arc<dyn Plan>, after: &[Point]) -> Result<Point> {
        count(&self.state, Call::Submit)?;
        self.inner.submit(&own::<FaultPlan>("fault", plan)?.inner, after)
    }
    fn upload(&self, target: &Tensor, source: HostSlot, after: &[Point]) -> Result<Point> {
        count(&self.state, Call::Upload)?;
        self.inner.upload(target, source, after)
    }
    fn download(&self, source: &Tensor, target: HostSlot, after: &[Point]) -> Result<Point> {
        count(&self.state, Call::Download)?;
        self.inner.download(source, target, after)
    }
    fn poll(&self, point: &Point) -> Result<bool> {
        count(&self.state, Call::Wait)?;
        self.inner.poll(point)
    }
    fn wait(&self, point: &Point, timeout: Duration) -> Result<()> {
        count(&self.state, Call::Wait)?;
        self.inner.wait(point, timeout)
    }
    fn reclaim(&self, point: &Point) -> Result<HostSlot> {
        count(&self.state, Call::Reclaim)?;
        self.inner.reclaim(point)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::MemoryKind;
    use crate::layer::testing::{Memory, Quirk};

    fn alloc(device: &dyn Device) -> Option<ErrorKind> {
        let desc = BufferDesc { label: "x", size_bytes: 4, kind: MemoryKind::Device };
        device.alloc(&desc).err().map(|error| error.kind())
    }

    fn failure(call: Call, nth: u64, kind: ErrorKind, then: Then) -> Failure {
        Failure { call, nth, kind, then }
    }

    #[test]
    fn only_the_nth_call_fails_if_the_device_goes_on() {
        let failure = failure(Call::Alloc, 2, ErrorKind::OutOfMemory, Then::GoesOn);
        let device = Fault::wrap(Memory::device(Quirk::None), &[failure]);
        let kinds: Vec<_> = (0..4).map(|_| alloc(&*device)).collect();
        assert_eq!(kinds, [None, Some(ErrorKind::OutOfMemory), None, None]);
    }

    #[test]
    fn a_lost_device_fails_every_call_on_every_queue() {
        let failure = failure(Call::Queue, 2, ErrorKind::Driver, Then::Lost);
        let device = Fault::wrap(Memory::device(Quirk::None), &[failure]);
        let queue = device.queue(QueueKind::Compute).unwrap();
        let error = device.queue(QueueKind::Compute).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Driver);
        assert_eq!(alloc(&*device), Some(ErrorKind::DeviceLost));
        let point = Point { queue: 0, value: 1 };
        for error in [
            queue.poll(&point).err(),
            queue.wait(&point, Duration::ZERO).err(),
            queue.reclaim(&point).err(),
            device.host_slot(1).err(),
        ] {
            assert_eq!(error.map(|error| error.kind()), Some(ErrorKind::DeviceLost));
        }
    }

    #[test]
    fn any_counts_all_calls_together() {
        let failure = failure(Call::Any, 3, ErrorKind::DeviceLost, Then::Lost);
        let device = Fault::wrap(Memory::device(Quirk::None), &[failure]);
        assert!(device.host_slot(1).is_ok());
        assert!(device.queue(QueueKind::Transfer).is_ok());
        assert_eq!(alloc(&*device), Some(ErrorKind::DeviceLost));
    }
}
