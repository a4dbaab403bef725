//! Any bytes as a shard index: it is refused, or every shard is a plain file name in use.
#![no_main]

use engine::load::parse_index;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(index) = parse_index(data) else { return };
    let plain = |name: &String| !name.contains(['/', '\\']) && name != ".." && !name.is_empty();
    assert!(index.shards.iter().all(plain));
    assert!(index.shard_of.values().all(|&place| place < index.shards.len()));
});
