//! Exports of graph capture: what is launched between begin and end is kept and replayed.

use std::ptr;
use std::sync::Arc;

use backend_ascend::sys::acl::*;

use crate::machine::{Graph, lock};
use crate::mutation::Mutation;
use crate::runtime::{FAILURE, HANDLE, call, enter, fail, not_recording, refuse, stream_of};
use crate::stream::{Recording, launch};

const CAPTURE: i32 = 107_027;
const NOT_CAPTURED: i32 = 107_029;
const WRONG_THREAD: i32 = 107_038;
const INVALIDATED: i32 = 507_903;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclmdlRICaptureBegin(
    stream: aclrtStream,
    mode: aclmdlRICaptureMode,
) -> aclError {
    const NAME: &str = "aclmdlRICaptureBegin";
    call(|| {
        let mut machine = enter(NAME)?;
        let stream = stream_of(&mut machine, stream, NAME)?;
        let wrong = machine.order.strikes(Mutation::WrongCaptureMode);
        let mode = if wrong { aclmdlRICaptureMode(mode.0 + 7) } else { mode };
        if mode.0 > 2 || machine.streams[&stream].recording.is_some() {
            return Err(refuse(&mut machine, CAPTURE, format!("{NAME} twice, or mode {}", mode.0)));
        }
        let thread_local = mode != aclmdlRICaptureMode::ACL_MODEL_RI_CAPTURE_MODE_GLOBAL;
        let thread = std::thread::current().id();
        let recording = Recording { thread, thread_local, tasks: Vec::new(), broken: false };
        machine.streams.get_mut(&stream).expect("just found").recording = Some(recording);
        if machine.order.strikes(Mutation::MemsetInCapture) {
            not_recording(&mut machine, "aclrtMemset")?;
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclmdlRICaptureEnd(stream: aclrtStream, graph: *mut aclmdlRI) -> aclError {
    const NAME: &str = "aclmdlRICaptureEnd";
    call(|| {
        let mut machine = enter(NAME)?;
        let stream = stream_of(&mut machine, stream, NAME)?;
        let state = machine.streams.get_mut(&stream).expect("just found");
        let device = state.device;
        let Some(recording) = state.recording.take() else {
            return Err(refuse(&mut machine, NOT_CAPTURED, format!("{NAME} without a begin")));
        };
        if recording.thread != std::thread::current().id() {
            return Err(refuse(&mut machine, WRONG_THREAD, format!("{NAME} on another thread")));
        }
        if recording.broken {
            return Err(fail(INVALIDATED, "the capture was invalidated"));
        }
        let handle = machine.handle();
        machine.graphs.insert(handle, Arc::new(Graph { device, tasks: recording.tasks }));
        // SAFETY: the caller gives a place to write to.
        unsafe { graph.write(ptr::without_provenance_mut(handle)) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclmdlRIExecuteAsync(graph: aclmdlRI, stream: aclrtStream) -> aclError {
    const NAME: &str = "aclmdlRIExecuteAsync";
    call(|| {
        let mut machine = enter(NAME)?;
        let stream = stream_of(&mut machine, stream, NAME)?;
        let device = machine.streams[&stream].device;
        let found = machine.graphs.get(&graph.addr()).filter(|graph| graph.device == device);
        let Some(found) = found.cloned() else {
            return Err(refuse(&mut machine, HANDLE, format!("{NAME}: no such graph here")));
        };
        for task in &found.tasks {
            let dead = task.spans.iter().any(|(span, _)| *lock(&span.block.freed));
            if dead {
                let text = format!("{NAME}: {} uses memory that was freed", task.what);
                return Err(refuse(&mut machine, FAILURE, text));
            }
            let launched = launch(&mut machine, stream, task.clone());
            launched.map_err(|text| refuse(&mut machine, FAILURE, text))?;
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclmdlRIDestroy(graph: aclmdlRI) -> aclError {
    call(|| {
        let mut machine = enter("aclmdlRIDestroy")?;
        if machine.order.strikes(Mutation::LeakedGraph) {
            return Ok(());
        }
        match machine.graphs.remove(&graph.addr()) {
            Some(_) => Ok(()),
            None => Err(refuse(&mut machine, HANDLE, "no such graph".into())),
        }
    })
}
