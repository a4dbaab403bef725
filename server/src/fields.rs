//! Reading JSON objects strictly: a field has the right type or the request is refused by its name;
//! null is absent; fields nobody asks for are ignored.

use serde_json::{Map, Value};

use crate::fault::Fault;

/// An object and where it stands.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    map: &'a Map<String, Value>,
    /// Stands before the name of a field.
    prefix: String,
}

/// Where an object stands in a request.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// The request itself.
    Root,
    /// A named object.
    At(&'a str),
    /// An element of a named list.
    Item(&'a str, usize),
}

impl<'a> Fields<'a> {
    /// The fields of `value`.
    ///
    /// # Errors
    /// If it is no object.
    pub fn new(value: &'a Value, place: Place<'_>) -> Result<Self, Fault> {
        let name = match place {
            Place::Root => String::new(),
            Place::At(name) => name.to_owned(),
            Place::Item(list, index) => format!("{list}[{index}]"),
        };
        match value {
            Value::Object(map) if name.is_empty() => Ok(Fields { map, prefix: name }),
            Value::Object(map) => Ok(Fields { map, prefix: name + "." }),
            _ if name.is_empty() => Err(Fault::invalid("The request body must be a JSON object")),
            _ => Err(Fault::field(&name, format!("{name} must be a JSON object"))),
        }
    }

    /// The full name of a field.
    pub fn name(&self, field: &str) -> String {
        format!("{}{field}", self.prefix)
    }

    /// A fault of a field.
    pub fn fault(&self, field: &str, what: impl std::fmt::Display) -> Fault {
        let name = self.name(field);
        Fault::field(name.clone(), format!("Invalid value for {name}: {what}"))
    }

    /// The field, unless it is absent or null.
    pub fn get(&self, field: &str) -> Option<&'a Value> {
        self.map.get(field).filter(|value| !value.is_null())
    }

    /// A string.
    ///
    /// # Errors
    /// If it is something else.
    pub fn string(&self, field: &str) -> Result<Option<&'a str>, Fault> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.fault(field, "it must be a string")),
        }
    }

    /// A string that must be there.
    ///
    /// # Errors
    /// If it is not, or something else.
    pub fn needed_string(&self, field: &str) -> Result<&'a str, Fault> {
        self.string(field)?.ok_or_else(|| self.missing(field))
    }

    /// The fault of a field that is not there.
    pub fn missing(&self, field: &str) -> Fault {
        let name = self.name(field);
        Fault::field(name.clone(), format!("Missing required parameter: {name}"))
    }

    /// True, false or nothing.
    ///
    /// # Errors
    /// If it is something else.
    pub fn boolean(&self, field: &str) -> Result<Option<bool>, Fault> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Bool(set)) => Ok(Some(*set)),
            Some(_) => Err(self.fault(field, "it must be true or false")),
        }
    }

    /// A list.
    ///
    /// # Errors
    /// If it is something else.
    pub fn array(&self, field: &str) -> Result<Option<&'a [Value]>, Fault> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(_) => Err(self.fault(field, "it must be an array")),
        }
    }

    /// An integer from `least` to `most`.
    ///
    /// # Errors
    /// If it is something else.
    pub fn integer(&self, field: &str, least: u64, most: u64) -> Result<Option<u64>, Fault> {
        let Some(value) = self.get(field) else { return Ok(None) };
        if !value.is_number() || value.is_f64() {
            return Err(self.fault(field, "it must be an integer"));
        }
        match value.as_u64().filter(|number| (least..=most).contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(self.range(field, least as f64, most as f64)),
        }
    }

    /// A number from `least` to `most`.
    ///
    /// # Errors
    /// If it is something else.
    pub fn number(&self, field: &str, least: f64, most: f64) -> Result<Option<f64>, Fault> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let Some(number) = value.as_f64() else {
            return Err(self.fault(field, "it must be a number"));
        };
        if (least..=most).contains(&number) {
            Ok(Some(number))
        } else {
            Err(self.range(field, least, most))
        }
    }

    /// In the hosted API's words.
    fn range(&self, field: &str, least: f64, most: f64) -> Fault {
        let name = self.name(field);
        let message =
            format!("Invalid {name} value, the valid range of {name} is [{least}, {most}]");
        Fault::field(name, message)
    }
}

/// The text of `content`: a string, or text parts joined by `between`. `None` where it is absent or
/// null.
///
/// # Errors
/// If it is something else, or a part is no text; the part's type is named.
pub fn text_content(fields: &Fields<'_>, between: &str) -> Result<Option<String>, Fault> {
    let parts = match fields.get("content") {
        None => return Ok(None),
        Some(Value::String(text)) => return Ok(Some(text.clone())),
        Some(Value::Array(parts)) => parts,
        Some(_) => return Err(fields.fault("content", "it must be a string or an array of parts")),
    };
    let mut texts = Vec::with_capacity(parts.len());
    for part in parts {
        match (part.get("type").and_then(Value::as_str), part.get("text")) {
            (
                Some("text" | "input_text" | "output_text" | "refusal"),
                Some(Value::String(text)),
            ) => {
                texts.push(text.as_str());
            }
            (Some("text"), _) => {
                return Err(fields.fault("content", "a text part needs a string `text`"));
            }
            (Some(kind), _) => {
                let what = format!(
                    "content of type \"{}\" is not supported; only text is",
                    crate::fault::shown(kind)
                );
                return Err(fields.fault("content", what));
            }
            (None, _) => return Err(fields.fault("content", "a content part needs a type")),
        }
    }
    Ok(Some(texts.join(between)))
}
