//! How often each expert was chosen: a table that the engine adds to after a step and anyone may read.
//!
//! Counting reads what the router wrote and changes nothing that is computed; it allocates nothing.
//! Numbers only grow; those of one reading may be a step apart.

use std::sync::atomic::{AtomicU64, Ordering};

/// Choices of experts, by layer.
#[derive(Debug)]
pub struct ExpertCounts {
    experts: usize,
    /// `[layers, experts]`, row-major.
    counts: Box<[AtomicU64]>,
}

impl ExpertCounts {
    /// Zeros.
    pub fn new(layers: u32, experts: u32) -> Self {
        let experts = experts as usize;
        let counts = (0..layers as usize * experts).map(|_| AtomicU64::new(0)).collect();
        ExpertCounts { experts, counts }
    }

    /// Experts of a layer.
    pub fn experts(&self) -> usize {
        self.experts
    }

    /// The counts of each layer, from the first.
    pub fn layers(&self) -> impl ExactSizeIterator<Item = &[AtomicU64]> {
        self.counts.chunks_exact(self.experts.max(1))
    }

    /// Adds what one layer chose: ids as i32, little endian. One that is no expert of the layer counts
    /// nowhere.
    pub fn add(&self, layer: usize, ids: &[u8]) {
        let Some(counts) = self.layers().nth(layer) else { return };
        for id in ids.chunks_exact(4) {
            let id = i32::from_le_bytes([id[0], id[1], id[2], id[3]]);
            if let Some(count) = usize::try_from(id).ok().and_then(|id| counts.get(id)) {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// How uneven a layer's load is: choices of its busiest expert over those of the average one; 0 where
    /// there were none.
    pub fn imbalance(counts: &[AtomicU64]) -> f64 {
        let (mut most, mut all) = (0, 0);
        for count in counts {
            let count = count.load(Ordering::Relaxed);
            most = count.max(most);
            all += count;
        }
        if all == 0 { 0.0 } else { most as f64 * counts.len() as f64 / all as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_counted_where_they_belong_and_strangers_nowhere() {
        let table = ExpertCounts::new(2, 3);
        let bytes =
            |ids: &[i32]| -> Vec<u8> { ids.iter().flat_map(|id| id.to_le_bytes()).collect() };
        table.add(0, &bytes(&[0, 2, 2, 2]));
        table.add(1, &bytes(&[1, 3, -1, i32::MIN]));
        table.add(2, &bytes(&[0]));
        let read: Vec<Vec<u64>> = table
            .layers()
            .map(|counts| counts.iter().map(|count| count.load(Ordering::Relaxed)).collect())
            .collect();
        assert_eq!(read, [[1, 0, 3], [0, 1, 0]]);
        let uneven: Vec<f64> = table.layers().map(ExpertCounts::imbalance).collect();
        assert_eq!(uneven, [2.25, 3.0]);
        assert_eq!(ExpertCounts::imbalance(&[]), 0.0);
    }
}
