use resvg::tiny_skia::Pixmap;
use resvg::usvg::{Options, Tree};

use super::*;
use crate::fixture;

/// What a picture has to be, whatever is in it: XML that is drawn, as wide as a phone is made
/// for, with text no smaller than can be read there, and none beside its edge.
fn check(plot: &Plot) {
    let tree = Tree::from_str(&plot.svg, &Options::default()).unwrap();
    assert_eq!(tree.size().width(), 720.0);
    for attribute in plot.svg.split("font-size=\"").skip(1) {
        let size: f64 = attribute[..attribute.find('"').unwrap()].parse().unwrap();
        // 390 of 720 pixels: 13 pixels on the screen.
        assert!(size >= 24.0, "{}: {size}", plot.name);
    }
    assert!(
        !plot.svg.contains("NaN") && !plot.svg.contains("inf"),
        "{}",
        plot.name
    );
    assert!(plot.svg.contains("N\u{a0}"), "{} says no N", plot.name);
}

/// Whether there are letters in a title: without a font all is drawn but text.
fn has_letters(plot: &Plot) -> bool {
    let pixmap = Pixmap::decode_png(&png::render(&plot.svg).unwrap()).unwrap();
    let title = pixmap.pixels().iter().take(1440 * 130);
    title.filter(|pixel| pixel.red() < 80).count() > 1000
}

#[test]
fn every_picture_is_made_and_has_its_text() {
    let plots = all(&fixture::results());
    let names: Vec<&str> = plots.iter().map(|plot| plot.name).collect();
    // Without a cache of experts there is no picture of one.
    assert_eq!(names, NAMES[..5]);
    assert!(has_letters(&plots[1]));
    for plot in &plots {
        check(plot);
        assert!(plot.svg.contains("half the experts"), "{}", plot.name);
    }
}

#[test]
fn one_variant_and_many_fit() {
    for count in [1, 8, 20] {
        let results = fixture::with_variants(count, |index| format!("n-cpu-moe={index}"));
        let plots = all(&results);
        assert_eq!(plots.len(), NAMES.len() - 1);
        plots.iter().for_each(check);
    }
}

#[test]
fn long_and_hostile_names_stay_text() {
    let name = |index| format!("</text><script>alert({index})</script>&\"'\u{0}\n").repeat(20);
    for plot in all(&fixture::with_variants(3, name)) {
        check(&plot);
        assert!(!plot.svg.contains("<script"), "{}", plot.name);
        assert!(plot.svg.contains('…'), "{}", plot.name);
    }
}

#[test]
fn a_variant_that_failed_is_named_and_says_so() {
    let mut results = fixture::results();
    fixture::fail(&mut results.variants[1]);
    for plot in all(&results) {
        check(&plot);
        assert!(plot.svg.contains("failed: out of memory"), "{}", plot.name);
        assert!(plot.svg.contains("cpu-moe"), "{}", plot.name);
    }
}

#[test]
fn error_bars_take_repetitions_that_scatter() {
    // Error bars alone have white lines below dark ones.
    let bars = |results: &Results| {
        let plots = all(results);
        let plots = plots
            .iter()
            .map(|plot| plot.svg.matches(r##"stroke="#ffffff" stroke-width="6"/>"##));
        plots.map(Iterator::count).collect::<Vec<_>>()
    };
    let results = fixture::results();
    // Of the decode rate two variants have three repetitions, and three lines to each bar.
    assert_eq!(bars(&results)[1], 6);
    let mut once = fixture::results();
    fixture::once(&mut once);
    assert_eq!(bars(&once), [0; 5]);
    let mut equal = fixture::results();
    fixture::without_scatter(&mut equal);
    assert_eq!(bars(&equal), [0; 5]);
    for plot in all(&once) {
        assert!(plot.svg.contains("no\u{a0}σ"), "{}", plot.name);
    }
}

#[test]
fn without_a_device_it_is_the_systems_memory_and_there_is_no_trade_off() {
    let mut results = fixture::results();
    fixture::without_device(&mut results);
    let plots = all(&results);
    assert_eq!(plots[0].title, "System memory per variant");
    assert!(plots.iter().all(|plot| plot.name != "tradeoff"));
    plots.iter().for_each(check);
}

#[test]
fn the_decode_rate_is_drawn_against_the_size_of_the_cache() {
    let mut results = fixture::with_caches();
    let plots = all(&results);
    plots.iter().for_each(check);
    let names: Vec<&str> = plots.iter().map(|plot| plot.name).collect();
    assert_eq!(names, NAMES);
    let [memory, .., cache] = plots.as_slice() else {
        panic!("{names:?}");
    };
    assert!(memory.svg.contains("expert cache"), "{}", memory.svg);
    for part in ["cpu-moe+cache=64MiB", "MiB on devices", "half the experts"] {
        assert!(cache.svg.contains(part), "{part}: {}", cache.svg);
    }
    assert!(!cache.svg.contains("equal"), "{}", cache.svg);
    // A plan without a cache for the same budget as each plan with one.
    results.variants[1].rules = "plan=8GiB".to_owned();
    for variant in &mut results.variants {
        if variant.moe_cache.is_some() {
            variant.rules = "plan=8GiB+cache=64MiB".to_owned();
        }
    }
    let plots = all(&results);
    let cache = plots.iter().find(|plot| plot.name == "cache").unwrap();
    assert!(cache.svg.contains("equal"), "{}", cache.svg);
    // A variant that failed is named.
    fixture::fail(results.variants.last_mut().unwrap());
    let plots = all(&results);
    plots.iter().for_each(check);
    let cache = plots.iter().find(|plot| plot.name == "cache").unwrap();
    assert!(cache.svg.contains("failed: out"), "{}", cache.svg);
}

#[test]
fn nothing_measured_is_no_picture_and_no_panic() {
    let mut results = fixture::results();
    results.variants.iter_mut().for_each(fixture::fail);
    assert!(all(&results).is_empty());
    results.variants.clear();
    assert!(all(&results).is_empty());
}

#[test]
fn numbers_of_any_size_are_drawn() {
    for factor in [0.0, 1e-9, 1e12] {
        let mut results = fixture::results();
        for variant in &mut results.variants {
            fixture::for_each_measured(variant, |measured| {
                fixture::slow_down(measured, factor);
                measured.breakdown[1].model = u64::MAX;
            });
        }
        all(&results).iter().for_each(check);
    }
}

#[test]
fn the_longest_prompt_that_was_measured_stands_for_the_decode_rate() {
    let mut results = fixture::results();
    assert_eq!(decode_length(&results), Some(512));
    for variant in &mut results.variants {
        fixture::for_each_measured(variant, |measured| measured.runs.truncate(1));
    }
    assert_eq!(decode_length(&results), Some(16));
}
