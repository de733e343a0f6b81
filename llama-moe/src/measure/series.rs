//! Repetitions of a measurement, and what they say.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::error::MeasureError;
use super::student;

/// How much of the distribution an interval covers.
const CONFIDENCE: f64 = 0.95;

/// Repetitions of one measurement, with each value kept.
///
/// Printed, it is mean ± standard deviation, rounded to what the deviation leaves certain, or
/// to the precision that is asked for.
///
/// ```
/// use llama_moe::measure::Series;
///
/// let series = Series::new([11.9, 12.1, 12.2, 12.4, 12.9])?;
/// assert_eq!(series.to_string(), "12.3 ± 0.4 (N = 5)");
/// assert_eq!(format!("{series:.2}"), "12.30 ± 0.38 (N = 5)");
/// assert_eq!(series.median(), 12.2);
/// # Ok::<(), llama_moe::Error>(())
/// ```
///
/// As JSON it is the list of its values; a list that could not be made is refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<f64>", into = "Vec<f64>")]
pub struct Series {
    values: Vec<f64>,
}

/// A range that holds the true value with 95 % confidence, if repetitions do not depend on each
/// other and scatter normally.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Its lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

/// How far the means of two series are apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MeanDifference {
    /// The mean less that of the base.
    pub difference: f64,
    /// The difference's 95 % confidence interval, by Welch's method: neither the deviations nor
    /// the numbers of values have to be equal.
    pub interval: Interval,
    /// Degrees of freedom by Welch and Satterthwaite. `None` where neither series scatters.
    pub degrees_of_freedom: Option<f64>,
    /// The probability of a difference at least this large, to either side, between series of the
    /// same thing: Welch's t test. `None` where neither series scatters: a difference is then
    /// exact, and nothing is to be tested. See [`holm`](super::holm) for more than one.
    pub p_value: Option<f64>,
    /// The difference as a part of the base's mean: 0.05 is 5 % more. `None` for a mean of 0.
    pub relative: Option<f64>,
}

impl Series {
    /// A series of these values, in the order in which they were measured.
    ///
    /// # Errors
    /// [`MeasureError::NoValues`] and [`MeasureError::NotFinite`].
    pub fn new(values: impl IntoIterator<Item = f64>) -> Result<Self, MeasureError> {
        let values: Vec<f64> = values.into_iter().collect();
        if values.is_empty() {
            return Err(MeasureError::NoValues);
        }
        match values.iter().position(|value| !value.is_finite()) {
            Some(index) => Err(MeasureError::NotFinite {
                index,
                value: values[index],
            }),
            None => Ok(Self { values }),
        }
    }

    /// The values, in the order in which they were measured.
    #[must_use]
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// How many there are (N).
    #[must_use]
    pub fn n(&self) -> usize {
        self.values.len()
    }

    /// Their mean.
    #[must_use]
    pub fn mean(&self) -> f64 {
        let mean = self.values.iter().sum::<f64>() / self.values.len() as f64;
        // Rounding must not make equal values scatter.
        mean.clamp(self.min(), self.max())
    }

    /// The sample standard deviation σ, with N - 1 in the denominator. `None` for a single value,
    /// which says nothing about it.
    #[must_use]
    pub fn std_dev(&self) -> Option<f64> {
        let degrees = self.n().checked_sub(1).filter(|&degrees| degrees > 0)?;
        let mean = self.mean();
        let squares = self.values.iter().map(|value| (value - mean).powi(2));
        Some((squares.sum::<f64>() / degrees as f64).sqrt())
    }

    /// The mean's 95 % confidence interval: Student's t with N - 1 degrees of freedom. `None` for
    /// a single value.
    #[must_use]
    pub fn interval(&self) -> Option<Interval> {
        let error = self.std_dev()? / (self.n() as f64).sqrt();
        let degrees = (self.n() - 1) as f64;
        Some(Interval::around(self.mean(), error, degrees))
    }

    /// The smallest value.
    #[must_use]
    pub fn min(&self) -> f64 {
        self.values.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// The largest value.
    #[must_use]
    pub fn max(&self) -> f64 {
        self.values
            .iter()
            .copied()
            .fold(f64::NEG_INFINITY, f64::max)
    }

    /// The 50th percentile.
    #[must_use]
    pub fn median(&self) -> f64 {
        self.at_rank(0.5)
    }

    /// The value that `percent` of the values are below: between two of them, linearly (the
    /// (N - 1) · percent / 100-th in their order, counted from 0; Hyndman and Fan's type 7, as
    /// NumPy and R do it by default). `None` if `percent` is not from 0 to 100.
    ///
    /// The 95th of fewer than 20 values rests on the largest two alone.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> Option<f64> {
        let share = percent / 100.0;
        (0.0..=1.0).contains(&share).then(|| self.at_rank(share))
    }

    fn at_rank(&self, share: f64) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let last = sorted.len() - 1;
        let rank = share * last as f64;
        let below = (rank as usize).min(last);
        let above = (below + 1).min(last);
        sorted[below] + (rank - below as f64) * (sorted[above] - sorted[below])
    }

    /// How far this series' mean is from another's, the base's. `None` if either has a single
    /// value.
    ///
    /// One of twenty comparisons of equals is significant at 95 % confidence: who compares many
    /// things will find some. [`holm`](super::holm) says which of many are.
    #[must_use]
    pub fn difference(&self, base: &Self) -> Option<MeanDifference> {
        let spread = |series: &Self| {
            let variance = series.std_dev()?.powi(2);
            Some((variance / series.n() as f64, (series.n() - 1) as f64))
        };
        let (ours, our_degrees) = spread(self)?;
        let (theirs, their_degrees) = spread(base)?;
        let both = ours + theirs;
        // As shares of the sum: squares of small variances would be 0.
        let denominator =
            (ours / both).powi(2) / our_degrees + (theirs / both).powi(2) / their_degrees;
        let degrees_of_freedom = (both > 0.0).then(|| 1.0 / denominator);
        let difference = self.mean() - base.mean();
        let relative = difference / base.mean();
        Some(MeanDifference {
            difference,
            interval: match degrees_of_freedom {
                Some(degrees) => Interval::around(difference, both.sqrt(), degrees),
                None => Interval {
                    low: difference,
                    high: difference,
                },
            },
            degrees_of_freedom,
            p_value: degrees_of_freedom
                .map(|degrees| student::beyond(difference / both.sqrt(), degrees)),
            relative: relative.is_finite().then_some(relative),
        })
    }
}

impl Interval {
    fn around(middle: f64, standard_error: f64, degrees: f64) -> Self {
        let reach = student::two_sided(degrees, CONFIDENCE) * standard_error;
        Self {
            low: middle - reach,
            high: middle + reach,
        }
    }

    /// Whether a value is in it, its ends included.
    #[must_use]
    pub fn contains(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }

    /// Half its width: the number after the ±.
    #[must_use]
    pub fn half_width(&self) -> f64 {
        0.5 * (self.high - self.low)
    }
}

impl MeanDifference {
    /// Whether the interval leaves out 0: a difference at 95 % confidence.
    #[must_use]
    pub fn is_significant(&self) -> bool {
        self.interval.low > 0.0 || self.interval.high < 0.0
    }
}

impl TryFrom<Vec<f64>> for Series {
    type Error = MeasureError;

    fn try_from(values: Vec<f64>) -> Result<Self, MeasureError> {
        Self::new(values)
    }
}

impl From<Series> for Vec<f64> {
    fn from(series: Series) -> Self {
        series.values
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mean, n) = (self.mean(), self.n());
        let decimals = f.precision();
        match self.std_dev() {
            Some(deviation) => {
                let scale = if deviation > 0.0 { deviation } else { mean };
                let decimals = decimals.unwrap_or_else(|| decimals_of(scale));
                write!(f, "{mean:.decimals$} ± {deviation:.decimals$} (N = {n})")
            }
            None => {
                // Nothing says how many digits are certain.
                let decimals = decimals.unwrap_or_else(|| decimals_of(mean) + 2);
                write!(f, "{mean:.decimals$} (N = {n})")
            }
        }
    }
}

/// Decimals that show one digit of a number, and two where the first is a 1.
fn decimals_of(number: f64) -> usize {
    const MOST: f64 = 12.0;
    let number = number.abs();
    if number == 0.0 {
        return 1;
    }
    let exponent = number.log10().floor();
    let starts_with_one = number / 10f64.powf(exponent) < 2.0;
    (-exponent + f64::from(u8::from(starts_with_one))).clamp(0.0, MOST) as usize
}
