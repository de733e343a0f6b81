//! Pictures of what the crate knows: a file's header, a preview, a loaded model.

use std::collections::BTreeMap;

use super::{Picture, PictureCell};
use crate::gguf::{Header, Role, TensorInfo, Value, block_of};
use crate::placement::{Placement, Preview, TensorPlacement};

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
    /// [`Plan`](crate::placement::Plan) has a preview of itself.
    #[must_use]
    pub fn of_preview(preview: &Preview, header: &Header) -> Self {
        let cells = preview.tensors().iter().map(|tensor| {
            let rule = tensor.rule.and_then(|rule| preview.rules().get(rule));
            let (block, role) = place_of_copy(tensor.block, tensor.role, tensor.duplicate);
            PictureCell {
                block,
                role,
                bytes: tensor.bytes,
                memory: tensor.buffer.clone(),
                is_host: tensor.is_host,
                asked: rule.map(|rule| rule.target.clone()),
            }
        });
        Self::new(title_of(header), cells)
    }

    /// Where the tensors of a loaded model are, against where rules asked for them. The
    /// header of the model's file says the roles.
    #[must_use]
    pub fn of_placement(placement: &Placement, header: &Header) -> Self {
        let known: BTreeMap<&str, &TensorInfo> = header
            .tensors()
            .iter()
            .map(|tensor| (tensor.name.as_str(), tensor))
            .collect();
        let cells = placement.tensors().iter().map(|tensor| {
            let (block, role) = place_of(tensor, known.get(tensor.name.as_str()).copied());
            PictureCell {
                block,
                role,
                bytes: tensor.bytes,
                memory: tensor.buffer.clone(),
                is_host: tensor.is_host,
                asked: tensor.asked.clone(),
            }
        });
        Self::new(title_of(header), cells)
    }
}

/// The block and the role of a tensor that the model has.
fn place_of(tensor: &TensorPlacement, known: Option<&TensorInfo>) -> (Option<u32>, Role) {
    match known {
        Some(known) => place_of_copy(known.block, known.role, tensor.duplicate),
        None => (block_of(&tensor.name), Role::Other),
    }
}

/// The block and the role of a copy: a tied output is a second copy of the embeddings.
fn place_of_copy(block: Option<u32>, role: Role, duplicate: bool) -> (Option<u32>, Role) {
    match role {
        Role::Embedding if duplicate => (None, Role::Output),
        role => (block, role),
    }
}

/// The model's name for itself, else its architecture's.
fn title_of(header: &Header) -> String {
    match header.value("general.name") {
        Some(Value::Text(name)) if !name.trim().is_empty() => name,
        _ => header.architecture().to_owned(),
    }
}
