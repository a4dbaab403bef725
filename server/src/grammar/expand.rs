//! How large a schema becomes when its alternatives are multiplied out.
//!
//! The library intersects what stands beside `allOf`, `anyOf`, `oneOf` and `$ref` with copies of whole
//! schemas: a hundred kilobytes of text can ask for gigabytes. Here an upper estimate is counted first,
//! without a copy.

use std::collections::HashSet;

use serde_json::{Map, Value};

/// Nodes that are looked at before a schema is taken for too large.
const VISITS_MAX: u32 = 1 << 18;
/// Keywords that say nothing about a value.
const SILENT: [&str; 10] = [
    "$comment",
    "$defs",
    "$id",
    "$schema",
    "default",
    "definitions",
    "description",
    "examples",
    "title",
    "x-guidance",
];

/// A schema multiplied out: so many alternatives of so many nodes each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Size {
    ways: u64,
    unit: u64,
    /// Two of its kind may multiply within one alternative.
    multiplies: bool,
}

const ONE: Size = Size { ways: 1, unit: 1, multiplies: false };
const ENDLESS: Size = Size { ways: u64::MAX, unit: u64::MAX, multiplies: true };

impl Size {
    fn total(self) -> u64 {
        self.ways.saturating_mul(self.unit)
    }

    /// Both at once.
    fn and(self, other: Size) -> Size {
        let multiplies = self.multiplies || other.multiplies;
        let unit = match multiplies {
            true => self.unit.saturating_mul(other.unit),
            false => self.unit.saturating_add(other.unit),
        };
        Size { ways: self.ways.saturating_mul(other.ways), unit, multiplies }
    }

    /// One or the other.
    fn or(self, other: Size) -> Size {
        Size {
            ways: self.ways.saturating_add(other.ways),
            unit: self.unit.max(other.unit),
            multiplies: self.multiplies || other.multiplies,
        }
    }
}

/// Nodes of `schema`, whose references lead into `root`, once it is multiplied out; an upper estimate.
pub fn nodes(schema: &Value, root: &Value) -> u64 {
    Walk { root, visits: VISITS_MAX, path: HashSet::new() }.size(schema, false).total()
}

struct Walk<'a> {
    root: &'a Value,
    visits: u32,
    /// References that are being followed.
    path: HashSet<&'a str>,
}

impl<'a> Walk<'a> {
    /// `mixed` says that something stands beside it, so that references are replaced by copies.
    fn size(&mut self, schema: &'a Value, mixed: bool) -> Size {
        if self.visits == 0 {
            return ENDLESS;
        }
        self.visits -= 1;
        let Some(map) = schema.as_object() else { return ONE };
        let mixed = mixed || parts(map) > 1;
        let mut size = self.own(map, mixed);
        for key in ["anyOf", "oneOf"] {
            if let Some(Value::Array(ways)) = map.get(key) {
                let ways = ways.iter().map(|way| self.size(way, mixed));
                size = size.and(ways.reduce(Size::or).unwrap_or(ONE));
            }
        }
        if let Some(Value::Array(values)) = map.get("enum") {
            let values = values.iter().map(|value| Size { unit: count(value), ..ONE });
            size = size.and(values.reduce(Size::or).unwrap_or(ONE));
        }
        if let Some(Value::Array(all)) = map.get("allOf") {
            size = all.iter().fold(size, |size, part| size.and(self.size(part, mixed)));
        }
        match map.get("$ref") {
            Some(Value::String(reference)) if mixed => size.and(self.follow(reference)),
            _ => size,
        }
    }

    fn follow(&mut self, reference: &'a str) -> Size {
        let target = reference.strip_prefix('#').and_then(|place| self.root.pointer(place));
        let Some(target) = target.filter(|_| self.path.insert(reference)) else { return ONE };
        let size = self.size(target, true);
        self.path.remove(reference);
        size
    }

    /// What is said of members and items.
    fn own(&mut self, map: &'a Map<String, Value>, mixed: bool) -> Size {
        let mut own = Size { unit: 1 + map.get("const").map_or(0, count), ..ONE };
        let mut add = |size: Size| {
            own.unit = own.unit.saturating_add(size.total());
            own.multiplies |= size.ways > 1 || size.multiplies;
        };
        for key in ["properties", "patternProperties"] {
            if let Some(Value::Object(members)) = map.get(key) {
                members.values().for_each(|member| add(self.size(member, mixed)));
            }
        }
        for key in ["additionalProperties", "items"] {
            if let Some(rest @ Value::Object(_)) = map.get(key) {
                // It meets each member of another schema.
                add(Size { multiplies: true, ..self.size(rest, mixed) });
            }
        }
        if let Some(Value::Array(items)) = map.get("prefixItems") {
            items.iter().for_each(|item| add(self.size(item, mixed)));
        }
        own
    }
}

/// Parts of a schema that are intersected with each other.
fn parts(map: &Map<String, Value>) -> usize {
    let own = map.keys().any(|key| {
        let apart = ["anyOf", "oneOf", "allOf", "enum", "$ref"];
        !apart.contains(&key.as_str()) && !SILENT.contains(&key.as_str())
    });
    let all = map.get("allOf").and_then(Value::as_array).map_or(0, Vec::len);
    let others = ["anyOf", "oneOf", "enum", "$ref"].iter().filter(|key| map.contains_key(**key));
    usize::from(own) + all + others.count()
}

/// Values in a value.
fn count(value: &Value) -> u64 {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(map) => map.values().map(count).sum(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn many(count: usize, schema: &Value) -> Value {
        Value::Array(vec![schema.clone(); count])
    }

    fn members(count: usize) -> Value {
        let member = |at| (format!("p{at}"), json!({"type": "string"}));
        (0..count).map(member).collect::<Map<_, _>>().into()
    }

    #[test]
    fn usual_schemas_stay_as_they_are() {
        for (schema, most) in [
            (json!({"type": "object", "properties": members(100)}), 200),
            (json!({"anyOf": many(50, &json!({"properties": members(10)}))}), 1500),
            (json!({"allOf": many(5, &json!({"properties": members(20)}))}), 200),
            (
                json!({"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"properties": members(9)}},
                "default": 1}),
                30,
            ),
            (
                json!({"$ref": "#/$defs/t", "$defs": {"t": {"properties": {
                "left": {"$ref": "#/$defs/t"}, "right": {"$ref": "#/$defs/t"}}}}}),
                10,
            ),
            (json!({"type": "string", "enum": ["a", "b"]}), 10),
        ] {
            let nodes = nodes(&schema, &schema);
            assert!(nodes <= most, "{nodes}: {schema}");
        }
    }

    #[test]
    fn what_multiplies_is_counted_without_multiplying() {
        let object = json!({"type": "object"});
        let doubling = |at: usize| {
            let next = json!({"$ref": format!("#/$defs/d{}", at + 1)});
            (format!("d{at}"), json!({"allOf": [next, next], "anyOf": many(2, &object)}))
        };
        let doubling: Map<_, _> = (0..60).map(doubling).collect();
        for schema in [
            json!({"allOf": [{"anyOf": many(2000, &object)}, {"properties": members(2000)}]}),
            json!({"anyOf": many(2000, &object), "properties": members(2000)}),
            json!({"allOf": many(12, &json!({"anyOf": many(12, &object)}))}),
            json!({"allOf": [{"properties": members(2000)},
                {"additionalProperties": {"properties": members(2000)}}]}),
            json!({"allOf": [{"enum": (0..2000).collect::<Vec<_>>()},
                {"enum": (0..2000).collect::<Vec<_>>()}]}),
            json!({"$ref": "#/$defs/d0", "type": "object", "$defs": doubling}),
            json!({"anyOf": many(2000, &json!({"$ref": "#/$defs/a", "type": "object"})),
                "$defs": {"a": {"properties": members(2000)}}}),
        ] {
            let nodes = nodes(&schema, &schema);
            assert!(nodes > 1 << 20, "{nodes}: {}", &schema.to_string()[..80]);
        }
    }
}
