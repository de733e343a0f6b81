//! From numbers to pixels, with round numbers beside.

use crate::units::{fixed, number};

/// An axis.
#[derive(Clone, Debug)]
pub struct Scale {
    low: f64,
    high: f64,
    is_log: bool,
    /// Where the low end is, and the high.
    pixels: (f64, f64),
    /// The numbers beside it.
    pub ticks: Vec<f64>,
}

impl Scale {
    /// From 0 up to a number that is not below the largest, with few ticks.
    pub fn from_zero(largest: f64, pixels: (f64, f64)) -> Self {
        const TICKS: f64 = 4.0;
        let largest = if largest.is_finite() && largest > 0.0 {
            largest
        } else {
            1.0
        };
        let rough = largest / TICKS;
        let power = 10f64.powf(rough.log10().floor());
        let factors = [1.0, 2.0, 2.5, 5.0, 10.0];
        let factor = factors.into_iter().find(|factor| factor * power >= rough);
        let step = factor.unwrap_or(10.0) * power;
        let count = (largest / step).ceil().clamp(1.0, 5.0);
        Self {
            low: 0.0,
            high: step * count,
            is_log: false,
            pixels,
            ticks: (0..=count as u32)
                .map(|tick| step * f64::from(tick))
                .collect(),
        }
    }

    /// A logarithmic one around numbers above 0.
    pub fn log(smallest: f64, largest: f64, pixels: (f64, f64)) -> Self {
        let exponent = |value: f64| value.clamp(1e-9, 1e15).log10();
        let (low, high) = (exponent(smallest).floor(), exponent(largest).ceil());
        let high = high.max(low + 1.0);
        // Every power, or every second of many.
        let step = ((high - low) / 4.0).ceil() as usize;
        let powers = (low as i32..=high as i32).step_by(step.max(1));
        Self {
            low,
            high,
            is_log: true,
            pixels,
            ticks: powers.map(|power| 10f64.powi(power)).collect(),
        }
    }

    /// Where a number is. What is beyond an end is at it.
    pub fn at(&self, value: f64) -> f64 {
        let value = if self.is_log {
            value.max(f64::MIN_POSITIVE).log10()
        } else {
            value
        };
        let share = ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        let (start, end) = self.pixels;
        start + share * (end - start)
    }

    /// What is written beside a tick.
    pub fn label(&self, tick: f64) -> String {
        if self.is_log {
            return if (1.0..1e6).contains(&tick) {
                fixed(tick, 0)
            } else {
                number(tick)
            };
        }
        let step = self.ticks.get(1).copied().unwrap_or(1.0);
        if self.high >= 1e6 || step < 1e-3 {
            return number(tick);
        }
        // As many decimals as the step has: 2.5 has one, 0.25 two.
        let decimals = (0..4).find(|&decimals| {
            let scaled = step * 10f64.powi(decimals);
            (scaled - scaled.round()).abs() < 1e-6 * scaled
        });
        fixed(tick, decimals.unwrap_or(4) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scale: &Scale) -> Vec<String> {
        scale.ticks.iter().map(|tick| scale.label(*tick)).collect()
    }

    #[test]
    fn ticks_are_round_and_few() {
        let scale = Scale::from_zero(94.3, (0.0, 100.0));
        assert_eq!(labels(&scale), ["0", "25", "50", "75", "100"]);
        assert_eq!(scale.at(50.0), 50.0);
        let scale = Scale::from_zero(0.9, (100.0, 0.0));
        assert_eq!(labels(&scale), ["0.00", "0.25", "0.50", "0.75", "1.00"]);
        assert_eq!((scale.at(-1.0), scale.at(2.0)), (100.0, 0.0));
    }

    #[test]
    fn powers_are_the_ticks_of_a_log_scale() {
        let scale = Scale::log(12.0, 3400.0, (0.0, 300.0));
        assert_eq!(labels(&scale), ["10", "100", "1000", "10000"]);
        assert!((scale.at(100.0) - 100.0).abs() < 1e-9);
    }

    #[test]
    fn any_number_has_a_scale() {
        for largest in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-300, 1e300, f64::MAX] {
            let scale = Scale::from_zero(largest, (0.0, 1.0));
            assert!((2..=6).contains(&scale.ticks.len()), "{largest}");
            assert!(scale.at(largest).is_finite() || largest.is_nan());
            let scale = Scale::log(largest, largest, (0.0, 1.0));
            assert!(scale.ticks.len() <= 6, "{largest}");
        }
    }
}
