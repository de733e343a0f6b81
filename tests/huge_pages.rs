//! Weights on huge pages: what the system says there is, and that nothing else changes. Skipped,
//! which is said, where the system has none on demand.
#![cfg(target_os = "linux")]

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use llama_moe::{Error, FailureKind, HugePages, LoadMode, Model, ModelParams};

mod support;
use support::{backend, decode, on_cpu};

/// The small model that comes with the repository: 5 MiB of weights.
fn load(params: ModelParams) -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/model/moe-guide-q8_0.gguf");
    Model::load(&backend(), path, params).unwrap()
}

/// `None` where the system has no huge pages on demand, or keeps them from everybody.
fn use_huge_pages(model: &Model) -> Option<HugePages> {
    match model.use_huge_pages() {
        Ok(pages) if pages.asked > 0 && pages.huge == 0 => {
            eprintln!("skipped: no page is huge: {:?}", pages.refusal());
            None
        }
        Ok(pages) if pages.page_size > 2 << 20 => {
            eprintln!(
                "skipped: huge pages have {} bytes, more than the model",
                pages.page_size
            );
            None
        }
        Ok(pages) => Some(pages),
        Err(Error::Llama {
            kind: FailureKind::Unsupported,
            reason,
            ..
        }) => {
            eprintln!("skipped: {reason}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Bytes of this process on huge pages.
fn on_huge_pages() -> u64 {
    let pages = fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = pages.lines().find(|line| line.starts_with("AnonHugePages"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    1024 * number.unwrap().parse::<u64>().unwrap()
}

/// One test, since what is asked about is the whole process.
#[test]
fn weights_move_and_answers_stay() {
    // Before there are any weights: where the system gives huge pages unasked, some of them begin
    // there.
    let before = on_huge_pages();
    let model = load(on_cpu().with_load_mode(LoadMode::None));
    let answer = decode::answer(&mut decode::context(&model));

    // Somebody is computing meanwhile.
    let is_over = AtomicBool::new(false);
    let pages = thread::scope(|scope| {
        scope.spawn(|| {
            let mut context = decode::context(&model);
            while !is_over.load(Ordering::Relaxed) {
                assert_eq!(decode::answer(&mut context), answer);
            }
        });
        let pages = use_huge_pages(&model);
        is_over.store(true, Ordering::Relaxed);
        pages
    });
    let Some(pages) = pages else {
        return;
    };
    // Each buffer may begin and end within a page.
    assert!(pages.asked > 0, "{pages:?}");
    assert_eq!(pages.asked % pages.page_size, 0, "{pages:?}");
    assert!(pages.asked <= model.size(), "{pages:?}");
    assert_eq!(pages.huge == pages.asked, pages.refusal().is_none());
    assert_eq!(pages.mapped, 0, "{pages:?}");
    // The kernel gives others of its own accord, and takes none away while there is memory.
    assert!(on_huge_pages() >= before + pages.huge, "{pages:?}");
    assert_eq!(decode::answer(&mut decode::context(&model)), answer);
    // Once more, there is nothing left to do.
    assert_eq!(model.use_huge_pages().unwrap().asked, pages.asked);

    let mapped = load(
        on_cpu()
            .with_load_mode(LoadMode::Mmap)
            .with_extra_buffer_types(false),
    );
    let pages = mapped.use_huge_pages().unwrap();
    assert_eq!((pages.asked, pages.huge), (0, 0), "{pages:?}");
    assert!(pages.mapped >= model.size(), "{pages:?}");

    for empty in [on_cpu().with_vocab_only(true), on_cpu().with_no_alloc(true)] {
        let pages = load(empty).use_huge_pages().unwrap();
        assert_eq!((pages.asked, pages.huge, pages.mapped), (0, 0, 0));
    }
}
