//! Checksums of files on disk, by the two schemes of the hub.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use indicatif::ProgressBar;
use ring::digest;

use super::list::{Hash, RemoteFile};
use crate::cli::failure::{Failure, Result};

/// Bytes read at a time.
const BLOCK_BYTES: usize = 1 << 20;

/// What a check said.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The bytes are the hub's.
    Sound,
    /// They are others.
    Broken {
        /// Their checksum.
        found: String,
    },
}

/// Reads `path` and compares it with what `file` must be.
pub fn verify(path: &Path, file: &RemoteFile, bar: &ProgressBar) -> Result<Verdict> {
    let failed = |error: io::Error| Failure::new(format!("{}: {error}", path.display()));
    let mut source = File::open(path).map_err(failed)?;
    let length = source.metadata().map_err(failed)?.len();
    let mut hash = match file.hash {
        Hash::Sha256(_) => digest::Context::new(&digest::SHA256),
        Hash::GitBlob(_) => {
            let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
            hash.update(format!("blob {length}\0").as_bytes());
            hash
        }
    };
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        let count = source.read(&mut block).map_err(failed)?;
        if count == 0 {
            break;
        }
        hash.update(&block[..count]);
        bar.inc(count as u64);
    }
    bar.finish_and_clear();
    let found: String = hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(if found == file.hash.text() { Verdict::Sound } else { Verdict::Broken { found } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_schemes_give_the_known_sums() {
        let folder = std::env::temp_dir().join(format!("hadal-verify-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a writable temporary folder");
        let path = folder.join("hello");
        std::fs::write(&path, "hello\n").expect("a writable temporary folder");
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        let blob = "ce013625030ba8dba906f756967f9e9ca394464a";
        for (hash, sound) in [
            (Hash::Sha256(sha256.into()), true),
            (Hash::GitBlob(blob.into()), true),
            (Hash::Sha256(sha256.replace('5', "6")), false),
            (Hash::GitBlob(blob.replace('c', "d")), false),
        ] {
            let file = RemoteFile { name: "hello".into(), size: 6, hash };
            let verdict = verify(&path, &file, &ProgressBar::hidden()).expect("readable");
            assert_eq!(verdict == Verdict::Sound, sound, "{file:?}");
        }
        std::fs::remove_dir_all(&folder).expect("ours");
    }
}
