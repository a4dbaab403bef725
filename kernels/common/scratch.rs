//! One fixed block of scratch memory per thread.
//!
//! A kernel that needs room inside a task takes it here instead of allocating: the pool's workers
//! make their block when they start, any other thread on its first use. The pages cost nothing until
//! they are touched. Only leaf code borrows it; a second borrow on the same thread panics.

use std::cell::RefCell;

/// Floats in the block: 2 MiB, about what a core's second-level cache holds.
pub const SCRATCH_FLOATS: usize = 1 << 19;

/// Floats the block starts on a multiple of: one cache line.
const ALIGN_FLOATS: usize = 16;

thread_local! {
    static BLOCK: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` with this thread's block of [`SCRATCH_FLOATS`] floats, aligned to 64 bytes.
///
/// The content is whatever the last user left.
///
/// # Panics
/// If `f` is called from inside another `with`: the block has one user at a time.
pub fn with<R>(f: impl FnOnce(&mut [f32]) -> R) -> R {
    BLOCK.with(|block| {
        let mut block = block.try_borrow_mut().expect("scratch is borrowed by leaf code only");
        if block.is_empty() {
            // Zero pages straight from the system: nothing is touched here.
            *block = vec![0.0; SCRATCH_FLOATS + ALIGN_FLOATS];
        }
        let skip = block.as_ptr().align_offset(ALIGN_FLOATS * size_of::<f32>());
        f(&mut block[skip..skip + SCRATCH_FLOATS])
    })
}

/// Makes this thread's block now, so that no later step allocates.
pub fn warm() {
    with(|_| ());
}

#[cfg(test)]
mod tests {
    #[test]
    fn block_is_aligned_and_stays() {
        let first = super::with(|block| {
            block[3] = 7.0;
            block.as_ptr() as usize
        });
        let (second, left) = super::with(|block| (block.as_ptr() as usize, block[3]));
        assert_eq!(first, second);
        assert_eq!(first % 64, 0);
        assert_eq!(left, 7.0);
    }
}
