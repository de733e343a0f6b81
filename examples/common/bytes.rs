//! Amounts of memory on the command line.

use std::fmt;
use std::str::FromStr;

/// An amount of memory: `8GiB`, `512MiB`, `1.5GiB`, `24GB`, or bytes without a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

const UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (number, unit) = UNITS
            .iter()
            .find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?.trim_end(), *bytes)))
            .unwrap_or((text, 1));
        let number: f64 = number.parse().map_err(|_| {
            "an amount of memory is a number with a unit: 8GiB, 512MiB, 24GB".to_owned()
        })?;
        if number < 0.0 || !number.is_finite() {
            return Err("an amount of memory is a finite number, 0 or more".to_owned());
        }
        let bytes = number * unit as f64;
        if bytes >= u64::MAX as f64 {
            return Err("more than can be counted in 64 bits".to_owned());
        }
        Ok(Self(bytes as u64))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} MiB", self.0 as f64 / (1u64 << 20) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_units() {
        let parse = |text: &str| text.parse::<Bytes>().map(|bytes| bytes.0);
        assert_eq!(parse("8GiB"), Ok(8 << 30));
        assert_eq!(parse("1.5 GiB"), Ok(3 << 29));
        assert_eq!(parse("24GB"), Ok(24_000_000_000));
        assert_eq!(parse("512MiB"), Ok(512 << 20));
        assert_eq!(parse("77"), Ok(77));
        assert_eq!(parse("77B"), Ok(77));
        for wrong in [
            "", "GiB", "-1GiB", "eight", "8 gigs", "inf", "nan", "1e30GiB",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
