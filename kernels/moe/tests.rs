//! `bucket` against its definition.

use super::{cpu, oracle};
use crate::common::testing::{Random, rows, rows_mut};

fn run(keys: &[i32], groups: usize) -> oracle::Buckets {
    let mut offsets = vec![77; groups + 1];
    let (mut order, mut inverse) = (vec![77; keys.len()], vec![77; keys.len()]);
    cpu::bucket(
        rows_mut(&mut offsets, groups + 1),
        rows_mut(&mut order, keys.len()),
        rows_mut(&mut inverse, keys.len()),
        rows(keys, keys.len()),
    );
    oracle::Buckets { offsets, order, inverse }
}

#[test]
fn buckets_agree() {
    let mut random = Random(1);
    let many = |random: &mut Random| (0..600).map(|_| random.below(40) as i32 - 3).collect();
    for (keys, groups) in [
        (vec![0], 1),
        (vec![-1], 1),
        (vec![2, 0, -1, 2, 1, 0], 3),
        (vec![5, 5, 5], 8),
        (vec![-1; 12], 4),
        (many(&mut random), 37),
    ] {
        let keys: Vec<i32> = keys.into_iter().map(|key: i32| key.max(-1)).collect();
        assert_eq!(run(&keys, groups), oracle::bucket(&keys, groups), "{keys:?}");
    }
}

#[test]
#[should_panic(expected = "key 4 of 4 groups")]
fn a_key_past_the_groups_panics() {
    run(&[0, 4], 4);
}
