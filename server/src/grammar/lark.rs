//! Grammars as text: the block of calls in DeepSeek's markup with each tool's parameters, and documents
//! of JSON.
//!
//! The form is the one the encoder writes (`engine::text::chat`), JSON in it with Python's separators: so
//! a call that comes back in the next request is rendered to the very tokens that were drawn, and the
//! prefix cache hits. Parameters stand in the order of the schema, each at most once.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::schema::{self, Kind};
use super::{Tool, expand};
use crate::limits::{SCHEMA_BYTES_MAX, SCHEMA_NODES_MAX};

/// Where a grammar begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// After the `<` and the marker of a block of calls.
    AfterMarker,
    /// At the start of the content, which is a block of calls.
    Calls,
    /// At the start of the content, which is a document.
    Document,
    /// At the start of the content, which is either.
    DocumentOrCalls,
}

/// What a grammar describes.
#[derive(Debug)]
pub struct Plan<'a> {
    /// Tools that may be called.
    pub tools: Vec<&'a Tool>,
    /// Schema of a document.
    pub document: Option<&'a Value>,
    /// Whether more than one call may stand in a block.
    pub many: bool,
    /// Where it begins.
    pub opening: Opening,
    /// The token in every tag.
    pub marker: u32,
}

/// Which schemas a grammar follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obey {
    /// Every one, as well as the library can.
    All,
    /// Those of strict tools and of the document.
    Strict,
}

/// The text of a grammar.
///
/// # Errors
/// A message, if the schemas are too long or a strict one is of a kind that cannot be followed.
pub fn write(plan: &Plan<'_>, obey: Obey) -> Result<String, String> {
    let mut out = Writer {
        text: String::new(),
        marker: format!("<[{}]>", plan.marker),
        obey,
        bytes: 0,
        nodes: 0,
    };
    let start = match plan.opening {
        Opening::AfterMarker => "block",
        Opening::Calls => "calls",
        Opening::Document => "document",
        Opening::DocumentOrCalls => "document | calls",
    };
    out.line(&format!("start: {start}"));
    if let Some(schema) = plan.document {
        let options = json!({"whitespace_flexible": true, "whitespace_pattern": "[ \\n]{0,8}"});
        let document = out.json(schema, schema, options)?;
        out.line(&format!("document: {document}"));
    }
    if !plan.tools.is_empty() {
        let marker = out.marker.clone();
        let many = if plan.many { "call+" } else { "call" };
        out.line(&format!("calls: \"\\n\\n<\" {marker} block"));
        out.line(&format!("block: \"tool_calls>\\n\" {many} \"</\" {marker} \"tool_calls>\""));
        let names: Vec<String> = (0..plan.tools.len()).map(|at| format!("tool_{at}")).collect();
        out.line(&format!(
            "call: \"<\" {marker} ({}) \"</\" {marker} \"invoke>\\n\"",
            names.join(" | ")
        ));
        for (at, tool) in plan.tools.iter().enumerate() {
            out.tool(at, tool)?;
        }
        out.line("TEXT: /(?s:.*)<\\//");
    }
    Ok(out.text)
}

struct Writer {
    text: String,
    marker: String,
    obey: Obey,
    /// Bytes of schemas so far.
    bytes: usize,
    /// Nodes they are multiplied out to.
    nodes: u64,
}

impl Writer {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn tool(&mut self, at: usize, tool: &Tool) -> Result<(), String> {
        let header = literal(&format!("invoke name=\"{}\">\n", tool.name));
        let root = tool.parameters.as_ref();
        let known = root.and_then(schema::properties);
        let follow = tool.strict || self.obey == Obey::All;
        match known {
            Some((properties, required)) => {
                self.line(&format!("tool_{at}: {header} t{at}_n0"));
                let root = root.expect("properties are a schema's");
                for (place, (key, value)) in properties.iter().enumerate() {
                    let parameter = self.parameter(key, value, root, tool.strict, follow)?;
                    self.line(&format!("t{at}_p{place}: {parameter}"));
                    let next = place + 1;
                    let present = format!("t{at}_p{place} t{at}_y{next}");
                    let skips = !required.contains(&key);
                    let (none, some) = if skips {
                        (format!(" | t{at}_n{next}"), format!(" | t{at}_y{next}"))
                    } else {
                        (String::new(), String::new())
                    };
                    self.line(&format!("t{at}_n{place}: {present}{none}"));
                    if place > 0 {
                        self.line(&format!("t{at}_y{place}: {present}{some}"));
                    }
                }
                let last = properties.len();
                self.line(&format!("t{at}_n{last}: \"\\n\""));
                if last > 0 {
                    self.line(&format!("t{at}_y{last}: \"\""));
                }
            }
            None if tool.strict => {
                return Err(format!(
                    "parameters of {} must be an object with properties",
                    tool.name
                ));
            }
            None => {
                let marker = self.marker.clone();
                let any = self.any();
                self.line(&format!("tool_{at}: {header} (\"\\n\" | t{at}_free+)"));
                self.line(&format!(
                    "t{at}_free: \"<\" {marker} \"parameter name=\\\"\" /[A-Za-z0-9_.$-]{{1,64}}/ {any}"
                ));
            }
        }
        Ok(())
    }

    /// A parameter from its `<` to the line break after it.
    fn parameter(
        &mut self,
        key: &str,
        value: &Value,
        root: &Value,
        strict: bool,
        follow: bool,
    ) -> Result<String, String> {
        let marker = self.marker.clone();
        let open = literal(&format!("parameter name=\"{key}"));
        if !follow {
            let any = self.any();
            return Ok(format!("\"<\" {marker} {open} {any}"));
        }
        let mut ways = Vec::new();
        let kind = schema::kind(value, root);
        if matches!(kind, Kind::Text | Kind::Either) && !(strict && kind == Kind::Either) {
            let text = schema::text(value, root, strict)?;
            ways.push(format!("\"\\\" string=\\\"true\\\">\" {text}"));
        }
        if matches!(kind, Kind::Json | Kind::Either) {
            let mut options = json!({
                "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": ",
            });
            if !strict {
                options["lenient"] = true.into();
            }
            let document = self.json(value, root, options)?;
            ways.push(format!("\"\\\" string=\\\"false\\\">\" {document} \"</\""));
        }
        Ok(format!("\"<\" {marker} {open} ({}) {marker} \"parameter>\\n\"", ways.join(" | ")))
    }

    /// The rest of a parameter of any value, after its name.
    fn any(&self) -> String {
        let marker = &self.marker;
        let json = r#"%json {"x-guidance": {"whitespace_flexible": false, "item_separator": ", ", "key_separator": ": "}}"#;
        format!(
            "(\"\\\" string=\\\"true\\\">\" TEXT | \"\\\" string=\\\"false\\\">\" {json} \"</\") \
             {marker} \"parameter>\\n\""
        )
    }

    /// A value of `schema`, whose references lead into `root`.
    fn json(&mut self, schema: &Value, root: &Value, options: Value) -> Result<String, String> {
        let mut object = match schema {
            Value::Object(object) => object.clone(),
            Value::Bool(true) => Map::new(),
            _ => return Err("a schema must be an object".to_owned()),
        };
        for key in ["$defs", "definitions"] {
            if let Some(definitions) = root.get(key) {
                object.entry(key).or_insert_with(|| definitions.clone());
            }
        }
        self.nodes = self.nodes.saturating_add(expand::nodes(schema, root));
        if self.nodes > SCHEMA_NODES_MAX {
            return Err(format!(
                "alternatives that are combined come to more than {SCHEMA_NODES_MAX} nodes"
            ));
        }
        object.insert("x-guidance".to_owned(), options);
        let mut text = String::new();
        write!(text, "%json {}", Value::Object(object)).expect("strings take everything");
        self.bytes += text.len();
        if self.bytes > SCHEMA_BYTES_MAX {
            return Err(format!("the schemas have more than {SCHEMA_BYTES_MAX} bytes"));
        }
        Ok(text)
    }
}

/// A string of the grammar that stands for exactly `text`.
pub fn literal(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}
