//! A driver on paper: it has any amount of memory, executes nothing and keeps a list of the kernels it was asked for.
//! So launches of a model of any size can be counted.
//!
//! It refuses to have results: what is copied to the host are the zeros that were there.

use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backend_cuda::driver::{
    Address, Driver, Event, EventKind, Facts, Function, Graph, Launch, Platform, Stream,
};
use backend_cuda::source::Unit;
use hal::Result;

/// Both the platform and its one device: like an H200.
#[derive(Clone, Debug, Default)]
pub struct Paper {
    bulk: bool,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    kernels: Mutex<Vec<String>>,
    launched: Mutex<Vec<Launch>>,
    last: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Paper {
    /// One on which weights of few rows come by bulk copies, if so.
    pub fn new(bulk: bool) -> Paper {
        Paper { bulk, ..Paper::default() }
    }

    /// The launches since the last time: how often each kernel was asked for.
    pub fn take(&self) -> BTreeMap<String, usize> {
        let kernels = lock(&self.state.kernels);
        let mut counts = BTreeMap::new();
        for launch in std::mem::take(&mut *lock(&self.state.launched)) {
            *counts.entry(kernels[launch.function.0 as usize].clone()).or_insert(0) += 1;
        }
        counts
    }

    fn next(&self, by: u64) -> u64 {
        self.state.last.fetch_add(by.next_multiple_of(256).max(256), Ordering::Relaxed) + 256
    }
}

impl Platform for Paper {
    fn devices(&self) -> Result<Vec<Facts>> {
        Ok(vec![Facts {
            name: "paper".into(),
            ordinal: 0,
            memory_bytes: 1 << 42,
            compute: (9, 0),
            processors: 132,
            shared_bytes_max: 227 << 10,
            wide: false,
            bulk: self.bulk,
        }])
    }
    fn findings(&self) -> Vec<String> {
        Vec::new()
    }
    fn open(&self, _ordinal: u32, _settings: &[(String, String)]) -> Result<Arc<dyn Driver>> {
        let facts = self.devices()?.remove(0);
        Ok(Arc::new(PaperDriver { paper: self.clone(), facts }))
    }
}

#[derive(Debug)]
struct PaperDriver {
    paper: Paper,
    facts: Facts,
}

impl Driver for PaperDriver {
    fn facts(&self) -> &Facts {
        &self.facts
    }
    fn alloc(&self, bytes: u64) -> Result<Address> {
        Ok(self.paper.next(bytes))
    }
    unsafe fn free(&self, _address: Address) {}
    fn host_alloc(&self, bytes: usize) -> Result<NonNull<u8>> {
        let memory = Box::leak(vec![0u64; bytes.div_ceil(8)].into_boxed_slice());
        Ok(NonNull::new(memory.as_mut_ptr().cast()).expect("not null"))
    }
    unsafe fn host_free(&self, memory: NonNull<u8>, bytes: usize) {
        let words = memory.as_ptr().cast::<u64>();
        let memory = std::ptr::slice_from_raw_parts_mut(words, bytes.div_ceil(8));
        // SAFETY: leaked by `host_alloc` with this size.
        drop(unsafe { Box::from_raw(memory) });
    }
    fn function(&self, _unit: &Unit, name: &str) -> Result<Function> {
        let mut kernels = lock(&self.paper.state.kernels);
        kernels.push(name.to_owned());
        Ok(Function(kernels.len() as u64 - 1))
    }
    fn stream_create(&self) -> Result<Stream> {
        Ok(Stream(self.paper.next(1)))
    }
    fn stream_destroy(&self, _stream: Stream) {}
    fn synchronize(&self, _stream: Stream) -> Result<()> {
        Ok(())
    }
    fn event_create(&self, _kind: EventKind) -> Result<Event> {
        Ok(Event(self.paper.next(1)))
    }
    fn event_destroy(&self, _event: Event) {}
    fn record(&self, _event: Event, _stream: Stream) -> Result<()> {
        Ok(())
    }
    fn wait_event(&self, _stream: Stream, _event: Event) -> Result<()> {
        Ok(())
    }
    fn query(&self, _event: Event) -> Result<bool> {
        Ok(true)
    }
    fn elapsed_ns(&self, _begin: Event, _end: Event) -> Result<u64> {
        Ok(0)
    }
    unsafe fn zero(&self, _: Stream, _: Address, _: u64) -> Result<()> {
        Ok(())
    }
    unsafe fn copy_in(&self, _: Stream, _: Address, _: *const u8, _: usize) -> Result<()> {
        Ok(())
    }
    unsafe fn copy_out(&self, _: Stream, _: *mut u8, _: Address, _: usize) -> Result<()> {
        Ok(())
    }
    unsafe fn launch(&self, _stream: Stream, launch: &Launch) -> Result<()> {
        lock(&self.paper.state.launched).push(launch.clone());
        Ok(())
    }
    fn capture_begin(&self, _stream: Stream) -> Result<()> {
        Ok(())
    }
    fn capture_end(&self, _stream: Stream) -> Result<Graph> {
        Ok(Graph(self.paper.next(1)))
    }
    unsafe fn graph_launch(&self, _stream: Stream, _graph: Graph) -> Result<()> {
        Ok(())
    }
    fn graph_free(&self, _graph: Graph) {}
}
