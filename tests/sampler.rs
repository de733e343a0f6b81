//! Every sampler, on candidates made by hand, and what can be wrong with one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use llama_moe::{
    Batch, Candidates, Context, ContextParams, CustomSampler, DryParams, Error, Model, ModelParams,
    OutputError, Sampler, SamplerChain, SamplerError, Seed, SelectingSampler, Token, Vocab,
    VocabError,
};

mod support;
use support::layouts::{self, Layout};
use support::{load, on_cpu};

static MODEL: LazyLock<Model> =
    LazyLock::new(|| load(Layout::Qwen3Moe, on_cpu()).expect("a model"));

fn vocab() -> Vocab {
    MODEL.vocab()
}

/// Token 0 with the probability 0.5, 1 with 0.3, 2 with 0.15, 3 with 0.05, in an order
/// that is not theirs.
fn four() -> Candidates {
    let logit = |p: f32| p.ln();
    Candidates::new([
        (Token(2), logit(0.15)),
        (Token(0), logit(0.5)),
        (Token(3), logit(0.05)),
        (Token(1), logit(0.3)),
    ])
}

/// Runs a chain that ends with greedy, and returns the tokens that are left, most likely
/// first.
fn left(chain: SamplerChain, candidates: Candidates) -> Vec<i32> {
    let mut candidates = candidates;
    let mut sampler = chain.greedy().expect("a chain");
    let token = sampler.apply(&mut candidates).expect("a token");
    assert_eq!(candidates.selected().map(|c| c.token), Some(token));
    candidates.sort();
    candidates
        .iter()
        .map(|candidate| candidate.token.0)
        .collect()
}

fn logit_of(candidates: &Candidates, token: i32) -> f32 {
    let mut found = candidates
        .iter()
        .filter(|candidate| candidate.token.0 == token);
    found.next().expect("the candidate").logit
}

/// So many tokens, one after the other.
fn draw(sampler: &mut Sampler, n: usize) -> Vec<Token> {
    let mut tokens = Vec::new();
    for _ in 0..n {
        let token = sampler.apply(&mut four()).unwrap();
        sampler.accept(token).unwrap();
        tokens.push(token);
    }
    tokens
}

fn sampler_error(error: Error) -> SamplerError {
    match error {
        Error::Sampler(error) => error,
        other => panic!("not an error of a sampler: {other:?}"),
    }
}

/// The token of a one-character text.
fn letter(text: &str) -> Token {
    let ids = (0..vocab().n_tokens() as i32).map(Token);
    let mut found = ids.filter(|&token| vocab().piece(token, false).unwrap() == text.as_bytes());
    found
        .next_back()
        .expect("a token of each printable character")
}

fn whole_vocabulary() -> Candidates {
    Candidates::from_logits(&vec![0.0; vocab().n_tokens() as usize])
}

// ---- llama.cpp's samplers -----------------------------------------------------------

#[test]
fn greedy_takes_the_most_likely() {
    assert_eq!(
        Sampler::greedy().unwrap().apply(&mut four()).unwrap(),
        Token(0)
    );
}

#[test]
fn top_k_keeps_k() {
    assert_eq!(left(SamplerChain::new().top_k(2), four()), [0, 1]);
    assert_eq!(left(SamplerChain::new().top_k(100), four()), [0, 1, 2, 3]);
    assert_eq!(left(SamplerChain::new().top_k(0), four()), [0, 1, 2, 3]);
}

#[test]
fn top_p_keeps_what_has_p_together() {
    assert_eq!(left(SamplerChain::new().top_p(0.7, 1), four()), [0, 1]);
    assert_eq!(left(SamplerChain::new().top_p(0.4, 1), four()), [0]);
    assert_eq!(left(SamplerChain::new().top_p(0.4, 3), four()), [0, 1, 2]);
    assert_eq!(
        left(SamplerChain::new().top_p(1.0, 1), four()),
        [0, 1, 2, 3]
    );
    // More than llama.cpp sorts at a time.
    let many = Candidates::new((0..5000).map(|id| (Token(id), -(id as f32) / 2000.0)));
    assert!((2000..5000).contains(&left(SamplerChain::new().top_p(0.9, 1), many).len()));
}

#[test]
fn min_p_keeps_what_is_near_the_most_likely() {
    assert_eq!(left(SamplerChain::new().min_p(0.25, 1), four()), [0, 1, 2]);
    assert_eq!(left(SamplerChain::new().min_p(0.35, 1), four()), [0, 1]);
    assert_eq!(
        left(SamplerChain::new().min_p(0.35, 4), four()),
        [0, 1, 2, 3]
    );
}

#[test]
fn typical_keeps_what_is_as_surprising_as_expected() {
    // The entropy is 1.14, and token 1, with a surprise of 1.20, is nearest to it.
    assert_eq!(left(SamplerChain::new().typical(0.2, 1), four()), [1]);
    assert_eq!(left(SamplerChain::new().typical(0.7, 1), four()), [0, 1]);
}

#[test]
fn temperatures_divide() {
    let mut candidates = four();
    SamplerChain::new()
        .temp(2.0)
        .greedy()
        .unwrap()
        .apply(&mut candidates)
        .unwrap();
    assert!((logit_of(&candidates, 1) - 0.3f32.ln() / 2.0).abs() < 1e-6);
    assert_eq!(left(SamplerChain::new().temp(0.0), four()), [0]);

    // Nothing is more uncertain than two tokens alike, so it is the highest temperature.
    let mut even = Candidates::new([(Token(0), 3.0), (Token(1), 3.0)]);
    let chain = SamplerChain::new().temp_ext(1.0, 0.5, 1.0);
    chain.greedy().unwrap().apply(&mut even).unwrap();
    assert!((logit_of(&even, 1) - 2.0).abs() < 1e-5, "{even:?}");
}

#[test]
fn xtc_drops_the_top_choices() {
    assert_eq!(
        left(SamplerChain::new().xtc(1.0, 0.2, 1, 1), four()),
        [1, 2, 3]
    );
    assert_eq!(
        left(SamplerChain::new().xtc(1.0, 0.1, 1, 1), four()),
        [2, 3]
    );
    assert_eq!(
        left(SamplerChain::new().xtc(0.0, 0.1, 1, 1), four()),
        [0, 1, 2, 3]
    );
    assert_eq!(
        left(SamplerChain::new().xtc(1.0, 0.1, 3, 1), four()),
        [0, 1, 2, 3]
    );
    // What follows sees the candidates where they are now.
    assert_eq!(
        left(SamplerChain::new().xtc(1.0, 0.1, 1, 1).top_k(1), four()),
        [2]
    );
}

#[test]
fn top_n_sigma_rules_out_the_tail() {
    assert_eq!(left(SamplerChain::new().top_n_sigma(1.0), four()), [0, 1]);
    assert_eq!(
        left(SamplerChain::new().top_n_sigma(0.0), four()),
        [0, 1, 2, 3]
    );
}

#[test]
fn penalties_make_what_was_accepted_less_likely() {
    for chain in [
        SamplerChain::new().penalties(2, 2.0, 0.0, 0.0),
        SamplerChain::new().penalties(2, 1.0, 2.0, 0.0),
        SamplerChain::new().penalties(2, 1.0, 0.0, 2.0),
    ] {
        let mut sampler = chain.greedy().unwrap();
        assert_eq!(sampler.apply(&mut four()).unwrap(), Token(0));
        sampler.accept(Token(0)).unwrap();
        assert_eq!(sampler.apply(&mut four()).unwrap(), Token(1));
        // It looks back on two tokens only.
        sampler.accept(Token(3)).unwrap();
        sampler.accept(Token(3)).unwrap();
        assert_eq!(sampler.apply(&mut four()).unwrap(), Token(0));
        sampler.accept(Token(0)).unwrap();
        sampler.reset().unwrap();
        assert_eq!(sampler.apply(&mut four()).unwrap(), Token(0));
    }
}

#[test]
fn dry_ends_repetitions() {
    let [a, b, c, d] = ["a", "b", "c", "."].map(letter);
    let candidates = || Candidates::new([(a, 0.0), (b, 0.0), (c, 1.0), (d, 0.5)]);
    let dry = |params| SamplerChain::new().dry(&vocab(), params).greedy().unwrap();

    let mut sampler = dry(DryParams::new(5.0, 64));
    for token in [a, b, c, a, b] {
        sampler.accept(token).unwrap();
    }
    assert_eq!(
        sampler.apply(&mut candidates()).unwrap(),
        d,
        "a b c a b, and not c"
    );

    // Two tokens in common are allowed.
    let mut sampler = dry(DryParams::new(5.0, 64).with_allowed_length(3));
    for token in [a, b, c, a, b] {
        sampler.accept(token).unwrap();
    }
    assert_eq!(sampler.apply(&mut candidates()).unwrap(), c);

    // A breaker ends what is to be compared.
    let mut sampler = dry(DryParams::new(5.0, 64).with_breakers(["b"]));
    for token in [a, b, c, a, b] {
        sampler.accept(token).unwrap();
    }
    assert_eq!(sampler.apply(&mut candidates()).unwrap(), c);

    let mut off = dry(DryParams::new(0.0, 64));
    for token in [a, b, c, a, b] {
        off.accept(token).unwrap();
    }
    assert_eq!(off.apply(&mut candidates()).unwrap(), c);
}

#[test]
fn logit_bias_changes_the_winner() {
    let chain = SamplerChain::new().logit_bias(&vocab(), &[(Token(3), 10.0)]);
    assert_eq!(left(chain, four()), [3, 0, 1, 2]);
    let banned = [(Token(0), f32::NEG_INFINITY), (Token(2), f32::NEG_INFINITY)];
    assert_eq!(
        left(SamplerChain::new().logit_bias(&vocab(), &banned), four()),
        [1, 3]
    );
    // The order changes where llama.cpp goes on taking it for sorted.
    let chain = SamplerChain::new()
        .top_k(4)
        .logit_bias(&vocab(), &[(Token(3), 10.0)]);
    assert_eq!(left(chain.min_p(0.5, 1), four()), [3]);
}

#[test]
fn dist_draws_by_probability_and_seed() {
    let mut sampler = Sampler::from_seed(7).unwrap();
    let drawn = draw(&mut sampler, 2000);
    let share = |token: i32| {
        drawn.iter().filter(|drawn| drawn.0 == token).count() as f32 / drawn.len() as f32
    };
    for (token, p) in [(0, 0.5), (1, 0.3), (2, 0.15), (3, 0.05)] {
        assert!(
            (share(token) - p).abs() < 0.05,
            "token {token}: {}",
            share(token)
        );
    }

    assert_eq!(draw(&mut Sampler::from_seed(7).unwrap(), 2000), drawn);
    assert_ne!(draw(&mut Sampler::from_seed(8).unwrap(), 2000), drawn);
    sampler.reset().unwrap();
    let mut clone = {
        assert_eq!(draw(&mut sampler, 100), drawn[..100]);
        sampler.try_clone().unwrap()
    };
    assert_eq!(draw(&mut clone, 100), drawn[100..200]);
    assert_eq!(draw(&mut sampler, 100), drawn[100..200]);
}

#[test]
fn seeds() {
    assert_eq!(Sampler::greedy().unwrap().seed(), None);
    assert_eq!(Sampler::from_seed(7).unwrap().seed(), Some(7));
    let random = [(); 8].map(|()| Sampler::from_seed(None).unwrap().seed().unwrap());
    assert!(random.iter().any(|&seed| seed != random[0]), "{random:?}");
    // The number tells how to get the same again.
    let mut first = Sampler::from_seed(Seed::Random).unwrap();
    let mut second = Sampler::from_seed(first.seed()).unwrap();
    assert_eq!(draw(&mut first, 50), draw(&mut second, 50));

    let error = sampler_error(Sampler::from_seed(u32::MAX).unwrap_err());
    assert!(
        matches!(
            error,
            SamplerError::Parameter {
                parameter: "seed",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn mirostat_keeps_the_surprise() {
    // No surprise at all is the most likely token, once it has learnt.
    let calm: [fn() -> Sampler; 2] = [
        || {
            SamplerChain::new()
                .mirostat(&vocab(), 1, 0.0, 0.5, 100)
                .unwrap()
        },
        || SamplerChain::new().mirostat_v2(1, 0.0, 0.5).unwrap(),
    ];
    for calm in calm {
        assert_eq!(draw(&mut calm(), 60)[30..], [Token(0); 30]);
    }
    let mut lively = SamplerChain::new().mirostat_v2(1, 8.0, 0.1).unwrap();
    let drawn = draw(&mut lively, 200);
    assert!((0..4).all(|id| drawn.contains(&Token(id))), "{drawn:?}");
    let mut first = SamplerChain::new()
        .mirostat(&vocab(), 1, 8.0, 0.1, 100)
        .unwrap();
    assert!(draw(&mut first, 200).iter().any(|&token| token != Token(0)));

    // One candidate has no slope to be estimated.
    let mut one = Candidates::new([(Token(5), 1.0)]);
    let mut sampler = SamplerChain::new()
        .mirostat(&vocab(), 1, 5.0, 0.1, 100)
        .unwrap();
    assert_eq!(sampler.apply(&mut one).unwrap(), Token(5));
}

#[test]
fn adaptive_p_aims_at_a_probability() {
    let mut rare = SamplerChain::new().adaptive_p(0.05, 0.9, 3).unwrap();
    let mut common = SamplerChain::new().adaptive_p(0.5, 0.9, 3).unwrap();
    let count = |drawn: &[Token], id| drawn.iter().filter(|token| token.0 == id).count();
    let (rare, common) = (draw(&mut rare, 300), draw(&mut common, 300));
    assert!(
        count(&rare, 3) > 3 * count(&common, 3),
        "{rare:?}\n{common:?}"
    );
    assert!(count(&common, 0) > 150, "{common:?}");
}

#[test]
fn adaptive_p_is_copied_between_choice_and_acceptance() {
    let mut sampler = SamplerChain::new().adaptive_p(0.3, 0.9, 3).unwrap();
    let token = sampler.apply(&mut four()).unwrap();
    let mut clone = sampler.try_clone().unwrap();
    clone.accept(token).unwrap();
    sampler.accept(token).unwrap();
    clone.apply(&mut four()).unwrap();
}

#[test]
fn infill_ends_where_nothing_is_likely() {
    let end = vocab().eot().unwrap();
    let [a, b] = ["a", "b"].map(letter);
    let mut sampler = SamplerChain::new().infill(&vocab()).greedy().unwrap();
    let mut likely = Candidates::new([(a, 5.0), (b, 0.0), (end, -5.0)]);
    assert_eq!(sampler.apply(&mut likely).unwrap(), a);
    let mut ending = Candidates::new([(a, 0.0), (b, 0.0), (end, 3.0)]);
    assert_eq!(sampler.apply(&mut ending).unwrap(), end);
    // Nothing has a fifth of the probability.
    let mut unlikely = whole_vocabulary();
    unlikely.retain(|candidate| !vocab().is_eog(candidate.token));
    assert_eq!(sampler.apply(&mut unlikely).unwrap(), end);
}

#[test]
fn names_and_switched_off_samplers() {
    let vocab = vocab();
    let chain = SamplerChain::new()
        .logit_bias(&vocab, &[(Token(0), 1.0)])
        .penalties(64, 1.1, 0.0, 0.0)
        .dry(&vocab, DryParams::new(0.8, 64))
        .top_n_sigma(1.0)
        .top_k(40)
        .typical(0.9, 1)
        .top_p(1.0, 1)
        .min_p(0.05, 1)
        .xtc(0.5, 0.1, 1, 1)
        .temp_ext(0.8, 0.1, 1.0)
        .infill(&vocab)
        .grammar(&vocab, "root ::= [a-z]*", "root")
        .custom_fn("mine", |_| ());
    let expected = [
        "logit-bias",
        "penalties",
        "dry",
        "top-n-sigma",
        "top-k",
        "typical",
        "?top-p",
        "min-p",
        "xtc",
        "temp-ext",
        "infill",
        "grammar",
        "mine",
        "dist",
    ];
    assert_eq!(chain.dist(1).unwrap().names(), expected);
}

// ---- grammars -----------------------------------------------------------------------

/// What a grammar makes of the whole vocabulary.
fn speak(sampler: &mut Sampler) -> String {
    let mut text = vocab().detokenizer();
    let mut spoken = String::new();
    for _ in 0..20 {
        let token = sampler.apply(&mut whole_vocabulary()).expect("a token");
        sampler.accept(token).expect("an allowed token");
        if vocab().is_eog(token) {
            return spoken + &text.finish().unwrap();
        }
        spoken += &text.push(token).unwrap();
    }
    panic!("no end after '{spoken}'");
}

#[test]
fn a_grammar_restricts() {
    let grammar = r#"root ::= "yes" | "no""#;
    let mut spoken = Vec::new();
    for seed in 0..20 {
        let chain = SamplerChain::new().grammar(&vocab(), grammar, "root");
        let mut sampler = chain.dist(seed).unwrap();
        let first = speak(&mut sampler);
        sampler.reset().unwrap();
        assert_eq!(
            speak(&mut sampler),
            first,
            "the same seed and the grammar's start"
        );
        spoken.push(first);
    }
    assert!(
        spoken.iter().all(|text| text == "yes" || text == "no"),
        "{spoken:?}"
    );
    assert!(spoken.contains(&"yes".to_owned()) && spoken.contains(&"no".to_owned()));
}

#[test]
fn a_copy_of_a_grammar_goes_on_where_it_was() {
    let chain = SamplerChain::new().grammar(&vocab(), r#"root ::= "yes""#, "root");
    let mut sampler = chain.greedy().unwrap();
    sampler.accept(letter("y")).unwrap();
    let mut clone = sampler.try_clone().unwrap();
    drop(sampler);
    assert_eq!(speak(&mut clone), "es");
}

#[test]
fn what_a_grammar_does_not_allow_is_not_accepted() {
    let chain = SamplerChain::new()
        .grammar(&vocab(), "root ::= [a-z]+", "root")
        .grammar(&vocab(), "root ::= [a-c]+", "root");
    let mut sampler = chain.greedy().unwrap();
    // The first one allows d, and must not have gone on when the second refuses.
    for token in [letter("d"), letter("7"), vocab().eos().unwrap()] {
        let error = sampler_error(sampler.accept(token).unwrap_err());
        assert_eq!(error, SamplerError::NotAllowed { token });
    }
    sampler.accept(letter("a")).unwrap();
    sampler.accept(vocab().eos().unwrap()).unwrap();

    // The grammar allows none of the four that are left.
    let chain = SamplerChain::new().grammar(&vocab(), "root ::= [a-z]+", "root");
    let mut sampler = chain.greedy().unwrap();
    let error = sampler_error(sampler.apply(&mut four()).unwrap_err());
    assert!(
        matches!(&error, SamplerError::NoCandidates { sampler } if sampler.as_deref() == Some("grammar")),
        "{error:?}"
    );
}

#[test]
fn a_lazy_grammar_waits() {
    let lazy = |patterns: &[&str], tokens: &[Token]| {
        SamplerChain::new()
            .grammar_lazy(&vocab(), r#"root ::= "a" "b""#, "root", patterns, tokens)
            .greedy()
            .unwrap()
    };
    let [a, b, c] = ["a", "b", "c"].map(letter);
    let prefer_c = || Candidates::new([(b, 0.0), (c, 1.0)]);

    let mut by_token = lazy(&[], &[a]);
    assert_eq!(by_token.apply(&mut prefer_c()).unwrap(), c);
    by_token.accept(c).unwrap();
    by_token.accept(a).unwrap();
    assert_eq!(by_token.apply(&mut prefer_c()).unwrap(), b);
    by_token.reset().unwrap();
    assert_eq!(by_token.apply(&mut prefer_c()).unwrap(), c);

    let mut by_pattern = lazy(&["cc(a)"], &[]);
    for token in [c, c] {
        by_pattern.accept(token).unwrap();
    }
    assert_eq!(by_pattern.apply(&mut prefer_c()).unwrap(), c);
    by_pattern.accept(a).unwrap();
    assert_eq!(by_pattern.apply(&mut prefer_c()).unwrap(), b);

    // Text that starts it and does not fit it.
    let mut unfit = lazy(&["c"], &[]);
    let error = unfit.accept(c).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Llama {
                call: "llama_sampler_accept",
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(unfit.apply(&mut prefer_c()).unwrap(), c, "it waits again");
}

#[test]
fn grammars_that_cannot_be_used() {
    let deep = format!("root ::= {}\"a\"{}", "(".repeat(300), ")".repeat(300));
    for (grammar, root, reason) in [
        ("", "root", "empty"),
        ("root ::= [a-z", "root", "parse"),
        ("root := \"a\"", "root", "parse"),
        ("root ::= other", "root", "other"),
        ("root ::= \"a\"", "start", "start"),
        ("root ::= root \"a\"", "root", "left-recursive"),
        (deep.as_str(), "root", "256"),
    ] {
        let chain = SamplerChain::new().grammar(&vocab(), grammar, root);
        let error = chain.greedy().unwrap_err();
        assert!(
            matches!(&error, Error::Sampler(SamplerError::Grammar { reason: text }) if text.contains(reason)),
            "{grammar:.40}: {error:?}"
        );
        let lazy = SamplerChain::new().grammar_lazy(&vocab(), grammar, root, &["x"], &[]);
        let error = sampler_error(lazy.greedy().unwrap_err());
        assert!(matches!(error, SamplerError::Grammar { .. }), "{error:?}");
    }
    for (grammar, root) in [("root ::= \"a\0\"", "root"), ("root ::= \"a\"", "ro\0ot")] {
        let chain = SamplerChain::new().grammar(&vocab(), grammar, root);
        assert!(matches!(chain.greedy().unwrap_err(), Error::Nul { .. }));
    }

    let lazy = |patterns: &[&str], tokens: &[Token]| {
        SamplerChain::new()
            .grammar_lazy(&vocab(), "root ::= \"a\"", "root", patterns, tokens)
            .greedy()
            .unwrap_err()
    };
    assert_eq!(sampler_error(lazy(&[], &[])), SamplerError::NoTrigger);
    let error = sampler_error(lazy(&["fine", "(unclosed"], &[]));
    assert!(
        matches!(&error, SamplerError::TriggerPattern { pattern, .. } if pattern == "(unclosed"),
        "{error:?}"
    );
    // std::regex would recurse along the text.
    let error = sampler_error(lazy(&["a.*"], &[])).to_string();
    assert!(error.contains("unbounded"), "{error}");
    let error = lazy(&[], &[Token(1 << 20)]);
    assert!(
        matches!(error, Error::Vocab(VocabError::NoToken { .. })),
        "{error:?}"
    );
}

// ---- samplers in Rust ---------------------------------------------------------------

/// Rules out what was accepted last.
#[derive(Clone, Default)]
struct NeverTwice {
    last: Option<Token>,
}

impl CustomSampler for NeverTwice {
    fn name(&self) -> &str {
        "never twice"
    }

    fn apply(&mut self, candidates: &mut Candidates) {
        candidates.retain(|candidate| Some(candidate.token) != self.last);
    }

    fn accept(&mut self, token: Token) {
        self.last = Some(token);
    }

    fn reset(&mut self) {
        self.last = None;
    }

    fn try_clone(&self) -> Option<Box<dyn CustomSampler>> {
        Some(Box::new(self.clone()))
    }
}

/// Takes the least likely.
struct Contrary;

impl SelectingSampler for Contrary {
    fn name(&self) -> &str {
        "contrary"
    }

    fn select(&mut self, candidates: &mut Candidates) -> usize {
        candidates.sort();
        candidates.len() - 1
    }

    fn try_clone(&self) -> Option<Box<dyn SelectingSampler>> {
        Some(Box::new(Self))
    }
}

#[test]
fn a_sampler_in_rust() {
    let mut sampler = SamplerChain::new()
        .custom(NeverTwice::default())
        .greedy()
        .unwrap();
    assert_eq!(draw(&mut sampler, 4).map_ids(), [0, 1, 0, 1]);
    let mut clone = sampler.try_clone().unwrap();
    assert_eq!(draw(&mut clone, 3).map_ids(), [0, 1, 0]);
    sampler.reset().unwrap();
    assert_eq!(draw(&mut sampler, 2).map_ids(), [0, 1]);

    let mut sampler = SamplerChain::new().top_k(3).select_with(Contrary).unwrap();
    assert_eq!(sampler.apply(&mut four()).unwrap(), Token(2));
    assert_eq!(
        sampler.try_clone().unwrap().apply(&mut four()).unwrap(),
        Token(2)
    );
    assert_eq!(sampler.names(), ["top-k", "contrary"]);

    let mut calls = 0;
    let chain = SamplerChain::new().custom_fn("from the third call on", move |candidates| {
        calls += 1;
        if calls >= 3 {
            candidates.map_logits(|candidate| -candidate.logit);
        }
    });
    assert_eq!(
        draw(&mut chain.greedy().unwrap(), 4).map_ids(),
        [0, 0, 3, 3]
    );
}

trait MapIds {
    fn map_ids(&self) -> Vec<i32>;
}

impl MapIds for Vec<Token> {
    fn map_ids(&self) -> Vec<i32> {
        self.iter().map(|token| token.0).collect()
    }
}

#[test]
fn what_a_sampler_in_rust_may_not_leave() {
    let apply = |change: fn(&mut Candidates)| {
        let chain = SamplerChain::new().custom_fn("mine", change).top_k(2);
        sampler_error(chain.greedy().unwrap().apply(&mut four()).unwrap_err())
    };
    let mine = || "mine".to_owned();
    let nothing = SamplerError::NoCandidates {
        sampler: Some(mine()),
    };
    assert_eq!(apply(|candidates| candidates.truncate(0)), nothing);
    assert_eq!(apply(|candidates| candidates.retain(|_| false)), nothing);
    assert_eq!(
        apply(|candidates| *candidates = Candidates::new([])),
        nothing
    );
    assert_eq!(
        apply(|candidates| candidates.map_logits(|_| f32::NEG_INFINITY)),
        nothing
    );
    for bad in [
        apply(|candidates| candidates.map_logits(|_| f32::NAN)),
        apply(|candidates| candidates.set_logit(1, f32::INFINITY).unwrap()),
    ] {
        assert!(
            matches!(&bad, SamplerError::Logit { sampler, .. } if sampler.as_deref() == Some("mine")),
            "{bad:?}"
        );
    }
    let error = four().set_logit(4, 0.0).unwrap_err();
    assert_eq!(error, SamplerError::NoCandidate { index: 4, len: 4 });

    let chain = SamplerChain::new().select_fn("mine", |candidates| candidates.len());
    let error = sampler_error(chain.unwrap().apply(&mut four()).unwrap_err());
    let expected = SamplerError::NotSelected {
        sampler: mine(),
        index: Some(4),
        len: 4,
    };
    assert_eq!(error, expected);
}

#[test]
fn a_chosen_token_is_never_one_that_is_ruled_out() {
    let ends: [fn(SamplerChain) -> Sampler; 5] = [
        |chain| chain.dist(1).unwrap(),
        |chain| chain.mirostat(&vocab(), 1, 5.0, 0.1, 100).unwrap(),
        |chain| chain.mirostat_v2(1, 5.0, 0.1).unwrap(),
        |chain| chain.adaptive_p(0.1, 0.9, 1).unwrap(),
        |chain| chain.select_fn("first", |_| 0).unwrap(),
    ];
    for end in ends {
        let chain = SamplerChain::new().custom_fn("only 3", |candidates| {
            let only = |token: Token| if token.0 == 3 { 0.0 } else { f32::NEG_INFINITY };
            candidates.map_logits(|candidate| only(candidate.token));
        });
        assert_eq!(draw(&mut end(chain), 20), [Token(3); 20]);
    }
}

#[test]
fn a_panic_in_a_sampler_is_an_error() {
    struct Nervous {
        calls: Arc<AtomicUsize>,
        on: &'static str,
    }
    impl Nervous {
        fn maybe(&self, what: &'static str) {
            if what == self.on && self.calls.fetch_add(1, Ordering::Relaxed) == 0 {
                panic!("in {what}");
            }
        }
    }
    impl CustomSampler for Nervous {
        fn name(&self) -> &str {
            "nervous"
        }
        fn apply(&mut self, candidates: &mut Candidates) {
            candidates.truncate(candidates.len());
            self.maybe("apply");
        }
        fn accept(&mut self, _: Token) {
            self.maybe("accept");
        }
        fn reset(&mut self) {
            self.maybe("reset");
        }
        fn try_clone(&self) -> Option<Box<dyn CustomSampler>> {
            self.maybe("try_clone");
            None
        }
    }
    for on in ["apply", "accept", "reset", "try_clone"] {
        let calls = Arc::new(AtomicUsize::new(0));
        let nervous = Nervous {
            calls: calls.clone(),
            on,
        };
        let chain = SamplerChain::new()
            .penalties(8, 1.0, 0.0, 5.0)
            .custom(nervous);
        let mut sampler = chain.greedy().unwrap();
        let mut all = || -> llama_moe::Result<Token> {
            let token = sampler.apply(&mut four())?;
            sampler.accept(token)?;
            sampler.reset()?;
            sampler.try_clone().map(|_| token)
        };
        let error = all().unwrap_err();
        assert!(
            matches!(&error, Error::CallbackPanicked { callback: "sampler", message } if *message == format!("in {on}")),
            "{error:?}"
        );
        // It goes on working; only a copy there cannot be.
        let error = sampler_error(all().unwrap_err());
        assert_eq!(
            error,
            SamplerError::NotCloneable {
                sampler: "nervous".to_owned()
            }
        );
        assert_eq!(sampler.apply(&mut four()).unwrap(), Token(0));
    }
    let chain = SamplerChain::new().select_fn("nervous", |_| panic!("no choice"));
    let error = chain.unwrap().apply(&mut four()).unwrap_err();
    assert!(matches!(error, Error::CallbackPanicked { .. }), "{error:?}");
}

#[test]
fn a_panic_keeps_no_other_sampler_from_being_told() {
    struct Deaf;
    impl CustomSampler for Deaf {
        fn name(&self) -> &str {
            "deaf"
        }
        fn apply(&mut self, _: &mut Candidates) {}
        fn accept(&mut self, _: Token) {
            panic!("deaf");
        }
    }
    let chain = SamplerChain::new().custom(Deaf).penalties(8, 1.0, 0.0, 5.0);
    let mut sampler = chain.greedy().unwrap();
    assert!(sampler.accept(Token(0)).is_err());
    assert_eq!(sampler.apply(&mut four()).unwrap(), Token(1));
}

// ---- what cannot work ---------------------------------------------------------------

#[test]
fn parameters_that_cannot_work() {
    let vocab = &vocab();
    let new = SamplerChain::new;
    const NAN: f32 = f32::NAN;
    const INF: f32 = f32::INFINITY;
    let dry = |change: fn(DryParams) -> DryParams| {
        new().dry(vocab, change(DryParams::new(0.8, 64))).greedy()
    };
    let cases: Vec<(&str, &str, &str, llama_moe::Result<Sampler>)> = vec![
        ("top_k", "k", "2147483648", new().top_k(1 << 31).greedy()),
        ("top_p", "p", "NaN", new().top_p(NAN, 1).greedy()),
        ("top_p", "p", "1.5", new().top_p(1.5, 1).greedy()),
        ("min_p", "p", "-0.5", new().min_p(-0.5, 1).greedy()),
        ("typical", "p", "inf", new().typical(INF, 1).greedy()),
        ("temp", "t", "-1", new().temp(-1.0).greedy()),
        ("temp", "t", "inf", new().temp(INF).greedy()),
        (
            "temp_ext",
            "delta",
            "NaN",
            new().temp_ext(1.0, NAN, 1.0).greedy(),
        ),
        (
            "temp_ext",
            "exponent",
            "-1",
            new().temp_ext(1.0, 0.1, -1.0).greedy(),
        ),
        ("xtc", "p", "2", new().xtc(2.0, 0.1, 1, 1).greedy()),
        ("xtc", "t", "NaN", new().xtc(0.5, NAN, 1, 1).greedy()),
        (
            "xtc",
            "seed",
            "4294967295",
            new().xtc(0.5, 0.1, 1, u32::MAX).greedy(),
        ),
        ("top_n_sigma", "n", "-1", new().top_n_sigma(-1.0).greedy()),
        (
            "penalties",
            "last_n",
            "4294967295",
            new().penalties(u32::MAX, 1.1, 0.0, 0.0).greedy(),
        ),
        (
            "penalties",
            "repeat",
            "0",
            new().penalties(64, 0.0, 0.0, 0.0).greedy(),
        ),
        (
            "penalties",
            "freq",
            "NaN",
            new().penalties(64, 1.1, NAN, 0.0).greedy(),
        ),
        (
            "penalties",
            "present",
            "inf",
            new().penalties(64, 1.1, 0.0, INF).greedy(),
        ),
        (
            "dry",
            "multiplier",
            "NaN",
            new().dry(vocab, DryParams::new(NAN, 64)).greedy(),
        ),
        (
            "dry",
            "last_n",
            "1073741824",
            new().dry(vocab, DryParams::new(1.0, 1 << 30)).greedy(),
        ),
        ("dry", "base", "0.5", dry(|params| params.with_base(0.5))),
        (
            "dry",
            "allowed_length",
            "4294967295",
            dry(|params| params.with_allowed_length(u32::MAX)),
        ),
        (
            "dry",
            "breakers",
            "\"\"",
            dry(|params| params.with_breakers([""])),
        ),
        (
            "dry",
            "breakers",
            "xxx",
            dry(|params| params.with_breakers(["x".repeat(41)])),
        ),
        (
            "dry",
            "breakers",
            "65",
            dry(|params| params.with_breakers((0..65).map(|i| format!("b{i}")))),
        ),
        (
            "logit_bias",
            "bias",
            "NaN",
            new().logit_bias(vocab, &[(Token(0), NAN)]).greedy(),
        ),
        (
            "logit_bias",
            "bias",
            "inf",
            new().logit_bias(vocab, &[(Token(0), INF)]).greedy(),
        ),
        ("mirostat", "m", "1", new().mirostat(vocab, 1, 5.0, 0.1, 1)),
        (
            "mirostat",
            "tau",
            "-1",
            new().mirostat(vocab, 1, -1.0, 0.1, 100),
        ),
        ("mirostat_v2", "eta", "NaN", new().mirostat_v2(1, 5.0, NAN)),
        (
            "adaptive_p",
            "target",
            "-0.1",
            new().adaptive_p(-0.1, 0.9, 1),
        ),
        ("adaptive_p", "decay", "1", new().adaptive_p(0.5, 1.0, 1)),
        ("dist", "seed", "4294967295", new().dist(u32::MAX)),
    ];
    for (sampler, parameter, value, result) in cases {
        let error = sampler_error(result.unwrap_err());
        let SamplerError::Parameter {
            sampler: found,
            parameter: name,
            value: text,
            ..
        } = &error
        else {
            panic!("{sampler}: {error:?}");
        };
        assert_eq!((*found, *name), (sampler, parameter), "{error}");
        assert!(text.contains(value), "{error}");
    }
    let error = dry(|params| params.with_breakers(["a\0b"])).unwrap_err();
    assert!(matches!(error, Error::Nul { .. }), "{error:?}");
    for token in [Token(-1), Token(1 << 20)] {
        let error = new()
            .logit_bias(vocab, &[(token, 1.0)])
            .greedy()
            .unwrap_err();
        assert!(
            matches!(error, Error::Vocab(VocabError::NoToken { token: found, .. }) if found == token),
            "{error:?}"
        );
    }
}

#[test]
fn the_first_mistake_is_told() {
    let chain = SamplerChain::new()
        .temp(-1.0)
        .top_p(7.0, 1)
        .grammar(&vocab(), "(", "root");
    let error = sampler_error(chain.dist(u32::MAX).unwrap_err());
    assert!(
        matches!(
            error,
            SamplerError::Parameter {
                sampler: "temp",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn extreme_parameters_that_may_be_given() {
    let all = |candidates: Candidates| {
        let mut sampler = SamplerChain::new()
            .penalties(1 << 24, f32::MIN_POSITIVE, 1e30, 1e30)
            .dry(
                &vocab(),
                DryParams::new(1e30, 1 << 20)
                    .with_base(1e30)
                    .with_allowed_length(0),
            )
            .top_n_sigma(f32::MAX)
            .top_k(i32::MAX as u32)
            .typical(0.0, usize::MAX)
            .top_p(0.0, 0)
            .min_p(1.0, 0)
            .xtc(1.0, 0.0, usize::MAX, 0)
            .mirostat(&vocab(), 0, f32::MAX, f32::MAX, i32::MAX as u32)
            .unwrap();
        for id in [0, 1, 0, 1] {
            sampler.accept(Token(id)).unwrap();
        }
        sampler.apply(&mut candidates.clone())
    };
    // A token, or an error that says what became of it: no crash.
    for candidates in [
        four(),
        Candidates::new([(Token(0), f32::MAX)]),
        whole_vocabulary(),
    ] {
        match all(candidates) {
            Ok(token) => assert!(token.0 < vocab().n_tokens() as i32),
            Err(error) => assert!(matches!(error, Error::Sampler(_)), "{error:?}"),
        }
    }
    // A temperature that makes logits infinite.
    let mut hot = SamplerChain::new().temp(f32::MIN_POSITIVE).dist(1).unwrap();
    let mut candidates = Candidates::new([(Token(0), 30.0), (Token(1), 31.0)]);
    let error = sampler_error(hot.apply(&mut candidates).unwrap_err());
    assert!(
        matches!(&error, SamplerError::Logit { sampler, .. } if sampler.as_deref() == Some("temp")),
        "{error:?}"
    );
}

#[test]
fn candidates_that_cannot_be_chosen_from() {
    let mut sampler = Sampler::greedy().unwrap();
    for logits in [vec![], vec![(Token(0), f32::NEG_INFINITY)]] {
        let error = sampler_error(sampler.apply(&mut Candidates::new(logits)).unwrap_err());
        assert_eq!(error, SamplerError::NoCandidates { sampler: None });
    }
    let error = sampler
        .apply(&mut Candidates::new([(Token(4), f32::NAN)]))
        .unwrap_err();
    assert!(matches!(
        sampler_error(error),
        SamplerError::Logit {
            token: Token(4),
            ..
        }
    ));
    // A sampler without a vocabulary takes any number, one with a vocabulary its own.
    let mut any = Candidates::new([(Token(-5), 0.0)]);
    assert_eq!(sampler.apply(&mut any).unwrap(), Token(-5));
    let mut sampler = SamplerChain::new().infill(&vocab()).greedy().unwrap();
    let error = sampler.apply(&mut any).unwrap_err();
    assert!(
        matches!(error, Error::Vocab(VocabError::NoToken { .. })),
        "{error:?}"
    );
    assert!(sampler.accept(Token(1 << 20)).is_err());
    assert!(Sampler::greedy().unwrap().accept(Token(-1)).is_err());
}

#[test]
fn two_vocabularies_in_one_chain() {
    let other = load(Layout::Dense, on_cpu()).unwrap();
    let chain = SamplerChain::new()
        .logit_bias(&vocab(), &[(Token(0), 1.0)])
        .grammar(&other.vocab(), "root ::= [a-z]*", "root");
    let error = sampler_error(chain.greedy().unwrap_err());
    assert!(
        matches!(error, SamplerError::OtherVocabulary { .. }),
        "{error:?}"
    );
}

#[test]
fn no_vocabulary_and_no_end() {
    let without = |change: fn(&mut support::gguf::GgufWriter)| {
        let mut file = layouts::vocabulary_only();
        change(&mut file);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vocabulary.gguf");
        file.write(&path);
        let params = ModelParams::default()
            .with_devices([])
            .with_vocab_only(true);
        Model::load(&support::backend(), &path, params)
            .unwrap()
            .vocab()
    };
    let none = without(|file| {
        file.string("tokenizer.ggml.model", "no_vocab");
    });
    for chain in [
        SamplerChain::new().grammar(&none, "root ::= \"a\"", "root"),
        SamplerChain::new().dry(&none, DryParams::new(1.0, 64)),
        SamplerChain::new().infill(&none),
        SamplerChain::new().logit_bias(&none, &[]),
    ] {
        let error = chain.greedy().unwrap_err();
        assert!(
            matches!(error, Error::Vocab(VocabError::NoVocabulary)),
            "{error:?}"
        );
    }

    // llama.cpp's own tests' tokenizer has no special tokens unless the file names them.
    let endless = without(|file| {
        file.string("tokenizer.ggml.model", "test")
            .strings("tokenizer.ggml.tokens", &["a", "b", "c"])
            .f32s("tokenizer.ggml.scores", &[0.0; 3])
            .i32s("tokenizer.ggml.token_type", &[1; 3]);
        for token in ["bos", "eos", "eot", "unknown"] {
            file.remove(&format!("tokenizer.ggml.{token}_token_id"));
        }
    });
    assert_eq!((endless.eos(), endless.eot()), (None, None));
    let chain = SamplerChain::new().infill(&endless);
    let error = sampler_error(chain.greedy().unwrap_err());
    assert_eq!(error, SamplerError::NoEndToken);
}

#[test]
fn a_sampler_outlives_the_last_handle_to_its_model() {
    let model = load(Layout::Dense, on_cpu()).unwrap();
    let vocab = model.vocab();
    let chain = SamplerChain::new()
        .grammar(&vocab, r#"root ::= "a""#, "root")
        .infill(&vocab);
    let mut sampler = chain.greedy().unwrap();
    drop((model, vocab));
    sampler.accept(letter("a")).unwrap();
    sampler.reset().unwrap();
    drop(sampler.try_clone().unwrap());
    let token = sampler.apply(&mut whole_vocabulary()).unwrap();
    assert_eq!(self::vocab().piece(token, false).unwrap(), b"a");
}

#[test]
fn samplers_move_between_threads() {
    let chain = SamplerChain::new().grammar(&vocab(), r#"root ::= "yes""#, "root");
    let mut sampler = chain.custom(NeverTwice::default()).dist(1).unwrap();
    let spoken = std::thread::spawn(move || speak(&mut sampler))
        .join()
        .unwrap();
    assert_eq!(spoken, "yes");
}

// ---- with a context -----------------------------------------------------------------

/// A context that has computed the outputs of the last two of three tokens.
fn context(model: &Model) -> Context {
    let params = ContextParams::default()
        .with_n_ctx(128)
        .with_n_batch(32)
        .with_n_threads(1)
        .with_n_threads_batch(1);
    let mut context = model.context(params).expect("a context");
    let mut batch = Batch::new(8, 1);
    for (pos, output) in [(0, false), (1, true), (2, true)] {
        batch.add(letter("a"), pos, &[0], output).unwrap();
    }
    context.decode(&batch).unwrap();
    context
}

fn most_likely(logits: &[f32]) -> Token {
    let best = (0..).zip(logits).max_by(|a, b| a.1.total_cmp(b.1));
    Token(best.expect("logits").0)
}

#[test]
fn sampling_reads_the_output_that_was_asked_for() {
    let mut context = context(&MODEL);
    let mut sampler = Sampler::greedy().unwrap();
    for index in [1, 2] {
        let expected = most_likely(context.logits(index).unwrap());
        assert_eq!(sampler.sample(&mut context, Some(index)).unwrap(), expected);
    }
    let last = sampler.sample(&mut context, Some(2)).unwrap();
    assert_eq!(sampler.sample(&mut context, None).unwrap(), last);
    assert_eq!(sampler.perf().n_sampled, 4);
    sampler.reset_perf();
    assert_eq!(sampler.perf().n_sampled, 0);

    let not_asked_for = sampler.sample(&mut context, Some(0)).unwrap_err();
    assert!(
        matches!(
            not_asked_for,
            Error::Output(OutputError::NotAskedFor { index: 0 })
        ),
        "{not_asked_for:?}"
    );
    let beyond = sampler.sample(&mut context, Some(3)).unwrap_err();
    assert!(
        matches!(
            beyond,
            Error::Output(OutputError::OutOfRange { index: 3, len: 3 })
        ),
        "{beyond:?}"
    );
    let mut empty = MODEL
        .context(ContextParams::default().with_n_ctx(64))
        .unwrap();
    let nothing = sampler.sample(&mut empty, None).unwrap_err();
    assert!(
        matches!(nothing, Error::Output(OutputError::Nothing)),
        "{nothing:?}"
    );
    assert_eq!(sampler.sample(&mut context, Some(2)).unwrap(), last);
}

/// Without a list of candidates for what can do without.
#[test]
fn greedy_from_an_output_does_what_the_chain_does() {
    let mut context = context(&MODEL);
    let logits = context.logits(2).unwrap().to_vec();
    let first = most_likely(&logits);
    let n_vocab = logits.len() as i32;
    type Biases = Vec<(Token, f32)>;
    let ruled_out = |ids: std::ops::Range<i32>| -> Biases {
        ids.map(|id| (Token(id), f32::NEG_INFINITY)).collect()
    };
    let biases: [(&str, Vec<Biases>); 5] = [
        ("none", vec![]),
        ("one", vec![vec![(first, -100.0)]]),
        ("twice", vec![vec![(Token(7), 30.0), (Token(7), 30.0)]]),
        ("two", vec![vec![(Token(7), 30.0)], ruled_out(7..8)]),
        ("all but one", vec![ruled_out(0..9), ruled_out(10..n_vocab)]),
    ];
    for (name, biases) in biases {
        let chain = || {
            let chain = SamplerChain::new();
            let add = |chain: SamplerChain, biases: &Vec<_>| chain.logit_bias(&vocab(), biases);
            biases.iter().fold(chain, add)
        };
        let mut sampler = chain().greedy().unwrap();
        let mut candidates = Candidates::from_logits(&logits);
        let expected = sampler.apply(&mut candidates).unwrap();
        let mut copy = sampler.try_clone().unwrap();
        let mut long_way = chain().custom_fn("nothing", |_| {}).greedy().unwrap();
        for sampler in [&mut sampler, &mut copy, &mut long_way] {
            let token = sampler.sample(&mut context, Some(2)).unwrap();
            assert_eq!(token, expected, "{name}");
        }
    }

    // What comes before or after a bias still counts.
    let by_hand = |candidates: &mut Candidates| candidates.retain(|c| c.token.0 == 5);
    let bias = [(first, -100.0)];
    let chains = [
        SamplerChain::new()
            .custom_fn("five", by_hand)
            .logit_bias(&vocab(), &bias),
        SamplerChain::new()
            .logit_bias(&vocab(), &bias)
            .custom_fn("five", by_hand),
    ];
    for chain in chains {
        let mut sampler = chain.greedy().unwrap();
        assert_eq!(sampler.sample(&mut context, Some(2)).unwrap(), Token(5));
    }

    // What is wrong is said as the chain says it.
    let mut nothing = SamplerChain::new()
        .logit_bias(&vocab(), &ruled_out(0..n_vocab))
        .greedy()
        .unwrap();
    let error = sampler_error(nothing.sample(&mut context, Some(2)).unwrap_err());
    assert!(
        matches!(&error, SamplerError::NoCandidates { sampler } if sampler.as_deref() == Some("logit-bias")),
        "{error:?}"
    );
}

#[test]
fn a_generation_keeps_to_its_grammar() {
    let mut context = context(&MODEL);
    let grammar = r#"root ::= "the " ("expert" | "router") "s"?"#;
    let chain = SamplerChain::new()
        .grammar(&vocab(), grammar, "root")
        .temp(1.0);
    let mut sampler = chain.dist(5).unwrap();
    let mut text = vocab().detokenizer();
    let mut spoken = String::new();
    let mut batch = Batch::new(1, 1);
    for pos in 3..40 {
        let token = sampler.sample(&mut context, None).unwrap();
        if vocab().is_eog(token) {
            break;
        }
        spoken += &text.push(token).unwrap();
        batch.clear();
        batch.add(token, pos, &[0], true).unwrap();
        context.decode(&batch).unwrap();
    }
    spoken += &text.finish().unwrap();
    // The first word may have its space, which a text's first word has not.
    let allowed = ["the expert", "the experts", "the router", "the routers"];
    assert!(allowed.contains(&spoken.as_str()), "{spoken:?}");
}

#[test]
fn a_sampler_for_another_vocabulary() {
    let other = load(Layout::Dense, on_cpu()).unwrap();
    let mut sampler = SamplerChain::new()
        .grammar(&other.vocab(), "root ::= [a-z]*", "root")
        .greedy()
        .unwrap();
    let error = sampler_error(sampler.sample(&mut context(&MODEL), None).unwrap_err());
    assert_eq!(
        error,
        SamplerError::OtherVocabulary {
            sampler: other.path().display().to_string(),
            other: MODEL.path().display().to_string(),
        }
    );
    sampler.sample(&mut context(&other), None).unwrap();
    // One that needs no vocabulary goes with any.
    let mut free = SamplerChain::new().top_k(5).dist(1).unwrap();
    free.sample(&mut context(&other), None).unwrap();
    free.sample(&mut context(&MODEL), None).unwrap();
}

#[test]
fn model_and_context_survive_what_samplers_do() {
    let mut context = context(&MODEL);
    let expected = Sampler::greedy()
        .unwrap()
        .sample(&mut context, None)
        .unwrap();
    let failing: [fn(&mut Candidates); 4] = [
        |_| panic!("on purpose"),
        |candidates| candidates.truncate(0),
        |candidates| candidates.map_logits(|_| f32::NAN),
        |candidates| *candidates = Candidates::new([(Token(1 << 20), 1.0)]),
    ];
    for change in failing {
        let chain = SamplerChain::new().custom_fn("failing", change);
        let mut sampler = chain.greedy().unwrap();
        assert!(sampler.sample(&mut context, None).is_err());
        assert!(sampler.sample(&mut context, None).is_err());
        assert_eq!(sampler.perf().n_sampled, 0);
    }
    let after = Sampler::greedy()
        .unwrap()
        .sample(&mut context, None)
        .unwrap();
    assert_eq!(after, expected);
}
