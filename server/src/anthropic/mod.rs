//! The Anthropic dialect: Messages, counting of tokens, models, errors.

pub mod answer;
mod blocks;
pub mod request;

use serde_json::{Value, json};

use crate::fault::{Fault, Kind};
use crate::model::Model;

/// The status of a fault in this dialect: an unknown model is not found, because clients retry a 400.
pub fn status(fault: &Fault) -> u16 {
    match fault.kind {
        Kind::Model => 404,
        _ => fault.status(),
    }
}

/// Type of a fault.
pub fn error_type(fault: &Fault) -> &'static str {
    match fault.kind {
        Kind::Key => "authentication_error",
        Kind::Model | Kind::NotFound => "not_found_error",
        Kind::TooLarge => "request_too_large",
        Kind::Busy(_) => "rate_limit_error",
        Kind::Unavailable(_) => "overloaded_error",
        Kind::Internal => "api_error",
        Kind::Invalid | Kind::TooLong { .. } | Kind::Method(_) | Kind::MediaType | Kind::Slow => {
            "invalid_request_error"
        }
    }
}

/// What a fault says; a prompt that is too long in the words that clients look for.
pub fn error_message(fault: &Fault) -> String {
    match fault.kind {
        Kind::TooLong { prompt, context } => {
            format!("prompt is too long: {prompt} tokens > {context} maximum")
        }
        _ => fault.message.clone(),
    }
}

/// The body of a fault.
pub fn error(fault: &Fault, request_id: &str) -> Value {
    json!({
        "type": "error",
        "error": {"type": error_type(fault), "message": error_message(fault)},
        "request_id": request_id,
    })
}

/// The list of models.
pub fn models(model: &Model) -> Value {
    let names = model.names.listed();
    let data: Vec<Value> = names.iter().map(|name| one_model(model, name)).collect();
    json!({
        "data": data,
        "has_more": false,
        "first_id": names.first(),
        "last_id": names.last(),
    })
}

/// One model, called `name`.
pub fn one_model(model: &Model, name: &str) -> Value {
    json!({
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": date(model.created),
    })
}

/// Seconds since 1970 as a date and a time in UTC.
fn date(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // The civil calendar, counted from the first of March of the year 0.
    let day = days + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day_of_month = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    format!(
        "{:04}-{month:02}-{day_of_month:02}T{:02}:{:02}:{:02}Z",
        era * 400 + year + next,
        second / 3600,
        second / 60 % 60,
        second % 60,
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, want) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_776_988_800, "2026-04-24T00:00:00Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
        ] {
            assert_eq!(super::date(seconds), want);
        }
    }
}
