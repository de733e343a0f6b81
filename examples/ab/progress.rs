//! How far a comparison is: a bar on a terminal, lines elsewhere. Both on stderr.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// How often what is shown moves.
const TICK: Duration = Duration::from_millis(250);

/// The kinds of processes, by how long they take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    WarmUp,
    Trial,
    Quality,
}

/// What goes on before it is known how much there is to do; shown on a terminal alone.
pub struct Spinner(Option<ProgressBar>);

impl Spinner {
    /// With nothing to say yet.
    pub fn new() -> Self {
        Self(io::stderr().is_terminal().then(|| {
            let spinner = ProgressBar::new_spinner();
            spinner.enable_steady_tick(TICK);
            spinner
        }))
    }

    /// This goes on now.
    pub fn stage(&self, stage: &str) {
        if let Some(spinner) = &self.0 {
            spinner.set_message(stage.to_owned());
        }
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        if let Some(spinner) = &self.0 {
            spinner.finish_and_clear();
        }
    }
}

/// The processes of a comparison.
pub struct Progress {
    /// `None` where stderr is no terminal.
    bar: Option<ProgressBar>,
    to_do: Vec<Kind>,
    done: Vec<(Kind, Duration)>,
    current: Option<(String, Instant)>,
}

impl Progress {
    /// Of these processes.
    pub fn new(to_do: Vec<Kind>) -> Self {
        let template = "[{bar:20}] {pos}/{len} {wide_msg}";
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(to_do.len() as u64).with_style(style);
            bar.enable_steady_tick(TICK);
            bar
        });
        Self {
            bar,
            to_do,
            done: Vec::new(),
            current: None,
        }
    }

    /// A process begins.
    pub fn begin(&mut self, what: String) {
        self.current = Some((what, Instant::now()));
        self.stage("starting");
    }

    /// The process that runs does something else now.
    pub fn stage(&self, stage: &str) {
        if let (Some(bar), Some((what, _))) = (&self.bar, &self.current) {
            // First, so that a narrow terminal does not cut it off.
            let left = match self.left() {
                Some(left) => format!("{} left, ", rounded(left)),
                None => String::new(),
            };
            bar.set_message(format!("{left}{what}: {stage}"));
        }
    }

    /// The process that ran is done; `failure` says why, if it gave nothing.
    pub fn end(&mut self, kind: Kind, failure: Option<&str>) {
        let Some((what, start)) = self.current.take() else {
            return;
        };
        let took = start.elapsed();
        self.skip(kind);
        if failure.is_none() {
            self.done.push((kind, took));
        }
        match (&self.bar, failure) {
            (Some(_), None) => {}
            (_, None) => self.say(&format!("{what}: {:.1} s", took.as_secs_f64())),
            (_, Some(failure)) => self.say(&format!("{what}: failed: {failure}")),
        }
    }

    /// A process is not needed.
    pub fn skip(&mut self, kind: Kind) {
        if let Some(index) = self.to_do.iter().position(|to_do| *to_do == kind) {
            self.to_do.remove(index);
        }
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
    }

    /// A line that stays.
    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            // Where stderr is gone there is nobody to tell.
            None => drop(writeln!(io::stderr(), "{line}")),
        }
    }

    /// Time left, if those to come take as long as those of their kind did; `None` before there
    /// is one.
    fn left(&self) -> Option<Duration> {
        let mean = |of: &dyn Fn(Kind) -> bool| {
            let times: Vec<Duration> = self
                .done
                .iter()
                .filter(|(kind, _)| of(*kind))
                .map(|(_, time)| *time)
                .collect();
            let n = u32::try_from(times.len()).ok().filter(|n| *n > 0)?;
            Some(times.iter().sum::<Duration>() / n)
        };
        let any = mean(&|_| true)?;
        let times = self
            .to_do
            .iter()
            .map(|kind| mean(&|known| known == *kind).unwrap_or(any));
        let all: Duration = times.sum();
        let begun = self.current.as_ref().map(|(_, start)| start.elapsed());
        Some(all.saturating_sub(begun.unwrap_or_default()))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// As a person would say it.
fn rounded(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..90 => format!("{seconds} s"),
        seconds @ 90..5400 => format!("{} min", (seconds + 30) / 60),
        seconds => format!("{:.1} h", seconds as f64 / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_left_is_that_of_those_to_come() {
        let second = Duration::from_secs(1);
        let mut progress = Progress {
            bar: None,
            to_do: vec![Kind::Trial, Kind::Trial, Kind::Quality],
            done: Vec::new(),
            current: None,
        };
        assert_eq!(progress.left(), None);
        progress.done.push((Kind::WarmUp, second));
        assert_eq!(progress.left(), Some(3 * second));
        progress.done.push((Kind::Trial, 5 * second));
        // Two trials of 5 s, and one of the mean of all.
        assert_eq!(progress.left(), Some(13 * second));
    }

    #[test]
    fn times_are_rounded() {
        let said = |seconds| rounded(Duration::from_secs(seconds));
        assert_eq!([said(5), said(100), said(9000)], ["5 s", "2 min", "2.5 h"]);
    }
}
