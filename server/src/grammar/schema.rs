//! What a JSON schema says about one parameter: whether its value is raw text or JSON in DeepSeek's
//! markup, and what text may be.

use serde_json::{Map, Value};

use super::lark::literal;
use crate::limits::{ENUM_MAX, REFERENCES_MAX};

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As raw text: a string.
    Text,
    /// As JSON: anything but a string.
    Json,
    /// It may be a string or not.
    Either,
}

/// The named properties of an object schema, in their order, and which must be there. `None` where
/// anything may stand: no schema, no properties, or patterns of names.
pub fn properties(root: &Value) -> Option<(&Map<String, Value>, Vec<&String>)> {
    let schema = resolve(root, root)?;
    if schema.get("patternProperties").is_some() {
        return None;
    }
    let empty = schema.get("additionalProperties") == Some(&Value::Bool(false));
    let properties = schema.get("properties").and_then(Value::as_object);
    let properties = properties.filter(|properties| empty || !properties.is_empty())?;
    let required: Vec<&str> = match schema.get("required") {
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let required = properties.keys().filter(|key| required.contains(&key.as_str())).collect();
    Some((properties, required))
}

/// Follows `$ref`s into `root`.
fn resolve<'a>(schema: &'a Value, root: &'a Value) -> Option<&'a Value> {
    let mut schema = schema;
    for _ in 0..REFERENCES_MAX {
        let Some(reference) = schema.get("$ref").and_then(Value::as_str) else {
            return Some(schema);
        };
        schema = root.pointer(reference.strip_prefix('#')?)?;
    }
    None
}

/// How values of `schema` are written.
pub fn kind(schema: &Value, root: &Value) -> Kind {
    kind_within(schema, root, REFERENCES_MAX)
}

fn kind_within(schema: &Value, root: &Value, depth: usize) -> Kind {
    let Some(schema) = resolve(schema, root).filter(|_| depth > 0) else { return Kind::Either };
    if let Some(value) = schema.get("const") {
        return of_values(std::iter::once(value));
    }
    if let Some(Value::Array(values)) = schema.get("enum") {
        return of_values(values.iter());
    }
    match schema.get("type") {
        Some(Value::String(name)) if name == "string" => return Kind::Text,
        Some(Value::String(_)) => return Kind::Json,
        Some(Value::Array(names)) if !names.is_empty() => return of_names(names),
        _ => {}
    }
    for key in ["anyOf", "oneOf"] {
        if let Some(Value::Array(ways)) = schema.get(key) {
            let kinds = ways.iter().map(|way| kind_within(way, root, depth - 1));
            return merge(kinds);
        }
    }
    let object = ["properties", "items", "additionalProperties", "minimum", "maximum"];
    if object.iter().any(|key| schema.get(key).is_some()) { Kind::Json } else { Kind::Either }
}

fn of_values<'a>(values: impl Iterator<Item = &'a Value>) -> Kind {
    merge(values.map(|value| if value.is_string() { Kind::Text } else { Kind::Json }))
}

fn of_names(names: &[Value]) -> Kind {
    merge(names.iter().map(
        |name| {
            if name.as_str() == Some("string") { Kind::Text } else { Kind::Json }
        },
    ))
}

fn merge(mut kinds: impl Iterator<Item = Kind>) -> Kind {
    let Some(first) = kinds.next() else { return Kind::Either };
    if kinds.all(|kind| kind == first) { first } else { Kind::Either }
}

/// What of the grammar stands for raw text of `schema` and the `</` after it.
///
/// # Errors
/// A message, if the schema is strict and says what cannot be followed.
pub fn text(schema: &Value, root: &Value, strict: bool) -> Result<String, String> {
    let Some(schema) = resolve(schema, root) else { return Ok("TEXT".to_owned()) };
    let values: Vec<&str> = match (schema.get("const"), schema.get("enum")) {
        (Some(value), _) => value.as_str().into_iter().collect(),
        (None, Some(Value::Array(values))) => values.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if !values.is_empty() && values.len() <= ENUM_MAX {
        let ways: Vec<String> = values.iter().map(|value| literal(&format!("{value}</"))).collect();
        return Ok(format!("({})", ways.join(" | ")));
    }
    if !strict {
        return Ok("TEXT".to_owned());
    }
    if !values.is_empty() {
        return Err(format!("an enum has more than {ENUM_MAX} values"));
    }
    let length = |key: &str| schema.get(key).and_then(Value::as_u64);
    let mut parts = Vec::new();
    if let (Some(_), _) | (_, Some(_)) = (length("minLength"), length("maxLength")) {
        let least = length("minLength").unwrap_or(0);
        let most = length("maxLength").map(|most| most.to_string()).unwrap_or_default();
        parts.push(format!("/(?s:.){{{least},{most}}}<\\//"));
    }
    if let Some(pattern) = schema.get("pattern").and_then(Value::as_str) {
        parts.push(pattern_of(pattern));
    }
    Ok(match parts.as_slice() {
        [] => "TEXT".to_owned(),
        parts => format!("({})", parts.join(" & ")),
    })
}

/// A schema's pattern, which may match anywhere, as a whole text and its `</`.
fn pattern_of(pattern: &str) -> String {
    let (start, inner) = match pattern.strip_prefix('^') {
        Some(inner) => ("", inner),
        None => ("(?s:.*)", pattern),
    };
    let anchored = inner.ends_with('$') && !inner.ends_with("\\$");
    let (inner, end) = if anchored { (&inner[..inner.len() - 1], "") } else { (inner, "(?s:.*)") };
    let inner = llguidance::regex_to_lark(inner, "");
    format!("/{start}(?:{inner}){end}<\\//")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_text_json_or_either() {
        let root = json!({"$defs": {"s": {"type": "string"}, "loop": {"$ref": "#/$defs/loop"}}});
        for (schema, want) in [
            (json!({"type": "string"}), Kind::Text),
            (json!({"type": "integer"}), Kind::Json),
            (json!({"type": ["string", "null"]}), Kind::Either),
            (json!({"enum": ["a", "b"]}), Kind::Text),
            (json!({"enum": ["a", 1]}), Kind::Either),
            (json!({"const": 3}), Kind::Json),
            (json!({"$ref": "#/$defs/s"}), Kind::Text),
            (json!({"$ref": "#/$defs/loop"}), Kind::Either),
            (json!({"anyOf": [{"type": "string"}, {"type": "string"}]}), Kind::Text),
            (json!({"anyOf": [{"type": "string"}, {"type": "object"}]}), Kind::Either),
            (json!({"properties": {}}), Kind::Json),
            (json!({}), Kind::Either),
        ] {
            assert_eq!(kind(&schema, &root), want, "{schema}");
        }
    }
}
