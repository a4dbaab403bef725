//! Read-only mappings of whole files, shared by `Arc` and read as plain bytes.
//!
//! The engine forbids `unsafe`; mapping a file needs one unsafe call, and this crate exists to hold it
//! and its argument. It refuses what is not a regular file and maps nothing writable.

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::path::Path;

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

    /// Lets the memory of these bytes go. They stay readable: the next touch brings them from the file, or
    /// from the system's cache of it.
    pub fn release(&self, range: Range<usize>) {
        let Some(map) = self.map.as_ref().filter(|map| range.end <= map.len()) else { return };
        #[cfg(unix)]
        {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the mapping is of a file and read-only: no byte differs after it. That the advice may
            // not be taken costs memory only.
            let _ = unsafe { map.unchecked_advise_range(advice, range.start, range.len()) };
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
    use super::*;

    #[test]
    fn mapping_shows_the_bytes_of_the_file() {
        let path = std::env::temp_dir().join(format!("hadal-mmap-{}", std::process::id()));
        std::fs::write(&path, b"deep").expect("temporary folder is writable");
        assert_eq!(&*Mapping::open(&path).expect("file exists"), b"deep");
        let mapping = Mapping::open(&path).expect("file exists");
        mapping.release(1..4);
        mapping.release(0..1 << 20);
        assert_eq!(&*mapping, b"deep", "released bytes are readable");
        std::fs::write(&path, b"").expect("temporary folder is writable");
        assert!(Mapping::open(&path).expect("file exists").is_empty());
        std::fs::remove_file(&path).expect("we wrote it");
        let kind = |path: &Path| Mapping::open(path).expect_err("cannot be mapped").kind();
        assert_eq!(kind(&path), io::ErrorKind::NotFound);
        assert_eq!(kind(&std::env::temp_dir()), io::ErrorKind::InvalidInput);
    }
}
