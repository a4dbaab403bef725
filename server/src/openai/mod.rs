//! The OpenAI dialect with DeepSeek's contract: Chat Completions, legacy completions, models, errors.

pub mod answer;
pub mod chat;
pub mod completions;
mod messages;

use serde_json::{Value, json};

use crate::fault::{Fault, Kind};
use crate::model::Model;

/// The body of a fault.
pub fn error(fault: &Fault) -> Value {
    let kind = match fault.kind {
        Kind::Key => "authentication_error",
        Kind::Busy(_) => "rate_limit_error",
        Kind::Internal | Kind::Unavailable(_) => "server_error",
        _ => "invalid_request_error",
    };
    let code = match fault.kind {
        Kind::TooLong { .. } => "context_length_exceeded",
        // The hosted API's word for every fault of a request, a wrong key included.
        Kind::Key => "invalid_request_error",
        _ => kind,
    };
    json!({"error": {
        "message": fault.message, "type": kind, "param": fault.param, "code": code,
    }})
}

/// The list of models.
pub fn models(model: &Model) -> Value {
    let names = model.names.listed().iter();
    let data: Vec<Value> = names.map(|name| one_model(model, name)).collect();
    json!({"object": "list", "data": data})
}

/// One model, called `name`.
pub fn one_model(model: &Model, name: &str) -> Value {
    json!({"id": name, "object": "model", "created": model.created, "owned_by": "deepseek"})
}

/// There is no money here; the fields are those of the hosted API, all of them strings.
pub fn balance() -> Value {
    json!({"is_available": true, "balance_infos": [{
        "currency": "USD",
        "total_balance": "0.00",
        "granted_balance": "0.00",
        "topped_up_balance": "0.00",
    }]})
}
