//! Fetches from the administrator's sources: a network and nothing else.

fn main() {}
