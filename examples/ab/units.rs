//! Numbers as a reader wants them.

use llama_moe::measure::{Interval, Series};

const MIB: f64 = 1024.0 * 1024.0;
const GIB: f64 = 1024.0 * MIB;
/// Beyond these a number is written with an exponent.
const LARGE: f64 = 1e9;
const SMALL: f64 = 1e-3;

/// What is written where there is no number.
pub const NOT_MEASURED: &str = "not measured";

/// A number with so many decimals, or with an exponent where it is very large.
pub fn fixed(number: f64, decimals: usize) -> String {
    if number.abs() >= LARGE {
        return format!("{number:.3e}");
    }
    let text = format!("{number:.decimals$}");
    // -0.0 is how a small negative number is rounded.
    match text.strip_prefix('-') {
        Some(digits) if digits.bytes().all(|c| matches!(c, b'0' | b'.')) => digits.to_owned(),
        _ => text,
    }
}

/// A number with three digits or more.
pub fn number(number: f64) -> String {
    match number.abs() {
        0.0 => "0".to_owned(),
        size if size < SMALL => format!("{number:.2e}"),
        size if size < 1.0 => fixed(number, 3),
        size if size < 10.0 => fixed(number, 2),
        size if size < 100.0 => fixed(number, 1),
        _ => fixed(number, 0),
    }
}

/// Decimals that show two digits of the standard deviation, or three of a mean without one;
/// none for whole numbers that do not scatter.
pub fn decimals(series: &Series) -> usize {
    const MOST: f64 = 6.0;
    let deviation = series.std_dev().filter(|&deviation| deviation > 0.0);
    let scale = deviation.unwrap_or(0.1 * series.mean().abs());
    let is_whole = series.values().iter().all(|value| value.fract() == 0.0);
    if scale == 0.0 || (deviation.is_none() && is_whole) {
        return 0;
    }
    (1.0 - scale.log10().floor()).clamp(0.0, MOST) as usize
}

/// `12.34 ± 0.38`; of a single value `12.34 (no σ)`.
pub fn spread(series: &Series) -> String {
    let decimals = decimals(series);
    let mean = fixed(series.mean(), decimals);
    match series.std_dev() {
        Some(deviation) => format!("{mean} ± {}", fixed(deviation, decimals)),
        None => format!("{mean} (no σ)"),
    }
}

/// `[11.9, 12.8]`.
pub fn range(interval: &Interval, decimals: usize) -> String {
    let (low, high) = (
        fixed(interval.low, decimals),
        fixed(interval.high, decimals),
    );
    format!("[{low}, {high}]")
}

/// A series in another unit.
pub fn scaled(series: &Series, factor: f64) -> Option<Series> {
    Series::new(series.values().iter().map(|value| value * factor)).ok()
}

/// Bytes as MiB.
pub fn mib(bytes: f64) -> f64 {
    bytes / MIB
}

/// Bytes, in words.
pub fn bytes(bytes: f64) -> String {
    if bytes.abs() >= GIB {
        format!("{} GiB", number(bytes / GIB))
    } else {
        format!("{} MiB", number(bytes / MIB))
    }
}

/// Bytes per second, in GB/s of 10⁹ bytes.
pub fn bandwidth(rate: f64) -> String {
    format!("{} GB/s", number(rate / 1e9))
}

/// A share as per cent.
pub fn percent(share: f64) -> String {
    format!("{} %", number(100.0 * share))
}

/// A relative difference as per cent, with its sign.
pub fn signed_percent(share: f64) -> String {
    let sign = if share > 0.0 { "+" } else { "" };
    format!("{sign}{}", percent(share))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[f64]) -> Series {
        Series::new(values.iter().copied()).unwrap()
    }

    #[test]
    fn two_digits_of_the_deviation_are_shown() {
        let series = of(&[11.9, 12.1, 12.2, 12.4, 12.9]);
        assert_eq!(spread(&series), "12.30 ± 0.38");
        assert_eq!(range(&series.interval().unwrap(), 2), "[11.83, 12.77]");
        assert_eq!(spread(&of(&[1000.0, 1200.0, 1400.0])), "1200 ± 200");
    }

    #[test]
    fn a_single_value_and_equal_values_say_so() {
        assert_eq!(spread(&of(&[12.34])), "12.3 (no σ)");
        assert_eq!(spread(&of(&[2.5, 2.5])), "2.50 ± 0.00");
        assert_eq!(spread(&of(&[0.0, 0.0])), "0 ± 0");
        assert_eq!(spread(&of(&[6.0, 6.0])), "6 ± 0");
    }

    #[test]
    fn numbers_of_any_size_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (1.23e-7, "1.23e-7"),
            (0.12345, "0.123"),
            (1.2345, "1.23"),
            (12.345, "12.3"),
            (1234.5, "1234"),
            (1e300, "1.000e300"),
        ] {
            assert_eq!(number(value), text);
        }
        assert_eq!(fixed(-0.001, 1), "0.0");
        assert!(spread(&of(&[1e300, 1e300])).len() < 40);
        assert_eq!(bytes(3.0 * GIB), "3.00 GiB");
        assert_eq!(bytes(2.5 * MIB), "2.50 MiB");
    }
}
