//! The tokenizer: a `tokenizer.json` run by the `tokenizers` crate, with a wall between text and
//! control tokens.
//!
//! The released file lists 1,283 added tokens, most of them matched in any text by the usual entry
//! points. [`Tokenizer::encode`] under [`Specials::Forbid`] goes around that list, straight to the
//! pre-tokeniser and BPE, whose merges cannot reach an added token; a check on the result makes
//! sure. So `<｜User｜>` typed by a user is nine ordinary tokens.
//!
//! Refused: anything but byte-level BPE without normaliser or dropout, ids with holes, a vocabulary of
//! another size than the model's. Truncation and padding rules in the file are not obeyed.

use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::models::ModelWrapper;
use tokenizers::{DecoderWrapper, Model, OffsetReferential, OffsetType};

use super::control::Control;
use super::error::{TextError, shown};
use super::prompt::{Prompt, Segment};
use super::split::Splitter;
use super::vocabulary::Vocabulary;

/// Longest tokenizer.json that is read, in bytes (the released one is 6.4 MB).
pub const TOKENIZER_BYTES_MAX: u64 = 64 << 20;
/// Most token ids (the released vocabulary has 129,280).
const IDS_MAX: u32 = 1 << 22;

/// Whether control strings in a text become control tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Specials {
    /// They stay text. For everything that came from outside.
    Forbid,
    /// They become tokens, as in the Python library's `encode`. For prompts rendered elsewhere.
    Allow,
}

/// A tokenizer, shared by all threads.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    splitter: Splitter,
    vocabulary: Vocabulary,
    /// Id of each control token, in the order of [`Control::ALL`].
    controls: [Option<u32>; Control::ALL.len()],
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Tokenizer").field("size", &self.size()).finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads a `tokenizer.json` from memory.
    ///
    /// # Errors
    /// `Tokenizer` if the bytes are not a tokenizer this module runs; the message says why.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TextError> {
        let listed: Listed = serde_json::from_slice(bytes)
            .map_err(|error| TextError::tokenizer(format!("tokenizer.json: {error}")))?;
        // Before the library sees the file: it panics at some normalizers, and at a decoder that is not JSON.
        listed.check_normalizer()?;
        let inner = tokenizers::Tokenizer::from_bytes(bytes)
            .map_err(|error| TextError::tokenizer(format!("tokenizer.json: {error}")))?;
        check_kind(&inner)?;
        listed.check_added_ids(&inner)?;
        let splitter = Splitter::from_json(&listed.pre_tokenizer)?;
        let mut tokens: Vec<_> =
            inner.get_vocab(false).into_iter().map(|(text, id)| (id, text, false)).collect();
        for (id, token) in inner.get_added_tokens_decoder() {
            tokens.push((id, token.content, true));
        }
        let vocabulary = Vocabulary::new(tokens, IDS_MAX)?;
        let controls = Control::ALL
            .map(|control| inner.token_to_id(control.text()).filter(|&id| vocabulary.is_added(id)));
        Ok(Self { inner, splitter, vocabulary, controls })
    }

    /// Reads `tokenizer.json` from the folder of a model.
    ///
    /// # Errors
    /// `Tokenizer` if the file is missing, longer than [`TOKENIZER_BYTES_MAX`], or refused by
    /// [`Tokenizer::from_bytes`].
    pub fn from_folder(folder: &Path) -> Result<Self, TextError> {
        let path = folder.join("tokenizer.json");
        let place = path.display();
        let length = fs::metadata(&path)
            .map_err(|error| TextError::tokenizer(format!("{place}: {error}")))?
            .len();
        if length > TOKENIZER_BYTES_MAX {
            return Err(TextError::tokenizer(format!(
                "{place}: {length} bytes, more than the {TOKENIZER_BYTES_MAX} that are read"
            )));
        }
        let bytes =
            fs::read(&path).map_err(|error| TextError::tokenizer(format!("{place}: {error}")))?;
        Self::from_bytes(&bytes)
            .map_err(|error| TextError::tokenizer(format!("{}: {error}", folder.display())))
    }

    /// Checks that this tokenizer belongs to a model with `vocab_size` rows of embedding.
    ///
    /// # Errors
    /// `Tokenizer` if it has more or fewer ids: it is another model's.
    pub fn expect_vocabulary(&self, vocab_size: u32) -> Result<(), TextError> {
        if self.size() == vocab_size {
            return Ok(());
        }
        Err(TextError::tokenizer(format!(
            "tokenizer.json has {} token ids but config.json says vocab_size {vocab_size}; \
             is it another model's?",
            self.size()
        )))
    }

    /// Token ids, one above the largest, holes included.
    pub fn size(&self) -> u32 {
        self.vocabulary.size()
    }

    /// The id of a control token; `None` if this tokenizer lacks it.
    pub fn control(&self, control: Control) -> Option<u32> {
        let at = Control::ALL.iter().position(|&each| each == control)?;
        self.controls[at]
    }

    /// Whether `id` is an added token: a control token or a placeholder for one.
    pub fn is_control(&self, id: u32) -> bool {
        self.vocabulary.is_added(id)
    }

    /// The bytes token `id` stands for, not necessarily whole characters; `None` beyond the
    /// vocabulary.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.vocabulary.bytes(id)
    }

    /// The ids of `text`. No token is added at either end.
    ///
    /// # Errors
    /// `Request` if the text holds more than a million white-space characters in a row; `Tokenizer` if
    /// the tokenizer itself fails, or if plain text came out as a control token.
    pub fn encode(&self, text: &str, specials: Specials) -> Result<Vec<u32>, TextError> {
        let mut ids = Vec::new();
        self.encode_into(text, specials, &mut ids)?;
        Ok(ids)
    }

    /// The ids of a rendered prompt: control tokens by id, text with control strings forbidden.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`], and `Tokenizer` if the prompt holds a control token this tokenizer
    /// lacks.
    pub fn encode_prompt(&self, prompt: &Prompt) -> Result<Vec<u32>, TextError> {
        let mut ids = Vec::new();
        for segment in prompt.segments() {
            match segment {
                Segment::Text(text) => self.encode_into(text, Specials::Forbid, &mut ids)?,
                Segment::Control(control) => ids.push(self.control(*control).ok_or_else(|| {
                    TextError::tokenizer(format!(
                        "tokenizer.json has no token {}; is it DeepSeek-V4's?",
                        control.text()
                    ))
                })?),
            }
        }
        Ok(ids)
    }

    /// The text of `ids`; bytes that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// `Request` if an id is beyond the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TextError> {
        let mut bytes = Vec::new();
        for &id in ids {
            bytes.extend_from_slice(self.token_bytes(id).ok_or_else(|| self.unknown(id))?);
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    pub(super) fn unknown(&self, id: u32) -> TextError {
        TextError::request(format!("token id {id} is beyond the vocabulary of {}", self.size()))
    }

    fn encode_into(
        &self,
        text: &str,
        specials: Specials,
        ids: &mut Vec<u32>,
    ) -> Result<(), TextError> {
        let start = ids.len();
        match specials {
            Specials::Allow => {
                let added = self.inner.get_added_vocabulary();
                let pieces = added.extract_and_normalize(self.inner.get_normalizer(), text);
                for (piece, _, token) in
                    pieces.get_splits(OffsetReferential::Original, OffsetType::None)
                {
                    match token {
                        Some(token) => ids.extend(token.iter().map(|token| token.id)),
                        None => self.plain(piece, ids)?,
                    }
                }
            }
            Specials::Forbid => {
                self.plain(text, ids)?;
                if let Some(&id) = ids[start..].iter().find(|&&id| self.is_control(id)) {
                    return Err(TextError::tokenizer(format!(
                        "plain text became control token {id}; \
                         this tokenizer cannot keep them apart"
                    )));
                }
            }
        }
        Ok(())
    }

    /// Pre-tokeniser and BPE, without the list of added tokens.
    fn plain(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TextError> {
        let model = self.inner.get_model();
        self.splitter.split(text, &mut |piece| {
            let tokens = model.tokenize(piece).map_err(|error| {
                TextError::tokenizer(format!("tokenizer failed on {:?}: {error}", shown(piece)))
            })?;
            ids.extend(tokens.into_iter().map(|token| token.id));
            Ok(())
        })
    }
}

/// The parts of a tokenizer.json that we run or check ourselves.
#[derive(Deserialize)]
struct Listed {
    added_tokens: Vec<ListedToken>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    /// Read so that it is known to be JSON.
    #[serde(default, rename = "decoder")]
    _decoder: Value,
}

#[derive(Deserialize)]
struct ListedToken {
    id: u32,
    content: String,
}

impl Listed {
    /// Refuses a file whose added tokens are not where it says: the library numbers those that the
    /// model lacks in their order, whatever the file says, and a model would read other embeddings.
    fn check_added_ids(&self, inner: &tokenizers::Tokenizer) -> Result<(), TextError> {
        let wrong = |token: &&ListedToken| inner.token_to_id(&token.content) != Some(token.id);
        match self.added_tokens.iter().find(wrong) {
            None => Ok(()),
            Some(token) => Err(TextError::tokenizer(format!(
                "tokenizer.json: added token {:?} has id {}, but {} are before it; \
                 ids must have no holes",
                shown(&token.content),
                token.id,
                inner.token_to_id(&token.content).unwrap_or(0)
            ))),
        }
    }

    /// Refuses normalisers that do something; the released one is an empty sequence.
    fn check_normalizer(&self) -> Result<(), TextError> {
        let empty = self.normalizer["normalizers"].as_array().is_some_and(Vec::is_empty);
        if self.normalizer.is_null() || empty {
            return Ok(());
        }
        Err(TextError::tokenizer("tokenizer.json: a normalizer is not supported"))
    }
}

/// Refuses what is not byte-level BPE.
fn check_kind(inner: &tokenizers::Tokenizer) -> Result<(), TextError> {
    let ModelWrapper::BPE(bpe) = inner.get_model() else {
        return Err(TextError::tokenizer("tokenizer.json: the model is not BPE"));
    };
    if bpe.dropout.is_some_and(|dropout| dropout > 0.0) {
        return Err(TextError::tokenizer("tokenizer.json: BPE dropout would make ids random"));
    }
    let plain = bpe.continuing_subword_prefix.as_deref().unwrap_or("").is_empty()
        && bpe.end_of_word_suffix.as_deref().unwrap_or("").is_empty()
        && !bpe.byte_fallback;
    if !plain || !matches!(inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_))) {
        return Err(TextError::tokenizer(
            "tokenizer.json: not byte-level BPE (word prefixes, byte fallback or another decoder)",
        ));
    }
    Ok(())
}
