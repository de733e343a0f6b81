//! Measuring: what a rule costs, and what it changes.

pub mod quality;
