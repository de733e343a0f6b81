//! Halves: IEEE 754's numbers of 16 bits.

/// The half that is nearest to a number, or the largest one.
pub(super) fn bits(value: f32) -> u16 {
    const MAX: f32 = 65_504.0;
    /// 2^-14: smaller halves are multiples of 2^-24.
    const MIN_NORMAL: f32 = 1.0 / 16_384.0;
    let sign = (value.to_bits() >> 16) as u16 & 0x8000;
    let magnitude = value.abs().min(MAX);
    if magnitude < MIN_NORMAL {
        return sign | (magnitude * 16_777_216.0).round_ties_even() as u16;
    }
    // The mantissa is 13 bits shorter, the exponent's bias 112 less.
    let bits = magnitude.to_bits() - (112 << 23);
    let rounded = bits + 0x0fff + ((bits >> 13) & 1);
    sign | (rounded >> 13) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_the_nearest_half() {
        for (value, expected) in [
            (0.0, 0x0000),
            (-0.0, 0x8000),
            (1.0, 0x3c00),
            (-2.0, 0xc000),
            (0.1, 0x2e66),
            (65_504.0, 0x7bff),
            (1e9, 0x7bff),
            (2f32.powi(-14), 0x0400),
            (2f32.powi(-24), 0x0001),
            (2f32.powi(-26), 0x0000),
            (1.0 + 2f32.powi(-11), 0x3c00),
            (1.0 + 3.0 * 2f32.powi(-11), 0x3c02),
        ] {
            assert_eq!(bits(value), expected, "{value}");
        }
    }
}
