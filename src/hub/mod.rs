//! All that one core remembers.
#![forbid(unsafe_code)]

pub mod buffer;
