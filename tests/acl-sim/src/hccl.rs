//! Exports of the collective library, for devices of one process. The members of a group meet on their
//! streams' workers: nothing is computed before all have come, and all must ask for the same.

use std::ffi::{c_char, c_void};
use std::ptr;
use std::slice;
use std::sync::{Arc, Condvar, Mutex};

use backend_ascend::sys::acl::{aclDataType, aclrtStream};
use backend_ascend::sys::hccl::*;
use half::{bf16, f16};

use crate::machine::{Span, lock, read_unwritten};
use crate::mutation::Mutation;
use crate::runtime::{enter, refuse, stream_of};
use crate::stream::{FOREVER, Task, launch};

/// One member's end of a group.
pub struct End {
    rank: usize,
    device: i32,
    hall: Arc<Hall>,
}

/// Where a group meets.
struct Hall {
    size: usize,
    meeting: Mutex<Meeting>,
    changed: Condvar,
}

/// What a member brings to a meeting: which collective, and its bytes.
type Brought = (String, Vec<u8>);

/// One collective after the other.
#[derive(Default)]
struct Meeting {
    /// What each member brought: the collective, and its bytes.
    brought: Vec<Option<Brought>>,
    /// All that was brought, in order of ranks, and who has yet to take it.
    given: Option<(Arc<Vec<Brought>>, usize)>,
}

impl Hall {
    /// Brings bytes, waits for all, takes everything.
    fn meet(&self, rank: usize, what: String, bytes: Vec<u8>) -> Result<Arc<Vec<Brought>>, String> {
        let mut meeting = lock(&self.meeting);
        // Somebody still takes from the meeting before.
        while meeting.given.is_some() {
            meeting = self.wait(meeting)?;
        }
        meeting.brought.resize(self.size, None);
        meeting.brought[rank] = Some((what.clone(), bytes));
        if meeting.brought.iter().all(Option::is_some) {
            let all = meeting.brought.iter_mut().filter_map(Option::take).collect();
            meeting.given = Some((Arc::new(all), self.size));
            self.changed.notify_all();
        }
        while meeting.given.is_none() {
            meeting = self.wait(meeting)?;
        }
        let (all, left) = meeting.given.as_mut().expect("waited for it");
        let all = Arc::clone(all);
        *left -= 1;
        if *left == 0 {
            meeting.given = None;
            self.changed.notify_all();
        }
        match all.iter().all(|(other, _)| *other == what) {
            true => Ok(all),
            false => Err(format!(
                "members do not agree: {:?}",
                all.iter().map(|a| &a.0).collect::<Vec<_>>()
            )),
        }
    }

    fn wait<'a>(
        &self,
        meeting: std::sync::MutexGuard<'a, Meeting>,
    ) -> Result<std::sync::MutexGuard<'a, Meeting>, String> {
        let waited = self.changed.wait_timeout(meeting, FOREVER);
        let (meeting, time) = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
        if time.timed_out() { Err("a member never came".into()) } else { Ok(meeting) }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn HcclCommInitAll(
    count: u32,
    devices: *mut i32,
    comms: *mut HcclComm,
) -> HcclResult {
    let Ok(mut machine) = enter("HcclCommInitAll") else { return HcclResult::HCCL_E_RUNTIME };
    // SAFETY: the ABI: `count` numbers.
    let devices = unsafe { slice::from_raw_parts(devices, count as usize) };
    let known = |device: &i32| (0..machine.device_count as i32).contains(device);
    let distinct = (1..devices.len()).all(|at| !devices[..at].contains(&devices[at]));
    if devices.is_empty() || !devices.iter().all(known) || !distinct {
        refuse(&mut machine, 0, format!("a group of devices {devices:?}"));
        return HcclResult::HCCL_E_PARA;
    }
    let size = devices.len();
    let hall = Arc::new(Hall { size, meeting: Mutex::default(), changed: Condvar::new() });
    for (rank, &device) in devices.iter().enumerate() {
        let handle = machine.handle();
        machine.groups.insert(handle, Arc::new(End { rank, device, hall: Arc::clone(&hall) }));
        // SAFETY: the ABI: `count` places to write to.
        unsafe { comms.add(rank).write(ptr::without_provenance_mut(handle)) };
    }
    HcclResult::HCCL_SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn HcclCommDestroy(comm: HcclComm) -> HcclResult {
    let Ok(mut machine) = enter("HcclCommDestroy") else { return HcclResult::HCCL_E_RUNTIME };
    match machine.groups.remove(&comm.addr()) {
        Some(_) => HcclResult::HCCL_SUCCESS,
        None => {
            refuse(&mut machine, 0, "a communicator destroyed twice, or none".into());
            HcclResult::HCCL_E_PTR
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn HcclGetErrorString(_code: HcclResult) -> *const c_char {
    c"see the simulator's violations".as_ptr()
}

/// Bytes of an element, for types that are reduced or moved.
fn size_of(dtype: HcclDataType) -> Option<u64> {
    match dtype {
        HcclDataType::HCCL_DATA_TYPE_FP32 => Some(4),
        HcclDataType::HCCL_DATA_TYPE_FP16 | HcclDataType::HCCL_DATA_TYPE_BFP16 => Some(2),
        _ => None,
    }
}

fn number(bytes: &[u8], dtype: HcclDataType) -> f64 {
    match dtype {
        HcclDataType::HCCL_DATA_TYPE_FP32 => {
            f64::from(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        }
        HcclDataType::HCCL_DATA_TYPE_FP16 => f16::from_le_bytes([bytes[0], bytes[1]]).to_f64(),
        _ => bf16::from_le_bytes([bytes[0], bytes[1]]).to_f64(),
    }
}

fn encoded(value: f64, dtype: HcclDataType) -> Vec<u8> {
    match dtype {
        HcclDataType::HCCL_DATA_TYPE_FP32 => (value as f32).to_le_bytes().to_vec(),
        HcclDataType::HCCL_DATA_TYPE_FP16 => f16::from_f64(value).to_le_bytes().to_vec(),
        _ => bf16::from_f64(value).to_le_bytes().to_vec(),
    }
}

/// Sums in the order of ranks.
fn summed(all: &[Brought], dtype: HcclDataType, size: usize) -> Vec<u8> {
    let count = all[0].1.len() / size;
    let mut out = Vec::with_capacity(all[0].1.len());
    for at in 0..count {
        let one = |bytes: &Vec<u8>| number(&bytes[at * size..(at + 1) * size], dtype);
        out.extend(encoded(all.iter().map(|(_, bytes)| one(bytes)).sum(), dtype));
    }
    out
}

/// What member `rank` gets of what all brought, elements of a type and size.
type Outcome = fn(&[Brought], usize, HcclDataType, usize) -> Vec<u8>;

/// A collective: how many elements go in and come out, and what comes out.
struct Collective {
    name: &'static str,
    sent: u64,
    received: u64,
    result: Outcome,
}

fn collect(
    collective: Collective,
    (send, receive): (*const c_void, *const c_void),
    dtype: HcclDataType,
    comm: HcclComm,
    stream: aclrtStream,
) -> HcclResult {
    let Collective { name, sent, received, result } = collective;
    let Ok(mut machine) = enter(name) else { return HcclResult::HCCL_E_RUNTIME };
    let Ok(stream) = stream_of(&mut machine, stream, name) else { return HcclResult::HCCL_E_PTR };
    let dtype = match machine.order.strikes(Mutation::WrongCollectiveType) {
        true => HcclDataType(aclDataType::ACL_FLOAT.0 as u32),
        false => dtype,
    };
    let end = machine.groups.get(&comm.addr()).cloned();
    let device = machine.streams[&stream].device;
    let (Some(end), Some(size)) = (end.filter(|end| end.device == device), size_of(dtype)) else {
        refuse(&mut machine, 0, format!("{name}: type {} or communicator", dtype.0));
        return HcclResult::HCCL_E_PARA;
    };
    let side = |pointer: *const c_void, count: u64| {
        machine.device_span(pointer.addr() as u64, count * size, device)
    };
    let (source, target): (Span, Span) = match (side(send, sent), side(receive, received)) {
        (Ok(source), Ok(target)) => (source, target),
        (Err(text), _) | (_, Err(text)) => {
            refuse(&mut machine, 0, format!("{name}: {text}"));
            return HcclResult::HCCL_E_PTR;
        }
    };
    let spans = vec![(source.clone(), false), (target.clone(), true)];
    let body = move || {
        let what = format!("{name} of {sent} elements of type {}", dtype.0);
        read_unwritten();
        let own = source.read();
        if read_unwritten() {
            return Err("it sends bytes that nobody wrote".to_owned());
        }
        let all = end.hall.meet(end.rank, what, own)?;
        target.write(&result(&all, end.rank, dtype, size as usize));
        Ok(())
    };
    let task = Task { what: name.into(), spans, body: Arc::new(body) };
    match launch(&mut machine, stream, task) {
        Ok(()) => HcclResult::HCCL_SUCCESS,
        Err(text) => {
            refuse(&mut machine, 0, text);
            HcclResult::HCCL_E_RUNTIME
        }
    }
}

/// Block `rank` of what everybody brought.
fn share(bytes: &[u8], rank: usize, ranks: usize) -> &[u8] {
    let size = bytes.len() / ranks;
    &bytes[rank * size..(rank + 1) * size]
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn HcclAllReduce(
    send: *mut c_void,
    receive: *mut c_void,
    count: u64,
    dtype: HcclDataType,
    op: HcclReduceOp,
    comm: HcclComm,
    stream: aclrtStream,
) -> HcclResult {
    if op != HcclReduceOp::HCCL_REDUCE_SUM {
        return HcclResult::HCCL_E_NOT_SUPPORT;
    }
    let result = |all: &[Brought], _, dtype, size| summed(all, dtype, size);
    let collective = Collective { name: "HcclAllReduce", sent: count, received: count, result };
    collect(collective, (send, receive), dtype, comm, stream)
}

/// Members of a communicator; 1 where it is none, which `collect` refuses.
fn ranks(comm: HcclComm) -> u64 {
    crate::machine::machine().groups.get(&comm.addr()).map_or(1, |end| end.hall.size as u64)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn HcclAllGather(
    send: *mut c_void,
    receive: *mut c_void,
    count: u64,
    dtype: HcclDataType,
    comm: HcclComm,
    stream: aclrtStream,
) -> HcclResult {
    let received = count * ranks(comm);
    let result =
        |all: &[Brought], _, _, _| all.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
    let collective = Collective { name: "HcclAllGather", sent: count, received, result };
    collect(collective, (send, receive), dtype, comm, stream)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn HcclReduceScatter(
    send: *mut c_void,
    receive: *mut c_void,
    count: u64,
    dtype: HcclDataType,
    op: HcclReduceOp,
    comm: HcclComm,
    stream: aclrtStream,
) -> HcclResult {
    if op != HcclReduceOp::HCCL_REDUCE_SUM {
        return HcclResult::HCCL_E_NOT_SUPPORT;
    }
    let sent = count * ranks(comm);
    let result = |all: &[Brought], rank: usize, dtype, size| {
        share(&summed(all, dtype, size), rank, all.len()).to_vec()
    };
    let collective = Collective { name: "HcclReduceScatter", sent, received: count, result };
    collect(collective, (send, receive), dtype, comm, stream)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn HcclAlltoAll(
    send: *const c_void,
    count: u64,
    dtype: HcclDataType,
    receive: *const c_void,
    receive_count: u64,
    receive_type: HcclDataType,
    comm: HcclComm,
    stream: aclrtStream,
) -> HcclResult {
    if count != receive_count || dtype != receive_type || send == receive {
        return HcclResult::HCCL_E_PARA;
    }
    let total = count * ranks(comm);
    let result = |all: &[Brought], rank: usize, _, _| {
        all.iter().flat_map(|(_, bytes)| share(bytes, rank, all.len()).to_vec()).collect()
    };
    let collective = Collective { name: "HcclAlltoAll", sent: total, received: total, result };
    collect(collective, (send, receive), dtype, comm, stream)
}
