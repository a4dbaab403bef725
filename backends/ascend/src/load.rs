//! Opening the vendor's libraries: each by its own path, `RTLD_LOCAL`, symbols per library (built-in and
//! custom packages export equal names with different signatures), never unloaded.
//!
//! What is missing is a list in words, for `doctor` and for errors: files tried, symbols not found.
//! Nothing here initialises a device.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use libloading::Library;
#[cfg(unix)]
use libloading::os::unix;

use crate::sys::acl::Acl;
use crate::sys::hccl::Hccl;
use crate::sys::nnopbase::Nnopbase;
use crate::sys::operators::{Operator, Operators};

/// Where libraries are looked for.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// `$ASCEND_TOOLKIT_HOME`: its library folders come before the loader's path.
    pub toolkit: Option<PathBuf>,
    /// One library that stands for all of them: the simulator.
    pub only: Option<PathBuf>,
    /// The vendor's variables that are set, for `doctor`: names and values.
    pub environment: Vec<(String, String)>,
}

/// Built-in operator libraries: one in older releases, by family in newer ones. Custom packages are not
/// among them on purpose.
const OPERATOR_LIBRARIES: [&str; 4] =
    ["libopapi.so", "libopapi_math.so", "libopapi_nn.so", "libopapi_transformer.so"];

/// The opened libraries.
pub(crate) struct Libraries {
    pub(crate) acl: Acl,
    pub(crate) base: Nnopbase,
    pub(crate) operators: Operators,
    /// Absent where there is no collective library: one device works without.
    pub(crate) hccl: Option<Hccl>,
    /// What is odd, a line each.
    pub(crate) notes: Vec<String>,
}

impl Search {
    /// Paths to try for `file`, in order.
    fn paths(&self, file: &str) -> Vec<OsString> {
        if let Some(only) = &self.only {
            return vec![only.clone().into_os_string()];
        }
        let arch = std::env::consts::ARCH;
        let folders = self.toolkit.iter().flat_map(|home| {
            [home.join("lib64"), home.join(format!("{arch}-linux/lib64")), home.join("lib")]
        });
        let mut paths: Vec<OsString> =
            folders.map(|folder| folder.join(file).into_os_string()).collect();
        paths.push(file.into());
        paths
    }

    /// Opens `file` from the first path that has it; the error lists all that were tried.
    fn open(&self, file: &str) -> Result<Library, String> {
        let mut tried = Vec::new();
        for path in self.paths(file) {
            match local(&path) {
                Ok(library) => return Ok(library),
                Err(error) => tried.push(format!("{}: {error}", Path::new(&path).display())),
            }
        }
        Err(format!("{file} was not found; tried {}", tried.join("; ")))
    }
}

/// Linux's `RTLD_NODELETE`: the vendor's libraries keep threads of their own, so they are never unloaded.
#[cfg(target_os = "linux")]
const NEVER_UNLOAD: i32 = 0x1000;
#[cfg(all(unix, not(target_os = "linux")))]
const NEVER_UNLOAD: i32 = 0;

#[cfg(unix)]
fn local(path: &OsString) -> Result<Library, libloading::Error> {
    let flags = unix::RTLD_NOW | unix::RTLD_LOCAL | NEVER_UNLOAD;
    // SAFETY: running the initialisers of the vendor's libraries is what opening a device means.
    let library = unsafe { unix::Library::open(Some(path), flags) };
    library.map(Library::from)
}

#[cfg(not(unix))]
fn local(path: &OsString) -> Result<Library, libloading::Error> {
    // SAFETY: as on Unix.
    unsafe { Library::new(path) }
}

/// Names of the functions of a generated struct that were not found.
macro_rules! missing {
    ($library:expr, $($symbol:ident)*) => {{
        let mut names: Vec<&str> = Vec::new();
        $(if $library.$symbol.is_err() { names.push(stringify!($symbol)); })*
        names
    }};
}

/// Refuses a library that lacks symbols the backend cannot do without.
fn complete(file: &str, missing: &[&str]) -> Result<(), String> {
    match missing {
        [] => Ok(()),
        names => Err(format!(
            "{file} is too old: it lacks {}; CANN 9.0 or newer has them",
            names.join(", ")
        )),
    }
}

impl Libraries {
    /// Opens everything.
    ///
    /// # Errors
    /// The first library that is missing or incomplete, in words.
    pub(crate) fn open(search: &Search) -> Result<Libraries, String> {
        let acl = search.open("libascendcl.so")?;
        // SAFETY: the bindings are those of this library's headers.
        let acl = unsafe { Acl::from_library(acl) }.map_err(|error| error.to_string())?;
        // The error functions first: every later message needs them.
        complete("libascendcl.so", &missing!(acl, aclGetRecentErrMsg))?;
        complete("libascendcl.so", &runtime(&acl))?;
        let base = search.open("libnnopbase.so")?;
        // SAFETY: as above.
        let base = unsafe { Nnopbase::from_library(base) }.map_err(|error| error.to_string())?;
        complete("libnnopbase.so", &objects(&base))?;
        let mut notes = Vec::new();
        let operators = operators(search, &mut notes)?;
        let hccl = search.open("libhccl.so").map_err(|why| {
            notes.push(format!("{why}; one device works without, several do not"));
        });
        // SAFETY: as above.
        let hccl = hccl.ok().and_then(|library| unsafe { Hccl::from_library(library) }.ok());
        Ok(Libraries { acl, base, operators, hccl, notes })
    }
}

/// Runtime symbols that are missing; all are required.
fn runtime(acl: &Acl) -> Vec<&'static str> {
    missing!(acl, aclInit aclFinalize aclrtGetVersion aclrtGetSocName aclrtGetDeviceCount
        aclrtSetDevice aclrtResetDevice aclrtCreateContext aclrtDestroyContext
        aclrtSetCurrentContext aclrtCtxSetSysParamOpt aclrtGetMemInfo aclrtCreateStreamWithConfig
        aclrtDestroyStream aclrtSynchronizeStream aclrtSynchronizeStreamWithTimeout
        aclrtSetStreamFailureMode aclrtCreateEventExWithFlag aclrtDestroyEvent aclrtRecordEvent
        aclrtStreamWaitEvent aclrtQueryEventStatus aclrtSynchronizeEventWithTimeout
        aclrtEventElapsedTime aclrtMalloc aclrtFree aclrtMallocHost aclrtFreeHost aclrtMemcpy
        aclrtMemcpyAsync aclrtMemset aclmdlRICaptureBegin aclmdlRICaptureEnd aclmdlRIExecuteAsync
        aclmdlRIDestroy)
}

/// Object symbols that are missing; all are required.
fn objects(base: &Nnopbase) -> Vec<&'static str> {
    missing!(base, aclCreateTensor aclCreateScalar aclCreateIntArray aclCreateTensorList
        aclDestroyTensor aclDestroyScalar aclDestroyIntArray aclDestroyTensorList
        aclSetAclOpExecutorRepeatable aclDestroyAclOpExecutor)
}

/// Operators from whichever built-in library has them. A missing fused one is a note.
fn operators(search: &Search, notes: &mut Vec<String>) -> Result<Operators, String> {
    let mut operators = Operators::default();
    let mut failures = Vec::new();
    for file in OPERATOR_LIBRARIES {
        match search.open(file) {
            Ok(library) => {
                // SAFETY: these are the built-in packages the table's signatures were written for.
                unsafe { operators.load(&library) };
            }
            Err(why) => failures.push(why),
        }
    }
    let lacks = |operator: &&Operator| !operators.has(**operator);
    let missing: Vec<Operator> = Operator::ALL.iter().filter(lacks).copied().collect();
    if missing.len() == Operator::ALL.len() {
        return Err(failures.join("; "));
    }
    let (fused, needed): (Vec<Operator>, Vec<Operator>) =
        missing.into_iter().partition(|operator| Operator::FUSED.contains(operator));
    let needed: Vec<&str> = needed.iter().map(|operator| operator.symbols().1).collect();
    complete("the operator libraries (libopapi*.so)", &needed)?;
    for operator in fused {
        let name = operator.symbols().1;
        notes.push(format!("{name} is in no operator library: ordinary operators do its work"));
    }
    Ok(operators)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_names_every_path_that_was_tried() {
        let search = Search { toolkit: Some("/nowhere/cann".into()), ..Search::default() };
        let error = Libraries::open(&search).err().expect("no CANN lies in /nowhere");
        for part in ["libascendcl.so", "/nowhere/cann/lib64/libascendcl.so", "tried"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn missing_symbols_are_all_named() {
        let error = complete("libx.so", &["aclA", "aclB"]).unwrap_err();
        assert!(error.contains("aclA, aclB") && error.contains("libx.so"), "{error}");
        assert_eq!(complete("libx.so", &[]), Ok(()));
    }
}
