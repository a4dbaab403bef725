//! Names of models: what a client may call the one model that is loaded. One table.
//!
//! Not here: which model that is (the command line says), and what a name's answer is called (as it
//! was asked for).

use crate::fault::{Fault, Kind, shown};

/// The two ways of speaking to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Chat Completions and its relatives.
    OpenAi,
    /// Messages.
    Anthropic,
}

/// What a name says beyond the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// The usual default: thinking.
    Thinks,
    /// Thinking is off unless the request asks for it.
    Answers,
}

/// Names without a version that mean a family: the alias, what the model's own name must begin with,
/// the habit, and whether the hosted API has dropped it.
const ALIASES: [(&str, &str, Habit, bool); 3] = [
    ("deepseek-flash", "deepseek-v4-flash", Habit::Thinks, false),
    ("deepseek-chat", "deepseek-v4-flash", Habit::Answers, true),
    ("deepseek-reasoner", "deepseek-v4-flash", Habit::Thinks, true),
];
/// Asks for the long context; there is no other here.
const LONG_SUFFIX: &str = "[1m]";
/// Prefix of names that mean the loaded model in the Anthropic dialect.
const CLAUDE: &str = "claude";

/// The names of the loaded model.
#[derive(Clone, Debug)]
pub struct Names {
    /// Listed names, the canonical one first.
    listed: Vec<String>,
    legacy: bool,
}

impl Names {
    /// Names of a model; `legacy` keeps the names that the hosted API has dropped.
    ///
    /// # Panics
    /// If `canonical` is empty: the caller has checked it.
    pub fn new(canonical: &str, more: &[String], legacy: bool) -> Self {
        assert!(!canonical.is_empty());
        let mut listed = vec![canonical.to_owned()];
        let family = |&(alias, family, _, dropped): &(&str, &str, Habit, bool)| {
            (canonical.starts_with(family) && !dropped).then(|| alias.to_owned())
        };
        listed.extend(ALIASES.iter().filter_map(family));
        listed.extend(more.iter().filter(|name| !name.is_empty()).cloned());
        listed.dedup();
        Names { listed, legacy }
    }

    /// The canonical name.
    pub fn canonical(&self) -> &str {
        &self.listed[0]
    }

    /// Names a list of models shows.
    pub fn listed(&self) -> &[String] {
        &self.listed
    }

    /// What `asked` means in `dialect`.
    ///
    /// # Errors
    /// `Model`, naming the names there are.
    pub fn resolve(&self, asked: &str, dialect: Dialect) -> Result<Habit, Fault> {
        let name = asked.strip_suffix(LONG_SUFFIX).unwrap_or(asked);
        if self.listed.iter().any(|listed| listed == name) {
            return Ok(Habit::Thinks);
        }
        let alias = ALIASES.iter().find(|(alias, family, _, dropped)| {
            *alias == name && self.canonical().starts_with(family) && (self.legacy || !dropped)
        });
        if let Some((_, _, habit, _)) = alias {
            return Ok(*habit);
        }
        if dialect == Dialect::Anthropic && name.starts_with(CLAUDE) {
            return Ok(Habit::Thinks);
        }
        let message = format!(
            "The supported API model names are {}, but you passed {}.",
            self.listed.join(", "),
            shown(asked)
        );
        Err(Fault { param: Some("model".to_owned()), ..Fault::new(Kind::Model, message) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_mean_the_loaded_model() {
        use Dialect::{Anthropic, OpenAi};
        let flash = Names::new("deepseek-v4-flash", &["team-model".to_owned()], true);
        for (name, dialect, want) in [
            ("deepseek-v4-flash", OpenAi, Some(Habit::Thinks)),
            ("deepseek-flash", OpenAi, Some(Habit::Thinks)),
            ("deepseek-chat", OpenAi, Some(Habit::Answers)),
            ("deepseek-reasoner", Anthropic, Some(Habit::Thinks)),
            ("team-model", OpenAi, Some(Habit::Thinks)),
            ("deepseek-v4-flash[1m]", OpenAi, Some(Habit::Thinks)),
            ("claude-opus-4-7", Anthropic, Some(Habit::Thinks)),
            ("claude-opus-4-7", OpenAi, None),
            ("deepseek-v4-pro", OpenAi, None),
            ("gpt-4o", Anthropic, None),
            ("../../etc/passwd", OpenAi, None),
            ("", OpenAi, None),
        ] {
            assert_eq!(flash.resolve(name, dialect).ok(), want, "{name} {dialect:?}");
        }
        let pro = Names::new("deepseek-v4-pro", &[], true);
        assert!(pro.resolve("deepseek-chat", OpenAi).is_err());
        let strict = Names::new("deepseek-v4-flash", &[], false);
        assert!(strict.resolve("deepseek-chat", OpenAi).is_err());
        assert!(strict.resolve("deepseek-flash", OpenAi).is_ok());
    }

    #[test]
    fn an_unknown_name_is_escaped_and_cut() {
        let names = Names::new("deepseek-v4-flash", &[], true);
        let error = names.resolve(&"\n\u{1b}x".repeat(100), Dialect::OpenAi).unwrap_err();
        assert!(error.message.contains("deepseek-v4-flash"), "{}", error.message);
        assert!(!error.message.contains('\n') && error.message.len() < 600, "{}", error.message);
    }
}
