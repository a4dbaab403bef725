//! The bytes of every token, in one table: what decoding needs and all it needs.
//!
//! Byte-level BPE writes each byte as one printable character (GPT-2's table), so a token's text
//! maps back to bytes one character at a time. A token with any other character, such as a control
//! token, stands for its own UTF-8.

use super::error::TextError;
use super::split::byte_alphabet;

/// Token bytes by id. Ids without a token have no bytes.
pub(super) struct Vocabulary {
    bytes: Vec<u8>,
    /// Of id `i`: `bytes[starts[i]..starts[i + 1]]`.
    starts: Vec<u32>,
    /// Ids that come from the list of added tokens.
    added: Vec<bool>,
}

impl Vocabulary {
    /// Builds the table from `(id, text, is it an added token)`.
    ///
    /// # Errors
    /// `Tokenizer` if an id is `ids_max` or above, or a byte has no token of its own.
    pub(super) fn new(
        mut tokens: Vec<(u32, String, bool)>,
        ids_max: u32,
    ) -> Result<Self, TextError> {
        tokens.sort_unstable_by_key(|&(id, _, added)| (id, !added));
        // An added token may also be in the model's list; the added entry, sorted first, wins.
        tokens.dedup_by_key(|token| token.0);
        let Some(&(last, _, _)) = tokens.last() else {
            return Err(TextError::tokenizer("tokenizer.json: no tokens at all"));
        };
        if last >= ids_max {
            return Err(TextError::tokenizer(format!(
                "tokenizer.json: token id {last} is beyond the bound of {ids_max} tokens"
            )));
        }
        let alphabet = bytes_of_characters();
        let mut table = Self { bytes: Vec::new(), starts: vec![0], added: Vec::new() };
        let mut single = [false; 256];
        for (id, text, added) in tokens {
            while table.added.len() < id as usize {
                table.close(false);
            }
            let start = table.bytes.len();
            table.append(&text, &alphabet);
            if !added && table.bytes.len() == start + 1 {
                single[usize::from(table.bytes[start])] = true;
            }
            table.close(added);
        }
        match single.iter().position(|&there| !there) {
            Some(byte) => Err(TextError::tokenizer(format!(
                "tokenizer.json: no token for byte {byte:#04x}; only byte-level BPE is supported"
            ))),
            None => Ok(table),
        }
    }

    /// One above the largest id.
    pub(super) fn size(&self) -> u32 {
        self.added.len() as u32
    }

    /// The bytes of token `id`; `None` above the largest id.
    pub(super) fn bytes(&self, id: u32) -> Option<&[u8]> {
        let at = id as usize;
        let end = *self.starts.get(at + 1)?;
        Some(&self.bytes[self.starts[at] as usize..end as usize])
    }

    /// Whether `id` is an added token.
    pub(super) fn is_added(&self, id: u32) -> bool {
        self.added.get(id as usize).copied().unwrap_or(false)
    }

    fn append(&mut self, text: &str, alphabet: &[Option<u8>; 512]) {
        let start = self.bytes.len();
        for c in text.chars() {
            match alphabet.get(c as usize).copied().flatten() {
                Some(byte) => self.bytes.push(byte),
                None => {
                    self.bytes.truncate(start);
                    self.bytes.extend_from_slice(text.as_bytes());
                    return;
                }
            }
        }
    }

    fn close(&mut self, added: bool) {
        self.starts.push(self.bytes.len() as u32);
        self.added.push(added);
    }
}

/// Character to byte: [`byte_alphabet`] the other way round.
fn bytes_of_characters() -> [Option<u8>; 512] {
    let mut table = [None; 512];
    for (byte, character) in (0..=255u8).zip(byte_alphabet()) {
        table[character as usize] = Some(byte);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letters() -> Vec<(u32, String, bool)> {
        let characters = byte_alphabet();
        (0..256).map(|byte| (byte, characters[byte as usize].to_string(), false)).collect()
    }

    #[test]
    fn every_byte_has_one_character() {
        let table = Vocabulary::new(letters(), 1000).unwrap();
        for byte in 0..=255u8 {
            assert_eq!(table.bytes(u32::from(byte)), Some(&[byte][..]));
        }
        assert_eq!((table.size(), table.bytes(256)), (256, None));
    }

    #[test]
    fn control_tokens_are_their_own_text_and_holes_are_empty() {
        let mut tokens = letters();
        tokens.push((300, "<｜User｜>".to_owned(), true));
        tokens.push((301, "Ġa".to_owned(), false));
        let table = Vocabulary::new(tokens, 1000).unwrap();
        assert_eq!(table.bytes(300), Some("<｜User｜>".as_bytes()));
        assert_eq!(table.bytes(301), Some(&b" a"[..]));
        assert_eq!(table.bytes(299), Some(&b""[..]));
        assert!(table.is_added(300) && !table.is_added(301) && !table.is_added(9999));
    }

    #[test]
    fn missing_bytes_and_wild_ids_are_refused() {
        let without = letters().split_off(1);
        assert!(Vocabulary::new(without, 1000).is_err());
        let mut wild = letters();
        wild.push((u32::MAX, "x".to_owned(), false));
        assert!(Vocabulary::new(wild, 1000).is_err());
        assert!(Vocabulary::new(Vec::new(), 1000).is_err());
    }
}
