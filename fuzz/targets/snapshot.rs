//! Any bytes as a saved sequence, under a checksum that fits: it is refused, or it is written back as
//! it was read.
#![no_main]

use engine::Snapshot;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut bytes = data.to_vec();
    bytes.extend(crc32fast::hash(data).to_le_bytes());
    if let Ok(snapshot) = Snapshot::from_bytes(&bytes) {
        assert_eq!(snapshot.to_bytes(), bytes);
    }
});
