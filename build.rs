//! Stamps the binary with its commit and features, and lists the demo model's evaluation sets.
//!
//! Works without git and outside a repository: the commit is then "unknown". It refuses to take the
//! commit of a foreign repository that merely contains this folder.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-env=HADAL_COMMIT={}", commit(&root));
    println!("cargo::rustc-env=HADAL_FEATURES={}", features());
    println!("cargo::rustc-env=HADAL_TARGET={}", env::var("TARGET").expect("cargo sets it"));
    fs::write(out.join("eval_sets.rs"), eval_sets(&root)).expect("OUT_DIR is writable");
}

/// Short commit of this repository, or "unknown".
fn commit(root: &Path) -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").current_dir(root).args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let top = git(&["rev-parse", "--show-toplevel"]).and_then(|top| fs::canonicalize(top).ok());
    if top.is_none() || top != fs::canonicalize(root).ok() {
        return "unknown".into();
    }
    // The log of HEAD grows with every commit; HEAD itself does not.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={}", root.join(log).display());
    }
    git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".into())
}

/// Cargo features that are on, by name.
fn features() -> String {
    let names = env::vars().filter_map(|(key, _)| {
        let name = key.strip_prefix("CARGO_FEATURE_")?.to_lowercase().replace('_', "-");
        (name != "default").then_some(name)
    });
    let mut names: Vec<String> = names.collect();
    names.sort_unstable();
    names.join(",")
}

/// Source of a slice of (file name, bytes), in order of names.
fn eval_sets(root: &Path) -> String {
    let folder = root.join("models/demo/eval");
    println!("cargo::rerun-if-changed={}", folder.display());
    let entries = fs::read_dir(&folder).expect("models/demo/eval is in the repository");
    let mut sets: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
        .collect();
    sets.sort_unstable();
    let mut source = String::from("&[\n");
    for path in sets {
        let name = path.file_stem().expect("a file with an extension").to_string_lossy();
        writeln!(source, "    ({name:?}, include_bytes!({path:?})),").expect("memory");
    }
    source + "]\n"
}
