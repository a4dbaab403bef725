//! The pre-tokeniser: cuts text where BPE may not merge across, and maps bytes to BPE's alphabet.
//!
//! The `tokenizers` crate has one, but where its regular-expression engine gives up (a run of about
//! 100,000 control or joining characters is enough) it leaves the rest of the text uncut and says
//! nothing. Ours has room for a million characters of white space in a row, any number of others,
//! and an error beyond. It also skips the offsets that we never use.

use fancy_regex::{Regex, RegexBuilder};
use serde_json::Value;

use super::error::TextError;

/// Steps back that one match may take. The released patterns need a few for each character.
const BACKTRACKS_MAX: usize = 1 << 30;

/// A pre-tokeniser: expressions applied one after the other, each to the pieces of the one before.
#[derive(Debug)]
pub(super) struct Splitter {
    expressions: Vec<Regex>,
    /// Byte to character of BPE's alphabet.
    alphabet: [char; 256],
}

impl Splitter {
    /// From the `pre_tokenizer` of a tokenizer.json: isolating splits, then byte level without an
    /// expression of its own.
    ///
    /// # Errors
    /// `Tokenizer` for any other shape.
    pub(super) fn from_json(pre_tokenizer: &Value) -> Result<Self, TextError> {
        let refuse = |what: &str| {
            TextError::tokenizer(format!("tokenizer.json: pre_tokenizer {what} is not supported"))
        };
        let alone = std::slice::from_ref(pre_tokenizer);
        let steps = pre_tokenizer["pretokenizers"].as_array().map_or(alone, Vec::as_slice);
        let Some((byte_level, splits)) = steps.split_last() else {
            return Err(refuse("without steps"));
        };
        let plain = byte_level["type"] == "ByteLevel"
            && byte_level["use_regex"] == false
            && byte_level["add_prefix_space"] == false;
        if !plain {
            return Err(refuse("that does not end in a plain ByteLevel"));
        }
        let expression = |split: &Value| {
            let isolates = split["type"] == "Split"
                && split["behavior"] == "Isolated"
                && split["invert"] == false;
            let pattern = split["pattern"]["Regex"].as_str().filter(|_| isolates);
            let pattern = pattern.ok_or_else(|| refuse("step other than an isolating Split"))?;
            RegexBuilder::new(pattern)
                .backtrack_limit(BACKTRACKS_MAX)
                .build()
                .map_err(|error| TextError::tokenizer(format!("tokenizer.json: {error}")))
        };
        let expressions = splits.iter().map(expression).collect::<Result<_, _>>()?;
        Ok(Self { expressions, alphabet: byte_alphabet() })
    }

    /// Calls `take` with each piece of `text` in BPE's alphabet, in order.
    ///
    /// # Errors
    /// `Request` if the text holds more than a million white-space characters in a row; those of
    /// `take`.
    pub(super) fn split(
        &self,
        text: &str,
        take: &mut dyn FnMut(&str) -> Result<(), TextError>,
    ) -> Result<(), TextError> {
        let mut spelt = String::new();
        self.level(0, text, &mut |piece| {
            spelt.clear();
            spelt.extend(piece.bytes().map(|byte| self.alphabet[usize::from(byte)]));
            take(&spelt)
        })
    }

    fn level(
        &self,
        level: usize,
        text: &str,
        take: &mut dyn FnMut(&str) -> Result<(), TextError>,
    ) -> Result<(), TextError> {
        if text.is_empty() {
            return Ok(());
        }
        let Some(expression) = self.expressions.get(level) else { return take(text) };
        let mut done = 0;
        for found in expression.find_iter(text) {
            let found = found.map_err(|error| {
                TextError::request(format!(
                    "text cannot be cut into words ({error}); is there a run of more than a million \
                     white-space characters?"
                ))
            })?;
            self.level(level + 1, &text[done..found.start()], take)?;
            self.level(level + 1, found.as_str(), take)?;
            done = found.end();
        }
        self.level(level + 1, &text[done..], take)
    }
}

/// GPT-2's table: printable Latin-1 stands for itself, the other bytes, in order, for the characters
/// from U+0100 on.
pub(super) fn byte_alphabet() -> [char; 256] {
    let mut next = 0x100;
    std::array::from_fn(|byte| {
        if matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) {
            return char::from(byte as u8);
        }
        next += 1;
        char::from_u32(next - 1).expect("U+0100 to U+0143 are characters")
    })
}
