//! The engine on real models.
