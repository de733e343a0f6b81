//! Variants of a model's placement, measured against each other.

mod results;

fn main() {}
