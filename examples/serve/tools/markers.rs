//! Marks in a text that comes in pieces.

/// The first mark in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found<'a> {
    /// The byte at which it begins.
    pub at: usize,
    /// The mark.
    pub marker: &'a str,
}

/// The first of these marks in the text.
pub fn first<'a>(text: &str, markers: &[&'a str]) -> Option<Found<'a>> {
    markers
        .iter()
        .filter_map(|marker| {
            Some(Found {
                at: text.find(marker)?,
                marker,
            })
        })
        .min_by_key(|found| found.at)
}

/// Bytes at the beginning of a text that cannot be part of a mark, whatever comes next. For a text
/// without a complete mark.
pub fn settled(text: &str, markers: &[&str]) -> usize {
    let may_begin = |at: usize| markers.iter().any(|marker| marker.starts_with(&text[at..]));
    text.char_indices()
        .map(|(at, _)| at)
        .rev()
        .take(markers.iter().map(|marker| marker.len()).max().unwrap_or(0))
        .filter(|&at| may_begin(at))
        .last()
        .unwrap_or(text.len())
}

/// Takes the bytes that are [`settled`].
pub fn take_settled(text: &mut String, markers: &[&str]) -> String {
    let rest = text.split_off(settled(text, markers));
    std::mem::replace(text, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_the_beginning_of_a_mark_is_kept() {
        for (text, settled, kept) in [
            ("", "", ""),
            ("plain", "plain", ""),
            ("a <tool", "a ", "<tool"),
            ("a <<", "a <", "<"),
            ("é<", "é", "<"),
            ("<tool_cat", "<tool_cat", ""),
        ] {
            let mut rest = text.to_owned();
            assert_eq!(take_settled(&mut rest, &["<tool_call>"]), settled);
            assert_eq!(rest, kept);
        }
        let found = Found { at: 1, marker: "c" };
        assert_eq!(first("acb", &["b", "c"]), Some(found));
        assert_eq!(first("acb", &["d"]), None);
    }
}
