//! Which path is what, as one table.

use hyper::Method;

use crate::names::Dialect;

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Chat Completions.
    Chat,
    /// Legacy completions.
    Completions,
    /// Messages.
    Messages,
    /// Tokens of a Messages request.
    CountTokens,
    /// The list of models.
    Models,
    /// One model, by the name it is asked for.
    Model(String),
    /// The balance of an account that does not exist.
    Balance,
    /// The page.
    Page,
    /// Whether the server can answer.
    Health,
    /// Numbers for Prometheus.
    Metrics,
    /// Numbers for the page.
    Status,
    /// How often each expert was chosen.
    Experts,
    /// The description of this interface.
    OpenApi,
}

/// Prefixes of the OpenAI dialect's paths.
const OPENAI_PREFIXES: [&str; 4] = ["", "/v1", "/beta", "/beta/v1"];
/// Where messages are.
const MESSAGES: [&str; 3] = ["/v1/messages", "/anthropic/v1/messages", "/anthropic/messages"];
/// Where models are.
const MODELS: [&str; 3] = ["/models", "/v1/models", "/anthropic/v1/models"];
/// Paths that stand for themselves.
const PLAIN: [(&str, Endpoint); 7] = [
    ("/user/balance", Endpoint::Balance),
    ("/", Endpoint::Page),
    ("/health", Endpoint::Health),
    ("/metrics", Endpoint::Metrics),
    ("/status", Endpoint::Status),
    ("/status/experts", Endpoint::Experts),
    ("/openapi.json", Endpoint::OpenApi),
];

impl Endpoint {
    /// What `path` leads to.
    pub fn of(path: &str) -> Option<Endpoint> {
        if let Some((_, endpoint)) = PLAIN.iter().find(|(plain, _)| *plain == path) {
            return Some(endpoint.clone());
        }
        for prefix in OPENAI_PREFIXES {
            match path.strip_prefix(prefix) {
                Some("/chat/completions") => return Some(Endpoint::Chat),
                Some("/completions") => return Some(Endpoint::Completions),
                _ => {}
            }
        }
        for messages in MESSAGES {
            match path.strip_prefix(messages) {
                Some("") => return Some(Endpoint::Messages),
                Some("/count_tokens") => return Some(Endpoint::CountTokens),
                _ => {}
            }
        }
        for models in MODELS {
            match path.strip_prefix(models) {
                Some("") => return Some(Endpoint::Models),
                Some(rest) if rest.len() > 1 && rest.starts_with('/') => {
                    return Some(Endpoint::Model(decoded(&rest[1..])));
                }
                _ => {}
            }
        }
        None
    }

    /// The value of `Allow`.
    pub fn allow(&self) -> &'static str {
        match self {
            Endpoint::Chat | Endpoint::Completions | Endpoint::Messages | Endpoint::CountTokens => {
                "POST, OPTIONS"
            }
            _ => "GET, HEAD, OPTIONS",
        }
    }

    /// Whether it takes `method`; OPTIONS is answered before.
    pub fn takes(&self, method: &Method) -> bool {
        match *method {
            Method::POST => self.allow().starts_with("POST"),
            Method::GET | Method::HEAD => self.allow().starts_with("GET"),
            _ => false,
        }
    }

    /// Whether it is for everybody.
    pub fn is_open(&self) -> bool {
        matches!(self, Endpoint::Page | Endpoint::Health)
    }

    /// Its name in logs and metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Endpoint::Chat => "chat",
            Endpoint::Completions => "completions",
            Endpoint::Messages => "messages",
            Endpoint::CountTokens => "count_tokens",
            Endpoint::Models | Endpoint::Model(_) => "models",
            Endpoint::Balance => "balance",
            Endpoint::Page => "page",
            Endpoint::Health => "health",
            Endpoint::Metrics => "metrics",
            Endpoint::Status | Endpoint::Experts => "status",
            Endpoint::OpenApi => "openapi",
        }
    }
}

/// The dialect in which `path` is answered, faults included.
pub fn dialect(path: &str, anthropic_version: bool) -> Dialect {
    let models = path.starts_with("/models") || path.starts_with("/v1/models");
    let anthropic = path.starts_with("/anthropic")
        || path.starts_with("/v1/messages")
        || (models && anthropic_version);
    if anthropic { Dialect::Anthropic } else { Dialect::OpenAi }
}

/// `text` with `%XX` as bytes; what is no such thing stays.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = after.get(..2).filter(|_| first == b'%');
        let hex = hex.and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_of_the_contract_leads_somewhere() {
        for prefix in ["", "/v1", "/beta", "/beta/v1"] {
            let chat = format!("{prefix}/chat/completions");
            assert_eq!(Endpoint::of(&chat), Some(Endpoint::Chat), "{chat}");
            let completions = format!("{prefix}/completions");
            assert_eq!(Endpoint::of(&completions), Some(Endpoint::Completions), "{completions}");
        }
        for (path, want) in [
            ("/v1/messages", Some(Endpoint::Messages)),
            ("/anthropic/v1/messages", Some(Endpoint::Messages)),
            ("/anthropic/messages", Some(Endpoint::Messages)),
            ("/anthropic/messages/count_tokens", Some(Endpoint::CountTokens)),
            ("/anthropic/v1/models", Some(Endpoint::Models)),
            ("/models", Some(Endpoint::Models)),
            ("/v1/models/a%2Fb%5B1m%5D", Some(Endpoint::Model("a/b[1m]".to_owned()))),
            ("/v1/models/%zz%", Some(Endpoint::Model("%zz%".to_owned()))),
            ("/v1/models/", None),
            ("/v1/responses", None),
            ("/v1", None),
            ("", None),
            ("/api/hello", None),
        ] {
            assert_eq!(Endpoint::of(path), want, "{path}");
        }
    }
}
