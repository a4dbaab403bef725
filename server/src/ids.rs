//! Ids of answers and calls: random letters and digits. They must be unique, not secret.

use std::hash::{BuildHasher, Hasher};
use std::time::{SystemTime, UNIX_EPOCH};

const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// `length` random letters and digits.
pub fn random(length: usize) -> String {
    let mut text = String::with_capacity(length);
    let mut left = 0;
    for _ in 0..length {
        if left < 62 * 62 {
            left = word();
        }
        text.push(char::from(LETTERS[(left % 62) as usize]));
        left /= 62;
    }
    text
}

/// A random word, from the standard library's keys of hash maps.
pub fn word() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}

/// Seconds since 1970.
pub fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    #[test]
    fn ids_are_alphanumeric_and_do_not_repeat() {
        let ids: HashSet<String> = (0..10_000).map(|_| super::random(24)).collect();
        assert_eq!(ids.len(), 10_000);
        assert!(
            ids.iter().all(|id| id.len() == 24 && id.chars().all(|c| c.is_ascii_alphanumeric()))
        );
    }
}
