//! Compiled kernels on disk, so that only the first open of a machine compiles.
//!
//! The name of a file says everything that decides its content: unit, architecture, compiler, and a digest of
//! source, headers and options. A file that cannot be read or written only costs a compilation; one that
//! was cut off is noticed by its length and check sum and made anew.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use hal::{Error, ErrorKind, Result};

use crate::nvrtc::Nvrtc;
use crate::source::{HEADERS, OPTIONS, UNITS, Unit};

/// First bytes of a file: format and version.
const MAGIC: &[u8; 8] = b"hdlcuda1";

/// 64-bit FNV-1a, twice with different starts: 128 bits that no accident makes equal.
fn digest(parts: &[&[u8]]) -> [u64; 2] {
    let mut sums = [0xcbf2_9ce4_8422_2325u64, 0x6c62_272e_07bb_0142];
    for part in parts {
        let length = (part.len() as u64).to_le_bytes();
        for &byte in length.iter().chain(*part) {
            for sum in &mut sums {
                *sum = (*sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
            sums[1] = sums[1].rotate_left(5);
        }
    }
    sums
}

/// A folder of compiled kernels.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    folder: Option<PathBuf>,
}

impl Cache {
    /// In `folder`; without one nothing is kept.
    pub(crate) fn new(folder: Option<PathBuf>) -> Cache {
        Cache { folder }
    }

    /// In the user's folder for such things.
    pub(crate) fn usual() -> Cache {
        Cache::new(std::env::home_dir().map(|home| home.join(".cache/hadal/cuda")))
    }

    /// Where the image of a unit lies.
    fn place(&self, unit: &Unit, arch: &str, (major, minor): (u32, u32)) -> Option<PathBuf> {
        let (begin, end) = name_of(unit, arch);
        Some(self.folder.as_ref()?.join(format!("{begin}{major}.{minor}{end}")))
    }

    /// The image, if it was kept and is whole.
    pub(crate) fn get(&self, unit: &Unit, arch: &str, compiler: (u32, u32)) -> Option<Vec<u8>> {
        image_at(&self.place(unit, arch, compiler)?)
    }

    /// The image that the newest compiler made, for a machine without one.
    pub(crate) fn any(&self, unit: &Unit, arch: &str) -> Option<Vec<u8>> {
        let (begin, end) = name_of(unit, arch);
        let version = |path: &Path| -> Option<(u32, u32)> {
            let name = path.file_name()?.to_str()?;
            let (major, minor) = name.strip_prefix(&begin)?.strip_suffix(&end)?.split_once('.')?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        };
        let paths =
            self.folder.as_ref()?.read_dir().ok()?.filter_map(|entry| Some(entry.ok()?.path()));
        let mut kept: Vec<_> = paths.filter_map(|path| Some((version(&path)?, path))).collect();
        kept.sort();
        kept.iter().rev().find_map(|(_, path)| image_at(path))
    }

    /// Keeps an image. Another process may do the same at the same moment: a file is complete or absent.
    pub(crate) fn put(&self, unit: &Unit, arch: &str, compiler: (u32, u32), image: &[u8]) {
        let Some(place) = self.place(unit, arch, compiler) else { return };
        // A cache that cannot be written is no cache, not an error.
        let _ = write(&place, image);
    }
}

/// What a file's name begins and ends with: the compiler's version stands between.
fn name_of(unit: &Unit, arch: &str) -> (String, String) {
    let options = OPTIONS.join(" ");
    let mut parts = vec![unit.text, &options, arch];
    parts.extend(HEADERS.iter().map(|(_, text)| *text));
    let parts: Vec<&[u8]> = parts.into_iter().map(str::as_bytes).collect();
    let [a, b] = digest(&parts);
    (format!("{}-{arch}-", unit.name), format!("-{a:016x}{b:016x}.bin"))
}

/// The image in a file, if it is whole.
fn image_at(place: &Path) -> Option<Vec<u8>> {
    let bytes = fs::read(place).ok()?;
    let (head, image) = bytes.split_at_checked(24)?;
    (head[..8] == *MAGIC && head[8..] == check(image)).then(|| image.to_vec())
}

/// Compiles every kernel for each of `arches` (`sm_90`; `compute_90` gives PTX, which newer GPUs take, too) into
/// `folder`, where a device on a machine without a compiler finds it. Returns the files.
///
/// # Errors
/// `Driver` with the compiler's log; `Io` naming the file that cannot be written.
pub fn compile_ahead(nvrtc: &Nvrtc, arches: &[&str], folder: &Path) -> Result<Vec<PathBuf>> {
    let cache = Cache::new(Some(folder.to_owned()));
    let mut files = Vec::new();
    for arch in arches {
        for unit in &UNITS {
            let image = nvrtc.compile(unit, arch, &[])?.image;
            let place = cache.place(unit, arch, nvrtc.version()).expect("there is a folder");
            write(&place, &image).map_err(|error| {
                Error::new(ErrorKind::Io, format!("{}: {error}", place.display()))
            })?;
            files.push(place);
        }
    }
    Ok(files)
}

fn check(image: &[u8]) -> [u8; 16] {
    let [a, b] = digest(&[image]);
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&a.to_le_bytes());
    bytes[8..].copy_from_slice(&b.to_le_bytes());
    bytes
}

fn write(place: &Path, image: &[u8]) -> std::io::Result<()> {
    let folder = place.parent().expect("a file in a folder");
    fs::create_dir_all(folder)?;
    let draft = place.with_extension(format!("{}", std::process::id()));
    let mut file = fs::File::create(&draft)?;
    file.write_all(MAGIC)?;
    file.write_all(&check(image))?;
    file.write_all(image)?;
    fs::rename(&draft, place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::UNITS;

    fn folder(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("hadal-cuda-{name}-{}", std::process::id()))
    }

    #[test]
    fn an_image_is_found_by_everything_that_decides_it() {
        let folder = folder("keys");
        let cache = Cache::new(Some(folder.clone()));
        cache.put(&UNITS[0], "sm_90", (13, 0), b"image");
        assert_eq!(cache.get(&UNITS[0], "sm_90", (13, 0)).as_deref(), Some(&b"image"[..]));
        let other_text = crate::source::Unit { text: "// changed", ..UNITS[0] };
        for (unit, arch, compiler) in [
            (&UNITS[1], "sm_90", (13, 0)),
            (&UNITS[0], "sm_80", (13, 0)),
            (&UNITS[0], "sm_90", (12, 8)),
            (&other_text, "sm_90", (13, 0)),
        ] {
            assert_eq!(cache.get(unit, arch, compiler), None, "{} {arch}", unit.name);
        }
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn without_a_compiler_the_newest_ones_image_is_taken() {
        let folder = folder("ahead");
        let cache = Cache::new(Some(folder.clone()));
        let (unit, arch) = (&UNITS[0], "sm_90");
        assert_eq!(cache.any(unit, arch), None, "no folder");
        for (compiler, image) in [((12, 8), b"older"), ((13, 0), b"newer"), ((9, 9), b"oldie")] {
            cache.put(unit, arch, compiler, image);
        }
        assert_eq!(cache.any(unit, arch).as_deref(), Some(&b"newer"[..]));
        assert_eq!(cache.any(unit, "sm_80"), None);
        let other = crate::source::Unit { text: "// changed", ..*unit };
        assert_eq!(cache.any(&other, arch), None);
        fs::write(cache.place(unit, arch, (13, 0)).unwrap(), b"cut off").unwrap();
        assert_eq!(cache.any(unit, arch).as_deref(), Some(&b"older"[..]));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_damaged_image_is_made_anew() {
        let folder = folder("damage");
        let cache = Cache::new(Some(folder.clone()));
        cache.put(&UNITS[0], "sm_90", (13, 0), b"an image");
        let place = cache.place(&UNITS[0], "sm_90", (13, 0)).unwrap();
        let whole = fs::read(&place).unwrap();
        for length in 0..whole.len() {
            fs::write(&place, &whole[..length]).unwrap();
            assert_eq!(cache.get(&UNITS[0], "sm_90", (13, 0)), None, "{length} bytes");
        }
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        fs::write(&place, flipped).unwrap();
        assert_eq!(cache.get(&UNITS[0], "sm_90", (13, 0)), None);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn without_a_folder_nothing_is_kept() {
        let cache = Cache::new(None);
        cache.put(&UNITS[0], "sm_90", (13, 0), b"image");
        assert_eq!(cache.get(&UNITS[0], "sm_90", (13, 0)), None);
    }
}
