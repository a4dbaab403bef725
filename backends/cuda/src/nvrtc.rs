//! NVRTC: NVIDIA's compiler as a library, opened at run time under the names of every CUDA version.
//!
//! It compiles a unit for one architecture to a cubin; where a library is older than the architecture it
//! gives PTX for the newest one it knows, and the driver compiles that. No header of a toolkit is needed.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr;

use hal::{Error, Result};
use libloading::Library;

use crate::source::{HEADERS, OPTIONS, Unit};

/// File names under which NVRTC is looked for, with the major version they say, the newest first.
const NAMES: [(&str, u32); 5] = [
    ("libnvrtc.so.13", 13),
    ("nvrtc64_130_0.dll", 13),
    ("libnvrtc.so.12", 12),
    ("nvrtc64_120_0.dll", 12),
    ("libnvrtc.so", 0),
];
const FOLDERS: [&str; 3] =
    ["/usr/local/cuda/lib64", "/opt/cuda/lib64", "/usr/lib/x86_64-linux-gnu"];

/// Where a compiler of at most this major version may lie.
fn usual_places(major: u32) -> Vec<PathBuf> {
    let names = NAMES.iter().filter(|(_, of)| *of <= major).map(|(name, _)| PathBuf::from(name));
    names.chain(FOLDERS.iter().map(|folder| Path::new(folder).join("libnvrtc.so"))).collect()
}

type Program = *mut c_void;
type Code = c_int;

/// An open compiler.
#[derive(Debug)]
pub struct Nvrtc {
    library: Library,
    _builtins: Option<Library>,
    version: (u32, u32),
    place: PathBuf,
}

/// NVRTC opens a second library by its bare name, which fails where it lies in no usual place, as in a
/// Python wheel. Opened before by its path, it is found.
fn builtins_beside(place: &Path) -> Option<Library> {
    let folder = place.parent().filter(|folder| !folder.as_os_str().is_empty())?;
    let mut names = folder.read_dir().ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let is_it = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("libnvrtc-builtins.so")
    };
    // SAFETY: the library only has data and code for its sibling.
    unsafe { Library::new(names.find(is_it)?) }.ok()
}

/// What compiling gave.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// A cubin, or PTX with its final zero.
    pub image: Vec<u8>,
    /// What the compiler said; with `--ptxas-options=-v` the resources of every kernel.
    pub log: String,
}

impl Nvrtc {
    /// Opens the library at `place`, or the first of the usual ones whose major version is at most `major`: a
    /// driver takes code of compilers up to its own.
    ///
    /// # Errors
    /// `NotFound` naming what was tried.
    pub fn open(place: Option<&Path>, major: u32) -> Result<Nvrtc> {
        let places = place.map_or_else(|| usual_places(major), |place| vec![place.to_owned()]);
        let mut tried = Vec::new();
        for place in &places {
            match Nvrtc::at(place) {
                Some(Ok(nvrtc)) if nvrtc.version.0 > major => {
                    let (newer, minor) = nvrtc.version;
                    tried.push(format!("{} is {newer}.{minor}", place.display()));
                }
                Some(opened) => return opened,
                None => tried.push(place.display().to_string()),
            }
        }
        Err(Error::new(
            hal::ErrorKind::NotFound,
            format!(
                "no NVRTC (NVIDIA's run-time compiler) up to version {major}; tried {}; \
                 `pip install {}` has it",
                tried.join(", "),
                if major > 12 { "nvidia-cuda-nvrtc" } else { "nvidia-cuda-nvrtc-cu12" }
            ),
        ))
    }

    /// The library at a place, if there is one.
    fn at(place: &Path) -> Option<Result<Nvrtc>> {
        let builtins = builtins_beside(place);
        // SAFETY: NVRTC's initialisers touch nothing of ours.
        let library = unsafe { Library::new(place) }.ok()?;
        let mut nvrtc =
            Nvrtc { library, _builtins: builtins, version: (0, 0), place: place.to_owned() };
        let version = nvrtc.ask_version();
        Some(version.map(|version| {
            nvrtc.version = version;
            nvrtc
        }))
    }

    /// Major and minor version.
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// Where it was found.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// A function of the library.
    ///
    /// # Safety
    /// `F` is the function's type.
    unsafe fn symbol<F: Copy>(&self, name: &str) -> Result<F> {
        // SAFETY: the caller names the type.
        let symbol = unsafe { self.library.get::<F>(name.as_bytes()) };
        let symbol = symbol.map_err(|error| {
            Error::driver(0, format!("{} lacks {name}: {error}", self.place.display()))
        })?;
        Ok(*symbol)
    }

    fn check(&self, call: &str, code: Code) -> Result<()> {
        match code {
            0 => Ok(()),
            code => Err(Error::driver(code.into(), call.to_owned())),
        }
    }

    fn ask_version(&self) -> Result<(u32, u32)> {
        type Ask = unsafe extern "C" fn(*mut c_int, *mut c_int) -> Code;
        // SAFETY: the type of nvrtcVersion.
        let ask: Ask = unsafe { self.symbol("nvrtcVersion")? };
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both places are ours.
        let code = unsafe { ask(&raw mut major, &raw mut minor) };
        self.check("nvrtcVersion", code)?;
        Ok((major.unsigned_abs(), minor.unsigned_abs()))
    }

    /// The architectures the library compiles for, as 80, 90, 120; empty if it cannot say.
    pub fn architectures(&self) -> Vec<u32> {
        type Count = unsafe extern "C" fn(*mut c_int) -> Code;
        // SAFETY: the types of these two functions.
        let asks = unsafe {
            (
                self.symbol::<Count>("nvrtcGetNumSupportedArchs"),
                self.symbol::<Count>("nvrtcGetSupportedArchs"),
            )
        };
        let (Ok(number), Ok(list)) = asks else { return Vec::new() };
        let mut count = 0;
        // SAFETY: the place is ours.
        if unsafe { number(&raw mut count) } != 0 || count <= 0 {
            return Vec::new();
        }
        let mut all = vec![0; count as usize];
        // SAFETY: the list has room for as many as the library said.
        if unsafe { list(all.as_mut_ptr()) } != 0 {
            return Vec::new();
        }
        all.into_iter().map(|arch: c_int| arch.unsigned_abs()).collect()
    }

    /// Compiles a unit for `arch` (`sm_90a` gives a cubin, `compute_90` PTX), with `more` options.
    ///
    /// # Errors
    /// `Driver` with the compiler's log.
    pub fn compile(&self, unit: &Unit, arch: &str, more: &[&str]) -> Result<Compiled> {
        let mut options = vec![format!("--gpu-architecture={arch}")];
        options.extend(OPTIONS.iter().chain(more).map(|&option| option.to_owned()));
        let texts = options.into_iter().map(|option| c_string(&option)).collect::<Vec<_>>();
        let pointers: Vec<*const c_char> = texts.iter().map(|text| text.as_ptr()).collect();
        let program = self.create(unit)?;
        type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> Code;
        // SAFETY: the type of nvrtcCompileProgram.
        let compile: Compile = unsafe { self.symbol("nvrtcCompileProgram")? };
        // SAFETY: the program is alive, the options are as many strings.
        let code = unsafe { compile(program.raw, pointers.len() as c_int, pointers.as_ptr()) };
        let log = program.bytes("nvrtcGetProgramLogSize", "nvrtcGetProgramLog")?;
        let log = String::from_utf8_lossy(&log).trim_end_matches('\0').trim().to_owned();
        self.check(&format!("compiling {} for {arch}: {log}", unit.name), code)?;
        let image = match arch.starts_with("sm_") {
            true => program.bytes("nvrtcGetCUBINSize", "nvrtcGetCUBIN")?,
            false => program.bytes("nvrtcGetPTXSize", "nvrtcGetPTX")?,
        };
        Ok(Compiled { image, log })
    }

    fn create(&self, unit: &Unit) -> Result<Held<'_>> {
        type Create = unsafe extern "C" fn(
            *mut Program,
            *const c_char,
            *const c_char,
            c_int,
            *const *const c_char,
            *const *const c_char,
        ) -> Code;
        // SAFETY: the type of nvrtcCreateProgram.
        let create: Create = unsafe { self.symbol("nvrtcCreateProgram")? };
        let (text, name) = (c_string(unit.text), c_string(&format!("{}.cu", unit.name)));
        let headers = HEADERS.map(|(name, text)| (c_string(name), c_string(text)));
        let names = headers.each_ref().map(|(name, _)| name.as_ptr());
        let texts = headers.each_ref().map(|(_, text)| text.as_ptr());
        let count = HEADERS.len() as c_int;
        let mut raw = ptr::null_mut();
        // SAFETY: all strings live through the call, which copies them.
        let code = unsafe {
            create(
                &raw mut raw,
                text.as_ptr(),
                name.as_ptr(),
                count,
                texts.as_ptr(),
                names.as_ptr(),
            )
        };
        self.check("nvrtcCreateProgram", code)?;
        Ok(Held { raw, nvrtc: self })
    }
}

/// A program of the compiler, destroyed when dropped.
struct Held<'a> {
    raw: Program,
    nvrtc: &'a Nvrtc,
}

impl Held<'_> {
    /// What a pair of functions, size and content, gives.
    fn bytes(&self, size: &str, content: &str) -> Result<Vec<u8>> {
        type Size = unsafe extern "C" fn(Program, *mut usize) -> Code;
        type Content = unsafe extern "C" fn(Program, *mut c_char) -> Code;
        // SAFETY: all the functions named here have these types.
        let (ask, get): (Size, Content) =
            unsafe { (self.nvrtc.symbol(size)?, self.nvrtc.symbol(content)?) };
        let mut count = 0;
        // SAFETY: the program is alive.
        let code = unsafe { ask(self.raw, &raw mut count) };
        self.nvrtc.check(size, code)?;
        let mut bytes = vec![0u8; count];
        // SAFETY: there is room for as many bytes as the library said.
        let code = unsafe { get(self.raw, bytes.as_mut_ptr().cast()) };
        self.nvrtc.check(content, code)?;
        Ok(bytes)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        type Destroy = unsafe extern "C" fn(*mut Program) -> Code;
        // SAFETY: the type of nvrtcDestroyProgram.
        if let Ok(destroy) = unsafe { self.nvrtc.symbol::<Destroy>("nvrtcDestroyProgram") } {
            // SAFETY: created once, destroyed once.
            unsafe { destroy(&raw mut self.raw) };
        }
    }
}

fn c_string(text: &str) -> CString {
    CString::new(text).expect("sources and options have no zero byte")
}

/// The text behind a pointer of the driver, if there is one.
pub(crate) fn text_at(pointer: *const c_char) -> Option<String> {
    // SAFETY: the driver's strings are constants that end in a zero.
    (!pointer.is_null()).then(|| unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_is_given_no_compiler_of_a_newer_major_version() {
        let names = |major| -> Vec<String> {
            let places = usual_places(major);
            places.iter().map(|place| place.display().to_string()).take(2).collect()
        };
        assert_eq!(names(13), ["libnvrtc.so.13", "nvrtc64_130_0.dll"]);
        assert_eq!(names(12), ["libnvrtc.so.12", "nvrtc64_120_0.dll"]);
        assert_eq!(names(14), names(13));
    }

    #[test]
    fn what_was_tried_is_named() {
        let missing = Path::new("/nowhere/libnvrtc.so");
        let error = Nvrtc::open(Some(missing), 13).unwrap_err().to_string();
        assert!(error.contains("up to version 13; tried /nowhere/libnvrtc.so"), "{error}");
    }
}
