//! Quality against the base.

use llama_moe::measure::Series;
use llama_moe::measure::quality::{Divergence, OutputDifference, TaskResults};

use crate::markdown::{Table, text};
use crate::results::{Outcome, Quality, Results};
use crate::units::{NOT_MEASURED, fixed, number, percent};

/// The section.
pub fn section(results: &Results) -> String {
    let mut out = "## Quality\n\n".to_owned();
    if results
        .variants
        .iter()
        .all(|variant| variant.quality.is_none())
    {
        return out + "Not measured.\n\n";
    }
    out += "Once for each variant, over the same tokens, against the base. Perplexity with its \
            standard error over N scored tokens. KL divergence of the logits in nats, with the \
            standard error of its mean: 0 says that both predict the same. One near tie between two \
            tokens changes all of a greedy output that follows, so its edit distance says less than \
            the divergence.\n\n";
    let mut table = Table::new(&[
        "variant",
        "N",
        "perplexity",
        "KL, mean",
        "KL, 99 %",
        "KL, largest",
        "same top token",
        "greedy outputs identical",
        "edit distance, tokens",
        "cosine of embeddings, mean",
        "least",
    ]);
    for variant in &results.variants {
        let name = text(&variant.name);
        match &variant.quality {
            Some(Outcome::Done(quality)) => table.row(row(name, quality)),
            Some(Outcome::Failed(failure)) => {
                table.row([name, format!("failed while {}", text(&failure.stage))]);
            }
            None => table.row([name, NOT_MEASURED.to_owned()]),
        }
    }
    out += &table.finish();
    out + &tasks(results)
}

fn row(name: String, quality: &Quality) -> [String; 11] {
    let perplexity = &quality.perplexity;
    let divergence = quality.divergence.as_ref();
    let of = |value: &dyn Fn(&Divergence) -> String| divergence.map_or_else(base, value);
    let embeddings = quality.embeddings.as_ref();
    let cosine = |value: Option<f64>| value.map_or_else(base, |cosine| fixed(cosine, 6));
    [
        name,
        perplexity.nll.len().to_string(),
        format!(
            "{} ± {}",
            fixed(perplexity.value, 4),
            fixed(perplexity.standard_error, 4)
        ),
        of(&mean_divergence),
        of(&|d| number(d.p99)),
        of(&|d| number(d.max)),
        of(&|d| percent(d.same_top_rate)),
        identical(&quality.greedy),
        distance(&quality.greedy),
        cosine(embeddings.map(|e| e.mean)),
        cosine(embeddings.map(|e| e.min)),
    ]
}

/// What stands where there is nothing to compare with: for the base itself, and where a
/// model gives no such thing.
fn base() -> String {
    "–".to_owned()
}

fn mean_divergence(divergence: &Divergence) -> String {
    let values = Series::new(divergence.values.iter().copied()).ok();
    let error = values.and_then(|values| Some(values.std_dev()? / (values.n() as f64).sqrt()));
    match error {
        Some(error) => format!("{} ± {}", number(divergence.mean), number(error)),
        None => number(divergence.mean),
    }
}

fn identical(greedy: &[OutputDifference]) -> String {
    let same = greedy.iter().filter(|output| output.is_identical()).count();
    match greedy.len() {
        0 => base(),
        n => format!("{same} of {n}"),
    }
}

fn distance(greedy: &[OutputDifference]) -> String {
    if greedy.is_empty() {
        return base();
    }
    let sum = |of: fn(&OutputDifference) -> usize| greedy.iter().map(|o| of(o) as f64).sum::<f64>();
    let (distance, tokens) = (sum(|o| o.token_distance), sum(|o| o.base_tokens));
    format!("{} of {}", number(distance), number(tokens))
}

fn tasks(results: &Results) -> String {
    let Some(source) = &results.settings.tasks else {
        return "### pass@k\n\nNot measured: no tasks were given.\n\n".to_owned();
    };
    let mut table = Table::new(&[
        "variant",
        "tasks",
        "replies of each",
        "passed",
        "pass@1",
        "pass@k",
    ]);
    for variant in &results.variants {
        let tasks = match &variant.quality {
            Some(Outcome::Done(quality)) => quality.tasks.as_ref(),
            _ => None,
        };
        match tasks {
            Some(tasks) => table.row(task_row(text(&variant.name), tasks)),
            None => table.row([text(&variant.name), NOT_MEASURED.to_owned()]),
        }
    }
    format!(
        "### pass@k\n\nTasks from {}. pass@k is the unbiased estimate of how often one of k replies \
         passes, as a mean over the tasks.\n\n{}",
        crate::markdown::code(source),
        table.finish()
    )
}

fn task_row(name: String, results: &TaskResults) -> [String; 6] {
    let tasks = &results.tasks;
    let k = tasks.iter().map(|task| task.n).min().unwrap_or(0);
    let sum = |of: fn(&llama_moe::measure::quality::TaskResult) -> usize| {
        tasks
            .iter()
            .fold(0usize, |sum, task| sum.saturating_add(of(task)))
    };
    let pass = |k: usize| {
        let rate = results.pass_at_k(k);
        rate.map_or_else(
            || NOT_MEASURED.to_owned(),
            |rate| format!("{} (k = {k})", percent(rate)),
        )
    };
    [
        name,
        tasks.len().to_string(),
        k.to_string(),
        format!("{} of {}", sum(|task| task.n_passed), sum(|task| task.n)),
        pass(1),
        pass(k),
    ]
}
