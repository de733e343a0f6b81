//! Plans beside llama.cpp's own fit: the time that each takes, and what each puts on the
//! device. `llama-moe/measure-plan` runs it and says what it is held to.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{env, error};

use llama_moe::gguf::Role;
use llama_moe::gguf::synth::{NamedShape, Synth};
use llama_moe::{Backend, Budget, Device, ModelParams, PlanError, Planner, Preview};

mod fit;
#[path = "../../tests/support/worker.rs"]
#[allow(dead_code)] // The tests use more of it.
mod worker;

use fit::{cpu_time, fit};

type Result<T> = std::result::Result<T, Box<dyn error::Error>>;

const BUDGETS_GIB: [u64; 4] = [8, 12, 24, 80];
const N_CTX: u32 = 4096;
/// More system memory than any of the shapes takes.
const RAM: u64 = 1 << 50;

/// Plans are at least so many times faster.
const MIN_RATIO: f64 = 10.0;
const MAX_PREVIEW: Duration = Duration::from_millis(50);
const N_PREVIEWS: usize = 5;

fn main() -> ExitCode {
    worker::serve_if_asked();
    // Cargo adds an option of its own.
    let repetitions = env::args().skip(1).find_map(|arg| arg.parse().ok());
    match run(repetitions.unwrap_or(3)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// A model and a budget, and what was measured with them.
struct Case {
    shape: NamedShape,
    path: PathBuf,
    budget: u64,
    /// Seconds of CPU time and of the clock, per repetition.
    fit: Vec<[f64; 2]>,
    plan: Vec<[f64; 2]>,
    /// What is on the device; `None` where nothing fits.
    fitted: Option<OnDevice>,
    planned: Option<OnDevice>,
}

/// Bytes of weights on the device.
#[derive(Clone, Copy)]
struct OnDevice {
    experts: u64,
    /// Of layers: attention, router, shared experts, dense feed-forward.
    others: u64,
}

fn run(repetitions: usize) -> Result<bool> {
    let backend = Backend::init()?;
    let device = worker::large_worker().device;
    let folder = tempfile::tempdir()?;
    let mut cases = cases(folder.path(), device)?;
    for _ in 0..repetitions.max(1) {
        for case in &mut cases {
            case.measure(&backend, device)?;
        }
    }
    let mut met = report(&cases);
    met &= preview(&backend, folder.path(), device)?;
    Ok(met)
}

fn cases(folder: &Path, device: Device) -> Result<Vec<Case>> {
    let total = device.memory().total;
    let mut cases = Vec::new();
    for shape in NamedShape::ALL {
        let path = path_of(folder, shape);
        Synth::new(shape).sparse().write(&path)?;
        for gib in BUDGETS_GIB {
            if gib << 30 <= total {
                cases.push(Case {
                    shape,
                    path: path.clone(),
                    budget: gib << 30,
                    fit: Vec::new(),
                    plan: Vec::new(),
                    fitted: None,
                    planned: None,
                });
            }
        }
    }
    for gib in BUDGETS_GIB {
        if gib << 30 > total {
            println!("skipped: {gib} GiB, the device has {} GiB", total >> 30);
        }
    }
    Ok(cases)
}

fn path_of(folder: &Path, shape: NamedShape) -> PathBuf {
    folder.join(format!("{shape}.gguf"))
}

/// The seconds of CPU time and of the clock that something takes.
fn timed<T>(action: impl FnOnce() -> T) -> (T, [f64; 2]) {
    let (start, cpu) = (Instant::now(), cpu_time());
    let value = action();
    let cpu = cpu_time() - cpu;
    (value, [cpu.as_secs_f64(), start.elapsed().as_secs_f64()])
}

impl Case {
    fn measure(&mut self, backend: &Backend, device: Device) -> Result<()> {
        let margin = device.memory().free.saturating_sub(self.budget);
        let (fitted, time) = timed(|| fit(&self.path, N_CTX, margin));
        self.fit.push(time);
        self.fitted = match fitted? {
            Some(params) => Some(on_device(backend, &self.path, params, device)?),
            None => None,
        };

        let budget = Budget::devices([(device, self.budget)]).with_ram(RAM);
        let (plan, time) = timed(|| {
            Planner::new(backend, &*self.path)?
                .with_n_ctx(N_CTX)
                .fit(&budget)
        });
        self.plan.push(time);
        self.planned = match plan {
            Ok(plan) => Some(on_device(backend, &self.path, plan.into(), device)?),
            Err(llama_moe::Error::Plan(PlanError::DoesNotFit { .. })) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(())
    }

    fn has_fewer_experts(&self) -> bool {
        self.planned.map(|on| on.experts) < self.fitted.map(|on| on.experts)
    }

    /// Bytes of attention and the like that a fit leaves in system memory and a plan does not.
    fn left_by_fit(&self) -> u64 {
        let others = |on: Option<OnDevice>| on.map_or(0, |on| on.others);
        others(self.planned).saturating_sub(others(self.fitted))
    }

    /// Whether it is for what a plan has to put on the device before experts that it has
    /// fewer of them than the fit.
    fn makes_up_for_it(&self) -> bool {
        let all = |on: Option<OnDevice>| on.map_or(0, |on| on.experts + on.others);
        self.left_by_fit() > 0 && all(self.planned) >= all(self.fitted)
    }
}

/// What parameters put on the device, as a preview has it.
fn on_device(
    backend: &Backend,
    path: &Path,
    params: ModelParams,
    device: Device,
) -> Result<OnDevice> {
    let preview = Preview::new(backend, path, &params.with_devices([device]))?;
    let mut on = OnDevice {
        experts: 0,
        others: 0,
    };
    for tensor in preview.tensors() {
        if tensor.device != Some(device) {
            continue;
        }
        match tensor.role {
            Role::RoutedExpert => on.experts += tensor.allocated,
            _ => on.others += tensor.allocated,
        }
    }
    Ok(on)
}

/// Prints the table; whether the bounds are met.
fn report(cases: &[Case]) -> bool {
    println!(
        "{:<17} {:>6}  {:>15} {:>15} {:>7}  {:>15} {:>15} {:>7}  {:>9} {:>9}",
        "",
        "GiB",
        "fit, CPU ms",
        "plan, CPU ms",
        "ratio",
        "fit, ms",
        "plan, ms",
        "ratio",
        "fit, MiB",
        "plan, MiB"
    );
    let mut least = f64::INFINITY;
    let mut totals = [[0.0; 2]; 2];
    let (mut n_fewer, mut n_less_fitted) = (0, 0);
    for case in cases {
        print!("{:<17} {:>6}", case.shape, case.budget >> 30);
        for (clock, totals) in totals.iter_mut().enumerate() {
            let [(fit, fit_sigma), (plan, plan_sigma)] =
                [&case.fit, &case.plan].map(|times| mean(times, clock));
            totals[0] += fit;
            totals[1] += plan;
            let ratio = fit / plan;
            if clock == 0 {
                least = least.min(ratio);
            }
            print!(
                "  {fit:>7.1} +- {fit_sigma:>4.1} {plan:>7.1} +- {plan_sigma:>4.1} {ratio:>7.1}"
            );
        }
        let mib = |on: Option<OnDevice>| match on {
            Some(on) => format!("{:.1}", mib(on.experts)),
            None => "-".to_owned(),
        };
        print!("  {:>9} {:>9}", mib(case.fitted), mib(case.planned));
        if case.has_fewer_experts() {
            if case.makes_up_for_it() {
                n_less_fitted += 1;
                let left = self::mib(case.left_by_fit());
                print!("  fit leaves {left:.1} MiB of attention and the like off the device");
            } else {
                n_fewer += 1;
                print!("  FEWER");
            }
        }
        println!();
    }
    let [cpu, wall] = totals.map(|[fit, plan]| fit / plan);
    let ratio = verdict(cpu >= MIN_RATIO);
    println!(
        "all: {:.0} ms of CPU time with fit, {:.0} with plans: {cpu:.1} x, at least {least:.1} x; \
         by the clock {wall:.1} x; bound {MIN_RATIO}: {ratio}",
        totals[0][0], totals[0][1]
    );
    println!(
        "plans with fewer expert bytes on the device: {}, of which {n_less_fitted} because the fit \
         leaves attention and the like off it, which plans put there first; others: {n_fewer}, \
         bound 0: {}",
        n_fewer + n_less_fitted,
        verdict(n_fewer == 0)
    );
    cpu >= MIN_RATIO && n_fewer == 0
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Mean and standard deviation in milliseconds.
fn mean(times: &[[f64; 2]], clock: usize) -> (f64, f64) {
    let n = times.len() as f64;
    let times = || times.iter().map(|time| time[clock] * 1e3);
    let mean = times().sum::<f64>() / n;
    let squares: f64 = times().map(|time| (time - mean).powi(2)).sum();
    (mean, (squares / (n - 1.0).max(1.0)).sqrt())
}

/// How long the largest header's preview takes.
fn preview(backend: &Backend, folder: &Path, device: Device) -> Result<bool> {
    let path = path_of(folder, NamedShape::DeepSeekV3);
    let params = ModelParams::default()
        .with_devices([device])
        .with_cpu_moe_all();
    let mut times = Vec::new();
    for _ in 0..N_PREVIEWS {
        let start = Instant::now();
        Preview::new(backend, &*path, &params)?;
        times.push(start.elapsed());
    }
    times.sort();
    let median = times[N_PREVIEWS / 2];
    let met = median < MAX_PREVIEW;
    println!(
        "preview of {}: {:.1} ms (median of {N_PREVIEWS}), bound {} ms: {}",
        NamedShape::DeepSeekV3,
        median.as_secs_f64() * 1e3,
        MAX_PREVIEW.as_millis(),
        verdict(met)
    );
    Ok(met)
}

fn verdict(met: bool) -> &'static str {
    if met { "ok" } else { "MISSED" }
}
