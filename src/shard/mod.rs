//! The kernel side of one core.

pub mod ring;
