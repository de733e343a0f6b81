//! What a model file says of itself before it is loaded.

mod header;

pub(crate) use header::{ModelHeader, check_readable};
