//! OSCD: component store, compositions, what a box's root is made of.

fn main() {}
