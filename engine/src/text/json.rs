//! JSON as Python's `json.dumps(value, ensure_ascii=False)` writes it: `", "` and `": "`, keys in
//! their order, floats by `repr`. The model was trained on that form, so tool schemas are rendered
//! in it.
//!
//! One difference remains: an integer outside 64 bits was already read as a float by `serde_json`.

use std::io;

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::Formatter;

/// `value` in Python's form.
pub fn python_json(value: &Value) -> String {
    let mut out = Vec::new();
    let mut writer = serde_json::Serializer::with_formatter(&mut out, Python);
    value.serialize(&mut writer).expect("a JSON value is always writable to memory");
    String::from_utf8(out).expect("serde_json writes UTF-8")
}

/// Appends `text` escaped as the inside of a JSON string. Works on pieces: the escapes of a text
/// are the escapes of its pieces.
pub(super) fn escape_into(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
}

struct Python;

impl Formatter for Python {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(python_float(value).as_bytes())
    }
}

/// Python's `repr` of a finite float: shortest digits, an exponent below 1e-4 and from 1e16 on.
fn python_float(value: f64) -> String {
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').expect("{:e} writes an exponent");
    let exponent: i32 = exponent.parse().expect("{:e} writes a decimal exponent");
    if (-4..16).contains(&exponent) {
        let plain = format!("{value}");
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_as_python_writes_them() {
        for (text, want) in [
            ("1e5", "100000.0"),
            ("1.0", "1.0"),
            ("2.50", "2.5"),
            ("1e15", "1000000000000000.0"),
            ("1e16", "1e+16"),
            ("1.5e300", "1.5e+300"),
            ("0.0001", "0.0001"),
            ("0.00001", "1e-05"),
            ("1.25e-7", "1.25e-07"),
            ("-0.0", "-0.0"),
            ("-9007199254740991", "-9007199254740991"),
            ("18446744073709551615", "18446744073709551615"),
        ] {
            let value: Value = serde_json::from_str(text).unwrap();
            assert_eq!(python_json(&value), want, "{text}");
        }
    }

    #[test]
    fn separators_order_and_escapes_are_pythons() {
        let value: Value = serde_json::from_str(
            "{\"z\":[1,\"二\",{}],\"a\":\"\\u001f\\u007f\\/\\\"\\n\",\"e\":[]}",
        )
        .unwrap();
        let want = "{\"z\": [1, \"二\", {}], \"a\": \"\\u001f\u{7f}/\\\"\\n\", \"e\": []}";
        assert_eq!(python_json(&value), want);
        let text = "a\"\\\u{8}\u{c}\n\r\t\u{1}é";
        let mut escaped = String::new();
        escape_into(text, &mut escaped);
        assert_eq!(format!("\"{escaped}\""), python_json(&Value::from(text)));
    }
}
