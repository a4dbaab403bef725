//! Read-only mappings of whole files, shared by `Arc` and read as plain bytes.
//!
//! The engine forbids `unsafe`; mapping a file and moving it to huge pages need some, and this crate exists to
//! hold it and its argument. It refuses what is not a regular file and maps nothing writable.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

#[cfg(target_os = "linux")]
mod huge;

/// The bytes of one file, mapped read-only. Pages are read from disk when first touched.
#[derive(Debug)]
pub struct Mapping {
    map: Option<memmap2::Mmap>,
}

impl Mapping {
    /// Maps the whole of the regular file at `path`. An empty file gives an empty mapping.
    ///
    /// The file must stay as it is while the mapping lives. Another process that changes bytes makes
    /// the reader see them; one that truncates the file makes the next touch of a missing page end this
    /// process with SIGBUS, as in every program that maps its weights.
    ///
    /// # Errors
    /// What opening, inspecting or mapping the file gave; `InvalidInput` if it is no regular file.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        if metadata.len() == 0 {
            return Ok(Self { map: None });
        }
        // SAFETY: the mapping is private to this process's view, read-only and never handed out as
        // mutable. The bytes behind `&[u8]` change only if somebody rewrites a checkpoint that is in
        // use; every reader of this crate treats them as untrusted plain bytes (no references, no
        // enums, no UTF-8 promise are derived from them without a check on a copy or on the header,
        // which is parsed once), so the worst case is wrong numbers or the SIGBUS described above.
        let map = unsafe { memmap2::Mmap::map(&file)? };
        Ok(Self { map: Some(map) })
    }

    /// Puts the mapping into huge pages, where the system has them, piece by piece as long as `go_on` agrees to
    /// the size of the next one. Addresses and bytes stay as they are, also for who reads them meanwhile; the
    /// memory is then this process's own instead of the system's cache of the file. Gives the bytes moved.
    pub fn promote(&self, go_on: &mut dyn FnMut(u64) -> bool) -> u64 {
        #[cfg(target_os = "linux")]
        {
            // SAFETY: the mapping is private and read-only; files in use do not change (`open`).
            unsafe { huge::promote(self, go_on) }
        }
        #[cfg(not(target_os = "linux"))]
        {
            let _ = go_on;
            0
        }
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }
}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn mapping_shows_the_bytes_of_the_file() {
        let path = std::env::temp_dir().join(format!("hadal-mmap-{}", std::process::id()));
        std::fs::write(&path, b"deep").expect("temporary folder is writable");
        let mapping = Mapping::open(&path).expect("file exists");
        assert_eq!(&*mapping, b"deep");
        assert_eq!(mapping.promote(&mut |_| true), 0, "no whole huge page");
        std::fs::write(&path, b"").expect("temporary folder is writable");
        assert!(Mapping::open(&path).expect("file exists").is_empty());
        std::fs::remove_file(&path).expect("we wrote it");
        let kind = |path: &Path| Mapping::open(path).expect_err("cannot be mapped").kind();
        assert_eq!(kind(&path), io::ErrorKind::NotFound);
        assert_eq!(kind(&std::env::temp_dir()), io::ErrorKind::InvalidInput);
    }

    /// 41 MiB that differ everywhere.
    fn large(path: &Path) -> Vec<u8> {
        let words = (0..41 << 17u64)
            .flat_map(|at: u64| at.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        let bytes: Vec<u8> = words.collect();
        std::fs::write(path, &bytes).expect("temporary folder is writable");
        bytes
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn promoted_bytes_stay_where_and_what_they_are_also_for_who_reads_meanwhile() {
        let path = std::env::temp_dir().join(format!("hadal-mmap-huge-{}", std::process::id()));
        let bytes = large(&path);
        let mapping = Mapping::open(&path).expect("file exists");
        let whole =
            |end: usize| (end - mapping.as_ptr().addr().next_multiple_of(2 << 20)) >> 21 << 21;
        let whole = whole(mapping.as_ptr().addr() + bytes.len()) as u64;
        let start = mapping.as_ptr();
        let stop = AtomicBool::new(false);
        let moved: Vec<u64> = std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut rounds = 0;
                while !stop.load(Ordering::Relaxed) || rounds == 0 {
                    assert!(*mapping == *bytes);
                    rounds += 1;
                }
            });
            let mut left = 20 << 20;
            let mut part = |size: u64| std::mem::replace(&mut left, 0) >= size;
            let parts = mapping.promote(&mut part);
            let moved = [parts].into_iter().chain((0..3).map(|_| mapping.promote(&mut |_| true)));
            let moved = moved.collect();
            stop.store(true, Ordering::Relaxed);
            reader.join().expect("it saw the file's bytes");
            moved
        });
        assert_eq!(moved, [16 << 20, whole, whole, whole], "as far as it may go on, then all");
        assert_eq!(mapping.as_ptr(), start);
        std::fs::remove_file(&path).expect("we wrote it");
        assert!(*mapping == *bytes);
        drop(mapping);
    }
}
