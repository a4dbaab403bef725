//! Stop strings in text that arrives in pieces. A match may cross tokens, so whatever may still
//! become one is held back; what was given out is never part of a match.
//!
//! The stop that is complete first wins; of several that end at the same byte, the longest. That
//! does not depend on how the text was cut.

use super::error::SampleError;
use super::params::SamplingParams;

/// Watches one answer for stop strings.
#[derive(Clone, Debug)]
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
    found: Option<usize>,
}

impl StopMatcher {
    /// A matcher for `stops`, at the start of an answer.
    ///
    /// # Errors
    /// `Params` as in [`SamplingParams::check`]: too many, empty or too long.
    pub fn new(stops: &[String]) -> Result<Self, SampleError> {
        let stops = stops.to_vec();
        SamplingParams { stop: stops.clone(), ..SamplingParams::default() }.check()?;
        Ok(Self { stops, held: String::new(), found: None })
    }

    /// Takes `text` and appends to `out` what is certainly no part of a stop string. Returns the
    /// number of the stop string once one is complete; text after it is dropped.
    pub fn push(&mut self, text: &str, out: &mut String) -> Option<usize> {
        if self.found.is_some() {
            return self.found;
        }
        if self.stops.is_empty() {
            out.push_str(text);
            return None;
        }
        self.held.push_str(text);
        let matches = self.stops.iter().enumerate().filter_map(|(stop, wanted)| {
            let start = self.held.find(wanted.as_str())?;
            Some((start + wanted.len(), start, stop))
        });
        if let Some((_, start, stop)) = matches.min() {
            out.push_str(&self.held[..start]);
            self.held.clear();
            self.found = Some(stop);
            return self.found;
        }
        let decided = self.held.len() - self.undecided();
        out.push_str(&self.held[..decided]);
        self.held.drain(..decided);
        None
    }

    /// Ends the answer: what was held is text after all.
    pub fn finish(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
    }

    /// The stop string that was found, by its number.
    pub fn found(&self) -> Option<usize> {
        self.found
    }

    /// Bytes at the end that a stop string may begin with.
    fn undecided(&self) -> usize {
        let text = self.held.as_bytes();
        let may_begin = |stop: &String| {
            let longest = text.len().min(stop.len() - 1);
            let fits = |length: &usize| text.ends_with(&stop.as_bytes()[..*length]);
            (1..=longest).rev().find(fits).unwrap_or(0)
        };
        self.stops.iter().map(may_begin).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, Option<usize>) {
        let stops: Vec<_> = stops.iter().map(|&stop| stop.to_owned()).collect();
        let mut matcher = StopMatcher::new(&stops).unwrap();
        let mut out = String::new();
        for piece in pieces {
            matcher.push(piece, &mut out);
        }
        matcher.finish(&mut out);
        (out, matcher.found())
    }

    #[test]
    fn every_split_gives_the_same() {
        for (stops, text, want, found) in [
            (&["END"][..], "abENDc", "ab", Some(0)),
            (&["END"], "abEN", "abEN", None),
            (&["abc", "b"], "xabc", "xa", Some(1)),
            (&["bc", "abc"], "xabc", "x", Some(1)),
            (&["aab"], "aaaab", "aa", Some(0)),
            (&["\n\nUser:", "漢字"], "é\n漢漢字", "é\n漢", Some(1)),
            (&["👩‍👧"], "a👩b", "a👩b", None),
            (&[], "text", "text", None),
        ] {
            let bounds: Vec<_> = (0..=text.len()).filter(|&at| text.is_char_boundary(at)).collect();
            for &first in &bounds {
                for &second in bounds.iter().filter(|&&second| second >= first) {
                    let pieces = [&text[..first], &text[first..second], &text[second..]];
                    assert_eq!(run(stops, &pieces), (want.to_owned(), found), "{pieces:?}");
                }
            }
            let letters: Vec<String> = text.chars().map(String::from).collect();
            let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
            assert_eq!(run(stops, &letters), (want.to_owned(), found), "{letters:?}");
        }
    }
}
