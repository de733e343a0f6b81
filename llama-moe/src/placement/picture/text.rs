//! Words and numbers of a picture: escaped, measured, rounded.

/// A text as XML content or attribute value.
///
/// What XML has no way to write, and what would turn the reading direction of the words
/// around it, becomes U+FFFD.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\t' | '\n' | '\r' => escaped.push(' '),
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                escaped.push('\u{fffd}');
            }
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// About how wide a text is in a sans-serif font of this size; rather more than less.
pub(super) fn width(text: &str, size: f64) -> f64 {
    text.chars().map(|c| advance(c) * size).sum()
}

/// The width of a character against the size of the font.
fn advance(c: char) -> f64 {
    match c {
        'i' | 'j' | 'l' | '.' | ',' | ':' | ';' | '|' | '\'' | '!' | ' ' => 0.34,
        'm' | 'w' | 'M' | 'W' | '%' | '@' | '_' => 0.92,
        'A'..='Z' => 0.72,
        c if c.is_ascii() => 0.62,
        _ => 1.0,
    }
}

/// A text cut to a width, with an ellipsis where something was cut off.
pub(crate) fn shorten(text: &str, size: f64, max: f64) -> String {
    let mut room = max;
    let mut fits = 0;
    for (start, c) in text.char_indices() {
        room -= advance(c) * size;
        if room < 0.0 {
            return format!("{}…", &text[..fits]);
        }
        // The ellipsis takes the place of what follows.
        if room >= size {
            fits = start + c.len_utf8();
        }
    }
    text.to_owned()
}

/// At most this many characters of a text.
pub(super) fn clip(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Bytes in the unit that reads best, with three digits: `12.1 GiB`.
pub(crate) fn bytes(bytes: u128) -> String {
    const UNITS: [&str; 9] = [
        "bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB",
    ];
    if bytes == 1 {
        return "1 byte".to_owned();
    }
    let mut value = bytes as f64;
    let mut unit = 0;
    // 1023.5 would be rounded to 1024.
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = match value {
        _ if unit == 0 => 0,
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// Bytes to the last one: `1,234,567 bytes`.
pub(super) fn exact_bytes(bytes: u128) -> String {
    let digits = bytes.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{grouped} {}", if bytes == 1 { "byte" } else { "bytes" })
}

/// A share in per cent: `56.7 %`.
pub(super) fn per_cent(part: u128, whole: u128) -> String {
    let share = if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64 * 100.0
    };
    if part > 0 && share < 0.05 {
        "< 0.1 %".to_owned()
    } else if part < whole && share >= 99.95 {
        "> 99.9 %".to_owned()
    } else {
        format!("{share:.1} %")
    }
}

/// Ascending numbers in few words: `3, 5–8`. After `max` groups it says how many more
/// numbers there are.
pub(super) fn ranges(numbers: &[u32], max: usize) -> String {
    let mut groups: Vec<(u32, u32)> = Vec::new();
    for &number in numbers {
        match groups.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(number) => *last = number,
            _ => groups.push((number, number)),
        }
    }
    let mut words: Vec<String> = groups
        .iter()
        .take(max)
        .map(|(first, last)| {
            if first == last {
                first.to_string()
            } else {
                format!("{first}–{last}")
            }
        })
        .collect();
    let left: u64 = groups
        .iter()
        .skip(max)
        .map(|(first, last)| u64::from(last - first) + 1)
        .sum();
    if left > 0 {
        words.push(format!("{left} more"));
    }
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_three_digits() {
        for (value, words) in [
            (0, "0 bytes"),
            (1, "1 byte"),
            (1023, "1023 bytes"),
            (1024, "1.00 KiB"),
            (10_240, "10.0 KiB"),
            (10 * 1024 * 1024 - 1, "10.0 MiB"),
            (1024 * 1024 - 1, "1.00 MiB"),
            (1 << 30, "1.00 GiB"),
            (850 << 20, "850 MiB"),
            (u128::from(u64::MAX), "16.0 EiB"),
        ] {
            assert_eq!(bytes(value), words);
        }
        assert!(bytes(u128::MAX).ends_with(" YiB"));
        assert_eq!(exact_bytes(1), "1 byte");
        assert_eq!(exact_bytes(123), "123 bytes");
        assert_eq!(exact_bytes(1_234_567), "1,234,567 bytes");
    }

    #[test]
    fn shares_are_never_all_or_nothing_by_rounding() {
        assert_eq!(per_cent(0, 0), "0.0 %");
        assert_eq!(per_cent(0, 10), "0.0 %");
        assert_eq!(per_cent(1, 3), "33.3 %");
        assert_eq!(per_cent(1, 1_000_000), "< 0.1 %");
        assert_eq!(per_cent(999_999, 1_000_000), "> 99.9 %");
        assert_eq!(per_cent(10, 10), "100.0 %");
    }

    #[test]
    fn ranges_join_neighbours() {
        assert_eq!(ranges(&[], 3), "");
        assert_eq!(ranges(&[3, 5, 6, 7, 8], 3), "3, 5–8");
        assert_eq!(ranges(&[1, 3, 5, 7, 8], 2), "1, 3, 3 more");
        assert_eq!(
            ranges(&[u32::MAX - 1, u32::MAX], 2),
            "4294967294–4294967295"
        );
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(shorten("CUDA0", 14.0, 100.0), "CUDA0");
        assert_eq!(shorten("", 14.0, 0.0), "");
        let cut = shorten("ééééééééé", 10.0, 50.0);
        assert_eq!(cut, "éééé…");
        assert!(width(&cut, 10.0) <= 50.0);
        assert_eq!(shorten("日本", 10.0, 5.0), "…");
        assert_eq!(clip("日本語", 2), "日本…");
        assert_eq!(clip("日本", 2), "日本");
    }

    #[test]
    fn escaped_text_is_xml() {
        assert_eq!(
            escape("<a href=\"x\">&'\u{0}\u{7}\u{85}\u{ffff}\u{202e}\n"),
            "&lt;a href=&quot;x&quot;&gt;&amp;&#39;\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd} "
        );
    }
}
