//! Finding markers in text that arrives in pieces. One pass, so that hostile text costs no more
//! than its length, and the same answer however the text was cut.

/// What a scan met first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Met {
    /// `markers[marker]` begins at byte `at`.
    Marker {
        /// Byte offset of its beginning.
        at: usize,
        /// Which marker.
        marker: usize,
    },
    /// From byte `at` on, the text may still become a marker: hold it back.
    Maybe {
        /// Byte offset of the first undecided byte.
        at: usize,
    },
    /// No marker begins in the text.
    Nothing,
}

/// Scans `text` for the marker that begins first. Where several begin at the same byte, the first
/// in the list wins, so list the longer ones first. Markers must not be empty.
pub(crate) fn scan(text: &str, markers: &[&str]) -> Met {
    let bytes = text.as_bytes();
    for at in 0..bytes.len() {
        let rest = &bytes[at..];
        for (marker, wanted) in markers.iter().enumerate() {
            let wanted = wanted.as_bytes();
            if rest[0] != wanted[0] {
                continue;
            }
            if rest.starts_with(wanted) {
                return Met::Marker { at, marker };
            }
            if wanted.starts_with(rest) {
                return Met::Maybe { at };
            }
        }
    }
    Met::Nothing
}

/// The marker that begins first in a `text` that is complete, with the byte offset of its
/// beginning.
pub(crate) fn find(text: &str, markers: &[&str]) -> Option<(usize, usize)> {
    let mut from = 0;
    loop {
        match scan(&text[from..], markers) {
            Met::Marker { at, marker } => return Some((from + at, marker)),
            Met::Nothing => return None,
            Met::Maybe { at } => {
                let undecided = text[from + at..].chars().next();
                from += at + undecided.map_or(1, char::len_utf8);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_marker_wins_and_a_possible_one_holds() {
        let markers = ["\n\n<x>", "<x>", "｜D｜"];
        for (text, want) in [
            ("", Met::Nothing),
            ("abc", Met::Nothing),
            ("a<x>", Met::Marker { at: 1, marker: 1 }),
            ("a\n\n<x>", Met::Marker { at: 1, marker: 0 }),
            ("a\n\n\n<x>", Met::Marker { at: 2, marker: 0 }),
            ("a\n\n<", Met::Maybe { at: 1 }),
            ("a\n<x>", Met::Marker { at: 2, marker: 1 }),
            ("a\n\n<y", Met::Nothing),
            ("é｜D", Met::Maybe { at: 2 }),
            ("é｜D｜", Met::Marker { at: 2, marker: 2 }),
        ] {
            assert_eq!(scan(text, &markers), want, "{text:?}");
        }
    }
}
