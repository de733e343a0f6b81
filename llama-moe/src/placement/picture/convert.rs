//! Pictures of what the crate knows: a file's header, a preview, a loaded model.

use super::{Picture, PictureCell, text};
use crate::gguf::{Header, Role, Value, block_of};
use crate::placement::{MoeCacheLayout, Placement, Plan, Preview};

/// The tensors of a file that is in no memory yet: areas only.
impl From<&Header> for Picture {
    fn from(header: &Header) -> Self {
        let cells = header.tensors().iter().map(|tensor| PictureCell {
            block: tensor.block,
            role: tensor.role,
            bytes: tensor.bytes,
            memory: String::new(),
            is_host: false,
            asked: None,
        });
        Self::new(title_of(header), cells)
    }
}

impl Picture {
    /// Where a plan puts the tensors of a model, and on which devices its cache of experts is. The
    /// header says its name.
    #[must_use]
    pub fn of_plan(plan: &Plan, header: &Header) -> Self {
        let picture = Self::of_preview(plan.preview(), header);
        match plan.moe_cache() {
            Some(layout) => picture.with_moe_cache(layout),
            None => picture,
        }
    }

    /// With a note of the cache of experts on each device. A cache has copies of tensors that are
    /// drawn where they are: in system memory.
    #[must_use]
    pub fn with_moe_cache(self, layout: &MoeCacheLayout) -> Self {
        layout.groups().iter().fold(self, |picture, group| {
            picture.with_note(format!(
                "Cache of experts on {}: {} beside the weights, for {} of {} experts of {} layers",
                group.device_name,
                text::bytes(group.bytes.into()),
                group.n_slots,
                group.n_experts_total(),
                group.layers.len()
            ))
        })
    }

    /// Where the tensors of a model will be, against where rules ask for them. The header says its
    /// name.
    #[must_use]
    pub fn of_preview(preview: &Preview, header: &Header) -> Self {
        let cells = preview.tensors().iter().map(|tensor| {
            let rule = tensor.rule.and_then(|rule| preview.rules().get(rule));
            PictureCell {
                block: tensor.block,
                role: role_of_copy(tensor.role, tensor.duplicate),
                bytes: tensor.bytes,
                memory: tensor.buffer.clone(),
                is_host: tensor.is_host,
                asked: rule.map(|rule| rule.target.clone()),
            }
        });
        Self::new(title_of(header), cells)
    }

    /// Where the tensors of a loaded model are, against where rules asked for them. The
    /// header says its name.
    #[must_use]
    pub fn of_placement(placement: &Placement, header: &Header) -> Self {
        let cells = placement.tensors().iter().map(|tensor| PictureCell {
            block: block_of(&tensor.name),
            role: role_of_copy(tensor.role, tensor.duplicate),
            bytes: tensor.bytes,
            memory: tensor.buffer.clone(),
            is_host: tensor.is_host,
            asked: tensor.asked.clone(),
        });
        Self::new(title_of(header), cells)
    }
}

/// The role of a copy: a tied output is a second copy of the embeddings.
fn role_of_copy(role: Role, duplicate: bool) -> Role {
    match role {
        Role::Embedding if duplicate => Role::Output,
        role => role,
    }
}

/// The model's name for itself, else its architecture's.
fn title_of(header: &Header) -> String {
    match header.value("general.name") {
        Some(Value::Text(name)) if !name.trim().is_empty() => name,
        _ => header.architecture().to_owned(),
    }
}
