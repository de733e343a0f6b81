//! The table, with each figure beside the bound it is held to.

use crate::Turn;
use crate::load::{Load, Outside};

const MIN_THROUGHPUT: f64 = 1.0;
const MAX_TTFT_P95: f64 = 1.0;
const MAX_OUTSIDE: f64 = 0.02;
const MAX_PREFIX: f64 = 0.10;

/// What all turns showed: of `examples/serve`, and of llama.cpp's server if it takes part.
pub struct Report {
    /// Clients at a time, in the order of a turn's loads.
    clients: Vec<usize>,
    turns: Vec<Vec<Turn>>,
}

/// What a ratio of the two servers is held to.
enum Bound {
    AtLeast(f64),
    AtMost(f64),
    None,
}

impl Report {
    pub fn new(programs: usize, clients: Vec<usize>) -> Self {
        Self {
            clients,
            turns: (0..programs).map(|_| Vec::new()).collect(),
        }
    }

    pub fn add(&mut self, program: usize, turn: Turn) {
        self.turns[program].push(turn);
    }

    /// Prints the table; whether the bounds are met.
    pub fn print(&self) -> bool {
        println!(
            "{:<26} {:>7} {:>18} {:>18} {:>15}",
            "", "clients", "serve", "llama-server", "ratio"
        );
        let mut met = true;
        let throughput = Bound::AtLeast(MIN_THROUGHPUT);
        met &= self.print_rows("throughput, tokens/s", |load| load.throughput, &throughput);
        met &= self.print_rows("TTFT p50, ms", |load| load.ttft_p50, &Bound::None);
        let ttft = Bound::AtMost(MAX_TTFT_P95);
        met &= self.print_rows("TTFT p95, ms", |load| load.ttft_p95, &ttft);
        met &= self.print_outside();
        met &= self.print_prefix();
        self.print_work();
        met
    }

    /// Prints a row for each number of clients.
    fn print_rows(&self, name: &str, value: fn(&Load) -> f64, bound: &Bound) -> bool {
        let mut met = true;
        for (index, clients) in self.clients.iter().enumerate() {
            let values = self.turns.iter().map(|turns| {
                let values = turns.iter().map(|turn| value(&turn.loads[index]));
                values.collect::<Vec<f64>>()
            });
            let values: Vec<_> = values.collect();
            print!("{name:<26} {clients:>7}");
            met &= print_values(&values, bound);
        }
        met
    }

    fn print_outside(&self) -> bool {
        let mut met = true;
        for (index, clients) in self.clients.iter().enumerate() {
            let shares = self.turns[0].iter().map(|turn| turn.loads[index].outside);
            let shares = shares.map(|outside| outside.map(Outside::sum));
            print!("{:<26} {clients:>7}", "CPU outside llama.cpp, %");
            match shares.collect::<Option<Vec<f64>>>() {
                Some(shares) => met &= print_shares(&shares, MAX_OUTSIDE, None),
                None => println!(" skipped: this system does not tell"),
            }
        }
        met
    }

    fn print_prefix(&self) -> bool {
        let of = |turns: &Vec<Turn>| turns.iter().map(|turn| turn.prefix).collect::<Vec<_>>();
        print!("{:<26} {:>7}", "second TTFT of first, %", 1);
        let other = self.turns.get(1).map(of);
        print_shares(&of(&self.turns[0]), MAX_PREFIX, other.as_deref())
    }

    /// Whether both had the same to do.
    fn print_work(&self) {
        let sum = |of: fn(&Load) -> u64| {
            let sums = self.turns.iter().map(|turns| {
                let loads = turns.iter().flat_map(|turn| &turn.loads);
                loads.map(of).sum::<u64>().to_string()
            });
            sums.collect::<Vec<_>>().join(" and ")
        };
        println!(
            "tokens of all prompts: {}, of which not computed: {}",
            sum(|load| load.prompt_tokens),
            sum(|load| load.cached_tokens)
        );
    }
}

/// Ends a line with the values of each server, and the ratio of each turn beside its bound.
fn print_values(values: &[Vec<f64>], bound: &Bound) -> bool {
    for values in values {
        print!(" {:>18}", spread(values, 1));
    }
    let [ours, theirs] = values else {
        println!();
        return true;
    };
    let ratios = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs);
    let ratios: Vec<f64> = ratios.collect();
    let (ratio, _) = mean(&ratios);
    print!(" {:>15}", spread(&ratios, 3));
    let (words, met) = match *bound {
        Bound::AtLeast(bound) => (format!("at least {bound}"), ratio >= bound),
        Bound::AtMost(bound) => (format!("at most {bound}"), ratio <= bound),
        Bound::None => {
            println!();
            return true;
        }
    };
    println!("  {words}: {}", verdict(met));
    met
}

/// Ends a line with shares of `serve`, in per cent, that are below a bound; and those of the
/// other server.
fn print_shares(shares: &[f64], bound: f64, other: Option<&[f64]>) -> bool {
    let text = |shares: &[f64]| {
        let shares: Vec<f64> = shares.iter().map(|share| 100.0 * share).collect();
        spread(&shares, 2)
    };
    let met = mean(shares).0 < bound;
    println!(
        " {:>18} {:>18} {:>15}  below {}: {}",
        text(shares),
        other.map(text).unwrap_or_default(),
        "",
        100.0 * bound,
        verdict(met)
    );
    met
}

/// Mean ± standard deviation; of a single value nothing is known of the latter.
fn spread(values: &[f64], decimals: usize) -> String {
    let (mean, sigma) = mean(values);
    if values.len() > 1 {
        format!("{mean:.decimals$} ± {sigma:.decimals$}")
    } else {
        format!("{mean:.decimals$}")
    }
}

/// Mean and standard deviation.
fn mean(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (n - 1.0).max(1.0)).sqrt())
}

/// The value that a share of the values are below: between two of them, linearly.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    let rank = share * last as f64;
    let (below, above) = (rank as usize, (rank as usize + 1).min(last));
    let value = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    value(below) + (rank - below as f64) * (value(above) - value(below))
}

pub fn verdict(met: bool) -> &'static str {
    if met { "ok" } else { "MISSED" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_between_the_values() {
        let values = [30.0, 10.0, 20.0, 50.0, 40.0];
        assert_eq!(percentile(&values, 0.0), 10.0);
        assert_eq!(percentile(&values, 0.5), 30.0);
        assert_eq!(percentile(&values, 0.95), 48.0);
        assert_eq!(percentile(&values, 1.0), 50.0);
        assert_eq!(percentile(&[7.0], 0.95), 7.0);
        assert!(percentile(&[], 0.5).is_nan());
    }

    #[test]
    fn a_single_value_has_no_spread() {
        assert_eq!(spread(&[2.0], 1), "2.0");
        assert_eq!(spread(&[1.0, 2.0, 3.0], 2), "2.00 ± 1.00");
    }

    #[test]
    fn bounds_are_held_to_the_mean_of_the_turns() {
        let values = |ours: [f64; 2]| [ours.to_vec(), vec![100.0, 100.0]];
        assert!(print_values(&values([99.0, 101.0]), &Bound::AtLeast(1.0)));
        assert!(!print_values(&values([99.0, 100.0]), &Bound::AtLeast(1.0)));
        assert!(print_values(&values([99.0, 100.0]), &Bound::AtMost(1.0)));
        assert!(!print_values(&values([100.0, 101.0]), &Bound::AtMost(1.0)));
        assert!(!print_shares(&[0.01, 0.03], 0.02, None));
    }
}
