//! The tokenizer as llguidance sees it: a trie of bytes in which control tokens stand apart, so that no
//! text of a grammar can match one.

use std::sync::Arc;

use engine::text::{Control, Tokenizer};
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};

/// What a walk needs to know of tokens.
#[derive(Debug)]
pub struct Tokens {
    /// Ends an answer.
    pub end: u32,
    /// Ends reasoning.
    pub think_end: u32,
    /// The word in every tag of a call.
    pub marker: u32,
    /// Whether the bytes of a token end with `<`.
    opens: Vec<bool>,
}

impl Tokens {
    /// Looks the tokens up.
    ///
    /// # Errors
    /// A message, if one is missing.
    pub fn new(tokenizer: &Tokenizer) -> Result<Self, String> {
        let opens = |id| {
            let bytes = tokenizer.token_bytes(id).unwrap_or_default();
            !tokenizer.is_control(id) && bytes.last() == Some(&b'<')
        };
        Ok(Tokens {
            end: super::control(tokenizer, Control::EndOfSentence)?,
            think_end: super::control(tokenizer, Control::ThinkEnd)?,
            marker: super::control(tokenizer, Control::Dsml)?,
            opens: (0..tokenizer.size()).map(opens).collect(),
        })
    }

    /// Whether a marker after `token` would begin a tag.
    pub fn opens(&self, token: u32) -> bool {
        self.opens.get(token as usize).copied().unwrap_or(false)
    }
}

/// llguidance's view of `tokenizer`.
pub fn environment(tokenizer: &Tokenizer, end: u32) -> TokEnv {
    let words: Vec<Vec<u8>> = (0..tokenizer.size())
        .map(|id| {
            let bytes = tokenizer.token_bytes(id).unwrap_or_default();
            if !tokenizer.is_control(id) {
                return bytes.to_vec();
            }
            let mut word = vec![TokTrie::SPECIAL_TOKEN_MARKER];
            word.extend_from_slice(bytes);
            word
        })
        .collect();
    let trie = TokTrie::from(&TokRxInfo::new(tokenizer.size(), end), &words);
    Arc::new(ApproximateTokEnv::new(trie))
}
