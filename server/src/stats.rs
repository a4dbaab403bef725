//! What the worker counts: atomics it writes, and a [`Stats`] that whoever reports reads.
//!
//! Counts only grow until the process ends, gauges say how it is now. Numbers of one snapshot may be a
//! step apart. No text, no ids, no names in here.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What the worker writes.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
        }

        /// How the worker is and what it has done.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// All of them now.
            pub(crate) fn read(&self) -> Stats {
                Stats { $($name: self.$name.get(),)* }
            }
        }
    };
}

counters! {
    /// Gauge: jobs waiting for a sequence.
    queued,
    /// Gauge: jobs that have one.
    live,
    /// Gauge: live jobs whose reader does not read.
    paused,
    /// Gauge: sequences that could be live.
    slots,
    /// Gauge: pages of state there are, of 256 tokens each.
    pages,
    /// Gauge: pages nobody holds.
    pages_free,
    /// Gauge: pages promised to live jobs, for the longest answer they may become.
    pages_promised,
    /// Gauge: sequences in the last step.
    batch_sequences,
    /// Gauge: rows in the last step.
    batch_rows,

    /// Jobs taken into the queue.
    submitted,
    /// Jobs refused because the queue was full.
    busy,
    /// Jobs that finished.
    finished,
    /// Jobs that failed.
    failed,
    /// Jobs whose reader went away.
    cancelled,
    /// Tokens of prompts that were computed.
    prompt_tokens,
    /// Tokens of prompts that were found in the prefix cache.
    cached_tokens,
    /// Tokens drawn, end tokens included.
    completion_tokens,

    /// Gauge: prefixes in the cache.
    cache_prefixes,
    /// Gauge: bytes of the cache in memory.
    cache_bytes,
    /// Gauge: bytes of the cache on disk.
    cache_disk_bytes,
    /// Jobs that began with cached tokens.
    cache_hits,
    /// Jobs that began with none.
    cache_misses,
    /// Prefixes saved.
    cache_saved,
    /// Prefixes read from disk.
    cache_loaded,
    /// Prefixes let go, from memory or disk, to make room.
    cache_evicted,
    /// Prefixes that could not be read back or used.
    cache_broken,

    /// Steps run.
    steps,
    /// Rows of all steps.
    rows,
    /// Nanoseconds jobs waited for a sequence.
    queue_ns,
    /// Nanoseconds from submission to the first token, of all jobs that had one.
    first_token_ns,
    /// Jobs that had a first token.
    first_tokens,
    /// Nanoseconds in steps in which everyone decoded.
    decode_ns,
    /// Nanoseconds in steps with rows of prompts.
    prefill_ns,
    /// Nanoseconds of reading states of cached prefixes from sequences.
    save_ns,
    /// Nanoseconds of writing them into sequences.
    restore_ns,
    /// Nanoseconds of drawing tokens, grammars and text included.
    sample_ns,
}

/// A number that one thread writes and others read.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(crate) fn add(&self, value: u64) {
        self.0.fetch_add(value, Ordering::Relaxed);
    }

    pub(crate) fn subtract(&self, value: u64) {
        self.0.fetch_sub(value, Ordering::Relaxed);
    }

    pub(crate) fn add_time(&self, time: Duration) {
        self.add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }
}
