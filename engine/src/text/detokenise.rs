//! Ids to text while they arrive. A token may end in the middle of a character; those bytes wait
//! for the rest. However the ids are grouped, the concatenated output equals [`Tokenizer::decode`].

use std::sync::Arc;

use super::error::TextError;
use super::tokenizer::Tokenizer;

/// What becomes of control tokens in the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Controls {
    /// They appear as their control strings; the reply parser needs them.
    Show,
    /// They vanish.
    Hide,
}

/// A streaming detokeniser for one sequence.
#[derive(Debug)]
pub struct Detokeniser {
    tokenizer: Arc<Tokenizer>,
    controls: Controls,
    /// Bytes of an unfinished character, at most three.
    held: Vec<u8>,
    out: String,
}

impl Detokeniser {
    /// A detokeniser at the start of a text.
    pub fn new(tokenizer: Arc<Tokenizer>, controls: Controls) -> Self {
        Self { tokenizer, controls, held: Vec::new(), out: String::new() }
    }

    /// Takes the next id; returns the text that is complete now, which may be empty. Bytes that can
    /// never become a character give U+FFFD, as in the batch decoder; bytes that still can are
    /// held.
    ///
    /// # Errors
    /// `Request` if `id` is beyond the vocabulary; the state is as before.
    pub fn push(&mut self, id: u32) -> Result<&str, TextError> {
        self.out.clear();
        let Some(bytes) = self.tokenizer.token_bytes(id) else {
            return Err(self.tokenizer.unknown(id));
        };
        if self.controls == Controls::Hide && self.tokenizer.is_control(id) {
            return Ok("");
        }
        self.held.extend_from_slice(bytes);
        let decided = release(&self.held, &mut self.out);
        self.held.drain(..decided);
        Ok(&self.out)
    }

    /// Ends the text: an unfinished character becomes one U+FFFD. The detokeniser is then at the
    /// start of a new text.
    pub fn finish(&mut self) -> &str {
        self.out.clear();
        if !self.held.is_empty() {
            self.held.clear();
            self.out.push(char::REPLACEMENT_CHARACTER);
        }
        &self.out
    }
}

/// Appends to `out` what `bytes` decides and returns how many bytes that was.
fn release(bytes: &[u8], out: &mut String) -> usize {
    let mut at = 0;
    loop {
        match std::str::from_utf8(&bytes[at..]) {
            Ok(text) => {
                out.push_str(text);
                return bytes.len();
            }
            Err(error) => {
                let valid = at + error.valid_up_to();
                out.push_str(std::str::from_utf8(&bytes[at..valid]).expect("valid up to here"));
                match error.error_len() {
                    None => return valid,
                    Some(length) => {
                        out.push(char::REPLACEMENT_CHARACTER);
                        at = valid + length;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_split_of_any_bytes_equals_the_lossy_decoder() {
        let texts: [&[u8]; 8] = [
            "aé漢👩‍👧".as_bytes(),
            b"\xf0\x9f\x91",
            b"\xf0\x9fa\x91",
            b"\xff\xfe\x80a\xc3",
            b"\xed\xa0\x80\xed",
            b"\xf4\x90\x80\x80",
            b"\xe0\x80\xc3\xc3\xa9",
            b"",
        ];
        for bytes in texts {
            let want = String::from_utf8_lossy(bytes);
            for first in 0..=bytes.len() {
                for second in first..=bytes.len() {
                    let mut held = Vec::new();
                    let mut out = String::new();
                    for piece in [&bytes[..first], &bytes[first..second], &bytes[second..]] {
                        held.extend_from_slice(piece);
                        let decided = release(&held, &mut out);
                        held.drain(..decided);
                        assert!(held.len() <= 3, "{bytes:x?}");
                    }
                    if !held.is_empty() {
                        out.push(char::REPLACEMENT_CHARACTER);
                    }
                    assert_eq!(out, want, "{bytes:x?} cut at {first}, {second}");
                }
            }
        }
    }
}
