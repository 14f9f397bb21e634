//! Load generator and floor.

fn main() {}
