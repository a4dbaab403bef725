//! House rules that a program can check. Each is a function from a file to its breaches, run over the
//! whole tree, and each is shown a seeded breach to prove that it can fail.
//!
//! Not here: what rustfmt, rustc's and clippy's lints say already.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Longest function, in lines, signature and closing brace included.
const FUNCTION_LINES_MAX: usize = 70;
/// Longest file of Rust, in lines.
const FILE_LINES_MAX: usize = 800;
/// Longest line of Rust, in characters: rustfmt holds code to 100, prose may run a little over.
const LINE_CHARS_MAX: usize = 120;

/// Where `unsafe` may stand: SIMD kernels, devices, mapped files, an allocator that counts, and the
/// simulator of a vendor's C interface.
const UNSAFE_PLACES: [&str; 5] =
    ["kernels/", "backends/", "mmap/", "tests/decode_alloc.rs", "tests/acl-sim/"];
/// Files that programs write: their functions are as long as they come.
const GENERATED: [&str; 3] = [
    "backends/ascend/src/sys/acl.rs",
    "backends/ascend/src/sys/nnopbase.rs",
    "backends/ascend/src/sys/hccl.rs",
];
/// Words that name a backend or its maker. The engine and the server know none.
const BACKEND_WORDS: [&str; 10] =
    ["cuda", "ascend", "cann", "wgpu", "npu", "vulkan", "metal", "nvidia", "nvrtc", "backend_cpu"];
/// What each of our crates may depend on, of our crates. The root package is free.
const DIRECTIONS: [(&str, &[&str]); 12] = [
    ("hal", &[]),
    ("mmap", &[]),
    ("kernels", &["hal"]),
    ("hal/conformance", &["hal", "kernels"]),
    ("engine", &["hal", "mmap"]),
    ("server", &["hal", "engine"]),
    ("backends/null", &["hal", "kernels", "conformance"]),
    ("backends/cpu", &["hal", "kernels", "conformance"]),
    ("backends/cuda", &["hal", "kernels", "conformance"]),
    ("backends/ascend", &["hal", "kernels", "conformance", "acl-sim"]),
    // It simulates what the backend calls: signatures come from there, numerics from the oracles.
    ("tests/acl-sim", &["backend-ascend", "kernels"]),
    ("backends/wgpu", &["hal", "kernels", "conformance"]),
];

/// A text file of the tree.
struct Source {
    /// Path from the root, with slashes.
    path: String,
    text: String,
    /// The text of Rust without comments and what stands in quotes; lines stay lines.
    code: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let code = if path.ends_with(".rs") { strip(text) } else { text.to_owned() };
        Self { path: path.to_owned(), text: text.to_owned(), code }
    }

    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    fn within(&self, folders: &[&str]) -> bool {
        folders.iter().any(|folder| self.path.starts_with(folder))
    }
}

/// A rule: what is wrong with a file, a line each.
type Rule = fn(&Source) -> Vec<String>;

/// Rules with a file that breaks each.
const RULES: [(&str, Rule, (&str, &str)); 12] = [
    ("a file says what it is for", header, ("hal/src/x.rs", "fn x() {}\n")),
    ("lines and files are short", lengths, ("hal/src/x.rs", LONG_LINE)),
    ("functions fit on a screen", functions, ("hal/src/x.rs", LONG_FUNCTION)),
    ("unsafe stays in its folders", unsafe_place, ("engine/src/x.rs", "fn x() { unsafe { y() } }")),
    ("unsafe is argued", unsafe_argued, ("kernels/x.rs", "fn x() {\n    unsafe { y() }\n}\n")),
    ("crates forbid unsafe", forbids, ("engine/src/lib.rs", "//! x\npub mod y;\n")),
    ("the engine names no backend", backend_words, ("engine/src/x.rs", "// as on CUDA\n")),
    ("no cfg of a backend", backend_cfg, ("hal/src/x.rs", "#[cfg(feature = \"cuda\")]\n")),
    ("dependencies point one way", directions, ("hal/Cargo.toml", BACKWARDS)),
    ("nothing unfinished", unfinished, ("hal/src/x.rs", "fn x() { todo!() }\n")),
    ("no machine's paths", machine_paths, ("docs/x.md", MACHINE_PATH)),
    ("the environment is read at the edge", environment, ("engine/src/x.rs", "env::var(\"X\")")),
];

const LONG_LINE: &str = "// aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\
    aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n";
const LONG_FUNCTION: &str = concat!(
    "fn x() {\n",
    "\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n",
    "\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n",
    "\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n",
    "\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n",
    "}\n"
);
const BACKWARDS: &str = "[dependencies]\nengine.workspace = true\n";
const MACHINE_PATH: &str = concat!("see /wo", "rk/main\n");

fn header(source: &Source) -> Vec<String> {
    let wrong = source.is_rust() && !source.text.starts_with("//! ");
    wrong.then(|| "does not start with `//!`".to_owned()).into_iter().collect()
}

fn lengths(source: &Source) -> Vec<String> {
    if !source.is_rust() {
        return Vec::new();
    }
    let mut found = Vec::new();
    let lines = source.text.lines().count();
    if lines > FILE_LINES_MAX {
        found.push(format!("{lines} lines, more than {FILE_LINES_MAX}"));
    }
    for (place, line) in source.text.lines().enumerate() {
        let count = line.chars().count();
        // A raw string holds somebody else's format, a table's row has no place to break.
        let whole = line.contains("r#\"") || line.trim_start().starts_with("//! |");
        if count > LINE_CHARS_MAX && !whole {
            found.push(format!("line {} has {count} characters", place + 1));
        }
    }
    found
}

/// Functions by their indentation, which rustfmt guarantees.
fn functions(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Option<(usize, String)> = None;
    if !source.is_rust() || source.within(&GENERATED) {
        return found;
    }
    for (place, line) in source.code.lines().enumerate() {
        let indent = &line[..line.len() - line.trim_start().len()];
        if words(line).any(|word| word == "fn") && !line.trim_end().ends_with(';') {
            open = Some((place, format!("{indent}}}")));
        }
        let Some((start, end)) = &open else { continue };
        if line.trim_end() == end || (place == *start && line.trim_end().ends_with('}')) {
            let count = place + 1 - start;
            if count > FUNCTION_LINES_MAX {
                found.push(format!("the function at line {} has {count} lines", start + 1));
            }
            open = None;
        }
    }
    found
}

fn unsafe_place(source: &Source) -> Vec<String> {
    if !source.is_rust() || source.within(&UNSAFE_PLACES) {
        return Vec::new();
    }
    lines_with(&source.code, |line| words(line).any(|word| word == "unsafe"))
}

/// Each unsafe block and impl has a `SAFETY:` in the comment above its statement.
fn unsafe_argued(source: &Source) -> Vec<String> {
    /// Lines a statement may have between the comment and the block.
    const REACH: usize = 6;
    if !source.is_rust() {
        return Vec::new();
    }
    let lines: Vec<&str> = source.text.lines().collect();
    let mut found = Vec::new();
    for (place, code) in source.code.lines().enumerate() {
        let opens = code.contains("unsafe {") || code.contains("unsafe impl");
        let above = &lines[place.saturating_sub(REACH)..(place + 1).min(lines.len())];
        if opens && !above.iter().any(|line| line.contains("SAFETY:")) {
            found.push(format!("unsafe without `// SAFETY:` at line {}", place + 1));
        }
    }
    found
}

fn forbids(source: &Source) -> Vec<String> {
    let roots = ["src/lib.rs", "src/main.rs"].iter().any(|root| source.path.ends_with(root));
    let wrong =
        roots && !source.within(&UNSAFE_PLACES) && !source.code.contains("#![forbid(unsafe_code)]");
    wrong.then(|| "lacks `#![forbid(unsafe_code)]`".to_owned()).into_iter().collect()
}

fn backend_words(source: &Source) -> Vec<String> {
    if !source.within(&["engine/", "server/"]) {
        return Vec::new();
    }
    lines_with(&source.text, |line| {
        words(&line.to_lowercase()).any(|word| BACKEND_WORDS.contains(&word))
    })
}

fn backend_cfg(source: &Source) -> Vec<String> {
    if !source.is_rust() || source.within(&["src/", "backends/"]) || source.path == "tests/tidy.rs"
    {
        return Vec::new();
    }
    lines_with(&source.text, |line| {
        let quoted = line.split('"').skip(1).step_by(2);
        line.contains("feature = ") && quoted.into_iter().any(|name| BACKEND_WORDS.contains(&name))
    })
}

fn directions(source: &Source) -> Vec<String> {
    let Some(folder) = source.path.strip_suffix("/Cargo.toml") else { return Vec::new() };
    let Some((_, allowed)) = DIRECTIONS.iter().find(|(name, _)| *name == folder) else {
        return match folder {
            _ if folder.starts_with("backends/") || folder == "fuzz" => Vec::new(),
            _ => vec!["is a crate whose direction is not listed in tests/tidy.rs".to_owned()],
        };
    };
    let ours = [
        "hal",
        "mmap",
        "kernels",
        "conformance",
        "engine",
        "server",
        "backend-null",
        "backend-cpu",
        "backend-cuda",
        "backend-ascend",
        "acl-sim",
        "backend-wgpu",
    ];
    let mut dependencies = false;
    let mut found = Vec::new();
    for line in source.text.lines() {
        if line.starts_with('[') {
            // What tests use is no direction of the product.
            dependencies = line == "[dependencies]" || line == "[build-dependencies]";
        }
        // The kit's binary may bring backends along; its library does not.
        if folder == "hal/conformance" && line.ends_with("optional = true }") {
            continue;
        }
        let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
        if dependencies && ours.contains(&name) && !allowed.contains(&name) {
            found.push(format!("depends on {name}"));
        }
    }
    found
}

fn unfinished(source: &Source) -> Vec<String> {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    let macros = ["todo!", "unimplemented!", "dbg!"];
    let mut found = lines_with(&source.text, |line| words(line).any(|word| marks.contains(&word)));
    if source.is_rust() {
        found
            .extend(lines_with(&source.code, |line| macros.iter().any(|name| line.contains(name))));
    }
    found
}

fn machine_paths(source: &Source) -> Vec<String> {
    let paths = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
        concat!("../sha", "red"),
        concat!("sha", "red/"),
    ];
    lines_with(&source.text, |line| paths.iter().any(|path| line.contains(path)))
}

/// Options come as arguments; only the command line, the registry (where vendors' libraries lie), build
/// scripts and tests look at the environment.
fn environment(source: &Source) -> Vec<String> {
    let library = source.is_rust()
        && !source.within(&[
            "src/cli/",
            "src/registry.rs",
            "tests/",
            "build.rs",
            "fuzz/",
            "benches/",
        ])
        && !source.path.ends_with("/build.rs")
        && !source.path.contains("/tests/")
        && !source.path.contains("/bin/")
        && !source.path.ends_with("tests.rs");
    if !library {
        return Vec::new();
    }
    let product = source.code.split("#[cfg(test)]").next().unwrap_or_default();
    lines_with(product, |line| line.contains("env::var"))
}

/// Lines that match, as breaches.
fn lines_with(text: &str, matches: impl Fn(&str) -> bool) -> Vec<String> {
    let numbered = text.lines().enumerate().filter(|(_, line)| matches(line));
    numbered.map(|(place, line)| format!("line {}: {}", place + 1, line.trim())).collect()
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// Rust without comments and without the insides of strings and characters.
fn strip(text: &str) -> String {
    let bytes: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = match (bytes[at], bytes.get(at + 1)) {
            ('/', Some('/')) => find(&bytes, at, &['\n']),
            ('/', Some('*')) => find(&bytes, at + 2, &['*', '/']) + 2,
            ('"', _) => quoted(&bytes, at),
            ('r', Some('"' | '#')) if !after_word(&bytes, at) => raw(&bytes, at),
            ('\'', Some('\\')) => find(&bytes, at + 3, &['\'']) + 1,
            ('\'', Some(_)) if bytes.get(at + 2) == Some(&'\'') => at + 3,
            _ => {
                out.push(bytes[at]);
                at += 1;
                continue;
            }
        };
        let end = end.min(bytes.len());
        out.extend(bytes[at..end].iter().filter(|&&c| c == '\n'));
        at = end;
    }
    out
}

fn after_word(text: &[char], at: usize) -> bool {
    at > 0 && (text[at - 1].is_alphanumeric() || text[at - 1] == '_')
}

fn find(text: &[char], from: usize, what: &[char]) -> usize {
    let from = from.min(text.len());
    let place = text[from..].windows(what.len()).position(|window| window == what);
    place.map_or(text.len(), |place| from + place)
}

/// End of the string literal that opens at `at`.
fn quoted(text: &[char], at: usize) -> usize {
    let mut end = at + 1;
    while end < text.len() && text[end] != '"' {
        end += if text[end] == '\\' { 2 } else { 1 };
    }
    end + 1
}

/// End of the raw string literal at `at`, or of the `r` if it is none (`r#name`).
fn raw(text: &[char], at: usize) -> usize {
    let hashes = text[at + 1..].iter().take_while(|&&c| c == '#').count();
    if text.get(at + 1 + hashes) != Some(&'"') {
        return at + 1;
    }
    let mut close = vec!['"'];
    close.extend(std::iter::repeat_n('#', hashes));
    find(text, at + 2 + hashes, &close) + close.len()
}

/// Every text file of the tree, without what builds and tools leave behind.
fn tree() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder") {
            let path = entry.expect("a readable folder").path();
            let name = path.file_name().expect("an entry").to_string_lossy().into_owned();
            if path.is_dir() {
                let skipped = matches!(
                    name.as_str(),
                    ".git" | "target" | "__pycache__" | ".venv" | "corpus" | "artifacts"
                );
                if !skipped && !path.is_symlink() {
                    folders.push(path);
                }
            } else if name != ".git"
                && let Some(text) = text_of(&path)
            {
                let path = path.strip_prefix(root).expect("below").to_string_lossy().into_owned();
                sources.push(Source::new(&path, &text));
            }
        }
    }
    assert!(sources.len() > 50, "only {} files were found", sources.len());
    sources
}

fn text_of(path: &Path) -> Option<String> {
    let data = ["safetensors", "jsonl", "lock", "bin", "pyc"];
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let text = !data.contains(&extension) && fs::metadata(path).ok()?.len() < 1 << 20;
    text.then(|| fs::read_to_string(path).ok()).flatten()
}

#[test]
fn every_rule_holds_everywhere() {
    let mut breaches = Vec::new();
    for source in tree() {
        for (name, rule, _) in RULES {
            let found = rule(&source).into_iter();
            breaches.extend(found.map(|what| format!("{}: {name}: {what}", source.path)));
        }
    }
    assert!(breaches.is_empty(), "{} breaches:\n{}", breaches.len(), breaches.join("\n"));
}

#[test]
fn every_rule_can_fail() {
    for (name, rule, (path, text)) in RULES {
        assert!(!rule(&Source::new(path, text)).is_empty(), "{name}");
    }
}

#[test]
fn comments_and_strings_are_not_code() {
    for (text, want) in [
        ("a // unsafe\nb", "a \nb"),
        ("a /* unsafe\n */ b", "a \n b"),
        ("x(\"un\\\"safe\", 'u', '\\n') // \"", "x(, , ) "),
        ("r#\"unsafe \" {\"# y", " y"),
        ("fn f<'a>(x: &'a str)", "fn f<'a>(x: &'a str)"),
        ("var\"x\"", "var"),
    ] {
        assert_eq!(strip(text), want, "{text}");
    }
}

#[test]
fn every_op_family_has_contract_oracle_and_cases() {
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let mut families = 0;
    for entry in fs::read_dir(&kernels).expect("kernels is there") {
        let folder: PathBuf = entry.expect("a readable folder").path();
        let name = folder.file_name().expect("an entry").to_string_lossy().into_owned();
        if !folder.is_dir() || matches!(name.as_str(), "common" | "case" | "benches") {
            continue;
        }
        families += 1;
        let contract = fs::read_to_string(folder.join("README.md"))
            .unwrap_or_else(|error| panic!("kernels/{name}/README.md: {error}"));
        for file in ["oracle.rs", "cases.rs"] {
            let there = folder.join(file).is_file()
                || folder.join(file.trim_end_matches(".rs")).join("mod.rs").is_file();
            // A family that is another one's in new clothes says whose oracle defines it.
            let lent = contract.contains(&format!("/{file}"));
            assert!(there || lent, "kernels/{name} lacks {file}");
        }
    }
    assert!(families > 0);
}

#[test]
fn the_project_has_its_papers() {
    let papers: BTreeMap<&str, &str> = BTreeMap::from([
        ("README.md", "    cargo test --release --workspace"),
        ("ARCHITECTURE.md", "## Invariants"),
        ("CHANGELOG.md", "## Unreleased"),
        ("CONTRIBUTING.md", ".ci/run"),
        ("LICENSE-MIT", "MIT License"),
        ("LICENSE-APACHE", "Apache License"),
        ("deny.toml", "[licenses]"),
        ("models/demo/MODEL_CARD.md", "Licence"),
    ]);
    for (name, phrase) in papers {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(text.contains(phrase), "{name} lacks \"{phrase}\"");
    }
}

/// Targets of a page's links into this tree.
fn links(page: &Source) -> Vec<&str> {
    let after = page.text.split("](").skip(1);
    let targets = after.filter_map(|rest| rest.split([')', '#']).next());
    targets.filter(|target| !target.is_empty() && !target.contains("://")).collect()
}

#[test]
fn links_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dead = Source::new("docs/x.md", "see [this](nowhere.md) and [that](https://a.b/c.md)");
    assert_eq!(links(&dead), ["nowhere.md"]);
    let mut count = 0;
    for page in tree().iter().filter(|source| source.path.ends_with(".md")) {
        let folder = root.join(&page.path).parent().expect("a file has a folder").to_owned();
        for target in links(page) {
            assert!(folder.join(target).exists(), "{} links to {target}", page.path);
            count += 1;
        }
    }
    assert!(count > 10, "only {count} links were found");
}

/// Tests that ARCHITECTURE.md names as guards must exist.
#[test]
fn every_invariant_names_a_test_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).expect("it is there");
    let section = text.split("## Invariants").nth(1).expect("the section is there");
    let section = section.split("\n## ").next().unwrap_or_default();
    let code: String = tree()
        .into_iter()
        .filter(Source::is_rust)
        .map(|source| source.code)
        .collect::<Vec<_>>()
        .join("\n");
    let mut named = 0;
    for name in section.split('`').skip(1).step_by(2).filter(|name| is_test_name(name)) {
        let name = name.rsplit("::").next().expect("a name");
        assert!(code.contains(&format!("fn {name}(")), "no test is called {name}");
        named += 1;
    }
    assert!(named > 0, "no invariant names a test");
}

fn is_test_name(name: &str) -> bool {
    let last = name.rsplit("::").next().unwrap_or_default();
    last.contains('_')
        && last.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}
