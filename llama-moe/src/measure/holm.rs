//! Many comparisons at once.

/// Adjusts the p-values of comparisons that are looked at together, by Holm's method: who calls
/// those significant whose adjusted value is at most α calls none of equals so in 1 - α of all
/// cases, whatever the comparisons have to do with each other.
///
/// The smallest of m values counts m times, the next m - 1 times, and so on; none becomes smaller
/// than one before it, or larger than 1. They are returned in the order in which they were given.
/// What is no number counts as 1.
///
/// ```
/// use llama_moe::measure::holm;
///
/// assert_eq!(holm(&[0.5, 0.0078125, 0.25]), [0.5, 0.0234375, 0.5]);
/// ```
#[must_use]
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let known = |p: f64| if p.is_nan() { 1.0 } else { p };
    let mut ascending: Vec<usize> = (0..p_values.len()).collect();
    ascending.sort_by(|&a, &b| known(p_values[a]).total_cmp(&known(p_values[b])));
    let mut adjusted = vec![1.0; p_values.len()];
    let mut largest = 0.0f64;
    for (rank, index) in ascending.into_iter().enumerate() {
        let times = (p_values.len() - rank) as f64;
        largest = largest.max(times * known(p_values[index])).min(1.0);
        adjusted[index] = largest;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_adjusted_as_published() {
        // The example of the method in most textbooks, and as R's p.adjust has it.
        let adjusted = holm(&[0.01, 0.04, 0.03, 0.005]);
        for (ours, published) in adjusted.iter().zip([0.03, 0.06, 0.06, 0.02]) {
            assert!((ours - published).abs() < 1e-12, "{adjusted:?}");
        }
        assert!(holm(&[]).is_empty());
        assert_eq!(holm(&[0.25]), [0.25]);
        assert_eq!(holm(&[0.75, 0.5, 1.0]), [1.0, 1.0, 1.0]);
    }

    #[test]
    fn what_is_no_number_is_not_significant() {
        assert_eq!(holm(&[f64::NAN, 0.25, -f64::NAN]), [1.0, 0.75, 1.0]);
        assert_eq!(holm(&[f64::INFINITY, 0.0]), [1.0, 0.0]);
    }
}
