//! Law 11: a submitted step allocates nothing on the queue's thread or the pool.

mod common;
mod fused;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Bench, LONG};
use fused::{Numerics, cases};
use hal::{Builder, DType, HostSlot, Mode};

/// Counts allocations.
struct Counting;

static COUNT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_hundred_steps_allocate_nothing() {
    let bench = Bench::new(&[("threads", "2")]);
    let numerics = Numerics { dtype: DType::Bf16, served: true };
    let mut builder = Builder::new();
    let cases = cases(&bench, numerics);
    for case in &cases {
        builder.push(case.op.clone()).expect("a good op");
    }
    let plan = bench.plan(builder, Mode::Replay).expect("it compiles");
    let target = &cases[0].outputs[0];
    let bytes = (target.row_bytes() * u64::from(target.rows())) as usize;
    let mut slot = HostSlot::new(Box::new(vec![0u8; bytes]));
    let mut step = |count: usize| {
        let before = COUNT.load(Ordering::SeqCst);
        for _ in 0..count {
            let mine = std::mem::replace(&mut slot, HostSlot::new(Box::new(Vec::new())));
            let up = bench.queue.upload(target, mine, &[]).expect("sizes agree");
            bench.queue.submit(&plan, &[up]).expect("the device lives");
            bench.queue.wait(&up, LONG).expect("done");
            let mine = bench.queue.reclaim(&up).expect("the slot");
            let down = bench.queue.download(target, mine, &[]).expect("sizes agree");
            bench.queue.wait(&down, LONG).expect("done");
            slot = bench.queue.reclaim(&down).expect("the slot");
        }
        COUNT.load(Ordering::SeqCst) - before
    };
    step(3);
    // One box for the placeholder slot and one list of points per step, both on this thread.
    assert_eq!(step(100), 200);
}
