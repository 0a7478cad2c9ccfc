//! People's HTTP API; outside the TCB: relays, decides nothing.

fn main() {}
