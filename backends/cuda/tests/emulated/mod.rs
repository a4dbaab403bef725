//! A driver that executes the backend's kernels on the CPU: the same sources, compiled as C++ behind
//! `shim/shim.h`, under the same device, plan and queue code as on a GPU.
//!
//! Work is put off as long as possible: it happens when somebody asks for an event a second time, or
//! synchronises. So a handle that is let go too early is noticed. Memory is fenced, its content is
//! arbitrary until written, and copies outside an allocation are refused.
//!
//! It refuses to be fast, and to run two blocks at once: races between blocks stay unseen.

use std::alloc::{Layout, alloc, dealloc};
use std::collections::{HashMap, VecDeque};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use backend_cuda::driver::{
    Address, Driver, Event, EventKind, Facts, Function, Graph, Launch, Platform, Stream,
};
use backend_cuda::source::{HEADERS, UNITS, Unit};
use hal::{Error, Result};
use libloading::Library;

/// What a fault of a kernel is called; the number is CUDA's for a failed launch.
const LAUNCH_FAILED: i64 = 719;
/// Bytes around each allocation that nobody may write.
const FENCE: usize = 256;
const FENCE_BYTE: u8 = 0xa5;

type LaunchFn = unsafe extern "C" fn(*const u32, u32, u32, *const u64) -> i32;
type BytesFn = unsafe extern "C" fn() -> u64;

/// A machine with one such device.
#[derive(Clone, Copy, Debug, Default)]
pub struct Emulated {
    /// It is like Hopper, and products of a warp group are wanted. Threads and blocks run in the other
    /// order, so that between both kinds of machine a missing barrier shows.
    pub wide: bool,
    /// Weights of few rows come by bulk copies.
    pub bulk: bool,
    /// A kernel that does nothing, as if it gave other bits.
    pub idle: Option<&'static str>,
    /// Kernels beside those of the backend.
    pub more: Option<&'static Unit>,
}

fn facts(Emulated { wide, bulk, .. }: Emulated) -> Facts {
    Facts {
        name: "CPU behind the CUDA shim".into(),
        ordinal: 0,
        memory_bytes: 8 << 30,
        compute: if wide || bulk { (9, 0) } else { (8, 0) },
        // So few that both forms of a kernel that spreads over processors are met.
        processors: 4,
        // As on Ada, or as on Hopper.
        shared_bytes_max: if wide { 227 << 10 } else { 99 << 10 },
        wide,
        bulk,
    }
}

impl Platform for Emulated {
    fn devices(&self) -> Result<Vec<Facts>> {
        Ok(vec![facts(*self)])
    }
    fn findings(&self) -> Vec<String> {
        Vec::new()
    }
    fn open(&self, _ordinal: u32, _settings: &[(String, String)]) -> Result<Arc<dyn Driver>> {
        let units = UNITS.iter().chain(self.more);
        let libraries = units.map(|unit| (unit.name, build(unit, self.wide))).collect();
        let state = Mutex::new(State { idle: self.idle, ..State::default() });
        let (facts, begin) = (facts(*self), Instant::now());
        Ok(Arc::new(EmulatedDriver { facts, libraries, state, begin }))
    }
}

/// What kernels are compiled behind.
const SHIM: &str = include_str!("../../shim/shim.h");

/// Writes the sources in this program to a folder, as they lie in the tree; returns the shim and the unit.
fn write_sources(unit: &Unit, folder: &Path) -> std::io::Result<(PathBuf, PathBuf)> {
    let home = folder.join(unit.name);
    fs::create_dir_all(&home)?;
    for (name, text) in HEADERS {
        let place = home.join(name);
        fs::create_dir_all(place.parent().expect("a file in a folder"))?;
        fs::write(place, text)?;
    }
    let (shim, source) = (folder.join("shim.h"), home.join("unit.cu"));
    fs::write(&shim, SHIM)?;
    fs::write(&source, unit.text)?;
    Ok((shim, source))
}

/// Compiles a unit, unless that was done before for the same text.
fn build(unit: &Unit, backwards: bool) -> Library {
    let mut hasher = DefaultHasher::new();
    (unit.text, HEADERS, SHIM).hash(&mut hasher);
    let name = format!("{}-{:016x}", unit.name, hasher.finish());
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("emulated");
    let library = folder.join(format!("{name}.so"));
    // Tests of one program share the draft.
    static BUILDING: Mutex<()> = Mutex::new(());
    let building = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    if !library.is_file() {
        let draft = folder.join(format!("{name}.{}", std::process::id()));
        let (shim, source) = write_sources(unit, &draft).expect("the folder is cargo's own");
        let object = draft.join("unit.so");
        let done = Command::new("g++")
            .args(["-x", "c++", "-std=c++17", "-O2", "-fPIC", "-shared", "-ffp-contract=off"])
            .args(["-fvisibility=hidden", "-Wall", "-Werror", "-Wno-unknown-pragmas"])
            .args(["-Wno-unused-function", "-Wno-unused-variable", "-include"])
            .arg(&shim)
            .arg(&source)
            .arg("-o")
            .arg(&object)
            .status()
            .expect("g++ is there: scripts/setup-dev installs it");
        assert!(done.success(), "{} does not compile as C++", unit.name);
        fs::rename(&object, &library).expect("both are in one folder");
        fs::remove_dir_all(&draft).expect("it was just made");
    }
    drop(building);
    // Fibers and shared memory are the library's own: every device has one of its own.
    static OPENED: AtomicU32 = AtomicU32::new(0);
    let number = OPENED.fetch_add(1, Ordering::Relaxed);
    let own = folder.join(format!("{name}.{}.{number}.so", std::process::id()));
    fs::copy(&library, &own).expect("the folder is cargo's own");
    // SAFETY: our own library, which has no initialisers.
    let opened = unsafe { Library::new(&own) }.expect("just built");
    fs::remove_file(&own).expect("an open library needs no name");
    // SAFETY: the shim's function of this type, which sets a flag; nothing runs yet.
    unsafe {
        let set = opened.get::<unsafe extern "C" fn(i32)>(b"shim_backwards");
        set.expect("the shim exports it")(backwards.into());
    }
    opened
}

#[derive(Clone, Debug)]
enum Work {
    Zero(Address, usize),
    CopyIn(Address, usize, usize),
    CopyOut(usize, Address, usize),
    Launch(Launch),
    Record(u64, u64),
    Wait(u64, u64),
    Graph(u64),
}

#[derive(Debug, Default)]
struct Line {
    work: VecDeque<Work>,
    recording: Option<Vec<Work>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Place {
    stream: u64,
    /// Ticket of the last record, and the last one executed.
    latest: u64,
    passed: u64,
    /// Asked once since the last record.
    asked: bool,
    at_ns: u64,
}

struct Kernel {
    name: String,
    launch: LaunchFn,
    args_bytes: u64,
}

#[derive(Default)]
struct State {
    idle: Option<&'static str>,
    last: u64,
    lines: HashMap<u64, Line>,
    events: HashMap<u64, Place>,
    graphs: HashMap<u64, Vec<Work>>,
    kernels: Vec<Kernel>,
    /// Size by address.
    memory: HashMap<Address, usize>,
    failed: Option<String>,
}

struct EmulatedDriver {
    facts: Facts,
    libraries: HashMap<&'static str, Library>,
    state: Mutex<State>,
    begin: Instant,
}

impl std::fmt::Debug for EmulatedDriver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EmulatedDriver")
    }
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes + 2 * FENCE, 256).expect("a size that was allocated")
}

impl State {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn alive(&self) -> Result<()> {
        match &self.failed {
            Some(reason) => Err(Error::driver(LAUNCH_FAILED, reason.clone())),
            None => Ok(()),
        }
    }

    /// Refuses ranges that are not inside one allocation.
    fn inside(&self, at: Address, bytes: usize) {
        let held = self
            .memory
            .iter()
            .any(|(&base, &size)| at >= base && at + bytes as u64 <= base + size as u64);
        assert!(held || bytes == 0, "{bytes} bytes at {at:#x} are in no allocation");
    }

    fn push(&mut self, stream: Stream, work: Work) -> Result<()> {
        self.alive()?;
        let line = self.lines.get_mut(&stream.0).expect("a stream of this device");
        match &mut line.recording {
            Some(recording) => recording.push(work),
            None => line.work.push_back(work),
        }
        Ok(())
    }

    /// Executes a stream up to the record of this ticket, or to its end.
    fn run(&mut self, stream: u64, until: Option<u64>, begin: Instant) {
        while self.failed.is_none() {
            let Some(line) = self.lines.get_mut(&stream) else { return };
            let Some(work) = line.work.pop_front() else { return };
            if let Work::Graph(graph) = work {
                let recorded = self.graphs.get(&graph).expect("a graph that is not freed").clone();
                let line = self.lines.get_mut(&stream).expect("looked at");
                recorded.into_iter().rev().for_each(|work| line.work.push_front(work));
                continue;
            }
            if let Work::Record(event, ticket) = work {
                let at_ns = begin.elapsed().as_nanos() as u64;
                if let Some(place) = self.events.get_mut(&event) {
                    place.passed = ticket;
                    place.at_ns = at_ns;
                }
                if until == Some(ticket) {
                    return;
                }
                continue;
            }
            if let Work::Wait(event, ticket) = work {
                if let Some(place) = self.events.get(&event).copied()
                    && place.passed < ticket
                {
                    self.run(place.stream, Some(ticket), begin);
                }
                continue;
            }
            self.execute(&work);
        }
    }

    fn execute(&mut self, work: &Work) {
        match *work {
            Work::Zero(at, bytes) => {
                self.inside(at, bytes);
                // SAFETY: inside an allocation; work runs under one lock.
                unsafe { std::ptr::write_bytes(at as *mut u8, 0, bytes) };
            }
            Work::CopyIn(to, from, bytes) => {
                self.inside(to, bytes);
                // SAFETY: as above; the caller keeps the host side alive.
                unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, bytes) };
            }
            Work::CopyOut(to, from, bytes) => {
                self.inside(from, bytes);
                // SAFETY: as above.
                unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, bytes) };
            }
            Work::Launch(ref launch) => {
                let kernel = &self.kernels[launch.function.0 as usize];
                if self.idle.is_some_and(|name| name == kernel.name) {
                    return;
                }
                let (grid, args) = (launch.grid.as_ptr(), launch.args.as_ptr());
                // SAFETY: the argument has the kernel's size (checked when it was queued); its addresses
                // lie in buffers that whoever queued it keeps.
                let status =
                    unsafe { (kernel.launch)(grid, launch.threads, launch.shared_bytes, args) };
                if status == 1 {
                    self.failed = Some(format!("{}: an index outside its table", kernel.name));
                }
                let wrong = match status {
                    0 | 1 => None,
                    2 => Some("a barrier that some threads never reach"),
                    _ => Some("a bulk copy that is misplaced, miscounted or not waited for"),
                };
                assert!(wrong.is_none(), "{}: {}", kernel.name, wrong.unwrap_or_default());
            }
            Work::Record(..) | Work::Wait(..) | Work::Graph(_) => unreachable!("met in run"),
        }
    }
}

impl EmulatedDriver {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Driver for EmulatedDriver {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn alloc(&self, bytes: u64) -> Result<Address> {
        let mut state = self.state();
        state.alive()?;
        let bytes = bytes as usize;
        // SAFETY: the layout is not empty.
        let base = unsafe { alloc(layout(bytes)) };
        let base = NonNull::new(base).ok_or_else(|| Error::out_of_memory("no host memory"))?;
        // SAFETY: just allocated with this size.
        unsafe {
            std::ptr::write_bytes(base.as_ptr(), FENCE_BYTE, bytes + 2 * FENCE);
            std::ptr::write_bytes(base.as_ptr().add(FENCE), 0xcd, bytes);
        }
        let address = base.as_ptr() as u64 + FENCE as u64;
        state.memory.insert(address, bytes);
        Ok(address)
    }

    unsafe fn free(&self, address: Address) {
        let bytes = self.state().memory.remove(&address).expect("allocated here");
        let base = (address - FENCE as u64) as *mut u8;
        for side in [0, FENCE + bytes] {
            // SAFETY: both fences are part of the allocation.
            let fence = unsafe { std::slice::from_raw_parts(base.add(side), FENCE) };
            assert!(
                fence.iter().all(|&byte| byte == FENCE_BYTE),
                "a kernel wrote past {bytes} bytes"
            );
        }
        // SAFETY: allocated with this layout, freed once.
        unsafe { dealloc(base, layout(bytes)) };
    }

    fn host_alloc(&self, bytes: usize) -> Result<NonNull<u8>> {
        // SAFETY: the layout is not empty.
        let memory = unsafe { alloc(layout(bytes)) };
        let memory = NonNull::new(memory).ok_or_else(|| Error::out_of_memory("no host memory"))?;
        // SAFETY: just allocated with this size.
        unsafe { std::ptr::write_bytes(memory.as_ptr(), 0, bytes) };
        Ok(memory)
    }

    unsafe fn host_free(&self, memory: NonNull<u8>, bytes: usize) {
        // SAFETY: allocated with this layout, freed once.
        unsafe { dealloc(memory.as_ptr(), layout(bytes)) };
    }

    fn function(&self, unit: &Unit, name: &str) -> Result<Function> {
        let library = &self.libraries[unit.name];
        let (launch, bytes) = (format!("{name}_launch"), format!("{name}_bytes"));
        // SAFETY: the shim gives these functions these types.
        let found = unsafe {
            (library.get::<LaunchFn>(launch.as_bytes()), library.get::<BytesFn>(bytes.as_bytes()))
        };
        let (Ok(launch), Ok(bytes)) = found else {
            return Err(Error::driver(500, format!("{} has no kernel {name}", unit.name)));
        };
        // SAFETY: it only returns a number.
        let args_bytes = unsafe { bytes() };
        let mut state = self.state();
        let kernel = Kernel { name: name.to_owned(), launch: *launch, args_bytes };
        state.kernels.push(kernel);
        Ok(Function(state.kernels.len() as u64 - 1))
    }

    fn stream_create(&self) -> Result<Stream> {
        let mut state = self.state();
        state.alive()?;
        let stream = state.next();
        state.lines.insert(stream, Line::default());
        Ok(Stream(stream))
    }

    fn stream_destroy(&self, stream: Stream) {
        let line = self.state().lines.remove(&stream.0).expect("created here");
        assert!(line.work.is_empty() || self.state().failed.is_some(), "destroyed while it works");
    }

    fn synchronize(&self, stream: Stream) -> Result<()> {
        let mut state = self.state();
        state.run(stream.0, None, self.begin);
        state.alive()
    }

    fn event_create(&self, _kind: EventKind) -> Result<Event> {
        let mut state = self.state();
        let event = state.next();
        state.events.insert(event, Place::default());
        Ok(Event(event))
    }

    fn event_destroy(&self, event: Event) {
        self.state().events.remove(&event.0).expect("created here");
    }

    fn record(&self, event: Event, stream: Stream) -> Result<()> {
        let mut state = self.state();
        let ticket = state.next();
        let place = state.events.get_mut(&event.0).expect("an event of this device");
        *place = Place { stream: stream.0, latest: ticket, asked: false, ..*place };
        state.push(stream, Work::Record(event.0, ticket))
    }

    fn wait_event(&self, stream: Stream, event: Event) -> Result<()> {
        let mut state = self.state();
        let ticket = state.events[&event.0].latest;
        state.push(stream, Work::Wait(event.0, ticket))
    }

    fn query(&self, event: Event) -> Result<bool> {
        let mut state = self.state();
        state.alive()?;
        let place = state.events.get_mut(&event.0).expect("an event of this device");
        if place.passed < place.latest && !place.asked {
            place.asked = true;
            return Ok(false);
        }
        let Place { stream, latest, passed, .. } = *place;
        if passed < latest {
            state.run(stream, Some(latest), self.begin);
        }
        state.alive().map(|()| true)
    }

    fn elapsed_ns(&self, begin: Event, end: Event) -> Result<u64> {
        let state = self.state();
        Ok(state.events[&end.0].at_ns - state.events[&begin.0].at_ns)
    }

    unsafe fn zero(&self, stream: Stream, target: Address, bytes: u64) -> Result<()> {
        self.state().push(stream, Work::Zero(target, bytes as usize))
    }

    unsafe fn copy_in(
        &self,
        stream: Stream,
        target: Address,
        source: *const u8,
        bytes: usize,
    ) -> Result<()> {
        self.state().push(stream, Work::CopyIn(target, source as usize, bytes))
    }

    unsafe fn copy_out(
        &self,
        stream: Stream,
        target: *mut u8,
        source: Address,
        bytes: usize,
    ) -> Result<()> {
        self.state().push(stream, Work::CopyOut(target as usize, source, bytes))
    }

    unsafe fn launch(&self, stream: Stream, launch: &Launch) -> Result<()> {
        let mut state = self.state();
        let kernel = &state.kernels[launch.function.0 as usize];
        let bytes = launch.args.len() as u64 * 8;
        assert_eq!(bytes, kernel.args_bytes.next_multiple_of(8), "argument of {}", kernel.name);
        assert!(launch.grid[1..].iter().all(|&blocks| blocks <= 65_535), "{launch:?}");
        state.push(stream, Work::Launch(launch.clone()))
    }

    fn capture_begin(&self, stream: Stream) -> Result<()> {
        let mut state = self.state();
        state.alive()?;
        let line = state.lines.get_mut(&stream.0).expect("a stream of this device");
        assert!(line.recording.replace(Vec::new()).is_none(), "it records already");
        Ok(())
    }

    fn capture_end(&self, stream: Stream) -> Result<Graph> {
        let mut state = self.state();
        let line = state.lines.get_mut(&stream.0).expect("a stream of this device");
        let recorded = line.recording.take().expect("it records");
        let graph = state.next();
        state.graphs.insert(graph, recorded);
        Ok(Graph(graph))
    }

    unsafe fn graph_launch(&self, stream: Stream, graph: Graph) -> Result<()> {
        self.state().push(stream, Work::Graph(graph.0))
    }

    fn graph_free(&self, graph: Graph) {
        self.state().graphs.remove(&graph.0).expect("captured here");
    }
}
