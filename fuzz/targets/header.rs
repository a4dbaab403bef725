//! Any bytes as a safetensors file: the header is refused or keeps its promises.
#![no_main]

use engine::load::parse_header;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(header) = parse_header(data) else { return };
    let mut end = None;
    for tensor in &header.tensors {
        assert!(tensor.begin <= tensor.end && tensor.end <= data.len());
        assert!(end.is_none_or(|end| end == tensor.begin), "tensors lie behind each other");
        end = Some(tensor.end);
    }
    assert!(end.is_none_or(|end| end == data.len()), "tensors fill the file");
});
