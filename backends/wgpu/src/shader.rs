//! Shader texts: the sections of `kernels/**.wgsl` that a launch needs, in its variant.
//!
//! Four kinds of lines are ours in those files, the rest is WGSL:
//!
//! ```text
//! //# section NAME      what follows, to the next section, is NAME
//! //# use NAME          at the top of a section: NAME belongs to it
//! //# if FLAG           kept where the launch has the flag (`!FLAG`: where not); //# else · //# end
//! //# each              in the sections of memory: repeated for every window, to //# end
//! ```
//!
//! In front go the constants, the uniform block `p` with the launch's numbers, and two sections of
//! `operand.wgsl` per operand: its memory and its elements.

use std::fmt::Write;

use crate::launch::{Launch, Number, Operand, Storage, Use};

const COMMON: &str = include_str!("../../../kernels/common/common.wgsl");
const OPERAND: &str = include_str!("../../../kernels/common/operand.wgsl");

/// The families' files.
const FAMILIES: [(&str, &str); 7] = [
    ("attend", include_str!("../../../kernels/attend/attend.wgsl")),
    ("gemm", include_str!("../../../kernels/gemm/gemm.wgsl")),
    ("index", include_str!("../../../kernels/index/index.wgsl")),
    ("moe", include_str!("../../../kernels/moe/moe.wgsl")),
    ("quant", include_str!("../../../kernels/quant/quant.wgsl")),
    ("rows", include_str!("../../../kernels/rows/rows.wgsl")),
    ("stream", include_str!("../../../kernels/stream/stream.wgsl")),
];

/// The whole text of a launch's shader.
///
/// # Panics
/// If a file lacks a section or an end: they are part of this program, and a test reads them all.
pub(crate) fn text(launch: &Launch) -> String {
    let mut out = String::new();
    for (name, value) in &launch.constants {
        let _ = writeln!(out, "const {name}: u32 = {value}u;");
    }
    out.push_str("struct Numbers {\n");
    for (name, number) in &launch.numbers {
        let kind = match number {
            Number::Whole(_) => "u32",
            Number::Real(_) => "f32",
        };
        let _ = writeln!(out, "    {name}: {kind},");
    }
    out.push_str("}\n@group(0) @binding(0) var<uniform> p: Numbers;\n");
    let mut binding = 1;
    for operand in &launch.operands {
        let windows = operand.windows().len();
        let mut text = memory(operand, binding, windows);
        text.extend(elements(operand).map(|name| section(OPERAND, name)));
        out.push_str(&chosen(&text.replace("OPERAND", operand.name), &launch.flags));
        binding += windows;
    }
    out.push_str(COMMON);
    let family = FAMILIES.iter().find(|(name, _)| *name == launch.family);
    let (_, file) = family.expect("every family of a launch has a file");
    let own = section(file, launch.kernel);
    for line in own.lines() {
        if let Some(name) = line.strip_prefix("//# use ") {
            out.push_str(&chosen(section(file, name), &launch.flags));
        }
    }
    out.push_str(&chosen(own, &launch.flags));
    out
}

/// How an operand's words are reached, from its first binding on.
fn memory(operand: &Operand, binding: usize, windows: usize) -> String {
    let name = match (operand.window_bytes.is_some(), operand.shared()) {
        (false, false) => "memory",
        (false, true) => "memory_shared",
        (true, false) => "memory_wide",
        (true, true) => "memory_wide_shared",
    };
    repeated(section(OPERAND, name), binding, windows).replace("BINDING", &binding.to_string())
}

/// The section for an operand's elements, if it is not left to the kernel.
fn elements(operand: &Operand) -> Option<&'static str> {
    match (operand.usage, operand.storage) {
        (Use::Read, Storage::Word) => Some("read_word"),
        (Use::Read, Storage::Half { .. }) => Some("read_half"),
        (Use::Read, Storage::Byte) => Some("read_byte"),
        (Use::Read, Storage::Fp8Rows { .. }) => Some("read_fp8_rows"),
        (Use::Read, Storage::Fp4Rows { .. }) => Some("read_fp4_rows"),
        (Use::Write, Storage::Word) => Some("write_word"),
        (Use::Write, Storage::Half { .. }) => Some("write_half"),
        (Use::Write, Storage::Byte) => Some("write_byte"),
        (_, Storage::Raw) => None,
        (Use::Write, Storage::Fp8Rows { .. } | Storage::Fp4Rows { .. }) => {
            unreachable!("coded rows are written as words")
        }
    }
}

/// The text with what is between `each` and `end` once per window.
fn repeated(text: &str, binding: usize, windows: usize) -> String {
    let mut parts = text.split("//# each\n");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (each, rest) = part.split_once("//# end\n").expect("an each has its end");
        for window in 0..windows {
            let each = each.replace("WINDOW", &window.to_string());
            out.push_str(&each.replace("BINDING", &(binding + window).to_string()));
        }
        out.push_str(rest);
    }
    out
}

/// The text of a section, without its heading.
fn section<'a>(file: &'a str, name: &str) -> &'a str {
    let heading = format!("//# section {name}\n");
    let begin = file.find(&heading).unwrap_or_else(|| panic!("no section {name}"));
    let text = &file[begin + heading.len()..];
    text.find("//# section ").map_or(text, |end| &text[..end])
}

/// The lines that the flags keep.
fn chosen(text: &str, flags: &[String]) -> String {
    let mut out = String::new();
    // For each open condition: whether its lines are kept.
    let mut kept = vec![true];
    for line in text.lines() {
        let on = kept.iter().all(|&on| on);
        match line.strip_prefix("//# ") {
            Some(command) => match command.split_once(' ') {
                Some(("if", flag)) => {
                    let (name, want) =
                        flag.strip_prefix('!').map_or((flag, true), |name| (name, false));
                    kept.push(flags.iter().any(|flag| flag == name) == want);
                }
                Some(("use", _)) => {}
                _ if command == "else" => {
                    let last = kept.last_mut().expect("an else has its if");
                    *last = !*last;
                }
                _ if command == "end" => {
                    kept.pop();
                    assert!(!kept.is_empty(), "an end has its if");
                }
                _ => panic!("{line:?} is no command"),
            },
            None if on => {
                out.push_str(line);
                out.push('\n');
            }
            None => {}
        }
    }
    assert_eq!(kept.len(), 1, "an if has its end");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_choose_lines_and_nest() {
        let text = "a\n//# if X\nb\n//# if !Y\nc\n//# else\nd\n//# end\n//# else\ne\n//# end\nf\n";
        for (flags, want) in
            [(vec![], "a e f"), (vec!["X"], "a b c f"), (vec!["X", "Y"], "a b d f")]
        {
            let flags: Vec<String> = flags.into_iter().map(String::from).collect();
            let got: Vec<String> = chosen(text, &flags).lines().map(String::from).collect();
            assert_eq!(got.join(" "), want);
        }
    }

    #[test]
    fn what_is_between_each_and_end_comes_once_per_window() {
        let text = "a\n//# each\nBINDING WINDOW\n//# end\nb\n//# each\nWINDOW\n//# end\n";
        assert_eq!(repeated(text, 3, 2), "a\n3 0\n4 1\nb\n0\n1\n");
        assert_eq!(repeated("a\n", 3, 2), "a\n");
    }

    #[test]
    #[should_panic(expected = "an if has its end")]
    fn an_open_condition_is_a_fault() {
        chosen("//# if X\n", &[]);
    }

    #[test]
    fn sections_end_where_the_next_begins() {
        let file = "top\n//# section a\n1\n//# section ab\n2\n";
        assert_eq!((section(file, "a"), section(file, "ab")), ("1\n", "2\n"));
    }
}
