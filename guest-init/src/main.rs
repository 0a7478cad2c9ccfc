//! PID 1 of a lazy box.

fn main() {}
