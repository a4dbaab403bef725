//! After start-up nothing allocates on the decode path (law 11): counted over 100 steps, in all threads.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

use common::{open, options, random_ids};
use engine::{ModelOptions, Numerics, Run, Want};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is handed to the system's allocator unchanged; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn a_hundred_decode_steps_allocate_nothing() {
    for (name, numerics, count_experts) in [
        ("demo", Numerics::Served, false),
        ("demo", Numerics::Served, true),
        ("demo", Numerics::Plain, false),
        ("flash-tiny", Numerics::Plain, true),
    ] {
        let mut engine = open(name, &ModelOptions { count_experts, ..options(numerics) });
        let ids = random_ids(1, 400, engine.config().vocab);
        let mut sequence = engine.open_sequence().unwrap();
        let prompt = Run { sequence: &mut sequence, tokens: &ids[..200], want: Want::Last };
        engine.step(&mut [prompt]).unwrap();
        let mut decode = |token: &u32| {
            let tokens = std::slice::from_ref(token);
            let run = Run { sequence: &mut sequence, tokens, want: Want::Last };
            engine.step(&mut [run]).unwrap();
        };
        ids[200..220].iter().for_each(&mut decode);
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        ids[220..320].iter().for_each(&mut decode);
        let made = ALLOCATIONS.load(Ordering::Relaxed) - before;
        assert_eq!(made, 0, "{name} {numerics}: allocations in 100 decode steps");
    }
}
