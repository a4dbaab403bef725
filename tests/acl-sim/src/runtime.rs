//! Exports of the runtime library: contexts, memory, streams, events.
//!
//! Every entry answers with the vendor's codes. What the vendor's documents forbid is also written down
//! as a violation; what merely fails (no memory left, a timeout) is not.

use std::alloc::{Layout, alloc, dealloc};
use std::cell::{Cell, RefCell};
use std::ffi::{CString, c_char, c_void};
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use backend_ascend::sys::acl::*;

use crate::machine::{EventState, Machine, Soc, Span, machine, read_unwritten};
use crate::mutation::Mutation;
use crate::stream::{FOREVER, StreamState, Task, launch};

pub const INVALID_PARAM: i32 = 100_000;
pub const UNINITIALIZE: i32 = 100_001;
const PARAM: i32 = 107_000;
const DEVICE: i32 = 107_001;
pub const CONTEXT_NULL: i32 = 107_002;
pub const STREAM_CONTEXT: i32 = 107_003;
pub const HANDLE: i32 = 107_017;
const CAPTURE_SYNC: i32 = 107_041;
const UNSUPPORTED: i32 = 207_000;
const NO_MEMORY: i32 = 207_001;
pub const FAILURE: i32 = 500_003;
const EXCEPTION: i32 = 507_015;
const STREAM_TIMEOUT: i32 = 507_046;
const EVENT_TIMEOUT: i32 = 507_047;

/// Contexts every device has: number + device.
const DEFAULT_CONTEXT: usize = 0x100;
/// Streams a device has, the default one included.
const STREAMS_MAX: usize = 1984;
/// Every block begins at a multiple of this.
const HOST_ALIGN: usize = 64;
/// Bytes behind every pinned block that nobody may touch, and what they hold.
const GUARD_BYTES: usize = 64;
const GUARD: u8 = 0xa5;

thread_local! {
    static CURRENT: Cell<usize> = const { Cell::new(0) };
    static MESSAGE: RefCell<Option<CString>> = const { RefCell::new(None) };
    /// The string whose pointer was handed out last; the one before is gone.
    static GIVEN: RefCell<Option<CString>> = const { RefCell::new(None) };
}

/// Leaves a message for this thread and answers `code`.
pub fn fail(code: i32, text: &str) -> i32 {
    let text = CString::new(text.replace('\0', " ")).unwrap_or_default();
    MESSAGE.with(|message| *message.borrow_mut() = Some(text));
    code
}

/// As `fail`, and the machine remembers.
pub fn refuse(machine: &mut Machine, code: i32, text: String) -> i32 {
    let code = fail(code, &text);
    machine.violation(text);
    code
}

/// The locked machine, unless it is not initialised or a test ordered this call to fail.
pub fn enter(name: &str) -> Result<std::sync::MutexGuard<'static, Machine>, i32> {
    let mut machine = machine();
    if !machine.initialised {
        return Err(refuse(&mut machine, UNINITIALIZE, format!("{name} before aclInit")));
    }
    if let Some(left) = &mut machine.fail_in {
        if *left == 0 {
            machine.fail_in = None;
            return Err(fail(EXCEPTION, &format!("{name} fails by order of a test")));
        }
        *left -= 1;
    }
    Ok(machine)
}

/// Context and device current on this thread.
pub fn current(machine: &mut Machine, name: &str) -> Result<(usize, i32), i32> {
    if machine.order.strikes(Mutation::NoContext) {
        CURRENT.with(|current| current.set(0));
    }
    let context = CURRENT.with(Cell::get);
    let default = (context.wrapping_sub(DEFAULT_CONTEXT)) as i32;
    let device = match machine.contexts.get(&context) {
        Some(&device) => Some(device),
        None if machine.set_devices.get(&default).is_some_and(|&count| count > 0) => Some(default),
        None => None,
    };
    let text = || format!("{name}: no context is current on this thread");
    device.map(|device| (context, device)).ok_or_else(|| refuse(machine, CONTEXT_NULL, text()))
}

/// Runs a body that answers with a code in its error.
pub fn call(body: impl FnOnce() -> Result<(), i32>) -> i32 {
    body().err().unwrap_or(0)
}

/// Refuses what may not be called while this thread (or, in global mode, any) records.
pub fn not_recording(machine: &mut Machine, name: &str) -> Result<(), i32> {
    let own = std::thread::current().id();
    let mut streams = machine.streams.values_mut();
    let open = streams.find_map(|stream| {
        let recording = stream.recording.as_mut()?;
        let bars = !recording.thread_local || recording.thread == own;
        bars.then(|| recording.broken = true)
    });
    match open {
        Some(()) => Err(refuse(machine, CAPTURE_SYNC, format!("{name} while a graph is captured"))),
        None => Ok(()),
    }
}

/// The stream behind a handle, under its own context.
pub fn stream_of(machine: &mut Machine, raw: aclrtStream, name: &str) -> Result<usize, i32> {
    let (context, _) = current(machine, name)?;
    let stream = raw.addr();
    match machine.streams.get(&stream).map(|stream| stream.context) {
        Some(own) if own == context => Ok(stream),
        Some(_) => Err(refuse(
            machine,
            STREAM_CONTEXT,
            format!("{name}: the stream belongs to another context than the current one"),
        )),
        None => Err(refuse(machine, HANDLE, format!("{name}: no such stream"))),
    }
}

/// The host itself uses device bytes: all that conflicts must be known to be done.
fn by_the_host(machine: &mut Machine, span: &Span, writes: bool, name: &str) -> Result<(), i32> {
    // A stream of its own that never advances: it knows what the host knows.
    let clock = machine.host.clone();
    let noted = machine.note((0, 0), &clock, &[(span.clone(), writes)], name);
    noted.map_err(|text| refuse(machine, FAILURE, text))
}

fn device_bytes(
    machine: &mut Machine,
    pointer: *const c_void,
    bytes: usize,
    device: i32,
    name: &str,
) -> Result<Span, i32> {
    let span = machine.device_span(pointer.addr() as u64, bytes as u64, device);
    span.map_err(|text| refuse(machine, PARAM, format!("{name}: {text}")))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclInit(_config: *const c_char) -> aclError {
    let mut machine = machine();
    if machine.initialised {
        return fail(ACL_ERROR_REPEAT_INITIALIZE, "aclInit twice");
    }
    machine.initialised = true;
    machine.note_down("initialised");
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclFinalize() -> aclError {
    call(|| {
        let mut machine = enter("aclFinalize")?;
        for leak in machine.leaks() {
            machine.violation(leak);
        }
        machine.initialised = false;
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclGetRecentErrMsg() -> *const c_char {
    let text = MESSAGE.with(|message| message.borrow_mut().take());
    GIVEN.with(|given| {
        *given.borrow_mut() = text;
        given.borrow().as_ref().map_or(ptr::null(), |text| text.as_ptr())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtGetVersion(
    major: *mut i32,
    minor: *mut i32,
    patch: *mut i32,
) -> aclError {
    for (place, value) in [(major, 1), (minor, 17), (patch, 0)] {
        // SAFETY: the caller gives three places to write to.
        unsafe { place.write(value) };
    }
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtGetSocName() -> *const c_char {
    match machine().soc {
        Soc::A2 => c"Ascend910B3",
        Soc::A3 => c"Ascend910_9382",
        Soc::A5 => c"Ascend950PR_9589",
    }
    .as_ptr()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtGetDeviceCount(count: *mut u32) -> aclError {
    call(|| {
        let machine = enter("aclrtGetDeviceCount")?;
        // SAFETY: the caller gives a place to write to.
        unsafe { count.write(machine.device_count) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtSetDevice(device: i32) -> aclError {
    call(|| {
        let mut machine = enter("aclrtSetDevice")?;
        if device < 0 || device as u32 >= machine.device_count {
            return Err(refuse(&mut machine, DEVICE, format!("there is no device {device}")));
        }
        *machine.set_devices.entry(device).or_default() += 1;
        CURRENT.with(|current| current.set(DEFAULT_CONTEXT + device as usize));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtResetDevice(device: i32) -> aclError {
    call(|| {
        let mut machine = enter("aclrtResetDevice")?;
        match machine.set_devices.get_mut(&device).filter(|count| **count > 0) {
            Some(count) => *count -= 1,
            None => return Err(refuse(&mut machine, DEVICE, format!("{device} was not set"))),
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtCreateContext(context: *mut aclrtContext, device: i32) -> aclError {
    call(|| {
        let mut machine = enter("aclrtCreateContext")?;
        if machine.set_devices.get(&device).is_none_or(|&count| count == 0) {
            return Err(refuse(&mut machine, DEVICE, format!("device {device} was not set")));
        }
        let handle = machine.handle();
        machine.contexts.insert(handle, device);
        CURRENT.with(|current| current.set(handle));
        // SAFETY: the caller gives a place to write to.
        unsafe { context.write(ptr::without_provenance_mut(handle)) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtDestroyContext(context: aclrtContext) -> aclError {
    call(|| {
        let mut machine = enter("aclrtDestroyContext")?;
        let handle = context.addr();
        if machine.streams.values().any(|stream| stream.context == handle) {
            machine.violation("a context is destroyed before its streams");
        }
        match machine.contexts.remove(&handle) {
            Some(_) => Ok(()),
            None => Err(refuse(&mut machine, HANDLE, "no such context".into())),
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtSetCurrentContext(context: aclrtContext) -> aclError {
    call(|| {
        let mut machine = enter("aclrtSetCurrentContext")?;
        if !machine.contexts.contains_key(&context.addr()) {
            return Err(refuse(&mut machine, CONTEXT_NULL, "no such context".into()));
        }
        CURRENT.with(|current| current.set(context.addr()));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtCtxSetSysParamOpt(option: aclSysParamOpt, value: i64) -> aclError {
    call(|| {
        let mut machine = enter("aclrtCtxSetSysParamOpt")?;
        current(&mut machine, "aclrtCtxSetSysParamOpt")?;
        match option.0 < 3 && (value == 0 || value == 1) {
            true => Ok(()),
            false => Err(refuse(&mut machine, PARAM, format!("option {} = {value}", option.0))),
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtGetMemInfo(
    attribute: aclrtMemAttr,
    free: *mut usize,
    total: *mut usize,
) -> aclError {
    call(|| {
        let mut machine = enter("aclrtGetMemInfo")?;
        let (_, device) = current(&mut machine, "aclrtGetMemInfo")?;
        if attribute != aclrtMemAttr::ACL_HBM_MEM {
            return Err(refuse(&mut machine, PARAM, format!("memory of kind {}", attribute.0)));
        }
        let used = machine.used_bytes.get(&device).copied().unwrap_or(0);
        // SAFETY: the caller gives a place to write to.
        unsafe { free.write((machine.memory_bytes - used) as usize) };
        // SAFETY: as above.
        unsafe { total.write(machine.memory_bytes as usize) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtMalloc(
    pointer: *mut *mut c_void,
    size: usize,
    policy: aclrtMemMallocPolicy,
) -> aclError {
    call(|| {
        let mut machine = enter("aclrtMalloc")?;
        let (_, device) = current(&mut machine, "aclrtMalloc")?;
        if size == 0 || policy.0 > 7 {
            let text = format!("aclrtMalloc of {size} bytes, policy {}", policy.0);
            return Err(refuse(&mut machine, PARAM, text));
        }
        let used = machine.used_bytes.get(&device).copied().unwrap_or(0);
        if size as u64 > machine.memory_bytes - used {
            return Err(fail(NO_MEMORY, &format!("{size} bytes do not fit")));
        }
        *machine.used_bytes.entry(device).or_default() += size as u64;
        let address = machine.allocate(device, size as u64);
        // SAFETY: the caller gives a place to write to.
        unsafe { pointer.write(ptr::without_provenance_mut(address as usize)) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtFree(pointer: *mut c_void) -> aclError {
    call(|| {
        let mut machine = enter("aclrtFree")?;
        current(&mut machine, "aclrtFree")?;
        if machine.order.strikes(Mutation::LeakedMemory) {
            return Ok(());
        }
        let ok = machine.free(pointer.addr() as u64, false);
        if ok { Ok(()) } else { Err(fail(FAILURE, "aclrtFree of memory in use or unknown")) }
    })
}

fn host_layout(size: usize) -> Layout {
    Layout::from_size_align(size + GUARD_BYTES, HOST_ALIGN).expect("sizes of tests are small")
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtMallocHost(pointer: *mut *mut c_void, size: usize) -> aclError {
    call(|| {
        let mut machine = enter("aclrtMallocHost")?;
        current(&mut machine, "aclrtMallocHost")?;
        if size == 0 {
            return Err(refuse(&mut machine, PARAM, "aclrtMallocHost of nothing".into()));
        }
        // SAFETY: the layout is not empty.
        let memory = unsafe { alloc(host_layout(size)) };
        // SAFETY: the layout has these bytes behind `size`.
        unsafe { ptr::write_bytes(memory.add(size), GUARD, GUARD_BYTES) };
        machine.pin(memory.addr() as u64, size as u64);
        // SAFETY: the caller gives a place to write to.
        unsafe { pointer.write(memory.cast()) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtFreeHost(pointer: *mut c_void) -> aclError {
    call(|| {
        let mut machine = enter("aclrtFreeHost")?;
        let size = machine.find(pointer.addr() as u64, 0).map_or(0, |span| span.block.size);
        if size > 0 {
            // SAFETY: the block is alive; its guard lies behind it.
            let guard = unsafe {
                let first = pointer.cast::<u8>().add(size as usize);
                if machine.order.strikes(Mutation::HostOverrun) {
                    first.write(0);
                }
                std::slice::from_raw_parts(first, GUARD_BYTES)
            };
            if guard.iter().any(|&byte| byte != GUARD) {
                machine.violation("somebody wrote behind the end of pinned memory");
            }
        }
        if !machine.free(pointer.addr() as u64, true) {
            return Err(fail(FAILURE, "aclrtFreeHost of memory in use or unknown"));
        }
        // SAFETY: allocated with this layout in aclrtMallocHost; no task uses it.
        unsafe { dealloc(pointer.cast(), host_layout(size as usize)) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtMemcpy(
    target: *mut c_void,
    room: usize,
    source: *const c_void,
    count: usize,
    kind: aclrtMemcpyKind,
) -> aclError {
    call(|| {
        let mut machine = enter("aclrtMemcpy")?;
        let (_, device) = current(&mut machine, "aclrtMemcpy")?;
        not_recording(&mut machine, "aclrtMemcpy")?;
        if kind != aclrtMemcpyKind::ACL_MEMCPY_HOST_TO_DEVICE || count > room {
            let text =
                format!("aclrtMemcpy of kind {} is not simulated, or {count} > {room}", kind.0);
            return Err(refuse(&mut machine, PARAM, text));
        }
        let span = device_bytes(&mut machine, target, count, device, "aclrtMemcpy")?;
        by_the_host(&mut machine, &span, true, "aclrtMemcpy")?;
        // SAFETY: the caller gives `count` bytes.
        span.write(unsafe { std::slice::from_raw_parts(source.cast(), count) });
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtMemset(
    target: *mut c_void,
    room: usize,
    value: i32,
    count: usize,
) -> aclError {
    call(|| {
        let mut machine = enter("aclrtMemset")?;
        let (_, device) = current(&mut machine, "aclrtMemset")?;
        not_recording(&mut machine, "aclrtMemset")?;
        if count > room {
            return Err(refuse(&mut machine, PARAM, format!("{count} > {room}")));
        }
        if machine.order.strikes(Mutation::DroppedMemset) {
            return Ok(());
        }
        let span = device_bytes(&mut machine, target, count, device, "aclrtMemset")?;
        by_the_host(&mut machine, &span, true, "aclrtMemset")?;
        span.write(&vec![value as u8; count]);
        Ok(())
    })
}

/// Host bytes of a copy. A plain address: the simulated hardware reads it when the task runs.
#[derive(Clone, Copy)]
struct HostBytes(usize, usize);

impl HostBytes {
    fn read(self) -> Vec<u8> {
        let start = ptr::with_exposed_provenance::<u8>(self.0);
        // SAFETY: the ABI asks the caller to keep the bytes until the copy is done.
        unsafe { std::slice::from_raw_parts(start, self.1) }.to_vec()
    }

    fn write(self, bytes: &[u8]) {
        let start = ptr::with_exposed_provenance_mut::<u8>(self.0);
        // SAFETY: as above; nobody else uses them meanwhile.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), start, self.1) };
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtMemcpyAsync(
    target: *mut c_void,
    room: usize,
    source: *const c_void,
    count: usize,
    kind: aclrtMemcpyKind,
    stream: aclrtStream,
) -> aclError {
    const NAME: &str = "aclrtMemcpyAsync";
    call(|| {
        let mut machine = enter(NAME)?;
        let stream = stream_of(&mut machine, stream, NAME)?;
        let device = machine.streams[&stream].device;
        let kind = match machine.order.strikes(Mutation::WrongDirection) {
            true => aclrtMemcpyKind(3 - kind.0),
            false => kind,
        };
        let (device_side, host, writes) = match kind {
            aclrtMemcpyKind::ACL_MEMCPY_HOST_TO_DEVICE => (target.cast_const(), source, true),
            aclrtMemcpyKind::ACL_MEMCPY_DEVICE_TO_HOST => (source, target.cast_const(), false),
            _ => return Err(refuse(&mut machine, UNSUPPORTED, format!("copy of kind {}", kind.0))),
        };
        if count > room || count == 0 {
            return Err(refuse(
                &mut machine,
                PARAM,
                format!("{NAME}: {count} bytes, {room} of room"),
            ));
        }
        let span = device_bytes(&mut machine, device_side, count, device, NAME)?;
        let bytes = HostBytes(host.expose_provenance(), count);
        let pinned = machine.find(host.addr() as u64, count as u64);
        let mut spans = vec![(span.clone(), writes)];
        spans.extend(pinned.clone().map(|pinned| (pinned, !writes)));
        if pinned.is_none() {
            not_recording(&mut machine, "a copy from memory that is not pinned")?;
        }
        let body: crate::stream::Body = match writes {
            true => Arc::new(move || {
                span.write(&bytes.read());
                Ok(())
            }),
            false => Arc::new(move || {
                read_unwritten();
                bytes.write(&span.read());
                match read_unwritten() {
                    true => Err("it brings bytes that nobody wrote".to_owned()),
                    false => Ok(()),
                }
            }),
        };
        let what = if writes { "a copy to the device" } else { "a copy to the host" };
        let task = Task { what: what.into(), spans, body };
        let launched = launch(&mut machine, stream, task);
        launched.map_err(|text| refuse(&mut machine, FAILURE, text))?;
        if pinned.is_none() {
            // As documented: such a copy blocks until it is done.
            let mark = machine.streams[&stream].mark();
            drop(machine);
            mark.wait(FOREVER);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtCreateStreamWithConfig(
    stream: *mut aclrtStream,
    _priority: u32,
    flags: u32,
) -> aclError {
    const NAME: &str = "aclrtCreateStreamWithConfig";
    call(|| {
        let mut machine = enter(NAME)?;
        let (context, device) = current(&mut machine, NAME)?;
        let own = machine.streams.values().filter(|stream| stream.device == device).count();
        if own + 1 >= STREAMS_MAX || flags > 0x3f {
            return Err(refuse(&mut machine, PARAM, format!("{own} streams, flags {flags:#x}")));
        }
        let handle = machine.handle();
        machine.streams.insert(handle, StreamState::new(context, device, handle as u64));
        // SAFETY: the caller gives a place to write to.
        unsafe { stream.write(ptr::without_provenance_mut(handle)) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtDestroyStream(stream: aclrtStream) -> aclError {
    call(|| {
        let mut machine = enter("aclrtDestroyStream")?;
        let handle = stream_of(&mut machine, stream, "aclrtDestroyStream")?;
        let state = machine.streams.remove(&handle).expect("just found");
        if machine.host.of(handle) < state.sequence {
            machine.violation("a stream is destroyed before it is synchronised");
        }
        drop(machine);
        state.join();
        Ok(())
    })
}

/// Waits for all of a stream.
fn synchronise(raw: aclrtStream, timeout: Duration, name: &str) -> Result<(), i32> {
    let mut machine = enter(name)?;
    let stream = stream_of(&mut machine, raw, name)?;
    if machine.order.strikes(Mutation::DroppedSynchronise) {
        return Ok(());
    }
    not_recording(&mut machine, name)?;
    let state = &machine.streams[&stream];
    let (mark, mut clock) = (state.mark(), state.clock.clone());
    clock.set(stream, state.sequence);
    drop(machine);
    let Some(outcome) = mark.wait(timeout) else {
        return Err(fail(STREAM_TIMEOUT, "the stream is not done in time"));
    };
    crate::machine::machine().host.join(&clock);
    match outcome {
        Err(text) => Err(fail(EXCEPTION, &text)),
        Ok(()) => Ok(()),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtSynchronizeStream(stream: aclrtStream) -> aclError {
    call(|| synchronise(stream, FOREVER, "aclrtSynchronizeStream"))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtSynchronizeStreamWithTimeout(
    stream: aclrtStream,
    timeout: i32,
) -> aclError {
    let timeout = u64::try_from(timeout).map_or(FOREVER, Duration::from_millis);
    call(|| synchronise(stream, timeout, "aclrtSynchronizeStreamWithTimeout"))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtSetStreamFailureMode(stream: aclrtStream, mode: u64) -> aclError {
    call(|| {
        let mut machine = enter("aclrtSetStreamFailureMode")?;
        stream_of(&mut machine, stream, "aclrtSetStreamFailureMode")?;
        match mode {
            0 | 1 => Ok(()),
            _ => Err(refuse(&mut machine, PARAM, format!("failure mode {mode}"))),
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtCreateEventExWithFlag(
    event: *mut aclrtEvent,
    flags: u32,
) -> aclError {
    call(|| {
        let mut machine = enter("aclrtCreateEventExWithFlag")?;
        current(&mut machine, "aclrtCreateEventExWithFlag")?;
        let wrong = machine.order.strikes(Mutation::WrongEventFlag);
        let flags = if wrong { ACL_EVENT_TIME_LINE } else { flags };
        let handle = machine.handle();
        machine.events.insert(handle, EventState { flags, ..EventState::default() });
        // SAFETY: the caller gives a place to write to.
        unsafe { event.write(ptr::without_provenance_mut(handle)) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtDestroyEvent(event: aclrtEvent) -> aclError {
    call(|| {
        let mut machine = enter("aclrtDestroyEvent")?;
        match machine.events.remove(&event.addr()) {
            Some(_) => Ok(()),
            None => Err(refuse(&mut machine, HANDLE, "no such event".into())),
        }
    })
}

fn event_of(machine: &mut Machine, event: aclrtEvent, name: &str) -> Result<EventState, i32> {
    current(machine, name)?;
    let found = machine.events.get(&event.addr()).cloned();
    found.ok_or_else(|| refuse(machine, HANDLE, format!("{name}: no such event")))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtRecordEvent(event: aclrtEvent, stream: aclrtStream) -> aclError {
    const NAME: &str = "aclrtRecordEvent";
    call(|| {
        let mut machine = enter(NAME)?;
        let stream = stream_of(&mut machine, stream, NAME)?;
        let mut found = event_of(&mut machine, event, NAME)?;
        if machine.order.strikes(Mutation::DroppedRecord) {
            return Ok(());
        }
        not_recording(&mut machine, NAME)?;
        let state = &machine.streams[&stream];
        let mut clock = state.clock.clone();
        clock.set(stream, state.sequence);
        let mark = state.mark();
        clock.join(&machine.host);
        found = EventState { flags: found.flags, record: Some(mark), clock, stream };
        machine.events.insert(event.addr(), found);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtStreamWaitEvent(stream: aclrtStream, event: aclrtEvent) -> aclError {
    const NAME: &str = "aclrtStreamWaitEvent";
    call(|| {
        let mut machine = enter(NAME)?;
        let stream = stream_of(&mut machine, stream, NAME)?;
        let found = event_of(&mut machine, event, NAME)?;
        if machine.order.strikes(Mutation::DroppedWait) {
            return Ok(());
        }
        not_recording(&mut machine, NAME)?;
        if found.flags & ACL_EVENT_SYNC == 0 {
            return Err(refuse(&mut machine, PARAM, "the event was not made for waiting".into()));
        }
        let state = machine.streams.get_mut(&stream).expect("just found");
        if let Some(mark) = &found.record {
            state.wait_for(mark);
        }
        state.clock.join(&found.clock);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtQueryEventStatus(
    event: aclrtEvent,
    status: *mut aclrtEventRecordedStatus,
) -> aclError {
    const NAME: &str = "aclrtQueryEventStatus";
    call(|| {
        let mut machine = enter(NAME)?;
        let found = event_of(&mut machine, event, NAME)?;
        not_recording(&mut machine, NAME)?;
        let done = found.record.as_ref().is_none_or(|mark| mark.is_reached());
        if done {
            machine.host.join(&found.clock);
        }
        let failed = found.record.filter(|_| done).and_then(|mark| mark.wait(Duration::ZERO));
        let value = match done {
            true => aclrtEventRecordedStatus::ACL_EVENT_RECORDED_STATUS_COMPLETE,
            false => aclrtEventRecordedStatus::ACL_EVENT_RECORDED_STATUS_NOT_READY,
        };
        // SAFETY: the caller gives a place to write to.
        unsafe { status.write(value) };
        match failed {
            Some(Err(text)) => Err(fail(EXCEPTION, &text)),
            _ => Ok(()),
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtSynchronizeEventWithTimeout(
    event: aclrtEvent,
    timeout: i32,
) -> aclError {
    const NAME: &str = "aclrtSynchronizeEventWithTimeout";
    call(|| {
        let mut machine = enter(NAME)?;
        let found = event_of(&mut machine, event, NAME)?;
        not_recording(&mut machine, NAME)?;
        drop(machine);
        let Some(mark) = found.record else { return Ok(()) };
        let timeout = u64::try_from(timeout).map_or(FOREVER, Duration::from_millis);
        match mark.wait(timeout) {
            None => return Err(fail(EVENT_TIMEOUT, "the event has not passed in time")),
            Some(Err(text)) => return Err(fail(EXCEPTION, &text)),
            Some(Ok(())) => {}
        }
        crate::machine::machine().host.join(&found.clock);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtEventElapsedTime(
    ms: *mut f32,
    start: aclrtEvent,
    end: aclrtEvent,
) -> aclError {
    const NAME: &str = "aclrtEventElapsedTime";
    call(|| {
        let mut machine = enter(NAME)?;
        let (from, to) = (event_of(&mut machine, start, NAME)?, event_of(&mut machine, end, NAME)?);
        not_recording(&mut machine, NAME)?;
        if (from.flags & to.flags) & ACL_EVENT_TIME_LINE == 0 || from.stream != to.stream {
            let text = format!("{NAME}: events of two streams, or not made for measuring");
            return Err(refuse(&mut machine, PARAM, text));
        }
        let passed = |event: &EventState| event.record.as_ref().and_then(|mark| mark.reached_at());
        let (Some(from), Some(to)) = (passed(&from), passed(&to)) else {
            return Err(refuse(&mut machine, PARAM, format!("{NAME}: an event has not passed")));
        };
        // SAFETY: the caller gives a place to write to.
        unsafe { ms.write(to.saturating_duration_since(from).as_secs_f32() * 1e3) };
        Ok(())
    })
}
