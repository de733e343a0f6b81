//! What measures: statistics against published numbers, times against known delays, memory
//! against known allocations.
#![cfg(feature = "measure")]

use std::fs;
use std::time::{Duration, Instant};

use llama_moe::gguf::Header;
use llama_moe::measure::{
    Delivered, DeviceWatch, FileRecord, HashCache, Length, Machine, MeasureError, Provenance, Run,
    Series, TransferRate, Way, breakdown, deliver, generate, memory_kinds, prompt, sha256,
    transfer_rates,
};
use llama_moe::{
    AbortToken, DecodeError, Error, LoadMode, MemoryKind, Model, Sampler, SamplerChain, Token,
};
use serde_json::{from_str, json, to_string, to_value};

mod support;
use support::decode::{context, model, prompt as tokens, small};
use support::layouts::Layout;
use support::{backend, file, load, on_cpu};

fn series(values: &[f64]) -> Series {
    Series::new(values.iter().copied()).unwrap()
}

/// Whether two numbers agree to so many parts.
fn close(a: f64, b: f64, part: f64) -> bool {
    (a - b).abs() <= part * b.abs().max(1e-300)
}

fn measure_error<T: std::fmt::Debug>(result: llama_moe::Result<T>) -> MeasureError {
    match result.unwrap_err() {
        Error::Measure(error) => error,
        error => panic!("{error:?}"),
    }
}

#[test]
fn mean_and_deviation_of_small_series() {
    let one = series(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]);
    assert_eq!((one.n(), one.mean()), (8, 5.0));
    // The squares sum up to 32.
    assert!(close(one.std_dev().unwrap(), (32.0f64 / 7.0).sqrt(), 1e-15));
    assert_eq!((one.min(), one.max(), one.median()), (2.0, 9.0, 4.5));

    // N = 5, mean 3, σ² = 2.5; t(4) is 2.776445 in every table.
    let five = series(&[1.0, 2.0, 3.0, 4.0, 5.0]);
    let interval = five.interval().unwrap();
    assert!(close(
        interval.half_width(),
        2.776_445 * 0.5f64.sqrt(),
        1e-6
    ));
    assert!(close(0.5 * (interval.low + interval.high), 3.0, 1e-12));
    assert!(interval.contains(3.0) && !interval.contains(5.0));

    let single = series(&[3.0]);
    assert_eq!((single.std_dev(), single.interval()), (None, None));
    assert_eq!(single.difference(&five), None);
}

/// Series of the National Institute of Standards and Technology's Statistical Reference
/// Datasets, which are hard on the digits: mean and deviation are certified.
#[test]
fn certified_series() {
    // NumAcc1.
    let numbers = series(&[10_000_001.0, 10_000_003.0, 10_000_002.0]);
    assert_eq!(
        (numbers.mean(), numbers.std_dev()),
        (10_000_002.0, Some(1.0))
    );
    // NumAcc3: 1000000.2, then 1000000.1 and 1000000.3 by turns, 1001 values.
    let turns = (0..1000).map(|i| if i % 2 == 0 { 1_000_000.1 } else { 1_000_000.3 });
    let numbers = Series::new([1_000_000.2].into_iter().chain(turns)).unwrap();
    assert!(close(numbers.mean(), 1_000_000.2, 1e-14));
    assert!(close(numbers.std_dev().unwrap(), 0.1, 1e-8));
}

#[test]
fn percentiles_lie_between_the_values_linearly() {
    let four = series(&[40.0, 10.0, 30.0, 20.0]);
    for (percent, value) in [
        (0.0, 10.0),
        (25.0, 17.5),
        (50.0, 25.0),
        (95.0, 38.5),
        (100.0, 40.0),
    ] {
        assert!(
            close(four.percentile(percent).unwrap(), value, 1e-12),
            "{percent}"
        );
    }
    for percent in [-0.1, 100.1, f64::NAN] {
        assert_eq!(four.percentile(percent), None);
    }
    assert_eq!(series(&[7.0]).percentile(95.0), Some(7.0));
}

#[test]
fn a_difference_is_welchs() {
    // Means 3 and 6, variances 2.5 and 10.
    let (base, other) = (
        series(&[1.0, 2.0, 3.0, 4.0, 5.0]),
        series(&[2.0, 4.0, 6.0, 8.0, 10.0]),
    );
    let difference = other.difference(&base).unwrap();
    assert_eq!(difference.difference, 3.0);
    assert!(close(difference.relative.unwrap(), 1.0, 1e-15));
    // (0.5 + 2)² / (0.5² / 4 + 2² / 4) = 6.25 / 1.0625.
    let degrees = difference.degrees_of_freedom.unwrap();
    assert!(close(degrees, 6.25 / 1.0625, 1e-12));
    // t(5.882) = 2.4587; times √2.5 it is more than 3.
    assert!(close(
        difference.interval.half_width(),
        2.4587 * 2.5f64.sqrt(),
        1e-3
    ));
    assert!(!difference.is_significant());
    assert!(difference.interval.contains(3.0));

    let far = series(&[101.0, 102.0, 103.0, 104.0, 105.0]);
    assert!(far.difference(&base).unwrap().is_significant());
    let less = base.difference(&far).unwrap();
    assert!(less.is_significant() && less.interval.high < 0.0);
    assert!(!base.difference(&base).unwrap().is_significant());

    let (one, two) = (series(&[1.0; 3]), series(&[2.0; 3]));
    let exact = two.difference(&one).unwrap();
    assert_eq!((exact.interval.low, exact.interval.high), (1.0, 1.0));
    assert_eq!(exact.degrees_of_freedom, None);
    assert!(exact.is_significant() && !one.difference(&one).unwrap().is_significant());
}

/// Student's own example: hours of sleep gained by ten patients with one drug and with another,
/// compared as R's manual does: t = -1.8608, df = 17.776, p = 0.07939.
#[test]
fn a_p_value_is_the_published_one() {
    let one = series(&[0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]);
    let two = series(&[1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]);
    let difference = one.difference(&two).unwrap();
    assert!(close(difference.degrees_of_freedom.unwrap(), 17.776, 1e-4));
    assert!(
        close(difference.p_value.unwrap(), 0.07939, 1e-4),
        "{difference:?}"
    );
    assert!(close(difference.interval.low, -3.365_483_2, 1e-6));
    assert!(close(difference.interval.high, 0.205_483_2, 1e-5));
    assert_eq!(two.difference(&one).unwrap().p_value, difference.p_value);

    // Significant at 95 % is a value below 5 %.
    let far = series(&[11.0, 12.0, 13.0]);
    let found = far.difference(&one).unwrap();
    assert!(found.is_significant() && found.p_value.unwrap() < 0.05);
    assert!(found.p_value.unwrap() > 0.0);
    assert_eq!(one.difference(&one).unwrap().p_value.unwrap().round(), 1.0);
    // Whose sums are rounded, at that.
    let (one, two) = (series(&[0.1; 3]), series(&[0.7; 3]));
    assert_eq!((one.std_dev(), two.std_dev()), (Some(0.0), Some(0.0)));
    assert_eq!(two.difference(&one).unwrap().p_value, None);
    let text = to_string(&found).unwrap();
    assert_eq!(
        from_str::<llama_moe::measure::MeanDifference>(&text).unwrap(),
        found
    );
}

/// What an interval at 95 % says: of a thousand experiments, its intervals miss the truth fifty
/// times, and two series of the same thing differ fifty times.
#[test]
fn intervals_miss_one_time_in_twenty() {
    // SplitMix64 and the sum of twelve: near enough to a normal distribution.
    let mut state = 42u64;
    let mut uniform = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((bits ^ (bits >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    };
    let mut drawn = || Series::new((0..5).map(|_| (0..12).map(|_| uniform()).sum())).unwrap();
    let (mut missed, mut differed) = (0, 0);
    for _ in 0..1000 {
        let (a, b) = (drawn(), drawn());
        missed += u32::from(!a.interval().unwrap().contains(6.0));
        differed += u32::from(a.difference(&b).unwrap().is_significant());
    }
    assert!((30..=70).contains(&missed), "{missed}");
    assert!((25..=65).contains(&differed), "{differed}");
}

#[test]
fn a_series_is_printed_to_what_is_certain() {
    for (values, text) in [
        (&[11.9, 12.1, 12.2, 12.4, 12.9][..], "12.3 ± 0.4 (N = 5)"),
        (&[1000.0, 1200.0, 1400.0], "1200 ± 200 (N = 3)"),
        (&[1.0, 1.001, 1.002], "1.0010 ± 0.0010 (N = 3)"),
        (&[2.0, 2.0, 2.0], "2 ± 0 (N = 3)"),
        (&[0.0, 0.0], "0.0 ± 0.0 (N = 2)"),
        (&[12.3456], "12.35 (N = 1)"),
    ] {
        assert_eq!(series(values).to_string(), text);
    }
}

#[test]
fn a_series_is_its_values_and_no_other_ones() {
    let values = series(&[0.1, 0.2, 0.30000000000000004]);
    let text = to_string(&values).unwrap();
    assert_eq!(text, "[0.1,0.2,0.30000000000000004]");
    assert_eq!(from_str::<Series>(&text).unwrap(), values);
    assert!(from_str::<Series>("[]").is_err());
    assert_eq!(Series::new([]), Err(MeasureError::NoValues));
    let error = Series::new([1.0, f64::INFINITY]).unwrap_err();
    assert!(matches!(error, MeasureError::NotFinite { index: 1, .. }));
    assert!(Series::new([f64::NAN]).is_err());
}

/// The first token comes after 60 ms, each other one after 15 ms, and what is computed takes far
/// less than that.
#[test]
fn times_are_those_of_a_stream_with_known_delays() {
    const FIRST: Duration = Duration::from_millis(60);
    const NEXT: Duration = Duration::from_millis(15);

    let model = model(Layout::Qwen3Moe);
    let mut context = context(&model);
    let mut sampler = SamplerChain::new().custom(Slow { n: 0 }).greedy().unwrap();
    let start = Instant::now();
    let run = generate(&mut context, &mut sampler, &tokens(12), Length::Exactly(9)).unwrap();
    let all = start.elapsed();

    assert_eq!(
        (run.n_prompt, run.tokens.len(), run.token_times.len()),
        (12, 9, 9)
    );
    let (ttft, latency) = (run.ttft().unwrap(), run.latency().unwrap());
    assert!(ttft >= run.prefill + FIRST && latency <= all, "{run:?}");
    assert!(latency >= FIRST + 8 * NEXT, "{run:?}");
    assert!(
        run.token_intervals()
            .iter()
            .all(|&interval| interval >= NEXT)
    );
    assert_eq!(run.token_intervals().len(), 8);

    let tpot = run.time_per_output_token().unwrap();
    assert_eq!(tpot, (latency - ttft) / 8);
    let rate = run.decode_tokens_per_second().unwrap();
    assert!(close(rate, 8.0 / (latency - ttft).as_secs_f64(), 1e-12));
    // Sleeping takes longer on a busy machine, but not twice as long in the middle.
    let intervals = run.token_intervals();
    let median = Series::new(intervals.iter().map(Duration::as_secs_f64))
        .unwrap()
        .median();
    assert!((0.015..0.03).contains(&median), "{median}");
    // The wait for a token is no part of the prefill.
    assert!(run.prefill < ttft - FIRST + Duration::from_micros(1));
    let rate = run.prefill_tokens_per_second().unwrap();
    assert!(close(rate, 12.0 / run.prefill.as_secs_f64(), 1e-12));
}

/// Takes its time before each token.
struct Slow {
    n: u32,
}

impl llama_moe::CustomSampler for Slow {
    fn name(&self) -> &str {
        "slow"
    }

    fn apply(&mut self, _: &mut llama_moe::Candidates) {
        let pause = if self.n == 0 { 60 } else { 15 };
        std::thread::sleep(Duration::from_millis(pause));
        self.n += 1;
    }

    fn reset(&mut self) {
        self.n = 0;
    }
}

#[test]
fn a_run_is_what_the_model_says_and_can_be_repeated() {
    let model = model(Layout::Qwen3Moe);
    // The prompt takes three batches of this context, and one of the other.
    let params = || small().with_n_batch(32).with_n_ubatch(32);
    let mut context = model.context(params()).unwrap();
    let mut sampler = Sampler::greedy().unwrap();
    let prompt = tokens(70);
    let run = generate(&mut context, &mut sampler, &prompt, Length::Exactly(6)).unwrap();
    let again = generate(&mut context, &mut sampler, &prompt, Length::Exactly(6)).unwrap();
    assert_eq!(run.tokens, again.tokens);
    // A sampler with a seed starts again, too.
    let mut drawn = SamplerChain::new().temp(1000.0).dist(7).unwrap();
    let mut draw = || generate(&mut context, &mut drawn, &prompt, Length::Exactly(6)).unwrap();
    let first = draw();
    assert_eq!(first.tokens, draw().tokens);
    assert_ne!(first.tokens, run.tokens);
    assert_eq!(context.memory().positions(0).unwrap(), Some(0..=74));

    let mut by_hand = prompt.clone();
    for &token in &run.tokens {
        let mut whole = model.context(params().with_n_batch(128)).unwrap();
        let logits = support::decode::decode(&mut whole, &by_hand, 0, 0);
        assert_eq!(support::decode::greedy(&logits), token);
        by_hand.push(token);
    }
    let text = to_string(&run).unwrap();
    assert_eq!(from_str::<Run>(&text).unwrap(), run);
    assert_eq!(to_value(&run).unwrap()["length"], json!({ "Exactly": 6 }));
}

#[test]
fn a_generation_ends_where_the_model_ends_it_only_if_it_may() {
    let model = model(Layout::Qwen3Moe);
    let end = model.vocab().eos().unwrap();
    let mut context = context(&model);
    let sampler = || {
        let mut n = 0;
        let ends = move |candidates: &mut llama_moe::Candidates| {
            n += 1;
            let wanted = if n == 3 || n == 5 { end } else { Token(300) };
            candidates.iter().position(|c| c.token == wanted).unwrap()
        };
        SamplerChain::new()
            .select_fn("third and fifth", ends)
            .unwrap()
    };
    let up_to = generate(&mut context, &mut sampler(), &tokens(4), Length::UpTo(8)).unwrap();
    assert_eq!((up_to.tokens.len(), up_to.first_end), (3, Some(2)));
    let exactly = generate(&mut context, &mut sampler(), &tokens(4), Length::Exactly(8)).unwrap();
    assert_eq!((exactly.tokens.len(), exactly.first_end), (8, Some(2)));
    let short = generate(&mut context, &mut sampler(), &tokens(4), Length::UpTo(2)).unwrap();
    assert_eq!((short.tokens.len(), short.first_end), (2, None));
    let one = generate(&mut context, &mut sampler(), &tokens(4), Length::Exactly(1)).unwrap();
    assert!(one.ttft().is_some() && one.ttft() == one.latency());
    assert_eq!(one.time_per_output_token(), None);
    assert_eq!(one.decode_tokens_per_second(), None);
}

#[test]
fn what_cannot_be_run_is_refused_and_the_context_stays_usable() {
    let model = model(Layout::Qwen3Moe);
    let abort = AbortToken::new();
    let mut context = model
        .context(small().with_abort_token(abort.clone()))
        .unwrap();
    let n_ctx = context.n_ctx_seq() as usize;
    let mut sampler = Sampler::greedy().unwrap();
    let mut run = |prompt: &[Token], length| generate(&mut context, &mut sampler, prompt, length);

    assert_eq!(
        measure_error(run(&[], Length::Exactly(1))),
        MeasureError::NoPrompt
    );
    let nothing = measure_error(run(&tokens(3), Length::UpTo(0)));
    assert_eq!(nothing, MeasureError::NothingToGenerate);
    // The last token of all takes no position.
    for (n_prompt, n_generate) in [(n_ctx, 2), (n_ctx + 1, 1), (1, n_ctx + 1), (4, usize::MAX)] {
        let error = measure_error(run(&tokens(n_prompt), Length::Exactly(n_generate)));
        let n_ctx_seq = n_ctx as u32;
        assert_eq!(
            error,
            MeasureError::NoRoom {
                n_prompt,
                n_generate,
                n_ctx_seq
            }
        );
        error.to_string();
    }
    assert_eq!(
        run(&tokens(n_ctx), Length::Exactly(1)).unwrap().n_prompt,
        n_ctx
    );
    assert!(matches!(
        run(&[Token(-1)], Length::Exactly(1)),
        Err(Error::Batch(_))
    ));
    assert!(matches!(
        run(&[Token(i32::MAX)], Length::Exactly(1)),
        Err(Error::Batch(_))
    ));
    abort.abort();
    let aborted = run(&tokens(3), Length::Exactly(2));
    assert!(matches!(aborted, Err(Error::Decode(DecodeError::Aborted))));
    abort.reset();
    assert_eq!(run(&tokens(3), Length::Exactly(2)).unwrap().tokens.len(), 2);
}

/// The first token comes after 60 ms, each of the other eight after 15 ms.
#[test]
fn a_stream_begins_to_arrive_when_a_whole_is_still_being_made() {
    let model = model(Layout::Qwen3Moe);
    let mut context = context(&model);
    let mut send = |prompt: &[Token], length, way| {
        let mut sampler = SamplerChain::new().custom(Slow { n: 0 }).greedy().unwrap();
        deliver(&mut context, &mut sampler, prompt, length, way)
    };
    let length = Length::Exactly(9);
    let streamed = send(&tokens(12), length, Way::Streaming).unwrap();
    let whole = send(&tokens(12), length, Way::Whole).unwrap();
    assert_eq!((streamed.tokens.len(), streamed.n_pieces > 1), (9, true));
    assert_eq!((&whole.tokens, whole.n_pieces), (&streamed.tokens, 1));
    let vocab = model.vocab();
    let text = vocab.detokenize_lossy(&whole.tokens, false, true).unwrap();
    assert!(!text.is_empty());
    assert_eq!((&streamed.text, &whole.text), (&text, &text));

    let [first, all] = [60, 60 + 8 * 15].map(Duration::from_millis);
    assert!(streamed.first >= first && whole.first >= all, "{whole:?}");
    // With the whole of it come all of its pieces, if it took more than one to read them.
    assert!(whole.last < whole.first + Duration::from_millis(15));
    // Some tokens' text waits for the next token's.
    let at_least = Duration::from_millis(60);
    assert!(streamed.first + at_least < streamed.last, "{streamed:?}");
    assert!(streamed.first + at_least < whole.first, "{streamed:?}");

    let text = to_string(&(&streamed, Way::Streaming)).unwrap();
    let back: (Delivered, Way) = from_str(&text).unwrap();
    assert_eq!(back, (streamed, Way::Streaming));

    // What cannot be run sends nothing, and leaves the context usable.
    assert_eq!(
        measure_error(send(&[], length, Way::Streaming)),
        MeasureError::NoPrompt
    );
    send(&tokens(3), Length::Exactly(1), Way::Streaming).unwrap();
}

#[test]
fn a_reply_without_text_is_delivered_too() {
    let model = model(Layout::Qwen3Moe);
    let mut context = context(&model);
    let vocab = model.vocab();
    // A space before the first word is no text, for one.
    let is_silent = |token| vocab.detokenize(&[token], false, true).unwrap().is_empty();
    let mut all = (0..vocab.n_tokens() as i32).map(Token);
    let silent = all.find(|&token| is_silent(token)).unwrap();
    let says_nothing = move |candidates: &mut llama_moe::Candidates| {
        candidates.iter().position(|c| c.token == silent).unwrap()
    };
    for way in [Way::Streaming, Way::Whole] {
        let mut sampler = SamplerChain::new()
            .select_fn("silent", says_nothing)
            .unwrap();
        let length = Length::Exactly(1);
        let delivered = deliver(&mut context, &mut sampler, &tokens(4), length, way).unwrap();
        assert_eq!((delivered.n_pieces, &*delivered.text), (0, ""));
        assert_eq!(delivered.tokens, [silent]);
        assert!(delivered.first == delivered.last && !delivered.last.is_zero());
    }
}

#[test]
fn a_prompt_has_the_tokens_that_are_asked_for() {
    let vocab = model(Layout::Qwen3Moe).vocab();
    let once = vocab
        .tokenize("Why is the sky blue? ", false, false)
        .unwrap();
    for n in [1, 16, 31, 33, 512] {
        let prompt = prompt(&vocab, "Why is the sky blue? ", n).unwrap();
        assert_eq!(prompt.len(), n);
        let start = usize::from(vocab.adds_bos());
        assert!(
            prompt[start..]
                .iter()
                .zip(once.iter().cycle())
                .all(|(a, b)| a == b)
        );
    }
    let short = measure_error(prompt(&vocab, "", 5));
    assert_eq!(short, MeasureError::NoText);
    assert_eq!(
        measure_error(prompt(&vocab, "a", 0)),
        MeasureError::NoPrompt
    );
}

/// In a process of its own, where no other test allocates meanwhile.
#[cfg(target_os = "linux")]
#[test]
fn resident_memory_is_what_was_touched() {
    use llama_moe::measure::HostMemory;

    const NAME: &str = "resident_memory_is_what_was_touched";
    const ALONE: &str = "LLAMA_MOE_TEST_ALONE";
    const SIZE: u64 = 256 << 20;
    const SLACK: u64 = 16 << 20;

    if std::env::var_os(ALONE).is_none() {
        let this = std::env::current_exe().unwrap();
        let mut alone = std::process::Command::new(this);
        alone.args(["--exact", NAME, "--nocapture"]).env(ALONE, "1");
        let output = alone.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
        return;
    }
    let before = HostMemory::now().unwrap();
    let mut block = vec![0u8; SIZE as usize];
    let reserved = HostMemory::now().unwrap();
    for byte in block.iter_mut().step_by(4096) {
        *byte = 1;
    }
    std::hint::black_box(&block);
    let touched = HostMemory::now().unwrap();
    drop(block);
    let after = HostMemory::now().unwrap();

    // Zeroed memory takes none before it is written to.
    assert!(reserved.rss < before.rss + SLACK, "{before:?} {reserved:?}");
    for (now, then) in [
        (touched.rss, before.rss),
        (touched.anonymous, before.anonymous),
    ] {
        assert!(
            (SIZE - SLACK..SIZE + SLACK).contains(&(now - then)),
            "{before:?} {touched:?}"
        );
    }
    assert!(after.rss < before.rss + SLACK, "{before:?} {after:?}");
    assert!(after.peak_rss >= before.rss + SIZE - SLACK, "{after:?}");
    // A fault for each page, or for 2 MiB where the system takes large ones.
    assert!(touched.minor_faults - before.minor_faults >= SIZE >> 21);
    assert!(touched.major_faults >= before.major_faults);
}

#[test]
fn weights_are_counted_by_the_kind_of_their_memory() {
    for (mode, kind) in [
        (LoadMode::Mmap, MemoryKind::Mapped),
        (LoadMode::None, MemoryKind::Pageable),
    ] {
        let model = load(Layout::Qwen3Moe, on_cpu().with_load_mode(mode)).unwrap();
        let placement = model.placement().unwrap();
        let kinds = memory_kinds(&placement);
        assert!(
            kinds.iter().any(|found| found.kind == kind),
            "{mode:?} {kinds:?}"
        );
        let bytes: u64 = kinds.iter().map(|found| found.bytes).sum();
        let n_tensors: usize = kinds.iter().map(|found| found.n_tensors).sum();
        assert_eq!(
            bytes,
            placement
                .tensors()
                .iter()
                .map(|tensor| tensor.bytes)
                .sum::<u64>()
        );
        assert_eq!(n_tensors, placement.tensors().len());

        let mut context = context(&model);
        let split = breakdown(&mut context).unwrap();
        let entries = context.memory_breakdown().unwrap();
        assert_eq!(split.len(), entries.len());
        let total: u64 = split.iter().map(|entry| entry.total()).sum();
        let by_hand = entries
            .iter()
            .map(|entry| entry.model + entry.context + entry.compute);
        assert_eq!(total, by_hand.sum::<u64>());
        assert!(
            split
                .iter()
                .any(|entry| entry.context > 0 && entry.compute > 0)
        );
        let text = to_string(&(&kinds, &split)).unwrap();
        assert_eq!(from_str::<(Vec<_>, Vec<_>)>(&text).unwrap(), (kinds, split));
    }
}

#[test]
fn a_watch_reads_until_it_is_finished() {
    let cpu = backend().cpu().unwrap();
    let watch = DeviceWatch::start(&[cpu, cpu], Duration::from_millis(2)).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let found = watch.finish();
    assert_eq!(found.len(), 2);
    assert!(found[0].n_readings >= 10, "{found:?}");
    assert_eq!(
        (&*found[0].device, found[0].total),
        ("CPU", cpu.memory().total)
    );
    // Elsewhere than on Windows, llama.cpp says of the CPU that all memory is always free.
    #[cfg(not(windows))]
    assert_eq!((found[0].taken(), found[0].peak()), (None, None));
    assert!(
        DeviceWatch::start(&[], Duration::ZERO)
            .unwrap()
            .finish()
            .is_empty()
    );
    drop(DeviceWatch::start(&[cpu], Duration::from_secs(3600)).unwrap());
}

#[test]
fn hashes_are_sha256_and_are_worked_out_again_for_another_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    // The examples of FIPS 180-4, and a million times the letter a.
    for (content, hash) in [
        (
            &b""[..],
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ),
        (
            b"abc",
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        ),
        (
            &[b'a'; 1_000_000],
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
        ),
    ] {
        fs::write(&path, content).unwrap();
        assert_eq!(sha256(&path).unwrap(), hash);
    }

    let cache = folder.path().join("hashes.json");
    let mut known = HashCache::open(&cache).unwrap();
    let first = known.sha256(&path).unwrap();
    assert_eq!(first, sha256(&path).unwrap());
    // That it is known shows where its content is another one, but size and time are not.
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, [b'b'; 1_000_000]).unwrap();
    let set_back = fs::File::options().write(true).open(&path).unwrap();
    set_back.set_modified(modified).unwrap();
    let mut reopened = HashCache::open(&cache).unwrap();
    assert_eq!(reopened.sha256(&path).unwrap(), first);
    assert_ne!(sha256(&path).unwrap(), first);
    // Another time, and another size.
    set_back
        .set_modified(modified + Duration::from_secs(1))
        .unwrap();
    assert_eq!(reopened.sha256(&path).unwrap(), sha256(&path).unwrap());
    fs::write(&path, "shorter").unwrap();
    set_back
        .set_modified(modified + Duration::from_secs(1))
        .unwrap();
    assert_eq!(reopened.sha256(&path).unwrap(), sha256(&path).unwrap());
    // Nothing but the file itself was left behind.
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn what_is_no_file_of_hashes_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    for content in [
        "my notes",
        "[]",
        r#"{"/a":{"bytes":1,"modified":2,"sha256":"none"}}"#,
    ] {
        fs::write(&path, content).unwrap();
        let error = measure_error(HashCache::open(&path));
        assert!(matches!(error, MeasureError::HashCache { .. }), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
    }
    let missing = folder.path().join("none");
    assert!(matches!(sha256(&missing), Err(Error::File { .. })));
    assert!(matches!(sha256(folder.path()), Err(Error::File { .. })));
    assert!(matches!(
        HashCache::open(folder.path()),
        Err(Error::File { .. })
    ));
    let mut nowhere = HashCache::open(missing.join("hashes.json")).unwrap();
    assert!(matches!(nowhere.sha256(&path), Err(Error::File { .. })));
}

#[test]
fn a_result_says_what_it_was_measured_on() {
    let backend = backend();
    let (dir, path) = file(Layout::Qwen3Moe);
    let mut known = HashCache::open(dir.path().join("hashes.json")).unwrap();
    let source = FileRecord::of(&path, None).unwrap();
    let provenance = Provenance::of(&backend, &path, Some(&mut known))
        .unwrap()
        .with_commit("abc123")
        .with_sources([source.clone()]);

    let header = Header::read(&path).unwrap();
    let model = &provenance.model;
    assert_eq!(
        (&model.files[0], provenance.sources.as_slice()),
        (&source, &[source.clone()][..])
    );
    assert_eq!(source.sha256, sha256(&path).unwrap());
    assert_eq!(source.bytes, fs::metadata(&path).unwrap().len());
    assert_eq!(model.architecture, "qwen3moe");
    assert_eq!(model.metadata["qwen3moe.expert_count"], "8");
    assert!(
        !model
            .metadata
            .keys()
            .any(|key| key.starts_with("tokenizer."))
    );
    assert_eq!(model.bytes_by_type.values().sum::<u64>(), header.bytes());
    let loaded = Model::load(&backend, &path, on_cpu()).unwrap();
    assert_eq!(model.n_params, loaded.n_params());

    assert_eq!(provenance.crate_version, env!("CARGO_PKG_VERSION"));
    assert_eq!(provenance.llama_cpp_version, llama_moe::llama_cpp_version());
    assert!(
        provenance.llama_cpp_build.starts_with("CPU : "),
        "{}",
        provenance.llama_cpp_build
    );
    assert!(provenance.features.contains(&"measure".to_owned()));
    assert_eq!(
        provenance.features.contains(&"rpc".to_owned()),
        cfg!(feature = "rpc")
    );
    assert_eq!(provenance.commit.as_deref(), Some("abc123"));
    assert_eq!(provenance.date.len(), "2026-01-01T00:00:00Z".len());
    assert_eq!(provenance.command, std::env::args().collect::<Vec<_>>());
    assert!(
        provenance
            .devices
            .iter()
            .any(|device| device.name == "CPU" && device.total > 0)
    );

    let machine = Machine::this(&backend).unwrap();
    assert_eq!(machine.cpu, provenance.machine.cpu);
    assert!(!machine.cpu.is_empty() && !machine.os.is_empty());
    assert!(machine.physical_cores >= 1 && machine.logical_cores >= 1);
    assert!(
        machine
            .ram_available
            .is_none_or(|available| available <= machine.ram)
    );

    let text = to_string(&provenance).unwrap();
    assert_eq!(from_str::<Provenance>(&text).unwrap(), provenance);
    let gone = Provenance::of(&backend, dir.path().join("none.gguf"), None);
    assert!(gone.is_err());
}

#[test]
fn memory_gets_to_a_device_at_a_plausible_rate() {
    let backend = backend();
    // The CPU, and a GPU where there is one. Workers have a test of their own.
    let mut devices = backend.devices();
    devices.retain(|device| device.backend_name() != "RPC");
    let rates = transfer_rates(&devices).unwrap();
    assert_eq!(rates.len(), devices.len());
    for (rate, device) in rates.iter().zip(&devices) {
        assert_eq!(rate.device, device.name());
        assert!((1e7..1e13).contains(&rate.pageable), "{rate:?}");
        assert_eq!(
            rate.page_locked.is_some(),
            device.host_buffer_type_name().is_some()
        );
        assert!(rate.page_locked.is_none_or(|rate| rate > 1e7), "{rate:?}");
    }
    assert_eq!(transfer_rates(&[]).unwrap(), []);
    let text = to_string(&rates).unwrap();
    assert_eq!(from_str::<Vec<TransferRate>>(&text).unwrap(), rates);
}

/// In a process of its own, whose memory is limited and taken.
#[cfg(target_os = "linux")]
#[test]
fn too_little_memory_for_a_transfer_is_an_error() {
    const NAME: &str = "too_little_memory_for_a_transfer_is_an_error";
    const ALONE: &str = "LLAMA_MOE_TEST_ALONE";
    const BLOCK: usize = 16 << 20;

    if std::env::var_os(ALONE).is_none() {
        let mut alone = std::process::Command::new("sh");
        alone
            .args(["-c", "ulimit -v 4000000 && exec \"$0\" \"$@\""])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture"])
            .env(ALONE, "1");
        let output = alone.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
        return;
    }
    let cpu = [backend().cpu().unwrap()];
    let mut blocks: Vec<Vec<u8>> = Vec::new();
    let mut block = Vec::new();
    while block.try_reserve_exact(BLOCK).is_ok() {
        blocks.push(std::mem::take(&mut block));
    }
    // Once the source cannot be had, and once the target.
    for n_free in [2, 5] {
        blocks.truncate(blocks.len() - n_free);
        match transfer_rates(&cpu).unwrap_err() {
            Error::Llama { kind, .. } => assert_eq!(kind, llama_moe::FailureKind::OutOfMemory),
            error => panic!("{error}"),
        }
    }
    drop(blocks);
    transfer_rates(&cpu).unwrap();
}

#[cfg(feature = "rpc")]
#[test]
fn memory_gets_to_a_worker_no_faster_than_to_this_processor() {
    let worker = support::worker::worker();
    let cpu = backend().cpu().unwrap();
    let rates = transfer_rates(&[worker.device, cpu]).unwrap();
    let [remote, local] = &rates[..] else {
        panic!("{rates:?}");
    };
    assert_eq!(
        (&*remote.device, remote.page_locked),
        (&*worker.device.name(), None)
    );
    // Over a connection it is copied more than once.
    assert!(
        (1e6..local.pageable).contains(&remote.pageable),
        "{rates:?}"
    );
    // The worker goes on as before.
    let params = llama_moe::ModelParams::default().with_devices([worker.device]);
    load(Layout::Qwen3Moe, params).unwrap();
}

/// A worker's memory is read by one thread alone, so that no reading comes between the pieces of
/// what the other says.
#[cfg(feature = "rpc")]
#[test]
fn a_worker_is_read_before_and_after_alone() {
    let worker = support::worker::worker();
    let watch = DeviceWatch::start(&[worker.device], Duration::from_millis(1)).unwrap();
    let params = llama_moe::ModelParams::default().with_devices([worker.device]);
    let model = load(Layout::Qwen3Moe, params).unwrap();
    let mut context = context(&model);
    let mut sampler = Sampler::greedy().unwrap();
    generate(&mut context, &mut sampler, &tokens(40), Length::Exactly(20)).unwrap();
    let found = watch.finish();
    assert_eq!((found[0].n_readings, found[0].free_least), (2, None));
    assert_eq!(found[0].device, worker.device.name());
    let split = breakdown(&mut context).unwrap();
    let remote = split
        .iter()
        .find(|entry| entry.device.as_ref() == Some(&found[0].device));
    assert!(remote.unwrap().model > 0 && !remote.unwrap().is_host);
}

#[cfg(feature = "rpc")]
#[test]
fn worker_process() {
    support::worker::serve_if_asked();
}
