//! Room for weights in huge pages.
//!
//! Every token reads most weights once, and a page of 4 KiB of a mapped file costs a walk through the
//! page tables each time: with pages of 2 MiB a token takes a fifth less time on some machines (figures in
//! docs/reports/2026-11-28-cpu-xeon.md). Files cannot be mapped in huge pages on an ordinary system, so
//! weights are copied; who copied one lets the pages of the file go. Only where that is asked for: a system
//! whose memory is in pieces first has to make room, which took seconds a gigabyte.
//!
//! Refuses nothing: a weight that gets no room here is used where the loader mapped it.

use std::fs;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use memmap2::MmapMut;

use crate::memory::{ALIGN_BYTES, Ledger};

/// A huge page.
const PAGE_BYTES: usize = 2 << 20;

/// What is asked of the system at a time; untouched pages of it cost nothing.
const CHUNK_BYTES: usize = 64 << 20;

/// Smaller weights are no streams: they stay where they are.
pub(crate) const WEIGHT_BYTES_MIN: u64 = 1 << 20;

/// Whether this system gives huge pages to who asks for them.
pub(crate) fn available() -> bool {
    let path = "/sys/kernel/mm/transparent_hugepage/enabled";
    fs::read_to_string(path).is_ok_and(|text| !text.contains("[never]"))
}

/// Hands out room until its budget is spent.
#[derive(Debug)]
pub(crate) struct HugePages {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Bytes that may still be handed out.
    left: u64,
    chunk: Option<Chunk>,
}

/// Memory that room is cut from.
#[derive(Debug)]
struct Chunk {
    base: NonNull<u8>,
    size_bytes: usize,
    used: usize,
    map: Arc<MmapMut>,
}

// SAFETY: `base` points into `map`, which may be sent, and is followed by who was given room only.
unsafe impl Send for Chunk {}

/// Bytes of a chunk, for one owner. They live as long as this does.
#[derive(Debug)]
pub(crate) struct Room {
    base: NonNull<u8>,
    size_bytes: usize,
    ledger: Arc<Ledger>,
    _map: Arc<MmapMut>,
}

// SAFETY: a pointer to memory that this owns a share of; its bytes are nobody else's.
unsafe impl Send for Room {}
// SAFETY: as above; shared use is by raw pointer only.
unsafe impl Sync for Room {}

impl HugePages {
    /// Room for `budget` bytes of weights in all.
    pub(crate) fn new(budget: u64) -> HugePages {
        HugePages { state: Mutex::new(State { left: budget, chunk: None }) }
    }

    /// Zeroed room of `size_bytes`, aligned as buffers are; nothing if the budget, the ledger or the system
    /// has none.
    pub(crate) fn room(
        &self,
        label: &str,
        size_bytes: usize,
        ledger: &Arc<Ledger>,
    ) -> Option<Room> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = size_bytes.checked_next_multiple_of(ALIGN_BYTES)?;
        if state.left < taken as u64 {
            return None;
        }
        if state.chunk.as_ref().is_none_or(|chunk| chunk.size_bytes - chunk.used < taken) {
            state.chunk = Some(Chunk::new(taken.max(CHUNK_BYTES))?);
        }
        ledger.take(label, size_bytes as u64).ok()?;
        state.left -= taken as u64;
        let chunk = state.chunk.as_mut()?;
        // SAFETY: what is left of the chunk has room for it.
        let base = unsafe { chunk.base.add(chunk.used) };
        chunk.used += taken;
        let (ledger, map) = (Arc::clone(ledger), Arc::clone(&chunk.map));
        Some(Room { base, size_bytes, ledger, _map: map })
    }
}

impl Chunk {
    fn new(size_bytes: usize) -> Option<Chunk> {
        let size_bytes = size_bytes.checked_next_multiple_of(PAGE_BYTES)?;
        let mut map = huge(size_bytes)?;
        let base = NonNull::new(map.as_mut_ptr())?;
        Some(Chunk { base, size_bytes, used: 0, map: Arc::new(map) })
    }
}

/// Anonymous memory that the system is asked to put into huge pages.
#[cfg(target_os = "linux")]
fn huge(size_bytes: usize) -> Option<MmapMut> {
    let map = MmapMut::map_anon(size_bytes).ok()?;
    map.advise(memmap2::Advice::HugePage).ok()?;
    Some(map)
}

#[cfg(not(target_os = "linux"))]
fn huge(_: usize) -> Option<MmapMut> {
    None
}

impl Room {
    /// First byte.
    pub(crate) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.ledger.give(self.size_bytes as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_handed_out_until_the_budget_or_the_ledger_is_spent() {
        let pages = HugePages::new(300);
        let ledger = Arc::new(Ledger::new(250));
        let room = |bytes| pages.room("w", bytes, &ledger);
        if huge(PAGE_BYTES).is_none() {
            assert!(room(100).is_none(), "no huge pages, no room");
            return;
        }
        let first = room(100).expect("within both");
        let second = room(100).expect("within both");
        assert!(second.base().addr() - first.base().addr() >= 100, "they do not overlap");
        assert_eq!(second.base().addr() % ALIGN_BYTES, 0);
        assert!(room(45).is_none(), "the budget has 44 bytes left");
        assert_eq!(ledger.report().used_bytes, 200);
        drop((first, second));
        assert_eq!(ledger.report().used_bytes, 0);
        let ledger = Arc::new(Ledger::new(10));
        assert!(pages.room("w", 20, &ledger).is_none(), "the ledger has 10");
    }
}
