//! What a model file says of itself before it is loaded.

mod adapter;
mod check;
mod header;

pub(crate) use adapter::check_adapter;
pub(crate) use header::ModelHeader;
