//! Student's t distribution, for any number of degrees of freedom.
//!
//! With t = √ν · sinh(s / √ν) its density in s is cosh(s / √ν)^-ν, but for a factor: smooth
//! and soon nothing, whatever ν is, and for large ν the normal distribution's. So plain
//! quadrature is exact to ten digits, and the factor cancels out.

/// Where the density is nothing to 64 bits, even for one degree of freedom.
const END: f64 = 40.0;
/// Ten are enough for 95 %.
const STEPS_AT_MOST: usize = 50;
/// More degrees of freedom than make a difference.
const NORMAL: f64 = 1e9;

/// The t that so much of the distribution lies within, on both sides of 0: 12.706 for one
/// degree of freedom and a share of 0.95.
///
/// `degrees` is at least 1 and `share` between 0 and 1.
pub(super) fn two_sided(degrees: f64, share: f64) -> f64 {
    let degrees = degrees.clamp(1.0, NORMAL);
    let wanted = share * up_to(END, degrees);
    // Newton's method: the density falls, so from 0 on it never steps too far.
    let mut s = 0.0;
    for _ in 0..STEPS_AT_MOST {
        let step = (wanted - up_to(s, degrees)) / density(s, degrees);
        s += step;
        if step <= 1e-12 * s {
            break;
        }
    }
    let root = degrees.sqrt();
    root * (s / root).sinh()
}

/// How much of the distribution is farther from 0 than `t`, on both sides: 0.05 for a t of
/// 12.706 and one degree of freedom. To seven digits, and 0 below 10⁻¹⁵.
///
/// `degrees` is at least 1.
pub(super) fn beyond(t: f64, degrees: f64) -> f64 {
    let degrees = degrees.clamp(1.0, NORMAL);
    let root = degrees.sqrt();
    let s = root * (t.abs() / root).asinh();
    if s < END {
        // The tail itself: of 1 less the middle no digits would be left.
        between(s, END, degrees) / up_to(END, degrees)
    } else {
        0.0
    }
}

/// The density's integral from 0 to `end`.
fn up_to(end: f64, degrees: f64) -> f64 {
    between(0.0, end, degrees)
}

/// The density's integral, by Simpson's rule.
fn between(start: f64, end: f64, degrees: f64) -> f64 {
    const STEPS: u32 = 800;
    let width = (end - start) / f64::from(STEPS);
    let sum: f64 = (0..=STEPS)
        .map(|step| {
            let weight = match step {
                0 | STEPS => 1.0,
                odd if odd % 2 == 1 => 4.0,
                _ => 2.0,
            };
            weight * density(start + width * f64::from(step), degrees)
        })
        .sum();
    sum * width / 3.0
}

fn density(s: f64, degrees: f64) -> f64 {
    // cosh x = 1 + 2 sinh²(x / 2), which keeps its digits where x is small.
    let half = (0.5 * s / degrees.sqrt()).sinh();
    (-degrees * (2.0 * half * half).ln_1p()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_published_tables() {
        // Two-sided 95 %, 99 % and 90 %.
        for (degrees, share, t) in [
            (1.0, 0.95, 12.706_2),
            (2.0, 0.95, 4.302_65),
            (3.0, 0.95, 3.182_45),
            (4.0, 0.95, 2.776_45),
            (5.0, 0.95, 2.570_58),
            (9.0, 0.95, 2.262_16),
            (10.0, 0.95, 2.228_14),
            (30.0, 0.95, 2.042_27),
            (120.0, 0.95, 1.979_93),
            (1e12, 0.95, 1.959_964),
            (2.0, 0.99, 9.924_84),
            (4.0, 0.99, 4.604_09),
            (4.0, 0.90, 2.131_85),
        ] {
            let ours = two_sided(degrees, share);
            assert!((ours / t - 1.0).abs() < 3e-6, "{degrees}, {share}: {ours}");
        }
    }

    #[test]
    fn one_and_two_degrees_have_a_closed_form() {
        for share in [0.1, 0.5, 0.9, 0.95, 0.999] {
            let cauchy = (std::f64::consts::FRAC_PI_2 * share).tan();
            let two = share * (2.0 / (1.0 - share * share)).sqrt();
            assert!((two_sided(1.0, share) / cauchy - 1.0).abs() < 1e-9);
            assert!((two_sided(2.0, share) / two - 1.0).abs() < 1e-9);
        }
    }

    #[test]
    fn what_is_beyond_a_quantile_is_the_rest_of_its_share() {
        for degrees in [1.0, 2.5, 4.0, 17.776, 120.0, 1e12] {
            for share in [0.1, 0.5, 0.95, 0.999] {
                let rest = beyond(two_sided(degrees, share), degrees);
                assert!(
                    (rest - (1.0 - share)).abs() < 1e-7,
                    "{degrees}, {share}: {rest}"
                );
            }
            assert!((beyond(0.0, degrees) - 1.0).abs() < 1e-12);
            assert!(beyond(f64::INFINITY, degrees) < 1e-15);
        }
        // Of one and two degrees, in closed form, far from the middle too.
        for t in [0.5f64, 12.706, 1e3, 1e6] {
            let cauchy = 2.0 / std::f64::consts::PI * (1.0 / t).atan();
            let two = 2.0 / (t * t + 2.0) / (1.0 + t / (t * t + 2.0).sqrt());
            assert!((beyond(t, 1.0) / cauchy - 1.0).abs() < 1e-6, "{t}");
            assert!((beyond(-t, 2.0) / two - 1.0).abs() < 1e-6, "{t}");
        }
    }

    #[test]
    fn between_whole_numbers_it_falls_smoothly() {
        let quantiles: Vec<f64> = (10..60)
            .map(|n| two_sided(f64::from(n) / 10.0, 0.95))
            .collect();
        assert!(quantiles.is_sorted_by(|a, b| a > b));
    }
}
