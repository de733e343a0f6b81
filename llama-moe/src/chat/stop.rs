//! Stop strings in a stream of text.

use super::error::ChatError;

/// Lets text through until a stop string is complete.
///
/// Text that may be the beginning of a stop string is held back until it is decided. Where
/// several stop strings are possible, the one that is complete first ends the text, the
/// longest of those that end at the same place: so the result does not depend on how the
/// text comes in pieces.
#[derive(Debug)]
pub(crate) struct StopFilter {
    stops: Vec<String>,
    held: String,
}

/// What a piece of text led to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Filtered {
    /// What can be shown now.
    pub(crate) text: String,
    /// The stop string that is complete.
    pub(crate) stop: Option<String>,
}

/// Refuses stop strings that would stop everything.
pub(crate) fn check(stops: &[String]) -> Result<(), ChatError> {
    if stops.iter().any(String::is_empty) {
        return Err(ChatError::EmptyStopString);
    }
    Ok(())
}

impl StopFilter {
    /// A filter for stop strings that have been [checked](check).
    pub(crate) fn new(stops: &[String]) -> Self {
        Self {
            stops: stops.to_vec(),
            held: String::new(),
        }
    }

    /// Takes the next piece of text.
    pub(crate) fn push(&mut self, piece: &str) -> Filtered {
        self.held.push_str(piece);
        let complete = self
            .stops
            .iter()
            .filter_map(|stop| Some((self.held.find(stop.as_str())?, stop)))
            .min_by_key(|(start, stop)| (start + stop.len(), *start));
        if let Some((start, stop)) = complete {
            let stop = stop.clone();
            let mut text = std::mem::take(&mut self.held);
            text.truncate(start);
            return Filtered {
                text,
                stop: Some(stop),
            };
        }
        let open = self.open_from();
        let held = self.held.split_off(open);
        Filtered {
            text: std::mem::replace(&mut self.held, held),
            stop: None,
        }
    }

    /// What was held back, at the end of the text.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Where a stop string may have begun: everything before is decided.
    fn open_from(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        self.held
            .char_indices()
            .map(|(at, _)| at)
            .filter(|at| self.held.len() - at < longest)
            .find(|&at| {
                self.stops
                    .iter()
                    .any(|stop| stop.starts_with(&self.held[at..]))
            })
            .unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, Option<String>) {
        let stops: Vec<String> = stops.iter().map(|&stop| stop.to_owned()).collect();
        let mut filter = StopFilter::new(&stops);
        let mut shown = Vec::new();
        for piece in pieces {
            let filtered = filter.push(piece);
            shown.push(filtered.text);
            if filtered.stop.is_some() {
                return (shown, filtered.stop);
            }
        }
        shown.push(filter.finish());
        (shown, None)
    }

    #[test]
    fn text_without_stop_strings_passes_at_once() {
        assert_eq!(run(&[], &["a", "b"]).0, ["a", "b", ""]);
        assert_eq!(run(&["xyz"], &["a", "b"]).0, ["a", "b", ""]);
    }

    #[test]
    fn a_possible_beginning_is_held_until_decided() {
        let (shown, stop) = run(&["User:"], &["Hello U", "se", "ful", " User", ": no"]);
        assert_eq!(shown, ["Hello ", "", "Useful", " ", ""]);
        assert_eq!(stop.as_deref(), Some("User:"));
    }

    #[test]
    fn what_is_held_at_the_end_is_not_lost() {
        assert_eq!(run(&["\n\nUser"], &["end\n", "\n"]).0, ["end", "", "\n\n"]);
    }

    #[test]
    fn a_beginning_within_a_beginning_is_seen() {
        let (shown, stop) = run(&["aab"], &["a", "a", "a", "b"]);
        assert_eq!(shown.concat(), "a");
        assert_eq!(stop.as_deref(), Some("aab"));
    }

    #[test]
    fn the_stop_string_that_is_complete_first_wins() {
        for pieces in [&["xabcd"][..], &["x", "a", "b", "c", "d"], &["xab", "cd"]] {
            let (shown, stop) = run(&["abcd", "bc"], pieces);
            assert_eq!(shown.concat(), "xa");
            assert_eq!(stop.as_deref(), Some("bc"));
        }
        let (shown, stop) = run(&["bc", "abc"], &["xabc"]);
        assert_eq!(shown.concat(), "x");
        assert_eq!(stop.as_deref(), Some("abc"));
    }

    #[test]
    fn characters_of_several_bytes_stay_whole() {
        let (shown, stop) = run(&["ééà"], &["aé", "é", "é", "à!"]);
        assert_eq!(shown.concat(), "aé");
        assert_eq!(stop.as_deref(), Some("ééà"));
    }

    #[test]
    fn an_empty_stop_string_is_refused() {
        assert_eq!(
            check(&["a".into(), String::new()]),
            Err(ChatError::EmptyStopString)
        );
        assert_eq!(check(&["a".into()]), Ok(()));
    }
}
