//! CD: the only sockets to other members.

fn main() {}
