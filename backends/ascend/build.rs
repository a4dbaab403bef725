//! Generates the bindings anew from the vendor's headers, behind the feature `regenerate`. Without it
//! nothing happens: the committed files are compiled, on any machine, with no CANN and no libclang.
//!
//! It reads `$ASCEND_TOOLKIT_HOME/include` and writes `acl.rs`, `nnopbase.rs` and `hccl.rs` to `$OUT_DIR`,
//! where `scripts/check-cann-bindings` compares them with the committed ones. Only what the backend uses
//! is generated; the lists below are the only place that says what that is.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "regenerate")]
    generate::all();
}

#[cfg(feature = "regenerate")]
mod generate {
    use std::env;
    use std::path::PathBuf;

    /// A library: name of the struct that holds its functions, the header, functions and constants.
    struct Library {
        file: &'static str,
        name: &'static str,
        header: &'static str,
        functions: &'static [&'static str],
        /// Types and constants beside those the functions mention.
        others: &'static [&'static str],
        /// First line of the generated file's body: where types of another library come from.
        imports: &'static str,
        /// Types another file has.
        foreign: &'static [&'static str],
    }

    const LIBRARIES: [Library; 3] = [
        Library {
            file: "acl.rs",
            name: "Acl",
            header: "acl/acl.h",
            functions: &[
                "aclInit",
                "aclFinalize",
                "aclGetRecentErrMsg",
                "aclrtGetVersion",
                "aclrtGetSocName",
                "aclrtGetDeviceCount",
                "aclrtSetDevice",
                "aclrtResetDevice",
                "aclrtCreateContext",
                "aclrtDestroyContext",
                "aclrtSetCurrentContext",
                "aclrtCtxSetSysParamOpt",
                "aclrtGetMemInfo",
                "aclrtCreateStreamWithConfig",
                "aclrtDestroyStream",
                "aclrtSynchronizeStream",
                "aclrtSynchronizeStreamWithTimeout",
                "aclrtSetStreamFailureMode",
                "aclrtCreateEventExWithFlag",
                "aclrtDestroyEvent",
                "aclrtRecordEvent",
                "aclrtStreamWaitEvent",
                "aclrtQueryEventStatus",
                "aclrtSynchronizeEventWithTimeout",
                "aclrtEventElapsedTime",
                "aclrtMalloc",
                "aclrtFree",
                "aclrtMallocHost",
                "aclrtFreeHost",
                "aclrtMemcpy",
                "aclrtMemcpyAsync",
                "aclrtMemset",
                "aclmdlRICaptureBegin",
                "aclmdlRICaptureEnd",
                "aclmdlRIExecuteAsync",
                "aclmdlRIDestroy",
            ],
            others: &[
                "ACL_EVENT_SYNC",
                "ACL_EVENT_TIME_LINE",
                "ACL_STREAM_FAST_LAUNCH",
                "ACL_STREAM_FAST_SYNC",
                "aclDataType",
                "aclFormat",
                "ACL_ERROR_REPEAT_INITIALIZE",
                "ACL_ERROR_RT_MEMORY_ALLOCATION",
                "ACL_ERROR_RT_STREAM_SYNC_TIMEOUT",
                "ACL_ERROR_RT_EVENT_SYNC_TIMEOUT",
            ],
            imports: "",
            foreign: &[],
        },
        Library {
            file: "nnopbase.rs",
            name: "Nnopbase",
            header: "aclnn/acl_meta.h",
            functions: &[
                "aclCreateTensor",
                "aclCreateScalar",
                "aclCreateIntArray",
                "aclCreateTensorList",
                "aclDestroyTensor",
                "aclDestroyScalar",
                "aclDestroyIntArray",
                "aclDestroyTensorList",
                "aclSetAclOpExecutorRepeatable",
                "aclDestroyAclOpExecutor",
            ],
            others: &[],
            imports: "use super::acl::{aclDataType, aclFormat};",
            foreign: &["aclDataType", "aclFormat"],
        },
        Library {
            file: "hccl.rs",
            name: "Hccl",
            header: "hccl/hccl.h",
            functions: &[
                "HcclCommInitAll",
                "HcclAllReduce",
                "HcclAllGather",
                "HcclReduceScatter",
                "HcclAlltoAll",
                "HcclCommDestroy",
                "HcclGetErrorString",
            ],
            others: &[],
            imports: "use super::acl::aclrtStream;",
            foreign: &["aclrtStream"],
        },
    ];

    pub fn all() {
        println!("cargo::rerun-if-env-changed=ASCEND_TOOLKIT_HOME");
        let home = env::var("ASCEND_TOOLKIT_HOME").expect(
            "feature `regenerate` needs ASCEND_TOOLKIT_HOME; scripts/fetch-cann-headers makes one",
        );
        let include = PathBuf::from(home).join("include");
        let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets it"));
        for library in LIBRARIES {
            write(&library, &include, &out);
        }
    }

    fn write(library: &Library, include: &PathBuf, out: &PathBuf) {
        let mut builder = bindgen::builder()
            .header(include.join(library.header).display().to_string())
            // hccl_types.h is C++; one language for all.
            .clang_args(["-x", "c++", "-std=c++17"])
            .clang_arg(format!("-I{}", include.display()))
            .dynamic_library_name(library.name)
            .dynamic_link_require_all(false)
            .default_enum_style(bindgen::EnumVariation::NewType { is_bitfield: false, is_global: false })
            .generate_comments(false)
            .layout_tests(true)
            .prepend_enum_name(false)
            .disable_header_comment()
            .raw_line("//! Generated from the vendor's headers by build.rs; do not edit. See docs/ascend.md.")
            .raw_line(library.imports);
        for name in library.functions.iter().chain(library.others) {
            builder = builder.allowlist_item(format!("^{name}$"));
        }
        for name in library.foreign {
            builder = builder.blocklist_item(format!("^{name}$"));
        }
        let bindings = builder.generate().expect("the vendor's headers parse");
        bindings.write_to_file(out.join(library.file)).expect("OUT_DIR is writable");
    }
}
