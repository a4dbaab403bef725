//! API keys: who may ask. Compared in constant time; never logged, never shown.

use std::fmt;

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use subtle::ConstantTimeEq;

use crate::fault::{Fault, Kind};

/// The keys that are accepted; none means that everybody may ask.
#[derive(Clone, Default)]
pub struct Keys(Vec<String>);

impl fmt::Debug for Keys {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Keys({})", self.0.len())
    }
}

impl Keys {
    /// These keys, without empty ones.
    pub fn new(keys: impl IntoIterator<Item = String>) -> Self {
        Keys(keys.into_iter().filter(|key| !key.is_empty()).collect())
    }

    /// Whether everybody may ask.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The key of a request, if it may ask.
    ///
    /// # Errors
    /// `Key`.
    pub fn admit<'a>(&self, headers: &'a HeaderMap) -> Result<Option<&'a str>, Fault> {
        let key = given(headers);
        if self.0.is_empty() {
            return Ok(key);
        }
        let Some(given) = key else {
            let message = "Authentication Fails (no API key: send Authorization: Bearer KEY, or \
                           x-api-key: KEY)";
            return Err(Fault::new(Kind::Key, message));
        };
        let mut known = subtle::Choice::from(0);
        for key in &self.0 {
            known |= key.as_bytes().ct_eq(given.as_bytes());
        }
        if bool::from(known) {
            return Ok(key);
        }
        Err(Fault::new(Kind::Key, "Authentication Fails (the API key is invalid)"))
    }
}

/// The key a request brings. `Authorization` wins.
fn given(headers: &HeaderMap) -> Option<&str> {
    if let Some(value) = headers.get(AUTHORIZATION) {
        let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then(|| key.trim());
    }
    headers.get("x-api-key")?.to_str().ok().map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::{HeaderName, HeaderValue};

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair =
            |&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn authorization_wins_over_x_api_key() {
        let keys = Keys::new(["right".to_owned(), "other".to_owned()]);
        for (pairs, want) in [
            (&[("authorization", "Bearer right")][..], true),
            (&[("authorization", "bearer other")], true),
            (&[("x-api-key", "right")], true),
            (&[("authorization", "Bearer right"), ("x-api-key", "wrong")], true),
            (&[("authorization", "Bearer wrong"), ("x-api-key", "right")], false),
            (&[("authorization", "Basic right")], false),
            (&[("x-api-key", "righ")], false),
            (&[("x-api-key", "")], false),
            (&[], false),
        ] {
            assert_eq!(keys.admit(&headers(pairs)).is_ok(), want, "{pairs:?}");
            assert!(Keys::default().admit(&headers(pairs)).is_ok(), "{pairs:?}");
        }
    }

    #[test]
    fn no_message_shows_a_key() {
        let keys = Keys::new(["sesame".to_owned()]);
        let error = keys.admit(&headers(&[("x-api-key", "guess")])).unwrap_err();
        let text = format!("{error:?} {keys:?}");
        assert!(!text.contains("sesame") && !text.contains("guess"), "{text}");
    }
}
