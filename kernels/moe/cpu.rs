//! CPU kernel of `bucket`.

use crate::common::rows::{Rows, RowsMut};

/// Stable counting sort of the keys `0..groups`, `groups` being one less than the width of `offsets`.
///
/// Every operand is one row. `order[p]` is the flat key at sorted place p (-1 behind the last),
/// `inverse[i]` the sorted place of key i (-1 if the key is negative). At most a few thousand keys:
/// one thread.
///
/// # Panics
/// If a key is at or above `groups`.
pub fn bucket(
    mut offsets: RowsMut<i32>,
    mut order: RowsMut<i32>,
    mut inverse: RowsMut<i32>,
    keys: Rows<i32>,
) {
    let (offsets, keys) = (offsets.row_mut(0), keys.row(0));
    let (order, inverse) = (order.row_mut(0), inverse.row_mut(0));
    // 1 count, one place late: offsets[g + 2] counts g, so that step 3 can run on offsets[g + 1]
    let groups = offsets.len() - 1;
    offsets.fill(0);
    for &key in keys.iter().filter(|&&key| key >= 0) {
        assert!((key as usize) < groups, "bucket: key {key} of {groups} groups");
        if let Some(count) = offsets.get_mut(key as usize + 2) {
            *count += 1;
        }
    }
    // 2 first place of each group, in offsets[g + 1]
    for group in 1..=groups {
        offsets[group] += offsets[group - 1];
    }
    // 3 place every key; offsets[g + 1] ends as the first place of group g + 1
    let mut placed = 0;
    for (index, (&key, inverse)) in keys.iter().zip(inverse).enumerate() {
        if key < 0 {
            *inverse = -1;
            continue;
        }
        let place = &mut offsets[key as usize + 1];
        *inverse = *place;
        order[*place as usize] = index as i32;
        *place += 1;
        placed += 1;
    }
    order[placed..].fill(-1);
}
