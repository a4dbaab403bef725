//! The definition of `bucket`; integers.

/// Sorted lists of `bucket`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buckets {
    /// First sorted place of each group, and one past the last.
    pub offsets: Vec<i32>,
    /// Flat key at each sorted place, -1 behind the last.
    pub order: Vec<i32>,
    /// Sorted place of each key, -1 if it is negative.
    pub inverse: Vec<i32>,
}

/// Stable counting sort of the keys `0..groups`.
pub fn bucket(keys: &[i32], groups: usize) -> Buckets {
    let mut order = Vec::new();
    let mut offsets = vec![0];
    let mut inverse = vec![-1; keys.len()];
    for group in 0..groups {
        for (flat, &key) in keys.iter().enumerate() {
            if key == group as i32 {
                inverse[flat] = order.len() as i32;
                order.push(flat as i32);
            }
        }
        offsets.push(order.len() as i32);
    }
    order.resize(keys.len(), -1);
    Buckets { offsets, order, inverse }
}
