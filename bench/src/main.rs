//! Load generator and comparison harness for ringlb.

fn main() {}
