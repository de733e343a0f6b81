//! The picture of a model: well-formed whatever it shows, areas to scale, memories told apart,
//! and the bytes of a real model.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use llama_moe::gguf::{Header, Role};
use llama_moe::placement::{Picture, PictureCell, Preview};
use llama_moe::{Model, Pattern, Target};
use proptest::prelude::*;
use roxmltree::{Document, Node};
use support::layouts::Layout;

fn cell(block: impl Into<Option<u32>>, role: Role, bytes: u64, memory: &str) -> PictureCell {
    PictureCell {
        block: block.into(),
        role,
        bytes,
        memory: memory.to_owned(),
        is_host: memory.starts_with("CPU"),
        asked: None,
    }
}

fn asked(mut cell: PictureCell, asked: &str) -> PictureCell {
    cell.asked = Some(asked.to_owned());
    cell
}

/// A model of `n` blocks whose first blocks have their experts in system memory.
fn model(n: u32, on_cpu: u32) -> Vec<PictureCell> {
    let mut cells = vec![
        cell(None, Role::Embedding, 497 << 20, "CPU_Mapped"),
        cell(None, Role::Output, 725 << 20, "CUDA0"),
        cell(None, Role::Norm, 28_672, "CUDA0"),
    ];
    for block in 0..n {
        let experts = if block < on_cpu { "CPU" } else { "CUDA1" };
        cells.extend([
            cell(block, Role::Attention, 128 << 20, "CUDA0"),
            cell(block, Role::Norm, 57_344, "CUDA0"),
            cell(block, Role::Router, 7 << 20, "CUDA0"),
            cell(block, Role::RoutedExpert, 2100 << 20, experts),
            cell(block, Role::RoutedExpert, 2100 << 20, experts),
        ]);
    }
    cells
}

/// A bar or a dot.
#[derive(Clone, Debug)]
struct Mark {
    bytes: u128,
    words: String,
    paint: String,
    /// Left, top, width, height.
    bar: Option<[f64; 4]>,
}

fn number(node: Node, name: &str) -> f64 {
    let text = node.attribute(name).expect(name);
    let number: f64 = text.parse().expect(text);
    assert!(number.is_finite(), "{name} = {text}");
    number
}

fn frame(node: Node) -> [f64; 4] {
    ["x", "y", "width", "height"].map(|name| number(node, name))
}

fn class<'a>(document: &'a Document, class: &'a str) -> impl Iterator<Item = Node<'a, 'a>> {
    document
        .descendants()
        .filter(move |node| node.attribute("class") == Some(class))
}

/// The bytes in the words under the pointer: `… (1,234 bytes)`.
fn bytes_in(words: &str) -> u128 {
    let (before, _) = words.rsplit_once(" byte").expect(words);
    let (_, digits) = before.rsplit_once('(').expect(words);
    digits.replace(',', "").parse().expect(words)
}

fn marks(document: &Document) -> Vec<Mark> {
    document
        .descendants()
        .filter(|node| ["rect", "circle"].contains(&node.tag_name().name()))
        .filter_map(|node| {
            let title = node.children().find(|child| child.has_tag_name("title"))?;
            let words = title.text().expect("words").to_owned();
            Some(Mark {
                bytes: bytes_in(&words),
                words,
                paint: node.attribute("fill").expect("a fill").to_owned(),
                bar: node.has_tag_name("rect").then(|| frame(node)),
            })
        })
        .collect()
}

fn texts(document: &Document) -> Vec<String> {
    document
        .descendants()
        .filter(|node| node.has_tag_name("text"))
        .map(|node| node.text().unwrap_or_default().to_owned())
        .collect()
}

/// The names of rows that are written, each with its place from the top.
fn row_names(document: &Document) -> Vec<(String, f64)> {
    document
        .descendants()
        .filter(|node| node.has_tag_name("text"))
        .filter(|node| node.attribute("text-anchor") == Some("end"))
        .filter_map(|node| Some((node.text()?.to_owned(), number(node, "y"))))
        .filter(|(name, _)| name == "input" || name == "output" || name.parse::<u32>().is_ok())
        .collect()
}

/// Whether the picture has an element or a title with these words.
fn says(document: &Document, words: &str) -> bool {
    document
        .descendants()
        .filter_map(|node| node.text())
        .any(|text| text.contains(words))
}

/// Square pixels per byte, by the square in the legend.
fn scale(document: &Document) -> f64 {
    let square = class(document, "scale").next().expect("a scale");
    let words = texts(document)
        .into_iter()
        .find_map(|words| Some(words.strip_prefix("area of ")?.to_owned()))
        .expect("the scale in words");
    let (size, _) = words.split_once(", ").expect("a size");
    let (count, unit) = size.split_once(' ').expect("a unit");
    let unit = ["byte", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB"]
        .iter()
        .position(|name| unit.trim_end_matches('s') == *name)
        .expect(unit);
    let bytes = count.parse::<f64>().expect(count) * 1024_f64.powi(unit as i32);
    let [_, _, width, height] = frame(square);
    width * height / bytes
}

fn is_in_pattern(node: Node) -> bool {
    node.parent()
        .is_some_and(|parent| parent.has_tag_name("pattern"))
}

/// Everything that holds for any picture.
fn check(picture: &Picture) -> String {
    let svg = picture.svg();
    let document = Document::parse(&svg).unwrap_or_else(|error| panic!("{error}\n{svg}"));
    let root = document.root_element();
    assert_eq!(
        root.tag_name().namespace(),
        Some("http://www.w3.org/2000/svg")
    );
    let (width, height) = (number(root, "width"), number(root, "height"));
    assert_eq!(width, 1000.0);
    assert!((64.0..1e9).contains(&height), "{height}");
    assert_eq!(
        root.attribute("viewBox"),
        Some(&*format!("0 0 {width} {height}"))
    );

    // All numbers are numbers, and everything is on the page.
    for node in document.descendants() {
        for name in ["x", "y", "width", "height", "cx", "cy", "r", "font-size"] {
            if node.attribute(name).is_some() {
                number(node, name);
            }
        }
        if node.has_tag_name("rect") && !is_in_pattern(node) {
            let [x, y, w, h] = if node.attribute("x").is_none() {
                [0.0, 0.0, width, height]
            } else {
                frame(node)
            };
            assert!(w > 0.0 && h > 0.0, "{w} × {h}");
            assert!(x >= 0.0 && x + w <= width + 0.01, "{x} + {w}");
            assert!(y >= 0.0 && y + h <= height + 0.01, "{y} + {h}");
        }
        if node.has_tag_name("circle") && !is_in_pattern(node) {
            let (cx, r) = (number(node, "cx"), number(node, "r"));
            assert!(r > 0.0 && cx - r >= 0.0 && cx + r <= width, "{cx} ± {r}");
        }
    }

    for pair in row_names(&document).windows(2) {
        assert!(pair[1].1 - pair[0].1 >= 13.0, "{pair:?}");
    }

    // No byte is lost, and a pattern is there for each that is used.
    let marks = marks(&document);
    let total: u128 = marks.iter().map(|mark| mark.bytes).sum();
    let expected: u128 = picture
        .cells()
        .iter()
        .map(|cell| u128::from(cell.bytes))
        .sum();
    assert_eq!(total, expected);
    let ids: BTreeSet<&str> = document
        .descendants()
        .filter(|node| node.has_tag_name("pattern"))
        .filter_map(|node| node.attribute("id"))
        .collect();
    for mark in &marks {
        if let Some(id) = mark.paint.strip_prefix("url(#") {
            assert!(ids.contains(id.trim_end_matches(')')), "{}", mark.paint);
        }
    }

    // Areas are to the scale that the legend states.
    if total > 0 {
        let scale = scale(&document);
        for mark in &marks {
            match mark.bar {
                // Coordinates have three digits.
                Some([_, _, width, height]) => {
                    let area = mark.bytes as f64 * scale;
                    assert!(
                        (width * height - area).abs() <= area * 0.001 + 0.001 * height,
                        "{mark:?} should have {area}"
                    );
                }
                None => {
                    let area = mark.bytes as f64 * scale;
                    assert!(area < 0.76 * 4.0 * 26.0, "{mark:?} has room for a bar");
                }
            }
        }
    }

    // No bar is over another.
    let mut bars: Vec<[f64; 4]> = marks.iter().filter_map(|mark| mark.bar).collect();
    bars.sort_by(|a, b| a[1].total_cmp(&b[1]).then(a[0].total_cmp(&b[0])));
    for pair in bars.windows(2) {
        let [a, b] = [pair[0], pair[1]];
        let beside = a[0] + a[2] <= b[0] + 0.002;
        let below = a[1] + a[3] <= b[1] + 0.002;
        assert!(beside || below, "{a:?} {b:?}");
    }
    svg
}

#[test]
fn a_model_is_drawn_to_scale() {
    for (n_blocks, on_cpu) in [(1, 0), (4, 2), (24, 24), (61, 41), (94, 80), (512, 100)] {
        check(&Picture::new("a model", model(n_blocks, on_cpu)));
    }
}

#[test]
fn order_and_division_of_cells_do_not_matter() {
    let cells = model(24, 20);
    let svg = Picture::new("a model", cells.clone()).svg();
    assert_eq!(svg, Picture::new("a model", cells.clone()).svg());
    let reversed = cells.iter().rev().cloned();
    assert_eq!(svg, Picture::new("a model", reversed).svg());
    let halves = cells.iter().flat_map(|cell| {
        let mut half = cell.clone();
        half.bytes /= 2;
        let mut rest = cell.clone();
        rest.bytes -= half.bytes;
        [half, rest]
    });
    assert_eq!(svg, Picture::new("a model", halves).svg());
}

#[test]
fn memories_have_their_own_colours_and_sums() {
    let memories: Vec<String> = (0..6)
        .map(|i| format!("CPU{i}"))
        .chain((0..16).map(|i| format!("CUDA{i}")))
        .collect();
    let cells = memories
        .iter()
        .zip(0_u32..)
        .map(|(memory, block)| cell(block, Role::RoutedExpert, 1 << 30, memory));
    let svg = check(&Picture::new("many", cells));
    let document = Document::parse(&svg).expect("XML");
    let paints: BTreeSet<String> = marks(&document)
        .into_iter()
        .map(|mark| mark.paint)
        .collect();
    assert_eq!(paints.len(), memories.len());
    // The patterns differ in the lines and in the colour under them.
    let patterns = document
        .descendants()
        .filter(|node| node.has_tag_name("pattern"));
    let (mut fills, mut textures) = (BTreeSet::new(), BTreeSet::new());
    let mut n_patterns = 0;
    for pattern in patterns {
        n_patterns += 1;
        let parts: Vec<Node> = pattern.children().filter(Node::is_element).collect();
        fills.insert(parts[0].attribute("fill").expect("a fill"));
        textures.insert(svg[parts[1].range()].to_owned());
    }
    // The first device is plain.
    assert_eq!(n_patterns, memories.len() - 1);
    assert_eq!(fills.len(), n_patterns);
    assert_eq!(textures.len(), n_patterns);
    let texts = texts(&document);
    for memory in &memories {
        assert!(texts.contains(memory), "{memory}");
    }
    assert_eq!(
        texts.iter().filter(|text| *text == "4.5 %").count(),
        memories.len()
    );
}

#[test]
fn a_cell_in_two_memories_is_cut() {
    let svg = check(&Picture::new(
        "cut",
        [
            cell(3, Role::RoutedExpert, 300 << 20, "CPU"),
            cell(3, Role::RoutedExpert, 100 << 20, "CUDA0"),
        ],
    ));
    let marks = marks(&Document::parse(&svg).expect("XML"));
    let [a, b] = [marks[0].bar, marks[1].bar].map(|bar| bar.expect("a bar"));
    assert_eq!(marks.len(), 2);
    assert!((a[0] + a[2] - b[0]).abs() < 0.01, "side by side");
    assert!((a[2] / b[2] - 3.0).abs() < 0.01, "{a:?} {b:?}");
    assert_eq!(a[1], b[1]);
}

#[test]
fn what_is_elsewhere_than_asked_is_framed_and_listed() {
    let mut cells = model(24, 24);
    let as_asked = check(&Picture::new(
        "as asked",
        cells.iter().cloned().map(|cell| {
            // Any system memory will do for the CPU.
            if cell.is_host {
                asked(cell, "CPU")
            } else {
                cell
            }
        }),
    ));
    let document = Document::parse(&as_asked).expect("XML");
    assert_eq!(class(&document, "elsewhere").count(), 0);
    assert!(!says(&document, "asked for"));

    for cell in &mut cells {
        if cell.role == Role::RoutedExpert && cell.block.is_some_and(|b| (20..22).contains(&b)) {
            cell.asked = Some("CUDA1".to_owned());
        }
    }
    let svg = check(&Picture::new("elsewhere", cells));
    let document = Document::parse(&svg).expect("XML");
    assert_eq!(class(&document, "elsewhere").count(), 2);
    assert!(says(&document, "; 8.20 GiB not where asked for"));
    assert!(says(
        &document,
        "routed experts of blocks 20–21: 8.20 GiB asked for CUDA1, in CPU"
    ));
    let framed: Vec<Mark> = marks(&document)
        .into_iter()
        .filter(|mark| mark.words.ends_with(", asked for CUDA1"))
        .collect();
    assert_eq!(framed.len(), 2);
}

#[test]
fn a_dot_stands_for_what_is_too_small() {
    let cells = [
        cell(0, Role::RoutedExpert, 1 << 40, "CPU"),
        cell(0, Role::Norm, 4096, "CUDA0"),
    ];
    let svg = check(&Picture::new("small", cells));
    let document = Document::parse(&svg).expect("XML");
    let dots: Vec<Mark> = marks(&document)
        .into_iter()
        .filter(|mark| mark.bar.is_none())
        .collect();
    assert_eq!(dots.len(), 1);
    assert_eq!(
        dots[0].words,
        "block 0, norm: 4.00 KiB in CUDA0 (4,096 bytes)"
    );
    assert!(says(&document, "too small"));
    let svg = check(&Picture::new("none", [cell(0, Role::Norm, 4096, "CUDA0")]));
    assert!(!svg.contains("too small"));
}

#[test]
fn large_embeddings_leave_the_blocks_their_width() {
    let mut cells = model(24, 24);
    // One and a half times a block's experts, as in a small model of a large vocabulary.
    cells[0].bytes = 6300 << 20;
    let svg = check(&Picture::new("a large vocabulary", cells));
    let marks = marks(&Document::parse(&svg).expect("XML"));
    let bar = |words: &str| {
        let mark = marks.iter().find(|mark| mark.words.starts_with(words));
        mark.and_then(|mark| mark.bar).expect(words)
    };
    let (embedding, experts) = (bar("embedding"), bar("block 0, routed experts"));
    assert!(embedding[2] < 0.5 * experts[2], "{embedding:?} {experts:?}");
    assert!(embedding[3] > 3.0 * experts[3], "{embedding:?} {experts:?}");
}

#[test]
fn names_of_rows_leave_room_for_one_another() {
    for n_blocks in [1, 4, 24, 37, 61, 94, 101, 128, 512] {
        let svg = check(&Picture::new("rows", model(n_blocks, 0)));
        let document = Document::parse(&svg).expect("XML");
        let named = row_names(&document);
        let names: Vec<&str> = named.iter().map(|(name, _)| name.as_str()).collect();
        assert!(
            names.contains(&"input") && names.contains(&"output"),
            "{names:?}"
        );
        assert!(names.contains(&"0"), "{names:?}");
        assert!(names.contains(&&*(n_blocks - 1).to_string()), "{names:?}");
        assert!(names.len() >= 3.min(n_blocks as usize) && names.len() <= 60);
    }
}

#[test]
fn hostile_names_stay_words() {
    let evil = "<script>alert('x')</script>&\"]]>&#0;\u{0}\u{1b}\u{202e}\u{ffff}\r\n\u{85}日本";
    for name in [
        evil.to_owned(),
        evil.repeat(5000),
        "W".repeat(100_000),
        "\u{300}".repeat(999),
    ] {
        let mut one = asked(
            cell(0, Role::Attention, 1 << 20, &name),
            &format!("{name}!"),
        );
        one.is_host = true;
        let two = asked(
            cell(1, Role::Attention, 1 << 20, &format!("{name}2")),
            &name,
        );
        let svg = check(&Picture::new(name.clone(), [one, two]));
        let document = Document::parse(&svg).expect("XML");
        assert!(
            !document
                .descendants()
                .any(|node| node.has_tag_name("script"))
        );
        assert!(svg.len() < 20_000, "{}", svg.len());
        assert!(!svg.chars().any(|c| c.is_control() && c != '\n'));
    }
}

#[test]
fn extremes_are_drawn() {
    check(&Picture::new("", []));
    let lists: Vec<Vec<PictureCell>> = vec![
        vec![cell(None, Role::Output, 0, "CPU")],
        vec![cell(None, Role::Other, 1, "")],
        vec![cell(u32::MAX, Role::RoutedExpert, u64::MAX, "CPU")],
        vec![cell(0, Role::RoutedExpert, u64::MAX, "CPU"); 1000],
        (0..512)
            .map(|block| cell(block, Role::Mtp, 1, "CUDA0"))
            .collect(),
        (0..3000)
            .map(|block| cell(block * 1_000_000, Role::Norm, u64::MAX, "CPU"))
            .collect(),
        (0..300)
            .map(|i| cell(0, Role::Router, i, &format!("RPC{i}")))
            .collect(),
        (0..3000)
            .map(|i| cell(0, Role::Router, 1 << 20, &format!("RPC{i}")))
            .collect(),
        Role::ALL
            .map(|role| cell(0, role, u64::MAX, "CPU"))
            .to_vec(),
        Role::ALL
            .map(|role| cell(None, role, u64::MAX, "CPU"))
            .to_vec(),
        Role::ALL
            .map(|role| cell(u32::MAX, role, 1023 << 20, "CPU"))
            .to_vec(),
        Role::ALL
            .iter()
            .zip(0..)
            .map(|(role, i)| cell(i, *role, u64::MAX >> (7 * i), "A"))
            .collect(),
    ];
    for cells in lists {
        check(&Picture::new("extreme", cells));
    }
}

#[test]
fn a_header_shows_what_the_file_holds() {
    for layout in [Layout::Qwen3Moe, Layout::DeepSeek2, Layout::Glm4Moe] {
        let (_dir, path) = support::file(layout);
        let header = Header::read(path).expect("a header");
        let picture = Picture::from(&header);
        let svg = check(&picture);
        let document = Document::parse(&svg).expect("XML");
        assert!(says(&document, "in the file only"));
        assert!(!picture.title().is_empty());
        let bytes: u64 = picture.cells().iter().map(|cell| cell.bytes).sum();
        let expected: u64 = header.tensors().iter().map(|tensor| tensor.bytes).sum();
        assert_eq!(bytes, expected);
        let mtp = picture.cells().iter().any(|cell| cell.role == Role::Mtp);
        assert_eq!(mtp, layout == Layout::Glm4Moe);
    }
}

#[test]
fn a_loaded_model_is_shown_where_it_is() {
    let (_dir, path) = support::file(Layout::Qwen3Moe);
    let params = support::on_cpu().with_override(
        Pattern::new(r"^blk\.0\.ffn_down_exps").expect("a pattern"),
        Target::Cpu,
    );
    let preview = Preview::new(&support::backend(), &path, &params).expect("a preview");
    let model = Model::load(&support::backend(), &path, params).expect("a model");
    let header = Header::read(path).expect("a header");
    let placement = model.placement().expect("a placement");
    let picture = Picture::of_placement(&placement, &header);
    check(&picture);
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    for cell in picture.cells() {
        *sums.entry(&cell.memory).or_default() += cell.bytes;
    }
    let expected = placement.sums();
    assert_eq!(sums.len(), expected.len());
    for sum in &expected {
        assert_eq!(sums[sum.buffer.as_str()], sum.bytes, "{}", sum.buffer);
    }
    assert!(picture.cells().iter().all(|cell| cell.role != Role::Other));
    assert_eq!(
        picture
            .cells()
            .iter()
            .filter(|cell| cell.asked.is_some())
            .count(),
        placement.moved_by(0).count()
    );
    for (cell, tensor) in picture.cells().iter().zip(placement.tensors()) {
        assert_eq!(cell.is_as_asked(), tensor.as_asked, "{}", tensor.name);
    }
    // What was said before is drawn as what is.
    let said = Picture::of_preview(&preview, &header);
    assert_eq!(said.svg(), picture.svg());
    assert_ne!(said.with_title("another").svg(), picture.svg());
}

fn any_cell() -> impl Strategy<Value = PictureCell> {
    let memory = prop_oneof![
        Just(String::new()),
        "(CPU|CUDA|RPC)[0-9]{0,2}".prop_map(String::from),
        any::<String>(),
    ];
    let bytes = prop_oneof![0..1_u64 << 34, any::<u64>(), Just(0), Just(u64::MAX)];
    let block = prop_oneof![
        (0..100_u32).prop_map(Some),
        Just(None),
        any::<Option<u32>>()
    ];
    (
        block,
        prop::sample::select(&Role::ALL[..]),
        bytes,
        memory.clone(),
        any::<bool>(),
        prop::option::of(memory),
    )
        .prop_map(|(block, role, bytes, memory, is_host, asked)| PictureCell {
            block,
            role,
            bytes,
            memory,
            is_host,
            asked,
        })
}

proptest! {
    #[test]
    fn any_picture_is_well_formed(
        title in any::<String>(),
        cells in prop::collection::vec(any_cell(), 0..50),
    ) {
        check(&Picture::new(title, cells));
    }
}
