//! A picture of where a model's tensors are: layers down, roles across, area by bytes,
//! colour by memory.
//!
//! ```
//! use llama_moe::gguf::Role;
//! use llama_moe::placement::{Picture, PictureCell};
//!
//! let cells = (0..24).flat_map(|block| {
//!     [(Role::Attention, 30 << 20, "CUDA0"), (Role::RoutedExpert, 400 << 20, "CPU")].map(
//!         |(role, bytes, memory)| PictureCell {
//!             block: Some(block),
//!             role,
//!             bytes,
//!             memory: memory.to_owned(),
//!             is_host: memory == "CPU",
//!             asked: None,
//!         },
//!     )
//! });
//! let svg = Picture::new("a model of 24 blocks", cells).svg();
//! assert!(svg.starts_with("<svg "));
//! ```
//!
//! [`Picture::from`] shows a file's [`Header`](crate::gguf::Header), [`Picture::of_preview`] a
//! [`Preview`](super::Preview), [`Picture::of_plan`] a [`Plan`](super::Plan) with its cache of
//! experts, [`Picture::of_placement`] a loaded model.
//!
//! # How to read it
//!
//! Each row is a block, each column a role; a bar is the weights of that role in that block, cut
//! where they are in several memories. All bars are to one scale, which the picture states. Memories
//! differ in colour and in texture: system memory is blue with dark lines, devices are
//! strong colours, so that it can be read in grey and by the colour-blind. A black frame is
//! around what is not in the memory that a rule asked for; the list at the foot says what
//! that was. A viewer that shows titles gives the exact bytes of a bar under the pointer.

mod convert;
mod draw;
mod grid;
mod layout;
mod style;
pub(crate) mod text;

use crate::gguf::Role;

/// A picture of where tensors are, to be drawn as SVG.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    title: String,
    cells: Vec<PictureCell>,
    notes: Vec<String>,
}

/// A tensor in a [`Picture`], or several that agree in all but their bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PictureCell {
    /// The block; `None` for the embeddings, the output and what belongs to them.
    pub block: Option<u32>,
    /// The part it plays.
    pub role: Role,
    /// Its bytes.
    pub bytes: u64,
    /// The memory it is in: a buffer type such as `CPU`, `CPU_Mapped`, `CUDA0`. Empty where
    /// it is in none, but in its file only.
    pub memory: String,
    /// Whether that is system memory.
    pub is_host: bool,
    /// The memory that a rule asked for.
    pub asked: Option<String>,
}

/// Kinds of memory that should look alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    Host,
    Device,
    Unplaced,
}

impl Picture {
    /// A picture with this title, usually the model's name.
    pub fn new(title: impl Into<String>, cells: impl IntoIterator<Item = PictureCell>) -> Self {
        Self {
            title: title.into(),
            cells: cells.into_iter().collect(),
            notes: Vec::new(),
        }
    }

    /// With a line of text above the legend, for what takes memory and is no weight.
    #[must_use]
    pub fn with_note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// With another title.
    #[must_use]
    pub fn with_title(mut self, title: impl Into<String>) -> Self {
        self.title = title.into();
        self
    }

    /// The title.
    #[must_use]
    pub fn title(&self) -> &str {
        &self.title
    }

    /// The cells, as they were given.
    #[must_use]
    pub fn cells(&self) -> &[PictureCell] {
        &self.cells
    }

    /// The picture as the text of an SVG file, 1000 pixels wide and as high as the model
    /// needs, on white.
    ///
    /// The same picture gives the same text. Any title, name and number is safe: what XML
    /// cannot hold is replaced, and long names are cut.
    #[must_use]
    pub fn svg(&self) -> String {
        draw::draw(self)
    }
}

impl PictureCell {
    /// Whether it is in the memory that was asked for: true if none was, or if it is in no
    /// memory yet. Asked for `CPU`, any system memory will do, as in
    /// [`TensorPlacement::as_asked`](super::TensorPlacement::as_asked).
    #[must_use]
    pub fn is_as_asked(&self) -> bool {
        self.asked.as_deref().is_none_or(|asked| {
            self.memory.is_empty() || asked == self.memory || (asked == "CPU" && self.is_host)
        })
    }

    fn family(&self) -> Family {
        if self.memory.is_empty() {
            Family::Unplaced
        } else if self.is_host {
            Family::Host
        } else {
            Family::Device
        }
    }
}
