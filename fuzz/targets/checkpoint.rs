//! A configuration and a safetensors file, both any bytes: the checkpoint is refused with one line,
//! or it opens. The first two bytes say how long the configuration is.
#![no_main]

use std::sync::Arc;

use engine::load::Checkpoint;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((length, rest)) = data.split_first_chunk::<2>() else { return };
    let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
    let (config, file) = rest.split_at(length);
    let file: Arc<dyn hal::ByteOwner> = Arc::new(file.to_vec());
    match Checkpoint::from_memory(config, vec![("model.safetensors".into(), file)]) {
        Err(refusal) => assert!(!refusal.to_string().contains('\n')),
        Ok(checkpoint) => drop(checkpoint.inspection().to_string()),
    }
});
