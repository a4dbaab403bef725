//! How many rows make a part of the pool's work.
//!
//! Only time depends on it: every row is computed by one thread, in its own order.

use super::pool::Pool;

/// Work below this is done by the calling thread: waking another costs about as much.
const SERIAL_NS: usize = 4_000;

/// Parts per thread that a cut aims at, so that no thread waits long for the last one.
const PARTS_PER_THREAD: usize = 4;

/// Rows per part when one row takes about `row_ns` nanoseconds on one thread. At least 1.
pub fn grain(pool: &Pool, rows: usize, row_ns: usize) -> usize {
    let row_ns = row_ns.max(1);
    if pool.threads() == 1 || rows.saturating_mul(row_ns) < SERIAL_NS {
        return rows.max(1);
    }
    let even = rows.div_ceil(pool.threads() * PARTS_PER_THREAD);
    even.max((SERIAL_NS / 4).div_ceil(row_ns)).max(1)
}

/// Calls `task(first..end)` for consecutive ranges of `rows` rows, on the pool where that pays.
pub fn ranges(
    pool: &Pool,
    rows: usize,
    row_ns: usize,
    task: &(dyn Fn(std::ops::Range<usize>) + Sync),
) {
    let grain = grain(pool, rows, row_ns);
    pool.run(rows.div_ceil(grain), &|part| task(part * grain..rows.min((part + 1) * grain)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn every_row_is_in_one_range() {
        for threads in [1, 3] {
            let pool = Pool::new(threads);
            for (rows, row_ns) in [(0, 5), (1, 0), (7, 10_000), (4096, 1), (4096, 100)] {
                let count = AtomicUsize::new(0);
                ranges(&pool, rows, row_ns, &|range| {
                    count.fetch_add(range.len(), Ordering::Relaxed);
                });
                assert_eq!(count.into_inner(), rows, "{threads} threads, {rows} rows");
            }
        }
    }
}
