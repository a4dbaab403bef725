//! Asking for memory before it is needed.

/// Bytes of a cache line.
const LINE_BYTES: usize = 64;

/// Asks for all of `bytes`, where the processor can be asked; no more than a hint.
#[inline(always)]
pub(crate) fn prefetch(bytes: &[u8]) {
    bytes.chunks(LINE_BYTES).for_each(prefetch_line);
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn prefetch_line(line: &[u8]) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: every x86-64 has the instruction, and it may point anywhere.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn prefetch_line(_: &[u8]) {}
