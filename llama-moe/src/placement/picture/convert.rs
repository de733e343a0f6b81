//! Pictures of what the crate knows: a file's header, a preview, a loaded model.

use super::{Picture, PictureCell};
use crate::gguf::{Header, Role, Value, block_of};
use crate::placement::{Placement, Preview};

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
    /// Where the tensors of a model will be, against where rules ask for them. A
    /// [`Plan`](crate::placement::Plan) has a preview of itself. The header says its name.
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
